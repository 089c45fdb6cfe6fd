//! The learned part: features in, a bounded residual on the prior's log weights and on the rule parameters out.

use std::f64::consts::TAU;
use std::fmt;
use std::sync::Arc;

use ndarray::{Array2, ArrayView1, ShapeError};
use rand::Rng;
use thiserror::Error;

use crate::checkpoint::{Checkpoint, CheckpointError, Normalisation, Range, SHIPPED};
use crate::decision::RuleParameters;
use crate::features::{CONTEXT, FEATURES, Features};
use crate::infer::Inference;
use crate::service::Service;

/// Parameters of the pick rule that a policy may move, in the order of [`Proposal::parameters`].
/// The exponent of the count is not among them: only ratios of exponents matter.
pub const RULE_PARAMETERS: [&str; 5] =
    ["offset", "latency_exponent", "error_exponent", "weight_exponent", "work_share"];

/// Widest exploration noise, as standard deviation of a log weight: a factor of 1.65. Noise above it is no longer
/// small.
pub const EXPLORATION_STD_MAX: f64 = 0.5;

/// How long noise is held where recordings are to be learned from: 10 s of the usual ticks, as queues take seconds to settle.
pub const EXPLORATION_TICKS: u64 = 20;

/// A policy, ready to propose.
#[derive(Debug, Clone)]
pub struct Policy {
    version: String,
    learned: Option<Learned>,
    service: Option<Arc<Service>>,
    exploration_std: f64,
    /// Ticks for which noise stays as it was drawn.
    exploration_ticks: u64,
}

/// A network and how its inputs are scaled.
#[derive(Debug, Clone)]
struct Learned {
    network: Inference,
    features: Vec<Normalisation>,
    context: Vec<Normalisation>,
}

/// What a policy wants. Finite or not: the guard looks.
#[derive(Debug, Clone, PartialEq)]
pub struct Proposal {
    /// To be added to the log of the prior's weights, one an endpoint; noise included.
    pub log_weights: Vec<f64>,
    /// To be added to the log of the rule parameters, see [`RULE_PARAMETERS`].
    pub parameters: [f64; RULE_PARAMETERS.len()],
    /// Log-density of the noise in `log_weights`; `None` where nothing was drawn.
    pub log_probability: Option<f64>,
    /// That noise, in standard deviations; empty where nothing was drawn.
    pub noise: Vec<f64>,
    /// Per endpoint, the feature that lies furthest outside of what training saw; `None` where all lie within.
    pub strange: Vec<Option<Strangeness>>,
    /// The same of the context features.
    pub strange_context: Option<Strangeness>,
}

/// A feature outside of the range in which training saw it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Strangeness {
    /// Its name.
    pub feature: &'static str,
    /// What it is.
    pub value: f32,
    /// Where training saw it.
    pub seen: Range,
    /// How far outside, in widths of that range; > 0.
    pub distance: f32,
}

impl fmt::Display for Strangeness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { feature, value, seen, .. } = self;
        write!(f, "`{feature}` is {value:.2}, training saw {:.2} to {:.2}", seen.low, seen.high)
    }
}

/// The network failed.
#[derive(Debug, Error)]
#[error("policy {version}: {source}")]
pub struct PolicyFault {
    version: String,
    source: ShapeError,
}

impl Policy {
    /// The policy that always agrees with the prior and runs no network.
    pub fn prior_only() -> Self {
        Self { version: "prior".to_owned(), learned: None, service: None, exploration_std: 0.0, exploration_ticks: 1 }
    }

    /// The policy that is built in.
    ///
    /// # Errors
    /// None in a build whose tests passed.
    pub fn shipped() -> Result<Self, CheckpointError> {
        Self::load(SHIPPED)
    }

    /// A policy from a checkpoint file's bytes.
    ///
    /// # Errors
    /// What is wrong with the checkpoint.
    pub fn load(bytes: &[u8]) -> Result<Self, CheckpointError> {
        Self::new(&Checkpoint::from_bytes(bytes)?)
    }

