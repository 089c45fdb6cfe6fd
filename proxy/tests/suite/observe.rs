//! What is seen of requests: metrics by route, the access log, traces. Each on both request paths.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use opentelemetry_proto::tonic::{
    collector::{
        metrics::v1::{
            ExportMetricsServiceRequest, ExportMetricsServiceResponse,
            metrics_service_server::{MetricsService, MetricsServiceServer},
        },
        trace::v1::{
            ExportTraceServiceRequest, ExportTraceServiceResponse,
            trace_service_server::{TraceService, TraceServiceServer},
        },
    },
    common::v1::{KeyValue, any_value::Value},
    metrics::v1::{AggregationTemporality, Metric, metric::Data, number_data_point},
    trace::v1::{Span, span::SpanKind},
};
use serde_json::Value as Json;
use tonic::{Request, Response, Status};
use trimtab_proxy::observe::{
    collector,
    log::{Destination, Filter, Format, LogOptions, Reopen},
    red::otlp::MetricsOptions,
    trace::otlp::TraceOptions,
};

use crate::harness::{
    Backend, Proxy, Raw, RawBackend, Setup, eventually,
    proxy::{BACKEND, LISTENER},
    text,
};

/// Both request paths.
const PATHS: [bool; 2] = [true, false];
const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

async fn failing_on_bad() -> Backend {
    Backend::new(|request| async move {
        let mut response = text("x");
        if request.uri().path() == "/bad" {
            *response.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR;
        }
        response
    })
    .await
}

async fn metrics(proxy: &Proxy) -> String {
    let mut raw = Raw::connect(proxy.admin_address()).await;
    raw.write("GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await;
    raw.answer().await.body
}

async fn counts(proxy: &Proxy, line: &str) {
    eventually("a metric counts it", || async { metrics(proxy).await.lines().any(|found| found == line) }).await;
}

#[tokio::test]
async fn requests_are_counted_by_route_and_backend_and_who_failed() {
    for fast_path in PATHS {
        let backend = failing_on_bad().await;
        let proxy = Setup::to(&[backend.address]).fast_path(fast_path).with_admin().start().await;
        for path in ["/", "/", "/bad"] {
            proxy.get(path).await;
        }
        // Nobody can read this, so no route is looked for.
        proxy.send("GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n").await;
        let labels = format!("route=\"test/route\",backend=\"{BACKEND}\"");
        counts(&proxy, &format!("trimtab_proxy_route_requests_total{{{labels},status=\"2xx\"}} 2")).await;
        counts(&proxy, &format!("trimtab_proxy_route_requests_total{{{labels},status=\"5xx\"}} 1")).await;
        counts(&proxy, &format!("trimtab_proxy_route_errors_total{{{labels},blame=\"upstream\"}} 1")).await;
        counts(&proxy, &format!("trimtab_proxy_route_duration_seconds_count{{{labels}}} 3")).await;
        let none = "route=\"none\",backend=\"none\"";
        counts(&proxy, &format!("trimtab_proxy_route_errors_total{{{none},blame=\"client\"}} 1")).await;
        proxy.controller.remove_backend(BACKEND);
        eventually("it is gone", || async { proxy.get("/").await.status == 500 }).await;
        let all = metrics(&proxy).await;
        assert!(
            all.contains(&format!("trimtab_proxy_route_errors_total{{{labels},blame=\"configuration\"}}")),
            "{all}"
        );
    }
}

#[tokio::test]
async fn an_endpoint_that_cannot_be_reached_is_counted_once_under_its_route() {
    for fast_path in PATHS {
        let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let proxy = Setup::to(&[gone]).fast_path(fast_path).with_admin().start().await;
        assert_eq!(proxy.get("/").await.status, 502);
        let labels = format!("route=\"test/route\",backend=\"{BACKEND}\"");
        counts(&proxy, &format!("trimtab_proxy_route_requests_total{{{labels},status=\"5xx\"}} 1")).await;
        counts(&proxy, &format!("trimtab_proxy_route_errors_total{{{labels},blame=\"upstream\"}} 1")).await;
        assert!(!metrics(&proxy).await.contains("route=\"none\""));
    }
}

/// A folder of its own, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("trimtab-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn log(to: &Path, format: Format, filter: Filter) -> LogOptions {
    LogOptions { to: Destination::File(to.to_owned()), format, filter, reopen: Reopen::default() }
}

