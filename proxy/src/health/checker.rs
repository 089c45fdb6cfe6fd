//! Asks all endpoints that are to be asked, each in a task of its own, on one thread of the process: what it costs does not touch requests. What
//! changed goes to the keeper of the table.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use arc_swap::ArcSwap;
use rand::{Rng, SeedableRng, rngs::SmallRng};
use tokio::{
    runtime::LocalOptions,
    sync::{Semaphore, mpsc, oneshot},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use super::{Checked, Streak, probe};
use crate::{
    backend::BackendState,
    change::Change,
    clock,
    config::{EndpointKey, EndpointState, health::ActiveHealthCheck},
    keeper::Update,
    table::{Table, Target},
};

/// How often the table is looked at for endpoints that came or went.
const LOOK: Duration = Duration::from_millis(100);
/// Checks under way at a time: a backend of thousands must not take all descriptors.
const AT_ONCE: usize = 256;
/// Checks are moved by up to this share of the interval, so that those of many proxies do not fall together.
const JITTER: f64 = 0.1;
/// An endpoint that is new to this proxy is asked for the first time within this, or an interval if that is shorter.
const FIRST_MAX: Duration = Duration::from_secs(1);

/// The task's state.
#[derive(Debug)]
pub struct Checker {
    table: Arc<ArcSwap<Table>>,
    updates: mpsc::Sender<Update>,
    rng: SmallRng,
    asked: HashMap<(usize, EndpointKey), Asked>,
    slots: Arc<Semaphore>,
}

/// An endpoint that is being asked.
#[derive(Debug)]
struct Asked {
    target: Arc<Target>,
    how: Arc<ActiveHealthCheck>,
    task: JoinHandle<()>,
    seen: bool,
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Checker {
    /// For the endpoints of `table`; what changes goes to `updates`.
    pub fn new(table: Arc<ArcSwap<Table>>, updates: mpsc::Sender<Update>, seed: u64) -> Self {
        let slots = Arc::new(Semaphore::new(AT_ONCE));
        Self { table, updates, rng: SmallRng::seed_from_u64(seed), asked: HashMap::new(), slots }
    }

    /// Asks, on this thread, until `stop`.
    ///
    /// # Errors
    /// If the runtime cannot be made.
    pub fn run(mut self, stop: &CancellationToken) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
        runtime.block_on(async {
            let mut looks = tokio::time::interval(LOOK);
            looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            let mut version = None;
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    _ = looks.tick() => {
                        let table = self.table.load_full();
                        if version.replace(table.version) != Some(table.version) {
                            self.follow(&table);
                        }
                    }
                }
            }
        });
        Ok(())
    }

    /// Makes those that are asked those that the table wants asked.
    fn follow(&mut self, table: &Table) {
        self.asked.values_mut().for_each(|asked| asked.seen = false);
        for entry in &table.backends {
            let backend = &entry.backend;
            let Some(how) = &backend.config().traffic.active else { continue };
            let mut shared: Option<Arc<ActiveHealthCheck>> = None;
            for (endpoint, target) in backend.endpoints().iter().zip(entry.targets.iter()) {
                if endpoint.config.state == EndpointState::Draining {
                    continue;
                }
                let key = (Arc::as_ptr(backend.state()) as usize, endpoint.config.key);
                if let Some(asked) = self.asked.get_mut(&key)
                    && Arc::ptr_eq(&asked.target, target)
                    && *asked.how == *how
                {
                    asked.seen = true;
                    continue;
                }
                let how = shared.get_or_insert_with(|| Arc::new(how.clone())).clone();
                let one = One {
                    state: backend.state().clone(),
                    backend: backend.name().to_owned(),
                    endpoint: endpoint.config.key,
                    target: target.clone(),
                    how: how.clone(),
                    updates: self.updates.clone(),
                    slots: self.slots.clone(),
                    rng: SmallRng::from_rng(&mut self.rng),
                };
                let task = tokio::task::spawn_local(one.run());
                self.asked.insert(key, Asked { target: target.clone(), how, task, seen: true });
            }
        }
        self.asked.retain(|_, asked| asked.seen);
    }
}

/// One endpoint.
struct One {
    /// Held, so that no other backend is taken for this one.
    state: Arc<BackendState>,
    backend: String,
    endpoint: EndpointKey,
    target: Arc<Target>,
    how: Arc<ActiveHealthCheck>,
    updates: mpsc::Sender<Update>,
    slots: Arc<Semaphore>,
    rng: SmallRng,
}

impl One {
    async fn run(mut self) {
        let mut streak = Streak::default();
        let mut said: Option<Option<String>> = None;
        let mut next = clock::now() + self.how.interval.min(FIRST_MAX).mul_f64(self.rng.random());
        loop {
            tokio::time::sleep_until(clock::instant(next)).await;
            let Ok(slot) = self.slots.acquire().await else { return };
            let result = tokio::time::timeout(self.how.timeout, probe::ask(&self.target, &self.how.probe)).await;
            drop(slot);
            let failure = match result {
                Ok(Ok(())) => None,
                Ok(Err(reason)) => Some(reason),
                Err(_) => Some(format!("no answer within {:?}", self.how.timeout)),
            };
            let counter = if failure.is_none() { &self.state.checks_passed } else { &self.state.checks_failed };
            counter.fetch_add(1, Relaxed);
            let turned = streak.add(failure.is_none(), self.how.unhealthy_threshold, self.how.healthy_threshold);
            // Also that it fails for another reason now.
            let news = turned
                || (failure.is_some() && matches!(&said, Some(Some(before)) if Some(before) != failure.as_ref()));
            if news {
                let address = &self.target.address;
                let (backend, key) = (&self.backend, self.endpoint);
                match &failure {
                    Some(reason) => {
                        tracing::info!(backend, %address, %key, reason, "an endpoint fails its health checks")
                    }
                    None => tracing::info!(backend, %address, %key, "an endpoint passes its health checks"),
                }
                said = Some(failure.clone());
                let checked = Checked { backend: self.backend.clone(), endpoint: self.endpoint, failing: failure };
                let (reply, applied) = oneshot::channel();
                if self.updates.send((Change::Checked(vec![checked]), reply)).await.is_err() {
                    return;
                }
                // Whether it was: the next look at the table tells.
                let _ = applied.await;
            }
            let jitter = 1.0 + JITTER * self.rng.random_range(-1.0..=1.0);
            next = (next + self.how.interval.mul_f64(jitter)).max(clock::now());
        }
    }
}
