//! Schedulers that turn weights into turns, as in the originals: nginx's smooth weighted round robin, earliest deadline first (Envoy),
//! static stride (gRFC A58). The rules that set weights share them.

use std::{cmp::Reverse, collections::BinaryHeap};

use rand::{Rng, rngs::SmallRng};

use super::rule::{Members, View};

/// Smooth weighted round robin (nginx, `ngx_http_upstream_round_robin.c`, 2012): each turn adds every peer's weight to its credit; the
/// highest credit wins and pays the sum of all weights.
#[derive(Debug, Clone)]
pub struct Smooth {
    weights: Vec<f64>,
    credits: Vec<f64>,
}

impl Smooth {
    /// With these weights, by endpoint.
    pub fn new(weights: Vec<f64>) -> Self {
        Self { credits: vec![0.0; weights.len()], weights }
    }

    /// Whose turn it is.
    pub fn next(&mut self, view: &View<'_>) -> u32 {
        let mut best = None;
        let mut best_credit = f64::NEG_INFINITY;
        let mut total = 0.0;
        for &endpoint in view.members.list() {
            if view.exclude == Some(endpoint) {
                continue;
            }
            let weight = self.weights[endpoint as usize];
            let credit = &mut self.credits[endpoint as usize];
            *credit += weight;
            total += weight;
            if *credit > best_credit {
                (best, best_credit) = (Some(endpoint), *credit);
            }
        }
        let best = best.unwrap_or(view.members.list()[0]);
        self.credits[best as usize] -= total;
        best
    }
}

/// Earliest deadline first (Envoy's `EdfScheduler`): the earliest deadline is picked and set off by the inverse of the weight that its
/// endpoint has at that moment.
#[derive(Debug, Clone, Default)]
pub struct EarliestDeadline {
    /// Deadline in bits (not negative: the bits order like the numbers), order of entry, endpoint.
    heap: BinaryHeap<Reverse<(u64, u64, u32)>>,
    now: f64,
    entered: u64,
}

impl EarliestDeadline {
    /// Enters all members anew, after a random number of turns, so that proxies do not all begin with the same endpoint.
    pub fn reset(&mut self, members: &Members, rng: &mut SmallRng, weight: impl Fn(u32) -> f64) {
        self.heap.clear();
        self.now = 0.0;
        for &endpoint in members.list() {
            self.enter(endpoint, weight(endpoint));
        }
        for _ in 0..rng.random_range(0..members.list().len().max(1)) {
            self.turn(&weight);
        }
    }

    /// Whose turn it is among the candidates.
    pub fn next(&mut self, view: &View<'_>, weight: impl Fn(u32) -> f64) -> u32 {
        for _ in 0..=self.heap.len() {
            match self.turn(&weight) {
                Some(endpoint) if view.allows(endpoint) => return endpoint,
                Some(_) => {}
                None => break,
            }
        }
        view.members.list().iter().copied().find(|endpoint| view.allows(*endpoint)).unwrap_or(view.members.list()[0])
    }

    fn turn(&mut self, weight: &impl Fn(u32) -> f64) -> Option<u32> {
        let Reverse((deadline, _, endpoint)) = self.heap.pop()?;
        self.now = f64::from_bits(deadline);
        self.enter(endpoint, weight(endpoint));
        Some(endpoint)
    }

    fn enter(&mut self, endpoint: u32, weight: f64) {
        self.entered += 1;
        let deadline = self.now + 1.0 / weight.max(1e-9);
        self.heap.push(Reverse((deadline.to_bits(), self.entered, endpoint)));
    }
}

/// Largest weight of the static stride scheduler.
const STRIDE_MAX: u64 = u16::MAX as u64;
/// Weights are clamped to this many times and this share of their mean (gRPC).
const RATIO_MAX: f64 = 10.0;
const RATIO_MIN: f64 = 0.01;

/// The static stride scheduler (gRFC A58): in the g-th round an endpoint of weight w is skipped unless the multiples of w pass the next
/// multiple of the largest weight.
#[derive(Debug, Clone, Default)]
pub struct StaticStride {
    scaled: Vec<(u32, u64)>,
    sequence: u64,
}

