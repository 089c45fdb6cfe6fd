//! Rollouts in simulated services: what is bad goes out within seconds and hurts nearly nobody, what is good comes into force.
//!
//! Harm is counted request by request of the same minute, the one that begins with a candidate's first turn: how many fewer were answered within
//! the objective than in the same run without a candidate.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "tests that cannot run their scenario have failed, and tell what happened"
)]

mod support;

use support::{Fate, OPTIONS, by, planted, try_out};
use trimtab_model::{
    Policy,
    checkpoint::Checkpoint,
    rollout::{RolloutSettings, What, Why},
};
use trimtab_training::{
    fleet::{Fleet, Rollouts},
    scenario::{Scenario, rotating_slow_pods, unequal_pods},
    simulator::simulate,
};

/// What became of every planted model, on all seeds of a kind of service.
fn plant(service: &str, scenarios: &[Scenario]) -> Vec<(&'static str, Vec<Fate>)> {
    let planted = planted();
    let fates: Vec<(&'static str, Vec<Fate>)> = std::thread::scope(|scope| {
        let halves = planted.chunks(planted.len().div_ceil(2));
        let threads: Vec<_> = halves
            .map(|half| {
                scope.spawn(move || {
                    let fate = |checkpoint: &Checkpoint| {
                        let candidate = Policy::new(checkpoint).unwrap();
                        scenarios.iter().map(|s| try_out(s, &Policy::prior_only(), &candidate, 330)).collect()
                    };
                    half.iter().map(|(name, checkpoint)| (*name, fate(checkpoint))).collect::<Vec<_>>()
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    println!("{service}");
    for (bad, fates) in &fates {
        let fates: Vec<String> = fates.iter().map(Fate::text).collect();
        println!("  {bad:32}{}", fates.join(" |"));
    }
    fates
}

fn check(service: &str, scenarios: &[Scenario], within_5_s: usize) {
    let fates = plant(service, scenarios);
    for (bad, fates) in &fates {
        let harmed = fates.iter().map(|fate| fate.harmed).sum::<f64>() / fates.len() as f64;
        assert!(harmed <= 0.01, "{service}, {bad}: {:.2} % of the minute's requests were harmed", 100.0 * harmed);
        for fate in fates {
            assert!(!fate.log.iter().any(|event| matches!(event.what, What::Confirmed { .. })), "{service}, {bad}");
        }
    }
    let quick = |fate: &Fate| fate.why == Some(Why::Unfit) || fate.lasted_s.is_some_and(|s| s <= 5.0);
    let quick = fates.iter().filter(|(_, fates)| fates.iter().all(quick)).count();
    assert!(quick >= within_5_s, "{service}: only {quick} of {} were out within 5 s", fates.len());
}

/// Where nothing else is going on, what does harm is out within seconds; the rest does none that could be seen.
#[test]
fn of_twenty_planted_models_those_that_harm_a_steady_service_are_out_within_seconds() {
    // Fifteen, most at the first look; the others harm nobody in that minute.
    check("unequal pods, one proxy", &[unequal_pods(1, 1, 0.8)], 12);
}

#[test]
fn the_same_without_metrics_of_the_pods() {
    let mut scenario = unequal_pods(3, 2, 0.8);
    scenario.telemetry.scraped = false;
    check("unequal pods without metrics, two proxies", &[scenario], 5);
}

/// Three pods in ten are slowed down by 4 times, others every 3 s: a service in which half a second says nothing. There it is the time between first
/// looks that keeps harm small.
#[test]
fn the_same_where_pods_are_slowed_down_all_the_time() {
    let scenarios = [2, 5, 6].map(|seed| rotating_slow_pods(seed, 3, 0.75));
    check("slow pods that change, three proxies", &scenarios, 2);
}

#[test]
fn a_good_candidate_is_confirmed_and_then_stays() {
    // What is in force gives to slow pods; the candidate proposes nothing.
    let builtin = Policy::new(&by(&[("capacity_ratio", -6.0)])).unwrap();
    let scenario = unequal_pods(1, 1, 0.75).lasting(3_600);
    let rollouts = Rollouts {
        settings: RolloutSettings { shadow_s: 10.0, ..RolloutSettings::default() },
        ..Rollouts::trying(builtin, "candidate", Policy::prior_only(), 10.0)
    };
    let mut fleet = Fleet::with_rollouts(&scenario, &OPTIONS, rollouts);
    simulate(&scenario, &mut fleet).unwrap();
    let way: Vec<String> = fleet.log().iter().map(|e| format!("{} s: {:?}", e.at_ms / 1_000, e.what)).collect();
    println!("{way:#?}");
    assert!(matches!(fleet.log().last().unwrap().what, What::Confirmed { .. }), "{way:#?}");
}

#[test]
fn a_candidate_that_changes_nothing_harms_nobody_and_is_not_confirmed() {
    let scenario = rotating_slow_pods(4, 2, 0.75);
    let fate = try_out(&scenario, &Policy::prior_only(), &Policy::prior_only(), 1_200);
    println!("{fate:#?}");
    assert!(fate.harmed < 0.002, "{fate:#?}");
    assert!(!fate.log.iter().any(|event| matches!(event.what, What::Confirmed { .. })), "{fate:#?}");
    assert!(!matches!(fate.why, Some(why) if why != Why::WorseThanIncumbent), "{fate:#?}");
}
