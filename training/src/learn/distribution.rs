//! What the policy gets to see in training: mean, deviation and range of every feature over runs of the prior. The mean and
//! the deviation scale the network's inputs; the range is what production is later held to.

use ndarray::ArrayView1;
use trimtab_model::{
    checkpoint::{Normalisation, Range},
    features::{CONTEXT, FEATURES, FeatureSpec, Features},
};

use crate::fleet::Tick;

/// Outside of the range lies this share of the values on either side.
const TAIL: f64 = 0.001;
/// Values kept of each feature; beyond, every second one is dropped, and so on.
const KEPT_MAX: usize = 400_000;
/// A standard deviation is at least this part of the range: a feature that is nearly always the same is not blown up where
/// it is not.
const STD_MIN: f32 = 0.05;

/// Values of all features.
#[derive(Debug, Clone)]
pub struct Survey {
    endpoints: Vec<Values>,
    context: Vec<Values>,
}

impl Default for Survey {
    fn default() -> Self {
        Self { endpoints: vec![Values::default(); FEATURES.len()], context: vec![Values::default(); CONTEXT.len()] }
    }
}

impl Survey {
    /// Takes in the ticks of a run.
    pub fn add(&mut self, ticks: &[Tick]) {
        ticks.iter().for_each(|tick| self.take(&tick.features));
    }

    /// Takes in what the policy saw at one tick.
    pub fn take(&mut self, features: &Features) {
        let add = |row: ArrayView1<'_, f32>, to: &mut [Values]| {
            row.iter().zip(to).for_each(|(value, values)| values.add(*value));
        };
        features.endpoints.rows().into_iter().for_each(|row| add(row, &mut self.endpoints));
        add(features.context.view(), &mut self.context);
    }

    /// Normalisations of the endpoint features and of the context features.
    pub fn normalisations(self) -> (Vec<Normalisation>, Vec<Normalisation>) {
        let endpoints = FEATURES.iter().zip(self.endpoints).map(|(feature, values)| values.normalisation(feature));
        let context = CONTEXT.iter().zip(self.context).map(|(feature, values)| values.normalisation(feature));
        (endpoints.collect(), context.collect())
    }
}

/// Values of one feature.
#[derive(Debug, Clone, Default)]
struct Values {
    kept: Vec<f32>,
    /// One value in 2^`thinned` is kept.
    thinned: u32,
    seen: u64,
    low: Option<f32>,
    high: Option<f32>,
}

impl Values {
    fn add(&mut self, value: f32) {
        self.low = Some(self.low.map_or(value, |low| low.min(value)));
        self.high = Some(self.high.map_or(value, |high| high.max(value)));
        if self.seen.is_multiple_of(1 << self.thinned) {
            self.kept.push(value);
        }
        self.seen += 1;
        if self.kept.len() >= KEPT_MAX {
            let mut index = 0;
            self.kept.retain(|_| {
                index += 1;
                index % 2 == 1
            });
            self.thinned += 1;
        }
    }

    fn normalisation<F>(mut self, feature: &FeatureSpec<F>) -> Normalisation {
        let name = feature.name.to_owned();
        self.kept.sort_unstable_by(f32::total_cmp);
        let last = self.kept.len().saturating_sub(1);
        let quantile = |q: f64| self.kept.get((q * last as f64).round() as usize).copied();
        let inner = quantile(TAIL).zip(quantile(1.0 - TAIL));
        // What is nearly always the same has its range from where it is not.
        let varied = |(low, high): &(f32, f32)| high - low > 1e-4 * (feature.high - feature.low);
        let range = inner.filter(varied).or(self.low.zip(self.high)).filter(varied);
        let Some((low, high)) = range else {
            return Normalisation { name, mean: quantile(0.5).unwrap_or(0.0), std: 1.0, seen: None };
        };
        let count = self.kept.len() as f64;
        let held = || self.kept.iter().map(|value| f64::from(value.clamp(low, high)));
        let mean = held().sum::<f64>() / count;
        let variance = held().map(|value| (value - mean) * (value - mean)).sum::<f64>() / count;
        let std = (variance.sqrt() as f32).max(STD_MIN * (high - low));
        Normalisation { name, mean: mean as f32, std, seen: Some(Range { low, high }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(values: impl IntoIterator<Item = f32>, mean: f32, std: f32, seen: Option<(f32, f32)>) {
        let mut all = Values::default();
        values.into_iter().for_each(|value| all.add(value));
        let found = all.normalisation(&FEATURES[0]);
        assert!((found.mean - mean).abs() < 0.01 && (found.std - std).abs() < 0.01, "{found:?}");
        match (found.seen, seen) {
            (Some(found), Some((low, high))) => {
                assert!((found.low - low).abs() < 0.01 && (found.high - high).abs() < 0.01, "{found:?}");
            }
            (found, expected) => assert!(found.is_none() && expected.is_none(), "{found:?}, not {expected:?}"),
        }
    }

    #[test]
    fn the_range_leaves_out_the_most_extreme_values_only() {
        let even = |index: u32| index as f32 / 10_000.0;
        check((0..=10_000).map(even), 0.5, 0.289, Some((0.001, 0.999)));
        check((0..=10_000).map(even).chain([4.0, -4.0]), 0.5, 0.289, Some((0.001, 0.999)));
    }

    #[test]
    fn what_is_hardly_ever_different_keeps_its_whole_range() {
        check((0..100_000).map(|index| if index == 77 { 1.0 } else { 0.0 }), 0.0, 0.05, Some((0.0, 1.0)));
    }

    #[test]
    fn what_never_varies_has_no_range() {
        check([0.25; 1000], 0.25, 1.0, None);
        check([], 0.0, 1.0, None);
    }

    #[test]
    fn more_values_than_are_kept_change_little() {
        check((0..3 * KEPT_MAX).map(|index| (index % 1000) as f32 / 1000.0), 0.5, 0.289, Some((0.001, 0.998)));
    }
}
