//! One simulated proxy: a production `Backend` value and what the sockets around it would do with it.

use std::{num::NonZeroU16, sync::Arc, time::Duration};

use rand::rngs::SmallRng;
use trimtab_model::{recording::RequestRow, slots::Sample};
use trimtab_proxy::{
    admission::Admitted,
    api::v1,
    backend::Backend,
    config::{
        AdmissionControl, BackendConfig, BackendTimeouts, CircuitBreaker, ClassTable, EndpointConfig, EndpointKey,
        EndpointState, ErrorTable, OutlierDetection, RequestClasses, WeightTable,
    },
    load::{Attempt, CLASSES_MAX, OrcaLoad, Outcome as ProxyOutcome},
    pick::PickRequest,
    report::BackendReporter,
    time::Timestamp,
};

use super::{
    Control, FleetOptions, classes,
    recorder::{Lessons, Sampler, Sighting},
};
use crate::{
    scenario::Scenario,
    simulator::{
        Outcome, Routing,
        random::{Purpose, stream},
        router::{Arrival, Departure},
    },
};

/// Name of the simulated backend.
pub(crate) const BACKEND: &str = "simulation/backend:80";

/// A simulated proxy.
#[derive(Debug)]
pub(super) struct Proxy {
    number: u32,
    backend: Backend,
    reporter: BackendReporter,
    rng: SmallRng,
    /// By request number.
    tokens: Vec<Tokens>,
    sampler: Option<Sampler>,
    /// For the controller to learn slots from, where pods do not tell them.
    lessons: Option<Lessons>,
}

/// What the production code handed out for a request in flight.
#[derive(Debug, Default)]
struct Tokens {
    admitted: Option<Admitted>,
    attempt: Option<Attempt>,
    arrived_ns: u64,
    seen: Option<Sighting>,
}

impl Proxy {
    pub fn new(scenario: &Scenario, options: &FleetOptions, number: usize) -> Self {
        let ready = vec![true; scenario.endpoints.len()];
        Self {
            number: number as u32,
            backend: Backend::new(config(scenario, options, &ready, 0), None, Timestamp::ZERO),
            reporter: BackendReporter::new(Timestamp::ZERO),
            rng: stream(scenario.seed, Purpose::Routing, number as u64),
            tokens: Vec::new(),
            sampler: None,
            lessons: learns_slots(scenario, options).then(|| Lessons::new(scenario, number)),
        }
    }

    /// Requests are sampled from now on.
    pub fn sample(&mut self, sampler: Sampler) {
        self.sampler = Some(sampler);
    }

    /// The sampled requests.
    pub fn into_samples(self) -> Vec<RequestRow> {
        self.sampler.map(Sampler::into_rows).unwrap_or_default()
    }

    pub fn route(&mut self, arrival: &Arrival) -> Routing {
        let now = Timestamp(arrival.now_ns);
        let class = self.backend.class_of(classes::key(arrival.class));
        let number = arrival.request as usize;
        if self.tokens.len() <= number {
            self.tokens.resize_with(number + 1, Tokens::default);
        }
        let tokens = &mut self.tokens[number];
        let tried = arrival.tried.map(key);
        if tried.is_none() {
            tokens.arrived_ns = arrival.now_ns;
            match self.backend.admit(class) {
                Ok(admitted) => tokens.admitted = Some(admitted),
                Err(_) => return Routing::Shed,
            }
        }
        let request = PickRequest { class, key: 0, exclude: tried.as_slice(), probed: None };
        match self.backend.pick(&request, now, &mut self.rng) {
            Some(index) => {
                if self.sampler.is_some() || self.lessons.is_some() {
                    tokens.seen = Some(Sighting {
                        class: arrival.class,
                        number: class.0,
                        arrived_ns: tokens.arrived_ns,
                        in_flight: self.backend.endpoints()[index].load.in_flight(),
                        in_flight_all: self.backend.in_flight_all(index, now),
                        attempts: 1 + u32::from(tried.is_some()),
                    });
                }
                tokens.attempt = Some(self.backend.begin(index, now, class));
                Routing::To(index as u32)
            }
            None => {
                self.backend.unroutable();
                if let Some(admitted) = tokens.admitted.take() {
                    self.backend.answered(admitted, now, ProxyOutcome::Failure, Duration::ZERO, Duration::ZERO);
                }
                Routing::Unroutable
            }
        }
    }

