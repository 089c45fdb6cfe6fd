//! A separable natural evolution strategy (SNES; Schaul, Glasmachers, Schmidhuber, "High dimensions and heavy tails for natural
//! evolution strategies", 2011) with mirrored samples (Brockhoff et al. 2010).
//!
//! A generation is drawn from a normal distribution with a mean and one standard deviation per coordinate; both move along
//! the natural gradient of the expected utility. Utilities depend on ranks alone, so that one wild cost cannot throw the
//! search. Costs are noisy here (a 99th percentile is), so what is handed out is not the mean but its running average
//! (Polyak and Juditsky 1992), which is steadier at no cost in simulations.

use rand::Rng;
use rand_distr::{Distribution, StandardNormal};

/// No standard deviation leaves this range, as multiples of what it was at first: below it nothing is explored that noise
/// would not hide, above it candidates have little in common with their mean.
const SIGMA_RANGE: (f64, f64) = (0.2, 4.0);

/// How fast the search moves.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rates {
    /// Of the mean, in steps of the natural gradient; 1 where costs have no noise.
    pub mean: f64,
    /// Of the log standard deviations.
    pub sigma: f64,
    /// Of the average towards the mean.
    pub average: f64,
}

impl Rates {
    /// For costs with noise, in so many dimensions: half of what Schaul et al. recommend for both, averaged over about the
    /// last ten generations.
    pub fn noisy(dimensions: usize) -> Self {
        let dimensions = dimensions.max(1) as f64;
        Self { mean: 0.5, sigma: 0.5 * (3.0 + dimensions.ln()) / (5.0 * dimensions.sqrt()), average: 0.1 }
    }
}

/// The search distribution.
#[derive(Debug, Clone, PartialEq)]
pub struct Strategy {
    /// Its mean.
    pub mean: Vec<f64>,
    /// Its standard deviations.
    pub sigma: Vec<f64>,
    /// The running average of the means: the best guess at the optimum.
    pub average: Vec<f64>,
    sigma_start: Vec<f64>,
    rates: Rates,
}

/// One generation: mirrored pairs around the mean.
#[derive(Debug, Clone, PartialEq)]
pub struct Generation {
    /// One standard normal vector a pair.
    noise: Vec<Vec<f64>>,
}

impl Strategy {
    /// Around `mean`, with these standard deviations (each > 0).
    pub fn new(mean: Vec<f64>, sigma: Vec<f64>, rates: Rates) -> Self {
        Self { average: mean.clone(), mean, sigma_start: sigma.clone(), sigma, rates }
    }

    /// Goes on from where another ended.
    #[must_use]
    pub fn resumed(mut self, mean: Vec<f64>, sigma: Vec<f64>, average: Vec<f64>) -> Self {
        (self.mean, self.sigma, self.average) = (mean, sigma, average);
        self
    }

    /// Draws so many mirrored pairs.
    pub fn draw(&self, pairs: usize, rng: &mut impl Rng) -> Generation {
        let vector = |rng: &mut _| self.mean.iter().map(|_| StandardNormal.sample(rng)).collect();
        Generation { noise: (0..pairs).map(|_| vector(rng)).collect() }
    }

    /// The candidates of a generation: both of the first pair, both of the second, …
    pub fn candidates(&self, generation: &Generation) -> Vec<Vec<f64>> {
        let candidate = |noise: &[f64], sign: f64| {
            let steps = noise.iter().zip(&self.sigma).map(|(noise, sigma)| sign * sigma * noise);
            self.mean.iter().zip(steps).map(|(mean, step)| mean + step).collect()
        };
        generation.noise.iter().flat_map(|noise| [candidate(noise, 1.0), candidate(noise, -1.0)]).collect()
    }

    /// Learns from the candidates' costs, in the order of [`candidates`](Self::candidates); lower is better, and what is no
    /// number is worst.
    pub fn learn(&mut self, generation: &Generation, costs: &[f64]) {
        let utilities = utilities(costs);
        let pairs: Vec<(&Vec<f64>, f64, f64)> = generation
            .noise
            .iter()
            .zip(utilities.chunks_exact(2))
            .map(|(noise, pair)| (noise, pair[0] - pair[1], pair[0] + pair[1]))
            .collect();
        for index in 0..self.mean.len() {
            let (mut towards, mut wider) = (0.0, 0.0);
            for (noise, difference, sum) in &pairs {
                towards += difference * noise[index];
                wider += sum * (noise[index] * noise[index] - 1.0);
            }
            let start = self.sigma_start[index];
            self.mean[index] += self.rates.mean * self.sigma[index] * towards;
            self.sigma[index] = (self.sigma[index] * (0.5 * self.rates.sigma * wider).exp())
                .clamp(SIGMA_RANGE.0 * start, SIGMA_RANGE.1 * start);
            self.average[index] += self.rates.average * (self.mean[index] - self.average[index]);
        }
    }
}

