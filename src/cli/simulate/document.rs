//! Results as one JSON document; docs/simulation.md describes it.

use serde::Serialize;
use trimtab_training::contest::Role;
use trimtab_training::report::{Baseline, Cell, Interval, Metric};

use super::Report;

/// Some of the cells.
type Cells<'a> = dyn Fn(&Cell) -> bool + 'a;

/// Changes when a reader must.
const SCHEMA: &str = "trimtab.dev/simulation/v1";

#[derive(Serialize)]
pub struct Document {
    schema: &'static str,
    version: &'static str,
    first_seed: u64,
    seeds: u64,
    seconds: Option<u64>,
    report_in_flight: bool,
    slots_untold: bool,
    /// `best-bound`, `best-nonclairvoyant`, a policy, or null.
    baseline: Option<String>,
    policies: Vec<Policy>,
    cells: Vec<CellResult>,
    all: Vec<PolicyResult>,
    runs: Vec<RunResult>,
    failures: Vec<String>,
}

#[derive(Serialize)]
struct Policy {
    name: String,
    description: String,
    role: &'static str,
    /// Whether it was asked for, or ran only to be compared with.
    shown: bool,
}

#[derive(Serialize)]
struct CellName {
    family: &'static str,
    proxies: usize,
    endpoints: usize,
    /// Null: drawn by the family.
    load: Option<f64>,
}

#[derive(Serialize)]
struct CellResult {
    #[serde(flatten)]
    cell: CellName,
    best_rival: Option<String>,
    policies: Vec<PolicyResult>,
}

#[derive(Serialize)]
struct PolicyResult {
    policy: String,
    metrics: Metrics<Option<Estimate>>,
    /// The first policy's value over this one's (latencies), or minus this one's (shares, in points).
    first_against: Metrics<Option<Estimate>>,
}

#[derive(Serialize)]
struct Metrics<T> {
    p99: T,
    p50: T,
    mean: T,
    errors_percent: T,
    goodput_percent: T,
    shed_percent: T,
}

#[derive(Serialize)]
struct Estimate {
    mean: f64,
    low: Option<f64>,
    high: Option<f64>,
}

#[derive(Serialize)]
struct RunResult {
    #[serde(flatten)]
    cell: CellName,
    seed: u64,
    policy: String,
    requests: u64,
    offered_rps: f64,
    goodput_rps: f64,
    goodput_percent: f64,
    errors_percent: f64,
    shed_percent: f64,
    unfinished: u64,
    latency_ms_mean: f64,
    latency_ms_p50: f64,
    latency_ms_p90: f64,
    latency_ms_p99: f64,
    latency_ms_p999: f64,
    fingerprint: String,
    replay: String,
}

/// Everything that was measured, every run of policies that were not asked for included.
pub fn of(report: &Report<'_>, failures: &[String]) -> Document {
    let results = report.results;
    let name = |policy: usize| report.policy(policy).name().to_owned();
    let policies = results.policies.iter().enumerate().map(|(number, policy)| Policy {
        name: policy.name().to_owned(),
        description: policy.describe().to_owned(),
        role: match policy.role() {
            Role::Ours => "ours",
            Role::Rival => "rival",
            Role::Bound => "bound",
            Role::Clairvoyant => "clairvoyant",
            Role::Ceiling => "ceiling",
        },
        shown: report.shown.contains(&number),
    });
    let cells = results.grid.cells.iter().map(|cell| CellResult {
        cell: cell_name(cell),
        best_rival: results.best_rival(cell).map(name),
        policies: of_policies(report, &|other| other == cell, |_| true),
    });
    // Latencies under overload do not compare: who sheds answers other requests.
    let all = of_policies(report, &|_| true, |cell| !cell.family.is_overload());
    Document {
        schema: SCHEMA,
        version: env!("CARGO_PKG_VERSION"),
        first_seed: results.grid.seeds.start,
        seeds: results.grid.seed_count() as u64,
        seconds: results.grid.seconds,
        report_in_flight: report.args.report_in_flight,
        slots_untold: report.args.slots_untold,
        baseline: match results.baseline {
            Baseline::BestBound { clairvoyant: true } => Some("best-bound".to_owned()),
            Baseline::BestBound { clairvoyant: false } => Some("best-nonclairvoyant".to_owned()),
            Baseline::Policy(number) => Some(name(number)),
            Baseline::Absolute => None,
        },
        policies: policies.collect(),
        cells: cells.collect(),
        all,
        runs: runs(report),
        failures: failures.to_vec(),
    }
}

fn of_policies(report: &Report<'_>, wanted: &Cells<'_>, with_latency: fn(&Cell) -> bool) -> Vec<PolicyResult> {
    let results = report.results;
    let metrics = |of: &dyn Fn(&Cells<'_>, Metric) -> Option<Interval>| {
        let latency = |metric| estimate(of(&|cell| wanted(cell) && with_latency(cell), metric));
        let share = |metric| estimate(of(wanted, metric));
        Metrics {
            p99: latency(Metric::P99),
            p50: latency(Metric::P50),
            mean: latency(Metric::Mean),
            errors_percent: share(Metric::Errors),
            goodput_percent: share(Metric::Goodput),
            shed_percent: share(Metric::Shed),
        }
    };
    let first = report.shown.first().copied().unwrap_or_default();
    let result = |&policy: &usize| PolicyResult {
        policy: report.policy(policy).name().to_owned(),
        metrics: metrics(&|cells, metric| results.over(cells, policy, metric)),
        first_against: metrics(&|cells, metric| results.versus(cells, first, policy, metric)),
    };
    report.shown.iter().map(result).collect()
}

fn runs(report: &Report<'_>) -> Vec<RunResult> {
    let runs = report.results.runs.iter().filter_map(|run| {
        let summary = run.result.as_ref().ok()?;
        Some(RunResult {
            cell: cell_name(&report.results.grid.cells[run.cell]),
            seed: run.seed,
            policy: report.policy(run.policy).name().to_owned(),
            requests: summary.arrived,
            offered_rps: summary.offered_rps,
            goodput_rps: summary.goodput_rps,
            goodput_percent: Metric::Goodput.of(summary),
            errors_percent: Metric::Errors.of(summary),
            shed_percent: Metric::Shed.of(summary),
            unfinished: summary.unfinished,
            latency_ms_mean: summary.latency_ms_mean,
            latency_ms_p50: summary.latency_ms_p50,
            latency_ms_p90: summary.latency_ms_p90,
            latency_ms_p99: summary.latency_ms_p99,
            latency_ms_p999: summary.latency_ms_p999,
            fingerprint: format!("{:016x}", summary.fingerprint),
            replay: report.replay(run),
        })
    });
    runs.collect()
}

fn cell_name(cell: &Cell) -> CellName {
    CellName { family: cell.family.name(), proxies: cell.proxies, endpoints: cell.endpoints, load: cell.load }
}

fn estimate(interval: Option<Interval>) -> Option<Estimate> {
    interval.map(|Interval { mean, bounds }| Estimate {
        mean,
        low: bounds.map(|(low, _)| low),
        high: bounds.map(|(_, high)| high),
    })
}