    /// A policy from a checkpoint.
    ///
    /// # Errors
    /// A tensor with another count of numbers than its shape has, which a checked checkpoint does not hold.
    pub fn new(checkpoint: &Checkpoint) -> Result<Self, CheckpointError> {
        let numbers = |name: &str| checkpoint.tensors().get(name).map_or(&[][..], |numbers| numbers);
        let network = Inference::new(&checkpoint.shape(), numbers).map_err(|error| CheckpointError::Tensor {
            name: "any".to_owned(),
            found: error.to_string(),
            expected: "of its shape".to_owned(),
        })?;
        let manifest = checkpoint.manifest();
        let learned = Learned { network, features: manifest.features.clone(), context: manifest.context.clone() };
        let service = manifest.service.clone().map(Arc::new);
        let version = manifest.policy_version.clone();
        Ok(Self { version, learned: Some(learned), service, exploration_std: 0.0, exploration_ticks: 1 })
    }

    /// The same policy with Gaussian noise of this standard deviation on its log weights, at most
    /// [`EXPLORATION_STD_MAX`]; 0 (or what is no number) for none.
    #[must_use]
    pub fn with_exploration(mut self, std: f64) -> Self {
        self.exploration_std = if std.is_finite() { std.clamp(0.0, EXPLORATION_STD_MAX) } else { 0.0 };
        self
    }

    /// What it knows of the service that it was refined for.
    pub fn service(&self) -> Option<&Service> {
        self.service.as_deref()
    }

    /// The same policy under another name: a store's versions have names of their own.
    #[must_use]
    pub fn named(mut self, version: &str) -> Self {
        version.clone_into(&mut self.version);
        self
    }

    /// The same policy whose noise, once drawn, stays for so many ticks (at least 1). What a weight does to queues takes seconds to show: noise that is
    /// another one at every tick tells of the first moments of a change only, which can even have the other sign.
    #[must_use]
    pub fn holding_exploration(mut self, ticks: u64) -> Self {
        self.exploration_ticks = ticks.max(1);
        self
    }

    /// The same policy with noise as recordings need it, of this standard deviation: held for [`EXPLORATION_TICKS`]. 0: none.
    #[must_use]
    pub fn exploring(self, std: f64) -> Self {
        self.with_exploration(std).holding_exploration(EXPLORATION_TICKS)
    }

    /// Whether noise that was drawn before still stands after so many ticks.
    pub(crate) fn holds_noise(&self, ticks: u64) -> bool {
        self.exploration_std > 0.0 && !ticks.is_multiple_of(self.exploration_ticks)
    }

    /// Its version, as recordings name it.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Proposes.
    ///
    /// # Errors
    /// The network failed; the guard then applies the prior.
    pub fn propose(&self, features: &Features, rng: &mut impl Rng) -> Result<Proposal, PolicyFault> {
        self.propose_holding(features, &[], rng)
    }

    /// The same with this noise, in standard deviations, where there is some; the rest is drawn.
    pub(crate) fn propose_holding(
        &self,
        features: &Features,
        noise: &[Option<f64>],
        rng: &mut impl Rng,
    ) -> Result<Proposal, PolicyFault> {
        let count = features.endpoints.nrows();
        let mut proposal = Proposal {
            log_weights: vec![0.0; count],
            parameters: [0.0; RULE_PARAMETERS.len()],
            log_probability: None,
            noise: Vec::new(),
            strange: vec![None; count],
            strange_context: None,
        };
        if let Some(learned) = self.learned.as_ref().filter(|_| count > 0) {
            learned
                .propose(features, &mut proposal)
                .map_err(|source| PolicyFault { version: self.version.clone(), source })?;
        }
        if self.exploration_std > 0.0 && count > 0 {
            proposal.explore(self.exploration_std, noise, rng);
        }
        Ok(proposal)
    }
}

