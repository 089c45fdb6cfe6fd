//! A client's connection on the fast path: request after request, until one is unusual, one side has had enough, or it breaks.

use std::{
    future::poll_fn,
    rc::Rc,
    task::{Context, Poll, Waker, ready},
};

use bytes::BytesMut;
use http::Method;
use memchr::memmem;

use super::{
    super::{
        account::Account,
        arrive::{Arrived, arrive, rejected, route},
        attempts::attempts,
        connection::Connection,
        edits::Edits,
        error::Refused,
        http2::PREFACE,
        stream::ClientStream,
    },
    answer,
    endpoint::Endpoint,
    exchange::{Answered, Exchange},
    flow::{Cut, Flow, Meter},
    request::{self, Body, Request, Seen},
};
use crate::{
    clock,
    load::Outcome,
    observe::{self, record::Record},
    route::rule::Limits,
    worker::{Socket, Worker},
};

/// How the fast path is done with a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Nothing more is to come from either side.
    Closed,
    /// Everything was answered, and the client may be sending what nobody will read.
    Unread,
    /// The next request is for hyper; not a byte of it has been used.
    Unusual,
    /// The client speaks HTTP/2; not a byte has been used.
    Http2,
}

/// The client has gone, or its answer could not be completed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lost;

/// One connection.
#[derive(Debug)]
pub struct Session {
    pub(super) worker: Rc<Worker>,
    pub(super) socket: Rc<Socket>,
    pub(super) client: Rc<Connection>,
    limits: Limits,
    pub(super) stream: ClientStream,
    /// Read from the client and not used yet.
    pub(super) rest: Vec<u8>,
    /// The present request as endpoints get it: its head, and what of its body came along.
    pub(super) flight: Vec<u8>,
    /// Where the span of the attempt stands in it, if endpoints are told one.
    pub(super) span_at: Option<usize>,
    /// The body of the present answer, and what of the answer waits for the client.
    pub(super) reply: Flow,
    /// A request was served.
    used: bool,
    /// The client will send no more, and said so beforehand.
    pub(super) ended: bool,
    /// The client has gone.
    pub(super) lost: bool,
}

/// A buffer that grew beyond this does not stay with an idle connection.
const KEPT: usize = 2 << 10;
/// So many bytes of the preface are no request of HTTP/1.1.
const HTTP2_TOLD: usize = 16;
/// Room for a usual head.
const HEAD: usize = 512;

enum Next {
    End,
    Unusual,
    Request(Box<Asked>),
}

/// A plain request.
struct Asked {
    arrived: Result<Arrived, Refused>,
    body: Flow,
    to_head: bool,
    /// It may be sent twice without harm, and has no body.
    repeatable: bool,
}

enum Looked {
    Partial,
    Unusual,
    /// And the bytes of its head.
    Request(Box<Asked>, usize),
}

impl Session {
    /// Of a connection of which nothing has been read.
    pub fn new(
        worker: Rc<Worker>,
        socket: Rc<Socket>,
        client: Rc<Connection>,
        stream: ClientStream,
        limits: Limits,
    ) -> Self {
        Self {
            worker,
            socket,
            client,
            limits,
            stream,
            rest: Vec::new(),
            flight: Vec::new(),
            span_at: None,
            reply: Flow::none(),
            used: false,
            ended: false,
            lost: false,
        }
    }

    /// It had requests before, and has nothing left of them.
    pub fn used_before(self) -> Self {
        Self { used: true, ..self }
    }

    /// The socket, and what was read from it without being used.
    pub fn into_parts(self) -> (ClientStream, BytesMut) {
        (self.stream, BytesMut::from(&self.rest[..]))
    }

    /// Serves requests until one is not for the fast path, or none follows.
    ///
    /// # Errors
    /// If the connection broke, or has to be broken because an answer did.
    pub async fn drive(&mut self) -> Result<Ended, Lost> {
        loop {
            let asked = match self.next().await? {
                Next::End => return Ok(Ended::Closed),
                Next::Unusual => {
                    self.client.leave_fast_path();
                    // Only at the start of a connection is it what it looks like.
                    let http2 = !self.used && self.rest.starts_with(&PREFACE[..HTTP2_TOLD]);
                    return Ok(if http2 { Ended::Http2 } else { Ended::Unusual });
                }
                Next::Request(asked) => asked,
            };
            self.used = true;
            let unread = self.serve(asked).await?;
            if unread || self.closes() {
                poll_fn(|cx| self.reply.poll_flush(&mut self.stream, cx)).await.map_err(|_| Lost)?;
                return Ok(if unread || !self.rest.is_empty() { Ended::Unread } else { Ended::Closed });
            }
        }
    }

