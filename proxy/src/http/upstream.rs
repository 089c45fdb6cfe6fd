//! One connection to an endpoint, and one request on it. A connection has no task of its own: whoever waits for something on it drives
//! it, so that a request from a client's socket to an endpoint's and back is one task without a wake-up in between.

use std::{
    cell::Cell,
    io,
    pin::{Pin, pin},
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use hyper::{
    body::Incoming,
    client::conn::{
        TrySendError,
        http1::{self, SendRequest},
    },
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::Notify,
};

use super::{
    body::RequestBody,
    error::Reason,
    headers,
    pool::{Pool, Pooled},
    shared::Lease,
    stream::EndpointSocket,
};
use crate::{
    config::Protocol,
    table::{Address, ConnectionPermit, Target},
    time::Timestamp,
    worker::Worker,
};

/// A connection to an endpoint, or part of one.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "it lives in a box, and the large one is the usual one")]
pub enum Upstream {
    /// Of its own.
    Http1(Http1),
    /// Shared with other requests.
    Http2(Lease),
}

/// A connection that carries one request at a time.
#[derive(Debug)]
pub struct Http1 {
    sender: SendRequest<RequestBody>,
    line: Line,
    permit: ConnectionPermit,
    /// Something has come on it since the present request was sent. Shared with the stream, which hyper has.
    heard: Rc<Cell<bool>>,
}

type HyperConnection = http1::Connection<TokioIo<EndpointStream>, RequestBody>;

/// hyper's half of a connection.
#[derive(Debug)]
enum Line {
    Open(HyperConnection),
    /// hyper is done with it: it is closed, or the endpoint switched to another protocol.
    Finished(HyperConnection),
    Closed,
}

/// Largest head of a response. It may hold 100 headers: hyper's default, for which it has room on the stack.
const RESPONSE_HEAD_MAX: usize = 256 << 10;

/// A request that got no answer.
#[derive(Debug)]
pub struct Unanswered {
    /// What to tell the client.
    pub reason: Reason,
    /// The request, if not a byte of it was sent.
    pub unsent: Option<Request<RequestBody>>,
    /// The connection ended before any byte of an answer.
    pub before_answer: bool,
    /// The endpoint says that it has done nothing for it (HTTP/2: `REFUSED_STREAM`, or a `GOAWAY` that leaves it out): it may be sent again
    /// whatever it is.
    pub refused: bool,
}

impl Unanswered {
    /// On a connection that goes on without it, or ended.
    fn of_shared(mut failed: TrySendError<Request<RequestBody>>) -> Self {
        let unsent = failed.take_message();
        let error = failed.error();
        tracing::debug!(%error, "no answer on a shared connection");
        let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<h2::Error>());
        // A stream that a GOAWAY does not leave out ends with its connection, which is another error.
        let refused = cause.is_some_and(|cause| {
            cause.is_remote() && (cause.is_go_away() || cause.reason() == Some(h2::Reason::REFUSED_STREAM))
        });
        Self { reason: Reason::UpstreamReset, unsent, before_answer: true, refused }
    }
}

/// Opens a socket to an address.
///
/// # Errors
/// If nobody takes it there or the name does not resolve. A time limit is the caller's.
pub async fn dial(address: &Address) -> io::Result<TcpStream> {
    let socket = match address {
        Address::Ip(address) => TcpStream::connect(address).await?,
        Address::Name(host, port) => TcpStream::connect((host.as_str(), *port)).await?,
    };
    socket.set_nodelay(true)?;
    Ok(socket)
}

/// Connects, over TLS if the endpoint is spoken to so.
///
/// # Errors
/// If the endpoint cannot be reached, or is not who it must be. A time limit is the caller's.
pub async fn connect(target: &Target) -> io::Result<EndpointSocket> {
    let socket = dial(&target.address).await?;
    let Some(tls) = &target.tls else { return Ok(EndpointSocket::Plain(socket)) };
    let protocol: &[u8] = match target.protocol {
        Protocol::Http1 => b"http/1.1",
        Protocol::Http2 => b"h2",
    };
    // Rare beside requests, and large.
    Box::pin(tls.connect(socket, protocol)).await.map(|stream| EndpointSocket::Tls(Box::new(stream)))
}

impl Pooled for Upstream {
    async fn open(
        worker: &Worker,
        target: &Arc<Target>,
        idle_timeout: Duration,
        permit: ConnectionPermit,
        connect: impl Future<Output = io::Result<EndpointSocket>>,
    ) -> io::Result<Self> {
        if target.protocol == Protocol::Http2 {
            return worker.shared.open(target, idle_timeout, permit, connect).await.map(Self::Http2);
        }
        let heard = Rc::new(Cell::new(false));
        let stream = EndpointStream { heard: Some(heard.clone()), ..EndpointStream::new(connect.await?) };
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(RESPONSE_HEAD_MAX)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
        Ok(Self::Http1(Http1 { sender, line: Line::Open(connection), permit, heard }))
    }

    fn take(worker: &Worker, target: &Target, now: Timestamp) -> Option<Box<Self>> {
        match target.protocol {
            Protocol::Http1 => worker.pool.take(target, now),
            Protocol::Http2 => worker.shared.take(target).map(|lease| Box::new(Self::Http2(lease))),
        }
    }

    fn opening(worker: &Worker, target: &Target) -> Option<Rc<Notify>> {
        match target.protocol {
            Protocol::Http1 => None,
            Protocol::Http2 => worker.shared.opening(target),
        }
    }

    fn pool(worker: &Worker) -> &Pool<Self> {
        &worker.pool
    }

    fn is_open(&mut self, cx: &mut Context<'_>) -> bool {
        self.drive(cx)
    }

