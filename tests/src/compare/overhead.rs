//! What a proxied request costs in CPU: 64 keep-alive connections, the proxy alone on one core, load (wrk; h2load for HTTP/2) and backend
//! (nginx with static files) on another. User and system time of the proxy's processes, over the requests that were completed.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde::Serialize;
use tempfile::TempDir;
use tokio::process::Command;

use super::process::{Server, free_address};
use super::rival::{Protocol, Rival, Setup};
use super::shape::OBJECTIVE;
use crate::tools::Tools;

/// Core of the proxy.
const PROXY_CORE: &str = "0";

/// Core of load and backend.
const OTHER_CORE: &str = "1";

/// Connections that are kept open with HTTP/1.1.
const CONNECTIONS: u32 = 64;

/// The same number of requests at a time over HTTP/2: connections, and streams on each.
const HTTP2_CONNECTIONS: u32 = 8;
const HTTP2_STREAMS: u32 = 8;

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
    /// How busy the proxy kept its core, 0..=1. Much below 1, something else had the cores, and its caches: measure again.
    pub core_share: f64,
}

/// A backend that answers `/64` and `/16384` with bodies of as many bytes.
#[derive(Debug)]
pub struct Backend {
    server: Server,
    http1: SocketAddr,
    h2c: SocketAddr,
    _folder: TempDir,
}

impl Backend {
    /// Starts it on its core.
    ///
    /// # Errors
    /// If there is only one core, or nginx does not start.
    pub async fn start(tools: &Tools) -> anyhow::Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        ensure!(cores >= 2, "this measurement needs two cores: one for the proxy, one for load and backend");
        let folder = tempfile::Builder::new().prefix("trimtab-overhead-").tempdir()?;
        let (path, http1, h2c) = (folder.path(), free_address()?, free_address()?);
        for bytes in [64, 16_384] {
            std::fs::write(path.join(bytes.to_string()), vec![b'x'; bytes])?;
        }
        std::fs::write(path.join("healthz"), "ok\n")?;
        std::fs::write(path.join("index.html"), "ok\n")?;
        std::fs::write(path.join("nginx.conf"), backend_config(http1, h2c))?;
        let mut command = Command::new(tools.path("nginx")?);
        command.arg("-p").arg(path).arg("-c").arg(path.join("nginx.conf")).args(["-e", "stderr"]);
        let mut server = Server::start("backend", command, path)?;
        server.listens(http1).await?;
        pin(tools, server.pid()?, OTHER_CORE).await?;
        Ok(Self { server, http1, h2c, _folder: folder })
    }

    /// Ends it.
    ///
    /// # Errors
    /// If it had ended before.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.server.stop().await
    }
}

/// Measures one proxy with bodies of `bytes` bytes for `length`, after a second of warm-up.
///
/// # Errors
/// If a part does not start, an answer is not 200, or wrk says something else than expected.
pub async fn measure(
    tools: &Tools,
    rival: Rival,
    protocol: Protocol,
    backend: &Backend,
    bytes: u32,
    length: Duration,
) -> anyhow::Result<Cost> {
    let pods = [if protocol == Protocol::H2c { backend.h2c } else { backend.http1 }];
    let front = rival.start(tools, &Setup { proxies: 1, objective: OBJECTIVE, protocol, pods: &pods }).await?;
    let target = front.targets.first().context("a proxy has an address")?;
    if protocol == Protocol::Http1 {
        super::trial::answers(*target).await?;
    }
    for pid in front.pids()? {
        pin(tools, pid, PROXY_CORE).await?;
    }
    let scheme = if protocol.is_encrypted() { "https" } else { "http" };
    let url = format!("{scheme}://{target}/{bytes}");
    let load = async |length| match protocol {
        Protocol::Http1 | Protocol::Tls => wrk(tools, &url, length).await,
        Protocol::Http2 | Protocol::H2c => h2load(tools, &url, length).await,
    };
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

/// Runs wrk; tells how many requests it completed.
async fn wrk(tools: &Tools, url: &str, length: Duration) -> anyhow::Result<u64> {
    let output = Command::new(tools.path("taskset")?)
        .args(["-c", OTHER_CORE])
        .arg(tools.path("wrk")?)
        .args(["-t1", &format!("-c{CONNECTIONS}"), &format!("-d{}s", length.as_secs()), url])
        .kill_on_drop(true)
        .output()
        .await
        .context("cannot run wrk")?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "wrk failed: {said}{}", String::from_utf8_lossy(&output.stderr));
    requests_completed(&said)
}

