//! How the pick rule's default parameters are found, and how good they are.
//!
//! `cargo run --release -p trimtab-training --example rule_defaults -- [search|table] [SECONDS [SEEDS]]`: `search` walks to the best
//! parameters with and without weights on seeds from 1001 on; `table` prints ratios to the omniscient bound on seeds from 1 on.
//! Without either it does both. Markdown on standard output.
#![expect(clippy::print_stdout, reason = "printing is what it is for")]

use std::error::Error;

use trimtab_model::decision::RuleParameters;
use trimtab_training::{
    contest::{Contestant, geometric_mean},
    fleet::FleetOptions,
    scenario::{Family, Scenario, Setting, rotating_slow_pods, unequal_pods},
    search::Arena,
    simulator::Summary,
};

const SEARCH_SEEDS_FROM: u64 = 1001;
const REPORT_SEEDS_FROM: u64 = 1;

type Kind = (&'static str, fn(u64, usize) -> Scenario);

const KINDS: [Kind; 8] = [
    (Family::Homogeneous.name(), |seed, proxies| Family::Homogeneous.scenario(&Setting::new(seed, proxies, 20))),
    (Family::Heterogeneous.name(), |seed, proxies| Family::Heterogeneous.scenario(&Setting::new(seed, proxies, 20))),
    (Family::Interference.name(), |seed, proxies| Family::Interference.scenario(&Setting::new(seed, proxies, 20))),
    (Family::Gray.name(), |seed, proxies| Family::Gray.scenario(&Setting::new(seed, proxies, 20))),
    (Family::Churn.name(), |seed, proxies| Family::Churn.scenario(&Setting::new(seed, proxies, 20))),
    (Family::Burst.name(), |seed, proxies| Family::Burst.scenario(&Setting::new(seed, proxies, 20))),
    ("unequal pods", |seed, proxies| unequal_pods(seed, proxies, 0.8)),
    ("rotating slow pods", |seed, proxies| rotating_slow_pods(seed, proxies, 0.75)),
];

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let mode = arguments.first().map_or("both", String::as_str);
    let number = |index: usize, default: u64| arguments.get(index).map_or(Ok(default), |text| text.parse());
    match mode {
        "search" => search(number(1, 6)?, number(2, 2)?),
        "table" => table(number(1, 15)?, number(2, 5)?),
        "both" => search(6, 2).and_then(|()| table(15, 5)),
        other => Err(format!("{other:?} is neither search nor table").into()),
    }
}

fn search(seconds: u64, seeds: u64) -> Result<(), Box<dyn Error>> {
    let arena = Arena::new(SEARCH_SEEDS_FROM..SEARCH_SEEDS_FROM + seeds, &[1, 4, 16], seconds)?;
    let rounds = [
        ("with weights", FleetOptions::TRIMTAB, RuleParameters::WITH_WEIGHTS),
        ("without weights", FleetOptions::LOCAL, RuleParameters::LOCAL),
    ];
    for (name, options, start) in rounds {
        println!("\n| {name}: κ | g | z | p99 | p50 | cost |\n|---|---|---|---|---|---|");
        let (best, score) = arena.search(&options, start, |p, score| {
            println!(
                "| {} | {} | {} | {:.3} | {:.3} | {:.4} |",
                p.exponent,
                p.offset,
                p.latency_exponent,
                score.p99,
                score.p50,
                score.cost()
            );
        })?;
        println!(
            "\n{name}: κ = {}, g = {}, z = {}: cost {:.4}",
            best.exponent,
            best.offset,
            best.latency_exponent,
            score.cost()
        );
    }
    Ok(())
}

/// One row of the tables: a kind of scenario and a number of proxies.
struct Row {
    name: String,
    /// By contestant, then by seed.
    summaries: Vec<Vec<Summary>>,
}

fn table(seconds: u64, seeds: u64) -> Result<(), Box<dyn Error>> {
    let mut rows = Vec::new();
    for (name, make) in KINDS {
        for proxies in [1, 3, 4, 16] {
            let scenarios: Vec<Scenario> = (REPORT_SEEDS_FROM..REPORT_SEEDS_FROM + seeds)
                .map(|seed| make(seed, proxies).lasting(seconds))
                .collect();
            let run = |(_, contestant): &(&str, Contestant)| {
                scenarios.iter().map(|scenario| contestant.run(scenario)).collect::<Result<Vec<_>, _>>()
            };
            let summaries = Contestant::ALL.iter().map(run).collect::<Result<_, _>>()?;
            rows.push(Row { name: format!("{name}, {proxies}"), summaries });
        }
    }
    println!("\n{seconds} s of requests, seeds {REPORT_SEEDS_FROM}..={}.", REPORT_SEEDS_FROM + seeds - 1);
    ratios("p99", &rows, |summary| summary.latency_ms_p99);
    ratios("p50", &rows, |summary| summary.latency_ms_p50);
    shares("errors", &rows, |summary| summary.error_share + summary.unroutable_share);
    shares("goodput", &rows, |summary| summary.goodput_share);
    shares("shed", &rows, |summary| summary.shed_share);
    Ok(())
}

fn head(title: &str) {
    let names: Vec<&str> = Contestant::ALL.iter().skip(1).map(|(name, _)| *name).collect();
    println!("\n| {title} | {} |\n|---|{}", names.join(" | "), "---|".repeat(names.len()));
}

/// Ratios to the bound, geometric means over seeds; the last row is the geometric mean over all but the burst, where whoever sheds
/// answers another set of requests.
fn ratios(title: &str, rows: &[Row], figure: impl Fn(&Summary) -> f64) {
    head(&format!("{title} ÷ bound's"));
    let mut columns = vec![Vec::new(); Contestant::ALL.len() - 1];
    for row in rows {
        let mut cells = Vec::new();
        for (column, summaries) in columns.iter_mut().zip(&row.summaries[1..]) {
            let pairs = summaries.iter().zip(&row.summaries[0]);
            let ratio = geometric_mean(pairs.map(|(ours, bound)| figure(ours) / figure(bound))).unwrap_or(f64::NAN);
            if !row.name.starts_with(Family::Burst.name()) {
                column.push(ratio);
            }
            cells.push(format!("{ratio:.2}"));
        }
        println!("| {} | {} |", row.name, cells.join(" | "));
    }
    let means: Vec<String> =
        columns.into_iter().map(|column| format!("**{:.3}**", geometric_mean(column).unwrap_or(f64::NAN))).collect();
    println!("| **all but burst** | {} |", means.join(" | "));
}

/// Shares of what arrived, in percent, means over seeds; rows in which all are alike are left out.
fn shares(title: &str, rows: &[Row], figure: impl Fn(&Summary) -> f64) {
    head(&format!("{title}, %"));
    for row in rows {
        let mean =
            |summaries: &Vec<Summary>| 100.0 * summaries.iter().map(&figure).sum::<f64>() / summaries.len() as f64;
        let cells: Vec<f64> = row.summaries.iter().skip(1).map(mean).collect();
        let spread = cells.iter().copied().fold(f64::MIN, f64::max) - cells.iter().copied().fold(f64::MAX, f64::min);
        if spread >= 0.1 {
            let cells: Vec<String> = cells.iter().map(|cell| format!("{cell:.2}")).collect();
            println!("| {} | {} |", row.name, cells.join(" | "));
        }
    }
}
