//! HTTP/2 on both sides, and gRPC on it.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{
    body::{Frame, Incoming},
    client::conn::http2::{self, SendRequest},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use trimtab_proxy::{api::v1, clock};

use crate::harness::{
    Backend, Proxy, Raw, RawBackend, Setup,
    backend::{self, Body},
    eventually,
    proxy::BACKEND,
    text,
};

pub type Sender = SendRequest<BoxBody<Bytes, std::convert::Infallible>>;

/// A client's connection, without asking whether HTTP/2 is spoken.
pub async fn client(address: SocketAddr) -> Sender {
    let socket = TcpStream::connect(address).await.unwrap();
    socket.set_nodelay(true).unwrap();
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(socket)).await.unwrap();
    tokio::spawn(connection);
    sender
}

pub fn request(path: &str, body: &'static str) -> Request<BoxBody<Bytes, std::convert::Infallible>> {
    let method = if body.is_empty() { "GET" } else { "POST" };
    Request::builder().method(method).uri(format!("http://a.test{path}")).body(Full::from(body).boxed()).unwrap()
}

pub async fn body_of(response: Response<Incoming>) -> (String, HeaderMap) {
    let body = response.into_body().collect().await.unwrap();
    let trailers = body.trailers().cloned().unwrap_or_default();
    (String::from_utf8(body.to_bytes().to_vec()).unwrap(), trailers)
}

/// What came as a body.
pub async fn echo(request: Request<Incoming>) -> Response<Body> {
    text(request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default())
}

fn h2c(setup: Setup) -> Setup {
    setup.backend(|backend| backend.protocol = v1::Protocol::H2c.into())
}

#[tokio::test]
async fn requests_of_one_connection_pass_at_the_same_time_to_endpoints_that_speak_http_1() {
    let backend = Backend::new(|request| async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        echo(request).await
    })
    .await;
    for fast_path in [true, false] {
        let proxy = Setup::to(&[backend.address]).fast_path(fast_path).start().await;
        let mut sender = client(proxy.address()).await;
        let began = clock::now();
        let answers: Vec<_> = (0..20).map(|_| sender.send_request(request("/x?y", "hello"))).collect();
        for answer in answers {
            let answer = answer.await.unwrap();
            assert_eq!((answer.status(), answer.version()), (StatusCode::OK, Version::HTTP_2));
            assert_eq!(body_of(answer).await.0, "hello");
        }
        assert!(clock::now().since(began) < Duration::from_secs(1), "one after the other would take two");
        let seen = backend.seen.lock().unwrap().last().unwrap().clone();
        assert_eq!((seen.uri.to_string().as_str(), seen.version), ("/x?y", Version::HTTP_11));
        assert_eq!(seen.headers["host"], "a.test");
        assert_eq!(seen.headers["via"], "2.0 trimtab");
    }
}

#[tokio::test]
async fn what_http_2_says_in_pieces_is_one_for_http_1() {
    let backend = Backend::new(echo).await;
    let proxy = Setup::to(&[backend.address]).start().await;
    let mut sender = client(proxy.address()).await;
    let frames = ["a", "b"].map(|part| Ok(Frame::data(Bytes::from_static(part.as_bytes()))));
    let body = StreamBody::new(futures_util::stream::iter(frames)).boxed();
    let request = Request::put("http://a.test/").header("cookie", "a=1").header("cookie", "b=2").body(body).unwrap();
    let answer = sender.send_request(request).await.unwrap();
    assert_eq!(body_of(answer).await.0, "ab");
    let seen = backend.last_headers();
    assert_eq!(
        (seen["cookie"].to_str().unwrap(), &seen["transfer-encoding"]),
        ("a=1; b=2", &"chunked".parse().unwrap())
    );
}

