//! The linear features that values are fitted on: of a state, and of the actions taken in it.
//!
//! A value is taken to be a function of the state plus a sum over endpoints, each in proportion to its share of the requests (value decomposition,
//! Sunehag et al. 2018): linear in its log residual, with a slope that depends on what the policy sees of it and on which endpoint it is, plus a
//! square. That is a second-order expansion around what was recorded; how far from there it is believed is for the estimators to say.
//!
//! An action acts over several intervals: a decision reaches the proxies just after its tick, their reports on the interval come at any time of the
//! next, and queues live on. So what counts is a short average of the residuals, with weights [`LAGS`].

use ndarray::{Array1, Array2};
use trimtab_model::{
    features::{CONTEXT, FEATURES},
    observation::EndpointKey,
};

use super::dataset::{Dataset, Episode, Step};

/// How much the residuals of a tick, of the one before and of that before it count for what is reported next.
pub const LAGS: [f64; 3] = [0.4, 0.4, 0.2];
/// Endpoints that get a slope of their own, if there are no more of them.
const KEYS_MAX: usize = 48;
/// Features whose value also changes what the square counts for.
const CURVED: [&str; 3] = ["utilisation", "in_flight_ratio", "queue"];
/// Numbers of a state that are no features: level and news of latency, and failures.
const OUTCOMES: usize = 7;
/// Gain of the running levels among them: about ten ticks.
const LEVEL_GAIN: f64 = 0.1;
/// Standardised features are held to this.
const HELD: f64 = 4.0;

/// The features, scaled to the data they were made from.
#[derive(Debug, Clone, PartialEq)]
pub struct Basis {
    state: Vec<Scale>,
    endpoint: Vec<Scale>,
    curved: Vec<usize>,
    keys: Vec<EndpointKey>,
    action: Vec<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct Scale {
    mean: f64,
    /// 0 where it never varies.
    by: f64,
}

impl Basis {
    /// Scaled to this data.
    pub fn new(dataset: &Dataset) -> Self {
        let mut states = Moments::new(1 + CONTEXT.len() + FEATURES.len() + OUTCOMES);
        let mut endpoints = Moments::new(FEATURES.len());
        let mut keys: Vec<EndpointKey> = Vec::new();
        for episode in &dataset.episodes {
            for state in raw_states(episode) {
                states.add(state.iter().copied());
            }
            for step in &episode.steps {
                for (row, at) in step.features.endpoints.rows().into_iter().zip(&step.endpoints) {
                    if at.ready {
                        endpoints.add(row.iter().map(|x| f64::from(*x)));
                    }
                }
            }
            keys.extend(episode.steps[0].endpoints.iter().map(|at| at.key));
            keys.sort_unstable();
            keys.dedup();
        }
        // One endpoint has nobody to be told from.
        if keys.len() > KEYS_MAX || keys.len() < 2 {
            keys.clear();
        }
        let curved = (0..FEATURES.len()).filter(|&index| CURVED.contains(&FEATURES[index].name)).collect();
        let mut basis = Self { state: states.scales(), endpoint: endpoints.scales(), curved, keys, action: Vec::new() };
        basis.action = vec![1.0; basis.actions_len()];
        let mut actions = Moments::new(basis.actions_len());
        for episode in &dataset.episodes {
            let recorded: Vec<Vec<f64>> = episode.steps.iter().map(recorded).collect();
            for row in basis.actions(episode, &recorded).rows() {
                actions.add(row.iter().copied());
            }
        }
        basis.action = actions.scales().iter().map(|scale| scale.by).collect();
        basis
    }

    /// Numbers of a state.
    pub fn states_len(&self) -> usize {
        self.state.len()
    }

    /// Numbers of an action.
    pub fn actions_len(&self) -> usize {
        self.endpoint.len() + self.keys.len() + 1 + self.curved.len()
    }

    /// Whether the recorded actions ever differed.
    pub fn acted(&self) -> bool {
        self.action.iter().any(|by| *by > 0.0)
    }