/// Utilities by rank (Wierstra et al., "Natural evolution strategies", 2014): the better half share them by the logarithm of
/// their rank, equal costs share alike, and they sum to 0.
pub fn utilities(costs: &[f64]) -> Vec<f64> {
    let count = costs.len();
    let mut order: Vec<usize> = (0..count).collect();
    let key = |index: usize| if costs[index].is_nan() { f64::INFINITY } else { costs[index] };
    order.sort_by(|&a, &b| key(a).total_cmp(&key(b)));
    let top = (count as f64 / 2.0 + 1.0).ln();
    let raw: Vec<f64> = (0..count).map(|rank| (top - (rank as f64 + 1.0).ln()).max(0.0)).collect();
    let total: f64 = raw.iter().sum();
    let mut utilities = vec![0.0; count];
    let mut from = 0;
    while from < count {
        let alike = order[from..].iter().take_while(|&&index| key(index) == key(order[from])).count();
        let shared = raw[from..from + alike].iter().sum::<f64>() / alike as f64 / total - 1.0 / count as f64;
        for &index in &order[from..from + alike] {
            utilities[index] = shared;
        }
        from += alike;
    }
    utilities
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulator::random::{Purpose, stream};

    /// Minimises a function from a start at distance 1 in each of `dimensions` coordinates; the distance at the end.
    fn minimise(dimensions: usize, generations: u64, pairs: usize, cost: impl Fn(&[f64], f64) -> f64) -> f64 {
        let mut strategy = Strategy::new(vec![1.0; dimensions], vec![0.3; dimensions], Rates::noisy(dimensions));
        for number in 0..generations {
            let mut rng = stream(5, Purpose::Learning, number);
            let generation = strategy.draw(pairs, &mut rng);
            let candidates = strategy.candidates(&generation);
            let costs: Vec<f64> = candidates.iter().map(|x| cost(x, StandardNormal.sample(&mut rng))).collect();
            strategy.learn(&generation, &costs);
        }
        (strategy.average.iter().map(|x| x * x).sum::<f64>() / dimensions as f64).sqrt()
    }

    /// With axes from 1 to 10.
    fn bowl(x: &[f64]) -> f64 {
        let last = (x.len() - 1).max(1) as f64;
        x.iter().enumerate().map(|(index, x)| 10f64.powf(index as f64 / last) * x * x).sum()
    }

    #[test]
    fn it_finds_the_bottom_of_a_bowl() {
        let far = minimise(20, 200, 12, |x, _| bowl(x));
        assert!(far < 0.05, "{far} from the optimum");
    }

    #[test]
    fn it_finds_the_bottom_of_a_bowl_through_noise() {
        // Noise as large as the difference between a candidate at the start and one half way down.
        let far = minimise(20, 300, 16, |x, noise| bowl(x) + 20.0 * noise);
        assert!(far < 0.35, "{far} from the optimum");
    }

    #[test]
    fn a_candidate_whose_cost_is_no_number_is_only_the_worst() {
        let far = minimise(5, 200, 8, |x, _| if x[0] > 1.2 { f64::NAN } else { bowl(x) });
        assert!(far < 0.05, "{far} from the optimum");
    }

    #[test]
    fn utilities_follow_ranks_and_sum_to_zero() {
        let check = |costs: &[f64]| {
            let utilities = utilities(costs);
            assert!(utilities.iter().sum::<f64>().abs() < 1e-12, "{utilities:?}");
            utilities
        };
        let spread = check(&[3.0, 1.0, 2.0, 100.0]);
        assert!(spread[1] > spread[2] && spread[2] > spread[0] && spread[0] == spread[3], "{spread:?}");
        assert_eq!(check(&[3.0, 1.0, 2.0, 1e9]), spread, "how far behind the last is does not matter");
        assert!(check(&[2.0; 6]).iter().all(|utility| utility.abs() < 1e-12), "no difference, nothing to learn");
        assert_eq!(check(&[1.0, f64::NAN]), check(&[1.0, 2.0]));
    }

    #[test]
    fn candidates_are_mirrored_around_the_mean() {
        let strategy = Strategy::new(vec![1.0, -2.0], vec![0.1, 0.5], Rates::noisy(2));
        let generation = strategy.draw(3, &mut stream(1, Purpose::Learning, 0));
        for pair in strategy.candidates(&generation).chunks_exact(2) {
            for ((a, b), mean) in pair[0].iter().zip(&pair[1]).zip(&strategy.mean) {
                assert!((0.5 * (a + b) - mean).abs() < 1e-12 && a != b);
            }
        }
    }
}
