//! Everybody else: requests at a steady rate, whatever becomes of those before them, timed from when they were due.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use super::target::Target;

/// Connections that requests take turns on.
const CONNECTIONS: usize = 32;
/// What a request may take before it counts as failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// What became of the requests.
#[derive(Debug)]
pub struct Outcome {
    /// Answered 200.
    pub good: u64,
    /// All others, and what became of some of them.
    pub bad: u64,
    /// Why.
    pub complaints: Vec<String>,
    /// Microseconds from when they were due.
    pub latency_us: Histogram<u64>,
}

impl Outcome {
    fn new() -> Self {
        // Three digits from a microsecond to a minute.
        let latency_us = Histogram::new_with_bounds(1, 60_000_000, 3).unwrap_or_else(|error| unreachable!("{error}"));
        Self { good: 0, bad: 0, complaints: Vec::new(), latency_us }
    }

    /// A quantile of the latency, milliseconds.
    pub fn ms(&self, quantile: f64) -> f64 {
        self.latency_us.value_at_quantile(quantile) as f64 * 1e-3
    }
}

/// One client's connection; of every four one is over HTTP/2.
enum Connection {
    None,
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

/// How a request is asked: plain, with a body, and with something that the fast path does not take.
fn request(number: u64) -> http::Result<http::Request<Full<Bytes>>> {
    let builder = http::Request::builder().uri("http://a.test/").header("host", "a.test");
    match number % 10 {
        0..=6 => builder.body(Full::default()),
        7 | 8 => builder.method("POST").body(Full::from(vec![b'x'; 10_000])),
        _ => builder.header("te", "trailers").body(Full::default()),
    }
}

async fn ask(connection: &mut Connection, target: &Target, index: usize, number: u64) -> anyhow::Result<()> {
    if matches!(connection, Connection::None) {
        let socket = TcpStream::connect(target.http).await?;
        socket.set_nodelay(true)?;
        *connection = if index.is_multiple_of(4) {
            let (sender, driven) = http2::handshake(TokioExecutor::new(), TokioIo::new(socket)).await?;
            tokio::spawn(driven);
            Connection::Http2(sender)
        } else {
            let (sender, driven) = http1::handshake(TokioIo::new(socket)).await?;
            tokio::spawn(driven);
            Connection::Http1(sender)
        };
    }
    let mut request = request(number)?;
    let answer = match connection {
        Connection::Http1(sender) => {
            *request.uri_mut() = http::Uri::from_static("/");
            sender.ready().await?;
            sender.send_request(request).await?
        }
        Connection::Http2(sender) => sender.send_request(request).await?,
        Connection::None => anyhow::bail!("no connection"),
    };
    let status = answer.status();
    answer.into_body().collect().await?;
    anyhow::ensure!(status == 200, "answered {status}");
    Ok(())
}

/// Sends `rate` requests a second for `length`.
pub async fn steady(target: &Arc<Target>, rate: f64, length: Duration) -> Outcome {
    run(target, length, Some(rate)).await
}

/// As many as go, by clients that wait for their answers; how many a second.
pub async fn most(target: &Arc<Target>, length: Duration) -> f64 {
    let began = Instant::now();
    let outcome = run(target, length, None).await;
    outcome.good as f64 / began.elapsed().as_secs_f64()
}

async fn run(target: &Arc<Target>, length: Duration, rate: Option<f64>) -> Outcome {
    let all = Arc::new(Mutex::new(Outcome::new()));
    let next = Arc::new(AtomicU64::new(0));
    let began = Instant::now();
    let mut clients = JoinSet::new();
    for index in 0..CONNECTIONS {
        let (target, all, next) = (Arc::clone(target), Arc::clone(&all), Arc::clone(&next));
        clients.spawn(async move {
            let mut own = Outcome::new();
            let mut connection = Connection::None;
            while began.elapsed() < length {
                let number = next.fetch_add(1, Relaxed);
                let due = match rate {
                    Some(rate) => began + Duration::from_secs_f64(number as f64 / rate),
                    None => Instant::now(),
                };
                if due.saturating_duration_since(began) >= length {
                    break;
                }
                tokio::time::sleep_until(due.into()).await;
                let asked = tokio::time::timeout(PATIENCE, ask(&mut connection, &target, index, number)).await;
                match asked {
                    Ok(Ok(())) => {
                        own.good += 1;
                        own.latency_us.saturating_record(due.elapsed().as_micros() as u64);
                    }
                    failed => {
                        own.bad += 1;
                        own.complaints.push(format!("{failed:?}"));
                        connection = Connection::None;
                    }
                }
            }
            let mut all = all.lock().await;
            all.good += own.good;
            all.bad += own.bad;
            all.complaints.extend(own.complaints.into_iter().take(3));
            let _ = all.latency_us.add(&own.latency_us);
        });
    }
    while clients.join_next().await.is_some() {}
    std::mem::replace(&mut *all.lock().await, Outcome::new())
}
