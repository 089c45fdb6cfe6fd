//! Requests and answers as they pass through the proxy.

use http::{HeaderValue, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;

use crate::harness::{
    Backend, Proxy, RawBackend, Setup,
    backend::{self, Body},
    eventually, proxy, text,
};
use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use trimtab_proxy::api::v1;

async fn echo() -> (Backend, Proxy) {
    let backend = Backend::new(|request| async move {
        let body = request.into_body().collect().await.unwrap();
        let trailers = body.trailers().cloned();
        let mut response = text(body.to_bytes());
        if let Some(trailers) = trailers {
            let value = trailers.get("x-sum").cloned().unwrap_or(HeaderValue::from_static("none"));
            response.headers_mut().insert("x-trailer-came", value);
        }
        response
    })
    .await;
    let proxy = Setup::to(&[backend.address]).start().await;
    (backend, proxy)
}

#[tokio::test]
async fn a_request_is_forwarded_and_its_answer_comes_back() {
    let backend = Backend::saying("hello").await;
    let proxy = Setup::to(&[backend.address]).start().await;
    let answer = proxy.get("/path?query").await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "hello"));
    assert_eq!(answer.header("connection"), Some("close"));
    assert_eq!(answer.header("server"), None, "an endpoint's answer is not the proxy's");
    let seen = backend.seen.lock().unwrap().pop().unwrap();
    assert_eq!(seen.uri, "/path?query");
    assert_eq!(seen.headers["host"], "test");
}

#[tokio::test]
async fn an_endpoint_is_told_who_asked() {
    let backend = Backend::saying("").await;
    let proxy = Setup::to(&[backend.address]).start().await;
    proxy.send("GET / HTTP/1.1\r\nHost: a.test:8080\r\nX-Forwarded-For: 192.0.2.1\r\nVia: 1.1 cdn\r\n\r\n").await;
    let headers = backend.last_headers();
    assert_eq!(headers["x-forwarded-for"], "192.0.2.1, 127.0.0.1");
    assert_eq!(headers["x-forwarded-proto"], "http");
    assert_eq!(headers["x-forwarded-host"], "a.test:8080");
    assert_eq!(headers["forwarded"], "for=127.0.0.1;proto=http;host=\"a.test:8080\"");
    assert_eq!(headers["via"], "1.1 cdn, 1.1 trimtab");
    assert_eq!(headers["x-request-id"].len(), 24);
}

#[tokio::test]
async fn headers_of_one_hop_stop_at_the_proxy() {
    let backend = Backend::new(|_| async {
        let mut response = text("x");
        response.headers_mut().insert("connection", HeaderValue::from_static("keep-alive, x-hop"));
        response.headers_mut().insert("keep-alive", HeaderValue::from_static("timeout=5"));
        response.headers_mut().insert("x-hop", HeaderValue::from_static("1"));
        response
            .headers_mut()
            .insert("endpoint-load-metrics", HeaderValue::from_static("TEXT named_metrics.in_flight=3"));
        response
    })
    .await;
    let proxy = Setup::to(&[backend.address]).start().await;
    let request =
        "GET / HTTP/1.1\r\nhost: t\r\nconnection: x-private\r\nx-private: 1\r\nkeep-alive: 1\r\nte: trailers\r\n\r\n";
    let answer = proxy.send(request).await;
    for name in ["x-hop", "keep-alive", "endpoint-load-metrics"] {
        assert_eq!(answer.header(name), None, "{name}");
    }
    let headers = backend.last_headers();
    assert!(!headers.contains_key("x-private") && !headers.contains_key("keep-alive"));
    assert_eq!(headers["te"], "trailers");
}

