//! `just overhead`: CPU time per proxied request, against nginx, HAProxy and Envoy; see `trimtab_tests::compare::overhead`.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use comfy_table::{Table, presets};
use serde::Serialize;
use trimtab_tests::compare::overhead::{Backend, Cost, measure};
use trimtab_tests::compare::rival::{Protocol, Rival};
use trimtab_tests::compare::statistics::{Estimate, geometric_mean, median};
use trimtab_tests::tools::Tools;

/// Measures the CPU time per proxied request: 64 keep-alive connections, one worker on one core
#[derive(Debug, Parser)]
struct Arguments {
    /// Routers. Without trimtab among them there are no ratios
    #[arg(long, value_delimiter = ',', default_value = "trimtab,nginx-least-conn,haproxy,envoy")]
    rival: Vec<Rival>,
    /// What is spoken with clients, and with endpoints
    #[arg(long, value_delimiter = ',', default_value = "http1,tls,http2")]
    protocol: Vec<Protocol>,
    /// Bodies of answers
    #[arg(long, value_delimiter = ',', default_value = "64,16384", value_parser = ["64", "16384"])]
    bytes: Vec<String>,
    /// How often each is measured, in turns
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    repetitions: u16,
    /// Length of a measurement
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    seconds: u16,
    /// Where the JSON goes
    #[arg(long, default_value = "target/overhead.json")]
    json: PathBuf,
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
struct Report {
    version: &'static str,
    command: String,
    repetitions: u16,
    seconds: u16,
    rows: Vec<Row>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let length = Duration::from_secs(arguments.seconds.into());
    let tools = Tools::find(&["proxies"]).await?;
    let backend = Backend::start(&tools).await?;
    let mut out = std::io::stdout();
    let mut rows = Vec::new();
    let sizes = arguments.bytes.iter().map(|bytes| bytes.parse()).collect::<Result<Vec<u32>, _>>()?;
    let cases = arguments.protocol.iter().flat_map(|protocol| sizes.iter().map(|bytes| (*protocol, *bytes)));
    for (protocol, body_bytes) in cases {
        let mut measured: Vec<(Rival, Vec<Cost>)> = arguments.rival.iter().map(|rival| (*rival, Vec::new())).collect();
        for repetition in 0..usize::from(arguments.repetitions) {
            for turn in 0..measured.len() {
                let index = (turn + repetition) % measured.len();
                let (rival, costs) = &mut measured[index];
                let cost = measure(&tools, *rival, protocol, &backend, body_bytes, length)
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
    backend.stop().await?;
    writeln!(out, "\n{}", table(&rows))?;
    let report = Report {
        version: env!("CARGO_PKG_VERSION"),
        command: std::env::args().collect::<Vec<_>>().join(" "),
        repetitions: arguments.repetitions,
        seconds: arguments.seconds,
        rows,
    };
    std::fs::write(&arguments.json, serde_json::to_string_pretty(&report)?)?;
    writeln!(out, "written to {}", arguments.json.display())?;
    Ok(())
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
        let number =
            |value: Option<f64>, digits: usize| value.map_or_else(String::new, |value| format!("{value:.digits$}"));
        table.add_row([
            row.protocol.clone(),
            format!("{} B", row.body_bytes),
            row.rival.clone(),
            number(row.cpu_us_median, 1),
            number(row.system_share_median.map(|share| share * 100.0), 0) + " %",
            number(row.rps_median, 0),
            number(row.core_share_median.map(|share| share * 100.0), 0) + " %",
            row.cpu_ratio
                .map_or_else(String::new, |Estimate { mean, low, high }| format!("{mean:.2} [{low:.2}, {high:.2}]")),
        ]);
    }
    table.trim_fmt()
}
