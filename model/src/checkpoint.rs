//! A policy as a file: safetensors whose metadata holds, under [`METADATA_KEY`], a manifest of everything that must
//! match: schema version, feature names with their normalisation, sizes and bounds. What does not match is refused
//! whole.

mod manifest;

pub use manifest::{Manifest, Normalisation, Range, SCHEMA_VERSION, Training};

use std::collections::{BTreeMap, HashMap};

use candle_core::{Device, Tensor};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use thiserror::Error;

use crate::features::{CONTEXT, FEATURES, FeatureSpec};
use crate::network::{Network, Shape};
use crate::policy::RULE_PARAMETERS;
use crate::service::ServiceError;

/// Where the manifest is in the file's metadata. One key, as safetensors writes several in no fixed order.
pub const METADATA_KEY: &str = "trimtab";
/// Largest file that is read: a thousand times the shipped one.
const BYTES_MAX: usize = 64 << 20;

/// The checkpoint that is built in; made by `cargo run -p trimtab-model --example make_zero_checkpoint`.
pub const SHIPPED: &[u8] = include_bytes!("../checkpoints/shipped.safetensors");

/// Why a checkpoint is refused.
#[derive(Debug, Error)]
pub enum CheckpointError {
    /// Not a whole safetensors file.
    #[error(
        "checkpoint of {bytes} bytes is not a whole safetensors file ({detail}): write it again, or fetch it again"
    )]
    Broken {
        /// Its size.
        bytes: usize,
        /// What safetensors says.
        detail: String,
    },
    /// A safetensors file, but not one of Trimtab's.
    #[error("checkpoint has no metadata `{METADATA_KEY}`: it is not a Trimtab policy")]
    NotOurs,
    /// The manifest does not parse.
    #[error("checkpoint's metadata `{METADATA_KEY}`: {0}")]
    Manifest(#[from] serde_json::Error),
    /// Another version of the layout.
    #[error("checkpoint has schema version {found}, this Trimtab reads {SCHEMA_VERSION}: use a checkpoint made for it")]
    SchemaVersion {
        /// Its version.
        found: u64,
    },
    /// Other names where names must match.
    #[error("checkpoint's {list}[{index}] is {found}, this Trimtab has {expected}: train it again on these features")]
    Names {
        /// Which list of the manifest.
        list: &'static str,
        /// First place that differs.
        index: usize,
        /// What the checkpoint has there.
        found: String,
        /// What would be right.
        expected: String,
    },
    /// A fact about a service that cannot be.
    #[error("checkpoint's {0}")]
    Service(#[from] ServiceError),
    /// A number of the manifest that makes no sense.
    #[error("checkpoint's {field} is {value}, it must be {allowed}")]
    Field {
        /// Which.
        field: String,
        /// What it is.
        value: f64,
        /// What would be right.
        allowed: &'static str,
    },
    /// A tensor that is not there, of another shape or type, or that nobody asked for.
    #[error("checkpoint's tensor `{name}` is {found}, it must be {expected}")]
    Tensor {
        /// Which.
        name: String,
        /// What it is.
        found: String,
        /// What would be right.
        expected: String,
    },
    /// A tensor with a number that is none.
    #[error("checkpoint's tensor `{name}` holds {value} at {index}, every number must be finite: training diverged")]
    NotFinite {
        /// Which.
        name: String,
        /// Where, counted through.
        index: usize,
        /// What is there.
        value: f32,
    },
}

/// A checkpoint that has been checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    manifest: Manifest,
    /// Numbers of each tensor of [`Shape::tensors`], row by row.
    tensors: BTreeMap<String, Vec<f32>>,
}

impl Checkpoint {
    /// Checks and takes what a trainer made.
    ///
    /// # Errors
    /// What does not match, and what would.
    pub fn new(manifest: Manifest, tensors: BTreeMap<String, Vec<f32>>) -> Result<Self, CheckpointError> {
        manifest.check()?;
        let expected = shape_of(&manifest).tensors();
        for (name, shape) in &expected {
            let wanted = shape.iter().product::<usize>();
            let found = tensors.get(*name).map_or("missing".to_owned(), |numbers| format!("{} numbers", numbers.len()));
            let right = tensors.get(*name).is_some_and(|numbers| numbers.len() == wanted);
            check_tensor(right, name, found, || format!("{wanted} numbers, for shape {shape:?}"))?;
        }
        if let Some(name) = tensors.keys().find(|name| !expected.iter().any(|(known, _)| known == name)) {
            check_tensor(false, name, "there".to_owned(), || "left out: no such tensor is known".to_owned())?;
        }
        for (name, numbers) in &tensors {
            if let Some((index, &value)) = numbers.iter().enumerate().find(|(_, x)| !x.is_finite()) {
                return Err(CheckpointError::NotFinite { name: name.clone(), index, value });
            }
        }
        Ok(Self { manifest, tensors })
    }

    /// Reads a file's bytes.
    ///
    /// # Errors
    /// What is wrong with them, and what would be right.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CheckpointError> {
        let broken = |detail: String| CheckpointError::Broken { bytes: bytes.len(), detail };
        if bytes.len() > BYTES_MAX {
            return Err(broken(format!("larger than {BYTES_MAX} bytes")));
        }
        let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(|error| broken(error.to_string()))?;
        let text =
            metadata.metadata().as_ref().and_then(|map| map.get(METADATA_KEY)).ok_or(CheckpointError::NotOurs)?;
        // The version first: a manifest of another one need not parse as ours.
        let version: serde_json::Value = serde_json::from_str(text)?;
        match version.get("schema_version").and_then(serde_json::Value::as_u64) {
            Some(found) if found != u64::from(SCHEMA_VERSION) => return Err(CheckpointError::SchemaVersion { found }),
            _ => {}
        }
        let manifest: Manifest = serde_json::from_str(text)?;
        manifest.check()?;

