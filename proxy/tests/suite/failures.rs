//! Endpoints that fail, and clients that give up.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use http::{HeaderValue, StatusCode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use trimtab_proxy::{api::v1, clock};

use crate::harness::{Answer, Backend, Proxy, RawBackend, Setup, eventually, text};

/// An address on which nobody listens.
fn closed_port() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

/// Reads one request head.
async fn head_of(stream: &mut TcpStream) -> bool {
    let mut seen = Vec::new();
    while !seen.windows(4).any(|w| w == b"\r\n\r\n") {
        if stream.read_buf(&mut seen).await.unwrap_or(0) == 0 {
            return false;
        }
    }
    true
}

/// A backend that writes this to every request, and closes.
async fn writing(bytes: &'static [u8]) -> RawBackend {
    RawBackend::new(move |mut stream, _| async move {
        head_of(&mut stream).await;
        let _ = stream.write_all(bytes).await;
    })
    .await
}

#[track_caller]
fn check(answer: &Answer, status: u16, reason: &str) {
    assert_eq!((answer.status, answer.reason()), (status, Some(reason)), "{answer:?}");
    assert_eq!(answer.header("server"), Some("trimtab"));
    assert!(answer.body.ends_with('\n') && answer.body.len() < 200, "{:?}", answer.body);
}

#[tokio::test]
async fn an_endpoint_that_is_not_there_is_answered_502() {
    let proxy = Setup::to(&[closed_port()]).start().await;
    check(&proxy.get("/").await, 502, "connect_failed");
}

#[tokio::test]
async fn an_endpoint_that_answers_garbage_is_answered_502() {
    for garbage in
        [&b"\x16\x03\x01 what\r\n\r\n"[..], b"HTTP/1.1 abc\r\n\r\n", b"HTTP/1.1 200 OK\r\nbad header\r\n\r\n"]
    {
        let backend = writing(garbage).await;
        let proxy = Setup::to(&[backend.address]).start().await;
        check(&proxy.get("/").await, 502, "upstream_protocol_error");
    }
}

#[tokio::test]
async fn an_endpoint_that_closes_without_an_answer_is_answered_502() {
    let backend = writing(b"").await;
    let proxy = Setup::to(&[backend.address]).start().await;
    check(&proxy.get("/").await, 502, "upstream_reset");
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_not_ended_cleanly() {
    let chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n";
    let sized = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhello";
    for partial in [&chunked[..], sized] {
        let backend = writing(partial).await;
        let proxy = Setup::to(&[backend.address]).start().await;
        for version in ["1.1", "1.0"] {
            let mut raw = proxy.raw().await;
            raw.write(format!("GET / HTTP/{version}\r\nhost: t\r\n\r\n")).await;
            let (rest, clean) = raw.rest().await;
            let rest = String::from_utf8_lossy(&rest);
            assert!(!clean, "HTTP/{version}: {rest:?} ended cleanly");
            assert!(!rest.contains("0\r\n\r\n"));
        }
    }
}

#[tokio::test]
async fn a_request_that_reached_no_endpoint_is_tried_on_another() {
    let backend = Backend::saying("alive").await;
    let proxy = Setup::to(&[closed_port(), backend.address]).start().await;
    for _ in 0..10 {
        let answer = proxy.send("POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 2\r\n\r\nhi").await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "alive"));
    }
}

#[tokio::test]
async fn a_retry_can_be_switched_off() {
    let backend = Backend::saying("alive").await;
    let retry = Some(v1::Retry { num_retries: Some(0), ..Default::default() });
    let detection = Some(v1::OutlierDetection { disabled: true, ..Default::default() });
    let setup =
        Setup::to(&[closed_port(), backend.address]).backend(|b| (b.retry, b.outlier_detection) = (retry, detection));
    let proxy = setup.start().await;
    let mut statuses = Vec::new();
    for _ in 0..4 {
        statuses.push(proxy.get("/").await.status);
    }
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 502, 502]);
}