    /// One row a step: a constant, and what is known of the state, standardised.
    pub fn states(&self, episode: &Episode) -> Array2<f64> {
        let mut rows = Array2::zeros((episode.steps.len(), self.state.len()));
        for (mut row, state) in rows.rows_mut().into_iter().zip(raw_states(episode)) {
            row[0] = 1.0;
            for (index, (x, scale)) in state.iter().zip(&self.state).enumerate().skip(1) {
                row[index] = scale.of(*x);
            }
        }
        rows
    }

    /// One row a step: what these residuals (one list a step, in the order of its endpoints, centred) do.
    pub fn actions(&self, episode: &Episode, residuals: &[Vec<f64>]) -> Array2<f64> {
        let mut rows = Array2::zeros((episode.steps.len(), self.actions_len()));
        for (t, mut row) in rows.rows_mut().into_iter().enumerate() {
            for (index, at) in episode.steps[t].endpoints.iter().enumerate().filter(|(_, at)| at.ready) {
                let effective = lagged(residuals, t, index);
                let slopes = self.slopes(&episode.steps[t], index);
                let squares = self.squares(&episode.steps[t], index);
                for (to, slope) in row.iter_mut().zip(&slopes) {
                    *to += at.share * effective * slope;
                }
                for (to, square) in row.iter_mut().skip(slopes.len()).zip(&squares) {
                    *to += at.share * effective * effective * square;
                }
            }
            row.iter_mut().zip(&self.action).for_each(|(x, by)| *x *= by);
        }
        rows
    }

    /// What multiplies an endpoint's residual, before scaling.
    fn slopes(&self, step: &Step, index: usize) -> Vec<f64> {
        let features = step.features.endpoints.row(index);
        let mut slopes: Vec<f64> =
            features.iter().zip(&self.endpoint).map(|(x, scale)| scale.of(f64::from(*x))).collect();
        let key = step.endpoints[index].key;
        slopes.extend(self.keys.iter().map(|own| f64::from(u8::from(*own == key))));
        slopes
    }

    fn squares(&self, step: &Step, index: usize) -> Vec<f64> {
        let features = step.features.endpoints.row(index);
        let of = |feature: &usize| self.endpoint[*feature].of(f64::from(features[*feature]));
        std::iter::once(1.0).chain(self.curved.iter().map(of)).collect()
    }

