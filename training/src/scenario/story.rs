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

/// Requests of eight kinds with mean costs over exactly 1:100 (5 to 500 ms at speed 1, cheap ones more frequent, log-normal with cv 0.5)
/// before six pods with two workers each, half of them twice as fast; nothing else goes wrong.
pub fn request_classes(seed: u64, proxies: usize, load: f64) -> Scenario {
    let pod = |pod: u32| pod_of(2, if pod < 3 { 1.0 } else { 2.0 });
    of_classes("request classes", seed, proxies, (0..6).map(pod).collect(), load)
}

/// The same requests before twelve equal pods that serve one at a time, as single-threaded servers do.
pub fn request_classes_single(seed: u64, proxies: usize, load: f64) -> Scenario {
    of_classes("request classes, single workers", seed, proxies, vec![pod_of(1, 1.0); 12], load)
}

/// The same requests before nine pods with two workers each, on three groups of nodes: every class is 2 or 3 times as much work on one of them,
/// every third class on two. `load` is of the capacity if every class went everywhere.
pub fn class_affinity(seed: u64, proxies: usize, load: f64) -> Scenario {
    const GROUPS: usize = 3;
    let mut scenario = of_classes("class affinity", seed, proxies, vec![pod_of(2, 1.0); 9], load);
    scenario.groups = (0..9).map(|pod| (pod % GROUPS) as u8).collect();
    let factor = |class: usize, group: usize| match (group + GROUPS - class % GROUPS) % GROUPS {
        0 => 3.0,
        1 if class % GROUPS == 2 => 2.0,
        _ => 1.0,
    };
    scenario.affinity = (0..CLASSES).flat_map(|class| (0..GROUPS).map(move |group| factor(class, group))).collect();
    scenario.rate_rps = load * scenario.capacity_rps();
    scenario
}

/// Requests of four kinds with mean costs of 1 to 20 (14 to 280 ms, cheap ones more frequent, log-normal with cv 0.5) before four pods that serve 48 at once
/// each, on two kinds of nodes: every class is twice as much work on one of them. Pods tell nothing of themselves and are seldom full, so that hardly
/// anything shows how many requests they serve at once; and as some are always inside, none is known not to have waited, from which costs are learned.
/// `load` is of the capacity if every class went everywhere.
pub fn roomy_pods(seed: u64, proxies: usize, load: f64) -> Scenario {
    const KINDS: usize = 4;
    const CHEAPEST_MS: f64 = 14.0;
    const RATIO: f64 = 20.0;
    let mut scenario = story("roomy pods", seed, proxies, vec![pod_of(48, 1.0); 4], load);
    let cost = |class: usize| RATIO.powf(class as f64 / (KINDS - 1) as f64);
    let shares: f64 = (0..KINDS).map(|class| cost(class).powf(-0.5)).sum();
    let class = |class: usize| Class {
        share: cost(class).powf(-0.5) / shares,
        mean_ns: CHEAPEST_MS * cost(class) * MILLISECOND as f64,
        distribution: Distribution::LogNormal { cv: 0.5 },
    };
    scenario.classes = (0..KINDS).map(class).collect();
    scenario.groups = (0..4).map(|pod| pod % 2).collect();
    scenario.affinity =
        (0..KINDS).flat_map(|class| [0, 1].map(|group| if class % 2 == group { 1.0 } else { 2.0 })).collect();
    scenario.objective_ns = 2 * SECOND;
    scenario.rate_rps = load * scenario.capacity_rps();
    (scenario.telemetry.scraped, scenario.telemetry.slots_told) = (false, false);
    scenario
}

/// Kinds of requests in the stories that have several.
const CLASSES: usize = 8;

fn of_classes(name: &str, seed: u64, proxies: usize, endpoints: Vec<EndpointSpec>, load: f64) -> Scenario {
    const CHEAPEST_MS: f64 = 5.0;
    const RATIO: f64 = 100.0;
    let cost = |class: usize| RATIO.powf(class as f64 / (CLASSES - 1) as f64);
    // Each class is asked for as often as its cost is small, in square roots: the dear ones are rare, and most of the work.
    let share = |class: usize| cost(class).powf(-0.5);
    let shares: f64 = (0..CLASSES).map(share).sum();
    let mut scenario = story(name, seed, proxies, endpoints, load);
    scenario.classes = (0..CLASSES)
        .map(|class| Class {
            share: share(class) / shares,
            mean_ns: CHEAPEST_MS * cost(class) * MILLISECOND as f64,
            distribution: Distribution::LogNormal { cv: 0.5 },
        })
        .collect();
    scenario.objective_ns = 2 * SECOND;
    scenario.rate_rps = load * scenario.capacity_rps();
    scenario
}

fn pod_of(slots: u32, speed: f64) -> EndpointSpec {
    EndpointSpec { discipline: Discipline::Fcfs, slots, room: 400, speed }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn check(scenario: &Scenario, rps: f64) {
        assert_eq!(scenario.check(), Ok(()));
        let costs: Vec<f64> = scenario.classes.iter().map(|class| class.mean_ns).collect();
        assert!((costs[CLASSES - 1] / costs[0] - 100.0).abs() < 1e-9, "{}: {costs:?}", scenario.name);
        assert!((scenario.rate_rps - rps).abs() < 1.0, "{}: {} rps", scenario.name, scenario.rate_rps);
    }

    #[test]
    fn stories_of_classes_cost_1_to_100_and_load_what_they_say() {
        // 50 ms a request at speed 1.
        check(&request_classes(1, 1, 0.7), 0.7 * 18.0 / 0.05);
        check(&request_classes_single(1, 3, 0.7), 0.7 * 12.0 / 0.05);
    }

    #[test]
    fn roomy_pods_are_a_quarter_full_at_a_load_that_a_test_can_carry() {
        let scenario = roomy_pods(1, 1, 0.25);
        assert_eq!(scenario.check(), Ok(()));
        assert!((400.0..600.0).contains(&scenario.rate_rps), "{} rps", scenario.rate_rps);
        assert!(scenario.affinity.chunks(2).all(|row| row.contains(&1.0) && row.contains(&2.0)));
    }

    #[test]
    fn every_class_has_a_group_that_suits_it_and_one_that_does_not() {
        let scenario = class_affinity(1, 3, 0.7);
        check(&scenario, scenario.rate_rps);
        for row in scenario.affinity.chunks(3) {
            assert!(row.contains(&1.0) && row.contains(&3.0), "{row:?}");
        }
        assert!(scenario.affinity.contains(&2.0));
    }
}
