//! What holds for every rival: names, readiness, replays; and one scenario each in which it is known to do well.
#![expect(clippy::unwrap_used, reason = "a test that cannot run its scenario has failed")]

use std::collections::HashSet;

use trimtab_proxy::config::Algorithm;
use trimtab_training::{
    contest::{Contest, geometric_mean},
    fleet::{Fleet, FleetOptions},
    rivals::{Rival, all, by_name, limiter::Limiter},
    scenario::{Change, Event, Family, Scenario, Setting, unequal_pods},
    simulator::{
        Router, Routing, Summary,
        endpoint::{Discipline, Endpoint, EndpointSpec, Gray},
        router::{Arrival, Departure},
        simulate,
        time::{MILLISECOND, SECOND},
    },
};

/// Passes everything on, and checks that no request goes to what its proxy knows not to be ready.
struct Checked {
    inner: Box<dyn Router>,
    /// When each endpoint was told to be not ready, if it is not.
    not_ready_since_ns: Vec<Option<u64>>,
    delay_ns: u64,
}

impl Router for Checked {
    fn route(&mut self, arrival: &Arrival, endpoints: &[Endpoint]) -> Routing {
        let routing = self.inner.route(arrival, endpoints);
        if let Routing::To(endpoint) = routing {
            let since_ns = self.not_ready_since_ns[endpoint as usize];
            let known = since_ns.is_some_and(|since_ns| arrival.now_ns > since_ns + self.delay_ns);
            assert!(!known, "routed at {} to {endpoint}, not ready since {since_ns:?}", arrival.now_ns);
            assert_ne!(Some(endpoint), arrival.tried, "routed again to what could not be reached");
        }
        routing
    }

    fn ended(&mut self, departure: &Departure) {
        self.inner.ended(departure);
    }

    fn readiness(&mut self, now_ns: u64, endpoint: u32, ready: bool) {
        self.not_ready_since_ns[endpoint as usize] = (!ready).then_some(now_ns);
        self.inner.readiness(now_ns, endpoint, ready);
    }

    fn control_at_ns(&self) -> u64 {
        self.inner.control_at_ns()
    }

    fn control(&mut self, now_ns: u64, endpoints: &mut [Endpoint]) {
        self.inner.control(now_ns, endpoints);
    }
}

fn named(name: &str) -> Rival {
    by_name(name).unwrap()
}

/// Geometric mean over three seeds of the ratio of two policies' 99th percentiles.
fn ratio(ours: &dyn Contest, theirs: &dyn Contest, make: impl Fn(u64) -> Scenario) -> f64 {
    let ratio = |seed| {
        let scenario = make(seed).lasting(12);
        let p99 = |one: &dyn Contest| one.run(&scenario).unwrap().latency_ms_p99;
        p99(ours) / p99(theirs)
    };
    geometric_mean((1..=3).map(ratio)).unwrap()
}

/// `ours` has at most `allowed` times the 99th percentile of `theirs`.
fn check(ours: &str, theirs: &str, allowed: f64, make: impl Fn(u64) -> Scenario) {
    let ratio = ratio(&named(ours), &named(theirs), make);
    assert!(ratio <= allowed, "{ours} / {theirs}: {ratio:.3}, allowed {allowed}");
}

fn family(family: Family, proxies: usize) -> impl Fn(u64) -> Scenario {
    move |seed| family.scenario(&Setting::new(seed, proxies, 20))
}

/// Equal single-slot pods of which a third has a third of its speed for good, and nobody says so.
fn silently_slow(seed: u64) -> Scenario {
    let mut scenario = unequal_pods(seed, 2, 0.8);
    for spec in &mut scenario.endpoints {
        *spec = EndpointSpec { discipline: Discipline::Fcfs, slots: 4, room: 500, speed: 1.0 };
    }
    let slow = |endpoint: u32| Event { at_ns: 0, change: Change::Factor { endpoint, factor: 1.0 / 3.0 } };
    scenario.timeline = (0..4).map(slow).collect();
    // Two thirds and a third of a third are left.
    scenario.rate_rps = 0.7 * (8.0 + 4.0 / 3.0) * 4.0 * 1e9 / scenario.classes[0].mean_ns;
    scenario
}

#[test]
fn names_are_unique_and_are_found_again_with_their_suffixes() {
    let all = all();
    assert_eq!(all.iter().map(|rival| rival.name().to_owned()).collect::<HashSet<_>>().len(), all.len());
    for rival in &all {
        assert_eq!(by_name(rival.name()).as_ref(), Some(rival));
        for (limiter, _) in Limiter::names() {
            let name = format!("{}+{limiter}+ejection", rival.name());
            assert_eq!(by_name(&name).unwrap().name(), name);
        }
    }
    for unknown in ["magic", "random+magic", "random+aimd+vegas", "random+ejection+ejection", "+aimd", ""] {
        assert_eq!(by_name(unknown), None, "{unknown:?}");
    }
}

#[test]
fn nobody_routes_to_what_is_not_ready_while_something_is() {
    for rival in all().into_iter().chain([named("least-request+ejection"), named("c3+aimd+ejection")]) {
        for (family, seed) in [(Family::Churn, 1), (Family::Churn, 2), (Family::Gray, 3)] {
            let scenario = family.scenario(&Setting::new(seed, 3, 9)).lasting(12);
            let delay_ns = scenario.telemetry.control_delay_ns;
            let not_ready_since_ns = vec![None; scenario.endpoints.len()];
            let mut router = Checked { inner: rival.router(&scenario), not_ready_since_ns, delay_ns };
            let summary = simulate(&scenario, &mut router).unwrap();
            assert_eq!(summary.unroutable_share, 0.0, "{} {family:?} {seed}", rival.name());
            assert_eq!(summary.unfinished, 0, "{} {family:?} {seed}", rival.name());
        }
    }
}

