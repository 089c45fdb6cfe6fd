//! `trimtab controller`: scrape, decide, push to proxies that connect, record, show.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use trimtab::up::{ControlSettings, ControllerTls, LeaseSettings, SessionKeySource};
use trimtab_controller::leader::LEASE_NAME;
use trimtab_controller::pki::files::PemFiles;

use super::source::SourceArgs;

/// Arguments of `trimtab controller`.
#[derive(Debug, Args)]
pub struct ControllerArgs {
    /// Address that proxies connect to, for configuration and load reports. Keep it on loopback where it is not encrypted (--tls-…)
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:18000")]
    grpc: SocketAddr,
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    lease: LeaseArgs,
    #[command(flatten)]
    tls: TlsArgs,
}

/// Mutual TLS with proxies.
#[derive(Debug, Args)]
#[group(skip)]
struct TlsArgs {
    /// File of the controller's certificate for proxies (PEM); with --tls-key and --tls-ca. Files are followed
    #[arg(long, value_name = "FILE", requires_all = ["tls_key", "tls_ca"], help_heading = "TLS")]
    tls_cert: Option<PathBuf>,
    /// File of its key
    #[arg(long, value_name = "FILE", requires = "tls_cert", help_heading = "TLS")]
    tls_key: Option<PathBuf>,
    /// File of the authority that proxies' certificates must be of
    #[arg(long, value_name = "FILE", requires = "tls_cert", help_heading = "TLS")]
    tls_ca: Option<PathBuf>,
    /// Keep an authority and the proxies' certificates in Secrets of the Lease's namespace: trimtab-ca and trimtab-proxy-tls
    #[arg(long, conflicts_with_all = ["tls_cert", "to", "backends", "config"], help_heading = "TLS")]
    tls_secrets: bool,
}

impl TlsArgs {
    fn settings(&self, namespace: Option<&String>) -> ControllerTls {
        match (&self.tls_cert, &self.tls_key, &self.tls_ca) {
            (Some(certificate), Some(key), Some(authorities)) => ControllerTls::Files(PemFiles {
                certificate: certificate.clone(),
                key: key.clone(),
                authorities: authorities.clone(),
            }),
            _ if self.tls_secrets => ControllerTls::Secrets(namespace.cloned()),
            _ => ControllerTls::Off,
        }
    }
}

/// Which of several controllers in a cluster leads.
#[derive(Debug, Args)]
#[group(skip)]
pub struct LeaseArgs {
    /// Name of the Lease by which controllers agree who leads
    #[arg(long, value_name = "NAME", default_value = LEASE_NAME, help_heading = "Kubernetes")]
    lease_name: String,
    /// Namespace of the Lease; by default this controller's own
    #[arg(long, env = "TRIMTAB_LEASE_NAMESPACE", value_name = "NAMESPACE", help_heading = "Kubernetes")]
    lease_namespace: Option<String>,
    /// How long a leader may be silent before another one takes over, in whole seconds
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = whole_seconds, help_heading = "Kubernetes")]
    lease_duration: Duration,
    /// Lead without asking anybody: there is no other controller
    #[arg(long, help_heading = "Kubernetes")]
    no_leader_election: bool,
    /// Keep what tokens of sessions are signed with in the Secret trimtab-session-keys of the Lease's namespace, for all controllers
    #[arg(long, conflicts_with_all = ["session_key_file", "to", "backends", "config"], help_heading = "Kubernetes")]
    session_key_secret: bool,
}

impl LeaseArgs {
    fn settings(&self) -> Option<LeaseSettings> {
        (!self.no_leader_election).then(|| LeaseSettings {
            namespace: self.lease_namespace.clone(),
            name: self.lease_name.clone(),
            duration: self.lease_duration,
        })
    }
}

fn whole_seconds(text: &str) -> Result<Duration, String> {
    let duration = super::source::duration(text)?;
    match duration.subsec_nanos() {
        0 => Ok(duration),
        _ => Err("it must be a whole number of seconds, as a Lease has it".to_owned()),
    }
}

/// Controls until SIGTERM or Ctrl-C.
pub async fn run(args: ControllerArgs) -> anyhow::Result<ExitCode> {
    let stop = super::signals::stop(super::signals::Hangup::MeansNothing)?;
    let dashboard = args.source.control.dashboard();
    let namespace = args.lease.lease_namespace.as_ref();
    let usual = args.source.control.settings();
    let settings = ControlSettings {
        lease: args.lease.settings(),
        tls: args.tls.settings(namespace),
        session_keys: match args.lease.session_key_secret {
            true => SessionKeySource::Secret(namespace.cloned()),
            false => usual.session_keys,
        },
        ..usual
    };
    let source = args.source.source(true).unwrap_or_else(|error| error.exit());
    let running = tokio::select! {
        running = trimtab::up::start_controller(source, settings, args.grpc, dashboard) => running?,
        // While it waits for an API server there is nothing to drain.
        () = stop.cancelled() => return Ok(ExitCode::SUCCESS),
    };
    let scheme = if running.encrypted { "https" } else { "http" };
    super::say(&[format!("proxies connect to {scheme}://{}", running.grpc)]);
    super::say(&running.dashboard.iter().map(|address| format!("dashboard    http://{address}")).collect::<Vec<_>>());
    tokio::select! {
        () = stop.cancelled() => {}
        () = running.failed() => {}
    }
    running.shutdown().await?;
    Ok(ExitCode::SUCCESS)
}
