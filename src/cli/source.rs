//! Where the configuration comes from, and how the control loop runs: the flags that `up` and `controller` share.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, CommandFactory, ValueEnum};
use trimtab::up::{ControlSettings, ControllerTls, SessionKeySource};
use trimtab_controller::address::HostPort;
use trimtab_controller::duration::Duration as ObjectDuration;
use trimtab_controller::gateway::{exposure, ingress::IngressPorts};
use trimtab_controller::models::ModelsOptions;
use trimtab_controller::policy::{AdaptiveMode, Algorithm, Metrics, Terms};
use trimtab_controller::provider::{
    Source,
    flags::Flags,
    kubernetes::{KubernetesOptions, ProxyAddresses},
};
use trimtab_controller::recording::RecordingOptions;
use trimtab_model::rollout::RolloutSettings;

/// What to route to: a few flags, a backends file, or Gateway API objects in YAML.
#[derive(Debug, Args)]
#[group(skip)]
pub struct SourceArgs {
    /// Address to listen on; may be said several times
    #[arg(
        short,
        long,
        value_name = "ADDR",
        default_value = "127.0.0.1:8080",
        conflicts_with = "config",
        help_heading = "Routing"
    )]
    pub listen: Vec<SocketAddr>,
    /// A server to route to, as `host:port`; may be said several times
    #[arg(short, long, value_name = "HOST:PORT", help_heading = "Routing")]
    pub to: Vec<HostPort>,
    /// A file of servers to route to, `host:port` a line; watched
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["to", "config"], help_heading = "Routing")]
    pub backends: Option<PathBuf>,
    /// A folder or file of Gateway API objects in YAML (Gateway, HTTPRoute, Ingress, Service,
    /// EndpointSlice, BackendTrafficPolicy); watched
    #[arg(short = 'f', long = "config", value_name = "PATH", conflicts_with_all = ["to", "algorithm", "slo", "mode"], help_heading = "Routing")]
    pub config: Option<PathBuf>,
    /// How to choose among the servers: trimtab, round-robin, random, weighted-round-robin, least-request,
    /// least-request-p2c, peak-ewma, c3-local, ring-hash, maglev, sliding-window-round-robin,
    /// decaying-weights, locality, prequal
    #[arg(long, value_name = "NAME", default_value_t = Algorithm::Trimtab, help_heading = "Routing")]
    pub algorithm: Algorithm,
    /// Latency objective, e.g. 150ms; without it, one is derived from what the service does when it is not overloaded
    #[arg(long, value_name = "DURATION", value_parser = objective, help_heading = "Routing")]
    pub slo: Option<ObjectDuration>,
    /// How far the learned policy may act: off, shadow (decide, record, apply the fallback), active
    /// [default: active where the algorithm heeds weights, else off]
    #[arg(long, value_name = "MODE", value_parser = mode, help_heading = "Routing")]
    pub mode: Option<AdaptiveMode>,
    /// What the rule shall not take into account; several with commas between them
    #[arg(
        long,
        value_name = "TERM",
        value_enum,
        value_delimiter = ',',
        conflicts_with = "config",
        help_heading = "Routing"
    )]
    pub without: Vec<Term>,
    #[command(flatten)]
    pub metrics: MetricsArgs,
    #[command(flatten)]
    pub ingress_ports: IngressArgs,
    #[command(flatten)]
    pub kubernetes: KubernetesArgs,
    #[command(flatten)]
    pub control: ControlArgs,
}

/// Where Ingresses are served, who name no ports themselves.
#[derive(Debug, Args)]
#[group(skip)]
pub struct IngressArgs {
    /// Port on which Ingresses are served in clear text
    #[arg(long, env = "TRIMTAB_INGRESS_HTTP_PORT", value_name = "PORT", default_value_t = 80, value_parser = clap::value_parser!(u16).range(1..), help_heading = "Routing")]
    pub ingress_http_port: u16,
    /// Port on which Ingresses are served over TLS
    #[arg(long, env = "TRIMTAB_INGRESS_HTTPS_PORT", value_name = "PORT", default_value_t = 443, value_parser = clap::value_parser!(u16).range(1..), help_heading = "Routing")]
    pub ingress_https_port: u16,
}

