//! Bodies in both directions, streamed: a frame is asked for when the other side can take it, so memory stays constant.

use std::{
    cell::Cell,
    mem,
    pin::Pin,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf, Bytes};
use http::{HeaderMap, Version};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::Sleep;

use super::{
    account::Account,
    connection::Connection,
    fast::stream::Streamed,
    grpc::Code,
    mirror::Tap,
    pace::{BodyRate, Pace},
    resend::{Loan, OnLoan},
    upstream::Upstream,
};
use crate::{clock, load::Outcome, time::Timestamp};

/// Why a body ended early.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// The client's body broke off or is malformed.
    #[error("the client's body broke off")]
    Client,
    /// The client's body is longer than the listener allows.
    #[error("the request body is too large")]
    TooLarge,
    /// The upstream's body broke off or is malformed.
    #[error("the upstream's body broke off")]
    Upstream,
    /// No byte for too long, or the time is up.
    #[error("the time is up")]
    Timeout,
}

/// How far a request has come; shared by its two bodies and the service. It keeps the connection's deadline.
#[derive(Debug)]
pub struct Progress {
    client: Rc<Connection>,
    stall: Option<Duration>,
    /// When the whole request must be over.
    total: Timestamp,
    /// When the present attempt must be over.
    attempt: Cell<Timestamp>,
    bytes: Cell<u64>,
    fault: Cell<Option<BodyError>>,
    /// Since when the next byte is the client's to send.
    client_since: Cell<Option<Timestamp>>,
    /// How long it was, altogether.
    client_time: Cell<Duration>,
    /// How slowly the client may send its body and take its answer's.
    upload: Cell<Pace>,
    download: Cell<Pace>,
    /// When it will have been too slow with either.
    slow: Cell<Timestamp>,
    /// Either side may wait for the other's word.
    streams: Cell<bool>,
}

impl Progress {
    /// Of a request that may pause for `stall` at most, must be over at `total`, and whose client is held to `rate`.
    pub fn new(client: Rc<Connection>, stall: Option<Duration>, total: Timestamp, rate: Option<BodyRate>) -> Self {
        Self {
            client,
            stall,
            total,
            attempt: Cell::new(Timestamp::MAX),
            bytes: Cell::new(0),
            fault: Cell::new(None),
            client_since: Cell::new(None),
            client_time: Cell::new(Duration::ZERO),
            upload: Cell::new(Pace::new(rate)),
            download: Cell::new(Pace::new(rate)),
            slow: Cell::new(Timestamp::MAX),
            streams: Cell::new(false),
        }
    }

    /// Something moved.
    pub fn touch(&self, now: Timestamp) {
        let stalled = self.stall.map_or(Timestamp::MAX, |stall| now + stall);
        self.client.set_deadline(stalled.min(self.total).min(self.attempt.get()).min(self.slow.get()));
    }

    /// Holds the client to nothing in either direction: what is sent comes when it comes.
    pub fn free(&self) {
        self.streams.set(true);
        self.pace(&self.upload, |pace| *pace = Pace::new(None));
        self.pace(&self.download, |pace| *pace = Pace::new(None));
    }

    /// The endpoint has begun to answer: it has what it needs of the request, or both sides stream.
    pub fn answer_began(&self) {
        self.pace(&self.upload, |pace| *pace = Pace::new(None));
    }

    fn pace(&self, body: &Cell<Pace>, change: impl FnOnce(&mut Pace)) {
        let mut pace = body.get();
        change(&mut pace);
        body.set(pace);
        let slow = self.upload.get().due().min(self.download.get().due());
        self.slow.set(slow);
        if slow < self.client.deadline() {
            self.client.set_deadline(slow);
        }
    }

    /// The next attempt must be over at `deadline`.
    pub fn limit_attempt(&self, deadline: Timestamp) {
        self.attempt.set(deadline);
    }

    /// Until `deadline` at most, whatever the rest says.
    pub fn touch_until(&self, now: Timestamp, deadline: Timestamp) {
        self.touch(now);
        self.client.set_deadline(self.client.deadline().min(deadline));
    }

    /// Whether what takes so long is for the client to do. A stream, as calls of gRPC are, may wait for the endpoint's word before it goes on, so when its
    /// whole time is up that tells nothing.
    pub fn is_clients_turn(&self, now: Timestamp) -> bool {
        self.waits_for_client() && !(self.streams.get() && self.is_over(now))
    }

    /// Whether the whole request's time is up.
    pub fn is_over(&self, now: Timestamp) -> bool {
        now >= self.total
    }

    /// Bytes of the request's body so far.
    pub fn request_bytes(&self) -> u64 {
        self.bytes.get()
    }

    /// What was wrong with the request's body.
    pub fn fault(&self) -> Option<BodyError> {
        self.fault.get()
    }

