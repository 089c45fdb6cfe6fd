//! Prequal's choice (Wydrowski, Kleinberg, Rumble, Archer: "Load is not what you should balance: Introducing Prequal", NSDI 2024, §4): of a few endpoints
//! whose load is known, the hot ones, with more in flight than a quantile of all, are set aside; of the cold ones the one with the lowest latency is taken, and
//! if all are hot the one with the fewest in flight (hot-cold lexicographic).
//!
//! What probes told ([`probes`](super::probes)) goes first. Where they say nothing, because none has been answered lately or none are wanted, answers stand in for
//! them: requests in flight by `endpoint-load-metrics` (ORCA) on each answer, own sends since then added, and the latency of late. Where an endpoint does
//! not say what it has in flight, own requests times the number of proxies stand for it.

use rand::RngCore;

use super::{Candidate, Pick, PickRequest, Pool, any_candidate, below};
use crate::time::Timestamp;

/// Endpoints that are looked at for a request: the paper's pool of probes.
const SAMPLE: usize = 16;

/// How bad an endpoint is: hot after cold, hot ones by requests in flight, cold ones by latency.
pub fn badness<T: PartialOrd>(in_flight: T, hot_above: &T, latency: T) -> (bool, T) {
    let hot = in_flight > *hot_above;
    (hot, if hot { in_flight } else { latency })
}

/// The value at a quantile of some; `None` if there are none.
pub fn quantile<T: Copy>(
    values: &mut [T],
    quantile: f64,
    order: impl FnMut(&T, &T) -> std::cmp::Ordering,
) -> Option<T> {
    let last = values.len().checked_sub(1)?;
    let rank = (last as f64 * quantile).round() as usize;
    Some(*values.select_nth_unstable_by(rank.min(last), order).1)
}

/// The coldest of a few.
#[derive(Debug, Clone, Copy)]
pub struct Prequal {
    hot_quantile: f64,
}

impl Prequal {
    /// What has more in flight than this quantile of those looked at is hot.
    pub fn new(hot_quantile: f64) -> Self {
        Self { hot_quantile }
    }
}

