//! Offline learners on a policy that is wrong in a known way: it sends more to endpoints that are full already. It is recorded in a service of six pods of
//! unequal speed, several times with other requests, and what is learned from each recording is run on requests that nobody has seen. What there is to win
//! is known: the policy without the mistake.
//!
//! `cargo run --release --workspace --example learners -- [RECORDINGS] [SECONDS] [STD]`: so many recordings (default 12) of so many seconds (default 600)
//! with noise of this standard deviation (default 0.2), held as recordings need it.
#![expect(clippy::print_stdout, reason = "printing is what it is for")]

use std::error::Error;

use trimtab_model::{Policy, checkpoint::Checkpoint, features::FEATURES};
use trimtab_training::{
    fleet::{Fleet, FleetOptions},
    learn::parallel,
    offline::{
        dataset::Dataset,
        learner::{Knobs, Learned, Method, learn},
    },
    report::Interval,
    scenario::{Family, Scenario, Setting},
    simulator::simulate,
};

/// Runs that the truth is the mean of, and where their seeds begin.
const TRUTHS: u64 = 6;
const TRUTH_SEED: u64 = 100;
/// The mistake: the log of a weight per unit of `in_flight_ratio`.
const MISTAKE: f32 = 0.5;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let recordings: u64 = arguments.next().map_or(Ok(12), |text| text.parse())?;
    let seconds: u64 = arguments.next().map_or(Ok(600), |text| text.parse())?;
    let std: f64 = arguments.next().map_or(Ok(0.2), |text| text.parse())?;
    let misled = misled()?;
    let before = logs(&Policy::new(&misled)?)?;
    let to_win = mean_gain(&before, &logs(&Policy::new(&Checkpoint::zero(0))?)?);
    println!("to win: ln mean latency {to_win:.3}\n");
    println!("| recording | learner | moved | won |\n|---|---|---|---|");
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    let rows = parallel::map(jobs, recordings as usize, |index| {
        of_recording(&misled, &before, index as u64, seconds, std).map_err(|error| error.to_string())
    });
    let rows: Vec<[(f64, f64); 2]> = rows.into_iter().collect::<Result<_, _>>()?;
    for (index, row) in rows.iter().enumerate() {
        for (name, (moved, won)) in METHODS.iter().map(|(name, _)| name).zip(row) {
            println!("| {index} | {name} | {moved:.3} | {won:+.3} |");
        }
    }
    for (place, (name, _)) in METHODS.iter().enumerate() {
        let won: Vec<f64> = rows.iter().map(|row| row[place].1).collect();
        let (low, high) = won.iter().fold((f64::MAX, f64::MIN), |(low, high), x| (low.min(*x), high.max(*x)));
        let Some(Interval { mean, bounds }) = Interval::of(&won) else { continue };
        let (from, to) = bounds.unwrap_or((f64::NAN, f64::NAN));
        println!("\n{name}: {mean:+.3} [{from:+.3}, {to:+.3}], from {low:+.3} to {high:+.3}");
    }
    Ok(())
}

const METHODS: [(&str, Method); 2] = [("AWAC", Method::Awac), ("TD3+BC", Method::Td3Bc)];

fn world(seed: u64, seconds: u64) -> Scenario {
    let setting = Setting { seconds: Some(seconds), load: Some(0.8), ..Setting::new(7, 1, 6) };
    Scenario { seed, ..Family::Heterogeneous.scenario(&setting) }
}

fn misled() -> Result<Checkpoint, Box<dyn Error>> {
    let zero = Checkpoint::zero(0);
    let mut tensors = zero.tensors().clone();
    let index = FEATURES.iter().position(|feature| feature.name == "in_flight_ratio").ok_or("no such feature")?;
    let std = zero.manifest().features[index].std;
    tensors.get_mut("linear.weight").ok_or("no such tensor")?[index] = MISTAKE * std;
    Ok(Checkpoint::new(zero.manifest().clone(), tensors)?)
}

/// ln mean latency of each run of the truth.
fn logs(policy: &Policy) -> Result<Vec<f64>, Box<dyn Error>> {
    let run = |seed: u64| {
        let scenario = world(seed, 60);
        let mut fleet = Fleet::with_policy(&scenario, &FleetOptions::TRIMTAB, policy.clone());
        Ok(simulate(&scenario, &mut fleet)?.latency_ms_mean.ln())
    };
    (TRUTH_SEED..TRUTH_SEED + TRUTHS).map(run).collect()
}

fn mean_gain(before: &[f64], after: &[f64]) -> f64 {
    before.iter().zip(after).map(|(before, after)| before - after).sum::<f64>() / before.len() as f64
}

/// How far each learner moved, and what it won.
fn of_recording(
    misled: &Checkpoint,
    before: &[f64],
    index: u64,
    seconds: u64,
    std: f64,
) -> Result<[(f64, f64); 2], Box<dyn Error>> {
    let scenario = world(7 + index, seconds);
    let mut fleet =
        Fleet::with_policy(&scenario, &FleetOptions::TRIMTAB, Policy::new(misled)?.exploring(std)).recording(0.0);
    simulate(&scenario, &mut fleet)?;
    let dataset = Dataset::new(&fleet.into_recording().ticks, None);
    let mut row = [(0.0, 0.0); 2];
    for (cell, (_, method)) in row.iter_mut().zip(METHODS) {
        let Learned { checkpoint, report } = learn(&dataset, misled, &Knobs { method, ..Knobs::default() })?;
        *cell = (report.moved, mean_gain(before, &logs(&Policy::new(&checkpoint)?)?));
    }
    Ok(row)
}
