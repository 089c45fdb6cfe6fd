//! Observation to features: what the policy sees. The same function runs in production, in simulation and over
//! recordings.
//!
//! Every feature is one row of a table: its name (which checkpoints carry), unit, range, meaning, and how it is read.
//! Ratios are logarithms against the backend's mean, so that a policy trained on pods of 20 requests/s also knows pods
//! of 2,000; what is not known is 0 in ratios (like the mean) and raised in a flag. Whatever comes in, each number is
//! finite and within its range. Rows are computed alike from the row's own endpoint and the means, so reordering
//! endpoints reorders rows.

use ndarray::{Array1, Array2};

use crate::memory::{EndpointMemory, Memory};
use crate::numbers::{STALE_S, fresh, sane};
use crate::observation::{EndpointObservation, Observation};
use crate::prior::Prior;

/// One column of the features.
#[derive(Debug, Clone, Copy)]
pub struct FeatureSpec<F> {
    /// Name; part of the checkpoint's schema.
    pub name: &'static str,
    /// Unit.
    pub unit: &'static str,
    /// Smallest value.
    pub low: f32,
    /// Largest value.
    pub high: f32,
    /// What it says.
    pub doc: &'static str,
    of: F,
}

/// A feature of one endpoint.
pub type EndpointFeature = FeatureSpec<fn(&Sight<'_>) -> f64>;
/// A feature of the backend as a whole.
pub type ContextFeature = FeatureSpec<fn(&Fleet) -> f64>;

/// Widest log-ratio: a factor of 55 either way; beyond, more is no longer different.
const LOG: f32 = 4.0;

/// The features of an endpoint, in the order of the columns.
pub const FEATURES: &[EndpointFeature] = &[
    EndpointFeature {
        name: "rate_ratio",
        unit: "ln",
        low: -LOG,
        high: LOG,
        doc: "completed requests per second ÷ mean of the endpoints",
        of: |s| ratio(s.rps, s.fleet.rps_mean, 0.1),
    },
    EndpointFeature {
        name: "in_flight_ratio",
        unit: "ln",
        low: -LOG,
        high: LOG,
        doc: "mean in flight, all proxies together ÷ mean of the endpoints",
        of: |s| ratio(s.in_flight, s.fleet.in_flight_mean, 0.5),
    },
    EndpointFeature {
        name: "capacity_ratio",
        unit: "ln",
        low: -LOG,
        high: LOG,
        doc: "Little's-law capacity ÷ that of the median endpoint",
        of: |s| s.log_capacity,
    },
    EndpointFeature {
        name: "capacity_confidence",
        unit: "share",
        low: 0.0,
        high: 1.0,
        doc: "how much the endpoint's own evidence counts in its capacity, against the median of the others",
        of: |s| s.memory.speed.confidence(),
    },
    EndpointFeature {
        name: "capacity_trend",
        unit: "ln",
        low: -LOG,
        high: LOG,
        doc: "completions of the last samples ÷ what the capacity estimate expected: below 0 it is slowing down",
        of: |s| s.memory.speed.trend(),
    },
    EndpointFeature {
        name: "utilisation",
        unit: "share",
        low: 0.0,
        high: 2.0,
        doc: "completed requests per second ÷ capacity; 0 where the capacity is not known",
        of: |s| s.rps.zip(s.capacity_rps).map_or(0.0, |(rps, capacity)| rps / capacity.max(1e-6)),
    },
    EndpointFeature {
        name: "queue",
        unit: "ln(1 + ratio)",
        low: 0.0,
        high: LOG,
        doc: "in flight ÷ worker limit; 0 where the limit is not known",
        of: |s| s.in_flight.zip(s.worker_limit).map_or(0.0, |(n, limit)| (n / limit).ln_1p()),
    },
    EndpointFeature {
        name: "worker_limit_ratio",
        unit: "ln",
        low: -LOG,
        high: LOG,
        doc: "worker limit ÷ mean of the endpoints",
        of: |s| ratio(s.worker_limit, s.fleet.worker_limit_mean, 0.0),
    },
    EndpointFeature {
        name: "latency_mean_ratio",
        unit: "ln",
        low: -LOG,
        high: LOG,
        doc: "mean latency ÷ mean of the endpoints",
        of: |s| ratio(s.latency_ms_mean, s.fleet.latency_ms_mean, 0.1),
    },
    EndpointFeature {
        name: "latency_p99_ratio",
        unit: "ln",
        low: -LOG,
        high: LOG,
        doc: "99th percentile of latency ÷ mean of the endpoints' percentiles",
        of: |s| ratio(s.latency_ms_p99, s.fleet.latency_ms_p99, 0.1),
    },
    EndpointFeature {
        name: "latency_tail",
        unit: "ln",
        low: 0.0,
        high: LOG,
        doc: "99th percentile ÷ mean of the endpoint's own latency",
        of: |s| ratio(s.latency_ms_p99, s.latency_ms_mean, 0.1),
    },
    EndpointFeature {
        name: "latency_objective",
        unit: "ln",
        low: -LOG,
        high: LOG,
        doc: "99th percentile ÷ the latency objective; 0 without one",
        of: |s| ratio(s.latency_ms_p99, s.fleet.objective_ms, 0.1),
    },
    EndpointFeature {
        name: "error_fast",
        unit: "share",
        low: 0.0,
        high: 1.0,
        doc: "share of answers that failed, over about 2 s",
        of: |s| s.memory.error_fast,
    },
    EndpointFeature {
        name: "error_slow",
        unit: "share",
        low: 0.0,
        high: 1.0,
        doc: "share of answers that failed, over about 30 s",
        of: |s| s.memory.error_slow,
    },
    EndpointFeature {
        name: "error_pooled",
        unit: "share",
        low: 0.0,
        high: 1.0,
        doc: "the proxies' soft error average, which the pick rule multiplies in",
        of: |s| s.endpoint.reported.map_or(0.0, |reported| reported.error),
    },
    EndpointFeature {
        name: "ejected",
        unit: "share",
        low: 0.0,
        high: 1.0,
        doc: "share of the proxies that have ejected it",
        of: |s| s.endpoint.reported.map_or(0.0, |r| f64::from(r.ejected_by) / s.fleet.proxies),
    },
    EndpointFeature {
        name: "cpu",
        unit: "share",
        low: 0.0,
        high: 2.0,
        doc: "CPU used ÷ CPU limit; 0 where either is not known",
        of: |s| share(fresh(s.endpoint.scraped.cpu_cores), fresh(s.endpoint.scraped.cpu_limit_cores)),
    },
    EndpointFeature {
        name: "memory",
        unit: "share",
        low: 0.0,
        high: 1.0,
        doc: "resident memory ÷ memory limit; 0 where either is not known",
        of: |s| share(fresh(s.endpoint.scraped.memory_bytes), fresh(s.endpoint.scraped.memory_limit_bytes)),
    },
    EndpointFeature {
        name: "restarts",
        unit: "ln(1 + count)",
        low: 0.0,
        high: LOG,
        doc: "container restarts",
        of: |s| f64::from(s.endpoint.restarts.unwrap_or(0)).ln_1p(),
    },
    EndpointFeature {
        name: "ready_age",
        unit: "ln(1 + s)",
        low: 0.0,
        high: 8.0,
        doc: "time since it became ready; up to 50 minutes, after which a pod is simply old",
        of: |s| s.memory.ready_age_s(s.endpoint).min(1e6).ln_1p(),
    },
    EndpointFeature {
        name: "ready",
        unit: "flag",
        low: 0.0,
        high: 1.0,
        doc: "1 where it may get requests",
        of: |s| flag(s.endpoint.ready),
    },
    EndpointFeature {
        name: "zone_match",
        unit: "-1, 0, 1",
        low: -1.0,
        high: 1.0,
        doc: "1 in the proxies' zone, -1 in another, 0 unknown",
        of: |s| s.endpoint.zone_match.map_or(0.0, |same| if same { 1.0 } else { -1.0 }),
    },
    EndpointFeature {
        name: "metric_age",
        unit: "ln(1 + s)",
        low: 0.0,
        high: LOG,
        doc: "age of the pod's own metrics; the largest where it has none",
        of: |s| s.scraped_age_s.map_or(f64::from(LOG), |age_s| f64::from(age_s).ln_1p()),
    },
    EndpointFeature {
        name: "scraped_missing",
        unit: "flag",
        low: 0.0,
        high: 1.0,
        doc: "1 where the pod's own metrics are missing or stale",
        of: |s| flag(!s.scraped_age_s.is_some_and(|age_s| age_s <= STALE_S)),
    },
    EndpointFeature {
        name: "reported_missing",
        unit: "flag",
        low: 0.0,
        high: 1.0,
        doc: "1 where no proxy reported on it",
        of: |s| flag(s.endpoint.reported.is_none()),
    },
];

/// The features of the backend, in the order of the columns; they join the pooled encodings of the endpoints.
pub const CONTEXT: &[ContextFeature] = &[
    ContextFeature {
        name: "endpoints",
        unit: "ln(count)",
        low: 0.0,
        high: 10.0,
        doc: "endpoints of the backend",
        of: |f| f.endpoints.max(1.0).ln(),
    },
    ContextFeature {
        name: "proxies",
        unit: "ln(count)",
        low: 0.0,
        high: 8.0,
        doc: "proxies that send to it",
        of: |f| f.proxies.ln(),
    },
    ContextFeature {
        name: "ready_share",
        unit: "share",
        low: 0.0,
        high: 1.0,
        doc: "share of the endpoints that are ready",
        of: |f| f.ready_share,
    },
    ContextFeature {
        name: "load",
        unit: "share",
        low: 0.0,
        high: 2.0,
        doc: "completed requests per second ÷ capacity, over the endpoints whose capacity is known",
        of: |f| f.load,
    },
    ContextFeature {
        name: "in_flight",
        unit: "ln(1 + count)",
        low: 0.0,
        high: 8.0,
        doc: "mean in flight an endpoint",
        of: |f| f.in_flight_mean.unwrap_or(0.0).ln_1p(),
    },
    ContextFeature {
        name: "capacity_spread",
        unit: "ln",
        low: 0.0,
        high: LOG,
        doc: "standard deviation of the log capacities",
        of: |f| f.capacity_spread,
    },
    ContextFeature {
        name: "latency_objective",
        unit: "ln",
        low: -LOG,
        high: LOG,
        doc: "mean of the endpoints' 99th percentiles ÷ the objective; 0 without one",
        of: |f| ratio(f.latency_ms_p99, f.objective_ms, 0.1),
    },
    ContextFeature {
        name: "error",
        unit: "share",
        low: 0.0,
        high: 1.0,
        doc: "mean of the endpoints' fast error averages",
        of: |f| f.error_mean,
    },
];

/// What the policy sees of one backend at one tick.
#[derive(Debug, Clone, PartialEq)]
pub struct Features {
    /// `[endpoints, FEATURES.len()]`, in the order of the observation.
    pub endpoints: Array2<f32>,
    /// `[CONTEXT.len()]`.
    pub context: Array1<f32>,
}

impl Features {
    /// The features of an observation that follows on `previous`; what `decide` makes on its way.
    pub fn of(observation: &Observation, previous: &Memory) -> Self {
        let memories = previous.fold(observation);
        let prior = Prior::new(&memories);
        Self::new(observation, &memories, &prior)
    }

    /// Makes the features of an observation; `memories` and `prior` are those after it was taken in.
    pub(crate) fn new(observation: &Observation, memories: &[EndpointMemory], prior: &Prior) -> Self {
        let mut sights: Vec<Sight<'_>> = observation
            .endpoints
            .iter()
            .zip(memories)
            .enumerate()
            .map(|(index, (endpoint, memory))| {
                Sight::new(endpoint, memory, prior.log_capacity[index], prior.capacity_rps[index])
            })
            .collect();
        let fleet = Fleet::new(observation, &sights);
        for sight in &mut sights {
            sight.fleet = fleet;
        }
        let mut values = Vec::with_capacity(sights.len() * FEATURES.len());
        for sight in &sights {
            values.extend(FEATURES.iter().map(|feature| clip((feature.of)(sight), feature.low, feature.high)));
        }
        let endpoints = Array2::from_shape_vec((sights.len(), FEATURES.len()), values)
            .unwrap_or_else(|_| Array2::zeros((sights.len(), FEATURES.len())));
        let context = CONTEXT.iter().map(|feature| clip((feature.of)(&fleet), feature.low, feature.high)).collect();
        Self { endpoints, context }
    }
}

/// One endpoint's numbers, cleaned, beside those of the whole backend.
#[derive(Debug, Clone, Copy)]
pub struct Sight<'a> {
    endpoint: &'a EndpointObservation,
    memory: &'a EndpointMemory,
    fleet: Fleet,
    log_capacity: f64,
    capacity_rps: Option<f64>,
    rps: Option<f64>,
    in_flight: Option<f64>,
    worker_limit: Option<f64>,
    latency_ms_mean: Option<f64>,
    latency_ms_p99: Option<f64>,
    scraped_age_s: Option<f32>,
}

