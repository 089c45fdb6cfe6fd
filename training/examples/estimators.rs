//! Estimators against the truth: policies are valued from a recording of another policy, by every estimator that the gate hears, and then really run, in the
//! same world with other requests.
//!
//! `cargo run --release --workspace --example estimators -- [--worlds N] [--first N] [--seconds S] [--std X] [--hold T] [--truth S] [--truths N] [--dev]
//! [--json]`: N worlds (default 5) from the first on, S recorded seconds (default 3600), exploration with standard deviation X (default 0.2) that is held for T
//! ticks (default 20), N runs (default 2) of S seconds (default 1200) for the truth. `--dev` takes worlds from the training seeds instead of those that are
//! kept for this.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "printing is what it is for")]

use std::{collections::BTreeMap, error::Error, time::Instant};

use serde::Serialize;
use trimtab_model::{
    Policy,
    checkpoint::{Checkpoint, Manifest, SHIPPED},
    features::FEATURES,
    policy::RULE_PARAMETERS,
};
use trimtab_training::{
    fleet::{Fleet, FleetOptions, Recording},
    learn::parallel,
    offline::{
        dataset::Dataset,
        estimate::{Estimate, Evaluation},
        outcome::Measure,
        vote::{Verdict, Vote},
    },
    refine::trial::{self, Checked},
    scenario::{Family, Scenario, Setting, seeds},
    simulator::{Summary, simulate},
    twin::{Fidelity, Trace, Twin},
};

fn main() -> Result<(), Box<dyn Error>> {
    let mut options = Options {
        worlds: 5,
        first: 0,
        seconds: 3600,
        std: 0.2,
        hold: 20,
        truth_seconds: 1200,
        truths: 2,
        dev: false,
        json: false,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = || arguments.next().ok_or(format!("{argument} needs a number"));
        match argument.as_str() {
            "--worlds" => options.worlds = number()?.parse()?,
            "--seconds" => options.seconds = number()?.parse()?,
            "--std" => options.std = number()?.parse()?,
            "--first" => options.first = number()?.parse()?,
            "--hold" => options.hold = number()?.parse()?,
            "--truth" => options.truth_seconds = number()?.parse()?,
            "--truths" => options.truths = number()?.parse()?,
            "--dev" => options.dev = true,
            "--json" => options.json = true,
            _ => return Err(format!("{argument} is no option").into()),
        }
    }
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    let run = |number| {
        let world = world(options.first + number, &options).map_err(|error| error.to_string())?;
        eprintln!("{}: done", world.name);
        Ok(world)
    };
    let worlds = parallel::map(jobs, options.worlds, run).into_iter().collect::<Result<Vec<World>, String>>()?;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&worlds)?);
        return Ok(());
    }
    worlds.iter().for_each(print_world);
    for measure in [Measure::LogMean, Measure::LogP99] {
        print_figures(&worlds, measure);
    }
    Ok(())
}

/// Requests per second of a world, about, and how many of them are sampled.
const RPS: f64 = 1_000.0;
const SAMPLES_PER_S: f64 = 100.0;
/// What the twin is fitted to, and the stretches of the rest that it estimates from: as in a refinement.
const FITTED_SHARE: f64 = 0.6;
const STRETCH_S: u64 = 30;
const STRETCHES_MAX: usize = 24;
const BACKEND: &str = "simulation/backend:80";
/// Bound of the logarithms of factors on the rule.
const RULE_CLIP: f64 = 1.5;
/// Differences below this are about what two runs of 20 minutes can tell.
const APART: f64 = 0.02;
/// Who is heard.
const ESTIMATORS: [&str; 3] = ["importance", "fitted Q", "twin"];

struct Options {
    worlds: usize,
    first: usize,
    seconds: u64,
    std: f64,
    hold: u64,
    truth_seconds: u64,
    truths: u64,
    dev: bool,
    json: bool,
}

