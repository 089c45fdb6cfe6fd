//! One request on one endpoint's connection: the request goes out, the answer's head comes in, and both bodies move at the same time. Each
//! poll looks at both sockets; a side that cannot take more holds the other one back.

use std::{
    future::poll_fn,
    ops::Range,
    rc::Rc,
    task::{Context, Poll, ready},
};

use http::StatusCode;
use memchr::memmem;
use tokio::io::AsyncWrite;

use super::{
    super::{
        account::Account,
        attempts::{NoAnswer, given_up},
        body::{BodyError, Progress},
        edits::Edits,
        error::Reason,
        pool::Pooled,
    },
    endpoint::Endpoint,
    field,
    flow::{Cut, Flow, Meter},
    response::{self, Body, Response, Seen},
    scratch::{FRONT, Scratch},
    session::{Lost, Session},
};
use crate::{
    clock,
    load::{OrcaLoad, Outcome},
    observe::trace,
    time::Timestamp,
};

/// A request on its way.
#[derive(Debug)]
pub(super) struct Exchange {
    /// What is left of its body.
    pub upload: Flow,
    pub progress: Rc<Progress>,
    pub body_bytes_max: Option<u64>,
    /// What filters change about its answer.
    pub edits: Option<Box<Edits>>,
    /// It is a HEAD request: its answer has no body.
    pub to_head: bool,
    /// It may be sent twice without harm, and has no body.
    pub repeatable: bool,
    /// Something of an answer has come, be it an interim one.
    pub heard: bool,
}

/// The head of an answer is on its way to the client, with what of the body came along.
#[derive(Debug)]
pub(super) struct Answered {
    pub status: StatusCode,
    pub load: Option<OrcaLoad>,
    pub at: Timestamp,
    /// Of the body.
    pub bytes: u64,
    /// The endpoint's connection may be used again once the body is over.
    pub keeps: bool,
}

/// Why a relay ended early.
enum Broken {
    /// The endpoint's answer broke off.
    Answer,
    /// The client's body did, or the time is up.
    Request,
    /// There is no client any more.
    Client,
}

impl Exchange {
    /// Adds to the first flight what of the body has come with the head.
    pub fn board(&mut self, rest: &mut Vec<u8>, flight: &mut Vec<u8>) -> Result<(), Reason> {
        let mut meter = Upload { progress: &self.progress, max: self.body_bytes_max };
        self.upload.take(rest, flight, &mut meter).map_err(|cut| match cut {
            Cut::TooLong => Reason::BodyTooLarge,
            Cut::Source | Cut::Sink => Reason::ClientGone,
        })
    }

    /// Sends the request and waits for the head of the answer, which is on its way to the client when this returns.
    pub async fn run(
        &mut self,
        session: &mut Session,
        account: &Account,
        endpoint: &mut Endpoint,
        reused: bool,
    ) -> Result<Answered, NoAnswer<()>> {
        let mut sent = 0;
        let mut partial = Vec::new();
        let mut unchecked = reused;
        self.heard = false;
        if let Some(at) = session.span_at
            && let Some(passed) = account.passed_on()
        {
            // Each attempt is a span of its own.
            let span = at..at + trace::SPAN_LEN;
            session.flight[span].copy_from_slice(&passed.header[trace::SPAN_AT..trace::SPAN_AT + trace::SPAN_LEN]);
        }
        poll_fn(|cx| {
            let failed = |reason, again: bool| Poll::Ready(Err(NoAnswer { reason, again: again.then_some(()) }));
            if let Some(reason) = given_up(&session.client, &self.progress) {
                let again = self.repeatable && !self.heard && account.retries_failure(&reason);
                return failed(reason, again);
            }
            // The endpoint may have closed a connection while it was idle: then nothing of the request is lost yet.
            if std::mem::take(&mut unchecked) && !endpoint.is_open(cx) {
                return failed(Reason::UpstreamReset, true);
            }
            while sent < session.flight.len() {
                match std::pin::Pin::new(&mut endpoint.stream).poll_write(cx, &session.flight[sent..]) {
                    Poll::Ready(Ok(written)) if written > 0 => sent += written,
                    Poll::Ready(_) => return failed(Reason::UpstreamReset, sent == 0),
                    Poll::Pending => break,
                }
            }
            // What TLS still holds goes as the socket takes it; a failure shows at the next read.
            let _ = std::pin::Pin::new(&mut endpoint.stream).poll_flush(cx);
            if sent == session.flight.len()
                && let Poll::Ready(reason) = self.poll_upload(session, endpoint, cx)
            {
                return failed(reason, false);
            }
            match ready!(self.poll_answer(session, account, endpoint, &mut partial, cx)) {
                Ok(answered) => {
                    // An endpoint may answer before it has taken all: the rest still goes first, and until it has the connection is not clean.
                    self.upload.put_before(&session.flight[sent..]);
                    Poll::Ready(Ok(answered))
                }
                // Asked whether it is worth another try, and it is.
                Err(reason @ Reason::UpstreamStatus(_)) => failed(reason, true),
                Err(reason) => {
                    let silent = reason == Reason::UpstreamReset && !self.heard;
                    let again =
                        silent && (sent == 0 || self.repeatable && (reused || account.retries_failure(&reason)));
                    failed(reason, again)
                }
            }
        })
        .await
    }

