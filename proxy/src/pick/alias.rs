//! Drawing in proportion to weights in constant time: Walker's alias method with Vose's set-up.

use rand::RngCore;

/// A table over positions `0..len`.
#[derive(Debug, Clone)]
pub struct AliasTable {
    slots: Box<[Slot]>,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    /// A 32-bit draw at or above this goes to the alias.
    threshold: u32,
    alias: u32,
}

impl AliasTable {
    /// From relative weights, each finite and > 0.
    pub fn new(weights: impl ExactSizeIterator<Item = f64>) -> Self {
        let len = weights.len();
        let mut scaled: Vec<f64> = weights.collect();
        let mean = scaled.iter().sum::<f64>() / len as f64;
        scaled.iter_mut().for_each(|weight| *weight /= mean);
        let mut slots: Box<[Slot]> = (0..len as u32).map(|alias| Slot { threshold: u32::MAX, alias }).collect();
        let (mut small, mut large): (Vec<usize>, Vec<usize>) = (0..len).partition(|&position| scaled[position] < 1.0);
        while let (Some(under), Some(&over)) = (small.pop(), large.last()) {
            slots[under] = Slot { threshold: (scaled[under] * f64::from(u32::MAX)) as u32, alias: over as u32 };
            scaled[over] -= 1.0 - scaled[under];
            if scaled[over] < 1.0 {
                large.pop();
                small.push(over);
            }
        }
        // What is left is full up to rounding.
        Self { slots }
    }

    /// Draws a position. Not of an empty table.
    #[inline]
    pub fn draw<R: RngCore + ?Sized>(&self, rng: &mut R) -> usize {
        let noise = rng.next_u64();
        let position = (((noise >> 32) * self.slots.len() as u64) >> 32) as usize;
        let slot = self.slots[position];
        if (noise as u32) < slot.threshold { position } else { slot.alias as usize }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::{SeedableRng, rngs::SmallRng};

    use super::*;
    use crate::pick::testing::check_shares;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn draws_are_in_proportion_to_the_weights(weights in prop::collection::vec(0.001f64..1_000.0, 1..60), seed: u64) {
            let table = AliasTable::new(weights.iter().copied());
            let mut rng = SmallRng::seed_from_u64(seed);
            let mut counts = vec![0; weights.len()];
            (0..20_000).for_each(|_| counts[table.draw(&mut rng)] += 1);
            let sum: f64 = weights.iter().sum();
            check_shares(&counts, &weights.iter().map(|weight| weight / sum).collect::<Vec<_>>());
        }
    }
}