    /// Whether no request is to follow the present one.
    pub(super) fn closes(&self) -> bool {
        self.client.is_closing() || self.client.is_last_request() || self.socket.is_draining()
    }

    /// Waits for a head. What is left of the last answer goes first: a client that does not read is not read from.
    async fn next(&mut self) -> Result<Next, Lost> {
        if self.flight.capacity() > KEPT {
            self.flight = Vec::new();
        }
        let worker = self.worker.clone();
        let mut looked = false;
        poll_fn(|cx| {
            if ready!(self.reply.poll_flush(&mut self.stream, cx)).is_err() {
                return Poll::Ready(Err(Lost));
            }
            if !std::mem::replace(&mut looked, true) && !self.rest.is_empty() {
                let rest = std::mem::take(&mut self.rest);
                if let Some(next) = self.look(&rest) {
                    return Poll::Ready(Ok(next));
                }
            }
            loop {
                let mut scratch = worker.scratch.borrow_mut();
                let at = match ready!(scratch.poll_read(&mut self.stream, cx)) {
                    Ok(at) if at.is_empty() => return Poll::Ready(Ok(Next::End)),
                    Ok(at) => at,
                    Err(_) => return Poll::Ready(Err(Lost)),
                };
                let next = if self.rest.is_empty() {
                    self.look(&scratch.bytes[at])
                } else {
                    // Looked at again only when a head may have ended: a client that sends byte by byte must not cost more than that.
                    let before = self.rest.len().saturating_sub(3);
                    self.rest.extend_from_slice(&scratch.bytes[at]);
                    let ends = |end: &[u8]| memmem::find(&self.rest[before..], end).is_some();
                    if self.rest.len() <= self.limits.header_bytes_max && !ends(b"\n\r\n") && !ends(b"\n\n") {
                        continue;
                    }
                    let rest = std::mem::take(&mut self.rest);
                    self.look(&rest)
                };
                if let Some(next) = next {
                    return Poll::Ready(Ok(next));
                }
            }
        })
        .await
    }

    /// Looks at the bytes that follow the last request, and keeps in `rest` what it does not use. `None`: more is needed.
    fn look(&mut self, bytes: &[u8]) -> Option<Next> {
        match self.judge(bytes) {
            Looked::Partial => {
                self.rest.extend_from_slice(bytes);
                self.client.begin_plain_head(clock::now());
                None
            }
            Looked::Unusual => {
                self.rest.extend_from_slice(bytes);
                Some(Next::Unusual)
            }
            Looked::Request(asked, used) => {
                self.rest.extend_from_slice(&bytes[used..]);
                Some(Next::Request(asked))
            }
        }
    }

    fn judge(&mut self, bytes: &[u8]) -> Looked {
        let mut slots = request::slots();
        let request = match Request::look(bytes, &mut slots, &self.limits) {
            Seen::Partial => return Looked::Partial,
            Seen::Unusual => return Looked::Unusual,
            Seen::Plain(request) => request,
        };
        let lower;
        let host = if request.host.bytes().any(|byte| byte.is_ascii_uppercase()) {
            lower = request.host.to_ascii_lowercase();
            &lower
        } else {
            request.host
        };
        let routed = route(&self.worker, &self.socket, &self.client, host, &request);
        if routed.as_ref().is_ok_and(|routed| !routed.is_plain()) {
            return Looked::Unusual;
        }
        let started = self.client.begin_plain_request(request.last, clock::now());
        let observed = self.worker.observer.is_on();
        if observed {
            observe::begin(&self.worker, &self.client, &request, request.authority, "HTTP/1.1");
            observe::came_by(&self.worker, &self.socket, &self.client, host, &request);
        }
        let (length, body) = match request.body {
            Body::Absent => (Some(0), Flow::none()),
            Body::Length(length) => (Some(length), Flow::length(length)),
            Body::Chunked => (None, Flow::chunked()),
        };
        let arrived =
            arrive(&self.worker, &self.socket, &self.client, routed, (host, &request), length, (started, None));
        self.flight.clear();
        if let Ok(arrived) = &arrived {
            self.flight.reserve(HEAD);
            let edits = arrived.edits.as_deref();
            let (mut passed, mut id) = (None, None);
            if observed {
                passed = self.client.recorded(Record::passed_on);
                id = self.client.recorded(|record| record.made_id);
            }
            let id = || id.unwrap_or_else(|| self.worker.next_request_id());
            self.span_at = request.write(&self.client.client, edits, passed.as_ref(), id, &mut self.flight);
        }
        let asked = Asked {
            arrived,
            repeatable: body.is_over() && request.method.is_idempotent(),
            body,
            to_head: request.method == Method::HEAD,
        };
        Looked::Request(Box::new(asked), request.len)
    }

