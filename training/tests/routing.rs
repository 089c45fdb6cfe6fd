//! The code that ships, on the shapes that the demo and the comparison benchmark play: what must hold there holds here first.
#![expect(clippy::unwrap_used, reason = "a test that cannot run its scenario has failed")]

use trimtab_proxy::config::Algorithm;
use trimtab_training::{
    contest::geometric_mean,
    fleet::{Fleet, FleetOptions},
    scenario::{Change, Event, Scenario, rotating_slow_pods, unequal_pods},
    simulator::{Summary, endpoint::Gray, simulate, time::SECOND},
};

const TRIMTAB: FleetOptions = FleetOptions::TRIMTAB;
const LEAST_REQUEST: FleetOptions = FleetOptions::baseline(Algorithm::LeastRequest);
const ROUND_ROBIN: FleetOptions = FleetOptions::baseline(Algorithm::RoundRobin);

/// Geometric mean over three seeds of a figure of `ours` divided by that of `theirs`.
fn check(
    make: impl Fn(u64) -> Scenario,
    [ours, theirs]: [FleetOptions; 2],
    figure: impl Fn(&Summary) -> f64,
    allowed: std::ops::RangeInclusive<f64>,
) {
    let ratio = |seed| {
        let scenario = make(seed).lasting(20);
        figure(&run(&scenario, &ours)) / figure(&run(&scenario, &theirs))
    };
    let mean = geometric_mean((1..=3).map(ratio)).unwrap();
    assert!(allowed.contains(&mean), "ratio {mean:.3} over seeds 1..=3, allowed {allowed:?}");
}

fn run(scenario: &Scenario, options: &FleetOptions) -> Summary {
    simulate(scenario, &mut Fleet::new(scenario, options)).unwrap()
}

fn p99(summary: &Summary) -> f64 {
    summary.latency_ms_p99
}

#[test]
fn with_unequal_pods_and_one_proxy_the_tail_is_well_below_least_request() {
    for load in [0.7, 0.8, 0.85] {
        check(|seed| unequal_pods(seed, 1, load), [TRIMTAB, LEAST_REQUEST], p99, 0.0..=0.85);
    }
    check(|seed| unequal_pods(seed, 1, 0.8), [TRIMTAB, ROUND_ROBIN], p99, 0.0..=0.2);
}

#[test]
fn with_slow_pods_that_change_and_three_proxies_the_tail_is_well_below_least_request() {
    check(|seed| rotating_slow_pods(seed, 3, 0.75), [TRIMTAB, LEAST_REQUEST], p99, 0.0..=0.7);
}

#[test]
fn in_a_burst_shedding_keeps_goodput() {
    let burst = |seed| {
        let mut scenario = unequal_pods(seed, 1, 0.8);
        let at_ns = scenario.measured_ns.start;
        scenario.timeline.push(Event { at_ns, change: Change::Load { factor: 1.2 / 0.8 } });
        scenario
    };
    let goodput = |summary: &Summary| summary.goodput_rps;
    check(burst, [TRIMTAB, LEAST_REQUEST], goodput, 1.5..=100.0);
    let shed_nothing = FleetOptions { admission: false, ..FleetOptions::TRIMTAB };
    check(burst, [TRIMTAB, shed_nothing], goodput, 1.5..=100.0);
}

#[test]
fn a_pod_that_fails_fast_costs_few_errors_and_others_nothing() {
    for seed in 1..=3 {
        // About 80 requests a second and pod.
        let mut scenario = unequal_pods(seed, 1, 0.8).lasting(20);
        scenario.rate_rps = 12.0 * 80.0_f64.min(scenario.rate_rps / 12.0);
        let gray = Gray { share: 0.9, fast_ns: Some(1_000_000) };
        let at_ns = scenario.measured_ns.start + SECOND;
        scenario.timeline.push(Event { at_ns, change: Change::Gray { endpoint: 2, gray } });
        let summary = run(&scenario, &TRIMTAB);
        assert!(summary.error_share <= 0.005, "seed {seed}: {:.3} % errors", 100.0 * summary.error_share);
        assert_eq!(summary.shed_share, 0.0, "seed {seed}");
    }
}

#[test]
fn a_run_of_the_whole_loop_replays_bit_for_bit() {
    let scenario = rotating_slow_pods(7, 3, 0.75).lasting(5);
    assert_eq!(run(&scenario, &TRIMTAB), run(&scenario, &TRIMTAB));
    let other = Scenario { seed: 8, ..scenario.clone() };
    assert_ne!(run(&scenario, &TRIMTAB).fingerprint, run(&other, &TRIMTAB).fingerprint);
}
