//! Importance sampling on the recorded exploration noise, which asks nothing of a model: times at which the noise happened to do what the candidate
//! would have done count more.
//!
//! The unit is a block: the ticks for which noise was held (see `Policy::holding_exploration`), less the first few, in which what was before still shows. So
//! weights are of whole stretches, long enough for queues to settle. A candidate's residual is taken at its mean over the block.
//!
//! Over all endpoints of a block the weights multiply, and their variance with them: with a dozen endpoints hardly a block is left. But what an endpoint's
//! residual does adds up with what the others' do, to first order. So each endpoint is weighted by its own noise alone, and the differences are added (the
//! pseudo-inverse estimator for actions with parts, Swaminathan et al. 2017). It is biased where residuals of several endpoints do together what they do
//! not do apart. Weights are self-normalised, which costs a bias of the order of one over the effective sample size, and clipped, which draws the
//! estimate towards what was recorded (Ionides 2008). What the state alone explains of an outcome is taken off first (Dudík et al. 2011): that
//! changes no expectation, and much of the variance.

use std::collections::BTreeMap;

use ndarray::Array2;

use super::{Acts, Diagnostics, Estimate, Evaluation, bootstrap::Mean};
use crate::offline::{
    basis::Basis,
    dataset::{Dataset, Step},
    linear::{add_outer, inverse},
    outcome::{Measure, Outcomes},
};

/// Name of the estimator.
pub const NAME: &str = "importance";
/// Largest weight.
const WEIGHT_MAX: f64 = 20.0;
/// Blocks with shorter noise cannot show what lasts.
const HELD_MIN: usize = 8;
/// Ticks at the beginning of a block that show what was before it.
const SETTLING: usize = 3;
/// Least effective blocks of an endpoint.
const SAMPLES_MIN: f64 = 60.0;
/// How far an endpoint's mean weight may be from 1: what is missing lies where nothing was recorded, or was clipped.
const MEAN_WITHIN: f64 = 0.25;
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
        // The state at a block's beginning: later ones already show what its noise did, and would take that off as well.
        let mut origins: Vec<Vec<usize>> =
            dataset.episodes.iter().map(|episode| (0..episode.steps.len() - 1).collect()).collect();
        for block in held_blocks(dataset) {
            origins[block.episode][block.from..block.until].fill(block.from);
        }
        let mut left = Array2::<f64>::zeros((columns, columns));
        for (states, origins) in states.iter().zip(&origins) {
            for &origin in origins {
                add_outer(&mut left, states.row(origin), states.row(origin), 1.0);
            }
        }
        for index in 0..columns {
            left[(index, index)] += if index == 0 { 1e-6 } else { RIDGE };
        }
        let inverse = inverse(&left);
        let residual = |measure: &Measure| {
            let mut contributions = outcomes.of(*measure).clone();
            let Some(inverse) = &inverse else { return contributions };
            let mut right = ndarray::Array1::<f64>::zeros(columns);
            for ((states, contributions), origins) in states.iter().zip(&contributions).zip(&origins) {
                for (contribution, origin) in contributions.iter().zip(origins) {
                    right.scaled_add(*contribution, &states.row(*origin));
                }
            }
            let theta = inverse.dot(&right);
            for ((states, contributions), origins) in states.iter().zip(&mut contributions).zip(&origins) {
                for (contribution, origin) in contributions.iter_mut().zip(origins) {
                    *contribution -= states.row(*origin).dot(&theta);
                }
            }
            contributions
        };
        Self { residual: Measure::ALL.iter().map(residual).collect() }
    }
}

/// Ticks of one episode with the same noise.
#[derive(Debug, Clone, Copy)]
struct Block {
    episode: usize,
    from: usize,
    until: usize,
}

