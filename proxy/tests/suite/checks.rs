//! Active health checks: what is asked, and what becomes of endpoints that do not answer well.

use std::sync::{
    Arc,
    atomic::{AtomicU16, Ordering::SeqCst},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use trimtab_proxy::api::v1::{self, active_health_check::Kind};

use crate::harness::{Backend, Proxy, Setup, eventually, text};

/// Checks that come fast.
fn checks(kind: Kind) -> v1::ActiveHealthCheck {
    v1::ActiveHealthCheck {
        kind: kind.into(),
        interval_ms: Some(60),
        timeout_ms: Some(2_000),
        unhealthy_threshold: Some(2),
        healthy_threshold: Some(2),
        path: "/healthz".to_owned(),
        ..Default::default()
    }
}

fn checked(active: v1::ActiveHealthCheck) -> impl FnOnce(&mut v1::Backend) {
    move |backend| {
        backend.active_health_check = Some(active);
        backend.outlier_detection = Some(v1::OutlierDetection { disabled: true, ..Default::default() });
    }
}

/// Answers requests with its name, and checks with a status that can be set.
async fn pod(name: &'static str) -> (Backend, Arc<AtomicU16>) {
    let health = Arc::new(AtomicU16::new(200));
    let said = health.clone();
    let pod = Backend::new(move |request| {
        let said = said.clone();
        async move {
            let mut answer = text(name);
            if request.uri().path() == "/healthz" {
                *answer.status_mut() = StatusCode::from_u16(said.load(SeqCst)).unwrap();
            }
            answer
        }
    })
    .await;
    (pod, health)
}

/// Which pods answer ten requests.
async fn answering(proxy: &Proxy) -> String {
    let mut names: Vec<String> = Vec::new();
    for _ in 0..10 {
        names.push(proxy.get("/").await.body);
    }
    names.sort();
    names.dedup();
    names.concat()
}

/// Whether the proxy says of endpoint 1 that its checks fail with `reason`.
fn reported(proxy: &Proxy, reason: &str) -> bool {
    let loads = proxy.controller.loads();
    let backend = loads.last().and_then(|load| load.backends.first());
    let last = backend.and_then(|load| load.endpoints.iter().find(|endpoint| endpoint.key == 1));
    // An idle one of which there is nothing to say is left out.
    last.map_or_else(|| backend.is_some(), |endpoint| endpoint.failing_check.is_empty()) && reason.is_empty()
        || last.is_some_and(|endpoint| endpoint.failing_check == reason)
}

#[tokio::test]
async fn an_endpoint_that_fails_its_checks_gets_no_request_until_it_is_well_again() {
    for fast_path in [true, false] {
        let ((a, health), (b, _)) = (pod("a").await, pod("b").await);
        let setup = Setup::to(&[a.address, b.address]).fast_path(fast_path).backend(checked(checks(Kind::Http)));
        let proxy = setup.start().await;
        eventually("both answer", async || answering(&proxy).await == "ab").await;
        health.store(503, SeqCst);
        eventually("the sick one is out", async || answering(&proxy).await == "b").await;
        eventually("the controller is told why", async || reported(&proxy, "answered 503")).await;
        let requests = a.seen.lock().unwrap().iter().filter(|head| head.uri.path() == "/").count();
        assert_eq!(answering(&proxy).await, "b");
        let after = a.seen.lock().unwrap().iter().filter(|head| head.uri.path() == "/").count();
        assert_eq!(requests, after);
        health.store(200, SeqCst);
        eventually("it is back", async || answering(&proxy).await == "ab").await;
        eventually("the controller is told so", async || reported(&proxy, "")).await;
    }
}

#[tokio::test]
async fn with_too_few_healthy_endpoints_all_get_requests_unless_the_threshold_is_zero() {
    let ((a, health_a), (b, health_b)) = (pod("a").await, pod("b").await);
    health_a.store(500, SeqCst);
    health_b.store(500, SeqCst);
    let start = async |threshold: u32| {
        let active = v1::ActiveHealthCheck { panic_threshold: Some(threshold), ..checks(Kind::Http) };
        Setup::to(&[a.address, b.address]).backend(checked(active)).start().await
    };
    let proxy = start(50).await;
    eventually("the controller is told why", async || reported(&proxy, "answered 500")).await;
    eventually("all get requests", async || answering(&proxy).await == "ab").await;
    let strict = start(0).await;
    eventually("nobody is left", async || strict.get("/").await.reason() == Some("no_healthy_upstream")).await;
    health_b.store(200, SeqCst);
    eventually("one is", async || answering(&strict).await == "b").await;
    eventually("half is enough", async || answering(&proxy).await == "b").await;
}

#[tokio::test]
async fn a_check_asks_for_what_it_is_told_to_and_takes_the_statuses_that_it_is_told() {
    let (a, health) = pod("a").await;
    health.store(418, SeqCst);
    let active = v1::ActiveHealthCheck {
        hostname: "well.example.com".to_owned(),
        expected_statuses: vec![204, 418],
        panic_threshold: Some(0),
        ..checks(Kind::Http)
    };
    let proxy = Setup::to(&[a.address]).backend(checked(active)).start().await;
    eventually("it is asked", async || a.requests() > 2).await;
    assert_eq!(a.last_headers().get("host").unwrap(), "well.example.com");
    assert_eq!(proxy.get("/").await.status, 200);
}

#[tokio::test]
async fn a_port_that_nobody_listens_on_fails_a_tcp_check_and_one_that_hangs_a_check_by_http() {
    let (good, _) = pod("b").await;
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let proxy = Setup::to(&[gone, good.address]).backend(checked(checks(Kind::Tcp))).start().await;
    eventually("it is out", async || {
        let loads = proxy.controller.loads();
        let backend = loads.last().and_then(|load| load.backends.first());
        let last = backend.and_then(|load| load.endpoints.iter().find(|endpoint| endpoint.key == 1));
        last.is_some_and(|endpoint| endpoint.failing_check.starts_with("cannot connect"))
    })
    .await;
    let stuck = crate::harness::RawBackend::new(|stream, _| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    let active = v1::ActiveHealthCheck { timeout_ms: Some(50), ..checks(Kind::Http) };
    let proxy = Setup::to(&[stuck.address, good.address]).backend(checked(active)).start().await;
    eventually("it is out", async || reported(&proxy, "no answer within 50ms")).await;
    assert_eq!(answering(&proxy).await, "b");
}

/// A server of grpc.health.v1 that says this.
async fn grpc(status: u8, grpc_status: &'static str) -> Backend {
    Backend::http2(move |request| async move {
        if request.uri().path() != "/grpc.health.v1.Health/Check" {
            return text("grpc");
        }
        let asked = request.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(&asked[..], [&[0, 0, 0, 0, 6, 0x0a, 4][..], b"shop"].concat());
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static(grpc_status));
        let frames = [
            Ok::<_, std::convert::Infallible>(Frame::data(Bytes::copy_from_slice(&[0, 0, 0, 0, 2, 8, status]))),
            Ok(Frame::trailers(trailers)),
        ];
        let mut answer =
            text("").map(|_| StreamBody::new(futures_util::stream::iter(frames)).map_err(|e| match e {}).boxed());
        answer.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
        answer
    })
    .await
}

#[tokio::test]
async fn a_server_of_grpc_is_asked_by_its_health_protocol() {
    for (status, grpc_status, reason) in
        [(1, "0", ""), (2, "0", "says NOT_SERVING"), (1, "12", "answered with grpc-status 12")]
    {
        let server = grpc(status, grpc_status).await;
        let active = v1::ActiveHealthCheck { grpc_service: "shop".to_owned(), ..checks(Kind::Grpc) };
        let setup = Setup::to(&[server.address]).backend(|backend| backend.protocol = v1::Protocol::H2c.into());
        let proxy = setup.backend(checked(active)).start().await;
        eventually("it was asked", async || server.requests() > 1).await;
        eventually("it is reported", async || reported(&proxy, reason)).await;
    }
}
