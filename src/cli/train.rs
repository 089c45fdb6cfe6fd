//! `trimtab train`: makes a policy in the simulator, keeps everything it does in one folder, and tells how it is doing.

mod folder;
mod recordings;
mod show;

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use trimtab_model::Policy;
use trimtab_training::learn::evaluate::evaluate;
use trimtab_training::learn::parameters::Kind;
use trimtab_training::learn::trainer::{Options, Trainer};

use super::source::duration;
use super::{Output, print};
use folder::Folder;
use recordings::RefineArgs;
use show::Progress;

/// Budget where none is given.
const BUDGET: Duration = Duration::from_secs(90 * 60);

/// Arguments of `trimtab train`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  trimtab train --from simulation --out run1 --time-budget 90m     constants, a linear policy and a network, one after another
  trimtab train --from simulation --out run1 --resume              goes on after a kill, at the same bits
  trimtab train --evaluate run1/linear.safetensors,run1/network.safetensors
  trimtab up --checkpoint run1/best.safetensors --to …             uses what was learned
  trimtab train --from recordings ./recordings --out refined       refines the policy for the service that was recorded there
  trimtab train --from recordings s3://bucket/recordings --models s3://bucket/models --out refined
                                                                   and proposes what passes the gate to the controllers

From recordings: the folder holds report.html (why, or why not), summary.json, and the version that passed; see docs/refinement.md.
From simulation: the folder holds best.safetensors (what won on the validation scenarios), one checkpoint for each kind of policy,
state.safetensors (for --resume), curve.svg, summary.json and event files for TensorBoard.
Costs are ln(p99 / bound's) + 0.25 ln(p50 / bound's) plus errors and lost goodput: 0.01 less is about 1 % of latency.")]
pub struct TrainArgs {
    /// What to learn from
    #[arg(long, required_unless_present = "evaluate", value_name = "SOURCE")]
    from: Option<Source>,
    /// Folder for everything that is written
    #[arg(long, required_unless_present = "evaluate", value_name = "DIR")]
    out: Option<PathBuf>,
    /// Everything random is drawn from here
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// What to train: one kind of policy, or all, each starting from the best so far
    #[arg(long, default_value = "all", value_name = "KIND")]
    policy: PolicyKind,
    /// Updates, of all kinds together [default: as many as the time allows]
    #[arg(long, value_name = "N", conflicts_with = "time_budget", value_parser = clap::value_parser!(u64).range(1..))]
    generations: Option<u64>,
    /// Time to spend, such as 90m or 2h, interruptions not counted [default: 1h30m]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    time_budget: Option<Duration>,
    /// Simulations at a time; results do not depend on it [default: one for each core]
    #[arg(long, value_name = "N")]
    jobs: Option<NonZeroUsize>,
    /// Go on with the training in --out, with the options it was started with; only the budget may change
    #[arg(long)]
    resume: bool,
    /// Compare these checkpoints with the prior and its rivals on validation scenarios, and train nothing
    #[arg(long, value_name = "FILE,...", value_delimiter = ',', conflicts_with_all = ["from", "out", "resume"])]
    evaluate: Vec<PathBuf>,
    /// Seeds of scenarios to evaluate on; each is 84 runs of every contestant
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = at_least_one)]
    evaluation_seeds: usize,
    /// How to print the result
    #[arg(long, default_value = "table")]
    output: Output,
    #[command(flatten)]
    refine: RefineArgs,
    #[command(flatten)]
    knobs: Knobs,
}

/// What rarely needs another value.
#[derive(Debug, Args)]
#[command(next_help_heading = "Knobs of the learner")]
struct Knobs {
    /// Mirrored pairs of candidates in a generation
    #[arg(long, value_name = "N", default_value_t = Options::default().pairs, value_parser = at_least_one)]
    pairs: usize,
    /// Scenarios that every candidate runs on
    #[arg(long, value_name = "N", default_value_t = Options::default().lessons, value_parser = at_least_one)]
    lessons: usize,
    /// Measured seconds of a scenario
    #[arg(long, value_name = "S", default_value_t = 12, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Generations from one validation to the next
    #[arg(long, value_name = "N", default_value_t = Options::default().validate_every, value_parser = clap::value_parser!(u64).range(1..))]
    validate_every: u64,
    /// Scenarios of a validation; 84 for each seed
    #[arg(long, value_name = "N", default_value_t = Options::default().validation_lessons, value_parser = at_least_one)]
    validation_lessons: usize,
    /// Scenarios on which the range of the policy's input is measured
    #[arg(long, value_name = "N", default_value_t = Options::default().survey_lessons, value_parser = at_least_one)]
    survey_lessons: usize,
    /// Validations without anything better after which a kind of policy is done
    #[arg(long, value_name = "N", default_value_t = Options::default().patience, value_parser = clap::value_parser!(u64).range(1..))]
    patience: u64,
}

