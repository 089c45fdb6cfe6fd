//! What a pick costs, for every algorithm and from 4 to 5,000 endpoints, and what it costs to count a request in and out.
//!
//! Figures to hold: Trimtab's rule takes at most 1 µs up to 32 endpoints and 2 µs at 5,000 (`cargo bench --workspace --bench pick`).

use std::{
    fmt,
    num::{NonZeroU16, NonZeroU32},
    sync::Arc,
    time::Duration,
};

use divan::{Bencher, black_box};
use rand::{Rng, SeedableRng, rngs::SmallRng};
use trimtab_proxy::{
    backend::Backend,
    config::{
        AdmissionControl, Algorithm, BackendConfig, BackendTimeouts, CircuitBreaker, ClassCost, ClassKey, ClassTable,
        EndpointConfig, EndpointKey, EndpointState, OutlierDetection, RequestClasses, RuleParameters, RuleTerms,
        WeightTable,
    },
    load::{OrcaLoad, Outcome, RequestClass},
    pick::PickRequest,
    time::Timestamp,
};

fn main() {
    divan::main();
}

const NOW: Timestamp = Timestamp::from_millis(10_000);
const SIZES: [usize; 5] = [4, 12, 32, 200, 5_000];
/// Exponents that the rule computes by multiplication.
const WHOLE: RuleParameters = RuleParameters {
    exponent: 3.0,
    offset: 1.0,
    latency_exponent: 1.0,
    latency_reference_ms: 20.0,
    error_exponent: 12.0,
    ..RuleParameters::LOCAL
};
/// Exponents that it cannot: the slow case.
const FRACTIONAL: RuleParameters = RuleParameters { exponent: 2.7, latency_exponent: 0.6, ..WHOLE };

/// A backend in the middle of its work: every endpoint has answered, most have requests in flight, half report their own count, some fail.
fn backend(algorithm: Algorithm, endpoints: usize, parameters: RuleParameters) -> Backend {
    let mut rng = SmallRng::seed_from_u64(7);
    let config = BackendConfig {
        protocol: trimtab_proxy::config::Protocol::Http1,
        traffic: trimtab_proxy::config::TrafficPolicy::default(),
        name: "default/web:80".to_owned(),
        generation: 1,
        endpoints: (0..endpoints)
            .map(|n| EndpointConfig {
                key: EndpointKey(n as u64),
                host: "10.0.0.1".to_owned(),
                port: NonZeroU16::MIN,
                name: format!("web-{n}"),
                zone: String::new(),
                state: EndpointState::Ready,
            })
            .map(Arc::new)
            .collect(),
        algorithm,
        outlier_detection: OutlierDetection { disabled: true, ..Default::default() },
        admission_control: AdmissionControl { enabled: true, ..Default::default() },
        circuit_breaker: CircuitBreaker::default(),
        num_retries: 1,
        timeouts: BackendTimeouts::default(),
        objective: Some(Duration::from_millis(150)),
        classes: RequestClasses::default(),
        terms: RuleTerms::default(),
    };
    let table = WeightTable {
        backend: "default/web:80".to_owned(),
        generation: 1,
        tick: 1,
        weights: (0..endpoints).map(|_| rng.random_range(0.2..5.0)).collect(),
        parameters,
        proxies: NonZeroU32::MIN.saturating_add(3),
        objective: None,
        adjustments: Vec::new(),
        proxy_keys: Vec::new(),
        position: None,
    };
    let backend = Backend::new(config, None, NOW);
    let backend = backend.with_weights(&table, NOW).ok().flatten().unwrap_or(backend);
    for index in 0..endpoints {
        for _ in 0..3 {
            let attempt = backend.begin(index, NOW, RequestClass::default());
            let outcome = if rng.random_bool(0.02) { Outcome::ServerError } else { Outcome::Success };
            let latency = Duration::from_micros(rng.random_range(1_000..100_000));
            let orca = index.is_multiple_of(2).then(|| OrcaLoad { in_flight: rng.random_range(0..8) });
            backend.finish(index, attempt, NOW, outcome, latency, orca);
        }
        for _ in 0..rng.random_range(0..4) {
            let _in_flight_for_ever = backend.begin(index, NOW, RequestClass::default());
        }
    }
    backend
}

/// An algorithm at a size, printed as the benchmark's name.
struct Case(&'static str, Algorithm, usize, RuleParameters);

impl fmt::Display for Case {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:22} {:5}", self.0, self.2)
    }
}

