//! How soon and how well slots are learned where pods do not tell them, and what that is worth.
//!
//! `cargo run --release --workspace --example slots -- FAMILIES PROXIES FROM-TO SECONDS [ENDPOINTS]`, families separated by commas;
//! `worlds` are those of refinement, by number, with proxies and endpoints of their own. Each scenario is played three times, with slots that are told, untold, and untold and learned. By family and overall it prints the geometric mean
//! over seeds of p99 relative to the first, with 95 % intervals, the worst seed, after how many seconds slots were known in the median, and
//! by what factor they were off at the end.
#![expect(clippy::print_stdout, reason = "printing is what it is for")]

use std::error::Error;

use trimtab_training::{
    fleet::{Fleet, FleetOptions},
    report::Interval,
    scenario::{self, Family, Scenario, Setting},
    simulator::simulate,
};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [families, proxies, seeds, seconds, rest @ ..] = &*arguments else {
        return Err("FAMILIES PROXIES FROM-TO SECONDS [ENDPOINTS] are needed".into());
    };
    let (from, to) = seeds.split_once('-').ok_or("seeds are FROM-TO")?;
    let (from, to): (u64, u64) = (from.parse()?, to.parse()?);
    let (proxies, seconds) = (proxies.parse()?, Some(seconds.parse()?));
    let endpoints = rest.first().map_or(Ok(32), |endpoints| endpoints.parse())?;
    println!("{:16} untold / told             learned / told            worst  after s  off by", "FAMILY");
    let mut everything = Vec::new();
    for family in families.split(',') {
        let named: Option<Family> = if family == "worlds" { None } else { Some(family.parse()?) };
        let scenario = |seed, slots_told| match named {
            Some(named) => named.scenario(&Setting { seconds, slots_told, ..Setting::new(seed, proxies, endpoints) }),
            None => {
                let mut world = scenario::world(seed, seconds.unwrap_or(60));
                world.telemetry.slots_told = slots_told;
                world
            }
        };
        let runs: Vec<Compared> =
            (from..=to).map(|seed| compare(&scenario(seed, true), &scenario(seed, false))).collect::<Result<_, _>>()?;
        tell(family, &runs);
        everything.extend(runs);
    }
    tell("all", &everything);
    Ok(())
}

/// One scenario, three times.
struct Compared {
    untold: f64,
    learned: f64,
    after_s: Option<f64>,
    off: Option<f64>,
}

fn compare(telling: &Scenario, silent: &Scenario) -> Result<Compared, Box<dyn Error>> {
    let run = |scenario: &Scenario, learns_slots| -> Result<(f64, Fleet), Box<dyn Error>> {
        let options = FleetOptions { learns_slots, ..FleetOptions::TRIMTAB };
        let mut fleet = Fleet::new(scenario, &options).keeping_ticks();
        let summary = simulate(scenario, &mut fleet)?;
        Ok((summary.latency_ms_p99, fleet))
    };
    let (told, _) = run(telling, false)?;
    let (untold, _) = run(silent, false)?;
    let (learned, fleet) = run(silent, true)?;
    let knows = fleet.ticks().iter().position(|tick| tick.decision.slots.iter().any(Option::is_some));
    let last = fleet.ticks().last().filter(|_| knows.is_some());
    let off = last.map(|tick| {
        let found = tick.decision.slots.iter().zip(&silent.endpoints);
        let logs = found.filter_map(|(slots, spec)| Some(((*slots)? / f64::from(spec.slots)).ln().abs()));
        let (sum, count) = logs.fold((0.0, 0.0_f64), |(sum, count), log| (sum + log, count + 1.0));
        (sum / count.max(1.0)).exp()
    });
    let after_s = knows.map(|tick| tick as f64 * 0.5);
    Ok(Compared { untold: untold / told, learned: learned / told, after_s, off })
}

fn tell(name: &str, runs: &[Compared]) {
    let interval = |of: fn(&Compared) -> f64| {
        let logs: Vec<f64> = runs.iter().map(|run| of(run).ln()).collect();
        match Interval::of_logarithms(&logs) {
            Some(Interval { mean, bounds: Some((low, high)) }) => format!("{mean:.3} ({low:.3} to {high:.3})"),
            Some(Interval { mean, .. }) => format!("{mean:.3}"),
            None => String::new(),
        }
    };
    let worst = runs.iter().map(|run| run.learned).fold(0.0, f64::max);
    let median = |of: fn(&Compared) -> Option<f64>| {
        let mut known: Vec<f64> = runs.iter().filter_map(of).collect();
        known.sort_by(f64::total_cmp);
        known.get(known.len() / 2).map_or_else(|| "-".to_owned(), |median| format!("{median:.2}"))
    };
    println!(
        "{name:16} {:24} {:24} {worst:6.3} {:>8} {:>7}",
        interval(|run| run.untold),
        interval(|run| run.learned),
        median(|run| run.after_s),
        median(|run| run.off)
    );
}
