//! The task that finds out what kinds of requests each backend gets: it takes the workers' samples, keeps a sketch a backend, shows the
//! telemetry client what is in it, and makes a class table itself where no controller has made one.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Interval, MissedTickBehavior},
};

use super::{
    candidates::{Candidates, Sample},
    sampling::ClassSample,
    select,
};
use crate::{
    api::v1,
    backend::{Backend, BackendState},
    change::Change,
    clock,
    config::{Algorithm, ClassKey, ClassTable},
    keeper::Update,
    load::{CLASSES_MAX, RequestClass},
    status::ProxyStatus,
    table::Table,
    time::Timestamp,
};

/// Between two looks at what was found.
const LOOK: Duration = Duration::from_secs(1);
/// After this long without a controller a proxy makes its own classes, where it has none.
const PATIENCE: Duration = Duration::from_secs(10);
/// Classes of its own are made anew this often.
const RENEW: Duration = Duration::from_secs(10);
/// After the queue of samples was emptied it is left alone for so long: a worker that finds somebody waiting for each sample has to wake this
/// task each time, which costs more than a request.
const REST: Duration = Duration::from_millis(50);
/// Samples that are taken in one go at most.
const BATCH: usize = 256;

/// What was found, by the backend's name.
pub type Found = Arc<HashMap<String, v1::ClassCandidates>>;

/// The task's state.
#[derive(Debug)]
pub struct Finder {
    table: Arc<ArcSwap<Table>>,
    samples: mpsc::Receiver<ClassSample>,
    status: watch::Receiver<ProxyStatus>,
    found: watch::Sender<Found>,
    sketches: HashMap<String, (Arc<BackendState>, Candidates)>,
    local: Local,
}

/// What is remembered of tables that the proxy made itself.
#[derive(Debug)]
struct Local {
    connected_at: Timestamp,
    made_at: Option<Timestamp>,
    backends: HashSet<String>,
}

impl Finder {
    /// A finder for the backends of `table`.
    pub fn new(
        table: Arc<ArcSwap<Table>>,
        samples: mpsc::Receiver<ClassSample>,
        status: watch::Receiver<ProxyStatus>,
    ) -> Self {
        let local = Local { connected_at: clock::now(), made_at: None, backends: HashSet::new() };
        Self { table, samples, status, found: watch::Sender::default(), sketches: HashMap::new(), local }
    }

    /// What was found, once a second anew.
    pub fn found(&self) -> watch::Receiver<Found> {
        self.found.subscribe()
    }

    /// Finds until the workers have ended, then waits for ever. Tables of its own go to the keeper through `updates`.
    pub async fn run(mut self, updates: mpsc::Sender<Update>) {
        let mut looks: Interval = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut batch = Vec::with_capacity(BATCH);
        let mut rest: Interval = tokio::time::interval(REST);
        rest.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut resting = false;
        loop {
            tokio::select! {
                _ = rest.tick(), if resting => resting = false,
                count = self.samples.recv_many(&mut batch, BATCH), if !resting => {
                    if count == 0 {
                        return std::future::pending().await;
                    }
                    if count < BATCH {
                        resting = true;
                        rest.reset();
                    }
                    let now = clock::now();
                    batch.drain(..).for_each(|sample| self.take_in(&sample, now));
                }
                _ = looks.tick() => {
                    let tables = self.look(clock::now());
                    if !tables.is_empty() {
                        let (reply, applied) = oneshot::channel();
                        // Whoever keeps the table has ended: so does this task, at once.
                        if updates.send((Change::OwnClasses(tables), reply)).await.is_ok()
                            && let Ok(Err(errors)) = applied.await
                        {
                            tracing::warn!(error = %errors[0], "own classes refused");
                        }
                    }
                }
            }
        }
    }

    fn take_in(&mut self, sample: &ClassSample, now: Timestamp) {
        let table = self.table.load();
        let Some(entry) = table.backend(&sample.backend) else { return };
        let (_, candidates) = self
            .sketches
            .entry(sample.backend.clone())
            .or_insert_with(|| (entry.backend.state().clone(), Candidates::new(now)));
        candidates.add(&Sample {
            key: sample.kind.key,
            name: &sample.kind.name,
            latency_ms: f64::from(sample.latency_ms),
            weight: f64::from(sample.kind.weight),
        });
    }

    /// Shows what was found; returns the tables that the proxy has to make itself.
    fn look(&mut self, now: Timestamp) -> Vec<ClassTable> {
        let table = self.table.load_full();
        self.sketches.retain(|name, (state, _)| {
            table
                .backend(name)
                .is_some_and(|entry| Arc::ptr_eq(entry.backend.state(), state) && tells_apart(&entry.backend))
        });
        let mut found = HashMap::with_capacity(self.sketches.len());
        for (name, (_, candidates)) in &mut self.sketches {
            candidates.fade(now);
            if let Some(report) = candidates.report() {
                found.insert(name.clone(), report);
            }
        }
        let tables = self.own_tables(&table, &found, now);
        self.found.send_replace(Arc::new(found));
        tables
    }

    fn own_tables(
        &mut self,
        table: &Table,
        found: &HashMap<String, v1::ClassCandidates>,
        now: Timestamp,
    ) -> Vec<ClassTable> {
        let local = &mut self.local;
        if self.status.borrow().connected {
            local.connected_at = now;
            local.backends.clear();
            return Vec::new();
        }
        let soon = local.made_at.is_some_and(|at| now.since(at) < RENEW);
        if soon || now.since(local.connected_at) < PATIENCE {
            return Vec::new();
        }
        local.made_at = Some(now);
        let own = |(name, found): (&String, &v1::ClassCandidates)| {
            let backend = &table.backend(name)?.backend;
            // What a controller has said stands, however old.
            if backend.costs().is_some() && !local.backends.contains(name) {
                return None;
            }
            let config = backend.config();
            let own = select::local_table(name, backend.generation(), &config.classes, &numbered(backend), found)?;
            local.backends.insert(name.clone());
            Some(own)
        };
        found.iter().filter_map(own).collect()
    }
}

/// Whether the requests of a backend are told apart.
pub fn tells_apart(backend: &Backend) -> bool {
    backend.algorithm() == Algorithm::Adaptive && backend.config().classes.enabled
}

/// The keys of a backend's classes with their numbers.
fn numbered(backend: &Backend) -> Vec<(ClassKey, u8)> {
    let Some(costs) = backend.costs() else { return Vec::new() };
    (1..CLASSES_MAX as u8).filter_map(|number| Some((costs.key(RequestClass(number))?, number))).collect()
}
