//! `trimtab simulate`: policies side by side in the simulator, on every combination of what was asked for, as tables, plots or JSON.

mod arguments;
mod document;
mod markdown;
mod progress;
mod tables;

pub use arguments::SimulateArgs;

use std::hash::{DefaultHasher, Hasher};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use trimtab_training::contest::{self, Contest};
use trimtab_training::report::{Baseline, Cell, KeptRuns, Metric, Results, Run, plot, timeline};
use trimtab_training::scenario::Family;

use super::{print, say};
use arguments::{BaselineChoice, Output, policy_names};
use progress::Meter;

/// Runs what was asked for.
///
/// # Errors
/// If a plot cannot be written or a scenario does not hold.
pub fn run(args: SimulateArgs) -> anyhow::Result<ExitCode> {
    if args.list {
        print(&tables::list())?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(folder) = &args.plot {
        std::fs::create_dir_all(folder).with_context(|| format!("--plot {}", folder.display()))?;
    }
    let grid = args.grid();
    let (policies, shown) = contestants(&args)?;
    let baseline = match &args.baseline {
        BaselineChoice::BestBound { clairvoyant } => Baseline::BestBound { clairvoyant: *clairvoyant },
        BaselineChoice::Absolute => Baseline::Absolute,
        BaselineChoice::Policy(name) => {
            Baseline::Policy(policies.iter().position(|policy| policy.name() == name).context("--baseline")?)
        }
    };
    let jobs = args.jobs.or_else(|| std::thread::available_parallelism().ok()).unwrap_or(NonZeroUsize::MIN);
    let kept = match &args.keep {
        Some(path) => Some(KeptRuns::open(path, &build()?).context("--keep")?),
        None => None,
    };
    let meter = Meter::start(args.progress, jobs);
    if let Some(kept) = kept.as_ref().filter(|kept| kept.found() > 0) {
        meter.note(&format!("{} runs are kept from before", kept.found()));
    }
    let runs = grid.run(&policies, jobs, kept.as_ref(), &|progress| meter.tell(progress));
    meter.end();

    let results = Results { grid: &grid, policies: &policies, baseline, runs: &runs };
    let failures: Vec<String> = runs.iter().filter_map(|run| failure(&args, &results, run)).collect();
    let report = Report { args: &args, results: &results, shown: &shown };
    match args.output {
        Output::Table => print(&tables::all(&report))?,
        Output::Markdown => print(&markdown::all(&report))?,
        Output::Json => print(&[serde_json::to_string_pretty(&document::of(&report, &failures))?])?,
    }
    if let Some(folder) = &args.plot {
        let files = plots(&report, folder)?;
        if args.output != Output::Json {
            say(&files.iter().map(|file| format!("wrote {}", file.display())).collect::<Vec<_>>());
        }
    }
    if let Some(kept) = kept {
        kept.close().context("not all runs are kept: --keep")?;
    }
    if failures.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    let problem = anyhow::anyhow!("{}", failures.join("\n"));
    Err(problem.context(format!("{} of {} runs failed", failures.len(), runs.len())))
}

/// Tells builds of this program apart: what two of them find may differ.
fn build() -> anyhow::Result<String> {
    let path = std::env::current_exe().context("the path of this program")?;
    let program = std::fs::read(&path).with_context(|| path.display().to_string())?;
    let mut hasher = DefaultHasher::new();
    hasher.write(&program);
    Ok(format!("{} {:016x}", env!("CARGO_PKG_VERSION"), hasher.finish()))
}

/// What is told, and to whom.
struct Report<'a> {
    args: &'a SimulateArgs,
    results: &'a Results<'a>,
    /// Numbers of the policies that were asked for; others ran only to be compared with.
    shown: &'a [usize],
}

impl Report<'_> {
    fn policy(&self, number: usize) -> &dyn Contest {
        &*self.results.policies[number]
    }

    /// The command that does one of the runs again.
    fn replay(&self, run: &Run) -> String {
        replay(self.args, self.results, run)
    }
}