    /// Counts bytes of the request's body.
    pub fn add_request_bytes(&self, bytes: u64) {
        self.bytes.set(self.bytes.get() + bytes);
        self.pace(&self.upload, |pace| pace.earn(bytes));
    }

    /// What the client was sent, it has not taken yet.
    pub fn client_lags(&self, now: Timestamp) {
        self.pace(&self.download, |pace| pace.waits(now));
    }

    /// The client has taken what it was sent.
    pub fn client_took(&self, now: Timestamp) {
        if self.download.get().is_waiting() {
            self.pace(&self.download, |pace| pace.moved(now));
            self.touch(now);
        }
    }

    /// So many bytes of the answer are on their way to the client.
    pub fn add_response_bytes(&self, bytes: u64) {
        self.pace(&self.download, |pace| pace.earn(bytes));
    }

    /// Something is wrong with the request's body.
    pub fn set_fault(&self, fault: BodyError) {
        self.fault.set(Some(fault));
    }

    /// Whether the next byte is the client's to send.
    fn waits_for_client(&self) -> bool {
        self.client_since.get().is_some()
    }

    /// How long the endpoint could do nothing because the client did not send.
    pub fn client_time(&self) -> Duration {
        self.client_time.get()
    }

    /// The next byte is the client's to send.
    pub fn client_waits(&self, now: Timestamp) {
        if self.client_since.get().is_none() {
            self.client_since.set(Some(now));
            self.pace(&self.upload, |pace| pace.waits(now));
        }
    }

    /// The client sent something, or its end.
    pub fn client_sent(&self, now: Timestamp) {
        if let Some(since) = self.client_since.take() {
            self.client_time.set(self.client_time.get() + now.since(since));
            self.pace(&self.upload, |pace| pace.moved(now));
        }
        self.touch(now);
    }
}

/// How long a client's `Expect: 100-continue` is held back for an endpoint that says neither `100` nor anything else. Some never do.
const CONTINUE_TIMEOUT: Duration = Duration::from_secs(1);

/// Holds a body back until the endpoint wants it: polling it is what makes hyper tell the client to continue.
#[derive(Debug)]
pub struct ContinueGate {
    open: Arc<AtomicBool>,
    timeout: Pin<Box<Sleep>>,
}

impl ContinueGate {
    /// Opens by itself after a while, or when `open` becomes true while the upstream connection is driven.
    pub fn new(open: Arc<AtomicBool>) -> Self {
        Self { open, timeout: Box::pin(tokio::time::sleep(CONTINUE_TIMEOUT)) }
    }
}

/// A client's body on its way to an endpoint.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "the large one is the usual one")]
pub enum RequestBody {
    /// It can be sent once.
    Once(Flow),
    /// It can be had back.
    OnLoan(OnLoan),
}

/// Where a client's body comes from, and what is to be done with it on its way.
#[derive(Debug)]
pub struct Flow {
    source: Source,
    /// What an endpoint that has done nothing with it was sent: it comes first.
    again: Option<(Bytes, Option<HeaderMap>)>,
    gate: Option<ContinueGate>,
    progress: Rc<Progress>,
    bytes_max: u64,
    /// Copies of it.
    taps: Vec<Tap>,
}

/// Where a body comes from.
#[derive(Debug)]
enum Source {
    /// There is none, or no more.
    Ended,
    Client(Incoming, Version),
    /// It is a copy of another, of this length if that is known.
    Copy(Tap, Option<u64>),
}

impl RequestBody {
    /// Streams `incoming`, which is of this version, and tells `taps` of it. A gate holds it back.
    pub fn new(
        (incoming, version): (Incoming, Version),
        progress: Rc<Progress>,
        bytes_max: Option<u64>,
        taps: Vec<Tap>,
        gate: Option<ContinueGate>,
    ) -> Self {
        let source = if incoming.is_end_stream() { Source::Ended } else { Source::Client(incoming, version) };
        let mut flow = Flow::new(source, progress, bytes_max.unwrap_or(u64::MAX));
        flow.taps = taps;
        flow.gate = gate;
        Self::Once(flow)
    }

    /// No body.
    pub fn empty(progress: Rc<Progress>) -> Self {
        Self::Once(Flow::new(Source::Ended, progress, 0))
    }

    /// A copy of another body.
    pub fn copied(from: Tap, length: Option<u64>, progress: Rc<Progress>) -> Self {
        Self::Once(Flow::new(Source::Copy(from, length), progress, u64::MAX))
    }

    /// Lends it to a connection that is to send it from its beginning.
    pub fn lend(self) -> (Self, Loan) {
        let lent = match self {
            Self::Once(flow) => OnLoan::new(flow),
            // It came back as it was: the connection before could not send it.
            Self::OnLoan(lent) => lent,
        };
        let loan = lent.loan();
        (Self::OnLoan(lent), loan)
    }

