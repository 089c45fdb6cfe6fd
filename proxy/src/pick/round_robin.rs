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
