//! `just compare`: Trimtab against nginx, HAProxy and Envoy over shapes of trouble; see `trimtab_tests::compare`.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use trimtab_tests::compare::report::{Report, ShapeReport};
use trimtab_tests::compare::rival::Rival;
use trimtab_tests::compare::shape::Shape;
use trimtab_tests::compare::trial::{self, Trial};
use trimtab_tests::tools::Tools;

/// Compares Trimtab with nginx, HAProxy and Envoy: real processes, open loop, interleaved repetitions
#[derive(Debug, Parser)]
struct Arguments {
    /// Shapes of trouble; all by default
    #[arg(long, value_delimiter = ',')]
    shape: Vec<Shape>,
    /// Routers; all by default. Without trimtab among them there are no ratios
    #[arg(long, value_delimiter = ',')]
    rival: Vec<Rival>,
    /// How often each router meets each shape, each time with another seed
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
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
    let all_or = |chosen: Vec<Shape>| if chosen.is_empty() { Shape::value_variants().to_vec() } else { chosen };
    let shapes = all_or(arguments.shape);
    let rivals = if arguments.rival.is_empty() { Rival::value_variants().to_vec() } else { arguments.rival };
    let (repetitions, seconds) = if arguments.quick { (2, 6) } else { (arguments.repetitions, arguments.seconds) };
    let (repetitions, counted) = (usize::from(repetitions), Duration::from_secs(seconds.into()));
    let tools = Tools::find(&["proxies"]).await?;
    let mut report = Report::new(arguments.seed, repetitions, counted);
    let mut out = std::io::stdout();
    for shape in shapes {
        let mut trials: Vec<(Rival, Vec<Trial>)> = rivals.iter().map(|rival| (*rival, Vec::new())).collect();
        for repetition in 0..repetitions {
            let seed = arguments.seed + repetition as u64;
            let plan = shape.plan(seed, counted);
            // Nobody is always first: what changes slowly on the machine hits all alike.
            for turn in 0..rivals.len() {
                let (rival, results) = &mut trials[(turn + repetition) % rivals.len()];
                let trial = trial::run(&tools, *rival, &plan).await?;
                let summary = &trial.summary;
                writeln!(
                    out,
                    "{:<14} {:<18} seed {seed}: p50 {:>4.0} ms, p99 {:>5.0} ms, errors {:>6.2} %, in time {:>5.1} %",
                    shape.name(),
                    rival.name(),
                    summary.latency_ms_p50.unwrap_or(f64::NAN),
                    summary.latency_ms_p99.unwrap_or(f64::NAN),
                    summary.error_share * 100.0,
                    summary.goodput_share * 100.0,
                )?;
                results.push(trial);
            }
        }
        report.shapes.push(ShapeReport::new(shape, &trials, arguments.seed));
        // After each shape, so that an interrupted run leaves what it found.
        std::fs::write(&arguments.json, serde_json::to_string_pretty(&report)?)?;
    }
    writeln!(out, "\n{}", report.text())?;
    writeln!(out, "written to {}", arguments.json.display())?;
    Ok(())
}
