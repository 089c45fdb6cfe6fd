//! WebSocket over HTTP/2 (RFC 8441), to endpoints that speak HTTP/1.1. What goes through the tunnel is bytes; frames are the two ends' business.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::{body::Incoming, ext::Protocol, upgrade::Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    harness::{Answer, Backend, Proxy, Raw, RawBackend, Setup, eventually, text},
    http2::{self, Sender},
};

fn accept(key: &str) -> String {
    use base64::{Engine, prelude::BASE64_STANDARD};
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    BASE64_STANDARD.encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes()))
}

/// Reads the handshake and answers it, as RFC 6455 says or otherwise.
async fn handshake(raw: &mut Raw, honest: bool) -> Answer {
    let head = raw.head_of_request().await;
    let key = head.header("sec-websocket-key").expect("a key").to_owned();
    let accept = if honest { accept(&key) } else { accept("another key") };
    raw.write(format!(
        "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: {accept}\r\n\
         sec-websocket-protocol: chat\r\n\r\n"
    ))
    .await;
    head
}

/// An endpoint that sends back what comes, and notes the heads of the handshakes.
async fn echo(honest: bool) -> (RawBackend, Arc<std::sync::Mutex<Vec<Answer>>>) {
    let heads: Arc<std::sync::Mutex<Vec<Answer>>> = Arc::default();
    let noted = heads.clone();
    let backend = RawBackend::new(move |stream, _| {
        let noted = noted.clone();
        async move {
            let mut raw = Raw::over(stream);
            let head = handshake(&mut raw, honest).await;
            noted.lock().unwrap().push(head);
            let (mut reader, mut writer) = raw.stream.split();
            let _ = tokio::io::copy(&mut reader, &mut writer).await;
        }
    })
    .await;
    (backend, heads)
}

/// A client that has heard that it may ask.
async fn client(address: SocketAddr) -> Sender {
    let mut sender = http2::client(address).await;
    let plain = http2::request("/no/route/needs/to/answer", "");
    sender.send_request(plain).await.unwrap();
    sender
}

async fn ask(sender: &mut Sender, protocol: Option<&'static str>) -> Response<Incoming> {
    let mut request = Request::new(Empty::<Bytes>::new().boxed());
    *request.method_mut() = Method::CONNECT;
    *request.uri_mut() = if protocol.is_some() { "http://a.test/chat?room=1" } else { "a.test:80" }.parse().unwrap();
    request.headers_mut().insert("sec-websocket-version", "13".parse().unwrap());
    request.headers_mut().insert("sec-websocket-protocol", "chat".parse().unwrap());
    if let Some(protocol) = protocol {
        request.extensions_mut().insert(Protocol::from_static(protocol));
    }
    sender.send_request(request).await.unwrap()
}

/// In flight at the one endpoint, as the proxy reports it.
fn in_flight(proxy: &Proxy) -> u32 {
    let loads = proxy.controller.loads();
    loads
        .iter()
        .flat_map(|load| &load.backends)
        .flat_map(|backend| &backend.endpoints)
        .last()
        .map_or(0, |e| e.in_flight)
}

/// A proxy that sends `/chat` to the endpoint and answers the rest by itself.
async fn start(endpoint: SocketAddr) -> Proxy {
    use trimtab_proxy::api::v1;
    let path = v1::PathMatch { kind: v1::path_match::Kind::Prefix.into(), value: "/chat".into() };
    // Found like a handshake over HTTP/1.1, which is a GET.
    let matches = vec![v1::RouteMatch { path: Some(path), method: Some("GET".into()), ..Default::default() }];
    Setup::to(&[endpoint]).rule(|rule| rule.matches = matches).start().await
}

