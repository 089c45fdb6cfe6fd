//! Simulated requests per second on one core. `cargo bench --workspace --bench simulate`; items/s is requests/s.

use divan::{Bencher, counter::ItemsCount};
use trimtab_training::{
    bounds::{Blind, ShortestExpectedDelay},
    fleet::{Fleet, FleetOptions},
    scenario::{Family, Scenario, Setting},
    simulator::simulate,
};

fn main() {
    divan::main();
}

fn scenario() -> Scenario {
    Family::Heterogeneous.scenario(&Setting { load: Some(0.8), ..Setting::new(1, 1, 32) })
}

fn requests(scenario: &Scenario) -> ItemsCount {
    ItemsCount::new((scenario.rate_rps * scenario.measured_ns.end as f64 / 1e9) as u64)
}

/// A rule that costs nothing: the event loop by itself.
#[divan::bench(sample_count = 5, sample_size = 1)]
fn blind_32_endpoints(bencher: Bencher<'_, '_>) {
    let scenario = scenario();
    bencher.counter(requests(&scenario)).bench(|| simulate(&scenario, &mut Blind::new(1)));
}

/// A full scan over 32 endpoints.
#[divan::bench(sample_count = 5, sample_size = 1)]
fn shortest_expected_delay_32_endpoints(bencher: Bencher<'_, '_>) {
    let scenario = scenario();
    bencher.counter(requests(&scenario)).bench(|| simulate(&scenario, &mut ShortestExpectedDelay::new(&scenario)));
}

/// Trimtab's rule with weights, outlier detection, admission control and `decide` twice a second.
#[divan::bench(sample_count = 5, sample_size = 1)]
fn trimtab_32_endpoints(bencher: Bencher<'_, '_>) {
    let scenario = scenario();
    bencher
        .counter(requests(&scenario))
        .bench(|| simulate(&scenario, &mut Fleet::new(&scenario, &FleetOptions::TRIMTAB)));
}