/// A policy's weights: by block, those of its endpoints.
struct Weights {
    blocks: Vec<(Block, Vec<f64>)>,
    clipped: f64,
    /// Effective blocks of the endpoint with the fewest.
    effective: f64,
    /// The mean weight that is furthest from 1.
    mean: f64,
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
            let weight = weights
                .as_ref()
                .map_or(1.0, |(a, b)| if (a.mean - 1.0).abs() > (b.mean - 1.0).abs() { a.mean } else { b.mean });
            let problem = objection.clone().or_else(|| {
                if mean.is_none() {
                    Some(format!("no noise was held for {HELD_MIN} ticks or more: what lasts was never tried"))
                } else if effective < SAMPLES_MIN {
                    Some(format!(
                        "its weights leave {effective:.0} effective blocks of an endpoint, {SAMPLES_MIN:.0} are needed"
                    ))
                } else if (weight - 1.0).abs() > MEAN_WITHIN {
                    Some(format!(
                        "an endpoint's weights are {weight:.2} on average, they would be 1 if enough had been tried"
                    ))
                } else {
                    None
                }
            });
            let agreed = || format!("its weights leave {effective:.0} effective blocks of each endpoint");
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
        let (mut clipped, mut all) = (0.0, 0.0);
        let mut sums: BTreeMap<_, [f64; 3]> = BTreeMap::new();
        let mut blocks = Vec::new();
        for block in held_blocks(self.dataset) {
            let steps = &self.dataset.episodes[block.episode].steps;
            let mut logs = vec![0.0; steps[block.from].endpoints.len()];
            let length = (block.until - block.from) as f64;
            // (z d − d²/2) ÷ σ² of the means over the block.
            let mut means = vec![(0.0, 0.0); logs.len()];
            let held = block.from..block.until;
            let behaviour = &self.behaviour.residuals[block.episode][held.clone()];
            let policy = &policy.residuals[block.episode][held.clone()];
            for ((step, behaviour), policy) in steps[held].iter().zip(behaviour).zip(policy) {
                for (mean, (noise, shift)) in means.iter_mut().zip(relative(step, behaviour, policy)) {
                    *mean = (mean.0 + noise / length, mean.1 + shift / length);
                }
            }
            let heard = steps[block.from].endpoints.iter().filter(|at| at.heard).count().max(2) as f64;
            let variance = std * std * (1.0 - 1.0 / heard);
            for (log, (noise, shift)) in logs.iter_mut().zip(means) {
                *log = (noise * shift - 0.5 * shift * shift) / variance;
            }
            let weights: Vec<f64> = logs.iter().map(|log| log.exp().min(WEIGHT_MAX)).collect();
            for (at, (weight, log)) in steps[block.from].endpoints.iter().zip(weights.iter().zip(&logs)) {
                all += 1.0;
                clipped += if log.exp() > WEIGHT_MAX { 1.0 } else { 0.0 };
                let sum = sums.entry(at.key).or_default();
                *sum = [sum[0] + weight, sum[1] + weight * weight, sum[2] + 1.0];
            }
            blocks.push((block, weights));
        }
        // Of endpoints that were there for a while; one that has hardly been seen hardly counts.
        let most = sums.values().map(|sum| sum[2]).fold(0.0, f64::max);
        let seen = || sums.values().filter(move |sum| sum[2] >= 0.2 * most);
        let effective = seen().map(|[sum, square, _]| sum * sum / square.max(1e-300)).fold(f64::INFINITY, f64::min);
        let mean = seen()
            .map(|[sum, _, count]| sum / count)
            .fold(1.0, |worst: f64, mean| if (mean - 1.0).abs() > (worst - 1.0).abs() { mean } else { worst });
        (all > 0.0).then(|| Weights { blocks, clipped: clipped / all, effective, mean })
    }

    /// What each transition adds to the difference between the weighted mean and the plain one, over all endpoints: one stretch an episode, of the
    /// transitions that are in blocks.
    fn weighted(&self, weights: &Weights, measure: usize) -> Vec<Vec<f64>> {
        let residual = &self.baseline.residual[measure];
        let keys =
            |block: &Block| self.dataset.episodes[block.episode].steps[block.from].endpoints.iter().map(|at| at.key);
        let outcomes = |block: &Block| &residual[block.episode][block.from + SETTLING..block.until];
        // By endpoint: weights, weighted sum, sum, number; of transitions.
        let mut sums: BTreeMap<_, [f64; 4]> = BTreeMap::new();
        for (block, of) in &weights.blocks {
            let outcomes = outcomes(block);
            let (number, whole) = (outcomes.len() as f64, outcomes.iter().sum::<f64>());
            for (key, weight) in keys(block).zip(of) {
                let sum = sums.entry(key).or_default();
                *sum = [sum[0] + weight * number, sum[1] + weight * whole, sum[2] + whole, sum[3] + number];
            }
        }
        let mut stretches: Vec<Vec<f64>> = vec![Vec::new(); self.dataset.episodes.len()];
        for (block, of) in &weights.blocks {
            for x in outcomes(block) {
                let mut sum = 0.0;
                for (key, weight) in keys(block).zip(of) {
                    let [weights, weighted, plain, number] = sums[&key];
                    let (mean, plain) = (weighted / weights.max(1e-300), plain / number.max(1.0));
                    // The part that every tick of an endpoint has, and this tick's own.
                    sum += (mean - plain) + weight * number / weights.max(1e-300) * (x - mean) - (x - plain);
                }
                stretches[block.episode].push(sum);
            }
        }
        stretches
    }
}

