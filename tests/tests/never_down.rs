//! The proxy as a service that does not go down: upgraded under load, and one of two killed. Real processes; the second test prints what it
//! measures (`cargo test --release --workspace --test never_down -- --nocapture`).
#![allow(clippy::disallowed_methods, reason = "tests of real processes run in real time")]

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use trimtab::demo::pod::{Pod, PodSpec};
use trimtab::demo::service_time::ServiceTime;
use trimtab_tests::http::{Client, eventually};
use trimtab_tests::process::Process;

const PATIENCE: Duration = Duration::from_secs(30);

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a socket").port()
}

/// A controller, two pods, and the address that its proxies listen on.
struct Site {
    grpc: u16,
    address: SocketAddr,
    _controller: Process,
    _pods: Vec<Pod>,
}

/// How requests are routed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Policy {
    /// By least request, which turns nobody away.
    Plain,
    /// As by default: admission control sheds what waits too long.
    Default,
}

impl Site {
    async fn start(policy: Policy) -> Self {
        let mut pods = Vec::new();
        for index in 0..2 {
            let service = ServiceTime::Exponential { ms_mean: 2.0 };
            let spec =
                PodSpec { name: format!("pod-{index}"), workers: 64, service, seed: index, ..PodSpec::default() };
            pods.push(Pod::start(spec).await.expect("a pod starts"));
        }
        let (grpc, listen) = (free_port(), free_port());
        let mut args: Vec<String> =
            ["controller", "--dashboard", "127.0.0.1:0", "--no-recordings"].map(String::from).into();
        match policy {
            Policy::Plain => args.extend(["--algorithm=least-request", "--mode=off"].map(String::from)),
            // Long, so that on a busy machine what is late for want of a processor is not overload.
            Policy::Default => args.push("--slo=1s".to_owned()),
        }
        args.extend([format!("--grpc=127.0.0.1:{grpc}"), format!("--listen=127.0.0.1:{listen}")]);
        args.extend(pods.iter().map(|pod| format!("--to={}", pod.address())));
        let controller = Process::start(args);
        controller.wait_for("proxies connect to");
        Self { grpc, address: ([127, 0, 0, 1], listen).into(), _controller: controller, _pods: pods }
    }

    fn proxy(&self, admin: &str, more: &[&str]) -> Process {
        let controller = format!("http://127.0.0.1:{}", self.grpc);
        Process::start(["proxy", "--workers", "2", "--admin", admin, "--controller", &controller].iter().chain(more))
    }
}

async fn ready(admin: SocketAddr) {
    let client = Client::default();
    let status = || async { client.get(admin, "/readyz").await.map_or(0, |answer| answer.status) };
    eventually("it is ready", PATIENCE, status, |status| *status == 200).await;
}

/// One request on a connection of its own.
#[derive(Debug, Clone, Copy)]
struct Sent {
    began: Instant,
    connected: Option<Instant>,
    answered: bool,
}

async fn send(address: SocketAddr) -> Sent {
    let began = Instant::now();
    let mut sent = Sent { began, connected: None, answered: false };
    let Ok(mut stream) = TcpStream::connect(address).await else { return sent };
    sent.connected = Some(Instant::now());
    let mut answer = Vec::new();
    let asked = stream.write_all(b"GET / HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n").await;
    sent.answered =
        asked.is_ok() && stream.read_to_end(&mut answer).await.is_ok() && answer.starts_with(b"HTTP/1.1 200");
    sent
}

