//! Turns the live state of a backend into what the controller is told: differences since the previous report. Reading is relaxed loads
//! only; requests do not notice.

use std::{
    collections::HashSet,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use crate::{
    api::v1,
    average::ServiceReading,
    backend::{Backend, BackendState},
    gauge::RequestTime,
    keys::KeyMap,
    load::{CLASSES_MAX, Counters, EndpointLoad, RequestClass},
    pick::costs::Costs,
    sketch::Snapshot,
    time::Timestamp,
};

/// An endpoint whose average is below this has nothing to tell about errors.
const ERROR_MIN: f32 = 1e-3;

/// Remembers what was reported of one backend. Keep one a backend; the first report covers the time from its making.
#[derive(Debug)]
pub struct BackendReporter {
    endpoints: KeyMap<Reported>,
    at: Timestamp,
    shed: u64,
    unroutable: u64,
    within_objective: u64,
    latency: Snapshot,
    errors: KeyMap<Counters>,
    shed_of: [u64; CLASSES_MAX],
}

/// What was reported of one endpoint.
#[derive(Debug)]
struct Reported {
    load: Arc<EndpointLoad>,
    counters: Counters,
    integral: RequestTime,
    sketch: Snapshot,
    service: [ServiceReading; CLASSES_MAX],
}

impl BackendReporter {
    /// From `now` on.
    pub fn new(now: Timestamp) -> Self {
        Self {
            endpoints: KeyMap::default(),
            at: now,
            shed: 0,
            unroutable: 0,
            within_objective: 0,
            latency: Snapshot::default(),
            errors: KeyMap::default(),
            shed_of: [0; CLASSES_MAX],
        }
    }

    /// What happened since the previous report. An endpoint about which there is nothing to tell is left out: it is idle. One that left the list
    /// is reported until its last request is over.
    pub fn report(&mut self, backend: &Backend, now: Timestamp) -> v1::BackendLoad {
        let interval_s = now.since(self.at).as_secs_f64();
        self.at = now;
        let mut endpoints = Vec::new();
        for endpoint in backend.endpoints() {
            let key = endpoint.config.key;
            let reported = self.endpoints.entry(key).or_insert_with(|| Reported::new(&endpoint.load));
            let ejected = backend.is_ejected(key);
            let failing_check = backend.failing(key).unwrap_or_default().to_owned();
            if ejected || !failing_check.is_empty() || !reported.is_idle(now) {
                let classes = reported.classes(backend.costs());
                let delta = reported.delta(now, interval_s);
                endpoints.push(v1::EndpointLoad { ejected, classes, failing_check, ..delta });
            }
        }
        if self.endpoints.len() > backend.endpoints().len() {
            let listed: HashSet<_> = backend.endpoints().iter().map(|endpoint| endpoint.config.key).collect();
            self.endpoints.retain(|key, reported| {
                if listed.contains(key) {
                    return true;
                }
                endpoints.push(reported.delta(now, interval_s));
                reported.load.in_flight() > 0
            });
        }
        let state: &BackendState = backend.state();
        v1::BackendLoad {
            backend: backend.name().to_owned(),
            endpoints,
            shed: since(&mut self.shed, state.shed.load(Relaxed)),
            unroutable: since(&mut self.unroutable, state.unroutable.load(Relaxed)),
            concurrency_limit: backend.concurrency_limit(),
            within_objective: since(&mut self.within_objective, state.within_objective.load(Relaxed)),
            latency: Some((&state.latency.delta(&mut self.latency)).into()),
            candidates: None,
            class_shed: self.class_shed(backend),
        }
    }

    fn class_shed(&mut self, backend: &Backend) -> Vec<v1::ClassShed> {
        let mut classes = Vec::new();
        for (number, before) in self.shed_of.iter_mut().enumerate() {
            let class = RequestClass(number as u8);
            let shed = since(before, backend.shed_of(class));
            if shed > 0 {
                let key = backend.costs().and_then(|costs| costs.key(class)).unwrap_or_default().0;
                classes.push(v1::ClassShed { key, shed });
            }
        }
        classes
    }

    /// Completed requests, and how many of them were 5xx answers or failures, since the previous call (every 50 ms or so): of endpoints
    /// whose error average is not zero here or in the pooled table. `None` if there is nothing to tell.
    pub fn errors(&mut self, backend: &Backend, now: Timestamp) -> Option<v1::BackendErrors> {
        let mut report = v1::BackendErrors { backend: backend.name().to_owned(), ..Default::default() };
        for (index, endpoint) in backend.endpoints().iter().enumerate() {
            let counters = endpoint.load.counters();
            // Remembered for quiet endpoints too, so that the first error is not drowned in all the answers before it.
            let previous = self.errors.insert(endpoint.config.key, counters).unwrap_or_default();
            let failures = (counters.errors + counters.failures).saturating_sub(previous.errors + previous.failures);
            let answers = failures + counters.successes.saturating_sub(previous.successes);
            let averages = endpoint.load.error(now).max(backend.pooled_error(index));
            if failures > 0 || (answers > 0 && averages >= ERROR_MIN) {
                report.keys.push(endpoint.config.key.0);
                report.answers.push(u32::try_from(answers).unwrap_or(u32::MAX));
                report.failures.push(u32::try_from(failures).unwrap_or(u32::MAX));
            }
        }
        if self.errors.len() > backend.endpoints().len() {
            let listed: HashSet<_> = backend.endpoints().iter().map(|endpoint| endpoint.config.key).collect();
            self.errors.retain(|key, _| listed.contains(key));
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
            sketch: Snapshot::default(),
            service: Default::default(),
        }
    }

    /// Whether nothing has happened since the last report: no request was there, and no error is remembered.
    fn is_idle(&self, now: Timestamp) -> bool {
        let (in_flight, integral) = self.load.gauge().read(now);
        in_flight == 0
            && integral.seconds_since(self.integral) == 0.0
            && self.load.counters() == self.counters
            && self.load.error(now) < ERROR_MIN
    }

    /// What is new of each class.
    fn classes(&mut self, costs: Option<&Costs>) -> Vec<v1::ClassLoad> {
        let mut classes = Vec::new();
        for (number, before) in self.service.iter_mut().enumerate() {
            let class = RequestClass(number as u8);
            let reading = self.load.service(class).read();
            let Some((successes, unqueued, cost_ms)) = reading.since(&std::mem::replace(before, reading)) else {
                continue;
            };
            let key = costs.and_then(|costs| costs.key(class)).unwrap_or_default().0;
            classes.push(v1::ClassLoad { key, successes, unqueued, cost_ms });
        }
        classes
    }

    fn delta(&mut self, now: Timestamp, interval_s: f64) -> v1::EndpointLoad {
        let counters = self.load.counters();
        let before = std::mem::replace(&mut self.counters, counters);
        let (in_flight, integral) = self.load.gauge().read(now);
        let request_s = integral.seconds_since(std::mem::replace(&mut self.integral, integral));
        let latency = self.load.sketch.delta(&mut self.sketch);
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
            failing_check: String::new(),
            classes: Vec::new(),
            error: self.load.error(now),
        }
    }
}

