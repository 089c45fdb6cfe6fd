//! An open-loop load: requests are sent when they are due, whether or not earlier ones have been answered, and latency counts
//! from the moment that they were due. A slow server can therefore not slow its own measurement down (no coordinated omission).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http_body_util::{BodyExt, Empty};
use hyper::{Request, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::arrivals::RateProfile;
use super::clock;
use super::kinds::{self, Asks};
use super::pod::INSIDE_US;
use super::score::{NoAnswer, Recorder};

/// What to send, where and when.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// Where requests go, in turn: one proxy, or several that share the work.
    pub targets: Vec<SocketAddr>,
    /// What requests ask for.
    pub asks: Asks,
    /// When requests are due.
    pub profile: RateProfile,
    /// Seed of the arrival times.
    pub seed: u64,
    /// How long a client waits for a complete answer.
    pub timeout: Duration,
}

/// Sends the load, counted from `start`, until the profile ends or `stop` is cancelled; returns when every request has its
/// answer or its time-out.
///
/// # Errors
/// If a target and a path do not make a URI.
// Boxed, so that it is compiled here, once: the tests' crate, which is not optimised, plays the comparison's load with it.
pub fn run(
    options: LoadOptions,
    recorder: Arc<Recorder>,
    start: Instant,
    stop: CancellationToken,
) -> BoxFuture<'static, Result<(), http::Error>> {
    Box::pin(play(options, recorder, start, stop))
}

async fn play(
    options: LoadOptions,
    recorder: Arc<Recorder>,
    start: Instant,
    stop: CancellationToken,
) -> Result<(), http::Error> {
    let client = client();
    let requests = TaskTracker::new();
    let asked = options.targets.iter().cycle().zip(options.asks.paths(options.seed));
    for (due, (target, path)) in options.profile.arrivals(options.seed).zip(asked) {
        let uri = kinds::uri(*target, &path)?;
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            () = tokio::time::sleep_until(start + due) => {}
        }
        recorder.sent(start.elapsed().saturating_sub(due));
        let (client, recorder, uri, patience) = (client.clone(), Arc::clone(&recorder), uri, options.timeout);
        requests.spawn(async move {
            let answer = tokio::time::timeout_at(start + due + patience, send(&client, uri)).await;
            let latency = clock::now().saturating_duration_since(start + due);
            let answer = answer.unwrap_or(Err(NoAnswer::TimedOut));
            if let Ok(Answer { inside: Some(inside), .. }) = &answer {
                recorder.passed(due, latency.saturating_sub(*inside));
            }
            recorder.done(due, latency, answer.map(|answer| answer.status));
        });
    }
    requests.close();
    requests.wait().await;
    Ok(())
}

type LoadClient = Client<HttpConnector, Empty<Bytes>>;

fn client() -> LoadClient {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        // Shorter than the idle time-outs of usual servers (60 s and more), so that no request meets a closing connection.
        .pool_idle_timeout(Duration::from_secs(20))
        .build(connector)
}

/// A whole answer.
struct Answer {
    status: u16,
    /// How long the request was inside the pod, where that says so.
    inside: Option<Duration>,
}

/// One request; the status counts once the whole body is here.
async fn send(client: &LoadClient, uri: Uri) -> Result<Answer, NoAnswer> {
    let mut request = Request::new(Empty::new());
    *request.uri_mut() = uri;
    let response = client.request(request).await.map_err(|_| NoAnswer::Failed)?;
    let status = response.status().as_u16();
    let inside = response.headers().get(INSIDE_US).and_then(|value| value.to_str().ok()?.parse().ok());
    let mut body = response.into_body();
    while let Some(frame) = body.frame().await {
        frame.map_err(|_| NoAnswer::Failed)?;
    }
    Ok(Answer { status, inside: inside.map(Duration::from_micros) })
}
