//! Backends with requests in flight, for the tests of the exchange.

use std::{num::NonZeroU16, sync::Arc};

use super::Subject;
use crate::{
    backend::Backend,
    config::{
        AdmissionControl, Algorithm, BackendConfig, BackendTimeouts, CircuitBreaker, EndpointConfig, EndpointKey,
        EndpointState, MacKey, OutlierDetection, RequestClasses, RuleTerms,
    },
    load::{Outcome, RequestClass},
    time::Timestamp,
};

/// When the tests begin.
pub const START: Timestamp = Timestamp::from_millis(1_000_000);
/// The key of their datagrams.
pub const KEY: MacKey = MacKey([5; 32]);

/// An adaptive backend of so many endpoints.
pub fn subject(name: &str, generation: u64, endpoints: u64) -> Subject {
    let endpoint = |key| EndpointConfig {
        key: EndpointKey(key),
        host: "10.0.0.1".to_owned(),
        port: NonZeroU16::MIN,
        name: String::new(),
        zone: String::new(),
        state: EndpointState::Ready,
    };
    let config = BackendConfig {
        name: name.to_owned(),
        generation,
        endpoints: (0..endpoints).map(endpoint).map(Arc::new).collect(),
        protocol: crate::config::Protocol::Http1,
        traffic: crate::config::TrafficPolicy::default(),
        algorithm: Algorithm::Adaptive,
        outlier_detection: OutlierDetection::default(),
        admission_control: AdmissionControl::default(),
        circuit_breaker: CircuitBreaker::default(),
        num_retries: 1,
        timeouts: BackendTimeouts::default(),
        objective: None,
        classes: RequestClasses::default(),
        terms: RuleTerms::default(),
    };
    Subject::of(&Arc::new(Backend::new(config, None, START))).expect("it is adaptive")
}

/// One more request of this class in flight at an endpoint, for ever.
pub fn begin(subject: &Subject, endpoint: usize, class: u8) {
    let _for_ever = subject.backend.begin(endpoint, START, RequestClass(class));
}

/// A request that comes and goes.
pub fn pass(subject: &Subject, endpoint: usize, class: u8) {
    let attempt = subject.backend.begin(endpoint, START, RequestClass(class));
    subject.backend.finish(endpoint, attempt, START, Outcome::Success, std::time::Duration::ZERO, None);
}
