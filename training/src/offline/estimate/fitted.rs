//! Fitted Q evaluation (Le et al. 2019) with linear features, which has a closed form (least-squares temporal differences, Lagoudakis & Parr 2003): the
//! action value of a policy is the solution of `Σ φ(s, a) (φ(s, a) − γ φ(s', π(s')))ᵀ θ = Σ φ(s, a) r`. It is fitted for the candidate and for what it
//! is compared with, and read off where each would have acted, over the recorded states.
//!
//! It assumes that the features can tell what an action does (see [`super::super::basis`]). That shows on held-out data: there the actions must explain
//! something that the states alone do not, and as much of it as was predicted; and a candidate must stay near what was tried.

use ndarray::{Array1, Array2, Axis, concatenate};

use super::{Acts, Diagnostics, Estimate, Evaluation};
use crate::offline::{
    basis::{Basis, recorded},
    dataset::{Dataset, End},
    linear::{add_outer, inverse},
    outcome::{Measure, Outcomes, Series},
};

/// Name of the estimator.
pub const NAME: &str = "fitted Q";
/// γ: what comes later counts this much less a tick. Queues live for seconds at most; more memory only adds noise.
const DISCOUNT: f64 = 0.5;
/// Ridge on the (standardised) coefficients, in transitions: what is not seen in the data is taken to do nothing.
const RIDGE_STATE: f64 = 1.0;
/// The same on those of actions: the one that does best on held-out data is taken.
const RIDGE_ACTION: [f64; 5] = [20.0, 100.0, 400.0, 1_600.0, 6_400.0];
/// Folds of the check on held-out data.
const FOLDS: usize = 5;
/// Transitions of a block that is held out as a whole.
const FOLD_BLOCK: usize = 120;
/// Largest error on held-out data, with actions ÷ without.
const HELD_OUT_MAX: f64 = 0.9999;
/// Candidates further away are extrapolated to.
pub(super) const DISTANCE_MAX: f64 = 2.5;
/// Part of a candidate's actions that must lie where something was tried.
pub(super) const OVERLAP_MIN: f64 = 0.8;

/// A recording as numbers.
#[derive(Debug)]
pub(super) struct Fitted {
    states: Vec<Array2<f64>>,
    /// States and recorded actions, by episode, one row a transition.
    rows: Vec<Array2<f64>>,
    outcomes: Outcomes,
    /// By measure: what held-out data says.
    held_out: Vec<Option<HeldOut>>,
}

impl Fitted {
    pub fn new(dataset: &Dataset, basis: &Basis, outcomes: &Outcomes) -> Self {
        let states: Vec<Array2<f64>> = dataset.episodes.iter().map(|episode| basis.states(episode)).collect();
        let rows = dataset.episodes.iter().zip(&states).map(|(episode, states)| {
            let acts: Vec<Vec<f64>> = episode.steps.iter().map(recorded).collect();
            let all = joined(states, &basis.actions(episode, &acts));
            all.view().split_at(Axis(0), all.nrows() - 1).0.to_owned()
        });
        let rows: Vec<Array2<f64>> = rows.collect();
        let held_out = held_out(&rows, &outcomes.series, basis.states_len());
        Self { states, rows, outcomes: outcomes.clone(), held_out }
    }
}

fn joined(states: &Array2<f64>, actions: &Array2<f64>) -> Array2<f64> {
    // As many rows of each: both have one a step.
    concatenate(Axis(1), &[states.view(), actions.view()]).unwrap_or_else(|_| states.clone())
}

fn ridge(matrix: &mut Array2<f64>, states: usize, actions: f64) {
    for index in 0..matrix.nrows() {
        matrix[(index, index)] += if index == 0 {
            1e-6
        } else if index < states {
            RIDGE_STATE
        } else {
            actions
        };
    }
}

/// What held-out data says of a fit.
#[derive(Debug, Clone, Copy)]
struct HeldOut {
    /// Squared error with actions ÷ without them.
    error: f64,
    /// What came ÷ what was predicted of the actions.
    calibration: f64,
    /// The ridge on actions that did best.
    ridge: f64,
}

/// A policy's value, by measure: the estimate and what each transition adds to it.
struct Value {
    mean: f64,
    series: Vec<Vec<f64>>,
}

