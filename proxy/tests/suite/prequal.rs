//! Prequal's probes: real endpoints are asked, beside requests and for both request paths.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    time::Duration,
};

use http::{HeaderValue, StatusCode};
use trimtab_proxy::api::v1;

use crate::harness::{Backend, Proxy, Raw, Setup, eventually, text};

/// An endpoint that tells probes, and nobody else, how much it has inside; it can be told to fail them.
struct Pod {
    backend: Backend,
    in_flight: Arc<AtomicU32>,
    status: Arc<AtomicU32>,
}

impl Pod {
    async fn new(http2: bool, in_flight: u32) -> Self {
        let (in_flight, status) = (Arc::new(AtomicU32::new(in_flight)), Arc::new(AtomicU32::new(200)));
        let (told, failing) = (in_flight.clone(), status.clone());
        let answer = move |request: http::Request<hyper::body::Incoming>| {
            let (told, failing) = (told.clone(), failing.clone());
            async move {
                let mut answer = text("well");
                if request.uri().path() == "/load" {
                    // The probe itself is inside as well.
                    let load = format!("TEXT named_metrics.in_flight={}", told.load(SeqCst) + 1);
                    answer.headers_mut().insert("endpoint-load-metrics", HeaderValue::from_str(&load).unwrap());
                    *answer.status_mut() = StatusCode::from_u16(failing.load(SeqCst) as u16).unwrap();
                }
                answer
            }
        };
        let backend = if http2 { Backend::http2(answer).await } else { Backend::new(answer).await };
        Self { backend, in_flight, status }
    }

    /// Requests and probes that it got so far.
    fn got(&self) -> (usize, usize) {
        let seen = self.backend.seen.lock().unwrap();
        let probes = seen.iter().filter(|head| head.uri.path() == "/load").count();
        (seen.len() - probes, probes)
    }
}

fn setup(endpoints: &[SocketAddr], probes: Option<f32>) -> Setup {
    let mut setup = Setup::to(endpoints).with_admin().backend(|backend| {
        backend.algorithm = v1::Algorithm::Prequal.into();
        backend.balancing = Some(v1::Balancing { probes, probe_path: Some("/load".into()), ..Default::default() });
    });
    setup.workers = 1;
    setup
}

