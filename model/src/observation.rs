//! What the controller knows at one tick about one backend (one port of a Service) and its endpoints (its pods).
//!
//! Numbers that may be late carry their age; numbers that may be missing are `Option`. Nothing here is derived:
//! features are made from an `Observation` in `features`, the same way in production, in simulation and from
//! recordings.

use serde::{Deserialize, Serialize};

/// Identity of an endpoint that outlives its address: derived from the pod's UID, or from `host:port` without one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct EndpointKey(pub u64);

/// A number and how old it was when the observation was made.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// The number, in the unit that its field names.
    pub value: f64,
    /// Seconds since it was measured; never negative.
    pub age_s: f32,
}

/// Everything known of one backend at one tick.
#[derive(Debug, Clone, PartialEq)]
pub struct Observation {
    /// `namespace/service:port`.
    pub backend: String,
    /// Counts up by one a tick.
    pub tick: u64,
    /// When the observation was made, milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// Time since the previous observation of this backend.
    pub interval_s: f64,
    /// Proxies that reported a load for this backend lately (at least 1).
    pub proxies: u32,
    /// The latency objective, if one is set or has been derived.
    pub objective_ms: Option<f64>,
    /// The endpoints, in the order of the backend's endpoint list.
    pub endpoints: Vec<EndpointObservation>,
}

/// Everything known of one endpoint at one tick.
#[derive(Debug, Clone, PartialEq)]
pub struct EndpointObservation {
    /// Which endpoint.
    pub key: EndpointKey,
    /// Whether it may get new requests at all (ready and not draining).
    pub ready: bool,
    /// Seconds since it became ready, where known.
    pub ready_age_s: Option<f64>,
    /// Container restarts, where known.
    pub restarts: Option<u32>,
    /// Whether it is in the same zone as the proxies, where known.
    pub zone_match: Option<bool>,
    /// Requests that it serves at once, as [learned](crate::slots) from how long they took; `None` where that has not been told apart.
    pub slots: Option<f64>,
    /// How sure that is: the standard deviation of its logarithm. `None` where it is only what is usual among the others.
    pub slots_deviation: Option<f64>,
    /// What the proxies saw, summed over all of them; `None` if none reported since the previous tick.
    pub reported: Option<Reported>,
    /// What the pod says of itself.
    pub scraped: Scraped,
}

/// What all proxies together saw of one endpoint during the interval.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Reported {
    /// Length of time that the counts cover, in seconds.
    pub interval_s: f64,
    /// Age of the oldest of the reports that were summed.
    pub age_s: f32,
    /// Completed answers below 500.
    pub successes: u64,
    /// 5xx answers.
    pub errors: u64,
    /// Requests that never got an answer (connect failure, reset, time-out).
    pub failures: u64,
    /// Time-weighted mean of requests in flight, all proxies together.
    pub in_flight_mean: f64,
    /// In flight at the end of the interval.
    pub in_flight: u32,
    /// Mean latency of answers; `None` without any.
    pub latency_ms_mean: Option<f64>,
    /// 10th percentile: near the service time without queueing.
    pub latency_ms_p10: Option<f64>,
    /// Median.
    pub latency_ms_p50: Option<f64>,
    /// 99th percentile.
    pub latency_ms_p99: Option<f64>,
    /// Proxies that have ejected it.
    pub ejected_by: u32,
    /// Soft error average pooled over the proxies, 0..=1.
    pub error: f64,
}

/// What a pod's own metrics say. Counters have been turned into rates by the scraper; a counter that went backwards
/// (a restart) yields `None` for one scrape.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Scraped {
    /// Requests inside the pod, waiting or served.
    pub in_flight: Option<Measured>,
    /// Requests being served (busy workers), where the pod tells them apart from those that wait.
    pub busy: Option<Measured>,
    /// Requests it can serve at once.
    pub worker_limit: Option<Measured>,
    /// Completed requests per second, from all clients.
    pub completed_rps: Option<Measured>,
    /// Mean duration of the requests completed lately, as the pod saw them.
    pub latency_ms_mean: Option<Measured>,
    /// 99th percentile of the same, from the histogram's buckets.
    pub latency_ms_p99: Option<Measured>,
    /// CPU used, in cores.
    pub cpu_cores: Option<Measured>,
    /// CPU limit, in cores.
    pub cpu_limit_cores: Option<Measured>,
    /// Resident memory.
    pub memory_bytes: Option<Measured>,
    /// Memory limit.
    pub memory_limit_bytes: Option<Measured>,
    /// When the process started, seconds since the Unix epoch.
    pub start_time_s: Option<Measured>,
}

impl Scraped {
    /// Age of the freshest number that a live pod keeps changing, in seconds; infinite where the age is no number;
    /// `None` where the pod has told none.
    pub fn age_s(&self) -> Option<f32> {
        [self.in_flight, self.busy, self.completed_rps, self.latency_ms_mean, self.cpu_cores, self.memory_bytes]
            .into_iter()
            .flatten()
            .map(|measured| if measured.age_s.is_nan() { f32::INFINITY } else { measured.age_s.max(0.0) })
            .min_by(f32::total_cmp)
    }
}
