//! Observations that could be anything, for property tests.

use proptest::prelude::*;
use trimtab_model::observation::{EndpointKey, EndpointObservation, Measured, Observation, Reported, Scraped};

/// Any number at all: NaN, infinities and absurd magnitudes among ordinary ones.
pub fn number() -> impl Strategy<Value = f64> {
    prop_oneof![
        4 => 0.0..100.0f64,
        1 => Just(0.0),
        1 => Just(f64::NAN),
        1 => Just(f64::INFINITY),
        1 => Just(f64::NEG_INFINITY),
        1 => Just(1e300),
        1 => Just(-5.0),
        1 => any::<f64>(),
    ]
}

fn measured() -> impl Strategy<Value = Option<Measured>> {
    let age = prop_oneof![4 => 0.0..10.0f32, 1 => Just(f32::NAN), 1 => any::<f32>()];
    proptest::option::of((number(), age).prop_map(|(value, age_s)| Measured { value, age_s }))
}

fn reported() -> impl Strategy<Value = Option<Reported>> {
    let count = || prop_oneof![4 => 0..200u64, 1 => Just(0), 1 => Just(u64::MAX)];
    let latency = || proptest::option::of(number());
    let counts = (count(), count(), count(), any::<u32>(), 0..5u32);
    let latencies = (latency(), latency(), latency(), latency());
    let strategy =
        (number(), number(), counts, latencies, number()).prop_map(|(interval_s, mean, counts, l, error)| Reported {
            interval_s,
            age_s: 0.1,
            successes: counts.0,
            errors: counts.1,
            failures: counts.2,
            in_flight_mean: mean,
            in_flight: counts.3,
            latency_ms_mean: l.0,
            latency_ms_p10: l.1,
            latency_ms_p50: l.2,
            latency_ms_p99: l.3,
            ejected_by: counts.4,
            error,
        });
    proptest::option::of(strategy)
}

fn scraped() -> impl Strategy<Value = Scraped> {
    let m = measured;
    (m(), m(), m(), m(), m(), m(), (m(), m(), m(), m(), m())).prop_map(|(a, b, c, d, e, f, g)| Scraped {
        in_flight: a,
        busy: b,
        worker_limit: c,
        completed_rps: d,
        latency_ms_mean: e,
        latency_ms_p99: f,
        cpu_cores: g.0,
        cpu_limit_cores: g.1,
        memory_bytes: g.2,
        memory_limit_bytes: g.3,
        start_time_s: g.4,
    })
}

fn endpoint() -> impl Strategy<Value = EndpointObservation> {
    let age = proptest::option::of(number());
    // Few keys, so that endpoints come, go and come back, and sometimes stand twice in a list.
    (0..12u64, any::<bool>(), age, any::<Option<u32>>(), any::<Option<bool>>(), reported(), scraped()).prop_map(
        |(key, ready, ready_age_s, restarts, zone_match, reported, scraped)| EndpointObservation {
            key: EndpointKey(key),
            ready,
            ready_age_s,
            restarts,
            // As wild as a number of seconds.
            slots: ready_age_s,
            slots_deviation: ready_age_s,
            zone_match,
            reported,
            scraped,
        },
    )
}

/// Any observation.
pub fn observation() -> impl Strategy<Value = Observation> {
    let endpoints = proptest::collection::vec(endpoint(), 0..10);
    let objective = proptest::option::of(number());
    (any::<u64>(), any::<i64>(), number(), any::<u32>(), objective, endpoints).prop_map(
        |(tick, at_ms, interval_s, proxies, objective_ms, endpoints)| Observation {
            backend: "default/web:80".to_owned(),
            tick,
            at_ms,
            interval_s,
            proxies,
            objective_ms,
            endpoints,
        },
    )
}
