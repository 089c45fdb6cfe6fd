//! The task that writes: collects rows into batches, opens and closes files, and gives a store that fails some rest.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use k8s_openapi::jiff::Timestamp;
use object_store::ObjectStore;
use object_store::path::Path;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use trimtab_model::observation::EndpointKey;
use trimtab_model::recording::{RequestRow, Row, TickRow};
use trimtab_proxy::api::v1;

use super::file::OpenFile;
use super::{Message, RecordingOptions, Shared};
use crate::clock::{self, Now};

/// Rows that are encoded together.
const BATCH_ROWS: usize = 8192;
/// Rows wait at most this long to be encoded, and files are looked at this often.
const LOOK: Duration = Duration::from_secs(1);
/// First and longest rest after a failure.
const REST: Duration = Duration::from_secs(1);
const REST_MAX: Duration = Duration::from_secs(60);

/// Both kinds of files.
pub(super) struct Writer {
    ticks: Series<TickRow>,
    requests: Series<RequestRow>,
    shared: Arc<Shared>,
}

impl Writer {
    pub(super) fn new(
        store: Arc<dyn ObjectStore>,
        prefix: Path,
        options: RecordingOptions,
        shared: Arc<Shared>,
    ) -> Self {
        Self {
            ticks: Series::new(store.clone(), prefix.clone(), options.clone(), shared.clone()),
            requests: Series::new(store, prefix, options, shared.clone()),
            shared,
        }
    }

    /// Writes until `shutdown`, then what still waits, then finishes the files.
    pub(super) async fn run(mut self, mut messages: mpsc::Receiver<Message>, shutdown: CancellationToken) {
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                // New rows wait in the channel while files are looked at, and are never starved by it.
                _ = looks.tick() => self.look(clock::now()).await,
                message = messages.recv() => match message {
                    Some(message) => self.take_in(message).await,
                    None => break,
                },
                () = shutdown.cancelled(), if !messages.is_closed() => messages.close(),
            }
        }
        let now = clock::now();
        self.ticks.finish(now).await;
        self.requests.finish(now).await;
    }

    async fn take_in(&mut self, message: Message) {
        self.shared.waiting.fetch_sub(message.rows(), Ordering::Relaxed);
        match message {
            Message::Tick(outcome) => {
                let name = |key: EndpointKey| outcome.names.get(&key).cloned().unwrap_or_default();
                self.ticks.rows.extend(TickRow::of(&outcome.observation, &outcome.decision, name));
            }
            Message::Requests(proxy, samples) => {
                self.requests.rows.extend(samples.into_iter().map(|sample| request_row(&proxy, sample)));
            }
        }
        if self.ticks.rows.len() >= BATCH_ROWS {
            self.ticks.write(clock::now()).await;
        }
        if self.requests.rows.len() >= BATCH_ROWS {
            self.requests.write(clock::now()).await;
        }
    }

    async fn look(&mut self, now: Now) {
        self.ticks.write(now).await;
        self.requests.write(now).await;
    }
}

fn request_row(proxy: &Arc<str>, sample: v1::RequestSample) -> RequestRow {
    RequestRow {
        at_ms: sample.at_ms,
        proxy: proxy.to_string(),
        route: sample.route,
        method: sample.method,
        class: sample.class,
        backend: sample.backend,
        endpoint: sample.endpoint,
        in_flight: sample.in_flight,
        latency_ms: f64::from(sample.latency_ms),
        status: (sample.status != 0).then_some(sample.status),
        request_bytes: sample.request_bytes,
        response_bytes: sample.response_bytes,
        attempts: sample.attempts,
        class_key: (!sample.class_name.is_empty()).then_some(sample.class_key),
        class_name: (!sample.class_name.is_empty()).then_some(sample.class_name),
        in_flight_all: (sample.endpoint != 0).then_some(sample.in_flight_all),
    }
}

/// The files of one kind of rows, one after the other.
struct Series<R> {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    options: RecordingOptions,
    shared: Arc<Shared>,
    rows: Vec<R>,
    file: Option<OpenFile>,
    files: u64,
    rest: Duration,
    rests_until: Option<Instant>,
}

impl<R: Row + Send + 'static> Series<R> {
    fn new(store: Arc<dyn ObjectStore>, prefix: Path, options: RecordingOptions, shared: Arc<Shared>) -> Self {
        Self { store, prefix, options, shared, rows: Vec::new(), file: None, files: 0, rest: REST, rests_until: None }
    }

    /// Writes the rows that wait, and closes the file if it is large or old enough.
    async fn write(&mut self, now: Now) {
        let date = date(now.at_ms);
        if self.file.as_ref().is_some_and(|file| file.date != date) {
            self.close().await;
        }
        let rows = std::mem::take(&mut self.rows);
        if !rows.is_empty() {
            self.add(rows, date, now).await;
        }
        let due = self.file.as_ref().is_some_and(|file| {
            file.bytes() >= self.options.file_bytes_max
                || now.instant.saturating_duration_since(file.since) >= self.options.file_age_max
        });
        if due {
            self.close().await;
        }
    }

    async fn add(&mut self, rows: Vec<R>, date: String, now: Now) {
        let count = rows.len() as u64;
        if let Some(until) = self.rests_until {
            if now.instant < until {
                let why = self.shared.last_error().unwrap_or_else(|| "the store has failed".to_owned());
                return self.shared.dropped(count, &why);
            }
            self.rests_until = None;
        }
        let file = match self.file.take() {
            Some(file) => Ok(file),
            None => self.begin(date, now),
        };
        let held = file.as_ref().map_or(0, |file| file.rows);
        let added = match file {
            Ok(file) => file.add(rows).await,
            Err(error) => Err(error),
        };
        match added {
            Ok(file) => self.file = Some(file),
            Err(error) => self.failed(held + count, &error),
        }
    }

    fn begin(&mut self, date: String, now: Now) -> Result<OpenFile, String> {
        self.files += 1;
        let kind = R::KIND;
        // The process id keeps apart two controllers that start in the same millisecond on one machine.
        let name = format!("{kind}-{}-{}-{}.parquet", now.at_ms, std::process::id(), self.files);
        let path = self.prefix.clone().join(kind).join(format!("date={date}")).join(name);
        OpenFile::begin::<R>(self.store.clone(), path, date, now.instant)
    }

    async fn close(&mut self) {
        let Some(file) = self.file.take() else { return };
        let held = file.rows;
        match file.finish().await {
            Ok(rows) => {
                self.shared.written(rows);
                self.rest = REST;
            }
            Err(error) => self.failed(held, &error),
        }
    }

    /// Counts what is lost, and lets the store rest: longer each time.
    fn failed(&mut self, rows: u64, error: &str) {
        self.shared.dropped(rows, error);
        self.rests_until = Some(clock::now().instant + self.rest);
        self.rest = (self.rest * 2).min(REST_MAX);
    }

    async fn finish(&mut self, now: Now) {
        self.write(now).await;
        self.close().await;
    }
}

/// The day in UTC.
fn date(at_ms: i64) -> String {
    match Timestamp::from_millisecond(at_ms) {
        Ok(at) => at.strftime("%Y-%m-%d").to_string(),
        Err(_) => "unknown".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_day_is_one_of_utc() {
        assert_eq!(super::date(1_764_547_199_999), "2025-11-30");
        assert_eq!(super::date(1_764_547_200_000), "2025-12-01");
        assert_eq!(super::date(i64::MAX), "unknown");
    }
}
