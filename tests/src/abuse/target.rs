//! A `trimtab up` in a process of its own, with a listener in clear text and one over TLS, in front of endpoints that answer in a millisecond
//! (`/`), and of endpoints that do not answer as they should (`/stall`).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use rustls::pki_types::ServerName;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::process::Command;
use trimtab::demo::pod::{Pod, PodSpec};
use trimtab::demo::service_time::ServiceTime;

use crate::compare::process::{Server, free_address};
use crate::http::Client;
use crate::tools::own_binary;

/// A byte stream in either direction.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// The proxy that is measured.
pub struct Target {
    server: Server,
    /// Where it listens in clear text.
    pub http: SocketAddr,
    /// And over TLS.
    pub https: SocketAddr,
    /// Its metrics.
    pub admin: SocketAddr,
    certificate: rustls::pki_types::CertificateDer<'static>,
    _pods: Vec<Pod>,
    _folder: TempDir,
}

impl Target {
    /// Starts it with one worker, and waits until it serves.
    ///
    /// # Errors
    /// If a part does not start.
    pub async fn start(stalling: &[SocketAddr]) -> anyhow::Result<Self> {
        let mut pods = Vec::new();
        for index in 0..4 {
            let service = ServiceTime::Constant { ms_mean: 1.0 };
            let spec =
                PodSpec { name: format!("pod-{index}"), workers: 256, service, seed: index, ..PodSpec::default() };
            pods.push(Pod::start(spec).await?);
        }
        let folder = tempfile::Builder::new().prefix("trimtab-abuse-").tempdir()?;
        let made = rcgen::generate_simple_self_signed(vec!["a.test".to_owned()])?;
        let (http, https, admin) = (free_address()?, free_address()?, free_address()?);
        let endpoints: Vec<SocketAddr> = pods.iter().map(Pod::address).collect();
        let objects = objects((http, https), &endpoints, stalling, &made.cert.pem(), &made.signing_key.serialize_pem());
        let file = folder.path().join("objects.yaml");
        std::fs::write(&file, objects)?;
        let mut command = Command::new(own_binary("trimtab")?);
        command.args(["up", "--workers", "1", "--no-recordings", "--no-dashboard", "--admin", &admin.to_string()]);
        command.arg("-f").arg(&file);
        let mut server = Server::start("trimtab", command, folder.path())?;
        server.listens(http).await?;
        let certificate = made.cert.der().clone();
        let target = Self { server, http, https, admin, certificate, _pods: pods, _folder: folder };
        target.serves().await?;
        Ok(target)
    }

    async fn serves(&self) -> anyhow::Result<()> {
        let client = Client::default();
        for _ in 0..400 {
            if client.get(self.http, "/").await.is_ok_and(|answer| answer.status == 200) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        anyhow::bail!("it does not serve within 20 s")
    }

    /// A connection over TLS that offers these protocols.
    ///
    /// # Errors
    /// If there is none to be had.
    pub async fn secured(&self, alpn: &[&str]) -> anyhow::Result<Box<dyn Stream>> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.certificate.clone())?;
        let mut config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let socket = TcpStream::connect(self.https).await?;
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        Ok(Box::new(connector.connect(ServerName::try_from("a.test")?, socket).await?))
    }

    /// Memory that it holds, KiB.
    ///
    /// # Errors
    /// If it has ended.
    pub fn resident_kib(&self) -> anyhow::Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.server.pid()?))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    }

    /// Descriptors that it holds.
    ///
    /// # Errors
    /// If it has ended.
    pub fn descriptors(&self) -> anyhow::Result<usize> {
        Ok(std::fs::read_dir(format!("/proc/{}/fd", self.server.pid()?))?.count())
    }

    /// The sum of a metric over its labels.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn metric(&self, name: &str) -> anyhow::Result<f64> {
        let answer = Client::default().get(self.admin, "/metrics").await.map_err(anyhow::Error::msg)?;
        let text = answer.text();
        let of = |line: &str| {
            let rest = line.strip_prefix(name)?;
            (rest.starts_with(' ') || rest.starts_with('{')).then(|| rest.rsplit(' ').next()?.parse::<f64>().ok())?
        };
        Ok(text.lines().filter_map(of).sum())
    }

    /// Ends it.
    ///
    /// # Errors
    /// If it had ended before.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.server.stop().await
    }
}

fn objects(
    (http, https): (SocketAddr, SocketAddr),
    endpoints: &[SocketAddr],
    stalling: &[SocketAddr],
    chain: &str,
    key: &str,
) -> String {
    let indented = |pem: &str| pem.lines().map(|line| format!("    {line}\n")).collect::<String>();
    let slice = |service: &str, index: usize, address: &SocketAddr| {
        format!(
            "---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {service}-{index}, labels: {{kubernetes.io/service-name: {service}}}}}
addressType: IPv4
ports: [{{name: http, port: {}}}]
endpoints: [{{addresses: [{}]}}]
",
            address.port(),
            address.ip()
        )
    };
    let slices: String = endpoints
        .iter()
        .enumerate()
        .map(|(index, address)| slice("s", index, address))
        .chain(stalling.iter().enumerate().map(|(index, address)| slice("stalling", index, address)))
        .collect();
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: g}}
spec:
  gatewayClassName: trimtab
  addresses: [{{value: 127.0.0.1}}]
  listeners:
  - {{name: http, port: {}, protocol: HTTP}}
  - {{name: https, port: {}, protocol: HTTPS, tls: {{certificateRefs: [{{name: a}}]}}}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: r}}
spec:
  parentRefs: [{{name: g}}]
  rules:
  - matches: [{{path: {{type: PathPrefix, value: /stall}}}}]
    timeouts: {{request: 5s}}
    backendRefs: [{{name: stalling, port: 80}}]
  - backendRefs: [{{name: s, port: 80}}]
---
apiVersion: v1
kind: Service
metadata: {{name: s}}
spec: {{ports: [{{name: http, port: 80}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: stalling}}
spec: {{ports: [{{name: http, port: 80}}]}}
{slices}---
apiVersion: v1
kind: Secret
metadata: {{name: a}}
type: kubernetes.io/tls
stringData:
  tls.crt: |
{}  tls.key: |
{}",
        http.port(),
        https.port(),
        indented(chain),
        indented(key)
    )
}