impl Evaluation<'_> {
    pub(super) fn fitted(&self, candidate: &Acts, other: &Acts) -> Vec<Estimate> {
        let objection = self.objection(candidate, other);
        let (distance, overlap) = self.reach(candidate, other);
        let values = self.values(candidate).zip(self.values(other));
        let measures = Measure::ALL.iter().enumerate().map(|(index, measure)| {
            let held_out = self.fitted.held_out[index];
            let diagnostics = Diagnostics {
                held_out_error: held_out.map(|held_out| held_out.error),
                calibration: held_out.map(|held_out| held_out.calibration),
                distance: Some(distance),
                overlap: Some(overlap),
                ..Diagnostics::default()
            };
            let mean = values.as_ref().and_then(|(candidate, other)| {
                let (candidate, other) = (&candidate[index], &other[index]);
                let series: Vec<Vec<f64>> = candidate
                    .series
                    .iter()
                    .zip(&other.series)
                    .map(|(a, b)| a.iter().zip(b).map(|(a, b)| a - b).collect())
                    .collect();
                let mut mean = self.bootstrap.mean(&series)?;
                let value = candidate.mean - other.mean;
                (mean.low, mean.high) = (mean.low - mean.value + value, mean.high - mean.value + value);
                mean.value = value;
                Some(mean)
            });
            let problem = objection.clone().or_else(|| match held_out {
                _ if mean.is_none() => Some("the system of equations has no solution".to_owned()),
                None => Some("nothing can be held out: there is too little data, or what is measured never varied".to_owned()),
                Some(HeldOut { error, .. }) if error > HELD_OUT_MAX => Some(format!(
                    "on held-out data the fitted effect of actions explains nothing: error x{error:.4}"
                )),
                _ if distance > DISTANCE_MAX || overlap < OVERLAP_MIN => Some(format!(
                    "it would have to extrapolate: the candidate is {distance:.1} standard deviations from what was tried, {:.0} % within three",
                    100.0 * overlap
                )),
                Some(_) => None,
            });
            let agreed = || "on held-out data the fitted effect of actions holds, and the candidate is near what was tried".to_owned();
            self.estimate(NAME, *measure, mean, diagnostics, problem, agreed)
        });
        measures.collect()
    }

    /// A policy's value of every measure.
    fn values(&self, policy: &Acts) -> Option<Vec<Value>> {
        let states_len = self.basis.states_len();
        let columns = states_len + self.basis.actions_len();
        let mut left = Array2::<f64>::zeros((columns, columns));
        let mut right = Array2::<f64>::zeros((columns, Measure::ALL.len()));
        let mut goal = Array1::<f64>::zeros(columns);
        let mut count = 0.0;
        let acted: Vec<Array2<f64>> = (0..self.dataset.episodes.len())
            .map(|index| {
                let actions = self.basis.actions(&self.dataset.episodes[index], &policy.centred(self.dataset, index));
                joined(&self.fitted.states[index], &actions)
            })
            .collect();
        for (index, (rows, acted)) in self.fitted.rows.iter().zip(&acted).enumerate() {
            let terminated = self.dataset.episodes[index].end == End::Terminated;
            for (t, row) in rows.rows().into_iter().enumerate() {
                let last = t + 1 == rows.nrows();
                // Nothing follows on a terminated episode; on a truncated one something does, and its first state is known.
                let discount = if last && terminated { 0.0 } else { DISCOUNT };
                let mut difference = row.to_owned();
                difference.scaled_add(-discount, &acted.row(t + 1));
                add_outer(&mut left, row, difference.view(), 1.0);
                for (measure, series) in self.fitted.outcomes.series.iter().enumerate() {
                    right.column_mut(measure).scaled_add(series[index][t], &row);
                }
                goal.scaled_add(1.0 - DISCOUNT, &acted.row(t));
                count += 1.0;
            }
        }
        if count == 0.0 {
            return None;
        }
        goal /= count;
        // Measures share all but the ridge.
        let mut inverses: Vec<(f64, Array2<f64>)> = Vec::new();
        for held_out in &self.fitted.held_out {
            let actions = held_out.map_or(RIDGE_ACTION[0], |held_out| held_out.ridge);
            if inverses.iter().all(|(known, _)| *known != actions) {
                let mut left = left.clone();
                ridge(&mut left, states_len, actions);
                inverses.push((actions, inverse(&left)?));
            }
        }
        let value = |measure: usize| {
            let actions = self.fitted.held_out[measure].map_or(RIDGE_ACTION[0], |held_out| held_out.ridge);
            let inverse = &inverses.iter().find(|(known, _)| *known == actions)?.1;
            let theta = inverse.dot(&right.column(measure));
            let influence = goal.dot(inverse) * count;
            let values = &self.fitted.outcomes.series[measure];
            let series = self.fitted.rows.iter().zip(&acted).enumerate().map(|(index, (rows, acted))| {
                let terminated = self.dataset.episodes[index].end == End::Terminated;
                let at = acted.dot(&theta);
                let fitted = rows.dot(&theta);
                let weight = rows.dot(&influence);
                let tick = |t: usize| {
                    let next = if t + 1 == rows.nrows() && terminated { 0.0 } else { DISCOUNT * at[t + 1] };
                    let error = values[index][t] + next - fitted[t];
                    (1.0 - DISCOUNT) * at[t] + weight[t] * error
                };
                (0..rows.nrows()).map(tick).collect()
            });
            Some(Value { mean: goal.dot(&theta), series: series.collect() })
        };
        (0..Measure::ALL.len()).map(value).collect()
    }

    /// How far two policies are apart at most from what was tried, in standard deviations of it, and the part of their actions within three of them.
    pub(super) fn reach(&self, candidate: &Acts, other: &Acts) -> (f64, f64) {
        let far = |policy: &Acts| {
            let (mut square, mut within, mut all) = (0.0, 0.0, 0.0);
            let explored = self.explored();
            for (index, episode) in self.dataset.episodes.iter().enumerate() {
                let (own, behaviour) =
                    (policy.centred(self.dataset, index), self.behaviour.centred(self.dataset, index));
                for (t, step) in episode.steps.iter().enumerate() {
                    for (place, at) in step.endpoints.iter().enumerate() {
                        let distance = (own[t][place] - behaviour[t][place]).abs() / explored;
                        square += at.share * distance * distance;
                        within += if distance <= 3.0 { at.share } else { 0.0 };
                        all += at.share;
                    }
                }
            }
            if all > 0.0 { ((square / all).sqrt(), within / all) } else { (0.0, 1.0) }
        };
        let (a, b) = (far(candidate), far(other));
        (a.0.max(b.0), a.1.min(b.1))
    }

    /// Standard deviation of what was explored of the averages that count.
    fn explored(&self) -> f64 {
        let lags = super::super::basis::LAGS.iter().map(|by| by * by).sum::<f64>().sqrt();
        (self.dataset.exploration_std.unwrap_or(0.0) * lags).max(1e-6)
    }
}

