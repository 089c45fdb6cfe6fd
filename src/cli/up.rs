//! `trimtab up`: controller and proxy in one process, over the same protocol as apart.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use trimtab::up::{ProxySettings, UpOptions};

use super::observe::ObserveArgs;
use super::source::{SourceArgs, duration};

/// Arguments of `trimtab up`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  trimtab up --to 127.0.0.1:9001 --to 127.0.0.1:9002
  trimtab up --listen 0.0.0.0:80 --backends backends.txt --slo 150ms
  trimtab up -f deploy/examples/local")]
pub struct UpArgs {
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    data_plane: DataPlaneArgs,
}

/// The data plane of this process, in `up` and in `proxy`.
#[derive(Debug, Args)]
#[group(skip)]
pub struct DataPlaneArgs {
    /// Worker threads; by default as many as there are cores
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024), help_heading = "Data plane")]
    workers: Option<u16>,
    /// Address of the proxy's own /metrics, /healthz, /readyz and /config
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9901", help_heading = "Data plane")]
    admin: SocketAddr,
    /// How long requests in flight may take to finish after SIGTERM
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration, help_heading = "Data plane")]
    drain_timeout: Duration,
    /// Whether plain HTTP/1.1 takes the fast path; `off` serves everything by the slower one, with the same outcome
    #[arg(long, value_name = "on|off", default_value = "on", action = clap::ArgAction::Set, value_parser = switch, help_heading = "Data plane")]
    fast_path: bool,
    /// The zone that this proxy runs in, as `topology.kubernetes.io/zone` names it; `loadBalancer.type: Locality` prefers endpoints there
    #[arg(
        long,
        value_name = "ZONE",
        env = "TRIMTAB_ZONE",
        default_value = "",
        hide_default_value = true,
        help_heading = "Data plane"
    )]
    zone: String,
    #[command(flatten)]
    pub observe: ObserveArgs,
}

fn switch(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(format!("\"{text}\" is neither on nor off")),
    }
}

impl DataPlaneArgs {
    /// As the library takes them.
    ///
    /// # Errors
    /// If SIGHUP, on which the access log is opened anew, cannot be listened for, or a file that is named cannot be read.
    pub fn settings(&self, id: Option<String>, share_ports: bool) -> anyhow::Result<ProxySettings> {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        Ok(ProxySettings {
            id: id.unwrap_or_else(default_id),
            workers: self.workers.map_or_else(cores, usize::from),
            admin: Some(self.admin),
            drain_timeout: self.drain_timeout,
            share_ports,
            peers: None,
            fast_path: self.fast_path,
            zone: self.zone.clone(),
            access_log: self.observe.access_log()?,
            trace: self.observe.trace()?,
            metrics: self.observe.metrics()?,
            handover: None,
        })
    }
}

/// Host name and process id: unique among the proxies of a controller, and a person can find it.
pub fn default_id() -> String {
    let host = std::env::var("HOSTNAME").ok().or_else(|| std::fs::read_to_string("/etc/hostname").ok());
    let host = host.as_deref().map(str::trim).filter(|host| !host.is_empty()).unwrap_or("proxy");
    format!("{host}-{}", std::process::id())
}

/// Routes until SIGTERM or Ctrl-C, then drains.
pub async fn run(args: UpArgs) -> anyhow::Result<ExitCode> {
    let options = UpOptions {
        source: args.source.source(false).unwrap_or_else(|error| error.exit()),
        control: args.source.control.settings(),
        proxy: args.data_plane.settings(None, false)?,
        dashboard: args.source.control.dashboard(),
    };
    let stop = super::signals::stop(args.data_plane.observe.hangup())?;
    let say = super::sayer(args.data_plane.observe.logs_to_stdout());
    let running = tokio::select! {
        running = trimtab::up::start(options) => running?,
        () = stop.cancelled() => return Ok(ExitCode::SUCCESS),
    };
    if running.listeners.is_empty() {
        say(&[
            "nothing is served yet: no listener can be, the log says why; changes are taken up as they come".to_owned()
        ]);
    }
    say(&running.listeners.iter().map(|address| format!("listening on http://{address}")).collect::<Vec<_>>());
    say(&running.dashboard.iter().map(|address| format!("dashboard    http://{address}")).collect::<Vec<_>>());
    say(&running.admin.iter().map(|address| format!("admin        http://{address}/metrics")).collect::<Vec<_>>());
    tokio::select! {
        () = stop.cancelled() => {}
        // One of the parts failed; shutdown says why.
        () = running.failed() => {}
    }
    running.shutdown().await?;
    Ok(ExitCode::SUCCESS)
}