fn cases() -> Vec<Case> {
    let algorithms = Algorithm::SPELLINGS.iter().map(|&(algorithm, name)| (name, algorithm, WHOLE));
    let fractional = [("trimtab, fractional", Algorithm::Adaptive, FRACTIONAL)];
    fractional
        .into_iter()
        .chain(algorithms)
        .flat_map(|(name, algorithm, parameters)| SIZES.map(|size| Case(name, algorithm, size, parameters)))
        .collect()
}

#[divan::bench(args = cases(), min_time = 0.05)]
fn pick(bencher: Bencher<'_, '_>, Case(_, algorithm, size, parameters): &Case) {
    let backend = backend(*algorithm, *size, *parameters);
    let mut rng = SmallRng::seed_from_u64(1);
    bencher.bench_local(move || black_box(&backend).pick(&PickRequest::default(), NOW, &mut rng));
}

/// Trimtab's rule in full: eight classes with factors at every endpoint, slots, and what peers have in flight.
#[divan::bench(args = [8, 32, 200, 5_000], min_time = 0.05)]
fn pick_by_class(bencher: Bencher<'_, '_>, size: usize) {
    let mut rng = SmallRng::seed_from_u64(2);
    let parameters = RuleParameters {
        exponent: 1.0,
        offset: 1.0,
        latency_exponent: 1.0,
        weight_exponent: 0.15,
        work_share: 0.05,
        ..RuleParameters::LOCAL
    };
    let class = |number: u8| ClassCost {
        key: ClassKey(number.into()),
        number,
        name: format!("GET /{number}"),
        cost_ms: 2f32.powi(number.into()),
        share: 0.125,
        priority: 0.0,
    };
    let table = ClassTable {
        backend: "default/web:80".to_owned(),
        generation: 1,
        classes: (1..=8).map(class).collect(),
        other_cost_ms: 10.0,
        factors: (0..9 * size).map(|_| rng.random_range(0.3..3.0)).collect(),
        slots: vec![2.0; size],
    };
    let backend = backend(Algorithm::Adaptive, size, parameters);
    let backend = backend.with_classes(&table, NOW).ok().flatten().unwrap_or(backend);
    for index in 0..size {
        for _ in 0..rng.random_range(0..4) {
            let _in_flight_for_ever = backend.begin(index, NOW, RequestClass(rng.random_range(1..=8)));
        }
        let peers = std::array::from_fn(|class| u16::from((1..=8).contains(&class) && rng.random_bool(0.3)));
        backend.endpoints()[index].load.heard_from_peers(NOW, &peers);
    }
    let request = PickRequest { class: RequestClass(3), ..PickRequest::default() };
    bencher.bench_local(move || black_box(&backend).pick(&request, NOW, &mut rng));
}

/// Counting one request in and out of an endpoint: averages, counters, histogram.
#[divan::bench(min_time = 0.05)]
fn begin_and_finish(bencher: Bencher<'_, '_>) {
    let backend = backend(Algorithm::Adaptive, 12, WHOLE);
    let mut millis = 10_000;
    bencher.bench_local(move || {
        millis += 1;
        let now = Timestamp::from_millis(millis);
        let attempt = backend.begin(3, now, RequestClass::default());
        backend.finish(3, attempt, now, Outcome::Success, Duration::from_millis(millis % 64), None)
    });
}

/// Admission control of one client request, in and out.
#[divan::bench(min_time = 0.05)]
fn admit_and_answer(bencher: Bencher<'_, '_>) {
    let backend = backend(Algorithm::Adaptive, 12, WHOLE);
    let mut millis = 10_000;
    bencher.bench_local(move || {
        millis += 1;
        if let Ok(admitted) = backend.admit(RequestClass::default()) {
            let now = Timestamp::from_millis(millis);
            backend.answered(admitted, now, Outcome::Success, Duration::from_millis(millis % 64), Duration::ZERO);
        }
    });
}

/// Making the next table from new weights: once a tick, on the table's owner task.
#[divan::bench(args = [32, 5_000], min_time = 0.05)]
fn with_weights(bencher: Bencher<'_, '_>, size: usize) {
    let backend = backend(Algorithm::Adaptive, size, WHOLE);
    let table = WeightTable {
        backend: backend.name().to_owned(),
        generation: 1,
        tick: 2,
        weights: (1..=size).map(|n| n as f32).collect(),
        parameters: WHOLE,
        proxies: NonZeroU32::MIN,
        objective: None,
        adjustments: Vec::new(),
        proxy_keys: Vec::new(),
        position: None,
    };
    bencher.bench_local(move || backend.with_weights(&table, NOW));
}
