//! Between the strategy's flat vectors and policies: which numbers of a checkpoint a kind of policy may learn, and how far to
//! look around each at first.

use std::{fmt, str::FromStr};

use trimtab_model::checkpoint::{Checkpoint, CheckpointError, Manifest};

/// Width of a network's hidden layers: wide enough for a handful of interactions, and small enough that the few hundred
/// simulations of a generation tell something about every weight.
pub const HIDDEN: usize = 8;
/// Largest learned residual on a log weight: a factor of e either way.
const RESIDUAL_CLIP: f64 = 1.0;
/// The same on the log of a rule parameter.
const PARAMETER_CLIP: f64 = 1.0;
/// First standard deviation of what acts on a whole log residual or log factor: 10 to 20 % of a weight, 15 % of an exponent.
const SIGMA: f64 = 0.15;

/// What a policy can learn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Factors on the rule parameters, whatever the input.
    Constants,
    /// Those, and everything linear in the features.
    Linear,
    /// Those, and a small network.
    Network,
}

impl Kind {
    /// From simple to complex.
    pub const ALL: [Self; 3] = [Self::Constants, Self::Linear, Self::Network];

    /// Name on the command line and in files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Constants => "constants",
            Self::Linear => "linear",
            Self::Network => "network",
        }
    }

    /// Whether it may learn this tensor.
    fn frees(self, tensor: &str) -> bool {
        match self {
            Self::Constants => tensor == "rule.bias",
            Self::Linear => matches!(tensor, "rule.bias" | "rule.context.weight" | "linear.weight"),
            // A bias that all endpoints share says nothing of which to take.
            Self::Network => tensor != "scorer.1.bias",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// There is no kind of policy of that name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no kind of policy; there are constants, linear and network")]
pub struct UnknownKind(String);

impl FromStr for Kind {
    type Err = UnknownKind;

    fn from_str(name: &str) -> Result<Self, UnknownKind> {
        Self::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(|| UnknownKind(name.to_owned()))
    }
}

/// The numbers of a policy that are learned, as one vector.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameters {
    manifest: Manifest,
    template: Checkpoint,
    free: Vec<Free>,
}

/// One number that is learned.
#[derive(Debug, Clone, PartialEq)]
struct Free {
    tensor: &'static str,
    index: usize,
    sigma: f64,
}

impl Parameters {
    /// Those of a policy of this kind whose manifest has the normalisation and description of `manifest`; it starts where
    /// `start`, a simpler one with the same normalisation, ended, or at the prior.
    ///
    /// # Errors
    /// If the manifest does not hold.
    pub fn new(kind: Kind, manifest: &Manifest, start: Option<&Checkpoint>) -> Result<Self, CheckpointError> {
        let zero = Checkpoint::zero(if kind == Kind::Network { HIDDEN } else { 0 });
        let manifest = Manifest {
            hidden: zero.manifest().hidden,
            residual_clip: RESIDUAL_CLIP,
            parameter_clip: PARAMETER_CLIP,
            ..manifest.clone()
        };
        let mut tensors = zero.tensors().clone();
        if let Some(start) = start {
            for (name, numbers) in start.tensors() {
                tensors.entry(name.clone()).and_modify(|ours| ours.clone_from(numbers));
            }
        }
        let template = Checkpoint::new(manifest.clone(), tensors)?;
        let mut free = Vec::new();
        for (tensor, dims) in template.shape().tensors().into_iter().filter(|(tensor, _)| kind.frees(tensor)) {
            let columns = dims.last().copied().unwrap_or(1);
            for index in 0..dims.iter().product() {
                // Whatever multiplies an input that is always 0 says nothing.
                let seen = match tensor {
                    "linear.weight" | "encoder.0.weight" => manifest.features[index % columns].seen.is_some(),
                    "rule.context.weight" => manifest.context[index % columns].seen.is_some(),
                    _ => true,
                };
                if seen {
                    free.push(Free { tensor, index, sigma: sigma(tensor, &dims) });
                }
            }
        }
        Ok(Self { manifest, template, free })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.free.len()
    }

    /// Their values at the start.
    pub fn start(&self) -> Vec<f64> {
        self.free.iter().map(|free| f64::from(self.template.tensors()[free.tensor][free.index])).collect()
    }

    /// Their first standard deviations.
    pub fn sigma(&self) -> Vec<f64> {
        self.free.iter().map(|free| free.sigma).collect()
    }

    /// The policy with these values.
    ///
    /// # Errors
    /// If one of them is not finite.
    pub fn checkpoint(&self, values: &[f64]) -> Result<Checkpoint, CheckpointError> {
        let mut tensors = self.template.tensors().clone();
        for (free, value) in self.free.iter().zip(values) {
            if let Some(number) = tensors.get_mut(free.tensor).and_then(|numbers| numbers.get_mut(free.index)) {
                *number = *value as f32;
            }
        }
        Checkpoint::new(self.manifest.clone(), tensors)
    }
}

/// The first standard deviation of a tensor's numbers: such that all of them together move an output about as far as one
/// number that acts on it directly.
fn sigma(tensor: &str, dims: &[usize]) -> f64 {
    let inputs = if dims.len() == 2 { dims[1] as f64 } else { 1.0 };
    match tensor {
        "rule.bias" => SIGMA,
        // Normalised features are mostly near 0, and few of them matter.
        "linear.weight" | "rule.context.weight" => 0.5 * SIGMA,
        _ => SIGMA / inputs.sqrt(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        let mut manifest = Checkpoint::zero(0).manifest().clone();
        manifest.features[3].seen = None;
        manifest
    }

    #[test]
    fn each_kind_starts_where_the_simpler_one_ended() {
        let manifest = manifest();
        let mut before: Option<Checkpoint> = None;
        let mut count = 0;
        for kind in Kind::ALL {
            let parameters = Parameters::new(kind, &manifest, before.as_ref()).unwrap();
            assert!(parameters.count() > count, "{kind} learns more");
            count = parameters.count();
            let start = parameters.checkpoint(&parameters.start()).unwrap();
            for (name, numbers) in before.iter().flat_map(Checkpoint::tensors) {
                assert_eq!(start.tensors()[name], *numbers, "{kind}: {name}");
            }
            let moved: Vec<f64> = parameters.start().iter().map(|x| x + 0.25).collect();
            before = Some(parameters.checkpoint(&moved).unwrap());
        }
        assert_eq!("linear".parse(), Ok(Kind::Linear));
    }

    #[test]
    fn what_the_policy_is_not_shown_is_not_learned() {
        let all = Parameters::new(Kind::Linear, Checkpoint::zero(0).manifest(), None).unwrap();
        let parameters = Parameters::new(Kind::Linear, &manifest(), None).unwrap();
        assert_eq!(parameters.count(), all.count() - 1);
        let learned = parameters.checkpoint(&vec![1.0; parameters.count()]).unwrap();
        assert_eq!(learned.tensors()["linear.weight"][2..5], [1.0, 0.0, 1.0]);
    }
}
