//! `just overhead`: CPU time per proxied request, against nginx, HAProxy and Envoy; see `trimtab_tests::compare::overhead`.
//! `just overhead scaling` and `just overhead latency` want more cores.

use std::io::Write;
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use comfy_table::{Table, presets};
use serde::Serialize;
use trimtab_tests::compare::overhead::cores::Cores;
use trimtab_tests::compare::overhead::latency::Latency;
use trimtab_tests::compare::overhead::{Cost, Endpoint, latency, measure, scaling};
use trimtab_tests::compare::rival::{Protocol, Rival};
use trimtab_tests::compare::statistics::{Estimate, geometric_mean, median};
use trimtab_tests::tools::Tools;

/// Measures the CPU time per proxied request: 64 keep-alive connections, one worker on one core
#[derive(Debug, Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    other: Option<Other>,
    /// Routers. Without trimtab among them there are no ratios
    #[arg(long, value_delimiter = ',', default_value = "trimtab,nginx-least-conn,haproxy,envoy")]
    rival: Vec<Rival>,
    /// What is spoken with clients, and with endpoints
    #[arg(long, value_delimiter = ',', default_value = "http1,tls,http2")]
    protocol: Vec<Protocol>,
    /// Bodies of answers: 64 or 16384
    #[arg(long, value_delimiter = ',', default_value = "64,16384", value_parser = body)]
    bytes: Vec<u32>,
    #[command(flatten)]
    how: How,
    /// Where the JSON goes
    #[arg(long, default_value = "target/overhead.json")]
    json: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Other {
    /// Requests per second with one worker on one core, and with more; needs eight cores for two workers
    Scaling {
        /// Routers
        #[arg(long, value_delimiter = ',', default_value = "trimtab,nginx-least-conn")]
        rival: Vec<Rival>,
        /// Workers; gains are over the first number of them
        #[arg(long, value_delimiter = ',', default_value = "1,2")]
        workers: Vec<NonZeroU16>,
        /// Bodies of answers: 64 or 16384
        #[arg(long, default_value = "64", value_parser = body)]
        bytes: u32,
        #[command(flatten)]
        how: How,
        /// Where the JSON goes
        #[arg(long, default_value = "target/scaling.json")]
        json: PathBuf,
    },
    /// Latency that one worker adds at a steady rate; needs five cores
    Latency {
        /// Routers
        #[arg(long, value_delimiter = ',', default_value = "trimtab,nginx-least-conn,haproxy,envoy")]
        rival: Vec<Rival>,
        /// Requests a second
        #[arg(long, default_value = "4000")]
        rate: NonZeroU16,
        /// Bodies of answers: 64 or 16384
        #[arg(long, default_value = "64", value_parser = body)]
        bytes: u32,
        #[command(flatten)]
        how: How,
        /// Where the JSON goes
        #[arg(long, default_value = "target/latency.json")]
        json: PathBuf,
    },
}

/// How much is measured.
#[derive(Debug, Clone, Copy, Args)]
struct How {
    /// How often each is measured, in turns
    #[arg(long, default_value = "5")]
    repetitions: NonZeroU16,
    /// Length of a measurement
    #[arg(long, default_value = "5")]
    seconds: NonZeroU16,
}

impl How {
    fn repetitions(self) -> usize {
        usize::from(self.repetitions.get())
    }

    fn length(self) -> Duration {
        Duration::from_secs(self.seconds.get().into())
    }
}

/// A body that the endpoint has.
fn body(text: &str) -> Result<u32, String> {
    match text {
        "64" => Ok(64),
        "16384" => Ok(16_384),
        _ => Err("64 or 16384".to_owned()),
    }
}

/// One router with one protocol and body size.
#[derive(Debug, Serialize)]
struct Row {
    protocol: String,
    rival: String,
    body_bytes: u32,
    cpu_us_median: Option<f64>,
    system_share_median: Option<f64>,
    rps_median: Option<f64>,
    core_share_median: Option<f64>,
    /// Trimtab's CPU time over this router's, pair by pair.
    cpu_ratio: Option<Estimate>,
    costs: Vec<Cost>,
}

/// The JSON document.
#[derive(Debug, Serialize)]
struct Report<Row> {
    version: &'static str,
    command: String,
    repetitions: u16,
    seconds: u16,
    rows: Vec<Row>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let Arguments { other, rival, protocol, bytes, how, json } = Arguments::parse();
    let tools = Tools::find(&["proxies"]).await?;
    match other {
        None => cost(&tools, &rival, &protocol, &bytes, how, &json).await,
        Some(Other::Scaling { rival, workers, bytes, how, json }) => {
            let workers: Vec<usize> = workers.into_iter().map(|workers| workers.get().into()).collect();
            let told = |rival: Rival, workers: usize, cost: &Cost| {
                let _ =
                    writeln!(std::io::stdout(), "{:<18} {workers} workers  {:>7.0} requests/s", rival.name(), cost.rps);
            };
            let rows = scaling::compare(&tools, &rival, &workers, bytes, how.repetitions(), how.length(), told).await?;
            finish(&scaling_table(&rows), rows, how, &json)
        }
        Some(Other::Latency { rival, rate, bytes, how, json }) => {
            let told = |name: &str, latency: &Latency| {
                let _ = writeln!(
                    std::io::stdout(),
                    "{name:<18} p50 {:>6.0} µs  p99 {:>6.0} µs",
                    latency.us_p50,
                    latency.us_p99
                );
            };
            let rate = f64::from(rate.get());
            let rows = latency::compare(&tools, &rival, rate, bytes, how.repetitions(), how.length(), told).await?;
            finish(&latency_table(&rows), rows, how, &json)
        }
    }
}

