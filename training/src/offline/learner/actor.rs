//! The policy's network as something that learns: the tensors that shape its residuals are variables, the others (all that the rule's parameters
//! depend on) stay as they are.

use std::collections::{BTreeMap, HashMap};

use candle_core::{Device, Tensor, Var};
use rand::Rng;
use trimtab_model::{
    checkpoint::{Checkpoint, Manifest, Normalisation},
    network::Network,
};

use super::{Knobs, Method, minibatch, rng};
use crate::offline::dataset::Step;

/// Adam's averages.
const BETA: (f64, f64) = (0.9, 0.999);

/// One tick: what the network sees, and for each endpoint what it should do.
#[derive(Debug, Clone)]
pub(super) struct Example {
    features: Vec<f32>,
    context: Vec<f32>,
    /// The incumbent's residual.
    base: Vec<f32>,
    share: Vec<f32>,
    /// 1 where a residual counts.
    pub heard: Vec<f32>,
    /// How far from the incumbent's the recorded residuals are that are worth imitating.
    pub imitated: Vec<f32>,
    pub slope: Vec<f32>,
    pub curvature: Vec<f32>,
}

impl Example {
    /// Of a step at which the incumbent does `base`; no endpoint counts yet.
    pub fn of(step: &Step, base: Vec<f64>) -> Self {
        let count = step.endpoints.len();
        Self {
            features: step.features.endpoints.iter().copied().collect(),
            context: step.features.context.to_vec(),
            base: base.iter().map(|x| *x as f32).collect(),
            // Endpoints with more requests matter more, as they do in what is measured.
            share: step.endpoints.iter().map(|at| (at.share * count as f64) as f32).collect(),
            heard: vec![0.0; count],
            imitated: vec![0.0; count],
            slope: vec![0.0; count],
            curvature: vec![0.0; count],
        }
    }

    fn count(&self) -> usize {
        self.base.len()
    }
}

/// The network, learning.
pub(super) struct Actor {
    manifest: Manifest,
    shapes: HashMap<&'static str, Vec<usize>>,
    fixed: BTreeMap<String, Vec<f32>>,
    variables: BTreeMap<String, Var>,
    moments: BTreeMap<String, (Vec<f64>, Vec<f64>)>,
    updates: i32,
    network: Network,
    incumbent: Network,
}

impl Actor {
    /// Starts as this policy.
    pub fn new(start: &Checkpoint) -> candle_core::Result<Self> {
        let shape = start.shape();
        let shapes: HashMap<&'static str, Vec<usize>> = shape.tensors().into_iter().collect();
        let mut variables = BTreeMap::new();
        let mut fixed = BTreeMap::new();
        for (name, numbers) in start.tensors() {
            // The rule's parameters depend on the encoder and the context; the residuals alone on these.
            if name.starts_with("linear.") || name.starts_with("scorer.") {
                let dims = shapes.get(name.as_str()).cloned().unwrap_or_default();
                variables.insert(name.clone(), Var::from_slice(numbers, dims, &Device::Cpu)?);
            } else {
                fixed.insert(name.clone(), numbers.clone());
            }
        }
        let network = Network::new(&shape, |name| match (variables.get(name), fixed.get(name)) {
            (Some(variable), _) => Ok(variable.as_tensor().clone()),
            (None, numbers) => Tensor::from_slice(
                numbers.map_or(&[][..], |numbers| numbers),
                shapes.get(name).cloned().unwrap_or_default(),
                &Device::Cpu,
            ),
        })?;
        let moments =
            start.tensors().iter().map(|(name, of)| (name.clone(), (vec![0.0; of.len()], vec![0.0; of.len()])));
        let moments = moments.collect();
        Ok(Self {
            manifest: start.manifest().clone(),
            shapes,
            fixed,
            variables,
            moments,
            updates: 0,
            network,
            incumbent: start.network()?,
        })
    }

    /// Learns from these; loss of the first and of the last tenth.
    pub fn train(&mut self, examples: &[Example], knobs: &Knobs) -> candle_core::Result<(f64, f64)> {
        let mut rng = rng(knobs);
        let tenth = (knobs.steps / 10).max(1);
        let (mut first, mut last) = (0.0, 0.0);
        for update in 0..knobs.steps {
            let chosen = minibatch(&mut rng, examples.len(), knobs.batch);
            let batch: Vec<&Example> = chosen.iter().map(|&index| &examples[index]).collect();
            if batch.is_empty() {
                break;
            }
            let made_up: Vec<Example> =
                batch.iter().take(batch.len().div_ceil(4)).map(|example| self.made_up(example, &mut rng)).collect();
            let loss = (self.loss(&batch, knobs)? + self.thin_loss(&made_up, knobs)?)?;
            let value = f64::from(loss.to_scalar::<f32>()?);
            first += if update < tenth { value / tenth as f64 } else { 0.0 };
            last += if update + tenth >= knobs.steps { value / tenth as f64 } else { 0.0 };
            let progress = update as f64 / knobs.steps as f64;
            self.update(&loss, knobs.rate * (1.0 - 0.9 * progress))?;
        }
        Ok((first, last))
    }

    /// All numbers, learned or not.
    pub fn tensors(&self) -> candle_core::Result<BTreeMap<String, Vec<f32>>> {
        let mut tensors = self.fixed.clone();
        for (name, variable) in &self.variables {
            tensors.insert(name.clone(), variable.as_tensor().flatten_all()?.to_vec1()?);
        }
        Ok(tensors)
    }

