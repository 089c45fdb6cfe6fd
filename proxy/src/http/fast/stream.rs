//! A stream of HTTP/2 without a body, on a connection of the fast path's: its head is ready to be sent, and all that is to be done is what an
//! exchange on the fast path does, but that the answer goes to hyper and not to a socket.

use std::{
    future::poll_fn,
    ops::Range,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker, ready},
};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use hyper::body::Frame;
use memchr::memmem;
use tokio::io::AsyncWrite;

use super::{
    super::{
        account::Account,
        attempts::{NoAnswer, given_up},
        body::BodyError,
        connection::Connection,
        error::Reason,
        pool::Pooled,
    },
    endpoint::Endpoint,
    flow::Flow,
    response::{self, Body, Response, Seen},
};
use crate::{
    clock,
    load::{OrcaLoad, Outcome},
    time::Timestamp,
    worker::Worker,
};

/// The head of an answer, fit for a client, and what of the body came along.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its fields, without those of one hop.
    pub headers: HeaderMap,
    /// What the endpoint said of its load.
    pub load: Option<OrcaLoad>,
    /// When it came.
    pub at: Timestamp,
    flow: Flow,
    content: Bytes,
    /// The endpoint's connection may be used again once the body is over.
    keeps: bool,
}

/// One request on one connection. `flight` is its head; it is to be told whether it is HEAD, and whether it may be sent twice without harm.
pub async fn exchange(
    (worker, client): (&Worker, &Connection),
    account: &Account,
    endpoint: &mut Endpoint,
    flight: &[u8],
    (to_head, repeatable): (bool, bool),
    reused: bool,
) -> Result<Answer, NoAnswer<()>> {
    let (mut sent, mut heard, mut unchecked) = (0, false, reused);
    let mut partial = Vec::new();
    poll_fn(|cx| {
        let failed = |reason, again: bool| Poll::Ready(Err(NoAnswer { reason, again: again.then_some(()) }));
        if let Some(reason) = given_up(client, account.progress()) {
            let again = repeatable && !heard && account.retries_failure(&reason);
            return failed(reason, again);
        }
        // The endpoint may have closed a connection while it was idle: then nothing of the request is lost yet.
        if std::mem::take(&mut unchecked) && !endpoint.is_open(cx) {
            return failed(Reason::UpstreamReset, true);
        }
        while sent < flight.len() {
            match Pin::new(&mut endpoint.stream).poll_write(cx, &flight[sent..]) {
                Poll::Ready(Ok(written)) if written > 0 => sent += written,
                Poll::Ready(_) => return failed(Reason::UpstreamReset, sent == 0),
                Poll::Pending => break,
            }
        }
        // What TLS still holds goes as the socket takes it; a failure shows at the next read.
        let _ = Pin::new(&mut endpoint.stream).poll_flush(cx);
        let mut scratch = worker.scratch.borrow_mut();
        loop {
            let at = match ready!(scratch.poll_read(&mut endpoint.stream, cx)) {
                Ok(at) if !at.is_empty() => at,
                _ => {
                    let reason = Reason::UpstreamReset;
                    let again = !heard && (sent == 0 || repeatable && (reused || account.retries_failure(&reason)));
                    return failed(reason, again);
                }
            };
            heard = true;
            let looked = if partial.is_empty() {
                let looked = look(&mut scratch.bytes, at.clone(), to_head);
                if let Ok(None) = looked {
                    partial.extend_from_slice(&scratch.bytes[at]);
                }
                looked
            } else {
                // A head in pieces: rare enough to be put together in memory of its own, once its end may have come.
                let before = partial.len().saturating_sub(3);
                partial.extend_from_slice(&scratch.bytes[at]);
                let ends = |end: &[u8]| memmem::find(&partial[before..], end).is_some();
                if partial.len() <= response::HEAD_MAX && !ends(b"\n\r\n") && !ends(b"\n\n") {
                    continue;
                }
                let all = 0..partial.len();
                look(&mut partial, all, to_head)
            };
            match looked {
                Ok(None) => {}
                Err(reason) => return failed(reason, false),
                Ok(Some(answer)) if repeatable && account.retries_status(answer.status) => {
                    return failed(Reason::UpstreamStatus(answer.status), true);
                }
                Ok(Some(mut answer)) => {
                    // It answered before it had all of the request.
                    answer.keeps &= sent == flight.len();
                    return Poll::Ready(Ok(answer));
                }
            }
        }
    })
    .await
}

