//! Clients that mean ill, or do not know better. What two servers could read differently is refused and never forwarded.

use std::time::Duration;

use crate::harness::{Backend, Setup};
use tokio::io::AsyncWriteExt;
use trimtab_proxy::{api::v1::ListenerLimits, clock};

/// The request is answered with `status`, the connection is closed, and no endpoint hears of it.
async fn check_refused(requests: &[&str], status: u16) {
    let backend = Backend::saying("forwarded").await;
    let proxy = Setup::to(&[backend.address]).start().await;
    for request in requests {
        let before = backend.requests();
        let mut raw = proxy.raw().await;
        // What follows must not be taken for a request.
        raw.write(format!("{request}GET /smuggled HTTP/1.1\r\nhost: t\r\n\r\n")).await;
        let answer = raw.answer().await;
        assert_eq!(answer.status, status, "{request:?}: {answer:?}");
        raw.is_closed().await;
        assert_eq!(backend.requests(), before, "{request:?} was forwarded");
    }
    assert_eq!(proxy.get("/").await.body, "forwarded", "the proxy goes on");
}

#[tokio::test]
async fn ambiguous_framing_is_refused() {
    let requests = [
        "POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 5\r\ncontent-length: 5\r\n\r\nhello",
        "POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
        "POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 5, 5\r\n\r\nhello",
        "POST / HTTP/1.1\r\nhost: t\r\ncontent-length: +5\r\n\r\nhello",
        "POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: t\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: t\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.0\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: t\r\ncontent-length : 5\r\n\r\nhello",
        "GET / HTTP/1.1\r\nhost: t\r\nx: a\r\n folded: b\r\n\r\n",
    ];
    check_refused(&requests, 400).await;
}

#[tokio::test]
async fn a_request_must_name_exactly_one_host() {
    let requests = [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a b\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: u@a\r\n\r\n",
        "GET http://a/ HTTP/1.1\r\nhost: b\r\n\r\n",
        "GET http://a:81/ HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET https://a/ HTTP/1.1\r\nhost: a\r\n\r\n",
    ];
    check_refused(&requests, 400).await;
}

#[tokio::test]
async fn what_is_no_request_is_refused() {
    let requests = [
        "\0\0\0\r\n\r\n",
        "GET\r\n\r\n",
        "GET / HTTP/3\r\nhost: t\r\n\r\n",
        "GET / HTTP/a.0\r\nhost: t\r\n\r\n",
        "GET / HTTP/1.1\r\nhost t\r\n\r\n",
    ];
    check_refused(&requests, 400).await;
    check_refused(&["GET / HTTP/3.0\r\nhost: t\r\n\r\n", "GET / HTTP/0.9\r\n\r\n"], 505).await;
    check_refused(&["CONNECT t:80 HTTP/1.1\r\nhost: t:80\r\n\r\n"], 501).await;
}

#[tokio::test]
async fn a_chunk_that_breaks_its_framing_ends_the_connection() {
    let backend = Backend::saying("x").await;
    let proxy = Setup::to(&[backend.address]).start().await;
    let mut raw = proxy.raw().await;
    raw.write("POST / HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n").await;
    let (rest, _) = raw.rest().await;
    let text = String::from_utf8_lossy(&rest);
    assert!(!text.contains("200 OK\r\n") || text.matches("HTTP/1.1").count() == 1, "{text}");
}

fn limits(change: impl FnOnce(&mut ListenerLimits)) -> ListenerLimits {
    let mut limits = ListenerLimits::default();
    change(&mut limits);
    limits
}

