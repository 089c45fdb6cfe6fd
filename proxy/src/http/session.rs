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
use rustls::pki_types::UnixTime;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::TlsAcceptor;

use super::{
    connection::{Connection, GuardedStream, Phase, Security},
    fast, forward, http2,
    stream::ClientStream,
};
use crate::{
    clock,
    route::rule::Limits,
    time::Timestamp,
    tls::SocketTls,
    worker::{Socket, Worker},
};

/// hyper's lower bound for its buffers; also what one read takes at most.
const BUFFER_MIN: usize = 64 << 10;
/// hyper's own limit. Setting a limit, even this one, costs two allocations a request.
const HYPER_HEADERS_MAX: usize = 100;
/// After an answer to a request that was not read to its end, this long is waited for the client to take note: closing at once would
/// reset the connection and could destroy the answer on its way (RFC 9112 §9.6).
const LINGER: Duration = Duration::from_secs(2);
/// A connection for which hyper has had nothing to do for so long goes back to the fast path: idle there it holds a fifth of the memory. Sooner, who sends
/// unusual requests one after the other would pay for going to and fro.
const PARKED: Duration = Duration::from_secs(1);
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
    /// It has been idle for [`PARKED`], and everything was answered and written.
    Parked,
}

/// Serves a connection until it is over, or turns out to be one of HTTP/2; over TLS if `tls` says how.
pub async fn serve(
    worker: Rc<Worker>,
    socket: Rc<Socket>,
    stream: TcpStream,
    peer: std::net::SocketAddr,
    limits: Limits,
    tls: Option<SocketTls>,
) -> Option<http2::Speaks> {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%peer, %error, "client gone");
        return None;
    }
    let (mut stream, security) = match tls {
        None => (ClientStream::Plain(stream), Security::Plain),
        Some(tls) => match Box::pin(handshake(&worker, &socket, stream, tls, limits.header_timeout)).await {
            Some(secured) => secured,
            None => return None,
        },
    };
    let told_http2 = stream.speaks_http2();
    let client = Rc::new(Connection::new(peer, security, limits, clock::now()));
    if told_http2 {
        return Some(http2::Speaks { worker, socket, client, limits, stream, read: BytesMut::new() });
    }
    if !worker.fast_path {
        match Box::pin(sniff(&socket, &mut stream, limits.header_timeout)).await {
            None => stream.farewell().await,
            Some(read) if read.starts_with(http2::PREFACE) => {
                return Some(http2::Speaks { worker, socket, client, limits, stream, read });
            }
            Some(read) => {
                let hyper = Hyper { worker, socket, client, limits };
                drop(Box::pin(hyper.serve(stream, read, false)).await);
            }
        }
        return None;
    }
    let mut session = fast::Session::new(worker.clone(), socket.clone(), client.clone(), stream, limits);
    let (end, mut stream, read) = loop {
        let end = watch(&mut pin!(session.drive()), |_| {}, &client, &socket, false).await;
        let (stream, read) = session.into_parts();
        if !matches!(end, End::Done(fast::Ended::Unusual)) {
            break (end, stream, read);
        }
        let hyper = Hyper { worker: worker.clone(), socket: socket.clone(), client: client.clone(), limits };
        worker.counters.handed_over.add(1);
        // In a box: most connections never need it.
        let stream = Box::pin(hyper.serve(stream, read, true)).await?;
        worker.counters.taken_back.add(1);
        session = fast::Session::new(worker.clone(), socket.clone(), client.clone(), stream, limits).used_before();
    };
    match end {
        End::Done(fast::Ended::Http2) => {
            return Some(http2::Speaks { worker, socket, client, limits, stream, read });
        }
        End::Done(fast::Ended::Unread) => linger(stream).await,
        End::Done(fast::Ended::Closed) => stream.farewell().await,
        End::Failed(fast::Lost) if client.is_aborted() => stream.reset(),
        End::Failed(fast::Lost) => tracing::debug!(%peer, "client gone"),
        End::Idle | End::HeadTimeout | End::Stuck => cut_off(stream, &end, &worker).await,
        // Neither is an end of it.
        End::Done(fast::Ended::Unusual) | End::Parked => {}
    }
    None
}

/// Secures a connection. `None`: it is over.
async fn handshake(
    worker: &Worker,
    socket: &Socket,
    stream: TcpStream,
    tls: SocketTls,
    timeout: Duration,
) -> Option<(ClientStream, Security)> {
    let accepted = tokio::select! {
        accepted = tokio::time::timeout(timeout, TlsAcceptor::from(tls.config).accept(stream)) => accepted,
        // It has sent no request yet that could be lost.
        () = socket.drain.cancelled() => return None,
    };
    match accepted {
        Ok(Ok(stream)) => {
            worker.counters.handshakes.add(1);
            let session = stream.get_ref().1;
            worker
                .counters
                .resumptions
                .add(u64::from(session.handshake_kind() == Some(rustls::HandshakeKind::Resumed)));
            let sni = session.server_name().map(|name| name.to_ascii_lowercase().into());
            let told = tls.told.and_then(|told| told.told(session.peer_certificates()?, UnixTime::now()));
            Some((ClientStream::Tls(Box::new(stream)), Security::Tls { sni, told }))
        }
        Ok(Err(error)) => {
            tracing::debug!(%error, "handshake failed");
            worker.counters.handshake_failures.add(1);
            None
        }
        Err(_) => {
            worker.counters.handshake_failures.add(1);
            None
        }
    }
}

