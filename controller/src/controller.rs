//! The controller as its callers see it: start it, serve proxies over any byte streams, read its view, stop it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_server::AggregatedDiscoveryServiceServer;
use futures_util::Stream;
use rand::SeedableRng;
use rand::rngs::StdRng;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::transport::server::Connected;
use trimtab_proxy::api::v1;
use trimtab_proxy::api::v1::telemetry_server::TelemetryServer;

use crate::clock;
use crate::gateway::Config;
use crate::index::Index;
use crate::leader::{self, Leadership};
use crate::metrics::Metrics;
use crate::models::{Models, ModelsOptions, StoreError};
use crate::peers::MacKey;
use crate::policies::{Policies, PolicyError};
use crate::recording::{Recorder, RecordingError, RecordingOptions, RecordingTask};
use crate::scrape::{ScrapeResult, Scraper};
use crate::session_keys::{SessionKeyError, SessionKeys};
use crate::telemetry::{TelemetryEvent, TelemetryService};
use crate::view::View;
use crate::xds::{AdsEvent, AdsService};

/// Reports and scrapes that may wait for the owner of the state before those who bring them wait too.
const WAITING_MAX: usize = 1024;
/// Events that are taken in before the clock and the other sources are looked at again.
const BATCH: usize = 256;
/// A proxy that does not answer an HTTP/2 ping for so long is gone.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// How long open streams may take to end at shutdown.
const CLOSE_TIME: Duration = Duration::from_secs(2);
/// A message of a proxy is at most this large: a report on 5,000 endpoints takes about 1 MiB.
const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// How a controller runs.
#[derive(Debug, Clone)]
pub struct ControllerOptions {
    /// The configuration, followed.
    pub config: watch::Receiver<Arc<Config>>,
    /// Period of the control loop. 500 ms in production.
    pub tick_interval: Duration,
    /// How often proxies report loads. Half a tick, so that every tick has fresh reports of every proxy.
    pub load_interval: Duration,
    /// Share of requests that proxies sample, 0..=1: for learning slots, and for the recording where there is one.
    pub sample_rate: f32,
    /// Checkpoint of the policy, watched; `None`: the one that ships inside the binary.
    pub checkpoint: Option<PathBuf>,
    /// Standard deviation of the noise that is put on log weights and recorded with its probability, for trainers to learn from; 0: none.
    pub exploration_std: f64,
    /// Store of models to follow; `None`: there are no rollouts.
    pub models: Option<ModelsOptions>,
    /// Where to record; `None`: nowhere.
    pub recording: Option<RecordingOptions>,
    /// Seed of the exploration noise; `None`: from the system.
    pub seed: Option<u64>,
    /// What the tokens of sessions are signed with, followed; `None`: a key of this controller's own, for its life.
    pub session_keys: Option<watch::Receiver<Arc<SessionKeys>>>,
    /// Whether this controller leads. One that does not takes no proxies and records nothing.
    pub leadership: watch::Receiver<Leadership>,
    /// Stops everything; the recording is flushed.
    pub shutdown: CancellationToken,
}

impl ControllerOptions {
    /// The usual options.
    pub fn new(config: watch::Receiver<Arc<Config>>, shutdown: CancellationToken) -> Self {
        Self {
            config,
            tick_interval: Duration::from_millis(500),
            load_interval: Duration::from_millis(250),
            sample_rate: 0.05,
            checkpoint: None,
            exploration_std: 0.0,
            models: None,
            recording: None,
            seed: None,
            session_keys: None,
            leadership: leader::alone(),
            shutdown,
        }
    }
}

