//! `trimtab proxy`: a data plane that a controller configures.

use std::process::ExitCode;

use clap::Args;

use super::up::DataPlaneArgs;

/// Arguments of `trimtab proxy`.
#[derive(Debug, Args)]
pub struct ProxyArgs {
    /// Where the controller listens for proxies
    #[arg(long, env = "TRIMTAB_CONTROLLER", value_name = "URL", default_value = "http://127.0.0.1:18000", value_parser = controller_uri)]
    controller: http::Uri,
    /// This proxy's name in the controller's view; by default host name and process id
    #[arg(long, value_name = "NAME")]
    id: Option<String>,
    #[command(flatten)]
    data_plane: DataPlaneArgs,
}

fn controller_uri(text: &str) -> Result<http::Uri, String> {
    let wanted = || format!("\"{text}\" is not a URL such as http://127.0.0.1:18000");
    let uri: http::Uri = text.parse().map_err(|_| wanted())?;
    match (uri.scheme_str(), uri.authority()) {
        (Some("http"), Some(_)) => Ok(uri),
        _ => Err(wanted()),
    }
}

/// Routes until SIGTERM or Ctrl-C, then drains.
pub async fn run(args: ProxyArgs) -> anyhow::Result<ExitCode> {
    let stop = super::signals::stop()?;
    let running = trimtab::up::start_proxy(args.controller, args.data_plane.settings(args.id, true)).await?;
    super::say(
        &running.admin.iter().map(|address| format!("admin        http://{address}/metrics")).collect::<Vec<_>>(),
    );
    tokio::select! {
        () = stop.cancelled() => {}
        () = running.failed() => {}
    }
    running.shutdown().await?;
    Ok(ExitCode::SUCCESS)
}