    fn loss(&self, batch: &[&Example], knobs: &Knobs) -> candle_core::Result<Tensor> {
        let column = |of: fn(&Example) -> &Vec<f32>| {
            let numbers: Vec<f32> = batch.iter().flat_map(|example| of(example)).copied().collect();
            let count = numbers.len();
            Tensor::from_vec(numbers, count, &Device::Cpu)
        };
        let moved = (self.forward(&self.network, batch)? - column(|example| &example.base)?)?;
        let counts = (column(|example| &example.heard)? * column(|example| &example.share)?)?;
        let from_incumbent = moved.sqr()?;
        let learned = match knobs.method {
            Method::Awac => (&moved - column(|example| &example.imitated)?)?.sqr()?,
            Method::Td3Bc => {
                let slope = (&moved * column(|example| &example.slope)?)?;
                let curvature = (&from_incumbent * column(|example| &example.curvature)?)?;
                // The same trade as the other's temperature: at β a reward is worth the imitation of one squared unit, scaled by the noise of 0.15.
                let worth = ((slope + curvature)? * (0.045 / (2.0 * knobs.temperature)))?;
                (&from_incumbent - worth)?
            }
        };
        let loss = (learned + (from_incumbent * knobs.anchor)?)?;
        (loss * counts)?.mean_all()
    }

    /// Where nothing was seen, as the incumbent.
    fn thin_loss(&self, made_up: &[Example], knobs: &Knobs) -> candle_core::Result<Tensor> {
        let batch: Vec<&Example> = made_up.iter().collect();
        let moved = (self.forward(&self.network, &batch)? - self.forward(&self.incumbent, &batch)?)?;
        moved.sqr()?.mean_all()? * knobs.thin
    }

    /// The same tick, with one feature of each endpoint anywhere in its range.
    fn made_up(&self, example: &Example, rng: &mut impl Rng) -> Example {
        let mut made_up = example.clone();
        for row in made_up.features.chunks_mut(self.manifest.features.len()) {
            let feature = rng.random_range(0..row.len());
            if let Some(seen) = self.manifest.features[feature].seen {
                row[feature] = rng.random_range(seen.low..=seen.high);
            }
        }
        made_up
    }

    /// Residuals of all endpoints of a batch, one after another.
    fn forward(&self, network: &Network, batch: &[&Example]) -> candle_core::Result<Tensor> {
        let columns = self.manifest.features.len();
        if self.manifest.hidden == 0 {
            // Without pooling every row is scored by itself: one call for all of them.
            let rows: usize = batch.iter().map(|example| example.count()).sum();
            let mut numbers = Vec::with_capacity(rows * columns);
            batch.iter().for_each(|example| normalise(&example.features, &self.manifest.features, &mut numbers));
            let mut context = Vec::new();
            normalise(&batch[0].context, &self.manifest.context, &mut context);
            let endpoints = Tensor::from_vec(numbers, (rows, columns), &Device::Cpu)?;
            let count = context.len();
            return Ok(network.forward(&endpoints, &Tensor::from_vec(context, count, &Device::Cpu)?)?.0);
        }
        let mut residuals = Vec::with_capacity(batch.len());
        for example in batch {
            let (mut numbers, mut context) = (Vec::new(), Vec::new());
            normalise(&example.features, &self.manifest.features, &mut numbers);
            normalise(&example.context, &self.manifest.context, &mut context);
            let endpoints = Tensor::from_vec(numbers, (example.count(), columns), &Device::Cpu)?;
            let count = context.len();
            residuals.push(network.forward(&endpoints, &Tensor::from_vec(context, count, &Device::Cpu)?)?.0);
        }
        Tensor::cat(&residuals, 0)
    }

    /// One step of Adam.
    fn update(&mut self, loss: &Tensor, rate: f64) -> candle_core::Result<()> {
        let gradients = loss.backward()?;
        self.updates += 1;
        let correction = (1.0 - BETA.0.powi(self.updates), 1.0 - BETA.1.powi(self.updates));
        for (name, variable) in &self.variables {
            let Some(gradient) = gradients.get(variable) else { continue };
            let gradient: Vec<f32> = gradient.flatten_all()?.to_vec1()?;
            let mut numbers: Vec<f32> = variable.as_tensor().flatten_all()?.to_vec1()?;
            let Some((first, second)) = self.moments.get_mut(name) else { continue };
            for (index, gradient) in gradient.iter().enumerate() {
                let gradient = f64::from(*gradient);
                first[index] = BETA.0 * first[index] + (1.0 - BETA.0) * gradient;
                second[index] = BETA.1 * second[index] + (1.0 - BETA.1) * gradient * gradient;
                let step = first[index] / correction.0 / ((second[index] / correction.1).sqrt() + 1e-8);
                numbers[index] -= (rate * step) as f32;
            }
            let dims = self.shapes.get(name.as_str()).cloned().unwrap_or_default();
            variable.set(&Tensor::from_vec(numbers, dims, &Device::Cpu)?)?;
        }
        Ok(())
    }
}

/// As the policy that ships scales its input.
fn normalise(values: &[f32], by: &[Normalisation], to: &mut Vec<f32>) {
    for (value, normalisation) in values.iter().zip(by.iter().cycle()) {
        to.push(match normalisation.seen {
            Some(seen) => (value.clamp(seen.low, seen.high) - normalisation.mean) / normalisation.std,
            None => 0.0,
        });
    }
}
