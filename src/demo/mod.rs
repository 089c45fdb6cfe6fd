//! `trimtab demo`: simulated pods, an open-loop load, and the story that two worlds live through side by side. Tests and the
//! comparison benchmark use the pods and the load too.

pub mod arrivals;
pub mod clock;
pub mod faults;
mod frame;
pub mod kinds;
pub mod load;
pub mod pod;
mod pod_metrics;
pub mod score;
mod screen;
pub mod script;
pub mod service_time;
mod show;
mod summary;
mod world;

use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, ValueEnum};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use trimtab_controller::policy::Algorithm;

use script::Script;
use show::Show;
use summary::Report;
use world::World;

/// Flags of `trimtab demo`.
#[derive(Debug, Clone, Args)]
pub struct DemoArgs {
    /// How the other world is routed: round-robin, random, weighted-round-robin, least-request, least-request-p2c,
    /// peak-ewma, c3-local (or trimtab, to compare it with itself)
    #[arg(long, value_name = "NAME", default_value = "round-robin")]
    pub baseline: Algorithm,
    /// Seed of arrivals and service times: the same seed tells the same story
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Length of the story; everything in it scales along
    #[arg(long, value_name = "DURATION", default_value = "90s", value_parser = length)]
    pub duration: Duration,
    /// What to print at the end
    #[arg(long, value_enum, default_value = "table")]
    pub output: DemoOutput,
    /// Address of the dashboard of Trimtab's world; another free port is taken where this one is not to be had
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9900", conflicts_with = "no_dashboard")]
    pub dashboard: SocketAddr,
    /// Do not serve the dashboard
    #[arg(long)]
    pub no_dashboard: bool,
}

/// Form of the summary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DemoOutput {
    /// The story live, then a table
    Table,
    /// One JSON document on standard output; the story goes to standard error
    Json,
}

/// Time between two frames.
const FRAME_EVERY: Duration = Duration::from_millis(250);

/// Tells the story to its end, or until Ctrl-C, and prints the summary.
///
/// # Errors
/// If a world does not start, something in it breaks, or standard output cannot be written to.
pub async fn run(args: DemoArgs) -> anyhow::Result<ExitCode> {
    let script = Arc::new(Script::new(args.seed, args.duration));
    let dashboard = if args.no_dashboard { None } else { Some(free_address(args.dashboard).await) };
    let ours = World::start(Arc::clone(&script), Algorithm::Trimtab, dashboard).await?;
    let baseline = World::start(Arc::clone(&script), args.baseline, None).await?;
    let worlds = Arc::new([ours, baseline]);
    let show = Show::new(args.output == DemoOutput::Table).context("cannot write to the terminal")?;
    let (elapsed, interrupted) = tell(&script, &worlds, show).await?;
    let report = Report::new(&script, &worlds, elapsed);
    let mut out = std::io::stdout().lock();
    match args.output {
        DemoOutput::Table => write!(out, "{}", report.text())?,
        DemoOutput::Json => writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?,
    }
    out.flush()?;
    drop(out);
    for world in Arc::into_inner(worlds).context("a task of the demo still runs")? {
        world.stop().await?;
    }
    // 128 + SIGINT, as a shell says it.
    Ok(if interrupted { ExitCode::from(130) } else { ExitCode::SUCCESS })
}

/// Runs load and acts in both worlds and shows them; tells how far it came, and whether it was interrupted.
async fn tell(script: &Arc<Script>, worlds: &Arc<[World; 2]>, mut show: Show) -> anyhow::Result<(Duration, bool)> {
    let (start, stop) = (clock::now() + FRAME_EVERY, CancellationToken::new());
    let mut loads = JoinSet::new();
    let mut acts = JoinSet::new();
    for index in 0..worlds.len() {
        let (world, stop) = (Arc::clone(worlds), stop.clone());
        loads.spawn(async move { world[index].load(start, stop).await });
        let world = Arc::clone(worlds);
        acts.spawn(async move { world[index].act(start).await });
    }
    let mut frames = tokio::time::interval_at(start, FRAME_EVERY);
    let mut stopped_at = None;
    while !loads.is_empty() {
        tokio::select! {
            Some(ended) = loads.join_next() => ended.context("the load broke down")??,
            Some(ended) = acts.join_next() => ended.context("the story broke down")??,
            _ = frames.tick() => show.show(script, worlds, start.elapsed())?,
            signal = tokio::signal::ctrl_c(), if stopped_at.is_none() => {
                signal.context("cannot listen for Ctrl-C")?;
                stop.cancel();
                stopped_at = Some(start.elapsed());
            }
        }
    }
    acts.shutdown().await;
    Ok((stopped_at.unwrap_or_else(|| start.elapsed()), stopped_at.is_some()))
}

/// `wanted` if nobody listens there, otherwise a free port of the same address.
async fn free_address(wanted: SocketAddr) -> SocketAddr {
    match tokio::net::TcpListener::bind(wanted).await {
        Ok(_) => wanted,
        Err(_) => SocketAddr::new(wanted.ip(), 0),
    }
}

fn length(text: &str) -> Result<Duration, String> {
    let length = text.parse::<trimtab_controller::duration::Duration>().map_err(|error| error.to_string())?.get();
    if length < script::LENGTH_MIN {
        return Err(format!("the story needs at least {} s", script::LENGTH_MIN.as_secs()));
    }
    Ok(length)
}
