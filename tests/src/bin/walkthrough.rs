//! The service of docs/walkthrough.md for people: `walkthrough pods` starts its pods, `walkthrough load` asks them through a proxy.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use tokio::time::sleep_until;
use trimtab::demo::clock;
use trimtab_tests::walkthrough::{Load, service, start_pods};

/// The service of the walk-through.
#[derive(Debug, Parser)]
enum Command {
    /// Start the pods, write their addresses to a file for `trimtab up --backends`, and serve until Ctrl-C
    Pods {
        /// The file
        #[arg(long, default_value = "backends.txt")]
        backends: PathBuf,
    },
    /// Send the service's requests to a proxy, and say every while how it fared
    Load {
        /// Where the proxy listens
        #[arg(long, default_value = "127.0.0.1:8080")]
        to: SocketAddr,
        /// Seconds between two lines
        #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(5..=3600))]
        every: u64,
        /// Seconds after which it ends
        #[arg(long, default_value_t = 7200, value_parser = clap::value_parser!(u64).range(5..=14400))]
        seconds: u64,
    },
}

#[tokio::main]
#[allow(clippy::print_stdout, reason = "printing is what it is for")]
async fn main() -> anyhow::Result<()> {
    match Command::parse() {
        Command::Pods { backends } => {
            let pods = start_pods().await?;
            let lines: String = pods.iter().map(|pod| format!("{}\n", pod.address())).collect();
            std::fs::write(&backends, lines).with_context(|| format!("--backends {}", backends.display()))?;
            println!("{} pods serve; their addresses are in {}", pods.len(), backends.display());
            tokio::signal::ctrl_c().await?;
        }
        Command::Load { to, every, seconds } => {
            println!("{:.0} requests/s to {to}", service().rate_rps);
            let start = clock::now();
            for number in 0..seconds.div_ceil(every) {
                let load = Load::start(to, 1 + number, Duration::ZERO);
                sleep_until(start + Duration::from_secs(every * (number + 1))).await;
                load.stop();
                // The next one begins at once; what is in flight still counts here.
                tokio::spawn(async move {
                    let lag_ms = load.lag_ms();
                    match load.end().await {
                        Ok(score) => println!("{}", line(every * (number + 1), every, lag_ms, &score)),
                        Err(error) => println!("{error:#}"),
                    }
                });
            }
        }
    }
    Ok(())
}

fn line(at_s: u64, every: u64, lag_ms: f64, score: &trimtab::demo::score::Score) -> String {
    let summary = score.summary(Duration::from_secs(every));
    let ms = |ms: Option<f64>| ms.map_or_else(|| "–".to_owned(), |ms| format!("{ms:.0} ms"));
    format!(
        "{at_s:5} s  {} requests  p50 {}  p99 {}  in time {:.2} %  without an answer {:.2} %  sent late by {lag_ms:.1} ms",
        summary.requests,
        ms(summary.latency_ms_p50),
        ms(summary.latency_ms_p99),
        100.0 * summary.goodput_share,
        100.0 * summary.error_share,
    )
}
