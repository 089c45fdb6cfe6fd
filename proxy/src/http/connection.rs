//! What a client's connection and the requests on it share, and the stream that hyper reads from.
//!
//! A connection has one deadline at a time. Whoever is in charge of the present phase sets it; the connection's task keeps one timer and
//! looks at the deadline only when that timer fires, so a request costs no timer operation.

use std::{
    cell::{Cell, RefCell, RefMut},
    io,
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::{Buf, BytesMut};
use http::HeaderValue;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    framing::{Fed, Framing, Refusal},
    headers::ClientHeaders,
    stream::ClientStream,
    upgrade::Tunnel,
};
use crate::{clock, observe::record::Record, route::rule::Limits, time::Timestamp};

/// What a connection is waiting for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The next request, of which nothing has come.
    Idle,
    /// The rest of a request's head.
    Head,
    /// The end of a request.
    Request,
}

/// Whether a connection is over TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Security {
    /// In clear text.
    Plain,
    /// Over TLS.
    Tls {
        /// The name that the client asked for, lower case.
        sni: Option<Rc<str>>,
        /// What endpoints are told of its certificate.
        told: Option<HeaderValue>,
    },
}

/// State of one client connection. It lives on one worker, hence the cells.
#[derive(Debug)]
pub struct Connection {
    /// The client.
    pub peer: SocketAddr,
    /// What every request says about the client.
    pub client: Rc<ClientHeaders>,
    /// Whether it is over TLS.
    pub security: Security,
    limits: Limits,
    framing: RefCell<Framing>,
    phase: Cell<Phase>,
    head_at: Cell<Option<Timestamp>>,
    deadline: Cell<Timestamp>,
    expired: Cell<bool>,
    heads: Cell<u64>,
    /// The fast path holds part of a head, which framing has not seen.
    partial: Cell<bool>,
    /// The client half-closed after its last request, and said so beforehand: it still wants the answer.
    last_request: Cell<bool>,
    closing: Cell<bool>,
    aborted: Cell<bool>,
    /// hyper's answer waits for the socket.
    blocked: Cell<bool>,
    held_reader: RefCell<Option<Waker>>,
    tunnel: RefCell<Option<Tunnel>>,
    /// When the present request began.
    started: Cell<Timestamp>,
    /// The present request has been counted by its route.
    counted: Cell<bool>,
    /// What is known of the present request, if anybody wants to know.
    record: RefCell<Option<Box<Record>>>,
}

impl Connection {
    /// A connection that was just accepted.
    pub fn new(peer: SocketAddr, security: Security, limits: Limits, now: Timestamp) -> Self {
        let secure = matches!(security, Security::Tls { .. });
        let mut client = ClientHeaders::new(peer, secure);
        if let Security::Tls { told: Some(told), .. } = &security {
            client.set_certificate(told.clone());
        }
        Self::with(peer, Rc::new(client), security, limits, now)
    }

    fn with(peer: SocketAddr, client: Rc<ClientHeaders>, security: Security, limits: Limits, now: Timestamp) -> Self {
        Self {
            peer,
            client,
            security,
            limits,
            framing: RefCell::default(),
            phase: Cell::new(Phase::Head),
            head_at: Cell::new(None),
            deadline: Cell::new(now + limits.header_timeout),
            expired: Cell::new(false),
            heads: Cell::new(0),
            partial: Cell::new(false),
            last_request: Cell::new(false),
            closing: Cell::new(false),
            aborted: Cell::new(false),
            blocked: Cell::new(false),
            held_reader: RefCell::default(),
            tunnel: RefCell::default(),
            started: Cell::new(now),
            counted: Cell::new(false),
            record: RefCell::default(),
        }
    }

    fn request_began(&self, started: Timestamp) -> Timestamp {
        self.started.set(started);
        self.counted.set(false);
        started
    }

    /// When the present request began.
    pub fn started(&self) -> Timestamp {
        self.started.get()
    }

    /// Says whether the present request has been counted by its route, and returns what was said before.
    pub fn counted(&self, counted: bool) -> bool {
        self.counted.replace(counted)
    }

    /// Begins the record of a request.
    pub fn set_record(&self, record: Box<Record>) {
        *self.record.borrow_mut() = Some(record);
    }

    /// The record of the present request, which is over.
    pub fn take_record(&self) -> Option<Box<Record>> {
        self.record.take()
    }

