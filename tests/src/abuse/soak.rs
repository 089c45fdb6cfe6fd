//! A long time at half load: what grows, what is lost.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::{load, target::Target};

/// One step of it.
#[derive(Debug, Clone, Serialize)]
pub struct Step {
    /// Minutes since the start.
    pub minute: f64,
    /// Requests answered within it.
    pub good: u64,
    /// Requests that were not.
    pub bad: u64,
    /// Latency, milliseconds.
    pub ms_p50: f64,
    /// The same.
    pub ms_p99: f64,
    /// Memory, KiB.
    pub resident_kib: u64,
    /// Descriptors.
    pub descriptors: usize,
}

/// Growth of memory that is no leak: allocators and caches settle for a while. KiB.
const GROWTH_KIB_MAX: u64 = 4 << 10;
/// The same as a share.
const GROWTH_MAX: f64 = 0.05;

/// Half of what the proxy can do, found by clients that wait for their answers for `length`.
pub async fn half_load(target: &Arc<Target>, length: Duration) -> f64 {
    load::most(target, length).await / 2.0
}

/// Runs one step of `length`.
///
/// # Errors
/// If the proxy ended.
pub async fn step(
    target: &Arc<Target>,
    rate: f64,
    length: Duration,
    minute: f64,
) -> anyhow::Result<(Step, Vec<String>)> {
    let outcome = load::steady(target, rate, length).await;
    // Its connections end with the step; those of one that is counted are gone.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let step = Step {
        minute,
        good: outcome.good,
        bad: outcome.bad,
        ms_p50: outcome.ms(0.5),
        ms_p99: outcome.ms(0.99),
        resident_kib: target.resident_kib()?,
        descriptors: target.descriptors()?,
    };
    Ok((step, outcome.complaints))
}

/// What is wrong with it all, if something is: the second quarter is held against the last.
#[must_use]
pub fn verdict(steps: &[Step]) -> Vec<String> {
    let mut wrong = Vec::new();
    let bad: u64 = steps.iter().map(|step| step.bad).sum();
    if bad > 0 {
        wrong.push(format!("{bad} requests failed"));
    }
    let quarter = steps.len() / 4;
    if quarter == 0 {
        wrong.push(format!("{} steps say nothing about growth: at least 4", steps.len()));
        return wrong;
    }
    let median = |part: &[Step], value: fn(&Step) -> u64| {
        let mut all: Vec<u64> = part.iter().map(value).collect();
        all.sort_unstable();
        all[all.len() / 2]
    };
    let (early, late) = (&steps[quarter..2 * quarter], &steps[steps.len() - quarter..]);
    let (was, is) = (median(early, |step| step.resident_kib), median(late, |step| step.resident_kib));
    if is > was + GROWTH_KIB_MAX.max((was as f64 * GROWTH_MAX) as u64) {
        wrong.push(format!("memory grew from {was} to {is} KiB"));
    }
    let (was, is) = (median(early, |step| step.descriptors as u64), median(late, |step| step.descriptors as u64));
    // Idle connections to endpoints come and go.
    if is > was + was / 2 + 8 {
        wrong.push(format!("descriptors grew from {was} to {is}"));
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(resident_kib: &[u64], descriptors: usize, bad: u64) -> Vec<Step> {
        let step = |(minute, &resident_kib): (usize, &u64)| Step {
            minute: minute as f64,
            good: 100,
            bad,
            ms_p50: 1.0,
            ms_p99: 2.0,
            resident_kib,
            descriptors: if minute > 4 { descriptors } else { 30 },
        };
        resident_kib.iter().enumerate().map(step).collect()
    }

    #[test]
    fn growth_after_the_first_quarter_is_told_and_a_start_is_not() {
        assert_eq!(verdict(&steps(&[10_000, 40_000, 50_000, 50_100, 50_200, 50_000, 50_300, 50_100], 30, 0)), [""; 0]);
        let leak = steps(&[50_000, 52_000, 54_000, 56_000, 58_000, 60_000, 62_000, 64_000], 30, 0);
        assert_eq!(verdict(&leak).len(), 1);
        assert_eq!(verdict(&steps(&[50_000; 8], 300, 0)).len(), 1);
        assert_eq!(verdict(&steps(&[50_000; 8], 30, 1)).len(), 1);
        assert_eq!(verdict(&steps(&[50_000; 3], 30, 0)).len(), 1);
    }
}
