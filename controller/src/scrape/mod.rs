//! Scraping: what pods say of themselves in Prometheus text over HTTP, turned into the few numbers that the control loop uses.
//!
//! `names` knows which series mean what; `text` finds them in a body as it streams in; `rates` turns counters into rates; `fetch` gets a
//! body within bounds of time and size; `scraper` does it for every endpoint, at its own phase.

mod fetch;
mod names;
mod rates;
mod scraper;
mod text;

use std::sync::Arc;
use std::time::Instant;

use trimtab_model::observation::EndpointKey;

pub use fetch::{Fetcher, ScrapeError};
pub use names::Lexicon;
pub use rates::{Counters, rates};
pub use scraper::Scraper;
pub use text::{Reader, Readings, TextError};

/// A number and when it was measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stamped {
    /// In the unit of the field that holds it.
    pub value: f64,
    /// When.
    pub at: Instant,
}

/// What one endpoint's metrics said last, each number with the time of the scrape that had it.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Numbers {
    /// Requests inside, waiting or served.
    pub in_flight: Option<Stamped>,
    /// Requests being served.
    pub busy: Option<Stamped>,
    /// Requests that can be served at once.
    pub worker_limit: Option<Stamped>,
    /// Completed requests per second.
    pub completed_rps: Option<Stamped>,
    /// Mean duration of the requests completed between the last two scrapes.
    pub latency_ms_mean: Option<Stamped>,
    /// 99th percentile of the same.
    pub latency_ms_p99: Option<Stamped>,
    /// CPU used, in cores.
    pub cpu_cores: Option<Stamped>,
    /// CPU limit, in cores.
    pub cpu_limit_cores: Option<Stamped>,
    /// Resident memory.
    pub memory_bytes: Option<Stamped>,
    /// Memory limit.
    pub memory_limit_bytes: Option<Stamped>,
    /// Start of the process, seconds since the Unix epoch.
    pub start_time_s: Option<Stamped>,
}

impl Numbers {
    /// Takes over what a newer scrape found; what it did not find keeps its value and ages.
    pub fn update(&mut self, newer: &Self) {
        let pairs = [
            (&mut self.in_flight, newer.in_flight),
            (&mut self.busy, newer.busy),
            (&mut self.worker_limit, newer.worker_limit),
            (&mut self.completed_rps, newer.completed_rps),
            (&mut self.latency_ms_mean, newer.latency_ms_mean),
            (&mut self.latency_ms_p99, newer.latency_ms_p99),
            (&mut self.cpu_cores, newer.cpu_cores),
            (&mut self.cpu_limit_cores, newer.cpu_limit_cores),
            (&mut self.memory_bytes, newer.memory_bytes),
            (&mut self.memory_limit_bytes, newer.memory_limit_bytes),
            (&mut self.start_time_s, newer.start_time_s),
        ];
        for (held, newer) in pairs {
            *held = newer.or(*held);
        }
    }
}

/// What came of one scrape of one endpoint.
#[derive(Debug)]
pub struct ScrapeResult {
    /// The backend.
    pub backend: Arc<str>,
    /// The endpoint.
    pub key: EndpointKey,
    /// When the answer came, or when it was given up.
    pub at: Instant,
    /// What it said, or why it could not be had.
    pub numbers: Result<Numbers, ScrapeError>,
    /// A number that was found but is no use, and why.
    pub ignored: Option<String>,
}

/// What is known of one endpoint's metrics.
#[derive(Debug, Clone, Default)]
pub struct ScrapeState {
    /// The numbers.
    pub numbers: Numbers,
    /// When it was last scraped with success.
    pub succeeded_at: Option<Instant>,
    /// Why the last scrape failed, or what it had to leave out.
    pub error: Option<String>,
}

impl ScrapeState {
    /// Takes in a result.
    pub fn take_in(&mut self, result: ScrapeResult) {
        match result.numbers {
            Ok(numbers) => {
                self.numbers.update(&numbers);
                self.succeeded_at = Some(result.at);
                self.error = result.ignored;
            }
            Err(error) => self.error = Some(error.to_string()),
        }
    }
}
