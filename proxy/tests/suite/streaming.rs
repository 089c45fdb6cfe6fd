//! Long bodies and tunnels: constant memory, back-pressure, accounting to the end.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::{Backend, Setup, backend, eventually, text};

const LENGTH: usize = 256 << 20;
const BLOCK: usize = 64 << 10;

/// Resident memory of this process in bytes.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// A body of `LENGTH` bytes whose blocks are counted when they are asked for.
fn endless(produced: Arc<AtomicUsize>) -> backend::Body {
    let block = Bytes::from(vec![7; BLOCK]);
    let blocks = stream::unfold(0, move |sent| {
        let (block, produced) = (block.clone(), produced.clone());
        async move {
            (sent < LENGTH).then(|| {
                produced.fetch_add(BLOCK, SeqCst);
                (Ok::<_, std::io::Error>(Frame::data(block)), sent + BLOCK)
            })
        }
    });
    // Its state is not `Sync`, which the box wants.
    StreamBody::new(sync_wrapper(blocks)).map_err(Into::into).boxed()
}

fn sync_wrapper<S: futures_util::Stream + Send + 'static>(
    stream: S,
) -> impl futures_util::Stream<Item = S::Item> + Send + Sync
where
    S::Item: Send,
{
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    tokio::spawn(async move {
        use futures_util::StreamExt;
        let mut stream = std::pin::pin!(stream);
        while let Some(item) = stream.next().await {
            if sender.send(item).await.is_err() {
                return;
            }
        }
    });
    tokio_stream::wrappers::ReceiverStream::new(receiver)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_download_takes_constant_memory() {
    let backend = Backend::new(|_| async { Response::new(endless(Arc::default())) }).await;
    let proxy = Setup::to(&[backend.address]).start().await;
    let before = resident();
    let mut raw = proxy.raw().await;
    raw.write("GET / HTTP/1.0\r\nhost: t\r\n\r\n").await;
    raw.head().await;
    let mut got = 0;
    let mut block = vec![0; BLOCK];
    let mut most = 0;
    loop {
        let read = raw.stream.read(&mut block).await.unwrap();
        if read == 0 {
            break;
        }
        got += read;
        most = most.max(resident());
    }
    // What came with the head is not counted here.
    assert!((LENGTH - (1 << 20)..=LENGTH).contains(&got), "{got} bytes");
    assert!(most.saturating_sub(before) < 96 << 20, "{} MiB more", (most - before) >> 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_upload_takes_constant_memory() {
    let backend = Backend::new(|request| async move {
        let mut body = request.into_body();
        let mut length = 0;
        while let Some(frame) = body.frame().await {
            length += frame.unwrap().into_data().unwrap().len();
        }
        text(length.to_string())
    })
    .await;
    let proxy = Setup::to(&[backend.address]).start().await;
    let before = resident();
    let mut raw = proxy.raw().await;
    raw.write(format!("POST / HTTP/1.1\r\nhost: t\r\ncontent-length: {LENGTH}\r\n\r\n")).await;
    let block = vec![7; BLOCK];
    let mut most = 0;
    for _ in 0..LENGTH / BLOCK {
        raw.stream.write_all(&block).await.unwrap();
        most = most.max(resident());
    }
    assert_eq!(raw.answer().await.body, LENGTH.to_string());
    assert!(most.saturating_sub(before) < 96 << 20, "{} MiB more", (most - before) >> 20);
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_the_endpoint_back() {
    let produced: Arc<AtomicUsize> = Arc::default();
    let counted = produced.clone();
    let backend = Backend::new(move |_| {
        let counted = counted.clone();
        async move { Response::new(endless(counted)) }
    })
    .await;
    let proxy = Setup::to(&[backend.address]).start().await;
    let mut raw = proxy.raw().await;
    raw.write("GET / HTTP/1.1\r\nhost: t\r\n\r\n").await;
    raw.head().await;
    let mut last = 0;
    eventually("the endpoint stops", || {
        let now = produced.load(SeqCst);
        let still = now > 0 && now == std::mem::replace(&mut last, now);
        async move {
            tokio::time::sleep(Duration::from_millis(200)).await;
            still
        }
    })
    .await;
    // Four socket buffers of up to 6 MiB each, and the proxy's own.
    assert!(last < 40 << 20, "{} MiB were produced for nobody", last >> 20);
}

#[tokio::test]
async fn an_endpoint_that_does_not_read_holds_the_client_back() {
    let backend = Backend::new(|request| async move {
        let _held = request.into_body();
        tokio::time::sleep(Duration::from_secs(30)).await;
        text("never")
    })
    .await;
    let proxy = Setup::to(&[backend.address]).start().await;
    let mut raw = proxy.raw().await;
    raw.write(format!("POST / HTTP/1.1\r\nhost: t\r\ncontent-length: {LENGTH}\r\n\r\n")).await;
    let block = vec![7; BLOCK];
    let mut sent = 0;
    while let Ok(result) = tokio::time::timeout(Duration::from_millis(500), raw.stream.write(&block)).await {
        sent += result.unwrap();
        assert!(sent < 40 << 20, "{} MiB were taken for nobody", sent >> 20);
    }
}

/// A backend that grants every upgrade and echoes what comes.
async fn echoing() -> Backend {
    Backend::new(|mut request| async move {
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut io = TokioIo::new(upgrade.await.unwrap());
            let mut buffer = vec![0; 1024];
            loop {
                match io.read(&mut buffer).await {
                    Ok(0) | Err(_) => break,
                    Ok(read) => io.write_all(&buffer[..read]).await.unwrap(),
                }
            }
            io.write_all(b"bye").await.unwrap();
            io.shutdown().await.unwrap();
        });
        let mut response = text("");
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        response.headers_mut().insert("connection", HeaderValue::from_static("upgrade"));
        response.headers_mut().insert("upgrade", HeaderValue::from_static("websocket"));
        response
    })
    .await
}

const UPGRADE: &str = "GET /chat HTTP/1.1\r\nhost: t\r\nconnection: keep-alive, Upgrade\r\nupgrade: websocket\r\n\r\n";

#[tokio::test]
async fn an_upgraded_connection_is_a_tunnel_and_in_flight_until_it_ends() {
    let backend = echoing().await;
    let proxy = Setup::to(&[backend.address]).start().await;
    let in_flight = || {
        let loads = proxy.controller.loads();
        let backend = loads.last().and_then(|load| load.backends.first())?;
        // An idle one is left out.
        Some(backend.endpoints.first().map_or(0, |endpoint| endpoint.in_flight))
    };
    let mut raw = proxy.raw().await;
    // The first frame comes with the request: it must not be taken for another one.
    raw.write(format!("{UPGRADE}\x01early")).await;
    let head = raw.head().await;
    assert_eq!(
        (head.status, head.header("upgrade"), head.header("connection")),
        (101, Some("websocket"), Some("upgrade"))
    );
    assert_eq!(raw.bytes(6).await, b"\x01early");
    for n in 0..100 {
        let message = format!("message {n} GET / HTTP/1.1\r\n\r\n");
        raw.write(&message).await;
        assert_eq!(raw.bytes(message.len()).await, message.as_bytes());
    }
    eventually("it is in flight", || async { in_flight() == Some(1) }).await;
    raw.stream.shutdown().await.unwrap();
    assert_eq!(raw.rest().await, (b"bye".to_vec(), true), "the other half goes on");
    eventually("it is not in flight", || async { in_flight() == Some(0) }).await;
}

#[tokio::test]
async fn an_upgrade_that_is_not_granted_leaves_the_connection_in_step() {
    let backend = Backend::saying("no").await;
    let proxy = Setup::to(&[backend.address]).start().await;
    let mut raw = proxy.raw().await;
    raw.write(format!("{UPGRADE}GET /next HTTP/1.1\r\nhost: t\r\n\r\n")).await;
    assert_eq!(raw.answer().await.body, "no");
    assert_eq!(raw.answer().await.body, "no");
    raw.write("GET / HTTP/1.1\r\n\r\n").await;
    assert_eq!(raw.answer().await.status, 400, "what follows is still looked at");
}

#[tokio::test]
async fn an_upgrade_to_http_2_is_not_passed_on() {
    let backend = Backend::saying("one").await;
    let proxy = Setup::to(&[backend.address]).start().await;
    let request =
        "GET / HTTP/1.1\r\nhost: t\r\nconnection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: x\r\n\r\n";
    assert_eq!(proxy.send(request).await.body, "one");
    let headers = backend.last_headers();
    assert!(!headers.contains_key("upgrade") && !headers.contains_key("http2-settings"));
}
