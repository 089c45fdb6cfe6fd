//! What an interval was worth, from what the proxies reported of each endpoint: answers, failures, latencies. Two things are made of it.
//!
//! *Measures* are what people compare runs by: mean and 99th percentile of latency, errors, goodput. Each is told interval by interval, as what the
//! interval adds to it (its influence function, Hampel 1974), so that a change of the measure is a change of a mean. Mean latency is told by the requests
//! in flight (Little's law): latencies are known when requests end, and so tell of a queue when it is over.
//!
//! The *reward* is what is learned from: bounded, so that no single tick decides; relative to a running level of the service, so that a busy hour is
//! not a bad policy; with the costs of errors and of late answers that training in simulation knows (`learn::score`).

use serde::{Deserialize, Serialize};
use trimtab_model::observation::Reported;

use super::dataset::{Dataset, Episode, Step};

/// What the 99th percentile counts for in the reward; the mean has the rest.
const TAIL_PART: f64 = 0.5;
/// A log ratio of latencies to their running level counts within this, either way.
const LATENCY_MAX: f64 = 1.0;
/// What a share of errors costs: 1 % of errors like 20 % of latency.
const ERROR_COST: f64 = 20.0;
/// What a share of answers later than the objective costs.
const LATE_COST: f64 = 5.0;
/// The most that errors, or late answers, can cost.
const PENALTY_MAX: f64 = 2.0;
/// Time constant of the running level, in ticks: a minute. Actions live for seconds.
const LEVEL_TICKS: f64 = 120.0;
/// The percentile.
const TAIL: f64 = 0.01;

/// What a candidate is judged by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// ln of the mean latency of answers: a difference of 0.01 is 1 %.
    LogMean,
    /// ln of the 99th percentile of latency.
    LogP99,
    /// Errors and failures, as a share of what was answered or failed.
    Errors,
    /// Answers within the objective, as a share of the same.
    Goodput,
}

impl Measure {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::LogMean, Self::LogP99, Self::Errors, Self::Goodput];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::LogMean => "ln mean latency",
            Self::LogP99 => "ln p99 latency",
            Self::Errors => "errors",
            Self::Goodput => "goodput",
        }
    }

    /// Whether less of it is better.
    pub const fn is_cost(self) -> bool {
        !matches!(self, Self::Goodput)
    }
}

/// Counts of one interval, all endpoints together.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Counts {
    /// Good answers.
    pub good: f64,
    /// Errors and failures.
    pub failed: f64,
    /// Requests in flight, on average over the interval.
    pub in_flight: f64,
    /// Good answers that took longer than the recording's 99th percentile.
    pub tail: f64,
    /// Good answers within the objective.
    pub within: f64,
}

/// Values by episode and transition: what came of a step's action is in the next step.
pub type Series = Vec<Vec<f64>>;

/// All measures of a recording.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcomes {
    /// In the order of [`Measure::ALL`], in their units; the mean of each is 0.
    pub series: [Series; 4],
    /// The recording's 99th percentile of latency; `None` without an answer.
    pub p99_ms: Option<f64>,
}

