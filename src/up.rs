//! Controller and proxy in this process: what `trimtab up`, `controller`, `proxy` and `demo` start. In one process the two halves speak the
//! same gRPC as apart, over an in-memory stream instead of a socket: there is one code path.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use futures_util::Stream;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::transport::server::{Connected, TcpIncoming};
use trimtab_controller::audit::{self, Audit};
use trimtab_controller::leader::{self, LeaseOptions};
use trimtab_controller::models::ModelsOptions;
use trimtab_controller::pki::{self, files::PemFiles};
use trimtab_controller::provider::{self, Cluster, Source};
use trimtab_controller::recording::RecordingOptions;
use trimtab_controller::session_keys;
use trimtab_controller::status;
use trimtab_controller::view::View;
use trimtab_controller::{Controller, ControllerOptions};
use trimtab_dashboards::Hosts;
pub use trimtab_proxy::PeerListen;
pub use trimtab_proxy::link::LinkTls;
pub use trimtab_proxy::observe::{
    collector::Collector, log::LogOptions, red::otlp::MetricsOptions, trace::otlp::TraceOptions,
};
use trimtab_proxy::{ProxyOptions, link, status::ListenerStatus, status::ProxyStatus};

/// How long a proxy in this process may take to hear from its controller and bind its listeners.
const START_PATIENCE: Duration = Duration::from_secs(10);
/// How long to wait for a first listener, where the controller says that there is none.
const LISTENER_PATIENCE: Duration = Duration::from_secs(1);

/// What `/metrics` of the controller is written in.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Everything that `trimtab up` needs to know.
#[derive(Debug)]
pub struct UpOptions {
    /// Where the configuration comes from.
    pub source: Source,
    /// The control loop.
    pub control: ControlSettings,
    /// The data plane.
    pub proxy: ProxySettings,
    /// Where to serve the dashboard; `None`: nowhere.
    pub dashboard: Option<SocketAddr>,
}

/// The control loop.
#[derive(Debug, Clone)]
pub struct ControlSettings {
    /// Time between two decisions.
    pub tick: Duration,
    /// Policy to use instead of the one that ships.
    pub checkpoint: Option<PathBuf>,
    /// Standard deviation of the noise that recordings are made with; 0: none.
    pub exploration_std: f64,
    /// Store of models to follow; `None`: there are no rollouts.
    pub models: Option<ModelsOptions>,
    /// Seed of the exploration noise; `None`: from the system.
    pub seed: Option<u64>,
    /// File of the audit log, `-` for standard output; `None`: there is none.
    pub audit_log: Option<PathBuf>,
    /// Where the recordings go, and how; `None`: nothing is recorded.
    pub recordings: Option<RecordingOptions>,
    /// What this controller is called: in the lease, in Events.
    pub id: String,
    /// The lease that says who leads of several controllers in a cluster; `None`: this one, there is no other.
    pub lease: Option<LeaseSettings>,
    /// Names that the dashboard answers to, beside localhost and addresses.
    pub dashboard_hosts: Vec<String>,
    /// What the tokens of sessions are signed with.
    pub session_keys: SessionKeySource,
    /// Whether proxies are spoken to by mutual TLS, and whose certificates are used.
    pub tls: ControllerTls,
}

/// Certificates of a controller.
#[derive(Debug, Clone, Default)]
pub enum ControllerTls {
    /// In clear text.
    #[default]
    Off,
    /// From files.
    Files(PemFiles),
    /// From Secrets that the controllers keep; `None`: in the namespace of the service account or the kubeconfig.
    Secrets(Option<String>),
}

/// Where the keys come from that tokens of sessions are signed with.
#[derive(Debug, Clone, Default)]
pub enum SessionKeySource {
    /// One is drawn: sessions end when this controller does.
    #[default]
    Own,
    /// From a file.
    File(PathBuf),
    /// From a Secret that the controllers share; `None`: in the namespace of the service account or the kubeconfig.
    Secret(Option<String>),
}

/// How a leader is elected.
#[derive(Debug, Clone)]
pub struct LeaseSettings {
    /// Namespace of the Lease; `None`: that of the service account or the kubeconfig.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// How long it is good for without being renewed.
    pub duration: Duration,
}