    /// Moves what is left of the client's body; after it, notices a client that goes. Ready only if the exchange cannot go on.
    fn poll_upload(&mut self, session: &mut Session, endpoint: &mut Endpoint, cx: &mut Context<'_>) -> Poll<Reason> {
        if !(self.upload.is_over() && self.upload.is_flushed()) {
            let Session { worker, stream, rest, .. } = session;
            let mut scratch = worker.scratch.borrow_mut();
            let mut meter = Upload { progress: &self.progress, max: self.body_bytes_max };
            let polled = self.upload.poll(cx, stream, rest, &mut endpoint.stream, &mut scratch, &mut meter);
            match ready!(polled).err() {
                None => {}
                Some(Cut::Sink) => return Poll::Ready(Reason::UpstreamReset),
                Some(Cut::TooLong) => {
                    self.progress.set_fault(BodyError::TooLarge);
                    return Poll::Ready(Reason::BodyTooLarge);
                }
                Some(Cut::Source) => {
                    self.progress.set_fault(BodyError::Client);
                    return Poll::Ready(Reason::ClientGone);
                }
            }
        }
        if session.poll_gone(cx) {
            session.lost = true;
            return Poll::Ready(Reason::ClientGone);
        }
        Poll::Pending
    }

    /// Reads until the head of a final answer is there, and writes it to the client.
    fn poll_answer(
        &mut self,
        session: &mut Session,
        account: &Account,
        endpoint: &mut Endpoint,
        partial: &mut Vec<u8>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Answered, Reason>> {
        let worker = session.worker.clone();
        let mut scratch = worker.scratch.borrow_mut();
        loop {
            let at = match ready!(scratch.poll_read(&mut endpoint.stream, cx)) {
                Ok(at) if !at.is_empty() => at,
                _ => return Poll::Ready(Err(Reason::UpstreamReset)),
            };
            if partial.is_empty() {
                // Lent apart from the head and the date beside them.
                let mut bytes = std::mem::take(&mut scratch.bytes);
                let answered = self.answer(session, account, (&mut *scratch, &mut bytes), at, partial, cx);
                scratch.bytes = bytes;
                if let Some(answered) = answered {
                    return Poll::Ready(answered);
                }
                continue;
            }
            // A head in pieces: rare enough to be put together in memory of its own, once its end may have come.
            let before = partial.len().saturating_sub(3);
            partial.extend_from_slice(&scratch.bytes[at]);
            let ends = |end: &[u8]| memmem::find(&partial[before..], end).is_some();
            if partial.len() <= response::HEAD_MAX && !ends(b"\n\r\n") && !ends(b"\n\n") {
                continue;
            }
            let mut bytes = vec![0; FRONT + partial.len() + 16];
            let at = FRONT..FRONT + partial.len();
            bytes[at.clone()].copy_from_slice(partial);
            partial.clear();
            if let Some(answered) = self.answer(session, account, (&mut *scratch, &mut bytes), at, partial, cx) {
                return Poll::Ready(answered);
            }
        }
    }

    /// Looks at the start of an answer. `None` if it is not all there: what there is goes to `partial`.
    fn answer(
        &mut self,
        session: &mut Session,
        account: &Account,
        (scratch, bytes): (&mut Scratch, &mut [u8]),
        at: Range<usize>,
        partial: &mut Vec<u8>,
        cx: &mut Context<'_>,
    ) -> Option<Result<Answered, Reason>> {
        let mut start = at.start;
        self.heard = true;
        loop {
            let mut slots = response::slots();
            let response = match Response::look(&bytes[start..at.end], &mut slots, self.to_head) {
                Seen::Interim(len) => {
                    start += len;
                    continue;
                }
                Seen::Partial => {
                    partial.extend_from_slice(&bytes[start..at.end]);
                    return None;
                }
                Seen::Malformed => return Some(Err(Reason::UpstreamProtocol)),
                Seen::Final(response) => response,
            };
            if self.repeatable && account.retries_status(response.status) {
                return Some(Err(Reason::UpstreamStatus(response.status)));
            }
            let now = clock::now();
            let Scratch { head, date, .. } = scratch;
            head.clear();
            let edits = self.edits.as_deref().map(Edits::response);
            response.write(session.closes(), edits, || date.at(now, clock::unix_ms), head);
            if let Some((name, value)) = account.told_session() {
                // Before the empty line that ends the head.
                head.truncate(head.len() - 2);
                field::write(head, name.as_str(), value.as_bytes());
                head.extend_from_slice(b"\r\n");
            }
            let mut reply = match response.body {
                Body::Absent(_) => Flow::none(),
                Body::Length(length) => Flow::length(length),
                Body::Chunked => Flow::chunked(),
                Body::UntilClose => Flow::until_close(),
            };
            let mut answered =
                Answered { status: response.status, load: response.load, at: now, bytes: 0, keeps: response.keeps };
            start += response.len;
            let mut left = Vec::new();
            let mut count = Count(0);
            let Ok(body) = reply.take_in_place(bytes, start..at.end, &mut left, &mut count) else {
                return Some(Err(Reason::UpstreamProtocol));
            };
            answered.bytes = count.0;
            answered.keeps &= left.is_empty();
            // The new head right before the body, where there is room: one system call, and no copy of the body.
            let written = match body.start.checked_sub(head.len()) {
                Some(from) => {
                    bytes[from..body.start].copy_from_slice(head);
                    reply.push(&bytes[from..body.end], &mut session.stream, cx)
                }
                None => reply
                    .push(head, &mut session.stream, cx)
                    .and_then(|()| reply.push(&bytes[body], &mut session.stream, cx)),
            };
            session.reply = reply;
            if written.is_err() {
                session.lost = true;
                return Some(Err(Reason::ClientGone));
            }
            return Some(Ok(answered));
        }
    }

    /// Moves the rest of the answer's body until all of it has been read. Says whether the endpoint's connection is clean.
    pub async fn relay(
        &mut self,
        session: &mut Session,
        account: &mut Account,
        endpoint: &mut Endpoint,
    ) -> Result<bool, Lost> {
        let mut left = Vec::new();
        let broken = poll_fn(|cx| {
            if session.client.is_expired() {
                // A client that has stopped reading, or sending, is no fault of the endpoint.
                let stuck = !session.reply.is_flushed() || self.progress.is_clients_turn(clock::now());
                return Poll::Ready(Some(if stuck { Broken::Request } else { Broken::Answer }));
            }
            if let Poll::Ready(reason) = self.poll_upload(session, endpoint, cx) {
                let broken = if session.lost {
                    Broken::Client
                } else if reason == Reason::UpstreamReset {
                    Broken::Answer
                } else {
                    Broken::Request
                };
                return Poll::Ready(Some(broken));
            }
            let Session { worker, stream, reply, .. } = &mut *session;
            let mut scratch = worker.scratch.borrow_mut();
            let mut meter = Download { account };
            let polled = reply.poll(cx, &mut endpoint.stream, &mut left, stream, &mut scratch, &mut meter);
            match polled {
                Poll::Ready(Ok(())) => Poll::Ready(None),
                Poll::Ready(Err(Cut::Sink)) => Poll::Ready(Some(Broken::Client)),
                Poll::Ready(Err(Cut::Source | Cut::TooLong)) => Poll::Ready(Some(Broken::Answer)),
                // All of it has been read: what the client has not taken yet is no concern of the endpoint.
                Poll::Pending if reply.is_over() => Poll::Ready(None),
                Poll::Pending => {
                    if !reply.is_flushed() {
                        self.progress.client_lags(clock::now());
                    }
                    Poll::Pending
                }
            }
        })
        .await;
        let outcome = match broken {
            None => return Ok(left.is_empty()),
            Some(Broken::Client) => return Err(Lost),
            Some(Broken::Answer) => Outcome::Failure,
            Some(Broken::Request) => Outcome::Cancelled,
        };
        session.client.abort();
        account.finish(outcome, clock::now());
        Err(Lost)
    }
}

impl Session {
    /// Whether the client has gone while its answer was due. What it sends meanwhile is kept, and no more is read than once.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> bool {
        if self.ended || !self.rest.is_empty() {
            return false;
        }
        let mut scratch = self.worker.scratch.borrow_mut();
        match scratch.poll_read(&mut self.stream, cx) {
            Poll::Pending => false,
            Poll::Ready(Err(_)) => true,
            Poll::Ready(Ok(at)) if at.is_empty() => {
                self.ended = self.client.is_last_request();
                !self.ended
            }
            Poll::Ready(Ok(at)) => {
                self.rest.extend_from_slice(&scratch.bytes[at]);
                false
            }
        }
    }
}

