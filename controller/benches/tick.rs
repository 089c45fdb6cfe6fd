//! What a tick costs: observe → decide → encode for a backend with 5,000 endpoints. The goal is 10 ms on one core.

use std::sync::Arc;
use std::time::Duration;

use divan::Bencher;
use prost::Message;
use rand::SeedableRng;
use rand::rngs::StdRng;
use trimtab_controller::clock::{self, Now};
use trimtab_controller::gateway::{BackendSpec, EndpointSpec, GuardrailSettings};
use trimtab_controller::policy::Algorithm;
use trimtab_controller::scrape::{Numbers, ScrapeState, Stamped};
use trimtab_controller::tick::{Backend, Deciders};
use trimtab_model::Policy;
use trimtab_model::decision::Mode;
use trimtab_model::observation::EndpointKey;
use trimtab_proxy::api::v1;

const ENDPOINTS: u64 = 5000;

fn main() {
    divan::main();
}

fn spec() -> BackendSpec {
    let endpoint = |index: u64| EndpointSpec {
        key: EndpointKey(index.wrapping_mul(0x9E37_79B9_7F4A_7C15)),
        name: format!("pod-{index}"),
        address: format!("10.{}.{}.{}:80", index / 65_536, index / 256 % 256, index % 256),
        ready: true,
        draining: false,
        zone: None,
        scrape_url: None,
        ready_since_ms: None,
        restarts: None,
    };
    BackendSpec {
        resource: v1::Backend { name: "shop/cart:80".into(), ..Default::default() },
        endpoints: (0..ENDPOINTS).map(endpoint).map(Arc::new).collect(),
        algorithm: Algorithm::Trimtab,
        mode: Mode::Active,
        model: None,
        guardrails: GuardrailSettings::default(),
        scrape: None,
        replicas: None,
    }
}

/// What one of `proxies` proxies reports of all endpoints: 10 requests each, at a pace of its own.
fn load(spec: &BackendSpec, proxy: u64) -> v1::BackendLoad {
    let endpoints = spec.endpoints.iter().enumerate().map(|(index, endpoint)| {
        let pace = (index as u64 + proxy) % 4;
        let buckets: Vec<u32> = (0..6).map(|step| 90 + 8 * pace as u32 + 3 * step).collect();
        v1::EndpointLoad {
            key: endpoint.key.0,
            in_flight_mean: 1.0 + pace as f32,
            in_flight: 1 + pace as u32,
            successes: 10,
            latency_ms_sum: 100.0 * (1.0 + pace as f32),
            latency: Some(v1::LatencySketch { counts: vec![2; buckets.len()], buckets }),
            ..Default::default()
        }
    });
    v1::BackendLoad { backend: spec.name().to_owned(), endpoints: endpoints.collect(), ..Default::default() }
}

fn scraped(backend: &mut Backend, now: Now) {
    for (index, endpoint) in backend.spec.endpoints.iter().enumerate() {
        let number = |value: f64| Some(Stamped { value, at: now.instant });
        let numbers = Numbers {
            in_flight: number(4.0 + (index % 4) as f64),
            busy: number(3.0),
            worker_limit: number(8.0),
            completed_rps: number(100.0 / (1.0 + (index % 4) as f64)),
            cpu_cores: number(0.8),
            ..Default::default()
        };
        let state = ScrapeState { numbers, succeeded_at: Some(now.instant), error: None };
        backend.scrapes.insert(endpoint.key, state);
    }
}

#[divan::bench(args = [1, 4], sample_count = 40, sample_size = 1)]
fn observe_decide_encode_5000_endpoints(bencher: Bencher<'_, '_>, proxies: u64) {
    let policy = Policy::shipped().expect("the shipped policy");
    let mut rng = StdRng::seed_from_u64(1);
    let mut now = clock::now();
    let mut backend = Backend::new(Arc::new(spec()), now);
    let ids: Vec<Arc<str>> = (0..proxies).map(|proxy| format!("proxy-{proxy}").into()).collect();
    let loads: Vec<v1::BackendLoad> = (0..proxies).map(|proxy| load(&backend.spec, proxy)).collect();
    let mut tick = 0;
    // Taking in reports happens between ticks and is not measured here; a sample is one tick.
    let backend = std::cell::RefCell::new(&mut backend);
    bencher
        .with_inputs(|| {
            tick += 1;
            now = now.plus(Duration::from_millis(500));
            let backend = &mut *backend.borrow_mut();
            for (id, load) in ids.iter().zip(&loads) {
                backend.reported(id, 500.0, load, now);
            }
            scraped(backend, now);
            (tick, now)
        })
        .bench_local_values(|(tick, now)| {
            let table = backend.borrow_mut().tick(tick, &Deciders::only(&policy), &mut rng, now);
            divan::black_box(table.encode_to_vec())
        });
}
