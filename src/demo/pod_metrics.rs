//! What a simulated pod says of itself on `/metrics`, under the names that real services use.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Media type of the text that `encode` writes.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Upper bounds of the duration histogram, seconds: client libraries' usual ones.
const BUCKETS_S: [f64; 12] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0];

type Code = Vec<(&'static str, String)>;

/// Counters and gauges of one pod's process; a restart makes new ones.
#[derive(Debug)]
pub struct PodMetrics {
    registry: Registry,
    /// Requests inside, waiting or served.
    pub in_flight: Gauge,
    /// Workers at work.
    pub busy: Gauge,
    requests: Family<Code, Counter>,
    duration_s: Histogram,
    cpu_s: Counter<f64, AtomicU64>,
}

impl PodMetrics {
    /// Metrics of a process with `workers` workers that started at `start_time` (since the Unix epoch).
    pub fn new(workers: usize, start_time: Duration) -> Self {
        let mut registry = Registry::default();
        let in_flight = Gauge::default();
        registry.register("http_requests_in_flight", "Requests inside, waiting or served", in_flight.clone());
        let busy = Gauge::default();
        registry.register("http_workers_busy", "Workers at work", busy.clone());
        let limit: Gauge = Gauge::default();
        limit.set(i64::try_from(workers).unwrap_or(i64::MAX));
        registry.register("http_workers_limit", "Workers", limit);
        let requests = Family::<Code, Counter>::default();
        registry.register("http_requests", "Answered requests", requests.clone());
        let duration_s = Histogram::new(BUCKETS_S);
        registry.register("http_request_duration_seconds", "From accepted to answered", duration_s.clone());
        let cpu_s = Counter::<f64, AtomicU64>::default();
        registry.register("process_cpu_seconds", "Time that workers were at work", cpu_s.clone());
        let start: Gauge<f64, AtomicU64> = Gauge::default();
        start.set(start_time.as_secs_f64());
        registry.register("process_start_time_seconds", "Start of the process since the Unix epoch", start);
        Self { registry, in_flight, busy, requests, duration_s, cpu_s }
    }

    /// Counts an answer that left after `duration`.
    pub fn answered(&self, status: u16, duration: Duration) {
        self.requests.get_or_create(&vec![("code", status.to_string())]).inc();
        self.duration_s.observe(duration.as_secs_f64());
    }

    /// Counts work done by a worker.
    pub fn worked(&self, duration: Duration) {
        self.cpu_s.inc_by(duration.as_secs_f64());
    }

    /// The text of `/metrics`.
    pub fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::with_capacity(2048);
        text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}
