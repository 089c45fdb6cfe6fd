//! Peak EWMA as in Finagle and Linkerd: of two candidates drawn at random, the one with the lower latency average times requests in
//! flight. The average rises to a slow answer at once and sinks over ten seconds (`average::PeakAverage`).

use rand::RngCore;

use super::{Candidate, Pick, PickRequest, Pool, any_candidate};
use crate::time::Timestamp;

/// Linkerd's peak EWMA over two choices.
#[derive(Debug, Clone, Copy)]
pub struct PeakEwma;

fn cost(candidate: &Candidate, now: Timestamp) -> f64 {
    f64::from(candidate.load.peak_ms(now)) * (f64::from(candidate.load.in_flight()) + 1.0)
}

impl Pick for PeakEwma {
    fn pick<R: RngCore + ?Sized>(
        &self,
        pool: &Pool,
        request: &PickRequest<'_>,
        now: Timestamp,
        rng: &mut R,
    ) -> Option<usize> {
        let first = any_candidate(pool, request, None, rng)?;
        let Some(second) = any_candidate(pool, request, Some(first), rng) else { return Some(first) };
        let cost = |position: usize| cost(&pool.candidates[position], now);
        Some(if cost(second) < cost(first) { second } else { first })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pick::testing::{IDLE, Spec, check_shares, histogram, pool};

    #[test]
    fn the_cheaper_of_every_pair_is_picked() {
        // Costs 50·3 = 150, 200·1 = 200, and 30 for the unknown one (Linkerd's default): latency and queue trade off.
        let specs = [Spec { latency_ms: Some(50), in_flight: 2, ..IDLE }, Spec { latency_ms: Some(200), ..IDLE }, IDLE];
        let third = 1.0 / 3.0;
        check_shares(&histogram(&PeakEwma, &pool(&specs, 1.0), 30_000), &[third, 0.0, 2.0 * third]);
    }
}