#[tokio::test]
async fn a_web_socket_goes_from_a_stream_to_an_endpoint_and_back_beside_others() {
    let (backend, heads) = echo(true).await;
    let proxy = start(backend.address).await;
    let mut sender = client(proxy.address()).await;
    let mut sockets = Vec::new();
    for number in 0..3 {
        let answer = ask(&mut sender, Some("websocket")).await;
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.headers()["sec-websocket-protocol"], "chat");
        for hop in ["connection", "upgrade", "sec-websocket-accept"] {
            assert!(!answer.headers().contains_key(hop), "{hop}");
        }
        let mut socket: TokioIo<Upgraded> = TokioIo::new(hyper::upgrade::on(answer).await.unwrap());
        socket.write_all(format!("hello {number}").as_bytes()).await.unwrap();
        let mut came = [0; 7];
        socket.read_exact(&mut came).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&came), format!("hello {number}"));
        sockets.push(socket);
    }
    {
        let heads = heads.lock().unwrap();
        let keys: std::collections::HashSet<_> = heads.iter().map(|head| head.header("sec-websocket-key")).collect();
        assert_eq!(keys.len(), 3, "each handshake has a key of its own");
        assert_eq!(heads[0].header("sec-websocket-version"), Some("13"));
        assert_eq!((heads[0].header("upgrade"), heads[0].header("host")), (Some("websocket"), Some("a.test")));
    }
    eventually("they are in flight", || async { in_flight(&proxy) == 3 }).await;
    // One is closed in both directions, one is reset, and the last goes on.
    let mut last = sockets.pop().unwrap();
    let mut closed = sockets.pop().unwrap();
    closed.shutdown().await.unwrap();
    assert_eq!(closed.read(&mut [0; 8]).await.unwrap(), 0);
    drop(sockets);
    eventually("one is", || async { in_flight(&proxy) == 1 }).await;
    last.write_all(b"still").await.unwrap();
    let mut came = [0; 5];
    last.read_exact(&mut came).await.unwrap();
    assert_eq!(&came, b"still");
    drop((last, closed, sender));
    eventually("none is", || async { in_flight(&proxy) == 0 }).await;
}

#[tokio::test]
async fn a_client_that_does_not_read_its_web_socket_holds_the_endpoint_back() {
    let written: Arc<AtomicUsize> = Arc::default();
    let counted = written.clone();
    let backend = RawBackend::new(move |stream, _| {
        let counted = counted.clone();
        async move {
            let mut raw = Raw::over(stream);
            handshake(&mut raw, true).await;
            let block = vec![7; 64 << 10];
            while raw.stream.write_all(&block).await.is_ok() {
                counted.fetch_add(block.len(), SeqCst);
            }
        }
    })
    .await;
    let proxy = start(backend.address).await;
    let mut sender = client(proxy.address()).await;
    let answer = ask(&mut sender, Some("websocket")).await;
    let socket = hyper::upgrade::on(answer).await.unwrap();
    let mut before = usize::MAX;
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let now = written.load(SeqCst);
        if now == before {
            break;
        }
        before = now;
    }
    // Buffers of two sockets and of the stream; the endpoint would write as much as it can.
    assert!(before < 48 << 20, "{} MiB were taken", before >> 20);
    // Others on the connection are served meanwhile.
    let other = sender.send_request(http2::request("/none", "")).await.unwrap();
    assert_eq!(other.status(), StatusCode::NOT_FOUND);
    drop(socket);
}

#[tokio::test]
async fn an_endpoint_that_does_not_switch_as_it_should_makes_no_web_socket() {
    let (liar, _) = echo(false).await;
    let answer = ask(&mut client(start(liar.address).await.address()).await, Some("websocket")).await;
    assert_eq!(
        (answer.status(), &answer.headers()["x-trimtab-reason"]),
        (StatusCode::BAD_GATEWAY, &"upstream_protocol_error".parse().unwrap())
    );
    // A good answer would tell the client to go on.
    for (status, expected) in [(200, 502), (403, 403), (426, 426)] {
        let backend = Backend::new(move |_| async move {
            let mut answer = text("no");
            *answer.status_mut() = StatusCode::from_u16(status).unwrap();
            answer
        })
        .await;
        let proxy = start(backend.address).await;
        let answer = ask(&mut client(proxy.address()).await, Some("websocket")).await;
        assert_eq!(answer.status().as_u16(), expected, "{status}");
        if expected == status {
            assert_eq!(http2::body_of(answer).await.0, "no");
        }
        eventually("it is counted out", || async { in_flight(&proxy) == 0 }).await;
    }
}

#[tokio::test]
async fn other_connects_are_not_done() {
    let (backend, heads) = echo(true).await;
    let proxy = start(backend.address).await;
    let mut sender = client(proxy.address()).await;
    for protocol in [Some("connect-udp"), None] {
        let answer = ask(&mut sender, protocol).await;
        assert_eq!(answer.status(), StatusCode::NOT_IMPLEMENTED, "{protocol:?}");
    }
    assert!(heads.lock().unwrap().is_empty());
}