/// For each measure, what held-out blocks say of fits on the others.
fn held_out(rows: &[Array2<f64>], values: &[Series], states: usize) -> Vec<Option<HeldOut>> {
    let columns = rows.first().map_or(states, Array2::ncols);
    let measures = values.len();
    let mut lefts = vec![Array2::<f64>::zeros((columns, columns)); FOLDS];
    let mut rights = vec![Array2::<f64>::zeros((columns, measures)); FOLDS];
    let fold = |episode: usize, t: usize| (episode + t / FOLD_BLOCK) % FOLDS;
    let mut counts = [0usize; FOLDS];
    for (episode, rows) in rows.iter().enumerate() {
        for (t, row) in rows.rows().into_iter().enumerate() {
            let fold = fold(episode, t);
            counts[fold] += 1;
            add_outer(&mut lefts[fold], row, row, 1.0);
            for (measure, values) in values.iter().enumerate() {
                rights[fold].column_mut(measure).scaled_add(values[episode][t], &row);
            }
        }
    }
    if counts.iter().any(|count| *count < FOLD_BLOCK) {
        return vec![None; measures];
    }
    let sum = |of: &[Array2<f64>]| of[1..].iter().fold(of[0].clone(), |sum, x| sum + x);
    let (all_left, all_right) = (sum(&lefts), sum(&rights));
    // By fold, coefficients of all measures; an endless ridge leaves the actions out.
    let fit = |actions: f64| -> Option<Vec<Array2<f64>>> {
        let one = |out: usize| {
            let mut left = &all_left - &lefts[out];
            ridge(&mut left, states, actions);
            Some(inverse(&left)?.dot(&(&all_right - &rights[out])))
        };
        (0..FOLDS).map(one).collect()
    };
    let Some(alone) = fit(1e12) else { return vec![None; measures] };
    let mut best: Vec<Option<HeldOut>> = vec![None; measures];
    for actions in RIDGE_ACTION {
        let Some(full) = fit(actions) else { continue };
        for (measure, best) in best.iter_mut().enumerate() {
            let (mut with, mut without, mut product, mut square) = (0.0, 0.0, 0.0, 0.0);
            for (episode, rows) in rows.iter().enumerate() {
                for (t, row) in rows.rows().into_iter().enumerate() {
                    let fold = fold(episode, t);
                    let truth = values[measure][episode][t];
                    let column = full[fold].column(measure);
                    let both = row.dot(&column);
                    let by_action = row.split_at(Axis(0), states).1.dot(&column.split_at(Axis(0), states).1);
                    with += (truth - both).powi(2);
                    without += (truth - row.dot(&alone[fold].column(measure))).powi(2);
                    product += by_action * (truth - (both - by_action));
                    square += by_action * by_action;
                }
            }
            let (error, calibration) = (with / without, product / square);
            if error.is_finite() && calibration.is_finite() && best.is_none_or(|best| error < best.error) {
                *best = Some(HeldOut { error, calibration, ridge: actions });
            }
        }
    }
    best
}
