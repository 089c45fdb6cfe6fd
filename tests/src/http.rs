//! A small HTTP client for tests.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client as Legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

/// An answer, read to its end.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Headers.
    pub headers: http::HeaderMap,
    /// Body.
    pub body: Bytes,
}

impl Answer {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }
}

/// A client that keeps connections alive.
#[derive(Clone)]
pub struct Client {
    inner: Legacy<HttpConnector, Full<Bytes>>,
}

impl Default for Client {
    fn default() -> Self {
        Self { inner: Legacy::builder(TokioExecutor::new()).build_http() }
    }
}

impl Client {
    /// One that speaks HTTP/2 by prior knowledge, as gRPC clients do.
    pub fn http2() -> Self {
        Self { inner: Legacy::builder(TokioExecutor::new()).http2_only(true).build_http() }
    }

    /// `GET http://ADDRESS/PATH`; an error if no whole answer came.
    pub async fn get(&self, address: SocketAddr, path: &str) -> Result<Answer, String> {
        let request = http::Request::get(format!("http://{address}{path}")).body(Full::default());
        self.send(request.expect("a URL")).await
    }

    /// The same for another host than the address.
    pub async fn get_as(&self, address: SocketAddr, host: &str, path: &str) -> Result<Answer, String> {
        let request = http::Request::get(format!("http://{address}{path}")).header("host", host).body(Full::default());
        self.send(request.expect("a URL")).await
    }

    /// Any request; an error if no whole answer came.
    pub async fn send(&self, request: http::Request<Full<Bytes>>) -> Result<Answer, String> {
        let response = self.inner.request(request).await.map_err(|error| format!("{error:?}"))?;
        let (parts, body) = response.into_parts();
        let body = body.collect().await.map_err(|error| format!("{error:?}"))?.to_bytes();
        Ok(Answer { status: parts.status.as_u16(), headers: parts.headers, body })
    }
}

/// `PUT http://ADDRESS/PATH` with a value as JSON; an error if the answer is not 200.
pub async fn put<T: serde::Serialize>(address: SocketAddr, path: &str, value: &T) -> Result<(), String> {
    let body = serde_json::to_vec(value).map_err(|error| error.to_string())?;
    let request = http::Request::put(format!("http://{address}{path}")).body(Full::from(body));
    let request = request.map_err(|error| error.to_string())?;
    let response = Client::default().inner.request(request).await.map_err(|error| format!("{error:?}"))?;
    let (parts, body) = response.into_parts();
    let body = body.collect().await.map_err(|error| format!("{error:?}"))?.to_bytes();
    if parts.status == 200 { Ok(()) } else { Err(format!("{}: {}", parts.status, String::from_utf8_lossy(&body))) }
}

/// Asks again and again until `wanted` says yes, and says how long that took.
///
/// # Panics
/// If it never does within `patience`; with the last answer.
pub async fn eventually<T: std::fmt::Debug, F: Future<Output = T>>(
    what: &str,
    patience: Duration,
    mut ask: impl FnMut() -> F,
    wanted: impl Fn(&T) -> bool,
) -> Duration {
    let start = Instant::now();
    loop {
        let found = ask().await;
        if wanted(&found) {
            return start.elapsed();
        }
        assert!(start.elapsed() < patience, "{what}: not within {patience:?}; last: {found:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
