//! Scrapes every endpoint at its own pace and phase. An endpoint is a small task of its own: a slow or dead one delays nobody.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::MissedTickBehavior;
use tokio_util::task::AbortOnDropHandle;
use trimtab_model::observation::EndpointKey;

use super::fetch::Fetcher;
use super::names::Lexicon;
use super::rates::rates;
use super::{ScrapeError, ScrapeResult};
use crate::clock;
use crate::gateway::Config;

/// Scrapes under way at once: enough for 5,000 pods at 10 ms each within a tick, few enough to bound sockets and memory.
const CONCURRENCY_MAX: usize = 256;
/// No interval below this, whatever is configured.
const INTERVAL_MIN: Duration = Duration::from_millis(100);

/// What is scraped, and how.
#[derive(Debug, Clone, PartialEq)]
struct Target {
    url: Uri,
    interval: Duration,
    lexicon: Arc<Lexicon>,
}

type Identity = (Arc<str>, EndpointKey);

/// Runs the scrapes. Dropping it ends them.
#[derive(Debug)]
pub struct Scraper {
    results: mpsc::Sender<ScrapeResult>,
    fetcher: Fetcher,
    slots: Arc<Semaphore>,
    running: HashMap<Identity, (Target, AbortOnDropHandle<()>)>,
}

impl Scraper {
    /// One that scrapes nothing yet.
    pub fn new(results: mpsc::Sender<ScrapeResult>) -> Self {
        Self {
            results,
            fetcher: Fetcher::default(),
            slots: Arc::new(Semaphore::new(CONCURRENCY_MAX)),
            running: HashMap::new(),
        }
    }

    /// Scrapes what this configuration says; what has not changed goes on undisturbed.
    pub fn follow(&mut self, config: &Config) {
        let mut wanted = HashMap::new();
        for spec in &config.backends {
            let Some(settings) = &spec.scrape else { continue };
            let lexicon = Arc::new(Lexicon::new(&settings.names));
            let backend: Arc<str> = spec.name().into();
            for endpoint in &spec.endpoints {
                let Some(url) = endpoint.scrape_url.clone() else { continue };
                let interval = settings.interval.max(INTERVAL_MIN);
                let target = Target { url, interval, lexicon: lexicon.clone() };
                wanted.insert((backend.clone(), endpoint.key), target);
            }
        }
        self.running.retain(|identity, (target, _)| wanted.get(identity) == Some(target));
        for (identity, target) in wanted {
            if !self.running.contains_key(&identity) {
                let scrape = Scrape {
                    identity: identity.clone(),
                    target: target.clone(),
                    results: self.results.clone(),
                    fetcher: self.fetcher.clone(),
                    slots: self.slots.clone(),
                };
                let task = AbortOnDropHandle::new(tokio::spawn(scrape.run()));
                self.running.insert(identity, (target, task));
            }
        }
    }
}

struct Scrape {
    identity: Identity,
    target: Target,
    results: mpsc::Sender<ScrapeResult>,
    fetcher: Fetcher,
    slots: Arc<Semaphore>,
}

impl Scrape {
    async fn run(self) {
        let Target { url, interval, lexicon } = &self.target;
        tokio::time::sleep(self.phase()).await;
        let mut due = tokio::time::interval(*interval);
        due.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut counters = None;
        let mut failing = false;
        loop {
            due.tick().await;
            // The semaphore is never closed.
            let Ok(slot) = self.slots.acquire().await else { return };
            let read = self.fetcher.fetch(url, lexicon, *interval).await;
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
        }
    }

    /// A part of the interval, spread evenly over endpoints and the same for one endpoint every time.
    fn phase(&self) -> Duration {
        let mut hasher = DefaultHasher::new();
        self.identity.hash(&mut hasher);
        self.target.interval.mul_f64((hasher.finish() >> 11) as f64 / (1u64 << 53) as f64)
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
