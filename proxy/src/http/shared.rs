//! Connections to endpoints that many requests share (HTTP/2). Each is driven by a task of its own; a request holds a lease on one. Picking,
//! in-flight counts and outlier detection know nothing of connections: they count requests, here as everywhere.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    hash::BuildHasherDefault,
    io,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::Notify;

use super::{body::RequestBody, pool::Spread, stream::EndpointSocket};
use crate::{
    clock,
    table::{ConnectionPermit, Target},
    time::Timestamp,
};

/// Streams that one connection carries at most, if the endpoint allows as many; beyond them another one is opened.
const STREAMS_MAX: usize = 100;
/// What an endpoint may send ahead on one stream, and on all of a connection.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;
/// Largest head of an answer, as on HTTP/1.1.
const RESPONSE_HEAD_MAX: u32 = 256 << 10;
/// A connection on which nothing comes for this long is asked for a sign of life, and given up if there is none.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs tasks on the worker's own thread.
#[derive(Debug, Clone, Copy)]
pub struct Local;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, task: F) {
        tokio::task::spawn_local(task);
    }
}

/// A worker's shared connections.
#[derive(Debug, Default)]
pub struct SharedPool {
    endpoints: RefCell<HashMap<u64, Endpoint, BuildHasherDefault<Spread>>>,
}

#[derive(Debug)]
struct Endpoint {
    target: Arc<Target>,
    connections: Vec<Rc<Shared>>,
    opening: usize,
    /// Woken when one of them is open, or failed.
    opened: Rc<Notify>,
}

/// One connection.
#[derive(Debug)]
struct Shared {
    sender: SendRequest<RequestBody>,
    /// Streams that the endpoint allows, up to [`STREAMS_MAX`].
    streams_max: Rc<Cell<usize>>,
    in_flight: Cell<usize>,
    idle_since: Cell<Timestamp>,
    idle_timeout: Duration,
    target: Arc<Target>,
    _permit: ConnectionPermit,
}

/// A request's part of a connection.
#[derive(Debug)]
pub struct Lease(Rc<Shared>);

/// That a connection is being opened.
struct Opening<'a> {
    pool: &'a SharedPool,
    id: u64,
}

impl SharedPool {
    /// Part of the connection with the fewest requests, if one has room.
    pub fn take(&self, target: &Target) -> Option<Lease> {
        let mut endpoints = self.endpoints.borrow_mut();
        let endpoint = endpoints.get_mut(&target.id)?;
        endpoint.connections.retain(|connection| !connection.sender.is_closed());
        let with_room = endpoint.connections.iter().filter(|connection| connection.has_room());
        with_room.min_by_key(|connection| connection.in_flight.get()).map(|connection| Lease::new(connection.clone()))
    }

    /// Tells when a connection that is being opened is there, or failed. `None`: none is being opened.
    pub fn opening(&self, target: &Target) -> Option<Rc<Notify>> {
        let endpoints = self.endpoints.borrow();
        endpoints.get(&target.id).filter(|endpoint| endpoint.opening > 0).map(|endpoint| endpoint.opened.clone())
    }

    /// Opens another one over a socket that `connect` makes.
    ///
    /// # Errors
    /// If the endpoint cannot be reached, or does not speak HTTP/2.
    pub async fn open(
        &self,
        target: &Arc<Target>,
        idle_timeout: Duration,
        permit: ConnectionPermit,
        connect: impl Future<Output = io::Result<EndpointSocket>>,
    ) -> io::Result<Lease> {
        let _opening = Opening::new(self, target);
        let socket = connect.await?;
        let (sender, connection) = http2::Builder::new(Local)
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(RESPONSE_HEAD_MAX)
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .handshake(TokioIo::new(socket))
            .await
            .map_err(io::Error::other)?;
        let mut connection = Box::pin(connection);
        let streams_max = Rc::new(Cell::new(STREAMS_MAX));
        let (address, allowed) = (target.address.clone(), streams_max.clone());
        tokio::task::spawn_local(async move {
            let driven = std::future::poll_fn(|cx| {
                let polled = connection.as_mut().poll(cx);
                // The endpoint may say otherwise at any time.
                allowed.set(connection.current_max_send_streams().min(STREAMS_MAX));
                polled
            });
            if let Err(error) = driven.await {
                tracing::debug!(%address, %error, "shared connection failed");
            }
        });
        let idle_since = Cell::new(clock::now());
        let shared = Rc::new(Shared {
            sender,
            streams_max,
            in_flight: Cell::new(0),
            idle_since,
            idle_timeout,
            target: target.clone(),
            _permit: permit,
        });
        let lease = Lease::new(shared.clone());
        if !target.is_retired()
            && let Some(endpoint) = self.endpoints.borrow_mut().get_mut(&target.id)
        {
            endpoint.connections.push(shared);
        }
        Ok(lease)
    }

    /// Closes one connection to any of these endpoints on which nothing is in flight. `false` if there is none.
    pub fn evict(&self, targets: &[Arc<Target>]) -> bool {
        let mut endpoints = self.endpoints.borrow_mut();
        targets.iter().any(|target| {
            let Some(endpoint) = endpoints.get_mut(&target.id) else { return false };
            let idle = endpoint.connections.iter().position(|connection| connection.in_flight.get() == 0);
            idle.map(|index| endpoint.connections.swap_remove(index)).is_some()
        })
    }

    /// Lets go of what is closed, idle for too long, or leads to an endpoint that has left; what is in flight there goes on.
    pub fn sweep(&self, now: Timestamp) {
        self.endpoints.borrow_mut().retain(|_, endpoint| {
            endpoint.connections.retain(|connection| {
                let unused = connection.in_flight.get() == 0;
                let idle = unused && now.since(connection.idle_since.get()) >= connection.idle_timeout;
                !(idle || connection.sender.is_closed())
            });
            endpoint.opening > 0 || !(endpoint.target.is_retired() || endpoint.connections.is_empty())
        });
    }

    /// Connections on which nothing is in flight.
    pub fn idle(&self) -> usize {
        let idle = |endpoint: &Endpoint| endpoint.connections.iter().filter(|c| c.in_flight.get() == 0).count();
        self.endpoints.borrow().values().map(idle).sum()
    }
}

impl Shared {
    fn has_room(&self) -> bool {
        self.in_flight.get() < self.streams_max.get()
    }
}

impl Lease {
    fn new(shared: Rc<Shared>) -> Self {
        shared.in_flight.set(shared.in_flight.get() + 1);
        Self(shared)
    }

    /// Sends on it.
    pub fn sender(&self) -> SendRequest<RequestBody> {
        self.0.sender.clone()
    }

    /// Where it leads.
    pub fn target(&self) -> &Target {
        &self.0.target
    }

    /// Whether it still stands.
    pub fn is_open(&self) -> bool {
        !self.0.sender.is_closed()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.in_flight.set(self.0.in_flight.get() - 1);
        self.0.idle_since.set(clock::now());
    }
}

impl<'a> Opening<'a> {
    fn new(pool: &'a SharedPool, target: &Arc<Target>) -> Self {
        let mut endpoints = pool.endpoints.borrow_mut();
        let endpoint = endpoints.entry(target.id).or_insert_with(|| Endpoint {
            target: target.clone(),
            connections: Vec::new(),
            opening: 0,
            opened: Rc::default(),
        });
        endpoint.opening += 1;
        Self { pool, id: target.id }
    }
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        if let Some(endpoint) = self.pool.endpoints.borrow_mut().get_mut(&self.id) {
            endpoint.opening -= 1;
            endpoint.opened.notify_waiters();
        }
    }
}
