//! Tests of the limiter by itself and in front of a queue.

use std::{cmp::Reverse, collections::BinaryHeap, collections::VecDeque};

use proptest::prelude::*;
use rand::{Rng, SeedableRng, rngs::SmallRng};

use super::*;
use crate::{
    config::{AdmissionControl, CircuitBreaker, ClassCost, ClassKey, ClassTable},
    pick::costs::Costs,
};

const OBJECTIVE: Duration = Duration::from_millis(150);
const CLASS: RequestClass = RequestClass(0);

fn rules(objective: Option<Duration>) -> AdmissionRules {
    let control = AdmissionControl { enabled: true, ..Default::default() };
    AdmissionRules::new(&control, &CircuitBreaker::default(), 12.0, 1.0, objective)
}

/// Requests of class 1 take 4 ms, those of class 2 100 ms.
fn two_classes(priority: f32) -> Costs {
    let class = |number: u8, cost_ms: f32, share: f32, priority: f32| ClassCost {
        key: ClassKey(u64::from(number)),
        number,
        name: String::new(),
        cost_ms,
        share,
        priority,
    };
    let table = ClassTable {
        backend: "b".into(),
        generation: 1,
        classes: vec![class(1, 4.0, 0.8, 0.0), class(2, 100.0, 0.2, priority)],
        other_cost_ms: 4.0,
        factors: Vec::new(),
        slots: Vec::new(),
    };
    Costs::new(&table, 1)
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

/// A request every 10 ms for 20 seconds that takes as long as `latency_ms` says of its number and its arrival in milliseconds; which share is shed.
fn shed_of_steady(rules: &AdmissionRules, latency_ms: impl Fn(u64, u64) -> u64) -> f64 {
    let admission = Admission::new();
    let mut under_way: BinaryHeap<Reverse<(u64, u64)>> = BinaryHeap::new();
    let mut shed = 0;
    for number in 0..2_000 {
        let arrival = 10 * number;
        while let Some(Reverse((end, began))) = under_way.peek().copied().filter(|next| next.0.0 <= arrival) {
            under_way.pop();
            let token = Admitted { class: CLASS, weight: rules.weight(CLASS) };
            let latency = Duration::from_millis(end - began);
            admission.finish(token, rules, Timestamp::from_millis(1_000 + end), Outcome::Success, latency);
        }
        match admission.admit(rules, CLASS) {
            Ok(Admitted { .. }) => under_way.push(Reverse((arrival + latency_ms(number, arrival), arrival))),
            Err(_) => shed += 1,
        }
    }
    f64::from(shed) / 2_000.0
}

#[test]
fn an_objective_that_nobody_asked_for_turns_nobody_away_for_a_pause_or_a_long_poll() {
    // Two or three requests at a time; endpoints stop for 300 ms of every 1,000, as with a CPU quota that is used up.
    let pauses = |_, arrival: u64| (300 - arrival.min(arrival / 1_000 * 1_000 + 300) % 1_000).max(2) % 300;
    // One of five is a long poll of five seconds.
    let polls = |number: u64, _| if number.is_multiple_of(5) { 5_000 } else { 2 };
    for latency_ms in [&pauses as &dyn Fn(u64, u64) -> u64, &polls] {
        assert_eq!(shed_of_steady(&rules(Some(OBJECTIVE)).derived(true), latency_ms), 0.0);
        assert!(shed_of_steady(&rules(Some(OBJECTIVE)), latency_ms) > 0.05, "somebody who asked for 150 ms means it");
    }
}

#[test]
fn in_overload_an_objective_that_nobody_asked_for_is_held_after_a_while() {
    for load in [1.2, 1.5, 3.0] {
        let run = simulate(&rules(Some(OBJECTIVE)).derived(true), 48, load, 0.0, 20.0);
        let good = run.good * load / run.offered;
        assert!(good > 0.5, "load {load}: {good} of the capacity, {run:?}");
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
        AdmissionRules::new(&AdmissionControl::default(), &CircuitBreaker::default(), 12.0, 1.0, Some(OBJECTIVE)),
    ] {
        let run = simulate(&rules, 48, 1.5, 0.0, 5.0);
        assert_eq!((run.shed, Admission::new().limit(&rules)), (0.0, None));
    }
}

#[test]
fn the_circuit_breaker_counts_requests_in_flight() {
    let breaker = CircuitBreaker { max_parallel_requests: Some(2), ..Default::default() };
    let rules = AdmissionRules::new(&AdmissionControl::default(), &breaker, 1.0, 1.0, None);
    let admission = Admission::new();
    let first = admission.admit(&rules, CLASS).unwrap();
    let _second = admission.admit(&rules, CLASS).unwrap();
    assert!(matches!(admission.admit(&rules, CLASS), Err(Shed::CircuitOpen { .. })));
    admission.finish(first, &rules, Timestamp::ZERO, Outcome::Cancelled, Duration::ZERO);
    assert!(admission.admit(&rules, CLASS).is_ok());
}

/// A service of `slots` requests at once with one queue, before which requests of [`two_classes`] arrive at `load` times its capacity and take exactly
/// what their class costs.
struct Counter {
    admission: Admission,
    rules: AdmissionRules,
    rng: SmallRng,
    slots: usize,
    now_us: u64,
    /// End, class, arrival and token of what is served; then class, arrival and token of what waits.
    serving: Vec<(u64, u8, u64, Admitted)>,
    waiting: VecDeque<(u8, u64, Admitted)>,
}

impl Counter {
    fn new(rules: AdmissionRules, slots: usize) -> Self {
        let rng = SmallRng::seed_from_u64(7);
        let (serving, waiting) = (Vec::new(), VecDeque::new());
        Self { admission: Admission::new(), rules, rng, slots, now_us: 1_000_000, serving, waiting }
    }

    /// Shed and late shares of classes 1 and 2, of `seconds`.
    fn run(&mut self, load: f64, seconds: f64) -> [(f64, f64); 2] {
        let mut counts = [[0.0; 3]; 2];
        let rate_per_us = load * self.slots as f64 / (0.8 * 4_000.0 + 0.2 * 100_000.0);
        let end_us = self.now_us + (seconds * 1e6) as u64;
        let mut next = self.now_us as f64;
        while self.now_us < end_us {
            next += -(1.0 - self.rng.random::<f64>()).ln() / rate_per_us;
            self.pass(next as u64, &mut counts);
            let class = if self.rng.random_bool(0.2) { 2 } else { 1 };
            counts[usize::from(class) - 1][0] += 1.0;
            match self.admission.admit(&self.rules, RequestClass(class)) {
                Ok(token) => self.waiting.push_back((class, self.now_us, token)),
                Err(_) => counts[usize::from(class) - 1][1] += 1.0,
            }
            self.serve(self.now_us);
        }
        counts.map(|[arrived, shed, late]| (shed / arrived, late / arrived))
    }

    fn serve(&mut self, now_us: u64) {
        while self.serving.len() < self.slots
            && let Some((class, arrived_us, token)) = self.waiting.pop_front()
        {
            let cost_us = if class == 1 { 4_000 } else { 100_000 };
            self.serving.push((now_us + cost_us, class, arrived_us, token));
        }
    }

    fn pass(&mut self, until_us: u64, counts: &mut [[f64; 3]; 2]) {
        while let Some(first) = (0..self.serving.len()).min_by_key(|index| self.serving[*index].0)
            && self.serving[first].0 <= until_us
        {
            let (at_us, class, arrived_us, token) = self.serving.swap_remove(first);
            let latency = Duration::from_micros(at_us - arrived_us);
            self.admission.finish(token, &self.rules, Timestamp::from_micros(at_us), Outcome::Success, latency);
            counts[usize::from(class) - 1][2] += f64::from(u8::from(latency > CLASSES_OBJECTIVE));
            self.serve(at_us);
        }
        self.now_us = until_us;
    }
}

const CLASSES_OBJECTIVE: Duration = Duration::from_millis(400);

fn class_rules(proxies: f32, priority: f32) -> AdmissionRules {
    let control = AdmissionControl { enabled: true, ..Default::default() };
    AdmissionRules::new(&control, &CircuitBreaker::default(), 48.0, proxies, Some(CLASSES_OBJECTIVE))
        .with_classes(&two_classes(priority))
}

#[test]
fn in_overload_the_costly_class_is_shed_and_the_cheap_one_is_not() {
    for (load, costly_shed) in [(1.2, 0.19), (1.5, 0.39), (3.0, 0.77)] {
        let mut counter = Counter::new(class_rules(1.0, 0.0), 48);
        counter.run(load, 4.0);
        let [(cheap_shed, cheap_late), (shed, late)] = counter.run(load, 20.0);
        assert!(cheap_shed < 0.01 && cheap_late < 0.01, "load {load}: cheap shed {cheap_shed}, late {cheap_late}");
        assert!((shed - costly_shed).abs() < 0.06 && late < 0.01, "load {load}: costly shed {shed}, late {late}");
        // Soon after, all is as before.
        counter.run(0.7, 4.0);
        let after = counter.run(0.7, 10.0);
        assert!(after.iter().all(|(shed, late)| *shed == 0.0 && *late == 0.0), "after load {load}: {after:?}");
    }
}

#[test]
fn a_costly_class_that_has_priority_is_not_shed_before_the_cheap_one() {
    let mut counter = Counter::new(class_rules(1.0, 1.0), 48);
    counter.run(1.5, 4.0);
    let [(cheap, _), (costly, _)] = counter.run(1.5, 20.0);
    assert!(costly <= cheap + 0.02 && costly > 0.1, "shed: cheap {cheap}, costly {costly}");
}

#[test]
fn below_capacity_no_class_is_shed() {
    for load in [0.5, 0.8, 0.9] {
        let mut counter = Counter::new(class_rules(1.0, 0.0), 48);
        let fates = counter.run(load, 20.0);
        assert!(fates.iter().all(|(shed, _)| *shed < 0.002), "load {load}: {fates:?}");
    }
}

#[test]
fn a_class_that_is_slow_by_its_own_nature_is_no_reason_to_shed() {
    // The costly class alone takes longer than the objective, always, and there is no queue.
    let control = AdmissionControl { enabled: true, ..Default::default() };
    let objective = Some(Duration::from_millis(90));
    let rules =
        AdmissionRules::new(&control, &CircuitBreaker::default(), 48.0, 1.0, objective).with_classes(&two_classes(0.0));
    let mut counter = Counter::new(rules, 48);
    let fates = counter.run(0.7, 20.0);
    assert!(fates.iter().all(|(shed, _)| *shed == 0.0), "{fates:?}");
}

#[test]
fn the_smallest_limit_is_a_proxys_part_of_what_endpoints_serve_at_once() {
    let check = |proxies: f32, min_concurrency: Option<u32>, expected: f32| {
        let control = AdmissionControl { enabled: true, min_concurrency, ..Default::default() };
        let rules = AdmissionRules::new(&control, &CircuitBreaker::default(), 48.0, proxies, Some(OBJECTIVE));
        let admission = Admission::new();
        // Every answer is late, whatever is done.
        let mut now = Timestamp::from_millis(1_000);
        for _ in 0..20_000 {
            let tokens: Vec<_> = (0..40).filter_map(|_| admission.admit(&rules, CLASS).ok()).collect();
            now = now + Duration::from_millis(200);
            for token in tokens {
                admission.finish(token, &rules, now, Outcome::Success, Duration::from_millis(180));
            }
        }
        let limit = admission.limit(&rules).unwrap();
        assert!((limit - expected).abs() < 0.01, "{proxies} proxies, minimum {min_concurrency:?}: {limit}");
    };
    check(4.0, None, 12.0);
    check(16.0, None, 3.0);
    check(16.0, Some(7), 7.0);
}

#[test]
fn a_limit_that_was_lowered_in_bad_times_is_gone_after_good_ones() {
    let rules = rules(Some(OBJECTIVE));
    let admission = Admission::new();
    let mut now = Timestamp::from_millis(1_000);
    let mut round = |latency_ms: u64| {
        let tokens: Vec<_> = (0..30).filter_map(|_| admission.admit(&rules, CLASS).ok()).collect();
        now = now + Duration::from_millis(200);
        let latency = Duration::from_millis(latency_ms);
        tokens.into_iter().for_each(|token| admission.finish(token, &rules, now, Outcome::Success, latency));
        admission.limit(&rules).unwrap()
    };
    for _ in 0..3 {
        round(180);
    }
    assert!(round(180) < 30.0);
    // It is hardly in use, and rises nevertheless.
    for _ in 0..100 {
        round(20);
    }
    let limit = round(20);
    assert!(limit > 200.0, "{limit}");
}

#[test]
fn an_idle_backend_serves_anyone() {
    let rules = class_rules(1.0, 0.0);
    let mut counter = Counter::new(rules.clone(), 48);
    counter.run(3.0, 10.0);
    assert!(counter.admission.share(&rules, RequestClass(2)) < 0.5);
    let admission = counter.admission;
    admission.in_flight.store(0, Relaxed);
    assert!(admission.admit(&rules, RequestClass(2)).is_ok());
}

proptest! {
    #[test]
    fn the_limit_stays_in_its_range_and_the_count_is_right(
        min in 1u32..20,
        extra in 0u32..100,
        steps in prop::collection::vec((any::<bool>(), 0u64..400, 0u64..50), 0..600),
    ) {
        let control = AdmissionControl { enabled: true, min_concurrency: Some(min), max_concurrency: min + extra };
        let rules = AdmissionRules::new(&control, &CircuitBreaker::default(), 3.0, 1.0, Some(OBJECTIVE));
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
