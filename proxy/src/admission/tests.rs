//! Tests of the limiter by itself and in front of a queue.

use std::{cmp::Reverse, collections::BinaryHeap, collections::VecDeque};

use proptest::prelude::*;
use rand::{Rng, SeedableRng, rngs::SmallRng};

use super::*;

const OBJECTIVE: Duration = Duration::from_millis(150);
const CLASS: RequestClass = RequestClass(0);

fn rules(objective: Option<Duration>) -> AdmissionRules {
    let control = AdmissionControl { enabled: true, ..Default::default() };
    AdmissionRules::new(&control, &CircuitBreaker::default(), 12, objective)
}

/// What became of the requests of one run.
#[derive(Debug, Default)]
struct Run {
    offered: f64,
    shed: f64,
    good: f64,
}

/// Poisson arrivals at `load` times the capacity of `servers` with one queue, exponential service of 20 ms on average, for `seconds` after
/// a warm-up of two; the share of slow servers takes five times as long.
fn simulate(rules: &AdmissionRules, servers: usize, load: f64, slow_share: f64, seconds: f64) -> Run {
    let mut rng = SmallRng::seed_from_u64(42);
    let mut exponential = move |mean: f64| -mean * (1.0 - rng.random::<f64>()).ln();
    let slow = (servers as f64 * slow_share) as usize;
    let capacity = (servers - slow) as f64 / 0.02 + slow as f64 / 0.1;
    let admission = Admission::new();
    let mut run = Run::default();
    // Completions by time, in microseconds, with the server and the arrival; servers that are free; arrivals that wait.
    let mut completions: BinaryHeap<Reverse<(u64, usize, u64)>> = BinaryHeap::new();
    let mut free: Vec<usize> = (0..servers).collect();
    let mut waiting: VecDeque<u64> = VecDeque::new();
    let mut admitted = VecDeque::new();
    let mut next = 0.0;
    while next < 2.0 + seconds {
        let arrival = (next * 1e6) as u64;
        while let Some(&Reverse((at, server, arrived))) =
            completions.peek().filter(|completion| completion.0.0 <= arrival)
        {
            completions.pop();
            let latency = Duration::from_micros(at - arrived);
            let token = admitted.pop_front().unwrap();
            admission.finish(token, rules, Timestamp::from_micros(at), Outcome::Success, latency);
            if arrived > 2_000_000 && latency <= OBJECTIVE {
                run.good += 1.0;
            }
            free.push(server);
            start(&mut free, &mut waiting, &mut completions, at, slow, &mut exponential);
        }
        let counted = f64::from(u8::from(arrival > 2_000_000));
        run.offered += counted;
        match admission.admit(rules, CLASS) {
            Ok(token) => {
                admitted.push_back(token);
                waiting.push_back(arrival);
                start(&mut free, &mut waiting, &mut completions, arrival, slow, &mut exponential);
            }
            Err(_) => run.shed += counted,
        }
        next += exponential(1.0 / (load * capacity));
    }
    run
}

fn start(
    free: &mut Vec<usize>,
    waiting: &mut VecDeque<u64>,
    completions: &mut BinaryHeap<Reverse<(u64, usize, u64)>>,
    now: u64,
    slow: usize,
    exponential: &mut impl FnMut(f64) -> f64,
) {
    if waiting.is_empty() {
        return;
    }
    let Some(server) = free.pop() else { return };
    let Some(arrived) = waiting.pop_front() else { return };
    let service = exponential(if server < slow { 0.1 } else { 0.02 });
    completions.push(Reverse((now + (service * 1e6) as u64 + 1, server, arrived)));
}

#[test]
fn below_capacity_nearly_nothing_is_shed() {
    for load in [0.5, 0.8, 0.9] {
        let run = simulate(&rules(Some(OBJECTIVE)), 48, load, 0.0, 20.0);
        assert!(run.shed / run.offered < 0.005, "load {load}: {run:?}");
    }
}

