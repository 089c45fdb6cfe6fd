//! What a proxied request costs in CPU: 64 keep-alive connections, the proxy alone on one core, load (wrk; h2load for HTTP/2) and endpoint
//! (nginx with static files) on another. User and system time of the proxy's processes, over the requests that were completed.
//!
//! With more cores: what more workers bring ([`scaling`]), and what a proxy adds to latency at a steady rate ([`latency`]).

pub mod cores;
pub mod latency;
mod load;
pub mod scaling;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde::Serialize;
use tempfile::TempDir;
use tokio::process::Command;

use self::cores::Cores;
use super::process::{Server, free_address};
use super::rival::{Front, Protocol, Rival, Setup};
use super::shape::OBJECTIVE;
use crate::tools::Tools;

/// `/proc` counts CPU time in hundredths of a second (`USER_HZ`, the same on every Linux that Rust runs on).
const US_PER_TICK: f64 = 10_000.0;

/// What one measurement found.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Cost {
    /// User and system time of the proxy, microseconds a request.
    pub cpu_us: f64,
    /// Share of system time in it, 0..=1.
    pub system_share: f64,
    /// Requests per second.
    pub rps: f64,
    /// How many of its cores the proxy kept busy. Much below their number, something else had the cores, and its caches: measure again.
    pub core_share: f64,
}

/// An endpoint that answers `/64` and `/16384` with bodies of as many bytes.
#[derive(Debug)]
pub struct Endpoint {
    server: Server,
    http1: SocketAddr,
    h2c: SocketAddr,
    _folder: TempDir,
}

impl Endpoint {
    /// Starts it on its cores.
    ///
    /// # Errors
    /// If nginx does not start.
    pub async fn start(tools: &Tools, cores: &Cores) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("trimtab-overhead-").tempdir()?;
        let (path, http1, h2c) = (folder.path(), free_address()?, free_address()?);
        for bytes in [64, 16_384] {
            std::fs::write(path.join(bytes.to_string()), vec![b'x'; bytes])?;
        }
        std::fs::write(path.join("healthz"), "ok\n")?;
        std::fs::write(path.join("index.html"), "ok\n")?;
        std::fs::write(path.join("nginx.conf"), endpoint_config(http1, h2c, cores.endpoint_workers))?;
        let mut command = Command::new(tools.path("nginx")?);
        command.arg("-p").arg(path).arg("-c").arg(path.join("nginx.conf")).args(["-e", "stderr"]);
        let mut server = Server::start("endpoint", command, path)?;
        server.listens(http1).await?;
        pin(tools, server.pid()?, &cores.endpoint).await?;
        Ok(Self { server, http1, h2c, _folder: folder })
    }

    /// Where it listens for what a proxy speaks with it, whose clients speak `protocol`.
    pub fn address(&self, protocol: Protocol) -> SocketAddr {
        if protocol == Protocol::H2c { self.h2c } else { self.http1 }
    }

    /// Ends it.
    ///
    /// # Errors
    /// If it had ended before.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.server.stop().await
    }
}

/// A proxy that runs on its cores.
#[derive(Debug)]
struct Started {
    front: Front,
    target: SocketAddr,
}

impl Started {
    async fn start(
        tools: &Tools,
        rival: Rival,
        protocol: Protocol,
        endpoint: &Endpoint,
        cores: &Cores,
    ) -> anyhow::Result<Self> {
        let pods = [endpoint.address(protocol)];
        let setup = Setup { proxies: 1, workers: cores.workers, objective: OBJECTIVE, protocol, pods: &pods };
        let front = rival.start(tools, &setup).await?;
        let target = *front.targets.first().context("a proxy has an address")?;
        if protocol == Protocol::Http1 {
            super::trial::answers(target).await?;
        }
        for pid in front.pids()? {
            pin(tools, pid, &cores.proxy).await?;
        }
        Ok(Self { front, target })
    }
}

