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
        // The largest weight takes every turn, so one generation after the other always yields somebody, unless it is excluded.
        for _ in 0..2 * len {
            let turn = pool.shared.cursor.fetch_add(1, Relaxed);
            let position = (turn % len as u64) as usize;
            if self.takes(position, turn / len as u64) && !request.excludes(&pool.candidates[position]) {
                return Some(position);
            }
        }
        (0..len).find(|&position| !request.excludes(&pool.candidates[position]))
    }
}