    /// Answers one request, whatever happens. Says whether part of it was left unread.
    async fn serve(&mut self, asked: Box<Asked>) -> Result<bool, Lost> {
        let Asked { arrived, body, to_head, repeatable } = *asked;
        let Arrived { mut account, progress, body_bytes_max, edits, mirroring: _ } = match arrived {
            Ok(arrived) => arrived,
            Err(refused) => return self.reject(&refused, body, to_head).await,
        };
        let mut exchange =
            Exchange { upload: body, progress, body_bytes_max, edits, to_head, repeatable, heard: false };
        if !exchange.upload.is_over()
            && let Err(reason) = exchange.board(&mut self.rest, &mut self.flight)
        {
            account.fail(&reason, Outcome::Cancelled, clock::now());
            let refused = Edits::refused(exchange.edits.as_deref(), reason);
            return self.reject(&refused, exchange.upload, to_head).await;
        }
        let (worker, client) = (self.worker.clone(), self.client.clone());
        let tried = {
            let send = async |account: &Account, endpoint: &mut Endpoint, (): (), reused| {
                exchange.run(self, account, endpoint, reused).await
            };
            attempts(&worker, &client, &mut account, (), send).await
        };
        let (answered, mut endpoint) = match tried {
            Ok(answer) => answer,
            Err(reason) if self.lost => {
                observe::conclude(&worker, &client, None, Some(reason.name()), reason.blame(), clock::now());
                return Err(Lost);
            }
            Err(reason) => {
                let refused = Edits::refused(exchange.edits.as_deref(), reason);
                return self.reject(&refused, exchange.upload, to_head).await;
            }
        };
        let Answered { status, load, at, bytes, mut keeps } = answered;
        account.answered(status, load, at);
        account.add_response_bytes(bytes);
        worker.counters.answered(status);
        let mut now = at;
        if !self.reply.is_over() {
            account.progress().touch(at);
            keeps &= exchange.relay(self, &mut account, &mut endpoint).await?;
            now = clock::now();
        }
        let whole = exchange.upload.is_over() && exchange.upload.is_flushed() && !endpoint.stream.is_deaf();
        endpoint.reusable = keeps && whole;
        account.complete(endpoint, &mut Context::from_waker(Waker::noop()), now);
        Ok(!exchange.upload.is_over())
    }

    /// Answers by itself. Says whether part of the request was left unread.
    async fn reject(&mut self, refused: &Refused, mut body: Flow, to_head: bool) -> Result<bool, Lost> {
        let reason = &refused.reason;
        // What has come of the body is not the next request.
        let dropped = body.take(&mut self.rest, &mut Vec::new(), &mut Unmetered);
        let unread = dropped.is_err() || !body.is_over();
        rejected(&self.worker, &self.client, reason);
        if unread {
            self.client.close_after_request();
        }
        self.worker.counters.answered(reason.status());
        let mut answer = Vec::new();
        let date = &mut self.worker.scratch.borrow_mut().date;
        answer::write(refused, to_head, self.closes(), date.at(clock::now(), clock::unix_ms), &mut answer);
        self.reply = Flow::ready(answer);
        Ok(unread)
    }
}

/// Of a body that nobody gets.
struct Unmetered;

impl Meter for Unmetered {
    fn came(&mut self, _: usize) -> Result<(), Cut> {
        Ok(())
    }

    fn waits(&mut self) {}
}
