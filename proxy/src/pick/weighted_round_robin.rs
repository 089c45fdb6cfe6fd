//! Smooth weighted round robin without a lock: gRPC's static stride scheduler (gRFC A58).
//!
//! Turns run through the candidates generation by generation. A candidate whose weight is the share `s` of the largest takes its turn in a
//! share `s` of the generations, evenly spaced, and is passed over in the others. The only state is the shared turn counter, so
//! workers never disagree and a new table continues where the old one stopped.

use std::sync::atomic::Ordering::Relaxed;

use rand::RngCore;

use super::{Pick, PickRequest, Pool};
use crate::time::Timestamp;

/// Weights are fixed-point shares of the largest: 2³² is 1.
const ONE: u64 = 1 << 32;

/// In turn, in proportion to the weights.
#[derive(Debug, Clone)]
pub struct WeightedRoundRobin {
    strides: Box<[u64]>,
}

impl WeightedRoundRobin {
    /// For the weights of `pool`. Every candidate gets at least one turn in 2³² generations.
    pub fn new(pool: &Pool) -> Self {
        let least = pool.candidates.iter().map(|candidate| candidate.inverse_weight).fold(f32::INFINITY, f32::min);
        let stride = |inverse: f32| (f64::from(least) / f64::from(inverse) * ONE as f64) as u64;
        let strides = pool.candidates.iter().map(|candidate| stride(candidate.inverse_weight).clamp(1, ONE)).collect();
        Self { strides }
    }

    /// Whether the candidate takes its turn in this generation: whether its fixed-point position passes a whole number.
    fn takes(&self, position: usize, generation: u64) -> bool {
        let stride = self.strides[position];
        // Golden-ratio offsets keep equal weights from taking their turns in the same generation.
        let offset = (position as u64).wrapping_mul(0x9e37_79b9);
        let phase = stride.wrapping_mul(generation).wrapping_add(offset) & (ONE - 1);
        phase + stride >= ONE
    }
}

impl Pick for WeightedRoundRobin {
    fn pick<R: RngCore + ?Sized>(
        &self,
        pool: &Pool,
        request: &PickRequest<'_>,
        _now: Timestamp,
        _rng: &mut R,
    ) -> Option<usize> {
        let len = self.strides.len();
        if len == 0 {
            return None;
        }
        // The largest weight takes its turn in every generation, so within two of them somebody does, unless other workers took the
        // turns or the request excludes whose turn it was.
        for _ in 0..2 * len {
            let turn = pool.shared.cursor.fetch_add(1, Relaxed);
            let position = (turn % len as u64) as usize;
            if self.takes(position, turn / len as u64) && !request.excludes(&pool.candidates[position]) {
                return Some(position);
            }
        }
        (0..len)
            .filter(|&position| !request.excludes(&pool.candidates[position]))
            .max_by_key(|&position| self.strides[position])
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::{SeedableRng, rngs::SmallRng};

    use super::*;
    use crate::{
        config::EndpointKey,
        pick::testing::{IDLE, NOW, Spec, histogram, pool},
    };

    fn weighted(weights: &[f32]) -> Pool {
        pool(&weights.iter().map(|&weight| Spec { weight, ..IDLE }).collect::<Vec<_>>(), 1.0)
    }

    #[test]
    fn whole_weights_are_met_exactly() {
        let pool = weighted(&[4.0, 2.0, 1.0, 1.0]);
        assert_eq!(histogram(&WeightedRoundRobin::new(&pool), &pool, 800), [400, 200, 100, 100]);
    }

    #[test]
    fn a_tiny_weight_gets_its_turns_and_stops_nothing() {
        let pool = weighted(&[1.0, 1e-9, 1.0]);
        let counts = histogram(&WeightedRoundRobin::new(&pool), &pool, 1_000);
        assert!(counts[0] >= 499 && counts[2] >= 499, "{counts:?}");
    }

    #[test]
    fn if_the_heaviest_is_excluded_the_next_heaviest_is_found() {
        let pool = weighted(&[1.0, 1e-8, 2e-8]);
        let request = PickRequest { exclude: &[EndpointKey(0)], ..Default::default() };
        let mut rng = SmallRng::seed_from_u64(1);
        let picker = WeightedRoundRobin::new(&pool);
        assert!((0..5).all(|_| picker.pick(&pool, &request, NOW, &mut rng).is_some_and(|picked| picked != 0)));
    }

    proptest! {
        // The twin is arithmetic: after g whole generations everyone has had its share of g turns, give or take one. That is as
        // smooth as it can be at every moment, not only in the long run.
        #[test]
        fn at_every_moment_everyone_is_within_two_turns_of_its_share(
            weights in prop::collection::vec(0.01f32..10.0, 1..20),
        ) {
            let pool = weighted(&weights);
            let picker = WeightedRoundRobin::new(&pool);
            let largest = weights.iter().copied().fold(0.0, f32::max);
            let mut rng = SmallRng::seed_from_u64(1);
            let mut counts = vec![0u32; weights.len()];
            for _ in 0..500 {
                counts[picker.pick(&pool, &PickRequest::default(), NOW, &mut rng).unwrap()] += 1;
                let generations = pool.shared.cursor.load(Relaxed) as f64 / weights.len() as f64;
                for (&count, weight) in counts.iter().zip(&weights) {
                    let due = generations * f64::from(weight / largest);
                    prop_assert!((f64::from(count) - due).abs() <= 2.001, "{count} turns, due {due}");
                }
            }
        }
    }
}
