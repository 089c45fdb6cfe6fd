//! Slots are learned from how long sampled requests take.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use trimtab_model::classes::Cost;
use trimtab_model::slots::{Sample, SlotMemory};

/// As it is learned: the geometric mean of exponential work of 10 ms.
const COST: Cost = Cost { class_ms: 5.615, mean_ms: 5.615 };

/// What a request with exponential work of 10 ms takes that finds so many others on so many slots, first come, first served: it waits for
/// departures, then is served.
fn latency_ms(in_flight: u32, slots: u32, rng: &mut SmallRng) -> f64 {
    let mut work = || -10.0 * rng.random::<f64>().max(1e-9).ln();
    let departures = (in_flight + 1).saturating_sub(slots);
    (0..departures).map(|_| work() / f64::from(slots)).sum::<f64>() + work()
}

/// Requests at endpoints with so many slots that find up to `inside_max` others, for so many seconds, each with exponential work.
fn learned(slots: &[u32], inside_max: u32, seconds: u32, seed: u64) -> SlotMemory {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut memory = SlotMemory::default();
    let keys = || 0..slots.len() as u64;
    for _ in 0..seconds {
        for (endpoint, slots) in keys().zip(slots) {
            for _ in 0..8 {
                let in_flight = rng.random_range(0..=inside_max);
                let latency_ms = latency_ms(in_flight, *slots, &mut rng);
                memory.add(Sample { endpoint, class: 0, in_flight: in_flight.into(), latency_ms });
            }
        }
        memory.pass(1.0, keys(), |_, _| Some(COST));
    }
    memory
}

/// What was learned is within a quarter of what is true.
fn check(slots: &[u32], inside_max: u32, seconds: u32) {
    for seed in 0..5 {
        let memory = learned(slots, inside_max, seconds, seed);
        for (endpoint, slots) in (0..).zip(slots) {
            let found = memory.slots(endpoint).unwrap_or_else(|| panic!("nothing of {endpoint}, seed {seed}"));
            let off = (found / f64::from(*slots)).ln().abs();
            assert!(off < 0.35, "endpoint {endpoint} has {slots}, found {found}, seed {seed}");
        }
    }
}

#[test]
fn slots_of_pods_that_are_alike_are_found_within_a_minute() {
    check(&[1; 8], 4, 20);
    check(&[4; 16], 8, 30);
    check(&[12; 16], 20, 60);
}

#[test]
fn slots_of_pods_that_differ_are_found_in_minutes() {
    check(&[1, 2, 4, 8, 1, 2, 4, 8], 14, 240);
}

#[test]
fn nothing_is_said_while_nobody_had_to_wait() {
    let memory = learned(&[8; 16], 2, 300, 1);
    assert_eq!(memory.slots(3), None);
}

#[test]
fn a_pod_that_is_new_is_taken_for_as_usual() {
    let memory = learned(&[4; 16], 8, 60, 1);
    assert_eq!(memory.slots(99), Some(4.0));
}

#[test]
fn a_template_with_fewer_slots_is_noticed() {
    let mut memory = learned(&[8; 16], 14, 60, 1);
    assert!((7.0..=9.0).contains(&memory.slots(0).unwrap()), "{:?}", memory.slots(0));
    let mut rng = SmallRng::seed_from_u64(2);
    for _ in 0..120 {
        for endpoint in 100..116 {
            for _ in 0..8 {
                let in_flight = rng.random_range(0..=14);
                let latency_ms = latency_ms(in_flight, 2, &mut rng);
                memory.add(Sample { endpoint, class: 0, in_flight: in_flight.into(), latency_ms });
            }
        }
        memory.pass(1.0, 100..116, |_, _| Some(COST));
    }
    assert_eq!(memory.slots(105), Some(2.0));
}

#[test]
fn numbers_that_cannot_be_change_nothing() {
    let mut memory = SlotMemory::default();
    for (in_flight, latency_ms) in [(f64::NAN, 1.0), (-1.0, 1.0), (1.0, 0.0), (1.0, f64::INFINITY)] {
        memory.add(Sample { endpoint: 1, class: 0, in_flight, latency_ms });
    }
    let nonsense = Cost { class_ms: 0.0, mean_ms: f64::NAN };
    memory.add(Sample { endpoint: 1, class: 0, in_flight: 1.0, latency_ms: 1.0 });
    for _ in 0..20 {
        memory.pass(1.0, 0..3, |_, _| Some(nonsense));
    }
    assert_eq!(memory.slots(1), None);
}

#[test]
fn endpoints_in_thousands_are_evaluated_a_part_a_tick() {
    let slots = vec![3; 800];
    let memory = learned(&slots, 6, 30, 1);
    assert_eq!(memory.slots(700), Some(3.0));
}
