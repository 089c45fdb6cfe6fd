//! Models and recordings that were made to pass the gate: fitted to one odd hour, frozen, better by what they turn away, and better by recordings that were
//! changed. Each is refused, or harms hardly anybody before it is out.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests fail like tests, and the table is what it is about"
)]

mod support;

use support::{OPTIONS, by, try_out};
use trimtab_model::{
    Policy,
    checkpoint::{Checkpoint, Manifest},
    features::FEATURES,
};
use trimtab_training::{
    fleet::{Fleet, Recording},
    offline::outcome::Measure,
    refine::{Gate, Inventory, Job, Options, Refined, Refusal, candidates},
    scenario::{Change, Event, Scenario, request_classes, unequal_pods},
    simulator::{simulate, time::SECOND},
    twin::{Trace, Twin},
};

const BACKEND: &str = "simulation/backend:80";

fn silent(mut scenario: Scenario) -> Scenario {
    scenario.telemetry.slots_told = false;
    scenario
}

fn record(scenario: &Scenario, policy: Policy, share: f64) -> Recording {
    let mut fleet = Fleet::with_policy(scenario, &OPTIONS, policy).recording(share);
    simulate(scenario, &mut fleet).unwrap();
    fleet.into_recording()
}

/// What a refinement makes of a recording, and of candidates that it is given.
fn refine(recording: &Recording, given: Vec<(String, Checkpoint)>) -> Refined {
    let incumbent = Checkpoint::zero(0);
    let job = Job {
        ticks: &recording.ticks,
        requests: &recording.requests,
        inventory: Inventory::of(&recording.ticks, &recording.requests).swap_remove(0),
        incumbent: &incumbent,
        options: Options { generations: 0, stretch_s: 10, ..Options::default() },
        jobs: 2,
        found: None,
        given,
    };
    job.run(|_| ()).unwrap()
}

fn why(gate: &Gate) -> String {
    gate.refusals.iter().map(Refusal::in_words).collect::<Vec<_>>().join("; ")
}

/// The gate refuses it by recordings of an ordinary time, and promoted by hand past the gate it harms at most one in a hundred of a minute's requests.
fn refused_and_harmless(scenario: &Scenario, name: &str, checkpoint: &Checkpoint) -> Gate {
    judged(scenario, name, checkpoint).expect("the twin may vote")
}

/// The same; `None` where the twin may not vote, and the gate refuses anything.
fn judged(scenario: &Scenario, name: &str, checkpoint: &Checkpoint) -> Option<Gate> {
    let recording = record(&scenario.clone().lasting(300), Policy::prior_only(), 0.1);
    let refined = refine(&recording, vec![(name.to_owned(), checkpoint.clone())]);
    if let Some(objection) = refined.checked.objection() {
        println!("{name}: the twin may not vote: {objection}");
        return None;
    }
    let gate = refined.judged.into_iter().find(|judged| judged.candidate.name == name).unwrap().gate;
    println!("{name}: gate: {}", why(&gate));
    assert!(!gate.promotes(), "{name} passes the gate");
    let fate = try_out(scenario, &Policy::prior_only(), &Policy::new(checkpoint).unwrap(), 230);
    println!("{name}: live: {}", fate.text());
    assert!(fate.harmed <= 0.01, "{name}: {}", fate.text());
    Some(gate)
}

#[test]
fn one_that_was_fitted_to_an_odd_hour_is_refused_by_an_ordinary_one() {
    let ordinary = silent(unequal_pods(7, 1, 0.8));
    // The fastest third of the pods is four times as slow, all the time.
    let mut odd = ordinary.clone().lasting(150);
    odd.rate_rps *= 0.5;
    let slow = (0..12).filter(|pod| pod % 3 == 2);
    odd.timeline = slow.map(|endpoint| Event { at_ns: 0, change: Change::Factor { endpoint, factor: 0.25 } }).collect();
    let recording = record(&odd, Policy::prior_only(), 0.2);
    let incumbent = Checkpoint::zero(0);
    let trace = Trace::of(BACKEND, &recording.ticks, &recording.requests).unwrap();
    let twin = Twin::calibrate(&trace, &incumbent, 1, 2).unwrap();
    let start = candidates::facts(&incumbent, &twin).unwrap().map_or(incumbent, |facts| facts.checkpoint);
    // One stretch of it, again and again.
    let stretches = [twin.stretches(15)[0].clone()];
    let search = candidates::Search { generations: 12, pairs: 4, stretches: 1, seed: 1, jobs: 2 };
    let fitted = candidates::tuned(&start, &twin, &stretches, &search, |_| ()).unwrap();
    refused_and_harmless(&ordinary, "overfitted", &fitted.checkpoint);
}

#[test]
fn one_that_does_not_react_to_anything_is_refused() {
    // It takes back what the prior knows of capacities: the same weight for each pod, whatever happens.
    let capacity = FEATURES.iter().find(|feature| feature.name == "capacity_ratio").unwrap();
    let zero = Checkpoint::zero(0);
    let place = FEATURES.iter().position(|feature| feature.name == capacity.name).unwrap();
    let mut tensors = zero.tensors().clone();
    let manifest = Manifest { residual_clip: 3.0, ..zero.manifest().clone() };
    tensors.get_mut("linear.weight").unwrap()[place] = -manifest.features[place].std;
    refused_and_harmless(&silent(unequal_pods(7, 1, 0.8)), "frozen", &Checkpoint::new(manifest, tensors).unwrap());
}

