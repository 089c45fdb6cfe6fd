//! Importance sampling on the recorded exploration noise, which asks nothing of a model: ticks at which the noise happened to do what the candidate
//! would have done count more.
//!
//! Over all endpoints and ticks of a block the weights multiply, and their variance with them: with a dozen endpoints hardly a block is left. But
//! what an endpoint's residual does adds up with what the others' do, to first order. So each endpoint is weighted by its own noise alone, over the last few
//! ticks, and the differences are added (the pseudo-inverse estimator for actions with parts, Swaminathan et al. 2017). It is biased where
//! residuals of several endpoints do together what they do not do apart. Weights are self-normalised, which costs a bias of the order of one over the
//! effective sample size, and clipped, which draws the estimate towards what was recorded (Ionides 2008). What the state alone explains of an outcome is
//! taken off first (Dudík et al. 2011): that changes no expectation, and much of the variance.

use std::collections::BTreeMap;

use ndarray::Array2;

use super::{Acts, Diagnostics, Estimate, Evaluation, bootstrap::Mean};
use crate::offline::{
    basis::{Basis, LAGS},
    dataset::Dataset,
    linear::{add_outer, inverse},
    outcome::{Measure, Outcomes, Series},
};

/// Name of the estimator.
pub const NAME: &str = "importance";
/// Largest weight.
const WEIGHT_MAX: f64 = 20.0;
/// Largest part of the weights that may be clipped.
const CLIPPED_MAX: f64 = 0.01;
/// Least effective samples, as windows that share no tick.
const SAMPLES_MIN: f64 = 100.0;
/// Ridge of the regression on states.
const RIDGE: f64 = 1.0;

/// What is left of each transition's contributions after what the state explains.
#[derive(Debug)]
pub(super) struct Baseline {
    /// By measure and episode.
    residual: Vec<Vec<Vec<f64>>>,
}

impl Baseline {
    pub fn new(dataset: &Dataset, basis: &Basis, outcomes: &Outcomes) -> Self {
        let columns = basis.states_len();
        let states: Vec<Array2<f64>> = dataset.episodes.iter().map(|episode| basis.states(episode)).collect();
        let mut left = Array2::<f64>::zeros((columns, columns));
        for (states, episode) in states.iter().zip(&dataset.episodes) {
            for t in 0..episode.steps.len() - 1 {
                add_outer(&mut left, states.row(t), states.row(t), 1.0);
            }
        }
        for index in 0..columns {
            left[(index, index)] += if index == 0 { 1e-6 } else { RIDGE };
        }
        let inverse = inverse(&left);
        let residual = |measure: &Measure| {
            let Series { values: mut contributions, weights } = outcomes.of(*measure).clone();
            let Some(inverse) = &inverse else { return contributions };
            let mut right = ndarray::Array1::<f64>::zeros(columns);
            for (states, contributions) in states.iter().zip(&contributions) {
                for (t, contribution) in contributions.iter().enumerate() {
                    right.scaled_add(*contribution, &states.row(t));
                }
            }
            let theta = inverse.dot(&right);
            for ((states, contributions), weights) in states.iter().zip(&mut contributions).zip(&weights) {
                for (t, contribution) in contributions.iter_mut().enumerate() {
                    *contribution = weights[t] * (*contribution - states.row(t).dot(&theta));
                }
            }
            contributions
        };
        Self { residual: Measure::ALL.iter().map(residual).collect() }
    }
}

/// A policy's weights: by episode and transition, those of its endpoints; `None` where the noise is not known.
struct Weights {
    by_episode: Vec<Vec<Option<Vec<f64>>>>,
    clipped: f64,
    /// Effective samples of the endpoint with the fewest.
    effective: f64,
}

