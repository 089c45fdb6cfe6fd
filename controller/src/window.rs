//! What people see of the last seconds of a backend: counts and latencies over two half-windows, the present one and the one before,
//! so that a figure covers 2.5 to 5 s and an endpoint costs two sketches and not ten.

use std::time::{Duration, Instant};

use trimtab_model::observation::EndpointKey;
use trimtab_proxy::api::v1;
use trimtab_proxy::sketch::Sketch;

use crate::clock::Now;
use crate::keys::KeyMap;
use crate::loads::{Summed, merge};

/// Length of a half-window.
const HALF: Duration = Duration::from_millis(2500);

/// Counts of one thing over a half-window.
#[derive(Debug, Clone, Default)]
struct Counts {
    good: u64,
    failed: u64,
    within_objective: u64,
    shed: u64,
    latency: Sketch,
}

#[derive(Debug, Default)]
struct Halves {
    before: Counts,
    now: Counts,
}

/// The window of a backend and its endpoints.
#[derive(Debug)]
pub struct Window {
    /// Start of the half before, and of the present one.
    starts: [Instant; 2],
    backend: Halves,
    endpoints: KeyMap<Halves>,
    concurrency_limit: Option<f64>,
}

/// Figures over the window.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Figures {
    /// Completed requests (good and failed) per second.
    pub rps: f64,
    /// Answers within the objective per second.
    pub goodput_rps: f64,
    /// Shed requests per second.
    pub shed_rps: f64,
    /// Share of failed requests, 0..=1.
    pub error_share: f64,
    /// Median.
    pub latency_ms_p50: Option<f64>,
    /// 99th percentile.
    pub latency_ms_p99: Option<f64>,
}

impl Window {
    /// An empty one.
    pub fn new(now: Now) -> Self {
        Self {
            starts: [now.instant; 2],
            backend: Halves::default(),
            endpoints: KeyMap::default(),
            concurrency_limit: None,
        }
    }

    /// Forgets endpoints that are gone.
    pub fn retain(&mut self, known: impl Fn(EndpointKey) -> bool) {
        self.endpoints.retain(|key, _| known(*key));
    }

    /// Takes in the latencies of a proxy's report as it comes, of the endpoints that are `known`.
    pub fn latencies(&mut self, load: &v1::BackendLoad, known: impl Fn(EndpointKey) -> bool) {
        if let Some(latency) = &load.latency {
            merge(&mut self.backend.now.latency, latency);
        }
        for endpoint in load.endpoints.iter().filter(|endpoint| known(EndpointKey(endpoint.key))) {
            if let Some(latency) = &endpoint.latency {
                merge(&mut self.endpoints.entry(EndpointKey(endpoint.key)).or_default().now.latency, latency);
            }
        }
    }

    /// Takes in the counts that a tick summed up.
    pub fn add(&mut self, summed: &Summed, now: Now) {
        let backend = &mut self.backend.now;
        backend.within_objective += summed.totals.within_objective;
        backend.shed += summed.totals.shed;
        for (key, sum) in &summed.endpoints {
            let counts = &mut self.endpoints.entry(*key).or_default().now;
            let (good, failed) = (sum.reported.successes, sum.reported.errors.saturating_add(sum.reported.failures));
            counts.good += good;
            counts.failed += failed;
            backend.good += good;
            backend.failed += failed;
        }
        if summed.proxies > 0 {
            self.concurrency_limit = summed.totals.concurrency_limit;
        }
        // What a tick sums up happened before it: a half ends with the counts of the tick that ends it.
        if now.instant.saturating_duration_since(self.starts[1]) >= HALF {
            self.starts = [self.starts[1], now.instant];
            self.backend.turn();
            self.endpoints.values_mut().for_each(Halves::turn);
        }
    }

    /// Admission control's limit, summed over proxies, as last reported.
    pub fn concurrency_limit(&self) -> Option<f64> {
        self.concurrency_limit
    }

    /// Figures of the backend.
    pub fn backend(&self, now: Now) -> Figures {
        self.backend.figures(now.since_s(self.starts[0]))
    }

    /// Figures of an endpoint.
    pub fn endpoint(&self, key: EndpointKey, now: Now) -> Figures {
        self.endpoints.get(&key).map(|halves| halves.figures(now.since_s(self.starts[0]))).unwrap_or_default()
    }
}

impl Halves {
    fn turn(&mut self) {
        std::mem::swap(&mut self.before, &mut self.now);
        let mut latency = std::mem::take(&mut self.now.latency);
        latency.clear();
        self.now = Counts { latency, ..Counts::default() };
    }

    fn figures(&self, seconds: f64) -> Figures {
        let sum = |number: fn(&Counts) -> u64| (number(&self.before) + number(&self.now)) as f64;
        let (good, failed) = (sum(|c| c.good), sum(|c| c.failed));
        let mut latency = self.before.latency.clone();
        latency.merge(&self.now.latency);
        let quantiles = latency.quantiles_ms([0.5, 0.99]);
        let per_s = |count: f64| if seconds > 0.0 { count / seconds } else { 0.0 };
        Figures {
            rps: per_s(good + failed),
            goodput_rps: per_s(sum(|c| c.within_objective)),
            shed_rps: per_s(sum(|c| c.shed)),
            error_share: if good + failed > 0.0 { failed / (good + failed) } else { 0.0 },
            latency_ms_p50: quantiles.map(|[p50, _]| p50),
            latency_ms_p99: quantiles.map(|[_, p99]| p99),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loads::Loads;

    /// A tick every 500 ms in which one endpoint answers 50 requests, one of them badly, in this many milliseconds.
    fn tick(window: &mut Window, ms: u64, now: Now) {
        let mut latency = Sketch::new();
        (0..50).for_each(|_| latency.record(Duration::from_millis(ms)));
        let latency = Some(v1::LatencySketch::from(&latency));
        let endpoint =
            v1::EndpointLoad { key: 1, successes: 49, errors: 1, latency: latency.clone(), ..Default::default() };
        let load = v1::BackendLoad { endpoints: vec![endpoint], within_objective: 40, latency, ..Default::default() };
        let mut loads = Loads::default();
        loads.add(&"p".into(), 500.0, &load, |_| true, now);
        window.latencies(&load, |_| true);
        window.add(&loads.take([].into_iter(), now), now);
    }

    #[test]
    fn figures_cover_the_last_seconds_and_no_more() {
        let start = crate::clock::now();
        let mut window = Window::new(start);
        let mut now = start;
        for ms in [[100; 12], [10; 12]].concat() {
            now = now.plus(Duration::from_millis(500));
            tick(&mut window, ms, now);
        }
        let figures = window.backend(now);
        assert!((figures.rps - 100.0).abs() < 1e-6, "{figures:?}");
        assert!((figures.goodput_rps / figures.rps - 0.8).abs() < 1e-9);
        assert!((figures.error_share - 0.02).abs() < 1e-9);
        assert!(figures.latency_ms_p99.unwrap() < 12.0, "{figures:?}");
        assert_eq!(window.endpoint(EndpointKey(1), now).rps, figures.rps);
        assert_eq!(window.endpoint(EndpointKey(2), now), Figures::default());
    }
}
