//! What a run costs: one number for latency, errors and lost goodput, bounded so that no single scenario decides what is
//! learned.

use crate::{scenario::Scenario, simulator::Summary};

/// What the median counts for beside the 99th percentile.
pub(crate) const MEDIAN_SHARE: f64 = 0.25;
/// A log ratio of latencies counts within this range: from a third of the bound's to seven times it.
const LATENCY_RANGE: (f64, f64) = (-1.0, 2.0);
/// What a share of errors costs: 1 % of errors like 20 % of latency.
pub(crate) const ERROR_COST: f64 = 20.0;
/// What a share of requests costs that were shed, or answered too late, where all could have been answered in time.
pub(crate) const LOST_COST: f64 = 5.0;
/// What a share of the reachable goodput costs in overload.
const OVERLOAD_COST: f64 = 3.0;
/// The most that errors, or lost requests, can cost.
const PENALTY_MAX: f64 = 2.0;

/// What a run costs; lower is better. `bound` is an omniscient dispatcher's run of the same scenario.
///
/// Below capacity: `ln(p99 / bound's) + 0.25 ln(p50 / bound's)`, and what errors and lost requests cost beyond the
/// bound's own. In `overload` latency says nothing, as whoever sheds answers other requests than who does not: there it is
/// the share of the reachable goodput that was missed.
pub fn cost(scenario: &Scenario, overload: bool, run: &Summary, bound: &Summary) -> f64 {
    if overload {
        return (OVERLOAD_COST * (1.0 - run.goodput_share / scenario.reachable_goodput().max(1e-9)))
            .clamp(LATENCY_RANGE.0, OVERLOAD_COST);
    }
    let log_ratio = |ours_ms: f64, bound_ms: f64| {
        let ratio = (ours_ms.max(1e-3) / bound_ms.max(1e-3)).ln();
        ratio.clamp(LATENCY_RANGE.0, LATENCY_RANGE.1)
    };
    let failed = |summary: &Summary| summary.error_share + summary.unroutable_share;
    let errors = ERROR_COST * (failed(run) - failed(bound)).max(0.0);
    let late = (bound.goodput_share - run.goodput_share).max(run.shed_share - bound.shed_share).max(0.0);
    log_ratio(run.latency_ms_p99, bound.latency_ms_p99)
        + MEDIAN_SHARE * log_ratio(run.latency_ms_p50, bound.latency_ms_p50)
        + errors.min(PENALTY_MAX)
        + (LOST_COST * late).min(PENALTY_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::{Family, Setting};
    use crate::simulator::statistics::Statistics;

    fn summary(p99_ms: f64) -> Summary {
        let nothing = Statistics::new(1, 1).summary(1);
        Summary { arrived: 1_000, goodput_share: 1.0, latency_ms_p50: 8.0, latency_ms_p99: p99_ms, ..nothing }
    }

    fn check(overload: bool, run: &Summary, expected: f64) {
        let load = if overload { Some(1.25) } else { None };
        let scenario = Family::Homogeneous.scenario(&Setting { load, ..Setting::new(1, 1, 8) });
        let found = cost(&scenario, overload, run, &summary(50.0));
        assert!((found - expected).abs() < 1e-9, "{found}, not {expected}");
    }

    #[test]
    fn latency_counts_as_log_ratios_to_the_bound_within_limits() {
        check(false, &summary(50.0), 0.0);
        check(false, &summary(100.0), 2f64.ln());
        check(false, &Summary { latency_ms_p50: 16.0, ..summary(50.0) }, 0.25 * 2f64.ln());
        check(false, &summary(1e9), 2.0);
    }

    #[test]
    fn errors_and_lost_requests_count_beside_latency() {
        check(false, &Summary { error_share: 0.01, ..summary(50.0) }, 0.2);
        check(false, &Summary { unroutable_share: 0.9, ..summary(50.0) }, 2.0);
        check(false, &Summary { shed_share: 0.1, goodput_share: 0.9, ..summary(50.0) }, 0.5);
    }

    #[test]
    fn in_overload_only_goodput_counts() {
        let run = Summary { goodput_share: 0.4, ..summary(1e9) };
        check(true, &run, 1.5);
        check(true, &Summary { goodput_share: 0.8, ..run }, 0.0);
    }
}
