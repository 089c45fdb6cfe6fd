//! c3-local: `(own in flight × proxies + 1)³ × latency average`, lowest of all. The best heuristic that needs neither weights nor reports
//! (after C3, Suresh et al., NSDI 2015, without its server feedback); Trimtab's rule fades to it when the controller is gone.

use rand::RngCore;

use super::{Candidate, Pick, PickRequest, Pool, lowest};
use crate::time::{Coarse, Timestamp};

/// c3-local.
#[derive(Debug, Clone, Copy, Default)]
pub struct C3Local;

impl C3Local {
    /// It has nothing to prepare.
    pub fn new() -> Self {
        Self
    }
}

fn score(pool: &Pool, candidate: &Candidate, now: Coarse) -> f64 {
    let queue = f64::from(candidate.load.in_flight()) * f64::from(pool.proxies) + 1.0;
    // Who has not answered yet is taken for average; if nobody has, the value does not matter.
    let latency_ms = candidate.load.latency_at(now).or_else(|| pool.shared.latency.at(now)).unwrap_or(1.0);
    queue * queue * queue * f64::from(latency_ms)
}

impl Pick for C3Local {
    fn pick<R: RngCore + ?Sized>(
        &self,
        pool: &Pool,
        request: &PickRequest<'_>,
        now: Timestamp,
        rng: &mut R,
    ) -> Option<usize> {
        let now = Coarse::of(now);
        lowest(pool, request, 0..pool.candidates.len(), rng, |candidate| score(pool, candidate, now))
    }
}
