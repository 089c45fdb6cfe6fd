//! The permutation-equivariant network: one encoder and one scorer shared by all endpoints, and a pooled context, so
//! that the same few thousand parameters serve 2 endpoints and 5,000 (Zaheer et al., "Deep Sets", 2017, with mean and
//! max pooling). Training builds it from variables and differentiates through the very `forward` that ships.
//!
//! Every output is `clip · tanh(x)`: no weights whatsoever can make it leave its range.

use candle_core::{Result, Tensor};
use candle_nn::{Linear, Module};

use crate::policy::RULE_PARAMETERS;

/// Sizes and bounds of a network.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shape {
    /// Features of an endpoint.
    pub features: usize,
    /// Features of the backend.
    pub context: usize,
    /// Width of the hidden layers.
    pub hidden: usize,
    /// Largest residual on a log weight.
    pub residual_clip: f64,
    /// Largest residual on the log of a rule parameter.
    pub parameter_clip: f64,
}

impl Shape {
    /// Names and shapes of all tensors, sorted by name. A weight is `[outputs, inputs]`.
    pub fn tensors(&self) -> Vec<(&'static str, Vec<usize>)> {
        let Self { features, context, hidden, .. } = *self;
        vec![
            ("context.bias", vec![hidden]),
            ("context.weight", vec![hidden, 2 * hidden + context]),
            ("encoder.0.bias", vec![hidden]),
            ("encoder.0.weight", vec![hidden, features]),
            ("encoder.1.bias", vec![hidden]),
            ("encoder.1.weight", vec![hidden, hidden]),
            ("rule.bias", vec![RULE_PARAMETERS.len()]),
            ("rule.weight", vec![RULE_PARAMETERS.len(), hidden]),
            ("scorer.0.bias", vec![hidden]),
            ("scorer.0.weight", vec![hidden, hidden]),
            ("scorer.1.bias", vec![1]),
            ("scorer.1.weight", vec![1, hidden]),
        ]
    }
}

/// The network.
#[derive(Debug, Clone)]
pub struct Network {
    encoder: [Linear; 2],
    context: Linear,
    scorer: [Linear; 2],
    rule: Linear,
    residual_clip: f64,
    parameter_clip: f64,
}

impl Network {
    /// Takes its tensors by name (see [`Shape::tensors`]); a trainer hands out its variables here.
    ///
    /// # Errors
    /// Those of `tensor`.
    pub fn new<E>(
        shape: &Shape,
        mut tensor: impl FnMut(&str) -> std::result::Result<Tensor, E>,
    ) -> std::result::Result<Self, E> {
        let mut linear =
            |name: &str| Ok(Linear::new(tensor(&format!("{name}.weight"))?, Some(tensor(&format!("{name}.bias"))?)));
        Ok(Self {
            encoder: [linear("encoder.0")?, linear("encoder.1")?],
            context: linear("context")?,
            scorer: [linear("scorer.0")?, linear("scorer.1")?],
            rule: linear("rule")?,
            residual_clip: shape.residual_clip,
            parameter_clip: shape.parameter_clip,
        })
    }

    /// Residuals on the log weights, `[n]`, and on the logs of the rule parameters, `[RULE_PARAMETERS]`, of one backend
    /// with
    /// `endpoints` `[n, features]` and `context` `[context]`, both normalised; n ≥ 1.
    ///
    /// # Errors
    /// candle's, for tensors of other shapes or types.
    pub fn forward(&self, endpoints: &Tensor, context: &Tensor) -> Result<(Tensor, Tensor)> {
        let encoded = self.encoder[0].forward(endpoints)?.relu()?;
        let encoded = self.encoder[1].forward(&encoded)?.relu()?;
        let pooled = Tensor::cat(&[&encoded.mean(0)?, &encoded.max(0)?, context], 0)?.unsqueeze(0)?;
        let pooled = self.context.forward(&pooled)?.relu()?;
        // One layer over [encoded, pooled] whose pooled half is the same for all rows: computed once, in `context`, and
        // added.
        let hidden = self.scorer[0].forward(&encoded)?.broadcast_add(&pooled)?.relu()?;
        let residuals = self.scorer[1].forward(&hidden)?.squeeze(1)?;
        let parameters = self.rule.forward(&pooled)?.squeeze(0)?;
        Ok(((residuals.tanh()? * self.residual_clip)?, (parameters.tanh()? * self.parameter_clip)?))
    }
}
