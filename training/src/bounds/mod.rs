//! Omniscient dispatchers: routers that see every endpoint's true state and speed at once. No proxy can know as much; what the rules that
//! ship achieve is told as a ratio to them.
//!
//! Several, because none is the best everywhere: the bound of a run is the lowest 99th percentile among those that dispatch at once
//! ([`best`]). The central queue keeps requests back until a slot is free, which no dispatcher can, and is told beside them.

mod central_queue;
mod least_work;
mod shortest_delay;
mod slots;

pub use central_queue::CentralQueue;
pub use least_work::LeastWorkLeft;
pub use shortest_delay::ShortestExpectedDelay;
pub use slots::{FastestFreeSlot, JoinShortestQueue};

use crate::{
    contest::{Contest, Role},
    scenario::{Scenario, ScenarioError},
    simulator::{
        Router, Routing, Summary,
        endpoint::Endpoint,
        router::{Arrival, Departure},
        simulate,
    },
};

/// An omniscient router by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// [`ShortestExpectedDelay`].
    ShortestExpectedDelay,
    /// [`LeastWorkLeft`].
    LeastWorkLeft,
    /// [`FastestFreeSlot`].
    FastestFreeSlot,
    /// [`JoinShortestQueue`].
    JoinShortestQueue,
    /// [`CentralQueue`].
    CentralQueue,
}

impl Bound {
    /// All of them, in the order of tables.
    pub const ALL: [Self; 5] = [
        Self::ShortestExpectedDelay,
        Self::LeastWorkLeft,
        Self::FastestFreeSlot,
        Self::JoinShortestQueue,
        Self::CentralQueue,
    ];
}

impl Contest for Bound {
    fn name(&self) -> &str {
        match self {
            Self::ShortestExpectedDelay => "shortest-expected-delay",
            Self::LeastWorkLeft => "least-work-left",
            Self::FastestFreeSlot => "fastest-free-slot",
            Self::JoinShortestQueue => "weighted-jsq",
            Self::CentralQueue => "central-queue",
        }
    }

    fn describe(&self) -> &str {
        match self {
            Self::ShortestExpectedDelay => "true counts, speeds and mean costs; sizes unknown",
            Self::LeastWorkLeft => "earliest end, every request's true size known",
            Self::FastestFreeSlot => "the fastest endpoint with a free slot, else shortest expected delay",
            Self::JoinShortestQueue => "fewest true requests in flight per true capacity",
            Self::CentralQueue => "one queue for all endpoints; a request goes where a slot is free, the fastest first",
        }
    }

    fn role(&self) -> Role {
        match self {
            Self::CentralQueue => Role::Ceiling,
            Self::LeastWorkLeft => Role::Clairvoyant,
            Self::ShortestExpectedDelay | Self::FastestFreeSlot | Self::JoinShortestQueue => Role::Bound,
        }
    }

    fn router(&self, scenario: &Scenario) -> Box<dyn Router> {
        match self {
            Self::ShortestExpectedDelay => Box::new(ShortestExpectedDelay::new(scenario)),
            Self::LeastWorkLeft => Box::new(LeastWorkLeft::new(scenario)),
            Self::FastestFreeSlot => Box::new(FastestFreeSlot::new(scenario)),
            Self::JoinShortestQueue => Box::new(JoinShortestQueue::new(scenario)),
            Self::CentralQueue => Box::new(CentralQueue::new(scenario)),
        }
    }
}

/// The best dispatcher of a run: the one with the lowest 99th percentile, and how it went.
///
/// # Errors
/// If the scenario does not hold.
pub fn best(scenario: &Scenario) -> Result<(Bound, Summary), ScenarioError> {
    let mut best: Option<(Bound, Summary)> = None;
    for bound in Bound::ALL.into_iter().filter(|bound| bound.role().is_bound()) {
        let summary = simulate(scenario, &mut bound.router(scenario))?;
        if best.as_ref().is_none_or(|(_, lowest)| summary.latency_ms_p99 < lowest.latency_ms_p99) {
            best = Some((bound, summary));
        }
    }
    // The list is not empty; if it were, the first of all would do.
    match best {
        Some(best) => Ok(best),
        None => Bound::ShortestExpectedDelay.run(scenario).map(|summary| (Bound::ShortestExpectedDelay, summary)),
    }
}

/// What the bounds have in common: who is ready, what a request costs where, and a scan that breaks ties in turn.
#[derive(Debug, Clone)]
struct Truth {
    ready: Vec<bool>,
    turn: usize,
    /// Mean work by class and endpoint, class-major, in nanoseconds.
    mean_ns: Vec<f64>,
    factors: Vec<f64>,
}

impl Truth {
    fn new(scenario: &Scenario) -> Self {
        let endpoints = scenario.endpoints.len();
        let cells = || (0..scenario.classes.len()).flat_map(|class| (0..endpoints).map(move |number| (class, number)));
        let factor = |(class, number): (usize, usize)| scenario.factor(class as u8, number as u32);
        Self {
            ready: vec![true; endpoints],
            turn: 0,
            mean_ns: cells().map(|cell| scenario.classes[cell.0].mean_ns * factor(cell)).collect(),
            factors: cells().map(factor).collect(),
        }
    }

    /// Mean work of a class at an endpoint.
    #[inline]
    fn mean_ns(&self, class: u8, endpoint: usize) -> f64 {
        self.mean_ns[usize::from(class) * self.ready.len() + endpoint]
    }

    /// Factor on the work of a class at an endpoint.
    #[inline]
    fn factor(&self, class: u8, endpoint: usize) -> f64 {
        self.factors[usize::from(class) * self.ready.len() + endpoint]
    }

    /// The endpoint with the lowest score of those that are ready and up; a gray one's score is raised in proportion to its errors.
    #[inline]
    fn lowest(
        &mut self,
        arrival: &Arrival,
        endpoints: &[Endpoint],
        mut score: impl FnMut(&Self, usize, &Endpoint) -> f64,
    ) -> Option<u32> {
        // Start at another endpoint each time: ties must not all go to the first.
        self.turn = (self.turn + 1) % endpoints.len();
        let (mut best, mut best_score) = (None, f64::INFINITY);
        for number in (self.turn..endpoints.len()).chain(0..self.turn) {
            let endpoint = &endpoints[number];
            if !self.ready[number] || !endpoint.is_up() || arrival.tried == Some(number as u32) {
                continue;
            }
            let score = score(self, number, endpoint);
            let fails = endpoint.gray().share;
            let score = if fails > 0.0 { score / (1.0 - fails).powi(12).max(1e-12) } else { score };
            // At least one: all may stand still.
            if score < best_score || best.is_none() {
                (best, best_score) = (Some(number as u32), score);
            }
        }
        best
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

#[cfg(test)]
mod tests;
