//! The decision loop in a closed world: estimates are right, calm, quick, and not fooled.

mod support;

use support::{Follows, Metrics, World};
use trimtab_model::Policy;

const SPEEDS: [f64; 12] = [10.0, 10.0, 10.0, 10.0, 20.0, 20.0, 20.0, 20.0, 40.0, 40.0, 40.0, 40.0];

/// Factors by which applied shares are off their pods' parts of the capacity over so many ticks: the 99th percentile,
/// and the largest.
fn off_over(world: &mut World, ticks: usize) -> (f64, f64) {
    let total: f64 = world.pods.iter().map(|pod| pod.speed * pod.slots as f64).sum();
    let mut off = Vec::new();
    for _ in 0..ticks {
        let shares = world.tick().applied.clone();
        off.extend(world.pods.iter().zip(shares).map(|(pod, share)| {
            let factor = share / (pod.speed * pod.slots as f64 / total);
            factor.max(1.0 / factor)
        }));
    }
    off.sort_by(f64::total_cmp);
    (off[off.len() * 99 / 100], off[off.len() - 1])
}

#[test]
fn shares_settle_on_capacity_and_stay_there_at_any_load() {
    for metrics in [Metrics::Busy, Metrics::InFlight] {
        for load in [0.3, 0.6, 0.85, 0.95] {
            let mut world = World::new(&SPEEDS, load, metrics, 1);
            world.ticks(40);
            let (usual, worst) = off_over(&mut world, 200);
            assert!(usual < 1.5 && worst < 2.5, "load {load}: off by x{usual:.2}, at worst x{worst:.2}");
        }
    }
}

/// Factors by which learned costs are off what each pod takes, over 200 ticks after a minute: the 99th percentile, and the largest.
fn costs_off(world: &mut World, mut each: impl FnMut(&[f64])) -> (f64, f64) {
    world.follows = Follows::Decided;
    world.ticks(120);
    let mut off = Vec::new();
    for _ in 0..200 {
        world.tick();
        each(&world.factors);
        let logs: Vec<f64> = world.factors.iter().zip(SPEEDS).map(|(factor, speed)| (factor * speed).ln()).collect();
        let mean = logs.iter().sum::<f64>() / logs.len() as f64;
        off.extend(logs.iter().map(|log| (log - mean).abs().exp()));
    }
    off.sort_by(f64::total_cmp);
    (off[off.len() * 99 / 100], off[off.len() - 1])
}

#[test]
fn costs_settle_on_speeds_and_stay_there_under_the_rule_that_is_decided() {
    for load in [0.6, 0.85, 0.95] {
        let mut world = World::new(&SPEEDS, load, Metrics::Busy, 1);
        let (usual, worst) = costs_off(&mut world, |_| {});
        assert!(usual < 1.3 && worst < 1.4, "load {load}: off by x{usual:.2}, at worst x{worst:.2}");
    }
}

#[test]
fn pods_that_get_nothing_at_low_load_are_not_thought_faster_than_those_that_work() {
    // Three of ten slots are busy, all of the fast: of the slow pods little is known, and less and less.
    let mut world = World::new(&SPEEDS, 0.3, Metrics::Busy, 1);
    costs_off(&mut world, |factors| {
        let slowest_of_fast = factors[8..].iter().copied().fold(0.0, f64::max);
        let fastest_of_slow = factors[..4].iter().copied().fold(f64::INFINITY, f64::min);
        assert!(fastest_of_slow > 1.2 * slowest_of_fast, "{factors:?}");
    });
}

#[test]
fn reports_of_the_proxies_alone_are_enough_for_the_order() {
    for load in [0.5, 0.85] {
        let mut world = World::new(&SPEEDS, load, Metrics::None, 2);
        world.ticks(60);
        let (usual, worst) = off_over(&mut world, 200);
        assert!(usual < 2.0 && worst < 3.0, "load {load}: off by x{usual:.2}, at worst x{worst:.2}");
    }
}

#[test]
fn a_noisy_neighbour_is_seen_within_two_ticks() {
    let mut delays = Vec::new();
    for seed in 0..20 {
        let mut world = World::new(&SPEEDS, 0.85, Metrics::Busy, seed);
        world.ticks(60);
        let before = world.tick().baseline[8];
        world.pods[8].speed *= 0.25;
        let delay = (1..20).find(|_| world.tick().baseline[8] < 0.6 * before).unwrap_or(20);
        delays.push(delay);
    }
    delays.sort_unstable();
    assert!(delays[10] <= 2 && delays[19] <= 4, "ticks until seen: {delays:?}");
}

#[test]
fn a_pod_that_fails_fast_is_not_taken_for_a_fast_one() {
    let mut world = World::new(&SPEEDS, 0.8, Metrics::Busy, 3);
    world.ticks(40);
    world.pods[0].failing = 0.9;
    let shares = world.ticks(40).baseline.clone();
    assert!(shares[0] < 2.0 * shares[1], "{shares:?}");
}

#[test]
fn an_idle_pod_keeps_its_estimate_and_drifts_slowly_to_the_median() {
    let mut world = World::new(&SPEEDS, 0.8, Metrics::Busy, 4);
    world.ticks(40);
    let ratio = |world: &mut World| {
        let baseline = &world.tick().baseline;
        baseline[11] / baseline[4]
    };
    let busy = ratio(&mut world);
    world.arrivals_rps = 1e-9;
    world.ticks(20);
    let after_10_s = ratio(&mut world);
    world.ticks(2000);
    let after_1000_s = ratio(&mut world);
    assert!((after_10_s / busy - 1.0).abs() < 0.1, "{busy} {after_10_s}");
    assert!(after_1000_s < 1.1, "{after_1000_s}");
}

#[test]
fn the_shipped_policy_is_the_prior() {
    let run = |policy: Policy| {
        let mut world = World::new(&SPEEDS, 0.8, Metrics::Busy, 5);
        world.policy = policy;
        world.ticks(30).clone()
    };
    let (prior, shipped) = (run(Policy::prior_only()), run(Policy::shipped().unwrap()));
    assert_eq!(prior.applied, shipped.applied);
    assert_eq!(prior.parameters, shipped.parameters);
    assert_eq!(shipped.guard, vec![], "nothing to object to in a steady world");
}
