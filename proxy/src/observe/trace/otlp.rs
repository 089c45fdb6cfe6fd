//! Spans to an OpenTelemetry collector over gRPC (OTLP). A task on the control thread takes what the workers have put into a bounded queue,
//! makes spans of it, and sends them in batches. While the collector is away, what does not fit is dropped and counted; nobody waits.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use opentelemetry_proto::tonic::{
    collector::trace::v1::{ExportTraceServiceRequest, trace_service_client::TraceServiceClient},
    common::v1::KeyValue,
    resource::v1::Resource,
    trace::v1::{
        ResourceSpans, ScopeSpans, Span, Status,
        span::SpanKind,
        status::StatusCode::{Error, Unset},
    },
};
use tokio::sync::mpsc;
use tonic::transport::{Channel, Endpoint};

use super::super::{
    Observed, REST,
    collector::{Collector, number, real, scope, text},
    record::{Record, Trace, Try},
};

/// Requests that wait for the exporter at most.
const QUEUE: usize = 4_096;
/// Requests in one message.
const BATCH: usize = 512;
/// After a collector failed it is left alone for so long.
const BACKOFF: Duration = Duration::from_secs(1);

/// Where spans go, and of how many requests.
#[derive(Debug, Clone)]
pub struct TraceOptions {
    /// The collector.
    pub collector: Collector,
    /// Share of the requests without a trace that begin a sampled one, 0 to 1. Those with one are sampled if it says so.
    pub share: f64,
}

/// The exporter's end.
#[derive(Debug)]
pub struct Exporter {
    records: mpsc::Receiver<Arc<Record>>,
    client: TraceServiceClient<Channel>,
    resource: Resource,
    observed: Arc<Observed>,
}

/// A queue for all workers.
pub fn queue() -> (mpsc::Sender<Arc<Record>>, mpsc::Receiver<Arc<Record>>) {
    mpsc::channel(QUEUE)
}

impl Exporter {
    /// Of the proxy with this id. Must be called within a runtime.
    pub fn new(
        options: &TraceOptions,
        endpoint: &Endpoint,
        proxy_id: &str,
        records: mpsc::Receiver<Arc<Record>>,
        observed: Arc<Observed>,
    ) -> Self {
        let client = TraceServiceClient::new(endpoint.connect_lazy());
        Self { records, client, resource: options.collector.resource(proxy_id), observed }
    }

    /// Exports until nobody can put anything into the queue any more.
    pub async fn run(mut self) {
        let mut batch = Vec::with_capacity(BATCH);
        let mut failing = false;
        while self.records.recv_many(&mut batch, BATCH).await > 0 {
            let spans: Vec<Span> = batch.drain(..).flat_map(|record| spans(&record)).collect();
            let count = spans.len() as u64;
            match self.export(spans).await {
                Ok(rejected) => {
                    if std::mem::take(&mut failing) {
                        tracing::info!("the collector of traces takes spans again");
                    }
                    self.observed.spans.fetch_add(count.saturating_sub(rejected), Relaxed);
                    self.observed.spans_dropped.fetch_add(rejected.min(count), Relaxed);
                    tokio::time::sleep(REST).await;
                }
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!(%error, "the collector of traces takes no spans, dropping them");
                    }
                    self.observed.spans_dropped.fetch_add(count, Relaxed);
                    tokio::time::sleep(BACKOFF).await;
                }
            }
        }
    }

    /// Sends spans. Says how many the collector did not want.
    async fn export(&mut self, spans: Vec<Span>) -> Result<u64, tonic::Status> {
        let scope_spans = vec![ScopeSpans { scope: Some(scope()), spans, ..ScopeSpans::default() }];
        let resource_spans =
            ResourceSpans { resource: Some(self.resource.clone()), scope_spans, ..ResourceSpans::default() };
        let request = ExportTraceServiceRequest { resource_spans: vec![resource_spans] };
        let answer = self.client.export(request).await?.into_inner();
        Ok(answer.partial_success.map_or(0, |partial| partial.rejected_spans.max(0) as u64))
    }
}

/// The span of a request and those of its attempts.
fn spans(record: &Record) -> Vec<Span> {
    let Some(trace) = &record.trace else { return Vec::new() };
    let tries = record.tries.iter().enumerate().map(|(number, tried)| client_span(record, trace, tried, number));
    std::iter::once(server_span(record, trace)).chain(tries).collect()
}

