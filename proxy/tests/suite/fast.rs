//! What a hand-written path could get wrong: messages in pieces, early and interim answers, and connections that stay in step.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use http_body_util::BodyExt;
use rand::{Rng, SeedableRng, rngs::SmallRng};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::harness::{Backend, Proxy, RawBackend, Setup, eventually, text};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

async fn read_until(stream: &mut TcpStream, seen: &mut Vec<u8>, end: &[u8]) -> bool {
    while !seen.ends_with(end) {
        if stream.read_buf(seen).await.unwrap_or(0) == 0 {
            return false;
        }
    }
    true
}

/// Answers each request, on each connection, with the next of these; then closes.
async fn answering(answers: &'static [&'static [u8]]) -> RawBackend {
    RawBackend::new(move |mut stream, _| async move {
        for answer in answers {
            let mut seen = Vec::new();
            // What comes of a body comes with the head here.
            while !seen.windows(4).any(|window| window == b"\r\n\r\n") {
                if stream.read_buf(&mut seen).await.unwrap_or(0) == 0 {
                    return;
                }
            }
            if stream.write_all(answer).await.is_err() {
                return;
            }
        }
    })
    .await
}

pub async fn echo() -> (Backend, Proxy) {
    let backend = Backend::new(|request| async move {
        let body = request.into_body().collect().await.unwrap();
        text(body.to_bytes())
    })
    .await;
    let proxy = Setup::to(&[backend.address]).start().await;
    (backend, proxy)
}

#[tokio::test]
async fn a_request_and_an_answer_may_come_byte_by_byte() {
    let seen: Arc<Mutex<Vec<u8>>> = Arc::default();
    let noted = seen.clone();
    let backend = RawBackend::new(move |mut stream, _| {
        let noted = noted.clone();
        async move {
            stream.set_nodelay(true).unwrap();
            let mut bytes = Vec::new();
            read_until(&mut stream, &mut bytes, b"\r\n0\r\n\r\n").await;
            *noted.lock().unwrap() = bytes;
            let answer = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3;x\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
            for byte in answer {
                stream.write_all(&[*byte]).await.unwrap();
                tokio::time::sleep(Duration::from_micros(200)).await;
            }
            read_until(&mut stream, &mut Vec::new(), b"\r\n\r\n").await;
            stream.write_all(OK).await.unwrap();
        }
    })
    .await;
    let proxy = Setup::to(&[backend.address]).start().await;
    let mut raw = proxy.raw().await;
    let request = "POST /a HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n2;ext=1\r\nhi\r\n4\r\n you\r\n0\r\nx-t: 1\r\n\r\n";
    for byte in request.as_bytes() {
        raw.write([*byte]).await;
        tokio::time::sleep(Duration::from_micros(200)).await;
    }
    assert_eq!(raw.answer().await.body, "abcde");
    raw.write("GET / HTTP/1.1\r\nhost: t\r\n\r\n").await;
    assert_eq!(raw.answer().await.body, "ok", "both connections are in step");
    let seen = String::from_utf8(seen.lock().unwrap().clone()).unwrap();
    let (head, body) = seen.split_once("\r\n\r\n").unwrap();
    assert!(
        head.starts_with("POST /a HTTP/1.1\r\nhost: t\r\n") && head.contains("\r\ntransfer-encoding: chunked"),
        "{head}"
    );
    assert!(!body.contains("ext") && !body.contains("x-t"), "chunks are written anew: {body:?}");
    let content: String = body.split("\r\n").skip(1).step_by(2).collect();
    assert_eq!(content, "hi you");
}

#[tokio::test]
async fn interim_answers_are_not_the_answer() {
    let backend = answering(&[
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
        b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
        OK,
    ])
    .await;
    let proxy = Setup::to(&[backend.address]).start().await;
    let mut raw = proxy.raw().await;
    for (status, body) in [(200, "ok"), (204, ""), (200, "ok")] {
        raw.write("GET / HTTP/1.1\r\nhost: t\r\n\r\n").await;
        let answer = raw.answer().await;
        assert_eq!((answer.status, answer.body.as_str()), (status, body));
    }
}

