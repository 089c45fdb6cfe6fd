//! A simulated run's recording: the very rows that the controller that ships writes.

use rand::{Rng, rngs::SmallRng};
use trimtab_model::{
    recording::{RequestRow, TickRow},
    slots::Sample,
};

use super::{classes, proxy::BACKEND};
use crate::{
    scenario::Scenario,
    simulator::{
        Outcome,
        random::{Purpose, stream},
        router::Departure,
        time::MILLISECOND,
    },
};

/// Samples are drawn from streams of their own, so that a run that is recorded is the run that is not.
const SAMPLES: u64 = 1 << 32;
/// The same for those that the controller learns slots from.
const LESSONS: u64 = 1 << 33;
/// Share of the requests that it learns from: what proxies that ship sample by default.
const LESSON_SHARE: f64 = 0.05;
/// And so many a second of each proxy at least, as proxies that ship see to.
const LESSONS_PER_S: f64 = trimtab_proxy::sample::PER_S_MIN;

/// What was recorded of a run, in order of time.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Recording {
    /// One row an endpoint and tick.
    pub ticks: Vec<TickRow>,
    /// Sampled requests.
    pub requests: Vec<RequestRow>,
}

/// Samples one proxy's requests.
#[derive(Debug)]
pub(super) struct Sampler {
    proxy: String,
    rng: SmallRng,
    share: f64,
    rows: Vec<RequestRow>,
}

/// Samples one proxy's requests for the controller to learn from.
#[derive(Debug)]
pub(super) struct Lessons {
    rng: SmallRng,
    share: f64,
    lately: Vec<Sample>,
}

impl Lessons {
    /// For the proxy of this number in the run with this seed.
    pub fn new(scenario: &Scenario, number: usize) -> Self {
        let rate_rps = scenario.rate_rps * scenario.shares[number];
        let share = LESSON_SHARE.max(LESSONS_PER_S / rate_rps).min(1.0);
        Self { rng: stream(scenario.seed, Purpose::Routing, LESSONS + number as u64), share, lately: Vec::new() }
    }

    /// A request is over.
    pub fn offer(&mut self, departure: &Departure, seen: &Sighting) {
        let tells = departure.outcome == Outcome::Success && seen.attempts == 1;
        if !self.rng.random_bool(self.share) || !tells {
            return;
        }
        self.lately.push(Sample {
            endpoint: departure.endpoint.into(),
            class: if seen.number == 0 { 0 } else { classes::key(seen.class).0 },
            in_flight: seen.in_flight_all.into(),
            latency_ms: (departure.now_ns - seen.arrived_ns) as f64 / MILLISECOND as f64,
        });
    }

    /// Those since the last call.
    pub fn take(&mut self) -> Vec<Sample> {
        std::mem::take(&mut self.lately)
    }
}

/// How a request was seen by its proxy.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Sighting {
    pub class: u8,
    /// Its number in the proxy; 0 for one that is not told apart.
    pub number: u8,
    pub arrived_ns: u64,
    pub in_flight: u32,
    pub in_flight_all: f32,
    pub attempts: u32,
}

impl Sampler {
    /// For the proxy of this number in the run with this seed.
    pub fn new(seed: u64, number: usize, share: f64) -> Self {
        let rng = stream(seed, Purpose::Routing, SAMPLES + number as u64);
        Self { proxy: format!("proxy-{number}"), rng, share: share.clamp(0.0, 1.0), rows: Vec::new() }
    }

    /// A request is over.
    pub fn offer(&mut self, departure: &Departure, seen: &Sighting) {
        if !self.rng.random_bool(self.share) {
            return;
        }
        let told_apart = seen.number != 0;
        self.rows.push(RequestRow {
            at_ms: (seen.arrived_ns / MILLISECOND) as i64,
            proxy: self.proxy.clone(),
            route: "simulation/route".to_owned(),
            method: "GET".to_owned(),
            class: seen.number.into(),
            backend: BACKEND.to_owned(),
            endpoint: departure.endpoint.into(),
            in_flight: seen.in_flight,
            latency_ms: (departure.now_ns - seen.arrived_ns) as f64 / MILLISECOND as f64,
            status: match departure.outcome {
                Outcome::Success => Some(200),
                Outcome::Error => Some(500),
                _ => None,
            },
            request_bytes: 0,
            response_bytes: 0,
            attempts: seen.attempts,
            class_key: told_apart.then(|| classes::key(seen.class).0),
            class_name: told_apart.then(|| format!("class {}", seen.class)),
            in_flight_all: Some(seen.in_flight_all),
        });
    }

    pub fn into_rows(self) -> Vec<RequestRow> {
        self.rows
    }
}