#[tokio::test]
async fn a_request_that_reached_an_endpoint_is_not_repeated() {
    let requests = Arc::new(AtomicUsize::new(0));
    let counted = requests.clone();
    let backend = RawBackend::new(move |mut stream, _| {
        let counted = counted.clone();
        async move {
            if head_of(&mut stream).await {
                counted.fetch_add(1, SeqCst);
            }
        }
    })
    .await;
    let proxy = Setup::to(&[backend.address, backend.address]).start().await;
    check(&proxy.send("POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 0\r\n\r\n").await, 502, "upstream_reset");
    assert_eq!(requests.load(SeqCst), 1);
}

#[tokio::test]
async fn a_pooled_connection_that_the_endpoint_closed_costs_no_request() {
    let backend = RawBackend::new(|mut stream, _| async move {
        // One answer a connection, without saying so.
        head_of(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    })
    .await;
    let proxy = Setup::to(&[backend.address]).start().await;
    let mut raw = proxy.raw().await;
    for method in ["GET", "POST", "GET", "POST", "GET"] {
        raw.write(format!("{method} / HTTP/1.1\r\nhost: t\r\ncontent-length: 0\r\n\r\n")).await;
        let answer = raw.answer().await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "ok"));
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
}

async fn slow_backend(delay: Duration) -> Backend {
    Backend::new(move |_| async move {
        tokio::time::sleep(delay).await;
        text("late")
    })
    .await
}

#[tokio::test]
async fn a_request_whose_time_is_up_is_answered_504() {
    let backend = slow_backend(Duration::from_secs(30)).await;
    for change in [(|rule: &mut v1::RouteRule| rule.request_timeout_ms = Some(200)) as fn(&mut v1::RouteRule), |rule| {
        rule.backend_request_timeout_ms = Some(200)
    }] {
        let proxy = Setup::to(&[backend.address]).rule(change).start().await;
        let began = clock::now();
        check(&proxy.get("/").await, 504, "upstream_timeout");
        assert!((0.2..2.0).contains(&clock::now().since(began).as_secs_f64()), "{:?}", clock::now().since(began));
        eventually("the endpoint is rid of the request", || async { backend.inside() == 0 }).await;
    }
}

