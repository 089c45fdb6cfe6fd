//! Policies that are bad, each in its own way, and what becomes of one that is tried in a simulated service.
#![allow(dead_code, reason = "each test uses a part of it")]
#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use std::collections::BTreeMap;

use rand::{Rng, SeedableRng, rngs::StdRng};
use trimtab_model::{
    Policy,
    checkpoint::{Checkpoint, Manifest, Range},
    features::FEATURES,
    policy::RULE_PARAMETERS,
    rollout::{Arm, Event, What, Why},
};
use trimtab_training::{
    fleet::{Fleet, FleetOptions, Rollouts, rollout::at_ns},
    scenario::Scenario,
    simulator::{simulate, time::SECOND},
};

pub const OPTIONS: FleetOptions = FleetOptions::TRIMTAB;

/// A policy that is what `change` makes of one that proposes nothing, with bounds as wide as a checkpoint may have.
pub fn policy(hidden: usize, change: impl FnOnce(&mut Manifest, &mut BTreeMap<String, Vec<f32>>)) -> Checkpoint {
    let zero = Checkpoint::zero(hidden);
    let (mut manifest, mut tensors) = (zero.manifest().clone(), zero.tensors().clone());
    manifest.residual_clip = 3.0;
    manifest.parameter_clip = 3.0;
    change(&mut manifest, &mut tensors);
    Checkpoint::new(manifest, tensors).unwrap()
}

/// One that gives to each endpoint by these features.
pub fn by(features: &[(&str, f32)]) -> Checkpoint {
    policy(0, |_, tensors| {
        let weights = tensors.get_mut("linear.weight").unwrap();
        for (name, weight) in features {
            weights[FEATURES.iter().position(|feature| feature.name == *name).unwrap()] = *weight;
        }
    })
}

/// One that multiplies these rule parameters by e to the power of this.
pub fn rule(parameters: &[(&str, f32)]) -> Checkpoint {
    policy(0, |_, tensors| {
        let bias = tensors.get_mut("rule.bias").unwrap();
        for (name, log) in parameters {
            bias[RULE_PARAMETERS.iter().position(|known| known == name).unwrap()] = (log / 3.0_f32).atanh();
        }
    })
}

/// A network of noise.
pub fn noise(seed: u64) -> Checkpoint {
    policy(8, |_, tensors| {
        let mut rng = StdRng::seed_from_u64(seed);
        tensors.values_mut().flatten().for_each(|x| *x = rng.random_range(-4.0..4.0));
    })
}

/// One that was trained where everything was different.
pub fn from_elsewhere() -> Checkpoint {
    policy(0, |manifest, tensors| {
        for feature in manifest.features.iter_mut().chain(&mut manifest.context) {
            let high = feature.seen.unwrap().high;
            feature.seen = Some(Range { low: 0.95 * high, high });
        }
        tensors.get_mut("linear.weight").unwrap().fill(3.0);
    })
}

/// Policies that must not come into force, each bad in its own way.
pub fn planted() -> Vec<(&'static str, Checkpoint)> {
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
pub struct Fate {
    /// Seconds from its first turn to its end.
    pub lasted_s: Option<f64>,
    /// Why it went out.
    pub why: Option<Why>,
    /// Share of the minute's requests that it harmed.
    pub harmed: f64,
    /// What the log says.
    pub log: Vec<Event>,
}

impl Fate {
    /// In words.
    pub fn text(&self) -> String {
        let why = self.why.map_or_else(|| "–".to_owned(), |why| format!("{why:?}"));
        let after = self.lasted_s.map_or_else(String::new, |s| format!("after {s:.1} s"));
        format!(" {why:>18} {after:13} {:5.2} % harmed", 100.0 * self.harmed)
    }
}

/// Tries a candidate in a scenario of so many seconds.
pub fn try_out(scenario: &Scenario, builtin: &Policy, candidate: &Policy, seconds: u64) -> Fate {
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
