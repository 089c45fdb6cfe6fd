//! The routers under comparison, each configured as somebody would who knows it well: upstream keep-alive on, limits out of
//! the way, passive health checks on. One event loop (so that a least-connections count is exact and nobody has more cores), but where more of them are measured.

mod envoy;
mod haproxy;
mod nginx;
mod trimtab;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ValueEnum;
use tempfile::TempDir;

use super::process::Server;
use crate::tools::Tools;

/// What clients speak with a router, and it with the endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Protocol {
    /// HTTP/1.1 in clear text on both sides.
    Http1,
    /// HTTP/1.1 over TLS 1.3 from clients.
    Tls,
    /// HTTP/2 over TLS 1.3 from clients, HTTP/1.1 to endpoints.
    Http2,
    /// HTTP/2 in clear text on both sides, as gRPC within a cluster; HAProxy takes the endpoint for down, and nginx is not itself there.
    H2c,
}

impl Protocol {
    /// What it says on the command line and in tables.
    pub fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Whether clients speak TLS.
    pub fn is_encrypted(self) -> bool {
        matches!(self, Self::Tls | Self::Http2)
    }
}

/// How a router is started.
#[derive(Debug, Clone, Copy)]
pub struct Setup<'a> {
    /// Processes of it that share the work.
    pub proxies: usize,
    /// Event loops of each.
    pub workers: usize,
    /// For those that heed one.
    pub objective: Duration,
    /// What is spoken.
    pub protocol: Protocol,
    /// Endpoints.
    pub pods: &'a [SocketAddr],
}

/// Files of a certificate for `localhost` and 127.0.0.1: the chain, its key, and both in one as HAProxy wants them.
#[derive(Debug)]
struct Certificate {
    chain: PathBuf,
    key: PathBuf,
    both: PathBuf,
}

impl Certificate {
    fn write(folder: &Path) -> anyhow::Result<Self> {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned(), "127.0.0.1".to_owned()])?;
        let (chain, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        let files =
            Self { chain: folder.join("chain.pem"), key: folder.join("key.pem"), both: folder.join("both.pem") };
        std::fs::write(&files.chain, &chain)?;
        std::fs::write(&files.key, &key)?;
        std::fs::write(&files.both, chain + &key)?;
        Ok(files)
    }
}

/// A router with a configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Rival {
    /// `trimtab up`, or `trimtab controller` with several `trimtab proxy`.
    Trimtab,
    /// The same `--without class-costs,class-shedding`: what it is like without knowing what requests cost.
    TrimtabNoClasses,
    /// The same `--no-recordings`: what recording costs.
    TrimtabUnrecorded,
    /// nginx as it is by default.
    NginxRoundRobin,
    /// nginx with `least_conn`.
    NginxLeastConn,
    /// HAProxy with `balance leastconn`, `observe layer7` and slow start.
    Haproxy,
    /// Envoy with least request over all hosts and outlier detection.
    Envoy,
}

/// A router that runs: one process or several that share the work.
#[derive(Debug)]
pub struct Front {
    rival: Rival,
    folder: TempDir,
    servers: Vec<Server>,
    /// Addresses that take requests.
    pub targets: Vec<SocketAddr>,
    /// Admin addresses of its proxies, where they have one.
    admin: Vec<SocketAddr>,
}

impl Rival {
    /// What it says on the command line and in tables.
    pub fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Starts it.
    ///
    /// # Errors
    /// If a process does not start or does not listen.
    pub async fn start(self, tools: &Tools, setup: &Setup<'_>) -> anyhow::Result<Front> {
        let folder = tempfile::Builder::new().prefix("trimtab-compare-").tempdir()?;
        let mut front = Front { rival: self, folder, servers: Vec::new(), targets: Vec::new(), admin: Vec::new() };
        front.write_pods(setup.pods)?;
        let path = front.folder.path().to_owned();
        let certificate = Certificate::write(&path)?;
        let (servers, targets) = match self {
            Self::Trimtab | Self::TrimtabNoClasses | Self::TrimtabUnrecorded => {
                let more: &[&str] = match self {
                    Self::TrimtabNoClasses => &["--without", "class-costs,class-shedding"],
                    Self::TrimtabUnrecorded => &["--no-recordings"],
                    _ => &[],
                };
                let started = trimtab::start(&path, setup, &certificate, more).await?;
                front.admin = started.admin;
                (started.servers, started.targets)
            }
            Self::NginxRoundRobin | Self::NginxLeastConn => nginx::start(tools, &path, setup, &certificate).await?,
            Self::Haproxy => haproxy::start(tools, &path, setup, &certificate).await?,
            Self::Envoy => envoy::start(tools, &path, setup, &certificate).await?,
        };
        front.servers = servers;
        front.targets = targets;
        Ok(front)
    }
}

impl Front {
    /// Tells the router of other pods, the way its users do.
    ///
    /// # Errors
    /// If a file cannot be written or a process has ended.
    pub async fn update(&self, pods: &[SocketAddr]) -> anyhow::Result<()> {
        self.write_pods(pods)?;
        match self.rival {
            // Both watch their file.
            Rival::Trimtab | Rival::TrimtabNoClasses | Rival::TrimtabUnrecorded | Rival::Envoy => Ok(()),
            Rival::NginxRoundRobin | Rival::NginxLeastConn => self.signal("HUP").await,
            Rival::Haproxy => self.signal("USR2").await,
        }
    }

    /// Process ids of its parts.
    ///
    /// # Errors
    /// If one has ended.
    pub fn pids(&self) -> anyhow::Result<Vec<u32>> {
        self.servers.iter().map(Server::pid).collect()
    }

    /// Names of the classes of requests that its first proxy tells apart, if it tells any.
    ///
    /// # Errors
    /// If the proxy does not answer.
    pub async fn classes(&self) -> anyhow::Result<Vec<String>> {
        let Some(admin) = self.admin.first() else { return Ok(Vec::new()) };
        trimtab::classes(*admin).await
    }

    /// Ends the router.
    ///
    /// # Errors
    /// If a process had ended before.
    pub async fn stop(self) -> anyhow::Result<()> {
        for server in self.servers {
            server.stop().await?;
        }
        Ok(())
    }

    async fn signal(&self, signal: &str) -> anyhow::Result<()> {
        for server in &self.servers {
            server.signal(signal).await?;
        }
        Ok(())
    }

    fn write_pods(&self, pods: &[SocketAddr]) -> anyhow::Result<()> {
        let folder = self.folder.path();
        match self.rival {
            Rival::Trimtab | Rival::TrimtabNoClasses | Rival::TrimtabUnrecorded => trimtab::write_pods(folder, pods),
            Rival::NginxRoundRobin => nginx::write_pods(folder, "", pods),
            Rival::NginxLeastConn => nginx::write_pods(folder, "least_conn;", pods),
            Rival::Haproxy => haproxy::write_pods(folder, pods),
            Rival::Envoy => envoy::write_pods(folder, pods),
        }
    }
}

/// Replaces a file in one step.
fn replace(path: &Path, text: &str) -> anyhow::Result<()> {
    let draft = path.with_extension("draft");
    std::fs::write(&draft, text)?;
    std::fs::rename(draft, path)?;
    Ok(())
}