#[derive(Serialize)]
struct World {
    name: String,
    rps: f64,
    exploration_std: Option<f64>,
    /// Twin over recording: p50 and p99.
    twin: [Option<f64>; 2],
    seconds: [f64; 3],
    rows: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    policy: String,
    truth: BTreeMap<Measure, f64>,
    estimates: Vec<Estimate>,
    votes: Vec<Vote>,
}

#[expect(clippy::disallowed_methods, reason = "an example may tell how long it took")]
fn world(number: usize, options: &Options) -> Result<World, Box<dyn Error>> {
    let scenario = scenario(number, options)?;
    let shipped = Checkpoint::from_bytes(SHIPPED)?;
    let incumbent = Policy::new(&shipped)?;
    let began = Instant::now();
    let recording =
        record(&scenario, incumbent.clone().with_exploration(options.std).holding_exploration(options.hold))?;
    let recorded_s = began.elapsed().as_secs_f64();
    let dataset = Dataset::new(&recording.ticks, incumbent.service());
    let evaluation = Evaluation::new(&dataset, &incumbent, 1);
    let candidates = candidates()?;
    let (checked, by_twin) = by_twin(&recording, &shipped, &candidates)?;
    let mut estimates: Vec<Vec<Estimate>> = Vec::new();
    for ((_, candidate), by_twin) in candidates.iter().zip(by_twin) {
        let mut all = evaluation.compare(&Policy::new(candidate)?, &incumbent);
        all.extend(by_twin);
        estimates.push(all);
    }
    let policies = candidates.iter().map(|(_, candidate)| Policy::new(candidate)).collect::<Result<Vec<_>, _>>()?;
    let estimated_s = began.elapsed().as_secs_f64() - recorded_s;
    let mut truths: Vec<Vec<Summary>> = Vec::new();
    for run in 1..=options.truths {
        let scenario =
            Scenario { seed: scenario.seed + 1_000_000 * run, ..scenario.clone() }.lasting(options.truth_seconds);
        let all = std::iter::once(&incumbent).chain(&policies);
        let run = |policy: &Policy| {
            simulate(&scenario, &mut Fleet::with_policy(&scenario, &FleetOptions::TRIMTAB, policy.clone()))
        };
        truths.push(all.map(run).collect::<Result<_, _>>()?);
    }
    let true_s = began.elapsed().as_secs_f64() - recorded_s - estimated_s;
    let rows = candidates.iter().zip(estimates).enumerate().map(|(index, ((name, _), estimates))| Row {
        policy: name.clone(),
        truth: Measure::ALL.into_iter().map(|measure| (measure, truth(measure, &truths, index + 1))).collect(),
        votes: Vote::all(&estimates),
        estimates,
    });
    let rows = rows.collect();
    Ok(World {
        name: format!(
            "{} {} ({} endpoints, {} proxies)",
            scenario.name,
            scenario.seed,
            scenario.endpoints.len(),
            scenario.shares.len()
        ),
        rps: scenario.rate_rps,
        exploration_std: dataset.exploration_std,
        twin: [checked.p50, checked.p99],
        seconds: [recorded_s, estimated_s, true_s],
        rows,
    })
}

fn scenario(number: usize, options: &Options) -> Result<Scenario, Box<dyn Error>> {
    let from = if options.dev { 500 } else { seeds::ESTIMATES.start };
    let proxies = [1, 4, 2][number % 3];
    let at = |seed: u64| {
        let setting = Setting { seconds: Some(options.seconds), ..Setting::new(seed, proxies, 8) };
        let per_endpoint = Family::Swarm.scenario(&setting).rate_rps / 8.0;
        let endpoints = (RPS / per_endpoint).round() as usize;
        (6..=24).contains(&endpoints).then(|| Family::Swarm.scenario(&Setting { endpoints, ..setting }))
    };
    Ok((from..seeds::ESTIMATES.end).filter_map(at).nth(number).ok_or("there are no more worlds of that size")?)
}

