//! What is seen of requests: metrics by route and backend ([`red`]), which are always on, and records of single requests ([`record`]), which
//! are made only if somebody wants them: the access log ([`log`]) or a collector of traces ([`trace`]). Nobody who looks holds a
//! request up: records go to bounded queues, and what does not fit is counted and lost.

pub mod collector;
pub mod log;
pub mod record;
pub mod red;
pub mod trace;

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use http::StatusCode;

use crate::{
    head::RequestHead,
    http::{connection::Connection, error::Reason},
    load::Outcome,
    time::Timestamp,
    worker::{Socket, Worker},
};
use record::Record;
use red::Series;

/// Who is to blame for a request that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// The client: its request cannot be served, or it went away.
    Client,
    /// The endpoint, or all of them.
    Upstream,
    /// A limit or rule of the policy turned it away.
    Policy,
    /// There is no route, or it leads nowhere.
    Configuration,
}

impl Blame {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::Client, Self::Upstream, Self::Policy, Self::Configuration];

    /// As a label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Upstream => "upstream",
            Self::Policy => "policy",
            Self::Configuration => "configuration",
        }
    }

    /// For a request that got as far as an endpoint.
    pub fn of(outcome: Outcome) -> Option<Self> {
        match outcome {
            Outcome::Success => None,
            Outcome::ServerError | Outcome::Failure => Some(Self::Upstream),
            Outcome::Cancelled => Some(Self::Client),
        }
    }
}

/// What is counted of the observers themselves, over all workers.
#[derive(Debug, Default)]
pub struct Observed {
    /// Lines of the access log that were written.
    pub lines: AtomicU64,
    /// Lines that did not fit the queue.
    pub lines_dropped: AtomicU64,
    /// Lines that could not be written.
    pub lines_failed: AtomicU64,
    /// Spans that the collector has taken.
    pub spans: AtomicU64,
    /// Spans that did not fit the queue, or that no collector took.
    pub spans_dropped: AtomicU64,
    /// Times that the collector has taken all metrics.
    pub metrics: AtomicU64,
    /// Times that it has not.
    pub metrics_failed: AtomicU64,
    /// Data points that it did not want.
    pub metrics_rejected: AtomicU64,
}

/// A worker's observers.
#[derive(Debug, Clone, Default)]
pub struct Observer {
    /// The access log.
    pub log: Option<log::Logger>,
    /// The collector of traces.
    pub trace: Option<trace::Tracer>,
}

impl Observer {
    /// Whether records are wanted.
    #[inline]
    pub fn is_on(&self) -> bool {
        self.log.is_some() || self.trace.is_some()
    }

    /// Hands on a record of a request that is over.
    fn emit(&self, record: Box<Record>, draw: impl FnOnce() -> f64) {
        let logged = self.log.as_ref().filter(|log| log.wants(&record, draw));
        let traced = self.trace.as_ref().filter(|_| record.trace.as_ref().is_some_and(|trace| trace.sampled));
        if logged.is_none() && traced.is_none() {
            return;
        }
        let record: Arc<Record> = Arc::from(record);
        if let Some(log) = logged {
            log.offer(record.clone());
        }
        if let Some(trace) = traced {
            trace.offer(record);
        }
    }
}

/// Begins the record of a request, if anybody wants one. `host` is as the client wrote it.
pub fn begin(worker: &Worker, client: &Connection, head: &impl RequestHead, host: &[u8], protocol: &'static str) {
    if worker.observer.is_on() {
        client.set_record(Box::new(Record::new(worker, client, head, host, protocol)));
    }
}

/// Notes the listener that the request came in by; `host` is lower case and without a port.
pub fn came_by(worker: &Worker, socket: &Socket, client: &Connection, host: &str, head: &impl RequestHead) {
    client.note(|record| {
        let table = worker.table();
        let Some(routes) = table.routing.socket(socket.id) else { return };
        record.listener = routes.listener(host).cloned();
        record.client = routes.client(head, record.client);
    });
}

/// A request was turned away after its route was known and before it was let in.
pub fn refused(worker: &Worker, client: &Connection, series: &Series, reason: &Reason, now: Timestamp) {
    series.add(worker.index, Some(reason.status()), reason.blame(), now.since(client.started()));
    client.counted(true);
    client.note(|record| record.goes(&series.route, &series.backend));
}

/// The proxy answers by itself: the last word on the request.
pub fn answered_by_us(worker: &Worker, client: &Connection, reason: &Reason, now: Timestamp) {
    if !client.counted(false)
        && let Some(unrouted) = &worker.table().routing.unrouted
    {
        unrouted.add(worker.index, Some(reason.status()), reason.blame(), now.since(client.started()));
    }
    conclude(worker, client, Some(reason.status()), Some(reason.name()), reason.blame(), now);
}

/// A request is over; the record of it, if there is one, goes where it is wanted.
pub fn conclude(
    worker: &Worker,
    client: &Connection,
    status: Option<StatusCode>,
    reason: Option<&'static str>,
    blame: Option<Blame>,
    now: Timestamp,
) {
    let Some(mut record) = client.take_record() else { return };
    record.end = Some(record::End { status, reason, blame, took: now.since(client.started()) });
    worker.observer.emit(record, || worker.share());
}

/// A share as a draw of `worker.share()` is compared with it.
pub fn is_drawn(share: f64, draw: impl FnOnce() -> f64) -> bool {
    share >= 1.0 || share > 0.0 && draw() < share
}

/// Rests between two looks at a queue, so that whoever puts something there seldom finds somebody to wake.
pub(crate) const REST: Duration = Duration::from_millis(20);
