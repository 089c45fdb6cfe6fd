//! The real binary under abuse: whatever some clients and endpoints do, others are served, and nothing of it is left behind. How well they are served, and
//! for how long, is measured by hand (`just abuse`, `just soak`).

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use trimtab_tests::abuse::{attack, idle, load, target::Target};
use trimtab_tests::http::eventually;

/// Memory that a proxy may hold with everything that is done to it here, KiB: several times what it holds.
const RESIDENT_KIB_MAX: u64 = 400 << 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn others_are_served_whatever_is_done_to_the_proxy_and_nothing_is_left_behind() {
    let (stalling, _held) = attack::stalling().await.expect("endpoints");
    let target = Arc::new(Target::start(&stalling).await.expect("it starts"));
    let quiet = load::steady(&target, 50.0, Duration::from_secs(1)).await;
    assert_eq!((quiet.bad, quiet.good > 0), (0, true), "{:?}", quiet.complaints);
    let before = target.descriptors().expect("it runs");
    for attack in attack::Attack::ALL {
        let attackers = attack::begin(attack, &target, 150).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let outcome = load::steady(&target, 40.0, Duration::from_secs(2)).await;
        assert_eq!((outcome.bad, outcome.good > 0), (0, true), "{attack:?}: {:?}", outcome.complaints);
        let resident = target.resident_kib().expect("it runs");
        assert!(resident < RESIDENT_KIB_MAX, "{attack:?}: {resident} KiB");
        drop(attackers);
    }
    let floods = target.metric("trimtab_proxy_http2_floods_total").await.expect("metrics");
    assert!(floods >= 2.0, "{floods} floods were counted");
    let held = || async { target.descriptors().expect("it runs") };
    // Requests to stalled endpoints have 5 s, idle connections to endpoints a minute.
    eventually("descriptors are given back", Duration::from_secs(60), held, |held| *held < before + 64).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_to_an_endpoint_that_stalls_ends_at_whatever_stage() {
    let (stalling, _held) = attack::stalling().await.expect("endpoints");
    let target = Target::start(&stalling).await.expect("it starts");
    let mut asked = tokio::task::JoinSet::new();
    for _ in 0..25 {
        let address = target.http;
        asked.spawn(async move {
            let mut stream = TcpStream::connect(address).await.expect("a connection");
            stream.write_all(b"GET /stall HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n").await.expect("written");
            let mut answer = Vec::new();
            // An answer that breaks off ends with a reset.
            let ended = tokio::time::timeout(Duration::from_secs(60), stream.read_to_end(&mut answer)).await;
            let ended = ended.expect("it ends");
            (String::from_utf8_lossy(&answer).into_owned(), ended.is_ok())
        });
    }
    let (mut refused, mut broken) = (0, 0);
    while let Some(answer) = asked.join_next().await {
        let (answer, clean) = answer.expect("no panic");
        if answer.starts_with("HTTP/1.1 50") {
            refused += 1;
        } else {
            assert!(!clean && answer.starts_with("HTTP/1.1 200"), "{answer:?}, ended cleanly: {clean}");
            broken += 1;
        }
    }
    assert!(refused >= 5 && broken >= 5, "{refused} were answered, {broken} broke off");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_connection_holds_little_whatever_is_spoken_on_it() {
    rlimit::increase_nofile_limit(u64::MAX).expect("the process may have more files");
    // So many that what the proxy does otherwise meanwhile weighs little.
    for kind in idle::Kind::ALL {
        let target = Target::start(&[]).await.expect("it starts");
        let found = idle::measure(&target, kind, 1000).await.expect("connections");
        assert!(found.bytes_each < 40.0 * 1024.0, "{found:?}");
        target.stop().await.expect("it ends");
    }
}