impl StaticStride {
    /// For these endpoints and weights; `None` stands for the mean of the others (A58). With fewer than two weights all count the same.
    pub fn set(&mut self, members: &Members, rng: &mut SmallRng, weight: impl Fn(u32) -> Option<f64>) {
        let known = || members.list().iter().filter_map(|&endpoint| weight(endpoint));
        let (sum, count) = known().fold((0.0, 0u32), |(sum, count), weight| (sum + weight, count + 1));
        let mean = if count >= 2 { sum / f64::from(count) } else { 0.0 };
        let clamped = |endpoint: u32| {
            let weight = if mean > 0.0 { weight(endpoint).unwrap_or(mean) / mean } else { 1.0 };
            weight.clamp(RATIO_MIN, RATIO_MAX)
        };
        let highest = members.list().iter().map(|&endpoint| clamped(endpoint)).fold(RATIO_MIN, f64::max);
        let scale = |endpoint: u32| ((clamped(endpoint) / highest * STRIDE_MAX as f64).round() as u64).max(1);
        let started = !self.scaled.is_empty();
        self.scaled.clear();
        self.scaled.extend(members.list().iter().map(|&endpoint| (endpoint, scale(endpoint))));
        if !started && !self.scaled.is_empty() {
            self.sequence = rng.random_range(0..STRIDE_MAX);
        }
    }

    /// Whose turn it is among the candidates.
    pub fn next(&mut self, view: &View<'_>) -> u32 {
        let count = self.scaled.len() as u64;
        // Rounds without anybody last at most as long as the smallest weight's: bounded by the clamps, and so is this.
        for _ in 0..count * (RATIO_MAX / RATIO_MIN) as u64 {
            let place = self.sequence % count;
            let round = self.sequence / count;
            self.sequence = self.sequence.wrapping_add(1);
            let (endpoint, weight) = self.scaled[place as usize];
            let offset = place * (STRIDE_MAX / 2);
            if (weight * round + offset) % STRIDE_MAX >= STRIDE_MAX - weight && view.allows(endpoint) {
                return endpoint;
            }
        }
        view.members.list().iter().copied().find(|endpoint| view.allows(*endpoint)).unwrap_or(view.members.list()[0])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rivals::rule::testing::rng;

    fn turns(members: &Members, count: usize, mut next: impl FnMut(&View<'_>) -> u32) -> Vec<u32> {
        let in_flight = vec![0; members.endpoints()];
        (0..count).map(|_| next(&View { now_ns: 0, members, in_flight: &in_flight, exclude: None })).collect()
    }

    fn share(turns: &[u32], endpoint: u32) -> f64 {
        turns.iter().filter(|turn| **turn == endpoint).count() as f64 / turns.len() as f64
    }

    #[test]
    fn smooth_turns_are_those_of_nginxs_example() {
        let mut smooth = Smooth::new(vec![5.0, 1.0, 1.0]);
        assert_eq!(turns(&Members::all(3), 7, |view| smooth.next(view)), [0, 0, 1, 0, 2, 0, 0]);
    }

    #[test]
    fn deadlines_give_each_its_share_and_never_whom_is_excluded() {
        let members = Members::all(3);
        let weights = [4.0, 2.0, 1.0];
        let weight = |endpoint: u32| weights[endpoint as usize];
        let mut edf = EarliestDeadline::default();
        edf.reset(&members, &mut rng(), weight);
        let picked = turns(&members, 7_000, |view| edf.next(view, weight));
        for endpoint in 0..3 {
            assert!((share(&picked, endpoint) - weight(endpoint) / 7.0).abs() < 0.001, "{endpoint}");
        }
        let view = View { now_ns: 0, members: &members, in_flight: &[0; 3], exclude: Some(0) };
        assert!((0..20).all(|_| edf.next(&view, weight) != 0));
    }

    #[test]
    fn strides_give_each_its_share_and_the_unknown_the_mean() {
        let members = Members::all(3);
        let mut stride = StaticStride::default();
        stride.set(&members, &mut rng(), |endpoint| [Some(3.0), Some(1.0), None][endpoint as usize]);
        let picked = turns(&members, 60_000, |view| stride.next(view));
        for (endpoint, expected) in [(0, 3.0 / 6.0), (1, 1.0 / 6.0), (2, 2.0 / 6.0)] {
            assert!((share(&picked, endpoint) - expected).abs() < 0.002, "{endpoint}: {}", share(&picked, endpoint));
        }
    }

    #[test]
    fn with_fewer_than_two_weights_strides_are_equal() {
        let members = Members::all(3);
        let mut stride = StaticStride::default();
        stride.set(&members, &mut rng(), |endpoint| (endpoint == 0).then_some(9.0));
        let picked = turns(&members, 3_000, |view| stride.next(view));
        assert!((0..3).all(|endpoint| (share(&picked, endpoint) - 1.0 / 3.0).abs() < 0.001));
    }
}