/// What can be learned from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Source {
    /// Scenarios that are simulated
    Simulation,
    /// What a controller recorded of a service: refines the policy for it
    Recordings,
}

/// What can be trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum PolicyKind {
    /// Constants, linear and network, one after another
    All,
    /// Factors on the rule's parameters
    Constants,
    /// Those, and everything linear in the features
    Linear,
    /// Those, and a small network
    Network,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse::<NonZeroUsize>().map(NonZeroUsize::get).map_err(|error| error.to_string())
}

/// Options that say something to `--from recordings` only.
const OF_RECORDINGS: [&str; 7] = ["url", "models", "backend", "incumbent", "search", "stretch", "candidate"];
/// The same for training in simulation.
const OF_SIMULATION: [&str; 11] = [
    "policy",
    "generations",
    "time_budget",
    "resume",
    "pairs",
    "lessons",
    "seconds",
    "validate_every",
    "validation_lessons",
    "survey_lessons",
    "patience",
];

/// Trains, or evaluates. `given` tells whether an option was given, by its name in the code.
pub fn run(args: &TrainArgs, given: &dyn Fn(&str) -> bool) -> anyhow::Result<ExitCode> {
    let idle: &[&str] = match args.from {
        Some(Source::Recordings) => &OF_SIMULATION,
        Some(Source::Simulation) => &OF_RECORDINGS,
        None => &[],
    };
    if let Some(name) = idle.iter().find(|name| given(name)) {
        let name = if *name == "url" { "an URL".to_owned() } else { format!("--{}", name.replace('_', "-")) };
        let other = if args.from == Some(Source::Recordings) { "simulation" } else { "recordings" };
        anyhow::bail!("{name} says something to --from {other} only");
    }
    let jobs =
        args.jobs.map_or_else(|| std::thread::available_parallelism().map_or(1, NonZeroUsize::get), NonZeroUsize::get);
    match (&args.out, args.from) {
        (Some(out), Some(Source::Recordings)) => super::block_on(async {
            recordings::run(&args.refine, out, args.seed, jobs, args.output).await?;
            Ok(ExitCode::SUCCESS)
        }),
        (Some(out), _) => train(args, given, out, jobs),
        (None, _) => compare(args, jobs),
    }
}

