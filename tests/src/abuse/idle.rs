//! What an idle connection holds in the proxy's memory: many are opened, each has one request answered, and then nothing happens on them.

use std::time::Duration;

use anyhow::ensure;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde::Serialize;
use tokio::net::TcpStream;

use super::target::{Stream, Target};

/// What is spoken on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Kind {
    /// HTTP/1.1, served by the fast path.
    Http1,
    /// HTTP/1.1, served by hyper since a request that was not plain.
    Http1Unusual,
    /// HTTP/1.1 over TLS.
    Http1Tls,
    /// HTTP/2 in clear text.
    Http2,
    /// HTTP/2 over TLS.
    Http2Tls,
}

impl Kind {
    /// All.
    pub const ALL: [Self; 5] = [Self::Http1, Self::Http1Unusual, Self::Http1Tls, Self::Http2, Self::Http2Tls];
}

/// A connection on which a request was answered; it stays open while this lives.
pub enum Idle {
    /// Of one kind.
    Http1(http1::SendRequest<Empty<Bytes>>),
    /// Of the other.
    Http2(http2::SendRequest<Empty<Bytes>>),
}

/// What was found.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Found {
    /// Of which kind.
    pub kind: Kind,
    /// Connections that were open.
    pub connections: usize,
    /// What each held, bytes.
    pub bytes_each: f64,
}

/// Opens a connection and has one request answered on it.
///
/// # Errors
/// If it is not answered 200.
pub async fn open(target: &Target, kind: Kind) -> anyhow::Result<Idle> {
    let io: Box<dyn Stream> = match kind {
        Kind::Http1 | Kind::Http1Unusual | Kind::Http2 => Box::new(TcpStream::connect(target.http).await?),
        Kind::Http1Tls => target.secured(&["http/1.1"]).await?,
        Kind::Http2Tls => target.secured(&["h2"]).await?,
    };
    let io = TokioIo::new(io);
    let request = |uri: &str| {
        let mut request = http::Request::get(uri).header("host", "a.test");
        if kind == Kind::Http1Unusual {
            request = request.header("te", "trailers");
        }
        request.body(Empty::<Bytes>::new())
    };
    let (idle, answer) = match kind {
        Kind::Http1 | Kind::Http1Unusual | Kind::Http1Tls => {
            let (mut sender, connection) = http1::handshake(io).await?;
            tokio::spawn(connection);
            let answer = sender.send_request(request("/")?).await?;
            (Idle::Http1(sender), answer)
        }
        Kind::Http2 | Kind::Http2Tls => {
            let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
            tokio::spawn(connection);
            let answer = sender.send_request(request("http://a.test/")?).await?;
            (Idle::Http2(sender), answer)
        }
    };
    ensure!(answer.status() == 200, "answered {}", answer.status());
    answer.into_body().collect().await?;
    Ok(idle)
}

/// Opens `count` connections of a kind, and tells what each of them holds.
///
/// # Errors
/// If one cannot be opened.
pub async fn measure(target: &Target, kind: Kind, count: usize) -> anyhow::Result<Found> {
    // What the first ones need once is not theirs.
    let mut warm = Vec::new();
    for _ in 0..64 {
        warm.push(open(target, kind).await?);
    }
    let before = settled_kib(target).await?;
    let mut all = Vec::with_capacity(count);
    while all.len() < count {
        // A few at a time, so that their peak does not hide what is held afterwards.
        let opening = (0..16.min(count - all.len())).map(|_| open(target, kind));
        for opened in futures_util::future::join_all(opening).await {
            all.push(opened?);
        }
    }
    let after = settled_kib(target).await?;
    drop((all, warm));
    Ok(Found { kind, connections: count, bytes_each: (after.saturating_sub(before) * 1024) as f64 / count as f64 })
}

/// What the proxy holds: the least that is seen for a while. The allocator gives back what nobody holds only when it is asked for something, so
/// a few requests come meanwhile.
async fn settled_kib(target: &Target) -> anyhow::Result<u64> {
    let mut least = u64::MAX;
    for _ in 0..20 {
        for _ in 0..4 {
            drop(open(target, Kind::Http1).await?);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        least = least.min(target.resident_kib()?);
    }
    Ok(least)
}
