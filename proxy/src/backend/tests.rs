//! Tests of the table's values: what is kept, what is picked, how weights age.

use std::num::{NonZeroU16, NonZeroU32};

use proptest::prelude::*;
use rand::{Rng, SeedableRng, rngs::SmallRng};

use super::*;
use crate::config::{AdmissionControl, BackendTimeouts, CircuitBreaker, OutlierDetection, RequestClasses, RuleTerms};
use crate::outlier::OutlierKind;

const T: Timestamp = Timestamp::from_millis(1_000_000);
const OK: Outcome = Outcome::Success;

fn config(algorithm: Algorithm, keys: impl IntoIterator<Item = u64>) -> BackendConfig {
    let endpoints: Vec<Arc<EndpointConfig>> = keys
        .into_iter()
        .map(|key| EndpointConfig {
            key: EndpointKey(key),
            host: "10.0.0.1".to_owned(),
            port: NonZeroU16::MIN,
            name: format!("web-{key}"),
            zone: String::new(),
            state: EndpointState::Ready,
        })
        .map(Arc::new)
        .collect();
    BackendConfig {
        name: "default/web:80".to_owned(),
        generation: endpoints.iter().fold(1, |generation, endpoint| generation * 31 + endpoint.key.0),
        endpoints,
        protocol: crate::config::Protocol::Http1,
        traffic: crate::config::TrafficPolicy::default(),
        algorithm,
        outlier_detection: OutlierDetection::default(),
        admission_control: AdmissionControl::default(),
        circuit_breaker: CircuitBreaker::default(),
        num_retries: 1,
        timeouts: BackendTimeouts::default(),
        objective: None,
        classes: RequestClasses::default(),
        terms: RuleTerms::default(),
    }
}

fn weights(backend: &Backend, weights: &[f32]) -> WeightTable {
    WeightTable {
        backend: backend.name().to_owned(),
        generation: backend.generation(),
        tick: 7,
        weights: weights.to_vec(),
        adjustments: Vec::new(),
        parameters: RuleParameters { exponent: 1.0, offset: 1.0, ..RuleParameters::LOCAL },
        proxies: NonZeroU32::MIN,
        objective: Some(Duration::from_millis(80)),
        proxy_keys: Vec::new(),
        position: None,
    }
}

fn weighted(algorithm: Algorithm, values: &[f32]) -> Backend {
    let backend = Backend::new(config(algorithm, 0..values.len() as u64), None, T);
    backend.with_weights(&weights(&backend, values), T).unwrap().unwrap()
}

fn effective(backend: &Backend) -> Vec<f32> {
    backend.effective_weights().into_iter().map(|weight| weight.unwrap_or(0.0)).collect()
}

fn ejected(backend: &Backend, key: u64) -> Backend {
    let event = OutlierEvent { endpoint: EndpointKey(key), kind: OutlierKind::Consecutive5xx };
    backend.with_outlier_event(&event, T).unwrap()
}

#[test]
fn loads_and_weights_follow_their_endpoints_through_a_change_of_the_list() {
    let before = weighted(Algorithm::Adaptive, &[3.0, 1.0]);
    let attempt = before.begin(0, T, RequestClass::default());
    let after = Backend::new(config(Algorithm::Adaptive, [5, 1, 0]), Some(&before), T);
    assert_eq!(after.endpoints()[2].load.in_flight(), 1);
    assert_eq!(after.trust(), 1.0);
    // 1.5 and 0.5 are kept, the newcomer is taken for average.
    assert_eq!(effective(&after), [1.0, 0.5, 1.5]);
    before.finish(0, attempt, T, OK, Duration::from_millis(1), None);
    assert_eq!(after.endpoints()[2].load.in_flight(), 0);
}

#[test]
fn tables_about_another_list_are_ignored_and_short_ones_refused() {
    let backend = Backend::new(config(Algorithm::Adaptive, 0..3), None, T);
    let table = weights(&backend, &[1.0, 1.0, 1.0]);
    assert!(backend.with_weights(&WeightTable { generation: 1, ..table.clone() }, T).unwrap().is_none());
    let error = backend.with_weights(&WeightTable { weights: vec![1.0], ..table }, T).unwrap_err();
    assert_eq!(error.field, "weights");
    let errors = |generation, len| ErrorTable { backend: String::new(), generation, errors: vec![0.5; len] };
    assert!(backend.with_errors(&errors(1, 3), T).unwrap().is_none());
    assert_eq!(backend.with_errors(&errors(backend.generation(), 2), T).unwrap_err().field, "errors");
    assert!(backend.with_errors(&errors(backend.generation(), 3), T).unwrap().is_some());
}