impl Pick for Prequal {
    fn pick<R: RngCore + ?Sized>(
        &self,
        pool: &Pool,
        request: &PickRequest<'_>,
        now: Timestamp,
        rng: &mut R,
    ) -> Option<usize> {
        if let Some(index) = request.probed
            && let Ok(position) = pool.candidates.binary_search_by_key(&index, |candidate| candidate.index)
            && !request.excludes(&pool.candidates[position])
        {
            return Some(position);
        }
        let len = pool.candidates.len();
        let (mut looked, mut count) = ([0_usize; SAMPLE], 0);
        if len <= SAMPLE {
            let allowed = (0..len).filter(|position| !request.excludes(&pool.candidates[*position]));
            allowed.for_each(|position| {
                looked[count] = position;
                count += 1;
            });
            // Ties go to any, not to the first.
            for at in (1..count).rev() {
                looked.swap(at, below(rng, at + 1));
            }
        } else {
            for _ in 0..SAMPLE {
                let position = any_candidate(pool, request, None, rng)?;
                if !looked[..count].contains(&position) {
                    looked[count] = position;
                    count += 1;
                }
            }
        }
        let in_flight = |candidate: &Candidate| candidate.load.in_flight_estimate(now, pool.proxies);
        let mut all = [0.0_f32; SAMPLE];
        for (place, position) in looked[..count].iter().enumerate() {
            all[place] = in_flight(&pool.candidates[*position]);
        }
        let loads = all;
        let hot_above = quantile(&mut all[..count], self.hot_quantile, f32::total_cmp)?;
        // One that has not answered yet is tried: its latency is as good as none.
        let latency = |candidate: &Candidate| candidate.load.latency_ms(now).unwrap_or(0.0);
        let badness_of = |place: &usize| badness(loads[*place], &hot_above, latency(&pool.candidates[looked[*place]]));
        let order = |a: &usize, b: &usize| {
            let (a, b) = (badness_of(a), badness_of(b));
            a.0.cmp(&b.0).then(a.1.total_cmp(&b.1))
        };
        (0..count).min_by(order).map(|place| looked[place])
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::{SeedableRng, rngs::SmallRng};

    use super::*;
    use crate::{
        config::EndpointKey,
        pick::testing::{IDLE, NOW, Spec, any_specs, check_shares, histogram, pool},
    };

    fn spec(in_flight: u32, latency_ms: u32) -> Spec {
        Spec { in_flight, latency_ms: Some(latency_ms), ..IDLE }
    }

    #[test]
    fn of_the_cold_ones_the_quickest_is_taken() {
        let pool = pool(&[spec(1, 50), spec(2, 40), spec(3, 30), spec(9, 10)], 1.0);
        assert_eq!(histogram(&Prequal::new(0.84), &pool, 20), [0, 0, 0, 20], "0.84 of four is the last: none is hot");
        assert_eq!(histogram(&Prequal::new(0.6), &pool, 20), [0, 0, 20, 0]);
    }

    #[test]
    fn where_only_the_idlest_is_cold_load_decides() {
        let pool = pool(&[spec(5, 1), spec(4, 1), spec(2, 90)], 1.0);
        assert_eq!(histogram(&Prequal::new(0.0), &pool, 20), [0, 0, 20]);
    }

    #[test]
    fn what_an_endpoint_says_of_itself_counts() {
        let told = Spec { reported: Some(50), ..spec(0, 1) };
        let pool = pool(&[told, spec(1, 20), spec(1, 30), spec(1, 40)], 1.0);
        assert_eq!(histogram(&Prequal::new(0.6), &pool, 20), [0, 20, 0, 0]);
    }

    #[test]
    fn of_those_that_are_alike_all_get_the_same() {
        check_shares(&histogram(&Prequal::new(0.84), &pool(&[IDLE; 5], 1.0), 20_000), &[0.2; 5]);
        check_shares(&histogram(&Prequal::new(0.84), &pool(&[IDLE; 40], 1.0), 40_000), &[1.0 / 40.0; 40]);
    }

    #[test]
    fn a_retry_goes_elsewhere() {
        let pool = pool(&[spec(0, 1), spec(9, 90)], 1.0);
        let request = PickRequest { exclude: &[EndpointKey(0)], ..Default::default() };
        assert_eq!(Prequal::new(0.84).pick(&pool, &request, NOW, &mut SmallRng::seed_from_u64(1)), Some(1));
        let none = PickRequest { exclude: &[EndpointKey(0), EndpointKey(1)], ..Default::default() };
        assert_eq!(Prequal::new(0.84).pick(&pool, &none, NOW, &mut SmallRng::seed_from_u64(1)), None);
    }

    #[test]
    fn what_probes_say_goes_first_while_that_may_be_picked() {
        let pool = pool(&[spec(0, 1), spec(9, 90)], 1.0);
        let pick = |probed, exclude: &[EndpointKey]| {
            let request = PickRequest { probed: Some(probed), exclude, ..Default::default() };
            Prequal::new(0.84).pick(&pool, &request, NOW, &mut SmallRng::seed_from_u64(1))
        };
        assert_eq!((pick(1, &[]), pick(1, &[EndpointKey(1)]), pick(7, &[])), (Some(1), Some(0), Some(0)));
    }

    proptest! {
        // The slow twin sorts.
        #[test]
        fn the_choice_is_what_sorting_finds(specs in any_specs(1..16), share in 0.0f64..=1.0, seed: u64) {
            let pool = pool(&specs, 3.0);
            let picked = Prequal::new(share).pick(&pool, &PickRequest::default(), NOW, &mut SmallRng::seed_from_u64(seed));
            let picked = picked.unwrap();
            let load = |at: usize| pool.candidates[at].load.in_flight_estimate(NOW, pool.proxies);
            let latency = |at: usize| pool.candidates[at].load.latency_ms(NOW).unwrap_or(0.0);
            let mut sorted: Vec<f32> = (0..specs.len()).map(load).collect();
            sorted.sort_by(f32::total_cmp);
            let hot_above = sorted[((sorted.len() - 1) as f64 * share).round() as usize];
            let cold: Vec<usize> = (0..specs.len()).filter(|at| load(*at) <= hot_above).collect();
            let quickest = cold.iter().map(|at| latency(*at)).fold(f32::INFINITY, f32::min);
            prop_assert!(cold.contains(&picked) && latency(picked) == quickest);
        }
    }
}
