//! Trimtab's rule: score every candidate by how long this request would take there, take the lowest.
//!
//! `(n̂ + g)^κ / w · (latency / reference)^z · (1 − e)^−a`, where n̂, the latency average and e (the larger of the own and the pooled
//! error average) are live, and everything else comes from the controller. Up to [`SCAN_MAX`] candidates all are scanned; of more,
//! [`SAMPLES`] are drawn in proportion to their weights.

use rand::RngCore;

use super::{Candidate, Pick, PickRequest, Pool, alias::AliasTable, lowest};
use crate::{
    config::RuleParameters,
    time::{Coarse, Timestamp},
};

/// Up to so many candidates all are scanned.
pub const SCAN_MAX: usize = 32;
/// So many are drawn from more than that.
pub const SAMPLES: usize = 16;
/// An error average counts up to this: beyond, the score would only grow without saying more.
const ERROR_MAX: f32 = 0.95;
/// Pooled errors fade like the averages that they are made of.
const POOLED_FADE_S: f32 = 2.0;

/// The rule with one set of parameters, prepared for one pool.
#[derive(Debug, Clone)]
pub struct Rule {
    count: Power,
    offset: f32,
    latency: Power,
    reference_ms: f32,
    error: Power,
    draw: Option<AliasTable>,
}

/// The factors of one candidate's score: what the rule saw and what it made of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Terms {
    /// n̂: requests in flight there, from all proxies, as estimated.
    pub in_flight: f32,
    /// The latency average that was used, in milliseconds.
    pub latency_ms: f32,
    /// The error average that was used, 0..=1.
    pub error: f32,
    /// `(n̂ + g)^κ`.
    pub count_factor: f64,
    /// `1 / w`, where w is relative to the mean weight.
    pub weight_factor: f64,
    /// `(latency / reference)^z`.
    pub latency_factor: f64,
    /// `(1 − e)^−a`.
    pub error_factor: f64,
}

impl Terms {
    /// The product; finite and > 0.
    #[inline]
    pub fn score(&self) -> f64 {
        self.count_factor * self.weight_factor * self.latency_factor * self.error_factor
    }
}

impl Rule {
    /// Prepares the rule for `pool`.
    pub fn new(pool: &Pool, parameters: &RuleParameters) -> Self {
        let weights = pool.candidates.iter().map(|candidate| 1.0 / f64::from(candidate.inverse_weight));
        Self {
            count: Power::new(parameters.exponent),
            offset: parameters.offset,
            latency: Power::new(parameters.latency_exponent),
            reference_ms: parameters.latency_reference_ms,
            error: Power::new(parameters.error_exponent),
            draw: (pool.candidates.len() > SCAN_MAX).then(|| AliasTable::new(weights)),
        }
    }

    /// The terms of one candidate: the very ones that picking compares.
    pub fn explain(&self, pool: &Pool, candidate: &Candidate, now: Timestamp) -> Terms {
        self.terms(pool, candidate, Coarse::of(now), pooled_fade(pool, Coarse::of(now)))
    }

    #[inline]
    fn terms(&self, pool: &Pool, candidate: &Candidate, now: Coarse, fade: f32) -> Terms {
        let load = &*candidate.load;
        let in_flight = load.in_flight_at(now, pool.proxies);
        let latency_ms =
            load.latency_at(now).or_else(|| pool.shared.latency.at(now)).unwrap_or(self.reference_ms).max(1e-3);
        let error = load.error_at(now).max(candidate.pooled_error * fade).min(ERROR_MAX);
        Terms {
            in_flight,
            latency_ms,
            error,
            count_factor: self.count.of(in_flight + self.offset),
            weight_factor: f64::from(candidate.inverse_weight),
            latency_factor: self.latency.of(latency_ms / self.reference_ms),
            error_factor: if error > 1e-4 { self.error.of(1.0 / (1.0 - error)) } else { 1.0 },
        }
    }
}

impl Pick for Rule {
    fn pick<R: RngCore + ?Sized>(
        &self,
        pool: &Pool,
        request: &PickRequest<'_>,
        now: Timestamp,
        rng: &mut R,
    ) -> Option<usize> {
        let now = Coarse::of(now);
        let fade = pooled_fade(pool, now);
        let score = |candidate: &Candidate| self.terms(pool, candidate, now, fade).score();
        let Some(draw) = &self.draw else {
            return lowest(pool, request, 0..pool.candidates.len(), rng, score);
        };
        // All draws first: the loads behind them are fetched from memory side by side.
        let mut drawn = [0; SAMPLES];
        drawn.iter_mut().for_each(|position| *position = draw.draw(rng));
        lowest(pool, request, drawn.into_iter(), rng, score)
            .or_else(|| lowest(pool, request, 0..pool.candidates.len(), rng, score))
    }
}

fn pooled_fade(pool: &Pool, now: Coarse) -> f32 {
    pool.errors_at.map_or(0.0, |at| (-now.seconds_since(at) / POOLED_FADE_S).exp())
}

/// A power with a fast way for the usual exponents.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Power {
    Zero,
    One,
    Two,
    Three,
    Other(f32),
}

impl Power {
    fn new(exponent: f32) -> Self {
        match exponent {
            0.0 => Self::Zero,
            1.0 => Self::One,
            2.0 => Self::Two,
            3.0 => Self::Three,
            other => Self::Other(other),
        }
    }

    /// `base` > 0 to the power.
    #[inline]
    fn of(self, base: f32) -> f64 {
        let wide = f64::from(base);
        match self {
            Self::Zero => 1.0,
            Self::One => wide,
            Self::Two => wide * wide,
            Self::Three => wide * wide * wide,
            // Single precision is several times faster, and exact to 10⁻⁵ here; beyond 2^±120 it saturates.
            Self::Other(exponent) => f64::from((exponent * base.log2()).clamp(-120.0, 120.0).exp2()),
        }
    }
}