        let expected: HashMap<&str, Vec<usize>> = shape_of(&manifest).tensors().into_iter().collect();
        let file = SafeTensors::deserialize(bytes).map_err(|error| broken(error.to_string()))?;
        let mut tensors = BTreeMap::new();
        // By name, so that the same file is refused for the same reason each time.
        let views: BTreeMap<String, TensorView<'_>> = file.tensors().into_iter().collect();
        for (name, view) in views {
            if let Some(shape) = expected.get(name.as_str()) {
                let right = view.dtype() == Dtype::F32 && view.shape() == shape;
                let found = format!("{:?} of shape {:?}", view.dtype(), view.shape());
                check_tensor(right, &name, found, || format!("F32 of shape {shape:?}"))?;
            }
            let (numbers, _) = view.data().as_chunks::<4>();
            tensors.insert(name, numbers.iter().map(|&number| f32::from_le_bytes(number)).collect());
        }
        Self::new(manifest, tensors)
    }

    /// The file's bytes; the same for the same checkpoint.
    ///
    /// # Errors
    /// A manifest that cannot be written as JSON, which a checked one can.
    pub fn to_bytes(&self) -> Result<Vec<u8>, CheckpointError> {
        let broken =
            |error: safetensors::SafeTensorError| CheckpointError::Broken { bytes: 0, detail: error.to_string() };
        let data: BTreeMap<&str, Vec<u8>> = self
            .tensors
            .iter()
            .map(|(name, numbers)| (name.as_str(), numbers.iter().flat_map(|x| x.to_le_bytes()).collect()))
            .collect();
        let views = shape_of(&self.manifest)
            .tensors()
            .into_iter()
            .map(|(name, shape)| Ok((name, TensorView::new(Dtype::F32, shape, data.get(name).map_or(&[][..], |d| d))?)))
            .collect::<Result<Vec<_>, _>>()
            .map_err(broken)?;
        let metadata = HashMap::from([(METADATA_KEY.to_owned(), serde_json::to_string(&self.manifest)?)]);
        safetensors::serialize(views, Some(metadata)).map_err(broken)
    }

    /// The policy that agrees with the prior everywhere, as a starting point for training: the last layers and the linear
    /// part are zero, the others drawn uniformly with variance 2 ÷ inputs (He et al. 2015). Its normalisation spans each
    /// feature's whole range, so that nothing is unfamiliar to it: it has learned nothing that could be wrong there.
    pub fn zero(hidden: usize) -> Self {
        let manifest = Manifest {
            schema_version: SCHEMA_VERSION,
            policy_version: "zero-1".to_owned(),
            created_by: "make_zero_checkpoint".to_owned(),
            features: FEATURES.iter().map(whole_range).collect(),
            context: CONTEXT.iter().map(whole_range).collect(),
            rule_parameters: RULE_PARAMETERS.iter().map(|&name| name.to_owned()).collect(),
            hidden,
            // A factor of e either way: the study's learned residuals stayed within it.
            residual_clip: 1.0,
            // A factor of 1.65 either way.
            parameter_clip: 0.5,
            training: None,
            service: None,
        };
        let mut rng = StdRng::seed_from_u64(1);
        let mut draw = |name: &str, shape: &[usize]| {
            let numbers = shape.iter().product();
            let last = name.starts_with("rule.") || name.starts_with("scorer.1.") || name.starts_with("linear.");
            if name.ends_with(".bias") || last {
                return vec![0.0; numbers];
            }
            // A uniform distribution on ±b has variance b²/3.
            let bound = (6.0 / shape[1] as f32).sqrt();
            (0..numbers).map(|_| rng.random_range(-bound..=bound)).collect()
        };
        let tensors =
            shape_of(&manifest).tensors().iter().map(|(name, shape)| ((*name).to_owned(), draw(name, shape))).collect();
        Self { manifest, tensors }
    }

    /// What it says of itself.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Sizes and bounds of its network.
    pub fn shape(&self) -> Shape {
        shape_of(&self.manifest)
    }

    /// Its network as training sees it.
    ///
    /// # Errors
    /// candle's, for numbers that do not fill their shape, which a checked checkpoint does not hold.
    pub fn network(&self) -> candle_core::Result<Network> {
        let shapes: HashMap<&str, Vec<usize>> = self.shape().tensors().into_iter().collect();
        Network::new(&self.shape(), |name| {
            let numbers = self.tensors.get(name).map_or(&[][..], |numbers| numbers);
            Tensor::from_slice(numbers, shapes.get(name).cloned().unwrap_or_default(), &Device::Cpu)
        })
    }

    /// Its tensors by name, row by row.
    pub fn tensors(&self) -> &BTreeMap<String, Vec<f32>> {
        &self.tensors
    }
}

fn shape_of(manifest: &Manifest) -> Shape {
    Shape {
        features: manifest.features.len(),
        context: manifest.context.len(),
        hidden: manifest.hidden,
        residual_clip: manifest.residual_clip,
        parameter_clip: manifest.parameter_clip,
    }
}

fn whole_range<F>(feature: &FeatureSpec<F>) -> Normalisation {
    Normalisation {
        name: feature.name.to_owned(),
        mean: 0.5 * (feature.low + feature.high),
        std: 0.5 * (feature.high - feature.low),
        seen: Some(Range { low: feature.low, high: feature.high }),
    }
}

fn check_tensor(
    right: bool,
    name: &str,
    found: String,
    expected: impl FnOnce() -> String,
) -> Result<(), CheckpointError> {
    if right { Ok(()) } else { Err(CheckpointError::Tensor { name: name.to_owned(), found, expected: expected() }) }
}
