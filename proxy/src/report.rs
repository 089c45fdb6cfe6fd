//! Turns the live state of a backend into what the controller is told: differences since the previous report. Reading is relaxed loads
//! only; requests do not notice.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use crate::{
    api::v1,
    backend::{Backend, BackendState},
    config::EndpointKey,
    gauge::RequestTime,
    load::{Counters, EndpointLoad},
    sketch::{Sketch, Snapshot},
    time::Timestamp,
};

/// An endpoint whose average is below this has nothing to tell about errors.
const ERROR_MIN: f32 = 1e-3;

/// Remembers what was reported of one backend. Keep one a backend; the first report covers the time from its making.
#[derive(Debug)]
pub struct BackendReporter {
    endpoints: HashMap<EndpointKey, Reported>,
    at: Timestamp,
    shed: u64,
    unroutable: u64,
    within_objective: u64,
    latency: Snapshot,
    errors: HashMap<EndpointKey, Counters>,
}

/// What was reported of one endpoint.
#[derive(Debug)]
struct Reported {
    load: Arc<EndpointLoad>,
    counters: Counters,
    integral: RequestTime,
    sketches: Vec<Snapshot>,
}

impl BackendReporter {
    /// From `now` on.
    pub fn new(now: Timestamp) -> Self {
        Self {
            endpoints: HashMap::new(),
            at: now,
            shed: 0,
            unroutable: 0,
            within_objective: 0,
            latency: Snapshot::default(),
            errors: HashMap::new(),
        }
    }

    /// What happened since the previous report. An endpoint that left the list is reported until its last request is over.
    pub fn report(&mut self, backend: &Backend, now: Timestamp) -> v1::BackendLoad {
        for endpoint in backend.endpoints() {
            self.endpoints.entry(endpoint.config.key).or_insert_with(|| Reported::new(&endpoint.load));
        }
        let interval_s = now.since(self.at).as_secs_f64();
        self.at = now;
        let listed: Vec<v1::EndpointLoad> = backend
            .endpoints()
            .iter()
            .filter_map(|endpoint| {
                let load = self.endpoints.get_mut(&endpoint.config.key)?.delta(now, interval_s);
                Some(v1::EndpointLoad { ejected: backend.is_ejected(endpoint.config.key), ..load })
            })
            .collect();
        let keys: std::collections::HashSet<EndpointKey> =
            backend.endpoints().iter().map(|endpoint| endpoint.config.key).collect();
        let mut endpoints = listed;
        self.endpoints.retain(|key, reported| {
            if keys.contains(key) {
                return true;
            }
            endpoints.push(reported.delta(now, interval_s));
            reported.load.in_flight() > 0
        });
        let state: &BackendState = backend.state();
        v1::BackendLoad {
            backend: backend.name().to_owned(),
            endpoints,
            shed: since(&mut self.shed, state.shed.load(Relaxed)),
            unroutable: since(&mut self.unroutable, state.unroutable.load(Relaxed)),
            concurrency_limit: backend.concurrency_limit(),
            within_objective: since(&mut self.within_objective, state.within_objective.load(Relaxed)),
            latency: Some((&state.latency.delta(&mut self.latency)).into()),
        }
    }

    /// Completed requests, and how many of them were 5xx answers or failures, since the previous error report: of endpoints
    /// whose error average is not zero here or in the pooled table. `None` if there is nothing to tell.
    pub fn errors(&mut self, backend: &Backend, now: Timestamp) -> Option<v1::BackendErrors> {
        let mut report = v1::BackendErrors { backend: backend.name().to_owned(), ..Default::default() };
        for (index, endpoint) in backend.endpoints().iter().enumerate() {
            if endpoint.load.error(now).max(backend.pooled_error(index)) < ERROR_MIN {
                self.errors.remove(&endpoint.config.key);
                continue;
            }
            let counters = endpoint.load.counters();
            let previous = self.errors.insert(endpoint.config.key, counters);
            // The first time counts from the last load report: the errors that raised the average are in there.
            let previous = previous
                .or_else(|| self.endpoints.get(&endpoint.config.key).map(|reported| reported.counters))
                .unwrap_or_default();
            let failures = (counters.errors + counters.failures).saturating_sub(previous.errors + previous.failures);
            let answers = failures + counters.successes.saturating_sub(previous.successes);
            if answers > 0 {
                report.keys.push(endpoint.config.key.0);
                report.answers.push(u32::try_from(answers).unwrap_or(u32::MAX));
                report.failures.push(u32::try_from(failures).unwrap_or(u32::MAX));
            }
        }
        (!report.keys.is_empty()).then_some(report)
    }
}

impl Reported {
    fn new(load: &Arc<EndpointLoad>) -> Self {
        Self {
            load: load.clone(),
            counters: Counters::default(),
            integral: RequestTime::default(),
            sketches: Vec::new(),
        }
    }

    fn delta(&mut self, now: Timestamp, interval_s: f64) -> v1::EndpointLoad {
        let counters = self.load.counters();
        let before = std::mem::replace(&mut self.counters, counters);
        let (in_flight, integral) = self.load.gauge().read(now);
        let request_s = integral.seconds_since(std::mem::replace(&mut self.integral, integral));
        let mut latency = Sketch::new();
        for (class, load) in self.load.classes().enumerate() {
            if self.sketches.len() <= class {
                self.sketches.push(Snapshot::default());
            }
            latency.merge(&load.sketch.delta(&mut self.sketches[class]));
        }
        v1::EndpointLoad {
            key: self.load.key().0,
            in_flight_mean: if interval_s > 0.0 { (request_s / interval_s) as f32 } else { in_flight as f32 },
            in_flight,
            successes: counters.successes - before.successes,
            errors: counters.errors - before.errors,
            failures: counters.failures - before.failures,
            cancelled: counters.cancelled - before.cancelled,
            latency_ms_sum: ((counters.latency_us_sum - before.latency_us_sum) as f64 * 1e-3) as f32,
            latency: Some((&latency).into()),
            ejected: false,
            error: self.load.error(now),
        }
    }
}

/// The difference to a counter's previous value, which is brought up to date.
fn since(previous: &mut u64, value: u64) -> u64 {
    value.saturating_sub(std::mem::replace(previous, value))
}
