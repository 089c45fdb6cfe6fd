//! What `trimtab simulate` is asked for.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use trimtab_training::contest::{self, Role, UnknownPolicy};
use trimtab_training::report::Grid;
use trimtab_training::scenario::{Family, UnknownFamily, seeds};

/// What ships beside the rivals that people use or that come closest.
const DEFAULT_POLICIES: &str = "trimtab,c3-local,c3,prequal,least-request,weighted-least-request,peak-ewma,round-robin";

const EXAMPLES: &str = "Examples:
  trimtab simulate --list
      the families of scenarios and the policies
  trimtab simulate --family gray,affinity --policy trimtab,c3-local --seeds 10
      p99, p50, mean, errors, goodput and shed of two policies in two families
  trimtab simulate --family testing --proxies 1,4,16 --endpoints 8,32,200 --load 0.7,0.85 --plot plots
      the families that nothing was trained on, in 18 settings each, with plots
  trimtab simulate --family all --endpoints 200 --keep runs.jsonl
      hours of work that may be stopped: the same command goes on where it was
  trimtab simulate --family deploy --seeds 1 --baseline none --plot plots --timeline
      latency over time in a rolling restart, in milliseconds
  trimtab simulate --family churn --first-seed 1000007 --seeds 1 --policy trimtab --baseline none
      one run again: the same fingerprint says that it went exactly as before

Every run replays bit for bit from its family, seed and setting, and all policies on a seed face the same requests.
Results are told on seeds from 1000000 on, which nothing is trained or tuned on (docs/simulation.md).

Intervals are 95 % over seeds: for each seed the mean over the rows in question is taken (of logarithms of ratios, so that
they are geometric; of percents as they are), then Student's t over the seeds. Ratios are paired: both sides faced the same
requests.";

/// Arguments of `trimtab simulate`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct SimulateArgs {
    /// Families of scenarios, or `training`, `testing`, `all`
    #[arg(long, value_name = "NAMES", value_delimiter = ',', default_value = "all", value_parser = FamilyChoice::from_str)]
    pub family: Vec<FamilyChoice>,
    /// Policies, or `ours`, `rivals`, `bounds`, `all`; the first is compared with each of the others
    #[arg(long, value_name = "NAMES", value_delimiter = ',', default_value = DEFAULT_POLICIES, value_parser = policy_choice)]
    pub policy: Vec<String>,
    /// Seeds: runs of each policy in each row
    #[arg(long, default_value_t = 10, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub seeds: u64,
    /// The first of them; the others follow
    #[arg(long, default_value_t = seeds::TESTING.start, value_name = "SEED", value_parser = clap::value_parser!(u64).range(0..=1 << 62))]
    pub first_seed: u64,
    /// Numbers of proxies
    #[arg(long, value_name = "COUNTS", value_delimiter = ',', default_value = "4", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub proxies: Vec<u16>,
    /// Numbers of endpoints
    #[arg(long, value_name = "COUNTS", value_delimiter = ',', default_value = "32", value_parser = clap::value_parser!(u16).range(1..=5000))]
    pub endpoints: Vec<u16>,
    /// Loads, as shares of the capacity that a family's troubles leave on average [default: drawn by the family]
    #[arg(long, value_name = "SHARES", value_delimiter = ',', value_parser = load)]
    pub load: Vec<f64>,
    /// Measured seconds of each run [default: as many as 60,000 requests take, but 12 to 30]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub seconds: Option<u64>,
    /// Endpoints say on their answers how many requests are inside them (ORCA)
    #[arg(long)]
    pub report_in_flight: bool,
    /// Endpoints' metrics do not tell how many requests they serve at once, as most servers' do not
    #[arg(long)]
    pub slots_untold: bool,
    /// What latencies are told as a ratio to: `best-bound` (of each run, the omniscient bound with the lowest p99),
    /// `best-nonclairvoyant` (the same of those that do not know the sizes of requests in advance), a policy, or `none` for
    /// milliseconds
    #[arg(long, value_name = "NAME", default_value = "best-bound", value_parser = BaselineChoice::from_str)]
    pub baseline: BaselineChoice,
    /// Folder for plots (SVG): one a metric
    #[arg(long, value_name = "DIR")]
    pub plot: Option<PathBuf>,
    /// Plot latency over time too, for the first seed of each row
    #[arg(long, requires = "plot")]
    pub timeline: bool,
    /// How to print
    #[arg(long, default_value = "table")]
    pub output: Output,
    /// List every run with its fingerprint, as is done anyway for up to 12 runs
    #[arg(long)]
    pub runs: bool,
    /// Keep every run in this file as it ends, and do not run again what it holds: a grid that was stopped goes on with the same command
    #[arg(long, value_name = "FILE")]
    pub keep: Option<PathBuf>,
    /// Threads [default: one a core]; results do not depend on it
    #[arg(long, value_name = "COUNT")]
    pub jobs: Option<NonZeroUsize>,
    /// Progress on standard error; `auto` means on a terminal
    #[arg(long, default_value = "auto", value_name = "WHEN")]
    pub progress: ProgressWhen,
    /// List families and policies, and end
    #[arg(long)]
    pub list: bool,
}

