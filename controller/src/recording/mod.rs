//! The recording: ticks and sampled requests as Parquet files on any object store. It never holds anyone up: what the writer cannot
//! take is dropped and counted.
//!
//! Files are `ticks/date=YYYY-MM-DD/….parquet` and `requests/date=YYYY-MM-DD/….parquet`, and are visible only when complete.

mod file;
pub mod reader;
mod retention;
mod writer;

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use object_store::ObjectStore;
use object_store::path::Path;
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use trimtab_proxy::api::v1;

use crate::clock;
use crate::metrics::{Metrics, RowFate};
use crate::store::{self, OpenError};
use crate::tick::Outcome;
use crate::view::RecordingView;

/// Messages that may wait for the writer.
const MESSAGES_MAX: usize = 4096;
/// Rows that may wait for the writer: ten seconds of 5,000 endpoints, about 100 MB.
const ROWS_MAX: u64 = 100_000;
/// Milliseconds between two warnings of lost rows.
const WARN_MS: i64 = 10_000;
/// How long finishing the last files may take.
const FLUSH_TIME: Duration = Duration::from_secs(10);

/// Where and how to record.
#[derive(Debug, Clone, PartialEq)]
pub struct RecordingOptions {
    /// A folder's path, or a URL that `object_store` knows (`file:`, `s3:`, `gs:`, `az:`); credentials come from the environment.
    pub url: String,
    /// A file is closed when it is about this large.
    pub file_bytes_max: u64,
    /// A file is closed when it has been open for this long.
    pub file_age_max: Duration,
    /// Files are deleted that were begun longer ago than this; `None`: never.
    pub keep: Option<Duration>,
    /// Nobody asked for it: where nothing can be written, nothing is recorded, and a warning says so.
    pub optional: bool,
}

impl RecordingOptions {
    /// The usual sizes: 64 MiB, 5 minutes.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            file_bytes_max: 64 << 20,
            file_age_max: Duration::from_secs(300),
            keep: None,
            optional: false,
        }
    }
}

/// Why nothing can be recorded.
#[derive(Debug, Error)]
#[error("recording to {0}")]
pub struct RecordingError(#[from] pub OpenError);

/// What the writer gets.
#[derive(Debug)]
enum Message {
    Tick(Outcome),
    Requests(Arc<str>, Vec<v1::RequestSample>),
}

impl Message {
    fn rows(&self) -> u64 {
        match self {
            Self::Tick(outcome) => outcome.observation.endpoints.len() as u64,
            Self::Requests(_, samples) => samples.len() as u64,
        }
    }
}

/// What everyone may count and say.
#[derive(Debug)]
struct Shared {
    url: String,
    waiting: AtomicU64,
    written: AtomicU64,
    dropped: AtomicU64,
    last_error: Mutex<Option<String>>,
    warned_ms: AtomicI64,
    metrics: Arc<Metrics>,
}

impl Shared {
    fn written(&self, rows: u64) {
        self.written.fetch_add(rows, Ordering::Relaxed);
        self.metrics.rows(RowFate::Written, rows);
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn last_error(&self) -> Option<String> {
        self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Counts rows that were lost here or before they came here.
    fn count_dropped(&self, rows: u64) {
        self.dropped.fetch_add(rows, Ordering::Relaxed);
        self.metrics.rows(RowFate::Dropped, rows);
    }

    /// Counts lost rows and says why; the log hears of it at most every [`WARN_MS`].
    fn dropped(&self, rows: u64, why: &str) {
        self.count_dropped(rows);
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(why.to_owned());
        let now_ms = clock::now().at_ms;
        let last_ms = self.warned_ms.load(Ordering::Relaxed);
        let due = now_ms.saturating_sub(last_ms) >= WARN_MS;
        if due && self.warned_ms.compare_exchange(last_ms, now_ms, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            let all = self.dropped.load(Ordering::Relaxed);
            tracing::warn!(url = self.url, rows, dropped_since_start = all, why, "recording drops rows");
        }
    }
}

/// The side that hands in rows. Clones share everything.
#[derive(Debug, Clone)]
pub struct Recorder {
    messages: mpsc::Sender<Message>,
    shared: Arc<Shared>,
}

/// The running writer.
#[derive(Debug)]
pub struct RecordingTask {
    task: JoinHandle<()>,
}

impl Recorder {
    /// Starts to record until `shutdown`.
    ///
    /// # Errors
    /// The URL cannot be used, or the folder cannot be made.
    pub fn start(
        options: RecordingOptions,
        metrics: Arc<Metrics>,
        shutdown: CancellationToken,
    ) -> Result<(Self, RecordingTask), RecordingError> {
        let (store, prefix) = store::open(&options.url)?;
        Ok(Self::start_on(store, prefix, options, metrics, shutdown))
    }

    fn start_on(
        store: Arc<dyn ObjectStore>,
        prefix: Path,
        options: RecordingOptions,
        metrics: Arc<Metrics>,
        shutdown: CancellationToken,
    ) -> (Self, RecordingTask) {
        let (sender, messages) = mpsc::channel(MESSAGES_MAX);
        let shared = Arc::new(Shared {
            url: options.url.clone(),
            waiting: AtomicU64::new(0),
            written: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            last_error: Mutex::new(None),
            warned_ms: AtomicI64::new(0),
            metrics,
        });
        if let Some(keep) = options.keep {
            tokio::spawn(retention::run(store.clone(), prefix.clone(), keep, shutdown.clone()));
        }
        let writer = writer::Writer::new(store, prefix, options, shared.clone());
        let task = tokio::spawn(writer.run(messages, shutdown));
        (Self { messages: sender, shared }, RecordingTask { task })
    }

    /// Records a tick of a backend.
    pub fn tick(&self, outcome: &Outcome) {
        self.send(Message::Tick(outcome.clone()));
    }

    /// Records requests that a proxy sampled.
    pub fn requests(&self, proxy: &Arc<str>, samples: v1::RequestSamples) {
        self.shared.count_dropped(samples.dropped);
        self.send(Message::Requests(proxy.clone(), samples.samples));
    }

    fn send(&self, message: Message) {
        let rows = message.rows();
        if rows == 0 {
            return;
        }
        let waiting = self.shared.waiting.fetch_add(rows, Ordering::Relaxed);
        if waiting + rows > ROWS_MAX || self.messages.try_send(message).is_err() {
            self.shared.waiting.fetch_sub(rows, Ordering::Relaxed);
            self.shared.dropped(rows, "the store is slower than the rows come");
        }
    }

    /// For people.
    pub fn view(&self) -> RecordingView {
        RecordingView {
            url: self.shared.url.clone(),
            rows_written: self.shared.written.load(Ordering::Relaxed),
            rows_dropped: self.shared.dropped.load(Ordering::Relaxed),
            last_error: self.shared.last_error(),
        }
    }
}

impl RecordingTask {
    /// Waits until the last files are finished, for a bounded time.
    pub async fn flushed(self) {
        match tokio::time::timeout(FLUSH_TIME, self.task).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "the recording has failed"),
            Err(_) => tracing::warn!("the store did not take the last files in time"),
        }
    }
}

#[cfg(test)]
#[path = "recording_tests.rs"]
mod tests;
