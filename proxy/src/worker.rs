//! A worker: one thread, one current-thread runtime, its own connections to endpoints, its share of the clients. Workers share the
//! table and the endpoints' live loads, and nothing else. They never wait for one another, but for one thing: where a circuit breaker allows no more
//! connections, another worker is asked to close an idle one.

use std::{
    cell::{Cell, RefCell},
    io,
    net::SocketAddr,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use http::HeaderValue;
use rand::{RngCore, SeedableRng, rngs::SmallRng};
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::LocalOptions,
    sync::mpsc,
};
use tokio_util::sync::CancellationToken;

use crate::{
    backend::BackendState,
    class::sampling::ClassSampler,
    client::proxy_protocol,
    clock,
    counters::Counters,
    heart::{self, Heart},
    http::{fast, http2, pool::Pool, session, shared::SharedPool, upstream::Upstream},
    observe::Observer,
    outlier::OutlierEvent,
    probing::{self, Probing},
    sample::Sampler,
    table::{BackendEntry, Table},
    time::Timestamp,
};

/// How often a worker looks after its idle connections.
const SWEEP: Duration = Duration::from_secs(1);
/// After an accept that failed (no file descriptors, most likely).
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);

/// The log hears of failed accepts this often: without file descriptors there are twenty a second and worker.
const FAILURES_EVERY: Duration = Duration::from_secs(10);

/// A worker's own reference to the table: counting it touches no cache line that other cores touch.
pub type LocalTable = Rc<Arc<Table>>;

/// An endpoint misbehaved, or recovered.
#[derive(Debug)]
pub struct Outlier {
    /// Whose endpoint; identity that survives changes of the backend.
    pub state: Arc<BackendState>,
    /// The backend's name.
    pub backend: String,
    /// What was noticed.
    pub event: OutlierEvent,
}

/// What a worker is told.
#[derive(Debug)]
pub enum Command {
    /// Accept on this socket too.
    Listen(Listening),
    /// Stop accepting on the socket of that number; its connections finish.
    Unlisten(u32),
    /// Stop accepting, finish what is in flight within this time, and end.
    Drain(Duration),
    /// Another worker wants a connection more than the circuit breaker allows.
    CloseIdle(CloseIdle),
}

/// A wish for an idle connection to be closed.
#[derive(Debug)]
pub struct CloseIdle {
    entry: Arc<BackendEntry>,
    closed: mpsc::Sender<()>,
}

/// All workers, to be told something; a worker that has ended is not kept by them.
pub type Workers = Arc<[mpsc::WeakUnboundedSender<Command>]>;

/// A bound socket on its way to a worker.
#[derive(Debug)]
pub struct Listening {
    /// Number of the socket, the same in all workers.
    pub id: u32,
    /// Bound and listening, in non-blocking mode.
    pub listener: std::net::TcpListener,
    /// Its open connections over all workers.
    pub connections: Arc<AtomicUsize>,
}

/// What a worker is made of.
#[derive(Debug)]
pub struct Parts {
    /// Its number, from 0.
    pub index: usize,
    /// The table.
    pub table: Arc<ArcSwap<Table>>,
    /// Its counters.
    pub counters: Arc<Counters>,
    /// Where outlier events go.
    pub outliers: mpsc::Sender<Outlier>,
    /// Where samples go.
    pub sampler: Sampler,
    /// Where samples go by which kinds of requests are found.
    pub class_sampler: ClassSampler,
    /// Who wants records of requests.
    pub observer: Observer,
    /// Seed of its random numbers.
    pub seed: u64,
    /// Whether plain requests take the fast path.
    pub fast_path: bool,
    /// What it is told.
    pub commands: mpsc::UnboundedReceiver<Command>,
    /// All of them, itself included.
    pub workers: Workers,
}

