//! After `101 Switching Protocols`, or on a stream of HTTP/2 that has become a WebSocket: bytes are copied both ways until both sides have ended, and the request counts as in flight so long.

use std::{
    cell::Cell,
    io,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{account::Account, stream::EndpointSocket};
use crate::{clock, load::Outcome, table::ConnectionPermit, time::Timestamp};

/// A tunnel in which nothing moves for this long is closed; Envoy's default for idle streams.
const IDLE_TIMEOUT: Duration = Duration::from_secs(300);

/// How often a tunnel is looked after.
const WATCH: Duration = Duration::from_secs(15);

/// The upstream half of a granted upgrade.
#[derive(Debug)]
pub struct Tunnel {
    /// The endpoint's socket.
    pub socket: EndpointSocket,
    /// Read from it after the head of the answer.
    pub read: Bytes,
    /// Its place within the circuit breaker.
    pub permit: ConnectionPermit,
    /// The request's account.
    pub account: Box<Account>,
    /// The client's stream, where it is one of many on its connection.
    pub stream: Option<OnUpgrade>,
}

impl Tunnel {
    /// Copies until both sides have ended, one failed, or nothing moves. `read` was read from the client after its request.
    pub async fn run(self, client: impl AsyncRead + AsyncWrite + Unpin, read: Bytes) {
        let Self { socket, read: upstream_read, permit: _permit, mut account, stream: _ } = self;
        let moved = Rc::new(Cell::new(clock::now()));
        let mut upstream = Metered::new(socket, upstream_read, &moved);
        let mut client = Metered::new(client, read, &moved);
        let (down, up) = (upstream.bytes.clone(), client.bytes.clone());
        let mut copying = pin!(tokio::io::copy_bidirectional(&mut client, &mut upstream));
        loop {
            match tokio::time::timeout(WATCH, copying.as_mut()).await {
                // Which side failed is not told; a tunnel that was granted did its work.
                Ok(_) => break,
                Err(_) if clock::now().since(moved.get()) >= IDLE_TIMEOUT => break,
                Err(_) => account.refresh(clock::now()),
            }
        }
        account.add_request_bytes(up.get());
        account.add_response_bytes(down.get());
        account.finish(Outcome::Success, clock::now());
    }

    /// The same between the endpoint and a stream of HTTP/2. If the client has reset it meanwhile, the request was cancelled.
    pub async fn join(mut self) {
        let Some(stream) = self.stream.take() else { return };
        if let Ok(stream) = stream.await {
            self.run(TokioIo::new(stream), Bytes::new()).await;
        }
    }
}

/// A socket that gives out what was already read first, and says when bytes move.
struct Metered<S> {
    socket: S,
    read: Bytes,
    moved: Rc<Cell<Timestamp>>,
    /// How many were read.
    bytes: Rc<Cell<u64>>,
}

impl<S> Metered<S> {
    fn new(socket: S, read: Bytes, moved: &Rc<Cell<Timestamp>>) -> Self {
        Self { socket, read, moved: moved.clone(), bytes: Rc::default() }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        if this.read.is_empty() {
            ready!(Pin::new(&mut this.socket).poll_read(cx, buffer))?;
        } else {
            let step = this.read.len().min(buffer.remaining());
            buffer.put_slice(&this.read[..step]);
            this.read.advance(step);
        }
        this.moved.set(clock::now());
        this.bytes.set(this.bytes.get() + (buffer.filled().len() - before) as u64);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().socket).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_shutdown(cx)
    }
}
