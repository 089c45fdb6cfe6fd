//! Round robin: everyone in turn. Workers share one cursor, which outlives tables.

use std::sync::atomic::Ordering::Relaxed;

use rand::RngCore;

use super::{Pick, PickRequest, Pool};
use crate::time::Timestamp;

/// Everyone in turn.
#[derive(Debug, Clone, Copy)]
pub struct RoundRobin;

impl Pick for RoundRobin {
    fn pick<R: RngCore + ?Sized>(
        &self,
        pool: &Pool,
        request: &PickRequest<'_>,
        _now: Timestamp,
        _rng: &mut R,
    ) -> Option<usize> {
        let len = pool.candidates.len();
        if len == 0 {
            return None;
        }
        let turn = pool.shared.cursor.fetch_add(1, Relaxed) % len as u64;
        // Who is excluded is passed over for the next in line.
        (0..len)
            .map(|step| (turn as usize + step) % len)
            .find(|&position| !request.excludes(&pool.candidates[position]))
    }
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::SmallRng};

    use super::*;
    use crate::{
        config::EndpointKey,
        pick::testing::{IDLE, NOW, histogram, pool},
    };

    #[test]
    fn everyone_is_picked_equally_often_and_in_turn() {
        let pool = pool(&[IDLE; 7], 1.0);
        assert_eq!(histogram(&RoundRobin, &pool, 700), [100; 7]);
        let mut rng = SmallRng::seed_from_u64(1);
        let turns: Vec<_> = (0..9).map(|_| RoundRobin.pick(&pool, &PickRequest::default(), NOW, &mut rng)).collect();
        assert_eq!(turns, [0, 1, 2, 3, 4, 5, 6, 0, 1].map(Some));
    }

    #[test]
    fn who_is_excluded_is_passed_over() {
        let pool = pool(&[IDLE; 3], 1.0);
        let request = PickRequest { exclude: &[EndpointKey(0), EndpointKey(2)], ..Default::default() };
        let mut rng = SmallRng::seed_from_u64(1);
        assert!((0..5).all(|_| RoundRobin.pick(&pool, &request, NOW, &mut rng) == Some(1)));
    }
}
