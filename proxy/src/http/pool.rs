//! A worker's idle connections to endpoints, last in first out: the warmest is used, and the surplus of a burst ages out.

use std::{
    cell::RefCell,
    collections::{HashMap, VecDeque},
    sync::Arc,
    task::{Context, Waker},
    time::Duration,
};

use super::upstream::Upstream;
use crate::{table::Target, time::Timestamp};

/// Idle connections that a worker keeps for one endpoint at most.
const IDLE_MAX: usize = 1024;

/// Idle connections of one worker.
#[derive(Debug, Default)]
pub struct Pool {
    endpoints: RefCell<HashMap<u64, Idle>>,
}

#[derive(Debug)]
struct Idle {
    target: Arc<Target>,
    timeout: Duration,
    /// Oldest first, with the time since when each is idle.
    connections: VecDeque<(Timestamp, Box<Upstream>)>,
}

impl Pool {
    /// The connection that was used last; that it still stands is found out by using it.
    pub fn take(&self, target: &Target, now: Timestamp) -> Option<Box<Upstream>> {
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
    pub fn put(&self, target: &Arc<Target>, timeout: Duration, mut connection: Box<Upstream>, now: Timestamp) {
        if target.is_retired() {
            return;
        }
        connection.reused = true;
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

    /// Closes what is too old, was closed by the endpoint, or leads to an endpoint that has left. Worth calling every second.
    pub fn sweep(&self, now: Timestamp) {
        let mut cx = Context::from_waker(Waker::noop());
        self.endpoints.borrow_mut().retain(|_, idle| {
            let timeout = idle.timeout;
            idle.connections.retain_mut(|(since, connection)| now.since(*since) < timeout && connection.drive(&mut cx));
            !idle.target.is_retired() && !idle.connections.is_empty()
        });
    }

    /// Closes all.
    pub fn clear(&self) {
        self.endpoints.borrow_mut().clear();
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
