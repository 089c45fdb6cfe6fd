//! Rollouts in simulated services: what is bad goes out within seconds and hurts nearly nobody, what is good comes into force.
//!
//! Harm is counted request by request of the same minute, the one that begins with a candidate's first turn: how many fewer were answered within
//! the objective than in the same run without a candidate.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "tests that cannot run their scenario have failed, and tell what happened"
)]

use std::collections::BTreeMap;

use rand::{Rng, SeedableRng, rngs::StdRng};
use trimtab_model::{
    Policy,
    checkpoint::{Checkpoint, Manifest, Range},
    features::FEATURES,
    policy::RULE_PARAMETERS,
    rollout::{Arm, Event, RolloutSettings, What, Why},
};
use trimtab_training::{
    fleet::{Fleet, FleetOptions, Rollouts, rollout::at_ns},
    scenario::{Scenario, rotating_slow_pods, unequal_pods},
    simulator::{simulate, time::SECOND},
};

const OPTIONS: FleetOptions = FleetOptions::TRIMTAB;

/// A policy that is what `change` makes of one that proposes nothing, with bounds as wide as a checkpoint may have.
fn policy(hidden: usize, change: impl FnOnce(&mut Manifest, &mut BTreeMap<String, Vec<f32>>)) -> Checkpoint {
    let zero = Checkpoint::zero(hidden);
    let (mut manifest, mut tensors) = (zero.manifest().clone(), zero.tensors().clone());
    manifest.residual_clip = 3.0;
    manifest.parameter_clip = 3.0;
    change(&mut manifest, &mut tensors);
    Checkpoint::new(manifest, tensors).unwrap()
}

/// One that gives to each endpoint by these features.
fn by(features: &[(&str, f32)]) -> Checkpoint {
    policy(0, |_, tensors| {
        let weights = tensors.get_mut("linear.weight").unwrap();
        for (name, weight) in features {
            weights[FEATURES.iter().position(|feature| feature.name == *name).unwrap()] = *weight;
        }
    })
}

/// One that multiplies these rule parameters by e to the power of this.
fn rule(parameters: &[(&str, f32)]) -> Checkpoint {
    policy(0, |_, tensors| {
        let bias = tensors.get_mut("rule.bias").unwrap();
        for (name, log) in parameters {
            bias[RULE_PARAMETERS.iter().position(|known| known == name).unwrap()] = (log / 3.0_f32).atanh();
        }
    })
}

/// A network of noise.
fn noise(seed: u64) -> Checkpoint {
    policy(8, |_, tensors| {
        let mut rng = StdRng::seed_from_u64(seed);
        tensors.values_mut().flatten().for_each(|x| *x = rng.random_range(-4.0..4.0));
    })
}

/// One that was trained where everything was different.
fn from_elsewhere() -> Checkpoint {
    policy(0, |manifest, tensors| {
        for feature in manifest.features.iter_mut().chain(&mut manifest.context) {
            let high = feature.seen.unwrap().high;
            feature.seen = Some(Range { low: 0.95 * high, high });
        }
        tensors.get_mut("linear.weight").unwrap().fill(3.0);
    })
}

/// Policies that must not come into force, each bad in its own way.
fn planted() -> Vec<(&'static str, Checkpoint)> {
    const FAR: f32 = 2.999;
    vec![
        ("sign flipped: to slow pods", by(&[("capacity_ratio", -60.0)])),
        ("sign flipped, mildly", by(&[("capacity_ratio", -8.0)])),
        ("to busy pods", by(&[("utilisation", 40.0)])),
        ("to pods with a queue", by(&[("in_flight_ratio", 60.0), ("queue", 60.0)])),
        ("to pods with high latency", by(&[("latency_mean_ratio", 60.0)])),
        ("to pods with a long tail", by(&[("latency_p99_ratio", 60.0)])),
        ("to pods that slow down", by(&[("capacity_trend", -200.0)])),
        ("to pods with few workers", by(&[("worker_limit_ratio", -80.0)])),
        ("all to the fastest", by(&[("capacity_ratio", 200.0)])),
        ("away from who gets much", by(&[("rate_ratio", -80.0)])),
        ("latency 20 times", rule(&[("latency_exponent", FAR)])),
        ("latency a 20th", rule(&[("latency_exponent", -FAR)])),
        ("errors a 20th", rule(&[("error_exponent", -FAR)])),
        ("work in flight 20 times", rule(&[("work_share", FAR)])),
        ("offset 20 times", rule(&[("offset", FAR)])),
        ("all of the rule at its bounds", rule(&[("latency_exponent", FAR), ("work_share", FAR), ("offset", FAR)])),
        ("noise 1", noise(1)),
        ("noise 2", noise(2)),
        ("noise 3", noise(3)),
        ("trained elsewhere", from_elsewhere()),
    ]
}

