//! Floor and ceiling on shares: the nearest distribution, in proportion, that keeps both.

use super::GuardSettings;
use crate::numbers::normalise;

/// Which way a share was moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moved {
    Up,
    Down,
}

/// Share that is `multiple` times the mean share of `others` other endpoints: of two endpoints, 4 gives 0.8.
fn share_of_multiple(multiple: f64, others: usize) -> f64 {
    if others == 0 { 1.0 } else { multiple / (multiple + others as f64) }
}

/// Brings the shares of ready endpoints within floor and ceiling and gives the others the floor; the result sums to 1.
/// Tells which ready shares were moved to a bound. Whatever comes in, what goes out is a distribution.
pub(super) fn hold(weights: &mut [f64], ready: &[bool], settings: &GuardSettings) -> Vec<(usize, Moved)> {
    let count = ready.iter().filter(|&&ready| ready).count();
    if count == 0 {
        weights.iter_mut().for_each(|w| *w = if w.is_finite() { w.max(f64::MIN_POSITIVE) } else { 1.0 });
        normalise(weights);
        return Vec::new();
    }
    let floor = share_of_multiple(settings.share_floor, count - 1);
    let ceiling = share_of_multiple(settings.share_ceiling, count - 1);
    let indices: Vec<usize> = (0..weights.len()).filter(|&index| ready[index]).collect();
    let mut shares: Vec<f64> =
        indices.iter().map(|&i| if weights[i].is_finite() { weights[i].max(1e-12) } else { 1e-12 }).collect();
    normalise(&mut shares);
    let scale = scale(&shares, floor, ceiling);
    let mut moved = Vec::new();
    for (share, &index) in shares.iter_mut().zip(&indices) {
        let wanted = *share * scale;
        *share = wanted.clamp(floor, ceiling);
        if *share > wanted * (1.0 + 1e-9) {
            moved.push((index, Moved::Up));
        } else if *share < wanted * (1.0 - 1e-9) {
            moved.push((index, Moved::Down));
        }
    }
    normalise(&mut shares);
    weights.fill(floor);
    for (share, &index) in shares.iter().zip(&indices) {
        weights[index] = *share;
    }
    normalise(weights);
    moved
}

/// The factor with which the clipped shares sum to 1, by bisection on its logarithm: the sum grows with the factor,
/// from
/// `count * floor` ≤ 1 to `count * ceiling` ≥ 1.
fn scale(shares: &[f64], floor: f64, ceiling: f64) -> f64 {
    if shares.iter().all(|share| (floor..=ceiling).contains(share)) {
        return 1.0;
    }
    let sum = |log_scale: f64| {
        let scale = log_scale.exp();
        shares.iter().map(|share| (share * scale).clamp(floor, ceiling)).sum::<f64>()
    };
    let (mut low, mut high) = (-30.0, 30.0);
    // 60 / 2^40 is below 1e-10: finer than the sum can tell.
    for _ in 0..40 {
        let middle = 0.5 * (low + high);
        if sum(middle) < 1.0 {
            low = middle;
        } else {
            high = middle;
        }
    }
    (0.5f64 * (low + high)).exp()
}
