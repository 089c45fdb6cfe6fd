//! The routers under comparison, each configured as somebody would who knows it well: upstream keep-alive on, limits out of
//! the way, passive health checks on, one event loop (so that a least-connections count is exact and nobody has more cores).

mod envoy;
mod haproxy;
mod nginx;
mod trimtab;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use clap::ValueEnum;
use tempfile::TempDir;

use super::process::Server;
use crate::tools::Tools;

/// A router with a configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Rival {
    /// `trimtab up`, or `trimtab controller` with several `trimtab proxy`.
    Trimtab,
    /// The same `--without class-costs,class-shedding`: what it is like without knowing what requests cost.
    TrimtabNoClasses,
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

    /// Starts `proxies` of it in front of `pods`; the objective is for those that heed one.
    ///
    /// # Errors
    /// If a process does not start or does not listen.
    pub async fn start(
        self,
        tools: &Tools,
        proxies: usize,
        objective: Duration,
        pods: &[SocketAddr],
    ) -> anyhow::Result<Front> {
        let folder = tempfile::Builder::new().prefix("trimtab-compare-").tempdir()?;
        let mut front = Front { rival: self, folder, servers: Vec::new(), targets: Vec::new(), admin: Vec::new() };
        front.write_pods(pods)?;
        let path = front.folder.path().to_owned();
        let (servers, targets) = match self {
            Self::Trimtab | Self::TrimtabNoClasses => {
                let without: &[&str] = if self == Self::Trimtab { &[] } else { &["class-costs", "class-shedding"] };
                let started = trimtab::start(&path, proxies, objective, without).await?;
                front.admin = started.admin;
                (started.servers, started.targets)
            }
            Self::NginxRoundRobin | Self::NginxLeastConn => nginx::start(tools, &path, proxies).await?,
            Self::Haproxy => haproxy::start(tools, &path, proxies).await?,
            Self::Envoy => envoy::start(tools, &path, proxies).await?,
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
            Rival::Trimtab | Rival::TrimtabNoClasses | Rival::Envoy => Ok(()),
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
            Rival::Trimtab | Rival::TrimtabNoClasses => trimtab::write_pods(folder, pods),
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