#[tokio::test]
async fn a_protocol_that_nobody_asked_for_is_answered_502() {
    let backend = answering(&[b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n"]).await;
    let proxy = Setup::to(&[backend.address]).start().await;
    let answer = proxy.get("/").await;
    assert_eq!((answer.status, answer.reason()), (502, Some("upstream_protocol_error")));
}

#[tokio::test]
async fn what_an_endpoint_sends_too_much_is_nobodys_answer() {
    let smuggled: &[&[u8]] = &[
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil",
        b"HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil",
        b"HTTP/1.1 304 Not Modified\r\ncontent-length: 4\r\n\r\nevil",
    ];
    for answer in smuggled {
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = connections.clone();
        let backend = RawBackend::new(move |mut stream, _| {
            counted.fetch_add(1, SeqCst);
            async move {
                while read_until(&mut stream, &mut Vec::new(), b"\r\n\r\n").await {
                    let _ = stream.write_all(answer).await;
                }
            }
        })
        .await;
        let mut setup = Setup::to(&[backend.address]);
        setup.workers = 1;
        let proxy = setup.start().await;
        for n in 1..=3 {
            let answer = proxy.get("/").await;
            assert_ne!(answer.body, "evil");
            assert_eq!(connections.load(SeqCst), n, "the connection is not used again");
        }
    }
}

#[tokio::test]
async fn answers_without_a_body_leave_the_connections_in_step() {
    let backend = answering(&[
        b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n",
        b"HTTP/1.1 304 Not Modified\r\ncontent-length: 1000\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
        OK,
    ])
    .await;
    let proxy = Setup::to(&[backend.address]).start().await;
    let mut raw = proxy.raw().await;
    for (method, status, length) in
        [("HEAD", 200, Some("1000")), ("GET", 304, None), ("GET", 204, None), ("HEAD", 200, None)]
    {
        raw.write(format!("{method} / HTTP/1.1\r\nhost: t\r\n\r\n")).await;
        let head = raw.head().await;
        assert_eq!((head.status, head.header("content-length")), (status, length));
    }
    raw.write("GET / HTTP/1.1\r\nhost: t\r\n\r\n").await;
    assert_eq!(raw.answer().await.body, "ok");
}

#[tokio::test]
async fn an_answer_that_ends_with_its_connection_leaves_the_clients_connection_open() {
    let backend = answering(&[b"HTTP/1.0 200 OK\r\n\r\nall of it"]).await;
    let proxy = Setup::to(&[backend.address]).start().await;
    let mut raw = proxy.raw().await;
    for _ in 0..3 {
        raw.write("GET / HTTP/1.1\r\nhost: t\r\n\r\n").await;
        let answer = raw.answer().await;
        assert_eq!((answer.body.as_str(), answer.header("transfer-encoding")), ("all of it", Some("chunked")));
    }
}

#[tokio::test]
async fn an_old_endpoint_that_keeps_its_connection_gets_the_next_request_on_it() {
    let backend = answering(&[b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 3\r\n\r\nold", OK]).await;
    let mut setup = Setup::to(&[backend.address]);
    setup.workers = 1;
    let proxy = setup.start().await;
    assert_eq!([proxy.get("/").await.body, proxy.get("/").await.body, proxy.get("/").await.body], ["old", "ok", "old"]);
}

#[tokio::test]
async fn an_answer_may_begin_before_the_upload_has_ended() {
    // It sends back what it gets, as it gets it.
    let backend = RawBackend::new(|mut stream, _| async move {
        let mut seen = Vec::new();
        while !seen.windows(4).any(|window| window == b"\r\n\r\n") {
            stream.read_buf(&mut seen).await.unwrap();
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n").await.unwrap();
        let mut block = vec![0; 4096];
        for _ in 0..5 {
            stream.read_exact(&mut block[..100]).await.unwrap();
            stream.write_all(&block[..100]).await.unwrap();
        }
        read_until(&mut stream, &mut Vec::new(), b"\r\n\r\n").await;
        stream.write_all(OK).await.unwrap();
    })
    .await;
    let proxy = Setup::to(&[backend.address]).start().await;
    let mut raw = proxy.raw().await;
    raw.write("POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 500\r\n\r\n").await;
    assert_eq!(raw.head().await.status, 200);
    for n in 0..5_u8 {
        raw.write([n; 100]).await;
        assert_eq!(raw.bytes(100).await, [n; 100]);
    }
    raw.write("GET / HTTP/1.1\r\nhost: t\r\n\r\n").await;
    assert_eq!(raw.answer().await.body, "ok", "both connections are in step");
}

#[tokio::test]
async fn an_unread_upload_ends_the_connection_after_its_answer() {
    let backend = RawBackend::new(|mut stream, _| async move {
        let mut seen = Vec::new();
        while !seen.windows(4).any(|window| window == b"\r\n\r\n") {
            stream.read_buf(&mut seen).await.unwrap();
        }
        stream.write_all(b"HTTP/1.1 413 No\r\ncontent-length: 2\r\n\r\nno").await.unwrap();
        tokio::time::sleep(Duration::from_secs(5)).await;
    })
    .await;
    let proxy = Setup::to(&[backend.address]).start().await;
    let mut raw = proxy.raw().await;
    raw.write("POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 1000\r\n\r\nsome").await;
    let answer = raw.answer().await;
    assert_eq!((answer.status, answer.body.as_str()), (413, "no"));
    // What looks like a request is part of the body, and answered by nobody.
    let _ = raw.stream.write_all(b"GET / HTTP/1.1\r\nhost: t\r\n\r\n").await;
    raw.is_closed().await;
}

#[tokio::test]
async fn many_requests_at_once_are_answered_in_order() {
    let (_backend, proxy) = echo().await;
    let mut raw = proxy.raw().await;
    let request = |n: usize| {
        let body = "x".repeat(n * 7 % 300);
        if n.is_multiple_of(3) {
            let chunks: String =
                body.as_bytes().chunks(50).map(|c| format!("{:x}\r\n{}\r\n", c.len(), "x".repeat(c.len()))).collect();
            format!("POST / HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n{chunks}0\r\n\r\n")
        } else {
            format!("POST / HTTP/1.1\r\nhost: t\r\ncontent-length: {}\r\n\r\n{body}", body.len())
        }
    };
    raw.write((0..200).map(request).collect::<String>()).await;
    for n in 0..200 {
        assert_eq!(raw.answer().await.body.len(), n * 7 % 300);
    }
}

#[tokio::test]
async fn long_bodies_arrive_as_they_were_sent() {
    let (_backend, proxy) = echo().await;
    let body: String =
        (0..1_000_000_u32).map(|n| char::from(b'a' + (n.wrapping_mul(2_654_435_761) >> 27) as u8 % 26)).collect();
    for chunked in [false, true] {
        let mut raw = proxy.raw().await;
        let (mut reader, mut writer) = raw.stream.split();
        let send = async {
            if chunked {
                writer
                    .write_all(b"POST / HTTP/1.1\r\nhost: t\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n")
                    .await
                    .unwrap();
                for (index, chunk) in body.as_bytes().chunks(77_777).enumerate() {
                    writer.write_all(format!("{:X};n={index}\r\n", chunk.len()).as_bytes()).await.unwrap();
                    writer.write_all(chunk).await.unwrap();
                    writer.write_all(b"\r\n").await.unwrap();
                }
                writer.write_all(b"0\r\n\r\n").await.unwrap();
            } else {
                let head = format!(
                    "POST / HTTP/1.1\r\nhost: t\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
                    body.len()
                );
                writer.write_all(head.as_bytes()).await.unwrap();
                writer.write_all(body.as_bytes()).await.unwrap();
            }
        };
        let mut answer = Vec::new();
        let (_, read) = tokio::join!(send, reader.read_to_end(&mut answer));
        read.unwrap();
        assert!(answer.ends_with(body.as_bytes()), "chunked: {chunked}");
    }
}

#[tokio::test]
async fn a_client_that_breaks_off_its_upload_breaks_off_the_endpoints_too() {
    let ended = Arc::new(AtomicUsize::new(0));
    let counted = ended.clone();
    let backend = RawBackend::new(move |mut stream, _| {
        let counted = counted.clone();
        async move {
            let mut seen = Vec::new();
            while stream.read_buf(&mut seen).await.is_ok_and(|read| read > 0) {}
            assert!(!seen.ends_with(b"0\r\n\r\n"), "a broken body does not end well");
            counted.fetch_add(1, SeqCst);
        }
    })
    .await;
    let proxy = Setup::to(&[backend.address]).start().await;
    for framing in [
        "content-length: 100\r\n\r\nsome",
        "transfer-encoding: chunked\r\n\r\n64\r\nsome",
        "transfer-encoding: chunked\r\n\r\n4\r\nsome\r\n",
    ] {
        let mut raw = proxy.raw().await;
        raw.write(format!("POST / HTTP/1.1\r\nhost: t\r\n{framing}")).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    eventually("all have ended", || async { ended.load(SeqCst) == 3 }).await;
}

#[tokio::test]
async fn a_client_that_goes_during_its_answer_is_counted_as_cancelled() {
    let backend = RawBackend::new(|mut stream, _| async move {
        read_until(&mut stream, &mut Vec::new(), b"\r\n\r\n").await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nsome").await;
        let _ = stream.read(&mut [0]).await;
    })
    .await;
    let proxy = Setup::to(&[backend.address]).start().await;
    let mut raw = proxy.raw().await;
    raw.write("GET / HTTP/1.1\r\nhost: t\r\n\r\n").await;
    raw.head().await;
    drop(raw);
    let reported = || {
        let loads = proxy.controller.loads();
        let endpoints = || loads.iter().flat_map(|load| &load.backends).flat_map(|backend| &backend.endpoints);
        (endpoints().last().map_or(0, |e| e.in_flight), endpoints().map(|e| e.cancelled).sum::<u64>())
    };
    eventually("it is cancelled", || async { reported() == (0, 1) }).await;
}

#[tokio::test]
async fn an_endpoint_that_has_closed_while_idle_costs_no_request() {
    let backend = answering(&[OK]).await;
    let mut setup = Setup::to(&[backend.address]);
    setup.workers = 1;
    let proxy = setup.start().await;
    let mut raw = proxy.raw().await;
    for (method, body) in [("POST", "hello"), ("GET", ""), ("POST", "x"), ("DELETE", "")] {
        raw.write(format!("{method} / HTTP/1.1\r\nhost: t\r\ncontent-length: {}\r\n\r\n{body}", body.len())).await;
        assert_eq!(raw.answer().await.status, 200, "{method}");
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
}

#[tokio::test]
async fn only_what_may_be_repeated_is_sent_twice_when_a_used_connection_breaks() {
    let requests: Arc<Mutex<Vec<String>>> = Arc::default();
    let noted = requests.clone();
    // The first answer on a connection is good; the second request is read and left without one.
    let backend = RawBackend::new(move |mut stream, _| {
        let noted = noted.clone();
        async move {
            for turn in 0..2 {
                let mut seen = Vec::new();
                if !read_until(&mut stream, &mut seen, b"\r\n\r\n").await {
                    return;
                }
                let line = String::from_utf8_lossy(&seen).lines().next().unwrap().to_owned();
                noted.lock().unwrap().push(line);
                if turn == 0 {
                    stream.write_all(OK).await.unwrap();
                }
            }
        }
    })
    .await;
    let mut setup = Setup::to(&[backend.address]);
    setup.workers = 1;
    let proxy = setup.start().await;
    let mut raw = proxy.raw().await;
    for (line, status) in [("GET /x1", 200), ("GET /x2", 200), ("POST /x3", 502), ("GET /x4", 200), ("DELETE /x5", 200)]
    {
        raw.write(format!("{line} HTTP/1.1\r\nhost: t\r\ncontent-length: 0\r\n\r\n")).await;
        assert_eq!(raw.answer().await.status, status, "{line}");
    }
    let count = |path: &str| requests.lock().unwrap().iter().filter(|line| line.contains(path)).count();
    assert_eq!(["/x1", "/x2", "/x3", "/x4", "/x5"].map(count), [1, 2, 1, 1, 2]);
}

#[tokio::test]
async fn a_head_of_an_answer_may_be_large_and_not_too_large() {
    for (size, status) in [(10 << 10, 200), (200 << 10, 200), (1 << 20, 502)] {
        let backend = RawBackend::new(move |mut stream, _| async move {
            read_until(&mut stream, &mut Vec::new(), b"\r\n\r\n").await;
            let head = format!("HTTP/1.1 200 OK\r\nx: {}\r\ncontent-length: 2\r\n\r\nok", "y".repeat(size));
            let _ = stream.write_all(head.as_bytes()).await;
            let _ = stream.read(&mut [0]).await;
        })
        .await;
        let proxy = Setup::to(&[backend.address]).start().await;
        let answer = proxy.get("/").await;
        assert_eq!(answer.status, status, "{size}");
        assert_eq!(answer.header("x").map_or(0, str::len), if status == 200 { size } else { 0 });
    }
}

#[tokio::test]
async fn an_idle_connection_of_one_kind_gives_way_to_the_other_within_the_circuit_breaker() {
    let backend = Backend::saying("x").await;
    let breaker = trimtab_proxy::api::v1::CircuitBreaker { max_connections: Some(1), ..Default::default() };
    let mut setup = Setup::to(&[backend.address]).backend(|b| b.circuit_breaker = Some(breaker));
    setup.workers = 1;
    let proxy = setup.start().await;
    for te in ["", "te: trailers\r\n", "", "te: trailers\r\n"] {
        let answer = proxy.send(&format!("GET / HTTP/1.1\r\nhost: t\r\n{te}connection: close\r\n\r\n")).await;
        assert_eq!(answer.status, 200, "{te:?}");
    }
}

#[tokio::test]
async fn a_proxy_answer_to_a_request_with_a_body_leaves_the_connection_in_step_or_closes_it() {
    let proxy = Setup::to(&[]).start().await;
    let mut raw = proxy.raw().await;
    for _ in 0..2 {
        raw.write("POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 5\r\n\r\nhello").await;
        let answer = raw.answer().await;
        assert_eq!((answer.status, answer.header("connection")), (503, None));
    }
    raw.write("HEAD / HTTP/1.1\r\nhost: t\r\n\r\n").await;
    assert_eq!(raw.head().await.status, 503, "and no body");
    raw.write("POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 50\r\n\r\nhello").await;
    assert_eq!(raw.answer().await.status, 503);
    let _ = raw.stream.write_all(b"GET / HTTP/1.1\r\nhost: t\r\n\r\n").await;
    raw.is_closed().await;
}

/// Clients that break off anywhere, and endpoints that do: everything is counted out, and the proxy goes on.
#[tokio::test]
async fn a_storm_of_broken_exchanges_leaves_nothing_in_flight() {
    let backend = RawBackend::new(|mut stream, number| async move {
        let mut rng = SmallRng::seed_from_u64(number as u64);
        let mut seen = Vec::new();
        while stream.read_buf(&mut seen).await.is_ok_and(|read| read > 0) {
            if !seen.windows(4).any(|window| window == b"\r\n\r\n") {
                continue;
            }
            seen.clear();
            let answer: &[u8] = match rng.random_range(0..4) {
                0 => b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n",
                1 => b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nabc",
                _ => OK,
            };
            let end = if rng.random_bool(0.3) { rng.random_range(0..answer.len()) } else { answer.len() };
            if stream.write_all(&answer[..end]).await.is_err() || rng.random_bool(0.3) {
                return;
            }
        }
    })
    .await;
    let detection = trimtab_proxy::api::v1::OutlierDetection { disabled: true, ..Default::default() };
    let setup = Setup::to(&[backend.address, backend.address]).backend(|b| b.outlier_detection = Some(detection));
    let proxy = setup.rule(|rule| rule.request_timeout_ms = Some(300)).start().await;
    let address = proxy.address();
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..400 {
        clients.spawn(async move {
            let mut rng = SmallRng::seed_from_u64(1_000 + number);
            let requests: &[&[u8]] = &[
                b"GET / HTTP/1.1\r\nhost: t\r\n\r\n",
                b"POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 10\r\n\r\n0123456789",
                b"POST / HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
                b"POST / HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabcX",
                b"GET / HTTP/1.1\r\nhost: t\r\nte: trailers\r\n\r\n",
            ];
            let mut stream = TcpStream::connect(address).await.unwrap();
            for _ in 0..rng.random_range(1..5) {
                let request = requests[rng.random_range(0..requests.len())];
                let end = if rng.random_bool(0.2) { rng.random_range(0..request.len()) } else { request.len() };
                if stream.write_all(&request[..end]).await.is_err() {
                    return;
                }
                let patience = Duration::from_millis(rng.random_range(0..40));
                let _ = tokio::time::timeout(patience, stream.read(&mut [0; 256])).await;
            }
        });
    }
    while let Some(ended) = clients.join_next().await {
        ended.unwrap();
    }
    eventually("nothing is in flight", || async {
        let loads = proxy.controller.loads();
        loads.last().is_some_and(|load| load.backends[0].endpoints.iter().all(|endpoint| endpoint.in_flight == 0))
    })
    .await;
    // The endpoint breaks off now and then even so.
    eventually("it answers", || async {
        let mut raw = proxy.raw().await;
        raw.try_write("GET / HTTP/1.1\r\nhost: t\r\n\r\n").await.is_ok()
            && raw.try_answer().await.is_some_and(|answer| answer.status == 200)
    })
    .await;
}
