//! A proxy process from start to end: workers, the control thread with everything that is not on a request's path, and draining.

use std::{io, net::SocketAddr, path::PathBuf, sync::Arc, thread, time::Duration};

use arc_swap::ArcSwap;
use rand::{SeedableRng, rngs::SmallRng};
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot, watch},
};
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;

use crate::{
    admin,
    ads::AdsClient,
    class::{
        finder::Finder,
        sampling::{self, ClassSampler},
    },
    clock,
    counters::Counters,
    handover::{self, Giver, Inherited, Predecessor, Shelf},
    hash,
    health::checker::Checker,
    keeper::{Keeper, Update},
    link::{self, Controller},
    metrics::Sources,
    observe::{
        Observed, Observer,
        collector::Collector,
        log::{Destination, LogOptions, writer},
        record::Record,
        red::{self, otlp::MetricsOptions},
        trace::{
            Tracer,
            otlp::{self, Exporter, TraceOptions},
        },
    },
    peers::exchange::{Exchange, ListenError, PeerListen},
    sample::{self, Sampler, Sampling},
    status::ProxyStatus,
    table::Table,
    telemetry::Telemetry,
    worker::{self, Command},
};

/// Outlier events that wait for the keeper at most.
const OUTLIERS: usize = 4096;
/// Changes that wait for the keeper at most.
const UPDATES: usize = 16;
/// What the access log and the exporter of spans get to write what they have, once the last request is over.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// What a proxy is told at its start; everything else comes from the controller.
#[derive(Debug, Clone)]
pub struct ProxyOptions {
    /// Its name towards the controller; unique among proxies.
    pub id: String,
    /// Threads that serve requests; at least 1.
    pub workers: usize,
    /// Where the controller is.
    pub controller: Controller,
    /// Where the admin endpoint listens; `None`: nowhere.
    pub admin: Option<SocketAddr>,
    /// How long requests in flight may take to finish after the shutdown.
    pub drain_timeout: Duration,
    /// Whether other proxies on this machine may listen on the same addresses; the kernel then spreads clients over all of them.
    pub share_ports: bool,
    /// Where datagrams of other proxies are taken; `None`: this proxy takes part in no exchange.
    pub peers: Option<PeerListen>,
    /// Whether plain HTTP/1.1 takes the fast path; otherwise hyper serves everything. It changes what a request costs, not what becomes of it.
    pub fast_path: bool,
    /// The zone that it runs in, for the algorithm that prefers near endpoints; empty: unknown.
    pub zone: String,
    /// What is logged of requests; `None`: nothing.
    pub access_log: Option<LogOptions>,
    /// Where spans of requests go; `None`: nowhere, and `traceparent` passes as it came.
    pub trace: Option<TraceOptions>,
    /// Where rates, errors and durations of routes are sent; `None`: nowhere. They are on `/metrics` in any case.
    pub metrics: Option<MetricsOptions>,
    /// Path of a Unix socket at which a successor gets the listening sockets, and where a predecessor is asked for them; `None`: no hot restart.
    pub handover: Option<PathBuf>,
    /// Seed of all random choices; `None`: the system's.
    pub seed: Option<u64>,
    /// Told how the proxy is doing: subscribe before `run` to learn the addresses of listeners with port 0.
    pub status: watch::Sender<ProxyStatus>,
}

impl ProxyOptions {
    /// A proxy of this id and controller: one worker a core, no admin endpoint, no exchange with peers, 30 s to drain.
    pub fn new(id: impl Into<String>, controller: Controller) -> Self {
        Self {
            id: id.into(),
            workers: thread::available_parallelism().map_or(1, usize::from),
            controller,
            admin: None,
            drain_timeout: Duration::from_secs(30),
            share_ports: false,
            peers: None,
            fast_path: true,
            zone: String::new(),
            access_log: None,
            trace: None,
            metrics: None,
            handover: None,
            seed: None,
            status: watch::Sender::default(),
        }
    }
}

