//! Counters of one worker. Only the worker adds; the admin endpoint reads and sums. Each worker has its own, so that no two cores
//! write to one cache line.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use http::StatusCode;

use crate::http::{error::Reason, http2::flood::Flood};

/// A number that one thread adds to and others read.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds.
    pub fn add(&self, n: u64) {
        // One writer: a load and a store, which unlike fetch_add need not lock the line.
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Takes away, for gauges.
    pub fn sub(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_sub(n), Relaxed);
    }

    /// Its value.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// What one worker counts.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Counters {
    /// Client connections that were accepted.
    pub accepted: Counter,
    /// Client connections that are open.
    pub open: Counter,
    /// Client connections beyond the limit, closed at once.
    pub refused: Counter,
    /// TLS handshakes that were completed.
    pub handshakes: Counter,
    /// Those of them that resumed a session.
    pub resumptions: Counter,
    /// Handshakes that failed, or did not end in time.
    pub handshake_failures: Counter,
    /// Times that a connection left the fast path for hyper.
    pub handed_over: Counter,
    /// Times that one came back.
    pub taken_back: Counter,
    /// Heads that did not come in time.
    pub header_timeouts: Counter,
    /// Requests that do not parse.
    pub malformed: Counter,
    /// Connections over HTTP/2 that were cut off for what was sent on them, in the order of `Flood::NAMES`.
    pub floods: [Counter; Flood::NAMES.len()],
    /// Connections to endpoints.
    pub connects: Counter,
    /// Those that failed.
    pub connect_failures: Counter,
    /// Pooled connections that turned out to be closed.
    pub stale: Counter,
    /// Idle connections in the pool, as of the last sweep.
    pub idle: Counter,
    /// Requests that were tried on another endpoint.
    pub retries: Counter,
    /// Retries that were worth it and not allowed: no other endpoint, or too many at a time.
    pub retries_refused: Counter,
    /// Session tokens that no key of their backend's has signed.
    pub tokens_refused: Counter,
    /// Connections that became tunnels.
    pub upgrades: Counter,
    /// Copies of requests that were sent to mirrors.
    pub mirrored: Counter,
    /// Copies that were not sent, or not answered.
    pub mirrors_abandoned: Counter,
    /// Bytes of request bodies.
    pub request_bytes: Counter,
    /// Bytes of response bodies.
    pub response_bytes: Counter,
    /// Time in which it was late to look at its sockets while somebody waited, in nanoseconds.
    pub late_ns: Counter,
    /// Events for the keeper of the table that did not fit its queue.
    pub events_lost: Counter,
    /// Answers by the first digit of the status.
    pub answers: [Counter; 6],
    /// Answers of the proxy itself, by reason, in the order of `Reason::NAMES`.
    pub reasons: [Counter; Reason::NAMES.len()],
}

impl Counters {
    /// An answer was given.
    pub fn answered(&self, status: StatusCode) {
        self.answers[usize::from(status.as_u16() / 100).min(5)].add(1);
    }

    /// The proxy answered by itself.
    pub fn rejected(&self, reason: &Reason) {
        if let Some(index) = Reason::NAMES.iter().position(|name| *name == reason.name()) {
            self.reasons[index].add(1);
        }
    }
}