impl IngressArgs {
    fn ports(&self) -> IngressPorts {
        IngressPorts { http: self.ingress_http_port, https: self.ingress_https_port }
    }
}

/// The objects of a cluster.
#[derive(Debug, Args)]
#[group(skip)]
pub struct KubernetesArgs {
    /// Take the configuration from a Kubernetes cluster; `trimtab controller` in a pod does so where nothing else is said
    #[arg(long, conflicts_with_all = ["to", "backends", "config", "listen"], help_heading = "Kubernetes")]
    pub kubernetes: bool,
    /// Which cluster; by default what KUBECONFIG names, the user's own kubeconfig, or the pod's service account
    #[arg(long, value_name = "FILE", requires = "kubernetes", help_heading = "Kubernetes")]
    pub kubeconfig: Option<PathBuf>,
    /// Namespaces to follow, with commas between them; by default all of them
    #[arg(
        long = "namespaces",
        env = "TRIMTAB_NAMESPACES",
        value_name = "NAMESPACE",
        value_delimiter = ',',
        help_heading = "Kubernetes"
    )]
    pub namespaces: Vec<String>,
    /// Where clients reach the proxies, for the status of Gateways that ask for no address; may be said several times
    #[arg(long, value_name = "ADDRESS", help_heading = "Kubernetes")]
    pub gateway_address: Vec<String>,
    /// The Service in front of the proxies: its addresses go into the status of Gateways
    #[arg(long, env = "TRIMTAB_GATEWAY_SERVICE", value_name = "NAMESPACE/NAME", value_parser = namespaced, help_heading = "Kubernetes")]
    pub gateway_service: Option<(String, String)>,
    /// Take the addresses of that Service's endpoints instead: those of the nodes, where proxies have hostNetwork
    #[arg(long, requires = "gateway_service", help_heading = "Kubernetes")]
    pub gateway_node_addresses: bool,
    /// Make a Service for each Gateway, so that it has addresses of its own: what they have in common (namespace, labels, annotations, type, selector of
    /// the proxies), as a Service in JSON
    #[arg(long, value_name = "JSON", value_parser = exposure::template, help_heading = "Kubernetes")]
    pub gateway_services: Option<exposure::Template>,
}

impl KubernetesArgs {
    fn options(&self, ingress_ports: IngressPorts) -> KubernetesOptions {
        KubernetesOptions {
            kubeconfig: self.kubeconfig.clone(),
            namespaces: self.namespaces.iter().filter(|name| !name.is_empty()).cloned().collect(),
            addresses: ProxyAddresses {
                fixed: self.gateway_address.clone(),
                service: self.gateway_service.clone(),
                of_endpoints: self.gateway_node_addresses,
                per_gateway: self.gateway_services.clone(),
            },
            ingress_ports,
        }
    }
}

/// `NAMESPACE/NAME`.
pub fn namespaced(text: &str) -> Result<(String, String), String> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
            Ok((namespace.to_owned(), name.to_owned()))
        }
        _ => Err(format!("\"{text}\" is not a namespace and a name, expected one such as trimtab/trimtab-proxy")),
    }
}

/// What the rule takes into account unless told otherwise: `spec.adaptive.terms` of the policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Term {
    /// The weights that each tick decides
    Weights,
    /// The servers' latency as each proxy sees it
    Latency,
    /// The servers' errors, pooled over the proxies
    Errors,
    /// What requests of each class cost, in general and at each server
    ClassCosts,
    /// That each server has proxies that prefer it, where there are many proxies
    Affinity,
    /// What other proxies tell of what they have in flight
    Peers,
    /// That admission control sheds expensive requests first
    ClassShedding,
}

