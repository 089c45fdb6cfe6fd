//! HTTP/2 with a client: hyper speaks it, and each stream is a request of its own, with its own deadline, as if it had a connection to itself.
//! What hyper and h2 bound: streams at a time, resets that were not yet looked at, sizes of heads and of continuations, small frames of data,
//! unanswered settings and pings. What is bounded here: frames that ask for nothing ([`flood`]), time without a stream, and streams whose
//! client does not take its answer.

use std::{
    cell::{Cell, RefCell},
    error::Error,
    io,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, BytesMut};
use hyper::{server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use self::{
    flood::{Flood, Watch},
    runner::Stream,
};
use super::{connection::Connection, forward, stream::ClientStream};
use crate::{
    clock,
    route::rule::Limits,
    time::Timestamp,
    worker::{Socket, Worker},
};

pub mod flood;
mod runner;

pub use runner::Runners;

/// What a client that speaks HTTP/2 says first.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Requests at a time on one connection.
const STREAMS_MAX: u32 = 128;
/// What a client may send ahead on one stream, and on all of a connection.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;
/// Streams that were opened and reset before anybody looked at them; more end the connection (rapid reset, CVE-2023-44487).
const PENDING_RESETS_MAX: usize = 20;
/// Streams that we had to reset for the client's mistakes; more end the connection (CVE-2025-8671).
const OWN_RESETS_MAX: usize = 512;
/// Bytes of an answer that wait to be written, per stream.
const SEND_BUFFER: usize = 64 << 10;
/// A client of which nothing is heard for this long is asked for a sign of life.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// After the client was told to go, it gets this long to do so.
const FAREWELL: Duration = Duration::from_secs(5);

/// The connection of a client that speaks HTTP/2, of which nothing has been used.
pub struct Speaks {
    /// Whose connection.
    pub worker: Rc<Worker>,
    /// Where it was accepted.
    pub socket: Rc<Socket>,
    /// What is known of it.
    pub client: Rc<Connection>,
    /// What it may take.
    pub limits: Limits,
    /// The connection.
    pub stream: ClientStream,
    /// What was read of it already.
    pub read: BytesMut,
}

/// Serves a connection until it is over.
pub async fn serve(Speaks { worker, socket, client, limits, stream, read }: Speaks) {
    let streams = Rc::new(Streams::new(clock::now()));
    let service = {
        let (worker, socket, client, streams) = (worker.clone(), socket.clone(), client.clone(), streams.clone());
        service_fn(move |request| {
            // Its own, as every stream has its own deadline and its own end.
            let own = Rc::new(client.detached(clock::now()));
            // hyper hands the future that is made here to the executor next.
            streams.next.replace(Some(own.clone()));
            // In a box from the start: what hyper and the executor do with a stream moves it from hand to hand, and this is kilobytes.
            let response = Box::pin(forward::serve(worker.clone(), socket.clone(), own, request));
            async move { Ok::<_, std::convert::Infallible>(response.await) }
        })
    };
    let watch = Rc::new(RefCell::new(Watch::new(clock::now())));
    let header_list_max = u32::try_from(limits.header_bytes_max).unwrap_or(u32::MAX);
    let mut connection = http2::Builder::new(Spawn { worker: worker.clone(), streams: streams.clone() })
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(header_list_max)
        .enable_connect_protocol()
        .max_pending_accept_reset_streams(PENDING_RESETS_MAX)
        .max_local_error_reset_streams(OWN_RESETS_MAX)
        .max_send_buf_size(SEND_BUFFER)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .serve_connection(TokioIo::new(Watched { stream, read, watch: watch.clone() }), service);
    let mut drain = pin!(socket.drain.cancelled());
    let mut leaving = false;
    let mut armed = streams.look_at(clock::now(), &limits);
    let mut timer = pin!(tokio::time::sleep_until(clock::instant(armed)));
    let ended = std::future::poll_fn(|cx| {
        loop {
            if let Poll::Ready(ended) = Pin::new(&mut connection).poll(cx) {
                return Poll::Ready(Some(ended));
            }
            let drained = !leaving && drain.as_mut().poll(cx).is_ready();
            let now = clock::now();
            // The last stream has ended: from now on there is less time.
            let due = streams.look_at(now, &limits);
            if !leaving && due < armed {
                armed = due;
                timer.as_mut().reset(clock::instant(armed));
            }
            let rung = timer.as_mut().poll(cx).is_ready();
            let idle = rung && streams.is_idle(now, &limits);
            if leaving && rung && streams.active.get() == 0 {
                return Poll::Ready(None);
            }
            if drained || !leaving && idle {
                leaving = true;
                Pin::new(&mut connection).graceful_shutdown();
                timer.as_mut().reset(clock::instant(now + FAREWELL));
            } else if rung && leaving {
                timer.as_mut().reset(clock::instant(now + FAREWELL));
            } else if rung {
                armed = due.max(now + Duration::from_millis(1));
                timer.as_mut().reset(clock::instant(armed));
            } else {
                return Poll::Pending;
            }
        }
    })
    .await;
    let mut flood = watch.borrow().flood();
    if let Some(Err(error)) = ended {
        flood = flood.or_else(|| is_fed_up(&error).then(|| watch.borrow().last()));
        tracing::debug!(peer = %client.peer, %error, flood = flood.map(Flood::name), "http/2 connection failed");
        if error.is_parse() {
            worker.counters.malformed.add(1);
        }
    }
    if let Some(flood) = flood {
        worker.counters.floods[flood as usize].add(1);
    }
}

/// Whether h2 had enough of the client.
fn is_fed_up(error: &hyper::Error) -> bool {
    let mut source = error.source();
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            return !error.is_remote() && error.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM);
        }
        source = error.source();
    }
    false
}

