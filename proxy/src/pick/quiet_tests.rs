//! What Trimtab's rule does with few requests at a time, where in-flight counts say nothing: they spread over equals, an endpoint that is
//! new or had bad luck gets its share, and one that is slow does not.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    sync::Arc,
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::SmallRng};

use super::{
    Pick, PickRequest, Pool,
    costs::Costs,
    rule::{Rule, haste},
    testing::{IDLE, NOW, pool},
};
use crate::{
    config::{ClassTable, OutlierDetection, RuleParameters},
    load::{Attempt, Outcome, RequestClass},
    time::Coarse,
};

/// A minute of Poisson arrivals at new endpoints that serve all they get at once. An answer takes half of the mean time and an exponential rest,
/// `slowness` times as long at each endpoint, and the first one of each four times as long.
struct Quiet<'a> {
    mean_ms: f64,
    per_s: f64,
    slowness: &'a [f64],
    /// What the controller takes requests to cost at each, over the mean; empty: it has told nothing.
    costs: &'a [f32],
    /// When the last of them comes.
    last_joins_s: u64,
}

impl Quiet<'_> {
    fn class_table(&self) -> ClassTable {
        ClassTable {
            backend: "b".into(),
            generation: 1,
            classes: Vec::new(),
            other_cost_ms: self.mean_ms as f32,
            factors: self.costs.to_vec(),
            slots: Vec::new(),
        }
    }

    /// Each endpoint's part of the requests after the first ten seconds in which all were there.
    fn shares(&self, seed: u64) -> Vec<f64> {
        let mut pool = pool(&vec![IDLE; self.slowness.len()], 1.0);
        if !self.costs.is_empty() {
            pool.costs = Some(Arc::new(Costs::new(&self.class_table(), self.costs.len())));
        }
        let last = &pool.candidates[self.slowness.len() - 1].load;
        let (joins, excluded) = (NOW + Duration::from_secs(self.last_joins_s), [last.key()]);
        if joins > NOW {
            last.arrival().became_ready(joins);
        }
        let rule = Rule::new(&pool, &RuleParameters::LOCAL);
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut answered = vec![0u32; self.slowness.len()];
        let mut running = Running::default();
        let mut counts = vec![0u32; self.slowness.len()];
        let mut now = NOW;
        while now < joins + Duration::from_secs(60) {
            running.finish(&pool, now.0);
            let exclude = if now < joins { &excluded[..] } else { &[] };
            let position = rule.pick(&pool, &PickRequest { exclude, ..Default::default() }, now, &mut rng).unwrap();
            counts[position] += u32::from(now >= joins + Duration::from_secs(10));
            let cold = if answered[position] == 0 { 4.0 } else { 1.0 };
            answered[position] += 1;
            let ms = self.mean_ms * self.slowness[position] * cold * (0.5 + 0.5 * exponential(&mut rng));
            running.begin(&pool, position, now.0, (ms * 1e6) as u64);
            now = now + Duration::from_secs_f64(exponential(&mut rng) / self.per_s);
        }
        let all = f64::from(counts.iter().sum::<u32>());
        counts.into_iter().map(|count| f64::from(count) / all).collect()
    }
}

fn exponential(rng: &mut SmallRng) -> f64 {
    -(1.0 - rng.random::<f64>()).ln()
}

/// Requests in flight: the next to end on top of the heap.
#[derive(Default)]
struct Running {
    ends: BinaryHeap<Reverse<(u64, u64)>>,
    attempts: HashMap<u64, (usize, u64, Attempt)>,
    count: u64,
}

impl Running {
    fn begin(&mut self, pool: &Pool, position: usize, now_ns: u64, length_ns: u64) {
        let now = crate::time::Timestamp(now_ns);
        let attempt = pool.candidates[position].load.begin(now, RequestClass::default());
        self.attempts.insert(self.count, (position, now_ns, attempt));
        self.ends.push(Reverse((now_ns + length_ns, self.count)));
        self.count += 1;
    }

