//! Endpoints of the proxy's own zone first, until they are that much busier: weighted least request in which what lies elsewhere is taken for `spillover`
//! times as loaded. Requests spill over by load, one by one, and come back by themselves. Where the zone of the proxy is not known, or no endpoint is
//! in it, all are alike.

use rand::RngCore;

use super::{Candidate, Pick, PickRequest, Pool, lowest};
use crate::time::Timestamp;

/// Near ones first.
#[derive(Debug, Clone)]
pub struct Locality {
    /// One a candidate: 1 where it is near, `spillover` elsewhere.
    penalties: Box<[f64]>,
}

impl Locality {
    /// Of candidates of which `is_near` is told by their position in the list of endpoints.
    pub fn new(pool: &Pool, spillover: f64, is_near: impl Fn(usize) -> bool) -> Self {
        let near: Vec<bool> = pool.candidates.iter().map(|candidate| is_near(candidate.index as usize)).collect();
        let none = !near.contains(&true);
        Self { penalties: near.into_iter().map(|near| if near || none { 1.0 } else { spillover }).collect() }
    }
}

impl Pick for Locality {
    fn pick<R: RngCore + ?Sized>(
        &self,
        pool: &Pool,
        request: &PickRequest<'_>,
        now: Timestamp,
        rng: &mut R,
    ) -> Option<usize> {
        // Load a unit of weight if this request were there, too.
        let load = |candidate: &Candidate| {
            let there = candidate.load.in_flight_estimate(now, pool.proxies);
            f64::from(there + 1.0) * f64::from(candidate.inverse_weight)
        };
        let positions = 0..pool.candidates.len();
        let best = |near: bool, rng: &mut R| {
            let alike = positions.clone().filter(|position| (self.penalties[*position] <= 1.0) == near);
            lowest(pool, request, alike, rng, load)
        };
        let Some(here) = best(true, rng) else { return best(false, rng) };
        let Some(there) = best(false, rng) else { return Some(here) };
        let spills = load(&pool.candidates[here]) > load(&pool.candidates[there]) * self.penalties[there];
        Some(if spills { there } else { here })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::{SeedableRng, rngs::SmallRng};

    use super::*;
    use crate::{
        config::EndpointKey,
        load::RequestClass,
        pick::testing::{IDLE, NOW, Spec, any_specs, histogram, pool},
    };

    fn busy(in_flight: u32) -> Spec {
        Spec { in_flight, ..IDLE }
    }

    #[test]
    fn all_stay_in_the_zone_while_it_is_not_much_busier() {
        let pool = pool(&[busy(1), busy(1), IDLE], 1.0);
        let picker = Locality::new(&pool, 2.0, |index| index < 2);
        // Twice as loaded is not more than twice.
        assert_eq!(histogram(&picker, &pool, 1_000)[2], 0);
    }

    #[test]
    fn they_spill_over_when_it_is() {
        let pool = pool(&[busy(2), busy(2), IDLE], 1.0);
        let picker = Locality::new(&pool, 2.0, |index| index < 2);
        assert_eq!(histogram(&picker, &pool, 100), [0, 0, 100]);
    }

    #[test]
    fn as_many_go_elsewhere_as_the_factor_says() {
        // Requests that stay: they go where the load of both, penalized, is the same.
        let pool = pool(&[IDLE; 4], 1.0);
        let picker = Locality::new(&pool, 3.0, |index| index < 2);
        let mut rng = SmallRng::seed_from_u64(1);
        let mut counts = [0_u32; 4];
        for _ in 0..800 {
            let picked = picker.pick(&pool, &PickRequest::default(), NOW, &mut rng).unwrap();
            let _stays = pool.candidates[picked].load.begin(NOW, RequestClass::default());
            counts[picked] += 1;
        }
        let (near, far) = (counts[0] + counts[1], counts[2] + counts[3]);
        assert!((590..=610).contains(&near) && counts[0].abs_diff(counts[1]) <= 2, "{counts:?}, {far}");
    }

    #[test]
    fn weights_are_what_a_unit_of_load_is() {
        let pool = pool(&[Spec { weight: 4.0, in_flight: 7, ..IDLE }, Spec { in_flight: 1, ..IDLE }, IDLE], 1.0);
        let picker = Locality::new(&pool, 2.0, |index| index < 2);
        // (7 + 1) / 4 = (1 + 1) / 1 = 2: both are as loaded, and twice as much as the third.
        let counts = histogram(&picker, &pool, 1_000);
        assert!(counts[0] > 400 && counts[1] > 400 && counts[2] == 0, "{counts:?}");
    }

    #[test]
    fn where_no_zone_is_near_all_are_alike() {
        let pool = pool(&[busy(1), IDLE, busy(1)], 1.0);
        assert_eq!(histogram(&Locality::new(&pool, 50.0, |_| false), &pool, 10), [0, 10, 0]);
    }

    #[test]
    fn a_retry_leaves_a_zone_that_has_nobody_else() {
        let pool = pool(&[IDLE, busy(9)], 1.0);
        let picker = Locality::new(&pool, 2.0, |index| index == 0);
        let request = PickRequest { exclude: &[EndpointKey(0)], ..Default::default() };
        assert_eq!(picker.pick(&pool, &request, NOW, &mut SmallRng::seed_from_u64(1)), Some(1));
    }

    proptest! {
        // The slow twin: the lowest of all penalized loads, a tie between zones going to the near one.
        #[test]
        fn nobody_is_less_loaded_as_the_factor_has_it(specs in any_specs(1..30), spillover in 1.0f64..10.0, seed: u64) {
            let pool = pool(&specs, 2.0);
            let picker = Locality::new(&pool, spillover, |index| index % 3 == 0);
            let picked = picker.pick(&pool, &PickRequest::default(), NOW, &mut SmallRng::seed_from_u64(seed)).unwrap();
            let score = |position: usize| {
                let candidate = &pool.candidates[position];
                let there = candidate.load.in_flight_estimate(NOW, pool.proxies);
                let penalty = if position.is_multiple_of(3) { 1.0 } else { spillover };
                f64::from(there + 1.0) * f64::from(candidate.inverse_weight) * penalty
            };
            let least = (0..specs.len()).map(score).fold(f64::INFINITY, f64::min);
            prop_assert!(score(picked) <= least * 1.000_001);
        }
    }
}
