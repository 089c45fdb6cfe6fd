//! C3's replica ranking (Suresh, Canini, Schmid, Feldmann: "C3: Cutting Tail Latency in Cloud Data Stores via Adaptive Replica Selection",
//! NSDI 2015, §3.1): `q̂ = 1 + os·w + q̄` and `Ψ = R̄ − 1/μ̄ + q̂³/μ̄`, lowest of all, with the queue size and service time that servers
//! send on every answer. As in the authors' Cassandra code the average is taken of R − 1/μ.
//!
//! Its rate control and backpressure queue belong to the key-value store's coordinator, which holds requests of a replica group of three
//! back; an HTTP proxy forwards at once, so only the ranking is here.

use rand::rngs::SmallRng;

use super::{
    rule::{Rule, View},
    servers::Load,
};
use crate::{scenario::Scenario, simulator::router::Departure};

/// Its knobs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Knobs {
    /// Exponent of q̂.
    pub exponent: f64,
    /// Share of a new value in the averages.
    pub gain: f64,
    /// Factor on the number of proxies, which is the weight w of own requests in flight.
    pub concurrency: f64,
}

impl Knobs {
    /// The paper's exponent, and the gain of the authors' code.
    pub const DEFAULT: Self = Self { exponent: 3.0, gain: 0.9, concurrency: 1.0 };
    /// See docs/rivals.md, "Tuning".
    pub const TUNED: Self = Self { exponent: 4.0, gain: 0.2, concurrency: 1.0 };
}

#[derive(Debug, Clone, Copy, Default)]
struct Averages {
    queue: f64,
    service_ns: f64,
    /// R − 1/μ.
    beside_ns: f64,
    known: bool,
}

/// C3 without its rate control.
#[derive(Debug, Clone)]
pub struct C3 {
    knobs: Knobs,
    proxies: f64,
    averages: Vec<Averages>,
    /// Over all endpoints.
    overall: Averages,
}

impl C3 {
    /// For the scenario's proxies and endpoints.
    pub fn new(knobs: Knobs, scenario: &Scenario) -> Self {
        Self {
            knobs,
            proxies: scenario.shares.len() as f64,
            averages: vec![Averages::default(); scenario.endpoints.len()],
            overall: Averages::default(),
        }
    }

    fn score_ns(&self, endpoint: u32, in_flight: u32) -> f64 {
        let own = &self.averages[endpoint as usize];
        // Who has not answered yet is taken for average: otherwise all proxies would send everything there until it has.
        let averages = if own.known { own } else { &self.overall };
        let queue = 1.0 + f64::from(in_flight) * self.proxies * self.knobs.concurrency + averages.queue;
        let power = if self.knobs.exponent == 3.0 { queue * queue * queue } else { queue.powf(self.knobs.exponent) };
        averages.beside_ns + power * averages.service_ns
    }
}

impl Rule for C3 {
    fn pick(&mut self, view: &View<'_>, rng: &mut SmallRng, _probes: &mut Vec<u32>) -> u32 {
        view.lowest(rng, |endpoint| self.score_ns(endpoint, view.in_flight[endpoint as usize]))
    }

    fn ended(&mut self, departure: &Departure, _load: Option<&Load>) {
        let Some(served) = departure.served else { return };
        let service_ns = served.service_ns as f64;
        for averages in [&mut self.averages[departure.endpoint as usize], &mut self.overall] {
            // The first answer is the average; later ones move it.
            let gain = if averages.known { self.knobs.gain } else { 1.0 };
            let towards = |average: &mut f64, value: f64| *average += gain * (value - *average);
            towards(&mut averages.queue, f64::from(served.in_flight_after));
            towards(&mut averages.service_ns, service_ns);
            towards(&mut averages.beside_ns, departure.latency_ns as f64 - service_ns);
            averages.known = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{rivals::rule::testing::answer, simulator::router::Served};

    #[test]
    fn the_score_is_the_papers() {
        let mut c3 = C3 {
            knobs: Knobs { gain: 0.5, ..Knobs::DEFAULT },
            proxies: 4.0,
            averages: vec![Averages::default()],
            overall: Averages::default(),
        };
        let mut answered = |latency_ns, in_flight_after, service_ns| {
            let served = Served { in_flight_after, service_ns, ..Served::default() };
            c3.ended(&answer(0, 0, latency_ns, served), None);
        };
        answered(100, 2, 40);
        answered(200, 4, 20);
        // q̄ = 3, 1/μ̄ = 30, R̄ − 1/μ̄ = (60 + 180)/2 = 120; two of four proxies' in flight: q̂ = 1 + 2·4 + 3 = 12.
        assert_eq!(c3.score_ns(0, 2), 120.0 + 12f64.powi(3) * 30.0);
    }
}
