//! A simulated pod: a real HTTP/1.1 server on loopback whose requests take a worker and some time, but no CPU. It has a
//! bounded queue, a speed, seeded service times, faults that can be switched while it runs, and `/metrics`.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use prometheus_client::metrics::gauge::Gauge;
use serde::{Deserialize, Serialize};
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::clock;
use super::faults::{ColdStart, Faults};
use super::kinds::{self, Kind};
use super::pod_metrics::{self, PodMetrics};
use super::service_time::{Draws, ServiceTime};

/// Header of an answer: how long its request was inside the pod, microseconds.
pub const INSIDE_US: HeaderName = HeaderName::from_static("x-inside-us");

/// What a pod is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PodSpec {
    /// For people.
    pub name: String,
    /// Requests that it serves at once.
    pub workers: usize,
    /// Requests that may wait; one more is answered 503 at once.
    pub queue_limit: usize,
    /// Service time at speed 1 of requests that are of none of the `kinds`.
    pub service: ServiceTime,
    /// Requests with service times of their own.
    pub kinds: Vec<Kind>,
    /// How many times faster than speed 1 it works.
    pub speed: f64,
    /// Seed of its service times.
    pub seed: u64,
    /// Bytes of every answer's body.
    pub body_bytes: usize,
    /// Whether answers carry `endpoint-load-metrics` (ORCA) with the requests in flight.
    pub orca: bool,
    /// Slow after every start.
    pub cold_start: Option<ColdStart>,
    /// Faults to start with.
    pub faults: Faults,
}

impl Default for PodSpec {
    fn default() -> Self {
        Self {
            name: "pod".to_owned(),
            workers: 3,
            queue_limit: 64,
            service: ServiceTime::Exponential { ms_mean: 80.0 },
            kinds: Vec::new(),
            speed: 1.0,
            seed: 0,
            body_bytes: 64,
            orca: false,
            cold_start: None,
            faults: Faults::default(),
        }
    }
}

impl PodSpec {
    /// Requests per second of no kind in particular that it completes at the most while nothing is wrong with it.
    pub fn capacity_rps(&self) -> f64 {
        self.workers as f64 * self.speed * 1000.0 / self.service.ms_mean()
    }
}

/// A running (or crashed) pod. Dropping it crashes it.
#[derive(Debug)]
pub struct Pod {
    spec: PodSpec,
    address: SocketAddr,
    faults: Arc<watch::Sender<Faults>>,
    process: Mutex<Option<Process>>,
}

/// What a crash ends.
#[derive(Debug)]
struct Process {
    drain: CancellationToken,
    crash: CancellationToken,
    tasks: TaskTracker,
    inside: Arc<Inside>,
}

impl Pod {
    /// Starts a pod on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// If the socket cannot be had, or the specification has no worker, no speed or no service time.
    pub async fn start(spec: PodSpec) -> io::Result<Self> {
        Self::start_at(spec, (Ipv4Addr::LOCALHOST, 0).into()).await
    }

    /// Starts a pod on `address`.
    ///
    /// # Errors
    /// See [`Pod::start`].
    pub async fn start_at(spec: PodSpec, address: SocketAddr) -> io::Result<Self> {
        let positive = |value: f64| value.is_finite() && value > 0.0;
        if spec.workers == 0 || !positive(spec.speed) || !positive(spec.service.ms_mean()) {
            let problem = format!("pod {}: workers, speed and service time must be positive", spec.name);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
        }
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let faults = Arc::new(watch::Sender::new(spec.faults));
        let process = Process::spawn(&spec, Arc::clone(&faults), listener, 0);
        Ok(Self { spec, address, faults, process: Mutex::new(Some(process)) })
    }

    /// Where it listens, or listened before it crashed.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it is.
    pub fn spec(&self) -> &PodSpec {
        &self.spec
    }

    /// What is wrong with it at present.
    pub fn faults(&self) -> Faults {
        *self.faults.borrow()
    }

    /// Changes what is wrong with it, at once.
    pub fn set_faults(&self, faults: Faults) {
        self.faults.send_replace(faults);
    }

    /// Requests inside, waiting or served; 0 while crashed.
    pub fn in_flight(&self) -> u64 {
        self.process().as_ref().map_or(0, |process| u64::try_from(process.inside.metrics.in_flight.get()).unwrap_or(0))
    }