/// Why a proxy could not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// Without workers nothing is served.
    #[error("workers: must be at least 1")]
    NoWorkers,
    /// The controller knows proxies by their id.
    #[error("id: must not be empty")]
    NoId,
    /// The admin endpoint's address.
    #[error("admin: cannot listen on {address}: {source}")]
    Admin {
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// The access log.
    #[error("access log: cannot write to {to:?}: {source}")]
    AccessLog {
        /// Where.
        to: Destination,
        /// Why not.
        source: io::Error,
    },
    /// Where spans or metrics go.
    #[error("collector {uri}: {reason}")]
    Collector {
        /// Where.
        uri: http::Uri,
        /// Why it cannot be used.
        reason: String,
    },
    /// Hot restart.
    #[error("handover: {}: {source}", path.display())]
    Handover {
        /// Where.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The address for peers.
    #[error(transparent)]
    Peers(#[from] ListenError),
    /// The system gives no thread or runtime.
    #[error("cannot start {what}: {source}")]
    Start {
        /// What.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// A thread ended by itself: a bug of ours.
    #[error("{0} ended unexpectedly")]
    Died(String),
}

/// Runs a proxy until `shutdown`; then it stops accepting, finishes what is in flight, and returns.
///
/// Dropping the future stops the proxy without draining.
///
/// # Errors
/// If it cannot start, or a thread of it dies.
pub async fn run(options: ProxyOptions, shutdown: CancellationToken) -> Result<(), ProxyError> {
    let ProxyOptions {
        id,
        workers,
        controller,
        admin,
        drain_timeout,
        share_ports,
        peers,
        fast_path,
        zone,
        access_log,
        trace,
        metrics,
        handover,
        seed,
        status,
    } = options;
    if workers == 0 {
        return Err(ProxyError::NoWorkers);
    }
    if id.is_empty() {
        return Err(ProxyError::NoId);
    }
    let hot = |source| ProxyError::Handover { path: handover.clone().unwrap_or_default(), source };
    let mut inherited = match handover.clone() {
        None => Inherited::default(),
        // It waits for another process, though not for long.
        Some(path) => tokio::task::spawn_blocking(move || handover::ask(&path))
            .await
            .map_err(|_| ProxyError::Died("the request for sockets".to_owned()))?
            .map_err(hot)?,
    };
    let predecessor = inherited.predecessor();
    let admin = match (admin, inherited.admin) {
        (None, _) => None,
        (Some(address), Some(listener)) if listener.local_addr().is_ok_and(|local| local == address) => Some(listener),
        (Some(address), _) => Some(bind_admin(address)?),
    };
    let peers = peers.map(|peers| peers.bind_or_take(inherited.peers)).transpose()?;
    let shelf = handover.is_some().then(Shelf::default);
    if let Some(shelf) = &shelf {
        if let Some(admin) = &admin {
            shelf.put_admin(admin.try_clone().map_err(hot)?);
        }
        if let Some(peers) = &peers {
            shelf.put_peers(peers.try_clone().map_err(hot)?);
        }
    }
    let observed: Arc<Observed> = Arc::default();
    let mut observer = Observer::default();
    let mut log_written = None;
    if let Some(options) = access_log {
        let to = options.to.clone();
        let opened = writer::open(options, observed.clone());
        let (logger, writer) = opened.map_err(|source| ProxyError::AccessLog { to, source })?;
        observer.log = Some(logger);
        log_written = Some(spawn("proxy-log".to_owned(), move || {
            writer.run();
            Ok(())
        })?);
    }
    let mut spans = None;
    if let Some(options) = trace {
        let (queue, records) = otlp::queue();
        observer.trace = Some(Tracer::new(queue, observed.clone(), options.share));
        spans = Some((endpoint(&options.collector)?, options, records));
    }
    let metrics = match metrics {
        Some(options) => Some((endpoint(&options.collector)?, options)),
        None => None,
    };
    status.send_modify(|status| status.admin = admin.as_ref().and_then(|listener| listener.local_addr().ok()));

    let table: Arc<ArcSwap<Table>> = Arc::default();
    let (outlier_sender, outliers) = mpsc::channel(OUTLIERS);
    let (sample_sender, samples) = sample::queue();
    let (class_sender, class_samples) = sampling::queue();
    let sampling: Arc<Sampling> = Arc::default();
    let mut seeds = match seed {
        Some(seed) => SmallRng::seed_from_u64(seed),
        None => SmallRng::from_os_rng(),
    };
    let mut seed = || rand::RngCore::next_u64(&mut seeds);
    let mut counters = Vec::with_capacity(workers);
    let mut threads = Vec::with_capacity(workers);
    let (commands, receivers): (Vec<_>, Vec<_>) = (0..workers).map(|_| mpsc::unbounded_channel()).unzip();
    let all: worker::Workers = commands.iter().map(mpsc::UnboundedSender::downgrade).collect();
    for (index, receiver) in receivers.into_iter().enumerate() {
        let own: Arc<Counters> = Arc::default();
        counters.push(own.clone());
        let parts = worker::Parts {
            index,
            observer: observer.clone(),
            table: table.clone(),
            counters: own,
            outliers: outlier_sender.clone(),
            sampler: Sampler::new(sampling.clone(), sample_sender.clone(), seed()),
            class_sampler: ClassSampler::new(class_sender.clone(), seed()),
            seed: seed(),
            fast_path,
            commands: receiver,
            workers: all.clone(),
        };
        threads.push(spawn(format!("proxy-worker-{index}"), move || worker::run(parts))?);
    }
    drop((outlier_sender, sample_sender, class_sender, observer));

    let stop = CancellationToken::new();
    // Also if this future is dropped.
    let _stop_control = stop.clone().drop_guard();
    // A successor has the admin endpoint and the peers' datagrams from the moment at which it serves.
    let handed = CancellationToken::new();
    let leave = stop.child_token();
    let proxy_key = hash::proxy_key(&id);
    let (peer_sender, peer_tables) = watch::channel(None);
    let (mut peer_stats, mut peer_node) = (None, None);
    if let Some(bound) = peers {
        let epoch = seed();
        peer_node = Some((bound.advertised, epoch));
        let exchange = Exchange::new(bound, (proxy_key, epoch), table.clone(), peer_tables);
        peer_stats = Some(exchange.stats());
        let stop = leave.clone();
        // Without it requests are routed as they are without peers: nobody waits for its end.
        let _ended = spawn("proxy-peers".to_owned(), move || {
            exchange.run(&stop);
            Ok(())
        })?;
    }
    let sources = Sources {
        table: table.clone(),
        workers: counters,
        status: status.subscribe(),
        peers: peer_stats,
        observed: observed.clone(),
    };
    let finder = Finder::new(table.clone(), class_samples, status.subscribe());
    let (updates, pending) = mpsc::channel(UPDATES);
    let checker = Checker::new(table.clone(), updates.clone(), seed());
    let mut checker = {
        let stop = stop.clone();
        spawn("proxy-health".to_owned(), move || checker.run(&stop))?
    };
    let control = Control {
        keeper: Keeper::new(
            table.clone(),
            status.clone(),
            commands.clone(),
            (share_ports, shelf.clone(), predecessor.is_some().then_some(inherited.listeners)),
            proxy_key,
            peer_sender,
        )
        .in_zone(zone),
        telemetry: Telemetry::new(id.clone(), table.clone(), sampling, samples, finder.found()),
        finder,
        spans,
        metrics: metrics.map(|(endpoint, options)| (endpoint, options, table)),
        observed,
        id,
        peer_node,
        controller,
        status: status.clone(),
        outliers,
        updates,
        pending,
        admin: admin.map(|listener| (listener, sources)),
        rng: SmallRng::seed_from_u64(seed()),
        stop: stop.clone(),
        leave: leave.clone(),
    };
    let mut control = spawn("proxy-control".to_owned(), move || control.run())?;

    let mut workers = futures_util::future::select_all(threads.into_iter().map(|thread| thread.ended));
    let succession = Succession { path: handover, shelf: shelf.clone(), handed: handed.clone(), stop: leave.clone() };
    let mut succession = Box::pin(succession.run(predecessor, status.subscribe()));
    tokio::select! {
        () = shutdown.cancelled() => {}
        handed = &mut succession => {
            handed?;
            leave.cancel();
        }
        died = &mut workers => return Err(died_of("a worker", died.0)),
        died = &mut control.ended => return Err(died_of("the control thread", died)),
        died = &mut checker.ended => return Err(died_of("the health checker", died)),
    }
    drop(succession);
    status.send_modify(|status| status.draining = true);
    // Before the workers close theirs: a socket that stays open here would go on taking connections that nobody accepts.
    shelf.iter().for_each(Shelf::clear);
    tracing::info!(timeout = ?drain_timeout, "draining");
    for worker in &commands {
        // One that has ended has nothing to drain.
        let _ = worker.send(Command::Drain(drain_timeout));
    }
    let mut left = workers.into_inner();
    while !left.is_empty() {
        let (ended, _, rest) = futures_util::future::select_all(left).await;
        left = rest;
        if !matches!(ended, Ok(Ok(()))) {
            return Err(died_of("a worker", ended));
        }
    }
    // The last lines and spans are still on their way; a disk or a collector that does not take them is not waited for.
    if let Some(log) = log_written {
        let _ = tokio::time::timeout(LAST_WORDS, log.ended).await;
    }
    stop.cancel();
    match control.ended.await {
        Ok(Ok(())) => Ok(()),
        ended => Err(died_of("the control thread", ended)),
    }
}

/// Everything that is not on a request's path.
struct Control {
    keeper: Keeper,
    telemetry: Telemetry,
    finder: Finder,
    /// What is exported where.
    spans: Option<(Endpoint, TraceOptions, mpsc::Receiver<Arc<Record>>)>,
    metrics: Option<(Endpoint, MetricsOptions, Arc<ArcSwap<Table>>)>,
    observed: Arc<Observed>,
    id: String,
    /// Where peers reach this proxy, and its epoch.
    peer_node: Option<(SocketAddr, u64)>,
    controller: Controller,
    status: watch::Sender<ProxyStatus>,
    outliers: mpsc::Receiver<worker::Outlier>,
    /// Changes of the table, from anybody to the keeper.
    updates: mpsc::Sender<Update>,
    pending: mpsc::Receiver<Update>,
    admin: Option<(std::net::TcpListener, Sources)>,
    rng: SmallRng,
    stop: CancellationToken,
    /// Fires when a successor has what the request path does not need, too.
    leave: CancellationToken,
}

impl Control {
    fn run(self) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(self.serve())
    }

    async fn serve(mut self) -> io::Result<()> {
        let finder = self.finder.run(self.updates.clone());
        // By themselves: they go on while the rest ends, and end when the workers have.
        let spans = self.spans.take().map(|(endpoint, options, records)| {
            let exporter = Exporter::new(&options, &endpoint, &self.id, records, self.observed.clone());
            tokio::spawn(exporter.run())
        });
        let metrics = self.metrics.take().map(|(endpoint, options, table)| {
            let exporter = red::otlp::Exporter::new(&options, &endpoint, &self.id, table, self.observed.clone());
            tokio::spawn(exporter.run(self.stop.clone()))
        });
        let mut ads = AdsClient::new(self.id, self.peer_node, self.updates, self.status);
        let mut telemetry = self.telemetry;
        let (leader, led) = watch::channel(None);
        let mut rng = || SmallRng::from_rng(&mut self.rng);
        let (ads_rng, telemetry_rng) = (rng(), rng());
        let ads = link::follow_leader(self.controller, ads_rng, clock::now, leader, async |channel, leader| {
            ads.stream(channel, leader).await
        });
        let telemetry = link::keep_up("telemetry", telemetry_rng, led, async |channel| telemetry.stream(channel).await);
        let keeper = self.keeper.run(self.pending, self.outliers, self.stop.clone());
        let admin = async {
            match self.admin {
                Some((listener, sources)) => {
                    admin::serve(TcpListener::from_std(listener)?, sources, self.leave).await?;
                    // Left to a successor: the rest goes on.
                    self.stop.cancelled().await;
                    Ok(())
                }
                None => {
                    self.stop.cancelled().await;
                    Ok(())
                }
            }
        };
        let ended = tokio::select! {
            () = self.stop.cancelled() => Ok(()),
            () = ads => Ok(()),
            () = telemetry => Ok(()),
            () = finder => Ok(()),
            () = keeper => Ok(()),
            ended = admin => ended,
        };
        for exported in spans.into_iter().chain(metrics) {
            let _ = tokio::time::timeout(LAST_WORDS, exported).await;
        }
        ended
    }
}

/// Takes over from a predecessor, then waits for a successor.
struct Succession {
    path: Option<PathBuf>,
    shelf: Option<Shelf>,
    handed: CancellationToken,
    stop: CancellationToken,
}

impl Succession {
    /// Returns when a successor serves; never, if there can be none.
    async fn run(
        self,
        predecessor: Option<Predecessor>,
        mut status: watch::Receiver<ProxyStatus>,
    ) -> Result<(), ProxyError> {
        let (Some(path), Some(shelf)) = (self.path, self.shelf) else { return std::future::pending().await };
        // Nobody is to succeed one that does not serve yet.
        if status.wait_for(|status| status.ready).await.is_err() {
            return std::future::pending().await;
        }
        let giver = Giver::bind(&path, shelf).map_err(|source| ProxyError::Handover { path, source })?;
        if let Some(predecessor) = predecessor {
            match predecessor.ready() {
                Ok(()) => tracing::info!("took over from a predecessor, which drains"),
                Err(error) => tracing::warn!(%error, "the predecessor has gone"),
            }
        }
        let (handed, stop) = (self.handed.clone(), self.stop);
        // Ends with the proxy; nobody waits for it.
        let _ended = spawn("proxy-handover".to_owned(), move || {
            giver.run(&handed, &stop);
            Ok(())
        })?;
        self.handed.cancelled().await;
        Ok(())
    }
}

/// A thread that says how it ended.
struct Thread {
    ended: oneshot::Receiver<io::Result<()>>,
}

fn spawn(name: String, body: impl FnOnce() -> io::Result<()> + Send + 'static) -> Result<Thread, ProxyError> {
    let (end, ended) = oneshot::channel();
    // A panic drops the sender, which is noticed.
    let spawned = thread::Builder::new().name(name).spawn(move || {
        let result = body();
        let _ = end.send(result);
    });
    spawned.map(|_| Thread { ended }).map_err(|source| ProxyError::Start { what: "a thread", source })
}

fn died_of(what: &'static str, ended: Result<io::Result<()>, oneshot::error::RecvError>) -> ProxyError {
    match ended {
        Ok(Err(source)) => ProxyError::Start { what, source },
        Ok(Ok(())) | Err(_) => ProxyError::Died(what.to_owned()),
    }
}

fn endpoint(collector: &Collector) -> Result<Endpoint, ProxyError> {
    collector.endpoint().map_err(|reason| ProxyError::Collector { uri: collector.uri.clone(), reason })
}

fn bind_admin(address: SocketAddr) -> Result<std::net::TcpListener, ProxyError> {
    let bind = || {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    bind().map_err(|source| ProxyError::Admin { address, source })
}
