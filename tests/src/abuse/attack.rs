//! Clients and endpoints that hold the proxy up, each as many as one machine can be. An attack goes on until it is dropped.

use std::net::SocketAddr;
use std::time::Duration;

use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::idle::{self, Kind};
use super::target::Target;

/// What is done to the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Attack {
    /// Nothing: what the others are compared with.
    None,
    /// Heads that come byte by byte.
    SlowHeads,
    /// Bodies that come byte by byte.
    SlowBodies,
    /// Answers that nobody reads.
    Unread,
    /// Connections on which nothing happens.
    Idle,
    /// Connections that are opened and closed, 1,000 a second.
    Connections,
    /// Pings over HTTP/2, again and again.
    Pings,
    /// Streams that are opened and reset, again and again.
    RapidReset,
    /// Requests to endpoints that do not answer, or break off.
    StallingEndpoints,
}

impl Attack {
    /// All but none.
    pub const ALL: [Self; 8] = [
        Self::SlowHeads,
        Self::SlowBodies,
        Self::Unread,
        Self::Idle,
        Self::Connections,
        Self::Pings,
        Self::RapidReset,
        Self::StallingEndpoints,
    ];
}

/// A frame of HTTP/2.
#[must_use]
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// What a client over HTTP/2 says first.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// Endpoints that stall: before their answer, in its head, in its body, and at its end; and one that does not even accept. They live as long
/// as the set.
///
/// # Errors
/// If there is no port for one.
pub async fn stalling() -> anyhow::Result<(Vec<SocketAddr>, JoinSet<()>)> {
    let mut all = JoinSet::new();
    let mut addresses = Vec::new();
    let answers: [&[u8]; 4] = [
        b"",
        b"HTTP/1.1 200 OK\r\ncontent-le",
        b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
    ];
    for answer in answers {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        addresses.push(listener.local_addr()?);
        all.spawn(async move {
            let mut held = JoinSet::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                held.spawn(async move {
                    let mut head = [0; 4_096];
                    while stream.read(&mut head).await.is_ok_and(|read| read > 0) {
                        let _ = stream.write_all(answer).await;
                    }
                });
                while held.try_join_next().is_some() {}
            }
        });
    }
    // A backlog that is full: connections to it hang.
    let deaf = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    deaf.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())?;
    deaf.listen(0)?;
    let address = deaf.local_addr()?.as_socket().ok_or_else(|| anyhow::anyhow!("no address"))?;
    addresses.push(address);
    all.spawn(async move {
        let mut fillers = Vec::new();
        for _ in 0..4 {
            fillers.push(tokio::time::timeout(Duration::from_millis(100), TcpStream::connect(address)).await);
        }
        let _held = (deaf, fillers);
        std::future::pending::<()>().await;
    });
    Ok((addresses, all))
}

/// Begins an attack by `clients` at a time.
pub async fn begin(attack: Attack, target: &Target, clients: usize) -> JoinSet<()> {
    let address = target.http;
    let mut all = JoinSet::new();
    match attack {
        Attack::None => {}
        Attack::SlowHeads => {
            let first = b"GET / HTTP/1.1\r\nhost: t\r\nx: ";
            staggered(clients, BYTE_EVERY).for_each(|late| drop(all.spawn(slow(address, first, late))));
        }
        Attack::SlowBodies => {
            let first = b"POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 100000\r\n\r\n";
            staggered(clients, BYTE_EVERY).for_each(|late| drop(all.spawn(slow(address, first, late))));
        }
        Attack::Unread => {
            staggered(clients, REQUEST_EVERY).for_each(|late| drop(all.spawn(unread(address, late))));
        }
        Attack::Idle => {
            for _ in 0..clients {
                if let Ok(idle) = idle::open(target, Kind::Http1).await {
                    all.spawn(async move {
                        let _idle = idle;
                        std::future::pending::<()>().await;
                    });
                }
            }
        }
        Attack::Connections => drop(all.spawn(async move {
            let mut ticks = tokio::time::interval(Duration::from_millis(1));
            loop {
                ticks.tick().await;
                drop(TcpStream::connect(address).await);
            }
        })),
        Attack::Pings => drop(all.spawn(flood(address, |_| frame(6, 0, 0, b"12345678").repeat(100)))),
        Attack::RapidReset => drop(all.spawn(flood(address, |round| {
            let pair = |n| {
                let stream = 2 * (50 * round + n) + 1;
                [frame(1, 5, stream, b"\x82\x84\x86\x01\x01t"), frame(3, 0, stream, &[0, 0, 0, 8])].concat()
            };
            (0..50).flat_map(pair).collect()
        }))),
        Attack::StallingEndpoints => (0..clients.min(500)).for_each(|_| drop(all.spawn(stalled(address)))),
    }
    all
}

/// Between two bytes of a client that sends slowly.
const BYTE_EVERY: Duration = Duration::from_millis(100);

/// Between two requests of a client that reads no answers.
const REQUEST_EVERY: Duration = Duration::from_secs(1);

/// How late each of `clients` begins, so that what each does `every` so often does not come from all of them at once.
fn staggered(clients: usize, every: Duration) -> impl Iterator<Item = Duration> {
    (0..clients).map(move |client| every.mul_f64(client as f64 / clients as f64))
}

/// A byte now and then, again from the start when cut off.
async fn slow(address: SocketAddr, first: &'static [u8], late: Duration) {
    tokio::time::sleep(late).await;
    loop {
        if let Ok(mut stream) = TcpStream::connect(address).await
            && stream.write_all(first).await.is_ok()
        {
            while stream.write_all(b"x").await.is_ok() {
                tokio::time::sleep(BYTE_EVERY).await;
            }
        }
        tokio::time::sleep(BYTE_EVERY).await;
    }
}

/// Requests whose answers are left where they are: one a second, so that it is no flood of requests, and the buffers fill.
async fn unread(address: SocketAddr, late: Duration) {
    tokio::time::sleep(late).await;
    loop {
        if let Ok(mut stream) = TcpStream::connect(address).await {
            while stream.write_all(b"GET / HTTP/1.1\r\nhost: t\r\n\r\n").await.is_ok() {
                tokio::time::sleep(REQUEST_EVERY).await;
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Frames until cut off, and again; at most 200 connections a second.
async fn flood(address: SocketAddr, frames: impl Fn(u32) -> Vec<u8> + Send) {
    loop {
        if let Ok(mut stream) = TcpStream::connect(address).await
            && stream.write_all(PREFACE).await.is_ok()
        {
            let mut round = 0;
            while stream.write_all(&frames(round)).await.is_ok() {
                round += 1;
            }
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn stalled(address: SocketAddr) {
    loop {
        if let Ok(mut stream) = TcpStream::connect(address).await {
            let _ = stream.write_all(b"GET /stall HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n").await;
            let _ = stream.read_to_end(&mut Vec::new()).await;
        }
        // Those that break off at once must be no flood of requests.
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}