#[tokio::test]
async fn connections_are_kept_on_both_sides() {
    let (backend, proxy) = echo().await;
    let mut raw = proxy.raw().await;
    let before = backend.connections();
    for n in 0..20 {
        let body = format!("number {n}");
        raw.write(format!("POST / HTTP/1.1\r\nhost: t\r\ncontent-length: {}\r\n\r\n{body}", body.len())).await;
        assert_eq!(raw.answer().await.body, body);
    }
    assert!(backend.connections() - before <= 1, "{} connections", backend.connections() - before);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let (_backend, proxy) = echo().await;
    let mut raw = proxy.raw().await;
    let request = |body: &str| format!("POST / HTTP/1.1\r\nhost: t\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    raw.write(["one", "two", "three"].map(request).concat()).await;
    for body in ["one", "two", "three"] {
        assert_eq!(raw.answer().await.body, body);
    }
}

#[tokio::test]
async fn chunked_bodies_and_trailers_pass_both_ways() {
    let backend = Backend::new(|request| async move {
        let body = request.into_body().collect().await.unwrap();
        let sum = body.trailers().unwrap()["x-sum"].clone();
        let frames =
            [Frame::data(body.to_bytes()), Frame::trailers([("x-back".parse().unwrap(), sum)].into_iter().collect())];
        let stream = futures_util::stream::iter(frames.map(Ok::<_, std::io::Error>));
        let mut response = http::Response::new(StreamBody::new(stream).map_err(Into::into).boxed());
        response.headers_mut().insert("trailer", HeaderValue::from_static("x-back"));
        response
    })
    .await;
    let proxy = Setup::to(&[backend.address]).start().await;
    let head = "POST / HTTP/1.1\r\nhost: t\r\nte: trailers\r\ntrailer: x-sum\r\ntransfer-encoding: chunked\r\n\r\n";
    let mut raw = proxy.raw().await;
    for _ in 0..5 {
        raw.write(format!("{head}5\r\nhello\r\n6\r\n world\r\n0\r\nx-sum: 11\r\n\r\n")).await;
        let answer = raw.answer().await;
        assert_eq!(answer.body, "hello world");
        assert_eq!(answer.trailers, [("x-back".to_owned(), "11".to_owned())]);
    }
    // They end an answer as well as its last byte does.
    eventually("all are reported as good", || async {
        let loads = proxy.controller.loads();
        let endpoints = || loads.iter().flat_map(|load| &load.backends).flat_map(|backend| &backend.endpoints);
        assert!(endpoints().all(|endpoint| endpoint.cancelled == 0));
        endpoints().map(|endpoint| endpoint.successes).sum::<u64>() == 5
    })
    .await;
    assert!(backend.connections() < 5, "connections are used again: {}", backend.connections());
}

#[tokio::test]
async fn a_get_may_have_a_chunked_body() {
    let (_backend, proxy) = echo().await;
    let answer =
        proxy.send("GET / HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n").await;
    assert_eq!(answer.body, "hi");
}

#[tokio::test]
async fn answers_without_a_body_have_none() {
    let backend = Backend::new(|request| async move {
        let mut response = text(if request.method() == "HEAD" { "12345" } else { "" });
        let status = request.uri().path()[1..].parse().unwrap_or(StatusCode::OK);
        *response.status_mut() = status;
        response
    })
    .await;
    let proxy = Setup::to(&[backend.address]).start().await;
    let mut raw = proxy.raw().await;
    raw.write("HEAD /200 HTTP/1.1\r\nhost: t\r\n\r\n").await;
    let head = raw.head().await;
    assert_eq!((head.status, head.header("content-length")), (200, Some("5")));
    for status in [204, 304] {
        raw.write(format!("GET /{status} HTTP/1.1\r\nhost: t\r\n\r\n")).await;
        let head = raw.head().await;
        assert_eq!((head.status, head.header("transfer-encoding")), (status, None));
    }
    raw.write("GET /200 HTTP/1.1\r\nhost: t\r\n\r\n").await;
    assert_eq!(raw.answer().await.status, 200, "the connection is still in step");
}

#[tokio::test]
async fn an_http_1_0_client_gets_an_answer_that_ends_with_the_connection() {
    let backend = Backend::new(|_| async {
        let chunks = ["a", "b", "c"].map(|c| Ok::<_, std::io::Error>(Frame::data(Bytes::from(c))));
        http::Response::new(StreamBody::new(futures_util::stream::iter(chunks)).map_err(Into::into).boxed())
    })
    .await;
    let proxy = Setup::to(&[backend.address]).start().await;
    let answer = proxy.send("GET / HTTP/1.0\r\n\r\n").await;
    assert_eq!((answer.body.as_str(), answer.header("transfer-encoding")), ("abc", None));
    assert_eq!(backend.seen.lock().unwrap().last().unwrap().version, http::Version::HTTP_11);
}

#[tokio::test]
async fn a_client_that_waits_for_continue_is_told_when_the_endpoint_wants_the_body() {
    let (_backend, proxy) = echo().await;
    let mut raw = proxy.raw().await;
    raw.write("POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 5\r\nexpect: 100-continue\r\n\r\n").await;
    assert_eq!(raw.head().await.status, 100);
    raw.write("hello").await;
    assert_eq!(raw.answer().await.body, "hello");
}

#[tokio::test]
async fn a_client_that_waits_for_continue_is_not_told_to_if_the_endpoint_refuses() {
    let backend = Backend::new(|_| async {
        let mut response = text("no");
        *response.status_mut() = StatusCode::EXPECTATION_FAILED;
        response
    })
    .await;
    let proxy = Setup::to(&[backend.address]).start().await;
    let mut raw = proxy.raw().await;
    raw.write("POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 5\r\nexpect: 100-continue\r\n\r\n").await;
    let answer = raw.answer().await;
    assert_eq!((answer.status, answer.body.as_str()), (417, "no"));
}

#[tokio::test]
async fn an_endpoint_that_ignores_expect_gets_the_body_after_a_while() {
    let backend = RawBackend::new(|mut stream, _| async move {
        let mut seen = Vec::new();
        while !seen.ends_with(b"hello") && stream.read_buf(&mut seen).await.unwrap_or(0) > 0 {}
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
        tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    })
    .await;
    let proxy = Setup::to(&[backend.address]).start().await;
    let mut raw = proxy.raw().await;
    raw.write("POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 5\r\nexpect: 100-continue\r\n\r\n").await;
    assert_eq!(raw.head().await.status, 100);
    raw.write("hello").await;
    assert_eq!(raw.answer().await.body, "ok");
}

#[tokio::test]
async fn a_target_in_absolute_form_is_forwarded_in_origin_form() {
    let backend = Backend::saying("x").await;
    let proxy = Setup::to(&[backend.address]).start().await;
    proxy.send("GET http://a.test/p?q HTTP/1.1\r\nhost: a.test\r\n\r\n").await;
    let seen = backend.seen.lock().unwrap().pop().unwrap();
    assert_eq!((seen.uri.to_string().as_str(), &seen.headers["host"]), ("/p?q", &HeaderValue::from_static("a.test")));
}

#[tokio::test]
async fn no_path_is_a_way_around_a_route() {
    for fast_path in [true, false] {
        let (public, admin) = (Backend::saying("public").await, Backend::saying("admin").await);
        let mut setup = Setup::to(&[public.address]).fast_path(fast_path);
        setup.backends.push(proxy::backend("test/admin:80", &[admin.address]));
        let mut rule = proxy::rule("test/admin:80");
        let path = Some(v1::PathMatch { kind: v1::path_match::Kind::Prefix.into(), value: "/admin".into() });
        rule.matches = vec![v1::RouteMatch { path, ..Default::default() }];
        setup.route.rules.push(rule);
        let proxy = setup.start().await;
        for way in ["/public/../admin", "/%61dmin", "/./admin", "/public/%2E%2e/admin", "/..\\admin", "/../admin"] {
            assert_eq!(proxy.get(way).await.body, "admin", "{way}, fast path {fast_path}");
            assert_eq!(admin.seen.lock().unwrap().pop().unwrap().uri, "/admin", "{way}, fast path {fast_path}");
        }
        assert_eq!(proxy.get("/admin/../a/%2Fb?c=/../%41").await.body, "public");
        assert_eq!(public.seen.lock().unwrap().pop().unwrap().uri, "/a/%2Fb?c=/../%41");
    }
}

#[tokio::test]
async fn requests_go_where_the_routes_say() {
    let (a, b) = (Backend::saying("a").await, Backend::saying("b").await);
    let mut setup = Setup::to(&[a.address]);
    setup.backends.push(proxy::backend("test/b:80", &[b.address]));
    let mut rule = proxy::rule("test/b:80");
    let path = Some(v1::PathMatch { kind: v1::path_match::Kind::Prefix.into(), value: "/b".into() });
    rule.matches = vec![v1::RouteMatch { path, ..Default::default() }];
    setup.route.rules.push(rule);
    setup.route.hostnames = vec!["*.test".into(), "test".into()];
    let proxy = setup.start().await;
    assert_eq!(proxy.get("/").await.body, "a");
    assert_eq!(proxy.get("/b/c").await.body, "b");
    assert_eq!(proxy.get("/bc").await.body, "a");
    let other = proxy.send("GET / HTTP/1.1\r\nhost: other\r\n\r\n").await;
    assert_eq!((other.status, other.reason()), (404, Some("no_route")));
}

#[tokio::test]
async fn weights_between_backends_are_kept_and_what_does_not_resolve_is_answered_500() {
    let (a, b) = (Backend::saying("a").await, Backend::saying("b").await);
    let mut setup = Setup::to(&[a.address]);
    setup.backends.push(proxy::backend("test/b:80", &[b.address]));
    let reference = |name: &str, weight| v1::WeightedBackend { backend: name.into(), weight, ..Default::default() };
    setup.route.rules[0].backends = vec![reference(proxy::BACKEND, 5), reference("test/b:80", 3), reference("", 2)];
    let proxy = setup.start().await;
    let mut counts = [0; 3];
    for _ in 0..50 {
        let answer = proxy.get("/").await;
        match (answer.status, answer.body.as_str()) {
            (200, "a") => counts[0] += 1,
            (200, "b") => counts[1] += 1,
            (500, _) => counts[2] += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(counts, [25, 15, 10]);
}

#[tokio::test]
async fn a_proxy_listens_on_ipv6_too() {
    let backend = Backend::saying("six").await;
    let mut setup = Setup::to(&[backend.address]);
    setup.listener.address = "::1".into();
    let proxy = setup.start().await;
    assert!(proxy.address().is_ipv6());
    assert_eq!(proxy.get("/").await.body, "six");
    assert_eq!(backend.last_headers()["forwarded"], "for=\"[::1]\";proto=http;host=\"test\"");
}

#[tokio::test]
async fn a_half_closed_client_that_said_close_still_gets_its_answer() {
    let backend = Backend::new(|_| async {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        text("late")
    })
    .await;
    let proxy = Setup::to(&[backend.address]).start().await;
    let mut raw = proxy.raw().await;
    raw.write("GET / HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n").await;
    raw.stream.shutdown().await.unwrap();
    assert_eq!(raw.answer().await.body, "late");
}

#[tokio::test]
async fn an_answer_before_the_end_of_the_upload_arrives() {
    let backend = Backend::new(|_| async {
        let mut response: http::Response<Body> = http::Response::new(backend::body("too much"));
        *response.status_mut() = StatusCode::PAYLOAD_TOO_LARGE;
        response
    })
    .await;
    let proxy = Setup::to(&[backend.address]).start().await;
    let mut raw = proxy.raw().await;
    raw.write("POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 100000000\r\n\r\n").await;
    let block = vec![b'x'; 64 << 10];
    let mut sent = 0;
    // The client goes on until it cannot, as simple clients do.
    while sent < 100_000_000 {
        let write = raw.stream.write_all(&block);
        match tokio::time::timeout(std::time::Duration::from_millis(200), write).await {
            Ok(Ok(())) => sent += block.len(),
            _ => break,
        }
    }
    let answer = raw.answer().await;
    assert_eq!((answer.status, answer.body.as_str()), (413, "too much"));
}