    pub fn ended(&mut self, departure: &Departure) {
        let now = Timestamp(departure.now_ns);
        let outcome = match departure.outcome {
            Outcome::Success => ProxyOutcome::Success,
            Outcome::Error => ProxyOutcome::ServerError,
            _ => ProxyOutcome::Failure,
        };
        let orca = departure.reported_in_flight.map(|in_flight| OrcaLoad { in_flight });
        let tokens = &mut self.tokens[departure.request as usize];
        if let Some(attempt) = tokens.attempt.take() {
            let latency = Duration::from_nanos(departure.latency_ns);
            let event = self.backend.finish(departure.endpoint as usize, attempt, now, outcome, latency, orca);
            if let Some(next) = event.and_then(|event| self.backend.with_outlier_event(&event, now)) {
                self.backend = next;
            }
        }
        if departure.retried {
            return;
        }
        if let Some(seen) = tokens.seen.take() {
            if let Some(sampler) = &mut self.sampler {
                sampler.offer(departure, &seen);
            }
            if let Some(lessons) = &mut self.lessons {
                lessons.offer(departure, &seen);
            }
        }
        if let Some(admitted) = tokens.admitted.take() {
            let latency = Duration::from_nanos(departure.now_ns - tokens.arrived_ns);
            self.backend.answered(admitted, now, outcome, latency, Duration::ZERO);
        }
    }

    /// Sampled requests since the last call.
    pub fn lessons(&mut self) -> Vec<Sample> {
        self.lessons.as_mut().map(Lessons::take).unwrap_or_default()
    }

    /// What happened since the last report.
    pub fn report(&mut self, now_ns: u64) -> v1::BackendLoad {
        self.reporter.report(&self.backend, Timestamp(now_ns))
    }

    /// Errors since the last error report, if there are any to tell of.
    pub fn errors(&mut self, now_ns: u64) -> Option<v1::BackendErrors> {
        self.reporter.errors(&self.backend, Timestamp(now_ns))
    }

    /// What it has in flight at each endpoint, by class.
    pub fn in_flight(&self) -> Vec<[u16; CLASSES_MAX]> {
        self.backend.endpoints().iter().map(|endpoint| endpoint.load.in_flight_by_class()).collect()
    }

    /// Peers have told what they have in flight at an endpoint.
    pub fn heard(&self, now_ns: u64, endpoint: usize, counts: &[u16; CLASSES_MAX]) {
        if let Some(endpoint) = self.backend.endpoints().get(endpoint) {
            endpoint.load.heard_from_peers(Timestamp(now_ns), counts);
        }
    }

    /// Ejections that are over, weights that have aged.
    pub fn pass_time(&mut self, now_ns: u64) {
        self.replace(self.backend.with_time(Timestamp(now_ns)));
    }

    /// The endpoint list has changed.
    pub fn configure(&mut self, now_ns: u64, config: BackendConfig) {
        self.backend = Backend::new(config, Some(&self.backend), Timestamp(now_ns));
    }

    /// Tables that do not hold, or are about another endpoint list, are ignored as in production.
    pub fn apply_weights(&mut self, now_ns: u64, table: &WeightTable) {
        let table = WeightTable { position: Some(self.number), ..table.clone() };
        self.replace(self.backend.with_weights(&table, Timestamp(now_ns)).ok().flatten());
    }

    /// See [`Self::apply_weights`].
    pub fn apply_classes(&mut self, now_ns: u64, table: &ClassTable) {
        self.replace(self.backend.with_classes(table, Timestamp(now_ns)).ok().flatten());
    }

    /// See [`Self::apply_weights`].
    pub fn apply_errors(&mut self, now_ns: u64, table: &ErrorTable) {
        self.replace(self.backend.with_errors(table, Timestamp(now_ns)).ok().flatten());
    }

    fn replace(&mut self, next: Option<Backend>) {
        if let Some(next) = next {
            self.backend = next;
        }
    }
}

/// Key of an endpoint.
pub(super) const fn key(endpoint: u32) -> EndpointKey {
    EndpointKey(endpoint as u64)
}

/// Whether the controller of a run learns slots.
pub(super) fn learns_slots(scenario: &Scenario, options: &FleetOptions) -> bool {
    options.learns_slots && options.control == Control::Decide && !scenario.telemetry.slots_told
}

/// The backend's configuration while these endpoints are ready.
pub(super) fn config(scenario: &Scenario, options: &FleetOptions, ready: &[bool], generation: u64) -> BackendConfig {
    let endpoint = |number: usize| EndpointConfig {
        key: key(number as u32),
        host: "10.0.0.1".into(),
        port: NonZeroU16::MIN,
        name: String::new(),
        zone: String::new(),
        state: if ready[number] { EndpointState::Ready } else { EndpointState::Draining },
    };
    BackendConfig {
        protocol: trimtab_proxy::config::Protocol::Http1,
        traffic: trimtab_proxy::config::TrafficPolicy::default(),
        name: BACKEND.into(),
        generation,
        endpoints: (0..ready.len()).map(endpoint).map(Arc::new).collect(),
        algorithm: options.algorithm,
        outlier_detection: OutlierDetection { disabled: !options.outlier_detection, ..OutlierDetection::default() },
        admission_control: AdmissionControl { enabled: options.admission, ..AdmissionControl::default() },
        circuit_breaker: CircuitBreaker::default(),
        num_retries: scenario.retries,
        timeouts: BackendTimeouts::default(),
        objective: Some(Duration::from_nanos(scenario.objective_ns)),
        classes: RequestClasses::default(),
        terms: options.terms,
    }
}