/// Of a client's body.
struct Upload<'a> {
    progress: &'a Progress,
    max: Option<u64>,
}

impl Meter for Upload<'_> {
    fn came(&mut self, bytes: usize) -> Result<(), Cut> {
        self.progress.client_sent(clock::now());
        self.progress.add_request_bytes(bytes as u64);
        if self.max.is_some_and(|max| self.progress.request_bytes() > max) { Err(Cut::TooLong) } else { Ok(()) }
    }

    fn waits(&mut self) {
        self.progress.client_waits(clock::now());
    }
}

/// Of an endpoint's body.
struct Download<'a> {
    account: &'a mut Account,
}

impl Meter for Download<'_> {
    fn came(&mut self, bytes: usize) -> Result<(), Cut> {
        let now = clock::now();
        self.account.endpoint_sent(now);
        // More is read once all that was read before is written.
        self.account.progress().client_took(now);
        self.account.add_response_bytes(bytes as u64);
        Ok(())
    }

    fn waits(&mut self) {
        let now = clock::now();
        self.account.progress().client_took(now);
        self.account.endpoint_waits(now);
    }
}

/// Of what came with the head.
struct Count(u64);

impl Meter for Count {
    fn came(&mut self, bytes: usize) -> Result<(), Cut> {
        self.0 += bytes as u64;
        Ok(())
    }

    fn waits(&mut self) {}
}