#[tokio::test]
async fn an_answer_whose_time_is_up_is_cut_off() {
    let backend = RawBackend::new(|mut stream, _| async move {
        head_of(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhello").await;
        tokio::time::sleep(Duration::from_secs(30)).await;
    })
    .await;
    let proxy = Setup::to(&[backend.address]).rule(|rule| rule.request_timeout_ms = Some(300)).start().await;
    let mut raw = proxy.raw().await;
    raw.write("GET / HTTP/1.1\r\nhost: t\r\n\r\n").await;
    let (rest, clean) = raw.rest().await;
    assert!(rest.ends_with(b"hello") && !clean);
}

/// Waits until some of what `count` counts is reported; nothing is held against an endpoint.
async fn reported_without_blame(proxy: &Proxy, count: fn(&v1::EndpointLoad) -> u64) {
    eventually("it is reported", || async {
        let loads = proxy.controller.loads();
        let endpoints = || loads.iter().flat_map(|load| &load.backends).flat_map(|backend| &backend.endpoints);
        assert!(endpoints().all(|endpoint| endpoint.failures == 0 && endpoint.errors == 0));
        endpoints().any(|endpoint| count(endpoint) > 0)
    })
    .await;
}

#[tokio::test]
async fn an_upload_that_stops_is_answered_408() {
    let backend = Backend::new(|request| async move {
        use http_body_util::BodyExt;
        let _ = request.into_body().collect().await;
        text("all")
    })
    .await;
    // Whichever limit it meets, what counts is whose turn it is: endpoints are not ejected for what clients do not send.
    for change in [(|rule: &mut v1::RouteRule| rule.request_timeout_ms = Some(300)) as fn(&mut v1::RouteRule), |rule| {
        rule.backend_request_timeout_ms = Some(300)
    }] {
        for fast_path in [true, false] {
            let proxy = Setup::to(&[backend.address]).fast_path(fast_path).rule(change).start().await;
            let answer = proxy.send("POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 10\r\n\r\nhello").await;
            check(&answer, 408, "request_timeout");
            reported_without_blame(&proxy, |endpoint| endpoint.cancelled).await;
        }
    }
}

#[tokio::test]
async fn an_upload_that_stops_after_the_answer_began_is_not_held_against_the_endpoint() {
    let backend = RawBackend::new(|mut stream, _| async move {
        head_of(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhello").await;
        tokio::time::sleep(Duration::from_secs(30)).await;
    })
    .await;
    for fast_path in [true, false] {
        let setup = Setup::to(&[backend.address]).fast_path(fast_path);
        let proxy = setup.rule(|rule| rule.request_timeout_ms = Some(300)).start().await;
        let mut raw = proxy.raw().await;
        raw.write("POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 10\r\n\r\nhello").await;
        let (rest, clean) = raw.rest().await;
        assert!(rest.ends_with(b"hello") && !clean);
        reported_without_blame(&proxy, |endpoint| endpoint.cancelled).await;
    }
}

#[tokio::test]
async fn a_client_that_goes_within_its_body_is_gone_even_if_it_was_to_close_anyway() {
    let backend = Backend::new(|request| async move {
        use http_body_util::BodyExt;
        let _ = request.into_body().collect().await;
        text("all")
    })
    .await;
    for fast_path in [true, false] {
        let proxy = Setup::to(&[backend.address]).fast_path(fast_path).start().await;
        let mut raw = proxy.raw().await;
        raw.write("POST / HTTP/1.1\r\nhost: t\r\nconnection: close\r\ncontent-length: 10\r\n\r\nhello").await;
        eventually("the endpoint has begun", || async { backend.inside() == 1 }).await;
        let _ = raw.stream.shutdown().await;
        check(&raw.answer().await, 400, "client_gone");
        eventually("the endpoint is rid of it", || async { backend.inside() == 0 }).await;
    }
}

#[tokio::test]
async fn an_endpoint_that_does_not_accept_in_time_is_not_waited_for() {
    // A backlog of one that is full: further connections hang.
    let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    listener.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    listener.listen(0).unwrap();
    let hanging = listener.local_addr().unwrap().as_socket().unwrap();
    let mut fillers = Vec::new();
    for _ in 0..4 {
        fillers.push(tokio::time::timeout(Duration::from_millis(100), TcpStream::connect(hanging)).await);
    }
    let timeouts = Some(v1::BackendTimeouts { connect_timeout_ms: Some(200), ..Default::default() });
    let proxy = Setup::to(&[hanging]).backend(|b| b.timeouts = timeouts).start().await;
    let began = clock::now();
    check(&proxy.get("/").await, 502, "connect_failed");
    assert!(clock::now().since(began) < Duration::from_secs(3));
}

#[tokio::test]
async fn a_backend_without_endpoints_is_answered_503() {
    let proxy = Setup::to(&[]).start().await;
    check(&proxy.get("/").await, 503, "no_healthy_upstream");
}

#[tokio::test]
async fn an_endpoint_that_drains_gets_no_request() {
    let (a, b) = (Backend::saying("a").await, Backend::saying("b").await);
    let draining = |backend: &mut v1::Backend| backend.endpoints[0].state = v1::endpoint::State::Draining.into();
    let proxy = Setup::to(&[a.address, b.address]).backend(draining).start().await;
    for _ in 0..6 {
        assert_eq!(proxy.get("/").await.body, "b");
    }
}

/// In flight at the one endpoint, and cancelled so far, as the proxy reports it.
fn reported(proxy: &Proxy) -> (u32, u64) {
    let loads = proxy.controller.loads();
    let endpoints = || loads.iter().flat_map(|load| &load.backends).flat_map(|backend| &backend.endpoints);
    (endpoints().last().map_or(0, |e| e.in_flight), endpoints().map(|e| e.cancelled).sum())
}

#[tokio::test]
async fn a_client_that_gives_up_is_counted_out_at_once() {
    let backend = slow_backend(Duration::from_secs(30)).await;
    let proxy = Setup::to(&[backend.address]).start().await;
    let mut clients = Vec::new();
    for _ in 0..5 {
        let mut raw = proxy.raw().await;
        raw.write("GET / HTTP/1.1\r\nhost: t\r\n\r\n").await;
        clients.push(raw);
    }
    eventually("five are in flight", || async { reported(&proxy) == (5, 0) && backend.inside() == 5 }).await;
    clients.truncate(2);
    eventually("three were cancelled", || async { reported(&proxy) == (2, 3) && backend.inside() == 2 }).await;
    clients.clear();
    eventually("all were cancelled", || async { reported(&proxy) == (0, 5) && backend.inside() == 0 }).await;
}

#[tokio::test]
async fn an_endpoint_that_fails_is_ejected_and_tried_again() {
    let failing = Arc::new(AtomicBool::new(true));
    let fails = failing.clone();
    let bad = Backend::new(move |_| {
        let fails = fails.clone();
        async move {
            let mut response = text("bad");
            if fails.load(SeqCst) {
                *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            }
            response
        }
    })
    .await;
    let good = Backend::saying("good").await;
    let detection = v1::OutlierDetection {
        consecutive_5xx_errors: Some(3),
        base_ejection_time_ms: Some(300),
        ..Default::default()
    };
    let proxy =
        Setup::to(&[bad.address, good.address]).backend(|b| b.outlier_detection = Some(detection)).start().await;
    eventually("it is ejected", || async {
        proxy.get("/").await;
        let loads = proxy.controller.loads();
        loads.iter().flat_map(|load| &load.backends).any(|backend| backend.endpoints.iter().any(|e| e.ejected))
    })
    .await;
    let errors = bad.requests();
    for _ in 0..4 {
        assert_eq!(proxy.get("/").await.body, "good");
    }
    assert_eq!(bad.requests(), errors);
    failing.store(false, SeqCst);
    eventually("it is back", || async { proxy.get("/").await.body == "bad" }).await;
}

#[tokio::test]
async fn requests_beyond_the_circuit_breaker_are_turned_away() {
    let backend = slow_backend(Duration::from_millis(500)).await;
    let breaker = v1::CircuitBreaker { max_parallel_requests: Some(2), ..Default::default() };
    let proxy = Setup::to(&[backend.address]).backend(|b| b.circuit_breaker = Some(breaker)).start().await;
    let (mut first, mut second) = (proxy.raw().await, proxy.raw().await);
    first.write("GET / HTTP/1.1\r\nhost: t\r\n\r\n").await;
    second.write("GET / HTTP/1.1\r\nhost: t\r\n\r\n").await;
    eventually("two are inside", || async { backend.inside() == 2 }).await;
    let third = proxy.get("/").await;
    check(&third, 503, "max_parallel_requests");
    assert_eq!(third.header("retry-after"), Some("1"));
    assert_eq!((first.answer().await.status, second.answer().await.status), (200, 200));
    assert_eq!(proxy.get("/").await.status, 200);
}

#[tokio::test]
async fn what_an_overloaded_backend_cannot_answer_in_time_is_turned_away() {
    let backend = slow_backend(Duration::from_millis(60)).await;
    let proxy = Setup::to(&[backend.address])
        .backend(|b| {
            b.objective_ms = Some(30.0);
            b.admission_control = Some(v1::AdmissionControl { enabled: true, ..Default::default() });
        })
        .start()
        .await;
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let mut raw = proxy.raw().await;
        clients.spawn(async move {
            for _ in 0..200 {
                raw.write("GET / HTTP/1.1\r\nhost: t\r\n\r\n").await;
                let answer = raw.answer().await;
                if answer.status == 503 {
                    return Some(answer);
                }
            }
            None
        });
    }
    let shed = clients.join_next().await.unwrap().unwrap().expect("nothing was turned away");
    check(&shed, 503, "overload");
    assert_eq!(shed.header("retry-after"), Some("1"));
}

#[tokio::test]
async fn connections_beyond_the_circuit_breaker_are_not_opened() {
    let backend = slow_backend(Duration::from_millis(500)).await;
    let breaker = v1::CircuitBreaker { max_connections: Some(1), ..Default::default() };
    let mut setup = Setup::to(&[backend.address]).backend(|b| b.circuit_breaker = Some(breaker));
    setup.workers = 1;
    let proxy = setup.start().await;
    let mut first = proxy.raw().await;
    first.write("GET / HTTP/1.1\r\nhost: t\r\n\r\n").await;
    eventually("one is inside", || async { backend.inside() == 1 }).await;
    // As often as would be held against an endpoint, were it to blame.
    for _ in 0..6 {
        check(&proxy.get("/").await, 503, "max_connections");
    }
    assert_eq!(first.answer().await.status, 200);
    assert_eq!(proxy.get("/").await.status, 200, "the pooled connection is used again");
    assert_eq!(backend.connections(), 1);
    reported_without_blame(&proxy, |endpoint| endpoint.successes).await;
}

#[tokio::test]
async fn an_idle_connection_of_another_worker_gives_way_within_the_circuit_breaker() {
    let gate = Arc::new(tokio::sync::Notify::new());
    let backend = Backend::new({
        let gate = gate.clone();
        move |request| {
            let gate = gate.clone();
            async move {
                if request.uri().path() == "/slow" {
                    gate.notified().await;
                }
                text("x")
            }
        }
    })
    .await;
    let breaker = v1::CircuitBreaker { max_connections: Some(1), ..Default::default() };
    for fast_path in [true, false] {
        let mut setup = Setup::to(&[backend.address]).fast_path(fast_path);
        setup = setup.backend(|b| b.circuit_breaker = Some(breaker));
        setup.workers = 4;
        let proxy = setup.start().await;
        // Connections of their own, so that each worker gets some.
        for number in 0..40 {
            let answer = proxy.get("/").await;
            assert_eq!(answer.status, 200, "request {number}: {:?}", answer.reason());
        }
        let mut busy = proxy.raw().await;
        busy.write("GET /slow HTTP/1.1\r\nhost: t\r\n\r\n").await;
        eventually("it is inside", || async { backend.inside() == 1 }).await;
        for _ in 0..8 {
            check(&proxy.get("/").await, 503, "max_connections");
        }
        gate.notify_one();
        assert_eq!(busy.answer().await.status, 200);
        eventually("there is room again", || async { proxy.get("/").await.status == 200 }).await;
    }
}

#[tokio::test]
async fn what_an_endpoint_says_of_its_load_steers_the_choice() {
    let full = Backend::new(|_| async {
        let mut response = text("full");
        response
            .headers_mut()
            .insert("endpoint-load-metrics", HeaderValue::from_static("TEXT named_metrics.in_flight=50"));
        response
    })
    .await;
    let free = Backend::new(|_| async {
        let mut response = text("free");
        response
            .headers_mut()
            .insert("endpoint-load-metrics", HeaderValue::from_static("TEXT named_metrics.in_flight=1"));
        response
    })
    .await;
    let adaptive = |backend: &mut v1::Backend| backend.algorithm = v1::Algorithm::Adaptive.into();
    let proxy = Setup::to(&[full.address, free.address]).backend(adaptive).start().await;
    for _ in 0..40 {
        proxy.get("/").await;
    }
    assert!(full.requests() <= 10, "{} of 40 went to the full endpoint", full.requests());
}