#[test]
fn in_overload_most_of_the_capacity_stays_good() {
    for (load, least) in [(1.2, 0.93), (1.5, 0.93), (3.0, 0.9)] {
        let run = simulate(&rules(Some(OBJECTIVE)), 48, load, 0.0, 20.0);
        let good = run.good * load / run.offered;
        assert!(good > least, "load {load}: {good} of the capacity, {run:?}");
        let without = simulate(&rules(None), 48, load, 0.0, 20.0);
        assert!(without.good < 0.3 * run.good, "the queue without a limiter: {without:?}");
    }
}

#[test]
fn a_few_slow_servers_are_no_reason_to_shed() {
    // A quarter of the servers takes 100 ms on average. About one answer in twenty is slow, with no request ever waiting.
    let run = simulate(&rules(Some(OBJECTIVE)), 40, 0.6, 0.25, 20.0);
    assert!(run.shed / run.offered < 0.01, "{run:?}");
}

#[test]
fn without_an_objective_or_switched_off_nothing_is_shed() {
    for rules in [
        rules(None),
        AdmissionRules::new(&AdmissionControl::default(), &CircuitBreaker::default(), 12, Some(OBJECTIVE)),
    ] {
        let run = simulate(&rules, 48, 1.5, 0.0, 5.0);
        assert_eq!((run.shed, Admission::new().limit(&rules)), (0.0, None));
    }
}

#[test]
fn the_circuit_breaker_counts_requests_in_flight() {
    let breaker = CircuitBreaker { max_parallel_requests: Some(2), ..Default::default() };
    let rules = AdmissionRules::new(&AdmissionControl::default(), &breaker, 1, None);
    let admission = Admission::new();
    let first = admission.admit(&rules, CLASS).unwrap();
    let _second = admission.admit(&rules, CLASS).unwrap();
    assert!(matches!(admission.admit(&rules, CLASS), Err(Shed::CircuitOpen { .. })));
    admission.finish(first, &rules, Timestamp::ZERO, Outcome::Cancelled, Duration::ZERO);
    assert!(admission.admit(&rules, CLASS).is_ok());
}

#[test]
fn a_class_with_a_smaller_share_is_shed_first() {
    let control = AdmissionControl { enabled: true, max_concurrency: 10, ..Default::default() };
    let rules = AdmissionRules::new(&control, &CircuitBreaker::default(), 1, Some(OBJECTIVE))
        .with_class_shares(&[1.0, 0.5, 0.0]);
    let admission = Admission::new();
    let cheap_ones: Vec<_> = (0..5).map(|_| admission.admit(&rules, RequestClass(1)).unwrap()).collect();
    assert!(admission.admit(&rules, RequestClass(1)).is_err());
    assert!(admission.admit(&rules, RequestClass(2)).is_err());
    assert!((0..5).all(|_| admission.admit(&rules, RequestClass(0)).is_ok()));
    assert!(admission.admit(&rules, RequestClass(0)).is_err());
    assert_eq!(cheap_ones.len() + 5, admission.in_flight() as usize);
    assert!(Admission::new().admit(&rules, RequestClass(2)).is_ok(), "an idle backend serves anyone");
}

proptest! {
    #[test]
    fn the_limit_stays_in_its_range_and_the_count_is_right(
        min in 1u32..20,
        extra in 0u32..100,
        steps in prop::collection::vec((any::<bool>(), 0u64..400, 0u64..50), 0..600),
    ) {
        let control = AdmissionControl { enabled: true, min_concurrency: Some(min), max_concurrency: min + extra };
        let rules = AdmissionRules::new(&control, &CircuitBreaker::default(), 3, Some(OBJECTIVE));
        let admission = Admission::new();
        let mut tokens = Vec::new();
        let mut now = Timestamp::from_millis(10_000);
        for (arrive, latency_ms, passed_ms) in steps {
            now = now + Duration::from_millis(passed_ms);
            if arrive {
                tokens.extend(admission.admit(&rules, CLASS));
            } else if let Some(token) = tokens.pop() {
                admission.finish(token, &rules, now, Outcome::Success, Duration::from_millis(latency_ms));
            }
            prop_assert_eq!(admission.in_flight() as usize, tokens.len());
            let limit = admission.limit(&rules).unwrap();
            prop_assert!((min as f32..=(min + extra) as f32).contains(&limit), "{}", limit);
        }
    }
}
