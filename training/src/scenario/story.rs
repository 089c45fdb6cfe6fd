//! The shapes that the demo and the comparison benchmark play on real sockets, for checking figures before they do.

use rand::Rng;

use super::{Change, Event, Scenario, Telemetry};
use crate::simulator::{
    endpoint::{Discipline, EndpointSpec},
    random::{Purpose, stream},
    time::{MICROSECOND, MILLISECOND, SECOND},
    work::{self, Class, Distribution},
};

/// One or more proxies before 12 unequal pods (speeds 1, 2, 4; 2 to 4 workers), exponential service of 40 ms at speed 1.
pub fn unequal_pods(seed: u64, proxies: usize, load: f64) -> Scenario {
    let mut rng = stream(seed, Purpose::Scenario, 100);
    let endpoints = (0..12)
        .map(|pod| {
            let speed = [1.0, 2.0, 4.0][pod % 3];
            EndpointSpec { discipline: Discipline::Fcfs, slots: rng.random_range(2..=4), room: 200, speed }
        })
        .collect();
    story("unequal pods", seed, proxies, endpoints, load)
}

/// Ten unequal pods of which three are slow by 4 times, others every 3 s. `load` is of what is left.
pub fn rotating_slow_pods(seed: u64, proxies: usize, load: f64) -> Scenario {
    const SLOW: u32 = 3;
    const FACTOR: f64 = 0.25;
    let mut rng = stream(seed, Purpose::Scenario, 101);
    let endpoints: Vec<EndpointSpec> = (0..10)
        .map(|pod| {
            let speed = [1.0, 2.0][pod % 2];
            EndpointSpec { discipline: Discipline::Fcfs, slots: rng.random_range(2..=4), room: 200, speed }
        })
        .collect();
    let mut scenario = story("rotating slow pods", seed, proxies, endpoints, load);
    scenario.rate_rps *= 1.0 - 0.1 * f64::from(SLOW) * (1.0 - FACTOR);
    let mut at_ns = 0;
    let mut first = 0;
    while at_ns < scenario.measured_ns.end {
        for pod in 0..10 {
            let slow = (pod + 10 - first) % 10 < SLOW;
            let change = Change::Factor { endpoint: pod * 7 % 10, factor: if slow { FACTOR } else { 1.0 } };
            scenario.timeline.push(Event { at_ns, change });
        }
        first = (first + SLOW) % 10;
        at_ns += 3 * SECOND;
    }
    scenario
}

/// The same pods and load with two kinds of requests, of which one in fifty costs a hundred times as much as the others.
pub fn with_costs_of_1_to_100(mut scenario: Scenario) -> Scenario {
    const HEAVY_SHARE: f64 = 0.02;
    const RATIO: f64 = 100.0;
    let mean_ns = work::mean_ns(&scenario.classes);
    let light_ns = mean_ns / (1.0 - HEAVY_SHARE + HEAVY_SHARE * RATIO);
    let class = |share, mean_ns| Class { share, mean_ns, distribution: Distribution::Exponential };
    scenario.classes = vec![class(1.0 - HEAVY_SHARE, light_ns), class(HEAVY_SHARE, RATIO * light_ns)];
    // A heavy request alone takes 34 times the mean; the objective must leave room for that.
    scenario.objective_ns *= 10;
    scenario.name += ", costs 1:100";
    scenario
}

fn story(name: &str, seed: u64, proxies: usize, endpoints: Vec<EndpointSpec>, load: f64) -> Scenario {
    let mut scenario = Scenario {
        name: name.into(),
        seed,
        shares: vec![1.0 / proxies as f64; proxies],
        endpoints,
        groups: Vec::new(),
        affinity: Vec::new(),
        lies: Vec::new(),
        classes: vec![Class {
            share: 1.0,
            mean_ns: 40.0 * MILLISECOND as f64,
            distribution: Distribution::Exponential,
        }],
        rate_rps: 1.0,
        timeline: Vec::new(),
        measured_ns: 10 * SECOND..70 * SECOND,
        objective_ns: 300 * MILLISECOND,
        one_way_ns: 50 * MICROSECOND,
        reports_in_flight: false,
        retries: 1,
        telemetry: Telemetry::default(),
    };
    scenario.rate_rps = load * scenario.capacity_rps();
    scenario
}
