//! Consistent hashing: requests with the same key go to the same endpoint, in every worker and proxy, and when an endpoint leaves, little more
//! than its own keys move. A ring (Karger et al. 1997) moves nothing else at all; Maglev (Eisenbud et al., NSDI 2016) spreads keys more evenly and
//! looks up in one step. Neither heeds load.

use rand::RngCore;

use super::{Pick, PickRequest, Pool};
use crate::time::Timestamp;

/// Points of each endpoint on a ring: their number is what evens its share out, to about 1/√160.
const POINTS: u64 = 160;
/// Slots of a Maglev table: a prime well above a hundred times the usual number of endpoints (the paper's small table).
const SLOTS: usize = 65_537;

/// A ring.
#[derive(Debug, Clone)]
pub struct Ring {
    /// Hash and position in the pool, sorted.
    points: Box<[(u64, u32)]>,
}

/// A Maglev table.
#[derive(Debug, Clone)]
pub struct Maglev {
    /// Positions in the pool; empty where there is none.
    slots: Box<[u32]>,
}

/// A well mixed function of two numbers (the finalizer of SplitMix64).
fn mix(a: u64, b: u64) -> u64 {
    let mut mixed = (a ^ b.rotate_left(32)).wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

impl Ring {
    /// Of the endpoints of a pool.
    pub fn new(pool: &Pool) -> Self {
        let mut points: Vec<(u64, u32)> = Vec::with_capacity(pool.candidates.len() * POINTS as usize);
        for (position, candidate) in pool.candidates.iter().enumerate() {
            let key = mix(candidate.load.key().0, 1);
            points.extend((0..POINTS).map(|point| (mix(key, point), position as u32)));
        }
        points.sort_unstable();
        Self { points: points.into() }
    }
}

impl Maglev {
    /// Of the endpoints of a pool.
    pub fn new(pool: &Pool) -> Self {
        // In the order of their keys, so that the table does not depend on how they are listed.
        let mut order: Vec<(u64, u32)> =
            pool.candidates.iter().enumerate().map(|(at, candidate)| (candidate.load.key().0, at as u32)).collect();
        order.sort_unstable();
        if order.is_empty() {
            return Self { slots: Box::default() };
        }
        let mut preferences: Vec<(usize, usize)> = order
            .iter()
            .map(|(key, _)| ((mix(*key, 2) % SLOTS as u64) as usize, (mix(*key, 3) % (SLOTS as u64 - 1)) as usize + 1))
            .collect();
        let mut slots = vec![u32::MAX; SLOTS];
        let mut filled = 0;
        // Each in turn takes the next free slot of its own permutation.
        'full: loop {
            for ((next, skip), (_, position)) in preferences.iter_mut().zip(&order) {
                while slots[*next] != u32::MAX {
                    *next = (*next + *skip) % SLOTS;
                }
                slots[*next] = *position;
                filled += 1;
                if filled == SLOTS {
                    break 'full;
                }
            }
        }
        Self { slots: slots.into() }
    }
}

impl Pick for Ring {
    fn pick<R: RngCore + ?Sized>(
        &self,
        pool: &Pool,
        request: &PickRequest<'_>,
        _now: Timestamp,
        _rng: &mut R,
    ) -> Option<usize> {
        let hash = mix(request.key, 4);
        let from = self.points.partition_point(|(point, _)| *point < hash);
        let around = self.points[from..].iter().chain(&self.points[..from]);
        let mut positions = around.map(|(_, position)| *position as usize);
        positions.find(|position| !request.excludes(&pool.candidates[*position]))
    }
}

impl Pick for Maglev {
    fn pick<R: RngCore + ?Sized>(
        &self,
        pool: &Pool,
        request: &PickRequest<'_>,
        _now: Timestamp,
        _rng: &mut R,
    ) -> Option<usize> {
        let from = (mix(request.key, 5) % SLOTS as u64) as usize;
        let around = self.slots.get(from..)?.iter().chain(self.slots.get(..from)?);
        let mut positions = around.map(|position| *position as usize);
        positions.find(|position| !request.excludes(&pool.candidates[*position]))
    }
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::SmallRng};

    use super::{
        super::testing::{IDLE, NOW, keyed_pool},
        *,
    };
    use crate::config::EndpointKey;

    const KEYS: u64 = 1_000_000;

    /// Endpoint keys as they are: hashes.
    fn pool(numbers: impl Iterator<Item = u64>) -> Pool {
        keyed_pool(&numbers.map(|number| (mix(number, 99), IDLE)).collect::<Vec<_>>(), 1.0)
    }

    fn picked(picker: &impl Pick, pool: &Pool, key: u64) -> EndpointKey {
        let request = PickRequest { key, ..PickRequest::default() };
        let position = picker.pick(pool, &request, NOW, &mut SmallRng::seed_from_u64(0)).unwrap();
        pool.candidates[position].load.key()
    }

    /// Shares over the mean, and the share of keys that moved although their endpoint stayed when one of ten left.
    fn check<P: Pick>(make: impl Fn(&Pool) -> P, uneven_max: f64, moved_max: f64) {
        let (all, reversed, fewer) = (pool(0..10), pool((0..10).rev()), pool((0..10).filter(|n| *n != 3)));
        let pickers = [make(&all), make(&reversed), make(&fewer)];
        let left = EndpointKey(mix(3, 99));
        let mut counts = std::collections::HashMap::new();
        let mut moved = 0;
        for key in 0..KEYS {
            let before = picked(&pickers[0], &all, key);
            assert_eq!(before, picked(&pickers[1], &reversed, key), "whoever builds it, in whatever order");
            let after = picked(&pickers[2], &fewer, key);
            assert_ne!(after, left);
            moved += u64::from(before != left && before != after);
            *counts.entry(before).or_insert(0_u64) += 1;
        }
        let most = *counts.values().max().unwrap() as f64 / (KEYS as f64 / 10.0);
        assert!(counts.len() == 10 && most <= uneven_max, "{most}");
        let moved = moved as f64 / KEYS as f64;
        assert!(moved <= moved_max, "{moved} of the keys moved without need");
    }

    #[test]
    fn a_ring_keeps_every_key_whose_endpoint_stays() {
        check(Ring::new, 1.25, 0.0);
    }

    #[test]
    fn maglev_spreads_keys_evenly_and_moves_few() {
        check(Maglev::new, 1.02, 0.05);
    }

    #[test]
    fn who_is_excluded_is_passed_over_by_all_alike() {
        let pool = pool(0..5);
        for key in 0..100 {
            let (ring, maglev) = (Ring::new(&pool), Maglev::new(&pool));
            let first = [picked(&ring, &pool, key), picked(&maglev, &pool, key)];
            for (index, exclude) in first.iter().enumerate() {
                let request = PickRequest { key, exclude: &[*exclude], ..PickRequest::default() };
                let rng = &mut SmallRng::seed_from_u64(0);
                let next = if index == 0 {
                    ring.pick(&pool, &request, NOW, rng)
                } else {
                    maglev.pick(&pool, &request, NOW, rng)
                };
                assert_ne!(pool.candidates[next.unwrap()].load.key(), *exclude);
            }
        }
        let nobody = keyed_pool(&[], 1.0);
        let rng = &mut SmallRng::seed_from_u64(0);
        assert_eq!(Ring::new(&nobody).pick(&nobody, &PickRequest::default(), NOW, rng), None);
        assert_eq!(Maglev::new(&nobody).pick(&nobody, &PickRequest::default(), NOW, rng), None);
    }
}