    /// How many times slower it is at present because it started lately; 1 once it is warm.
    pub fn cold_factor(&self) -> f64 {
        self.process().as_ref().map_or(1.0, |process| process.inside.cold_factor())
    }

    /// Whether its process runs.
    pub fn is_up(&self) -> bool {
        self.process().is_some()
    }

    /// Dies: the port closes, every connection is reset. Returns when that has happened.
    pub async fn crash(&self) {
        let process = self.process().take();
        if let Some(process) = process {
            process.crash.cancel();
            process.tasks.wait().await;
        }
    }

    /// Starts again on the same port after a crash, with fresh metrics and cold. Does nothing if it is up.
    ///
    /// # Errors
    /// If somebody else has taken the port.
    pub async fn restart(&self) -> io::Result<()> {
        if self.is_up() {
            return Ok(());
        }
        let listener = TcpListener::bind(self.address).await?;
        let generation = u64::try_from(clock::since_epoch().as_millis()).unwrap_or(1);
        let process = Process::spawn(&self.spec, Arc::clone(&self.faults), listener, generation);
        *self.process() = Some(process);
        Ok(())
    }

    /// Stops as a pod does on SIGTERM: no new connection, requests inside are answered, then connections close. What is left
    /// after `patience` is reset.
    pub async fn drain(&self, patience: Duration) {
        let process = self.process().take();
        if let Some(process) = process {
            process.drain.cancel();
            if tokio::time::timeout(patience, process.tasks.wait()).await.is_err() {
                process.crash.cancel();
                process.tasks.wait().await;
            }
        }
    }

    fn process(&self) -> MutexGuard<'_, Option<Process>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.crash.cancel();
    }
}

impl Process {
    fn spawn(spec: &PodSpec, faults: Arc<watch::Sender<Faults>>, listener: TcpListener, generation: u64) -> Self {
        let inside = Arc::new(Inside {
            workers: Semaphore::new(spec.workers),
            waiting: AtomicUsize::new(0),
            faults,
            draws: Mutex::new(Draws::new(spec.seed ^ generation)),
            metrics: PodMetrics::new(spec.workers, clock::since_epoch()),
            started: clock::now(),
            body: Bytes::from(vec![b'x'; spec.body_bytes]),
            spec: spec.clone(),
        });
        let (drain, crash, tasks) = (CancellationToken::new(), CancellationToken::new(), TaskTracker::new());
        let accepting = accept(listener, Arc::clone(&inside), drain.clone(), crash.clone(), tasks.clone());
        tasks.spawn(accepting);
        tasks.close();
        Self { drain, crash, tasks, inside }
    }
}

/// Accepts until the pod drains or dies.
async fn accept(
    listener: TcpListener,
    inside: Arc<Inside>,
    drain: CancellationToken,
    crash: CancellationToken,
    tasks: TaskTracker,
) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = drain.cancelled() => return,
            () = crash.cancelled() => return,
        };
        match accepted {
            Ok((stream, _)) => {
                tasks.spawn(serve(stream, Arc::clone(&inside), drain.clone(), crash.clone()));
            }
            // Out of file descriptors, or the client is gone already: neither is helped by giving up.
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}

/// Serves one connection until the client closes it, the pod drains, or the pod dies (then it is reset, not closed).
async fn serve(stream: TcpStream, inside: Arc<Inside>, drain: CancellationToken, crash: CancellationToken) {
    // Without it, an answer could wait for the acknowledgement of the last one.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| {
        let inside = Arc::clone(&inside);
        async move { Ok::<_, Infallible>(inside.handle(request).await) }
    });
    let mut connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        _ = &mut connection => return,
        () = drain.cancelled() => {}
        () = crash.cancelled() => {}
    }
    Pin::new(&mut connection).graceful_shutdown();
    tokio::select! {
        biased;
        () = crash.cancelled() => {}
        _ = &mut connection => return,
    }
    let stream = connection.into_parts().io.into_inner();
    // A zero linger makes the close a reset, as the kernel does for a killed process with unread data.
    let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
}

/// The application inside the pod.
#[derive(Debug)]
struct Inside {
    spec: PodSpec,
    /// Fair: those who wait are served in the order in which they came.
    workers: Semaphore,
    waiting: AtomicUsize,
    faults: Arc<watch::Sender<Faults>>,
    draws: Mutex<Draws>,
    metrics: PodMetrics,
    started: Instant,
    body: Bytes,
}