/// Everyone who runs, and the numbers of those who were asked for.
type Contestants = (Vec<Box<dyn Contest>>, Vec<usize>);

fn contestants(args: &SimulateArgs) -> anyhow::Result<Contestants> {
    let mut names: Vec<String> = Vec::new();
    let add = |names: &mut Vec<String>, name: String| {
        if !names.contains(&name) {
            names.push(name);
        }
    };
    args.policy.iter().flat_map(|choice| policy_names(choice)).for_each(|name| add(&mut names, name));
    let shown = (0..names.len()).collect();
    match &args.baseline {
        BaselineChoice::BestBound { clairvoyant } => contest::all()
            .iter()
            .filter(|policy| policy.role().is_bound_of(*clairvoyant))
            .for_each(|policy| add(&mut names, policy.name().to_owned())),
        BaselineChoice::Policy(name) => add(&mut names, name.clone()),
        BaselineChoice::Absolute => {}
    }
    let policies: Result<Vec<_>, _> = names.iter().map(|name| contest::by_name(name)).collect();
    Ok((policies?, shown))
}

/// What is said of a run that failed.
fn failure(args: &SimulateArgs, results: &Results<'_>, run: &Run) -> Option<String> {
    let problem = run.result.as_ref().err()?;
    let cell = &results.grid.cells[run.cell];
    let policy = results.policies[run.policy].name();
    let command = replay(args, results, run);
    Some(format!("{policy} in {cell} with seed {}: {problem}\n  to run it again: {command}", run.seed))
}

fn replay(args: &SimulateArgs, results: &Results<'_>, run: &Run) -> String {
    let Cell { family, proxies, endpoints, load } = results.grid.cells[run.cell];
    let mut command = format!(
        "trimtab simulate --family {} --first-seed {} --seeds 1 --proxies {proxies} --endpoints {endpoints}",
        family.name(),
        run.seed
    );
    if let Some(load) = load {
        command += &format!(" --load {load}");
    }
    if let Some(seconds) = args.seconds {
        command += &format!(" --seconds {seconds}");
    }
    if args.report_in_flight {
        command += " --report-in-flight";
    }
    if args.slots_untold {
        command += " --slots-untold";
    }
    command + &format!(" --policy {} --baseline none", results.policies[run.policy].name())
}

/// Writes the plots and returns their names.
fn plots(report: &Report<'_>, folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let Report { args, results, shown } = report;
    let mut written = Vec::new();
    let mut write = |name: String, svg: String| -> anyhow::Result<()> {
        let path = folder.join(name);
        std::fs::write(&path, svg).with_context(|| format!("--plot {}", path.display()))?;
        written.push(path);
        Ok(())
    };
    for metric in Metric::ALL {
        let mut note = tables::seeds(report);
        if metric.is_latency() {
            note = format!("{note}; {}", tables::base(report));
        }
        let svg = plot::families(results, shown, metric, &note)?;
        write(format!("{}.svg", metric.name()), svg)?;
    }
    if args.timeline {
        for cell in &results.grid.cells {
            let seed = results.grid.seeds.start;
            let scenario = results.grid.scenario(cell, seed);
            let mut series = Vec::new();
            for &policy in *shown {
                let policy = report.policy(policy);
                series.push((policy.name(), timeline::record(policy, &scenario)?.1));
            }
            let title = format!("Latency over time: {}", cell.family.name());
            let note = format!(
                "{cell}, seed {seed}; requests by time of arrival, in bins of half a second; gray: warm-up, not measured"
            );
            let load = cell.load.map(|load| format!("-load{load}")).unwrap_or_default();
            let name =
                format!("timeline-{}-p{}-n{}{load}-seed{seed}.svg", cell.family.name(), cell.proxies, cell.endpoints);
            write(name, plot::timeline(&title, &note, &series)?)?;
        }
    }
    Ok(written)
}

/// Whether there are rows whose latencies do not count in means because who sheds answers other requests than who does not.
fn has_overload(cells: &[Cell]) -> bool {
    cells.iter().any(|cell| Family::is_overload(cell.family))
}