/// Measures one proxy with bodies of `bytes` bytes for `length`, after a second of warm-up.
///
/// # Errors
/// If a part does not start, an answer is not 200, or the program that sends requests says something else than expected.
pub async fn measure(
    tools: &Tools,
    rival: Rival,
    protocol: Protocol,
    endpoint: &Endpoint,
    cores: &Cores,
    bytes: u32,
    length: Duration,
) -> anyhow::Result<Cost> {
    let Started { front, target } = Started::start(tools, rival, protocol, endpoint, cores).await?;
    let scheme = if protocol.is_encrypted() { "https" } else { "http" };
    let url = format!("{scheme}://{target}/{bytes}");
    let load = |length| load::run(tools, protocol, cores, &url, length);
    // The first seconds may be too early: a configuration that is still on its way, a health check that has not passed.
    for attempt in 0.. {
        match load(Duration::from_secs(1)).await {
            Ok(_) => break,
            Err(problem) if attempt == 5 => return Err(problem),
            Err(_) => {}
        }
    }
    let processes = front.pids()?.into_iter().flat_map(family).collect::<Vec<_>>();
    let before = cpu_ticks(&processes)?;
    let requests = load(length).await?;
    let after = cpu_ticks(&processes)?;
    front.stop().await?;
    let (user, system) = ((after.0 - before.0) as f64, (after.1 - before.1) as f64);
    Ok(Cost {
        cpu_us: (user + system) * US_PER_TICK / requests as f64,
        system_share: system / (user + system).max(1.0),
        rps: requests as f64 / length.as_secs_f64(),
        core_share: (user + system) * US_PER_TICK / 1e6 / length.as_secs_f64(),
    })
}

/// Keeps a process, its threads and its children on one core.
async fn pin(tools: &Tools, pid: u32, core: &str) -> anyhow::Result<()> {
    for pid in family(pid) {
        let output = Command::new(tools.path("taskset")?).args(["-acp", core, &pid.to_string()]).output().await?;
        ensure!(output.status.success(), "cannot pin {pid}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

/// A process and its descendants.
fn family(pid: u32) -> Vec<u32> {
    let mut found = vec![pid];
    let children = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    for task in children {
        let listed = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        found.extend(listed.split_whitespace().filter_map(|child| child.parse().ok()).flat_map(family));
    }
    found
}

/// User and system time that these processes have used.
fn cpu_ticks(processes: &[u32]) -> anyhow::Result<(u64, u64)> {
    let mut sum = (0, 0);
    for pid in processes {
        let path = format!("/proc/{pid}/stat");
        let text = std::fs::read_to_string(Path::new(&path)).with_context(|| format!("cannot read {path}"))?;
        let (user, system) = stat_ticks(&text).with_context(|| format!("{path} is not as proc(5) says"))?;
        sum = (sum.0 + user, sum.1 + system);
    }
    Ok(sum)
}

/// `utime` and `stime` of `/proc/PID/stat`: the 14th and 15th field, counted after the name, which may hold anything.
fn stat_ticks(text: &str) -> Option<(u64, u64)> {
    let mut fields = text.rsplit_once(')')?.1.split_whitespace().skip(11);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

fn endpoint_config(http1: SocketAddr, h2c: SocketAddr, workers: usize) -> String {
    // Else one worker of several takes most connections.
    let shared = if workers > 1 { " reuseport" } else { "" };
    format!(
        "user root;
daemon off;
worker_processes {workers};
pid nginx.pid;
error_log stderr warn;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 100000000;
    open_file_cache max=16;
    server {{
        listen {http1} backlog=1024{shared};
        listen {h2c} http2 backlog=1024{shared};
        root .;
    }}
}}
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let text = "42 (a (b) c) S 1 42 42 0 -1 4194560 1 0 0 0 123 45 0 0 20 0 1 0 100";
        assert_eq!(stat_ticks(text), Some((123, 45)));
    }

    #[test]
    fn this_process_has_used_some_time_and_is_its_own_family() {
        let me = std::process::id();
        assert_eq!(family(me).first(), Some(&me));
        assert!(cpu_ticks(&[me]).is_ok());
    }
}