fn server_span(record: &Record, trace: &Trace) -> Span {
    let end = record.end.as_ref();
    let took = end.map_or(Duration::ZERO, |end| end.took);
    // The route, not the path: names are to be few (semantic conventions for HTTP spans).
    let route = record.route.as_deref();
    let (host, port) = host_and_port(&record.host);
    let mut attributes = vec![
        text("http.request.method", record.method.as_str()),
        text("url.path", &record.path),
        text("url.scheme", record.scheme),
        text("server.address", host),
        text("client.address", &record.client.to_string()),
        text("network.protocol.version", record.protocol.trim_start_matches("HTTP/")),
        text("http.request.header.x-request-id", &record.request_id),
        number("http.request.body.size", record.request_bytes as i64),
    ];
    attributes.extend(port.map(|port| number("server.port", port)));
    // What the proxy answers by itself is not counted.
    attributes.extend(record.tries.last().map(|_| number("http.response.body.size", record.response_bytes as i64)));
    attributes.extend(route.map(|route| text("trimtab.route", route)));
    attributes.extend(record.backend.as_deref().map(|backend| text("trimtab.backend", backend)));
    let mut status = Status { code: Unset.into(), ..Status::default() };
    if let Some(end) = end {
        attributes.extend(end.status.map(|status| number("http.response.status_code", i64::from(status.as_u16()))));
        attributes.extend(end.reason.map(|reason| text("error.type", reason)));
        attributes.extend(end.blame.map(|blame| text("trimtab.blame", blame.as_str())));
        // What is the client's fault is no error of the server's span, nor is any 4xx.
        let is_4xx = end.status.is_some_and(|status| status.is_client_error());
        if !is_4xx && end.blame.is_some_and(|blame| blame != super::super::Blame::Client) {
            status.code = Error.into();
            status.message = end.reason.unwrap_or_default().to_owned();
        }
    }
    Span {
        span_id: trace.span.to_be_bytes().to_vec(),
        parent_span_id: trace.parent.map(|parent| parent.to_be_bytes().to_vec()).unwrap_or_default(),
        name: route.map_or_else(|| record.method.to_string(), |route| format!("{} {route}", record.method)),
        kind: SpanKind::Server.into(),
        status: Some(status),
        ..span(record, trace, (Duration::ZERO, took), attributes)
    }
}

fn client_span(record: &Record, trace: &Trace, tried: &Try, resends: usize) -> Span {
    let began = tried.began.since(record.started);
    let ended = tried.ended.map_or(began, |ended| ended.since(record.started));
    let (host, port) = host_and_port(&tried.address);
    let mut attributes = vec![
        text("http.request.method", record.method.as_str()),
        text("server.address", host),
        text("trimtab.endpoint", &tried.endpoint),
        text("trimtab.algorithm", tried.algorithm),
        text("trimtab.why", tried.why.as_str()),
        number("trimtab.in_flight", i64::from(tried.in_flight)),
        real("trimtab.in_flight_all", f64::from(tried.in_flight_all)),
    ];
    attributes.extend(port.map(|port| number("server.port", port)));
    attributes.extend(tried.weight.map(|weight| real("trimtab.weight", f64::from(weight))));
    attributes.extend(tried.score.map(|score| real("trimtab.score", score)));
    if resends > 0 {
        attributes.push(number("http.request.resend_count", resends as i64));
    }
    attributes.extend(tried.failure.map(|failure| text("error.type", failure)));
    let last = resends + 1 == record.tries.len();
    let status = record.end.as_ref().and_then(|end| end.status).filter(|_| last && tried.failure.is_none());
    attributes.extend(status.map(|status| number("http.response.status_code", i64::from(status.as_u16()))));
    let failed = tried.outcome.is_some_and(crate::load::Outcome::is_error);
    Span {
        span_id: tried.span.to_be_bytes().to_vec(),
        parent_span_id: trace.span.to_be_bytes().to_vec(),
        name: record.method.to_string(),
        kind: SpanKind::Client.into(),
        status: Some(Status { code: if failed { Error } else { Unset }.into(), ..Status::default() }),
        ..span(record, trace, (began, ended), attributes)
    }
}

/// An address of IPv6 without its brackets.
fn host_and_port(authority: &str) -> (&str, Option<i64>) {
    let parts = authority.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
    let (host, port) = parts.map_or((authority, None), |(host, port)| (host, Some(port)));
    (host.trim_matches(['[', ']']), port)
}

fn span(record: &Record, trace: &Trace, (began, ended): (Duration, Duration), attributes: Vec<KeyValue>) -> Span {
    Span {
        trace_id: trace.id.to_be_bytes().to_vec(),
        trace_state: trace.state.clone(),
        flags: u32::from(trace.sampled),
        start_time_unix_nano: record.at_unix_ns + began.as_nanos() as u64,
        end_time_unix_nano: record.at_unix_ns + ended.as_nanos() as u64,
        attributes,
        ..Span::default()
    }
}