#[test]
fn an_adjustment_divides_the_score_and_follows_its_endpoint() {
    let backend = Backend::new(config(Algorithm::Adaptive, 0..2), None, T);
    let table = WeightTable { adjustments: vec![0.25, 2.0], ..weights(&backend, &[1.0, 1.0]) };
    let factor = |backend: &Backend, index| backend.explain(index, RequestClass::default(), T).unwrap().weight_factor;
    let adjusted = backend.with_weights(&table, T).unwrap().unwrap();
    assert_eq!((factor(&adjusted, 0), factor(&adjusted, 1)), (4.0, 0.5));
    let grown = Backend::new(config(Algorithm::Adaptive, [7, 1, 0]), Some(&adjusted), T);
    assert_eq!([0, 1, 2].map(|index| factor(&grown, index)), [1.0, 0.5, 4.0]);
    let short = WeightTable { adjustments: vec![1.0], ..table };
    assert_eq!(backend.with_weights(&short, T).unwrap_err().field, "adjustments");
}

#[test]
fn weights_age_into_the_local_rule() {
    let mut backend = weighted(Algorithm::Adaptive, &[3.0, 1.0]);
    assert!(backend.with_time(T + FULL_TRUST).is_none(), "ten seconds change nothing");
    let mut versions = 0;
    for second in 0..300 {
        if let Some(next) = backend.with_time(T + Duration::from_secs(second)) {
            versions += 1;
            backend = next;
        }
        let trust = (1.0 - (second as f32 - 10.0) / 170.0).clamp(0.0, 1.0);
        assert!((backend.trust() - trust).abs() <= TRUST_STEP + 1e-3, "{second} s");
        let weights = effective(&backend);
        assert!((weights[0] - (1.0 + 0.5 * backend.trust())).abs() < 1e-5);
        let local = RuleParameters::LOCAL.exponent;
        assert!((backend.parameters().exponent - (local + (1.0 - local) * backend.trust())).abs() < 1e-5);
    }
    assert_eq!(effective(&backend), [1.0, 1.0]);
    assert_eq!(*backend.parameters(), RuleParameters::LOCAL);
    assert!((40..=60).contains(&versions), "{versions} tables in three minutes");
    let table = weights(&backend, &[3.0, 1.0]);
    let fresh = backend.with_weights(&table, T + Duration::from_secs(300)).unwrap().unwrap();
    assert_eq!(fresh.trust(), 1.0);
}

#[test]
fn an_ejected_endpoint_is_tried_with_one_request_and_comes_back() {
    let backend = ejected(&Backend::new(config(Algorithm::RoundRobin, 0..4), None, T), 2);
    let mut rng = SmallRng::seed_from_u64(1);
    let mut pick = |backend: &Backend, now| backend.pick(&PickRequest::default(), now, &mut rng).unwrap();
    assert!((0..20).all(|_| pick(&backend, T) != 2));
    assert_eq!(backend.next_deadline(), Some(T + Duration::from_secs(10)));
    let now = T + Duration::from_secs(10);
    let half_open = backend.with_time(now).unwrap();
    assert!(half_open.is_ejected(EndpointKey(2)), "half-open still counts as out");
    assert_eq!(pick(&half_open, now), 2);
    let attempt = half_open.begin(2, now, RequestClass::default());
    assert!((0..20).all(|_| pick(&half_open, now) != 2));
    let event = half_open.finish(2, attempt, now, OK, Duration::from_millis(1), None).unwrap();
    let healthy = half_open.with_outlier_event(&event, now).unwrap();
    assert!((0..8).filter(|_| pick(&healthy, now) == 2).count() == 2);
}

#[test]
fn a_retry_is_never_a_trial() {
    let backend = ejected(&Backend::new(config(Algorithm::LeastRequest, 0..3), None, T), 2);
    let now = T + Duration::from_secs(10);
    let half_open = backend.with_time(now).unwrap();
    let request = PickRequest { exclude: &[EndpointKey(0)], ..Default::default() };
    assert_eq!(half_open.pick(&request, now, &mut SmallRng::seed_from_u64(1)), Some(1));
}

#[test]
fn if_all_that_are_ready_are_out_they_are_used_nevertheless() {
    // Two of four are ejected; then the other two drain.
    let backend = Backend::new(config(Algorithm::Random, 0..4), None, T);
    let backend = ejected(&ejected(&backend, 0), 1);
    let mut draining = config(Algorithm::Random, 0..4);
    Arc::make_mut(&mut draining.endpoints[2]).state = EndpointState::Draining;
    Arc::make_mut(&mut draining.endpoints[3]).state = EndpointState::Draining;
    let backend = Backend::new(draining, Some(&backend), T);
    let picked = backend.pick(&PickRequest::default(), T, &mut SmallRng::seed_from_u64(1));
    assert!(picked.is_some_and(|index| index < 2), "{picked:?}");
}

