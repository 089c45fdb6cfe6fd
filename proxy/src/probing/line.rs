//! A connection for probes, and one probe on it. It is none of those that requests use: what is asked about an endpoint's load must not wait behind them,
//! nor they behind it.

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    HeaderName, HeaderValue, Request, Response, Uri, Version, header,
    uri::{Authority, PathAndQuery, Scheme},
};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::TokioIo;

use crate::{
    clock,
    config::Protocol,
    http::{orca, shared::Local, upstream},
    table::Target,
    worker::Worker,
};

/// The body of an answer is read up to here, so that the connection can be used again; one that is longer ends it.
const ANSWER_BYTES_MAX: usize = 64 << 10;
const USER_AGENT: HeaderValue = HeaderValue::from_static("trimtab-probe");

/// A connection that stands.
#[derive(Debug)]
pub struct Line {
    sender: Sender,
    driver: tokio::task::JoinHandle<()>,
}

#[derive(Debug)]
enum Sender {
    Http1(http1::SendRequest<Empty<Bytes>>),
    Http2(http2::SendRequest<Empty<Bytes>>),
}

impl Drop for Line {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// What an endpoint told.
#[derive(Debug)]
pub struct Told {
    /// Requests in flight there, if it says so.
    pub in_flight: Option<u32>,
    /// What a request takes at so many, or the probe did.
    pub latency: Duration,
}

impl Line {
    async fn open(target: &Arc<Target>) -> io::Result<Self> {
        let socket = TokioIo::new(upstream::connect(target).await?);
        Ok(match target.protocol {
            Protocol::Http1 => {
                let (sender, connection) = http1::handshake(socket).await.map_err(io::Error::other)?;
                let driver = tokio::task::spawn_local(async move {
                    // Whatever ends it, the next probe tells.
                    let _ = connection.await;
                });
                Self { sender: Sender::Http1(sender), driver }
            }
            Protocol::Http2 => {
                let (sender, connection) = http2::handshake(Local, socket).await.map_err(io::Error::other)?;
                let driver = tokio::task::spawn_local(async move {
                    let _ = connection.await;
                });
                Self { sender: Sender::Http2(sender), driver }
            }
        })
    }

    /// Whether the endpoint has not closed it.
    pub fn is_open(&self) -> bool {
        match &self.sender {
            Sender::Http1(sender) => !sender.is_closed(),
            Sender::Http2(sender) => !sender.is_closed(),
        }
    }

    async fn send(&mut self, request: Request<Empty<Bytes>>) -> hyper::Result<Response<Incoming>> {
        match &mut self.sender {
            Sender::Http1(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
            Sender::Http2(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
        }
    }
}

/// Asks an endpoint how it is doing, on `line` if there is one. A time limit is the caller's. Returns the connection if it can be used again.
///
/// # Errors
/// If it does not answer, or with a 5xx.
pub async fn ask(
    worker: &Worker,
    target: &Arc<Target>,
    path: &PathAndQuery,
    line: Option<Line>,
) -> io::Result<(Told, Option<Line>)> {
    let reused = line.is_some();
    let mut line = match line {
        Some(line) => line,
        None => Line::open(target).await?,
    };
    let mut sent = clock::now();
    let mut answer = line.send(request(target, path)?).await;
    if answer.is_err() && reused {
        // The endpoint may have closed it while it was idle.
        line = Line::open(target).await?;
        sent = clock::now();
        answer = line.send(request(target, path)?).await;
    }
    let answer = answer.map_err(io::Error::other)?;
    let now = clock::now();
    // Without the time in which this worker was too busy to look.
    let took = now.since(sent).saturating_sub(worker.heart.lateness(now));
    let status = answer.status();
    if status.is_server_error() {
        return Err(io::Error::other(format!("answered {}", status.as_u16())));
    }
    let report = answer.headers().get(orca::HEADER).map(|value| orca::read_probe(value.as_bytes())).unwrap_or_default();
    let told = Told { in_flight: report.in_flight, latency: report.latency.unwrap_or(took) };
    let goes_on = answer.version() == Version::HTTP_2 || !closes(&answer);
    let read = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
    Ok((told, Some(line).filter(|line| goes_on && read.is_ok() && line.is_open())))
}

fn closes(answer: &Response<Incoming>) -> bool {
    let values = answer.headers().get_all(header::CONNECTION);
    let says = values.iter().any(|value| value.as_bytes().eq_ignore_ascii_case(b"close"));
    says || answer.version() == Version::HTTP_10
}

fn request(target: &Target, path: &PathAndQuery) -> io::Result<Request<Empty<Bytes>>> {
    const PROBE: HeaderName = HeaderName::from_static("x-trimtab-probe");
    let authority = target.address.to_string();
    let mut request = Request::get(Uri::from(path.clone())).header(header::USER_AGENT, USER_AGENT);
    request = request.header(PROBE, HeaderValue::from_static("1"));
    if target.protocol == Protocol::Http2 {
        let scheme = if target.tls.is_some() { Scheme::HTTPS } else { Scheme::HTTP };
        let authority = Authority::try_from(authority).map_err(io::Error::other)?;
        let uri = Uri::builder().scheme(scheme).authority(authority).path_and_query(path.clone()).build();
        request = request.uri(uri.map_err(io::Error::other)?);
    } else {
        request = request.header(header::HOST, authority);
    }
    request.body(Empty::new()).map_err(io::Error::other)
}
