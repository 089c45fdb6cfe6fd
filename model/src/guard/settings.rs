//! The guard's bounds, checked once.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The guard's bounds as an operator writes them. Defaults are for 500 ms ticks.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct GuardSettings {
    /// No ready endpoint's share falls below this multiple of the mean of the others. Above 0: an endpoint without
    /// requests cannot show that it has recovered.
    pub share_floor: f64,
    /// No share rises above this multiple of the mean of the others. 8 leaves room for the 1:4 of common node
    /// generations twice over.
    pub share_ceiling: f64,
    /// Largest growth of a weight in one tick, as a log-ratio.
    pub step_up_max: f64,
    /// Largest fall of a weight in one tick, as a log-ratio; more than the growth, as too much traffic hurts more than
    /// too little.
    pub step_down_max: f64,
    /// Share of failed answers from which on an endpoint's weight may fall without limit.
    pub failing_error_share: f64,
    /// Below this share of healthy endpoints all get traffic. 0 turns it off.
    pub panic_healthy_min: f64,
    /// How long a new endpoint ramps up. 0 turns it off.
    pub slow_start_window_s: f64,
    /// Part of its share that a new endpoint starts with.
    pub slow_start_share: f64,
    /// Whether it ramps up also where the rule knows how long a request takes. There a cold pod is known by its answers, and a ramp on top costs
    /// latency (docs/simulation.md): for who asks for it.
    pub slow_start_strict: bool,
    /// Share of endpoints whose features may be unfamiliar before the whole backend falls back.
    pub unfamiliar_share_max: f64,
    /// How far beyond the range that training saw one feature may lie, in widths of that range.
    pub unfamiliar_margin: f64,
    /// How far beyond the range that training saw the input may lie for minutes on end, on average over the endpoints and in widths of that
    /// range, before the backend falls back: less than for a moment, as no endpoint is an exception any more.
    pub drift_max: f64,
}

impl Default for GuardSettings {
    fn default() -> Self {
        Self {
            share_floor: 0.05,
            share_ceiling: 8.0,
            // x1.65 a tick: a share doubles in two ticks and grows tenfold in under 2.5 s.
            step_up_max: 0.5,
            // x0.25 a tick: a noisy neighbour that takes three quarters of a pod is answered at once.
            step_down_max: 1.4,
            failing_error_share: 0.1,
            // Envoy's default.
            panic_healthy_min: 0.5,
            slow_start_window_s: 10.0,
            // Envoy's default for the aggression curve's minimum.
            slow_start_share: 0.1,
            slow_start_strict: false,
            unfamiliar_share_max: 0.3,
            // The range is that of all but a few values in ten thousand: a quarter of its width beyond it lies nothing that
            // resembles the training data.
            unfamiliar_margin: 0.25,
            drift_max: 0.1,
        }
    }
}

/// A setting that makes no sense.
#[derive(Debug, Clone, PartialEq, Error)]
#[error("guardrails: {field} is {value}, it must be {allowed}")]
pub struct GuardConfigError {
    /// The field, as it is written in configuration.
    pub field: &'static str,
    /// What it was.
    pub value: f64,
    /// What would be right.
    pub allowed: &'static str,
}

/// Bounds that have been checked.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct GuardConfig(GuardSettings);

impl GuardConfig {
    /// Checks the settings.
    ///
    /// # Errors
    /// Names the first field that is out of range and its range.
    pub fn new(settings: GuardSettings) -> Result<Self, GuardConfigError> {
        let s = &settings;
        let check = |field, value: f64, lowest: f64, highest: f64, allowed| {
            let right = (lowest..=highest).contains(&value);
            if right { Ok(()) } else { Err(GuardConfigError { field, value, allowed }) }
        };
        check("shareFloor", s.share_floor, 0.001, 1.0, "from 0.001 to 1 (times the mean share of the others)")?;
        check("shareCeiling", s.share_ceiling, 1.0, 1e3, "from 1 to 1000 (times the mean share of the others)")?;
        check("stepUpMax", s.step_up_max, 0.01, 10.0, "from 0.01 to 10 (log-ratio a tick)")?;
        check("stepDownMax", s.step_down_max, 0.01, 10.0, "from 0.01 to 10 (log-ratio a tick)")?;
        check("failingErrorShare", s.failing_error_share, 0.0, 1.0, "from 0 to 1")?;
        check("panicHealthyMin", s.panic_healthy_min, 0.0, 1.0, "from 0 (off) to 1")?;
        check("slowStartWindowS", s.slow_start_window_s, 0.0, 3600.0, "from 0 (off) to 3600 seconds")?;
        check("slowStartShare", s.slow_start_share, 0.01, 1.0, "from 0.01 to 1")?;
        check("unfamiliarShareMax", s.unfamiliar_share_max, 0.0, 1.0, "from 0 to 1")?;
        check(
            "unfamiliarMargin",
            s.unfamiliar_margin,
            0.0,
            1e3,
            "from 0 to 1000 widths of the range seen in training",
        )?;
        check("driftMax", s.drift_max, 0.0, 1e3, "from 0 to 1000 widths of the range seen in training")?;
        Ok(Self(settings))
    }

    /// The settings.
    pub fn settings(&self) -> &GuardSettings {
        &self.0
    }
}