fn json(file: &Path) -> Vec<Json> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}"))).collect()
}

/// Lines of a log, once there are as many.
async fn lines(file: &Path, count: usize) -> Vec<Json> {
    eventually("the log has its lines", || async { json(file).len() >= count }).await;
    let found = json(file);
    assert_eq!(found.len(), count, "{found:?}");
    found
}

#[tokio::test]
async fn a_line_says_what_was_asked_what_became_of_it_and_why_it_went_there() {
    let folder = Folder::new("log-line");
    for fast_path in PATHS {
        let file = folder.0.join(format!("{fast_path}"));
        let backend = failing_on_bad().await;
        let log = log(&file, Format::Json, Filter::ALL);
        let proxy = Setup::to(&[backend.address]).fast_path(fast_path).observed(Some(log), None).start().await;
        let request = "POST /bad?secret=1 HTTP/1.1\r\nhost: shop.example\r\nx-request-id: theirs\r\n\
            traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00\r\n\
            content-length: 3\r\nconnection: close\r\n\r\nabc";
        assert_eq!(proxy.send(request).await.status, 500);
        proxy.get("/").await;
        let found = lines(&file, 2).await;
        let expected = serde_json::json!({
            "status": 500, "method": "POST", "host": "shop.example", "path": "/bad", "protocol": "HTTP/1.1",
            "scheme": "http", "client": "127.0.0.1", "request_id": "theirs", "trace_id": TRACE,
            "listener": LISTENER, "route": "test/route", "backend": BACKEND, "blame": "upstream",
            "request_bytes": 3, "response_bytes": 1, "attempts": 1, "endpoint": "pod-1",
            "address": backend.address.to_string(), "algorithm": "round-robin", "why": "rule", "weight": 1, "in_flight": 0,
        });
        for (name, value) in expected.as_object().unwrap() {
            assert_eq!(&found[0][name], value, "{name} of {}", found[0]);
        }
        assert!(found[0]["duration_ms"].as_f64().unwrap() >= found[0]["endpoint_ms"].as_f64().unwrap());
        assert!(found[0]["time"].as_str().unwrap().ends_with('Z'));
        // Made here, and told to the endpoint.
        let made = backend.last_headers()["x-request-id"].to_str().unwrap().to_owned();
        assert_eq!((found[1]["request_id"].as_str(), made.len()), (Some(made.as_str()), 24));
        let header = backend.seen.lock().unwrap()[0].headers["traceparent"].clone();
        assert!(header.to_str().unwrap().ends_with("00f067aa0ba902b7-00"), "without traces it passes as it came");
    }
}

#[tokio::test]
async fn answers_of_the_proxy_itself_and_retries_are_logged_with_their_reasons() {
    let folder = Folder::new("log-reasons");
    for fast_path in PATHS {
        let file = folder.0.join(format!("{fast_path}"));
        let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let backend = Backend::saying("x").await;
        let log = log(&file, Format::Json, Filter::ALL);
        let setup = Setup::to(&[gone, backend.address]).fast_path(fast_path).observed(Some(log), None);
        let proxy = setup.start().await;
        proxy.send("GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n").await;
        for _ in 0..2 {
            assert_eq!(proxy.get("/").await.status, 200);
        }
        let found = lines(&file, 3).await;
        assert_eq!((&found[0]["reason"], &found[0]["blame"]), (&"bad_request".into(), &"client".into()));
        let retried = found.iter().find(|line| line["attempts"] == 2).unwrap();
        assert_eq!(retried["tried"], "pod-1:connect_failed");
        assert_eq!((&retried["why"], &retried["endpoint"]), (&"retry".into(), &"pod-2".into()));
    }
}

#[tokio::test]
async fn a_client_that_goes_is_logged_as_such() {
    let folder = Folder::new("log-gone");
    for fast_path in PATHS {
        let file = folder.0.join(format!("{fast_path}"));
        let backend = RawBackend::new(|stream, _| async move {
            tokio::time::sleep(Duration::from_secs(60)).await;
            drop(stream);
        })
        .await;
        let log = log(&file, Format::Json, Filter { status_min: Some(500), share: 0.0, slower_than: None });
        let proxy = Setup::to(&[backend.address]).fast_path(fast_path).observed(Some(log), None).start().await;
        let mut raw = proxy.raw().await;
        raw.write("GET / HTTP/1.1\r\nhost: t\r\n\r\n").await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        drop(raw);
        let found = lines(&file, 1).await;
        let said = |name: &str| found[0][name].clone();
        assert_eq!((said("status"), said("reason"), said("blame")), (0.into(), "client_gone".into(), "client".into()));
    }
}