/// Looks at the start of an answer. `None`: its head is not all there.
fn look(bytes: &mut [u8], at: Range<usize>, to_head: bool) -> Result<Option<Answer>, Reason> {
    let mut start = at.start;
    let (status, headers, body, load, mut keeps, len) = loop {
        let mut slots = response::slots();
        match Response::look(&bytes[start..at.end], &mut slots, to_head) {
            Seen::Interim(len) => start += len,
            Seen::Partial => return Ok(None),
            Seen::Malformed => return Err(Reason::UpstreamProtocol),
            Seen::Final(found) => {
                let headers = found.headers().ok_or(Reason::UpstreamProtocol)?;
                break (found.status, headers, found.body, found.load, found.keeps, found.len);
            }
        }
    };
    let mut flow = match body {
        Body::Absent(_) => Flow::none(),
        Body::Length(length) => Flow::length(length),
        Body::Chunked => Flow::chunked(),
        Body::UntilClose => Flow::until_close(),
    };
    let there = start + len..at.end;
    let (content, used) = flow.decode(bytes, there.clone()).map_err(|_| Reason::UpstreamProtocol)?;
    keeps &= used == there.end;
    let content = Bytes::copy_from_slice(&bytes[content]);
    Ok(Some(Answer { status, headers, load, at: clock::now(), flow, content, keeps }))
}

/// The body of an answer on its way to hyper.
#[derive(Debug)]
pub struct Streamed {
    worker: Rc<Worker>,
    client: Rc<Connection>,
    account: Box<Account>,
    /// Until its last byte has been read.
    endpoint: Option<Box<Endpoint>>,
    flow: Flow,
    /// Read, and not passed on yet.
    content: Bytes,
    keeps: bool,
}

impl Answer {
    /// Its body, where the account has been told of its head: what has come is all of it, or the rest is to be read.
    pub fn into_body(
        self,
        worker: Rc<Worker>,
        client: Rc<Connection>,
        mut account: Box<Account>,
        endpoint: Box<Endpoint>,
    ) -> Result<Bytes, Box<Streamed>> {
        let Self { at, flow, content, keeps, .. } = self;
        account.add_response_bytes(content.len() as u64);
        let mut body = Streamed { worker, client, account, endpoint: Some(endpoint), flow, content, keeps };
        if body.flow.is_over() {
            body.complete(at);
            return Ok(std::mem::take(&mut body.content));
        }
        body.account.progress().touch(at);
        Err(Box::new(body))
    }
}

impl Streamed {
    /// The next piece.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if !self.content.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.content)))));
        }
        if self.endpoint.is_none() {
            return Poll::Ready(None);
        }
        if self.client.is_expired() {
            return self.fail(BodyError::Timeout);
        }
        let worker = self.worker.clone();
        let mut scratch = worker.scratch.borrow_mut();
        loop {
            let Some(endpoint) = &mut self.endpoint else { return Poll::Ready(None) };
            let polled = scratch.poll_read(&mut endpoint.stream, cx);
            let now = clock::now();
            self.account.progress().client_took(now);
            let Poll::Ready(read) = polled else {
                self.account.endpoint_waits(now);
                return Poll::Pending;
            };
            self.account.endpoint_sent(now);
            let at = match read {
                Ok(at) if !at.is_empty() => at,
                Ok(_) if self.flow.ends_with_connection() => {
                    self.keeps = false;
                    self.complete(now);
                    return Poll::Ready(None);
                }
                _ => return self.fail(BodyError::Upstream),
            };
            let Ok((content, used)) = self.flow.decode(&mut scratch.bytes, at.clone()) else {
                return self.fail(BodyError::Upstream);
            };
            self.keeps &= used == at.end;
            self.account.add_response_bytes(content.len() as u64);
            let data = Bytes::copy_from_slice(&scratch.bytes[content]);
            if self.flow.is_over() {
                self.complete(now);
            } else {
                // Until it is asked for more, which is at once if there is room.
                self.account.progress().client_lags(now);
            }
            if !data.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
        }
    }

    /// Whether the last piece has been passed on.
    pub fn is_over(&self) -> bool {
        self.endpoint.is_none() && self.content.is_empty()
    }

    fn complete(&mut self, now: Timestamp) {
        if let Some(mut endpoint) = self.endpoint.take() {
            endpoint.reusable = self.keeps && !endpoint.stream.is_deaf();
            self.account.complete(endpoint, &mut Context::from_waker(Waker::noop()), now);
        }
    }

    fn fail(&mut self, error: BodyError) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.endpoint = None;
        self.client.abort();
        self.account.finish(Outcome::Failure, clock::now());
        Poll::Ready(Some(Err(error)))
    }
}
