//! The access log: a line a request, in text or JSON ([`line`]), by a thread of its own ([`writer`]). A disk that is slow or full costs
//! lines, which are counted, and never a request's time.

pub mod line;
pub mod writer;

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::SyncSender,
    },
    time::Duration,
};

use super::{Observed, is_drawn, record::Record};

/// What is logged, how and where.
#[derive(Debug, Clone)]
pub struct LogOptions {
    /// Where lines go.
    pub to: Destination,
    /// How they look.
    pub format: Format,
    /// Which requests get one.
    pub filter: Filter,
    /// Asks for the file to be opened anew.
    pub reopen: Reopen,
}

/// Where lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// Standard output.
    Stdout,
    /// The end of a file.
    File(PathBuf),
}

/// How lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `name=value`, with quotes where they are needed.
    Text,
    /// A JSON object.
    Json,
}

/// Which requests are logged: those of which one of these is true.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Filter {
    /// The status is at least this, or there was no answer.
    pub status_min: Option<u16>,
    /// It took at least this long.
    pub slower_than: Option<Duration>,
    /// It is one of this share of all, drawn at random.
    pub share: f64,
}

impl Filter {
    /// Every request.
    pub const ALL: Self = Self { status_min: None, slower_than: None, share: 1.0 };

    /// Whether a request is logged that ended so. `draw` is asked for a number in 0..1 if it matters.
    pub fn wants(&self, status: Option<u16>, took: Duration, draw: impl FnOnce() -> f64) -> bool {
        self.status_min.is_some_and(|min| status.is_none_or(|status| status >= min))
            || self.slower_than.is_some_and(|slow| took >= slow)
            || is_drawn(self.share, draw)
    }
}

/// Asks the writer to open its file anew, after somebody has moved it (logrotate). Clones ask the same writer.
#[derive(Debug, Clone, Default)]
pub struct Reopen(Arc<AtomicU64>);

impl Reopen {
    /// The file is opened anew before the next line is written.
    pub fn ask(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    /// How often it was asked.
    fn asked(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A worker's way to the writer.
#[derive(Debug, Clone)]
pub struct Logger {
    queue: SyncSender<Arc<Record>>,
    filter: Filter,
    observed: Arc<Observed>,
}

impl Logger {
    /// Whether this request is to be logged.
    pub fn wants(&self, record: &Record, draw: impl FnOnce() -> f64) -> bool {
        record.end.as_ref().is_some_and(|end| {
            let status = end.status.map(|status| status.as_u16());
            self.filter.wants(status, end.took, draw)
        })
    }

    /// Hands over a record. Never waits.
    pub fn offer(&self, record: Arc<Record>) {
        if self.queue.try_send(record).is_err() {
            self.observed.lines_dropped.fetch_add(1, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(filter: Filter, status: Option<u16>, took_ms: u64, draw: f64, expected: bool) {
        assert_eq!(filter.wants(status, Duration::from_millis(took_ms), || draw), expected);
    }

    #[test]
    fn a_request_is_logged_if_one_reason_holds() {
        let filter = Filter { status_min: Some(500), slower_than: Some(Duration::from_millis(100)), share: 0.1 };
        check(filter, Some(200), 5, 0.5, false);
        check(filter, Some(500), 5, 0.5, true);
        check(filter, None, 5, 0.5, true);
        check(filter, Some(200), 100, 0.5, true);
        check(filter, Some(200), 5, 0.05, true);
        check(Filter::ALL, Some(200), 0, 0.999_999, true);
        check(Filter { share: 0.0, ..Filter::ALL }, Some(200), 0, 0.0, false);
    }
}