#[tokio::test]
async fn the_client_of_a_line_is_the_one_that_policies_go_by() {
    let folder = Folder::new("log-client");
    for fast_path in PATHS {
        let file = folder.0.join(format!("{fast_path}"));
        let backend = failing_on_bad().await;
        let log = log(&file, Format::Json, Filter { status_min: None, share: 1.0, slower_than: None });
        let mut setup = Setup::to(&[backend.address]).fast_path(fast_path).observed(Some(log), None);
        setup.listener.client_address =
            Some(trimtab_proxy::api::v1::ClientAddress { trusted_hops: 1, ..Default::default() });
        let proxy = setup.start().await;
        proxy
            .send("GET / HTTP/1.1\r\nhost: t\r\nx-forwarded-for: 192.0.2.9, 192.0.2.7\r\nconnection: close\r\n\r\n")
            .await;
        assert_eq!(lines(&file, 1).await[0]["client"], "192.0.2.7");
    }
}

#[tokio::test]
async fn pages_from_elsewhere_cannot_read_an_admin_endpoint_on_loopback() {
    let proxy = Setup::to(&[]).with_admin().start().await;
    for (host, status) in [("rebound.example", 403), ("localhost:9901", 200), ("127.0.0.1", 200), ("[::1]:1", 200)] {
        let mut raw = Raw::connect(proxy.admin_address()).await;
        raw.write(format!("GET /config HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n")).await;
        assert_eq!(raw.answer().await.status, status, "{host}");
    }
    // Numbers are no secret: who scrapes may know this machine by any name.
    let mut raw = Raw::connect(proxy.admin_address()).await;
    raw.write("GET /metrics HTTP/1.1\r\nhost: proxy.example\r\nconnection: close\r\n\r\n").await;
    assert_eq!(raw.answer().await.status, 200);
}

