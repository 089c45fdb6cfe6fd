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
