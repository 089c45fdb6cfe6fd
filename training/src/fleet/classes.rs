//! Classes of requests in a simulated run: what the controller would find out about them, as class tables.
//!
//! Finding classes by paths and promoting them by their share of the work is the proxies' and the controller's business and needs requests with
//! paths; here every class of the scenario is found, up to as many as a table holds.

use rand::rngs::SmallRng;
use trimtab_model::classes::{ClassMemory, Seen};
use trimtab_proxy::{
    config::{ClassCost, ClassKey, ClassTable},
    load::CLASSES_MAX,
};

use super::proxy::BACKEND;
use crate::{
    scenario::Scenario,
    simulator::{
        random::{Purpose, stream},
        time::MILLISECOND,
        work::Class,
    },
};

/// What a controller has seen that has been running for a while: so many blocks of so long. It forgets within a minute.
const SEEN_BLOCKS: u32 = 20;
const SEEN_BLOCK_S: f64 = 3.0;
/// Draws that a class's geometric mean is taken over.
const DRAWS: u32 = 2_000;

/// Identity of a scenario's class.
pub(super) const fn key(class: u8) -> ClassKey {
    ClassKey(class as u64 + 1)
}

/// One that tells the scenario's classes apart.
pub(super) fn memory(scenario: &Scenario) -> ClassMemory {
    let mut memory = ClassMemory::default();
    let keys: Vec<u64> = (0..found(scenario)).map(|class| key(class as u8).0).collect();
    memory.choose(&keys);
    memory
}

/// The same after a minute of the scenario in which nothing was wrong, for a run that goes on from there.
pub(super) fn experienced(scenario: &Scenario) -> ClassMemory {
    let mut memory = memory(scenario);
    let endpoints: Vec<u64> = (0..scenario.endpoints.len() as u64).collect();
    let mut rng = stream(scenario.seed, Purpose::Learning, 0xc1a5);
    let typical_ms: Vec<f64> = scenario.classes.iter().map(|class| typical_ms(class, &mut rng)).collect();
    for _ in 0..SEEN_BLOCKS {
        for (endpoint, spec) in (0u32..).zip(&scenario.endpoints) {
            for (class, of) in (0u8..).zip(&scenario.classes) {
                let answers = (SEEN_BLOCK_S * scenario.rate_rps * of.share / endpoints.len() as f64).round().max(1.0);
                let work_ms = typical_ms[usize::from(class)] * scenario.factor(class, endpoint) / spec.speed;
                let way_ms = 2.0 * scenario.one_way_ns as f64 / MILLISECOND as f64;
                let cost_ms = (work_ms + way_ms) as f32;
                let seen = Seen { answers: answers as u32, unqueued: answers as u32, cost_ms };
                memory.add(endpoint.into(), key(class).0, seen);
            }
        }
        memory.pass(SEEN_BLOCK_S, &endpoints);
    }
    memory
}

/// Geometric mean of a class's work at speed 1, in milliseconds.
fn typical_ms(class: &Class, rng: &mut SmallRng) -> f64 {
    let logs = (0..DRAWS).map(|_| class.distribution.sample(rng).max(1e-6).ln());
    class.mean_ns / MILLISECOND as f64 * (logs.sum::<f64>() / f64::from(DRAWS)).exp()
}

fn found(scenario: &Scenario) -> usize {
    // A single class needs no telling apart.
    if scenario.classes.len() > 1 { scenario.classes.len().min(CLASSES_MAX - 1) } else { 0 }
}

/// What was learned, if anything.
pub(super) fn learned(
    scenario: &Scenario,
    memory: &mut ClassMemory,
    endpoints: &[u64],
    slots: Vec<f32>,
    generation: u64,
) -> Option<ClassTable> {
    let costs = memory.costs(endpoints)?;
    let mean_ms = geometric_mean(&costs.cost_ms, &costs.share);
    let cost = |class: usize| costs.cost_ms[class].unwrap_or(mean_ms) as f32;
    Some(ClassTable {
        backend: BACKEND.into(),
        generation,
        classes: (1..=found(scenario)).map(|class| entry(class - 1, cost(class), costs.share[class] as f32)).collect(),
        other_cost_ms: cost(0),
        factors: costs.factors.iter().map(|factor| *factor as f32).collect(),
        slots,
    })
}

fn geometric_mean(cost_ms: &[Option<f64>], share: &[f64]) -> f64 {
    let known = cost_ms.iter().zip(share).filter_map(|(cost, share)| Some(((*cost)?.ln() * share, share)));
    let (sum, weight) = known.fold((0.0, 0.0), |(sum, weight), (log, share)| (sum + log, weight + share));
    if weight > 0.0 { (sum / weight).exp() } else { 1.0 }
}

/// What is true while nothing is wrong with the endpoints.
pub(super) fn truth(scenario: &Scenario, slots: Vec<f32>, generation: u64) -> ClassTable {
    let endpoints = &scenario.endpoints;
    let mean_log = endpoints.iter().map(|spec| spec.speed.ln()).sum::<f64>() / endpoints.len() as f64;
    let mean_speed = mean_log.exp();
    let cost = |class: usize| (scenario.classes[class].mean_ns / MILLISECOND as f64 / mean_speed) as f32;
    let classes = 0..found(scenario);
    let factors = |endpoint: usize| {
        let slow = mean_speed / endpoints[endpoint].speed;
        std::iter::once(slow as f32)
            .chain(classes.clone().map(move |class| (slow * scenario.factor(class as u8, endpoint as u32)) as f32))
    };
    ClassTable {
        backend: BACKEND.into(),
        generation,
        classes: classes.clone().map(|class| entry(class, cost(class), scenario.classes[class].share as f32)).collect(),
        other_cost_ms: cost(0),
        factors: (0..endpoints.len()).flat_map(factors).collect(),
        slots,
    }
}

fn entry(class: usize, cost_ms: f32, share: f32) -> ClassCost {
    ClassCost {
        key: key(class as u8),
        number: class as u8 + 1,
        name: format!("class {class}"),
        cost_ms,
        share,
        priority: 0.0,
    }
}
