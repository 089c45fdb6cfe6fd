//! Weights by PID controllers, one an endpoint, as in Dropbox's Robinhood ("What's new with Robinhood, our in-house load balancing
//! service", 2024): the setpoint is the mean utilization of all endpoints, the controller's output corrects the endpoint's weight, weights
//! are normalised, and proxies do weighted round robin. The post gives no gains, so the default is an integral controller with a gain that
//! halves an error in a few periods; gains, period and smoothing are tuned.
//!
//! Robinhood's controllers run centrally on load reports; here each proxy computes the same from the same reports, which come and are
//! pushed with the scenario's delays.

use rand::{Rng, rngs::SmallRng};

use super::{
    rule::{Members, Needs, Rule, View},
    schedulers::EarliestDeadline,
    servers::Load,
};
use crate::simulator::time::{MILLISECOND, SECOND};

/// Its knobs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Knobs {
    /// Gain on the error itself.
    pub proportional: f64,
    /// Gain on its sum over time, per second.
    pub integral: f64,
    /// Gain on its change, in seconds.
    pub derivative: f64,
    /// Share of a new utilization in the smoothed one.
    pub smoothing: f64,
    /// Time between load reports, and between changes of weights.
    pub period_ns: u64,
}

impl Knobs {
    /// An integral controller on smoothed reports once a second.
    pub const DEFAULT: Self =
        Self { proportional: 0.1, integral: 0.3, derivative: 0.0, smoothing: 0.5, period_ns: SECOND };
    /// See docs/rivals.md, "Tuning".
    pub const TUNED: Self =
        Self { proportional: 1.0, integral: 1.0, derivative: 0.1, smoothing: 0.5, period_ns: 100 * MILLISECOND };
}

/// Log weights stay within this of equal.
const LOG_WEIGHT_MAX: f64 = 3.0;

#[derive(Debug, Clone, Copy, Default)]
struct Loop {
    utilization: Option<f64>,
    sum: f64,
    error: f64,
}

/// PID-controlled weights.
#[derive(Debug, Clone)]
pub struct Pid {
    knobs: Knobs,
    loops: Vec<Loop>,
    weights: Vec<f64>,
    scheduler: EarliestDeadline,
    stale: bool,
}

impl Pid {
    /// For so many endpoints, with equal weights.
    pub fn new(knobs: Knobs, endpoints: usize) -> Self {
        Self {
            knobs,
            loops: vec![Loop::default(); endpoints],
            weights: vec![1.0; endpoints],
            scheduler: EarliestDeadline::default(),
            stale: true,
        }
    }
}

impl Rule for Pid {
    fn needs(&self) -> Needs {
        Needs { load_window_ns: Some(self.knobs.period_ns), ..Needs::default() }
    }

    fn pick(&mut self, view: &View<'_>, rng: &mut SmallRng, _probes: &mut Vec<u32>) -> u32 {
        let weights = &self.weights;
        let weight = |endpoint: u32| weights[endpoint as usize];
        if std::mem::take(&mut self.stale) {
            self.scheduler.reset(view.members, rng, weight);
            // The reset itself draws; one more keeps proxies apart whose lists have one member.
            let _: u32 = rng.random();
        }
        self.scheduler.next(view, weight)
    }

    fn members(&mut self, _now_ns: u64, members: &Members) {
        for (endpoint, state) in self.loops.iter_mut().enumerate() {
            if !members.is_ready(endpoint as u32) {
                *state = Loop::default();
                self.weights[endpoint] = 1.0;
            }
        }
        self.stale = true;
    }

    fn loads(&mut self, _now_ns: u64, loads: &[Option<Load>], members: &Members) {
        let period_s = self.knobs.period_ns as f64 / SECOND as f64;
        let (mut sum, mut count) = (0.0, 0.0);
        for &endpoint in members.list() {
            let state = &mut self.loops[endpoint as usize];
            if let Some(load) = &loads[endpoint as usize] {
                let before = state.utilization.unwrap_or(load.utilization);
                state.utilization = Some(before + self.knobs.smoothing * (load.utilization - before));
            }
            if let Some(utilization) = state.utilization {
                sum += utilization;
                count += 1.0;
            }
        }
        if count == 0.0 || sum <= 0.0 {
            return;
        }
        let mean = sum / count;
        let mut total = 0.0;
        for &endpoint in members.list() {
            let state = &mut self.loops[endpoint as usize];
            if let Some(utilization) = state.utilization {
                // Relative: a service at 20 % has the same controller as one at 80 %.
                let error = (mean - utilization) / mean;
                state.sum = (state.sum + error * period_s * self.knobs.integral).clamp(-LOG_WEIGHT_MAX, LOG_WEIGHT_MAX);
                let slope = (error - state.error) / period_s;
                state.error = error;
                let output = self.knobs.proportional * error + state.sum + self.knobs.derivative * slope;
                self.weights[endpoint as usize] = output.clamp(-LOG_WEIGHT_MAX, LOG_WEIGHT_MAX).exp();
            }
            total += self.weights[endpoint as usize];
        }
        let scale = members.list().len() as f64 / total;
        for &endpoint in members.list() {
            self.weights[endpoint as usize] *= scale;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_busier_endpoint_loses_weight_by_all_three_terms() {
        let knobs = Knobs { proportional: 0.5, integral: 0.2, derivative: 0.1, smoothing: 1.0, period_ns: SECOND };
        let mut pid = Pid::new(knobs, 2);
        let load = |utilization| Some(Load { qps: 1.0, eps: 0.0, utilization });
        pid.loads(0, &[load(0.2), load(0.6)], &Members::all(2));
        // Mean 0.4, errors ±0.5: 0.5·0.5 + 0.5·0.2 + 0.5·0.1 = 0.4; weights e^±0.4, which sum to 2 after scaling.
        let ratio = pid.weights[0] / pid.weights[1];
        assert!((ratio - 0.8f64.exp()).abs() < 1e-9, "{ratio}");
        assert!((pid.weights[0] + pid.weights[1] - 2.0).abs() < 1e-9);
        // At the setpoint only the sum is left, and the slope back.
        pid.loads(0, &[load(0.4), load(0.4)], &Members::all(2));
        let ratio = pid.weights[0] / pid.weights[1];
        assert!((ratio - (2.0f64 * (0.1 - 0.05)).exp()).abs() < 1e-9, "{ratio}");
    }

    #[test]
    fn who_left_comes_back_with_a_plain_weight() {
        let mut pid = Pid::new(Knobs::DEFAULT, 2);
        pid.weights[1] = 0.2;
        let mut members = Members::all(2);
        members.set(1, false);
        pid.members(0, &members);
        assert_eq!(pid.weights[1], 1.0);
    }
}
