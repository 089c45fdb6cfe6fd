//! Connections that go over from the fast path to hyper for an unusual request, and come back.

use std::time::Duration;

use http_body_util::BodyExt;
use trimtab_proxy::api::v1::ListenerLimits;

use crate::{
    fast::echo,
    harness::{Backend, Proxy, Raw, Setup, eventually, text},
};

#[tokio::test]
async fn a_connection_goes_over_to_hyper_between_two_requests() {
    let (_backend, proxy) = echo().await;
    let mut raw = proxy.raw().await;
    let plain = |body: &str| format!("POST / HTTP/1.1\r\nhost: t\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    // All at once: plain, one for hyper, plain again.
    let unusual =
        "POST / HTTP/1.1\r\nhost: t\r\nte: trailers\r\ntransfer-encoding: chunked\r\n\r\n3\r\ntwo\r\n0\r\n\r\n";
    raw.write(format!("{}{unusual}{}", plain("one"), plain("three"))).await;
    for body in ["one", "two", "three"] {
        assert_eq!(raw.answer().await.body, body);
    }
    // In pieces, the unusual part last.
    let mut raw = proxy.raw().await;
    raw.write(plain("one")).await;
    assert_eq!(raw.answer().await.body, "one");
    raw.write("POST / HTTP/1.1\r\nhost: t\r\ncontent-len").await;
    tokio::time::sleep(Duration::from_millis(30)).await;
    raw.write("gth: 3\r\nexpect: 100-continue\r\n\r\n").await;
    assert_eq!(raw.head().await.status, 100);
    raw.write("two").await;
    assert_eq!(raw.answer().await.body, "two");
    raw.write("GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n").await;
    assert_eq!(raw.answer().await.status, 400, "what follows is still looked at");
}

#[tokio::test]
async fn a_head_that_is_handed_over_has_no_more_time_than_others() {
    let backend = Backend::saying("x").await;
    let limits = ListenerLimits { header_timeout_ms: Some(400), ..Default::default() };
    let proxy = Setup::to(&[backend.address]).limits(limits).start().await;
    for start in
        ["GET / HTTP/1.1\r\nhost: t\r\n", "GET / HTTP/1.1\r\nhost: t\r\n\r\nGET / HTTP/1.1\r\n", "\r\nGET / HT"]
    {
        let mut raw = proxy.raw().await;
        raw.write(start).await;
        if start.contains("\r\n\r\n") {
            assert_eq!(raw.answer().await.status, 200);
        }
        let began = trimtab_proxy::clock::now();
        let answer = raw.head().await;
        assert_eq!((answer.status, answer.reason()), (408, Some("header_timeout")), "{start:?}");
        assert!(trimtab_proxy::clock::now().since(began) < Duration::from_millis(700), "{start:?}");
        raw.is_closed().await;
    }
}

/// How often connections left the fast path, and came back.
async fn to_and_fro(proxy: &Proxy) -> [u64; 2] {
    let mut raw = Raw::connect(proxy.admin_address()).await;
    raw.write("GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await;
    let metrics = raw.answer().await.body;
    ["handed_over", "taken_back"].map(|which| {
        let name = format!("trimtab_proxy_fast_path_{which}_total ");
        metrics.lines().find_map(|line| line.strip_prefix(&name)).unwrap().parse().unwrap()
    })
}

#[tokio::test]
async fn a_connection_that_was_idle_after_an_unusual_request_comes_back_to_the_fast_path() {
    let backend =
        Backend::new(|request| async move { text(request.into_body().collect().await.unwrap().to_bytes()) }).await;
    let proxy = Setup::to(&[backend.address]).with_admin().fast_path(true).start().await;
    let mut raw = proxy.raw().await;
    let unusual = "POST / HTTP/1.1\r\nhost: t\r\nte: trailers\r\ncontent-length: 2\r\n\r\nhi";
    let plain = "POST / HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    for round in 1..=2 {
        raw.write(unusual).await;
        assert_eq!(raw.answer().await.body, "hi");
        // One after the other, they stay where they are.
        raw.write(plain).await;
        assert_eq!(raw.answer().await.body, "hello");
        eventually("it has come back", || async { to_and_fro(&proxy).await == [round, round] }).await;
        raw.write(plain).await;
        assert_eq!(raw.answer().await.body, "hello");
        assert_eq!(to_and_fro(&proxy).await, [round, round]);
    }
    // Not with half a head, nor with a body that is not read to its end.
    let (mut halved, mut uploading) = (proxy.raw().await, proxy.raw().await);
    halved.write(format!("{unusual}{}", &plain[..10])).await;
    uploading.write(&unusual[..unusual.len() - 1]).await;
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    assert_eq!(to_and_fro(&proxy).await, [4, 2]);
    halved.write(&plain[10..]).await;
    uploading.write(&unusual[unusual.len() - 1..]).await;
    assert_eq!((halved.answer().await.body, halved.answer().await.body), ("hi".to_owned(), "hello".to_owned()));
    assert_eq!(uploading.answer().await.body, "hi");
}
