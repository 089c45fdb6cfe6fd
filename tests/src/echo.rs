//! An endpoint that answers with what it was asked, for tests of what a proxy does to requests.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
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
        let listener = TcpListener::bind(address).await.expect("a socket");
        let address = listener.local_addr().expect("bound");
        let requests = Arc::new(AtomicU64::new(0));
        let counter = requests.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let counter = counter.clone();
                let serve = service_fn(move |request: http::Request<Incoming>| {
                    counter.fetch_add(1, Ordering::Relaxed);
                    async move { Ok::<_, Infallible>(answer(name, &request).await) }
                });
                tokio::spawn(async move {
                    // Who goes away in the middle is no concern of an endpoint.
                    let _ =
                        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), serve).await;
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
