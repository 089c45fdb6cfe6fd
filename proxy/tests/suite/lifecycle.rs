//! Configuration that comes, changes and goes; draining; what the proxy tells.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use tokio::{io::AsyncReadExt, net::TcpStream};
use trimtab_proxy::{Controller, ProxyOptions, api, api::v1, clock};

use crate::harness::{
    Answer, Backend, FakeController, Proxy, Raw, Setup, eventually,
    proxy::{self, BACKEND, LISTENER},
    text,
};

async fn slow(delay: Duration) -> Backend {
    Backend::new(move |_| async move {
        tokio::time::sleep(delay).await;
        text("done")
    })
    .await
}

#[tokio::test]
async fn a_request_in_flight_outlives_the_shutdown() {
    let backend = slow(Duration::from_millis(500)).await;
    let proxy = Setup::to(&[backend.address]).start().await;
    let mut raw = proxy.raw().await;
    raw.write("GET / HTTP/1.1\r\nhost: t\r\n\r\n").await;
    eventually("it is inside", || async { backend.inside() == 1 }).await;
    let stopped = tokio::spawn(proxy.stop());
    let answer = raw.answer().await;
    assert_eq!((answer.body.as_str(), answer.header("connection")), ("done", Some("close")));
    raw.is_closed().await;
    stopped.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_shutdown_does_not_wait_longer_than_it_is_told_to() {
    let backend = slow(Duration::from_secs(60)).await;
    let proxy = Setup::to(&[backend.address]).drain_timeout(Duration::from_millis(300)).start().await;
    let mut raw = proxy.raw().await;
    raw.write("GET / HTTP/1.1\r\nhost: t\r\n\r\n").await;
    eventually("it is inside", || async { backend.inside() == 1 }).await;
    let began = clock::now();
    proxy.stop().await.unwrap();
    assert!(clock::now().since(began) < Duration::from_secs(3));
    assert!(raw.rest().await.0.is_empty());
}

/// Sends requests until the connection or the listener is gone. Counts those that were sent and got no answer.
async fn load(address: std::net::SocketAddr, keep_alive: bool, answered: Arc<AtomicUsize>, lost: Arc<AtomicUsize>) {
    loop {
        let Ok(stream) = TcpStream::connect(address).await else { return };
        let _ = stream.set_nodelay(true);
        let mut raw = Raw::over(stream);
        loop {
            if raw.try_write("GET / HTTP/1.1\r\nhost: t\r\n\r\n").await.is_err() {
                lost.fetch_add(1, SeqCst);
                return;
            }
            let Some(answer) = raw.try_answer().await else {
                lost.fetch_add(1, SeqCst);
                return;
            };
            assert_eq!(answer.status, 200);
            answered.fetch_add(1, SeqCst);
            if answer.header("connection") == Some("close") || !keep_alive {
                break;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_under_load_loses_no_request() {
    let backend = slow(Duration::from_millis(5)).await;
    let proxy = Setup::to(&[backend.address]).start().await;
    let (answered, lost) = <(Arc<AtomicUsize>, Arc<AtomicUsize>)>::default();
    let clients: Vec<_> =
        (0..24).map(|n| tokio::spawn(load(proxy.address(), n % 2 == 0, answered.clone(), lost.clone()))).collect();
    eventually("there is load", || async { answered.load(SeqCst) > 500 }).await;
    proxy.stop().await.unwrap();
    for client in clients {
        client.await.unwrap();
    }
    // A client that had just connected when the socket closed sent nothing that was accepted; the kernel resets it.
    let lost = lost.load(SeqCst);
    assert!(lost <= 1, "{lost} requests were lost of {}", answered.load(SeqCst));
}

#[tokio::test]
async fn endpoints_come_and_go_without_failing_a_request() {
    let (old, new) = (slow(Duration::from_millis(1_000)).await, Backend::saying("new").await);
    let proxy = Setup::to(&[old.address]).start().await;
    let mut raw = proxy.raw().await;
    raw.write("GET / HTTP/1.1\r\nhost: t\r\n\r\n").await;
    eventually("it is inside", || async { old.inside() == 1 }).await;
    let mut changed = proxy::backend(BACKEND, &[new.address]);
    changed.endpoints[0].key = 2;
    proxy.controller.set_backend(&changed);
    eventually("it is applied", || async { proxy.controller.acknowledged(api::BACKEND_TYPE) == 2 }).await;
    assert_eq!(proxy.get("/").await.body, "new");
    assert_eq!(old.inside(), 1, "the request is still with the old endpoint");
    assert_eq!(raw.answer().await.body, "done");
    raw.write("GET / HTTP/1.1\r\nhost: t\r\n\r\n").await;
    assert_eq!(raw.answer().await.body, "new", "on the same connection");
}

#[tokio::test]
async fn a_listener_that_is_removed_stops_and_its_requests_finish() {
    let backend = slow(Duration::from_millis(300)).await;
    let proxy = Setup::to(&[backend.address]).start().await;
    let address = proxy.address();
    let mut raw = proxy.raw().await;
    raw.write("GET / HTTP/1.1\r\nhost: t\r\n\r\n").await;
    eventually("it is inside", || async { backend.inside() == 1 }).await;
    proxy.controller.remove_listener(LISTENER);
    eventually("the port is closed", || async { TcpStream::connect(address).await.is_err() }).await;
    assert_eq!(raw.answer().await.body, "done");
    assert!(proxy.status.borrow().ready, "it has all that there is to have");
}

#[tokio::test]
async fn a_port_in_use_is_refused_by_name_and_the_others_serve() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let backend = Backend::saying("x").await;
    let proxy = Setup::to(&[backend.address]).start().await;
    let address = taken.local_addr().unwrap();
    let listener = v1::Listener {
        name: "test/gateway/taken".into(),
        address: address.ip().to_string(),
        port: u32::from(address.port()),
        ..Default::default()
    };
    proxy.controller.set_listener(&listener);
    eventually("it is refused", || async { !proxy.controller.refusals().is_empty() }).await;
    assert_eq!(
        proxy.controller.refusals(),
        [format!("Listener test/gateway/taken: port: cannot listen on {address}: already in use")]
    );
    assert_eq!(proxy.get("/").await.body, "x");
    drop(taken);
    eventually("it is bound once the port is free", || async {
        proxy.status.borrow().address("test/gateway/taken") == Some(address)
    })
    .await;
}

#[tokio::test]
async fn a_resource_that_does_not_hold_is_refused_and_the_last_good_one_stands() {
    let backend = Backend::saying("good").await;
    let proxy = Setup::to(&[backend.address]).start().await;
    let mut bad = proxy::backend(BACKEND, &[backend.address]);
    bad.endpoints[0].port = 0;
    proxy.controller.set_backend(&bad);
    eventually("it is refused", || async { !proxy.controller.refusals().is_empty() }).await;
    assert_eq!(proxy.controller.refusals(), ["Backend test/web:80: endpoints[0].port: 0 is not a port: 1..=65535"]);
    assert_eq!(proxy.get("/").await.body, "good");
}

#[tokio::test]
async fn weights_are_applied_and_those_of_another_generation_are_not() {
    let (a, b) = (Backend::saying("a").await, Backend::saying("b").await);
    let weighted = |backend: &mut v1::Backend| backend.algorithm = v1::Algorithm::WeightedRoundRobin.into();
    let setup = Setup::to(&[a.address, b.address]).backend(weighted);
    let generation = setup.backends[0].generation;
    let proxy = setup.start().await;
    let parameters = v1::RuleParameters {
        exponent: 3.0,
        offset: 1.0,
        latency_exponent: 1.0,
        latency_reference_ms: 10.0,
        error_exponent: 12.0,
        ..Default::default()
    };
    let mut table = v1::WeightTable {
        backend: BACKEND.into(),
        generation: generation + 1,
        tick: 1,
        weights: vec![1.0, 9.0],
        parameters: Some(parameters),
        proxies: 1,
        ..Default::default()
    };
    proxy.controller.set_weights(&table);
    eventually("the first is acknowledged", || async { proxy.controller.acknowledged(api::WEIGHT_TABLE_TYPE) == 1 })
        .await;
    let share_of_b = async || {
        let mut count = 0;
        for _ in 0..40 {
            count += usize::from(proxy.get("/").await.body == "b");
        }
        count
    };
    assert_eq!(share_of_b().await, 20);
    table.generation = generation;
    proxy.controller.set_weights(&table);
    eventually("the second is acknowledged", || async { proxy.controller.acknowledged(api::WEIGHT_TABLE_TYPE) == 2 })
        .await;
    assert!((35..=37).contains(&share_of_b().await));
    assert_eq!(proxy.controller.refusals(), [""; 0]);
}

#[tokio::test]
async fn the_last_table_stands_when_the_controller_goes_and_is_named_when_it_returns() {
    let backend = Backend::saying("still").await;
    let setup = Setup::to(&[backend.address]);
    let controller = FakeController::default();
    controller.set_backend(&setup.backends[0]);
    controller.set_listener(&setup.listener);
    controller.set_route(&setup.route);
    let (streams, mut incoming) = tokio::sync::mpsc::channel(4);
    let mut options = ProxyOptions::new("p", Controller::InProcess(streams));
    options.workers = 1;
    let mut status = options.status.subscribe();
    let shutdown = tokio_util::sync::CancellationToken::new();
    let running = tokio::spawn(trimtab_proxy::run(options, shutdown.clone()));

    let first = controller.serve_one(incoming.recv().await.unwrap());
    status.wait_for(|status| status.ready).await.unwrap();
    let address = status.borrow().address(LISTENER).unwrap();
    let get = async || {
        let mut raw = Raw::connect(address).await;
        raw.write("GET / HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n").await;
        raw.answer().await.body
    };
    eventually("it serves", || async { get().await == "still" }).await;
    first.abort();
    status.wait_for(|status| !status.connected).await.unwrap();
    assert_eq!(get().await, "still");
    controller.requests.lock().unwrap().clear();
    let _second = controller.serve_one(incoming.recv().await.unwrap());
    status.wait_for(|status| status.connected).await.unwrap();
    eventually("it says what it has", || async {
        let requests = controller.requests.lock().unwrap();
        requests.iter().any(|r| r.type_url == api::BACKEND_TYPE && r.initial_resource_versions.contains_key(BACKEND))
    })
    .await;
    shutdown.cancel();
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn the_controller_is_told_loads_errors_and_samples() {
    let backend = Backend::new(|request| async move {
        let mut response = text("x");
        if request.uri().path() == "/bad" {
            *response.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR;
        }
        response
    })
    .await;
    let proxy = Setup::to(&[backend.address]).start().await;
    eventually("samples are wanted", || async {
        proxy.get("/ok").await;
        !proxy.controller.samples().is_empty()
    })
    .await;
    proxy.get("/bad").await;
    let totals = || {
        let loads = proxy.controller.loads();
        let endpoints = loads.iter().flat_map(|load| &load.backends).flat_map(|backend| &backend.endpoints);
        endpoints.fold((0, 0), |(good, bad), e| (good + e.successes, bad + e.errors))
    };
    eventually("all requests are reported", || async { totals() == (backend.requests() as u64 - 1, 1) }).await;
    eventually("the error is reported", || async {
        let reports = proxy.controller.reports.lock().unwrap();
        reports
            .iter()
            .any(|r| matches!(&r.kind, Some(v1::telemetry_request::Kind::Errors(e)) if e.backends[0].failures == [1]))
    })
    .await;
    eventually("the error is sampled", || async { proxy.controller.samples().iter().any(|s| s.status == 500) }).await;
    let sample = proxy.controller.samples().into_iter().find(|s| s.status == 500).unwrap();
    assert_eq!(
        (sample.route.as_str(), sample.method.as_str(), sample.backend.as_str()),
        ("test/route", "GET", BACKEND)
    );
    assert_eq!((sample.endpoint, sample.attempts, sample.response_bytes), (1, 1, 1));
    let first = proxy.controller.reports.lock().unwrap()[0].clone();
    assert_eq!(first.proxy_id, "proxy-under-test");
}

async fn admin(proxy: &Proxy, path: &str) -> Answer {
    let mut raw = Raw::connect(proxy.admin_address()).await;
    raw.write(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")).await;
    raw.answer().await
}

#[tokio::test]
async fn the_admin_endpoint_shows_health_metrics_and_the_table() {
    let backend = Backend::saying("x").await;
    let proxy = Setup::to(&[backend.address]).with_admin().start().await;
    for _ in 0..3 {
        proxy.get("/").await;
    }
    proxy.send("GET / HTTP/1.1\r\n\r\n").await;
    assert_eq!(admin(&proxy, "/healthz").await.body, "ok\n");
    assert_eq!(admin(&proxy, "/readyz").await.status, 200);
    for line in [
        "trimtab_proxy_requests_total{status=\"2xx\"} 3",
        "trimtab_proxy_rejected_requests_total{reason=\"bad_request\"} 1",
        "trimtab_proxy_endpoint_requests_total{backend=\"test/web:80\",endpoint=\"pod-1\",outcome=\"success\"} 3",
        "trimtab_proxy_backend_latency_seconds_count{backend=\"test/web:80\"} 3",
        "trimtab_proxy_backend_latency_seconds_bucket{le=\"+Inf\",backend=\"test/web:80\"} 3",
        "trimtab_proxy_listener_up{listener=\"test/gateway/http\"} 1.0",
    ] {
        // A request is counted once it is over, which its client may know first.
        eventually(line, async || admin(&proxy, "/metrics").await.body.lines().any(|found| found == line)).await;
    }
    let config: serde_json::Value = serde_json::from_str(&admin(&proxy, "/config").await.body).unwrap();
    assert_eq!(config["backends"][0]["endpoints"][0]["address"], backend.address.to_string());
    assert_eq!(config["listeners"][0]["address"], proxy.address().to_string());
    let one: serde_json::Value = serde_json::from_str(&admin(&proxy, "/endpoints/pod-1").await.body).unwrap();
    assert_eq!(one[0]["endpoint"]["address"], backend.address.to_string());
    assert_eq!(admin(&proxy, "/endpoints/pod-2").await.status, 404);
}

#[tokio::test]
async fn a_proxy_without_a_table_is_alive_and_not_ready() {
    let proxy = Proxy::start_with(FakeController::default(), |options| {
        options.workers = 1;
        options.admin = Some("127.0.0.1:0".parse().unwrap());
    });
    eventually("it is up", || async { proxy.status.borrow().admin.is_some() }).await;
    assert_eq!(admin(&proxy, "/healthz").await.status, 200);
    assert_eq!(admin(&proxy, "/readyz").await.status, 503);
    proxy.stop().await.unwrap();
}

#[tokio::test]
async fn options_that_make_no_sense_are_refused_by_name() {
    let (controller, _streams) = Controller::in_process();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let options = |change: &dyn Fn(&mut ProxyOptions)| {
        let mut options = ProxyOptions::new("p", controller.clone());
        change(&mut options);
        trimtab_proxy::run(options, tokio_util::sync::CancellationToken::new())
    };
    let error = options(&|o| o.workers = 0).await.unwrap_err().to_string();
    assert!(error.starts_with("workers:"), "{error}");
    let error = options(&|o| o.id.clear()).await.unwrap_err().to_string();
    assert!(error.starts_with("id:"), "{error}");
    let address = taken.local_addr().unwrap();
    let error = options(&|o| o.admin = Some(address)).await.unwrap_err().to_string();
    assert!(error.starts_with(&format!("admin: cannot listen on {address}")), "{error}");
}

#[tokio::test]
async fn a_client_that_is_idle_does_not_hold_up_the_shutdown() {
    let backend = Backend::saying("x").await;
    let proxy = Setup::to(&[backend.address]).drain_timeout(Duration::from_secs(20)).start().await;
    let mut idle = proxy.raw().await;
    idle.write("GET / HTTP/1.1\r\nhost: t\r\n\r\n").await;
    assert_eq!(idle.answer().await.status, 200);
    let mut fresh = proxy.raw().await;
    let began = clock::now();
    proxy.stop().await.unwrap();
    assert!(clock::now().since(began) < Duration::from_secs(5), "{:?}", clock::now().since(began));
    let mut byte = [0];
    assert_eq!(fresh.stream.read(&mut byte).await.unwrap_or(0), 0);
}

#[tokio::test]
async fn a_backend_that_is_removed_is_answered_500() {
    let backend = Backend::saying("x").await;
    let proxy = Setup::to(&[backend.address]).start().await;
    assert_eq!(proxy.get("/").await.status, 200);
    proxy.controller.remove_backend(BACKEND);
    eventually("it is gone", || async { proxy.get("/").await.reason() == Some("unresolved_backend") }).await;
    assert_eq!(proxy.get("/").await.status, 500);
}
