//! How well a twin reproduces recordings that it was not made from: the behaviour policy runs through stretches of them, and what comes out is
//! put beside what was recorded.

use std::ops::Range;

use trimtab_model::checkpoint::Checkpoint;

use super::{Twin, trace::Request};
use crate::{
    fleet::BACKEND,
    learn::{LearnError, parallel},
    report::Interval,
    simulator::{simulate, time::MILLISECOND},
};

/// Answers of a class or an endpoint in a stretch from which on its quantiles are compared.
const ANSWERS_MIN: usize = 100;

/// What is compared.
#[derive(Debug, Clone, PartialEq)]
pub struct Fidelity {
    /// Twin over recording, geometric mean over the stretches: medians and 99th percentiles of all requests.
    pub p50: Option<Interval>,
    /// See `p50`.
    pub p99: Option<Interval>,
    /// Twin less recording, in shares.
    pub errors: Option<Interval>,
    /// The same by class, in the order of the trace's classes.
    pub classes: Vec<Ratios>,
    /// The same by endpoint, in the order of the trace's keys.
    pub endpoints: Vec<Ratios>,
    /// Stretches that were compared.
    pub stretches: usize,
}

/// Twin over recording for a part of the requests; nothing where there were too few.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ratios {
    /// Of medians.
    pub p50: Option<Interval>,
    /// Of 99th percentiles.
    pub p99: Option<Interval>,
    /// Difference of shares of errors.
    pub errors: Option<Interval>,
}

/// A recorded or simulated request, as far as it is compared.
#[derive(Debug, Clone, Copy)]
struct Answer {
    class: usize,
    endpoint: usize,
    latency_ms: f64,
    good: bool,
}

impl Fidelity {
    /// Runs the policy that was in force while `twin` was recorded through these stretches of it.
    ///
    /// # Errors
    /// If the checkpoint does not hold.
    pub fn of(
        twin: &Twin,
        stretches: &[Range<usize>],
        behaviour: &Checkpoint,
        seed: u64,
        jobs: usize,
    ) -> Result<Self, LearnError> {
        let policy = twin.policy(behaviour)?;
        let pairs = parallel::map(jobs, stretches.len(), |number| {
            let scenario = twin.scenario(&stretches[number], seed + number as u64);
            let mut fleet = twin.fleet(&stretches[number], &scenario, policy.clone()).recording(1.0);
            simulate(&scenario, &mut fleet)?;
            let rows = fleet.into_recording().requests;
            let from_ms = (scenario.measured_ns.start / MILLISECOND) as i64;
            let simulated: Vec<Answer> = rows
                .iter()
                .filter(|row| row.backend == BACKEND && row.at_ms >= from_ms && row.attempts == 1)
                .filter_map(|row| {
                    Some(Answer {
                        class: row.class_key.map_or(0, |key| key as usize - 1),
                        endpoint: row.endpoint as usize,
                        latency_ms: row.latency_ms,
                        good: row.status? < 500,
                    })
                })
                .collect();
            Ok::<_, LearnError>((recorded(twin, &stretches[number]), simulated))
        });
        let pairs: Vec<(Vec<Answer>, Vec<Answer>)> = pairs.into_iter().collect::<Result<_, _>>()?;
        let all = Ratios::of(&pairs, |_| true);
        Ok(Self {
            p50: all.p50,
            p99: all.p99,
            errors: all.errors,
            classes: (0..twin.trace.classes.len()).map(|class| Ratios::of(&pairs, |a| a.class == class)).collect(),
            endpoints: (0..twin.trace.keys.len()).map(|key| Ratios::of(&pairs, |a| a.endpoint == key)).collect(),
            stretches: pairs.len(),
        })
    }
}

impl Fidelity {
    /// How far off it is: the mean of the logarithms of how far p50 and p99 are, of all requests and of the classes. Infinite where nothing could
    /// be compared.
    pub fn misfit(&self) -> f64 {
        let off = |interval: &Option<Interval>| interval.map(|ratio| ratio.mean.ln().abs());
        let classes = self.classes.iter().flat_map(|class| [off(&class.p50), off(&class.p99)]);
        let all: Vec<f64> = [off(&self.p50), off(&self.p99)].into_iter().chain(classes).flatten().collect();
        if all.is_empty() { f64::INFINITY } else { all.iter().sum::<f64>() / all.len() as f64 }
    }
}

/// The sampled requests of a stretch, without its warm-up.
fn recorded(twin: &Twin, stretch: &Range<usize>) -> Vec<Answer> {
    let ticks = &twin.trace.ticks[stretch.clone()];
    let (Some(first), Some(last)) = (ticks.first(), ticks.last()) else { return Vec::new() };
    let measured = first.at_ms + super::world::WARM_UP_S as i64 * 1_000..last.at_ms;
    let requests = &twin.trace.requests;
    let from = requests.partition_point(|request| request.at_ms < measured.start);
    requests[from..].iter().take_while(|request| request.at_ms < measured.end).map(Answer::from).collect()
}

impl From<&Request> for Answer {
    fn from(request: &Request) -> Self {
        let Request { class, endpoint, latency_ms, good, .. } = *request;
        Self { class, endpoint, latency_ms, good }
    }
}

impl Ratios {
    fn of(pairs: &[(Vec<Answer>, Vec<Answer>)], wanted: impl Fn(&Answer) -> bool) -> Self {
        let (mut p50, mut p99, mut errors) = (Vec::new(), Vec::new(), Vec::new());
        for (recorded, simulated) in pairs {
            let [recorded, simulated] = [recorded, simulated].map(|answers| Sample::of(answers, &wanted));
            if recorded.latency_ms.len().min(simulated.latency_ms.len()) < ANSWERS_MIN {
                continue;
            }
            p50.push((simulated.quantile(0.5) / recorded.quantile(0.5)).ln());
            p99.push((simulated.quantile(0.99) / recorded.quantile(0.99)).ln());
            errors.push(simulated.error_share - recorded.error_share);
        }
        Self { p50: Interval::of_logarithms(&p50), p99: Interval::of_logarithms(&p99), errors: Interval::of(&errors) }
    }
}

struct Sample {
    /// Of good answers, ascending.
    latency_ms: Vec<f64>,
    error_share: f64,
}

impl Sample {
    fn of(answers: &[Answer], wanted: impl Fn(&Answer) -> bool) -> Self {
        let (mut latency_ms, mut all) = (Vec::new(), 0);
        for answer in answers.iter().filter(|answer| wanted(answer)) {
            all += 1;
            if answer.good {
                latency_ms.push(answer.latency_ms);
            }
        }
        latency_ms.sort_unstable_by(f64::total_cmp);
        let error_share = 1.0 - latency_ms.len() as f64 / f64::from(all.max(1));
        Self { latency_ms, error_share }
    }

    fn quantile(&self, probability: f64) -> f64 {
        let place = (probability * self.latency_ms.len() as f64) as usize;
        self.latency_ms.get(place.min(self.latency_ms.len().saturating_sub(1))).copied().unwrap_or(0.0).max(1e-6)
    }
}
