//! Omniscient dispatchers: routers that see every endpoint's true state and speed at once. No proxy can know as much; what
//! the rules that ship achieve is told as a ratio to them.

use crate::simulator::{
    Router, Routing,
    endpoint::{Endpoint, expected_ns},
    router::{Arrival, Departure},
    work::{self, Class},
};

/// Shortest expected delay: sends each request where a request of mean work is expected to end soonest, given every
/// endpoint's true in-flight count (all proxies', and what is still on its way), slots and present speed. Avoids endpoints
/// that are down or gray in proportion to their errors.
#[derive(Debug, Clone)]
pub struct ShortestExpectedDelay {
    mean_work_ns: f64,
    ready: Vec<bool>,
    turn: usize,
}

impl ShortestExpectedDelay {
    /// For requests of these classes to so many endpoints.
    pub fn new(classes: &[Class], endpoints: usize) -> Self {
        Self { mean_work_ns: work::mean_ns(classes), ready: vec![true; endpoints], turn: 0 }
    }
}

impl Router for ShortestExpectedDelay {
    fn route(&mut self, arrival: &Arrival, endpoints: &[Endpoint]) -> Routing {
        // Start at another endpoint each time: ties must not all go to the first.
        self.turn = (self.turn + 1) % endpoints.len();
        let mut best = None;
        let mut best_ns = f64::INFINITY;
        for step in 0..endpoints.len() {
            let number =
                if self.turn + step < endpoints.len() { self.turn + step } else { self.turn + step - endpoints.len() };
            let endpoint = &endpoints[number];
            if !self.ready[number] || !endpoint.is_up() || arrival.tried == Some(number as u32) {
                continue;
            }
            let fails = endpoint.gray().share;
            let ns = expected_ns(endpoint, endpoint.assigned(), self.mean_work_ns) / (1.0 - fails).powi(12).max(1e-12);
            if ns < best_ns {
                best_ns = ns;
                best = Some(number as u32);
            }
        }
        best.map_or(Routing::Unroutable, Routing::To)
    }

    fn ended(&mut self, _departure: &Departure) {}

    fn readiness(&mut self, _now_ns: u64, endpoint: u32, ready: bool) {
        self.ready[endpoint as usize] = ready;
    }
}

/// Sends every request to a random endpoint: the case in which queues have closed forms, and the cheapest rule there is.
#[derive(Debug, Clone)]
pub struct Blind {
    rng: rand::rngs::SmallRng,
}

impl Blind {
    /// Draws from this seed.
    pub fn new(seed: u64) -> Self {
        Self { rng: crate::simulator::random::stream(seed, crate::simulator::random::Purpose::Routing, 0) }
    }
}

impl Router for Blind {
    fn route(&mut self, _arrival: &Arrival, endpoints: &[Endpoint]) -> Routing {
        Routing::To(rand::Rng::random_range(&mut self.rng, 0..endpoints.len() as u32))
    }

    fn ended(&mut self, _departure: &Departure) {}
}