    fn look<T>(&self, ended: T, look: impl FnOnce(&Flow) -> T) -> T {
        match self {
            Self::Once(flow) => look(flow),
            Self::OnLoan(lent) => lent.look(look).unwrap_or(ended),
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Once(flow) => flow.poll(cx),
            Self::OnLoan(lent) => lent.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.look(true, Flow::is_over)
    }

    fn size_hint(&self) -> SizeHint {
        self.look(SizeHint::with_exact(0), Flow::size_hint)
    }
}

impl Flow {
    fn new(source: Source, progress: Rc<Progress>, bytes_max: u64) -> Self {
        Self { source, again: None, gate: None, progress, bytes_max, taps: Vec::new() }
    }

    /// Has it begin with what was sent before, once more. That was counted and copied then.
    pub(super) fn rewind(&mut self, data: Bytes, trailers: Option<HeaderMap>) {
        self.again = Some((data, trailers)).filter(|(data, trailers)| !data.is_empty() || trailers.is_some());
    }

    /// The next frame.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some((data, trailers)) = &mut self.again {
            let frame =
                if data.is_empty() { trailers.take().map(Frame::trailers) } else { Some(Frame::data(mem::take(data))) };
            if trailers.is_none() {
                self.again = None;
            }
            if let Some(frame) = frame {
                return Poll::Ready(Some(Ok(frame)));
            }
        }
        if matches!(self.source, Source::Ended) {
            return Poll::Ready(None);
        }
        if let Some(gate) = &mut self.gate {
            if !gate.open.load(Relaxed) && gate.timeout.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            self.gate = None;
        }
        let frame = match &mut self.source {
            Source::Ended => Poll::Ready(None),
            Source::Client(incoming, _) => {
                Pin::new(incoming).poll_frame(cx).map(|frame| frame.map(|frame| frame.map_err(|_| BodyError::Client)))
            }
            Source::Copy(tap, _) => tap.poll(cx),
        };
        let now = clock::now();
        let Poll::Ready(frame) = frame else {
            self.progress.client_waits(now);
            return Poll::Pending;
        };
        self.progress.client_sent(now);
        let result = match frame {
            None => {
                self.source = Source::Ended;
                self.end_copies(Ok(()));
                return Poll::Ready(None);
            }
            Some(Err(error)) => Err(error),
            Some(Ok(frame)) => {
                self.progress.add_request_bytes(frame.data_ref().map_or(0, |data| data.remaining() as u64));
                if self.progress.request_bytes() > self.bytes_max { Err(BodyError::TooLarge) } else { Ok(frame) }
            }
        };
        match &result {
            Ok(frame) => {
                self.taps.iter().for_each(|tap| tap.push(frame));
                if self.is_over() {
                    self.end_copies(Ok(()));
                }
            }
            Err(fault) => {
                self.progress.set_fault(*fault);
                self.end_copies(Err(*fault));
            }
        }
        Poll::Ready(Some(result))
    }

    fn is_over(&self) -> bool {
        self.again.is_none()
            && match &self.source {
                Source::Ended => true,
                Source::Client(incoming, _) => incoming.is_end_stream(),
                Source::Copy(..) => false,
            }
    }

    fn size_hint(&self) -> SizeHint {
        let rest = match &self.source {
            Source::Ended | Source::Copy(_, Some(0)) => SizeHint::with_exact(0),
            Source::Client(incoming, _) => incoming.size_hint(),
            // What has been sent is not counted down: hyper asks before the first byte.
            Source::Copy(_, length) => return length.map_or_else(SizeHint::default, SizeHint::with_exact),
        };
        let again = self.again.as_ref().map_or(0, |(data, _)| data.len() as u64);
        rest.exact().map_or_else(SizeHint::default, |rest| SizeHint::with_exact(again + rest))
    }

    fn end_copies(&mut self, end: Result<(), BodyError>) {
        self.taps.drain(..).for_each(|tap| tap.end(end));
    }
}

impl Drop for Flow {
    /// The endpoint answered, or failed, before it had all: the copies have no more to come either.
    fn drop(&mut self) {
        self.end_copies(Err(BodyError::Client));
        if let Source::Client(incoming, Version::HTTP_2) = mem::replace(&mut self.source, Source::Ended) {
            read_over(incoming);
        }
    }
}

/// So much of a body that nobody wants is read, for so long.
const READ_OVER_BYTES: usize = 256 << 10;
const READ_OVER_TIME: Duration = Duration::from_secs(1);

