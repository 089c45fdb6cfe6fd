//! Intervals for means of what is correlated in time: the moving-block bootstrap (Künsch 1989). Queues, bouts of trouble and surges last for seconds, so
//! whole stretches are drawn, not single ticks.

use rand::Rng;

use crate::simulator::random::{Purpose, stream};

/// Ticks of a block: half a minute, longer than queues live.
const BLOCK: usize = 60;
/// Resamples; the ends of a 95 % interval then rest on ten of them.
const RESAMPLES: usize = 400;

/// Draws resamples from a seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bootstrap {
    seed: u64,
}

/// A mean with its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mean {
    /// The mean.
    pub value: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// Standard error.
    pub error: f64,
}

impl Bootstrap {
    /// From this seed.
    pub const fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// The mean of all numbers, and its interval; blocks lie within one of the stretches. `None` of none. With a single block the interval is unbounded.
    pub fn mean(&self, stretches: &[Vec<f64>]) -> Option<Mean> {
        let count: usize = stretches.iter().map(Vec::len).sum();
        if count == 0 {
            return None;
        }
        let value = stretches.iter().flatten().sum::<f64>() / count as f64;
        // Every block of every stretch, as its sum and length.
        let mut blocks: Vec<(f64, f64)> = Vec::new();
        for stretch in stretches {
            let length = BLOCK.min(stretch.len());
            if length == 0 {
                continue;
            }
            let mut sum: f64 = stretch[..length].iter().sum();
            blocks.push((sum, length as f64));
            for (entering, leaving) in stretch[length..].iter().zip(stretch) {
                sum += entering - leaving;
                blocks.push((sum, length as f64));
            }
        }
        if count < 2 * BLOCK {
            return Some(Mean { value, low: f64::NEG_INFINITY, high: f64::INFINITY, error: f64::INFINITY });
        }
        let mut rng = stream(self.seed, Purpose::Learning, 0xb007);
        let mut means: Vec<f64> = (0..RESAMPLES)
            .map(|_| {
                let (mut sum, mut drawn) = (0.0, 0.0);
                while drawn < count as f64 {
                    let (block, length) = blocks[rng.random_range(0..blocks.len())];
                    sum += block;
                    drawn += length;
                }
                sum / drawn
            })
            .collect();
        means.sort_unstable_by(f64::total_cmp);
        let middle = means.iter().sum::<f64>() / RESAMPLES as f64;
        let variance = means.iter().map(|mean| (mean - middle).powi(2)).sum::<f64>() / (RESAMPLES - 1) as f64;
        let quantile = |q: f64| means[((RESAMPLES - 1) as f64 * q).round() as usize];
        // Blocks at the edges are drawn less often, which moves the middle of the resamples; the interval is put around the estimate.
        let (low, high) = (value + quantile(0.025) - middle, value + quantile(0.975) - middle);
        Some(Mean { value, low, high, error: variance.sqrt() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_distr::{Distribution, StandardNormal};

    /// How often the interval of an autoregressive series holds its true mean, 0.
    fn coverage(memory: f64, length: usize) -> f64 {
        let mut rng = stream(1, Purpose::Learning, 0);
        let runs = 300;
        let held = (0..runs)
            .filter(|run| {
                let mut x = 0.0;
                let series: Vec<f64> = (0..length)
                    .map(|_| {
                        let noise: f64 = StandardNormal.sample(&mut rng);
                        x = memory * x + noise;
                        x
                    })
                    .collect();
                let mean = Bootstrap::new(*run).mean(&[series]).unwrap();
                mean.low <= 0.0 && 0.0 <= mean.high
            })
            .count();
        held as f64 / runs as f64
    }

    #[test]
    fn intervals_hold_the_truth_about_as_often_as_they_say_though_ticks_depend_on_each_other() {
        for memory in [0.0, 0.8] {
            let held = coverage(memory, 3_000);
            assert!((0.90..=0.99).contains(&held), "memory {memory}: {held}");
        }
    }

    #[test]
    fn nothing_has_no_mean_and_little_has_no_bounds() {
        assert_eq!(Bootstrap::new(1).mean(&[]), None);
        assert_eq!(Bootstrap::new(1).mean(&[Vec::new()]), None);
        let mean = Bootstrap::new(1).mean(&[vec![2.0; 5]]).unwrap();
        assert_eq!((mean.value, mean.low, mean.high), (2.0, f64::NEG_INFINITY, f64::INFINITY));
        let two = [vec![1.0; 100], vec![3.0; 100]];
        assert_eq!(Bootstrap::new(1).mean(&two), Bootstrap::new(1).mean(&two));
    }
}
