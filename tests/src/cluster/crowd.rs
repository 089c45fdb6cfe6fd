//! Thousands of pods that share one process: for tests of scale, where a namespace and a process for each would be most of the load.
//!
//! They have addresses of their own in 10.(160+N).0.0/16, all of them in one network namespace, and answer on one port. The program is
//! `cluster-crowd`.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};

use super::network::{Network, Place};
use crate::http::Client;
use crate::tools;

/// The port of their requests and metrics.
pub const PORT: u16 = 8080;
/// The port at which the process is told what becomes of them.
const CONTROL: u16 = 9090;
/// How long the process may take to listen.
const PATIENCE: Duration = Duration::from_secs(30);

/// Pods that share a process. Dropping it ends them all.
#[derive(Debug)]
pub struct Crowd {
    network: Ipv4Addr,
    place: Place,
    child: Child,
}

impl Crowd {
    /// Starts the process. All addresses answer until they are told not to.
    ///
    /// # Errors
    /// If the network or the process cannot be had.
    pub async fn start(network: &Network) -> anyhow::Result<Self> {
        let (place, addresses) = (network.crowd(), network.crowd_addresses());
        network.add(&place)?;
        network.route_crowd(&place)?;
        let child = Network::command(&place.namespace, tools::own_binary("cluster-crowd")?)
            .args(["pods".to_owned(), format!("--port={PORT}"), format!("--control-port={CONTROL}")])
            .stdout(Stdio::null())
            .spawn()
            .context("cannot start cluster-crowd")?;
        let crowd = Self { network: addresses, place, child };
        let began = std::time::Instant::now();
        while crowd.ask("/stats").await.is_err() {
            ensure!(began.elapsed() < PATIENCE, "cluster-crowd does not listen");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(crowd)
    }

    /// The address of pod `number`.
    pub fn address(&self, number: u16) -> Ipv4Addr {
        let ([first, second, ..], [third, fourth]) = (self.network.octets(), number.to_be_bytes());
        Ipv4Addr::new(first, second, third, fourth)
    }

    /// Process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Pod `number` dies: its connections are reset, and so are new ones.
    ///
    /// # Errors
    /// If the process does not answer.
    pub async fn kill(&self, number: u16) -> anyhow::Result<()> {
        self.ask(&format!("/kill/{number}")).await.map(drop)
    }

    /// What the process has counted: `answers`, `scrapes`, and `refused` connections to dead pods.
    ///
    /// # Errors
    /// If the process does not answer.
    pub async fn stats(&self) -> anyhow::Result<serde_json::Value> {
        Ok(serde_json::from_str(&self.ask("/stats").await?)?)
    }

    async fn ask(&self, path: &str) -> anyhow::Result<String> {
        let control = SocketAddr::new(self.place.address.into(), CONTROL);
        let answer = Client::default().get(control, path).await.map_err(anyhow::Error::msg)?;
        ensure!(answer.status == 200, "{path}: {}", answer.text());
        Ok(answer.text())
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        // The network's end kills what is left.
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.place.remove();
    }
}
