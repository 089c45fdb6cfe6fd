//! W3C Trace Context: `traceparent` is read, made and passed on, so that what a request meets here is part of one trace. Spans of sampled
//! requests (one of the request, one of each attempt) go to [`otlp`].

pub mod otlp;

use std::sync::{Arc, atomic::Ordering::Relaxed};

use http::HeaderName;
use tokio::sync::mpsc;

use super::{Observed, record::Record};

/// Names the trace, the span that the request was sent from, and whether it is sampled.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// What vendors add; it is kept as it is, and dropped with a `traceparent` that does not hold.
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Bytes of a `traceparent` of version 00.
pub const LEN: usize = 55;
/// Where the span stands in it.
pub const SPAN_AT: usize = 36;
/// Its digits.
pub const SPAN_LEN: usize = 16;
const SAMPLED: u8 = 1;

/// A worker's way to the exporter.
#[derive(Debug, Clone)]
pub struct Tracer {
    queue: mpsc::Sender<Arc<Record>>,
    observed: Arc<Observed>,
    /// Share of the requests without a trace that begin a sampled one.
    pub share: f64,
}

impl Tracer {
    /// Into this queue.
    pub fn new(queue: mpsc::Sender<Arc<Record>>, observed: Arc<Observed>, share: f64) -> Self {
        Self { queue, observed, share }
    }

    /// Hands over a record. Never waits.
    pub fn offer(&self, record: Arc<Record>) {
        let spans = 1 + record.tries.len() as u64;
        if self.queue.try_send(record).is_err() {
            self.observed.spans_dropped.fetch_add(spans, Relaxed);
        }
    }
}

/// What `traceparent` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Context {
    /// The trace; never 0.
    pub trace: u128,
    /// The span; never 0.
    pub span: u64,
    /// Whether whoever sent it records it.
    pub sampled: bool,
}

/// What an endpoint is told.
#[derive(Debug, Clone, Copy)]
pub struct Passed {
    /// Value of `traceparent`.
    pub header: [u8; LEN],
    /// Whether the client's `tracestate` belongs to it.
    pub keeps_state: bool,
}

impl Context {
    /// Reads a `traceparent` (W3C Trace Context §3.2). `None` if it does not hold; then the trace begins anew.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let hex = |bytes: &[u8]| {
            let lower = bytes.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
            let text = std::str::from_utf8(bytes).ok().filter(|_| lower)?;
            u128::from_str_radix(text, 16).ok()
        };
        let fields = value.get(..LEN)?;
        let dashes = [2, 35, 52].iter().all(|at| fields[*at] == b'-');
        let version = hex(&fields[..2])?;
        // Later versions may go on after what this one has; ff is none.
        let length_holds = value.len() == LEN || version > 0 && value[LEN] == b'-';
        if !dashes || version == 0xff || !length_holds {
            return None;
        }
        let (trace, span, flags) = (hex(&fields[3..35])?, hex(&fields[36..52])? as u64, hex(&fields[53..55])? as u8);
        (trace != 0 && span != 0).then_some(Self { trace, span, sampled: flags & SAMPLED != 0 })
    }

    /// Writes it, in version 00.
    pub fn header(&self) -> [u8; LEN] {
        let mut header = [b'-'; LEN];
        let digits = |out: &mut [u8], number: u128| {
            let len = out.len();
            for (place, out) in out.iter_mut().enumerate() {
                *out = b"0123456789abcdef"[(number >> (4 * (len - 1 - place))) as usize & 15];
            }
        };
        digits(&mut header[..2], 0);
        digits(&mut header[3..35], self.trace);
        digits(&mut header[SPAN_AT..SPAN_AT + SPAN_LEN], u128::from(self.span));
        digits(&mut header[53..], u128::from(self.sampled));
        header
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIVEN: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[track_caller]
    fn refused(value: &str) {
        assert_eq!(Context::parse(value.as_bytes()), None, "{value}");
    }

    #[test]
    fn a_context_is_written_as_it_is_read() {
        let context = Context::parse(GIVEN.as_bytes()).unwrap();
        assert_eq!((context.span, context.sampled), (0x00f0_67aa_0ba9_02b7, true));
        assert_eq!(context.header(), GIVEN.as_bytes());
    }

    #[test]
    fn what_is_no_context_is_refused() {
        refused("");
        refused(&GIVEN[1..]);
        refused(&GIVEN.to_uppercase());
        refused(&GIVEN.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)));
        refused(&GIVEN.replace("00f067aa0ba902b7", &"0".repeat(16)));
        refused(&GIVEN.replacen("00-", "ff-", 1));
        refused(&GIVEN.replacen('-', "_", 1));
        refused(&GIVEN.replace("4bf9", "+bf9"));
        refused(&format!("{GIVEN}-more"));
        refused(&format!("{GIVEN} "));
    }

    #[test]
    fn a_later_version_may_say_more() {
        let later = format!("{}-what-we-do-not-know", GIVEN.replacen("00-", "01-", 1));
        assert!(Context::parse(later.as_bytes()).unwrap().sampled);
        refused(&format!("{}more", GIVEN.replacen("00-", "01-", 1)));
    }

    #[test]
    fn only_the_sampled_flag_counts() {
        let flags = |flags: &str| Context::parse(GIVEN.replace("-01", flags).as_bytes()).map(|c| c.sampled);
        assert_eq!((flags("-00"), flags("-02"), flags("-03")), (Some(false), Some(false), Some(true)));
    }
}
