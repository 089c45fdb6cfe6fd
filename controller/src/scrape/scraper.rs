//! Scrapes every endpoint at its own pace and phase. An endpoint is a small task of its own: a slow or dead one delays nobody.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::Uri;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use trimtab_model::observation::EndpointKey;

use super::fetch::Fetcher;
use super::names::Lexicon;
use super::rates::rates;
use super::{ScrapeError, ScrapeResult};
use crate::clock;
use crate::gateway::{BackendSpec, Config, EndpointSpec, ScrapeSettings};
use crate::keys::KeyMap;

/// Scrapes under way at once: enough for 5,000 pods at 10 ms each within a tick, few enough to bound sockets and memory.
const CONCURRENCY_MAX: usize = 256;
/// No interval below this, whatever is configured.
const INTERVAL_MIN: Duration = Duration::from_millis(100);
/// Scrapes a second that a controller makes at most; with more endpoints than that allows, each is scraped less often. At about 0.1 ms each
/// they take a sixth of a core; 5,000 endpoints are scraped every 3.3 s, within the 5 s after which a number is not believed any more.
pub const SCRAPES_PER_S_MAX: f64 = 1500.0;

/// What is scraped, and how.
#[derive(Debug, Clone)]
struct Target {
    url: Uri,
    interval: Duration,
    lexicon: Arc<Lexicon>,
}

/// The scrapes of one endpoint.
#[derive(Debug)]
struct Running {
    /// As it was when they began, or later where nothing that they depend on was different.
    endpoint: Arc<EndpointSpec>,
    /// Of the configuration that it was part of last.
    round: u64,
    _scrapes: AbortOnDropHandle<()>,
}

/// A backend as it is scraped.
#[derive(Debug)]
struct Scraped {
    spec: Arc<BackendSpec>,
    lexicon: Arc<Lexicon>,
    running: KeyMap<Running>,
    /// Configurations so far.
    round: u64,
}

/// Connections are kept while endpoints are scraped as often as they should be, and not where there are too many for that.
#[derive(Debug, Clone)]
struct Fetchers {
    keeping: Fetcher,
    fresh: Fetcher,
}

/// How many times longer than configured intervals are, shared by all scrapes: it changes with every endpoint that comes or goes.
#[derive(Debug)]
struct Stretch(AtomicU64);

impl Stretch {
    fn get(&self) -> f64 {
        f64::from_bits(self.0.load(Ordering::Relaxed))
    }

    fn set(&self, factor: f64) {
        self.0.store(factor.to_bits(), Ordering::Relaxed);
    }
}

/// Runs the scrapes. Dropping it ends them.
#[derive(Debug)]
pub struct Scraper {
    results: mpsc::Sender<ScrapeResult>,
    fetchers: Fetchers,
    slots: Arc<Semaphore>,
    stretch: Arc<Stretch>,
    backends: HashMap<Arc<str>, Scraped>,
}

impl Scraper {
    /// One that scrapes nothing yet.
    pub fn new(results: mpsc::Sender<ScrapeResult>) -> Self {
        Self {
            results,
            fetchers: Fetchers { keeping: Fetcher::default(), fresh: Fetcher::without_idle() },
            slots: Arc::new(Semaphore::new(CONCURRENCY_MAX)),
            stretch: Arc::new(Stretch(AtomicU64::new(1.0_f64.to_bits()))),
            backends: HashMap::new(),
        }
    }

    /// Scrapes what this configuration says; what has not changed goes on undisturbed.
    pub fn follow(&mut self, config: &Config) {
        let mut before = std::mem::take(&mut self.backends);
        for spec in &config.backends {
            let Some(settings) = &spec.scrape else { continue };
            let held = before.remove_entry(spec.name());
            let (name, mut backend) = held.unwrap_or_else(|| {
                let lexicon = Arc::new(Lexicon::new(&settings.names));
                (spec.name().into(), Scraped { spec: spec.clone(), lexicon, running: KeyMap::default(), round: 0 })
            });
            if !Arc::ptr_eq(&backend.spec, spec) || backend.running.is_empty() {
                self.follow_backend(&name, spec, settings, &mut backend);
            }
            self.backends.insert(name, backend);
        }
        let rate = |backend: &Scraped| {
            let interval = backend.spec.scrape.as_ref().map_or(INTERVAL_MIN, interval_of);
            backend.running.len() as f64 / interval.as_secs_f64()
        };
        let wanted_per_s: f64 = self.backends.values().map(rate).sum();
        self.stretch.set((wanted_per_s / SCRAPES_PER_S_MAX).max(1.0));
    }

