//! The one owner of the table. It takes what the controller pushes, what workers notice and what time changes, makes a new table of it, and
//! swaps it in. Nobody else writes.

use std::{
    collections::BTreeMap,
    net::{SocketAddr, TcpListener},
    num::NonZeroU16,
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    backend::Backend,
    change::Change,
    clock,
    config::{BackendConfig, BackendUpdate, InvalidResource, PeerTable},
    handover::Shelf,
    keys::IdSet,
    observe::red::Book,
    outlier::OutlierKind,
    route::{ListenerConfig, RouteConfig, Routing},
    sockets,
    status::{ListenerStatus, ProxyStatus},
    table::{BackendEntry, Listener, Table},
    time::Timestamp,
    worker::{Command, Listening, Outlier},
};

/// Weights age, and sockets that could not be bound are tried again, this often.
const TICK: Duration = Duration::from_secs(1);
/// How often a successor looks whether it may accept.
const LOOK: Duration = Duration::from_millis(20);
/// A configuration that has not changed for so long is taken for a whole one.
const SETTLED: Duration = Duration::from_millis(100);
/// With listeners, but without a route or a backend, it is waited no longer than this.
const HELD_MAX: Duration = Duration::from_secs(10);
/// Outlier events that are applied in one go at most.
const BATCH: usize = 256;

/// A change to apply, and where to tell what became of it.
pub type Update = (Change, oneshot::Sender<Result<(), Vec<InvalidResource>>>);

/// The owner's state.
#[derive(Debug)]
pub struct Keeper {
    table: Arc<ArcSwap<Table>>,
    status: watch::Sender<ProxyStatus>,
    workers: Vec<mpsc::UnboundedSender<Command>>,
    share_ports: bool,
    /// Where this proxy is; empty where that is not known.
    zone: String,
    /// Where a successor finds the sockets; `None`: there will be none.
    shelf: Option<Shelf>,
    /// Sockets of a predecessor that no listener has asked for yet.
    inherited: Inheritance,
    /// Sockets are bound and not accepted on yet: a predecessor serves until the configuration is there. Since when there is one.
    held: Option<Held>,
    /// This proxy's key, as it stands in weight tables.
    proxy_key: u64,
    /// Who the other proxies are, for the exchange with them.
    peers: watch::Sender<Option<Arc<PeerTable>>>,
    /// Sockets on their way to their workers, once the table that knows them is published.
    openings: Vec<(mpsc::UnboundedSender<Command>, Command)>,
    listeners: BTreeMap<String, ListenerConfig>,
    routes: BTreeMap<String, RouteConfig>,
    backends: BTreeMap<String, Arc<BackendEntry>>,
    sockets: BTreeMap<SocketKey, Bound>,
    routing: Arc<Routing>,
    /// Where requests are counted.
    book: Book,
    /// Routes, listeners or the set of backends changed since `routing` was compiled.
    routing_stale: bool,
    next_socket: u32,
    updated_at: Option<Timestamp>,
    /// The controller has said which listeners there are, if only that there are none.
    configured: bool,
}

/// Listeners share a socket by address; one with port 0 has one of its own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum SocketKey {
    Shared(SocketAddr),
    Own(String),
}

/// What is waited for before a successor accepts.
#[derive(Debug, Default)]
struct Held {
    /// Since when there has been a listener.
    since: Option<Timestamp>,
    /// When listeners, routes or backends last changed.
    changed_at: Timestamp,
}

/// A socket, or why there is none.
#[derive(Debug)]
struct Bound {
    id: u32,
    wanted: SocketAddr,
    local: Result<SocketAddr, String>,
}

/// Listening sockets by their address.
pub type Inheritance = BTreeMap<SocketAddr, Vec<TcpListener>>;

impl Keeper {
    /// The same for a proxy in this zone.
    pub fn in_zone(self, zone: String) -> Self {
        Self { zone, ..self }
    }

