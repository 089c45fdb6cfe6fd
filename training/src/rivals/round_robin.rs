//! Round robin, plain and weighted by true capacities (nginx's smooth weighted round robin): the best that weights alone can do while
//! nothing changes. Nobody has true capacities; an operator who measured every pod would come close.

use rand::{Rng, rngs::SmallRng};

use super::{
    rule::{Rule, View},
    schedulers::Smooth,
};
use crate::{scenario::Scenario, simulator::endpoint::EndpointSpec};

/// One endpoint after another, each proxy from another one on.
#[derive(Debug, Clone, Copy, Default)]
pub struct RoundRobin {
    next: Option<usize>,
}

impl Rule for RoundRobin {
    fn pick(&mut self, view: &View<'_>, rng: &mut SmallRng, _probes: &mut Vec<u32>) -> u32 {
        let list = view.members.list();
        let mut place = self.next.unwrap_or_else(|| rng.random_range(0..list.len())) % list.len();
        if view.exclude == Some(list[place]) {
            place = (place + 1) % list.len();
        }
        self.next = Some(place + 1);
        list[place]
    }
}

/// Smooth weighted round robin with true capacities as weights.
#[derive(Debug, Clone)]
pub struct SmoothWeightedRoundRobin {
    smooth: Smooth,
    started: bool,
}

impl SmoothWeightedRoundRobin {
    /// With the capacities of the scenario's endpoints.
    pub fn new(scenario: &Scenario) -> Self {
        let weights = scenario.endpoints.iter().map(EndpointSpec::capacity).collect();
        Self { smooth: Smooth::new(weights), started: false }
    }
}

impl Rule for SmoothWeightedRoundRobin {
    fn pick(&mut self, view: &View<'_>, rng: &mut SmallRng, _probes: &mut Vec<u32>) -> u32 {
        if !self.started {
            // Proxies that start together must not take the same turns: nginx starts its workers at random peers too.
            self.started = true;
            for _ in 0..rng.random_range(0..view.members.list().len()) {
                self.smooth.next(view);
            }
        }
        self.smooth.next(view)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rivals::rule::{
        Members,
        testing::{counts, rng},
    };

    #[test]
    fn turns_are_even_and_skip_what_was_tried() {
        let members = Members::all(3);
        assert_eq!(counts(&mut RoundRobin::default(), &members, &[0; 3], 9), [3, 3, 3]);
        let mut rule = RoundRobin { next: Some(1) };
        let view = View { now_ns: 0, members: &members, in_flight: &[0; 3], exclude: Some(1) };
        assert_eq!(rule.pick(&view, &mut rng(), &mut Vec::new()), 2);
    }

    #[test]
    fn weighted_turns_follow_capacity() {
        let mut rule = SmoothWeightedRoundRobin { smooth: Smooth::new(vec![4.0, 8.0, 2.0]), started: false };
        assert_eq!(counts(&mut rule, &Members::all(3), &[0; 3], 700), [200, 400, 100]);
    }
}