/// State of one worker; it never leaves its thread.
#[derive(Debug)]
pub struct Worker {
    /// Its number, from 0.
    pub index: usize,
    table: Arc<ArcSwap<Table>>,
    /// The table of the last request: a request counts a reference that no other core touches.
    cached: RefCell<LocalTable>,
    /// Idle connections to endpoints that hyper drives.
    pub pool: Pool<Upstream>,
    /// Those that requests share.
    pub shared: SharedPool,
    /// Those of the fast path.
    pub plain_pool: Pool<fast::Endpoint>,
    /// How late it is.
    pub heart: Heart,
    /// What serves streams of HTTP/2.
    pub runners: http2::Runners,
    /// Prequal's probes.
    pub probing: Probing,
    /// For picking.
    pub rng: RefCell<SmallRng>,
    /// Counters.
    pub counters: Arc<Counters>,
    /// Samples.
    pub sampler: Sampler,
    /// Samples by which kinds of requests are found.
    pub class_sampler: ClassSampler,
    /// Who wants records of requests.
    pub observer: Observer,
    outliers: mpsc::Sender<Outlier>,
    workers: Workers,
    /// What the fast path reads into.
    pub scratch: RefCell<fast::Scratch>,
    /// Whether plain requests take the fast path.
    pub fast_path: bool,
    /// Connections to endpoints that could not be made.
    pub unconnected: Cell<Failures>,
    request_ids: Cell<u64>,
    request_id_prefix: u64,
}

/// A socket that a worker accepts on.
#[derive(Debug)]
pub struct Socket {
    /// Its number.
    pub id: u32,
    /// Fires when its connections are to finish.
    pub drain: CancellationToken,
    draining: Cell<bool>,
    connections: Arc<AtomicUsize>,
}

impl Socket {
    /// Whether its connections are to finish.
    pub fn is_draining(&self) -> bool {
        self.draining.get()
    }

    fn drain(&self) {
        self.draining.set(true);
        self.drain.cancel();
    }
}

impl Worker {
    /// The present table.
    pub fn table(&self) -> LocalTable {
        let current = self.table.load();
        let mut cached = self.cached.borrow_mut();
        if !Arc::ptr_eq(&cached, &current) {
            *cached = Rc::new(Arc::clone(&current));
        }
        cached.clone()
    }

    /// A random number.
    pub fn random(&self) -> u64 {
        self.rng.borrow_mut().next_u64()
    }

    /// A random number from 0 to below 1.
    pub fn share(&self) -> f64 {
        f64::from(self.rng.borrow_mut().next_u32()) / (f64::from(u32::MAX) + 1.0)
    }

    /// The name of a request as a header's value.
    pub fn named(&self, id: [u8; 24]) -> HeaderValue {
        let id = bytes::Bytes::copy_from_slice(&id);
        HeaderValue::from_maybe_shared(id).unwrap_or_else(|_| HeaderValue::from_static("0"))
    }

    /// A name for a request that has none: unique, not secret.
    pub fn next_request_id(&self) -> [u8; 24] {
        let count = self.request_ids.get();
        self.request_ids.set(count.wrapping_add(1));
        let digit = |number: u64, place: usize| b"0123456789abcdef"[(number >> (4 * place)) as usize & 15];
        let prefix = self.request_id_prefix.wrapping_add(count >> 32);
        std::array::from_fn(|at| if at < 16 { digit(prefix, 15 - at) } else { digit(count, 23 - at) })
    }

    /// Closes an idle connection to an endpoint of this backend. `false` if there is none.
    pub fn close_idle(&self, entry: &BackendEntry) -> bool {
        self.pool.evict(&entry.targets) || self.plain_pool.evict(&entry.targets) || self.shared.evict(&entry.targets)
    }

    /// The same for another worker. One connection is enough for whoever asked, and it may be gone, or have been helped meanwhile.
    fn oblige(&self, CloseIdle { entry, closed }: &CloseIdle) {
        if let Ok(answer) = closed.try_reserve()
            && self.close_idle(entry)
        {
            answer.send(());
        }
    }

    /// Asks the other workers to close one. Hears of it, and then, or when none of them has one, the end.
    pub fn ask_to_close_idle(&self, entry: &Arc<BackendEntry>) -> mpsc::Receiver<()> {
        let (closed, answers) = mpsc::channel(1);
        let others = self.workers.iter().enumerate().filter(|(index, _)| *index != self.index);
        for sender in others.filter_map(|(_, worker)| worker.upgrade()) {
            // One that has just ended has closed all.
            let _ = sender.send(Command::CloseIdle(CloseIdle { entry: entry.clone(), closed: closed.clone() }));
        }
        answers
    }

