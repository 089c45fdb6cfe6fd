//! The twin as an estimator: a candidate and the incumbent run through the same stretches of the recording, with the same requests, and what differs
//! is told with its interval over the stretches.

use std::ops::Range;

use serde::{Deserialize, Serialize};
use trimtab_model::checkpoint::Checkpoint;

use crate::{
    learn::{
        LearnError, parallel,
        score::{ERROR_COST, LOST_COST, MEDIAN_SHARE},
    },
    offline::{
        estimate::{Diagnostics, Estimate},
        outcome::Measure,
    },
    report::Interval,
    simulator::{Summary, simulate, statistics::OfClass},
    twin::{Fidelity, Twin},
};

/// How far a twin may be from what was recorded and still vote: medians and 99th percentiles as factors, errors as shares.
const P50_OFF_MAX: f64 = 1.25;
const P99_OFF_MAX: f64 = 1.35;
const ERRORS_OFF_MAX: f64 = 0.01;
/// Stretches without which an interval over them means nothing.
const STRETCHES_MIN: usize = 5;
/// A change that is predicted in a twin is right to about this part of how far the twin is off.
const CARRIED: f64 = 0.25;
/// Stretches of which the extremes hold the median with 97 % confidence.
const RANGE_MIN: usize = 6;
/// Normal quantile of 97.5 %.
const Z: f64 = 1.96;
/// What it counts as, in logarithms, if so many more requests get no answer that a 99th percentile of all cannot be told: beyond the slowest answer.
const BEYOND: f64 = 1.0;
/// Requests of a class in a stretch, and stretches with so many, from which on it is looked at by itself.
const CLASS_REQUESTS_MIN: u64 = 20;
const CLASS_STRETCHES_MIN: usize = 5;

/// How a twin did where it could be checked.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Checked {
    /// Twin over recording, as geometric means over the stretches.
    pub p50: Option<f64>,
    /// See `p50`.
    pub p99: Option<f64>,
    /// Twin less recording, as a share.
    pub errors: Option<f64>,
    /// Stretches.
    pub stretches: usize,
}

impl From<&Fidelity> for Checked {
    fn from(fidelity: &Fidelity) -> Self {
        let mean = |interval: Option<Interval>| interval.map(|interval| interval.mean);
        Self {
            p50: mean(fidelity.p50),
            p99: mean(fidelity.p99),
            errors: mean(fidelity.errors),
            stretches: fidelity.stretches,
        }
    }
}

impl Checked {
    /// Why the twin does not vote; nothing if it does.
    pub fn objection(&self) -> Option<String> {
        let (Some(p50), Some(p99), Some(errors)) = (self.p50, self.p99, self.errors) else {
            return Some("nothing could be held against the recording".to_owned());
        };
        let far = |ratio: f64, most: f64| ratio.max(1.0 / ratio) > most;
        if self.stretches < STRETCHES_MIN {
            Some(format!("{} stretches, at least {STRETCHES_MIN} are needed", self.stretches))
        } else if far(p50, P50_OFF_MAX) {
            Some(format!("its median latency is {p50:.2} of the recorded one"))
        } else if far(p99, P99_OFF_MAX) {
            Some(format!("its 99th percentile is {p99:.2} of the recorded one"))
        } else if errors.abs() > ERRORS_OFF_MAX {
            Some(format!("its errors are off by {:.1} points", 100.0 * errors))
        } else {
            None
        }
    }

    /// How far off it is, in logarithms of the 99th percentile.
    fn off(&self) -> f64 {
        self.p99.map_or(0.0, |p99| p99.ln().abs())
    }
}

/// What happened to each examinee on each stretch.
#[derive(Debug, Clone)]
pub struct Runs(Vec<Vec<Summary>>);

/// Runs policies through stretches of a twin; stretch by stretch all face the same requests.
///
/// # Errors
/// If a checkpoint does not hold.
pub fn run(
    twin: &Twin,
    stretches: &[Range<usize>],
    policies: &[&Checkpoint],
    seed: u64,
    jobs: usize,
) -> Result<Runs, LearnError> {
    let here = policies.iter().map(|checkpoint| twin.policy(checkpoint)).collect::<Result<Vec<_>, _>>()?;
    let runs = parallel::map(jobs, stretches.len() * here.len(), |index| {
        let (stretch, policy) = (index / here.len(), index % here.len());
        let scenario = twin.scenario(&stretches[stretch], seed + stretch as u64);
        simulate(&scenario, &mut twin.fleet(&stretches[stretch], &scenario, here[policy].clone()))
    });
    let mut by_policy: Vec<Vec<Summary>> = vec![Vec::with_capacity(stretches.len()); here.len()];
    for (index, run) in runs.into_iter().enumerate() {
        by_policy[index % here.len()].push(run?);
    }
    Ok(Runs(by_policy))
}

impl Runs {
    /// What one policy's runs cost more than another's, stretch by stretch, in the unit of `learn::score`.
    pub fn costs(&self, policy: usize, other: usize) -> Vec<f64> {
        self.pairs(policy, other).map(|(ours, theirs)| cost(ours) - cost(theirs)).collect()
    }

