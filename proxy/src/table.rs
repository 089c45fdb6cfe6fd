//! What the workers route by: one immutable value behind one swap. A worker looks at it once per request.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use crate::{
    backend::Backend,
    config::{BackendConfig, EndpointConfig, Protocol},
    keys::KeyMap,
    route::{ListenerConfig, Routing},
    time::Timestamp,
    tls::endpoints::EndpointTls,
};

/// Everything that a worker needs to route a request.
#[derive(Debug, Default)]
pub struct Table {
    /// Counts up by one with each table.
    pub version: u64,
    /// When it was made.
    pub made_at: Timestamp,
    /// When the controller last changed anything in it; `None` before it did.
    pub updated_at: Option<Timestamp>,
    /// Listeners by name, and what became of them.
    pub listeners: Vec<Listener>,
    /// Routes; they refer to backends by position.
    pub routing: Arc<Routing>,
    /// Backends, sorted by name.
    pub backends: Vec<Arc<BackendEntry>>,
}

impl Table {
    /// The backend of that name.
    pub fn backend(&self, name: &str) -> Option<&Arc<BackendEntry>> {
        let position = self.backends.binary_search_by(|entry| entry.backend.name().cmp(name)).ok()?;
        Some(&self.backends[position])
    }
}

/// One listener of the table.
#[derive(Debug, Clone)]
pub struct Listener {
    /// As configured.
    pub config: ListenerConfig,
    /// Where it listens, or why it does not.
    pub bound: Result<SocketAddr, String>,
}

/// A backend with what is needed to reach it.
#[derive(Debug, Clone)]
pub struct BackendEntry {
    /// Endpoints, weights, and the rule.
    pub backend: Arc<Backend>,
    /// Where its endpoints are, in their order.
    pub targets: Arc<[Arc<Target>]>,
    /// Its open connections; outlives tables.
    pub connections: Arc<Connections>,
}

/// The connections of all workers to one backend.
#[derive(Debug, Default)]
pub struct Connections {
    open: AtomicU32,
    /// When workers were asked last for one that is idle, and had none; 0: since then there was one.
    none_idle_at: AtomicU64,
}

/// So long nobody asks again for an idle connection where there was none: in an overload each request would.
const NONE_IDLE: Duration = Duration::from_millis(10);

impl BackendEntry {
    /// A backend whose targets are taken over from `previous` where they are the same.
    pub fn new(backend: Arc<Backend>, previous: Option<&Self>) -> Self {
        let config: &BackendConfig = backend.config();
        let (protocol, tls) = (config.protocol, config.traffic.tls.as_ref());
        let targets: Arc<[Arc<Target>]> = if let Some(previous) = previous
            && previous.targets.len() == config.endpoints.len()
            && previous
                .targets
                .iter()
                .zip(&config.endpoints)
                .all(|(target, endpoint)| target.is(endpoint, protocol, tls))
        {
            previous.targets.clone()
        } else {
            // By key: with thousands of endpoints a search for each would take longer than everything else.
            let before: KeyMap<&Arc<Target>> = previous
                .iter()
                .flat_map(|previous| previous.targets.iter())
                .map(|target| (target.of.key, target))
                .collect();
            let old = |endpoint: &Arc<EndpointConfig>| {
                before
                    .get(&endpoint.key)
                    .filter(|target| target.is(endpoint, protocol, tls))
                    .map(|target| Arc::clone(target))
            };
            config
                .endpoints
                .iter()
                .map(|endpoint| old(endpoint).unwrap_or_else(|| Arc::new(Target::new(endpoint, protocol, tls))))
                .collect()
        };
        let connections = previous.map(|previous| previous.connections.clone()).unwrap_or_default();
        Self { backend, targets, connections }
    }

    /// The same place with another state of the backend.
    pub fn with_backend(&self, backend: Backend) -> Self {
        Self { backend: Arc::new(backend), targets: self.targets.clone(), connections: self.connections.clone() }
    }

