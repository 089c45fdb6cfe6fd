//! What can go wrong with a pod while it runs. One value describes all of it and can be swapped at any time.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Everything that is wrong with a pod at present; the default is a healthy pod.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Faults {
    /// Service times are multiplied by this: a noisy neighbour takes the CPU. 1 is healthy.
    pub slow_factor: f64,
    /// Some answers are 500.
    pub errors: Option<ErrorFault>,
    /// The process stands still, as after SIGSTOP: connections are accepted, nothing is answered.
    pub paused: bool,
}

/// A pod that answers 500.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ErrorFault {
    /// Share of requests that fail, 0..=1.
    pub share: f64,
    /// Fails at once, without a worker (gray failure: the broken pod looks like the fastest one). Otherwise a failing
    /// request waits and works as long as a good one.
    pub fast: bool,
}

/// A pod that is slow right after its start: cold caches, a JIT compiler that has seen nothing.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ColdStart {
    /// How many times slower the first request is.
    pub factor: f64,
    /// How long it takes to reach full speed, seconds; the factor falls linearly.
    pub ramp_s: f64,
}

impl Default for Faults {
    fn default() -> Self {
        Self { slow_factor: 1.0, errors: None, paused: false }
    }
}

impl Faults {
    /// A noisy neighbour that leaves `1 / factor` of the speed.
    pub fn slow(factor: f64) -> Self {
        Self { slow_factor: factor, ..Self::default() }
    }

    /// A gray pod: `share` of its answers are an immediate 500.
    pub fn gray(share: f64) -> Self {
        Self { errors: Some(ErrorFault { share, fast: true }), ..Self::default() }
    }
}

impl ColdStart {
    /// How many times slower a pod is that started this long ago.
    pub fn factor_at(&self, age: Duration) -> f64 {
        let done = if self.ramp_s > 0.0 { (age.as_secs_f64() / self.ramp_s).min(1.0) } else { 1.0 };
        self.factor - (self.factor - 1.0) * done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cold_pod_warms_up_linearly() {
        let cold = ColdStart { factor: 5.0, ramp_s: 4.0 };
        let factors = [0.0, 1.0, 4.0, 60.0].map(|age_s| cold.factor_at(Duration::from_secs_f64(age_s)));
        assert_eq!(factors, [5.0, 4.0, 1.0, 1.0]);
    }

    #[test]
    fn a_cold_start_without_a_ramp_is_none() {
        assert_eq!(ColdStart { factor: 5.0, ramp_s: 0.0 }.factor_at(Duration::ZERO), 1.0);
    }
}
