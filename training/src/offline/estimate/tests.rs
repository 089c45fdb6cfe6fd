use trimtab_model::{
    checkpoint::{Checkpoint, Manifest},
    features::FEATURES,
};

use super::*;
use crate::{
    fleet::{Fleet, FleetOptions},
    offline::vote::{Verdict, Vote},
    scenario::{Family, Scenario, Setting},
    simulator::simulate,
};

fn scenario(seconds: u64) -> Scenario {
    Family::Heterogeneous.scenario(&Setting { seconds: Some(seconds), load: Some(0.8), ..Setting::new(7, 1, 5) })
}

fn recorded(scenario: &Scenario, policy: Policy) -> Dataset {
    let mut fleet = Fleet::with_policy(scenario, &FleetOptions::TRIMTAB, policy).recording(0.0);
    simulate(scenario, &mut fleet).unwrap();
    Dataset::new(&fleet.into_recording().ticks, None)
}

fn exploring() -> Policy {
    Policy::prior_only().with_exploration(0.2).holding_exploration(20)
}

fn linear(feature: &str, slope: f32, rule: f32) -> Policy {
    let zero = Checkpoint::zero(0);
    let manifest = Manifest { parameter_clip: 1.0, ..zero.manifest().clone() };
    let mut tensors = zero.tensors().clone();
    let index = FEATURES.iter().position(|known| known.name == feature).unwrap();
    tensors.get_mut("linear.weight").unwrap()[index] = slope * manifest.features[index].std;
    tensors.get_mut("rule.bias").unwrap().fill(rule);
    Policy::new(&Checkpoint::new(manifest, tensors).unwrap()).unwrap()
}

/// Nobody votes on this recording, and everyone says this.
fn check(dataset: &Dataset, candidate: &Policy, why: &str) {
    let evaluation = Evaluation::new(dataset, &Policy::prior_only(), 1);
    let estimates = evaluation.compare(candidate, &Policy::prior_only());
    assert_eq!(estimates.len(), 2 * Measure::ALL.len());
    for estimate in &estimates {
        assert!(!estimate.trusted && estimate.reason.contains(why), "{estimate:?}");
        assert!(estimate.difference.is_finite() && !estimate.low.is_nan() && !estimate.high.is_nan(), "{estimate:?}");
    }
    assert!(
        Vote::all(&estimates).iter().all(|vote| vote.verdict == Verdict::NotEnoughVoters && vote.voters.is_empty())
    );
}

#[test]
fn nobody_votes_on_what_cannot_be_told_from_a_recording() {
    let candidate = linear("in_flight_ratio", -0.1, 0.0);
    check(&Dataset::default(), &candidate, "0 transitions are there to judge by, at least 600 are needed");
    check(&recorded(&scenario(60), exploring()), &candidate, "at least 600 are needed");
    let still = recorded(&scenario(400), Policy::prior_only());
    check(&still, &candidate, "nothing was explored");
    let explored = recorded(&scenario(400), exploring());
    check(&explored, &linear("in_flight_ratio", 0.0, 0.3), "a parameter of the rule differs");
    let mut unscraped = scenario(400);
    unscraped.telemetry.scraped = false;
    check(&recorded(&unscraped, exploring()), &candidate, "pods do not tell what they can do");
}

#[test]
fn noise_that_changes_at_every_tick_does_not_tell_what_lasts() {
    let dataset = recorded(&scenario(400), Policy::prior_only().with_exploration(0.2));
    let evaluation = Evaluation::new(&dataset, &Policy::prior_only(), 1);
    let estimates = evaluation.compare(&linear("in_flight_ratio", -0.1, 0.0), &Policy::prior_only());
    let importance = estimates.iter().filter(|estimate| estimate.estimator == importance::NAME);
    assert!(importance.clone().count() == 4);
    assert!(importance.into_iter().all(|estimate| estimate.reason.contains("no noise was held")), "{estimates:?}");
}

#[test]
fn a_policy_that_does_the_same_is_worth_the_same_and_one_far_away_is_not_judged() {
    let dataset = recorded(&scenario(600), exploring());
    let evaluation = Evaluation::new(&dataset, &Policy::prior_only(), 1);
    for estimate in evaluation.compare(&linear("in_flight_ratio", 0.0, 0.0), &Policy::prior_only()) {
        assert!(estimate.difference.abs() < 1e-9, "{estimate:?}");
    }
    let far = evaluation.compare(&linear("worker_limit_ratio", 2.0, 0.0), &Policy::prior_only());
    assert!(far.iter().all(|estimate| !estimate.trusted), "{far:?}");
    let distance = far[0].diagnostics.distance.unwrap();
    assert!(distance > 2.5, "{distance}");
}

#[test]
fn importance_finds_an_effect_that_is_there_and_none_that_is_not() {
    // Outcomes of a real recording, replaced by what the noise at the first endpoint does.
    let check = |effect: f64| {
        let mut dataset = recorded(&scenario(1_500), exploring());
        for episode in &mut dataset.episodes {
            for t in 1..episode.steps.len() {
                let noise = episode.steps[t - 1].endpoints[0].proposed;
                for at in &mut episode.steps[t].endpoints {
                    if let Some(seen) = &mut at.seen {
                        seen.in_flight_mean = 4.0 * (1.0 + effect * noise);
                    }
                }
            }
        }
        let evaluation = Evaluation::new(&dataset, &Policy::prior_only(), 1);
        let none = Acts::new(&Policy::prior_only(), &dataset);
        let mut shifted = none.clone();
        shifted.residuals.iter_mut().flatten().for_each(|residuals| residuals[0] = 0.1);
        let estimates = evaluation.importance(&shifted, &none);
        let estimate = estimates.iter().find(|estimate| estimate.measure == Measure::LogMean).unwrap().clone();
        assert!(estimate.trusted, "{estimate:?}");
        estimate
    };
    let there = check(0.5);
    // Relative to the others, the first endpoint's shift is a fifth less.
    assert!((0.02..0.06).contains(&there.difference) && there.low > 0.0, "{there:?}");
    let nothing = check(0.0);
    assert!(nothing.low <= 1e-9 && nothing.high >= -1e-9 && nothing.difference.abs() < 1e-6, "{nothing:?}");
}