/// Stretches of ticks with the same noise, which have the same log-density to the bit; the last tick of an episode has no outcome.
fn held_blocks(dataset: &Dataset) -> Vec<Block> {
    let mut blocks = Vec::new();
    for (episode, steps) in dataset.episodes.iter().map(|episode| &episode.steps).enumerate() {
        let mut from = 0;
        for t in 1..steps.len() {
            let same = steps[t].log_probability.is_some() && steps[t].log_probability == steps[from].log_probability;
            if !same || t + 1 == steps.len() {
                if steps[from].log_probability.is_some() && t - from >= HELD_MIN {
                    blocks.push(Block { episode, from, until: t });
                }
                from = t;
            }
        }
    }
    blocks
}

/// Standard deviation of the recorded noise on each log weight, from what was proposed; `behaviour`: what would have been without it. `None` without any.
pub(super) fn noise_std(dataset: &Dataset, behaviour: &[Vec<Vec<f64>>]) -> Option<f64> {
    let (mut squares, mut freedom) = (0.0, 0.0);
    for (episode, behaviour) in dataset.episodes.iter().zip(behaviour) {
        for (step, behaviour) in episode.steps.iter().zip(behaviour).filter(|(step, _)| step.log_probability.is_some())
        {
            squares += relative(step, behaviour, behaviour).iter().map(|(noise, _)| noise * noise).sum::<f64>();
            freedom += step.endpoints.iter().filter(|at| at.heard).count().saturating_sub(1) as f64;
        }
    }
    let std = (squares / freedom).sqrt();
    (freedom > 0.0 && std.is_finite()).then_some(std)
}

/// Recorded noise and a policy's shift against the behaviour at each endpoint, both less their means over those that are heard: recorded residuals are
/// known up to what all have in common.
fn relative(step: &Step, behaviour: &[f64], policy: &[f64]) -> Vec<(f64, f64)> {
    let heard: Vec<usize> = (0..step.endpoints.len()).filter(|&place| step.endpoints[place].heard).collect();
    let count = heard.len().max(1) as f64;
    let mean = |of: &dyn Fn(usize) -> f64| heard.iter().map(|&place| of(place)).sum::<f64>() / count;
    let noise = |place: usize| step.endpoints[place].proposed - behaviour[place];
    let shift = |place: usize| policy[place] - behaviour[place];
    let (noise_mean, shift_mean) = (mean(&noise), mean(&shift));
    let at = |place: usize| {
        if step.endpoints[place].heard { (noise(place) - noise_mean, shift(place) - shift_mean) } else { (0.0, 0.0) }
    };
    (0..step.endpoints.len()).map(at).collect()
}
