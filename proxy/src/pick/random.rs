//! Uniformly at random, without weights.

use rand::RngCore;

use super::{Pick, PickRequest, Pool, any_candidate};
use crate::time::Timestamp;

/// Uniformly at random.
#[derive(Debug, Clone, Copy)]
pub struct Random;

impl Pick for Random {
    fn pick<R: RngCore + ?Sized>(
        &self,
        pool: &Pool,
        request: &PickRequest<'_>,
        _now: Timestamp,
        rng: &mut R,
    ) -> Option<usize> {
        any_candidate(pool, request, None, rng)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pick::testing::{IDLE, check_shares, histogram, pool};

    #[test]
    fn everyone_has_the_same_chance() {
        check_shares(&histogram(&Random, &pool(&[IDLE; 10], 1.0), 50_000), &[0.1; 10]);
    }
}