    /// Adds to the record of the present request, if there is one.
    #[inline]
    pub fn note(&self, note: impl FnOnce(&mut Record)) {
        if let Some(record) = &mut *self.record.borrow_mut() {
            note(record);
        }
    }

    /// Reads from it.
    pub fn recorded<T>(&self, read: impl FnOnce(&Record) -> Option<T>) -> Option<T> {
        self.record.borrow().as_deref().and_then(read)
    }

    /// One of the same client for a single request that does not depend on the connection: one of many at a time, or not the client's own.
    pub fn detached(&self, now: Timestamp) -> Self {
        Self {
            phase: Cell::new(Phase::Request),
            ..Self::with(self.peer, self.client.clone(), self.security.clone(), self.limits, now)
        }
    }

    /// A head is complete. Returns when its first byte came, and why it is refused if it is.
    pub fn begin_request(&self, last: bool) -> (Timestamp, Option<Refusal>) {
        self.heads.set(self.heads.get() + 1);
        self.phase.set(Phase::Request);
        self.last_request.set(last);
        let refusal = self.framing.borrow().refusal_of(self.heads.get());
        (self.request_began(self.head_at.take().unwrap_or_else(clock::now)), refusal)
    }

    /// The same for the fast path, which refuses nothing: a head that is complete and plain.
    pub fn begin_plain_request(&self, last: bool, now: Timestamp) -> Timestamp {
        self.phase.set(Phase::Request);
        self.partial.set(false);
        self.last_request.set(last);
        self.request_began(self.head_at.take().unwrap_or(now))
    }

    /// The first bytes of a head have come on the fast path, and not the last.
    pub fn begin_plain_head(&self, now: Timestamp) {
        if !self.partial.replace(true) {
            self.head_began(now);
        }
    }

    /// The fast path hands over what it has read.
    pub fn leave_fast_path(&self) {
        self.partial.set(false);
    }

    /// Whether the client said that it will send nothing more.
    pub fn is_last_request(&self) -> bool {
        self.last_request.get()
    }

    /// The last byte of the answer is on its way.
    pub fn end_request(&self, now: Timestamp) {
        let in_head = self.framing.borrow().in_head();
        let (phase, timeout) =
            if in_head { (Phase::Head, self.limits.header_timeout) } else { (Phase::Idle, self.limits.idle_timeout) };
        self.phase.set(phase);
        self.deadline.set(now + timeout);
        self.expired.set(false);
    }

    /// What its client may take.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// What it is waiting for.
    pub fn phase(&self) -> Phase {
        self.phase.get()
    }

    /// Whether it waits for a request of which nothing has come.
    pub fn is_waiting(&self) -> bool {
        self.phase.get() != Phase::Request && self.framing.borrow().between_messages() && !self.partial.get()
    }

    /// When hyper has had nothing to do for so long; `None`: it has, or something of its connection is not finished.
    pub fn idle_for(&self, length: Duration) -> Option<Timestamp> {
        let idle = self.phase.get() == Phase::Idle && self.is_waiting() && !self.blocked.get() && !self.closing.get();
        idle.then(|| self.deadline.get() - self.limits.idle_timeout + length)
    }

    /// When the present phase must be over; `MAX`: never.
    pub fn deadline(&self) -> Timestamp {
        self.deadline.get()
    }

    /// Sets when the present phase must be over.
    pub fn set_deadline(&self, deadline: Timestamp) {
        self.deadline.set(deadline);
        self.expired.set(false);
    }

    /// The connection's task saw the deadline pass.
    pub fn expire(&self) {
        self.expired.set(true);
    }

    /// Whether the deadline has passed and nobody has dealt with it.
    pub fn is_expired(&self) -> bool {
        self.expired.get()
    }

    /// Asks for the connection to end after the present request.
    pub fn close_after_request(&self) {
        self.closing.set(true);
    }

    /// Whether it is to end after the present request.
    pub fn is_closing(&self) -> bool {
        self.closing.get()
    }

    /// The answer cannot be completed: the client must not take what it got for the whole.
    pub fn abort(&self) {
        self.aborted.set(true);
    }

    /// Whether the answer could not be completed.
    pub fn is_aborted(&self) -> bool {
        self.aborted.get()
    }

    /// Whether the client may be sending what nobody will read.
    pub fn has_unread(&self) -> bool {
        self.framing.borrow().unread()
    }