#[tokio::test]
async fn requests_share_connections_to_endpoints_that_speak_http_2() {
    let slow = |request| async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        echo(request).await
    };
    let (one, two) = (Backend::http2(slow).await, Backend::http2(slow).await);
    let mut setup = h2c(Setup::to(&[one.address, two.address]));
    setup.workers = 1;
    let setup = setup.backend(|backend| backend.algorithm = v1::Algorithm::LeastRequest.into());
    let proxy = setup.start().await;
    let mut sender = client(proxy.address()).await;
    let answers: Vec<_> = (0..60).map(|_| sender.send_request(request("/", "hello"))).collect();
    tokio::time::sleep(Duration::from_millis(100)).await;
    // Requests are counted, not connections: both have as many.
    assert_eq!((one.inside(), two.inside()), (30, 30));
    for answer in answers {
        assert_eq!(body_of(answer.await.unwrap()).await.0, "hello");
    }
    assert_eq!(
        (one.connections(), two.connections()),
        (1, 1),
        "requests waited for the connection that was being opened"
    );
    // HTTP/1.1 clients share them too.
    let answer =
        proxy.send("POST / HTTP/1.1\r\nhost: b.test\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi").await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "hi"));
    assert_eq!(one.connections() + two.connections(), 2);
    let seen: Vec<_> = [&one, &two].iter().flat_map(|b| b.seen.lock().unwrap().clone()).collect();
    assert!(seen.iter().all(|head| head.version == Version::HTTP_2 && !head.headers.contains_key("host")));
    assert!(seen.iter().any(|head| head.uri.authority().is_some_and(|authority| authority == "b.test")));
}

#[tokio::test]
async fn a_shared_connection_that_ends_is_replaced() {
    let backend = Backend::http2(echo).await;
    let address = backend.address;
    let proxy = h2c(Setup::to(&[address])).start().await;
    let mut sender = client(proxy.address()).await;
    assert_eq!(sender.send_request(request("/", "")).await.unwrap().status(), StatusCode::OK);
    drop(backend);
    eventually("nobody is there", || {
        let answer = sender.send_request(request("/", ""));
        async { answer.await.unwrap().status() == StatusCode::BAD_GATEWAY }
    })
    .await;
    assert_eq!(sender.send_request(request("/", "")).await.unwrap().headers()["x-trimtab-reason"], "connect_failed");
}

fn grpc(path: &str, timeout: Option<&str>) -> Request<BoxBody<Bytes, std::convert::Infallible>> {
    let mut request = Request::post(format!("http://a.test{path}")).header("te", "trailers");
    request = request.header("content-type", "application/grpc");
    if let Some(timeout) = timeout {
        request = request.header("grpc-timeout", timeout);
    }
    request.body(Full::from("\0\0\0\0\0").boxed()).unwrap()
}

/// An endpoint of which the path says the code that it ends with; `/slow` never ends.
async fn grpc_endpoint() -> Backend {
    Backend::http2(|request| async move {
        let path = request.uri().path().to_owned();
        let ends = path != "/slow";
        let code = HeaderValue::from_str(path.trim_start_matches('/')).unwrap();
        let mut response = Response::new(backend::body(""));
        response.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
        let trailers = HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), code)]);
        let frames = futures_util::stream::unfold(0, move |step| {
            let trailers = trailers.clone();
            async move {
                match step {
                    0 => Some((Ok(Frame::data(Bytes::from_static(b"\0\0\0\0\0"))), 1)),
                    1 if ends => Some((Ok(Frame::trailers(trailers)), 2)),
                    1 => std::future::pending().await,
                    _ => None,
                }
            }
        });
        response.map(|_| {
            BodyExt::boxed(StreamBody::new(
                Box::pin(frames) as std::pin::Pin<Box<dyn futures_util::Stream<Item = _> + Send + Sync>>
            ))
        })
    })
    .await
}