/// What is going on on one connection.
#[derive(Debug)]
struct Streams {
    active: Cell<usize>,
    any: Cell<bool>,
    idle_since: Cell<Timestamp>,
    /// Of the stream whose future is about to be spawned.
    next: RefCell<Option<Rc<Connection>>>,
}

impl Streams {
    fn new(now: Timestamp) -> Self {
        Self { active: Cell::new(0), any: Cell::new(false), idle_since: Cell::new(now), next: RefCell::default() }
    }

    fn timeout(&self, limits: &Limits) -> Duration {
        if self.any.get() { limits.idle_timeout } else { limits.header_timeout }
    }

    fn is_idle(&self, now: Timestamp, limits: &Limits) -> bool {
        self.active.get() == 0 && now.since(self.idle_since.get()) >= self.timeout(limits)
    }

    /// When to look again whether it is idle.
    fn look_at(&self, now: Timestamp, limits: &Limits) -> Timestamp {
        let since = if self.active.get() == 0 { self.idle_since.get() } else { now };
        since + self.timeout(limits)
    }
}

/// Counts a stream while it lives.
struct Active(Rc<Streams>);

impl Active {
    fn new(streams: Rc<Streams>) -> Self {
        streams.active.set(streams.active.get() + 1);
        streams.any.set(true);
        Self(streams)
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.active.set(self.0.active.get() - 1);
        self.0.idle_since.set(clock::now());
    }
}

/// Has the streams of one connection served, each with its deadline.
#[derive(Debug, Clone)]
struct Spawn {
    worker: Rc<Worker>,
    streams: Rc<Streams>,
}

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for Spawn {
    fn execute(&self, future: F) {
        let Some(client) = self.streams.next.take() else {
            tokio::task::spawn_local(future);
            return;
        };
        let active = Active::new(self.streams.clone());
        runner::start(&self.worker, Stream { future: Box::pin(future), client, active });
    }
}

/// A client's socket of which the beginning was read already, and whose frames are counted.
#[derive(Debug)]
struct Watched {
    stream: ClientStream,
    read: BytesMut,
    watch: Rc<RefCell<Watch>>,
}

impl Watched {
    /// Counts what came.
    fn count(&mut self, came: &[u8]) -> io::Result<()> {
        let mut watch = self.watch.borrow_mut();
        watch.received(came, clock::now()).map_err(|flood| {
            // h2 is not told: it would go on to answer what it has of the flood. The client may still read why.
            if watch.is_between_frames() {
                self.stream.write_now(&flood::CALM);
            }
            io::Error::new(io::ErrorKind::ConnectionAborted, flood.name())
        })
    }
}

impl AsyncRead for Watched {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        if this.read.is_empty() {
            ready!(Pin::new(&mut this.stream).poll_read(cx, buffer))?;
        } else {
            let step = this.read.len().min(buffer.remaining());
            buffer.put_slice(&this.read[..step]);
            this.read.advance(step);
        }
        Poll::Ready(this.count(&buffer.filled()[before..]))
    }
}

impl AsyncWrite for Watched {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.stream).poll_write(cx, bytes))?;
        this.watch.borrow_mut().sent(&bytes[..written]);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.stream).poll_write_vectored(cx, slices))?;
        let (mut watch, mut left) = (this.watch.borrow_mut(), written);
        for slice in slices {
            let step = left.min(slice.len());
            watch.sent(&slice[..step]);
            left -= step;
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
