//! Least request: the fewest of this proxy's own requests in flight, of all candidates or of two drawn at random (Mitzenmacher's power
//! of two choices, Envoy's default). Neither uses weights.

use rand::RngCore;

use super::{Pick, PickRequest, Pool, any_candidate, lowest};
use crate::time::Timestamp;

/// The fewest of all; ties at random.
#[derive(Debug, Clone, Copy)]
pub struct FullScan;

impl Pick for FullScan {
    fn pick<R: RngCore + ?Sized>(
        &self,
        pool: &Pool,
        request: &PickRequest<'_>,
        _now: Timestamp,
        rng: &mut R,
    ) -> Option<usize> {
        lowest(pool, request, 0..pool.candidates.len(), rng, |candidate| f64::from(candidate.load.in_flight()))
    }
}

/// The fewer of two different ones.
#[derive(Debug, Clone, Copy)]
pub struct TwoChoices;

impl Pick for TwoChoices {
    fn pick<R: RngCore + ?Sized>(
        &self,
        pool: &Pool,
        request: &PickRequest<'_>,
        _now: Timestamp,
        rng: &mut R,
    ) -> Option<usize> {
        let first = any_candidate(pool, request, None, rng)?;
        let Some(second) = any_candidate(pool, request, Some(first), rng) else { return Some(first) };
        let in_flight = |position: usize| pool.candidates[position].load.in_flight();
        // The first is as random as the second: it may have the tie.
        Some(if in_flight(second) < in_flight(first) { second } else { first })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::{SeedableRng, rngs::SmallRng};

    use super::*;
    use crate::pick::testing::{IDLE, NOW, Spec, any_specs, check_shares, histogram, pool};

    const BUSY: Spec = Spec { in_flight: 3, ..IDLE };

    #[test]
    fn ties_of_the_full_scan_are_broken_evenly() {
        let pool = pool(&[BUSY, IDLE, BUSY, IDLE, IDLE], 1.0);
        let third = 1.0 / 3.0;
        check_shares(&histogram(&FullScan, &pool, 30_000), &[0.0, third, 0.0, third, third]);
    }

    #[test]
    fn two_choices_avoid_the_busier_of_every_pair() {
        // Four endpoints with 0..=3 in flight: six pairs, the lower of each is picked.
        let specs = [0, 1, 2, 3].map(|in_flight| Spec { in_flight, ..IDLE });
        let sixth = 1.0 / 6.0;
        check_shares(
            &histogram(&TwoChoices, &pool(&specs, 1.0), 30_000),
            &[3.0 * sixth, 2.0 * sixth, 1.0 * sixth, 0.0],
        );
    }

    #[test]
    fn a_single_endpoint_needs_no_second() {
        assert_eq!(histogram(&TwoChoices, &pool(&[BUSY], 1.0), 3), [3]);
    }

    proptest! {
        #[test]
        fn the_full_scan_finds_what_sorting_finds(specs in any_specs(1..50), seed: u64) {
            let mut rng = SmallRng::seed_from_u64(seed);
            let picked = FullScan.pick(&pool(&specs, 1.0), &PickRequest::default(), NOW, &mut rng).unwrap();
            let fewest = specs.iter().map(|spec| spec.in_flight).min().unwrap();
            prop_assert_eq!(specs[picked].in_flight, fewest);
        }
    }
}
