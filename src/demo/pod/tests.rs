use std::ops::Range;
use std::sync::Arc;

use super::*;
use crate::demo::arrivals::RateProfile;
use crate::demo::faults::ErrorFault;
use crate::demo::kinds::{Asks, Kind};
use crate::demo::load::{self, LoadOptions};
use crate::demo::score::{Outcome, Recorder, Score};

fn fast_pod() -> PodSpec {
    PodSpec { workers: 4, service: ServiceTime::Constant { ms_mean: 20.0 }, ..PodSpec::default() }
}

/// Sends `rps` for half a second to one pod and tells how it went; 100 ms is good.
async fn score(pod: &Pod, rps: f64) -> Score {
    score_at(pod, "/", rps).await
}

async fn score_at(pod: &Pod, path: &str, rps: f64) -> Score {
    let length = Duration::from_millis(500);
    let whole: Range<Duration> = Duration::ZERO..length;
    let recorder = Arc::new(Recorder::new(Duration::from_millis(100), vec![whole]));
    let options = LoadOptions {
        targets: vec![pod.address()],
        asks: Asks::Path(path.to_owned()),
        profile: RateProfile::constant(rps, length),
        seed: 11,
        timeout: Duration::from_millis(800),
    };
    load::run(options, Arc::clone(&recorder), clock::now(), CancellationToken::new()).await.unwrap();
    assert_eq!(recorder.in_flight(), 0, "every request has an outcome");
    recorder.scores().remove(0)
}

async fn metrics(pod: &Pod) -> String {
    let mut stream = TcpStream::connect(pod.address()).await.unwrap();
    let mut text = String::new();
    tokio::io::AsyncWriteExt::write_all(&mut stream, b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut text).await.unwrap();
    text
}

#[tokio::test]
async fn a_pod_below_its_capacity_answers_in_its_service_time() {
    let pod = Pod::start(fast_pod()).await.unwrap();
    let score = score(&pod, 60.0).await;
    assert_eq!(score.errors(), 0);
    let p50 = score.latency_ms(0.5).unwrap();
    assert!((19.0..40.0).contains(&p50), "p50 {p50} ms");
}

#[tokio::test]
async fn a_fast_pod_is_as_much_faster_as_its_speed_says() {
    let pod = Pod::start(PodSpec { speed: 4.0, service: ServiceTime::Constant { ms_mean: 160.0 }, ..fast_pod() })
        .await
        .unwrap();
    assert!((pod.spec().capacity_rps() - 100.0).abs() < 1e-9);
    let p50 = score(&pod, 40.0).await.latency_ms(0.5).unwrap();
    assert!((39.0..60.0).contains(&p50), "p50 {p50} ms");
}

#[tokio::test]
async fn a_kind_of_request_takes_its_own_time_and_answers_say_how_long_it_was_inside() {
    let kind = |path: &str, ms_mean| Kind { path: path.into(), service: ServiceTime::Constant { ms_mean } };
    let kinds = vec![kind("/c0/users/", 40.0), kind("/c1/users/", 80.0)];
    let pod = Pod::start(PodSpec { speed: 2.0, kinds, ..fast_pod() }).await.unwrap();
    for (path, ms) in [("/c0/users/5", 20.0), ("/c1/users/5", 40.0), ("/", 10.0)] {
        let score = score_at(&pod, path, 20.0).await;
        let (p50, outside) = (score.latency_ms(0.5).unwrap(), score.outside_ms(0.5).unwrap());
        assert!((ms - 1.0..ms + 30.0).contains(&p50), "{path}: p50 {p50} ms");
        assert!(outside < p50 - ms + 2.0, "{path}: {outside} of {p50} ms outside");
    }
}

#[tokio::test]
async fn a_full_queue_is_answered_503() {
    let spec = PodSpec { workers: 1, queue_limit: 2, ..fast_pod() };
    let pod = Pod::start(spec).await.unwrap();
    let score = score(&pod, 400.0).await;
    assert!(score.count(Outcome::Shed) > 100, "{} of {} shed", score.count(Outcome::Shed), score.requests());
    assert!(score.count(Outcome::Good) >= 15, "{} good", score.count(Outcome::Good));
    assert_eq!(pod.in_flight(), 0);
}

#[tokio::test]
async fn a_gray_pod_fails_fast_and_a_failing_one_slowly() {
    let pod = Pod::start(fast_pod()).await.unwrap();
    pod.set_faults(Faults::gray(1.0));
    let gray = score(&pod, 100.0).await;
    assert_eq!(gray.count(Outcome::ServerError), gray.requests());
    assert!(!metrics(&pod).await.contains("process_cpu_seconds_total 0.0\n# EOF"), "metrics are still there");

    pod.set_faults(Faults { errors: Some(ErrorFault { share: 0.5, fast: false }), ..Faults::default() });
    let slow = score(&pod, 100.0).await;
    let share = slow.count(Outcome::ServerError) as f64 / slow.requests() as f64;
    assert!((0.25..0.75).contains(&share), "{share} failed");
}

