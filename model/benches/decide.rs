//! How long a tick's pure part takes: `cargo bench -p trimtab-model`. The whole tick for 5,000 endpoints has 10 ms on
//! one core; half of it is `decide`'s.

use divan::Bencher;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use trimtab_model::decision::Mode;
use trimtab_model::features::Features;
use trimtab_model::observation::{EndpointKey, EndpointObservation, Measured, Observation, Reported, Scraped};
use trimtab_model::recording::{TickRow, to_batch};
use trimtab_model::{GuardConfig, Memory, Policy, decide};

const SIZES: [usize; 3] = [12, 200, 5_000];

fn main() {
    divan::main();
}

/// A backend of this many unequal pods that tell everything.
fn observation(count: usize, tick: u64, rng: &mut StdRng) -> Observation {
    let endpoint = |index: usize, rng: &mut StdRng| {
        let mut told = |value: f64| Some(Measured { value: value * rng.random_range(0.8..1.2), age_s: 0.2 });
        let speed = [10.0, 20.0, 40.0][index % 3];
        EndpointObservation {
            // Keys are hashes: in no order.
            key: EndpointKey((index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            ready: true,
            ready_age_s: Some(500.0),
            restarts: Some(0),
            zone_match: Some(index.is_multiple_of(2)),
            slots: None,
            slots_deviation: None,
            scraped: Scraped {
                in_flight: told(4.0),
                busy: told(3.0),
                worker_limit: Some(Measured { value: 4.0, age_s: 0.2 }),
                completed_rps: told(3.0 * speed),
                latency_ms_mean: told(30.0),
                latency_ms_p99: told(90.0),
                cpu_cores: told(0.5),
                cpu_limit_cores: told(1.0),
                memory_bytes: told(1e8),
                memory_limit_bytes: told(2e8),
                start_time_s: told(1.7e9),
            },
            reported: Some(Reported {
                interval_s: 0.5,
                age_s: 0.1,
                successes: (1.5 * speed) as u64,
                in_flight_mean: rng.random_range(2.0..5.0),
                in_flight: 4,
                latency_ms_mean: Some(rng.random_range(20.0..40.0)),
                latency_ms_p10: Some(rng.random_range(5.0..10.0)),
                latency_ms_p50: Some(rng.random_range(20.0..30.0)),
                latency_ms_p99: Some(rng.random_range(60.0..120.0)),
                ..Reported::default()
            }),
        }
    };
    Observation {
        backend: "default/web:80".to_owned(),
        tick,
        at_ms: 500 * tick as i64,
        interval_s: 0.5,
        proxies: 4,
        objective_ms: Some(100.0),
        endpoints: (0..count).map(|index| endpoint(index, rng)).collect(),
    }
}

/// An observation and the memory of the ticks before it.
fn running(count: usize, policy: &Policy) -> (Observation, Memory, StdRng) {
    let mut rng = StdRng::seed_from_u64(1);
    let mut memory = Memory::default();
    for tick in 0..8 {
        let observation = observation(count, tick, &mut rng);
        memory = decide(&observation, &memory, policy, &GuardConfig::default(), Mode::Active, &mut rng).1;
    }
    (observation(count, 8, &mut rng), memory, rng)
}

#[divan::bench(args = SIZES)]
fn features(bencher: Bencher<'_, '_>, count: usize) {
    let (observation, memory, _) = running(count, &Policy::prior_only());
    bencher.bench_local(|| Features::of(&observation, &memory));
}

#[divan::bench(args = SIZES)]
fn network(bencher: Bencher<'_, '_>, count: usize) {
    let policy = Policy::shipped().expect("the shipped checkpoint loads");
    let (observation, memory, mut rng) = running(count, &policy);
    let features = Features::of(&observation, &memory);
    bencher.bench_local(|| policy.propose(&features, &mut rng).expect("the network runs"));
}

#[divan::bench(args = SIZES)]
fn whole_decide(bencher: Bencher<'_, '_>, count: usize) {
    let policy = Policy::shipped().expect("the shipped checkpoint loads");
    let (observation, memory, mut rng) = running(count, &policy);
    let guard = GuardConfig::default();
    bencher.bench_local(|| decide(&observation, &memory, &policy, &guard, Mode::Active, &mut rng));
}

#[divan::bench(args = SIZES)]
fn record(bencher: Bencher<'_, '_>, count: usize) {
    let policy = Policy::prior_only();
    let (observation, memory, mut rng) = running(count, &policy);
    let (decision, _) = decide(&observation, &memory, &policy, &GuardConfig::default(), Mode::Active, &mut rng);
    bencher.bench_local(|| {
        to_batch(&TickRow::of(&observation, &decision, |_| "pod".to_owned())).expect("rows make a batch")
    });
}
