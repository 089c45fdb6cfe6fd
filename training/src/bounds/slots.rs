//! Two more dispatchers that see true counts: the fastest free slot, and the shortest queue by true capacity.

use super::{ShortestExpectedDelay, Truth};
use crate::{
    scenario::Scenario,
    simulator::{
        Router, Routing,
        endpoint::Endpoint,
        router::{Arrival, Departure},
    },
};

/// The endpoint with a free slot where a request of this class is served fastest; without one, shortest expected delay.
#[derive(Debug, Clone)]
pub struct FastestFreeSlot {
    truth: Truth,
    otherwise: ShortestExpectedDelay,
}

impl FastestFreeSlot {
    /// For this scenario's endpoints and classes.
    pub fn new(scenario: &Scenario) -> Self {
        Self { truth: Truth::new(scenario), otherwise: ShortestExpectedDelay::new(scenario) }
    }
}

/// Whether a request that is sent now is served as it arrives, and well.
pub(super) fn has_free_slot(endpoint: &Endpoint) -> bool {
    endpoint.assigned() < endpoint.spec().slots && endpoint.speed() > 0.0 && endpoint.gray().share == 0.0
}

impl Router for FastestFreeSlot {
    fn route(&mut self, arrival: &Arrival, endpoints: &[Endpoint]) -> Routing {
        let fastest = self.truth.lowest(arrival, endpoints, |truth, number, endpoint| {
            if has_free_slot(endpoint) {
                truth.mean_ns(arrival.class, number) / endpoint.speed()
            } else {
                f64::INFINITY
            }
        });
        let free = fastest.filter(|endpoint| has_free_slot(&endpoints[*endpoint as usize]));
        let Some(endpoint) = free.or_else(|| self.otherwise.choose(arrival, endpoints)) else {
            return Routing::Unroutable;
        };
        self.otherwise.sent(arrival.class, endpoint);
        Routing::To(endpoint)
    }

    fn ended(&mut self, departure: &Departure) {
        self.otherwise.ended(departure);
    }

    fn readiness(&mut self, now_ns: u64, endpoint: u32, ready: bool) {
        self.truth.ready[endpoint as usize] = ready;
        self.otherwise.readiness(now_ns, endpoint, ready);
    }
}

/// The fewest true requests in flight, this one included, per present capacity.
#[derive(Debug, Clone)]
pub struct JoinShortestQueue {
    truth: Truth,
}

impl JoinShortestQueue {
    /// For this scenario's endpoints and classes.
    pub fn new(scenario: &Scenario) -> Self {
        Self { truth: Truth::new(scenario) }
    }
}

impl Router for JoinShortestQueue {
    fn route(&mut self, arrival: &Arrival, endpoints: &[Endpoint]) -> Routing {
        let picked = self.truth.lowest(arrival, endpoints, |truth, number, endpoint| {
            let capacity = endpoint.speed() * f64::from(endpoint.spec().slots) / truth.factor(arrival.class, number);
            if capacity > 0.0 { f64::from(endpoint.assigned() + 1) / capacity } else { f64::INFINITY }
        });
        picked.map_or(Routing::Unroutable, Routing::To)
    }

    fn ended(&mut self, _departure: &Departure) {}

    fn readiness(&mut self, _now_ns: u64, endpoint: u32, ready: bool) {
        self.truth.ready[endpoint as usize] = ready;
    }
}
