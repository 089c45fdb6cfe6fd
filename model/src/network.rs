//! The permutation-equivariant network: a linear part, and beside it one encoder and one scorer shared by all endpoints
//! and a pooled context, so that the same parameters serve 2 endpoints and 5,000 (Zaheer et al., "Deep Sets", 2017, with
//! mean and max pooling). Without hidden units only the linear part is there; with nothing but `rule.bias` other than zero
//! it is a set of constants. So policies of all three kinds are one kind of file, each able to start where the simpler one
//! ended. A trainer that differentiates does so through the `forward` here.
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
    /// Width of the hidden layers; 0: there are none.
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
        let rule = RULE_PARAMETERS.len();
        let mut tensors = vec![
            ("linear.weight", vec![1, features]),
            ("rule.bias", vec![rule]),
            ("rule.context.weight", vec![rule, context]),
        ];
        if hidden > 0 {
            tensors.extend([
                ("context.bias", vec![hidden]),
                ("context.weight", vec![hidden, 2 * hidden + context]),
                ("encoder.0.bias", vec![hidden]),
                ("encoder.0.weight", vec![hidden, features]),
                ("encoder.1.bias", vec![hidden]),
                ("encoder.1.weight", vec![hidden, hidden]),
                ("rule.hidden.weight", vec![rule, hidden]),
                ("scorer.0.bias", vec![hidden]),
                ("scorer.0.weight", vec![hidden, hidden]),
                ("scorer.1.bias", vec![1]),
                ("scorer.1.weight", vec![1, hidden]),
            ]);
            tensors.sort_unstable();
        }
        tensors
    }
}

/// The network.
#[derive(Debug, Clone)]
pub struct Network {
    linear: Linear,
    rule: Linear,
    hidden: Option<Hidden>,
    residual_clip: f64,
    parameter_clip: f64,
}

#[derive(Debug, Clone)]
struct Hidden {
    encoder: [Linear; 2],
    context: Linear,
    scorer: [Linear; 2],
    rule: Linear,
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
        let linear = Linear::new(tensor("linear.weight")?, None);
        let rule = Linear::new(tensor("rule.context.weight")?, Some(tensor("rule.bias")?));
        let mut layer =
            |name: &str| Ok(Linear::new(tensor(&format!("{name}.weight"))?, Some(tensor(&format!("{name}.bias"))?)));
        let hidden = if shape.hidden > 0 {
            let encoder = [layer("encoder.0")?, layer("encoder.1")?];
            let (context, scorer) = (layer("context")?, [layer("scorer.0")?, layer("scorer.1")?]);
            Some(Hidden { encoder, context, scorer, rule: Linear::new(tensor("rule.hidden.weight")?, None) })
        } else {
            None
        };
        Ok(Self { linear, rule, hidden, residual_clip: shape.residual_clip, parameter_clip: shape.parameter_clip })
    }

    /// Residuals on the log weights, `[n]`, and on the logs of the rule parameters, `[RULE_PARAMETERS]`, of one backend
    /// with `endpoints` `[n, features]` and `context` `[context]`, both normalised; n ≥ 1.
    ///
    /// # Errors
    /// candle's, for tensors of other shapes or types.
    pub fn forward(&self, endpoints: &Tensor, context: &Tensor) -> Result<(Tensor, Tensor)> {
        let mut residuals = self.linear.forward(endpoints)?;
        let mut parameters = self.rule.forward(&context.unsqueeze(0)?)?;
        if let Some(hidden) = &self.hidden {
            let (deep, rule) = hidden.forward(endpoints, context)?;
            residuals = (residuals + deep)?;
            parameters = (parameters + rule)?;
        }
        let (residuals, parameters) = (residuals.squeeze(1)?, parameters.squeeze(0)?);
        Ok(((residuals.tanh()? * self.residual_clip)?, (parameters.tanh()? * self.parameter_clip)?))
    }
}

impl Hidden {
    fn forward(&self, endpoints: &Tensor, context: &Tensor) -> Result<(Tensor, Tensor)> {
        let encoded = self.encoder[0].forward(endpoints)?.relu()?;
        let encoded = self.encoder[1].forward(&encoded)?.relu()?;
        let pooled = Tensor::cat(&[&encoded.mean(0)?, &encoded.max(0)?, context], 0)?.unsqueeze(0)?;
        let pooled = self.context.forward(&pooled)?.relu()?;
        // One layer over [encoded, pooled] whose pooled half is the same for all rows: computed once, in `context`, and
        // added.
        let hidden = self.scorer[0].forward(&encoded)?.broadcast_add(&pooled)?.relu()?;
        Ok((self.scorer[1].forward(&hidden)?, self.rule.forward(&pooled)?))
    }
}
