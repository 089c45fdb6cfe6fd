//! What a candidate policy is worth against another one, from a recording in which neither may have acted: one estimate a measure and estimator, each
//! with its 95 % interval, its diagnostics, and whether they say that it can be trusted.

pub mod bootstrap;
pub mod fitted;
pub mod importance;

use serde::{Deserialize, Serialize};
use trimtab_model::Policy;

use super::{
    basis::Basis,
    dataset::{Dataset, Step, centre, parameters, residuals},
    outcome::{Measure, Outcomes},
};
use bootstrap::Bootstrap;

/// Transitions below which no estimator is believed: five minutes.
const TRANSITIONS_MIN: usize = 600;
/// Part of the ticks at which residuals must have come in as adjustments.
const ADJUSTED_MIN: f64 = 0.9;
/// Factor by which the noise that was recorded may differ from what its recorded densities say.
const NOISE_OFF_MAX: f64 = 1.3;
/// Largest difference of a log rule parameter that is none.
const SAME_RULE: f64 = 0.02;

/// An estimate of one measure of a candidate, less the same of what it is compared with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// Which estimator.
    pub estimator: String,
    /// Of what.
    pub measure: Measure,
    /// Candidate less the other, in the measure's unit.
    pub difference: f64,
    /// Lower end of the 95 % interval.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
    /// What the estimator knows of how good it is.
    pub diagnostics: Diagnostics,
    /// Whether it votes.
    pub trusted: bool,
    /// Why, or why not.
    pub reason: String,
}

/// What an estimator knows of how good it is; `None` where it has no such number.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Diagnostics {
    /// Independent samples that the estimate is worth.
    pub effective_samples: Option<f64>,
    /// Part of the importance weights that were clipped.
    pub clipped_share: Option<f64>,
    /// Error on held-out data with the actions ÷ without them: above 1, what was fitted of the actions is noise.
    pub held_out_error: Option<f64>,
    /// What was predicted of the actions against what came, on held-out data: 1 is right.
    pub calibration: Option<f64>,
    /// How far the candidate is from what was recorded, in standard deviations of what was explored (root mean square, by share).
    pub distance: Option<f64>,
    /// Part of the candidate's actions, by share, within three such standard deviations.
    pub overlap: Option<f64>,
}

/// A recording, prepared for estimating many candidates.
#[derive(Debug)]
pub struct Evaluation<'a> {
    dataset: &'a Dataset,
    behaviour: Acts,
    /// Standard deviation of what was proposed beyond what the behaviour policy says.
    noise_std: Option<f64>,
    basis: Basis,
    bootstrap: Bootstrap,
    fitted: fitted::Fitted,
    baseline: importance::Baseline,
}

/// What a policy would have done, step by step.
#[derive(Debug, Clone, PartialEq)]
pub struct Acts {
    /// By episode, step and endpoint: residuals, as they would be in force, not centred.
    residuals: Vec<Vec<Vec<f64>>>,
    /// By episode and step: log factors on the rule.
    parameters: Vec<Vec<[f64; 5]>>,
}

impl Acts {
    /// Of a policy without its exploration.
    pub fn new(policy: &Policy, dataset: &Dataset) -> Self {
        let residuals = |step: &Step| residuals(policy, step);
        let parameters = |step: &Step| parameters(policy, step);
        let episodes = &dataset.episodes;
        Self {
            residuals: episodes.iter().map(|episode| episode.steps.iter().map(residuals).collect()).collect(),
            parameters: episodes.iter().map(|episode| episode.steps.iter().map(parameters).collect()).collect(),
        }
    }

    /// The residuals of one episode less their means by share.
    fn centred(&self, dataset: &Dataset, episode: usize) -> Vec<Vec<f64>> {
        let mut residuals = self.residuals[episode].clone();
        for (step, residuals) in dataset.episodes[episode].steps.iter().zip(&mut residuals) {
            centre(step, residuals);
        }
        residuals
    }

    /// Largest mean difference of a rule parameter.
    fn rule_distance(&self, other: &Self) -> f64 {
        let mut sums = [0.0; 5];
        let mut count = 0.0;
        for (own, other) in self.parameters.iter().flatten().zip(other.parameters.iter().flatten()) {
            count += 1.0;
            sums.iter_mut().zip(own.iter().zip(other)).for_each(|(sum, (a, b))| *sum += (a - b).abs());
        }
        sums.iter().fold(0.0f64, |most, sum| most.max(sum / f64::max(count, 1.0)))
    }
}

impl<'a> Evaluation<'a> {
    /// Prepares a recording that `behaviour` (the policy that decided, without its exploration) made. `seed`: of the bootstrap.
    pub fn new(dataset: &'a Dataset, behaviour: &Policy, seed: u64) -> Self {
        let outcomes = Outcomes::new(dataset);
        let basis = Basis::new(dataset);
        let behaviour = Acts::new(behaviour, dataset);
        let fitted = fitted::Fitted::new(dataset, &basis, &outcomes);
        let baseline = importance::Baseline::new(dataset, &basis, &outcomes);
        let noise_std = importance::noise_std(dataset, &behaviour.residuals);
        Self { dataset, behaviour, noise_std, basis, bootstrap: Bootstrap::new(seed), fitted, baseline }
    }

    /// All estimates of `candidate` against `other`.
    pub fn compare(&self, candidate: &Policy, other: &Policy) -> Vec<Estimate> {
        let (acts, others) = (Acts::new(candidate, self.dataset), Acts::new(other, self.dataset));
        let mut estimates = self.importance(&acts, &others);
        estimates.extend(self.fitted(&acts, &others));
        estimates
    }

    /// What all estimators need: enough data, a policy that explored, and the rule that was recorded.
    fn objection(&self, candidate: &Acts, other: &Acts) -> Option<String> {
        let transitions = self.dataset.transitions();
        if transitions < TRANSITIONS_MIN {
            return Some(format!(
                "{transitions} transitions are there to judge by, at least {TRANSITIONS_MIN} are needed"
            ));
        }
        if self.dataset.exploration_std.is_none() || !self.basis.acted() {
            return Some(
                "nothing was explored: no action was ever compared with another one in the recording".to_owned(),
            );
        }
        if self.dataset.adjusted_share < ADJUSTED_MIN {
            return Some(
                "pods do not tell what they can do: the prior is read from latencies, answers within a minute what the policy does, and so what noise did for \
                 seconds is not what a policy does for good"
                    .to_owned(),
            );
        }
        if let Some((told, seen)) = self.dataset.exploration_std.zip(self.noise_std)
            && !(1.0 / NOISE_OFF_MAX..=NOISE_OFF_MAX).contains(&(seen / told))
        {
            return Some(format!(
                "recorded propensities are of noise of {told:.2}, but what was proposed differs by {seen:.2} from what the policy says"
            ));
        }
        let rule = candidate.rule_distance(&self.behaviour).max(other.rule_distance(&self.behaviour));
        if rule > SAME_RULE {
            return Some(format!(
                "a parameter of the rule differs by x{:.2}: the recording explored none of them",
                rule.exp()
            ));
        }
        None
    }
}

#[cfg(test)]
mod tests;
