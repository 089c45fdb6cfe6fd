//! The client of the Telemetry service: load reports at the controller's pace, errors within 50 ms of being seen, sampled requests. It
//! reads what the workers write anyway; no request waits for it.

use std::{collections::HashMap, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, Interval, MissedTickBehavior},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, transport::Channel};

use crate::{
    api::v1::{
        self, ErrorReport, LoadReport, RequestSample, RequestSamples, TelemetryRequest, TelemetryResponse,
        telemetry_client::TelemetryClient, telemetry_request::Kind,
    },
    backend::BackendState,
    class::finder::Found,
    clock,
    report::BackendReporter,
    sample::Sampling,
    table::Table,
    time::Timestamp,
};

/// Between load reports, until the controller says otherwise.
const LOAD_INTERVAL: Duration = Duration::from_millis(250);
/// What the controller may ask for.
const LOAD_INTERVAL_MIN: Duration = Duration::from_millis(50);
const LOAD_INTERVAL_MAX: Duration = Duration::from_secs(10);
/// How often it is looked for errors.
const ERROR_INTERVAL: Duration = Duration::from_millis(50);
/// After the queue of samples was emptied it is left alone for so long: a worker that finds somebody waiting for each sample has to wake this
/// task each time, which costs more than a request.
const SAMPLES_REST: Duration = Duration::from_millis(50);
/// Samples in one message.
const SAMPLES_MAX: usize = 512;
/// Messages that wait for a slow controller; then reports wait too, and cover a longer time.
const QUEUE: usize = 16;

/// The client's memory across streams.
#[derive(Debug)]
pub struct Telemetry {
    proxy_id: String,
    table: Arc<ArcSwap<Table>>,
    sampling: Arc<Sampling>,
    samples: mpsc::Receiver<RequestSample>,
    /// Kinds of requests that were found.
    found: watch::Receiver<Found>,
    reporters: HashMap<String, (Arc<BackendState>, BackendReporter)>,
    sequence: u64,
    reported_at: Timestamp,
}

impl Telemetry {
    /// For a proxy of this id.
    pub fn new(
        proxy_id: String,
        table: Arc<ArcSwap<Table>>,
        sampling: Arc<Sampling>,
        samples: mpsc::Receiver<RequestSample>,
        found: watch::Receiver<Found>,
    ) -> Self {
        let reporters = HashMap::new();
        Self { proxy_id, table, sampling, samples, found, reporters, sequence: 0, reported_at: clock::now() }
    }

    /// One stream, from its opening to its end.
    ///
    /// # Errors
    /// If it cannot be opened or breaks.
    pub async fn stream(&mut self, channel: Channel) -> Result<(), Status> {
        let (requests, outgoing) = mpsc::channel(QUEUE);
        // The first message names the proxy.
        let hello = TelemetryRequest {
            proxy_id: self.proxy_id.clone(),
            kind: Some(Kind::Load(self.load_report(clock::now()))),
        };
        requests.try_send(hello).map_err(|_| Status::internal("the queue of reports is too short"))?;
        let mut wishes = TelemetryClient::new(channel).stream(ReceiverStream::new(outgoing)).await?.into_inner();
        let mut load = interval(LOAD_INTERVAL);
        let mut errors = interval(ERROR_INTERVAL);
        let mut batch = Vec::with_capacity(SAMPLES_MAX);
        let mut rest = interval(SAMPLES_REST);
        let mut resting = false;
        let mut wished = 0.0;
        let result = loop {
            let kind = tokio::select! {
                wish = wishes.message() => match wish {
                    Ok(Some(wish)) => {
                        load = self.heed(&wish);
                        wished = wish.sample_rate;
                        continue;
                    }
                    Ok(None) => break Ok(()),
                    Err(error) => break Err(error),
                },
                _ = load.tick() => {
                    let report = self.load_report(clock::now());
                    self.sampling.adapt(wished, answers_per_s(&report));
                    Some(Kind::Load(report))
                }
                _ = errors.tick() => self.error_report(clock::now()).map(Kind::Errors),
                _ = rest.tick(), if resting => {
                    resting = false;
                    continue;
                }
                count = self.samples.recv_many(&mut batch, SAMPLES_MAX), if !resting => {
                    if count == 0 {
                        // The workers have ended: nothing is left to report but the last loads.
                        std::future::pending::<()>().await;
                    }
                    if count < SAMPLES_MAX {
                        resting = true;
                        rest.reset();
                    }
                    let samples = std::mem::replace(&mut batch, Vec::with_capacity(SAMPLES_MAX));
                    Some(Kind::Samples(RequestSamples { samples, dropped: self.sampling.take_dropped() }))
                }
            };
            let Some(kind) = kind else { continue };
            let request = TelemetryRequest { proxy_id: String::new(), kind: Some(kind) };
            if requests.send(request).await.is_err() {
                break Err(Status::unavailable("the stream is closed"));
            }
        };
        // Nobody to sample for.
        self.sampling.set_rate(0.0);
        result
    }