impl Default for ControlSettings {
    fn default() -> Self {
        Self {
            tick: Duration::from_millis(500),
            checkpoint: None,
            exploration_std: 0.0,
            models: None,
            seed: None,
            audit_log: None,
            recordings: None,
            id: "local".to_owned(),
            lease: None,
            dashboard_hosts: Vec::new(),
            session_keys: SessionKeySource::Own,
            tls: ControllerTls::Off,
        }
    }
}

/// The data plane.
#[derive(Debug, Clone)]
pub struct ProxySettings {
    /// Name in the controller's view.
    pub id: String,
    /// Worker threads.
    pub workers: usize,
    /// Where to serve `/metrics`, `/healthz`, `/readyz` and `/config`; `None`: nowhere.
    pub admin: Option<SocketAddr>,
    /// How long requests in flight may take to finish at the end.
    pub drain_timeout: Duration,
    /// Whether other proxies on this machine may listen on the same addresses.
    pub share_ports: bool,
    /// Where datagrams of other proxies are taken; `None`: nowhere.
    pub peers: Option<PeerListen>,
    /// Whether plain HTTP/1.1 takes the fast path.
    pub fast_path: bool,
    /// The zone that it runs in; empty: unknown.
    pub zone: String,
    /// What is logged of requests; `None`: nothing.
    pub access_log: Option<LogOptions>,
    /// Where spans of requests go; `None`: nowhere.
    pub trace: Option<TraceOptions>,
    /// Where metrics of routes are sent; `None`: nowhere.
    pub metrics: Option<MetricsOptions>,
    /// Path by which listening sockets go to a successor; `None`: they do not.
    pub handover: Option<PathBuf>,
}

impl Default for ProxySettings {
    fn default() -> Self {
        Self {
            id: "local".to_owned(),
            workers: 1,
            admin: None,
            drain_timeout: Duration::from_secs(10),
            share_ports: false,
            peers: None,
            fast_path: true,
            zone: String::new(),
            access_log: None,
            trace: None,
            metrics: None,
            handover: None,
        }
    }
}

/// The parts that run, until they are shut down or one of them fails.
#[derive(Debug, Default)]
struct Parts {
    tasks: JoinSet<anyhow::Result<()>>,
    /// Cancelled when a part has ended before it was told to.
    failed: CancellationToken,
}

impl Parts {
    /// Runs `part` until `stop`; ending before that is a failure of the whole.
    fn spawn(&mut self, stop: &CancellationToken, part: impl Future<Output = anyhow::Result<()>> + Send + 'static) {
        let (stop, failed) = (stop.clone(), self.failed.clone().drop_guard());
        self.tasks.spawn(async move {
            let ended = part.await;
            if stop.is_cancelled() {
                failed.disarm();
            }
            ended
        });
    }

    /// Waits for all parts; the first error counts.
    async fn join(mut self) -> anyhow::Result<()> {
        let mut first = Ok(());
        while let Some(ended) = self.tasks.join_next().await {
            first = first.and(ended.context("a part panicked").flatten());
        }
        first
    }

    /// Why they have ended although nobody told them to.
    async fn why_failed(self) -> anyhow::Error {
        self.join().await.err().unwrap_or_else(|| anyhow!("a part has ended without saying why"))
    }
}

/// A running `up`.
#[derive(Debug)]
pub struct Running {
    /// What the controller sees, anew after every tick.
    pub view: watch::Receiver<Arc<View>>,
    /// Where the listeners are bound.
    pub listeners: Vec<SocketAddr>,
    /// Where the dashboard is.
    pub dashboard: Option<SocketAddr>,
    /// Where the proxy's admin endpoint is.
    pub admin: Option<SocketAddr>,
    proxy: Parts,
    stop_proxy: CancellationToken,
    control: ControlPlane,
}

impl Running {
    /// Returns when a part has ended by itself; [`Running::shutdown`] then says why.
    pub async fn failed(&self) {
        tokio::select! {
            () = self.proxy.failed.cancelled() => {}
            () = self.control.parts.failed.cancelled() => {}
        }
    }

    /// Drains the proxy, then stops the controller and flushes the recording.
    ///
    /// # Errors
    /// What made a part end by itself, if one did.
    pub async fn shutdown(self) -> anyhow::Result<()> {
        self.stop_proxy.cancel();
        let proxy = self.proxy.join().await;
        let control = self.control.shutdown().await;
        proxy.and(control)
    }
}