#[test]
fn every_rival_replays_bit_for_bit() {
    let scenario = Family::Interference.scenario(&Setting::new(5, 4, 9)).lasting(3);
    for rival in all() {
        assert_eq!(rival.run(&scenario).unwrap(), rival.run(&scenario).unwrap(), "{}", rival.name());
    }
}

#[test]
fn what_is_the_same_as_a_production_rule_does_as_well() {
    let pairs = [
        ("c3-local-default", Algorithm::C3Local),
        ("least-request", Algorithm::LeastRequest),
        ("least-request-p2c", Algorithm::LeastRequestP2c),
        ("peak-ewma-default", Algorithm::PeakEwma),
        ("round-robin", Algorithm::RoundRobin),
    ];
    for (name, algorithm) in pairs {
        let production = FleetOptions::baseline(algorithm);
        let ratio = |seed| {
            let scenario = unequal_pods(seed, 4, 0.8).lasting(20);
            let p99 = |summary: Summary| summary.latency_ms_p99;
            p99(named(name).run(&scenario).unwrap())
                / p99(simulate(&scenario, &mut Fleet::new(&scenario, &production)).unwrap())
        };
        let ratio = geometric_mean((1..=3).map(ratio)).unwrap();
        assert!((0.93..1.07).contains(&ratio), "{name}: {ratio:.3}");
    }
}

#[test]
fn true_capacities_make_round_robin_bearable_where_pods_are_unequal() {
    check("smooth-wrr", "round-robin", 0.3, |seed| unequal_pods(seed, 1, 0.8));
    check("weighted-least-request-default", "smooth-wrr", 0.95, |seed| unequal_pods(seed, 1, 0.8));
}

#[test]
fn least_request_beats_chance_where_pods_are_equal() {
    check("least-request", "least-request-p2c", 1.0, family(Family::Homogeneous, 1));
    check("least-request-p2c", "random", 0.8, family(Family::Homogeneous, 1));
}

#[test]
fn latency_finds_slow_pods() {
    check("peak-ewma", "least-request-p2c", 0.9, silently_slow);
    check("peak-ewma-default", "random", 0.5, silently_slow);
    check("c3-local", "least-request", 0.9, silently_slow);
    check("latency-inverse", "round-robin", 0.7, silently_slow);
}

#[test]
fn feedback_of_queues_and_probes_pays_with_many_proxies() {
    let unequal = |seed| unequal_pods(seed, 16, 0.8);
    check("c3", "least-request", 0.8, unequal);
    check("prequal", "least-request", 0.9, unequal);
    check("prequal-default", "random", 0.3, unequal);
}

#[test]
fn load_reports_balance_utilization_where_pods_are_unequal() {
    for name in ["orca", "pid"] {
        check(name, "round-robin", 0.3, |seed| unequal_pods(seed, 2, 0.7));
    }
}

#[test]
fn the_weights_of_pid_and_orca_even_out_utilization() {
    for name in ["orca", "orca-default", "pid", "pid-default"] {
        // Speeds 1 and 4: a fifth of the requests belongs to the slow ones.
        let mut scenario = unequal_pods(1, 1, 0.6).lasting(12);
        for (number, spec) in scenario.endpoints.iter_mut().enumerate() {
            let speed = if number % 2 == 0 { 1.0 } else { 4.0 };
            *spec = EndpointSpec { discipline: Discipline::Fcfs, slots: 4, room: 500, speed };
        }
        scenario.rate_rps = 0.6 * scenario.capacity_rps();
        // Enough time for a blackout of ten seconds and slow gains.
        scenario.measured_ns = 30 * SECOND..50 * SECOND;
        let summary = named(name).run(&scenario).unwrap();
        let slow: u64 = summary.per_endpoint.iter().step_by(2).sum();
        let share = slow as f64 / summary.arrived as f64;
        assert!((0.17..0.24).contains(&share), "{name}: {share:.3} of the requests went to a fifth of the capacity");
    }
}

#[test]
fn limiters_keep_goodput_in_overload() {
    let burst = |seed| Family::Burst.scenario(&Setting::new(seed, 4, 20)).lasting(12);
    let goodput = |name: &str| {
        let shares = (1..=3).map(|seed| named(name).run(&burst(seed)).unwrap().goodput_share);
        shares.sum::<f64>() / 3.0
    };
    let without = goodput("least-request");
    for limiter in ["aimd", "gradient2", "vegas"] {
        let with = goodput(&format!("least-request+{limiter}"));
        assert!(with > without + 0.1, "{limiter}: {with:.3}, without {without:.3}");
    }
    assert!(goodput("least-request+aimd") > 0.7, "{}", goodput("least-request+aimd"));
}

#[test]
fn ejection_keeps_errors_of_failing_pods_few() {
    let mut scenario = unequal_pods(1, 1, 0.7).lasting(12);
    let gray = Gray { share: 0.9, fast_ns: Some(MILLISECOND) };
    let at_ns = scenario.measured_ns.start;
    scenario.timeline.push(Event { at_ns, change: Change::Gray { endpoint: 2, gray } });
    let errors = |name: &str| named(name).run(&scenario).unwrap().error_share;
    assert!(errors("least-request") > 0.1, "a pod that fails fast looks free");
    assert!(errors("least-request+ejection") < 0.01);
}