impl Inside {
    async fn handle(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        self.while_paused().await;
        let (parts, mut body) = request.into_parts();
        match parts.uri.path() {
            "/metrics" => self.metrics_text(),
            "/healthz" => Response::new(Full::new(Bytes::from_static(b"ok\n"))),
            path => {
                let (started, _in_flight) = (clock::now(), Raised::new(&self.metrics.in_flight));
                // A body that breaks off is the client's loss; the work is done all the same.
                while let Some(Ok(_)) = body.frame().await {}
                let status = self.work(path).await;
                self.while_paused().await;
                let inside = started.elapsed();
                self.metrics.answered(status.as_u16(), inside);
                let mut answer = self.answer(status);
                let inside_us = u64::try_from(inside.as_micros()).unwrap_or(u64::MAX);
                answer.headers_mut().insert(INSIDE_US, HeaderValue::from(inside_us));
                answer
            }
        }
    }

    /// Waits for a worker and takes the time that the request takes.
    async fn work(&self, path: &str) -> StatusCode {
        let faults = *self.faults.borrow();
        let fails = faults.errors.is_some_and(|errors| self.draws().toss(errors.share));
        if fails && faults.errors.is_some_and(|errors| errors.fast) {
            return StatusCode::INTERNAL_SERVER_ERROR;
        }
        let Some(_worker) = self.worker().await else { return StatusCode::SERVICE_UNAVAILABLE };
        let _busy = Raised::new(&self.metrics.busy);
        let factor = self.faults.borrow().slow_factor * self.cold_factor() / self.spec.speed;
        let asked = match kinds::work_ms(&self.spec.kinds, path) {
            Some(ms) => self.draws().sleep_for_ms(ms * factor),
            None => self.draws().sleep_for(&self.spec.service, factor),
        };
        let begun = clock::now();
        tokio::time::sleep(asked).await;
        let took = begun.elapsed();
        self.draws().slept(asked, took);
        self.metrics.worked(took);
        if fails { StatusCode::INTERNAL_SERVER_ERROR } else { StatusCode::OK }
    }

    fn cold_factor(&self) -> f64 {
        self.spec.cold_start.map_or(1.0, |cold| cold.factor_at(self.started.elapsed()))
    }

    /// A worker, at once or after waiting in the queue; `None` if the queue is full.
    async fn worker(&self) -> Option<tokio::sync::SemaphorePermit<'_>> {
        if let Ok(free) = self.workers.try_acquire() {
            return Some(free);
        }
        let _waiting = Waiting::enter(&self.waiting, self.spec.queue_limit)?;
        self.workers.acquire().await.ok()
    }

    async fn while_paused(&self) {
        if self.faults.borrow().paused {
            // Cannot fail: `self` holds the sender.
            let _ = self.faults.subscribe().wait_for(|faults| !faults.paused).await;
        }
    }

    fn metrics_text(&self) -> Response<Full<Bytes>> {
        match self.metrics.encode() {
            Ok(text) => {
                let mut response = Response::new(Full::new(Bytes::from(text)));
                response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(pod_metrics::CONTENT_TYPE));
                response
            }
            Err(_) => self.answer(StatusCode::INTERNAL_SERVER_ERROR),
        }
    }

    fn answer(&self, status: StatusCode) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(self.body.clone()));
        *response.status_mut() = status;
        if self.spec.orca {
            // This request included, as servers count that write the header before they are done.
            let in_flight = self.metrics.in_flight.get();
            let utilization = self.metrics.busy.get() as f64 / self.spec.workers as f64;
            let report =
                format!("TEXT application_utilization={utilization:.3}, named_metrics.requests_in_flight={in_flight}");
            if let Ok(value) = HeaderValue::try_from(report) {
                response.headers_mut().insert("endpoint-load-metrics", value);
            }
        }
        response
    }

    fn draws(&self) -> MutexGuard<'_, Draws> {
        self.draws.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A gauge that is one higher for as long as this lives: a request whose client went away is not forgotten.
struct Raised<'a>(&'a Gauge);

impl<'a> Raised<'a> {
    fn new(gauge: &'a Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Raised<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// A place in the queue.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn enter(waiting: &'a AtomicUsize, limit: usize) -> Option<Self> {
        let entered =
            waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| (now < limit).then_some(now + 1));
        entered.ok().map(|_| Self(waiting))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