#[tokio::test]
async fn no_request_can_begin_a_line_of_its_own() {
    let folder = Folder::new("log-injection");
    let (text_file, json_file) = (folder.0.join("text"), folder.0.join("json"));
    for (file, format) in [(&text_file, Format::Text), (&json_file, Format::Json)] {
        for fast_path in PATHS {
            let backend = Backend::saying("x").await;
            let log = log(file, format, Filter::ALL);
            let proxy = Setup::to(&[backend.address]).fast_path(fast_path).observed(Some(log), None).start().await;
            let id = "a\" status=200 x=\"\tb\u{85}\u{2028}\u{202e}\\";
            let request = format!("GET / HTTP/1.1\r\nhost: t\r\nx-request-id: {id}\r\nconnection: close\r\n\r\n");
            assert_eq!(proxy.send(&request).await.status, 200);
            proxy.stop().await.unwrap();
        }
    }
    let text = std::fs::read_to_string(&text_file).unwrap();
    assert_eq!(text.lines().count(), 2, "{text}");
    assert!(!text.chars().any(|c| c.is_control() && c != '\n' || c == '\u{2028}' || c == '\u{202e}'), "{text:?}");
    assert!(text.contains(r#"request_id="a\" status=200 x=\"\u0009b\u0085\u2028\u202e\\""#), "{text}");
    let found = json(&json_file);
    assert_eq!(found.len(), 2);
    assert!(found.iter().all(|line| line["request_id"].as_str().unwrap().starts_with("a\" status=200 x=\"\tb")));
}

#[tokio::test]
async fn a_log_that_was_moved_goes_on_in_a_new_file() {
    let folder = Folder::new("log-reopen");
    let (file, moved) = (folder.0.join("log"), folder.0.join("log.1"));
    let backend = Backend::saying("x").await;
    let options = log(&file, Format::Json, Filter::ALL);
    let reopen = options.reopen.clone();
    let proxy = Setup::to(&[backend.address]).observed(Some(options), None).start().await;
    proxy.get("/one").await;
    lines(&file, 1).await;
    std::fs::rename(&file, &moved).unwrap();
    reopen.ask();
    eventually("it is there again", || async { file.exists() }).await;
    proxy.get("/two").await;
    assert_eq!(lines(&file, 1).await[0]["path"], "/two");
    assert_eq!(lines(&moved, 1).await[0]["path"], "/one");
}

#[tokio::test]
async fn a_disk_that_takes_nothing_costs_lines_and_no_requests() {
    let backend = Backend::saying("x").await;
    let options = log(Path::new("/dev/full"), Format::Text, Filter::ALL);
    let proxy = Setup::to(&[backend.address]).observed(Some(options), None).with_admin().start().await;
    for _ in 0..3 {
        assert_eq!(proxy.get("/").await.status, 200);
    }
    counts(&proxy, "trimtab_proxy_access_log_dropped_total{reason=\"write_failed\"} 3").await;
    counts(&proxy, "trimtab_proxy_access_log_lines_total 0").await;
}

/// A collector: the official services, of which we are a client. Spans, and metrics in the order in which they came.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<Span>>>, Arc<Mutex<Vec<Metric>>>);

#[tonic::async_trait]
impl MetricsService for Collector {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        let resources = request.into_inner().resource_metrics.into_iter();
        let scopes = resources.flat_map(|resource| resource.scope_metrics);
        self.1.lock().unwrap().extend(scopes.flat_map(|scope| scope.metrics));
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let spans = request.into_inner().resource_spans.into_iter().flat_map(|r| r.scope_spans).flat_map(|s| s.spans);
        self.0.lock().unwrap().extend(spans);
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    async fn start() -> (Self, TraceOptions) {
        let (found, port) = Self::serve(tonic::transport::Server::builder()).await;
        let collector = collector::Collector::plain(format!("http://127.0.0.1:{port}").parse().unwrap(), "edge");
        (found, TraceOptions { collector, share: 1.0 })
    }

    /// On the returned port.
    async fn serve(mut server: tonic::transport::Server) -> (Self, u16) {
        let collector = Self::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        let server = server
            .add_service(TraceServiceServer::new(collector.clone()))
            .add_service(MetricsServiceServer::new(collector.clone()));
        tokio::spawn(server.serve_with_incoming(incoming));
        (collector, port)
    }

    /// The metric of this name as it came last, once there is one for which `holds`.
    async fn metric(&self, name: &str, holds: impl Fn(&Data) -> bool) -> Data {
        let last = || {
            let found = self.1.lock().unwrap();
            let found = found.iter().rev().find(|metric| metric.name == name);
            found.and_then(|metric| metric.data.clone()).filter(|data| holds(data))
        };
        eventually("the metric is there", || async { last().is_some() }).await;
        last().unwrap()
    }

    async fn spans(&self, count: usize) -> Vec<Span> {
        eventually("the spans are there", || async { self.0.lock().unwrap().len() >= count }).await;
        let found = self.0.lock().unwrap().clone();
        let names: Vec<&str> = found.iter().map(|span| span.name.as_str()).collect();
        assert_eq!(found.len(), count, "{names:?}");
        found
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn said(span: &Span, key: &str) -> Option<Value> {
    let found = span.attributes.iter().find(|KeyValue { key: known, .. }| known == key)?;
    found.value.clone()?.value
}

fn string(value: &str) -> Option<Value> {
    Some(Value::StringValue(value.to_owned()))
}

#[tokio::test]
async fn a_trace_goes_on_through_the_proxy_and_its_spans_are_exported() {
    for fast_path in PATHS {
        let (collector, options) = Collector::start().await;
        let backend = Backend::saying("x").await;
        let proxy = Setup::to(&[backend.address]).fast_path(fast_path).observed(None, Some(options)).start().await;
        let request = format!(
            "GET /a?b HTTP/1.1\r\nhost: t.test:8080\r\ntraceparent: {PARENT}\r\ntracestate: v=1\r\nconnection: close\r\n\r\n"
        );
        assert_eq!(proxy.send(&request).await.status, 200);
        let spans = collector.spans(2).await;
        let (server, client) = (&spans[0], &spans[1]);
        assert_eq!((hex(&server.trace_id), hex(&server.parent_span_id)), (TRACE.into(), "00f067aa0ba902b7".into()));
        assert_eq!((server.kind, client.kind), (SpanKind::Server as i32, SpanKind::Client as i32));
        assert_eq!((&client.trace_id, &client.parent_span_id), (&server.trace_id, &server.span_id));
        let headers = backend.last_headers();
        assert_eq!(headers["traceparent"], format!("00-{TRACE}-{}-01", hex(&client.span_id)));
        assert_eq!((headers["tracestate"].as_bytes(), server.trace_state.as_str()), (&b"v=1"[..], "v=1"));
        assert_eq!(headers.get_all("traceparent").iter().count(), 1);
        assert_eq!(said(server, "http.response.status_code"), Some(Value::IntValue(200)));
        assert_eq!(said(server, "url.path"), string("/a"));
        assert_eq!(said(server, "server.address"), string("t.test"));
        assert_eq!(said(server, "server.port"), Some(Value::IntValue(8080)));
        assert_eq!(said(client, "trimtab.endpoint"), string("pod-1"));
        assert!(server.start_time_unix_nano <= client.start_time_unix_nano);
        assert!(client.end_time_unix_nano <= server.end_time_unix_nano);
    }
}

#[tokio::test]
async fn each_try_is_a_span_and_the_endpoint_is_told_its_own() {
    for fast_path in PATHS {
        let (collector, options) = Collector::start().await;
        let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let backend = Backend::saying("x").await;
        let setup = Setup::to(&[gone, backend.address]).fast_path(fast_path).observed(None, Some(options));
        let proxy = setup.start().await;
        // The first in turn is the one that is gone.
        assert_eq!(proxy.get("/").await.status, 200);
        let spans = collector.spans(3).await;
        let (failed, last) = spans
            .windows(2)
            .find(|pair| said(&pair[1], "http.request.resend_count").is_some())
            .map(|pair| (pair[0].clone(), pair[1].clone()))
            .unwrap();
        assert_eq!(said(&failed, "error.type"), string("connect_failed"));
        assert_eq!(failed.parent_span_id, last.parent_span_id);
        let told: Vec<String> = {
            let seen = backend.seen.lock().unwrap();
            seen.iter().map(|head| head.headers["traceparent"].to_str().unwrap().to_owned()).collect()
        };
        assert!(told.contains(&format!("00-{}-{}-01", hex(&last.trace_id), hex(&last.span_id))), "{told:?}");
    }
}

#[tokio::test]
async fn what_is_no_trace_context_is_replaced_and_what_is_not_sampled_is_not_exported() {
    for fast_path in PATHS {
        let (collector, options) = Collector::start().await;
        let backend = Backend::saying("x").await;
        let options = TraceOptions { share: 0.0, ..options };
        let proxy = Setup::to(&[backend.address]).fast_path(fast_path).observed(None, Some(options)).start().await;
        let told = async |headers: &str| {
            let request = format!("GET / HTTP/1.1\r\nhost: t\r\n{headers}connection: close\r\n\r\n");
            assert_eq!(proxy.send(&request).await.status, 200);
            let headers = backend.last_headers();
            let state = headers.get("tracestate").map(|state| state.to_str().unwrap().to_owned());
            (headers["traceparent"].to_str().unwrap().to_owned(), state)
        };
        let (made, state) = told("traceparent: 00-zz-00-01\r\ntracestate: v=1\r\n").await;
        assert!(made.len() == 55 && made.ends_with("-00") && state.is_none(), "{made} {state:?}");
        let (made, _) = told(&format!("traceparent: {PARENT}\r\ntraceparent: {PARENT}\r\n")).await;
        assert!(!made.contains(TRACE), "two contexts are none: {made}");
        let unsampled = PARENT.replace("-01", "-00");
        let (passed, state) = told(&format!("traceparent: {unsampled}\r\ntracestate: v=1\r\n")).await;
        assert_eq!((passed, state.as_deref()), (unsampled, Some("v=1")));
        // One that the client samples shows that nothing else was exported before.
        told(&format!("traceparent: {PARENT}\r\n")).await;
        assert_eq!(hex(&collector.spans(2).await[0].trace_id), TRACE);
    }
}

#[tokio::test]
async fn a_collector_that_is_away_costs_spans_and_no_requests() {
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let collector = collector::Collector::plain(format!("http://{gone}").parse().unwrap(), "edge");
    let options = TraceOptions { collector: collector.clone(), share: 1.0 };
    let backend = Backend::saying("x").await;
    let mut setup = Setup::to(&[backend.address]).observed(None, Some(options)).with_admin();
    setup.metrics = Some(MetricsOptions { collector, interval: Duration::from_millis(50) });
    let proxy = setup.start().await;
    assert_eq!(proxy.get("/").await.status, 200);
    counts(&proxy, "trimtab_proxy_spans_dropped_total 2").await;
    counts(&proxy, "trimtab_proxy_spans_exported_total 0").await;
    counts(&proxy, "trimtab_proxy_metrics_exports_total 0").await;
    eventually("it is tried again and again", || async {
        let failed = |line: &str| line.strip_prefix("trimtab_proxy_metrics_exports_failed_total ")?.parse::<f64>().ok();
        metrics(&proxy).await.lines().find_map(failed).is_some_and(|failed| failed >= 2.0)
    })
    .await;
    proxy.stop().await.unwrap();
}

#[tokio::test]
async fn rates_errors_and_durations_are_pushed_over_tls_to_a_collector_that_is_who_it_must_be() {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let pem = made.cert.pem();
    let identity = tonic::transport::Identity::from_pem(&pem, made.signing_key.serialize_pem());
    let tls = tonic::transport::ServerTlsConfig::new().identity(identity);
    let (found, port) = Collector::serve(tonic::transport::Server::builder().tls_config(tls).unwrap()).await;
    let uri: http::Uri = format!("https://localhost:{port}").parse().unwrap();
    let start = async |authorities: String| {
        let backend = failing_on_bad().await;
        let mut setup = Setup::to(&[backend.address]).with_admin();
        let collector = collector::Collector {
            uri: uri.clone(),
            authorities: Some(authorities.into_bytes()),
            service: "edge".into(),
        };
        setup.metrics = Some(MetricsOptions { collector, interval: Duration::from_millis(100) });
        (setup.start().await, backend)
    };
    let (proxy, _backend) = start(pem).await;
    for path in ["/", "/", "/bad"] {
        proxy.get(path).await;
    }
    let of = |attributes: &[KeyValue], key: &str| match attributes.iter().find(|known| known.key == key) {
        Some(KeyValue { value: Some(value), .. }) => value.value.clone(),
        _ => None,
    };
    let counted = |data: &Data, label: &str| {
        let Data::Sum(sum) = data else { panic!("{data:?}") };
        assert!(sum.is_monotonic && sum.aggregation_temporality == AggregationTemporality::Cumulative as i32);
        let mut counts = Vec::new();
        for point in &sum.data_points {
            assert_eq!(of(&point.attributes, "route"), string("test/route"));
            assert_eq!(of(&point.attributes, "backend"), string(BACKEND));
            assert!(point.start_time_unix_nano < point.time_unix_nano);
            let Some(number_data_point::Value::AsInt(count)) = point.value else { panic!("{point:?}") };
            let Some(Value::StringValue(value)) = of(&point.attributes, label) else { panic!("{point:?}") };
            counts.push((value, count));
        }
        counts
    };
    let pairs =
        |pairs: &[(&str, i64)]| pairs.iter().map(|(value, count)| ((*value).to_owned(), *count)).collect::<Vec<_>>();
    let all = pairs(&[("2xx", 2), ("5xx", 1)]);
    let name = |name: &str| format!("trimtab.proxy.route.{name}");
    found.metric(&name("requests"), |data| counted(data, "status") == all).await;
    found.metric(&name("errors"), |data| counted(data, "blame") == pairs(&[("upstream", 1)])).await;
    let Data::Histogram(durations) = found.metric(&name("duration"), |_| true).await else { panic!("no histogram") };
    let point = &durations.data_points[0];
    assert_eq!((point.count, point.bucket_counts.iter().sum::<u64>()), (3, 3));
    assert_eq!(point.bucket_counts.len(), point.explicit_bounds.len() + 1);
    assert!(point.sum.is_some_and(|sum| sum > 0.0));
    // What came since the last message goes out before the end.
    proxy.get("/").await;
    proxy.stop().await.unwrap();
    found.metric(&name("requests"), |data| counted(data, "status") == pairs(&[("2xx", 3), ("5xx", 1)])).await;
    // Somebody else of that name gets nothing.
    let before = found.1.lock().unwrap().len();
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (proxy, _backend) = start(other.cert.pem()).await;
    proxy.get("/").await;
    eventually("it is not believed", || async {
        !metrics(&proxy).await.contains("trimtab_proxy_metrics_exports_failed_total 0\n")
    })
    .await;
    assert_eq!(found.1.lock().unwrap().len(), before);
}