/// Reads wrk's report.
fn requests_completed(said: &str) -> anyhow::Result<u64> {
    if let Some(line) = said.lines().find(|line| line.contains("Non-2xx") || line.contains("Socket errors")) {
        bail!("not every request went well: {}", line.trim());
    }
    let line = said.lines().find(|line| line.contains(" requests in ")).context("wrk does not tell the requests")?;
    let count = line.split_whitespace().next().context("an empty line")?;
    count.parse().with_context(|| format!("{count:?} is no number of requests"))
}

/// Runs h2load; tells how many requests it completed.
async fn h2load(tools: &Tools, url: &str, length: Duration) -> anyhow::Result<u64> {
    let output = Command::new(tools.path("taskset")?)
        .args(["-c", OTHER_CORE])
        .arg(tools.path("h2load")?)
        .args(["-t1", &format!("-c{HTTP2_CONNECTIONS}"), &format!("-m{HTTP2_STREAMS}")])
        .args([&format!("-D{}", length.as_secs()), "--warm-up-time=0", url])
        .kill_on_drop(true)
        .output()
        .await
        .context("cannot run h2load")?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "h2load failed: {said}{}", String::from_utf8_lossy(&output.stderr));
    h2load_completed(&said)
}

/// Reads h2load's report: every request must have been answered with 2xx. Those that were cut off at the end do not count.
fn h2load_completed(said: &str) -> anyhow::Result<u64> {
    let number = |text: &str, after: &str| -> anyhow::Result<u64> {
        let line =
            said.lines().find(|line| line.starts_with(text)).with_context(|| format!("h2load says no {text:?}"))?;
        let words: Vec<&str> = line.split([' ', ',']).filter(|word| !word.is_empty()).collect();
        let place =
            words.iter().position(|word| *word == after).with_context(|| format!("no {after:?} in {line:?}"))?;
        let before = place.checked_sub(1).and_then(|before| words.get(before)).context("a number stands before it")?;
        before.parse().with_context(|| format!("{before:?} is no number"))
    };
    let (good, done) = (number("status codes:", "2xx")?, number("requests:", "succeeded")?);
    let bad = number("requests:", "failed")? + number("requests:", "errored")?;
    ensure!(good > 0 && good >= done && bad == 0, "not every request went well: {said}");
    Ok(done)
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

fn backend_config(http1: SocketAddr, h2c: SocketAddr) -> String {
    format!(
        "user root;
daemon off;
worker_processes 1;
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
        listen {http1} backlog=1024;
        listen {h2c} http2 backlog=1024;
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
    fn wrk_is_read_and_its_complaints_are_heard() {
        let good = "Running 5s test\n  1 threads and 64 connections\n  229144 requests in 5.00s, 70.13MB read\n";
        assert_eq!(requests_completed(good).unwrap(), 229_144);
        let bad = format!("{good}  Non-2xx or 3xx responses: 12\n");
        assert!(requests_completed(&bad).unwrap_err().to_string().contains("12"));
        assert!(requests_completed("").is_err());
    }

    #[test]
    fn h2load_is_read_and_its_complaints_are_heard() {
        let good = "requests: 9 total, 9 started, 9 done, 8 succeeded, 0 failed, 0 errored, 0 timeout\n\
                    status codes: 8 2xx, 0 3xx, 0 4xx, 0 5xx\n";
        assert_eq!(h2load_completed(good).unwrap(), 8);
        assert!(h2load_completed(&good.replace("0 failed", "3 failed")).is_err());
        assert!(h2load_completed(&good.replace("8 2xx", "2 2xx")).is_err());
        assert!(h2load_completed("").is_err());
    }

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
