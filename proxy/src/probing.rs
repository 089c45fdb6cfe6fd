//! Prequal's probes, sent by each worker for its own queries and beside them: a query takes what earlier probes told, and notes whom to ask next; a task asks.
//! Nothing here waits for a probe, and nobody is asked where the algorithm is another one.
//!
//! An endpoint that says what it has in flight (`endpoint-load-metrics`, ORCA) is believed; for one that does not, the requests stand that this proxy knows
//! of. Latency is what the endpoint foretells (`named_metrics.latency_ms`), or else what the probe took. Endpoints that do not answer are asked again
//! after a while only, and hold up nobody: so many probes may be under way to one endpoint, and to all.

mod line;

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, VecDeque},
    hash::BuildHasherDefault,
    rc::Rc,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Poll, Waker},
    time::Duration,
};

use rand::RngCore;

use self::line::{Line, Told};
use crate::{
    backend::{Backend, BackendState},
    clock,
    config::{Algorithm, EndpointKey},
    http::pool::Spread,
    pick::probes::{Knobs, Probe, Probes},
    table::{BackendEntry, Target},
    time::Timestamp,
    worker::Worker,
};

/// A probe that takes longer has failed.
const TIMEOUT: Duration = Duration::from_secs(1);
/// One that has failed is not asked again for so long.
const SILENT: Duration = Duration::from_secs(1);
/// Probes of a worker under way at a time, to one endpoint and to all; what is beyond them is not sent.
const AT_ONE_MAX: usize = 2;
const AT_ALL_MAX: usize = 256;
/// A connection that was not used for so long is closed.
const IDLE: Duration = Duration::from_secs(30);

/// What a worker has to do with probes.
#[derive(Debug, Default)]
pub struct Probing {
    backends: RefCell<HashMap<u64, OfBackend, BuildHasherDefault<Spread>>>,
    doors: RefCell<HashMap<u64, Door, BuildHasherDefault<Spread>>>,
    queue: RefCell<VecDeque<Asked>>,
    under_way: Cell<usize>,
    /// Of the task, while nobody is to be asked.
    resting: RefCell<Option<Waker>>,
}

/// An endpoint, and where it stands in the list of the backend. It is the same wherever it stands.
#[derive(Debug, Clone, Copy)]
struct Place {
    key: EndpointKey,
    index: u32,
}

impl PartialEq for Place {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

/// What is known of one backend's endpoints.
#[derive(Debug)]
struct OfBackend {
    /// Held, so that no other backend is taken for it.
    state: Arc<BackendState>,
    /// Of the list that places are about.
    generation: u64,
    candidates: usize,
    probes: Probes<Place>,
}

/// Somebody to be asked.
#[derive(Debug)]
struct Asked {
    entry: Arc<BackendEntry>,
    index: usize,
}

/// Connections to one endpoint.
#[derive(Debug)]
struct Door {
    target: Arc<Target>,
    idle: Vec<(Timestamp, Line)>,
    under_way: usize,
    /// It did not answer: it is not asked before that.
    silent_until: Timestamp,
}

fn id_of(state: &Arc<BackendState>) -> u64 {
    Arc::as_ptr(state) as u64
}

impl OfBackend {
    fn new(backend: &Backend, knobs: Knobs) -> Self {
        let candidates = backend.candidates().len();
        let probes = Probes::new(knobs, candidates);
        Self { state: backend.state().clone(), generation: backend.generation(), candidates, probes }
    }

    /// Heeds what has changed about the backend.
    fn follow(&mut self, backend: &Backend, knobs: Knobs) {
        let candidates = backend.candidates().len();
        if *self.probes.knobs() != knobs {
            *self = Self::new(backend, knobs);
        }
        if self.generation != backend.generation() {
            self.generation = backend.generation();
            let endpoints = backend.endpoints();
            self.probes.retain(|place| {
                let index = endpoints.iter().position(|endpoint| endpoint.config.key == place.key);
                place.index = index.map_or(u32::MAX, |index| index as u32);
                index.is_some()
            });
        }
        if self.candidates != candidates {
            self.candidates = candidates;
            self.probes.resize(candidates);
        }
    }
}

impl Probing {
    /// The position of the endpoint that probes speak for, and others to be asked for it. `None` where they say nothing, or are not wanted.
    pub fn choose<R: RngCore + ?Sized>(
        &self,
        entry: &Arc<BackendEntry>,
        exclude: &[EndpointKey],
        now: Timestamp,
        rng: &mut R,
    ) -> Option<u32> {
        let backend = &entry.backend;
        if backend.algorithm() != Algorithm::Prequal {
            return None;
        }
        let knobs = backend.config().traffic.balancing.probes()?;
        let mut backends = self.backends.borrow_mut();
        let of = backends.entry(id_of(backend.state())).or_insert_with(|| OfBackend::new(backend, knobs));
        of.follow(backend, knobs);
        let allowed = |place: Place| backend.is_candidate(place.index as usize) && !exclude.contains(&place.key);
        let chosen = of.probes.choose(now.0, allowed).map(|place| place.index);
        of.probes.remove();
        let owed = of.probes.owed() as usize;
        self.ask(entry, owed, rng);
        chosen
    }

