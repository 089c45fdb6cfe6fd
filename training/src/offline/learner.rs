//! Better policies from a recording. Both learners start from the incumbent and train its network through its own `forward`, and both ask a critic that
//! knows only recorded actions what an endpoint's residual is worth.
//!
//! * [`Method::Awac`], the default: advantage-weighted regression (Peng et al. 2019; AWAC, Nair et al. 2020). The policy imitates the recorded residuals, those
//!   more that turned out better. It can only move within what was tried, which is what is wanted of a policy that goes to production, and where nothing was
//!   tried it stays where it is. The noise is normal and the critic quadratic, so what is imitated is known without drawing it: a sum over the draws that
//!   happen to be recorded, few and held for seconds, would imitate their chance means as well. Chosen over IQL, whose expectile finds the best recorded
//!   action without asking for others: here noise is small and around one policy, so that the critic's mean says the same with less variance.
//! * [`Method::Td3Bc`], the challenger: climbs the critic, held back by imitation (TD3+BC, Fujimoto & Gu 2021). It goes further, so it believes the lesser of two
//!   critics that saw different halves of the time.
//!
//! What was never explored is not learned: the rule's parameters stay the incumbent's.

mod actor;
mod critic;

use rand::Rng;
use serde::Serialize;
use trimtab_model::{
    Policy,
    checkpoint::{Checkpoint, CheckpointError, Manifest, Normalisation, Range},
    features::{CONTEXT, FEATURES},
};

use super::{
    basis::Basis,
    dataset::{Dataset, Step, residuals},
    outcome::rewards,
};
use crate::simulator::random::{Purpose, stream};
use actor::{Actor, Example};
use critic::Critic;

/// How a policy is learned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// Advantage-weighted regression.
    Awac,
    /// Climbing the critic, held back by imitation.
    Td3Bc,
}

/// All knobs of a learner.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Knobs {
    /// How.
    pub method: Method,
    /// Minibatches, and where a weight starts that the incumbent does not have, come from here.
    pub seed: u64,
    /// Updates of the policy.
    pub steps: usize,
    /// Ticks of a minibatch.
    pub batch: usize,
    /// Adam's step (Kingma & Ba 2015); it falls to a tenth over the training.
    pub rate: f64,
    /// γ of the critic: what comes a tick later counts this much less. About as long as noise is held: what a weight does to queues takes seconds to show,
    /// and what shows at once can have the other sign, as latencies are known when requests end.
    pub discount: f64,
    /// Standard errors by which the critic's opinion is doubted.
    pub doubt: f64,
    /// β: an action that makes ticks this much better while it lasts is e times as worth imitating. Smaller moves further.
    pub temperature: f64,
    /// Standard deviations of the recorded noise that an imitated action is away at the most.
    pub reach: f64,
    /// How much imitating the incumbent counts where the data is, besides what is learned.
    pub anchor: f64,
    /// The same at made-up states, each with one feature anywhere in its range: where data is thin, the incumbent's action.
    pub thin: f64,
}

impl Default for Knobs {
    fn default() -> Self {
        Self {
            method: Method::Awac,
            seed: 1,
            steps: 600,
            batch: 128,
            rate: 0.03,
            discount: 0.95,
            doubt: 1.0,
            temperature: 0.015,
            reach: 2.0,
            anchor: 0.1,
            thin: 0.05,
        }
    }
}

/// What was learned.
#[derive(Debug, Clone, PartialEq)]
pub struct Learned {
    /// The policy.
    pub checkpoint: Checkpoint,
    /// How it came about.
    pub report: Report,
}

/// How a policy came about, in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Report {
    /// With which knobs.
    pub knobs: Knobs,
    /// Transitions it learned from.
    pub transitions: usize,
    /// Part of the endpoints × ticks where the critic was sure of a slope.
    pub sure_share: f64,
    /// Loss at the beginning and at the end.
    pub loss: (f64, f64),
    /// How far its residuals are from the incumbent's, root mean square by share.
    pub moved: f64,
}

/// Why nothing was learned.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    /// Too little.
    #[error("{found} transitions were recorded, at least {needed} are needed")]
    TooLittle {
        /// What there is.
        found: usize,
        /// What would do.
        needed: usize,
    },
    /// The critic's equations have no solution.
    #[error(
        "the critic's equations have no solution: the recording holds numbers that are none, or no variation at all"
    )]
    NoCritic,
    /// candle's.
    #[error("the network cannot be trained: {0}")]
    Network(#[from] candle_core::Error),
    /// A policy cannot be written down.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
}

/// Transitions below which nothing is learned: a minute.
const TRANSITIONS_MIN: usize = 120;

