//! As many requests as go, from clients that wait for their answers: wrk, and h2load for HTTP/2.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use tokio::process::Command;

use super::cores::Cores;
use crate::compare::rival::Protocol;
use crate::tools::Tools;

/// Connections that are kept open with HTTP/1.1, for each of the proxy's workers.
const CONNECTIONS: usize = 64;

/// The same number of requests at a time over HTTP/2: connections, and streams on each.
const HTTP2_CONNECTIONS: usize = 8;
const HTTP2_STREAMS: usize = 8;

/// Asks `url` for `length`; tells how many requests were completed.
///
/// # Errors
/// If a request was not answered with 2xx, or the program says something else than expected.
pub async fn run(tools: &Tools, protocol: Protocol, cores: &Cores, url: &str, length: Duration) -> anyhow::Result<u64> {
    match protocol {
        Protocol::Http1 | Protocol::Tls => wrk(tools, cores, url, length).await,
        Protocol::Http2 | Protocol::H2c => h2load(tools, cores, url, length).await,
    }
}

/// Runs wrk; tells how many requests it completed.
async fn wrk(tools: &Tools, cores: &Cores, url: &str, length: Duration) -> anyhow::Result<u64> {
    let (connections, length) = (CONNECTIONS * cores.workers, length.as_secs());
    let args = [format!("-t{}", cores.threads), format!("-c{connections}"), format!("-d{length}s"), url.to_owned()];
    requests_completed(&said(tools, cores, "wrk", &args).await?)
}

/// What a program says that sends requests from its cores.
async fn said(tools: &Tools, cores: &Cores, program: &str, args: &[String]) -> anyhow::Result<String> {
    let output = Command::new(tools.path("taskset")?)
        .args(["-c", &cores.load])
        .arg(tools.path(program)?)
        .args(args)
        .kill_on_drop(true)
        .output()
        .await
        .with_context(|| format!("cannot run {program}"))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{program} failed: {said}{}", String::from_utf8_lossy(&output.stderr));
    Ok(said)
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
async fn h2load(tools: &Tools, cores: &Cores, url: &str, length: Duration) -> anyhow::Result<u64> {
    let (connections, length) = (HTTP2_CONNECTIONS * cores.workers, length.as_secs());
    let how = [format!("-t{}", cores.threads), format!("-c{connections}"), format!("-m{HTTP2_STREAMS}")];
    let args = how.into_iter().chain([format!("-D{length}"), "--warm-up-time=0".to_owned(), url.to_owned()]);
    h2load_completed(&said(tools, cores, "h2load", &args.collect::<Vec<_>>()).await?)
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
}