    /// Puts so many endpoints on the list of those that are to be asked, none of them twice if there are others.
    fn ask<R: RngCore + ?Sized>(&self, entry: &Arc<BackendEntry>, owed: usize, rng: &mut R) {
        let candidates = entry.backend.candidates();
        if owed == 0 || candidates.is_empty() {
            return;
        }
        let mut queue = self.queue.borrow_mut();
        let before = queue.len();
        for _ in 0..owed {
            if queue.len() >= AT_ALL_MAX {
                entry.backend.state().probes_skipped.fetch_add(1, Relaxed);
                continue;
            }
            for _ in 0..8 {
                // Which of so few does not depend on the last bits.
                let nth = ((u64::from(rng.next_u32()) * candidates.len() as u64) >> 32) as usize;
                let index = candidates[nth].index as usize;
                if queue.iter().skip(before).all(|asked| asked.index != index) {
                    queue.push_back(Asked { entry: entry.clone(), index });
                    break;
                }
            }
        }
        if let Some(resting) = self.resting.take() {
            resting.wake();
        }
    }

    /// Lets go of what is idle, or leads to an endpoint or backend that has left. Worth calling every second.
    pub fn sweep(&self, now: Timestamp) {
        // Nobody else has it: the table neither.
        self.backends.borrow_mut().retain(|_, of| Arc::strong_count(&of.state) > 1);
        self.doors.borrow_mut().retain(|_, door| {
            door.idle.retain(|(since, line)| now.since(*since) < IDLE && line.is_open());
            let unused = door.idle.is_empty() && now >= door.silent_until;
            door.under_way > 0 || !(door.target.is_retired() || unused)
        });
    }

    /// Leave to ask an endpoint, and a connection to it if one is idle; `None`: too many ask it, or it does not answer.
    fn enter(&self, target: &Arc<Target>, now: Timestamp) -> Option<Option<Line>> {
        let mut doors = self.doors.borrow_mut();
        let door = doors.entry(target.id).or_insert_with(|| Door {
            target: target.clone(),
            idle: Vec::new(),
            under_way: 0,
            silent_until: Timestamp::ZERO,
        });
        if door.under_way >= AT_ONE_MAX || now < door.silent_until || self.under_way.get() >= AT_ALL_MAX {
            return None;
        }
        door.under_way += 1;
        self.under_way.set(self.under_way.get() + 1);
        loop {
            match door.idle.pop() {
                Some((_, line)) if !line.is_open() => {}
                idle => return Some(idle.map(|(_, line)| line)),
            }
        }
    }

    /// The end of that: with the connection, if it can be used again, or with the news that there was no answer.
    fn leave(&self, target: &Target, line: Option<Line>, answered: bool, now: Timestamp) {
        self.under_way.set(self.under_way.get() - 1);
        let mut doors = self.doors.borrow_mut();
        let Some(door) = doors.get_mut(&target.id) else { return };
        door.under_way -= 1;
        if !answered {
            door.silent_until = now + SILENT;
        }
        if let Some(line) = line.filter(|_| !target.is_retired()) {
            door.idle.push((now, line));
        }
    }

    /// An endpoint has said how it is doing, or nothing.
    fn heard(&self, asked: &Asked, told: Option<&Told>, now: Timestamp) {
        let backend = &asked.entry.backend;
        let load = &backend.endpoints()[asked.index].load;
        let place = Place { key: load.key(), index: asked.index as u32 };
        if let Some(in_flight) = told.and_then(|told| told.in_flight) {
            load.told_in_flight(now, in_flight);
        }
        let mut backends = self.backends.borrow_mut();
        let of = backends.get_mut(&id_of(backend.state())).filter(|of| of.generation == backend.generation());
        let Some(of) = of else { return };
        match told {
            Some(told) => {
                let known = || backend.in_flight_all(asked.index, now).round() as u32;
                let in_flight = told.in_flight.unwrap_or_else(known);
                of.probes.probed(now.0, &Probe::new(place, in_flight, told.latency));
            }
            None => of.probes.retain(|other| *other != place),
        }
    }
}

/// Asks whom queries want asked, one task a probe, as long as the worker lives.
pub async fn run(worker: Rc<Worker>) {
    let probing = &worker.probing;
    loop {
        let asked = std::future::poll_fn(|cx| {
            if let Some(asked) = probing.queue.borrow_mut().pop_front() {
                return Poll::Ready(asked);
            }
            *probing.resting.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
        let target = &asked.entry.targets[asked.index];
        let Some(line) = probing.enter(target, clock::now()) else {
            asked.entry.backend.state().probes_skipped.fetch_add(1, Relaxed);
            continue;
        };
        tokio::task::spawn_local(probe(worker.clone(), asked, line));
    }
}

/// Asks one endpoint.
async fn probe(worker: Rc<Worker>, asked: Asked, line: Option<Line>) {
    let entry = &asked.entry;
    let target = &entry.targets[asked.index];
    let path = &entry.backend.config().traffic.balancing.probe_path;
    let answer = tokio::time::timeout(TIMEOUT, line::ask(&worker, target, path, line)).await;
    let now = clock::now();
    let state = entry.backend.state();
    match answer {
        Ok(Ok((told, line))) => {
            state.probes_answered.fetch_add(1, Relaxed);
            worker.probing.heard(&asked, Some(&told), now);
            worker.probing.leave(target, line, true, now);
        }
        failed => {
            if let Ok(Err(error)) = failed {
                tracing::debug!(address = %target.address, %error, "probe failed");
            }
            state.probes_failed.fetch_add(1, Relaxed);
            worker.probing.heard(&asked, None, now);
            worker.probing.leave(target, None, false, now);
        }
    }
}
