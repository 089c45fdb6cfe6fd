//! Refinement against the truth: services that nothing was trained on are recorded under the shipped policy, refined from the recordings alone,
//! and what comes of it is compared with the shipped policy on requests and times that nobody has seen.
//!
//! `cargo run --release --workspace --example refinement -- WORLDS MINUTES [GENERATIONS] [EXPLORATION] [FOLDER]`, where WORLDS is FROM-TO; GENERATIONS of the
//! search for constants, 0 for none; EXPLORATION is the standard deviation of the noise that is recorded, 0 (the default) for none; the reports are written to
//! FOLDER.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "printing is what it is for")]

use std::error::Error;

use trimtab_model::{Policy, checkpoint::Checkpoint, recording::TickRow};
use trimtab_training::{
    fleet::{Fleet, FleetOptions, Known},
    learn::parallel,
    refine::{Inventory, Job, Options, Refined, report},
    report::Interval,
    scenario::{Scenario, world},
    simulator::{Summary, simulate, time::SECOND},
};

/// Sampled requests a second: what a recording of an hour has is what people can pay for.
const SAMPLES_PER_S: f64 = 100.0;
/// Spans of a minute after the recording in which the truth is measured, 20 s of each to warm up.
const SPANS: u64 = 12;
const SPAN_S: u64 = 60;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [worlds, minutes, rest @ ..] = &*arguments else { return Err("WORLDS MINUTES are needed".into()) };
    let generations = rest.first().map_or(Ok(Options::default().generations), |text| text.parse())?;
    let exploration: f64 = rest.get(1).map_or(Ok(0.0), |text| text.parse())?;
    let (from, to) = worlds.split_once('-').ok_or("worlds are FROM-TO")?;
    let minutes: u64 = minutes.parse()?;
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    let incumbent = Checkpoint::zero(0);
    for number in from.parse::<u64>()?..=to.parse()? {
        let whole = world(number, 60 * minutes + SPANS * SPAN_S);
        let start_ns = whole.measured_ns.start;
        let recorded_ns = start_ns + 60 * minutes * SECOND;
        let recorded = whole.part(0..recorded_ns, start_ns, whole.seed);
        let share = (SAMPLES_PER_S / recorded.rate_rps).min(1.0);
        let fleet =
            Fleet::with_policy(&recorded, &FleetOptions::TRIMTAB, Policy::new(&incumbent)?.exploring(exploration));
        let mut fleet = fleet.recording(share);
        simulate(&recorded, &mut fleet)?;
        let recording = fleet.into_recording();
        let inventory = Inventory::of(&recording.ticks, &recording.requests).swap_remove(0);
        // The service goes on under a controller that has learned what this one has.
        let endpoints = whole.endpoints.len();
        let last = &recording.ticks[recording.ticks.len().saturating_sub(endpoints)..];
        let learned = |row: &TickRow| Some(Known { slots: row.slots_learned?, deviation: row.slots_deviation });
        let known: Vec<Option<Known>> = last.iter().map(learned).collect();
        let job = Job {
            ticks: &recording.ticks,
            requests: &recording.requests,
            inventory,
            incumbent: &incumbent,
            options: Options { generations, ..Options::default() },
            jobs,
            found: None,
            given: Vec::new(),
        };
        let refined = match job.run(|stage| eprint!("\r{number}: {stage:?}            ")) {
            Ok(refined) => refined,
            Err(error) => {
                println!("world {number}: {error}");
                continue;
            }
        };
        eprintln!();
        if let Some(folder) = rest.get(2) {
            let page = report::page(&refined, &format!("World {number}, refined"), "see the example `refinement`");
            std::fs::write(std::path::Path::new(folder).join(format!("world-{number}.html")), page)?;
        }
        tell(number, &whole, recorded_ns, &incumbent, &refined, &known, jobs)?;
    }
    Ok(())
}

