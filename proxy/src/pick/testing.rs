//! Pools in a given state, for the tests of the algorithms.

use std::{sync::Arc, time::Duration};

use proptest::prelude::*;
use rand::{SeedableRng, rngs::SmallRng};

use super::{Candidate, Pick, PickRequest, Pool};
use crate::{
    config::{EndpointKey, OutlierDetection},
    load::{EndpointLoad, OrcaLoad, Outcome, RequestClass},
    time::{Coarse, Timestamp},
};

/// All tests look at pools at this instant.
pub const NOW: Timestamp = Timestamp::from_millis(100_000);

/// State of one endpoint.
#[derive(Debug, Clone, Copy)]
pub struct Spec {
    pub in_flight: u32,
    pub latency_ms: Option<u32>,
    pub weight: f32,
    pub error: f32,
    pub reported: Option<u32>,
}

/// An idle endpoint that has not been heard of.
pub const IDLE: Spec = Spec { in_flight: 0, latency_ms: None, weight: 1.0, error: 0.0, reported: None };

/// A pool of endpoints with keys 0, 1, 2, ….
pub fn pool(specs: &[Spec], proxies: f32) -> Pool {
    let keyed: Vec<(u64, Spec)> = specs.iter().enumerate().map(|(key, spec)| (key as u64, *spec)).collect();
    keyed_pool(&keyed, proxies)
}

pub fn keyed_pool(specs: &[(u64, Spec)], proxies: f32) -> Pool {
    let candidate = |(index, (key, spec)): (usize, &(u64, Spec))| Candidate {
        load: load(EndpointKey(*key), spec),
        index: index as u32,
        inverse_weight: 1.0 / spec.weight,
        weight_factor: 1.0 / f64::from(spec.weight),
        pooled_error: spec.error,
        preferred: true,
    };
    Pool {
        candidates: specs.iter().enumerate().map(candidate).collect(),
        proxies,
        errors_at: Some(Coarse::of(NOW)),
        peers: true,
        costs: None,
        shared: Arc::default(),
    }
}

fn load(key: EndpointKey, spec: &Spec) -> Arc<EndpointLoad> {
    let load = EndpointLoad::new(key, NOW);
    let one = |outcome, latency_ms: u32, orca| {
        let attempt = load.begin(NOW, RequestClass::default());
        let latency = Duration::from_millis(latency_ms.into());
        load.finish(attempt, NOW, outcome, latency, orca, &OutlierDetection::default());
    };
    if let Some(latency_ms) = spec.latency_ms {
        one(Outcome::Success, latency_ms, None);
    }
    for _ in 0..spec.in_flight {
        let _stays_in_flight = load.begin(NOW, RequestClass::default());
    }
    if let Some(reported) = spec.reported {
        one(Outcome::Cancelled, 0, Some(OrcaLoad { in_flight: reported }));
    }
    Arc::new(load)
}

/// Endpoints in any state.
pub fn any_specs(len: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Spec>> {
    let spec =
        (0u32..40, prop::option::of(1u32..5_000), 0.01f32..100.0, 0.0f32..=1.0, prop::option::of(0u32..60)).prop_map(
            |(in_flight, latency_ms, weight, error, reported)| Spec { in_flight, latency_ms, weight, error, reported },
        );
    prop::collection::vec(spec, len)
}

/// How often each position is picked in `picks` picks that change nothing.
pub fn histogram(picker: &impl Pick, pool: &Pool, picks: usize) -> Vec<usize> {
    let mut rng = SmallRng::seed_from_u64(11);
    let mut counts = vec![0; pool.candidates.len()];
    for _ in 0..picks {
        counts[picker.pick(pool, &PickRequest::default(), NOW, &mut rng).unwrap()] += 1;
    }
    counts
}

/// Whether counts agree with shares (which sum to 1): each within five standard deviations.
pub fn check_shares(counts: &[usize], shares: &[f64]) {
    let total = counts.iter().sum::<usize>() as f64;
    for (position, (&count, share)) in counts.iter().zip(shares).enumerate() {
        let deviation = (total * share * (1.0 - share)).sqrt().max(1.0);
        let off = (count as f64 - total * share).abs();
        assert!(off <= 5.0 * deviation, "position {position}: {count} of {total}, expected {}", total * share);
    }
}
