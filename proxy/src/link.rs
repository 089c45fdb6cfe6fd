//! How the proxy reaches its controller: over TCP, or within the process. Both carry the same gRPC.

use std::{fmt, io, time::Duration};

use hyper_util::rt::TokioIo;
use rand::{Rng, rngs::SmallRng};
use tokio::{io::DuplexStream, sync::mpsc};
use tonic::transport::{Channel, Endpoint, Uri};

use crate::time::Timestamp;

/// Buffer of each direction of an in-process stream.
const DUPLEX_BYTES: usize = 256 << 10;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A controller that is gone without a word is noticed after this long.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// A stream that lasted this long was good: the next wait is short again.
const BACKOFF_RESET: Duration = Duration::from_secs(30);

/// Where the controller is.
#[derive(Debug, Clone)]
pub enum Controller {
    /// At a URI, e.g. `http://controller:18000`.
    Uri(Uri),
    /// In this process: whoever serves takes one end of each stream from the other side of this queue.
    InProcess(mpsc::Sender<DuplexStream>),
}

impl Controller {
    /// A queue of streams within the process: the proxy's end, and the controller's.
    pub fn in_process() -> (Self, mpsc::Receiver<DuplexStream>) {
        let (sender, receiver) = mpsc::channel(4);
        (Self::InProcess(sender), receiver)
    }

    /// A channel that connects when it is first used.
    pub fn channel(&self) -> Channel {
        match self {
            Self::Uri(uri) => settings(Endpoint::from(uri.clone())).connect_lazy(),
            Self::InProcess(streams) => {
                let streams = streams.clone();
                let connect = tower::service_fn(move |_: Uri| {
                    let streams = streams.clone();
                    async move {
                        let (ours, theirs) = tokio::io::duplex(DUPLEX_BYTES);
                        let gone = |_| io::Error::new(io::ErrorKind::ConnectionRefused, "the controller has stopped");
                        streams.send(theirs).await.map_err(gone)?;
                        Ok::<_, io::Error>(TokioIo::new(ours))
                    }
                });
                settings(Endpoint::from_static("http://in-process")).connect_with_connector_lazy(connect)
            }
        }
    }
}

fn settings(endpoint: Endpoint) -> Endpoint {
    endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true)
        .tcp_nodelay(true)
}

/// Runs `session` again whenever it ends, for ever: after a wait that doubles with each failure, with jitter so that proxies do not come
/// back all at once.
pub async fn keep_up<E: fmt::Display>(
    name: &'static str,
    mut rng: SmallRng,
    now: impl Fn() -> Timestamp,
    mut session: impl AsyncFnMut() -> Result<(), E>,
) {
    let mut backoff = BACKOFF_MIN;
    loop {
        let began = now();
        match session().await {
            Ok(()) => tracing::info!(stream = name, "controller closed the stream"),
            Err(error) => tracing::warn!(stream = name, %error, retry_in = ?backoff, "controller unreachable"),
        }
        if now().since(began) >= BACKOFF_RESET {
            backoff = BACKOFF_MIN;
        }
        tokio::time::sleep(backoff.mul_f64(rng.random_range(0.5..1.0))).await;
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
}