impl Evaluation<'_> {
    pub(super) fn importance(&self, candidate: &Acts, other: &Acts) -> Vec<Estimate> {
        let objection = self.objection(candidate, other);
        let weights = self.weights(candidate).zip(self.weights(other));
        let (distance, overlap) = self.reach(candidate, other);
        let measures = Measure::ALL.iter().enumerate().map(|(index, measure)| {
            let diagnostics = Diagnostics {
                effective_samples: weights.as_ref().map(|(a, b)| a.effective.min(b.effective)),
                clipped_share: weights.as_ref().map(|(a, b)| a.clipped.max(b.clipped)),
                distance: Some(distance),
                overlap: Some(overlap),
                ..Diagnostics::default()
            };
            let mean = weights.as_ref().and_then(|(candidate, other)| {
                let (candidate, other) = (self.weighted(candidate, index), self.weighted(other, index));
                let difference = |(a, b): (&Vec<f64>, &Vec<f64>)| a.iter().zip(b).map(|(a, b)| a - b).collect();
                self.bootstrap.mean(&candidate.iter().zip(&other).map(difference).collect::<Vec<_>>())
            });
            let effective = diagnostics.effective_samples.unwrap_or(0.0);
            let clipped = diagnostics.clipped_share.unwrap_or(1.0);
            let problem = objection.clone().or_else(|| {
                if mean.is_none() {
                    Some("no noise was recorded that could be weighted".to_owned())
                } else if effective < SAMPLES_MIN {
                    Some(format!(
                        "its weights leave {effective:.0} effective samples of an endpoint, {SAMPLES_MIN:.0} are needed"
                    ))
                } else if clipped > CLIPPED_MAX {
                    Some(format!("{:.1} % of its weights are clipped", 100.0 * clipped))
                } else {
                    None
                }
            });
            let agreed = || format!("its weights leave {effective:.0} effective samples of each endpoint");
            self.estimate(NAME, *measure, mean, diagnostics, problem, agreed)
        });
        measures.collect()
    }

    /// One estimate.
    pub(super) fn estimate(
        &self,
        estimator: &str,
        measure: Measure,
        mean: Option<Mean>,
        diagnostics: Diagnostics,
        problem: Option<String>,
        agreed: impl FnOnce() -> String,
    ) -> Estimate {
        let unknown = Mean { value: 0.0, low: f64::NEG_INFINITY, high: f64::INFINITY, error: f64::INFINITY };
        let Mean { value, low, high, .. } = mean.unwrap_or(unknown);
        Estimate {
            estimator: estimator.to_owned(),
            measure,
            difference: value,
            low,
            high,
            diagnostics,
            trusted: problem.is_none(),
            reason: problem.unwrap_or_else(agreed),
        }
    }

    fn weights(&self, policy: &Acts) -> Option<Weights> {
        let std = self.dataset.exploration_std.filter(|std| *std > 1e-6)?;
        let mut by_episode = Vec::with_capacity(self.dataset.episodes.len());
        let (mut clipped, mut all) = (0.0, 0.0);
        let mut sums: BTreeMap<_, (f64, f64)> = BTreeMap::new();
        for (index, episode) in self.dataset.episodes.iter().enumerate() {
            let logs: Vec<Option<Vec<f64>>> = (0..episode.steps.len())
                .map(|t| log_ratios(episode, t, &self.behaviour.residuals[index][t], &policy.residuals[index][t], std))
                .collect();
            let mut weights = Vec::with_capacity(episode.steps.len());
            for t in 0..episode.steps.len() - 1 {
                let from = (t + 1).saturating_sub(LAGS.len());
                let window: Option<Vec<&Vec<f64>>> = logs[from..=t].iter().map(Option::as_ref).collect();
                let of = window.map(|window| {
                    let endpoint = |place: usize| {
                        let weight = window.iter().map(|logs| logs[place]).sum::<f64>().exp();
                        all += 1.0;
                        clipped += if weight > WEIGHT_MAX { 1.0 } else { 0.0 };
                        let weight = weight.min(WEIGHT_MAX);
                        let sum = sums.entry(episode.steps[t].endpoints[place].key).or_default();
                        *sum = (sum.0 + weight, sum.1 + weight * weight);
                        weight
                    };
                    (0..episode.steps[t].endpoints.len()).map(endpoint).collect()
                });
                weights.push(of);
            }
            by_episode.push(weights);
        }
        let effective = sums.values().map(|(sum, square)| sum * sum / square.max(1e-300)).fold(f64::INFINITY, f64::min);
        (all > 0.0).then(|| Weights { by_episode, clipped: clipped / all, effective: effective / LAGS.len() as f64 })
    }

    /// What each transition adds to the difference between the weighted mean and the plain one, over all endpoints.
    fn weighted(&self, weights: &Weights, measure: usize) -> Vec<Vec<f64>> {
        let residual = &self.baseline.residual[measure];
        let keys = |index: usize, t: usize| self.dataset.episodes[index].steps[t].endpoints.iter().map(|at| at.key);
        // By endpoint: sum of weights, weighted sum, sum, number.
        let mut sums: BTreeMap<_, [f64; 4]> = BTreeMap::new();
        for (index, episode) in weights.by_episode.iter().enumerate() {
            for (t, of) in episode.iter().enumerate() {
                for (key, weight) in keys(index, t).zip(of.iter().flatten()) {
                    let sum = sums.entry(key).or_default();
                    let x = residual[index][t];
                    *sum = [sum[0] + weight, sum[1] + weight * x, sum[2] + x, sum[3] + 1.0];
                }
            }
        }
        let transitions = self.dataset.transitions() as f64;
        let tick = |index: usize, t: usize, of: &Vec<f64>| {
            let mut sum = 0.0;
            for (key, weight) in keys(index, t).zip(of) {
                let [weights, weighted, plain, number] = sums[&key];
                let (mean, plain) = (weighted / weights.max(1e-300), plain / number);
                let x = residual[index][t];
                // The part that every tick of an endpoint has, and this tick's own.
                sum += (mean - plain) + weight * number / weights.max(1e-300) * (x - mean) - (x - plain);
            }
            sum
        };
        let known: f64 = weights.by_episode.iter().flatten().filter(|of| of.is_some()).count() as f64;
        let scale = if known > 0.0 { transitions / known } else { 0.0 };
        let episode = |(index, episode): (usize, &Vec<Option<Vec<f64>>>)| {
            // Where the noise is not known nothing is added; the others stand for those too.
            episode.iter().enumerate().map(|(t, of)| of.as_ref().map_or(0.0, |of| scale * tick(index, t, of))).collect()
        };
        weights.by_episode.iter().enumerate().map(episode).collect()
    }
}