    /// Tells the keeper of the table. Never waits: an event that does not fit is told again at the next multiple of its threshold.
    pub fn report_outlier(&self, entry: &BackendEntry, event: OutlierEvent) {
        let outlier = Outlier { state: entry.backend.state().clone(), backend: entry.backend.name().to_owned(), event };
        if self.outliers.try_send(outlier).is_err() {
            self.counters.events_lost.add(1);
        }
    }
}

/// Runs a worker on this thread until it is told to drain, and has.
///
/// # Errors
/// If the runtime cannot be made.
pub fn run(parts: Parts) -> io::Result<()> {
    // Its tasks never leave the thread: no set of local tasks inside a runtime that could do more.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    runtime.block_on(main(parts));
    Ok(())
}

async fn main(parts: Parts) {
    let Parts {
        index,
        table,
        counters,
        outliers,
        sampler,
        class_sampler,
        observer,
        seed,
        fast_path,
        mut commands,
        workers,
    } = parts;
    let mut rng = SmallRng::seed_from_u64(seed);
    let worker = Rc::new(Worker {
        index,
        cached: RefCell::new(Rc::new(table.load_full())),
        table,
        pool: Pool::default(),
        shared: SharedPool::default(),
        plain_pool: Pool::default(),
        heart: Heart::default(),
        runners: http2::Runners::default(),
        probing: Probing::default(),
        counters,
        sampler,
        class_sampler,
        observer,
        outliers,
        workers,
        scratch: RefCell::default(),
        fast_path,
        unconnected: Cell::default(),
        request_ids: Cell::new(0),
        request_id_prefix: rng.next_u64(),
        rng: RefCell::new(rng),
    });
    tokio::task::spawn_local(heart::beat(worker.clone()));
    tokio::task::spawn_local(probing::run(worker.clone()));
    let mut sockets: Vec<(Rc<Socket>, CancellationToken)> = Vec::new();
    let mut sweep = tokio::time::interval(SWEEP);
    sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let drain_timeout = loop {
        tokio::select! {
            command = commands.recv() => match command {
                Some(Command::Listen(listening)) => {
                    let accepting = CancellationToken::new();
                    if let Some(socket) = listen(&worker, listening, &accepting) {
                        sockets.push((socket, accepting));
                    }
                }
                Some(Command::Unlisten(id)) => sockets.retain(|(socket, accepting)| {
                    if socket.id == id {
                        accepting.cancel();
                    }
                    socket.id != id
                }),
                Some(Command::Drain(timeout)) => break timeout,
                Some(Command::CloseIdle(wish)) => worker.oblige(&wish),
                // Whoever gave commands is gone: there is nobody to serve for.
                None => break Duration::ZERO,
            },
            _ = sweep.tick() => {
                worker.pool.sweep(clock::now());
                worker.plain_pool.sweep(clock::now());
                worker.shared.sweep(clock::now());
                worker.probing.sweep(clock::now());
                let idle = &worker.counters.idle;
                idle.sub(idle.get());
                idle.add((worker.pool.len() + worker.plain_pool.len() + worker.shared.idle()) as u64);
            }
        }
    };
    sockets.iter().for_each(|(_, accepting)| accepting.cancel());
    let deadline = clock::instant(clock::now() + drain_timeout);
    // Accept loops run once more before they end, and connections count from their accept on.
    loop {
        tokio::task::yield_now().await;
        let accepting = sockets.iter().any(|(socket, _)| !socket.is_draining());
        if !accepting && worker.counters.open.get() == 0 {
            return;
        }
        tokio::select! {
            // The others still have requests, and this one idle connections.
            Some(Command::CloseIdle(wish)) = commands.recv() => worker.oblige(&wish),
            () = tokio::time::sleep(Duration::from_millis(5)) => {}
            () = tokio::time::sleep_until(deadline) => {
                let open = worker.counters.open.get();
                tracing::warn!(open, "drain timeout: closing connections that are still open");
                return;
            }
        }
    }
}

fn listen(worker: &Rc<Worker>, listening: Listening, accepting: &CancellationToken) -> Option<Rc<Socket>> {
    let listener = match TcpListener::from_std(listening.listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "a bound socket cannot be used");
            return None;
        }
    };
    let socket = Rc::new(Socket {
        id: listening.id,
        drain: CancellationToken::new(),
        draining: Cell::new(false),
        connections: listening.connections,
    });
    tokio::task::spawn_local(accept(worker.clone(), socket.clone(), listener, accepting.clone()));
    Some(socket)
}