async fn cost(
    tools: &Tools,
    rivals: &[Rival],
    protocols: &[Protocol],
    sizes: &[u32],
    how: How,
    json: &Path,
) -> anyhow::Result<()> {
    let cores = Cores::two()?;
    let endpoint = Endpoint::start(tools, &cores).await?;
    let mut out = std::io::stdout();
    let mut rows = Vec::new();
    let cases = protocols.iter().flat_map(|protocol| sizes.iter().map(|bytes| (*protocol, *bytes)));
    for (protocol, body_bytes) in cases {
        let mut measured: Vec<(Rival, Vec<Cost>)> = rivals.iter().map(|rival| (*rival, Vec::new())).collect();
        for repetition in 0..how.repetitions() {
            for turn in 0..measured.len() {
                let index = (turn + repetition) % measured.len();
                let (rival, costs) = &mut measured[index];
                let cost = measure(tools, *rival, protocol, &endpoint, &cores, body_bytes, how.length())
                    .await
                    .with_context(|| format!("{} with {}", rival.name(), protocol.name()))?;
                let (case, name) = (format!("{:<6}{body_bytes:>6} B", protocol.name()), rival.name());
                writeln!(out, "{case}  {name:<18} {:>6.1} µs  {:>7.0} requests/s", cost.cpu_us, cost.rps)?;
                costs.push(cost);
            }
        }
        let ours = measured.iter().find(|(rival, _)| *rival == Rival::Trimtab).map(|(_, costs)| costs.clone());
        for (rival, costs) in measured {
            let middle = |value: fn(&Cost) -> f64| median(&costs.iter().map(value).collect::<Vec<_>>());
            let pairs = ours.iter().flatten().zip(&costs).filter(|_| rival != Rival::Trimtab);
            let ratios: Vec<f64> = pairs.map(|(ours, theirs)| ours.cpu_us / theirs.cpu_us).collect();
            rows.push(Row {
                protocol: protocol.name(),
                rival: rival.name(),
                body_bytes,
                cpu_us_median: middle(|cost| cost.cpu_us),
                system_share_median: middle(|cost| cost.system_share),
                rps_median: middle(|cost| cost.rps),
                core_share_median: middle(|cost| cost.core_share),
                cpu_ratio: geometric_mean(&ratios, 1),
                costs,
            });
        }
    }
    endpoint.stop().await?;
    finish(&table(&rows), rows, how, json)
}

/// Prints the table and writes the document.
fn finish<Row: Serialize>(table: &str, rows: Vec<Row>, how: How, json: &Path) -> anyhow::Result<()> {
    let mut out = std::io::stdout();
    writeln!(out, "\n{table}")?;
    let report = Report {
        version: env!("CARGO_PKG_VERSION"),
        command: std::env::args().collect::<Vec<_>>().join(" "),
        repetitions: how.repetitions.get(),
        seconds: how.seconds.get(),
        rows,
    };
    std::fs::write(json, serde_json::to_string_pretty(&report)?)
        .with_context(|| format!("cannot write {}", json.display()))?;
    writeln!(out, "written to {}", json.display())?;
    Ok(())
}

/// A number with so many digits, if there is one.
fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(String::new, |value| format!("{value:.digits$}"))
}

fn ratio(estimate: Option<Estimate>) -> String {
    estimate.map_or_else(String::new, |Estimate { mean, low, high }| format!("{mean:.2} [{low:.2}, {high:.2}]"))
}

fn scaling_table(rows: &[scaling::Row]) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(["router", "body", "workers", "requests/s", "cores busy", "over the first"]);
    for row in rows {
        table.add_row([
            row.rival.clone(),
            format!("{} B", row.body_bytes),
            row.workers.to_string(),
            number(row.rps, 0),
            number(row.busy.map(|share| share * 100.0), 0) + " %",
            ratio(row.gain),
        ]);
    }
    table.trim_fmt()
}

fn latency_table(rows: &[latency::Row]) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(["router", "p50 µs", "p99 µs", "p99.9 µs", "added to p99, µs"]);
    for row in rows {
        table.add_row([
            row.rival.clone(),
            number(row.us_p50, 0),
            number(row.us_p99, 0),
            number(row.us_p999, 0),
            number(row.us_p99_added, 0),
        ]);
    }
    table.trim_fmt()
}

fn table(rows: &[Row]) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header([
        "protocol",
        "body",
        "router",
        "CPU µs/request",
        "of it system",
        "requests/s",
        "core busy",
        "Trimtab's CPU over it",
    ]);
    for row in rows {
        table.add_row([
            row.protocol.clone(),
            format!("{} B", row.body_bytes),
            row.rival.clone(),
            number(row.cpu_us_median, 1),
            number(row.system_share_median.map(|share| share * 100.0), 0) + " %",
            number(row.rps_median, 0),
            number(row.core_share_median.map(|share| share * 100.0), 0) + " %",
            ratio(row.cpu_ratio),
        ]);
    }
    table.trim_fmt()
}
