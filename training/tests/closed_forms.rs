//! The simulator against queueing theory: means within 3 % of the closed forms.
#![expect(clippy::unwrap_used, reason = "a test that cannot run its scenario has failed")]

use trimtab_training::{
    bounds::{Blind, ShortestExpectedDelay},
    scenario::{Scenario, Telemetry},
    simulator::{
        Summary,
        endpoint::{Discipline, EndpointSpec},
        simulate,
        time::SECOND,
        work::{Class, Distribution},
    },
};

const MEAN_MS: f64 = 10.0;

fn scenario(discipline: Discipline, slots: u32, endpoints: usize, load: f64, distribution: Distribution) -> Scenario {
    let spec = EndpointSpec { discipline, slots, room: u32::MAX, speed: 1.0 };
    let mut scenario = Scenario {
        name: "closed form".into(),
        seed: 11,
        shares: vec![0.5, 0.3, 0.2],
        endpoints: vec![spec; endpoints],
        classes: vec![Class { share: 1.0, mean_ns: MEAN_MS * 1e6, distribution }],
        rate_rps: 1.0,
        groups: Vec::new(),
        affinity: Vec::new(),
        lies: Vec::new(),
        timeline: Vec::new(),
        measured_ns: 100 * SECOND..1_600 * SECOND,
        objective_ns: SECOND,
        one_way_ns: 0,
        reports_in_flight: false,
        retries: 0,
        telemetry: Telemetry::default(),
    };
    scenario.rate_rps = load * scenario.capacity_rps();
    scenario
}

fn run(scenario: &Scenario) -> Summary {
    simulate(scenario, &mut Blind::new(scenario.seed)).unwrap()
}

fn close(measured: f64, expected: f64, what: &str) {
    let ratio = measured / expected;
    assert!((0.97..1.03).contains(&ratio), "{what}: measured {measured:.3}, theory {expected:.3}, ratio {ratio:.4}");
}

/// Probability of waiting in M/M/c (Erlang C) at `offered` erlangs.
fn erlang_c(servers: u32, offered: f64) -> f64 {
    let blocking = (1..=servers).fold(1.0, |b, k| offered * b / (f64::from(k) + offered * b));
    blocking / (1.0 - offered / f64::from(servers) * (1.0 - blocking))
}

#[test]
fn one_slot_behaves_as_m_m_1() {
    for load in [0.5, 0.8] {
        let summary = run(&scenario(Discipline::Fcfs, 1, 8, load, Distribution::Exponential));
        let mean = MEAN_MS / (1.0 - load);
        close(summary.latency_ms_mean, mean, "mean");
        // The sojourn time is exponential.
        close(summary.latency_ms_p50, mean * 2.0_f64.ln(), "median");
        close(summary.latency_ms_p99, mean * 100.0_f64.ln(), "p99");
    }
}

#[test]
fn several_slots_behave_as_m_m_c() {
    for (slots, load) in [(2, 0.7), (4, 0.85), (8, 0.9)] {
        let summary = run(&scenario(Discipline::Fcfs, slots, 4, load, Distribution::Exponential));
        let wait = erlang_c(slots, load * f64::from(slots)) * MEAN_MS / (f64::from(slots) * (1.0 - load));
        close(summary.latency_ms_mean, MEAN_MS + wait, "mean");
    }
}

#[test]
fn processor_sharing_has_the_mean_of_m_m_1_whatever_the_distribution() {
    for distribution in [
        Distribution::Exponential,
        Distribution::LogNormal { cv: 1.5 },
        Distribution::Bimodal { heavy_share: 0.1, ratio: 10.0 },
    ] {
        let summary = run(&scenario(Discipline::ProcessorSharing, 1, 8, 0.7, distribution));
        close(summary.latency_ms_mean, MEAN_MS / 0.3, "mean");
    }
}

#[test]
fn one_slot_with_general_service_follows_pollaczek_and_khinchine() {
    let cv = 1.5;
    let load = 0.7;
    let summary = run(&scenario(Discipline::Fcfs, 1, 8, load, Distribution::LogNormal { cv }));
    let wait = load / (1.0 - load) * (1.0 + cv * cv) / 2.0 * MEAN_MS;
    close(summary.latency_ms_mean, MEAN_MS + wait, "mean");
}

#[test]
fn a_full_queue_refuses_as_m_m_1_k_loses() {
    for (load, room) in [(0.9, 5), (1.3, 8)] {
        let mut scenario = scenario(Discipline::Fcfs, 1, 8, load, Distribution::Exponential);
        scenario.endpoints.iter_mut().for_each(|spec| spec.room = room);
        let summary = run(&scenario);
        let power = |exponent: u32| f64::powi(load, exponent as i32);
        let loss = (1.0 - load) * power(room) / (1.0 - power(room + 1));
        close(summary.error_share, loss, "loss");
        // Little's law on those that got in.
        let inside = load / (1.0 - load) - f64::from(room + 1) * power(room + 1) / (1.0 - power(room + 1));
        close(summary.latency_ms_mean, MEAN_MS * inside / (load * (1.0 - loss)), "mean");
    }
}

#[test]
fn without_a_queue_requests_are_lost_as_erlang_b_says() {
    let (slots, load) = (4, 0.7);
    let mut scenario = scenario(Discipline::Fcfs, slots, 4, load, Distribution::LogNormal { cv: 1.0 });
    scenario.endpoints.iter_mut().for_each(|spec| spec.room = slots);
    let offered = load * f64::from(slots);
    let blocking = (1..=slots).fold(1.0, |b, k| offered * b / (f64::from(k) + offered * b));
    // Whatever the distribution of service times.
    close(run(&scenario).error_share, blocking, "loss");
}

#[test]
fn a_group_that_suits_a_class_badly_behaves_as_m_m_c_with_more_work() {
    let (slots, load) = (2, 0.6);
    let mut scenario = scenario(Discipline::Fcfs, slots, 4, load, Distribution::Exponential);
    scenario.groups = vec![0, 1, 1, 0];
    scenario.affinity = vec![1.0, 2.0];
    scenario.rate_rps = load * scenario.capacity_rps();
    let mean = |factor: f64| {
        // Requests are spread evenly; the mean factor is 1.5.
        let load = load * factor / 1.5;
        let wait = erlang_c(slots, load * f64::from(slots)) * factor * MEAN_MS / (f64::from(slots) * (1.0 - load));
        factor * MEAN_MS + wait
    };
    close(run(&scenario).latency_ms_mean, (mean(1.0) + mean(2.0)) / 2.0, "mean");
}

#[test]
fn the_network_delays_both_ways() {
    let mut scenario = scenario(Discipline::Fcfs, 1, 8, 0.5, Distribution::Exponential);
    scenario.one_way_ns = 3_000_000;
    close(run(&scenario).latency_ms_mean, MEAN_MS / 0.5 + 6.0, "mean");
}

#[test]
fn a_seed_replays_bit_for_bit_and_another_does_not() {
    let mut scenario = scenario(Discipline::Fcfs, 2, 8, 0.9, Distribution::Exponential);
    scenario.measured_ns.end = 200 * SECOND;
    let run = |scenario: &Scenario| simulate(scenario, &mut ShortestExpectedDelay::new(scenario)).unwrap();
    let first = run(&scenario);
    assert_eq!(first, run(&scenario));
    scenario.seed += 1;
    assert_ne!(first.fingerprint, run(&scenario).fingerprint);
}
