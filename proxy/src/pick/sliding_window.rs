//! Round robin by what was sent lately: the endpoint with the fewest requests in a sliding window. A turn counter is blind to who was passed
//! over, by retries, trials or other tables; here whoever had less is next, and all workers count together. A window is two buckets: the present one,
//! and the share of the last one that it still reaches back to.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use rand::RngCore;

use super::{Candidate, Pick, PickRequest, Pool, lowest};
use crate::time::Timestamp;

/// Requests that an endpoint got in the window, packed into one word: the number of the present bucket (24 bits), and what is in it and in the one
/// before (20 bits each). All workers add to it.
#[derive(Debug, Default)]
pub struct Window(AtomicU64);

const COUNT_BITS: u32 = 20;
const COUNT_MAX: u64 = (1 << COUNT_BITS) - 1;
const BUCKET_MASK: u64 = (1 << (64 - 2 * COUNT_BITS)) - 1;

impl Window {
    /// Requests in the window that ends at `now`.
    fn count(&self, now: Timestamp, window: Duration) -> f64 {
        let (bucket, elapsed) = bucket(now, window);
        let (present, before) = counts(self.0.load(Relaxed), bucket);
        present as f64 + before as f64 * (1.0 - elapsed)
    }

    /// Takes over what another one has counted.
    fn take_over(&self, other: &Self) {
        self.0.store(other.0.load(Relaxed), Relaxed);
    }

    /// Requests are sent.
    fn add(&self, requests: u64, now: Timestamp, window: Duration) {
        let (bucket, _) = bucket(now, window);
        let add = |word| {
            let (present, before) = counts(word, bucket);
            Some(bucket << (2 * COUNT_BITS) | before << COUNT_BITS | (present + requests).min(COUNT_MAX))
        };
        // It always says what is next.
        let _ = self.0.fetch_update(Relaxed, Relaxed, add);
    }
}

/// The number of the bucket, and how much of it has passed.
fn bucket(now: Timestamp, window: Duration) -> (u64, f64) {
    let length = (window.as_nanos() as u64).max(1);
    ((now.0 / length) & BUCKET_MASK, (now.0 % length) as f64 / length as f64)
}

/// What a word says of a bucket and the one before.
fn counts(word: u64, bucket: u64) -> (u64, u64) {
    let (present, before) = (word & COUNT_MAX, (word >> COUNT_BITS) & COUNT_MAX);
    match bucket.wrapping_sub(word >> (2 * COUNT_BITS)) & BUCKET_MASK {
        0 => (present, before),
        1 => (0, present),
        _ => (0, 0),
    }
}

/// The fewest in the window.
#[derive(Debug, Clone, Copy)]
pub struct SlidingWindow {
    window: Duration,
}

impl SlidingWindow {
    /// Requests count for so long.
    pub fn new(window: Duration) -> Self {
        Self { window }
    }

    /// Whether the endpoint came to others that have been counted for longer.
    fn is_new(self, candidate: &Candidate, now: Timestamp) -> bool {
        candidate.load.arrival().ready_since().is_some_and(|since| now.since(since) < self.window)
    }
}

impl Pick for SlidingWindow {
    fn pick<R: RngCore + ?Sized>(
        &self,
        pool: &Pool,
        request: &PickRequest<'_>,
        now: Timestamp,
        rng: &mut R,
    ) -> Option<usize> {
        let count = |candidate: &Candidate| candidate.load.window().count(now, self.window);
        // One that comes begins level with the others: it must not get all requests until it has had as many as they.
        if pool.candidates.iter().any(|candidate| self.is_new(candidate, now)) {
            let old = pool.candidates.iter().filter(|candidate| !self.is_new(candidate, now));
            if let Some(least) = old.min_by(|a, b| count(a).total_cmp(&count(b))) {
                let new = pool.candidates.iter().filter(|candidate| self.is_new(candidate, now));
                new.filter(|candidate| count(candidate) + 1.0 < count(least))
                    .for_each(|candidate| candidate.load.window().take_over(least.load.window()));
            }
        }
        let picked = lowest(pool, request, 0..pool.candidates.len(), rng, count)?;
        pool.candidates[picked].load.window().add(1, now, self.window);
        Some(picked)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use rand::{SeedableRng, rngs::SmallRng};

    use super::*;
    use crate::{
        config::EndpointKey,
        load::EndpointLoad,
        pick::testing::{IDLE, NOW, pool},
    };

    const SECOND: Duration = Duration::from_secs(1);

    fn picks(picker: &SlidingWindow, pool: &Pool, from: Timestamp, every: Duration, count: u32) -> Vec<u32> {
        let mut rng = SmallRng::seed_from_u64(3);
        let mut counts = vec![0; pool.candidates.len()];
        for number in 0..count {
            let at = from + every * number;
            counts[picker.pick(pool, &PickRequest::default(), at, &mut rng).unwrap()] += 1;
        }
        counts
    }

    #[test]
    fn a_window_forgets_what_it_has_left_behind() {
        let window = Window::default();
        let at = |ms: u64| Timestamp::from_millis(1_000_000 + ms);
        window.add(10, at(500), SECOND);
        assert_eq!(window.count(at(900), SECOND), 10.0);
        assert_eq!(window.count(at(1_250), SECOND), 7.5);
        window.add(1, at(1_500), SECOND);
        assert_eq!(window.count(at(1_500), SECOND), 6.0);
        assert_eq!(window.count(at(2_500), SECOND), 0.5);
        assert_eq!(window.count(at(9_000), SECOND), 0.0);
    }

    #[test]
    fn whoever_was_passed_over_is_next() {
        let pool = pool(&[IDLE; 3], 1.0);
        let picker = SlidingWindow::new(SECOND);
        let mut rng = SmallRng::seed_from_u64(1);
        let without = PickRequest { exclude: &[EndpointKey(1)], ..Default::default() };
        for _ in 0..6 {
            assert_ne!(picker.pick(&pool, &without, NOW, &mut rng), Some(1));
        }
        let next: Vec<_> = (0..3).map(|_| picker.pick(&pool, &PickRequest::default(), NOW, &mut rng)).collect();
        assert_eq!(next, [Some(1); 3]);
    }

    #[test]
    fn one_that_comes_gets_its_share_and_no_more() {
        let mut pool = pool(&[IDLE; 4], 1.0);
        let picker = SlidingWindow::new(SECOND);
        let every = Duration::from_millis(1);
        picks(&picker, &pool, NOW, every, 900);
        let joined = NOW + every * 900;
        let mut candidates = pool.candidates.to_vec();
        candidates[3].load = Arc::new(EndpointLoad::new(EndpointKey(9), joined));
        candidates[3].load.arrival().became_ready(joined);
        pool.candidates = candidates.into();
        let counts = picks(&picker, &pool, joined, every, 400);
        assert!(counts.iter().all(|count| (95..=106).contains(count)), "{counts:?}");
    }

    proptest! {
        #[test]
        fn at_every_moment_all_have_had_the_same_but_for_one(endpoints in 1usize..20, requests in 1u32..500) {
            // Within one bucket nothing is forgotten: the twin is a turn counter.
            let pool = pool(&vec![IDLE; endpoints], 1.0);
            let every = Duration::from_micros(1);
            let counts = picks(&SlidingWindow::new(SECOND), &pool, NOW, every, requests);
            let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
            prop_assert!(most - least <= 1, "{counts:?}");
            prop_assert_eq!(counts.iter().sum::<u32>(), requests);
        }
    }
}