impl Outcomes {
    /// Of all transitions.
    pub fn new(dataset: &Dataset) -> Self {
        let steps = || dataset.episodes.iter().flat_map(after);
        let shapes: Vec<(f64, Shape)> = steps().flat_map(seen).filter_map(shape).collect();
        let p99_ms = percentile(&shapes).map(f64::exp);
        let count = |step: &Step| counts(step, p99_ms);
        let all = steps().map(count).fold(Counts::default(), |sum, c| Counts {
            good: sum.good + c.good,
            failed: sum.failed + c.failed,
            within: sum.within + c.within,
            in_flight: sum.in_flight + c.in_flight,
            tail: sum.tail + c.tail,
        });
        let (number, total) = (steps().count().max(1) as f64, (all.good + all.failed).max(1e-9));
        let all = Counts {
            in_flight: (all.in_flight / number).max(1e-9),
            tail: (all.tail / number).max(1e-9),
            good: (all.good / number).max(1e-9),
            ..all
        };
        let p99 = p99_ms.map_or(0.0, f64::ln);
        let share = |log_ms: f64| shapes.iter().map(|(n, shape)| n * shape.above(log_ms)).sum::<f64>();
        let steepness = ((share(p99 - 0.15) / share(p99 + 0.15).max(1e-9)).ln() / 0.3).clamp(0.3, 20.0);
        let ratio = |part: f64, of: f64, whole: f64| (part - of / total * whole) / (total / number).max(1e-9);
        let series = Measure::ALL.map(|measure| {
            let value = |step: &Step| {
                let Counts { good, failed, within, in_flight, tail } = count(step);
                match measure {
                    // Arrivals are the same whoever routes them, and are taken off with the state.
                    Measure::LogMean => in_flight / all.in_flight,
                    // So much more above the percentile moves it so much.
                    Measure::LogP99 => (tail / all.tail - good / all.good) / steepness,
                    Measure::Errors => ratio(failed, all.failed, good + failed),
                    Measure::Goodput => ratio(within, all.within, good + failed),
                }
            };
            let mut series: Series =
                dataset.episodes.iter().map(|episode| after(episode).map(value).collect()).collect();
            let mean = series.iter().flatten().sum::<f64>() / number;
            series.iter_mut().flatten().for_each(|x| *x -= mean);
            series
        });
        Self { series, p99_ms }
    }

    /// One of them.
    pub fn of(&self, measure: Measure) -> &Series {
        &self.series[measure as usize]
    }
}

/// ln of the 99th percentile of several endpoints' latencies together; `None` without answers.
fn percentile(shapes: &[(f64, Shape)]) -> Option<f64> {
    let answers: f64 = shapes.iter().map(|(answers, _)| answers).sum();
    (answers > 0.0).then(|| {
        bisect(|log_ms| {
            shapes.iter().map(|(answers, shape)| answers * shape.above(log_ms)).sum::<f64>() > TAIL * answers
        })
    })
}

/// The reward of each transition, by episode: between about −5 and 1.
pub fn rewards(dataset: &Dataset) -> Vec<Vec<f64>> {
    dataset.episodes.iter().map(episode_rewards).collect()
}

fn episode_rewards(episode: &Episode) -> Vec<f64> {
    let mut level: Option<(f64, f64)> = None;
    after(episode)
        .map(|step| {
            let Counts { good, failed, within, .. } = counts(step, None);
            let latency = log_latencies(step);
            let (mean_level, tail_level) = *level.get_or_insert(latency.unwrap_or_default());
            let held = |log: f64, level: f64| (log - level).clamp(-LATENCY_MAX, LATENCY_MAX);
            let slow = latency.map_or(0.0, |(mean, tail)| {
                (1.0 - TAIL_PART) * held(mean, mean_level) + TAIL_PART * held(tail, tail_level)
            });
            if let Some((mean, tail)) = latency {
                let gain = 1.0 / LEVEL_TICKS;
                level = Some((mean_level + gain * held(mean, mean_level), tail_level + gain * held(tail, tail_level)));
            }
            let all = (good + failed).max(1.0);
            let late = if step.objective_ms.is_some() { (good - within) / all } else { 0.0 };
            -slow - (ERROR_COST * failed / all).min(PENALTY_MAX) - (LATE_COST * late).min(PENALTY_MAX)
        })
        .collect()
}

/// Means over the answers of ln mean latency and ln 99th percentile of their endpoints; `None` without answers.
fn log_latencies(step: &Step) -> Option<(f64, f64)> {
    let (mut answers, mut mean, mut tail) = (0.0, 0.0, 0.0);
    for seen in seen(step) {
        if let (Some(mean_ms), Some(p99_ms)) = (positive(seen.latency_ms_mean), positive(seen.latency_ms_p99)) {
            let good = seen.successes as f64;
            answers += good;
            mean += good * mean_ms;
            tail += good * p99_ms.ln();
        }
    }
    (answers > 0.0).then(|| ((mean / answers).ln(), tail / answers))
}

/// Steps that tell what came of the one before.
fn after(episode: &Episode) -> impl Iterator<Item = &Step> {
    episode.steps.iter().skip(1)
}

fn seen(step: &Step) -> impl Iterator<Item = &Reported> {
    step.endpoints.iter().filter_map(|at| at.seen.as_ref())
}

