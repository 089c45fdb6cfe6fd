//! What runs say about policies: each metric of each policy in each cell, as a ratio to a baseline where that makes sense, with
//! intervals over seeds.

use super::{Cell, Grid, Interval, Run};
use crate::{
    contest::{Contest, Role},
    simulator::Summary,
};

/// What policies are judged by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metric {
    /// 99th percentile of latency.
    P99,
    /// Median latency.
    P50,
    /// Mean latency.
    Mean,
    /// 5xx answers, failures, and requests for which there was no endpoint, in percent of what arrived.
    Errors,
    /// Successful answers within the objective, in percent of what arrived.
    Goodput,
    /// Refused by admission control, in percent of what arrived.
    Shed,
}

impl Metric {
    /// All of them, in the order of tables.
    pub const ALL: [Self; 6] = [Self::P99, Self::P50, Self::Mean, Self::Errors, Self::Goodput, Self::Shed];

    /// Name in tables and documents.
    pub const fn name(self) -> &'static str {
        match self {
            Self::P99 => "p99",
            Self::P50 => "p50",
            Self::Mean => "mean",
            Self::Errors => "errors",
            Self::Goodput => "goodput",
            Self::Shed => "shed",
        }
    }

    /// Whether it is a latency, told as a ratio to the baseline.
    pub const fn is_latency(self) -> bool {
        matches!(self, Self::P99 | Self::P50 | Self::Mean)
    }

    /// Its value in milliseconds or percent.
    pub fn of(self, summary: &Summary) -> f64 {
        match self {
            Self::P99 => summary.latency_ms_p99,
            Self::P50 => summary.latency_ms_p50,
            Self::Mean => summary.latency_ms_mean,
            Self::Errors => 100.0 * (summary.error_share + summary.unroutable_share),
            Self::Goodput => 100.0 * summary.goodput_share,
            Self::Shed => 100.0 * summary.shed_share,
        }
    }
}

/// What latencies are told as a ratio to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Baseline {
    /// Of each run, the bound with the lowest 99th percentile; without those that know the sizes of requests in advance
    /// ("nonclairvoyant": Motwani, Phillips and Torng 1994) if so wanted.
    BestBound {
        /// Whether those count as well.
        clairvoyant: bool,
    },
    /// This policy.
    Policy(usize),
    /// Nothing: milliseconds.
    Absolute,
}

/// All runs of a grid.
#[derive(Debug)]
pub struct Results<'a> {
    /// What was run.
    pub grid: &'a Grid,
    /// Who ran, by number.
    pub policies: &'a [Box<dyn Contest>],
    /// What latencies are told as a ratio to.
    pub baseline: Baseline,
    /// By cell, then seed, then policy.
    pub runs: &'a [Run],
}

impl std::fmt::Debug for dyn Contest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl Results<'_> {
    /// A metric of a policy over all cells that `wanted` names, with its interval over seeds: latencies as geometric means of
    /// ratios, shares as means. Every cell counts alike. `None` where a run failed or answered nothing.
    pub fn over(&self, wanted: impl Fn(&Cell) -> bool, policy: usize, metric: Metric) -> Option<Interval> {
        self.per_seed(wanted, metric.is_latency(), |cell, seed| {
            let value = metric.of(self.summary(cell, seed, policy)?);
            if !metric.is_latency() {
                return Some(value);
            }
            let base = match self.baseline {
                Baseline::Absolute => 1.0,
                Baseline::Policy(base) => metric.of(self.summary(cell, seed, base)?),
                Baseline::BestBound { clairvoyant } => metric.of(self.best_bound(cell, seed, clairvoyant)?),
            };
            logarithm_of_ratio(value, base)
        })
    }

    /// `ours` ÷ `theirs` of a latency, or their difference in points of a share: paired by cell and seed.
    pub fn versus(
        &self,
        wanted: impl Fn(&Cell) -> bool,
        ours: usize,
        theirs: usize,
        metric: Metric,
    ) -> Option<Interval> {
        self.per_seed(wanted, metric.is_latency(), |cell, seed| {
            let ours = metric.of(self.summary(cell, seed, ours)?);
            let theirs = metric.of(self.summary(cell, seed, theirs)?);
            if metric.is_latency() { logarithm_of_ratio(ours, theirs) } else { Some(ours - theirs) }
        })
    }

    /// The rival that does best in a cell: lowest 99th percentile, or with overload the most goodput.
    pub fn best_rival(&self, cell: &Cell) -> Option<usize> {
        let metric = if cell.family.is_overload() { Metric::Goodput } else { Metric::P99 };
        let sign = if metric.is_latency() { 1.0 } else { -1.0 };
        (0..self.policies.len())
            .filter(|policy| self.policies[*policy].role() == Role::Rival)
            .filter_map(|policy| {
                let score = self.per_seed(
                    |other| other == cell,
                    false,
                    |number, seed| {
                        let value = metric.of(self.summary(number, seed, policy)?);
                        Some(if metric.is_latency() { value.max(1e-9).ln() } else { value })
                    },
                );
                Some((policy, sign * score?.mean))
            })
            .min_by(|a, b| a.1.total_cmp(&b.1))
            .map(|(policy, _)| policy)
    }

    /// The result of one run; `seed` counts from 0.
    pub fn summary(&self, cell: usize, seed: usize, policy: usize) -> Option<&Summary> {
        let place = (cell * self.grid.seed_count() + seed) * self.policies.len() + policy;
        self.runs.get(place)?.result.as_ref().ok()
    }

    /// Of the bounds that ran on a seed, the result with the lowest 99th percentile.
    fn best_bound(&self, cell: usize, seed: usize, clairvoyant: bool) -> Option<&Summary> {
        (0..self.policies.len())
            .filter(|policy| self.policies[*policy].role().is_bound_of(clairvoyant))
            .filter_map(|policy| self.summary(cell, seed, policy))
            .min_by(|a, b| a.latency_ms_p99.total_cmp(&b.latency_ms_p99))
    }

    /// Averages `of(cell, seed)` over the wanted cells for each seed, then over seeds.
    fn per_seed(
        &self,
        wanted: impl Fn(&Cell) -> bool,
        logarithms: bool,
        of: impl Fn(usize, usize) -> Option<f64>,
    ) -> Option<Interval> {
        let cells: Vec<usize> = (0..self.grid.cells.len()).filter(|number| wanted(&self.grid.cells[*number])).collect();
        if cells.is_empty() {
            return None;
        }
        let seeds: Option<Vec<f64>> = (0..self.grid.seed_count())
            .map(|seed| {
                let values: Option<Vec<f64>> = cells.iter().map(|cell| of(*cell, seed)).collect();
                values.map(|values| values.iter().sum::<f64>() / values.len() as f64)
            })
            .collect();
        if logarithms { Interval::of_logarithms(&seeds?) } else { Interval::of(&seeds?) }
    }
}