    fn follow_backend(
        &self,
        name: &Arc<str>,
        spec: &Arc<BackendSpec>,
        settings: &ScrapeSettings,
        backend: &mut Scraped,
    ) {
        if backend.spec.scrape.as_ref() != Some(settings) {
            backend.lexicon = Arc::new(Lexicon::new(&settings.names));
            backend.running.clear();
        }
        backend.spec = spec.clone();
        backend.round += 1;
        let (running, round, lexicon) = (&mut backend.running, backend.round, &backend.lexicon);
        // Of thousands of endpoints a few are others than before, several times a second: what stays is looked at, and not made anew.
        for endpoint in &spec.endpoints {
            let Some(url) = &endpoint.scrape_url else { continue };
            let same = |running: &&mut Running| {
                Arc::ptr_eq(&running.endpoint, endpoint) || running.endpoint.scrape_url.as_ref() == Some(url)
            };
            if let Some(running) = running.get_mut(&endpoint.key).filter(same) {
                running.endpoint.clone_from(endpoint);
                running.round = round;
                continue;
            }
            let target = Target { url: url.clone(), interval: interval_of(settings), lexicon: lexicon.clone() };
            let scrapes = self.start(name, endpoint.key, target);
            running.insert(endpoint.key, Running { endpoint: endpoint.clone(), round, _scrapes: scrapes });
        }
        running.retain(|_, running| running.round == round);
    }

    fn start(&self, backend: &Arc<str>, key: EndpointKey, target: Target) -> AbortOnDropHandle<()> {
        let scrape = Scrape {
            identity: (backend.clone(), key),
            target,
            results: self.results.clone(),
            fetchers: self.fetchers.clone(),
            slots: self.slots.clone(),
            stretch: self.stretch.clone(),
        };
        AbortOnDropHandle::new(tokio::spawn(scrape.run()))
    }
}

fn now() -> Instant {
    Instant::from_std(clock::now().instant)
}

fn interval_of(settings: &ScrapeSettings) -> Duration {
    settings.interval.max(INTERVAL_MIN)
}

struct Scrape {
    identity: (Arc<str>, EndpointKey),
    target: Target,
    results: mpsc::Sender<ScrapeResult>,
    fetchers: Fetchers,
    slots: Arc<Semaphore>,
    stretch: Arc<Stretch>,
}

impl Scrape {
    async fn run(self) {
        let Target { url, interval, lexicon } = &self.target;
        let phase = self.phase();
        // The first one soon, whatever the pace is: nothing is known of the endpoint before.
        let mut due = now() + interval.mul_f64(phase);
        // From the second on they are spread over the interval as it has become.
        let mut spread = 0.5 + phase;
        let mut counters = None;
        let mut failing = false;
        loop {
            tokio::time::sleep_until(due).await;
            // The semaphore is never closed.
            let Ok(slot) = self.slots.acquire().await else { return };
            let fetcher = if self.stretch.get() > 1.0 { &self.fetchers.fresh } else { &self.fetchers.keeping };
            let read = fetcher.fetch(url, lexicon, *interval).await;
            drop(slot);
            let at = clock::now().instant;
            let (numbers, ignored) = match read {
                Ok(mut readings) => {
                    let ignored = readings.ignored.take();
                    let (numbers, new) = rates(counters.as_ref(), readings, at);
                    counters = Some(new);
                    (Ok(numbers), ignored)
                }
                Err(error) => (Err(error), None),
            };
            self.log(&mut failing, numbers.as_ref().err());
            let (backend, key) = self.identity.clone();
            if self.results.send(ScrapeResult { backend, key, at, numbers, ignored }).await.is_err() {
                return;
            }
            let period = interval.mul_f64(self.stretch.get());
            due += period.mul_f64(spread);
            spread = 1.0;
            // What was missed is not made up for.
            let late = now().saturating_duration_since(due);
            due += period.mul_f64((late.as_secs_f64() / period.as_secs_f64()).ceil());
        }
    }

    /// A share of the interval, spread evenly over endpoints and the same for one endpoint every time.
    fn phase(&self) -> f64 {
        let mut hasher = DefaultHasher::new();
        self.identity.hash(&mut hasher);
        (hasher.finish() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A line when it starts to fail and one when it works again: not two a second.
    fn log(&self, failing: &mut bool, error: Option<&ScrapeError>) {
        let (backend, url) = (&*self.identity.0, &self.target.url);
        match error {
            Some(error) if !*failing => tracing::info!(backend, %url, %error, "endpoint cannot be scraped"),
            None if *failing => tracing::info!(backend, %url, "endpoint can be scraped again"),
            _ => {}
        }
        *failing = error.is_some();
    }
}

#[cfg(test)]
#[path = "scraper_tests.rs"]
mod tests;
