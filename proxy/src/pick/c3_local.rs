//! c3-local: `(own in flight × proxies + 1)³ × latency average`, lowest of all. The best heuristic that needs neither weights nor reports
//! (after C3, Suresh et al., NSDI 2015, without its server feedback); Trimtab's local rule is the same with other exponents.

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
    let latency_ms =
        candidate.load.latency_at(now, 1.0, None).or_else(|| pool.shared.latency.at(now, 1.0)).unwrap_or(1.0);
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::{SeedableRng, rngs::SmallRng};

    use super::*;
    use crate::{
        config::RuleParameters,
        pick::{
            rule::Rule,
            testing::{NOW, Spec, any_specs, pool},
        },
    };

    proptest! {
        #[test]
        fn it_picks_what_the_formula_says(specs in any_specs(1..50), proxies in 1u32..20, seed: u64) {
            let slow = |spec: &Spec| {
                (f64::from(spec.in_flight * proxies) + 1.0).powi(3) * f64::from(spec.latency_ms.unwrap_or(1))
            };
            let mut rng = SmallRng::seed_from_u64(seed);
            let picked = C3Local.pick(&pool(&specs, proxies as f32), &PickRequest::default(), NOW, &mut rng).unwrap();
            let lowest = specs.iter().map(slow).fold(f64::INFINITY, f64::min);
            prop_assert!(slow(&specs[picked]) <= lowest * (1.0 + 1e-6));
        }

        #[test]
        fn the_rule_with_its_parameters_and_nothing_pushed_is_c3_local(specs in any_specs(1..30), seed: u64) {
            // Of those that have not answered they think differently.
            let latency_ms = |spec: &Spec| spec.latency_ms.or(Some(33));
            let plain = |spec: &Spec| Spec { weight: 1.0, error: 0.0, reported: None, latency_ms: latency_ms(spec), ..*spec };
            let pool = pool(&specs.iter().map(plain).collect::<Vec<_>>(), 4.0);
            // In quiet the rule leaves more to chance.
            pool.shared.in_flight.ended(NOW, std::time::Duration::from_secs(10_000));
            let parameters =
                RuleParameters { exponent: 3.0, offset: 1.0, latency_exponent: 1.0, ..RuleParameters::LOCAL };
            let rule = Rule::new(&pool, &parameters);
            let score = |position: usize| score(&pool, &pool.candidates[position], Coarse::of(NOW));
            let request = PickRequest::default();
            let ours = rule.pick(&pool, &request, NOW, &mut SmallRng::seed_from_u64(seed)).unwrap();
            let theirs = C3Local.pick(&pool, &request, NOW, &mut SmallRng::seed_from_u64(seed)).unwrap();
            prop_assert!((score(ours) / score(theirs) - 1.0).abs() < 1e-5);
        }
    }
}
