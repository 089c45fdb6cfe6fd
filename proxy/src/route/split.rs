//! Splits requests between weighted references so that the shares are exact in the long run and even in the short.
//!
//! A counter walks over `total` slots with a stride that is coprime to `total` and near its golden section: every slot is visited once
//! in `total` steps, and neighbours in time lie far apart.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Weights of at most 10⁶ each (Gateway API) and a shared counter.
#[derive(Debug)]
pub struct Split {
    /// Upper ends of each reference's slots; the last is the total.
    ends: Vec<u64>,
    stride: u64,
    next: AtomicU64,
}

impl Split {
    /// `None` if all weights are zero or there are none.
    pub fn new(weights: &[u32]) -> Option<Self> {
        let divisor = weights.iter().fold(0, |divisor, weight| gcd(divisor, u64::from(*weight)));
        if divisor == 0 {
            return None;
        }
        let ends: Vec<u64> = weights
            .iter()
            .scan(0, |end, weight| {
                *end += u64::from(*weight) / divisor;
                Some(*end)
            })
            .collect();
        let total = ends.last().copied().unwrap_or(1);
        let golden = (total as f64 * 0.618_033_988_75) as u64;
        // Neighbouring numbers are never all divisible by a factor of `total`; 1 ends the search.
        let stride = (1..=golden.max(1)).rev().find(|stride| gcd(*stride, total) == 1).unwrap_or(1);
        Some(Self { ends, stride, next: AtomicU64::new(0) })
    }

    /// Index of the reference whose turn it is.
    pub fn next(&self) -> usize {
        if self.ends.len() == 1 {
            return 0;
        }
        let total = self.ends[self.ends.len() - 1];
        let turn = self.next.fetch_add(1, Relaxed) % total;
        // Both factors are below 2⁵⁰ only for absurd totals; 128 bits hold any.
        let slot = (u128::from(turn) * u128::from(self.stride) % u128::from(total)) as u64;
        self.ends.partition_point(|end| *end <= slot)
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn shares_are_exact_over_a_round_and_never_far_off(weights in prop::collection::vec(0u32..50, 1..6)) {
            let Some(split) = Split::new(&weights) else {
                prop_assert!(weights.iter().all(|w| *w == 0));
                return Ok(());
            };
            let total: u64 = weights.iter().map(|w| u64::from(*w)).sum();
            let mut counts = vec![0u64; weights.len()];
            for n in 1..=2 * total {
                counts[split.next()] += 1;
                for (count, weight) in counts.iter().zip(&weights) {
                    let due = n as f64 * f64::from(*weight) / total as f64;
                    prop_assert!((*count as f64 - due).abs() <= 8.0, "{counts:?} of {weights:?} after {n}");
                }
            }
            for (count, weight) in counts.iter().zip(&weights) {
                prop_assert_eq!(*count, 2 * u64::from(*weight));
            }
        }
    }

    #[test]
    fn a_reference_without_weight_gets_nothing() {
        let split = Split::new(&[0, 3, 0, 1]).unwrap();
        let mut counts = [0; 4];
        (0..400).for_each(|_| counts[split.next()] += 1);
        assert_eq!(counts, [0, 300, 0, 100]);
        assert!(Split::new(&[]).is_none() && Split::new(&[0, 0]).is_none());
    }

    #[test]
    fn the_largest_weights_do_not_overflow() {
        let split = Split::new(&[u32::MAX, u32::MAX - 1, 1]).unwrap();
        (0..1000).for_each(|_| assert!(split.next() < 3));
    }
}
