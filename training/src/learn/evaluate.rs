//! Policies side by side on scenarios that none of them was trained on: latency as ratios to the omniscient bound, paired
//! differences to the prior, errors, goodput, and how often a policy was refused as unfamiliar.

use serde::Serialize;
use trimtab_model::{Policy, decision::Reason};

use super::{
    LearnError,
    course::Course,
    exam::{Exam, Examinee, mean},
    parallel,
};
use crate::{
    report::Interval,
    scenario::Family,
    simulator::{Summary, simulate},
};

/// An estimate with its 95 % interval; one run has none.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Estimate {
    /// The estimate.
    pub value: f64,
    /// Its lower end.
    pub low: Option<f64>,
    /// Its upper end.
    pub high: Option<f64>,
}

impl Estimate {
    /// Of nothing, nothing is known.
    fn new(interval: Option<Interval>) -> Self {
        let bounds = interval.and_then(|interval| interval.bounds);
        Self {
            value: interval.map_or(f64::NAN, |interval| interval.mean),
            low: bounds.map(|(low, _)| low),
            high: bounds.map(|(_, high)| high),
        }
    }
}

/// What one contestant did on one family (or on several).
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Cell {
    /// The family, or `all`.
    pub family: String,
    /// Runs.
    pub runs: usize,
    /// 99th percentile ÷ the bound's, geometric mean.
    pub p99_ratio: Estimate,
    /// Median ÷ the bound's, geometric mean.
    pub p50_ratio: Estimate,
    /// 99th percentile ÷ the prior's on the same run, geometric mean.
    pub p99_to_prior: Estimate,
    /// Share of errors, mean.
    pub errors: f64,
    /// Share answered within the objective, mean.
    pub goodput: f64,
    /// The cost that training minimises, mean.
    pub cost: Estimate,
    /// Cost less the prior's on the same run, mean.
    pub cost_to_prior: Estimate,
}

/// One contestant.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// By family.
    pub families: Vec<Cell>,
    /// All families but overload, where latency says nothing.
    pub below_capacity: Cell,
    /// All families.
    pub all: Cell,
    /// Share of ticks at which the policy was put aside because the input looked unfamiliar.
    pub unfamiliar_ticks: f64,
    /// The most of any family.
    pub unfamiliar_ticks_max: f64,
}

/// One run of one contestant.
struct Run {
    summary: Summary,
    ticks: usize,
    unfamiliar: usize,
}

/// Compares these policies, by name, with the prior and its rivals on the validation seeds from number `first` on (training
/// selects by the first few).
///
/// # Errors
/// If a scenario does not hold.
pub fn evaluate(
    policies: &[(String, Policy)],
    first: u64,
    seeds: usize,
    seconds: Option<u64>,
    jobs: usize,
) -> Result<Vec<Column>, LearnError> {
    let exam = Exam::new(Course { seed: 0, seconds }.validation(first, seeds * Course::SEED_LESSONS), jobs)?;
    let mut contestants: Vec<(String, Examinee)> =
        Examinee::rivals().into_iter().map(|(name, rival)| (name.to_owned(), rival)).collect();
    let own = policies.iter().map(|(name, policy)| (name.clone(), Examinee::policy(policy.clone())));
    contestants.splice(1..1, own);
    let mut columns = Vec::new();
    let mut prior: Vec<Summary> = Vec::new();
    for (name, examinee) in contestants {
        let runs = parallel::map(jobs, exam.scenarios().len(), |index| {
            let scenario = &exam.scenarios()[index];
            let mut fleet = examinee.fleet(scenario).keeping_ticks();
            let summary = simulate(scenario, &mut fleet)?;
            let put_aside = |tick: &&crate::fleet::Tick| {
                tick.decision.guard.iter().any(|a| a.reason == Reason::UnfamiliarInput && a.endpoint.is_none())
            };
            let unfamiliar = fleet.ticks().iter().filter(put_aside).count();
            Ok(Run { summary, ticks: fleet.ticks().len(), unfamiliar })
        });
        let runs = runs.into_iter().collect::<Result<Vec<Run>, LearnError>>()?;
        if prior.is_empty() {
            prior = runs.iter().map(|run| run.summary.clone()).collect();
        }
        columns.push(column(name, &exam, &runs, &prior));
    }
    Ok(columns)
}

fn column(name: String, exam: &Exam, runs: &[Run], prior: &[Summary]) -> Column {
    let of = |family: &str, chosen: &dyn Fn(Family) -> bool| {
        let indices: Vec<usize> = (0..runs.len()).filter(|index| chosen(exam.lessons()[*index].family)).collect();
        let summaries: Vec<Summary> = runs.iter().map(|run| run.summary.clone()).collect();
        let (costs, prior_costs) = (exam.costs(&summaries), exam.costs(prior));
        let ratio = |of: fn(&Summary) -> f64, to: &[Summary]| {
            let logs: Vec<f64> =
                indices.iter().map(|&i| (of(&summaries[i]).max(1e-3) / of(&to[i]).max(1e-3)).ln()).collect();
            Estimate::new(Interval::of_logarithms(&logs))
        };
        let average = |of: fn(&Summary) -> f64| mean(&indices.iter().map(|&i| of(&summaries[i])).collect::<Vec<_>>());
        Cell {
            family: family.to_owned(),
            runs: indices.len(),
            p99_ratio: ratio(|s| s.latency_ms_p99, exam.bounds()),
            p50_ratio: ratio(|s| s.latency_ms_p50, exam.bounds()),
            p99_to_prior: ratio(|s| s.latency_ms_p99, prior),
            errors: average(|s| s.error_share + s.unroutable_share),
            goodput: average(|s| s.goodput_share),
            cost: Estimate::new(Interval::of(&indices.iter().map(|&i| costs[i]).collect::<Vec<_>>())),
            cost_to_prior: Estimate::new(Interval::of(
                &indices.iter().map(|&i| costs[i] - prior_costs[i]).collect::<Vec<_>>(),
            )),
        }
    };
    let families = Family::TRAINING.map(|family| of(family.name(), &|other| other == family)).to_vec();
    let unfamiliar = |chosen: &dyn Fn(Family) -> bool| {
        let chosen = || runs.iter().zip(exam.lessons()).filter(|(_, lesson)| chosen(lesson.family));
        let ticks: usize = chosen().map(|(run, _)| run.ticks).sum();
        chosen().map(|(run, _)| run.unfamiliar).sum::<usize>() as f64 / ticks.max(1) as f64
    };
    Column {
        name,
        families,
        below_capacity: of("all but overload", &|family| !family.is_overload()),
        all: of("all", &|_| true),
        unfamiliar_ticks: unfamiliar(&|_| true),
        unfamiliar_ticks_max: Family::TRAINING
            .map(|family| unfamiliar(&|other| other == family))
            .into_iter()
            .fold(0.0, f64::max),
    }
}