/// Why a controller does not start, or ends.
#[derive(Debug, Error)]
pub enum ControllerError {
    /// An option that makes no sense.
    #[error("{field} is {value}, it must be {allowed}")]
    Option {
        /// Which.
        field: &'static str,
        /// Its value.
        value: String,
        /// What would be right.
        allowed: &'static str,
    },
    /// There is nothing to sign sessions with.
    #[error(transparent)]
    SessionKeys(#[from] SessionKeyError),
    /// The checkpoint cannot be used.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// There can be no store of models there.
    #[error(transparent)]
    Models(#[from] StoreError),
    /// Nothing can be recorded there.
    #[error(transparent)]
    Recording(#[from] RecordingError),
    /// The gRPC server failed.
    #[error("serving proxies failed: {0}")]
    Serve(#[from] tonic::transport::Error),
    /// The control loop has ended although nobody stopped it.
    #[error("the control loop has ended unexpectedly; this is a bug")]
    Stopped,
}

/// A running controller. Dropping it does not stop it; its shutdown token does.
#[derive(Debug)]
pub struct Controller {
    view: watch::Receiver<Arc<View>>,
    metrics: Arc<Metrics>,
    ads: AdsService,
    telemetry: TelemetryService,
    shutdown: CancellationToken,
    /// Cancelled when the control loop has ended, however it ended.
    ended: CancellationToken,
    task: JoinHandle<()>,
    recording: Option<RecordingTask>,
}

impl Controller {
    /// Starts the control loop, the scraper, and the recording. Needs a tokio runtime.
    ///
    /// # Errors
    /// An option makes no sense, the checkpoint cannot be loaded, or the URL of the models or of the recording cannot be used.
    pub async fn start(options: ControllerOptions) -> Result<Self, ControllerError> {
        check(&options)?;
        let shutdown = options.shutdown.clone();
        let metrics = Arc::new(Metrics::default());
        let policies = Policies::start(options.checkpoint.clone(), options.exploration_std, shutdown.clone()).await?;
        let models = match options.models.clone() {
            Some(models) => Some(Models::start(models, shutdown.clone()).await?),
            None => None,
        };
        let (recorder, recording) = match options.recording.clone() {
            Some(recording) => {
                let optional = recording.optional;
                match Recorder::start(recording, metrics.clone(), shutdown.clone()) {
                    Ok((recorder, task)) => (Some(recorder), Some(task)),
                    Err(error) if optional => {
                        let cause = std::error::Error::source(&error).map(ToString::to_string);
                        tracing::warn!(%error, cause, "nothing is recorded");
                        (None, None)
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            None => (None, None),
        };
        let rng = options.seed.map_or_else(StdRng::from_os_rng, StdRng::seed_from_u64);
        let mac_key = MacKey::draw();
        if mac_key.is_none() {
            tracing::warn!(
                "the system has no randomness to give: proxies will not tell each other what they have in flight"
            );
        }
        let session_keys = match options.session_keys {
            Some(keys) => keys,
            // Nobody sends another one.
            None => watch::channel(Arc::new(SessionKeys::draw()?)).1,
        };
        let (view_sender, view) = watch::channel(Arc::default());
        let (ads_sender, ads_events) = mpsc::unbounded_channel();
        let (telemetry_sender, telemetry_events) = mpsc::channel(WAITING_MAX);
        let (scrape_sender, scrapes) = mpsc::channel(WAITING_MAX);
        let leadership = options.leadership;
        let index = Index::new(
            policies,
            models,
            recorder.clone(),
            metrics.clone(),
            view_sender,
            leadership.clone(),
            mac_key,
            session_keys.borrow().clone(),
            rng,
        );
        let ads = AdsService::new(index.snapshots(), ads_sender.clone(), leadership.clone(), shutdown.clone());
        let wishes = v1::TelemetryResponse {
            load_interval_ms: u32::try_from(options.load_interval.as_millis()).unwrap_or(u32::MAX),
            sample_rate: options.sample_rate,
        };
        let telemetry = TelemetryService::new(telemetry_sender.clone(), recorder, wishes, leadership, shutdown.clone());
        let ended = CancellationToken::new();
        let owner = Owner {
            _keep_open: (ads_sender.clone(), telemetry_sender.clone(), scrape_sender.clone()),
            index,
            scraper: Scraper::new(scrape_sender),
            config: options.config,
            session_keys,
            ads_events,
            telemetry_events,
            scrapes,
            tick_interval: options.tick_interval,
            shutdown: shutdown.clone(),
        };
        let guard = ended.clone().drop_guard();
        let task = tokio::spawn(async move {
            let _guard = guard;
            owner.run().await;
        });
        Ok(Self { view, metrics, ads, telemetry, shutdown, ended, task, recording })
    }

    /// The picture after the last tick.
    pub fn view(&self) -> watch::Receiver<Arc<View>> {
        self.view.clone()
    }

    /// The controller's own metrics.
    pub fn metrics(&self) -> Arc<Metrics> {
        self.metrics.clone()
    }

    /// Serves ADS and telemetry on these connections (accepted TCP sockets, or in-process duplex streams) until `shutdown` or the
    /// controller's own.
    ///
    /// # Errors
    /// The server failed, or the control loop has ended by itself.
    pub fn serve<I, IO, IE>(
        &self,
        incoming: I,
        shutdown: CancellationToken,
    ) -> impl Future<Output = Result<(), ControllerError>> + Send + use<I, IO, IE>
    where
        I: Stream<Item = Result<IO, IE>> + Send + 'static,
        IO: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
        IO::ConnectInfo: Clone + Send + Sync + 'static,
        IE: Into<Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
    {
        // Open streams do not end by themselves: they watch this.
        let stop = self.shutdown.child_token();
        let ads = AggregatedDiscoveryServiceServer::new(self.ads.until(stop.clone()))
            .max_decoding_message_size(MESSAGE_BYTES_MAX);
        let telemetry =
            TelemetryServer::new(self.telemetry.until(stop.clone())).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let (ended, stopping) = (self.ended.clone(), self.shutdown.clone());
        async move {
            let _stop_on_drop = stop.clone().drop_guard();
            let closing = {
                let (ended, stop) = (ended.clone(), stop.clone());
                async move {
                    tokio::select! {
                        () = ended.cancelled() => {}
                        () = stop.cancelled() => {}
                        () = shutdown.cancelled() => {}
                    }
                    stop.cancel();
                }
            };
            let patience = async {
                stop.cancelled().await;
                tokio::time::sleep(CLOSE_TIME).await;
            };
            let server = Server::builder()
                .tcp_nodelay(true)
                .http2_keepalive_interval(Some(KEEP_ALIVE))
                .http2_keepalive_timeout(Some(KEEP_ALIVE / 2))
                .add_service(ads)
                .add_service(telemetry)
                .serve_with_incoming_shutdown(incoming, closing);
            tokio::select! {
                served = server => served?,
                () = patience => tracing::debug!("some proxies did not close their streams in time"),
            }
            if ended.is_cancelled() && !stopping.is_cancelled() { Err(ControllerError::Stopped) } else { Ok(()) }
        }
    }

    /// Waits until the control loop has ended and the recording is flushed.
    ///
    /// # Errors
    /// The control loop has ended although nobody stopped it.
    pub async fn stopped(self) -> Result<(), ControllerError> {
        let ended = self.task.await;
        let unexpected = !self.shutdown.is_cancelled();
        if let Some(recording) = self.recording {
            // The recording ends with shutdown or without its senders: a dead control loop loses no rows.
            drop((self.ads, self.telemetry));
            recording.flushed().await;
        }
        if ended.is_err() || unexpected { Err(ControllerError::Stopped) } else { Ok(()) }
    }
}

fn check(options: &ControllerOptions) -> Result<(), ControllerError> {
    let in_range = |field, value: Duration| {
        if (Duration::from_millis(10)..=Duration::from_secs(60)).contains(&value) {
            return Ok(());
        }
        Err(ControllerError::Option { field, value: format!("{value:?}"), allowed: "from 10ms to 60s" })
    };
    in_range("tick_interval", options.tick_interval)?;
    in_range("load_interval", options.load_interval)?;
    if !(0.0..=1.0).contains(&options.sample_rate) {
        let value = options.sample_rate.to_string();
        return Err(ControllerError::Option { field: "sample_rate", value, allowed: "from 0 to 1" });
    }
    Ok(())
}

/// The one task that writes the state.
struct Owner {
    /// Without a sender a channel is always ready, with nothing: the loop would spin.
    _keep_open: (mpsc::UnboundedSender<AdsEvent>, mpsc::Sender<TelemetryEvent>, mpsc::Sender<ScrapeResult>),
    index: Index,
    scraper: Scraper,
    config: watch::Receiver<Arc<Config>>,
    session_keys: watch::Receiver<Arc<SessionKeys>>,
    ads_events: mpsc::UnboundedReceiver<AdsEvent>,
    telemetry_events: mpsc::Receiver<TelemetryEvent>,
    scrapes: mpsc::Receiver<ScrapeResult>,
    tick_interval: Duration,
    shutdown: CancellationToken,
}

impl Owner {
    async fn run(mut self) {
        self.configure();
        let mut ticks = tokio::time::interval(self.tick_interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let (mut followed, mut keys_followed) = (true, true);
        let (mut ads, mut telemetry, mut scrapes) = (Vec::new(), Vec::new(), Vec::new());
        loop {
            let due = self.index.due();
            tokio::select! {
                biased;
                () = self.shutdown.cancelled() => return,
                _ = ticks.tick() => self.index.tick(clock::now()),
                () = sleep_until(due) => self.index.push_due(clock::now()),
                changed = self.config.changed(), if followed => match changed {
                    Ok(()) => self.configure(),
                    Err(_) => {
                        // The provider has ended; the last configuration stands.
                        tracing::warn!("configuration is no longer followed");
                        followed = false;
                    }
                },
                changed = self.session_keys.changed(), if keys_followed => match changed {
                    Ok(()) => {
                        let keys = self.session_keys.borrow_and_update().clone();
                        self.index.sign_sessions_with(keys, clock::now());
                    }
                    Err(_) => keys_followed = false,
                },
                _ = self.ads_events.recv_many(&mut ads, BATCH) => {
                    let now = clock::now();
                    ads.drain(..).for_each(|event| self.index.ads(event, now));
                }
                _ = self.telemetry_events.recv_many(&mut telemetry, BATCH) => {
                    let now = clock::now();
                    telemetry.drain(..).for_each(|event| self.index.telemetry(event, now));
                }
                _ = self.scrapes.recv_many(&mut scrapes, BATCH) => {
                    scrapes.drain(..).for_each(|result| self.index.scraped(result));
                }
            }
        }
    }

    fn configure(&mut self) {
        let config = self.config.borrow_and_update().clone();
        self.scraper.follow(&config);
        self.index.configure(config, clock::now());
    }
}

async fn sleep_until(due: Option<std::time::Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
#[path = "controller_tests.rs"]
mod tests;
