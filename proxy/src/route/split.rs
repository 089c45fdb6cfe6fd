//! Splits requests between weighted references so that the shares are exact in the long run and even in the short.
//!
//! A counter walks over `total` slots with a stride that is coprime to `total`, near its golden section and, of those, as badly approximated by
//! fractions as can be: every slot is visited once in `total` steps, and any stretch of steps is spread evenly over them (the discrepancy of
//! such a walk is bounded by its partial quotients, Kuipers & Niederreiter 1974, ch. 2 §3).

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
        Some(Self { ends, stride: stride(total), next: AtomicU64::new(0) })
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

/// How many numbers on either side of the golden section are looked at.
const NEAR: u64 = 64;

fn stride(total: u64) -> u64 {
    let golden = (total as f64 * 0.618_033_988_75) as u64;
    let near = golden.saturating_sub(NEAR).max(1)..=(golden + NEAR).min(total);
    let coprime = near.filter(|stride| gcd(*stride, total) == 1);
    coprime.min_by_key(|stride| (largest_quotient(*stride, total), stride.abs_diff(golden))).unwrap_or(1)
}

/// The largest partial quotient of the continued fraction of a / b.
fn largest_quotient(a: u64, b: u64) -> u64 {
    b.checked_div(a).map_or(0, |quotient| quotient.max(largest_quotient(b % a, a)))
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
                    prop_assert!((*count as f64 - due).abs() <= 4.0, "{counts:?} of {weights:?} after {n}");
                }
            }
            for (count, weight) in counts.iter().zip(&weights) {
                prop_assert_eq!(*count, 2 * u64::from(*weight));
            }
        }
    }

    /// The stride nearest to the golden section, 97 of 162, is nearly three fifths: every fifth request would go to the same slots for long.
    #[test]
    fn a_stride_is_no_simple_fraction_of_the_total() {
        for total in 2..3_000 {
            let stride = stride(total);
            assert!(gcd(stride, total) == 1 && largest_quotient(stride, total) <= 5, "{stride} of {total}");
        }
        assert!((0.5..0.75).contains(&(stride(162) as f64 / 162.0)));
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
