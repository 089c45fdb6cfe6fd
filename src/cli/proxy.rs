//! `trimtab proxy`: a data plane that a controller configures.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use trimtab::up::{LinkTls, PeerListen, ProxySettings};
use trimtab_controller::pki::authority::SERVER_NAME;

use super::up::DataPlaneArgs;

/// Arguments of `trimtab proxy`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  trimtab proxy --controller http://trimtab-controller:18000
  trimtab proxy --access-log - --access-log-format json --access-log-status 500 --access-log-slower 250ms
  trimtab proxy --trace-collector http://127.0.0.1:4317 --trace-share 0.05
  trimtab proxy --metrics-collector https://collector:4317 --collector-ca ca.pem
  trimtab proxy --handover /run/trimtab/proxy.sock      again, with another binary: that one takes over

Everything about requests (listeners, routes, backends, limits) comes from the controller. Without one the last configuration stands.

Signals: SIGTERM and Ctrl-C drain (no new connections, requests in flight finish within --drain-timeout), once more ends at once; SIGHUP
opens the access log anew. Exit codes: 0 drained, or handed over; 1 failed; 2 the command line makes no sense; 130 ended at once.

Several proxies on one machine may listen on the same addresses (SO_REUSEPORT); the kernel spreads clients over them.")]
pub struct ProxyArgs {
    /// Where the controller listens for proxies; several with commas between them. Of all the addresses that their hosts have, the one that
    /// leads is followed
    #[arg(
        long,
        env = "TRIMTAB_CONTROLLER",
        value_name = "URL",
        default_value = "http://127.0.0.1:18000",
        value_delimiter = ',',
        value_parser = controller_uri
    )]
    controller: Vec<http::Uri>,
    /// File of this proxy's certificate for the controller (PEM); with --tls-key and --tls-ca, for controllers at https URLs
    #[arg(long, env = "TRIMTAB_TLS_CERT", value_name = "FILE", requires_all = ["tls_key", "tls_ca"], help_heading = "TLS")]
    tls_cert: Option<PathBuf>,
    /// File of its key
    #[arg(long, env = "TRIMTAB_TLS_KEY", value_name = "FILE", help_heading = "TLS")]
    tls_key: Option<PathBuf>,
    /// File of the authority that the controller's certificate must be of
    #[arg(long, env = "TRIMTAB_TLS_CA", value_name = "FILE", help_heading = "TLS")]
    tls_ca: Option<PathBuf>,
    /// Name that the controller's certificate must have
    #[arg(long, value_name = "NAME", default_value = SERVER_NAME, help_heading = "TLS")]
    tls_server_name: String,
    /// This proxy's name in the controller's view; by default host name and process id
    #[arg(long, value_name = "NAME")]
    id: Option<String>,
    /// UDP address on which other proxies tell this one what they have in flight, or `off`. The default is for proxies on one machine
    #[arg(long, env = "TRIMTAB_PEER_LISTEN", value_name = "ADDR|off", default_value = "127.0.0.1:0", value_parser = peer_address, help_heading = "Peers")]
    peer_listen: PeerAddress,
    /// IP address at which other proxies reach this one, where --peer-listen is 0.0.0.0 or another than they see
    #[arg(long, env = "TRIMTAB_PEER_ADVERTISE", value_name = "IP", help_heading = "Peers")]
    peer_advertise: Option<IpAddr>,
    /// Unix socket for hot restarts: a proxy that is started with the same path takes over the listening sockets, and this one drains and
    /// ends once the other serves
    #[arg(long, env = "TRIMTAB_HANDOVER", value_name = "PATH", help_heading = "Data plane")]
    handover: Option<PathBuf>,
    #[command(flatten)]
    data_plane: DataPlaneArgs,
}

/// An address, or none.
#[derive(Debug, Clone, Copy)]
struct PeerAddress(Option<SocketAddr>);

fn peer_address(text: &str) -> Result<PeerAddress, String> {
    if text == "off" {
        return Ok(PeerAddress(None));
    }
    let wanted = || format!("\"{text}\" is neither an address such as 10.0.0.7:18001 nor `off`");
    text.parse().map(|address| PeerAddress(Some(address))).map_err(|_| wanted())
}

fn controller_uri(text: &str) -> Result<http::Uri, String> {
    let wanted = || format!("\"{text}\" is not a URL such as http://127.0.0.1:18000");
    let uri: http::Uri = text.parse().map_err(|_| wanted())?;
    match (uri.scheme_str(), uri.authority()) {
        (Some("http" | "https"), Some(_)) => Ok(uri),
        _ => Err(wanted()),
    }
}

/// Routes until SIGTERM or Ctrl-C, then drains.
pub async fn run(args: ProxyArgs) -> anyhow::Result<ExitCode> {
    let stop = super::signals::stop(args.data_plane.observe.hangup())?;
    let say = super::sayer(args.data_plane.observe.logs_to_stdout());
    let peers = args.peer_listen.0.map(|address| PeerListen { address, advertise: args.peer_advertise });
    let handover = args.handover;
    let settings = ProxySettings { peers, handover, ..args.data_plane.settings(args.id, true)? };
    let tls = match (args.tls_cert, args.tls_key, args.tls_ca) {
        (Some(certificate), Some(key), Some(authorities)) => {
            Some(LinkTls { certificate, key, authorities, server_name: args.tls_server_name })
        }
        _ => None,
    };
    let encrypted = args.controller.iter().find(|uri| uri.scheme_str() == Some("https"));
    if let (Some(uri), None) = (encrypted, &tls) {
        anyhow::bail!("--controller {uri} needs a certificate, expected --tls-cert, --tls-key and --tls-ca");
    }
    let clear = args.controller.iter().find(|uri| uri.scheme_str() == Some("http"));
    if let (Some(uri), Some(_)) = (clear, &tls) {
        anyhow::bail!("--controller {uri} is not encrypted and has no use for --tls-cert, expected https://");
    }
    let running = trimtab::up::start_proxy(args.controller, tls, settings).await?;
    say(&running.admin.iter().map(|address| format!("admin        http://{address}/metrics")).collect::<Vec<_>>());
    tokio::select! {
        () = stop.cancelled() => {}
        () = running.failed() => {}
    }
    running.shutdown().await?;
    Ok(ExitCode::SUCCESS)
}