    fn finish(&mut self, pool: &Pool, now_ns: u64) {
        while let Some(Reverse((end_ns, number))) = self.ends.peek().copied().filter(|next| next.0.0 <= now_ns) {
            self.ends.pop();
            let (position, began_ns, attempt) = self.attempts.remove(&number).unwrap();
            let (end, latency) = (crate::time::Timestamp(end_ns), Duration::from_nanos(end_ns - began_ns));
            let load = &pool.candidates[position].load;
            let attempt = attempt.in_haste(haste(pool, Coarse::of(end)));
            load.finish(attempt, end, Outcome::Success, latency, None, &OutlierDetection::default());
            pool.shared.latency.answered(end, latency.as_secs_f32() * 1e3);
            pool.shared.in_flight.ended(end, latency);
        }
    }
}

#[test]
fn few_requests_at_a_time_spread_over_equals() {
    let few = [(0.5, 400.0), (0.3, 50.0), (2.0, 60.0), (10.0, 100.0), (10.0, 10.0), (10.0, 1.0), (100.0, 5.0)];
    // And somewhat more than few: half a request at each of three endpoints, where counts begin to say something.
    let not_so_few = [(50.0, 25.0), (50.0, 35.0), (5.0, 300.0)];
    for (mean_ms, per_s) in few.into_iter().chain(not_so_few) {
        for seed in 0..5 {
            let shares = Quiet { mean_ms, per_s, slowness: &[1.0; 3], costs: &[], last_joins_s: 0 }.shares(seed);
            let least = shares.iter().copied().fold(1.0, f64::min);
            assert!(least > 0.1, "{per_s}/s of {mean_ms} ms, seed {seed}: {shares:?}");
        }
    }
}

#[test]
fn costs_that_were_learned_by_fractions_of_a_millisecond_starve_nobody() {
    for seed in 0..5 {
        let costs = &[0.63, 0.91, 0.8];
        let shares = Quiet { mean_ms: 0.5, per_s: 200.0, slowness: &[1.0; 3], costs, last_joins_s: 0 }.shares(seed);
        assert!(shares.iter().all(|share| *share > 0.1), "seed {seed}: {shares:?}");
        // Where they are tens of milliseconds they count.
        let costs = &[0.5, 1.0, 1.5];
        let shares = Quiet { mean_ms: 40.0, per_s: 2.0, slowness: &[1.0; 3], costs, last_joins_s: 0 }.shares(seed);
        assert!(shares[0] > 1.5 * shares[1] && shares[1] > 0.05, "seed {seed}: {shares:?}");
    }
}

#[test]
fn an_endpoint_that_is_twice_as_slow_is_left_alone_but_not_forgotten() {
    for seed in 0..5 {
        let shares =
            Quiet { mean_ms: 10.0, per_s: 100.0, slowness: &[1.0, 1.0, 2.0], costs: &[], last_joins_s: 0 }.shares(seed);
        assert!(shares[2] > 0.0 && shares[2] < 0.1, "seed {seed}: {shares:?}");
    }
}

#[test]
fn an_endpoint_that_joins_gets_its_share() {
    for (mean_ms, per_s) in [(50.0, 35.0), (10.0, 10.0), (10.0, 400.0)] {
        for seed in 0..5 {
            let shares = Quiet { mean_ms, per_s, slowness: &[1.0; 3], costs: &[], last_joins_s: 20 }.shares(seed);
            assert!(shares[2] > 0.15, "{per_s}/s of {mean_ms} ms, seed {seed}: {shares:?}");
        }
    }
}

/// What was known of all of them has grown old in a pause, and the quickest one hangs from then on.
#[test]
fn an_endpoint_that_hangs_after_a_pause_is_not_taken_for_quick() {
    const HUNG_NS: u64 = 3_600_000_000_000;
    let pool = pool(&[IDLE; 3], 1.0);
    let rule = Rule::new(&pool, &RuleParameters::LOCAL);
    let mut rng = SmallRng::seed_from_u64(1);
    let mut running = Running::default();
    let mut asked = [0; 3];
    for (from_s, seconds, hangs) in [(0, 30, false), (80, 4, true)] {
        asked = [0; 3];
        for number in 0..seconds * 150 {
            let now = NOW + Duration::from_secs(from_s) + Duration::from_secs(number) / 150;
            running.finish(&pool, now.0);
            let position = rule.pick(&pool, &PickRequest::default(), now, &mut rng).unwrap();
            asked[position] += 1;
            let length_ns = [8, 16, 32][position] * 1_000_000;
            running.begin(&pool, position, now.0, if hangs && position == 0 { HUNG_NS } else { length_ns });
        }
    }
    assert!(asked[0] < 40, "of 600: {asked:?}");
}