/// Accepts until told to stop; then takes what has already connected, so that closing the socket resets nobody.
async fn accept(worker: Rc<Worker>, socket: Rc<Socket>, listener: TcpListener, stop: CancellationToken) {
    let mut failures = Failures::default();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => admit(&worker, &socket, stream, peer),
                Err(error) => {
                    if let Some(others) = failures.tell(clock::now()) {
                        tracing::warn!(%error, others, "accept failed");
                    }
                    if !is_transient(&error) {
                        tokio::time::sleep(ACCEPT_BACKOFF).await;
                    }
                }
            },
        }
    }
    match listener.into_std() {
        Ok(listener) => {
            while let Ok((stream, peer)) = listener.accept() {
                match stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream)) {
                    Ok(stream) => admit(&worker, &socket, stream, peer),
                    Err(error) => tracing::warn!(%error, "a connection from the backlog cannot be used"),
                }
            }
        }
        Err(error) => tracing::warn!(%error, "the backlog cannot be served"),
    }
    socket.drain();
}

/// Something that fails again and again. The log hears of the first time, and then of how often it was.
#[derive(Debug, Clone, Copy, Default)]
pub struct Failures {
    told_at: Option<Timestamp>,
    untold: u64,
}

impl Failures {
    /// It failed once more. If the log is to hear of it: how often it did since the log heard last.
    pub fn tell(&mut self, now: Timestamp) -> Option<u64> {
        if self.told_at.is_some_and(|at| now < at + FAILURES_EVERY) {
            self.untold += 1;
            return None;
        }
        self.told_at = Some(now);
        Some(std::mem::take(&mut self.untold))
    }
}

/// Errors of the connection that was to be accepted, not of the listener.
fn is_transient(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}

fn admit(worker: &Rc<Worker>, socket: &Rc<Socket>, stream: TcpStream, peer: SocketAddr) {
    // A socket whose routes are gone is about to be closed; its last clients are told 404.
    let table = worker.table();
    let routes = table.routing.socket(socket.id);
    let limits = routes.map(|routes| routes.limits).unwrap_or_default();
    let tls = routes.and_then(|routes| routes.tls.clone());
    // Whether the connection begins with a PROXY header.
    let passed_on = routes.and_then(|routes| routes.client_detection.as_ref()).is_some_and(|detection| {
        let peer = peer.ip().to_canonical();
        detection.proxy_protocol_from.iter().any(|network| network.contains(peer))
    });
    let open = Open::new(worker, socket);
    if open.before >= limits.connections_max {
        worker.counters.refused.add(1);
        return;
    }
    worker.counters.accepted.add(1);
    let (worker, socket) = (worker.clone(), socket.clone());
    tokio::task::spawn_local(async move {
        let (mut stream, mut peer) = (stream, peer);
        if passed_on {
            let header = tokio::time::timeout(limits.header_timeout, proxy_protocol::read(&mut stream));
            let said = tokio::select! {
                said = header => said,
                // It has sent no request yet that could be lost.
                () = socket.drain.cancelled() => return,
            };
            match said {
                Ok(Ok(proxy_protocol::Header::Client(client))) => peer = client,
                Ok(Ok(proxy_protocol::Header::Unknown)) => {}
                Ok(Err(error)) => {
                    tracing::debug!(%peer, %error, "no PROXY header");
                    worker.counters.malformed.add(1);
                    return;
                }
                Err(_) => {
                    worker.counters.header_timeouts.add(1);
                    return;
                }
            }
        }
        if let Some(speaks) = session::serve(worker, socket, stream, peer, limits, tls).await {
            // In a task of its own: the memory of this one, which is what HTTP/1.1 needs, would be held as long.
            tokio::task::spawn_local(async move {
                let _open = open;
                http2::serve(speaks).await;
            });
        }
    });
}

/// Counts an open client connection.
struct Open {
    before: usize,
    worker: Rc<Worker>,
    socket: Rc<Socket>,
}

impl Open {
    fn new(worker: &Rc<Worker>, socket: &Rc<Socket>) -> Self {
        worker.counters.open.add(1);
        let before = socket.connections.fetch_add(1, Relaxed);
        Self { before, worker: worker.clone(), socket: socket.clone() }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.worker.counters.open.sub(1);
        self.socket.connections.fetch_sub(1, Relaxed);
    }
}