    /// The answer to a request that asked for an upgrade is known: `Some` grants it, and the connection's task takes it from here.
    pub fn answer_upgrade(&self, tunnel: Option<Tunnel>) {
        let mut framing = self.framing.borrow_mut();
        match tunnel {
            Some(tunnel) => {
                framing.open();
                *self.tunnel.borrow_mut() = Some(tunnel);
            }
            None => framing.release(),
        }
        if let Some(reader) = self.held_reader.take() {
            reader.wake();
        }
    }

    /// The tunnel that was granted.
    pub fn take_tunnel(&self) -> Option<Tunnel> {
        self.tunnel.take()
    }

    /// Bytes came; `new_head` if they start one.
    fn arrived(&self, new_head: bool) {
        // A head that the fast path handed over began when its first byte came, and has no more time than others.
        if new_head && self.head_at.get().is_none() {
            self.head_began(clock::now());
        }
    }

    fn head_began(&self, now: Timestamp) {
        self.head_at.set(Some(now));
        if self.phase.get() != Phase::Request {
            self.phase.set(Phase::Head);
            self.deadline.set(now + self.limits.header_timeout);
        }
    }

    fn framing(&self) -> RefMut<'_, Framing> {
        self.framing.borrow_mut()
    }
}

/// A client's socket as hyper sees it: a head that was refused by [`Framing`] is the last thing that it reads, and a chunk that breaks its
/// framing is an error.
#[derive(Debug)]
pub struct GuardedStream {
    socket: ClientStream,
    connection: Rc<Connection>,
    /// Read, and not to be passed on yet.
    held: BytesMut,
}

impl GuardedStream {
    /// Guards a socket, of which `read` was read already.
    pub fn new(socket: ClientStream, connection: Rc<Connection>, read: BytesMut) -> Self {
        Self { socket, connection, held: read }
    }

    /// The socket, and what was read from it without being passed on.
    pub fn into_parts(self) -> (ClientStream, BytesMut) {
        (self.socket, self.held)
    }
}

impl AsyncRead for GuardedStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.connection.framing().held() {
            *this.connection.held_reader.borrow_mut() = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let malformed = || Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "malformed chunked body")));
        if this.connection.framing().broken() {
            return malformed();
        }
        let before = buffer.filled().len();
        if this.held.is_empty() {
            ready!(Pin::new(&mut this.socket).poll_read(cx, buffer))?;
        } else {
            let step = this.held.len().min(buffer.remaining());
            buffer.put_slice(&this.held[..step]);
            this.held.advance(step);
        }
        let bytes = &buffer.filled()[before..];
        if bytes.is_empty() {
            // hyper would take the end for a client that has gone, as it is where a body is not whole (RFC 9112 §8).
            let awaits_answer = this.connection.phase() == Phase::Request
                && this.connection.last_request.get()
                && this.connection.framing().between_messages();
            return if awaits_answer { Poll::Pending } else { Poll::Ready(Ok(())) };
        }
        let mut framing = this.connection.framing();
        let new_head = framing.between_messages();
        let fed = framing.feed(bytes);
        let foreign_at = framing.foreign_at();
        drop(framing);
        this.connection.arrived(new_head);
        match fed {
            Fed::All => {}
            // No bytes would be the end.
            Fed::Until(0) if this.connection.framing().broken() => return malformed(),
            Fed::Until(end) => {
                let rest = BytesMut::from(&bytes[end..]);
                let held = std::mem::replace(&mut this.held, rest);
                this.held.extend_from_slice(&held);
                buffer.set_filled(before + end);
            }
        }
        // hyper would answer by itself, and not as it should; as one of a version that it knows it is refused like others.
        if let Some(number) = foreign_at.and_then(|at| buffer.filled_mut()[before..].get_mut(at..at + 3)) {
            number.copy_from_slice(b"1.1");
        }
        Poll::Ready(Ok(()))
    }
}

impl GuardedStream {
    /// Takes note whether the socket takes what it is given.
    fn noted<T>(&self, polled: Poll<T>) -> Poll<T> {
        self.connection.blocked.set(polled.is_pending());
        polled
    }
}

impl AsyncWrite for GuardedStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.socket).poll_write(cx, bytes);
        this.noted(polled)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.socket).poll_write_vectored(cx, slices);
        this.noted(polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.socket).poll_flush(cx);
        this.noted(polled)
    }

    /// Does nothing: how a connection ends (at once, lingering, reset, or as a tunnel) is decided by its task.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