#[tokio::test]
async fn a_slow_loris_is_cut_off() {
    let backend = Backend::saying("x").await;
    let setup = Setup::to(&[backend.address]).limits(limits(|l| l.header_timeout_ms = Some(300)));
    let proxy = setup.start().await;
    let mut raw = proxy.raw().await;
    raw.write("GET / HTTP/1.1\r\nhost: t\r\n").await;
    let began = clock::now();
    let drip = async {
        for n in 0.. {
            tokio::time::sleep(Duration::from_millis(50)).await;
            if raw.stream.write_all(format!("x-{n}: y\r\n").as_bytes()).await.is_err() {
                return;
            }
            let mut byte = [0];
            if let Ok(read) = raw.stream.try_read(&mut byte) {
                assert!(read == 0 || byte[0] == b'H', "an answer or the end");
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(3), drip).await.expect("the proxy listened to a slow loris for 3 s");
    assert!(clock::now().since(began) >= Duration::from_millis(250));
}

#[tokio::test]
async fn a_client_that_says_nothing_is_cut_off() {
    let backend = Backend::saying("x").await;
    let timeouts = limits(|l| {
        l.header_timeout_ms = Some(200);
        l.idle_timeout_ms = Some(200);
    });
    let proxy = Setup::to(&[backend.address]).limits(timeouts).start().await;
    let mut silent = proxy.raw().await;
    silent.is_closed().await;
    let mut idle = proxy.raw().await;
    idle.write("GET / HTTP/1.1\r\nhost: t\r\n\r\n").await;
    assert_eq!(idle.answer().await.status, 200);
    idle.is_closed().await;
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let backend = Backend::saying("x").await;
    let small = limits(|l| {
        l.max_header_bytes = Some(2_000);
        l.max_headers = Some(10);
    });
    let proxy = Setup::to(&[backend.address]).limits(small).start().await;
    let long = format!("GET / HTTP/1.1\r\nhost: t\r\nx: {}\r\n\r\n", "y".repeat(3_000));
    assert_eq!(proxy.send(&long).await.status, 431);
    let many: String = (0..20).map(|n| format!("x-{n}: y\r\n")).collect();
    assert_eq!(proxy.send(&format!("GET / HTTP/1.1\r\nhost: t\r\n{many}\r\n")).await.status, 431);
    let endless = format!("GET / HTTP/1.1\r\nhost: t\r\nx: {}", "y".repeat(200_000));
    assert_eq!(proxy.send(&endless).await.status, 431);
    assert_eq!(proxy.get("/").await.status, 200);
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused() {
    use http_body_util::BodyExt;
    let backend = Backend::new(|request| async move {
        let _ = request.into_body().collect().await;
        crate::harness::text("x")
    })
    .await;
    let proxy = Setup::to(&[backend.address]).limits(limits(|l| l.max_body_bytes = Some(10))).start().await;
    let fits = "POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 10\r\n\r\n0123456789";
    assert_eq!(proxy.send(fits).await.status, 200);
    let declared = "POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 11\r\n\r\n01234567890";
    let answer = proxy.send(declared).await;
    assert_eq!((answer.status, answer.reason()), (413, Some("body_too_large")));
    let chunked = "POST / HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\nb\r\n01234567890\r\n0\r\n\r\n";
    assert_eq!(proxy.send(chunked).await.status, 413);
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed() {
    let backend = Backend::saying("x").await;
    let proxy = Setup::to(&[backend.address]).limits(limits(|l| l.max_connections = Some(3))).start().await;
    let mut kept = Vec::new();
    for _ in 0..3 {
        let mut raw = proxy.raw().await;
        raw.write("GET / HTTP/1.1\r\nhost: t\r\n\r\n").await;
        assert_eq!(raw.answer().await.status, 200);
        kept.push(raw);
    }
    let (rest, _) = proxy.raw().await.rest().await;
    assert!(rest.is_empty());
    drop(kept);
    crate::harness::eventually("there is room again", || async {
        let mut raw = proxy.raw().await;
        let _ = raw.stream.write_all(b"GET / HTTP/1.1\r\nhost: t\r\n\r\n").await;
        matches!(raw.stream.peek(&mut [0]).await, Ok(1))
    })
    .await;
}