/// `None` if nothing was answered on either side.
fn logarithm_of_ratio(value: f64, base: f64) -> Option<f64> {
    (value > 0.0 && base > 0.0).then(|| (value / base).ln())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{contest, scenario::Family, simulator::statistics::Statistics};

    fn summary(p99_ms: f64) -> Summary {
        Summary { latency_ms_p99: p99_ms, goodput_share: 1.0 / p99_ms, ..Statistics::new(1, 1).summary(1) }
    }

    /// Two cells × two seeds of trimtab, c3-local and the bound, with these 99th percentiles.
    fn check(p99_ms: [[[f64; 3]; 2]; 2], verify: impl Fn(&Results<'_>)) {
        let policies = ["trimtab", "c3-local", "shortest-expected-delay"].map(|name| contest::by_name(name).unwrap());
        let cells = Grid::product(&[Family::Homogeneous, Family::Burst], &[1], &[4], &[None]);
        let grid = Grid { cells, seeds: 0..2, seconds: None, reports_in_flight: None, slots_told: true };
        let mut runs = Vec::new();
        for (cell, seeds) in p99_ms.iter().enumerate() {
            for (seed, values) in seeds.iter().enumerate() {
                for (policy, value) in values.iter().enumerate() {
                    runs.push(Run { cell, seed: seed as u64, policy, result: Ok(summary(*value)) });
                }
            }
        }
        verify(&Results {
            grid: &grid,
            policies: &policies,
            baseline: Baseline::BestBound { clairvoyant: true },
            runs: &runs,
        });
    }

    #[test]
    fn ratios_are_geometric_means_to_the_bound_of_the_same_seed() {
        check([[[4.0, 8.0, 2.0], [9.0, 9.0, 3.0]], [[2.0, 4.0, 1.0], [3.0, 3.0, 3.0]]], |results| {
            let homogeneous = |cell: &Cell| cell.family == Family::Homogeneous;
            let close = |interval: Option<Interval>, expected: f64| {
                assert!((interval.unwrap().mean - expected).abs() < 1e-9, "{interval:?}, expected {expected}");
            };
            close(results.over(homogeneous, 0, Metric::P99), 6.0_f64.sqrt());
            close(results.over(|_| true, 0, Metric::P99), 12.0_f64.powf(0.25));
            close(results.over(|_| true, 2, Metric::P99), 1.0);
            close(results.versus(homogeneous, 0, 1, Metric::P99), 0.5_f64.sqrt());
            close(results.over(homogeneous, 0, Metric::Goodput), 100.0 * (1.0 / 4.0 + 1.0 / 9.0) / 2.0);
            assert_eq!(results.best_rival(&results.grid.cells[0]), Some(1));
        });
    }

    #[test]
    fn a_run_that_answered_nothing_has_no_ratio() {
        check([[[0.0, 8.0, 2.0], [9.0, 9.0, 3.0]], [[2.0, 4.0, 1.0], [3.0, 3.0, 3.0]]], |results| {
            assert_eq!(results.over(|_| true, 0, Metric::P99), None);
            assert!(results.over(|_| true, 1, Metric::P99).is_some());
        });
    }

    #[test]
    fn a_run_without_requests_is_zero_everywhere() {
        let nothing = Statistics::new(1, 1).summary(1);
        assert_eq!(Metric::ALL.map(|metric| metric.of(&nothing)), [0.0; 6]);
    }
}
