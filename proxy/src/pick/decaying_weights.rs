//! Weighted round robin in which an endpoint that comes to others, by a scale-up or in place of another one, begins at a multiple of its weight and
//! approaches it exponentially: `w · (1 + (start − 1) · 2^(−age / half-life))`. A start below 1 warms caches up, one above 1 relieves the others at once.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use rand::RngCore;

use super::{Candidate, Pick, PickRequest, Pool, below, weighted_round_robin::WeightedRoundRobin};
use crate::time::Timestamp;

/// After so many half-lives nothing is left that could be told apart.
const HALF_LIVES_MAX: u32 = 10;

/// In turn, in proportion to weights that decay to what they are to be.
#[derive(Debug, Clone)]
pub struct DecayingWeights {
    turns: WeightedRoundRobin,
    start: f64,
    half_life: Duration,
    /// When the last of those that came has its weight; nothing is to be worked out from then on.
    settled_at: Option<Timestamp>,
}

impl DecayingWeights {
    /// For the weights of `pool`.
    pub fn new(pool: &Pool, start: f64, half_life: Duration) -> Self {
        let joined = pool.candidates.iter().filter_map(|candidate| candidate.load.arrival().ready_since()).max();
        let settled_at = joined.map(|joined| joined + half_life * HALF_LIVES_MAX);
        Self { turns: WeightedRoundRobin::new(pool), start, half_life, settled_at }
    }

    /// What the endpoint's weight is multiplied with now.
    fn factor(&self, candidate: &Candidate, now: Timestamp) -> f64 {
        let Some(joined) = candidate.load.arrival().ready_since() else { return 1.0 };
        let half_lives = now.since(joined).as_secs_f64() / self.half_life.as_secs_f64();
        1.0 + (self.start - 1.0) * (-half_lives).exp2()
    }
}

impl Pick for DecayingWeights {
    fn pick<R: RngCore + ?Sized>(
        &self,
        pool: &Pool,
        request: &PickRequest<'_>,
        now: Timestamp,
        rng: &mut R,
    ) -> Option<usize> {
        if self.settled_at.is_none_or(|settled| now >= settled) {
            return self.turns.pick(pool, request, now, rng);
        }
        let largest = pool.candidates.iter().map(|candidate| self.factor(candidate, now)).fold(0.0, f64::max);
        // A turn is taken with a chance in proportion to the factor: shares come out in proportion to weight times factor.
        for _ in 0..64 {
            let position = self.turns.pick(pool, request, now, rng)?;
            let chance = self.factor(&pool.candidates[position], now) / largest;
            if f64::from(rng.next_u32()) < chance * f64::from(u32::MAX) {
                return Some(position);
            }
        }
        // Hardly ever: all whose turn it was are new.
        let from = pool.shared.cursor.fetch_add(1, Relaxed) as usize + below(rng, pool.candidates.len().max(1));
        let around = (0..pool.candidates.len()).map(|step| (from + step) % pool.candidates.len());
        around.into_iter().find(|position| !request.excludes(&pool.candidates[*position]))
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
        pick::testing::{IDLE, NOW, Spec, check_shares, pool},
    };

    const HALF_LIFE: Duration = Duration::from_secs(10);

    /// Shares of `weights`, of which the last came `age` ago.
    fn shares(weights: &[f32], start: f64, age: Duration, picks: usize) -> Vec<usize> {
        let mut pool = pool(&weights.iter().map(|&weight| Spec { weight, ..IDLE }).collect::<Vec<_>>(), 1.0);
        let mut candidates = pool.candidates.to_vec();
        if let Some(last) = candidates.last_mut() {
            last.load = Arc::new(EndpointLoad::new(EndpointKey(99), NOW));
            last.load.arrival().became_ready(NOW);
        }
        pool.candidates = candidates.into();
        let picker = DecayingWeights::new(&pool, start, HALF_LIFE);
        let mut rng = SmallRng::seed_from_u64(5);
        let mut counts = vec![0; weights.len()];
        for _ in 0..picks {
            counts[picker.pick(&pool, &PickRequest::default(), NOW + age, &mut rng).unwrap()] += 1;
        }
        counts
    }

    #[test]
    fn a_new_endpoint_begins_at_its_start_and_comes_to_its_weight() {
        for (start, half_lives, factor) in
            [(0.1, 0, 0.1), (0.1, 1, 0.55), (0.1, 3, 0.8875), (3.0, 0, 3.0), (3.0, 2, 1.5), (0.1, 20, 1.0)]
        {
            let counts = shares(&[1.0, 1.0, 2.0], start, HALF_LIFE * half_lives, 40_000);
            let sum = 2.0 + 2.0 * factor;
            check_shares(&counts, &[1.0 / sum, 1.0 / sum, 2.0 * factor / sum]);
        }
    }

    #[test]
    fn without_new_ones_it_is_weighted_round_robin() {
        let pool = pool(&[4.0, 2.0, 1.0, 1.0].map(|weight| Spec { weight, ..IDLE }), 1.0);
        let picker = DecayingWeights::new(&pool, 0.1, HALF_LIFE);
        assert_eq!(crate::pick::testing::histogram(&picker, &pool, 800), [400, 200, 100, 100]);
    }

    proptest! {
        #[test]
        fn somebody_is_picked_unless_all_are_excluded(count in 1usize..12, start in 0.01f64..10.0, seed: u64) {
            let mut pool = pool(&vec![IDLE; count], 1.0);
            let mut candidates = pool.candidates.to_vec();
            for (key, candidate) in candidates.iter_mut().enumerate() {
                candidate.load = Arc::new(EndpointLoad::new(EndpointKey(key as u64), NOW));
                candidate.load.arrival().became_ready(NOW);
            }
            pool.candidates = candidates.into();
            let picker = DecayingWeights::new(&pool, start, HALF_LIFE);
            let mut rng = SmallRng::seed_from_u64(seed);
            let exclude: Vec<EndpointKey> = (1..count as u64).map(EndpointKey).collect();
            let request = PickRequest { exclude: &exclude, ..Default::default() };
            prop_assert_eq!(picker.pick(&pool, &request, NOW, &mut rng), Some(0));
            prop_assert!(picker.pick(&pool, &PickRequest::default(), NOW, &mut rng).is_some());
        }
    }
}
