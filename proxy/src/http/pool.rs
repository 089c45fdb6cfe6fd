//! A worker's idle connections to endpoints, last in first out: the warmest is used, and the surplus of a burst ages out.

use std::{
    cell::RefCell,
    collections::{HashMap, VecDeque},
    future::Future,
    hash::BuildHasherDefault,
    io,
    rc::Rc,
    sync::Arc,
    task::{Context, Waker},
    time::Duration,
};

use tokio::sync::Notify;

use super::stream::EndpointSocket;
use crate::{
    table::{ConnectionPermit, Target},
    time::Timestamp,
    worker::Worker,
};

/// Idle connections that a worker keeps for one endpoint at most.
const IDLE_MAX: usize = 1024;

/// A connection to an endpoint that carries one request at a time, and another one later. There are two kinds, hyper's and the fast path's:
/// what one of them has read ahead the other cannot see, so each has a pool of its own. Over HTTP/2 it is a request's part of a connection
/// that many share ([`shared`](super::shared)).
pub trait Pooled: Sized {
    /// Opens one to an endpoint; `connect` makes the socket. `idle_timeout` is how long it may be unused.
    fn open(
        worker: &Worker,
        target: &Arc<Target>,
        idle_timeout: Duration,
        permit: ConnectionPermit,
        connect: impl Future<Output = io::Result<EndpointSocket>>,
    ) -> impl Future<Output = io::Result<Self>>;

    /// The worker's pool of this kind.
    fn pool(worker: &Worker) -> &Pool<Self>;

    /// One that stands already.
    fn take(worker: &Worker, target: &Target, now: Timestamp) -> Option<Box<Self>> {
        Self::pool(worker).take(target, now)
    }

    /// Where requests share connections: tells when one that another request opens is there. `None`: nobody opens one.
    fn opening(_worker: &Worker, _target: &Target) -> Option<Rc<Notify>> {
        None
    }

    /// While it is idle: whether it is open, with nothing on it that nobody asked for.
    fn is_open(&mut self, cx: &mut Context<'_>) -> bool;

    /// After the end of an answer: whether another request may follow.
    fn is_reusable(&mut self, cx: &mut Context<'_>) -> bool;
}

/// Idle connections of one kind and worker.
#[derive(Debug)]
pub struct Pool<C> {
    endpoints: RefCell<HashMap<u64, Idle<C>, BuildHasherDefault<Spread>>>,
}

#[derive(Debug)]
struct Idle<C> {
    target: Arc<Target>,
    timeout: Duration,
    /// Oldest first, with the time since when each is idle.
    connections: VecDeque<(Timestamp, Box<C>)>,
}

/// Hashes the ids of targets, which are counted up by this process: nobody can choose them to collide.
#[derive(Debug, Default)]
pub struct Spread(u64);

impl std::hash::Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u64(&mut self, id: u64) {
        // The golden section spreads consecutive numbers over the upper bits, which the map looks at too.
        self.0 = (self.0 ^ id).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

impl<C> Default for Pool<C> {
    fn default() -> Self {
        Self { endpoints: RefCell::default() }
    }
}

impl<C: Pooled> Pool<C> {
    /// The connection that was used last; that it still stands is found out by using it.
    pub fn take(&self, target: &Target, now: Timestamp) -> Option<Box<C>> {
        let mut endpoints = self.endpoints.borrow_mut();
        let idle = endpoints.get_mut(&target.id)?;
        let (since, connection) = idle.connections.pop_back()?;
        if now.since(since) < idle.timeout {
            return Some(connection);
        }
        // The others are older still.
        idle.connections.clear();
        None
    }

    /// Keeps a connection for later.
    pub fn put(&self, target: &Arc<Target>, timeout: Duration, connection: Box<C>, now: Timestamp) {
        if target.is_retired() {
            return;
        }
        let mut endpoints = self.endpoints.borrow_mut();
        let idle = endpoints.entry(target.id).or_insert_with(|| Idle {
            target: target.clone(),
            timeout,
            connections: VecDeque::new(),
        });
        idle.timeout = timeout;
        idle.connections.push_back((now, connection));
        if idle.connections.len() > IDLE_MAX {
            idle.connections.pop_front();
        }
    }

    /// Closes one idle connection to any of these endpoints. `false` if there is none.
    pub fn evict(&self, targets: &[Arc<Target>]) -> bool {
        let mut endpoints = self.endpoints.borrow_mut();
        targets.iter().any(|target| endpoints.get_mut(&target.id).is_some_and(|i| i.connections.pop_front().is_some()))
    }

    /// Closes what is too old, was closed by the endpoint, or leads to an endpoint that has left. Worth calling every second.
    pub fn sweep(&self, now: Timestamp) {
        let mut cx = Context::from_waker(Waker::noop());
        self.endpoints.borrow_mut().retain(|_, idle| {
            let timeout = idle.timeout;
            idle.connections
                .retain_mut(|(since, connection)| now.since(*since) < timeout && connection.is_open(&mut cx));
            !idle.target.is_retired() && !idle.connections.is_empty()
        });
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.endpoints.borrow().values().map(|idle| idle.connections.len()).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
