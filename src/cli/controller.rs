//! `trimtab controller`: scrape, decide, push to proxies that connect, record, show.

use std::net::SocketAddr;
use std::process::ExitCode;

use clap::Args;

use super::source::SourceArgs;

/// Arguments of `trimtab controller`.
#[derive(Debug, Args)]
pub struct ControllerArgs {
    /// Address that proxies connect to, for configuration and load reports. It is not encrypted yet: keep it on loopback
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:18000")]
    grpc: SocketAddr,
    #[command(flatten)]
    source: SourceArgs,
}

/// Controls until SIGTERM or Ctrl-C.
pub async fn run(args: ControllerArgs) -> anyhow::Result<ExitCode> {
    let stop = super::signals::stop()?;
    let dashboard = args.source.control.dashboard();
    let running =
        trimtab::up::start_controller(args.source.source(), args.source.control.settings(), args.grpc, dashboard)
            .await?;
    super::say(&[format!("proxies connect to http://{}", running.grpc)]);
    super::say(&running.dashboard.iter().map(|address| format!("dashboard    http://{address}")).collect::<Vec<_>>());
    tokio::select! {
        () = stop.cancelled() => {}
        () = running.failed() => {}
    }
    running.shutdown().await?;
    Ok(ExitCode::SUCCESS)
}
