//! One client connection from accept to close: the fast path and then, if it is needed, hyper; their one timer, draining, and how it ends.

use std::{
    future::Future,
    io,
    pin::{Pin, pin},
    rc::Rc,
    task::Poll,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    connection::{Connection, GuardedStream, Phase},
    fast, forward,
};
use crate::{
    clock,
    route::rule::Limits,
    time::Timestamp,
    worker::{Socket, Worker},
};

/// hyper's lower bound for its buffers; also what one read takes at most.
const BUFFER_MIN: usize = 64 << 10;
/// hyper's own limit. Setting a limit, even this one, costs two allocations a request.
const HYPER_HEADERS_MAX: usize = 100;
/// After an answer to a request that was not read to its end, this long is waited for the client to take note: closing at once would
/// reset the connection and could destroy the answer on its way (RFC 9112 §9.6).
const LINGER: Duration = Duration::from_secs(2);
/// When draining, an idle client gets this long to send one more request and be told to close: closing under its request would lose it.
const DRAIN_IDLE: Duration = Duration::from_millis(500);

/// Why the connection's loop ended.
enum End<T, E> {
    /// Everything was answered and written, or the connection became a tunnel, or it is for somebody else from here on.
    Done(T),
    /// It met an error, or the client has gone.
    Failed(E),
    /// Nothing came for too long.
    Idle,
    /// A head did not come to its end.
    HeadTimeout,
    /// A request's time was up, and its answer could not be given.
    Stuck,
}

/// Serves a connection until it is over.
pub async fn serve(
    worker: Rc<Worker>,
    socket: Rc<Socket>,
    stream: TcpStream,
    peer: std::net::SocketAddr,
    limits: Limits,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%peer, %error, "client gone");
        return;
    }
    let client = Rc::new(Connection::new(peer, false, limits, clock::now()));
    if !worker.fast_path {
        return Hyper { worker, socket, client, limits }.serve(stream, BytesMut::new()).await;
    }
    let mut session = fast::Session::new(worker.clone(), socket.clone(), client.clone(), stream, limits);
    let end = watch(&mut pin!(session.drive()), |_| {}, &client, &socket).await;
    let (stream, read) = session.into_parts();
    match end {
        End::Done(fast::Ended::Unusual) => Hyper { worker, socket, client, limits }.serve(stream, read).await,
        End::Done(fast::Ended::Unread) => linger(stream).await,
        End::Done(fast::Ended::Closed) => {}
        End::Failed(fast::Lost) if client.is_aborted() => reset(&stream),
        End::Failed(fast::Lost) => tracing::debug!(%peer, "client gone"),
        End::Idle | End::HeadTimeout | End::Stuck => cut_off(stream, &end, &worker).await,
    }
}

/// Ends a connection whose time was up.
async fn cut_off<T, E>(mut stream: TcpStream, end: &End<T, E>, worker: &Worker) {
    match end {
        End::HeadTimeout => {
            worker.counters.header_timeouts.add(1);
            const ANSWER: &[u8] =
                b"HTTP/1.1 408 Request Timeout\r\nserver: trimtab\r\nx-trimtab-reason: header_timeout\r\n\
                connection: close\r\ncontent-length: 0\r\n\r\n";
            // As much as the socket takes at once; the client is slow by its own fault.
            let _ = stream.try_write(ANSWER);
            let _ = stream.shutdown().await;
        }
        End::Stuck => reset(&stream),
        End::Idle | End::Done(_) | End::Failed(_) => {}
    }
}

/// What hyper serves a connection with.
struct Hyper {
    worker: Rc<Worker>,
    socket: Rc<Socket>,
    client: Rc<Connection>,
    limits: Limits,
}

