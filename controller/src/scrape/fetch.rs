//! One GET of a metrics body, within bounds of time and size, over connections that are kept.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_LENGTH, USER_AGENT};
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use thiserror::Error;

use super::names::Lexicon;
use super::text::{Reader, Readings, TextError};

/// A larger body is not read: at two scrapes a second it would cost more than it tells.
pub const BODY_BYTES_MAX: u64 = 4 << 20;
/// Metrics connections that are not used for this long are closed.
const IDLE: Duration = Duration::from_secs(30);

/// Why an endpoint's metrics could not be had.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ScrapeError {
    /// No connection, or it broke.
    #[error("{0}")]
    Connection(String),
    /// Not 200.
    #[error("answered {0}")]
    Status(StatusCode),
    /// Not within the interval.
    #[error("no complete answer within {0:?}")]
    Timeout(Duration),
    /// Larger than allowed.
    #[error("larger than 4 MiB")]
    Size,
    /// What it answered is no use.
    #[error(transparent)]
    Text(#[from] TextError),
}

/// The client that all scrapes share.
#[derive(Debug, Clone)]
pub struct Fetcher {
    client: Client<HttpConnector, Empty<Bytes>>,
}

impl Default for Fetcher {
    fn default() -> Self {
        Self::keeping(1)
    }
}

impl Fetcher {
    /// One that connects anew for each scrape: an idle connection takes about 16 KiB, thousands of them more than everything else.
    pub fn without_idle() -> Self {
        Self::keeping(0)
    }

    fn keeping(idle_per_host: usize) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(idle_per_host)
            .pool_timer(TokioTimer::new())
            .build(connector);
        Self { client }
    }

    /// Reads the metrics at `url`.
    ///
    /// # Errors
    /// They could not be had in `timeout`, or are no use.
    pub async fn fetch(&self, url: &Uri, lexicon: &Lexicon, timeout: Duration) -> Result<Readings, ScrapeError> {
        tokio::time::timeout(timeout, self.read(url, lexicon)).await.unwrap_or(Err(ScrapeError::Timeout(timeout)))
    }

    async fn read(&self, url: &Uri, lexicon: &Lexicon) -> Result<Readings, ScrapeError> {
        let request = Request::get(url.clone())
            .header(ACCEPT, "text/plain;version=0.0.4;q=1,*/*;q=0.1")
            .header(USER_AGENT, concat!("trimtab/", env!("CARGO_PKG_VERSION")))
            .body(Empty::new())
            .map_err(|error| ScrapeError::Connection(error.to_string()))?;
        let response = self.client.request(request).await.map_err(|error| ScrapeError::Connection(causes(&error)))?;
        if response.status() != StatusCode::OK {
            return Err(ScrapeError::Status(response.status()));
        }
        let announced = response.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        if announced.is_some_and(|bytes: u64| bytes > BODY_BYTES_MAX) {
            return Err(ScrapeError::Size);
        }
        let mut body = response.into_body();
        let mut reader = Reader::new(lexicon);
        let mut bytes = 0;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| ScrapeError::Connection(causes(&error)))?;
            let Some(piece) = frame.data_ref() else { continue };
            bytes += piece.len() as u64;
            if bytes > BODY_BYTES_MAX {
                return Err(ScrapeError::Size);
            }
            reader.push(piece)?;
        }
        Ok(reader.finish()?)
    }
}

/// An error and what caused it: hyper's own text alone ("client error (Connect)") does not tell a person what to do.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let next_text = next.to_string();
        if !text.ends_with(&next_text) {
            text = format!("{text}: {next_text}");
        }
        cause = next.source();
    }
    text
}