    fn is_reusable(&mut self, cx: &mut Context<'_>) -> bool {
        match self {
            Self::Http1(own) => own.line.drive(cx) && matches!(own.sender.poll_ready(cx), Poll::Ready(Ok(()))),
            // It never left its place.
            Self::Http2(_) => false,
        }
    }
}

impl Upstream {
    /// Sends a request and waits for the head of the answer. `give_up` is asked at every wake-up.
    ///
    /// # Errors
    /// If none came.
    pub async fn exchange(
        &mut self,
        request: Request<RequestBody>,
        mut give_up: impl FnMut() -> Option<Reason>,
    ) -> Result<Response<Incoming>, Unanswered> {
        let given_up = |reason, before_answer| {
            Poll::Ready(Err(Unanswered { reason, unsent: None, before_answer, refused: false }))
        };
        let Http1 { sender, line, heard, .. } = match self {
            Self::Http1(own) => own,
            Self::Http2(lease) => {
                let mut sender = lease.sender();
                let mut answer = pin!(sender.try_send_request(headers::for_http2(request, lease.target())));
                return std::future::poll_fn(|cx| match give_up() {
                    Some(reason) => given_up(reason, true),
                    None => answer.as_mut().poll(cx).map_err(Unanswered::of_shared),
                })
                .await;
            }
        };
        heard.set(false);
        let mut answer = pin!(sender.try_send_request(request));
        std::future::poll_fn(|cx| {
            if let Some(reason) = give_up() {
                return given_up(reason, !heard.get());
            }
            let open = line.drive(cx);
            let mut polled = answer.as_mut().poll(cx);
            if polled.is_pending() && !open {
                // Dropping the connection hands a request that was not sent back.
                *line = Line::Closed;
                polled = answer.as_mut().poll(cx);
            }
            polled.map_err(|mut failed| {
                let unsent = failed.take_message();
                let error = failed.into_error();
                Unanswered {
                    before_answer: !heard.get(),
                    reason: if error.is_parse() { Reason::UpstreamProtocol } else { Reason::UpstreamReset },
                    unsent,
                    refused: false,
                }
            })
        })
        .await
    }

    /// Lets the connection read and write what it can. `false` once it is closed.
    pub fn drive(&mut self, cx: &mut Context<'_>) -> bool {
        match self {
            Self::Http1(own) => own.line.drive(cx),
            // By a task of its own.
            Self::Http2(lease) => lease.is_open(),
        }
    }

    /// Whether it is shared with other requests.
    pub fn is_shared(&self) -> bool {
        matches!(self, Self::Http2(_))
    }

    /// After `101 Switching Protocols`: the bare socket and what was already read from it.
    ///
    /// # Errors
    /// If the connection failed.
    pub async fn into_tunnel(self) -> io::Result<(EndpointSocket, Bytes, ConnectionPermit)> {
        let Self::Http1(mut own) = self else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "http/2 does not switch protocols"));
        };
        std::future::poll_fn(|cx| if own.line.drive(cx) { Poll::Pending } else { Poll::Ready(()) }).await;
        let Line::Finished(connection) = own.line else {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed while switching protocols"));
        };
        let parts = connection.into_parts();
        Ok((parts.io.into_inner().socket, parts.read_buf, own.permit))
    }
}

impl Line {
    /// `false` once hyper is done with it.
    fn drive(&mut self, cx: &mut Context<'_>) -> bool {
        let Self::Open(connection) = self else { return false };
        let Poll::Ready(result) = Pin::new(connection).poll(cx) else { return true };
        *self = match (std::mem::replace(self, Self::Closed), result) {
            (Self::Open(connection), Ok(())) => Self::Finished(connection),
            _ => Self::Closed,
        };
        false
    }
}

/// An endpoint's socket to which writing never fails. An endpoint may answer and close before it has taken the whole request;
/// hyper would give up at the failed write and lose the answer that is waiting to be read. The failure shows at the next read, if
/// there is no answer.
#[derive(Debug)]
pub(super) struct EndpointStream {
    socket: EndpointSocket,
    /// The endpoint takes no more; what is written goes nowhere.
    deaf: bool,
    /// Told when something comes, if anybody wants to know.
    heard: Option<Rc<Cell<bool>>>,
}

impl EndpointStream {
    /// Over a socket that was just connected.
    pub fn new(socket: EndpointSocket) -> Self {
        Self { socket, deaf: false, heard: None }
    }

    /// Whether something was written that went nowhere.
    pub fn is_deaf(&self) -> bool {
        self.deaf
    }

    fn written(&mut self, wanted: usize, result: io::Result<usize>) -> io::Result<usize> {
        match result {
            Err(error) if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => {
                self.deaf = true;
                Ok(wanted)
            }
            result => result,
        }
    }
}

impl AsyncRead for EndpointStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let polled = Pin::new(&mut this.socket).poll_read(cx, buffer);
        if let Some(heard) = &this.heard
            && buffer.filled().len() > before
        {
            heard.set(true);
        }
        polled
    }
}

impl AsyncWrite for EndpointStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.deaf {
            return Poll::Ready(Ok(bytes.len()));
        }
        let result = ready!(Pin::new(&mut this.socket).poll_write(cx, bytes));
        Poll::Ready(this.written(bytes.len(), result))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let wanted = slices.iter().map(|slice| slice.len()).sum();
        if this.deaf {
            return Poll::Ready(Ok(wanted));
        }
        let result = ready!(Pin::new(&mut this.socket).poll_write_vectored(cx, slices));
        Poll::Ready(this.written(wanted, result))
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.deaf {
            return Poll::Ready(Ok(()));
        }
        let result = ready!(Pin::new(&mut this.socket).poll_flush(cx)).map(|()| 0);
        Poll::Ready(this.written(0, result).map(|_| ()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_shutdown(cx)
    }
}
