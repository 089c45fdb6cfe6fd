//! Clients that flood a connection over HTTP/2, by raw frames: each is cut off soon, told so where it reads, counted by what it sent, and in
//! nobody's way. What is sent again and again until then must not be kept.

use std::time::Duration;

use http::{HeaderValue, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use trimtab_proxy::api::v1;

use crate::{
    harness::{Backend, Proxy, Raw, Setup, eventually},
    http2::{HEAD, body_of, client, echo, frame, literal, raw, request},
};

/// The frames of each round.
type Frames = Box<dyn Fn(u32) -> Vec<u8>>;

/// What an attacker gets to write at most before it finds the connection closed, buffers of both sockets included.
const TAKEN_BYTES_MAX: usize = 64 << 20;

async fn proxy(backend: &Backend) -> Proxy {
    Setup::to(&[backend.address]).with_admin().start().await
}

async fn endpoint() -> Backend {
    Backend::new(|request| async {
        tokio::time::sleep(Duration::from_millis(5)).await;
        echo(request).await
    })
    .await
}

/// How many connections were cut off for this kind of flood.
async fn counted(proxy: &Proxy, kind: &str) -> u64 {
    let mut raw = Raw::connect(proxy.admin_address()).await;
    raw.write("GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    let metrics = raw.answer().await.body;
    let name = format!("trimtab_proxy_http2_floods_total{{kind=\"{kind}\"}} ");
    let line = metrics.lines().find_map(|line| line.strip_prefix(&name)).unwrap_or_else(|| panic!("{name}: {metrics}"));
    line.parse().unwrap()
}

/// Writes until the proxy has had enough, and reads what it says meanwhile. Says whether it was told to calm down.
async fn flood(proxy: &Proxy, what: &str, frames: &dyn Fn(u32) -> Vec<u8>) -> bool {
    let Raw { stream, .. } = raw(proxy).await;
    let (mut read, mut write) = stream.into_split();
    let reading = tokio::spawn(async move {
        let mut said = Vec::new();
        while read.read_buf(&mut said).await.is_ok_and(|read| read > 0) {
            let seen = said.len().saturating_sub(4_096);
            said.drain(..seen);
        }
        said
    });
    let writing = async {
        let mut taken = 0;
        for number in 0.. {
            let frames = frames(number);
            if write.write_all(&frames).await.is_err() {
                return;
            }
            taken += frames.len();
            assert!(taken < TAKEN_BYTES_MAX, "{what} was taken without end");
        }
    };
    tokio::time::timeout(Duration::from_secs(60), writing).await.unwrap_or_else(|_| panic!("{what}: not cut off"));
    let said = tokio::time::timeout(Duration::from_secs(60), reading).await.unwrap().unwrap();
    // A GOAWAY of which the last four bytes are ENHANCE_YOUR_CALM.
    said.windows(17).any(|frame| frame[..4] == [0, 0, 8, 7] && frame[13..] == [0, 0, 0, 0xb])
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_flood_ends_its_connection_and_no_other() {
    let backend = endpoint().await;
    let proxy = proxy(&backend).await;
    let mut sender = client(proxy.address()).await;
    let many = |frame: Vec<u8>| move |_: u32| frame.repeat(50);
    let stream = |batch: u32, n: u32| 2 * (50 * batch + n) + 1;
    let reset_at_once = move |batch: u32| {
        let pair = |n| [frame(1, 5, stream(batch, n), HEAD), frame(3, 0, stream(batch, n), &[0, 0, 0, 8])].concat();
        (0..50).flat_map(pair).collect()
    };
    // Of heads that never end (CVE-2024-27316), empty ones, and on one stream.
    let field = [&b"\x00\x01a\x7f\x81\x7e"[..], &[b'x'; 381]].concat();
    let continued = move |number: u32| if number == 0 { frame(1, 1, 1, HEAD) } else { frame(9, 0, 1, &field) };
    let continued_by_nothing =
        |number: u32| if number == 0 { frame(1, 1, 1, HEAD) } else { frame(9, 0, 1, &[]).repeat(50) };
    let open_first = |then: Vec<u8>| {
        move |number: u32| if number == 0 { frame(1, 4, 1, b"\x83\x84\x86\x41\x01t") } else { then.repeat(50) }
    };
    // One of the two ways to be cut off may win the race, but a flood is told from all else.
    let floods: [(&str, &[&str], Frames); 10] = [
        ("pings", &["ping"], Box::new(many(frame(6, 0, 0, b"12345678")))),
        ("answers to no ping", &["ping"], Box::new(many(frame(6, 1, 0, b"12345678")))),
        ("settings", &["settings"], Box::new(many(frame(4, 0, 0, &[0, 1, 0, 0, 0, 0])))),
        ("windows", &["window_update"], Box::new(many(frame(8, 0, 0, &[0, 0, 0, 1])))),
        ("priorities", &["priority"], Box::new(many(frame(2, 0, 1, &[0, 0, 0, 0, 1])))),
        ("unknown frames", &["unknown"], Box::new(many(frame(0xfa, 0, 0, b"x")))),
        ("empty data", &["empty_data"], Box::new(open_first(frame(0, 0, 1, &[])))),
        ("rapid reset", &["reset", "headers"], Box::new(reset_at_once)),
        ("continuation", &["headers"], Box::new(continued)),
        ("empty continuation", &["headers"], Box::new(continued_by_nothing)),
    ];
    for (what, kinds, frames) in floods {
        let before = async || {
            let mut sum = 0;
            for kind in kinds {
                sum += counted(&proxy, kind).await;
            }
            sum
        };
        let (was, told) = (before().await, flood(&proxy, what, &*frames).await);
        eventually(what, || async { before().await == was + 1 }).await;
        // The kernel may throw away what the client has not read when it goes on writing to a closed socket.
        eprintln!("{what}: cut off{}", if told { ", and told" } else { "" });
        let answer = sender.send_request(request("/", "hello")).await.unwrap();
        assert_eq!(body_of(answer).await.0, "hello", "others are served after {what}");
    }
    assert_eq!(proxy.get("/").await.status, 200);
}

#[tokio::test]
async fn streams_that_are_reset_slowly_before_their_answers_come_are_a_flood_too() {
    // Slower than what h2 takes for a flood: it has looked at each stream before its reset comes.
    let backend = Backend::new(|_| std::future::pending()).await;
    let proxy = proxy(&backend).await;
    let Raw { mut stream, .. } = raw(&proxy).await;
    let mut rounds = 0;
    let flooding = async {
        for number in 0..100_000u32 {
            rounds = number;
            let id = 2 * number + 1;
            let frames = [frame(1, 5, id, HEAD), frame(6, 0, 0, b"12345678")].concat();
            if stream.write_all(&frames).await.is_err() || !read_ping(&mut stream).await {
                return;
            }
            if stream.write_all(&frame(3, 0, id, &[0, 0, 0, 8])).await.is_err() {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(120), flooding).await.expect("resets were taken without end");
    assert!(rounds >= 500, "a client may reset some streams: {rounds}");
    eventually("it is counted", || async { counted(&proxy, "reset").await == 1 }).await;
    eventually("the endpoint is rid of the requests", || async { backend.inside() == 0 }).await;
}

/// Reads until a ping is answered; `false` if the connection ends first.
async fn read_ping(stream: &mut tokio::net::TcpStream) -> bool {
    let mut read = Vec::new();
    while stream.read_buf(&mut read).await.is_ok_and(|read| read > 0) {
        if read.windows(8).any(|window| window == b"12345678") {
            return true;
        }
    }
    false
}

#[tokio::test]
async fn a_client_that_resets_what_was_answered_goes_on() {
    let backend = Backend::new(echo).await;
    let proxy = proxy(&backend).await;
    let mut sender = client(proxy.address()).await;
    for _ in 0..1_500 {
        // Dropped with its body unread: the stream is reset.
        drop(sender.send_request(request("/", "hello")).await.unwrap());
    }
    let answer = sender.send_request(request("/", "hello")).await.unwrap();
    assert_eq!(body_of(answer).await.0, "hello");
    assert_eq!(counted(&proxy, "reset").await, 0);
}

#[tokio::test]
async fn a_small_head_that_unpacks_to_a_large_one_is_refused_unread() {
    let backend = endpoint().await;
    let proxy = proxy(&backend).await;
    let mut sender = client(proxy.address()).await;
    let head = b"\x82\x84\x86\x01\x01t";
    // One field of 4,000 bytes goes into the table of the connection, and is named 12,000 times: 16 KB stand for 48 MB.
    let mut field = b"\x40\x01a\x7f\xa1\x1e".to_vec();
    field.extend([b'x'; 127 + 0x21 + (0x1e << 7)]);
    let Raw { mut stream, .. } = raw(&proxy).await;
    let first = frame(1, 5, 1, &[&head[..], &field].concat());
    stream.write_all(&[first, frame(6, 0, 0, b"12345678")].concat()).await.unwrap();
    assert!(read_ping(&mut stream).await, "one such field is taken");
    eventually("it is forwarded", || async { backend.requests() == 1 }).await;
    for number in 1..20 {
        let bomb = frame(1, 5, 2 * number + 1, &[&head[..], &[0xbe; 12_000]].concat());
        let _ = stream.write_all(&[bomb, frame(6, 0, 0, b"12345678")].concat()).await;
        if !read_ping(&mut stream).await {
            break;
        }
    }
    let answer = sender.send_request(request("/", "hello")).await.unwrap();
    assert_eq!(body_of(answer).await.0, "hello", "others are served");
    assert_eq!(backend.requests(), 2, "no bomb is forwarded");
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused_and_its_connection_goes_on() {
    let backend = endpoint().await;
    let proxy = Setup::to(&[backend.address])
        .limits(v1::ListenerLimits { max_header_bytes: Some(8_000), ..Default::default() })
        .start()
        .await;
    let mut large = request("/", "");
    large.headers_mut().insert("x-large", HeaderValue::from_bytes(&[b'x'; 15_000]).unwrap());
    let mut sender = client(proxy.address()).await;
    let answer = sender.send_request(large).await;
    assert!(
        answer.is_err() || answer.is_ok_and(|answer| answer.status() == StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE)
    );
    let answer = sender.send_request(request("/", "hello")).await.unwrap();
    assert_eq!(body_of(answer).await.0, "hello");
}

#[tokio::test]
async fn data_on_streams_that_are_not_open_ends_the_connection() {
    let backend = endpoint().await;
    let proxy = proxy(&backend).await;
    flood(&proxy, "data without a stream", &|number| frame(0, 0, 2 * number + 1, b"x")).await;
    // Answered by resets of ours, up to their number (CVE-2025-8671).
    let window = |number: u32| [frame(1, 5, 2 * number + 1, HEAD), frame(8, 0, 2 * number + 1, &[0; 4])].concat();
    flood(&proxy, "windows that are opened by nothing", &window).await;
    let odd = |number: u32| frame(1, 5, 2 * number + 1, &[HEAD, &literal("Upper", "x")].concat());
    flood(&proxy, "heads that are none", &odd).await;
    assert_eq!(proxy.get("/").await.status, 200);
}
