//! Small arithmetic on numbers that come from outside and may be anything: every number of an observation passes
//! through here before it is calculated with.

use crate::observation::Measured;

/// Metrics older than this say nothing about now: ten default ticks, and several times the 1–2 s in which a pod's speed
/// can change under a noisy neighbour.
pub(crate) const STALE_S: f32 = 5.0;

/// Bound on any magnitude taken from outside; squares and sums over a million endpoints stay finite in `f64`.
const MAGNITUDE_MAX: f64 = 1e15;

/// The number itself where it is finite and not negative, bounded.
pub(crate) fn sane(value: f64) -> Option<f64> {
    (value.is_finite() && value >= 0.0).then(|| value.min(MAGNITUDE_MAX))
}

/// The number where it is sane and at most [`STALE_S`] old.
pub(crate) fn fresh(measured: Option<Measured>) -> Option<f64> {
    let measured = measured?;
    (measured.age_s <= STALE_S).then_some(measured.value).and_then(sane)
}

/// Share of the way that an exponential average with this time constant goes in `dt_s`.
pub(crate) fn gain(dt_s: f64, time_constant_s: f64) -> f64 {
    -(-dt_s / time_constant_s).exp_m1()
}

/// Length of a tick to calculate with: the nominal 500 ms where the given one makes no sense, and never so long that
/// one tick wipes out every average.
pub(crate) fn interval_s(given_s: f64) -> f64 {
    sane(given_s).filter(|&s| s > 0.0).unwrap_or(0.5).clamp(0.01, 10.0)
}

/// The median (the lower of the two middle ones); `None` of nothing. Reorders.
pub(crate) fn median(values: &mut [f64]) -> Option<f64> {
    if values.is_empty() {
        return None;
    }
    let middle = (values.len() - 1) / 2;
    let (_, median, _) = values.select_nth_unstable_by(middle, f64::total_cmp);
    Some(*median)
}

/// Scales non-negative numbers to sum 1; equal shares where the sum is of no use.
pub(crate) fn normalise(weights: &mut [f64]) {
    let sum: f64 = weights.iter().sum();
    if sum.is_finite() && sum > 0.0 {
        weights.iter_mut().for_each(|w| *w /= sum);
    } else if !weights.is_empty() {
        let equal = 1.0 / weights.len() as f64;
        weights.fill(equal);
    }
}

/// Shares in proportion to the exponentials, without overflow.
pub(crate) fn softmax(logs: &[f64]) -> Vec<f64> {
    let top = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mut shares: Vec<f64> = logs.iter().map(|l| (l - top).exp()).collect();
    normalise(&mut shares);
    shares
}