fn train(args: &TrainArgs, given: &dyn Fn(&str) -> bool, out: &Path, jobs: usize) -> anyhow::Result<ExitCode> {
    let mut folder = Folder::open(out, args.resume)?;
    let mut progress = Progress::new();
    let started = now();
    let mut trainer = if args.resume {
        progress.note("reading the state, measuring the bound on the validation scenarios");
        let trainer = Trainer::resume(&folder.state(), args.generations, jobs)?;
        args.check_resumed(trainer.options(), given)?;
        trainer
    } else {
        Trainer::start(args.options(), jobs, &args.command(), |what| progress.note(what))?
    };
    let before_s = folder.events(trainer.history())?;
    let elapsed_s = || before_s + started.elapsed().as_secs_f64();
    let budget_s = match (args.generations.or(trainer.options().generations), args.time_budget) {
        (_, Some(budget)) => budget.as_secs_f64(),
        (Some(_), None) => f64::INFINITY,
        (None, None) => BUDGET.as_secs_f64(),
    };
    progress.rivals(trainer.rivals());
    let first = trainer.history().len();
    let loop_started_s = elapsed_s();
    while let Some(row) = trainer.step()? {
        let ended = elapsed_s() >= budget_s * trainer.share_until_stage_ends();
        if ended && !trainer.is_done() && trainer.kind() == Some(row.kind) {
            trainer.end_stage()?;
        }
        let row = trainer.history().last().copied().unwrap_or(row);
        folder.log(&row, elapsed_s())?;
        folder.save(&trainer)?;
        if row.validation.is_some() {
            folder.publish(&trainer)?;
        }
        let per_generation_s = (elapsed_s() - loop_started_s) / (trainer.history().len() - first) as f64;
        progress.generation(&trainer, &row, elapsed_s(), budget_s, per_generation_s);
    }
    folder.publish(&trainer)?;
    progress.end();
    let summary = show::Summary::new(&trainer, elapsed_s());
    folder.summary(&summary)?;
    match args.output {
        Output::Json => print(&[serde_json::to_string(&summary)?])?,
        Output::Table => print(&summary.lines(out))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn compare(args: &TrainArgs, jobs: usize) -> anyhow::Result<ExitCode> {
    let load = |path: &PathBuf| {
        let file = || path.display().to_string();
        let bytes = std::fs::read(path).with_context(|| format!("--evaluate {}", file()))?;
        let policy = Policy::load(&bytes).with_context(|| format!("--evaluate {}", file()))?;
        let name = path.file_stem().map_or_else(file, |name| name.to_string_lossy().into_owned());
        Ok((name, policy))
    };
    let policies = args.evaluate.iter().map(load).collect::<anyhow::Result<Vec<_>>>()?;
    // Training selects by the first few validation seeds; these are others.
    const UNUSED_SEEDS_FROM: u64 = 1_000;
    let columns = evaluate(&policies, UNUSED_SEEDS_FROM, args.evaluation_seeds, Some(args.knobs.seconds), jobs)?;
    match args.output {
        Output::Json => print(&[serde_json::to_string(&columns)?])?,
        Output::Table => print(&show::tables(&columns))?,
    }
    Ok(ExitCode::SUCCESS)
}

impl TrainArgs {
    fn options(&self) -> Options {
        let Knobs { pairs, lessons, seconds, validate_every, validation_lessons, survey_lessons, patience } =
            self.knobs;
        let kinds = match self.policy {
            PolicyKind::All => Kind::ALL.to_vec(),
            PolicyKind::Constants => vec![Kind::Constants],
            PolicyKind::Linear => vec![Kind::Linear],
            PolicyKind::Network => vec![Kind::Network],
        };
        Options {
            seed: self.seed,
            stages: kinds.iter().map(|kind| kind.name().to_owned()).collect(),
            generations: self.generations,
            pairs,
            lessons,
            seconds: Some(seconds),
            validate_every,
            validation_lessons,
            survey_lessons,
            patience,
        }
    }

    /// What is resumed keeps the options that it was started with: another value would do nothing.
    fn check_resumed(&self, started: &Options, given: &dyn Fn(&str) -> bool) -> anyhow::Result<()> {
        let asked = self.options();
        let other = [
            ("seed", asked.seed != started.seed),
            ("policy", asked.stages != started.stages),
            ("pairs", asked.pairs != started.pairs),
            ("lessons", asked.lessons != started.lessons),
            ("seconds", asked.seconds != started.seconds),
            ("validate_every", asked.validate_every != started.validate_every),
            ("validation_lessons", asked.validation_lessons != started.validation_lessons),
            ("survey_lessons", asked.survey_lessons != started.survey_lessons),
            ("patience", asked.patience != started.patience),
        ];
        match other.iter().find(|(name, differs)| *differs && given(name)) {
            Some((name, _)) => anyhow::bail!(
                "--{}: this training was started with another value, and --resume goes on with that: leave it out, or begin anew in another folder",
                name.replace('_', "-")
            ),
            None => Ok(()),
        }
    }

    /// The command that makes this again, without what does not matter for it.
    fn command(&self) -> String {
        let policy =
            clap::ValueEnum::to_possible_value(&self.policy).map_or_else(String::new, |v| v.get_name().to_owned());
        let Knobs { pairs, lessons, seconds, validate_every, validation_lessons, survey_lessons, patience } =
            &self.knobs;
        let mut command = format!("trimtab train --from simulation --seed {} --policy {policy}", self.seed);
        match (self.generations, self.time_budget) {
            (Some(generations), _) => command.push_str(&format!(" --generations {generations}")),
            (None, budget) => {
                let minutes = budget.unwrap_or(BUDGET).as_secs().div_ceil(60);
                command.push_str(&format!(" --time-budget {minutes}m"));
            }
        }
        for (name, value, usual) in [
            ("pairs", *pairs as u64, Options::default().pairs as u64),
            ("lessons", *lessons as u64, Options::default().lessons as u64),
            ("seconds", *seconds, Options::default().seconds.unwrap_or(12)),
            ("validate-every", *validate_every, Options::default().validate_every),
            ("validation-lessons", *validation_lessons as u64, Options::default().validation_lessons as u64),
            ("survey-lessons", *survey_lessons as u64, Options::default().survey_lessons as u64),
            ("patience", *patience, Options::default().patience),
        ] {
            if value != usual {
                command.push_str(&format!(" --{name} {value}"));
            }
        }
        command
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "budgets are of real time; nothing that is learned depends on it otherwise"
)]
fn now() -> Instant {
    Instant::now()
}