fn tell(
    number: u64,
    whole: &Scenario,
    recorded_ns: u64,
    incumbent: &Checkpoint,
    refined: &Refined,
    known: &[Option<Known>],
    jobs: usize,
) -> Result<(), Box<dyn Error>> {
    let checked = refined.checked;
    println!(
        "world {number} ({} of {} endpoints' slots learned live): {} endpoints, {} proxies, {:.0} rps, {} classes; twin p50 {:.2} p99 {:.2} errors {:+.4} in {} stretches",
        known.iter().flatten().count(),
        known.len(),
        whole.endpoints.len(),
        whole.shares.len(),
        whole.rate_rps,
        whole.classes.len(),
        checked.p50.unwrap_or(f64::NAN),
        checked.p99.unwrap_or(f64::NAN),
        checked.errors.unwrap_or(f64::NAN),
        checked.stretches,
    );
    let policies: Vec<Policy> = std::iter::once(incumbent)
        .chain(refined.judged.iter().map(|judged| &judged.candidate.checkpoint))
        .map(Policy::new)
        .collect::<Result<_, _>>()?;
    let runs = parallel::map(jobs, SPANS as usize * policies.len(), |index| {
        let (span, policy) = (index / policies.len(), index % policies.len());
        let from_ns = recorded_ns + span as u64 * SPAN_S * SECOND;
        let part = whole.part(from_ns..from_ns + SPAN_S * SECOND, 20 * SECOND, whole.seed + 7_777 + span as u64);
        let fleet = Fleet::with_policy(&part, &FleetOptions::TRIMTAB, policies[policy].clone());
        simulate(&part, &mut fleet.knowing(known.to_vec()))
    });
    let runs: Vec<Summary> = runs.into_iter().collect::<Result<_, _>>()?;
    for (place, judged) in refined.judged.iter().enumerate() {
        let pairs = || runs.chunks(policies.len()).map(|span| (&span[place + 1], &span[0]));
        let p99: Vec<f64> = pairs().map(|(new, old)| (new.latency_ms_p99 / old.latency_ms_p99).ln()).collect();
        let goodput: Vec<f64> = pairs().map(|(new, old)| 100.0 * (new.goodput_share - old.goodput_share)).collect();
        let errors: Vec<f64> = pairs().map(|(new, old)| 100.0 * (new.error_share - old.error_share)).collect();
        let show = |interval: Option<Interval>| {
            let Some(Interval { mean, bounds }) = interval else { return "–".to_owned() };
            let (low, high) = bounds.unwrap_or((f64::NAN, f64::NAN));
            format!("{mean:.3} [{low:.3}, {high:.3}]")
        };
        let promoted = if refined.promoted == Some(place) { "promoted" } else { "stays out" };
        println!(
            "  {:10} {promoted:10} true p99 {} goodput {} errors {}",
            judged.candidate.name,
            show(Interval::of_logarithms(&p99)),
            show(Interval::of(&goodput)),
            show(Interval::of(&errors)),
        );
        for estimate in judged.gate.estimates.iter().filter(|e| e.measure.name() == "ln p99 latency") {
            println!(
                "      {:22} p99 {:.3} [{:.3}, {:.3}] {} {}",
                estimate.estimator,
                estimate.difference.exp(),
                estimate.low.exp(),
                estimate.high.exp(),
                if estimate.trusted { "votes" } else { "abstains:" },
                if estimate.trusted { "" } else { &estimate.reason },
            );
        }
        for refusal in &judged.gate.refusals {
            println!("      refused: {}", refusal.in_words());
        }
        if let Some(found) = judged.gate.foresight {
            let known = found.over_known_high.map_or_else(|| "none".to_owned(), |high| format!("up to {high:.4}"));
            println!(
                "      foresight {:.3} up to {:.3}, {} waited; over known slots {known}",
                found.ratio, found.high, found.waited
            );
        }
    }
    Ok(())
}