impl SimulateArgs {
    /// What is to be run.
    pub fn grid(&self) -> Grid {
        let mut families: Vec<Family> = Vec::new();
        for family in self.family.iter().flat_map(|choice| choice.families()) {
            if !families.contains(family) {
                families.push(*family);
            }
        }
        let counts = |counts: &[u16]| counts.iter().map(|count| usize::from(*count)).collect::<Vec<_>>();
        let loads: Vec<Option<f64>> =
            if self.load.is_empty() { vec![None] } else { self.load.iter().copied().map(Some).collect() };
        Grid {
            cells: Grid::product(&families, &counts(&self.proxies), &counts(&self.endpoints), &loads),
            seeds: self.first_seed..self.first_seed + self.seeds,
            seconds: self.seconds,
            reports_in_flight: self.report_in_flight.then_some(true),
            slots_told: !self.slots_untold,
        }
    }
}

/// A family or several.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FamilyChoice {
    /// This one.
    One([Family; 1]),
    /// All for training.
    Training,
    /// All for testing.
    Testing,
    /// All there are.
    All,
}

impl FamilyChoice {
    fn families(&self) -> &[Family] {
        match self {
            Self::One(family) => family,
            Self::Training => &Family::TRAINING,
            Self::Testing => &Family::TESTING,
            Self::All => &Family::ALL,
        }
    }
}

impl FromStr for FamilyChoice {
    type Err = UnknownFamily;

    fn from_str(text: &str) -> Result<Self, UnknownFamily> {
        Ok(match text {
            "all" => Self::All,
            "training" => Self::Training,
            "testing" => Self::Testing,
            name => Self::One([name.parse()?]),
        })
    }
}

/// What latencies are told as a ratio to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BaselineChoice {
    /// The best omniscient bound of each run.
    BestBound {
        /// Those that know the sizes of requests among them.
        clairvoyant: bool,
    },
    /// This policy.
    Policy(String),
    /// Nothing.
    Absolute,
}

impl FromStr for BaselineChoice {
    type Err = UnknownPolicy;

    fn from_str(text: &str) -> Result<Self, UnknownPolicy> {
        Ok(match text {
            "best-bound" => Self::BestBound { clairvoyant: true },
            "best-nonclairvoyant" => Self::BestBound { clairvoyant: false },
            "none" => Self::Absolute,
            name => Self::Policy(contest::by_name(name)?.name().to_owned()),
        })
    }
}

/// How results are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// Tables for a terminal: every metric, policies side by side
    Table,
    /// The tables of docs/simulation.md: the first policy against bounds and the best rival of each row
    Markdown,
    /// One JSON document
    Json,
}

/// When progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum ProgressWhen {
    /// On a terminal
    Auto,
    /// Without a terminal as lines
    Always,
    /// Not at all
    Never,
}

/// The names that a choice of policies stands for.
pub fn policy_names(choice: &str) -> Vec<String> {
    let wanted: fn(Role) -> bool = match choice {
        "ours" => |role| role == Role::Ours,
        "rivals" => |role| role == Role::Rival,
        "bounds" => Role::is_bound,
        "all" => |_| true,
        name => return vec![name.to_owned()],
    };
    let everyone = contest::all();
    everyone.iter().filter(|policy| wanted(policy.role())).map(|policy| policy.name().to_owned()).collect()
}

fn policy_choice(text: &str) -> Result<String, UnknownPolicy> {
    match text {
        "all" | "ours" | "rivals" | "bounds" => Ok(text.to_owned()),
        name => contest::by_name(name).map(|policy| policy.name().to_owned()),
    }
}

fn load(text: &str) -> Result<f64, String> {
    let load: f64 = text.parse().map_err(|_| format!("{text:?} is no number"))?;
    if (0.01..=2.0).contains(&load) { Ok(load) } else { Err("must be between 0.01 and 2".into()) }
}
