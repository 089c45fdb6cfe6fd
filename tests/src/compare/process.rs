//! Child processes that end with the benchmark, and that say what they said when something goes wrong.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

/// A server that runs. Dropping it ends it, with the workers that it may have started.
#[derive(Debug)]
pub struct Server {
    name: String,
    child: Child,
    log: PathBuf,
}

/// How long a server may take to listen, and to end.
const PATIENCE: Duration = Duration::from_secs(15);

impl Server {
    /// Starts `command`, with what it says in `folder/NAME.log`.
    ///
    /// # Errors
    /// If the program is not to be had.
    pub fn start(name: &str, mut command: Command, folder: &Path) -> anyhow::Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let file = std::fs::File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        Ok(Self { name: name.to_owned(), child, log })
    }

    /// Its process id.
    ///
    /// # Errors
    /// If it has ended.
    pub fn pid(&self) -> anyhow::Result<u32> {
        self.child.id().with_context(|| self.complaint("has ended"))
    }

    /// Waits until it accepts connections at `address`.
    ///
    /// # Errors
    /// If it ends instead, or takes too long.
    pub async fn listens(&mut self, address: SocketAddr) -> anyhow::Result<()> {
        let deadline = tokio::time::timeout(PATIENCE, async {
            while TcpStream::connect(address).await.is_err() {
                if let Some(status) = self.child.try_wait()? {
                    bail!(self.complaint(&format!("ended early ({status})")));
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Ok(())
        });
        match deadline.await {
            Ok(listens) => listens,
            Err(_) => bail!(self.complaint(&format!("does not listen on {address}"))),
        }
    }

    /// Sends it a signal by name (`HUP`, `TERM`, `USR2`).
    ///
    /// # Errors
    /// If it has ended.
    pub async fn signal(&self, signal: &str) -> anyhow::Result<()> {
        // A system call would be unsafe code; the command is everywhere.
        let status = Command::new("kill").args([&format!("-{signal}"), &self.pid()?.to_string()]).status().await?;
        if !status.success() {
            bail!(self.complaint(&format!("does not take {signal}")));
        }
        Ok(())
    }

    /// Ends it, gently at first.
    ///
    /// # Errors
    /// If it had ended before.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!(self.complaint(&format!("ended before its time ({status})")));
        }
        self.signal("TERM").await?;
        let ended: Result<Result<ExitStatus, _>, _> = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        if ended.is_err() {
            self.child.kill().await?;
        }
        Ok(())
    }

    /// What went wrong, and the last that it said.
    fn complaint(&self, what: &str) -> String {
        let said = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = said.lines().collect();
        format!("{} {what}:\n{}", self.name, lines[lines.len().saturating_sub(12)..].join("\n"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Not SIGKILL: it would leave the workers of a master process behind.
        if let Some(pid) = self.child.id() {
            let _ = std::process::Command::new("kill").args(["-TERM", &pid.to_string()]).status();
        }
    }
}

/// Ports that Linux gives to no outgoing connection by itself: one that is free now stays so until its server has started.
const PORTS: std::ops::Range<u16> = 10_000..32_768;

/// An address of 127.0.0.1 whose port is free at present.
///
/// # Errors
/// If there is none.
pub fn free_address() -> anyhow::Result<SocketAddr> {
    static TURN: AtomicU32 = AtomicU32::new(0);
    let count = u32::from(PORTS.end - PORTS.start);
    (0..count)
        .map(|_| {
            // Each process begins elsewhere, and no two calls meet.
            let turn = TURN.fetch_add(1, Ordering::Relaxed);
            let place = std::process::id().wrapping_mul(7_919).wrapping_add(turn) % count;
            SocketAddr::from((Ipv4Addr::LOCALHOST, PORTS.start + place as u16))
        })
        .find(|address| TcpListener::bind(address).is_ok())
        .context("no free port")
}