impl<'a> Sight<'a> {
    fn new(
        endpoint: &'a EndpointObservation,
        memory: &'a EndpointMemory,
        log_capacity: f64,
        capacity_rps: Option<f64>,
    ) -> Self {
        let scraped = &endpoint.scraped;
        let reported = endpoint.reported;
        // What the proxies saw comes first: it is averaged over the interval, where a pod's gauges are one look at it.
        let reported_rps = reported.and_then(|r| {
            let completed = r.successes as f64 + r.errors as f64;
            sane(completed / r.interval_s)
        });
        Self {
            endpoint,
            memory,
            fleet: Fleet::default(),
            log_capacity,
            capacity_rps,
            rps: reported_rps.or(fresh(scraped.completed_rps)),
            in_flight: reported.and_then(|r| sane(r.in_flight_mean)).or(fresh(scraped.in_flight)),
            worker_limit: memory.speed.worker_limit(),
            latency_ms_mean: reported.and_then(|r| r.latency_ms_mean.and_then(sane)).or(fresh(scraped.latency_ms_mean)),
            latency_ms_p99: reported.and_then(|r| r.latency_ms_p99.and_then(sane)).or(fresh(scraped.latency_ms_p99)),
            scraped_age_s: endpoint.scraped.age_s(),
        }
    }
}