/// The difference to a counter's previous value, which is brought up to date.
fn since(previous: &mut u64, value: u64) -> u64 {
    value.saturating_sub(std::mem::replace(previous, value))
}

#[cfg(test)]
mod tests {
    use std::{
        num::{NonZeroU16, NonZeroU32},
        time::Duration,
    };

    use super::*;
    use crate::sketch::Sketch;
    use crate::{
        config::{
            AdmissionControl, Algorithm, BackendConfig, BackendTimeouts, CircuitBreaker, EndpointConfig, EndpointKey,
            EndpointState, ErrorTable, OutlierDetection, RequestClasses, RuleTerms,
        },
        load::{Outcome, RequestClass},
    };

    const fn ms(millis: u64) -> Timestamp {
        Timestamp::from_millis(1_000_000 + millis)
    }

    fn backend(keys: &[u64], previous: Option<&Backend>) -> Backend {
        let endpoint = |&key: &u64| EndpointConfig {
            key: EndpointKey(key),
            host: "10.0.0.1".to_owned(),
            port: NonZeroU16::MIN,
            name: String::new(),
            zone: String::new(),
            state: EndpointState::Ready,
        };
        let config = BackendConfig {
            name: "default/web:80".to_owned(),
            generation: keys.iter().sum(),
            endpoints: keys.iter().map(endpoint).map(Arc::new).collect(),
            protocol: crate::config::Protocol::Http1,
            traffic: crate::config::TrafficPolicy::default(),
            algorithm: Algorithm::Adaptive,
            outlier_detection: OutlierDetection::default(),
            admission_control: AdmissionControl::default(),
            circuit_breaker: CircuitBreaker { max_parallel_requests: Some(1), ..Default::default() },
            num_retries: 1,
            timeouts: BackendTimeouts::default(),
            objective: Some(Duration::from_millis(50)),
            classes: RequestClasses::default(),
            terms: RuleTerms::default(),
        };
        Backend::new(config, previous, ms(0))
    }