    fn heed(&self, wish: &TelemetryResponse) -> Interval {
        self.sampling.set_rate(wish.sample_rate);
        let period = match wish.load_interval_ms {
            0 => LOAD_INTERVAL,
            ms => Duration::from_millis(u64::from(ms)).clamp(LOAD_INTERVAL_MIN, LOAD_INTERVAL_MAX),
        };
        interval(period)
    }

    fn load_report(&mut self, now: Timestamp) -> LoadReport {
        self.sequence += 1;
        let interval_ms = (now.since(std::mem::replace(&mut self.reported_at, now)).as_secs_f64() * 1e3) as f32;
        let table = self.table.load();
        self.reporters
            .retain(|name, (state, _)| table.backend(name).is_some_and(|e| Arc::ptr_eq(e.backend.state(), state)));
        let mut backends = Vec::with_capacity(table.backends.len());
        // Told once: they move slowly, and their names are long.
        let found = self.found.has_changed().unwrap_or(false).then(|| self.found.borrow_and_update().clone());
        for entry in &table.backends {
            let reporter = reporter(&mut self.reporters, &entry.backend, now);
            let mut load = reporter.report(&entry.backend, now);
            load.candidates = found.as_ref().and_then(|found| found.get(entry.backend.name()).cloned());
            backends.push(load);
        }
        LoadReport { sequence: self.sequence, interval_ms, backends }
    }

    fn error_report(&mut self, now: Timestamp) -> Option<ErrorReport> {
        let table = self.table.load();
        let backends: Vec<v1::BackendErrors> = table
            .backends
            .iter()
            .filter_map(|entry| reporter(&mut self.reporters, &entry.backend, now).errors(&entry.backend, now))
            .collect();
        (!backends.is_empty()).then_some(ErrorReport { backends })
    }
}

fn reporter<'a>(
    reporters: &'a mut HashMap<String, (Arc<BackendState>, BackendReporter)>,
    backend: &crate::backend::Backend,
    now: Timestamp,
) -> &'a mut BackendReporter {
    if !reporters.contains_key(backend.name()) {
        reporters.insert(backend.name().to_owned(), (backend.state().clone(), BackendReporter::new(now)));
    }
    let (_, reporter) = reporters.get_mut(backend.name()).expect("it was just put there");
    reporter
}

fn answers_per_s(report: &LoadReport) -> f64 {
    let endpoints = report.backends.iter().flat_map(|load| &load.endpoints);
    let answers = endpoints.map(|load| load.successes + load.errors + load.failures).sum::<u64>();
    answers as f64 / (f64::from(report.interval_ms) / 1e3).max(1e-3)
}

fn interval(period: Duration) -> Interval {
    let start: Instant = clock::instant(clock::now() + period);
    let mut interval = tokio::time::interval_at(start, period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}