fn record(scenario: &Scenario, policy: Policy) -> Result<Recording, Box<dyn Error>> {
    let share = (SAMPLES_PER_S / scenario.rate_rps).min(1.0);
    let mut fleet = Fleet::with_policy(scenario, &FleetOptions::TRIMTAB, policy).recording(share);
    simulate(scenario, &mut fleet)?;
    Ok(fleet.into_recording())
}

/// How well a twin does, and what it says of each candidate.
type ByTwin = (Checked, Vec<Vec<Estimate>>);

/// What the twin says of each candidate, and how well it does.
fn by_twin(
    recording: &Recording,
    incumbent: &Checkpoint,
    candidates: &[(String, Checkpoint)],
) -> Result<ByTwin, Box<dyn Error>> {
    let trace = Trace::of(BACKEND, &recording.ticks, &recording.requests)?;
    let fitted = (trace.ticks.len() as f64 * FITTED_SHARE) as usize;
    let twin = Twin::calibrate(&trace.part(0..fitted), incumbent, 1, 1)?;
    let later = twin.at(trace.part(fitted..trace.ticks.len()));
    let stretches = later.stretches(STRETCH_S);
    let step = stretches.len().div_ceil(STRETCHES_MAX).max(1);
    let stretches: Vec<_> = stretches.into_iter().step_by(step).collect();
    let checked = Checked::from(&Fidelity::of(&later, &stretches, incumbent, 1, 1)?);
    let all: Vec<&Checkpoint> = std::iter::once(incumbent).chain(candidates.iter().map(|(_, one)| one)).collect();
    let runs = trial::run(&later, &stretches, &all, 1, 1)?;
    Ok((checked, (1..all.len()).map(|policy| runs.estimates(policy, 0, &checked)).collect()))
}

/// Mean over the runs of the difference to the incumbent on the same requests.
fn truth(measure: Measure, runs: &[Vec<Summary>], index: usize) -> f64 {
    let of = |summary: &Summary| match measure {
        Measure::LogMean => summary.latency_ms_mean.ln(),
        Measure::LogP99 => summary.latency_ms_p99.ln(),
        Measure::Errors => summary.error_share,
        Measure::Goodput => summary.goodput_share,
    };
    runs.iter().map(|run| of(&run[index]) - of(&run[0])).sum::<f64>() / runs.len() as f64
}

/// Policies that a learner might come up with, and some that it should not.
fn candidates() -> Result<Vec<(String, Checkpoint)>, Box<dyn Error>> {
    let linear: [(&str, &[(&str, f32)]); 16] = [
        ("less where slow", &[("latency_mean_ratio", -0.3)]),
        ("more where slow", &[("latency_mean_ratio", 0.2)]),
        ("more where capable", &[("capacity_ratio", 0.15)]),
        ("less where capable", &[("capacity_ratio", -0.15)]),
        ("less where full", &[("in_flight_ratio", -0.2)]),
        ("more where full", &[("in_flight_ratio", 0.2)]),
        ("less where busy", &[("rate_ratio", -0.2)]),
        ("more where busy", &[("rate_ratio", 0.2)]),
        ("less where tails are long", &[("latency_p99_ratio", -0.15)]),
        ("a bit of everything", &[("latency_mean_ratio", -0.1), ("queue", -0.1), ("capacity_trend", 0.1)]),
        ("much more where slow", &[("latency_mean_ratio", 0.6)]),
        ("much more where full", &[("in_flight_ratio", 0.6)]),
        ("much less where full", &[("in_flight_ratio", -0.6)]),
        ("much more where capable", &[("capacity_ratio", 0.6)]),
        ("much less where capable", &[("capacity_ratio", -0.6)]),
        ("much less where tails are long", &[("latency_p99_ratio", -0.6)]),
    ];
    let mut policies = Vec::new();
    for (name, slopes) in linear {
        policies.push((name.to_owned(), policy(slopes, &[])?));
    }
    let rules: [(&str, &[(&str, f32)]); 4] = [
        ("work in flight 1.6 times", &[("work_share", 0.5)]),
        ("latency 2.2 times", &[("latency_exponent", 0.8)]),
        ("latency 0.3 times", &[("latency_exponent", -1.2)]),
        ("offset and work 4 times", &[("offset", 1.4), ("work_share", 1.4)]),
    ];
    for (name, logs) in rules {
        policies.push((name.to_owned(), policy(&[], logs)?));
    }
    Ok(policies)
}