/// What became of a candidate.
#[derive(Debug)]
struct Fate {
    /// Seconds from its first turn to its end.
    lasted_s: Option<f64>,
    why: Option<Why>,
    /// Share of the minute's requests that it harmed.
    harmed: f64,
    log: Vec<Event>,
}

impl Fate {
    fn text(&self) -> String {
        let why = self.why.map_or_else(|| "–".to_owned(), |why| format!("{why:?}"));
        let after = self.lasted_s.map_or_else(String::new, |s| format!("after {s:.1} s"));
        format!(" {why:>18} {after:13} {:5.2} % harmed", 100.0 * self.harmed)
    }
}

/// Tries a candidate in a scenario of so many seconds.
fn try_out(scenario: &Scenario, builtin: &Policy, candidate: &Policy, seconds: u64) -> Fate {
    let rollouts = || Rollouts::trying(builtin.clone(), "candidate", candidate.clone(), 10.0);
    let run = |scenario: &Scenario, rollouts: Rollouts| {
        let mut fleet = Fleet::with_rollouts(scenario, &OPTIONS, rollouts);
        (simulate(scenario, &mut fleet).unwrap(), fleet)
    };
    let (_, fleet) = run(&scenario.clone().lasting(seconds), rollouts());
    let first_ns = fleet.arms().iter().find(|(_, arm)| *arm == Arm::Candidate).map(|(at_ns, _)| *at_ns);
    let out = fleet.log().iter().find(|event| matches!(event.what, What::RolledBack { .. }));
    let why = out.and_then(|event| match event.what {
        What::RolledBack { why, .. } => Some(why),
        _ => None,
    });
    let harmed = first_ns.map_or(0.0, |first_ns| {
        let mut minute = scenario.clone();
        minute.measured_ns = first_ns..first_ns + 60 * SECOND;
        let none = Rollouts { log: Vec::new(), ..rollouts() };
        let (with, without) = (run(&minute, rollouts()).0, run(&minute, none).0);
        assert_eq!(with.arrived, without.arrived, "the same requests");
        (without.goodput_share - with.goodput_share).max(0.0)
    });
    let lasted_s = first_ns.zip(out).map(|(first_ns, out)| (at_ns(out) - first_ns) as f64 / SECOND as f64);
    Fate { lasted_s, why, harmed, log: fleet.log().to_vec() }
}

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
                        scenarios.iter().map(|s| try_out(s, &Policy::prior_only(), &candidate, 270)).collect()
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
    // Nine or ten: it hangs on the random numbers.
    check("unequal pods, one proxy", &[unequal_pods(1, 1, 0.8)], 9);
}

#[test]
fn the_same_without_metrics_of_the_pods() {
    let mut scenario = unequal_pods(3, 2, 0.8);
    scenario.telemetry.scraped = false;
    check("unequal pods without metrics, two proxies", &[scenario], 4);
}

/// Three pods in ten are slowed down by 4 times, others every 3 s: a service in which half a second says nothing. There it is the time between first
/// looks that keeps harm small.
#[test]
fn the_same_where_pods_are_slowed_down_all_the_time() {
    let scenarios = [2, 5, 6].map(|seed| rotating_slow_pods(seed, 3, 0.75));
    check("slow pods that change, three proxies", &scenarios, 1);
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
