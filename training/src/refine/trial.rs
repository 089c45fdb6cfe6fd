//! The twin as an estimator: a candidate and the incumbent run through the same stretches of the recording, with the same requests, and what differs
//! is told with its interval over the stretches.

use std::ops::Range;

use serde::{Deserialize, Serialize};
use trimtab_model::checkpoint::Checkpoint;

use crate::{
    fleet::{Fleet, FleetOptions},
    learn::{
        LearnError, parallel,
        score::{ERROR_COST, LOST_COST, MEDIAN_SHARE},
    },
    offline::{
        estimate::{Diagnostics, Estimate},
        outcome::Measure,
    },
    report::Interval,
    simulator::{Summary, simulate},
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
/// Normal quantile of 97.5 %.
const Z: f64 = 1.96;

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
        let fleet = Fleet::with_policy(&scenario, &FleetOptions::TRIMTAB, here[policy].clone());
        simulate(&scenario, &mut fleet.knowing(twin.learned(&stretches[stretch])))
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

    /// The differences between two policies, as the twin sees them.
    pub fn estimates(&self, policy: usize, other: usize, checked: &Checked) -> Vec<Estimate> {
        let objection = checked.objection();
        let difference = |measure: Measure| {
            let differences: Vec<f64> =
                self.pairs(policy, other).map(|(ours, theirs)| value(measure, ours) - value(measure, theirs)).collect();
            let interval = Interval::of(&differences);
            let mean = interval.map_or(0.0, |interval| interval.mean);
            let by_chance = interval.and_then(|interval| interval.half_width()).unwrap_or(f64::INFINITY);
            // What the twin gets wrong it gets wrong for both, mostly.
            let by_bias = Z * CARRIED * checked.off() * mean.abs();
            let half = by_chance.hypot(by_bias);
            Estimate {
                estimator: "twin".to_owned(),
                measure,
                difference: mean,
                low: mean - half,
                high: mean + half,
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

fn value(measure: Measure, run: &Summary) -> f64 {
    match measure {
        Measure::LogMean => run.latency_ms_mean.max(1e-3).ln(),
        Measure::LogP99 => run.latency_ms_p99.max(1e-3).ln(),
        Measure::Errors => run.error_share + run.unroutable_share,
        Measure::Goodput => run.goodput_share,
    }
}

/// What a run costs, up to what every policy on its stretch has in common: see `learn::score`.
fn cost(run: &Summary) -> f64 {
    run.latency_ms_p99.max(1e-3).ln()
        + MEDIAN_SHARE * run.latency_ms_p50.max(1e-3).ln()
        + ERROR_COST * (run.error_share + run.unroutable_share)
        + LOST_COST * (1.0 - run.goodput_share).max(run.shed_share)
}
