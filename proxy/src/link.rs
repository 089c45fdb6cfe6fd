//! How the proxy reaches its controller: over TCP, or within the process. Both carry the same gRPC.

use std::{fmt, io, net::SocketAddr, path::PathBuf, time::Duration};

use hyper_util::rt::TokioIo;
use rand::{Rng, rngs::SmallRng};
use tokio::{
    io::DuplexStream,
    sync::{mpsc, watch},
};
use tonic::{
    Code, Status,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity, Uri},
};

use crate::time::Timestamp;

/// Buffer of each direction of an in-process stream.
const DUPLEX_BYTES: usize = 256 << 10;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A controller that is gone without a word is noticed after this long.
const KEEP_ALIVE: Duration = Duration::from_secs(2);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(3);
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// The longest wait where a controller has answered that it does not lead: another one will within a lease's time.
const ELECTION_BACKOFF_MAX: Duration = Duration::from_millis(400);
/// A stream that lasted this long was good: the next wait is short again.
const BACKOFF_RESET: Duration = Duration::from_secs(5);

/// Where the controller is.
#[derive(Debug, Clone)]
pub enum Controller {
    /// At one of these URIs, e.g. `http://controller:18000`. A host may have several addresses: each of them is tried.
    Uris(Vec<Uri>, Option<LinkTls>),
    /// In this process: whoever serves takes one end of each stream from the other side of this queue.
    InProcess(mpsc::Sender<DuplexStream>),
}

/// How the proxy shows who it is, and whom it believes. The files are read anew for each look for a controller: whoever issues certificates
/// replaces them in their place.
#[derive(Debug, Clone)]
pub struct LinkTls {
    /// The proxy's certificate, with those between it and the authority, PEM.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Certificates of the authorities that the controller's must be of.
    pub authorities: PathBuf,
    /// The name that the controller's certificate must have.
    pub server_name: String,
}

impl LinkTls {
    fn read(&self) -> io::Result<ClientTlsConfig> {
        let read = |path: &PathBuf| {
            std::fs::read(path).map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
        };
        Ok(ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(read(&self.authorities)?))
            .identity(Identity::from_pem(read(&self.certificate)?, read(&self.key)?))
            .domain_name(&self.server_name))
    }
}

impl Controller {
    /// A queue of streams within the process: the proxy's end, and the controller's.
    pub fn in_process() -> (Self, mpsc::Receiver<DuplexStream>) {
        let (sender, receiver) = mpsc::channel(4);
        (Self::InProcess(sender), receiver)
    }

    /// Channels to the addresses that the controller has at the moment; they connect when they are first used.
    ///
    /// # Errors
    /// No host has an address.
    pub async fn channels(&self) -> io::Result<Vec<Channel>> {
        let (uris, tls) = match self {
            Self::Uris(uris, tls) => (uris, tls.as_ref().map(LinkTls::read).transpose()?),
            Self::InProcess(streams) => return Ok(vec![in_process(streams.clone())]),
        };
        let mut channels = Vec::new();
        let mut failed = io::Error::new(io::ErrorKind::InvalidInput, "no controller is named");
        for uri in uris {
            match addresses(uri).await {
                Ok(addresses) => {
                    for address in addresses {
                        channels.push(channel(uri, address, tls.as_ref())?);
                    }
                }
                Err(error) => failed = error,
            }
        }
        if channels.is_empty() { Err(failed) } else { Ok(channels) }
    }
}