#[tokio::test]
async fn trailers_of_grpc_pass_and_its_failures_count() {
    let endpoint = grpc_endpoint().await;
    let other = grpc_endpoint().await;
    let setup = h2c(Setup::to(&[endpoint.address, other.address])).backend(|backend| {
        backend.outlier_detection = Some(v1::OutlierDetection {
            consecutive_5xx_errors: Some(3),
            base_ejection_time_ms: Some(60_000),
            ..Default::default()
        });
    });
    let proxy = setup.start().await;
    let mut sender = client(proxy.address()).await;
    // NOT_FOUND is about the request: nobody is ejected for it.
    for _ in 0..10 {
        let answer = sender.send_request(grpc("/5", None)).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(body_of(answer).await.1["grpc-status"], "5");
    }
    assert!(endpoint.requests() >= 4 && other.requests() >= 4);
    // UNAVAILABLE is not: both get their share of them, and one of the two is taken out.
    for _ in 0..6 {
        let answer = sender.send_request(grpc("/14", None)).await.unwrap();
        assert_eq!(body_of(answer).await.1["grpc-status"], "14");
    }
    eventually("one is out", || {
        let before = [endpoint.requests(), other.requests()];
        let answers: Vec<_> = (0..4).map(|_| sender.send_request(grpc("/0", None))).collect();
        let (endpoint, other) = (&endpoint, &other);
        async move {
            for answer in answers {
                body_of(answer.await.unwrap()).await;
            }
            before[0] == endpoint.requests() || before[1] == other.requests()
        }
    })
    .await;
}

/// Kinds and streams of the frames that come within 200 ms.
async fn heard(stream: &mut TcpStream) -> Vec<(u8, u32)> {
    let mut said = Vec::new();
    let more = async { while stream.read_buf(&mut said).await.is_ok_and(|read| read > 0) {} };
    let _ = tokio::time::timeout(Duration::from_millis(200), more).await;
    let (mut frames, mut rest) = (Vec::new(), &said[..]);
    while let Some((&[a, b, c, kind, _, d, e, f, g], after)) = rest.split_first_chunk::<9>() {
        frames.push((kind, u32::from_be_bytes([d, e, f, g])));
        rest = after.get(u32::from_be_bytes([0, a, b, c]) as usize..).unwrap_or_default();
    }
    frames
}

/// Some clients forget an answer that they have read when the stream is reset before they have sent their body.
#[tokio::test]
async fn an_answer_to_a_body_that_is_still_to_come_resets_no_stream_unless_it_does_not_end() {
    const POST: &[u8] = b"\x83\x84\x86\x41\x01t";
    const HEADERS: u8 = 1;
    const RST_STREAM: u8 = 3;
    // Without an endpoint, and without a backend: on both sides of being let in.
    for has_backend in [true, false] {
        let proxy = Setup::to(&[]).start().await;
        if !has_backend {
            proxy.controller.remove_backend(BACKEND);
            eventually("it is gone", || async { proxy.get("/").await.status == 500 }).await;
        }
        let Raw { mut stream, .. } = raw(&proxy).await;
        stream.write_all(&frame(1, 4, 1, POST)).await.unwrap();
        let frames = heard(&mut stream).await;
        assert!(frames.contains(&(HEADERS, 1)) && !frames.contains(&(RST_STREAM, 1)), "answered: {frames:?}");
        stream.write_all(&frame(0, 1, 1, b"hello")).await.unwrap();
        assert!(!heard(&mut stream).await.contains(&(RST_STREAM, 1)), "its body is over");
        // One that does not end.
        stream.write_all(&frame(1, 4, 3, POST)).await.unwrap();
        let mut frames = Vec::new();
        while frames.len() < 50 && !frames.contains(&(RST_STREAM, 3)) {
            frames.extend(heard(&mut stream).await);
            frames.push((0xff, 0));
        }
        assert!(frames.contains(&(RST_STREAM, 3)), "{frames:?}");
    }
}

