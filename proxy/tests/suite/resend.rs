//! What an endpoint says that it has done nothing for (RFC 9113 §8.7) is sent to another one, whatever it is.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use tokio::sync::mpsc;
use trimtab_proxy::api::v1;

use crate::{
    harness::{Backend, Proxy, Raw, RawBackend, Setup},
    http2::{body_of, client, echo, frame, request},
};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GO_AWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

/// How an endpoint says that it has done nothing for a request, and what the request's side then hears.
#[derive(Debug, Clone, Copy)]
enum Says {
    RefusedStream,
    /// That it goes, and that it has looked at no stream.
    GoAway,
    /// The same, but that the stream is one that it has looked at. It never answers it.
    GoAwayAfterIt,
}

impl Says {
    fn to(self, stream: u32) -> Vec<u8> {
        let go_away = |last: u32| frame(GO_AWAY, 0, 0, &[last.to_be_bytes(), [0; 4]].concat());
        match self {
            // REFUSED_STREAM
            Self::RefusedStream => frame(RST_STREAM, 0, stream, &7u32.to_be_bytes()),
            Self::GoAway => go_away(0),
            Self::GoAwayAfterIt => go_away(stream),
        }
    }
}

/// An endpoint that says so once it has a head and so many bytes of a body. How often it did is counted.
async fn unwilling(says: Says, body: usize) -> (RawBackend, Arc<AtomicUsize>) {
    let asked = Arc::<AtomicUsize>::default();
    let counted = asked.clone();
    let endpoint = RawBackend::new(move |stream, _| {
        let asked = asked.clone();
        async move {
            let mut raw = Raw::over(stream);
            raw.bytes(24).await;
            raw.write(frame(SETTINGS, 0, 0, &[])).await;
            loop {
                let stream = part_of_a_request(&mut raw, body).await;
                asked.fetch_add(1, SeqCst);
                raw.write(says.to(stream)).await;
                if !matches!(says, Says::RefusedStream) {
                    // What goes on comes over another connection.
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    return;
                }
            }
        }
    })
    .await;
    (endpoint, counted)
}

/// The stream of a request of which the head and so many bytes of the body have come.
async fn part_of_a_request(raw: &mut Raw, body: usize) -> u32 {
    let (mut got, mut stream) = (0, 0);
    while stream == 0 || got < body {
        let head = raw.bytes(9).await;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let payload = raw.bytes(length as usize).await;
        let of = u32::from_be_bytes(head[5..9].try_into().unwrap());
        match head[3] {
            HEADERS => stream = of,
            DATA => {
                // What is still under way of a stream that was refused counts for none.
                got += if of == stream { payload.len() } else { 0 };
                let credit = length.to_be_bytes();
                if length > 0 {
                    raw.write([frame(WINDOW_UPDATE, 0, 0, &credit), frame(WINDOW_UPDATE, 0, of, &credit)].concat())
                        .await;
                }
            }
            SETTINGS if head[4] == 0 => raw.write(frame(SETTINGS, 1, 0, &[])).await,
            _ => {}
        }
    }
    stream
}

/// A proxy before an endpoint that is unwilling, and one that says what came as a body. Each gets every other request.
async fn before(unwilling: &RawBackend, willing: &Backend) -> Proxy {
    let mut setup = Setup::to(&[unwilling.address, willing.address]).backend(|backend| {
        backend.protocol = v1::Protocol::H2c.into();
        backend.algorithm = v1::Algorithm::RoundRobin.into();
    });
    setup.workers = 1;
    setup.start().await
}

#[tokio::test]
async fn a_request_whose_body_was_sent_already_goes_to_another_endpoint() {
    for says in [Says::RefusedStream, Says::GoAway] {
        let (endpoint, asked) = unwilling(says, 6).await;
        let other = Backend::http2(echo).await;
        let proxy = before(&endpoint, &other).await;
        let mut sender = client(proxy.address()).await;
        for round in 0..4 {
            // A client that sends the rest once the first part has been refused, as a stream of gRPC may.
            let (frames, body) = mpsc::unbounded_channel();
            let body = StreamBody::new(tokio_stream::wrappers::UnboundedReceiverStream::new(body)).boxed();
            let post = Request::post("http://a.test/").body(body).unwrap();
            let answer = sender.send_request(post);
            frames.send(Ok(Frame::data(Bytes::from_static(b"hello ")))).unwrap();
            let refused = asked.load(SeqCst);
            tokio::time::sleep(Duration::from_millis(50)).await;
            frames.send(Ok(Frame::data(Bytes::from_static(b"world")))).unwrap();
            frames
                .send(Ok(Frame::trailers(HeaderMap::from_iter([(
                    http::header::HeaderName::from_static("x-end"),
                    "1".parse().unwrap(),
                )]))))
                .unwrap();
            drop(frames);
            let answer = answer.await.unwrap();
            assert_eq!(answer.status(), StatusCode::OK, "{says:?}, {round}, {refused}: {:?}", answer.headers());
            assert_eq!(body_of(answer).await.0, "hello world", "{says:?}, {round}");
            // And one that has sent all of it.
            let answer = sender.send_request(request("/", "hello world")).await.unwrap();
            assert_eq!(answer.status(), StatusCode::OK, "{says:?}, {round}: {:?}", answer.headers());
            assert_eq!(body_of(answer).await.0, "hello world", "{says:?}, {round}");
        }
        assert!(asked.load(SeqCst) > 0, "{says:?}");
        assert_eq!(other.requests(), 8, "{says:?}: each once");
    }
}

#[tokio::test]
async fn a_request_that_may_have_been_worked_on_does_not() {
    let (endpoint, asked) = unwilling(Says::GoAwayAfterIt, 5).await;
    let other = Backend::http2(echo).await;
    let proxy = before(&endpoint, &other).await;
    let mut sender = client(proxy.address()).await;
    let mut failed = 0;
    for _ in 0..4 {
        let answer = sender.send_request(request("/", "hello")).await.unwrap();
        if answer.status() != StatusCode::OK {
            assert_eq!(answer.headers()["x-trimtab-reason"], "upstream_reset");
            failed += 1;
        }
    }
    assert!(failed > 0 && failed == asked.load(SeqCst), "{failed} of {asked:?}");
    assert_eq!(other.requests(), 4 - failed);
}

#[tokio::test]
async fn a_body_that_is_too_long_to_be_kept_is_sent_once() {
    let (endpoint, asked) = unwilling(Says::RefusedStream, 65 << 10).await;
    let other = Backend::http2(echo).await;
    let proxy = before(&endpoint, &other).await;
    let mut sender = client(proxy.address()).await;
    let long: &'static str = String::leak("x".repeat(100 << 10));
    let mut failed = 0;
    for _ in 0..4 {
        let answer = sender.send_request(request("/", long)).await.unwrap();
        match answer.status() {
            StatusCode::OK => assert_eq!(body_of(answer).await.0, long),
            _ => failed += 1,
        }
    }
    assert!(failed > 0 && failed == asked.load(SeqCst), "{failed} of {asked:?}");
}