    fn send(backend: &Backend, index: usize, from: u64, to: u64, outcome: Outcome) {
        let attempt = backend.begin(index, ms(from), RequestClass::default());
        backend.finish(index, attempt, ms(to), outcome, Duration::from_millis(to - from), None);
    }

    #[test]
    fn a_report_tells_what_happened_since_the_previous_one() {
        let backend = backend(&[1, 2], None);
        let mut reporter = BackendReporter::new(ms(0));
        send(&backend, 0, 0, 40, Outcome::Success);
        send(&backend, 0, 50, 60, Outcome::ServerError);
        send(&backend, 0, 60, 61, Outcome::Failure);
        send(&backend, 0, 70, 80, Outcome::Cancelled);
        let _stays = backend.begin(1, ms(50), RequestClass::default());
        let report = reporter.report(&backend, ms(100));
        let first = &report.endpoints[0];
        assert_eq!((first.successes, first.errors, first.failures, first.cancelled), (1, 1, 1, 1));
        assert_eq!((first.in_flight, first.latency_ms_sum), (0, 40.0));
        assert!((first.in_flight_mean - 0.61).abs() < 1e-3, "{}", first.in_flight_mean);
        assert_eq!(Sketch::try_from(first.latency.as_ref().unwrap()).unwrap().count(), 1);
        assert!((report.endpoints[1].in_flight_mean - 0.5).abs() < 1e-3);
        let report = reporter.report(&backend, ms(200));
        assert_eq!((report.endpoints[0].successes, report.endpoints[0].latency_ms_sum), (0, 0.0));
        assert!(report.endpoints[0].error > 0.0, "what it is told for");
        assert!((report.endpoints[1].in_flight_mean - 1.0).abs() < 1e-3);
        assert_eq!(report.endpoints[1].in_flight, 1);
    }

    #[test]
    fn shed_unroutable_and_good_answers_are_reported_once() {
        let backend = backend(&[1], None);
        let mut reporter = BackendReporter::new(ms(0));
        let good = backend.admit(RequestClass::default()).unwrap();
        assert!(backend.admit(RequestClass::default()).is_err(), "the circuit breaker allows one");
        backend.answered(good, ms(10), Outcome::Success, Duration::from_millis(50), Duration::ZERO);
        let late = backend.admit(RequestClass::default()).unwrap();
        backend.answered(late, ms(10), Outcome::Success, Duration::from_millis(51), Duration::ZERO);
        backend.unroutable();
        let report = reporter.report(&backend, ms(100));
        assert_eq!((report.shed, report.unroutable, report.within_objective), (1, 1, 1));
        assert_eq!(Sketch::try_from(report.latency.as_ref().unwrap()).unwrap().count(), 2);
        assert_eq!(report.concurrency_limit, None, "admission control is off");
        let report = reporter.report(&backend, ms(200));
        assert_eq!((report.shed, report.unroutable, report.within_objective), (0, 0, 0));
    }