#[tokio::test]
async fn a_deadline_of_grpc_ends_a_call_in_words_that_its_client_knows() {
    let endpoint = grpc_endpoint().await;
    let silent = RawBackend::new(|stream, _| async move {
        let _ = Raw::over(stream).rest().await;
    })
    .await;
    let mut setup = h2c(Setup::to(&[endpoint.address]));
    setup.workers = 1;
    let proxy = setup.start().await;
    let mut sender = client(proxy.address()).await;
    let began = clock::now();
    // Within its answer.
    let answer = sender.send_request(grpc("/slow", Some("300m"))).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    let (_, trailers) = body_of(answer).await;
    assert_eq!(trailers["grpc-status"], "4", "{trailers:?}");
    assert!(
        (Duration::from_millis(250)..Duration::from_secs(3)).contains(&clock::now().since(began)),
        "{:?}",
        clock::now().since(began)
    );
    // Before it.
    let proxy = Setup::to(&[silent.address]).start().await;
    let mut sender = client(proxy.address()).await;
    let answer = sender.send_request(grpc("/x", Some("200m"))).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    let headers = answer.headers().clone();
    assert_eq!(
        (&headers["grpc-status"], &headers["content-type"]),
        (&"4".parse().unwrap(), &"application/grpc".parse().unwrap())
    );
    assert_eq!(headers["x-trimtab-reason"], "upstream_timeout");
    // The same failure to a request that is not gRPC.
    let proxy = Setup::to(&[]).start().await;
    let mut sender = client(proxy.address()).await;
    let answer = sender.send_request(request("/", "")).await.unwrap();
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    let answer = sender.send_request(grpc("/x", None)).await.unwrap();
    assert_eq!((answer.status(), &answer.headers()["grpc-status"]), (StatusCode::OK, &"14".parse().unwrap()));
}

/// A frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// `GET http://t/`
pub const HEAD: &[u8] = b"\x82\x84\x86\x41\x01t";

pub async fn raw(proxy: &Proxy) -> Raw {
    let mut raw = proxy.raw().await;
    raw.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    raw.write(frame(4, 0, 0, &[])).await;
    raw
}

#[tokio::test]
async fn a_connection_without_streams_is_told_to_go_and_requests_in_flight_finish_when_draining() {
    let backend = Backend::new(|request| async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        echo(request).await
    })
    .await;
    let limits = v1::ListenerLimits { idle_timeout_ms: Some(200), ..Default::default() };
    let proxy = Setup::to(&[backend.address]).limits(limits).start().await;
    let mut sender = client(proxy.address()).await;
    // Longer than idle connections may last, and not idle.
    assert_eq!(body_of(sender.send_request(request("/", "hello")).await.unwrap()).await.0, "hello");
    eventually("it is closed", || async { sender.is_closed() }).await;

    let proxy = Setup::to(&[backend.address]).start().await;
    let mut sender = client(proxy.address()).await;
    let answer = sender.send_request(request("/", "hello"));
    let answer = tokio::spawn(answer);
    eventually("it is in flight", || async { backend.inside() > 0 }).await;
    let stopped = tokio::spawn(proxy.stop());
    assert_eq!(body_of(answer.await.unwrap().unwrap()).await.0, "hello");
    stopped.await.unwrap().unwrap();
    eventually("it is closed", || async { sender.is_closed() }).await;
}

#[tokio::test]
async fn a_target_that_contradicts_its_host_is_refused_over_http_2_too() {
    let backend = Backend::new(echo).await;
    let proxy = Setup::to(&[backend.address]).start().await;
    let mut sender = client(proxy.address()).await;
    let mut contradicts = request("/", "");
    contradicts.headers_mut().insert("host", "b.test".parse().unwrap());
    let answer = sender.send_request(contradicts).await.unwrap();
    assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
    let mut connect = request("/", "");
    *connect.method_mut() = http::Method::CONNECT;
    *connect.uri_mut() = "a.test:80".parse().unwrap();
    let answer = sender.send_request(connect).await.unwrap();
    assert_eq!(answer.status(), StatusCode::NOT_IMPLEMENTED);
    assert_eq!(backend.requests(), 0);
    // The connection goes on.
    assert_eq!(sender.send_request(request("/", "")).await.unwrap().status(), StatusCode::OK);
}

