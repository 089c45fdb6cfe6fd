//! What a proxy adds to latency at a steady rate that it can well do: the same requests straight to the endpoint, and through each router.
//!
//! Every client has a connection and a schedule of its own. A request counts from when it was due if the answer before it came too late, and else
//! from when it was sent: how late a timer of the client fires is nobody's latency.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::cores::Cores;
use super::{Endpoint, Started};
use crate::compare::rival::{Protocol, Rival};
use crate::compare::statistics::median;
use crate::tools::Tools;

/// Clients.
const CONNECTIONS: u32 = 64;

/// What comes before what counts.
const WARM_UP: Duration = Duration::from_secs(1);

/// Latencies of one measurement, microseconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Latency {
    /// Median.
    pub us_p50: f64,
    /// 99th percentile.
    pub us_p99: f64,
    /// 99.9th percentile.
    pub us_p999: f64,
    /// Requests that counted.
    pub requests: u64,
}

/// One router, or none.
#[derive(Debug, Serialize)]
pub struct Row {
    /// Its name; `direct` without one.
    pub rival: String,
    /// Medians over the repetitions.
    pub us_p50: Option<f64>,
    /// The same.
    pub us_p99: Option<f64>,
    /// The same.
    pub us_p999: Option<f64>,
    /// What it adds to the direct way's 99th percentile: the median of differences, repetition by repetition.
    pub us_p99_added: Option<f64>,
    /// All measurements.
    pub measured: Vec<Latency>,
}

/// Measures the direct way and each of `rivals` at `rate` requests a second, in turns, `repetitions` times.
///
/// # Errors
/// If there are too few cores, a router does not start, or a request is not answered with 200.
pub async fn compare(
    tools: &Tools,
    rivals: &[Rival],
    rate: f64,
    bytes: u32,
    repetitions: usize,
    length: Duration,
    mut told: impl FnMut(&str, &Latency),
) -> anyhow::Result<Vec<Row>> {
    let cores = Cores::all(1, 1)?;
    let endpoint = Endpoint::start(tools, &cores).await?;
    let cases: Vec<Option<Rival>> = std::iter::once(None).chain(rivals.iter().copied().map(Some)).collect();
    let name = |case: Option<Rival>| case.map_or_else(|| "direct".to_owned(), Rival::name);
    let mut measured: Vec<Vec<Latency>> = vec![Vec::new(); cases.len()];
    for repetition in 0..repetitions {
        for turn in 0..cases.len() {
            let index = (turn + repetition) % cases.len();
            let latency = match cases[index] {
                None => steady(endpoint.address(Protocol::Http1), rate, bytes, length).await?,
                Some(rival) => {
                    let started = Started::start(tools, rival, Protocol::Http1, &endpoint, &cores).await?;
                    let latency = steady(started.target, rate, bytes, length).await;
                    started.front.stop().await?;
                    latency.with_context(|| rival.name())?
                }
            };
            told(&name(cases[index]), &latency);
            measured[index].push(latency);
        }
    }
    endpoint.stop().await?;
    let direct = measured.first().cloned().unwrap_or_default();
    let row = |(case, measured): (Option<Rival>, Vec<Latency>)| {
        let middle = |value: fn(&Latency) -> f64| median(&measured.iter().map(value).collect::<Vec<_>>());
        let added: Vec<f64> =
            measured.iter().zip(&direct).map(|(through, direct)| through.us_p99 - direct.us_p99).collect();
        Row {
            rival: name(case),
            us_p50: middle(|latency| latency.us_p50),
            us_p99: middle(|latency| latency.us_p99),
            us_p999: middle(|latency| latency.us_p999),
            us_p99_added: case.and_then(|_| median(&added)),
            measured,
        }
    };
    Ok(cases.into_iter().zip(measured).map(row).collect())
}

/// Requests at a steady rate, from clients that take turns.
async fn steady(target: SocketAddr, rate: f64, bytes: u32, length: Duration) -> anyhow::Result<Latency> {
    let every = Duration::from_secs_f64(f64::from(CONNECTIONS) / rate);
    let began = Instant::now();
    let mut clients = JoinSet::new();
    for client in 0..CONNECTIONS {
        let first = began + every.mul_f64(f64::from(client) / f64::from(CONNECTIONS));
        clients.spawn(async move { one_client(target, bytes, first, every, began + WARM_UP, WARM_UP + length).await });
    }
    let mut all = histogram();
    while let Some(client) = clients.join_next().await {
        all.add(client.context("a client panicked")??)?;
    }
    let us = |quantile: f64| all.value_at_quantile(quantile) as f64 * 1e-3;
    Ok(Latency { us_p50: us(0.5), us_p99: us(0.99), us_p999: us(0.999), requests: all.len() })
}

async fn one_client(
    target: SocketAddr,
    bytes: u32,
    first: Instant,
    every: Duration,
    counts_from: Instant,
    length: Duration,
) -> anyhow::Result<Histogram<u64>> {
    let mut socket = TcpStream::connect(target).await?;
    socket.set_nodelay(true)?;
    let request = format!("GET /{bytes} HTTP/1.1\r\nHost: a.test\r\n\r\n");
    let (mut own, mut answer, mut due) = (histogram(), Vec::new(), first);
    let end = first + length;
    while due < end {
        let behind = Instant::now() > due;
        tokio::time::sleep_until(due.into()).await;
        let from = if behind { due } else { Instant::now() };
        socket.write_all(request.as_bytes()).await?;
        read_answer(&mut socket, &mut answer, bytes as usize).await?;
        if due >= counts_from {
            own.saturating_record(from.elapsed().as_nanos() as u64);
        }
        due += every;
    }
    Ok(own)
}

/// Reads an answer whose body has so many bytes.
async fn read_answer(socket: &mut TcpStream, answer: &mut Vec<u8>, bytes: usize) -> anyhow::Result<()> {
    answer.clear();
    loop {
        ensure!(socket.read_buf(answer).await? > 0, "the connection ended in an answer");
        if let Some(head) = answer.windows(4).position(|four| four == b"\r\n\r\n") {
            ensure!(answer.starts_with(b"HTTP/1.1 200"), "answered {:?}", String::from_utf8_lossy(&answer[..head]));
            if answer.len() >= head + 4 + bytes {
                ensure!(answer.len() == head + 4 + bytes, "an answer of another length");
                return Ok(());
            }
        }
    }
}

/// Three digits from a microsecond to a minute, in nanoseconds.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1_000, 60_000_000_000, 3).unwrap_or_else(|error| unreachable!("{error}"))
}