impl Hyper {
    /// Serves a connection, of which `read` was read already, until it is over.
    async fn serve(self, stream: TcpStream, read: BytesMut) {
        let Self { worker, socket, client, limits } = self;
        let peer = client.peer;
        let guarded = GuardedStream::new(stream, client.clone(), read);
        let service = {
            let (worker, socket, client) = (worker.clone(), socket.clone(), client.clone());
            service_fn(move |request| {
                let response = forward::serve(worker.clone(), socket.clone(), client.clone(), request);
                async move { Ok::<_, std::convert::Infallible>(response.await) }
            })
        };
        let mut builder = http1::Builder::new();
        if limits.headers_max != HYPER_HEADERS_MAX {
            builder.max_headers(limits.headers_max);
        }
        let mut connection = builder
            .header_read_timeout(None)
            .max_header_size(limits.header_bytes_max)
            .max_buf_size(limits.header_bytes_max.max(BUFFER_MIN))
            .serve_connection(TokioIo::new(guarded), service);
        let end = watch(&mut connection, |connection| connection.graceful_shutdown(), &client, &socket).await;
        let parts = connection.into_parts();
        let (stream, held) = parts.io.into_inner().into_parts();
        drop(parts.service);
        let tunnel = client.take_tunnel();
        match end {
            End::Done(()) => {
                if let Some(tunnel) = tunnel {
                    tunnel.run(stream, joined(parts.read_buf, held)).await;
                } else if client.has_unread() {
                    linger(stream).await;
                }
            }
            End::Failed(error) if error.is_parse() || error.is_parse_too_large() => {
                tracing::debug!(%peer, %error, "bad request");
                worker.counters.malformed.add(1);
                linger(stream).await;
            }
            End::Failed(error) => {
                tracing::debug!(%peer, %error, "connection failed");
                if client.is_aborted() {
                    reset(&stream);
                }
            }
            End::Idle | End::HeadTimeout | End::Stuck => cut_off(stream, &end, &worker).await,
        }
    }
}

/// Drives a connection, and the timer that stands for all of its deadlines.
async fn watch<C, T, E>(
    connection: &mut C,
    close_after: impl Fn(Pin<&mut C>),
    client: &Connection,
    socket: &Socket,
) -> End<T, E>
where
    C: Future<Output = Result<T, E>> + Unpin,
{
    let mut armed = client.deadline();
    let mut timer = pin!(tokio::time::sleep_until(clock::instant(armed)));
    let mut drain = pin!(socket.drain.cancelled());
    let mut drain_seen = false;
    let mut listening = false;
    std::future::poll_fn(|cx| {
        loop {
            match Pin::new(&mut *connection).poll(cx) {
                Poll::Ready(Ok(done)) => return Poll::Ready(End::Done(done)),
                Poll::Ready(Err(error)) => return Poll::Ready(End::Failed(error)),
                Poll::Pending => {}
            }
            if !listening {
                // Once is enough to be woken; from then on the flag tells.
                listening = true;
                let _ = drain.as_mut().poll(cx);
            }
            if socket.is_draining() && !drain_seen {
                drain_seen = true;
                client.close_after_request();
                if client.phase() == Phase::Request {
                    close_after(Pin::new(&mut *connection));
                    continue;
                }
                if client.is_waiting() {
                    client.set_deadline(client.deadline().min(clock::now() + DRAIN_IDLE));
                }
            }
            let deadline = client.deadline();
            if deadline < armed {
                armed = deadline;
                timer.as_mut().reset(clock::instant(armed));
            }
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            let now = clock::now();
            if now < deadline {
                armed = deadline;
                timer.as_mut().reset(clock::instant(armed));
                continue;
            }
            match client.phase() {
                Phase::Idle | Phase::Head if client.is_waiting() => return Poll::Ready(End::Idle),
                Phase::Idle | Phase::Head => return Poll::Ready(End::HeadTimeout),
                // The request was told at the last turn and could not act: the client does not take its answer.
                Phase::Request if client.is_expired() => return Poll::Ready(End::Stuck),
                Phase::Request => {
                    client.expire();
                    armed = Timestamp::MAX;
                    timer.as_mut().reset(clock::instant(now));
                }
            }
        }
    })
    .await
}

/// Says that nothing more will come, and reads on for a while so that the client can take what was sent.
async fn linger(mut stream: TcpStream) {
    let drain = async {
        stream.shutdown().await?;
        let mut waste = vec![0; 16 << 10];
        while stream.read(&mut waste).await? > 0 {}
        io::Result::Ok(())
    };
    let _ = tokio::time::timeout(LINGER, drain).await;
}

/// Makes the coming close a reset: what the client has is not the whole answer, and it must not take an end of stream for one.
fn reset(stream: &TcpStream) {
    let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

fn joined(first: Bytes, then: BytesMut) -> Bytes {
    if then.is_empty() {
        return first;
    }
    let mut all = BytesMut::from(&first[..]);
    all.extend_from_slice(&then);
    all.freeze()
}
