//! What is known of one request when it is over: what the access log and a collector of traces are told. It is made when the request
//! begins, hangs on its connection, is written by whoever learns something, and leaves the worker at the end.

use std::{net::IpAddr, sync::Arc, time::Duration};

use http::{Method, StatusCode};

use super::{
    Blame,
    trace::{self, Context, TRACEPARENT, TRACESTATE},
};
use crate::{
    clock,
    head::RequestHead,
    http::{connection::Connection, headers::X_REQUEST_ID},
    load::Outcome,
    time::Timestamp,
    worker::Worker,
};

/// What is kept of a text that a client sent; the rest is cut off.
const TEXT_MAX: usize = 2 << 10;
/// The same for its name of the request.
const ID_MAX: usize = 128;

/// One request.
#[derive(Debug)]
pub struct Record {
    /// When its first byte came, in nanoseconds since the Unix epoch.
    pub at_unix_ns: u64,
    /// The same on the proxy's own clock.
    pub started: Timestamp,
    /// Its name across hops.
    pub request_id: String,
    /// The same if it was made here.
    pub made_id: Option<[u8; 24]>,
    /// The trace that it belongs to.
    pub trace: Option<Trace>,
    /// Its method.
    pub method: Method,
    /// Its host, as the client wrote it.
    pub host: String,
    /// Its path, without the query: that may hold what belongs in no log.
    pub path: String,
    /// "HTTP/1.1" and so on.
    pub protocol: &'static str,
    /// "http" or "https".
    pub scheme: &'static str,
    /// The client's address.
    pub client: IpAddr,
    /// The listener that it came in by.
    pub listener: Option<Arc<str>>,
    /// Its route.
    pub route: Option<Arc<str>>,
    /// Its backend.
    pub backend: Option<Arc<str>>,
    /// Endpoints that it was sent to, in turn.
    pub tries: Vec<Try>,
    /// Bytes of its body.
    pub request_bytes: u64,
    /// Bytes of the answer's body.
    pub response_bytes: u64,
    /// Until the head of the answer had come.
    pub head_after: Option<Duration>,
    /// How it ended.
    pub end: Option<End>,
}

/// Its place in a trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    /// The trace.
    pub id: u128,
    /// The span that the client sent it from.
    pub parent: Option<u64>,
    /// The span of the request here.
    pub span: u64,
    /// `tracestate` as it came.
    pub state: String,
    /// Whether spans are exported.
    pub sampled: bool,
    /// Whether endpoints are told another context than the client sent.
    pub passes: bool,
}

/// One endpoint that it was sent to, and why.
#[derive(Debug, Clone)]
pub struct Try {
    /// Its span.
    pub span: u64,
    /// When it was sent.
    pub began: Timestamp,
    /// When it was over.
    pub ended: Option<Timestamp>,
    /// Name of the endpoint.
    pub endpoint: String,
    /// Its address.
    pub address: String,
    /// The algorithm that chose it.
    pub algorithm: &'static str,
    /// Why it was asked to.
    pub why: Why,
    /// Its weight, relative to the mean.
    pub weight: Option<f32>,
    /// What the rule made of it; the lowest is chosen.
    pub score: Option<f64>,
    /// What was in flight there, of this proxy.
    pub in_flight: u32,
    /// The same of all proxies, as the rule takes it to be.
    pub in_flight_all: f32,
    /// How it went.
    pub outcome: Option<Outcome>,
    /// Why it was given up, if it was.
    pub failure: Option<&'static str>,
}

/// Why an endpoint was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// The algorithm says so.
    Rule,
    /// Another endpoint failed before, and the algorithm says so for the rest.
    Retry,
    /// It was ejected, and this is the request by which it is tried.
    Trial,
}

impl Why {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rule => "rule",
            Self::Retry => "retry",
            Self::Trial => "trial",
        }
    }
}

