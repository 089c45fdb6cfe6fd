//! An endpoint that answers with what it was asked, for tests of what a proxy does to requests.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

/// How long a request with `slow` in its path takes.
const SLOW: Duration = Duration::from_secs(3);

/// A running endpoint. It stops when it is dropped.
#[derive(Debug)]
pub struct Echo {
    address: SocketAddr,
    requests: Arc<AtomicU64>,
    _task: AbortOnDropHandle<()>,
}

impl Echo {
    /// Starts one at an address, with a name that its answers say.
    ///
    /// # Panics
    /// If there is no port for it.
    pub async fn start(name: &'static str, address: SocketAddr) -> Self {
        Self::serve(name, address, false).await
    }

    /// The same for gRPC: HTTP/2 by prior knowledge, and answers that end with `grpc-status: 0`.
    ///
    /// # Panics
    /// If there is no port for it.
    pub async fn start_calls(name: &'static str, address: SocketAddr) -> Self {
        Self::serve(name, address, true).await
    }

    async fn serve(name: &'static str, address: SocketAddr, calls: bool) -> Self {
        let listener = TcpListener::bind(address).await.expect("a socket");
        let address = listener.local_addr().expect("bound");
        let requests = Arc::new(AtomicU64::new(0));
        let counter = requests.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let counter = counter.clone();
                let serve = service_fn(move |request: http::Request<Incoming>| {
                    counter.fetch_add(1, Ordering::Relaxed);
                    async move {
                        let answer = answer(name, &request).await;
                        Ok::<_, Infallible>(if calls { ended(answer) } else { answer.map(Full::boxed) })
                    }
                });
                let stream = TokioIo::new(stream);
                tokio::spawn(async move {
                    // Who goes away in the middle is no concern of an endpoint.
                    let _ = match calls {
                        true => http2::Builder::new(TokioExecutor::new()).serve_connection(stream, serve).await,
                        false => http1::Builder::new().serve_connection(stream, serve).await,
                    };
                });
            }
        });
        Self { address, requests, _task: AbortOnDropHandle::new(task) }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many requests came so far.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }
}

async fn answer(name: &str, request: &http::Request<Incoming>) -> http::Response<Full<Bytes>> {
    if request.uri().path().contains("slow") {
        tokio::time::sleep(SLOW).await;
    }
    let mut headers = Map::new();
    for (name, value) in request.headers() {
        headers.insert(name.to_string(), Value::String(String::from_utf8_lossy(value.as_bytes()).into_owned()));
    }
    let seen = json!({
        "name": name,
        "method": request.method().as_str(),
        "path": request.uri().path_and_query().map(ToString::to_string),
        "headers": headers,
    });
    let answer = http::Response::builder().header("x-endpoint", name).body(Full::from(seen.to_string()));
    answer.unwrap_or_default()
}

/// As a gRPC call ends that went well.
fn ended(answer: http::Response<Full<Bytes>>) -> http::Response<BoxBody<Bytes, Infallible>> {
    let ok = http::HeaderMap::from_iter([(
        http::HeaderName::from_static("grpc-status"),
        http::HeaderValue::from_static("0"),
    )]);
    let (mut head, body) = answer.into_parts();
    head.headers.insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/grpc"));
    http::Response::from_parts(head, body.with_trailers(std::future::ready(Some(Ok(ok)))).boxed())
}