/// Means over a backend's endpoints.
#[derive(Debug, Clone, Copy, Default)]
pub struct Fleet {
    endpoints: f64,
    proxies: f64,
    ready_share: f64,
    load: f64,
    rps_mean: Option<f64>,
    in_flight_mean: Option<f64>,
    worker_limit_mean: Option<f64>,
    latency_ms_mean: Option<f64>,
    latency_ms_p99: Option<f64>,
    objective_ms: Option<f64>,
    capacity_spread: f64,
    error_mean: f64,
}

impl Fleet {
    fn new(observation: &Observation, sights: &[Sight<'_>]) -> Self {
        let mean = |of: fn(&Sight<'_>) -> Option<f64>| {
            let (sum, count) = sights.iter().filter_map(of).fold((0.0, 0.0), |(sum, count), x| (sum + x, count + 1.0));
            (count > 0.0).then(|| sum / count)
        };
        let (rps, capacity) = sights
            .iter()
            .filter_map(|s| Some((s.rps?, s.capacity_rps?)))
            .fold((0.0, 0.0), |(rps, capacity), (r, c)| (rps + r, capacity + c));
        let capacity_mean = mean(|s| Some(s.log_capacity)).unwrap_or(0.0);
        let square = mean(|s| Some(s.log_capacity * s.log_capacity)).unwrap_or(0.0);
        Self {
            endpoints: sights.len() as f64,
            proxies: f64::from(observation.proxies.max(1)),
            ready_share: mean(|s| Some(flag(s.endpoint.ready))).unwrap_or(0.0),
            load: if capacity > 0.0 { rps / capacity } else { 0.0 },
            rps_mean: mean(|s| s.rps),
            in_flight_mean: mean(|s| s.in_flight),
            worker_limit_mean: mean(|s| s.worker_limit),
            latency_ms_mean: mean(|s| s.latency_ms_mean),
            latency_ms_p99: mean(|s| s.latency_ms_p99),
            objective_ms: observation.objective_ms.and_then(sane).filter(|&ms| ms > 0.0),
            capacity_spread: (square - capacity_mean * capacity_mean).max(0.0).sqrt(),
            error_mean: mean(|s| Some(s.memory.error_fast)).unwrap_or(0.0),
        }
    }
}

/// ln(x ÷ reference), with `soft` added to both so that small counts are not far apart; 0 where either is not known.
fn ratio(x: Option<f64>, reference: Option<f64>, soft: f64) -> f64 {
    match (x, reference) {
        (Some(x), Some(reference)) => ((x + soft) / (reference + soft)).ln(),
        _ => 0.0,
    }
}

fn share(used: Option<f64>, limit: Option<f64>) -> f64 {
    match (used, limit) {
        (Some(used), Some(limit)) if limit > 0.0 => used / limit,
        _ => 0.0,
    }
}

fn flag(on: bool) -> f64 {
    if on { 1.0 } else { 0.0 }
}

fn clip(value: f64, low: f32, high: f32) -> f32 {
    // 0/0 of two zero means: no difference.
    let value = if value.is_nan() { 0.0 } else { value };
    (value as f32).clamp(low, high)
}