#[tokio::test]
async fn a_noisy_neighbour_slows_a_pod_until_it_leaves() {
    let pod = Pod::start(fast_pod()).await.unwrap();
    pod.set_faults(Faults::slow(3.0));
    let p50 = score(&pod, 20.0).await.latency_ms(0.5).unwrap();
    assert!((59.0..90.0).contains(&p50), "p50 {p50} ms");
    pod.set_faults(Faults::default());
    let p50 = score(&pod, 20.0).await.latency_ms(0.5).unwrap();
    assert!((19.0..40.0).contains(&p50), "p50 {p50} ms");
}

#[tokio::test]
async fn a_paused_pod_answers_nothing_and_goes_on_where_it_stood() {
    let pod = Pod::start(fast_pod()).await.unwrap();
    pod.set_faults(Faults { paused: true, ..Faults::default() });
    let paused = score(&pod, 20.0).await;
    assert_eq!(paused.count(Outcome::TimedOut), paused.requests());
    pod.set_faults(Faults::default());
    assert_eq!(score(&pod, 20.0).await.errors(), 0);
}

#[tokio::test]
async fn a_crashed_pod_refuses_and_a_restarted_one_serves_again() {
    let pod = Pod::start(fast_pod()).await.unwrap();
    let address = pod.address();
    assert_eq!(score(&pod, 40.0).await.errors(), 0);
    pod.crash().await;
    let crashed = score(&pod, 40.0).await;
    assert_eq!(crashed.count(Outcome::Failed), crashed.requests());
    pod.restart().await.unwrap();
    assert_eq!(pod.address(), address);
    assert_eq!(score(&pod, 40.0).await.errors(), 0);
}

#[tokio::test]
async fn a_crash_resets_requests_inside_and_a_drain_answers_them() {
    async fn one_request_while(pod: Arc<Pod>, ends: impl Future<Output = ()>) -> Score {
        let asking = tokio::spawn({
            let pod = Arc::clone(&pod);
            async move { score(&pod, 10.0).await }
        });
        tokio::time::sleep(Duration::from_millis(650)).await;
        ends.await;
        asking.await.unwrap()
    }
    let slow = PodSpec { service: ServiceTime::Constant { ms_mean: 700.0 }, workers: 20, ..PodSpec::default() };
    let crashing = Arc::new(Pod::start(slow.clone()).await.unwrap());
    let crashed = one_request_while(Arc::clone(&crashing), crashing.crash()).await;
    assert!(crashed.count(Outcome::Failed) > 0, "{:?}", crashed.summary(Duration::from_secs(1)));

    let draining = Arc::new(Pod::start(slow).await.unwrap());
    let drained = one_request_while(Arc::clone(&draining), draining.drain(Duration::from_secs(5))).await;
    assert_eq!(drained.errors(), 0, "{:?}", drained.summary(Duration::from_secs(1)));
}

#[tokio::test]
async fn a_cold_pod_is_slow_at_first() {
    let cold_start = Some(ColdStart { factor: 4.0, ramp_s: 3600.0 });
    let pod = Pod::start(PodSpec { cold_start, ..fast_pod() }).await.unwrap();
    let p50 = score(&pod, 20.0).await.latency_ms(0.5).unwrap();
    assert!((78.0..110.0).contains(&p50), "p50 {p50} ms");
}

#[tokio::test]
async fn metrics_count_what_happened() {
    let pod = Pod::start(fast_pod()).await.unwrap();
    let requests = score(&pod, 100.0).await.requests();
    let text = metrics(&pod).await;
    for line in [
        format!("http_requests_total{{code=\"200\"}} {requests}"),
        format!("http_request_duration_seconds_count {requests}"),
        "http_requests_in_flight 0".to_owned(),
        "http_workers_busy 0".to_owned(),
        "http_workers_limit 4".to_owned(),
        "process_start_time_seconds ".to_owned(),
        "process_cpu_seconds_total ".to_owned(),
    ] {
        assert!(text.contains(&line), "no {line:?} in\n{text}");
    }
}

#[tokio::test]
async fn a_specification_that_cannot_work_is_refused() {
    for spec in [
        PodSpec { workers: 0, ..fast_pod() },
        PodSpec { speed: 0.0, ..fast_pod() },
        PodSpec { speed: f64::NAN, ..fast_pod() },
        PodSpec { service: ServiceTime::Constant { ms_mean: -1.0 }, ..fast_pod() },
    ] {
        let problem = Pod::start(spec.clone()).await.map(|_| ()).unwrap_err();
        assert_eq!(problem.kind(), io::ErrorKind::InvalidInput, "{spec:?}");
    }
}