/// How a request ended.
#[derive(Debug, Clone)]
pub struct End {
    /// What the client was answered; `None`: nothing.
    pub status: Option<StatusCode>,
    /// Why it was no answer of an endpoint, or not a whole one.
    pub reason: Option<&'static str>,
    /// Who is to blame.
    pub blame: Option<Blame>,
    /// From its first byte to the last of the answer.
    pub took: Duration,
}

impl Record {
    /// Of a request that begins.
    pub fn new(
        worker: &Worker,
        client: &Connection,
        head: &impl RequestHead,
        host: &[u8],
        protocol: &'static str,
    ) -> Self {
        let (request_id, made_id) = match head.value(&X_REQUEST_ID) {
            Some(id) => (text(id, ID_MAX), None),
            None => {
                let made = worker.next_request_id();
                (text(&made, ID_MAX), Some(made))
            }
        };
        Self {
            at_unix_ns: clock::unix_ns().saturating_sub(clock::now().since(client.started()).as_nanos() as u64),
            started: client.started(),
            request_id,
            made_id,
            trace: Trace::new(worker, head),
            method: head.method().clone(),
            host: text(host, TEXT_MAX),
            path: text(head.path().as_bytes(), TEXT_MAX),
            protocol,
            scheme: client.client.scheme(),
            client: client.peer.ip().to_canonical(),
            listener: None,
            route: None,
            backend: None,
            tries: Vec::new(),
            request_bytes: 0,
            response_bytes: 0,
            head_after: None,
            end: None,
        }
    }

    /// It is known where it goes.
    pub fn goes(&mut self, route: &Arc<str>, backend: &Arc<str>) {
        self.route = Some(route.clone());
        self.backend = (&**backend != super::red::NONE).then(|| backend.clone());
    }

    /// What endpoints are told of the trace, if not what the client said.
    pub fn passed_on(&self) -> Option<trace::Passed> {
        let trace = self.trace.as_ref().filter(|trace| trace.passes)?;
        let span = self.tries.last().filter(|_| trace.sampled).map_or(trace.span, |try_| try_.span);
        let context = Context { trace: trace.id, span, sampled: trace.sampled };
        Some(trace::Passed { header: context.header(), keeps_state: trace.parent.is_some() })
    }

    /// The present attempt is over.
    pub fn tried(&mut self, outcome: Outcome, now: Timestamp) {
        if let Some(last) = self.tries.last_mut() {
            last.ended = Some(now);
            last.outcome = Some(outcome);
        }
    }
}

impl Trace {
    /// Goes on with the client's trace, or begins one where traces are wanted. `None`: there is none.
    fn new(worker: &Worker, head: &impl RequestHead) -> Option<Self> {
        let (traceparent, tracestate) = (TRACEPARENT, TRACESTATE);
        let mut parents = head.values(&traceparent);
        let parent = match (parents.next(), parents.next()) {
            (Some(parent), None) => Context::parse(parent),
            _ => None,
        };
        let Some(tracer) = &worker.observer.trace else {
            let Context { trace, span, .. } = parent?;
            let state = String::new();
            return Some(Self { id: trace, parent: Some(span), span: 0, state, sampled: false, passes: false });
        };
        // Never 0, which means none.
        let span = worker.random() | 1;
        Some(match parent {
            Some(Context { trace, span: parent, sampled }) => {
                let states: Vec<&[u8]> = head.values(&tracestate).collect();
                let state = text(&states.join(&b","[..]), TEXT_MAX);
                Self { id: trace, parent: Some(parent), span, state, sampled, passes: sampled }
            }
            None => {
                let id = u128::from(worker.random()) << 64 | u128::from(worker.random() | 1);
                let sampled = super::is_drawn(tracer.share, || worker.share());
                Self { id, parent: None, span, state: String::new(), sampled, passes: true }
            }
        })
    }
}

/// What a client sent as text, not too much of it.
fn text(bytes: &[u8], max: usize) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(max)]).into_owned()
}