/// Sends so many requests a second until told to stop, whatever becomes of those before.
async fn load(address: SocketAddr, per_s: u32, stop: Arc<AtomicBool>) -> Vec<Sent> {
    let mut requests = JoinSet::new();
    let running = Arc::new(AtomicUsize::new(0));
    let mut tick = tokio::time::interval(Duration::from_secs(1) / per_s);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
    while !stop.load(SeqCst) {
        tick.tick().await;
        // A machine that cannot keep up is not buried.
        if running.load(SeqCst) < 2_000 {
            running.fetch_add(1, SeqCst);
            let running = running.clone();
            requests.spawn(async move {
                let sent = send(address).await;
                running.fetch_sub(1, SeqCst);
                sent
            });
        }
    }
    requests.join_all().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_binary_that_is_replaced_twice_under_load_loses_nothing() {
    replaced_twice(Policy::Plain).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_binary_that_is_replaced_twice_under_load_loses_and_sheds_nothing_under_the_default_policy() {
    replaced_twice(Policy::Default).await;
}

#[allow(clippy::print_stdout, reason = "the figures are what a reader of the test's output wants")]
async fn replaced_twice(policy: Policy) {
    let site = Site::start(policy).await;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("handover").display().to_string();
    let admin: SocketAddr = ([127, 0, 0, 1], free_port()).into();
    let start = || site.proxy(&admin.to_string(), &["--handover", &path]);
    let mut proxy = start();
    ready(admin).await;
    eventually("it serves", PATIENCE, || send(site.address), |sent| sent.answered).await;
    let stop = Arc::new(AtomicBool::new(false));
    let requests = tokio::spawn(load(site.address, 500, stop.clone()));
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let next = start();
        let ended = tokio::task::block_in_place(|| {
            next.wait_for("took over");
            std::mem::replace(&mut proxy, next).end()
        });
        assert!(ended.status.success(), "{}", ended.text);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    stop.store(true, SeqCst);
    let sent = requests.await.expect("the load ends");
    let refused = sent.iter().filter(|sent| sent.connected.is_none()).count();
    let failed = sent.iter().filter(|sent| !sent.answered).count();
    println!(
        "two upgrades, {policy:?}: {} requests, {refused} connections refused, {failed} requests failed",
        sent.len()
    );
    assert!(sent.len() > 500, "there was no load");
    assert_eq!((refused, failed), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_proxies_on_one_address_one_is_killed_and_the_other_goes_on() {
    let site = Site::start(Policy::Plain).await;
    let admins = [free_port(), free_port()].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    let proxies = admins.map(|admin| site.proxy(&admin.to_string(), &[]));
    for admin in admins {
        ready(admin).await;
    }
    eventually("it serves", PATIENCE, || send(site.address), |sent| sent.answered).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let stop = Arc::new(AtomicBool::new(false));
    let requests = tokio::spawn(load(site.address, 2_000, stop.clone()));
    tokio::time::sleep(Duration::from_secs(2)).await;
    let killed = Instant::now();
    proxies[0].signal("KILL");
    tokio::time::sleep(Duration::from_secs(4)).await;
    stop.store(true, SeqCst);
    let mut sent = requests.await.expect("the load ends");
    sent.sort_by_key(|sent| sent.began);
    let after = |sent: &&Sent| sent.began >= killed;
    let failed: Vec<&Sent> = sent.iter().filter(|sent| !sent.answered).collect();
    let refused = sent.iter().filter(|sent| sent.connected.is_none()).count();
    let recovered = failed.iter().map(|sent| sent.began.saturating_duration_since(killed)).max().unwrap_or_default();
    // The longest time in which no new connection that was answered came about: around the kill, and what is usual without one.
    let longest = |from: Instant, to: Instant| {
        let mut good: Vec<Instant> =
            sent.iter().filter(|sent| sent.answered).filter_map(|sent| sent.connected).collect();
        good.retain(|at| (from..to).contains(at));
        good.sort();
        good.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(to - from)
    };
    let (second, half) = (Duration::from_secs(1), Duration::from_millis(500));
    let (usual, around) = (longest(killed - second, killed - half), longest(killed - half, killed + half));
    println!(
        "one of two killed at {:.0} new connections/s: {} failed of {} ({refused} refused), the last of them sent {recovered:.1?} after the kill; \
         longest time without a new connection {around:.1?} (before the kill {usual:.1?})",
        sent.iter().filter(after).count() as f64 / 4.0,
        failed.len(),
        sent.len(),
    );
    assert!(sent.iter().filter(after).count() > 100, "there was no load");
    // The other one listens all the time. Who knocks in the very moment in which the kernel closes the first one's socket may be told that nobody is there.
    let moment = Duration::from_millis(50);
    let off = |sent: &&Sent| sent.began + moment < killed || sent.began > killed + moment;
    assert_eq!(
        sent.iter().filter(|sent| sent.connected.is_none()).filter(off).count(),
        0,
        "refused while the other one listens"
    );
    assert!(refused < 5, "{refused} refused");
    assert!(failed.len() < sent.len() / 20, "the other one serves all the time");
    assert!(recovered < Duration::from_secs(3), "{recovered:?}");
}
