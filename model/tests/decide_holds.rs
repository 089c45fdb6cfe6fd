//! What holds of every decision, whatever comes in.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

mod support;

use candle_core::{Device, Tensor};
use ndarray::{Array2, ArrayView1, Axis};
use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;
use support::wild;
use trimtab_model::checkpoint::{Checkpoint, Manifest, Range};
use trimtab_model::decision::{Decision, Mode, Reason};
use trimtab_model::features::{CONTEXT, FEATURES, Features};
use trimtab_model::infer::Inference;
use trimtab_model::observation::Observation;
use trimtab_model::{GuardConfig, GuardSettings, Memory, Policy, decide};

/// A policy whose last layers are not zero, and that has seen little of the world.
fn opinionated(std: f32) -> Policy {
    Policy::new(&opinionated_checkpoint(std)).unwrap()
}

fn opinionated_checkpoint(std: f32) -> Checkpoint {
    let zero = Checkpoint::zero(32);
    let mut manifest: Manifest = zero.manifest().clone();
    manifest.policy_version = "opinionated".to_owned();
    for feature in manifest.features.iter_mut().chain(&mut manifest.context) {
        feature.std = std;
        feature.seen = Some(Range { low: feature.mean - 6.0 * std, high: feature.mean + 6.0 * std });
    }
    let mut tensors = zero.tensors().clone();
    for (index, number) in tensors.values_mut().flatten().enumerate() {
        if *number == 0.0 {
            *number = 0.3 * (index as f32).sin();
        }
    }
    Checkpoint::new(manifest, tensors).unwrap()
}

fn check(observation: &Observation, decision: &Decision) -> Result<(), TestCaseError> {
    let count = observation.endpoints.len();
    prop_assert_eq!(decision.endpoints.len(), count);
    prop_assert_eq!(decision.capacity_rps.len(), count);
    for weights in [&decision.baseline, &decision.proposed, &decision.applied] {
        prop_assert_eq!(weights.len(), count);
        prop_assert!(weights.iter().all(|w| w.is_finite() && *w > 0.0), "{:?}", weights);
        prop_assert!(count == 0 || (weights.iter().sum::<f64>() - 1.0).abs() < 1e-9, "{:?}", weights);
    }
    prop_assert!(decision.adjustments.is_empty() || decision.adjustments.len() == count);
    prop_assert!(decision.adjustments.iter().all(|a| a.is_finite() && *a > 0.0), "{:?}", decision.adjustments);
    let rule = decision.parameters;
    for number in [rule.exponent, rule.offset, rule.latency_exponent, rule.latency_reference_ms, rule.error_exponent] {
        prop_assert!(number.is_finite() && number > 0.0, "{:?}", rule);
    }
    prop_assert!(decision.capacity_rps.iter().flatten().all(|c| c.is_finite() && *c > 0.0));
    prop_assert!(decision.log_probability.is_none_or(f64::is_finite));
    Ok(())
}

