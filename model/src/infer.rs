//! The network's forward pass as it runs at every tick: the arithmetic of
//! [`Network::forward`](crate::network::Network::forward) in plain arrays.
//!
//! candle is built for training; a tick calls it once with one small batch and pays for what it does not need: threads
//! that wake for each product (0.2 ms for 12 endpoints), and a fresh tensor for each bias and each ReLU (6 ms for
//! 5,000; this takes 1 ms). One thread and a fixed order of sums also give the same bits on machines of any width. A
//! test holds the two together.

use ndarray::{Array1, Array2, ArrayView1, Axis, ShapeError, concatenate};

use crate::network::Shape;
use crate::policy::RULE_PARAMETERS;

/// A network ready to run.
#[derive(Debug, Clone)]
pub struct Inference {
    linear: Array1<f32>,
    rule: Layer,
    hidden: Option<Hidden>,
    shape: Shape,
}

#[derive(Debug, Clone)]
struct Hidden {
    encoder: [Layer; 2],
    context: Layer,
    scorer: [Layer; 2],
    rule: Array2<f32>,
}

/// An affine layer; `weight` is `[inputs, outputs]`.
#[derive(Debug, Clone)]
struct Layer {
    weight: Array2<f32>,
    bias: Array1<f32>,
}

impl Inference {
    /// Takes its tensors by name, see [`Shape::tensors`].
    ///
    /// # Errors
    /// A tensor with another count of numbers than its shape has.
    pub fn new<'a>(shape: &Shape, tensor: impl Fn(&str) -> &'a [f32]) -> Result<Self, ShapeError> {
        let shapes = shape.tensors();
        let bias = |name: &str| Array1::from(tensor(name).to_vec());
        let weight = |name: &str| {
            let dims = shapes.iter().find(|(known, _)| *known == name).map_or(&[0, 0][..], |(_, dims)| dims);
            let rows = Array2::from_shape_vec((dims[0], dims[1]), tensor(name).to_vec())?;
            Ok(rows.t().as_standard_layout().into_owned())
        };
        let layer =
            |name: &str| Ok(Layer { weight: weight(&format!("{name}.weight"))?, bias: bias(&format!("{name}.bias")) });
        let hidden = if shape.hidden > 0 {
            let encoder = [layer("encoder.0")?, layer("encoder.1")?];
            let (context, scorer) = (layer("context")?, [layer("scorer.0")?, layer("scorer.1")?]);
            Some(Hidden { encoder, context, scorer, rule: weight("rule.hidden.weight")? })
        } else {
            None
        };
        Ok(Self {
            linear: bias("linear.weight"),
            rule: Layer { weight: weight("rule.context.weight")?, bias: bias("rule.bias") },
            hidden,
            shape: *shape,
        })
    }

    /// Residuals on the log weights, one a row, and on the logs of the rule parameters. `endpoints` is `[n, features]`,
    /// n ≥ 1, and `context` `[context]`, both normalised.
    ///
    /// # Errors
    /// A context of another length.
    pub fn forward(
        &self,
        endpoints: &Array2<f32>,
        context: ArrayView1<'_, f32>,
    ) -> Result<(Vec<f64>, [f64; RULE_PARAMETERS.len()]), ShapeError> {
        let mut scores = endpoints.dot(&self.linear);
        let mut rule = context.dot(&self.rule.weight) + &self.rule.bias;
        if let Some(hidden) = &self.hidden {
            let (deep, deep_rule) = hidden.forward(endpoints, context)?;
            scores += &deep;
            rule += &deep_rule;
        }
        let residuals = scores.iter().map(|score| self.shape.residual_clip * f64::from(score.tanh())).collect();
        let mut parameters = [0.0; RULE_PARAMETERS.len()];
        for (parameter, x) in parameters.iter_mut().zip(&rule) {
            *parameter = self.shape.parameter_clip * f64::from(x.tanh());
        }
        Ok((residuals, parameters))
    }
}

impl Hidden {
    /// Scores, one a row, and the rule parameters, before clipping.
    fn forward(
        &self,
        endpoints: &Array2<f32>,
        context: ArrayView1<'_, f32>,
    ) -> Result<(Array1<f32>, Array1<f32>), ShapeError> {
        let encoded = self.encoder[0].forward(endpoints, &self.encoder[0].bias);
        let encoded = self.encoder[1].forward(&encoded, &self.encoder[1].bias);
        let mut mean = Array1::<f32>::zeros(encoded.ncols());
        let mut max = Array1::<f32>::from_elem(encoded.ncols(), f32::NEG_INFINITY);
        for row in encoded.rows() {
            mean += &row;
            max.zip_mut_with(&row, |max, &x| *max = max.max(x));
        }
        mean /= encoded.nrows() as f32;
        let pooled = concatenate(Axis(0), &[mean.view(), max.view(), context])?.insert_axis(Axis(0));
        let pooled = self.context.forward(&pooled, &self.context.bias);
        // One layer over [encoded, pooled] whose pooled half is the same for all rows.
        let bias = &self.scorer[0].bias + &pooled.row(0);
        let hidden = self.scorer[0].forward(&encoded, &bias);
        let scores = hidden.dot(&self.scorer[1].weight.column(0)) + self.scorer[1].bias[0];
        Ok((scores, pooled.row(0).dot(&self.rule)))
    }
}

impl Layer {
    /// ReLU(x · weight + bias).
    fn forward(&self, x: &Array2<f32>, bias: &Array1<f32>) -> Array2<f32> {
        let mut y = x.dot(&self.weight);
        for mut row in y.rows_mut() {
            // A NaN stays one: `f32::max` would hide a network that overflowed.
            row.zip_mut_with(bias, |y, b| {
                let sum = *y + b;
                *y = if sum < 0.0 { 0.0 } else { sum };
            });
        }
        y
    }
}