    /// For a value with these coefficients (of an action, after scaling): the gradients by which an endpoint's slope and curvature per share follow from
    /// them, so that its part of the value is `share · (slope · x + curvature · x²)` for a lasting residual x.
    pub fn gradients(&self, step: &Step, index: usize) -> (Array1<f64>, Array1<f64>) {
        let slopes = self.slopes(step, index);
        let squares = self.squares(step, index);
        let (mut first, mut second) = (Array1::zeros(self.actions_len()), Array1::zeros(self.actions_len()));
        for (place, slope) in slopes.iter().enumerate() {
            first[place] = slope * self.action[place];
        }
        for (place, square) in squares.iter().enumerate() {
            let place = slopes.len() + place;
            second[place] = square * self.action[place];
        }
        (first, second)
    }
}

impl Scale {
    fn of(&self, x: f64) -> f64 {
        ((x - self.mean) * self.by).clamp(-HELD, HELD)
    }
}

/// The recorded residuals of a step.
pub fn recorded(step: &Step) -> Vec<f64> {
    step.endpoints.iter().map(|at| at.action).collect()
}

/// The average of an endpoint's residuals that counts for what is reported after step `t`; at the start of an episode, of those that there are.
fn lagged(residuals: &[Vec<f64>], t: usize, index: usize) -> f64 {
    let (mut sum, mut weight) = (0.0, 0.0);
    for (lag, by) in LAGS.iter().enumerate().take(t + 1) {
        sum += by * residuals[t - lag][index];
        weight += by;
    }
    sum / weight
}

fn raw_states(episode: &Episode) -> Vec<Vec<f64>> {
    let (mut level, mut tail_level) = (None, None);
    let arrivals = |t: usize| {
        let step = &episode.steps[t.min(episode.steps.len() - 1)];
        (1.0 + step.endpoints.iter().filter_map(|at| at.seen).map(|seen| seen.successes as f64).sum::<f64>()).ln()
    };
    let in_flight = |step: &Step| {
        let each = step.endpoints.iter().filter_map(|at| at.seen).map(|seen| seen.in_flight_mean);
        each.filter(|n| n.is_finite() && *n >= 0.0).sum::<f64>().ln_1p()
    };
    let states = episode.steps.iter().enumerate().map(|(t, step)| {
        let mut state = Vec::with_capacity(1 + CONTEXT.len() + FEATURES.len() + OUTCOMES);
        state.push(1.0);
        state.extend(step.features.context.iter().map(|x| f64::from(*x)));
        let mut pooled = vec![0.0; FEATURES.len()];
        for (row, at) in step.features.endpoints.rows().into_iter().zip(&step.endpoints) {
            pooled.iter_mut().zip(row).for_each(|(sum, x)| *sum += at.share * f64::from(*x));
        }
        state.extend(pooled);
        let (answers, failed, mean, tail) = latencies(step);
        let level = running(&mut level, mean);
        let tail_level = running(&mut tail_level, tail);
        state.extend([mean.unwrap_or(level), level, tail.unwrap_or(tail_level), tail_level, failed / answers.max(1.0)]);
        // How many requests are about to come is nobody's doing: knowing it takes off noise.
        state.extend([in_flight(step), (arrivals(t + 1) - arrivals(t)).clamp(-2.0, 2.0)]);
        state
    });
    states.collect()
}

fn running(level: &mut Option<f64>, now: Option<f64>) -> f64 {
    if let Some(now) = now {
        *level = Some(level.map_or(now, |level| level + LEVEL_GAIN * (now - level)));
    }
    level.unwrap_or(0.0)
}

/// Answers, failures, and ln of the mean and of the (mean) 99th percentile of latency in the interval that ended.
fn latencies(step: &Step) -> (f64, f64, Option<f64>, Option<f64>) {
    let (mut answers, mut failed, mut good, mut mean, mut tail) = (0.0, 0.0, 0.0, 0.0, 0.0);
    for seen in step.endpoints.iter().filter_map(|at| at.seen) {
        let bad = seen.errors as f64 + seen.failures as f64;
        failed += bad;
        answers += seen.successes as f64 + bad;
        let positive = |ms: Option<f64>| ms.filter(|ms| ms.is_finite() && *ms > 0.0).map(|ms| ms.clamp(1e-3, 1e7));
        if let (Some(mean_ms), Some(tail_ms)) = (positive(seen.latency_ms_mean), positive(seen.latency_ms_p99)) {
            good += seen.successes as f64;
            mean += seen.successes as f64 * mean_ms;
            tail += seen.successes as f64 * tail_ms.ln();
        }
    }
    let some = good > 0.0;
    (answers, failed, some.then(|| (mean / good).ln()), some.then(|| tail / good))
}

/// Means and variances of columns.
struct Moments {
    count: f64,
    sum: Vec<f64>,
    square: Vec<f64>,
}

impl Moments {
    fn new(columns: usize) -> Self {
        Self { count: 0.0, sum: vec![0.0; columns], square: vec![0.0; columns] }
    }

    fn add(&mut self, row: impl Iterator<Item = f64>) {
        self.count += 1.0;
        for ((sum, square), x) in self.sum.iter_mut().zip(&mut self.square).zip(row) {
            *sum += x;
            *square += x * x;
        }
    }

    fn scales(&self) -> Vec<Scale> {
        let count = self.count.max(1.0);
        let of = |(sum, square): (&f64, &f64)| {
            let mean = sum / count;
            let std = (square / count - mean * mean).max(0.0).sqrt();
            Scale { mean, by: if std > 1e-9 { 1.0 / std } else { 0.0 } }
        };
        self.sum.iter().zip(&self.square).map(of).collect()
    }
}

#[cfg(test)]
mod tests;