fn mode() -> impl Strategy<Value = Mode> {
    prop_oneof![Just(Mode::Off), Just(Mode::Shadow), Just(Mode::Active)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn every_decision_is_a_distribution_with_finite_parameters(
        ticks in proptest::collection::vec((wild::observation(), mode()), 1..8),
        seed: u64,
        std in 0.1..10.0f32,
    ) {
        let policy = opinionated(std).with_exploration(0.1);
        let mut rng = StdRng::seed_from_u64(seed);
        let mut memory = Memory::default();
        for (observation, mode) in &ticks {
            let (decision, next) = decide(observation, &memory, &policy, &GuardConfig::default(), *mode, &mut rng);
            check(observation, &decision)?;
            memory = next;
        }
    }

    #[test]
    fn the_same_inputs_and_seed_give_the_same_bits(
        ticks in proptest::collection::vec(wild::observation(), 1..5),
        seed: u64,
    ) {
        let policy = opinionated(3.0).with_exploration(0.2);
        let run = || {
            let mut rng = StdRng::seed_from_u64(seed);
            let mut memory = Memory::default();
            let mut bits = Vec::new();
            for observation in &ticks {
                let (decision, next) =
                    decide(observation, &memory, &policy, &GuardConfig::default(), Mode::Active, &mut rng);
                bits.extend(decision.applied.iter().chain(&decision.proposed).map(|w| w.to_bits()));
                bits.push(decision.log_probability.unwrap_or(0.0).to_bits());
                memory = next;
            }
            bits
        };
        prop_assert_eq!(run(), run());
    }

    #[test]
    fn the_forward_pass_is_that_of_the_network_that_is_trained(
        count in 1..40usize,
        numbers in proptest::collection::vec(-3.0..3.0f32, 40 * FEATURES.len() + CONTEXT.len()),
    ) {
        let checkpoint = opinionated_checkpoint(1.0);
        let shape = checkpoint.shape();
        let (context, rest) = numbers.split_at(CONTEXT.len());
        let rows = &rest[..count * FEATURES.len()];
        let tensor = |numbers: &[f32], dims: &[usize]| Tensor::from_slice(numbers, dims, &Device::Cpu).unwrap();
        let (slow, slow_rule) = checkpoint
            .network()
            .unwrap()
            .forward(&tensor(rows, &[count, FEATURES.len()]), &tensor(context, &[CONTEXT.len()]))
            .unwrap();
        let rows = Array2::from_shape_vec((count, FEATURES.len()), rows.to_vec()).unwrap();
        let fast = Inference::new(&shape, |name| &checkpoint.tensors()[name]).unwrap();
        let (fast, fast_rule) = fast.forward(&rows, ArrayView1::from(context)).unwrap();
        let near = |(fast, slow): (&f64, f32)| (*fast as f32 - slow).abs() < 1e-4;
        prop_assert!(fast.iter().zip(slow.to_vec1::<f32>().unwrap()).all(near));
        prop_assert!(fast_rule.iter().zip(slow_rule.to_vec1::<f32>().unwrap()).all(near));
    }

    #[test]
    fn features_are_finite_and_within_their_ranges(observation in wild::observation()) {
        let features = Features::of(&observation, &Memory::default());
        prop_assert_eq!(features.endpoints.dim(), (observation.endpoints.len(), FEATURES.len()));
        for row in features.endpoints.rows() {
            for (value, feature) in row.iter().zip(FEATURES) {
                prop_assert!((feature.low..=feature.high).contains(value), "{} is {}", feature.name, value);
            }
        }
        for (value, feature) in features.context.iter().zip(CONTEXT) {
            prop_assert!((feature.low..=feature.high).contains(value), "{} is {}", feature.name, value);
        }
    }

    #[test]
    fn reordering_endpoints_reorders_features_and_proposals(observation in wild::observation()) {
        let mut reversed = observation.clone();
        reversed.endpoints.reverse();
        let features = |observation| Features::of(observation, &Memory::default());
        let (mut one, other) = (features(&observation), features(&reversed));
        one.endpoints.invert_axis(Axis(0));
        let near = |a: f32, b: f32| (a - b).abs() < 1e-3;
        prop_assert!(one.endpoints.iter().zip(&other.endpoints).all(|(&a, &b)| near(a, b)));
        let policy = opinionated(3.0);
        let propose = |features| policy.propose(features, &mut StdRng::seed_from_u64(0)).unwrap();
        let (one, other) = (propose(&one), propose(&other));
        prop_assert!(one.log_weights.iter().zip(&other.log_weights).all(|(&a, &b)| near(a as f32, b as f32)));
    }
}

#[test]
fn a_policy_that_knows_little_is_replaced_within_two_ticks() {
    let mut world = support::World::new(&[10.0, 20.0, 40.0], 0.7, support::Metrics::Busy, 1);
    world.policy = opinionated(0.01);
    world.tick();
    let decision = world.tick();
    let action =
        decision.guard.iter().find(|action| action.reason == Reason::UnfamiliarInput && action.endpoint.is_none());
    let detail = &action.expect("the policy is put aside").detail;
    assert!(detail.contains("` is ") && detail.contains(", training saw "), "{detail}");
    let near = decision.applied.iter().zip(&decision.baseline).all(|(a, b)| (a / b).ln().abs() < 0.6);
    assert!(near, "{:?} against {:?}", decision.applied, decision.baseline);
}

#[test]
fn a_feature_that_never_varied_in_training_is_neither_shown_nor_unfamiliar() {
    let mut world = support::World::new(&[10.0, 20.0, 40.0], 0.7, support::Metrics::Busy, 1);
    let checkpoint = opinionated_checkpoint(0.01);
    let mut manifest = checkpoint.manifest().clone();
    manifest.features.iter_mut().chain(&mut manifest.context).for_each(|feature| feature.seen = None);
    world.policy = Policy::new(&Checkpoint::new(manifest, checkpoint.tensors().clone()).unwrap()).unwrap();
    let decision = world.ticks(5);
    assert!(decision.guard.iter().all(|action| action.reason != Reason::UnfamiliarInput), "{:?}", decision.guard);
    let residual: Vec<f64> = decision.proposed.iter().zip(&decision.baseline).map(|(a, b)| (a / b).ln()).collect();
    assert!(residual.iter().all(|r| (r - residual[0]).abs() < 1e-6), "all endpoints look alike to it: {residual:?}");
}

#[test]
fn a_familiar_policy_is_applied_and_its_noise_has_a_known_density() {
    let mut world = support::World::new(&[10.0, 20.0, 40.0], 0.7, support::Metrics::Busy, 1);
    world.policy = opinionated(5.0).with_exploration(0.1);
    let decision = world.ticks(30).clone();
    assert_ne!(decision.proposed, decision.baseline);
    assert!(decision.guard.iter().all(|action| action.reason == Reason::StepLimit), "{:?}", decision.guard);
    // Three standard normals at 0.1: at most 3 * ln(1 / (0.1 * sqrt(2 pi))).
    let density = decision.log_probability.unwrap();
    assert!(density < 3.0 * 1.384 && density > -30.0, "{density}");
    world.policy = opinionated(5.0);
    assert_eq!(world.tick().log_probability, None);
}

#[test]
fn settings_that_make_no_sense_are_refused_by_name() {
    let check = |change: fn(&mut GuardSettings), expected: &str| {
        let mut settings = GuardSettings::default();
        change(&mut settings);
        assert_eq!(GuardConfig::new(settings).unwrap_err().to_string(), expected);
    };
    check(
        |s| s.share_floor = 0.0,
        "guardrails: shareFloor is 0, it must be from 0.001 to 1 (times the mean share of the others)",
    );
    check(|s| s.panic_healthy_min = f64::NAN, "guardrails: panicHealthyMin is NaN, it must be from 0 (off) to 1");
    assert_eq!(GuardConfig::new(GuardSettings::default()).unwrap(), GuardConfig::default());
}

#[test]
fn noise_that_is_held_is_drawn_anew_only_when_its_time_is_over() {
    let mut world = support::World::new(&[10.0, 20.0, 10.0, 40.0], 0.5, support::Metrics::Busy, 5);
    world.policy = Policy::prior_only().with_exploration(0.2).holding_exploration(4);
    let mut densities = Vec::new();
    for _ in 0..12 {
        let decision = world.tick();
        densities.push(decision.log_probability.expect("noise was drawn"));
    }
    for held in densities.chunks(4) {
        assert!(held.iter().all(|density| density == &held[0]), "{densities:?}");
    }
    assert!(densities[0] != densities[4] && densities[4] != densities[8], "{densities:?}");
}