/// How servers without objects of their own are scraped.
#[derive(Debug, Args)]
#[group(skip)]
pub struct MetricsArgs {
    /// Path of the servers' own Prometheus metrics
    #[arg(long, value_name = "PATH", default_value = "/metrics", conflicts_with = "config", help_heading = "Metrics")]
    pub metrics_path: String,
    /// Port of the servers' own metrics, where it is not the one that serves requests
    #[arg(long, value_name = "PORT", conflicts_with = "config", value_parser = clap::value_parser!(u16).range(1..), help_heading = "Metrics")]
    pub metrics_port: Option<u16>,
    /// How often to scrape
    #[arg(long, value_name = "DURATION", default_value = "500ms", value_parser = scrape_interval, conflicts_with = "config", help_heading = "Metrics")]
    pub metrics_interval: ObjectDuration,
    /// Do not scrape: go by what the proxies see
    #[arg(long, conflicts_with = "config", help_heading = "Metrics")]
    pub no_metrics: bool,
}

/// The control loop itself.
#[derive(Debug, Args)]
#[group(skip)]
pub struct ControlArgs {
    /// Time between two decisions
    #[arg(long, value_name = "DURATION", default_value = "500ms", value_parser = tick, help_heading = "Control")]
    pub tick: Duration,
    /// Policy to use instead of the one that ships; watched. It comes before any rollout
    #[arg(long, value_name = "FILE", help_heading = "Control")]
    pub checkpoint: Option<PathBuf>,
    /// Noise on the policy's log weights, recorded with its probability so that `trimtab train --from recordings` can weigh what it did: 0.1 is
    /// usual, and costs little; 0 for none
    #[arg(long, value_name = "STD", default_value_t = 0.0, value_parser = exploration, help_heading = "Control")]
    pub exploration: f64,
    /// Store of models to follow, see `trimtab models`: a folder, or a URL such as s3://bucket/prefix. What is promoted there is tried on a
    /// small part of the time first, and rolled back by itself if it does harm
    #[arg(long, env = "TRIMTAB_MODELS", value_name = "URL", help_heading = "Control")]
    pub models: Option<String>,
    /// How long a promoted version is only looked at before it decides anything
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration, requires = "models", help_heading = "Control")]
    pub rollout_shadow: Duration,
    /// How long a stage of a rollout may last before the version is given up as undecided
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = duration, requires = "models", help_heading = "Control")]
    pub rollout_stage_max: Duration,
    /// What this controller is called in the log of the model store, in the Lease and in Events; by default host and process
    #[arg(long, value_name = "NAME", help_heading = "Control")]
    pub controller_id: Option<String>,
    /// Seed of the exploration noise; by default a fresh one
    #[arg(long, value_name = "N", help_heading = "Control")]
    pub seed: Option<u64>,
    /// Where to record ticks and sampled requests as Parquet: a folder, or a URL such as s3://bucket/prefix
    /// [default: trimtab/recordings in $XDG_STATE_HOME or ~/.local/state, if it can be written]
    #[arg(long, env = "TRIMTAB_RECORDINGS", value_name = "URL", help_heading = "Control")]
    pub recordings: Option<String>,
    /// How long a file of the recording is written before it is closed and can be read: at most so much is lost if this process is killed
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = file_age, help_heading = "Control")]
    pub recordings_file_age: Duration,
    /// Delete recordings that are older than this, e.g. 720h [default: 168h where --recordings is not said, otherwise never]
    #[arg(long, value_name = "DURATION", value_parser = keep, help_heading = "Control")]
    pub recordings_keep: Option<Duration>,
    /// Write who changed what the proxies do to this file, or to standard output if it is `-`: a JSON object a line, for each changed object of
    /// the configuration, each event of the model store, and each change of who leads
    #[arg(long, env = "TRIMTAB_AUDIT_LOG", value_name = "FILE|-", help_heading = "Control")]
    pub audit_log: Option<PathBuf>,
    /// File of the keys that tokens of sessions (`sessionPersistence`) are signed with: one a line, of at least 32 bytes in base64 or hexadecimal, the
    /// newest first; all are believed. Followed. By default a key is drawn, and sessions end with this process
    #[arg(long, env = "TRIMTAB_SESSION_KEY_FILE", value_name = "FILE", help_heading = "Control")]
    pub session_key_file: Option<PathBuf>,
    /// Do not record
    #[arg(long, conflicts_with = "recordings", help_heading = "Control")]
    pub no_recordings: bool,
    /// Address of the dashboard and its API
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9900", help_heading = "Control")]
    pub dashboard: SocketAddr,
    /// Names of the dashboard, beside localhost and addresses of any kind: a request for another host gets a 403, so that no page can read it under a
    /// name of its own
    #[arg(long, value_name = "HOST,...", value_delimiter = ',', value_parser = host, help_heading = "Control")]
    pub dashboard_host: Vec<String>,
    /// Do not serve the dashboard
    #[arg(long, conflicts_with = "dashboard", help_heading = "Control")]
    pub no_dashboard: bool,
}