/// ln of (density of the recorded action under the policy with the same noise ÷ under the behaviour), one an endpoint; `None` where no noise was drawn.
///
/// Recorded residuals are known up to what all have in common, so noise and shift are taken relative to their means, and the noise of one of n endpoints
/// has a variance less by 1/n.
fn log_ratios(
    episode: &crate::offline::dataset::Episode,
    t: usize,
    behaviour: &[f64],
    policy: &[f64],
    std: f64,
) -> Option<Vec<f64>> {
    let step = &episode.steps[t];
    step.log_probability?;
    let heard: Vec<usize> = (0..step.endpoints.len()).filter(|&place| step.endpoints[place].heard).collect();
    let mut logs = vec![0.0; step.endpoints.len()];
    let count = heard.len() as f64;
    if heard.len() < 2 {
        return Some(logs);
    }
    let mean = |of: &dyn Fn(usize) -> f64| heard.iter().map(|&place| of(place)).sum::<f64>() / count;
    let noise = |place: usize| step.endpoints[place].proposed - behaviour[place];
    let shift = |place: usize| policy[place] - behaviour[place];
    let (noise_mean, shift_mean) = (mean(&noise), mean(&shift));
    let variance = std * std * (1.0 - 1.0 / count);
    for &place in &heard {
        let (z, d) = (noise(place) - noise_mean, shift(place) - shift_mean);
        logs[place] = (z * d - 0.5 * d * d) / variance;
    }
    Some(logs)
}