/// Reads until it is clear whether the client speaks HTTP/2 without having been asked. `None`: it says nothing.
async fn sniff(socket: &Socket, stream: &mut ClientStream, timeout: Duration) -> Option<BytesMut> {
    // As much as hyper would read: what is left in the socket when it is closed would reset it.
    let mut read = BytesMut::with_capacity(BUFFER_MIN);
    let looking = async {
        while read.is_empty() || read.len() < http2::PREFACE.len() && http2::PREFACE.starts_with(&read) {
            if stream.read_buf(&mut read).await.unwrap_or(0) == 0 {
                return !read.is_empty();
            }
        }
        true
    };
    let told = tokio::select! {
        told = tokio::time::timeout(timeout, looking) => told.unwrap_or(false),
        () = async { socket.drain.cancelled().await; tokio::time::sleep(DRAIN_IDLE).await } => false,
    };
    told.then_some(read)
}

/// Ends a connection whose time was up.
async fn cut_off<T, E>(mut stream: ClientStream, end: &End<T, E>, worker: &Worker) {
    match end {
        End::HeadTimeout => {
            worker.counters.header_timeouts.add(1);
            const ANSWER: &[u8] =
                b"HTTP/1.1 408 Request Timeout\r\nserver: trimtab\r\nx-trimtab-reason: header_timeout\r\n\
                connection: close\r\ncontent-length: 0\r\n\r\n";
            // As much as the socket takes at once; the client is slow by its own fault.
            stream.write_now(ANSWER);
            stream.farewell().await;
            let _ = stream.shutdown().await;
        }
        End::Stuck => stream.reset(),
        End::Idle => stream.farewell().await,
        End::Done(_) | End::Failed(_) | End::Parked => {}
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
    /// Serves a connection, of which `read` was read already, until it is over or, if it `parks`, idle: then it is returned.
    async fn serve(self, stream: ClientStream, read: BytesMut, parks: bool) -> Option<ClientStream> {
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
        let end = watch(&mut connection, |connection| connection.graceful_shutdown(), &client, &socket, parks).await;
        let parts = connection.into_parts();
        let (mut stream, held) = parts.io.into_inner().into_parts();
        drop(parts.service);
        let tunnel = client.take_tunnel();
        match end {
            End::Done(()) => {
                if let Some(tunnel) = tunnel {
                    tunnel.run(stream, joined(parts.read_buf, held)).await;
                } else if client.has_unread() || !held.is_empty() || !parts.read_buf.is_empty() {
                    linger(stream).await;
                } else {
                    stream.farewell().await;
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
                    stream.reset();
                }
            }
            End::Idle | End::HeadTimeout | End::Stuck => cut_off(stream, &end, &worker).await,
            End::Parked if held.is_empty() && parts.read_buf.is_empty() => return Some(stream),
            // Not what it looked like: hyper knows more of it than can be handed over.
            End::Parked => stream.farewell().await,
        }
        None
    }
}

/// Drives a connection, and the timer that stands for all of its deadlines.
async fn watch<C, T, E>(
    connection: &mut C,
    close_after: impl Fn(Pin<&mut C>),
    client: &Connection,
    socket: &Socket,
    parks: bool,
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
            let parked_at = if parks && !drain_seen { client.idle_for(PARKED) } else { None };
            let due = parked_at.map_or(deadline, |at| at.min(deadline));
            if due < armed {
                armed = due;
                timer.as_mut().reset(clock::instant(armed));
            }
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            let now = clock::now();
            if now < due {
                armed = due;
                timer.as_mut().reset(clock::instant(armed));
                continue;
            }
            if now < deadline {
                return Poll::Ready(End::Parked);
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
async fn linger(mut stream: ClientStream) {
    let drain = async {
        stream.shutdown().await?;
        let mut waste = vec![0; 16 << 10];
        while stream.read(&mut waste).await? > 0 {}
        io::Result::Ok(())
    };
    let _ = tokio::time::timeout(LINGER, drain).await;
}

fn joined(first: Bytes, then: BytesMut) -> Bytes {
    if then.is_empty() {
        return first;
    }
    let mut all = BytesMut::from(&first[..]);
    all.extend_from_slice(&then);
    all.freeze()
}
