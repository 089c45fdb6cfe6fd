//! Twins: calibrated from nothing but a recording, they know what the service is like and what a change would do to it.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use trimtab_model::{
    Policy,
    checkpoint::{Checkpoint, Manifest},
    service::Service,
};
use trimtab_training::{
    fleet::{Fleet, FleetOptions, Recording},
    scenario::{Family, Scenario, Setting, seeds},
    simulator::{endpoint::Discipline, simulate, time::SECOND},
    twin::{Fidelity, Trace, Twin, TwinError},
};

const BACKEND: &str = "simulation/backend:80";

/// Nothing is learned live: what is tested is what a twin finds out, and what that is worth.
const OPTIONS: FleetOptions = FleetOptions { learns_slots: false, ..FleetOptions::TRIMTAB };

/// A service whose pods do not tell how many requests they serve at once.
fn service(family: Family, seed: u64) -> Scenario {
    let setting = Setting { seconds: Some(300), load: Some(0.8), ..Setting::new(seed, 4, 8) };
    let mut scenario = family.scenario(&setting);
    scenario.telemetry.slots_told = false;
    scenario
}

fn record(scenario: &Scenario) -> Recording {
    let mut fleet = Fleet::new(scenario, &OPTIONS).recording(0.1);
    simulate(scenario, &mut fleet).unwrap();
    fleet.into_recording()
}

fn checkpoint(service: Option<Service>) -> Checkpoint {
    let zero = Checkpoint::zero(0);
    Checkpoint::new(Manifest { service, ..zero.manifest().clone() }, zero.tensors().clone()).unwrap()
}

fn twin(scenario: &Scenario) -> Twin {
    let recording = record(scenario);
    let trace = Trace::of(BACKEND, &recording.ticks, &recording.requests).unwrap();
    Twin::calibrate(&trace, &checkpoint(None), 1, 2).unwrap()
}

fn p99_ratio(scenario: &Scenario, candidate: Policy) -> f64 {
    let run = |policy| simulate(scenario, &mut Fleet::with_policy(scenario, &OPTIONS, policy)).unwrap();
    run(candidate).latency_ms_p99 / run(Policy::prior_only()).latency_ms_p99
}

#[test]
fn slots_and_classes_are_found_out_and_so_is_what_knowing_them_is_worth() {
    let scenario = service(Family::Affinity, seeds::VALIDATION.start + 2);
    let twin = twin(&scenario);
    assert_eq!(twin.fit.waiting.discipline, Discipline::Fcfs);
    let found: Vec<u32> = twin.fit.endpoints.iter().map(|endpoint| endpoint.slots).collect();
    let truth: Vec<u32> = scenario.endpoints.iter().map(|endpoint| endpoint.slots).collect();
    let right = found.iter().zip(&truth).filter(|(found, truth)| found == truth).count();
    assert!(4 * right >= 3 * truth.len(), "{found:?}, not {truth:?}");

    let refined = checkpoint(twin.service());
    let stretches = twin.stretches(30);
    let here = twin.policy(&refined).unwrap();
    let predicted =
        stretches.iter().zip(100..).map(|(stretch, seed)| p99_ratio(&twin.scenario(stretch, seed), here.clone()).ln());
    let predicted = (predicted.sum::<f64>() / stretches.len() as f64).exp();
    let mut truth = 0.0;
    for seed in 0..3 {
        let measured_ns = scenario.measured_ns.start..scenario.measured_ns.start + 60 * SECOND;
        let elsewhere = Scenario { seed: 9_000 + seed, measured_ns, ..scenario.clone() };
        truth += p99_ratio(&elsewhere, Policy::new(&refined).unwrap()).ln() / 3.0;
    }
    let truth = truth.exp();
    assert!(truth < 0.93, "knowing the slots is worth something here: {truth}");
    assert!((predicted / truth).ln().abs() < 0.15, "predicted {predicted}, true {truth}");
}

#[test]
fn a_twin_reproduces_stretches_that_it_was_not_made_from() {
    for family in [Family::Interference, Family::Gray] {
        let recording = record(&service(family, seeds::VALIDATION.start));
        let trace = Trace::of(BACKEND, &recording.ticks, &recording.requests).unwrap();
        let half = trace.ticks.len() / 2;
        let incumbent = checkpoint(None);
        let twin = Twin::calibrate(&trace.part(0..half), &incumbent, 1, 2).unwrap();
        let later = twin.at(trace.part(half..trace.ticks.len()));
        let fidelity = Fidelity::of(&later, &later.stretches(30), &incumbent, 7, 2).unwrap();
        let (p50, p99) = (fidelity.p50.unwrap().mean, fidelity.p99.unwrap().mean);
        assert!((0.85..1.18).contains(&p50) && (0.8..1.25).contains(&p99), "{family:?}: p50 {p50}, p99 {p99}");
        assert!(fidelity.errors.unwrap().mean.abs() < 0.005, "{family:?}: {:?}", fidelity.errors);
    }
}

#[test]
fn what_cannot_be_a_twin_is_said() {
    let recording = record(&Scenario { measured_ns: 20 * SECOND..30 * SECOND, ..service(Family::Homogeneous, 1_000) });
    let none = Trace::of("shop/other:80", &recording.ticks, &recording.requests).unwrap_err();
    assert_eq!(none, TwinError::NoTicks("shop/other:80".to_owned()));
    let little = Trace::of(BACKEND, &recording.ticks, &recording.requests).unwrap_err().to_string();
    assert!(little.contains("ticks, at least 240 are needed"), "{little}");
}

#[test]
fn rows_that_make_no_sense_are_counted_and_left_out() {
    let mut recording = record(&service(Family::Homogeneous, 1_000));
    let whole = Trace::of(BACKEND, &recording.ticks, &recording.requests).unwrap();
    recording.ticks[0].interval_s = f64::NAN;
    recording.requests[0].latency_ms = -1.0;
    recording.requests[1].latency_ms = f64::INFINITY;
    recording.requests[2].endpoint = 77;
    // The clock jumps by a minute half-way.
    let half = recording.ticks.len() / 2;
    recording.ticks[half..].iter_mut().for_each(|row| row.at_ms += 60_000);
    let trace = Trace::of(BACKEND, &recording.ticks, &recording.requests).unwrap();
    assert_eq!((whole.segments.len(), whole.skipped), (1, 0));
    assert_eq!((trace.segments.len(), trace.skipped), (2, 4));
    assert_eq!(trace.requests.len(), whole.requests.len() - 3);
}