/// The addresses of a URI's host at the moment.
async fn addresses(uri: &Uri) -> io::Result<Vec<SocketAddr>> {
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
    let mut addresses: Vec<SocketAddr> = tokio::net::lookup_host((host, port)).await?.collect();
    addresses.sort_unstable();
    addresses.dedup();
    match addresses.is_empty() {
        true => Err(io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address"))),
        false => Ok(addresses),
    }
}

/// A channel to one address of a URI's host, which goes on to be called by its name.
fn channel(uri: &Uri, address: SocketAddr, tls: Option<&ClientTlsConfig>) -> io::Result<Channel> {
    let scheme = uri.scheme_str().unwrap_or("http");
    let mut endpoint = Endpoint::from_shared(format!("{scheme}://{address}")).map_err(io::Error::other)?;
    if let Some(tls) = tls.filter(|_| scheme == "https") {
        endpoint = endpoint.tls_config(tls.clone()).map_err(io::Error::other)?;
    }
    Ok(settings(endpoint.origin(uri.clone())).connect_lazy())
}

fn in_process(streams: mpsc::Sender<DuplexStream>) -> Channel {
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

fn settings(endpoint: Endpoint) -> Endpoint {
    endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .tcp_nodelay(true)
}

/// How one look for a controller ended, after all of its addresses were tried.
enum Ended {
    /// A stream was open, and has ended.
    Stream(Result<(), Status>),
    /// Somebody answered, but nobody leads.
    NoLeader(Status),
    /// Nobody answered.
    Unreachable(String),
}

/// Keeps a stream of configuration open to whichever address of the controller takes it, for ever. `leader` holds the channel to that one
/// while it does: the other streams go there as well.
///
/// Of several controllers one leads; the others say so, and the next address is tried at once. After all of them comes a wait with jitter, so
/// that proxies do not come back all at once: it doubles up to seconds while nobody answers, and stays short while they elect a leader.
pub async fn follow_leader(
    controller: Controller,
    mut rng: SmallRng,
    now: impl Fn() -> Timestamp,
    leader: watch::Sender<Option<Channel>>,
    mut session: impl AsyncFnMut(Channel, &watch::Sender<Option<Channel>>) -> Result<(), Status>,
) {
    let mut backoff = Backoff::default();
    // Addresses are tried from here on: where it went well last.
    let mut first = 0;
    loop {
        let began = now();
        let ended = match controller.channels().await {
            Ok(channels) => try_all(channels, &mut first, &leader, &mut session).await,
            Err(error) => Ended::Unreachable(error.to_string()),
        };
        if matches!(ended, Ended::Stream(_)) && now().since(began) >= BACKOFF_RESET {
            backoff = Backoff::default();
        }
        let limit = if matches!(ended, Ended::NoLeader(_)) { ELECTION_BACKOFF_MAX } else { BACKOFF_MAX };
        let wait = backoff.wait(limit, &mut rng);
        match ended {
            Ended::Stream(Ok(())) => tracing::info!(stream = "configuration", "controller closed the stream"),
            Ended::Stream(Err(error)) => tracing::warn!(stream = "configuration", %error, "controller lost"),
            Ended::NoLeader(error) => {
                tracing::info!(reason = error.message(), retry_in = ?wait, "no controller leads");
            }
            Ended::Unreachable(error) => tracing::warn!(error, retry_in = ?wait, "controller unreachable"),
        }
        tokio::time::sleep(wait).await;
    }
}

/// How long to wait before the next look for a controller: twice as long each time, and never quite as long as others do.
#[derive(Debug)]
struct Backoff(Duration);

impl Default for Backoff {
    fn default() -> Self {
        Self(BACKOFF_MIN)
    }
}

impl Backoff {
    /// From half of the present length, which is at most `limit`, to all of it.
    fn wait(&mut self, limit: Duration, rng: &mut SmallRng) -> Duration {
        let length = self.0.min(limit);
        self.0 = (length * 2).min(limit);
        length.mul_f64(rng.random_range(0.5..1.0))
    }
}

async fn try_all(
    channels: Vec<Channel>,
    first: &mut usize,
    leader: &watch::Sender<Option<Channel>>,
    session: &mut impl AsyncFnMut(Channel, &watch::Sender<Option<Channel>>) -> Result<(), Status>,
) -> Ended {
    let count = channels.len();
    let mut refused = None;
    let mut last = String::new();
    for step in 0..count {
        let index = (*first + step) % count;
        let ended = session(channels[index].clone(), leader).await;
        let was_open = leader.send_replace(None).is_some();
        match ended {
            ended if was_open => {
                *first = index;
                return Ended::Stream(ended);
            }
            Ok(()) => last = "the stream was closed at once".to_owned(),
            Err(error) if error.code() == Code::FailedPrecondition => refused = Some(error),
            Err(error) => last = error.to_string(),
        }
    }
    match refused {
        Some(refused) => Ended::NoLeader(refused),
        None => Ended::Unreachable(last),
    }
}

/// Runs `session` on the channel to the leader whenever there is one, again when it ends, for ever.
pub async fn keep_up<E: fmt::Display>(
    name: &'static str,
    mut rng: SmallRng,
    mut leader: watch::Receiver<Option<Channel>>,
    mut session: impl AsyncFnMut(Channel) -> Result<(), E>,
) {
    loop {
        let Ok(channel) = leader.wait_for(Option::is_some).await.map(|channel| channel.clone()) else { return };
        let Some(channel) = channel else { continue };
        if let Err(error) = session(channel).await {
            tracing::debug!(stream = name, %error, "stream ended");
        }
        tokio::time::sleep(BACKOFF_MIN.mul_f64(rng.random_range(0.5..1.0))).await;
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn proxies_that_lose_their_controller_come_back_after_longer_and_longer_waits_and_not_together() {
        let mut proxies: Vec<_> = (0..50).map(|seed| (Backoff::default(), SmallRng::seed_from_u64(seed))).collect();
        let mut longest = BACKOFF_MIN;
        for _ in 0..12 {
            let mut waits: Vec<Duration> =
                proxies.iter_mut().map(|(backoff, rng)| backoff.wait(BACKOFF_MAX, rng)).collect();
            waits.sort();
            assert!(waits[0] >= longest / 2 && waits[49] <= longest, "{waits:?}, at most {longest:?}");
            // They are spread: no tenth of the time sees a third of them.
            let crowd = waits.windows(17).any(|some| some[16] - some[0] < longest / 20);
            assert!(!crowd, "{waits:?}");
            longest = (longest * 2).min(BACKOFF_MAX);
        }
        assert_eq!(longest, BACKOFF_MAX);
        // Somebody answers, though nobody leads: waits are short again.
        let (backoff, rng) = &mut proxies[0];
        assert!(backoff.wait(ELECTION_BACKOFF_MAX, rng) <= ELECTION_BACKOFF_MAX);
        assert!(backoff.wait(ELECTION_BACKOFF_MAX, rng) <= ELECTION_BACKOFF_MAX);
    }
}
