//! Facts that a policy has of a service's slots, and what is learned of them live: facts count from the first second, and no longer once the pods'
//! template has changed.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests fail like tests, and tell what happened"
)]

use std::collections::BTreeMap;

use trimtab_model::{
    Policy,
    checkpoint::{Checkpoint, Manifest},
    decision::Reason,
    service::{Service, Slots},
};
use trimtab_training::{
    fleet::{Fleet, FleetOptions, Tick},
    scenario::{Scenario, unequal_pods, world},
    simulator::simulate,
};

/// Twelve unequal pods with two to four slots that they do not tell.
fn silent_pods() -> Scenario {
    let mut scenario = unequal_pods(5, 2, 0.8).lasting(180);
    scenario.telemetry.slots_told = false;
    scenario
}

/// A policy that knows so many slots of each pod.
fn knowing(slots: impl Fn(u32) -> f64, scenario: &Scenario) -> Policy {
    let known = |(key, pod): (u64, u32)| (key, slots(pod));
    let endpoints: BTreeMap<u64, f64> = (0..).zip(scenario.endpoints.iter().map(|pod| pod.slots)).map(known).collect();
    let service = Service { backend: "simulation/backend:80".to_owned(), slots: Slots { usual: slots(3), endpoints } };
    let zero = Checkpoint::zero(0);
    let manifest = Manifest { service: Some(service), ..zero.manifest().clone() };
    Policy::new(&Checkpoint::new(manifest, zero.tensors().clone()).unwrap()).unwrap()
}

/// The ticks of a run, and its 99th percentile.
fn run(scenario: &Scenario, policy: Policy) -> (Vec<Tick>, f64) {
    let mut fleet = Fleet::with_policy(scenario, &FleetOptions::TRIMTAB, policy).keeping_ticks();
    let summary = simulate(scenario, &mut fleet).unwrap();
    (fleet.ticks().to_vec(), summary.latency_ms_p99)
}

/// By what factor the slots that a tick goes by are off, in the (geometric) mean.
fn off(tick: &Tick, scenario: &Scenario) -> f64 {
    let logs = tick.decision.slots.iter().zip(&scenario.endpoints);
    let logs: Vec<f64> = logs.map(|(slots, pod)| (slots.unwrap() / f64::from(pod.slots)).ln().abs()).collect();
    (logs.iter().sum::<f64>() / logs.len() as f64).exp()
}

fn stale(tick: &Tick) -> bool {
    tick.decision.guard.iter().any(|action| action.reason == Reason::StaleFacts)
}

#[test]
fn facts_of_an_older_template_give_way_to_what_is_learned_and_right_ones_stay() {
    let scenario = silent_pods();
    let (right, p99_right) = run(&scenario, knowing(f64::from, &scenario));
    assert!(
        right.iter().all(|tick| (off(tick, &scenario) - 1.0).abs() < 1e-9),
        "right facts count from the first tick to the last"
    );
    assert!(!right.iter().any(stale));

    for factor in [4.0, 8.0] {
        let (ticks, p99) = run(&scenario, knowing(|slots| factor * f64::from(slots), &scenario));
        assert!((off(&ticks[0], &scenario) / factor - 1.0).abs() < 1e-9, "facts count until something is learned");
        let given_up = ticks.iter().position(stale);
        let last = ticks.last().unwrap();
        println!(
            "facts of {factor} times as many slots: given up after {:?} s, off by {:.2} in the end; p99 {p99:.0} ms, {p99_right:.0} ms with right ones",
            given_up.map(|tick| tick / 2),
            off(last, &scenario)
        );
        assert!(given_up.is_some_and(|tick| tick < 240), "within two minutes: {given_up:?}");
        assert!(stale(last) && off(last, &scenario) < 1.4, "off by {}", off(last, &scenario));
    }
}

/// Worlds in which live learning is surely off by a factor of two or more at some endpoints.
#[test]
fn right_facts_are_not_given_up_where_live_learning_is_mistaken() {
    for number in [13, 19, 20, 25, 28, 30] {
        let scenario = world(number, 120);
        let (ticks, _) = run(&scenario, knowing(f64::from, &scenario));
        let given_up = ticks.iter().filter(|tick| stale(tick)).count();
        assert_eq!(given_up, 0, "world {number}: in so many of {} ticks", ticks.len());
    }
}