    /// Asks for one more connection, within the circuit breaker. `None` if there are too many.
    pub fn open_connection(&self) -> Option<ConnectionPermit> {
        let max = self.backend.config().circuit_breaker.max_connections;
        let one_more = |open| max.is_none_or(|max| open < max).then_some(open + 1);
        let opened = self.connections.open.fetch_update(Relaxed, Relaxed, one_more);
        opened.ok().map(|_| ConnectionPermit(self.connections.clone()))
    }
}

impl Connections {
    /// How many are open.
    pub fn open(&self) -> u32 {
        self.open.load(Relaxed)
    }

    /// Whether no worker had an idle one a moment ago.
    pub fn were_busy(&self, now: Timestamp) -> bool {
        let at = Timestamp(self.none_idle_at.load(Relaxed));
        at != Timestamp::default() && now.since(at) < NONE_IDLE
    }

    /// No worker has an idle one.
    pub fn found_busy(&self, now: Timestamp) {
        self.none_idle_at.store(now.0, Relaxed);
    }

    /// Who had to wait for one has it: others may ask again.
    pub fn found_one(&self) {
        self.none_idle_at.store(0, Relaxed);
    }
}

/// Counts one upstream connection while it lives.
#[derive(Debug)]
pub struct ConnectionPermit(Arc<Connections>);

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Relaxed);
    }
}

/// Where an endpoint is. It keeps its identity from table to table, so that pooled connections are found again.
#[derive(Debug)]
pub struct Target {
    /// Unique in this process.
    pub id: u64,
    /// Its address.
    pub address: Address,
    /// What it speaks.
    pub protocol: Protocol,
    /// How it is spoken to over TLS; `None`: in clear text.
    pub tls: Option<Arc<EndpointTls>>,
    of: Arc<EndpointConfig>,
    retired: AtomicBool,
}

/// An address to connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A numeric one.
    Ip(SocketAddr),
    /// A name, resolved at each connect.
    Name(String, u16),
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => write!(formatter, "{address}"),
            Self::Name(host, port) => write!(formatter, "{host}:{port}"),
        }
    }
}

impl Target {
    fn new(endpoint: &Arc<EndpointConfig>, protocol: Protocol, tls: Option<&Arc<EndpointTls>>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self {
            id: NEXT.fetch_add(1, Relaxed),
            address: Address::of(endpoint),
            protocol,
            tls: tls.cloned(),
            of: endpoint.clone(),
            retired: AtomicBool::new(false),
        }
    }

    fn is(&self, endpoint: &Arc<EndpointConfig>, protocol: Protocol, tls: Option<&Arc<EndpointTls>>) -> bool {
        let place = |of: &EndpointConfig| (of.key, of.port);
        let same =
            Arc::ptr_eq(&self.of, endpoint) || place(&self.of) == place(endpoint) && self.of.host == endpoint.host;
        same && self.protocol == protocol && self.tls.as_ref() == tls
    }

    /// It has left the table: its idle connections are of no more use.
    pub fn retire(&self) {
        self.retired.store(true, Relaxed);
    }

    /// Whether it has left the table.
    pub fn is_retired(&self) -> bool {
        self.retired.load(Relaxed)
    }
}

impl Address {
    /// Without the port, and without brackets.
    pub fn host(&self) -> String {
        match self {
            Self::Ip(address) => address.ip().to_string(),
            Self::Name(host, _) => host.clone(),
        }
    }

    fn of(endpoint: &EndpointConfig) -> Self {
        let port = endpoint.port.get();
        let host = endpoint.host.trim_start_matches('[').trim_end_matches(']');
        match host.parse::<IpAddr>() {
            Ok(ip) => Self::Ip(SocketAddr::new(ip, port)),
            Err(_) => Self::Name(endpoint.host.clone(), port),
        }
    }
}
