//! What a checkpoint says of itself, and what of it must be right before a number of it is used.

use serde::{Deserialize, Serialize};

use super::CheckpointError;
use crate::features::{CONTEXT, FEATURES};
use crate::policy::RULE_PARAMETERS;
use crate::service::Service;

/// Version of the layout; changes when a file of the old one would be misread.
pub const SCHEMA_VERSION: u32 = 2;
/// Largest bound on a log residual that a checkpoint may ask for: a factor of 20. More is no residual.
const CLIP_MAX: f64 = 3.0;

/// What a checkpoint says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`SCHEMA_VERSION`] of the writer.
    pub schema_version: u32,
    /// Version of the policy, as decisions and recordings name it.
    pub policy_version: String,
    /// What made it: a command.
    pub created_by: String,
    /// Names and normalisation of the endpoint features, in order.
    pub features: Vec<Normalisation>,
    /// The same of the context features.
    pub context: Vec<Normalisation>,
    /// Names of the rule parameters that it moves, in order.
    pub rule_parameters: Vec<String>,
    /// Width of the hidden layers; 0: the policy is linear.
    pub hidden: usize,
    /// Largest residual on a log weight.
    pub residual_clip: f64,
    /// Largest residual on the log of a rule parameter.
    pub parameter_clip: f64,
    /// How it was trained; nothing for one that was not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub training: Option<Training>,
    /// What its recordings told of the service that it was refined for; nothing for a policy for all services.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<Service>,
}

/// How one feature looked in training: the network is given (x − mean) ÷ std of x held to the range that was seen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Normalisation {
    /// The feature.
    pub name: String,
    /// Its mean.
    pub mean: f32,
    /// Its standard deviation; > 0.
    pub std: f32,
    /// Where it lay; nothing if it never varied: then the network learned nothing of it, is always given 0, and no value is
    /// unfamiliar.
    pub seen: Option<Range>,
}

/// Where all but the most extreme values of a feature lay in training.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Range {
    /// From.
    pub low: f32,
    /// To; > `low`.
    pub high: f32,
}

/// Where a policy comes from and how it fared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Training {
    /// What kind of policy it is: `constants`, `linear` or `network`.
    pub kind: String,
    /// The seed from which everything was drawn.
    pub seed: u64,
    /// Updates until this one.
    pub generations: u64,
    /// Families of scenarios that it was trained on.
    pub families: Vec<String>,
    /// First and last seed of the scenarios that it was trained on.
    pub seeds: (u64, u64),
    /// Mean cost on the validation scenarios by policy, lower is better: this one, its rivals, and the other kinds.
    pub scores: Vec<(String, f64)>,
}

impl Manifest {
    /// Whether everything of it makes sense and fits this Trimtab.
    pub(super) fn check(&self) -> Result<(), CheckpointError> {
        if self.schema_version != SCHEMA_VERSION {
            return Err(CheckpointError::SchemaVersion { found: self.schema_version.into() });
        }
        let field = |right: bool, field: &str, value: f64, allowed| {
            if right { Ok(()) } else { Err(CheckpointError::Field { field: field.to_owned(), value, allowed }) }
        };
        check_names("features", self.features.iter().map(|f| &*f.name), FEATURES.iter().map(|f| f.name))?;
        check_names("context", self.context.iter().map(|f| &*f.name), CONTEXT.iter().map(|f| f.name))?;
        check_names("rule_parameters", self.rule_parameters.iter().map(|n| &**n), RULE_PARAMETERS.into_iter())?;
        for feature in self.features.iter().chain(&self.context) {
            let name = |part: &str| format!("{part} of feature `{}`", feature.name);
            field(feature.mean.is_finite(), &name("mean"), feature.mean.into(), "finite")?;
            field(
                feature.std.is_finite() && feature.std > 0.0,
                &name("std"),
                feature.std.into(),
                "finite and above 0",
            )?;
            let seen =
                feature.seen.is_none_or(|seen| seen.low.is_finite() && seen.high.is_finite() && seen.low < seen.high);
            let low = feature.seen.map_or(0.0, |seen| f64::from(seen.low));
            field(seen, &name("lowest value"), low, "finite and below the highest")?;
        }
        if let Some(service) = &self.service {
            service.check()?;
        }
        let clip = |value: f64| value > 0.0 && value <= CLIP_MAX;
        field(self.hidden <= 1024, "hidden", self.hidden as f64, "from 0 (linear) to 1024")?;
        field(clip(self.residual_clip), "residual_clip", self.residual_clip, "above 0, at most 3")?;
        field(clip(self.parameter_clip), "parameter_clip", self.parameter_clip, "above 0, at most 3")
    }
}

fn check_names<'a>(
    list: &'static str,
    found: impl Iterator<Item = &'a str>,
    expected: impl Iterator<Item = &'a str>,
) -> Result<(), CheckpointError> {
    let (mut found, mut expected) = (found, expected);
    let quoted = |name: Option<&str>| name.map_or("nothing".to_owned(), |name| format!("`{name}`"));
    for index in 0.. {
        match (found.next(), expected.next()) {
            (None, None) => break,
            (f, e) if f == e => {}
            (f, e) => return Err(CheckpointError::Names { list, index, found: quoted(f), expected: quoted(e) }),
        }
    }
    Ok(())
}