/// Starts controller and proxy, and returns once requests can be sent, or once it is clear that the configuration has no listener for them yet.
///
/// # Errors
/// A configuration, checkpoint or address that cannot be used.
pub async fn start(options: UpOptions) -> anyhow::Result<Running> {
    let (link, streams) = link::Controller::in_process();
    let mut control = ControlPlane::start(options.source, options.control, options.dashboard).await?;
    let incoming = ReceiverStream::new(streams).map(Ok::<_, std::io::Error>);
    control.serve(incoming);
    let stop_proxy = CancellationToken::new();
    let (proxy, mut status) = spawn_proxy(link, options.proxy, &stop_proxy);
    let bound = tokio::select! {
        bound = until_bound(&mut status) => bound.transpose(),
        () = proxy.failed.cancelled() => None,
    };
    let error = match bound {
        Some(Ok((listeners, admin))) => {
            let (view, dashboard) = (control.view.clone(), control.dashboard);
            return Ok(Running { view, listeners, dashboard, admin, proxy, stop_proxy, control });
        }
        Some(Err(error)) => error,
        None => proxy.why_failed().await,
    };
    stop_proxy.cancel();
    // The first error counts, not what follows from it.
    _ = control.shutdown().await;
    Err(error)
}

/// Waits until every listener has been tried; one that cannot be bound is an error. There may be none, as long as the configuration has none that
/// can be served. `None`: the proxy has ended, and says why itself.
async fn until_bound(
    status: &mut watch::Receiver<ProxyStatus>,
) -> anyhow::Result<Option<(Vec<SocketAddr>, Option<SocketAddr>)>> {
    let heard = |status: &ProxyStatus| status.ready || status.listeners.iter().any(|listener| listener.bound.is_err());
    let first = tokio::time::timeout(START_PATIENCE, status.wait_for(heard)).await;
    let first = first.context("the proxy has not heard from its controller in time")?;
    if first.is_ok_and(|status| status.listeners.is_empty()) {
        let any = status.wait_for(|status| !status.listeners.is_empty() && heard(status));
        _ = tokio::time::timeout(LISTENER_PATIENCE, any).await;
    }
    let Ok(status) = status.wait_for(heard).await else { return Ok(None) };
    let status = status.clone();
    let bound = |listener: &ListenerStatus| {
        listener.bound.clone().map_err(|error| anyhow!("listener {}: {error}", listener.name))
    };
    Ok(Some((status.listeners.iter().map(bound).collect::<anyhow::Result<_>>()?, status.admin)))
}

/// A running controller with its dashboard.
#[derive(Debug)]
struct ControlPlane {
    controller: Option<Controller>,
    view: watch::Receiver<Arc<View>>,
    dashboard: Option<SocketAddr>,
    tls: Option<watch::Receiver<Arc<rustls::ServerConfig>>>,
    parts: Parts,
    stop: CancellationToken,
    _stop_on_drop: DropGuard,
}