/// Slopes of the residual in features, and logarithms of factors on parameters of the rule.
fn policy(slopes: &[(&str, f32)], rule: &[(&str, f32)]) -> Result<Checkpoint, Box<dyn Error>> {
    let zero = Checkpoint::zero(0);
    let manifest = Manifest { parameter_clip: RULE_CLIP, ..zero.manifest().clone() };
    let mut tensors = zero.tensors().clone();
    for (name, slope) in slopes {
        let index = FEATURES.iter().position(|feature| feature.name == *name).ok_or("no such feature")?;
        let normalisation = &manifest.features[index];
        if let Some(weights) = tensors.get_mut("linear.weight") {
            weights[index] = slope * normalisation.std;
        }
    }
    if let Some(bias) = tensors.get_mut("rule.bias") {
        for (name, log) in rule {
            let place = RULE_PARAMETERS.iter().position(|known| known == name).ok_or("no such parameter")?;
            bias[place] = (log / RULE_CLIP as f32).atanh();
        }
    }
    Ok(Checkpoint::new(manifest, tensors)?)
}

fn print_world(world: &World) {
    let [recorded_s, estimated_s, true_s] = world.seconds;
    println!(
        "\n{}, {:.0} requests/s, exploration {:.2}; twin p50 {:.2}, p99 {:.2}; {recorded_s:.0} s to record, {estimated_s:.0} s to estimate, {true_s:.0} s for the truth",
        world.name,
        world.rps,
        world.exploration_std.unwrap_or(0.0),
        world.twin[0].unwrap_or(f64::NAN),
        world.twin[1].unwrap_or(f64::NAN)
    );
    for measure in [Measure::LogMean, Measure::LogP99] {
        println!("\n| {} | truth | importance | fitted Q | twin | vote |\n|---|---|---|---|---|---|", measure.name());
        for row in &world.rows {
            print!("| {} | {:+.3} |", row.policy, row.truth[&measure]);
            for Estimate { difference, low, high, trusted, .. } in row.estimates.iter().filter(|e| e.measure == measure)
            {
                print!(" {difference:+.3} ({low:+.3} to {high:+.3}){} |", if *trusted { "" } else { " not trusted" });
            }
            for vote in row.votes.iter().filter(|vote| vote.measure == measure) {
                match vote.difference {
                    Some(difference) => {
                        println!(" {difference:+.3} ({:+.3} to {:+.3}) {:?} |", vote.low, vote.high, vote.verdict);
                    }
                    None => println!(" none |"),
                }
            }
        }
    }
    let mut reasons: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for estimate in world.rows.iter().flat_map(|row| &row.estimates).filter(|estimate| !estimate.trusted) {
        *reasons.entry((&estimate.estimator, &estimate.reason)).or_default() += 1;
    }
    for ((estimator, reason), count) in reasons {
        println!("{count} x {estimator} not trusted: {reason}");
    }
}

