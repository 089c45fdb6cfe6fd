//! nginx. Passive checks need `proxy_next_upstream` to count a 500 as a failure, so a GET that a pod answered with 500 is
//! also tried once more elsewhere: what its users do for idempotent requests. 503 is not among them: in overload that would
//! double the load.

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
        let prefix = folder.join(format!("nginx-{nth}"));
        std::fs::create_dir(&prefix)?;
        let config = prefix.join("nginx.conf");
        std::fs::write(&config, text(folder, address, setup, certificate))?;
        let mut command = Command::new(tools.path("nginx")?);
        command.arg("-p").arg(&prefix).arg("-c").arg(&config).args(["-e", "stderr"]);
        let mut server = Server::start(&format!("nginx-{nth}"), command, folder)?;
        server.listens(address).await?;
        servers.push(server);
        targets.push(address);
    }
    Ok((servers, targets))
}

pub fn write_pods(folder: &Path, method: &str, pods: &[SocketAddr]) -> anyhow::Result<()> {
    let servers: String = pods.iter().map(|pod| format!("    server {pod} max_fails=3 fail_timeout=5s;\n")).collect();
    let upstream = format!(
        "upstream pods {{\n    {method}\n{servers}    keepalive 512;\n    keepalive_requests 1000000;\n    keepalive_timeout 60s;\n}}\n"
    );
    replace(&folder.join("upstream.conf"), &upstream)
}

fn text(folder: &Path, address: SocketAddr, setup: &Setup<'_>, certificate: &Certificate) -> String {
    let Setup { protocol, workers, .. } = *setup;
    // Else one worker of several takes most connections.
    let shared = if workers > 1 { " reuseport" } else { "" };
    let upstream = folder.join("upstream.conf");
    let listen = match protocol {
        Protocol::Http1 => "",
        Protocol::Tls => " ssl",
        Protocol::Http2 => " ssl http2",
        Protocol::H2c => " http2",
    };
    // Said also where nothing is encrypted: then nobody reads it.
    let tls = format!(
        "ssl_certificate {}; ssl_certificate_key {}; ssl_protocols TLSv1.3; ssl_session_cache shared:s:1m;",
        certificate.chain.display(),
        certificate.key.display()
    );
    let pass = match protocol {
        Protocol::H2c => {
            "grpc_pass grpc://pods;
            grpc_connect_timeout 1s;
            grpc_buffer_size 32k;
            grpc_next_upstream error timeout http_500 http_502 http_504;
            grpc_next_upstream_tries 2;"
        }
        _ => {
            "proxy_pass http://pods;
            proxy_http_version 1.1;
            proxy_set_header Connection \"\";
            proxy_connect_timeout 1s;
            # An answer of 16 KiB in one read and one write.
            proxy_buffer_size 32k;
            proxy_buffers 8 32k;
            proxy_busy_buffers_size 64k;
            proxy_next_upstream error timeout http_500 http_502 http_504;
            proxy_next_upstream_tries 2;"
        }
    };
    format!(
        "# Workers of a master that root started read the same folder.
user root;
daemon off;
worker_processes {workers};
worker_rlimit_nofile 16384;
pid nginx.pid;
error_log stderr warn;
events {{
    worker_connections 8192;
    multi_accept on;
}}
http {{
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    tcp_nodelay on;
    keepalive_requests 1000000;
    include {upstream};
    server {{
        listen {address}{listen} backlog=4096{shared};
        {tls}
        location / {{
            {pass}
        }}
    }}
}}
",
        upstream = upstream.display(),
    )
}
