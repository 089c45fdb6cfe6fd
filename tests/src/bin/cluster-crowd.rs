//! For tests of scale: thousands of pods in one process (`pods`), and a load at a steady rate for them (`load`). Both speak just as much
//! HTTP/1.1 as they need to: what they cost is missing to what is measured.

#![allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a program of its own, which runs in real time and says what it saw"
)]

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Parser;
use hdrhistogram::Histogram;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Many pods, or many clients
#[derive(Debug, Parser)]
enum Args {
    /// Answers on all addresses of its network namespace; a pod is told by the last two bytes of the address
    Pods {
        /// Port of requests, and of `/metrics`
        #[arg(long)]
        port: u16,
        /// Port of `/kill/NUMBER` and `/stats`
        #[arg(long)]
        control_port: u16,
    },
    /// Sends requests at a steady rate, and prints what came of them as JSON
    Load {
        /// Where to
        #[arg(long)]
        address: SocketAddr,
        /// Requests per second
        #[arg(long)]
        rps: f64,
        /// Over so many connections
        #[arg(long, default_value_t = 64)]
        connections: u32,
        /// For so long
        #[arg(long)]
        seconds: f64,
    },
}

#[tokio::main(worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    trimtab::open_files::raise_limit();
    match Args::parse() {
        Args::Pods { port, control_port } => {
            let crowd = Arc::new(Crowd::default());
            let control = listen(control_port)?;
            tokio::spawn(accept(control, crowd.clone(), Crowd::controlled));
            accept(listen(port)?, crowd, Crowd::visited).await;
        }
        Args::Load { address, rps, connections, seconds } => {
            println!("{}", load(address, rps, connections, Duration::from_secs_f64(seconds)).await?);
        }
    }
    Ok(())
}

fn listen(port: u16) -> anyhow::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind((Ipv4Addr::UNSPECIFIED, port).into()).with_context(|| format!("port {port}"))?;
    Ok(socket.listen(4096)?)
}

async fn accept<F: Future<Output = ()> + Send + 'static>(
    listener: TcpListener,
    crowd: Arc<Crowd>,
    serve: fn(Arc<Crowd>, TcpStream) -> F,
) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(serve(crowd.clone(), stream))),
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}

/// All pods.
#[derive(Default)]
struct Crowd {
    pods: Mutex<HashMap<u16, Arc<Pod>>>,
    answers: AtomicU64,
    scrapes: AtomicU64,
    refused: AtomicU64,
}

#[derive(Default)]
struct Pod {
    dead: CancellationToken,
    completed: AtomicU64,
}

impl Crowd {
    fn pods(&self) -> MutexGuard<'_, HashMap<u16, Arc<Pod>>> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pod(&self, number: u16) -> Arc<Pod> {
        self.pods().entry(number).or_default().clone()
    }

    async fn visited(self: Arc<Self>, mut stream: TcpStream) {
        let Ok(SocketAddr::V4(local)) = stream.local_addr() else { return };
        let [.., third, fourth] = local.ip().octets();
        let pod = self.pod(u16::from_be_bytes([third, fourth]));
        if pod.dead.is_cancelled() {
            self.refused.fetch_add(1, Relaxed);
        } else {
            let _ = stream.set_nodelay(true);
            tokio::select! {
                () = pod.dead.cancelled() => {}
                () = self.serve(&pod, &mut stream) => return,
            }
        }
        // A reset, as of a host that knows nothing of the connection.
        let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
    }

    async fn serve(&self, pod: &Pod, stream: &mut TcpStream) {
        let mut buffer = Vec::new();
        while let Some(path) = request(stream, &mut buffer).await {
            let body = match &*path {
                "/metrics" => {
                    self.scrapes.fetch_add(1, Relaxed);
                    metrics(pod.completed.load(Relaxed))
                }
                _ => {
                    self.answers.fetch_add(1, Relaxed);
                    pod.completed.fetch_add(1, Relaxed);
                    "live".to_owned()
                }
            };
            if answer(stream, 200, &body).await.is_err() {
                return;
            }
        }
    }

    async fn controlled(self: Arc<Self>, mut stream: TcpStream) {
        let mut buffer = Vec::new();
        while let Some(path) = request(&mut stream, &mut buffer).await {
            let count = |counter: &AtomicU64| counter.load(Relaxed);
            let (status, text) = match path.strip_prefix("/kill/").map(str::parse::<u16>) {
                Some(Ok(number)) => {
                    self.pod(number).dead.cancel();
                    (200, String::new())
                }
                None if path == "/stats" => {
                    let (answers, scrapes) = (count(&self.answers), count(&self.scrapes));
                    let stats = json!({ "answers": answers, "scrapes": scrapes, "refused": count(&self.refused) });
                    (200, stats.to_string())
                }
                _ => (404, "/kill/NUMBER or /stats".to_owned()),
            };
            if answer(&mut stream, status, &text).await.is_err() {
                return;
            }
        }
    }
}