impl Learned {
    fn propose(&self, features: &Features, proposal: &mut Proposal) -> Result<(), ShapeError> {
        let mut endpoints = Vec::with_capacity(features.endpoints.len());
        for (row, strange) in features.endpoints.rows().into_iter().zip(&mut proposal.strange) {
            let names = FEATURES.iter().map(|feature| feature.name);
            *strange = normalise(row.iter().zip(names), &self.features, &mut endpoints);
        }
        let mut context = Vec::with_capacity(features.context.len());
        let names = CONTEXT.iter().map(|feature| feature.name);
        proposal.strange_context = normalise(features.context.iter().zip(names), &self.context, &mut context);
        let endpoints = Array2::from_shape_vec(features.endpoints.dim(), endpoints)?;
        (proposal.log_weights, proposal.parameters) = self.network.forward(&endpoints, ArrayView1::from(&context))?;
        Ok(())
    }
}

/// Appends (x − mean) ÷ std of each, x held to where training saw it: nothing is extrapolated. Returns the one furthest
/// outside.
fn normalise<'a>(
    values: impl Iterator<Item = (&'a f32, &'static str)>,
    by: &[Normalisation],
    to: &mut Vec<f32>,
) -> Option<Strangeness> {
    let mut strangest: Option<Strangeness> = None;
    for ((&value, feature), normalisation) in values.zip(by) {
        let Some(seen) = normalisation.seen else {
            to.push(0.0);
            continue;
        };
        to.push((value.clamp(seen.low, seen.high) - normalisation.mean) / normalisation.std);
        let distance = (seen.low - value).max(value - seen.high) / (seen.high - seen.low);
        if distance > strangest.map_or(0.0, |strangest| strangest.distance) {
            strangest = Some(Strangeness { feature, value, seen, distance });
        }
    }
    strangest
}

impl Proposal {
    /// Adds noise and notes its density.
    fn explore(&mut self, std: f64, held: &[Option<f64>], rng: &mut impl Rng) {
        let mut log_density = 0.0;
        for (place, log_weight) in self.log_weights.iter_mut().enumerate() {
            let noise = held.get(place).copied().flatten().unwrap_or_else(|| standard_normal(rng));
            self.noise.push(noise);
            *log_weight += std * noise;
            log_density -= 0.5 * noise * noise + std.ln() + 0.5 * TAU.ln();
        }
        self.log_probability = Some(log_density);
    }

    /// Whether every number is one.
    pub fn is_finite(&self) -> bool {
        self.log_weights.iter().chain(&self.parameters).all(|x| x.is_finite())
    }

    /// How far outside of what training saw the input lies, in widths of that range: the backend's own features, or the endpoints' on average, each
    /// by its furthest feature and counted as 1 at most.
    pub(crate) fn distance(&self) -> f64 {
        let of = |strange: &Option<Strangeness>| strange.map_or(0.0, |strange| f64::from(strange.distance).min(1.0));
        let endpoints = self.strange.iter().map(of).sum::<f64>() / self.strange.len().max(1) as f64;
        endpoints.max(of(&self.strange_context))
    }

    /// The largest residual, whichever way.
    pub(crate) fn largest(&self) -> f64 {
        self.log_weights.iter().chain(&self.parameters).fold(0.0, |largest: f64, x| largest.max(x.abs()))
    }

    /// The rule parameters that the proposal makes of these.
    pub fn rule(&self, base: RuleParameters) -> RuleParameters {
        let moved = |value: f32, log: f64| (f64::from(value) * log.exp()) as f32;
        let [offset, latency_exponent, error_exponent, weight_exponent, work_share] = self.parameters;
        RuleParameters {
            offset: moved(base.offset, offset),
            latency_exponent: moved(base.latency_exponent, latency_exponent),
            error_exponent: moved(base.error_exponent, error_exponent),
            weight_exponent: moved(base.weight_exponent, weight_exponent),
            work_share: moved(base.work_share, work_share),
            ..base
        }
    }
}

/// One draw from the standard normal distribution (Box and Muller 1958).
fn standard_normal(rng: &mut impl Rng) -> f64 {
    // 1 − [0, 1) is never 0.
    let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
    radius * (TAU * rng.random::<f64>()).cos()
}