    /// An empty table for these workers, of the proxy with this key. Sockets can be shared with others, may be left to a successor, and come
    /// from a predecessor if there is one.
    pub fn new(
        table: Arc<ArcSwap<Table>>,
        status: watch::Sender<ProxyStatus>,
        workers: Vec<mpsc::UnboundedSender<Command>>,
        (share_ports, shelf, inherited): (bool, Option<Shelf>, Option<Inheritance>),
        proxy_key: u64,
        peers: watch::Sender<Option<Arc<PeerTable>>>,
    ) -> Self {
        Self {
            table,
            status,
            book: Book::new(workers.len()),
            workers,
            share_ports,
            zone: String::new(),
            shelf,
            held: inherited.is_some().then(Held::default),
            inherited: inherited.unwrap_or_default(),
            proxy_key,
            peers,
            openings: Vec::new(),
            listeners: BTreeMap::new(),
            routes: BTreeMap::new(),
            backends: BTreeMap::new(),
            sockets: BTreeMap::new(),
            routing: Arc::default(),
            routing_stale: false,
            next_socket: 0,
            updated_at: None,
            configured: false,
        }
    }

    /// Keeps the table until `stop`, or until nobody can send changes any more.
    pub async fn run(
        mut self,
        mut updates: mpsc::Receiver<Update>,
        mut outliers: mpsc::Receiver<Outlier>,
        stop: CancellationToken,
    ) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut look = tokio::time::interval(LOOK);
        let mut events = Vec::new();
        loop {
            let deadline = self.backends.values().filter_map(|entry| entry.backend.next_deadline()).min();
            let half_open = async {
                match deadline {
                    Some(deadline) => tokio::time::sleep_until(clock::instant(deadline)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                update = updates.recv() => {
                    let Some((change, reply)) = update else { return };
                    // Who asked may have gone meanwhile; the change holds all the same.
                    let _ = reply.send(self.apply(change, clock::now()));
                }
                count = outliers.recv_many(&mut events, BATCH) => {
                    if count == 0 {
                        return;
                    }
                    self.outliers(events.drain(..), clock::now());
                }
                () = half_open => self.pass_time(clock::now()),
                _ = look.tick(), if self.held.is_some() => self.release(clock::now()),
                _ = tick.tick() => {
                    self.pass_time(clock::now());
                    self.retry_sockets();
                }
            }
        }
    }

    /// Applies a change. All of it is applied but what the errors name.
    ///
    /// # Errors
    /// Resources that hold by themselves but not here: a port in use, weights that do not fit the endpoints.
    pub fn apply(&mut self, change: Change, now: Timestamp) -> Result<(), Vec<InvalidResource>> {
        let by_controller = !matches!(change, Change::OwnClasses(_) | Change::Checked(_));
        if let Some(held) = &mut self.held
            && matches!(change, Change::Backends(..) | Change::Routes(..) | Change::Listeners(..))
        {
            held.changed_at = now;
        }
        let errors = match change {
            Change::Backends(set, removed) => {
                // All of them, before any takes effect.
                let whole = |update: BackendUpdate| {
                    let before = self.backends.get(update.name());
                    update.resolve(before.map(|entry| entry.backend.config()))
                };
                match set.into_iter().map(whole).collect::<Result<Vec<_>, _>>() {
                    Ok(set) => {
                        set.into_iter().for_each(|config| self.set_backend(config, now));
                        removed.iter().for_each(|name| self.remove_backend(name));
                        Vec::new()
                    }
                    Err(error) => return Err(vec![error]),
                }
            }
            Change::Routes(set, removed) => {
                self.routing_stale = true;
                self.routes.extend(set.into_iter().map(|route| (route.name.clone(), route)));
                removed.iter().for_each(|name| drop(self.routes.remove(name)));
                Vec::new()
            }
            Change::Listeners(set, removed) => {
                (self.routing_stale, self.configured) = (true, true);
                let changed: Vec<String> = set.iter().map(|listener| listener.name.clone()).collect();
                self.listeners.extend(set.into_iter().map(|listener| (listener.name.clone(), listener)));
                removed.iter().for_each(|name| drop(self.listeners.remove(name)));
                self.bind_sockets();
                self.socket_errors(&changed)
            }
            Change::Weights(mut set) => {
                for table in &mut set {
                    let position = table.proxy_keys.binary_search(&self.proxy_key).ok();
                    table.position = position.and_then(|position| u32::try_from(position).ok());
                }
                self.with_backends(set, |table| &table.backend, |backend, table| backend.with_weights(table, now))
            }
            Change::Errors(set) => {
                self.with_backends(set, |table| &table.backend, |backend, table| backend.with_errors(table, now))
            }
            Change::Classes(set) | Change::OwnClasses(set) => {
                self.with_backends(set, |table| &table.backend, |backend, table| backend.with_classes(table, now))
            }
            Change::Checked(set) => self.with_backends(
                set,
                |checked| &checked.backend,
                |backend, checked| Ok(backend.with_check(checked.endpoint, checked.failing.as_deref(), now)),
            ),
            Change::Peers(set) => {
                // Not part of the table that requests are routed by.
                if let Some(table) = set.into_iter().next_back() {
                    self.peers.send_replace(Some(Arc::new(table)));
                }
                return Ok(());
            }
        };
        if by_controller {
            self.updated_at = Some(now);
        }
        self.publish(now);
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }

    /// Applies what workers noticed.
    pub fn outliers(&mut self, events: impl Iterator<Item = Outlier>, now: Timestamp) {
        let mut changed = false;
        for Outlier { state, backend, event } in events {
            let Some(entry) = self.backends.get_mut(&backend) else { continue };
            // Of another backend that had the same name.
            if !Arc::ptr_eq(entry.backend.state(), &state) {
                continue;
            }
            if let Some(next) = entry.backend.with_outlier_event(&event, now) {
                let of = entry.backend.endpoints().iter().find(|endpoint| endpoint.config.key == event.endpoint);
                let name = of.map(|endpoint| &*endpoint.config.name);
                let (key, why) = (event.endpoint, event.kind);
                match why {
                    OutlierKind::TrialSucceeded => {
                        tracing::info!(backend, endpoint = name, %key, "an ejected endpoint answers well again and is back");
                    }
                    _ => tracing::info!(backend, endpoint = name, %key, ?why, "an endpoint is ejected"),
                }
                *entry = Arc::new(entry.with_backend(next));
                changed = true;
            }
        }
        if changed {
            self.publish(now);
        }
    }

    fn pass_time(&mut self, now: Timestamp) {
        let mut changed = false;
        for entry in self.backends.values_mut() {
            if let Some(next) = entry.backend.with_time(now) {
                *entry = Arc::new(entry.with_backend(next));
                changed = true;
            }
        }
        if changed {
            self.publish(now);
        }
    }

    fn set_backend(&mut self, mut config: BackendConfig, now: Timestamp) {
        config.traffic.balancing.zone.clone_from(&self.zone);
        let name = config.name.clone();
        let previous = self.backends.get(&name);
        if previous.is_some_and(|entry| *entry.backend.config() == config) {
            return;
        }
        self.routing_stale |= previous.is_none();
        let backend = Arc::new(Backend::new(config, previous.map(|entry| &*entry.backend), now));
        let entry = BackendEntry::new(backend, previous.map(|entry| &**entry));
        if let Some(previous) = previous {
            let kept: IdSet = entry.targets.iter().map(|target| target.id).collect();
            previous.targets.iter().filter(|target| !kept.contains(&target.id)).for_each(|target| target.retire());
        }
        self.backends.insert(name, Arc::new(entry));
    }

    fn remove_backend(&mut self, name: &str) {
        if let Some(entry) = self.backends.remove(name) {
            entry.targets.iter().for_each(|target| target.retire());
            self.routing_stale = true;
        }
    }

    /// Replaces backends by what `change` makes of them with each of `set`; all or, if one fails, none.
    fn with_backends<T>(
        &mut self,
        set: Vec<T>,
        name: fn(&T) -> &str,
        change: impl Fn(&Backend, &T) -> Result<Option<Backend>, InvalidResource>,
    ) -> Vec<InvalidResource> {
        let mut next = Vec::with_capacity(set.len());
        for table in &set {
            // A table that came before its backend, or after it was gone; the next tick brings another.
            let Some(entry) = self.backends.get(name(table)) else { continue };
            match change(&entry.backend, table) {
                Ok(Some(backend)) => next.push((name(table).to_owned(), Arc::new(entry.with_backend(backend)))),
                Ok(None) => {}
                Err(error) => return vec![error],
            }
        }
        self.backends.extend(next);
        Vec::new()
    }

    /// Makes the sockets those that the listeners want.
    fn bind_sockets(&mut self) {
        let wanted: BTreeMap<SocketKey, SocketAddr> = self
            .listeners
            .values()
            .map(|listener| (SocketKey::of(listener), SocketAddr::new(listener.address, listener.port)))
            .collect();
        // First those that go: their ports may be wanted.
        let (workers, shelf) = (&self.workers, &self.shelf);
        self.sockets.retain(|key, bound| {
            let stays = wanted.get(key) == Some(&bound.wanted);
            if !stays && bound.local.is_ok() {
                shelf.iter().for_each(|shelf| shelf.remove(bound.id));
                tell(workers, || Command::Unlisten(bound.id));
            }
            stays
        });
        for (key, address) in wanted {
            if !self.sockets.contains_key(&key) {
                let id = self.next_socket;
                self.next_socket += 1;
                let local = self.bind(id, address);
                self.sockets.insert(key, Bound { id, wanted: address, local });
            }
        }
    }

    fn bind(&mut self, id: u32, address: SocketAddr) -> Result<SocketAddr, String> {
        let mut sockets = self.inherited.remove(&address).unwrap_or_default();
        // With fewer workers than before some have two: what waits at a socket must be accepted by somebody.
        let missing = self.workers.len().saturating_sub(sockets.len());
        let shared = self.share_ports || !sockets.is_empty();
        let more = if missing == 0 { Ok(Vec::new()) } else { sockets::bind(address, missing, shared) };
        let bound = more.and_then(|more| {
            sockets.extend(more);
            let local = sockets[0].local_addr()?;
            // A port that the system chose is another one for a successor, as for any other proxy.
            if let Some(shelf) = self.shelf.as_ref().filter(|_| address.port() != 0) {
                shelf.put(id, address, sockets.iter().map(TcpListener::try_clone).collect::<Result<_, _>>()?);
            }
            Ok((sockets, local))
        });
        let (sockets, local) = bound.map_err(|error| {
            let reason = if error.kind() == std::io::ErrorKind::AddrInUse {
                "already in use".to_owned()
            } else {
                error.to_string()
            };
            format!("cannot listen on {address}: {reason}")
        })?;
        let connections = Arc::new(AtomicUsize::new(0));
        for (worker, listener) in self.workers.iter().cycle().zip(sockets) {
            let listening = Listening { id, listener, connections: connections.clone() };
            self.openings.push((worker.clone(), Command::Listen(listening)));
        }
        tracing::info!(address = %local, "listening");
        Ok(local)
    }

    /// Begins to accept beside the predecessor once there is a configuration, as a whole as far as can be seen.
    fn release(&mut self, now: Timestamp) {
        let Some(held) = &mut self.held else { return };
        if self.listeners.is_empty() {
            return;
        }
        let since = *held.since.get_or_insert(now);
        let whole = !self.routes.is_empty() && !self.backends.is_empty() && now.since(held.changed_at) >= SETTLED;
        if whole || now.since(since) >= HELD_MAX {
            self.held = None;
            // Listeners that the configuration does not have any more.
            self.inherited.clear();
            self.publish(now);
        }
    }

    fn retry_sockets(&mut self) {
        let failed: Vec<(SocketKey, u32, SocketAddr)> = self
            .sockets
            .iter()
            .filter(|(_, bound)| bound.local.is_err())
            .map(|(key, bound)| (key.clone(), bound.id, bound.wanted))
            .collect();
        let mut changed = false;
        for (key, id, address) in failed {
            let local = self.bind(id, address);
            changed |= local.is_ok();
            self.sockets.insert(key, Bound { id, wanted: address, local });
        }
        if changed {
            self.publish(clock::now());
        }
    }

    fn socket_errors(&self, listeners: &[String]) -> Vec<InvalidResource> {
        let error = |name: &String| {
            let listener = self.listeners.get(name)?;
            let reason = self.sockets.get(&SocketKey::of(listener))?.local.as_ref().err()?;
            tracing::error!(listener = name, reason, "listener is down");
            Some(InvalidResource {
                resource: format!("Listener {name}"),
                field: "port".to_owned(),
                reason: reason.clone(),
            })
        };
        listeners.iter().filter_map(error).collect()
    }

    fn publish(&mut self, now: Timestamp) {
        if std::mem::take(&mut self.routing_stale) {
            let mut by_socket: BTreeMap<u32, Vec<ListenerConfig>> = BTreeMap::new();
            for listener in self.listeners.values() {
                if let Some(bound) = self.sockets.get(&SocketKey::of(listener)) {
                    // With the port that clients know: it is said in redirects.
                    let own = bound.local.as_ref().map_or(listener.port, SocketAddr::port);
                    let port = listener.public_port.map_or(own, NonZeroU16::get);
                    by_socket.entry(bound.id).or_default().push(ListenerConfig { port, ..listener.clone() });
                }
            }
            let names: Vec<&String> = self.backends.keys().collect();
            let position = |name: &str| names.binary_search_by(|known| known.as_str().cmp(name)).ok();
            let routes: Vec<&RouteConfig> = self.routes.values().collect();
            self.routing = Arc::new(Routing::new(&by_socket, &routes, position, &self.book));
        }
        let listeners: Vec<Listener> = self
            .listeners
            .values()
            .map(|listener| Listener {
                config: listener.clone(),
                bound: self
                    .sockets
                    .get(&SocketKey::of(listener))
                    .map_or_else(|| Err("not bound".to_owned()), |bound| bound.local.clone()),
            })
            .collect();
        let listed: Vec<ListenerStatus> = listeners
            .iter()
            .map(|listener| ListenerStatus { name: listener.config.name.clone(), bound: listener.bound.clone() })
            .collect();
        self.table.store(Arc::new(Table {
            version: self.table.load().version + 1,
            made_at: now,
            updated_at: self.updated_at,
            listeners,
            routing: self.routing.clone(),
            backends: self.backends.values().cloned().collect(),
        }));
        let held = self.held.is_some();
        // Only now: whoever sends a request because of what they are told here must meet the new table.
        let openings = if held { Vec::new() } else { std::mem::take(&mut self.openings) };
        for (worker, command) in openings {
            // A worker that has ended accepts nothing any more.
            let _ = worker.send(command);
        }
        self.status.send_if_modified(|status| {
            // One that is told of no listener has all that there is to have: whoever waits for it need not wait for a Gateway.
            let serves = listed.is_empty() || listed.iter().any(|listener| listener.bound.is_ok());
            let ready = !held && self.configured && serves;
            let changed = status.listeners != listed || status.ready != ready;
            status.listeners = listed;
            status.ready = ready;
            changed
        });
    }
}

impl SocketKey {
    fn of(listener: &ListenerConfig) -> Self {
        match listener.port {
            0 => Self::Own(listener.name.clone()),
            port => Self::Shared(SocketAddr::new(listener.address, port)),
        }
    }
}

/// Sends a command to each worker. One that has ended is noticed by whoever waits for it.
fn tell(workers: &[mpsc::UnboundedSender<Command>], command: impl Fn() -> Command) {
    for worker in workers {
        let _ = worker.send(command());
    }
}