/// A header without compression.
pub fn literal(name: &str, value: &str) -> Vec<u8> {
    assert!(name.len() < 127 && value.len() < 127);
    [&[0, name.len() as u8][..], name.as_bytes(), &[value.len() as u8], value.as_bytes()].concat()
}

#[tokio::test]
async fn what_http_2_can_say_and_http_1_cannot_goes_no_further() {
    let backend = Backend::new(echo).await;
    let mut setup = Setup::to(&[backend.address]);
    setup.workers = 1;
    let proxy = setup.start().await;
    let usual = [(":method", "POST"), (":scheme", "http"), (":authority", "t"), (":path", "/")];
    // What replaces a usual field, or is added to them.
    let mut cases: Vec<Vec<(&str, &str)>> = Vec::new();
    for field in [
        ("transfer-encoding", "chunked"),
        ("connection", "close"),
        ("keep-alive", "5"),
        ("proxy-connection", "x"),
        ("upgrade", "websocket"),
        ("content-length", "5"),
        ("content-length", "+0"),
        ("content-length", "0, 0"),
        ("te", "gzip"),
        ("host", "u"),
        ("X-Upper", "1"),
        ("a b", "1"),
        ("a:b", "1"),
        ("a\r\nb", "1"),
        ("", "1"),
        ("x", "a\r\nb: c"),
        ("x", "a\nb"),
        ("x", "a\rb"),
        ("x", "a\0b"),
        (":path", "/again"),
        (":status", "200"),
        (":x", "y"),
    ] {
        cases.push(usual.into_iter().chain([field]).collect());
    }
    for field in [
        (":path", "/a b"),
        (":path", "/\r\nx: y"),
        (":path", "/ HTTP/1.1\r\nhost: u\r\n\r\nGET /smuggled"),
        (":path", ""),
        (":path", "a"),
        (":method", "GET / HTTP/1.1\r\nx"),
        (":method", "G T"),
        (":method", ""),
        (":authority", "t\r\nx: y"),
        (":authority", "u@t"),
        (":authority", "t/u"),
        (":authority", "t u"),
        (":scheme", "ftp"),
        (":scheme", "http://u/"),
    ] {
        cases.push(usual.into_iter().map(|known| if known.0 == field.0 { field } else { known }).collect());
    }
    // Pseudo-headers after others, missing, and two lengths.
    cases.push([&usual[1..], &[("x", "y")], &usual[..1]].concat());
    (0..4).filter(|missing| *missing != 2).for_each(|missing| {
        cases.push(usual.iter().enumerate().filter(|(at, _)| *at != missing).map(|(_, field)| *field).collect());
    });
    cases.push(usual.into_iter().chain([("content-length", "0"), ("content-length", "1")]).collect());
    let total = cases.len();
    for fields in cases {
        let mut raw = raw(&proxy).await;
        let head: Vec<u8> = fields.iter().flat_map(|(name, value)| literal(name, value)).collect();
        // With the end of the stream: there is no body, whatever the fields say of one.
        let _ = raw.stream.write_all(&frame(1, 5, 1, &head)).await;
        // Asked for a sign of life, which comes after what was made of the stream.
        let _ = raw.stream.write_all(&frame(6, 0, 0, b"12345678")).await;
        let mut answer = Vec::new();
        let read = async {
            use tokio::io::AsyncReadExt;
            while raw.stream.read_buf(&mut answer).await.is_ok_and(|read| read > 0) {
                if answer.windows(8).any(|window| window == b"12345678") {
                    return;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(5), read).await.expect("an answer or the end");
        tokio::time::sleep(Duration::from_millis(5)).await;
        assert_eq!(backend.requests(), 0, "{fields:?} was forwarded as {:?}", backend.seen.lock().unwrap());
    }
    assert!(total >= 40, "{total}");
    // The usual fields alone are a request.
    let mut raw = raw(&proxy).await;
    let head: Vec<u8> = usual.iter().flat_map(|(name, value)| literal(name, value)).collect();
    raw.write(frame(1, 5, 1, &head)).await;
    eventually("it comes", || async { backend.requests() == 1 }).await;
}

#[tokio::test]
async fn requests_without_a_body_get_answers_of_every_length_on_connections_that_are_used_again() {
    let connections = Arc::new(AtomicUsize::new(0));
    let opened = connections.clone();
    let backend = RawBackend::new(move |stream, _| {
        opened.fetch_add(1, SeqCst);
        async move {
            let mut raw = Raw::over(stream);
            loop {
                let request = raw.head_of_request().await;
                let path = request.header("x-path").unwrap().to_owned();
                let answer = match path.as_str() {
                    "sized" => "HTTP/1.1 200 OK\r\ncontent-length: 5\r\nkeep-alive: x\r\n\r\nhello".to_owned(),
                    "large" => format!("HTTP/1.1 200 OK\r\ncontent-length: 300000\r\n\r\n{}", "x".repeat(300_000)),
                    "chunked" => {
                        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhe\r\n3;a=b\r\nllo\r\n0\r\n\r\n"
                            .to_owned()
                    }
                    "head" => "HTTP/1.1 200 OK\r\ncontent-length: 77\r\n\r\n".to_owned(),
                    "none" => "HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n".to_owned(),
                    "closed" => "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nhello".to_owned(),
                    "broken" => "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhello".to_owned(),
                    _ => "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nhe".to_owned(),
                };
                // In two pieces, with the head torn.
                raw.write(&answer[..12]).await;
                tokio::time::sleep(Duration::from_millis(5)).await;
                raw.write(&answer[12..]).await;
                if ["closed", "broken", "twice"].contains(&path.as_str()) {
                    return;
                }
            }
        }
    })
    .await;
    for fast_path in [true, false] {
        let mut setup = Setup::to(&[backend.address]).fast_path(fast_path);
        setup.workers = 1;
        let proxy = setup.start().await;
        let mut sender = client(proxy.address()).await;
        let mut get = async |method: &str, path: &'static str| {
            let mut request = request("/", "");
            *request.method_mut() = method.parse().unwrap();
            request.headers_mut().insert("x-path", HeaderValue::from_static(path));
            // A stream that is reset at once may lose its head with it.
            let Ok(answer) = sender.send_request(request).await else { return (0, None, None) };
            let (status, length) = (answer.status().as_u16(), answer.headers().get("content-length").cloned());
            assert!(!answer.headers().contains_key("keep-alive") && !answer.headers().contains_key("connection"));
            let body = answer.into_body().collect().await.map(|body| body.to_bytes()).ok();
            (status, length.map(|length| length.to_str().unwrap().to_owned()), body)
        };
        let before = connections.load(SeqCst);
        let hello = Some(Bytes::from_static(b"hello"));
        for _ in 0..2 {
            assert_eq!(get("GET", "sized").await, (200, Some("5".to_owned()), hello.clone()));
            let (status, _, body) = get("GET", "large").await;
            assert_eq!((status, body.map(|body| body.len())), (200, Some(300_000)));
            let (status, _, body) = get("POST", "chunked").await;
            assert_eq!((status, body), (200, hello.clone()));
            assert_eq!(get("HEAD", "head").await, (200, Some("77".to_owned()), Some(Bytes::new())));
            assert_eq!(get("GET", "none").await.0, 204);
        }
        assert_eq!(connections.load(SeqCst) - before, 1, "fast path {fast_path}: all on one");
        assert_eq!(get("GET", "closed").await.2, hello);
        let (status, _, body) = get("GET", "broken").await;
        assert!([0, 200].contains(&status) && body.is_none(), "it breaks off there as well: {status}, {body:?}");
        assert_eq!(get("GET", "twice").await.0, 502);
        assert_eq!(get("GET", "sized").await.2, hello);
    }
}