impl SourceArgs {
    /// As the controller takes it. In a pod the cluster around it will do, if that is `usual`.
    ///
    /// # Errors
    /// Nothing was said.
    pub fn source(&self, usual: bool) -> Result<Source, clap::Error> {
        if let Some(path) = &self.config {
            return Ok(Source::Path(path.clone(), self.ingress_ports.ports()));
        }
        let said = !self.to.is_empty() || self.backends.is_some();
        let in_cluster = || std::env::var_os("KUBERNETES_SERVICE_HOST").is_some();
        if self.kubernetes.kubernetes || (usual && !said && in_cluster()) {
            return Ok(Source::Kubernetes(self.kubernetes.options(self.ingress_ports.ports())));
        }
        if !said {
            return Err(super::Cli::command().error(
                clap::error::ErrorKind::MissingRequiredArgument,
                "where to route is not said, expected --to HOST:PORT, --backends FILE, --config PATH or --kubernetes",
            ));
        }
        if let Some(own) = self.to.iter().find(|to| self.listen.iter().any(|listen| to.is_at(*listen))) {
            return Err(super::Cli::command().error(
                clap::error::ErrorKind::ValueValidation,
                format!("--to {own} is where Trimtab listens itself: requests would come back for ever"),
            ));
        }
        Ok(Source::Flags(Flags {
            listen: self.listen.clone(),
            to: self.to.clone(),
            backends: self.backends.clone(),
            algorithm: self.algorithm,
            objective: self.slo,
            mode: self.mode,
            metrics: Metrics {
                scrape: Some(!self.metrics.no_metrics),
                path: Some(self.metrics.metrics_path.clone()),
                port: self.metrics.metrics_port,
                interval: Some(self.metrics.metrics_interval),
                ..Metrics::default()
            },
            terms: (!self.without.is_empty()).then(|| Term::all_but(&self.without)),
        }))
    }
}

impl Term {
    fn all_but(without: &[Self]) -> Terms {
        let off = |term: Self| without.contains(&term).then_some(false);
        Terms {
            weights: off(Self::Weights),
            latency: off(Self::Latency),
            errors: off(Self::Errors),
            class_costs: off(Self::ClassCosts),
            affinity: off(Self::Affinity),
            peers: off(Self::Peers),
            class_shedding: off(Self::ClassShedding),
        }
    }
}

/// How long recordings are kept that nobody has asked for.
const RECORDINGS_KEEP: Duration = Duration::from_secs(7 * 86_400);