#[test]
fn one_that_is_quicker_by_what_it_turns_away_is_refused() {
    // To send requests where few are sent crowds them by turns: admission control turns away the costly ones, and what is answered is answered quickly.
    let hacked = by(&[("rate_ratio", -80.0)]);
    // At nine tenths of what pods can do a recording of five minutes is not always one that a twin reproduces.
    let gate = (3..9).find_map(|seed| hacked_and_judged(seed, &hacked)).expect("of six services some twin may vote");
    let twin = gate.estimates.iter().find(|e| e.estimator == "twin" && e.measure == Measure::LogP99).unwrap();
    assert!(twin.difference > 0.0, "what is turned away counts as slow: {twin:?}");
    assert!(gate.refusals.iter().any(|refusal| matches!(refusal, Refusal::Worse { measure: Measure::Goodput, .. })));
    assert!(gate.refusals.iter().any(|refusal| matches!(refusal, Refusal::Class { .. })), "{:?}", gate.refusals);
}

/// What the gate says of it where it looks better by what it answers, if it does and the twin may vote.
fn hacked_and_judged(seed: u64, hacked: &Checkpoint) -> Option<Gate> {
    let mut scenario = request_classes(seed, 1, 0.9);
    scenario.objective_ns = SECOND;
    let run = |policy: Policy| simulate(&scenario, &mut Fleet::with_policy(&scenario, &OPTIONS, policy)).unwrap();
    let (ours, theirs) = (run(Policy::new(hacked).unwrap()), run(Policy::prior_only()));
    println!(
        "reward-hacked: p99 of answers {:.0} ms for {:.0} ms, {:.1} % turned away for {:.1} %",
        ours.latency_ms_p99,
        theirs.latency_ms_p99,
        100.0 * ours.shed_share,
        100.0 * theirs.shed_share
    );
    let looks_better = ours.latency_ms_p99 < 0.7 * theirs.latency_ms_p99;
    looks_better.then(|| judged(&scenario, "reward-hacked", hacked)).flatten()
}

/// What somebody does to a recording.
type Forgery = fn(&mut Recording);

/// A recording of a policy that explores, in which whoever changed it made slow pods look fast.
fn forged(change: impl Fn(&mut Recording)) -> Recording {
    let scenario = silent(unequal_pods(7, 1, 0.8)).lasting(420);
    let exploring = Policy::prior_only().with_exploration(0.2).holding_exploration(20);
    let mut recording = record(&scenario, exploring, 0.1);
    change(&mut recording);
    recording
}

/// How much quicker endpoints were made to look: each third pod is slow.
fn made_quicker(endpoint: u64) -> f64 {
    if endpoint.is_multiple_of(3) { 0.2 } else { 1.0 }
}

fn forge_samples(recording: &mut Recording) {
    recording.requests.iter_mut().for_each(|row| row.latency_ms *= made_quicker(row.endpoint));
}

fn forge_reports(recording: &mut Recording) {
    for row in &mut recording.ticks {
        let quicker = made_quicker(row.endpoint);
        for ms in [
            &mut row.reported_latency_ms_mean,
            &mut row.reported_latency_ms_p10,
            &mut row.reported_latency_ms_p50,
            &mut row.reported_latency_ms_p99,
        ] {
            *ms = ms.map(|ms| ms * quicker);
        }
    }
}

fn to_slow_pods() -> Vec<(String, Checkpoint)> {
    vec![("to slow pods".to_owned(), by(&[("capacity_ratio", -8.0)]))]
}

#[test]
fn recordings_that_were_changed_to_make_a_bad_policy_look_good_promote_nothing() {
    let forgeries: [(&str, Forgery); 3] = [
        ("samples", forge_samples),
        ("samples and reports", |recording| {
            forge_samples(recording);
            forge_reports(recording);
        }),
        ("propensities", |recording| {
            recording.ticks.iter_mut().for_each(|row| row.log_probability = row.log_probability.map(|log| log + 9.0));
        }),
    ];
    for (what, forge) in forgeries {
        let refined = refine(&forged(forge), to_slow_pods());
        for judged in &refined.judged {
            println!("{what} forged, {}: {}", judged.candidate.name, why(&judged.gate));
        }
        let bad = refined.judged.iter().find(|judged| judged.candidate.name == "to slow pods").unwrap();
        assert!(!bad.gate.promotes(), "{what}");
        let reasons: Vec<&str> = bad.gate.estimates.iter().map(|estimate| &*estimate.reason).collect();
        let noticed = |text: &str| reasons.iter().any(|reason| reason.contains(text));
        assert!(noticed("contradicts itself") || noticed("recorded propensities"), "{what}: {reasons:?}");
        if what != "propensities" {
            assert_eq!(refined.promoted, None, "{what}: nothing is promoted by a recording that is not believed");
        }
    }
}

/// Whoever changes everything alike is believed by the gate: what it lets through must be stopped live.
#[test]
fn what_a_recording_promotes_that_was_changed_in_every_place_is_stopped_live() {
    let recording = forged(|recording| {
        forge_samples(recording);
        forge_reports(recording);
        for row in &mut recording.ticks {
            row.reported_in_flight_mean = row.reported_in_flight_mean.map(|n| n * made_quicker(row.endpoint));
        }
    });
    let refined = refine(&recording, to_slow_pods());
    let scenario = silent(unequal_pods(7, 1, 0.8));
    for judged in &refined.judged {
        let fate = try_out(&scenario, &Policy::prior_only(), &Policy::new(&judged.candidate.checkpoint).unwrap(), 230);
        println!("all forged, {}: gate: {}; live: {}", judged.candidate.name, why(&judged.gate), fate.text());
        assert!(fate.harmed <= 0.01, "{}: {}", judged.candidate.name, fate.text());
    }
}
