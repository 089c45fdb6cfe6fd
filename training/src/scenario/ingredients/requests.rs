//! What requests ask for: one class or several whose costs differ, and how well node groups suit each class.

use rand::{Rng, rngs::SmallRng, seq::SliceRandom};
use rand_distr::{Distribution as _, Exp1};

use super::log_uniform;
use crate::simulator::{
    time::millis,
    work::{self, Class, Distribution},
};

/// Mean work of a request, in milliseconds at speed 1.
const MEAN_MS: (f64, f64) = (10.0, 40.0);
/// Mean work of the dearest class over that of the cheapest.
const COSTS: f64 = 100.0;
/// Spread within a class.
const CV: (f64, f64) = (0.3, 1.0);
/// No class is rarer.
const SHARE_MIN: f64 = 0.005;
/// Extra work of a class on a group that does not suit it.
const UNSUITED: (f64, f64) = (2.0, 3.0);

/// All requests of one class: exponential, log-normal or bimodal.
pub fn alike(rng: &mut SmallRng) -> Class {
    let mean_ns = millis(log_uniform(rng, MEAN_MS.0, MEAN_MS.1)) as f64;
    let distribution = match rng.random_range(0..3) {
        0 => Distribution::Exponential,
        1 => Distribution::LogNormal { cv: rng.random_range(0.5..1.5) },
        _ => Distribution::Bimodal { heavy_share: 0.1, ratio: rng.random_range(5.0..12.0) },
    };
    Class { share: 1.0, mean_ns, distribution }
}

/// So many classes with mean costs log-uniform over 1:100, both ends included. What is cheap tends to be asked for more often:
/// shares fall with the cost to a power between 0 and 1 that the seed draws, times an exponential draw.
pub fn classes(count: usize, rng: &mut SmallRng) -> Vec<Class> {
    let mean_ns = millis(log_uniform(rng, MEAN_MS.0, MEAN_MS.1)) as f64;
    let mut costs: Vec<f64> = (2..count).map(|_| log_uniform(rng, 1.0, COSTS)).chain([1.0, COSTS]).collect();
    costs.shuffle(rng);
    let power = rng.random_range(0.0..1.0);
    let sizes: Vec<f64> = costs
        .iter()
        .map(|cost| {
            let size: f64 = Exp1.sample(rng);
            size * cost.powf(-power)
        })
        .collect();
    let sum: f64 = sizes.iter().sum();
    let shares: Vec<f64> = sizes.iter().map(|size| (size / sum).max(SHARE_MIN)).collect();
    let sum: f64 = shares.iter().sum();
    let mut classes: Vec<Class> = costs
        .iter()
        .zip(shares)
        .map(|(cost, share)| Class {
            share: share / sum,
            mean_ns: *cost,
            distribution: Distribution::LogNormal { cv: rng.random_range(CV.0..CV.1) },
        })
        .collect();
    let scale = mean_ns / work::mean_ns(&classes);
    classes.iter_mut().for_each(|class| class.mean_ns *= scale);
    classes
}

/// Endpoints' groups (2 to 4, as many endpoints in each) and the classes' factors on them: every class does well on at least one
/// group and is 2 to 3 times as much work on at least one other.
pub fn affinity(classes: usize, endpoints: usize, rng: &mut SmallRng) -> (Vec<u8>, Vec<f64>) {
    let count = rng.random_range(2..=4_usize);
    let mut groups: Vec<u8> = (0..endpoints).map(|endpoint| (endpoint % count) as u8).collect();
    groups.shuffle(rng);
    let factors = (0..classes)
        .flat_map(|_| {
            let unsuited = rng.random_range(1..count);
            let mut row: Vec<f64> = (0..count)
                .map(|group| if group < unsuited { rng.random_range(UNSUITED.0..UNSUITED.1) } else { 1.0 })
                .collect();
            row.shuffle(rng);
            row
        })
        .collect();
    (groups, factors)
}

/// What a careful operator would promise: ten times the mean work at speed 1, and room for what the dearest class needs where it
/// is dearest (four times its mean leaves out 2 % of an exponential).
pub fn objective_ns(classes: &[Class], affinity: &[f64]) -> u64 {
    let dearest_ns = classes.iter().map(|class| class.mean_ns).fold(0.0, f64::max);
    let factor = affinity.iter().copied().fold(1.0, f64::max);
    let room_ns = if classes.len() > 1 { 4.0 * dearest_ns * factor } else { 0.0 };
    (10.0 * work::mean_ns(classes)).max(room_ns) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulator::random::{Purpose, stream};

    #[test]
    fn classes_cost_1_to_100_and_their_shares_sum_to_one() {
        for seed in 0..50 {
            let mut rng = stream(seed, Purpose::Scenario, 0);
            let count = 4 + seed as usize % 9;
            let classes = classes(count, &mut rng);
            assert_eq!(classes.len(), count);
            let costs = classes.iter().map(|class| class.mean_ns);
            let ratio = costs.clone().fold(0.0, f64::max) / costs.fold(f64::MAX, f64::min);
            assert!((ratio - COSTS).abs() < 1e-6, "seed {seed}: {ratio}");
            assert!((classes.iter().map(|class| class.share).sum::<f64>() - 1.0).abs() < 1e-9);
            assert!((10e6..=40e6).contains(&work::mean_ns(&classes)));
        }
    }

    #[test]
    fn every_class_has_a_group_that_suits_it_and_one_that_does_not() {
        for seed in 0..50 {
            let (groups, factors) = affinity(8, 12, &mut stream(seed, Purpose::Scenario, 0));
            let count = factors.len() / 8;
            assert!((2..=4).contains(&count));
            assert_eq!(usize::from(*groups.iter().max().unwrap()), count - 1);
            for row in factors.chunks(count) {
                assert!(row.contains(&1.0) && row.iter().any(|factor| (2.0..3.0).contains(factor)), "{row:?}");
            }
        }
    }
}
