//! HAProxy with `leastconn`. Active checks, as everybody has them, and `observe layer7` so that answers to real requests
//! count too; slow start for servers that come back.

use std::net::SocketAddr;
use std::path::Path;

use tokio::process::Command;

use super::{Certificate, Protocol, Server, Setup, Tools, replace};
use crate::compare::process::free_address;

pub async fn start(
    tools: &Tools,
    folder: &Path,
    setup: &Setup<'_>,
    certificate: &Certificate,
) -> anyhow::Result<(Vec<Server>, Vec<SocketAddr>)> {
    let (mut servers, mut targets) = (Vec::new(), Vec::new());
    for nth in 0..setup.proxies {
        let address = free_address()?;
        let config = folder.join(format!("haproxy-{nth}.cfg"));
        let socket = folder.join(format!("haproxy-{nth}.sock"));
        std::fs::write(&config, text(&socket, address, setup, certificate))?;
        let mut command = Command::new(tools.path("haproxy")?);
        // Master and worker in the foreground; SIGUSR2 makes the master read both files again.
        command.args(["-W", "-db"]).arg("-f").arg(&config).arg("-f").arg(folder.join("pods.cfg"));
        let mut server = Server::start(&format!("haproxy-{nth}"), command, folder)?;
        server.listens(address).await?;
        servers.push(server);
        targets.push(address);
    }
    Ok((servers, targets))
}

pub fn write_pods(folder: &Path, pods: &[SocketAddr]) -> anyhow::Result<()> {
    let servers: String = pods.iter().map(|pod| format!("    server pod-{} {pod}\n", pod.port())).collect();
    let backend = format!(
        "backend pods
    balance leastconn
    option httpchk GET /healthz
    default-server check inter 1s fall 2 rise 2 slowstart 5s observe layer7 error-limit 10 on-error mark-down
{servers}"
    );
    replace(&folder.join("pods.cfg"), &backend)
}

fn text(socket: &Path, address: SocketAddr, setup: &Setup<'_>, certificate: &Certificate) -> String {
    let Setup { protocol, workers, .. } = *setup;
    let secure = format!(" ssl crt {} ssl-min-ver TLSv1.3", certificate.both.display());
    let (bind, server) = match protocol {
        Protocol::Http1 => (String::new(), ""),
        Protocol::Tls => (secure, ""),
        Protocol::Http2 => (secure + " alpn h2", ""),
        Protocol::H2c => (" proto h2".to_owned(), "default-server proto h2 check-proto h2"),
    };
    format!(
        "global
    maxconn 8000
    nbthread {workers}
    tune.bufsize 32768
    stats socket {socket} mode 600 level admin expose-fd listeners
defaults
    mode http
    option http-keep-alive
    option redispatch
    http-reuse always
    retries 1
    timeout connect 1s
    timeout client 60s
    timeout server 60s
    timeout http-keep-alive 60s
    {server}
frontend entry
    bind {address}{bind} backlog 4096
    default_backend pods
",
        socket = socket.display(),
    )
}