/// Reads what is left of the body of a stream that has its answer, or is about to, if that is little. Left alone the stream would be reset, which is right
/// (RFC 9113 §8.1), but has clients that are in wide use (curl 7.88) forget the answer that they have read.
pub fn read_over(mut incoming: Incoming) {
    if incoming.is_end_stream() {
        return;
    }
    tokio::task::spawn_local(tokio::time::timeout(READ_OVER_TIME, async move {
        let mut left = READ_OVER_BYTES;
        while let Some(Ok(frame)) = incoming.frame().await {
            let bytes = frame.data_ref().map_or(0, Bytes::len);
            let Some(rest) = left.checked_sub(bytes) else { break };
            left = rest;
        }
    }));
}

/// An answer's body on its way to a client.
#[derive(Debug)]
pub enum ResponseBody {
    /// Of an answer that the proxy made, or none.
    Full(Option<Bytes>),
    /// Streamed from an endpoint.
    Upstream(Box<UpstreamBody>),
    /// The same from a connection of the fast path's.
    Plain(Box<Streamed>),
}

/// What is needed to stream an answer, and to account for it at its end.
#[derive(Debug)]
pub struct UpstreamBody {
    incoming: Incoming,
    upstream: Option<Box<Upstream>>,
    account: Box<Account>,
    client: Rc<Connection>,
    grpc: bool,
    /// Its end has been given: trailers, or, where it broke off, what was made up.
    over: bool,
}

impl ResponseBody {
    /// A body that is there already.
    pub fn full(bytes: Bytes) -> Self {
        Self::Full(Some(bytes))
    }

    /// All of an endpoint's answer.
    pub fn whole(bytes: Bytes) -> Self {
        Self::Full(Some(bytes).filter(|bytes| !bytes.is_empty()))
    }

    /// No body.
    pub fn empty() -> Self {
        Self::Full(None)
    }

    /// Streams an endpoint's answer. One of gRPC that breaks off gets an end that says so.
    pub fn upstream(
        incoming: Incoming,
        upstream: Box<Upstream>,
        account: Box<Account>,
        client: Rc<Connection>,
        grpc: bool,
    ) -> Self {
        let upstream = Some(upstream);
        Self::Upstream(Box::new(UpstreamBody { incoming, upstream, account, client, grpc, over: false }))
    }
}

impl UpstreamBody {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.over {
            return Poll::Ready(None);
        }
        if self.client.is_expired() {
            return self.fail(BodyError::Timeout);
        }
        let mut frame = Pin::new(&mut self.incoming).poll_frame(cx);
        if frame.is_pending()
            && let Some(upstream) = &mut self.upstream
        {
            upstream.drive(cx);
            frame = Pin::new(&mut self.incoming).poll_frame(cx);
        }
        let now = clock::now();
        self.account.progress().client_took(now);
        let Poll::Ready(frame) = frame else {
            self.account.endpoint_waits(now);
            return Poll::Pending;
        };
        self.account.endpoint_sent(now);
        match frame {
            Some(Ok(frame)) => {
                if self.grpc
                    && let Some(trailers) = frame.trailers_ref()
                {
                    self.account.grpc_ended(trailers);
                }
                self.account.add_response_bytes(frame.data_ref().map_or(0, |data| data.remaining() as u64));
                // Nothing comes after trailers, and hyper does not ask.
                self.over = frame.is_trailers();
                if self.over || self.incoming.is_end_stream() {
                    self.complete(cx);
                } else {
                    // Until it is asked for more, which is at once if there is room.
                    self.account.progress().client_lags(now);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            None => {
                self.complete(cx);
                Poll::Ready(None)
            }
            Some(Err(_)) => self.fail(BodyError::Upstream),
        }
    }

    fn complete(&mut self, cx: &mut Context<'_>) {
        if let Some(upstream) = self.upstream.take() {
            self.account.complete(upstream, cx, clock::now());
        }
    }

    fn fail(&mut self, error: BodyError) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.upstream = None;
        self.client.abort();
        let (progress, now) = (self.account.progress(), clock::now());
        let clients_fault =
            progress.fault().is_some() || matches!(error, BodyError::Timeout) && progress.is_clients_turn(now);
        self.account.finish(if clients_fault { Outcome::Cancelled } else { Outcome::Failure }, now);
        if self.grpc {
            self.over = true;
            let (code, message) = match error {
                BodyError::Timeout => (Code::DeadlineExceeded, "the time is up"),
                _ => (Code::Unavailable, "the upstream's answer broke off"),
            };
            return Poll::Ready(Some(Ok(Frame::trailers(code.trailers(message)))));
        }
        Poll::Ready(Some(Err(error)))
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            Self::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Upstream(body) => body.poll_frame(cx),
            Self::Plain(body) => body.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Full(bytes) => bytes.is_none(),
            Self::Upstream(body) => body.over || body.upstream.is_none() && body.incoming.is_end_stream(),
            Self::Plain(body) => body.is_over(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Upstream(body) => body.incoming.size_hint(),
            Self::Plain(_) => SizeHint::default(),
        }
    }
}