/// Learns from a recording that the incumbent (plus noise) made.
///
/// # Errors
/// If there is too little to learn from, or training diverged.
pub fn learn(dataset: &Dataset, incumbent: &Checkpoint, knobs: &Knobs) -> Result<Learned, OfflineError> {
    let transitions = dataset.transitions();
    if transitions < TRANSITIONS_MIN {
        return Err(OfflineError::TooLittle { found: transitions, needed: TRANSITIONS_MIN });
    }
    let basis = Basis::new(dataset);
    let rewards = rewards(dataset);
    let fit = |of_blocks: &dyn Fn(usize) -> bool| {
        Critic::fit(dataset, &basis, &rewards, knobs.discount, of_blocks).ok_or(OfflineError::NoCritic)
    };
    let critics = match knobs.method {
        Method::Awac => vec![fit(&|_| true)?],
        Method::Td3Bc => vec![fit(&|block| block % 2 == 0)?, fit(&|block| block % 2 == 1)?],
    };
    let start = start(dataset, incumbent)?;
    let policy = Policy::new(incumbent)?;
    let (mut sure, mut all) = (0.0, 0.0);
    let mut examples = Vec::with_capacity(transitions);
    for step in dataset.episodes.iter().flat_map(|episode| &episode.steps[..episode.steps.len() - 1]) {
        let example = example(dataset, step, &policy, &critics, knobs);
        for (place, at) in step.endpoints.iter().enumerate().filter(|(_, at)| at.heard) {
            sure += if example.slope[place] != 0.0 { at.share } else { 0.0 };
            all += at.share;
        }
        examples.push(example);
    }
    let mut actor = Actor::new(&start)?;
    let loss = actor.train(&examples, knobs)?;
    let manifest = Manifest {
        policy_version: format!("{}+{}", incumbent.manifest().policy_version, name(knobs)),
        created_by: "offline refinement".to_owned(),
        training: None,
        ..start.manifest().clone()
    };
    let checkpoint = Checkpoint::new(manifest, actor.tensors()?)?;
    let moved = moved(dataset, &policy, &Policy::new(&checkpoint)?);
    let sure_share = if all > 0.0 { sure / all } else { 0.0 };
    Ok(Learned { checkpoint, report: Report { knobs: *knobs, transitions, sure_share, loss, moved } })
}

fn name(knobs: &Knobs) -> String {
    let method = match knobs.method {
        Method::Awac => "awac",
        Method::Td3Bc => "td3bc",
    };
    format!("{method}-{}", knobs.seed)
}

/// One tick to learn from.
fn example(dataset: &Dataset, step: &Step, incumbent: &Policy, critics: &[Critic<'_>], knobs: &Knobs) -> Example {
    let mut example = Example::of(step, residuals(incumbent, step));
    for (place, _) in step.endpoints.iter().enumerate().filter(|(_, at)| at.heard) {
        let worth = critics.iter().map(|critic| critic.worth(step, place)).reduce(critic::Worth::lesser);
        let Some(worth) = worth else { continue };
        let (slope, curvature) = worth.doubted(knobs.doubt);
        example.heard[place] = 1.0;
        example.slope[place] = slope as f32;
        example.curvature[place] = curvature as f32;
        let std = dataset.exploration_std.unwrap_or(0.0);
        example.imitated[place] = imitated(slope, curvature, std, knobs) as f32;
    }
    example
}

/// Mean of normal noise that is weighted by e^(advantage ÷ β): the product of the two densities is normal again.
fn imitated(slope: f64, curvature: f64, std: f64, knobs: &Knobs) -> f64 {
    let variance = std * std;
    let mean = slope * variance / (knobs.temperature - 2.0 * curvature * variance);
    mean.clamp(-knobs.reach * std, knobs.reach * std)
}

/// The incumbent, seeing what the data has shown as well: ranges joined, and features that it never saw vary brought in without any effect.
fn start(dataset: &Dataset, incumbent: &Checkpoint) -> Result<Checkpoint, CheckpointError> {
    let mut survey = crate::learn::distribution::Survey::default();
    for step in dataset.steps() {
        survey.take(&step.features);
    }
    let (features, context) = survey.normalisations();
    let manifest = incumbent.manifest();
    let join = |own: &[Normalisation], data: Vec<Normalisation>| -> (Vec<Normalisation>, Vec<usize>) {
        let mut fresh = Vec::new();
        let joined = own.iter().zip(data).enumerate().map(|(index, (own, data))| match (own.seen, data.seen) {
            (Some(a), Some(b)) => {
                Normalisation { seen: Some(Range { low: a.low.min(b.low), high: a.high.max(b.high) }), ..own.clone() }
            }
            (None, Some(_)) => {
                fresh.push(index);
                data
            }
            _ => own.clone(),
        });
        let joined = joined.collect();
        (joined, fresh)
    };
    let (features, fresh) = join(&manifest.features, features);
    let (context, fresh_context) = join(&manifest.context, context);
    let mut tensors = incumbent.tensors().clone();
    let mut silence = |name: &str, columns: usize, from: usize, fresh: &[usize]| {
        if let Some(numbers) = tensors.get_mut(name) {
            for row in numbers.chunks_mut(columns) {
                fresh.iter().for_each(|index| row[from + index] = 0.0);
            }
        }
    };
    let hidden = 2 * manifest.hidden;
    silence("linear.weight", FEATURES.len(), 0, &fresh);
    silence("encoder.0.weight", FEATURES.len(), 0, &fresh);
    silence("rule.context.weight", CONTEXT.len(), 0, &fresh_context);
    silence("context.weight", hidden + CONTEXT.len(), hidden, &fresh_context);
    Checkpoint::new(Manifest { features, context, ..manifest.clone() }, tensors)
}

fn moved(dataset: &Dataset, incumbent: &Policy, learned: &Policy) -> f64 {
    let (mut square, mut all) = (0.0, 0.0);
    for step in dataset.steps() {
        let mut difference: Vec<f64> =
            residuals(learned, step).iter().zip(residuals(incumbent, step)).map(|(a, b)| a - b).collect();
        super::dataset::centre(step, &mut difference);
        for (at, difference) in step.endpoints.iter().zip(difference) {
            square += at.share * difference * difference;
            all += at.share;
        }
    }
    if all > 0.0 { (square / all).sqrt() } else { 0.0 }
}

/// Indices of a minibatch.
fn minibatch(rng: &mut impl Rng, from: usize, count: usize) -> Vec<usize> {
    (0..count.min(from)).map(|_| rng.random_range(0..from)).collect()
}

/// The learner's randomness.
fn rng(knobs: &Knobs) -> rand::rngs::SmallRng {
    stream(knobs.seed, Purpose::Learning, 0x0ff1)
}

#[cfg(test)]
mod tests;
