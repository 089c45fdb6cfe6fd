//! `just compare`: Trimtab against nginx, HAProxy and Envoy over shapes of trouble; see `trimtab_tests::compare`.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use futures_util::future::try_join_all;
use trimtab_tests::compare::report::{Report, ShapeReport};
use trimtab_tests::compare::rival::Rival;
use trimtab_tests::compare::shape::{Plan, Shape};
use trimtab_tests::compare::trial::{self, Trial};
use trimtab_tests::tools::Tools;

/// Compares Trimtab with nginx, HAProxy and Envoy: real processes, open loop, interleaved repetitions
#[derive(Debug, Parser)]
struct Arguments {
    /// Shapes of trouble; all by default
    #[arg(long, value_delimiter = ',')]
    shape: Vec<Shape>,
    /// Routers; all by default, but trimtab-no-classes only where requests are of several kinds. Without trimtab among them there are no ratios
    #[arg(long, value_delimiter = ',')]
    rival: Vec<Rival>,
    /// How many proxies share the work; several with commas between them. By default as each shape has it
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..=64))]
    proxies: Vec<u16>,
    /// All routers at the same time, each with pods and a load of its own. For loads that leave this machine mostly idle
    #[arg(long)]
    at_once: bool,
    /// A repetition in which this machine sent one request of a hundred later than this, milliseconds, is played again, up to three times:
    /// others kept it busy. Whatever the routers did
    #[arg(long, value_name = "MS")]
    late_max: Option<f64>,
    /// How often each router meets each shape, each time with another seed; 0: only what the simulator says, where it knows the shape
    #[arg(long, default_value_t = 5)]
    repetitions: u16,
    /// Length of a trial without its warm-up
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u16).range(2..))]
    seconds: u16,
    /// Seed of the first repetition
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Two repetitions of six seconds: a look, not a result
    #[arg(long, conflicts_with_all = ["repetitions", "seconds"])]
    quick: bool,
    /// Where the JSON goes
    #[arg(long, default_value = "target/compare.json")]
    json: PathBuf,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let shapes = if arguments.shape.is_empty() { Shape::value_variants().to_vec() } else { arguments.shape.clone() };
    let (repetitions, seconds) = if arguments.quick { (2, 6) } else { (arguments.repetitions, arguments.seconds) };
    let (repetitions, counted) = (usize::from(repetitions), Duration::from_secs(seconds.into()));
    let tools = Tools::find(&["proxies"]).await?;
    let mut report = Report::new(arguments.seed, repetitions, counted, arguments.at_once);
    let mut out = std::io::stdout();
    for shape in shapes {
        let rivals = if arguments.rival.is_empty() { by_default(shape) } else { arguments.rival.clone() };
        let asked: Vec<usize> = arguments.proxies.iter().map(|proxies| usize::from(*proxies)).collect();
        for proxies in if asked.is_empty() { shape.proxies() } else { &asked } {
            let mut trials: Vec<(Rival, Vec<Trial>)> = rivals.iter().map(|rival| (*rival, Vec::new())).collect();
            for repetition in 0..repetitions {
                let seed = arguments.seed + repetition as u64;
                let plan = shape.plan(seed, counted, *proxies);
                let mut found = repeat(&tools, &rivals, &plan, repetition, arguments.at_once).await?;
                for _ in 0..3 {
                    let late_ms = found.iter().map(|(_, trial)| trial.send_lag_ms_p99).fold(0.0, f64::max);
                    if arguments.late_max.is_none_or(|max| late_ms <= max) {
                        break;
                    }
                    writeln!(
                        out,
                        "once more: this machine was busy, one request of a hundred was {late_ms:.0} ms late"
                    )?;
                    found = repeat(&tools, &rivals, &plan, repetition, arguments.at_once).await?;
                }
                for (rival, trial) in found {
                    writeln!(out, "{}", line(shape, rival, &plan, &trial))?;
                    trials.iter_mut().filter(|(one, _)| *one == rival).for_each(|(_, all)| all.push(trial.clone()));
                }
            }
            let plan = shape.plan(arguments.seed, counted, *proxies);
            report.shapes.push(ShapeReport::new(shape, &plan, &trials, arguments.seed)?);
            // After each shape, so that an interrupted run leaves what it found.
            std::fs::write(&arguments.json, serde_json::to_string_pretty(&report)?)?;
        }
    }
    writeln!(out, "\n{}", report.text())?;
    writeln!(out, "written to {}", arguments.json.display())?;
    Ok(())
}

fn by_default(shape: Shape) -> Vec<Rival> {
    let all = Rival::value_variants().iter().copied();
    all.filter(|rival| *rival != Rival::TrimtabNoClasses || shape.has_kinds()).collect()
}

/// One trial of each rival.
async fn repeat(
    tools: &Tools,
    rivals: &[Rival],
    plan: &Plan,
    repetition: usize,
    at_once: bool,
) -> anyhow::Result<Vec<(Rival, Trial)>> {
    // Nobody is always first: what changes slowly on the machine hits all alike.
    let turns = (0..rivals.len()).map(|turn| rivals[(turn + repetition) % rivals.len()]);
    let trial = |rival: Rival| async move { anyhow::Ok((rival, trial::run(tools, rival, plan).await?)) };
    if at_once {
        return try_join_all(turns.map(trial)).await;
    }
    let mut trials = Vec::new();
    for rival in turns {
        trials.push(trial(rival).await?);
    }
    Ok(trials)
}

fn line(shape: Shape, rival: Rival, plan: &Plan, trial: &Trial) -> String {
    let summary = &trial.summary;
    format!(
        "{:<14} {:>2} x {:<18} seed {}: p50 {:>4.0} ms, p99 {:>5.0} ms, errors {:>6.2} %, in time {:>5.1} %, one of a hundred sent {:>3.0} ms late, {} classes",
        shape.name(),
        plan.proxies,
        rival.name(),
        plan.seed,
        summary.latency_ms_p50.unwrap_or(f64::NAN),
        summary.latency_ms_p99.unwrap_or(f64::NAN),
        summary.error_share * 100.0,
        summary.goodput_share * 100.0,
        trial.send_lag_ms_p99,
        trial.classes.len(),
    )
}
