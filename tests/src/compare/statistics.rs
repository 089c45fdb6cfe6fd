//! Ratios over paired repetitions: their geometric mean and a bootstrap interval.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::Serialize;

/// A ratio and the interval that holds it with 95 % confidence.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Estimate {
    /// Geometric mean over the repetitions.
    pub mean: f64,
    /// Lower bound.
    pub low: f64,
    /// Upper bound.
    pub high: f64,
}

/// Resamples of the bootstrap.
const RESAMPLES: usize = 2000;

/// The geometric mean of paired ratios with its percentile bootstrap interval (Efron, 1979). With very few repetitions the
/// interval is too narrow; it tells apart what plainly differs, not more. `None` without a finite, positive ratio.
pub fn geometric_mean(ratios: &[f64], seed: u64) -> Option<Estimate> {
    let logs: Vec<f64> =
        ratios.iter().filter(|ratio| ratio.is_finite() && **ratio > 0.0).map(|ratio| ratio.ln()).collect();
    if logs.is_empty() {
        return None;
    }
    let n = logs.len();
    let mut rng = StdRng::seed_from_u64(seed);
    let mut means: Vec<f64> =
        (0..RESAMPLES).map(|_| (0..n).map(|_| logs[rng.random_range(0..n)]).sum::<f64>() / n as f64).collect();
    means.sort_by(f64::total_cmp);
    let at = |share: f64| means[((RESAMPLES - 1) as f64 * share).round() as usize].exp();
    Some(Estimate { mean: (logs.iter().sum::<f64>() / n as f64).exp(), low: at(0.025), high: at(0.975) })
}

/// The geometric mean of simulated ratios, and where the mean of so many `repetitions` of them lies with 95 % confidence if logarithms are
/// normal: what chance alone does to a measurement that repeats as often. `None` with fewer than two finite, positive ratios.
pub fn expected(ratios: &[f64], repetitions: usize) -> Option<Estimate> {
    let logs: Vec<f64> =
        ratios.iter().filter(|ratio| ratio.is_finite() && **ratio > 0.0).map(|ratio| ratio.ln()).collect();
    if logs.len() < 2 {
        return None;
    }
    let n = logs.len() as f64;
    let mean = logs.iter().sum::<f64>() / n;
    let variance = logs.iter().map(|log| (log - mean).powi(2)).sum::<f64>() / (n - 1.0);
    let half = 1.96 * (variance / repetitions.max(1) as f64).sqrt();
    Some(Estimate { mean: mean.exp(), low: (mean - half).exp(), high: (mean + half).exp() })
}

/// The median; `None` without a value.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        n if n % 2 == 1 => Some(sorted[middle]),
        _ => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_holds_the_mean_and_is_tight_where_ratios_agree() {
        let wide = geometric_mean(&[0.5, 1.0, 2.0], 1).unwrap();
        assert!((wide.mean - 1.0).abs() < 1e-12 && wide.low < 1.0 && wide.high > 1.0, "{wide:?}");
        let tight = geometric_mean(&[0.7, 0.7, 0.7], 1).unwrap();
        assert!((tight.low - 0.7).abs() < 1e-9 && (tight.high - 0.7).abs() < 1e-9, "{tight:?}");
        assert_eq!(geometric_mean(&[f64::NAN, 0.0], 1), None);
    }

    #[test]
    fn what_chance_does_shrinks_with_repetitions() {
        let ratios = [0.5, 1.0, 2.0, 1.0];
        let (once, often) = (expected(&ratios, 1).unwrap(), expected(&ratios, 100).unwrap());
        assert!((once.mean - 1.0).abs() < 1e-12 && (often.mean - 1.0).abs() < 1e-12, "{once:?} {often:?}");
        assert!(((once.high.ln() / often.high.ln()) - 10.0).abs() < 1e-9, "{once:?} {often:?}");
        assert_eq!(expected(&[1.0], 3), None);
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(&[]), None);
    }
}
