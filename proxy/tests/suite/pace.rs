//! Clients that send or take bodies byte by byte are cut off; those that are waited for by nobody are not.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::{body::Frame, body::Incoming};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpSocket,
};
use trimtab_proxy::api::v1;

use crate::{
    harness::{Backend, Proxy, RawBackend, Setup, backend::Body, eventually, text},
    http2,
};

/// Far above what the slow clients here do, and far below what the others do.
const RATE: u32 = 100_000;

async fn all(request: Request<Incoming>) -> Response<Body> {
    text(request.into_body().collect().await.map_or(0, |body| body.to_bytes().len()).to_string())
}

/// A proxy whose clients may be behind `rate` for 300 ms, or 900 ms later on.
async fn start(endpoint: SocketAddr, fast_path: bool, rate: u32) -> Proxy {
    start_with(endpoint, fast_path, rate, 300).await
}

async fn start_with(endpoint: SocketAddr, fast_path: bool, rate: u32, grace_ms: u32) -> Proxy {
    let timeouts =
        v1::BackendTimeouts { min_body_bytes_per_s: Some(rate), body_grace_ms: Some(grace_ms), ..Default::default() };
    Setup::to(&[endpoint]).fast_path(fast_path).backend(|backend| backend.timeouts = Some(timeouts)).start().await
}

/// Two seconds of a byte now and then, chunked or not.
fn trickle(chunked: bool) -> (&'static str, &'static str) {
    if chunked { ("transfer-encoding: chunked", "1\r\nx\r\n") } else { ("content-length: 1000", "x") }
}

#[tokio::test]
async fn a_body_that_trickles_is_cut_off_and_counts_as_in_flight_no_longer() {
    for (fast_path, chunked) in [(true, true), (true, false), (false, true), (false, false)] {
        let backend = Backend::new(all).await;
        let proxy = start(backend.address, fast_path, RATE).await;
        let mut raw = proxy.raw().await;
        let (framing, piece) = trickle(chunked);
        raw.write(format!("POST / HTTP/1.1\r\nhost: t\r\n{framing}\r\n\r\n")).await;
        let (mut reader, mut writer) = tokio::io::split(raw.stream);
        // It never stops, so that it is not for its silence that it is cut off.
        let writes = tokio::spawn(async move {
            while writer.write_all(piece.as_bytes()).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        let mut answer = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(20), reader.read_to_end(&mut answer)).await;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(read.is_ok() && answer.starts_with("HTTP/1.1 408"), "{fast_path} {chunked}: {answer:?}");
        assert!(answer.contains("x-trimtab-reason: request_timeout\r\n"), "{answer:?}");
        eventually("the endpoint is rid of it", || async { backend.inside() == 0 }).await;
        writes.abort();
    }
}

#[tokio::test]
async fn a_stream_of_http_2_that_trickles_is_cut_off_and_one_of_grpc_is_not() {
    let backend = Backend::new(all).await;
    let proxy = start(backend.address, true, RATE).await;
    let mut sender = http2::client(proxy.address()).await;
    let mut send = |kind: &str, pieces: usize| {
        let pieces = futures_util::stream::unfold(0, move |sent| async move {
            tokio::time::sleep(Duration::from_millis(20)).await;
            (sent < pieces).then(|| (Ok(Frame::data(Bytes::from_static(b"x"))), sent + 1))
        });
        let body = BodyExt::boxed(StreamBody::new(Box::pin(pieces) as Pieces));
        sender.send_request(Request::post("http://a.test/").header("content-type", kind).body(body).unwrap())
    };
    let (plain, grpc) = (send("text/plain", 100_000), send("application/grpc", 60));
    let plain = tokio::time::timeout(Duration::from_secs(20), plain).await.expect("it is answered").unwrap();
    assert_eq!(
        (plain.status().as_u16(), &plain.headers()["x-trimtab-reason"]),
        (408, &"request_timeout".parse().unwrap())
    );
    assert_eq!(http2::body_of(grpc.await.unwrap()).await.0, "60");
}

type Pieces =
    std::pin::Pin<Box<dyn futures_util::Stream<Item = Result<Frame<Bytes>, std::convert::Infallible>> + Send + Sync>>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_is_not_to_blame_for_an_endpoint_that_reads_slowly() {
    const LENGTH: usize = 64 << 20;
    let upload = async |fast_path: bool| {
        let backend = RawBackend::new(|mut stream, _| async move {
            // Longer than a client can save up.
            tokio::time::sleep(Duration::from_secs(8)).await;
            let (mut read, mut block) = (0, vec![0; 64 << 10]);
            while read < LENGTH {
                let more = stream.read(&mut block).await.unwrap();
                assert!(more > 0, "cut off after {read} bytes");
                read += more;
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
        })
        .await;
        // Generous: on a busy machine this client, too, may come late.
        let proxy = start_with(backend.address, fast_path, RATE, 2_000).await;
        let mut raw = proxy.raw().await;
        raw.write(format!("POST / HTTP/1.1\r\nhost: t\r\ncontent-length: {LENGTH}\r\n\r\n")).await;
        raw.write(vec![b'x'; LENGTH]).await;
        let answer = raw.answer().await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "ok"), "fast path: {fast_path}");
    };
    tokio::join!(upload(true), upload(false));
}

#[tokio::test]
async fn streams_that_are_answered_meanwhile_may_pause() {
    for fast_path in [true, false] {
        let echo =
            Backend::new(|request| async move { Response::new(request.into_body().map_err(Into::into).boxed()) });
        let echo = echo.await;
        let proxy = start(echo.address, fast_path, RATE).await;
        let mut raw = proxy.raw().await;
        raw.write("POST / HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n").await;
        assert_eq!(raw.head().await.status, 200);
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_millis(600)).await;
            raw.write("2\r\nhi\r\n").await;
            assert_eq!(raw.bytes(7).await, b"2\r\nhi\r\n");
        }
    }
}

/// Takes the answer of 64 MiB at 20 KiB a second for so long; whether it is cut off.
async fn reads_slowly(proxy: &Proxy, seconds: u64) -> bool {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4 << 10).unwrap();
    let mut stream = socket.connect(proxy.address()).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: t\r\n\r\n").await.unwrap();
    let reading = async {
        let mut block = [0; 1 << 10];
        loop {
            match stream.read(&mut block).await {
                Ok(0) | Err(_) => return,
                Ok(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(seconds), reading).await.is_ok()
}

#[tokio::test]
async fn an_answer_that_is_taken_byte_by_byte_is_cut_off_and_without_a_limit_it_is_not() {
    for fast_path in [true, false] {
        let backend = Backend::new(|_| async { text(vec![b'x'; 64 << 20]) }).await;
        let proxy = start(backend.address, fast_path, 10 * RATE).await;
        assert!(reads_slowly(&proxy, 30).await, "fast path: {fast_path}");
        let proxy = start(backend.address, fast_path, 0).await;
        assert!(!reads_slowly(&proxy, 3).await, "fast path: {fast_path}");
    }
}
