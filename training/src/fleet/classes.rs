//! Classes of requests in a simulated run: what the controller would find out about them, as class tables.
//!
//! Finding classes by paths and promoting them by their share of the work is the proxies' and the controller's business and needs requests with
//! paths; here every class of the scenario is found, up to as many as a table holds.

use trimtab_model::classes::ClassMemory;
use trimtab_proxy::{
    config::{ClassCost, ClassKey, ClassTable},
    load::CLASSES_MAX,
};

use super::proxy::BACKEND;
use crate::{scenario::Scenario, simulator::time::MILLISECOND};

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