    /// The class of requests that one policy surely serves worse than another by most: its place, and by how many of its requests, as a share, fewer are
    /// answered within the objective at the near end of the 95 % interval. A policy that turns away a rare and costly kind is better by all that is
    /// summed over requests.
    pub fn class_harmed(&self, policy: usize, other: usize) -> Option<(usize, f64)> {
        let classes = self.0[policy].first()?.per_class.len();
        let harm = |class: usize| {
            let lost: Vec<f64> = self
                .pairs(policy, other)
                .map(|(ours, theirs)| (ours.per_class[class], theirs.per_class[class]))
                .filter(|(ours, theirs)| ours.ended.min(theirs.ended) >= CLASS_REQUESTS_MIN)
                .map(|(ours, theirs)| share(theirs) - share(ours))
                .collect();
            let bounds = Interval::of(&lost).filter(|_| lost.len() >= CLASS_STRETCHES_MIN)?.bounds?;
            Some((class, bounds.0))
        };
        (0..classes).filter_map(harm).max_by(|a, b| a.1.total_cmp(&b.1)).filter(|(_, by)| *by > 0.0)
    }

    /// The differences between two policies, as the twin sees them.
    pub fn estimates(&self, policy: usize, other: usize, checked: &Checked) -> Vec<Estimate> {
        let objection = checked.objection();
        let difference = |measure: Measure| {
            let differences: Vec<f64> =
                self.pairs(policy, other).map(|(ours, theirs)| difference(measure, ours, theirs)).collect();
            let interval = Interval::of(&differences);
            let mean = interval.map_or(0.0, |interval| interval.mean);
            let (by_chance_low, by_chance_high) = by_chance(&differences);
            // What the twin gets wrong it gets wrong for both, mostly.
            let by_bias = Z * CARRIED * checked.off() * mean.abs();
            Estimate {
                estimator: "twin".to_owned(),
                measure,
                difference: mean,
                low: mean - by_chance_low.hypot(by_bias),
                high: mean + by_chance_high.hypot(by_bias),
                diagnostics: Diagnostics {
                    effective_samples: Some(differences.len() as f64),
                    calibration: checked.p99,
                    ..Diagnostics::default()
                },
                trusted: objection.is_none(),
                reason: objection
                    .clone()
                    .unwrap_or_else(|| "it reproduces recordings that it was not made from".into()),
            }
        };
        Measure::ALL.map(difference).to_vec()
    }

    fn pairs(&self, policy: usize, other: usize) -> impl Iterator<Item = (&Summary, &Summary)> {
        self.0[policy].iter().zip(&self.0[other])
    }
}

/// How far the mean may be below and above what it seems to be, with 95 % confidence: Student's t, but no further than the extremes of what was seen, between
/// which the median lies with 97 % confidence from six on. One stretch in which one policy did badly is no sign that the other may do worse.
fn by_chance(differences: &[f64]) -> (f64, f64) {
    let interval = Interval::of(differences);
    let Some((mean, half)) = interval.and_then(|interval| Some((interval.mean, interval.half_width()?))) else {
        return (f64::INFINITY, f64::INFINITY);
    };
    if differences.len() < RANGE_MIN {
        return (half, half);
    }
    let extreme = |sign: f64| differences.iter().map(|x| sign * (x - mean)).fold(0.0, f64::max);
    (half.min(extreme(-1.0)), half.min(extreme(1.0)))
}

/// Of a class, answered within the objective.
fn share(of: OfClass) -> f64 {
    of.within_objective as f64 / of.ended.max(1) as f64
}

fn difference(measure: Measure, ours: &Summary, theirs: &Summary) -> f64 {
    match measure {
        Measure::LogMean => ours.latency_ms_mean.max(1e-3).ln() - theirs.latency_ms_mean.max(1e-3).ln(),
        Measure::LogP99 => log_p99(ours, theirs) - theirs.latency_ms_p99.max(1e-3).ln(),
        Measure::Errors => ours.error_share + ours.unroutable_share - theirs.error_share - theirs.unroutable_share,
        Measure::Goodput => ours.goodput_share - theirs.goodput_share,
    }
}

/// ln of the 99th percentile of the requests that the other policy answers as well: what `ours` leaves without an answer beyond that counts as slower than any
/// answer. To turn away the slowest requests is no way to a lower percentile.
fn log_p99(ours: &Summary, theirs: &Summary) -> f64 {
    let more = ours.unanswered_share() - theirs.unanswered_share();
    let answered = 1.0 - ours.unanswered_share();
    let quantile = if more > 0.0 { 0.99 * (answered + more) / answered.max(1e-9) } else { 0.99 };
    let beyond = if quantile > 1.0 { BEYOND } else { 0.0 };
    ours.latency_ms_from_p99(quantile).max(1e-3).ln() + beyond
}

/// What a run costs, up to what every policy on its stretch has in common: see `learn::score`.
fn cost(run: &Summary) -> f64 {
    run.latency_ms_p99.max(1e-3).ln()
        + MEDIAN_SHARE * run.latency_ms_p50.max(1e-3).ln()
        + ERROR_COST * (run.error_share + run.unroutable_share)
        + LOST_COST * (1.0 - run.goodput_share).max(run.shed_share)
}
