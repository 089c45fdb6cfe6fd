//! One connection to an endpoint, and one request on it. A connection has no task of its own: whoever waits for something on it drives
//! it, so that a request from a client's socket to an endpoint's and back is one task without a wake-up in between.

use std::{
    io,
    pin::{Pin, pin},
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use hyper::{
    body::Incoming,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::{body::RequestBody, error::Reason};
use crate::table::{Address, ConnectionPermit};

/// A connection to an endpoint.
#[derive(Debug)]
pub struct Upstream {
    sender: SendRequest<RequestBody>,
    /// `None` once it is closed.
    connection: Option<http1::Connection<TokioIo<TcpStream>, RequestBody>>,
    /// It has carried a request before: it may have been closed by the endpoint meanwhile.
    pub reused: bool,
    _permit: ConnectionPermit,
}

/// Largest head of a response.
const RESPONSE_HEAD_MAX: usize = 256 << 10;
const RESPONSE_HEADERS_MAX: usize = 256;

/// A request that got no answer.
#[derive(Debug)]
pub struct Unanswered {
    /// What to tell the client.
    pub reason: Reason,
    /// The request, if not a byte of it was sent.
    pub unsent: Option<Request<RequestBody>>,
    /// The connection closed before any byte of an answer.
    pub before_answer: bool,
}

impl Upstream {
    /// Connects.
    ///
    /// # Errors
    /// If the endpoint refuses or its name does not resolve. A time limit is the caller's.
    pub async fn connect(address: &Address, permit: ConnectionPermit) -> io::Result<Self> {
        let socket = match address {
            Address::Ip(address) => TcpStream::connect(address).await?,
            Address::Name(host, port) => TcpStream::connect((host.as_str(), *port)).await?,
        };
        socket.set_nodelay(true)?;
        let (sender, connection) = http1::Builder::new()
            .max_headers(RESPONSE_HEADERS_MAX)
            .max_buf_size(RESPONSE_HEAD_MAX)
            .handshake(TokioIo::new(socket))
            .await
            .map_err(io::Error::other)?;
        Ok(Self { sender, connection: Some(connection), reused: false, _permit: permit })
    }

    /// Sends a request and waits for the head of the answer. `give_up` is asked at every wake-up.
    ///
    /// # Errors
    /// If none came.
    pub async fn exchange(
        &mut self,
        request: Request<RequestBody>,
        mut give_up: impl FnMut() -> Option<Reason>,
    ) -> Result<Response<Incoming>, Unanswered> {
        let mut answer = pin!(self.sender.try_send_request(request));
        let connection = &mut self.connection;
        std::future::poll_fn(|cx| {
            if let Some(reason) = give_up() {
                return Poll::Ready(Err(Unanswered { reason, unsent: None, before_answer: false }));
            }
            drive(connection, cx);
            answer.as_mut().poll(cx).map_err(|mut failed| {
                let unsent = failed.take_message();
                let error = failed.into_error();
                Unanswered {
                    before_answer: !error.is_parse() && !error.is_parse_too_large(),
                    reason: if error.is_parse() { Reason::UpstreamProtocol } else { Reason::UpstreamReset },
                    unsent,
                }
            })
        })
        .await
    }

    /// Lets the connection read and write what it can. `false` once it is closed.
    pub fn drive(&mut self, cx: &mut Context<'_>) -> bool {
        drive(&mut self.connection, cx)
    }

    /// After the end of an answer: whether another request may follow.
    pub fn is_reusable(&mut self, cx: &mut Context<'_>) -> bool {
        self.drive(cx) && matches!(self.sender.poll_ready(cx), Poll::Ready(Ok(())))
    }

    /// After `101 Switching Protocols`: the bare socket and what was already read from it.
    ///
    /// # Errors
    /// If the connection failed.
    pub async fn into_tunnel(mut self) -> io::Result<(TcpStream, Bytes, ConnectionPermit)> {
        let closed = || io::Error::new(io::ErrorKind::UnexpectedEof, "closed while switching protocols");
        let mut connection = self.connection.take().ok_or_else(closed)?;
        std::future::poll_fn(|cx| connection.poll_without_shutdown(cx)).await.map_err(io::Error::other)?;
        let parts = connection.into_parts();
        Ok((parts.io.into_inner(), parts.read_buf, self._permit))
    }
}

fn drive(connection: &mut Option<http1::Connection<TokioIo<TcpStream>, RequestBody>>, cx: &mut Context<'_>) -> bool {
    if let Some(running) = connection
        && Pin::new(running).poll(cx).is_ready()
    {
        // Dropping it hands a request that was not sent back to its sender.
        *connection = None;
    }
    connection.is_some()
}