impl ControlArgs {
    /// As the library takes them.
    pub fn settings(&self) -> ControlSettings {
        ControlSettings {
            tick: self.tick,
            checkpoint: self.checkpoint.clone(),
            exploration_std: self.exploration,
            models: self.models.as_ref().map(|url| ModelsOptions {
                url: url.clone(),
                id: self.controller_id.clone().unwrap_or_else(super::up::default_id),
                settings: RolloutSettings {
                    shadow_s: self.rollout_shadow.as_secs_f64(),
                    stage_s_max: self.rollout_stage_max.as_secs_f64(),
                    ..RolloutSettings::default()
                },
                exploration_std: self.exploration,
                audit: None,
            }),
            audit_log: self.audit_log.clone(),
            seed: self.seed,
            recordings: self.recordings().map(|url| RecordingOptions {
                file_age_max: self.recordings_file_age,
                keep: self.recordings_keep.or_else(|| self.recordings.is_none().then_some(RECORDINGS_KEEP)),
                optional: self.recordings.is_none(),
                ..RecordingOptions::new(url)
            }),
            id: self.controller_id.clone().unwrap_or_else(super::up::default_id),
            lease: None,
            dashboard_hosts: self.dashboard_host.clone(),
            session_keys: self.session_key_file.clone().map_or(SessionKeySource::Own, SessionKeySource::File),
            tls: ControllerTls::Off,
        }
    }

    /// Where to record: what was said, or the user's state folder.
    pub fn recordings(&self) -> Option<String> {
        if self.no_recordings {
            return None;
        }
        self.recordings.clone().or_else(|| {
            let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from);
            let state =
                state.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/state")))?;
            Some(state.join("trimtab/recordings").to_string_lossy().into_owned())
        })
    }

    /// Where the dashboard listens.
    pub fn dashboard(&self) -> Option<SocketAddr> {
        (!self.no_dashboard).then_some(self.dashboard)
    }
}

/// The name of a host, without a port.
fn host(text: &str) -> Result<String, String> {
    match text.parse::<http::uri::Authority>() {
        Ok(authority) if authority.host() == text && !text.contains('*') => Ok(text.to_owned()),
        _ => Err("expected a host alone, such as trimtab.example.com, without a port or a star".to_owned()),
    }
}

/// A duration such as `150ms`, more than zero.
pub fn duration(text: &str) -> Result<Duration, String> {
    positive(text).map(ObjectDuration::get)
}

fn positive(text: &str) -> Result<ObjectDuration, String> {
    let duration: ObjectDuration =
        text.parse().map_err(|error: trimtab_controller::duration::DurationError| error.to_string())?;
    if duration.get().is_zero() { Err("it must be more than 0".to_owned()) } else { Ok(duration) }
}

fn objective(text: &str) -> Result<ObjectDuration, String> {
    positive(text)
}

fn at_least(text: &str, ms_min: u32) -> Result<ObjectDuration, String> {
    let least = ObjectDuration::from_millis(ms_min);
    positive(text).and_then(|found| if found < least { Err(format!("it must be at least {least}")) } else { Ok(found) })
}

/// Fewer than 50 ms would be more ticks than there is news.
fn tick(text: &str) -> Result<Duration, String> {
    at_least(text, 50).map(ObjectDuration::get)
}

/// An hour at least: what is being written must not be deleted.
fn keep(text: &str) -> Result<Duration, String> {
    at_least(text, 3_600_000).map(ObjectDuration::get)
}

fn file_age(text: &str) -> Result<Duration, String> {
    at_least(text, 1_000).map(ObjectDuration::get)
}

fn scrape_interval(text: &str) -> Result<ObjectDuration, String> {
    at_least(text, 100)
}

fn mode(text: &str) -> Result<AdaptiveMode, String> {
    match text {
        "off" => Ok(AdaptiveMode::Off),
        "shadow" => Ok(AdaptiveMode::Shadow),
        "active" => Ok(AdaptiveMode::Active),
        _ => Err("expected off, shadow or active".to_owned()),
    }
}
/// A standard deviation of noise.
fn exploration(text: &str) -> Result<f64, String> {
    let std: f64 = text.parse().map_err(|_| "it is no number".to_owned())?;
    let allowed = 0.0..=trimtab_model::policy::EXPLORATION_STD_MAX;
    if allowed.contains(&std) { Ok(std) } else { Err("it must be from 0 to 0.5".to_owned()) }
}