impl ControlPlane {
    async fn start(source: Source, settings: ControlSettings, dashboard: Option<SocketAddr>) -> anyhow::Result<Self> {
        let stop = CancellationToken::new();
        let stop_on_drop = stop.clone().drop_guard();
        let running = provider::start(source, stop.clone()).await.context("the configuration cannot be used")?;
        let audit = settings.audit_log.as_ref().map(|path| {
            Audit::open(path, &settings.id).with_context(|| format!("--audit-log: cannot write to {}", path.display()))
        });
        let audit = audit.transpose()?;
        // These end with what they follow.
        if let Some(audit) = &audit {
            tokio::spawn(audit::follow(audit.clone(), running.snapshots.clone()));
        }
        let config = provider::configs(running.snapshots);
        let several = settings.lease.is_some();
        let mut parts = Parts::default();
        let mut options = ControllerOptions::new(config.clone(), stop.clone());
        if let (Some(cluster), Some(lease)) = (&running.cluster, settings.lease) {
            let LeaseSettings { namespace, name, duration } = lease;
            let lease = LeaseOptions { namespace, name, identity: settings.id.clone(), duration };
            let (leadership, election) = leader::run(cluster.client.clone(), lease, stop.clone());
            options.leadership = leadership;
            if let Some(audit) = &audit {
                tokio::spawn(audit::follow_leadership(audit.clone(), options.leadership.clone()));
            }
            parts.spawn(&stop, async move { election.await.context("the election of a leader failed") });
        }
        let leadership = options.leadership.clone();
        let tls = match (settings.tls, &running.cluster) {
            (ControllerTls::Off, _) => None,
            (ControllerTls::Files(files), _) => Some(pki::files::follow(files, stop.clone())?),
            (ControllerTls::Secrets(namespace), Some(Cluster { client, .. })) => {
                let namespace = namespace.unwrap_or_else(|| client.default_namespace().to_owned());
                let follow = pki::secrets::follow(client.clone(), &namespace, leadership.clone(), stop.clone());
                Some(follow.await?)
            }
            (ControllerTls::Secrets(_), None) => bail!("there is no cluster to keep certificates in"),
        };
        options.session_keys = match (settings.session_keys, &running.cluster) {
            (SessionKeySource::Own, cluster) => {
                if cluster.is_some() && several {
                    tracing::info!(
                        "sessions end when another controller leads: --session-key-secret or --session-key-file give them one key"
                    );
                }
                None
            }
            (SessionKeySource::File(path), _) => Some(session_keys::file::follow(path, stop.clone())?),
            (SessionKeySource::Secret(namespace), Some(Cluster { client, .. })) => {
                let namespace = namespace.unwrap_or_else(|| client.default_namespace().to_owned());
                Some(session_keys::secret::follow(client.clone(), &namespace, stop.clone()).await?)
            }
            (SessionKeySource::Secret(_), None) => bail!("there is no cluster to keep keys of sessions in"),
        };
        options.tick_interval = settings.tick;
        options.load_interval = settings.tick / 2;
        options.checkpoint = settings.checkpoint;
        options.exploration_std = settings.exploration_std;
        options.models = settings.models.map(|models| ModelsOptions { audit, ..models });
        options.seed = settings.seed;
        options.recording = settings.recordings;
        let controller = Controller::start(options).await?;
        if let Some(Cluster { client, currents }) = running.cluster {
            let sources = status::Sources { config, currents, leadership };
            let writer = status::run(client, sources, controller.metrics(), settings.id, stop.clone());
            parts.spawn(&stop, async move {
                writer.await;
                Ok(())
            });
        }
        let mut plane = Self {
            view: controller.view(),
            controller: Some(controller),
            dashboard: None,
            tls,
            parts,
            stop,
            _stop_on_drop: stop_on_drop,
        };
        if let Some(address) = dashboard {
            plane.dashboard = Some(plane.serve_dashboard(address, Hosts::Named(settings.dashboard_hosts)).await?);
        }
        Ok(plane)
    }

    async fn serve_dashboard(&mut self, address: SocketAddr, hosts: Hosts) -> anyhow::Result<SocketAddr> {
        let listener = bind("--dashboard", address).await?;
        let address = listener.local_addr()?;
        let metrics = self.controller.as_ref().map(Controller::metrics);
        let exposition = move || {
            let text = metrics.as_ref().map(|metrics| metrics.encode()).unwrap_or_default();
            std::future::ready(([(http::header::CONTENT_TYPE, OPENMETRICS)], text))
        };
        // A controller that got here has read its configuration: it is ready, to lead or to take over.
        let fine = || async { "ok\n" };
        let router = trimtab_dashboards::router_for(self.view.clone(), hosts)
            .route("/metrics", axum::routing::get(exposition))
            .route("/readyz", axum::routing::get(fine));
        let stop = self.stop.clone();
        self.parts.spawn(&self.stop, async move {
            // Event streams do not end by themselves: the server is dropped with them, not drained.
            tokio::select! {
                served = axum::serve(listener, router) => served.context("the dashboard failed"),
                () = stop.cancelled() => Ok(()),
            }
        });
        Ok(address)
    }

    /// Serves proxies on these connections.
    fn serve<IO>(&mut self, incoming: impl Stream<Item = std::io::Result<IO>> + Send + 'static)
    where
        IO: AsyncRead + AsyncWrite + Connected<ConnectInfo: Clone + Send + Sync> + Unpin + Send + 'static,
    {
        if let Some(controller) = &self.controller {
            let serving = controller.serve(incoming, self.stop.clone());
            self.parts.spawn(&self.stop, async move { Ok(serving.await?) });
        }
    }

    async fn shutdown(mut self) -> anyhow::Result<()> {
        self.stop.cancel();
        let parts = self.parts.join().await;
        match self.controller.take() {
            Some(controller) => parts.and(controller.stopped().await.map_err(anyhow::Error::from)),
            None => parts,
        }
    }
}

/// A running `trimtab controller`.
#[derive(Debug)]
pub struct RunningController {
    /// Where proxies connect to.
    pub grpc: SocketAddr,
    /// Whether they have to show a certificate.
    pub encrypted: bool,
    /// Where the dashboard is.
    pub dashboard: Option<SocketAddr>,
    plane: ControlPlane,
}

impl RunningController {
    /// Returns when a part has ended by itself; [`RunningController::shutdown`] then says why.
    pub async fn failed(&self) {
        self.plane.parts.failed.cancelled().await;
    }

