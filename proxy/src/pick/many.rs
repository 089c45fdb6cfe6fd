//! Very many candidates, of which a few are looked at: [`SAMPLES`] that are drawn in proportion to their weights, and the [`NEAR`] best of the sample before,
//! but for the one that was chosen. An endpoint that was nearly good enough is likely to be so still, and what one request has found out serves the next
//! (Mitzenmacher, Prabhakar and Shah, FOCS 2002).

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering::Relaxed},
};

use rand::RngCore;

use super::{Candidate, PickRequest, Pool, alias::AliasTable};

/// So many are drawn.
const SAMPLES: usize = 16;
/// And so many that came close before are looked at as well.
const NEAR: usize = 4;

/// Whom to look at.
#[derive(Debug, Clone)]
pub struct Many {
    draw: AliasTable,
    /// Positions; [`NOBODY`]: none yet. Workers that write at the same time lose one of them, which is no matter.
    near: Arc<[AtomicU32; NEAR]>,
}

const NOBODY: u32 = u32::MAX;

impl Many {
    /// For candidates of these weights.
    pub fn new(weights: impl ExactSizeIterator<Item = f64>) -> Self {
        Self { draw: AliasTable::new(weights), near: Arc::new([const { AtomicU32::new(NOBODY) }; NEAR]) }
    }

    /// The one with the lowest score of those that are looked at; `None` if the request excludes them all. `score` is told what it must stay below to matter.
    #[inline]
    pub fn lowest<R: RngCore + ?Sized>(
        &self,
        pool: &Pool,
        request: &PickRequest<'_>,
        rng: &mut R,
        score: impl Fn(&Candidate, f64) -> f64,
    ) -> Option<usize> {
        // All draws first: the loads behind them are fetched from memory side by side.
        let mut looked_at = [NOBODY; SAMPLES + NEAR];
        let (drawn, near) = looked_at.split_at_mut(SAMPLES);
        drawn.iter_mut().for_each(|position| *position = self.draw.draw(rng) as u32);
        near.iter_mut().zip(&*self.near).for_each(|(position, near)| *position = near.load(Relaxed));
        // The lowest first. Of equals the one that was drawn first: nobody in particular.
        let mut best = [(f64::INFINITY, NOBODY); NEAR + 1];
        for position in looked_at {
            let Some(candidate) = pool.candidates.get(position as usize) else { continue };
            if request.excludes(candidate) || best.iter().any(|(_, other)| *other == position) {
                continue;
            }
            let score = score(candidate, best[NEAR].0);
            let place = best.partition_point(|(other, _)| *other <= score);
            if place <= NEAR {
                best[place..].rotate_right(1);
                best[place] = (score, position);
            }
        }
        let [(_, lowest), near @ ..] = best;
        self.near.iter().zip(near).for_each(|(place, (_, position))| place.store(position, Relaxed));
        (lowest != NOBODY).then_some(lowest as usize)
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng, rngs::SmallRng};

    use super::*;
    use crate::{
        config::{OutlierDetection, RuleParameters},
        load::{Outcome, RequestClass},
        pick::{
            Pick,
            rule::Rule,
            testing::{IDLE, NOW, histogram, pool},
        },
    };

    const PARAMETERS: RuleParameters = RuleParameters::LOCAL;
    const CLASS: RequestClass = RequestClass(0);

    #[test]
    fn of_very_many_the_samples_follow_the_weights() {
        // One endpoint of 64 carries half of the weight: nearly every set of samples holds it, and being heaviest it wins while idle.
        let mut specs = [IDLE; 64];
        specs[10].weight = 63.0;
        let pool = pool(&specs, 1.0);
        let counts = histogram(&Rule::new(&pool, &PARAMETERS), &pool, 10_000);
        assert!(counts[10] > 9_990, "{counts:?}");
    }

    /// How many of 10,000 requests go to an endpoint that is not idle: of 400 endpoints 40 are, or more where some have two requests.
    fn sent_to_busy(mut pick: impl FnMut(&Pool, &mut SmallRng) -> usize, pool: &Pool) -> u32 {
        let mut rng = SmallRng::seed_from_u64(5);
        pool.shared.in_flight.ended(NOW, std::time::Duration::from_secs(100_000));
        let begin = |position: usize| (position, pool.candidates[position].load.begin(NOW, CLASS));
        let mut under_way: Vec<_> = (0..360).map(begin).collect();
        let mut busy = 0;
        for _ in 0..10_000 {
            let picked = pick(pool, &mut rng);
            busy += u32::from(pool.candidates[picked].load.in_flight() > 0);
            under_way.push(begin(picked));
            let (ended, attempt) = under_way.swap_remove(rng.random_range(0..under_way.len()));
            let load = &pool.candidates[ended].load;
            load.finish(attempt, NOW, Outcome::Success, None, None, &OutlierDetection::default());
        }
        busy
    }

    #[test]
    fn of_very_many_those_that_came_close_are_looked_at_again() {
        let fresh = || pool(&[IDLE; 400], 1.0);
        let (ours, theirs) = (fresh(), fresh());
        let rule = Rule::new(&ours, &PARAMETERS);
        let with = sent_to_busy(|pool, rng| rule.pick(pool, &PickRequest::default(), NOW, rng).unwrap(), &ours);
        let drawn_only = |pool: &Pool, rng: &mut SmallRng| {
            let drawn = (0..SAMPLES).map(|_| rng.random_range(0..pool.candidates.len()));
            drawn.min_by_key(|position| pool.candidates[*position].load.in_flight()).unwrap()
        };
        let without = sent_to_busy(drawn_only, &theirs);
        assert!(with * 2 < without, "{with} and {without}");
    }
}