fn print_figures(worlds: &[World], measure: Measure) {
    println!(
        "\n| {} | estimates | median error | worst | rank correlation | truth within the interval |\n|---|---|---|---|---|---|",
        measure.name()
    );
    // What an estimator must beat.
    figures("\"no difference\"", worlds, measure, |_| Some((0.0, 0.0, 0.0)));
    for who in ESTIMATORS {
        for only_trusted in [false, true] {
            let pick = |row: &Row| {
                let of = |estimate: &&Estimate| estimate.measure == measure && estimate.estimator == who;
                let estimate = row.estimates.iter().find(of)?;
                let counts = estimate.trusted || !only_trusted;
                counts.then_some((estimate.difference, estimate.low, estimate.high))
            };
            figures(&format!("{who}{}", if only_trusted { ", trusted" } else { "" }), worlds, measure, pick);
        }
    }
    let vote = |row: &Row| row.votes.iter().find(|vote| vote.measure == measure).cloned();
    figures("vote", worlds, measure, |row| vote(row).and_then(|vote| Some((vote.difference?, vote.low, vote.high))));
    let (mut right, mut all) = (0, 0);
    for world in worlds {
        let voted = |row: &Row| Some((row.truth[&measure], vote(row)?.difference?));
        let pairs: Vec<(f64, f64)> = world.rows.iter().filter_map(voted).collect();
        for (place, a) in pairs.iter().enumerate() {
            for b in pairs[..place].iter().filter(|b| (a.0 - b.0).abs() >= APART) {
                all += 1;
                right += usize::from((a.0 > b.0) == (a.1 > b.1));
            }
        }
    }
    println!(
        "\nof {all} pairs of policies of a world that truly differ by {:.0} % or more, the vote orders {right} rightly",
        100.0 * APART
    );
    let decided = worlds.iter().flat_map(|world| &world.rows).filter_map(|row| match vote(row)?.verdict {
        Verdict::Better => Some(row.truth[&measure] < 0.0),
        Verdict::Worse => Some(row.truth[&measure] > 0.0),
        _ => None,
    });
    let decided: Vec<bool> = decided.collect();
    println!(
        "\n{} verdicts of better or worse, {} of them right",
        decided.len(),
        decided.iter().filter(|right| **right).count()
    );
}

/// Errors are of the ratio to the incumbent's latency; ranks are compared within each world.
fn figures(name: &str, worlds: &[World], measure: Measure, pick: impl Fn(&Row) -> Option<(f64, f64, f64)>) {
    let (mut errors, mut ranks) = (Vec::new(), Vec::new());
    let (mut held, mut all) = (0, 0);
    for world in worlds {
        let mut pairs = Vec::new();
        for row in &world.rows {
            if let Some((estimate, low, high)) = pick(row) {
                let truth = row.truth[&measure];
                all += 1;
                held += usize::from(low <= truth && truth <= high);
                errors.push(((estimate - truth).exp() - 1.0).abs());
                pairs.push((estimate, truth));
            }
        }
        if pairs.len() >= 5 {
            ranks.push(spearman(&pairs));
        }
    }
    errors.sort_by(f64::total_cmp);
    let median = errors.get(errors.len() / 2).copied().unwrap_or(f64::NAN);
    let worst = errors.last().copied().unwrap_or(f64::NAN);
    let rank = ranks.iter().sum::<f64>() / ranks.len() as f64;
    let each: Vec<String> = ranks.iter().map(|rank| format!("{rank:.2}")).collect();
    println!(
        "| {name} | {all} | {:.1} % | {:.1} % | {rank:.2} ({}) | {held} of {all} |",
        100.0 * median,
        100.0 * worst,
        each.join(", ")
    );
}

/// Spearman's rank correlation.
fn spearman(pairs: &[(f64, f64)]) -> f64 {
    let rank = |of: &dyn Fn(&(f64, f64)) -> f64| -> Vec<f64> {
        pairs.iter().map(|a| pairs.iter().filter(|b| of(b) < of(a)).count() as f64).collect()
    };
    let (a, b) = (rank(&|pair| pair.0), rank(&|pair| pair.1));
    let mean = (pairs.len() as f64 - 1.0) / 2.0;
    let (mut ab, mut aa, mut bb) = (0.0, 0.0, 0.0);
    for (a, b) in a.iter().zip(&b) {
        ab += (a - mean) * (b - mean);
        aa += (a - mean).powi(2);
        bb += (b - mean).powi(2);
    }
    if aa > 0.0 && bb > 0.0 { ab / (aa * bb).sqrt() } else { 0.0 }
}