#[test]
fn with_nothing_to_pick_there_is_no_pick() {
    for (algorithm, _) in Algorithm::SPELLINGS {
        let mut rng = SmallRng::seed_from_u64(1);
        let none = Backend::new(config(algorithm, []), None, T);
        assert_eq!(none.pick(&PickRequest::default(), T, &mut rng), None, "{algorithm}");
        let mut config = config(algorithm, [1]);
        Arc::make_mut(&mut config.endpoints[0]).state = EndpointState::Draining;
        assert_eq!(Backend::new(config, None, T).pick(&PickRequest::default(), T, &mut rng), None, "{algorithm}");
    }
}

#[test]
fn the_derived_objective_counts_where_none_is_set() {
    let derived = weighted(Algorithm::Adaptive, &[1.0, 1.0]);
    assert_eq!(derived.objective(), Some(Duration::from_millis(80)));
    let set = BackendConfig { objective: Some(Duration::from_millis(5)), ..config(Algorithm::Adaptive, 0..2) };
    assert_eq!(Backend::new(set, Some(&derived), T).objective(), Some(Duration::from_millis(5)));
}

#[test]
fn explaining_shows_the_terms_of_the_rule() {
    let backend = weighted(Algorithm::Adaptive, &[3.0, 1.0]);
    let _stays = backend.begin(1, T, RequestClass::default());
    let terms = backend.explain(1, RequestClass(0), T).unwrap();
    assert_eq!((terms.in_flight, terms.count_factor, terms.weight_factor), (1.0, 2.0, 2.0));
    assert!(backend.explain(9, RequestClass(0), T).is_none());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    // Everything that may change a table, in any order, under every algorithm.
    #[test]
    fn what_may_not_be_picked_is_never_picked(
        algorithm in prop::sample::select(Algorithm::SPELLINGS.map(|(algorithm, _)| algorithm).to_vec()),
        endpoints in 1u64..70,
        draining in prop::collection::vec(any::<bool>(), 70),
        events in prop::collection::vec((0u64..70, 0u64..20, any::<bool>()), 0..100),
        seed: u64,
    ) {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut config = config(algorithm, 0..endpoints);
        for (endpoint, draining) in config.endpoints.iter_mut().zip(draining) {
            Arc::make_mut(endpoint).state = if draining { EndpointState::Draining } else { EndpointState::Ready };
        }
        let mut backend = Backend::new(config.clone(), None, T);
        let mut now = T;
        for (endpoint, seconds, failed) in events {
            now = now + Duration::from_secs(seconds);
            backend = backend.with_time(now).unwrap_or(backend);
            let ready = |index: usize| config.endpoints[index].state == EndpointState::Ready;
            let key = |index: usize| config.endpoints[index].key;
            let exclude = [EndpointKey(endpoint)];
            let request = PickRequest { exclude: if failed { &exclude } else { &[] }, ..Default::default() };
            let before: Vec<u32> = backend.endpoints().iter().map(|endpoint| endpoint.load.in_flight()).collect();
            match backend.pick(&request, now, &mut rng) {
                None => prop_assert!((0..endpoints as usize).all(|index| !ready(index) || exclude.contains(&key(index)) || backend.is_ejected(key(index)))),
                Some(index) => {
                    prop_assert!(ready(index));
                    prop_assert!(!request.exclude.contains(&key(index)));
                    let all_out = (0..endpoints as usize).all(|other| !ready(other) || backend.is_ejected(key(other)));
                    let trial = backend.phase(key(index)) == Some(Phase::HalfOpen);
                    prop_assert!(!backend.is_ejected(key(index)) || trial || all_out);
                    let attempt = backend.begin(index, now, RequestClass::default());
                    let outcome = if rng.random_bool(0.7) { Outcome::ServerError } else { OK };
                    if let Some(event) = backend.finish(index, attempt, now, outcome, Duration::from_millis(9), None) {
                        backend = backend.with_outlier_event(&event, now).unwrap_or(backend);
                    }
                    // Whatever the answer, the endpoint is ejected by events alone.
                    let event = OutlierEvent { endpoint: key(index), kind: OutlierKind::Consecutive5xx };
                    if failed {
                        backend = backend.with_outlier_event(&event, now).unwrap_or(backend);
                    }
                }
            }
            let after: Vec<u32> = backend.endpoints().iter().map(|endpoint| endpoint.load.in_flight()).collect();
            prop_assert_eq!(before, after);
        }
    }
}