/// Requests one after the other, a little apart so that probes are back in time.
async fn requests(proxy: &Proxy, count: usize) {
    let mut raw = proxy.raw().await;
    for _ in 0..count {
        raw.write("GET / HTTP/1.1\r\nhost: t\r\n\r\n").await;
        assert_eq!(raw.answer().await.status, 200);
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
}

/// Probes by what became of them.
async fn counted(proxy: &Proxy, result: &str) -> u64 {
    let mut raw = Raw::connect(proxy.admin_address()).await;
    raw.write("GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await;
    let metrics = raw.answer().await.body;
    let name = format!("trimtab_proxy_backend_probes_total{{backend=\"test/web:80\",result=\"{result}\"}} ");
    let value = metrics.lines().find_map(|line| line.strip_prefix(&name));
    value.unwrap_or_else(|| panic!("{name} is not in\n{metrics}")).parse().unwrap()
}

#[tokio::test]
async fn requests_go_where_probes_find_little_load_and_follow_when_that_changes() {
    for (fast_path, http2) in [(true, false), (false, false), (true, true)] {
        let mut pods = Vec::new();
        for index in 0..6 {
            pods.push(Pod::new(http2, if index < 3 { 0 } else { 60 }).await);
        }
        let addresses: Vec<_> = pods.iter().map(|pod| pod.backend.address).collect();
        // At a quantile of 0 all but those with the least are hot, and the least loaded is taken.
        let proxy = setup(&addresses, None).fast_path(fast_path).backend(|backend| {
            backend.balancing.as_mut().unwrap().hot_quantile = Some(0.0);
            if http2 {
                backend.protocol = v1::Protocol::H2c.into();
            }
        });
        let proxy = proxy.start().await;
        let what = format!("fast path {fast_path}, http2 {http2}");
        // Of the next hundred requests, once probes know.
        let share = async |idle: std::ops::Range<usize>| {
            requests(&proxy, 20).await;
            let got = || pods[idle.clone()].iter().map(|pod| pod.got().0).sum::<usize>();
            let before = got();
            requests(&proxy, 100).await;
            got() - before
        };
        let idle = share(0..3).await;
        assert!(idle >= 80, "{idle} of 100 went to those that are idle: {what}");
        // It is the other way round now.
        pods.iter().enumerate().for_each(|(index, pod)| pod.in_flight.store(if index < 3 { 60 } else { 0 }, SeqCst));
        let idle = share(3..6).await;
        assert!(idle >= 80, "{idle} of 100 went to those that are idle now: {what}");
        // Three a request, sent beside it, over connections that are used again.
        let (asked, probes) = pods.iter().map(Pod::got).fold((0, 0), |sum, got| (sum.0 + got.0, sum.1 + got.1));
        assert_eq!(asked, 240, "{what}");
        assert!((600..=720).contains(&probes), "{probes} probes: {what}");
        let connections: usize = pods.iter().map(|pod| pod.backend.connections()).sum();
        assert!(connections <= 6 * 4, "{connections} connections: {what}");
        eventually("probes are counted", || async { counted(&proxy, "answered").await >= 600 }).await;
        let seen = pods[0].backend.seen.lock().unwrap();
        let probe = seen.iter().find(|head| head.uri.path() == "/load").unwrap();
        assert_eq!(
            (&probe.headers["user-agent"], &probe.headers["x-trimtab-probe"]),
            (&"trimtab-probe".parse().unwrap(), &"1".parse().unwrap())
        );
    }
}

#[tokio::test]
async fn endpoints_that_answer_no_probe_hold_nobody_up_and_are_asked_now_and_then() {
    let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    // It takes connections, and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (well, too) = (Pod::new(false, 0).await, Pod::new(false, 0).await);
    let failing = Pod::new(false, 0).await;
    failing.status.store(500, SeqCst);
    for fast_path in [true, false] {
        let silent = silent.local_addr().unwrap();
        let addresses = [dead, silent, well.backend.address, too.backend.address, failing.backend.address];
        let proxy = setup(&addresses, None).fast_path(fast_path).backend(|backend| {
            // Who says nothing to a request either is left alone after it.
            let once = Some(1);
            backend.outlier_detection =
                Some(v1::OutlierDetection { consecutive_gateway_failures: once, ..Default::default() });
            backend.retry =
                Some(v1::Retry { num_retries: Some(3), per_try_timeout_ms: Some(200), ..Default::default() });
        });
        let proxy = proxy.start().await;
        requests(&proxy, 150).await;
        eventually("failed probes are counted", || async { counted(&proxy, "failed").await >= 2 }).await;
        let (answered, failed, skipped) =
            (counted(&proxy, "answered").await, counted(&proxy, "failed").await, counted(&proxy, "skipped").await);
        // Two at a time, and none for a second after one has failed.
        assert!(failed <= 40, "{failed} failed, {answered} answered, {skipped} skipped");
        assert!(answered >= 50 && skipped >= 50, "{failed} failed, {answered} answered, {skipped} skipped");
    }
    let (good, bad) = (well.got().0 + too.got().0, failing.got().0);
    assert!(good > 4 * bad, "nobody speaks for who fails its probes: {bad} of {}", good + bad);
}

#[tokio::test]
async fn nobody_is_asked_where_no_probes_are_wanted_or_the_algorithm_is_another() {
    let pods = [Pod::new(false, 0).await, Pod::new(false, 0).await];
    let addresses = [pods[0].backend.address, pods[1].backend.address];
    let without = setup(&addresses, Some(0.0)).start().await;
    let another =
        setup(&addresses, None).backend(|backend| backend.algorithm = v1::Algorithm::LeastRequest.into()).start().await;
    requests(&without, 40).await;
    requests(&another, 40).await;
    let got = pods.iter().map(Pod::got).collect::<Vec<_>>();
    assert_eq!(got.iter().map(|got| got.1).sum::<usize>(), 0, "{got:?}");
    assert_eq!(counted(&without, "answered").await, 0);
    // A part of a probe a request.
    let some = setup(&addresses, Some(0.25)).start().await;
    requests(&some, 80).await;
    eventually("one for four requests", || async { pods.iter().map(|pod| pod.got().1).sum::<usize>() == 20 }).await;
}
