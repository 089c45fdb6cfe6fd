//! The critic: what an endpoint's residual is worth, with how sure that is. Action values of the policy that was recorded, fitted in closed form on
//! the recorded actions alone (one step of policy improvement asks for no others: Brandfonbrener et al. 2021).

use ndarray::{Array1, Array2, Axis, concatenate};

use crate::offline::{
    basis::{Basis, recorded},
    dataset::{Dataset, End, Step},
    linear::{add_outer, inverse},
};

/// Ridge on the standardised coefficients of states and of actions, in transitions.
const RIDGE: (f64, f64) = (1.0, 20.0);
/// Transitions whose errors are taken to go together.
const BLOCK: usize = 60;

/// The worth of residuals as `share · (slope · x + curvature · x²)` an endpoint, in reward a tick: action values times 1 − γ, so that they mean the same
/// whatever γ is.
#[derive(Debug)]
pub(super) struct Critic<'a> {
    basis: &'a Basis,
    theta: Array1<f64>,
    covariance: Array2<f64>,
}

/// What a residual at one endpoint is worth, per share of the requests.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Worth {
    pub slope: f64,
    /// Its standard error.
    pub slope_error: f64,
    pub curvature: f64,
    pub curvature_error: f64,
}

impl<'a> Critic<'a> {
    /// Fits `rewards` (by episode and transition); only blocks whose number `of_blocks` likes are used. `None` without data or a solution.
    pub fn fit(
        dataset: &Dataset,
        basis: &'a Basis,
        rewards: &[Vec<f64>],
        discount: f64,
        of_blocks: impl Fn(usize) -> bool,
    ) -> Option<Self> {
        let states_len = basis.states_len();
        let columns = states_len + basis.actions_len();
        let rows: Vec<Array2<f64>> = dataset
            .episodes
            .iter()
            .map(|episode| {
                let acts: Vec<Vec<f64>> = episode.steps.iter().map(recorded).collect();
                let (states, actions) = (basis.states(episode), basis.actions(episode, &acts));
                concatenate(Axis(1), &[states.view(), actions.view()]).unwrap_or(states)
            })
            .collect();
        // Number of the block of every transition.
        let mut block = 0;
        let mut used: Vec<(usize, usize, usize)> = Vec::new();
        for (index, episode) in dataset.episodes.iter().enumerate() {
            for t in 0..episode.steps.len() - 1 {
                if t % BLOCK == 0 {
                    block += 1;
                }
                if of_blocks(block) {
                    used.push((index, t, block));
                }
            }
        }
        let next = |index: usize, t: usize| {
            let episode = &dataset.episodes[index];
            let terminated = t + 2 == episode.steps.len() && episode.end == End::Terminated;
            if terminated { 0.0 } else { discount }
        };
        let mut left = Array2::<f64>::zeros((columns, columns));
        let mut right = Array1::<f64>::zeros(columns);
        for &(index, t, _) in &used {
            let row = rows[index].row(t);
            let mut difference = row.to_owned();
            difference.scaled_add(-next(index, t), &rows[index].row(t + 1));
            add_outer(&mut left, row, difference.view(), 1.0);
            right.scaled_add(rewards[index][t], &row);
        }
        if used.is_empty() {
            return None;
        }
        for index in 1..columns {
            left[(index, index)] += if index < states_len { RIDGE.0 } else { RIDGE.1 };
        }
        left[(0, 0)] += 1e-6;
        let inverse = inverse(&left)?;
        let theta = inverse.dot(&right);
        // Errors of a block go together: the sandwich with whole blocks in the middle.
        let mut middle = Array2::<f64>::zeros((columns, columns));
        let mut sum = Array1::<f64>::zeros(columns);
        let mut open = None;
        for &(index, t, block) in &used {
            if open.is_some_and(|open| open != block) {
                add_outer(&mut middle, sum.view(), sum.view(), 1.0);
                sum.fill(0.0);
            }
            open = Some(block);
            let row = rows[index].row(t);
            let error = rewards[index][t] + next(index, t) * rows[index].row(t + 1).dot(&theta) - row.dot(&theta);
            sum.scaled_add(error, &row);
        }
        add_outer(&mut middle, sum.view(), sum.view(), 1.0);
        let covariance = inverse.dot(&middle).dot(&inverse.t());
        let tick = 1.0 - discount;
        let theta = theta.view().split_at(Axis(0), states_len).1.to_owned() * tick;
        let below = covariance.view().split_at(Axis(0), states_len).1;
        let covariance = below.split_at(Axis(1), states_len).1.to_owned() * (tick * tick);
        Some(Self { basis, theta, covariance })
    }

    /// Of one endpoint.
    pub fn worth(&self, step: &Step, index: usize) -> Worth {
        let (first, second) = self.basis.gradients(step, index);
        let error = |of: &Array1<f64>| of.dot(&self.covariance.dot(of)).max(0.0).sqrt();
        Worth {
            slope: first.dot(&self.theta),
            slope_error: error(&first),
            curvature: second.dot(&self.theta),
            curvature_error: error(&second),
        }
    }
}

impl Worth {
    /// As little as it may well be: the slope less so many standard errors towards 0, and never a curvature that rewards going far.
    pub fn doubted(self, errors: f64) -> (f64, f64) {
        let slope = self.slope.signum() * (self.slope.abs() - errors * self.slope_error).max(0.0);
        (slope, (self.curvature - errors * self.curvature_error).min(0.0))
    }

    /// The lesser of two opinions (Fujimoto et al. 2018): the slope that promises less, 0 where they disagree about its sign.
    pub fn lesser(self, other: Self) -> Self {
        let slope = if self.slope * other.slope <= 0.0 {
            0.0
        } else {
            self.slope.signum() * self.slope.abs().min(other.slope.abs())
        };
        Self { slope, curvature: self.curvature.min(other.curvature), ..self }
    }
}