fn counts(step: &Step, p99_ms: Option<f64>) -> Counts {
    let mut counts = Counts::default();
    for seen in seen(step) {
        let good = seen.successes as f64;
        counts.failed += seen.errors as f64 + seen.failures as f64;
        if seen.in_flight_mean.is_finite() {
            counts.in_flight += seen.in_flight_mean.max(0.0);
        }
        if positive(seen.latency_ms_mean).is_some() {
            counts.good += good;
            let above =
                |ms: Option<f64>| ms.zip(shape(seen)).map_or(0.0, |(ms, (_, shape))| good * shape.above(ms.ln()));
            counts.tail += above(p99_ms);
            counts.within += good - above(step.objective_ms);
        }
    }
    counts
}

fn positive(ms: Option<f64>) -> Option<f64> {
    ms.filter(|ms| ms.is_finite() && *ms > 0.0).map(|ms| ms.clamp(1e-3, 1e7))
}

/// Distribution of an endpoint's latencies in an interval, from three of its quantiles: log-normal between each two of them.
#[derive(Debug, Clone, Copy)]
struct Shape {
    /// (ln ms, normal score), rising in both.
    points: [(f64, f64); 3],
}

/// Answers, and how long they took.
fn shape(seen: &Reported) -> Option<(f64, Shape)> {
    let answers = seen.successes as f64;
    let [low, middle, high] = [seen.latency_ms_p10, seen.latency_ms_p50, seen.latency_ms_p99].map(positive);
    let (low, middle, high) = (low?.ln(), middle?.ln(), high?.ln());
    if answers <= 0.0 {
        return None;
    }
    // The 99th percentile of few answers is the largest of them, and the 10th the smallest.
    let top = normal_quantile((answers / (answers + 1.0)).clamp(0.6, 0.99));
    let bottom = normal_quantile((1.0 / (answers + 1.0)).clamp(0.1, 0.4));
    // Equal quantiles would be a step.
    let middle = middle.max(low + 0.01);
    Some((answers, Shape { points: [(low, bottom), (middle, 0.0), (high.max(middle + 0.02), top)] }))
}

impl Shape {
    /// Share above.
    fn above(&self, log_ms: f64) -> f64 {
        let [low, middle, high] = self.points;
        let (from, to) = if log_ms < middle.0 { (low, middle) } else { (middle, high) };
        let score = from.1 + (log_ms - from.0) / (to.0 - from.0) * (to.1 - from.1);
        normal_above(score)
    }
}

/// Where `above` turns false, between 1 µs and about three hours; it must be true up to there.
fn bisect(above: impl Fn(f64) -> bool) -> f64 {
    let (mut low, mut high) = (1e-3f64.ln(), 1e7f64.ln());
    for _ in 0..40 {
        let middle = 0.5 * (low + high);
        if above(middle) {
            low = middle;
        } else {
            high = middle;
        }
    }
    0.5 * (low + high)
}

/// Share of a standard normal distribution above `score` (Abramowitz & Stegun 26.2.17, error below 1e-7).
fn normal_above(score: f64) -> f64 {
    let x = score.abs();
    let t = 1.0 / (1.0 + 0.231_641_9 * x);
    let poly =
        t * (0.319_381_530 + t * (-0.356_563_782 + t * (1.781_477_937 + t * (-1.821_255_978 + t * 1.330_274_429))));
    let tail = (-0.5 * x * x).exp() / std::f64::consts::TAU.sqrt() * poly;
    if score >= 0.0 { tail } else { 1.0 - tail }
}

/// The score that so much of a standard normal distribution lies below (Abramowitz & Stegun 26.2.23, error below 5e-4).
fn normal_quantile(below: f64) -> f64 {
    let tail = below.min(1.0 - below).max(1e-12);
    let t = (-2.0 * tail.ln()).sqrt();
    let score =
        t - (2.515_517 + t * (0.802_853 + t * 0.010_328)) / (1.0 + t * (1.432_788 + t * (0.189_269 + t * 0.001_308)));
    if below >= 0.5 { score } else { -score }
}

#[cfg(test)]
mod tests;