/// What a small service says of itself.
fn metrics(completed: u64) -> String {
    format!(
        "# TYPE http_requests_in_flight gauge\nhttp_requests_in_flight 0\n# TYPE http_workers_limit gauge\nhttp_workers_limit 8\n\
         # TYPE http_requests_total counter\nhttp_requests_total {completed}\n\
         # TYPE process_start_time_seconds gauge\nprocess_start_time_seconds 1760000000\n"
    )
}

/// The path of the next request; `None` when the connection is over. Requests have no bodies.
async fn request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<String> {
    loop {
        if let Some(end) = find(buffer, b"\r\n\r\n") {
            let head: Vec<u8> = buffer.drain(..end + 4).collect();
            let line = head.split(|byte| *byte == b'\r').next()?;
            return Some(std::str::from_utf8(line).ok()?.split(' ').nth(1)?.to_owned());
        }
        if stream.read_buf(buffer).await.ok()? == 0 || buffer.len() > 1 << 16 {
            return None;
        }
    }
}

async fn answer(stream: &mut TcpStream, status: u16, body: &str) -> std::io::Result<()> {
    let text =
        format!("HTTP/1.1 {status} -\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    stream.write_all(text.as_bytes()).await
}

fn find(buffer: &[u8], wanted: &[u8]) -> Option<usize> {
    buffer.windows(wanted.len()).position(|window| window == wanted)
}

/// Each connection sends at its own even pace; an answer that takes longer than that delays its next request, and the delay counts.
async fn load(address: SocketAddr, rps: f64, connections: u32, length: Duration) -> anyhow::Result<serde_json::Value> {
    let period = Duration::from_secs_f64(f64::from(connections) / rps);
    let began = Instant::now() + Duration::from_millis(50);
    let mut clients = JoinSet::new();
    for client in 0..connections {
        let first = began + period.mul_f64(f64::from(client) / f64::from(connections));
        clients.spawn(send(address, first, period, began + length));
    }
    let (mut answers, mut failed, mut latency_us) = (0, HashMap::<String, u64>::new(), Histogram::<u64>::new(3)?);
    while let Some(sent) = clients.join_next().await {
        let sent = sent?;
        answers += sent.answers;
        latency_us.add(sent.latency_us)?;
        for (what, count) in sent.failed {
            *failed.entry(what).or_default() += count;
        }
    }
    let ms = |quantile: f64| latency_us.value_at_quantile(quantile) as f64 / 1e3;
    Ok(json!({
        "seconds": began.elapsed().as_secs_f64(),
        "answers": answers,
        "failed": failed,
        "latency_ms": { "p50": ms(0.5), "p99": ms(0.99), "max": latency_us.max() as f64 / 1e3 },
    }))
}

struct Sent {
    answers: u64,
    failed: HashMap<String, u64>,
    latency_us: Histogram<u64>,
}

async fn send(address: SocketAddr, first: Instant, period: Duration, end: Instant) -> Sent {
    let latency_us = Histogram::new(3).expect("three digits are allowed");
    let mut sent = Sent { answers: 0, failed: HashMap::new(), latency_us };
    let mut connection = None;
    let mut due = first;
    while due < end {
        tokio::time::sleep_until(due.into()).await;
        match tokio::time::timeout(Duration::from_secs(10), exchange(&mut connection, address)).await {
            Ok(Ok(200)) => sent.answers += 1,
            other => {
                let what = match other {
                    Ok(Ok(status)) => status.to_string(),
                    Ok(Err(error)) => error.kind().to_string(),
                    Err(_) => "no answer in 10 s".to_owned(),
                };
                *sent.failed.entry(what).or_default() += 1;
                connection = None;
            }
        }
        // It grows with what it holds.
        let _ = sent.latency_us.record(due.elapsed().as_micros() as u64);
        due += period;
    }
    sent
}

/// One request and its answer.
async fn exchange(connection: &mut Option<(TcpStream, Vec<u8>)>, address: SocketAddr) -> std::io::Result<u16> {
    if connection.is_none() {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        *connection = Some((stream, Vec::new()));
    }
    let (stream, buffer) = connection.as_mut().expect("it was just made");
    let host = match address.ip() {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    };
    stream.write_all(format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n").as_bytes()).await?;
    let malformed = || std::io::Error::new(std::io::ErrorKind::InvalidData, "no answer");
    loop {
        if let Some(end) = find(buffer, b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&buffer[..end]).to_ascii_lowercase();
            let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(malformed)?;
            let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
            let length: usize = length.and_then(|length| length.trim().parse().ok()).ok_or_else(malformed)?;
            if buffer.len() >= end + 4 + length {
                buffer.drain(..end + 4 + length);
                if head.contains("connection: close") {
                    *connection = None;
                }
                return Ok(status);
            }
        }
        if stream.read_buf(buffer).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
}
