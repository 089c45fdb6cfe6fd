//! What a bound must be: at least as good as what knows less, and on simple systems what theory says.

use super::*;
use crate::{
    scenario::Telemetry,
    simulator::{
        endpoint::{Discipline, EndpointSpec},
        time::SECOND,
        work::{Class, Distribution},
    },
};

const MEAN_MS: f64 = 10.0;

fn scenario(specs: &[(u32, f64)], load: f64) -> Scenario {
    let endpoints: Vec<EndpointSpec> = specs
        .iter()
        .map(|&(slots, speed)| EndpointSpec { discipline: Discipline::Fcfs, slots, room: 10_000, speed })
        .collect();
    let mut scenario = crate::scenario::unequal_pods(1, 1, 0.5);
    scenario.classes = vec![Class { share: 1.0, mean_ns: MEAN_MS * 1e6, distribution: Distribution::Exponential }];
    scenario.rate_rps =
        load * endpoints.iter().map(EndpointSpec::capacity).sum::<f64>() * 1e9 / scenario.classes[0].mean_ns;
    scenario.endpoints = endpoints;
    scenario.timeline.clear();
    scenario.one_way_ns = 1;
    scenario.telemetry = Telemetry::default();
    scenario.measured_ns = 5 * SECOND..400 * SECOND;
    scenario
}

#[test]
fn a_central_queue_is_a_queue_with_many_servers() {
    // Four single slots behind one queue are M/M/4: at load 0.8 Erlang C gives a mean of 1.7455 service times.
    let summary = Bound::CentralQueue.run(&scenario(&[(1, 1.0); 4], 0.8)).unwrap();
    assert!((summary.latency_ms_mean / (1.7455 * MEAN_MS) - 1.0).abs() < 0.03, "{}", summary.latency_ms_mean);
}

#[test]
fn knowing_sizes_is_as_good_as_one_queue() {
    // For single slots, going where the least work is left is the same as waiting in one queue (Kiefer and Wolfowitz 1955).
    let scenario = scenario(&[(1, 1.0); 4], 0.8);
    let [known, queued] = [Bound::LeastWorkLeft, Bound::CentralQueue].map(|bound| bound.run(&scenario).unwrap());
    assert!((known.latency_ms_p99 / queued.latency_ms_p99 - 1.0).abs() < 0.02, "{known:?} {queued:?}");
    let blind = Bound::ShortestExpectedDelay.run(&scenario).unwrap();
    assert!(blind.latency_ms_p99 > known.latency_ms_p99);
}

#[test]
fn every_bound_beats_chance_by_far_and_the_best_is_one_of_them() {
    let scenario = scenario(&[(2, 1.0), (4, 2.0), (1, 4.0)], 0.8).lasting(60);
    let chance = simulate(&scenario, &mut Blind::new(1)).unwrap();
    let (bound, best) = best(&scenario).unwrap();
    for other in Bound::ALL {
        let summary = other.run(&scenario).unwrap();
        assert!(summary.latency_ms_p99 < 0.5 * chance.latency_ms_p99, "{other:?}");
        assert!(other == Bound::CentralQueue || summary.latency_ms_p99 >= best.latency_ms_p99, "{other:?} {bound:?}");
        assert_eq!(summary.unfinished, 0, "{other:?}");
    }
}
