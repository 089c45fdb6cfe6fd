//! `just abuse` and `just soak`: what idle connections cost, what abuse does to everybody else, what a long time leaves behind; see
//! `trimtab_tests::abuse`.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use clap::{Parser, Subcommand};
use trimtab_tests::abuse::{attack, idle, load, soak, target::Target};

/// Measures what abuse, idling and long use do to the proxy
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Memory per idle connection
    Idle {
        /// Connections of each kind
        #[arg(default_value_t = 10_000)]
        connections: usize,
    },
    /// Latency of a steady load, with and without each attack, in turns
    Others {
        /// Seconds of each turn
        #[arg(long, default_value_t = 10)]
        seconds: u64,
        /// Turns of each attack
        #[arg(long, default_value_t = 3)]
        turns: usize,
        /// Requests a second of everybody else
        #[arg(long, default_value_t = 300.0)]
        rate: f64,
        /// Attackers at a time, where they are many
        #[arg(long, default_value_t = 2_000)]
        clients: usize,
    },
    /// A long time at half load
    Soak {
        /// How long
        #[arg(default_value_t = 20.0)]
        minutes: f64,
    },
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // Both this process and the proxy hold a descriptor for each connection.
    rlimit::increase_nofile_limit(u64::MAX)?;
    match Arguments::parse().what {
        What::Idle { connections } => idling(connections).await,
        What::Others { seconds, turns, rate, clients } => {
            others(Duration::from_secs(seconds), turns, rate, clients).await
        }
        What::Soak { minutes } => soaking(minutes).await,
    }
}

async fn idling(connections: usize) -> anyhow::Result<()> {
    let mut out = std::io::stdout();
    for kind in idle::Kind::ALL {
        // Each its own process: what one kind has freed must not be used by the next.
        let target = Target::start(&[]).await?;
        let found = idle::measure(&target, kind, connections).await?;
        writeln!(
            out,
            "{:<14} {:>7} connections  {:>6.1} KiB each",
            format!("{kind:?}"),
            connections,
            found.bytes_each / 1024.0
        )?;
        out.flush()?;
        target.stop().await?;
    }
    Ok(())
}

async fn others(length: Duration, turns: usize, rate: f64, clients: usize) -> anyhow::Result<()> {
    let mut out = std::io::stdout();
    let (stalling, _held) = attack::stalling().await?;
    for attack in attack::Attack::ALL {
        let (mut ratios, mut failed) = (Vec::new(), 0);
        for _ in 0..turns {
            let target = Arc::new(Target::start(&stalling).await?);
            let quiet = load::steady(&target, rate, length).await;
            let attackers = attack::begin(attack, &target, clients).await;
            tokio::time::sleep(Duration::from_secs(2)).await;
            let under = load::steady(&target, rate, length).await;
            let resident = target.resident_kib()?;
            drop(attackers);
            writeln!(
                out,
                "{:<18} p99 {:>7.2} ms, without {:>7.2} ms  p50 {:>6.2} ms, without {:>6.2} ms  failed {}  {:>6} KiB",
                format!("{attack:?}"),
                under.ms(0.99),
                quiet.ms(0.99),
                under.ms(0.5),
                quiet.ms(0.5),
                under.bad + quiet.bad,
                resident
            )?;
            out.flush()?;
            ratios.push(under.ms(0.99) / quiet.ms(0.99));
            failed += under.bad + quiet.bad;
            for complaint in under.complaints.iter().chain(&quiet.complaints).take(3) {
                writeln!(out, "    {complaint}")?;
            }
        }
        ratios.sort_by(f64::total_cmp);
        writeln!(
            out,
            "{:<18} p99 x {:.2} (median of {turns}), {failed} failed",
            format!("{attack:?}"),
            ratios[turns / 2]
        )?;
    }
    Ok(())
}

async fn soaking(minutes: f64) -> anyhow::Result<()> {
    let mut out = std::io::stdout();
    let target = Arc::new(Target::start(&[]).await?);
    let rate = soak::half_load(&target, Duration::from_secs(5)).await;
    writeln!(out, "half load: {rate:.0} requests/s")?;
    let steps = (minutes.ceil() as usize).max(8);
    let length = Duration::from_secs_f64(minutes * 60.0 / steps as f64);
    let mut all = Vec::new();
    for number in 0..steps {
        let minute = (number + 1) as f64 * length.as_secs_f64() / 60.0;
        let (step, complaints) = soak::step(&target, rate, length, minute).await?;
        writeln!(
            out,
            "{:>5.1} min  {:>8} answered  {} failed  p50 {:.2} ms  p99 {:.2} ms  {} KiB  {} descriptors",
            step.minute, step.good, step.bad, step.ms_p50, step.ms_p99, step.resident_kib, step.descriptors
        )?;
        out.flush()?;
        for complaint in complaints.iter().take(3) {
            writeln!(out, "    {complaint}")?;
        }
        all.push(step);
    }
    let wrong = soak::verdict(&all);
    anyhow::ensure!(wrong.is_empty(), "{}", wrong.join("; "));
    writeln!(out, "memory and descriptors are flat, and no request failed")?;
    Ok(())
}