    #[test]
    fn an_idle_endpoint_is_reported_while_its_health_check_fails() {
        let mut config = backend(&[1, 2], None).config().clone();
        config.traffic.active = Some(crate::config::health::ActiveHealthCheck {
            probe: crate::config::health::Probe::Tcp,
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            unhealthy_threshold: NonZeroU32::MIN,
            healthy_threshold: NonZeroU32::MIN,
            panic_threshold: 0,
        });
        let well = Backend::new(config, None, ms(0));
        let mut reporter = BackendReporter::new(ms(0));
        assert_eq!(reporter.report(&well, ms(10)).endpoints, []);
        let failing = well.with_check(EndpointKey(2), Some("answered 503"), ms(10)).unwrap();
        let report = reporter.report(&failing, ms(20));
        let told: Vec<_> = report.endpoints.iter().map(|one| (one.key, one.failing_check.as_str())).collect();
        assert_eq!(told, [(2, "answered 503")]);
        let again = failing.with_check(EndpointKey(2), None, ms(20)).unwrap();
        assert_eq!(reporter.report(&again, ms(30)).endpoints, []);
    }

    #[test]
    fn an_endpoint_that_left_is_reported_until_its_last_request_is_over() {
        let before = backend(&[1, 2], None);
        let mut reporter = BackendReporter::new(ms(0));
        reporter.report(&before, ms(10));
        let attempt = before.begin(1, ms(10), RequestClass::default());
        let after = backend(&[1], Some(&before));
        let keys = |report: &v1::BackendLoad| report.endpoints.iter().map(|endpoint| endpoint.key).collect::<Vec<_>>();
        let own = after.begin(0, ms(10), RequestClass::default());
        assert_eq!(keys(&reporter.report(&after, ms(20))), [1, 2]);
        before.finish(1, attempt, ms(25), Outcome::Success, Duration::from_millis(15), None);
        let last = reporter.report(&after, ms(30));
        assert_eq!((keys(&last), last.endpoints[1].successes), (vec![1, 2], 1));
        assert_eq!(keys(&reporter.report(&after, ms(40))), [1]);
        after.finish(0, own, ms(45), Outcome::Success, Duration::from_millis(35), None);
        assert_eq!(keys(&reporter.report(&after, ms(50))), [1], "its last request");
        assert_eq!(keys(&reporter.report(&after, ms(60))), [0; 0], "nothing to tell");
    }

    #[test]
    fn errors_are_told_from_the_first_on_and_answers_while_they_are_remembered() {
        let quiet = backend(&[1, 2], None);
        let mut reporter = BackendReporter::new(ms(0));
        (0..100).for_each(|n| send(&quiet, 0, n, n, Outcome::Success));
        assert_eq!(reporter.errors(&quiet, ms(100)), None);
        send(&quiet, 0, 100, 101, Outcome::ServerError);
        send(&quiet, 0, 100, 101, Outcome::Success);
        send(&quiet, 1, 100, 101, Outcome::Success);
        let report = reporter.errors(&quiet, ms(150)).unwrap();
        assert_eq!((report.keys, report.answers, report.failures), (vec![1], vec![2], vec![1]));
        assert_eq!(reporter.errors(&quiet, ms(200)), None, "nothing new");
        // Another proxy saw endpoint 2 fail: its good answers here count against that.
        let pooled = ErrorTable { backend: String::new(), generation: 3, errors: vec![0.0, 0.5] };
        let pooled = quiet.with_errors(&pooled, ms(200)).unwrap().unwrap();
        send(&pooled, 1, 200, 201, Outcome::Success);
        let report = reporter.errors(&pooled, ms(250)).unwrap();
        assert_eq!((report.keys, report.answers, report.failures), (vec![2], vec![1], vec![0]));
    }
}
