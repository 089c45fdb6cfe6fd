//! Envoy's weighted least request (`LeastRequestLoadBalancer`): with unequal weights an earliest-deadline scheduler whose weights are
//! `weight / (active + 1)^bias` at the moment of the pick; with equal ones two choices. The weights are true capacities.

use rand::rngs::SmallRng;

use super::{
    rule::{Members, Rule, View},
    schedulers::EarliestDeadline,
};
use crate::{scenario::Scenario, simulator::endpoint::EndpointSpec};

/// Its knobs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Knobs {
    /// `active_request_bias`; 0 is weighted round robin.
    pub bias: f64,
    /// `choice_count` where all weights are equal; `usize::MAX`: `FULL_SCAN`.
    pub choices: usize,
}

impl Knobs {
    /// Envoy's defaults.
    pub const DEFAULT: Self = Self { bias: 1.0, choices: 2 };
    /// See docs/rivals.md, "Tuning".
    pub const TUNED: Self = Self { bias: 1.5, choices: usize::MAX };
}

/// Envoy's weighted least request.
#[derive(Debug, Clone)]
pub struct WeightedLeastRequest {
    knobs: Knobs,
    weights: Vec<f64>,
    equal: bool,
    scheduler: EarliestDeadline,
    stale: bool,
}

impl WeightedLeastRequest {
    /// With the capacities of the scenario's endpoints as weights.
    pub fn new(knobs: Knobs, scenario: &Scenario) -> Self {
        let weights: Vec<f64> = scenario.endpoints.iter().map(EndpointSpec::capacity).collect();
        let equal = weights.iter().all(|weight| *weight == weights[0]);
        Self { knobs, weights, equal, scheduler: EarliestDeadline::default(), stale: true }
    }
}

impl Rule for WeightedLeastRequest {
    fn pick(&mut self, view: &View<'_>, rng: &mut SmallRng, _probes: &mut Vec<u32>) -> u32 {
        let active = |endpoint: u32| f64::from(view.in_flight[endpoint as usize]);
        if self.equal {
            return view.lowest_of(self.knobs.choices, rng, active);
        }
        let (weights, bias) = (&self.weights, self.knobs.bias);
        let weight = |endpoint: u32| weights[endpoint as usize] / (active(endpoint) + 1.0).powf(bias);
        if std::mem::take(&mut self.stale) {
            self.scheduler.reset(view.members, rng, weight);
        }
        self.scheduler.next(view, weight)
    }

    fn members(&mut self, _now_ns: u64, _members: &Members) {
        self.stale = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rivals::rule::testing::counts;

    #[test]
    fn shares_are_weight_over_active_requests_to_the_bias() {
        let rule = |bias| WeightedLeastRequest {
            knobs: Knobs { bias, choices: 2 },
            weights: vec![4.0, 4.0, 2.0],
            equal: false,
            scheduler: EarliestDeadline::default(),
            stale: true,
        };
        // 4/1, 4/4, 2/2 with bias 1: 4 to 1 to 1. Without bias 2 to 2 to 1.
        assert_eq!(counts(&mut rule(1.0), &Members::all(3), &[0, 3, 1], 600), [400, 100, 100]);
        assert_eq!(counts(&mut rule(0.0), &Members::all(3), &[0, 3, 1], 500), [200, 200, 100]);
    }
}