    /// Stops the controller and flushes the recording.
    ///
    /// # Errors
    /// What made a part end by itself, if one did.
    pub async fn shutdown(self) -> anyhow::Result<()> {
        self.plane.shutdown().await
    }
}

/// Starts a controller that proxies reach at `grpc`.
///
/// # Errors
/// A configuration, checkpoint or address that cannot be used.
pub async fn start_controller(
    source: Source,
    settings: ControlSettings,
    grpc: SocketAddr,
    dashboard: Option<SocketAddr>,
) -> anyhow::Result<RunningController> {
    // Only then: a proxy that finds the port open would wait for one that has nothing to say yet.
    let mut plane = ControlPlane::start(source, settings, dashboard).await?;
    let listener = bind("--grpc", grpc).await?;
    let grpc = listener.local_addr()?;
    let encrypted = plane.tls.is_some();
    match plane.tls.take() {
        Some(configs) => plane.serve(crate::encrypted::accept(listener, configs, plane.stop.clone())),
        None => plane.serve(TcpIncoming::from(listener).with_nodelay(Some(true))),
    }
    Ok(RunningController { grpc, encrypted, dashboard: plane.dashboard, plane })
}

/// A running `trimtab proxy`.
#[derive(Debug)]
pub struct RunningProxy {
    /// Where its admin endpoint is.
    pub admin: Option<SocketAddr>,
    parts: Parts,
    stop: CancellationToken,
}

impl RunningProxy {
    /// Returns when the proxy has ended by itself; [`RunningProxy::shutdown`] then says why.
    pub async fn failed(&self) {
        self.parts.failed.cancelled().await;
    }

    /// Drains and stops it.
    ///
    /// # Errors
    /// What made it end by itself, if it did.
    pub async fn shutdown(self) -> anyhow::Result<()> {
        self.stop.cancel();
        self.parts.join().await
    }
}

/// Starts a proxy for the controllers at these URIs. It serves once the controller has told it what.
///
/// # Errors
/// An admin address that cannot be used.
pub async fn start_proxy(
    controllers: Vec<http::Uri>,
    tls: Option<LinkTls>,
    settings: ProxySettings,
) -> anyhow::Result<RunningProxy> {
    let stop = CancellationToken::new();
    let wants_admin = settings.admin.is_some();
    let (parts, mut status) = spawn_proxy(link::Controller::Uris(controllers, tls), settings, &stop);
    if !wants_admin {
        return Ok(RunningProxy { admin: None, parts, stop });
    }
    let admin = tokio::select! {
        status = status.wait_for(|status| status.admin.is_some()) => status.ok().and_then(|status| status.admin),
        () = parts.failed.cancelled() => None,
    };
    match admin {
        Some(_) => Ok(RunningProxy { admin, parts, stop }),
        None => Err(parts.why_failed().await),
    }
}

fn spawn_proxy(
    controller: link::Controller,
    settings: ProxySettings,
    stop: &CancellationToken,
) -> (Parts, watch::Receiver<ProxyStatus>) {
    let mut options = ProxyOptions::new(settings.id, controller);
    options.workers = settings.workers;
    options.admin = settings.admin;
    options.drain_timeout = settings.drain_timeout;
    options.share_ports = settings.share_ports;
    options.peers = settings.peers;
    options.fast_path = settings.fast_path;
    options.zone = settings.zone;
    options.access_log = settings.access_log;
    options.trace = settings.trace;
    options.metrics = settings.metrics;
    options.handover = settings.handover;
    let status = options.status.subscribe();
    let mut parts = Parts::default();
    let stopped = stop.clone();
    parts.spawn(stop, async move { Ok(trimtab_proxy::run(options, stopped).await?) });
    (parts, status)
}

async fn bind(flag: &'static str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("{flag}: cannot listen on {address}"))
}
