//! How much work requests bring: classes with a share, a mean and a distribution. Work is the time that the request
//! takes at speed 1 with a slot to itself.

use rand::Rng;
use rand_distr::{Distribution as _, Exp1, StandardNormal};

/// Distribution of work around its mean.
#[expect(
    clippy::large_enum_variant,
    reason = "a scenario has at most 16, in one place; to be drawn from without following a pointer"
)]
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Distribution {
    /// All requests are equal.
    Constant,
    /// Coefficient of variation 1.
    Exponential,
    /// Log-normal with this coefficient of variation.
    LogNormal {
        /// Standard deviation over mean.
        cv: f64,
    },
    /// A few heavy requests among light ones.
    Bimodal {
        /// Share of heavy requests, 0..1.
        heavy_share: f64,
        /// Work of a heavy request over that of a light one.
        ratio: f64,
    },
    /// As it was recorded.
    Recorded(Quantiles),
}

/// Quantiles of a distribution with mean 1, closer to each other towards the tail.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quantiles([f32; Self::COUNT]);

impl Quantiles {
    const COUNT: usize = 64;

    /// Those of what was seen, scaled to mean 1; all 1 of nothing. Reorders.
    pub fn of(seen: &mut [f64]) -> Self {
        seen.sort_unstable_by(f64::total_cmp);
        let Some(last) = seen.len().checked_sub(1) else { return Self([1.0; Self::COUNT]) };
        let at = |probability: f64| {
            let place = probability * last as f64;
            let (below, part) = (place as usize, place.fract());
            seen[below] * (1.0 - part) + seen[(below + 1).min(last)] * part
        };
        let quantile = |index: usize| {
            let left = 1.0 - index as f64 / (Self::COUNT - 1) as f64;
            at(1.0 - left * left)
        };
        let raw: [f64; Self::COUNT] = std::array::from_fn(quantile);
        // Of what is drawn, which is not quite that of what was seen.
        let unscaled = Self(raw.map(|value| value as f32));
        let mean = (0..4_096).map(|step| unscaled.at((f64::from(step) + 0.5) / 4_096.0)).sum::<f64>() / 4_096.0;
        if mean > 0.0 { Self(raw.map(|value| (value / mean) as f32)) } else { Self([1.0; Self::COUNT]) }
    }

    /// The median.
    pub fn median(&self) -> f64 {
        self.at(0.5)
    }

    /// The mean square.
    pub fn second_moment(&self) -> f64 {
        (0..1_024).map(|step| self.at((f64::from(step) + 0.5) / 1_024.0).powi(2)).sum::<f64>() / 1_024.0
    }

    /// The value that a draw falls below with this probability, in 0..1.
    #[inline]
    fn at(&self, probability: f64) -> f64 {
        let place = (1.0 - (1.0 - probability).sqrt()) * (Self::COUNT - 1) as f64;
        let (below, part) = (place as usize, place.fract());
        let value = |index: usize| f64::from(self.0[index.min(Self::COUNT - 1)]);
        value(below) * (1.0 - part) + value(below + 1) * part
    }
}

impl Distribution {
    /// A draw with mean 1.
    #[inline]
    pub fn sample(&self, rng: &mut impl Rng) -> f64 {
        match *self {
            Self::Constant => 1.0,
            Self::Exponential => Exp1.sample(rng),
            Self::LogNormal { cv } => {
                let variance = (1.0 + cv * cv).ln();
                let normal: f64 = StandardNormal.sample(rng);
                (normal * variance.sqrt() - variance / 2.0).exp()
            }
            Self::Bimodal { heavy_share, ratio } => {
                let light = 1.0 / (1.0 - heavy_share + heavy_share * ratio);
                if rng.random::<f64>() < heavy_share { light * ratio } else { light }
            }
            Self::Recorded(ref quantiles) => quantiles.at(rng.random()),
        }
    }
}

/// One kind of request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Class {
    /// Share of all requests; the shares of a scenario sum to 1.
    pub share: f64,
    /// Mean work, in nanoseconds at speed 1.
    pub mean_ns: f64,
    /// Spread around the mean.
    pub distribution: Distribution,
}

/// Mean work over all classes, in nanoseconds.
pub fn mean_ns(classes: &[Class]) -> f64 {
    classes.iter().map(|class| class.share * class.mean_ns).sum()
}

/// Draws a class and its work in nanoseconds (at least 1).
#[inline]
pub fn draw(classes: &[Class], rng: &mut impl Rng) -> (u8, f64) {
    let mut index = 0;
    if classes.len() > 1 {
        let mut left: f64 = rng.random();
        while index + 1 < classes.len() && left >= classes[index].share {
            left -= classes[index].share;
            index += 1;
        }
    }
    let class = &classes[index];
    (index as u8, (class.mean_ns * class.distribution.sample(rng)).max(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulator::random::{Purpose, stream};

    fn check(distribution: Distribution, cv_expected: f64) {
        let mut rng = stream(1, Purpose::Traffic, 0);
        let draws: Vec<f64> = (0..400_000).map(|_| distribution.sample(&mut rng)).collect();
        let mean = draws.iter().sum::<f64>() / draws.len() as f64;
        let variance = draws.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / draws.len() as f64;
        assert!((mean - 1.0).abs() < 0.01, "{distribution:?} has mean {mean}");
        assert!((variance.sqrt() - cv_expected).abs() < 0.03, "{distribution:?} has cv {}", variance.sqrt());
    }

    #[test]
    fn every_distribution_has_mean_one_and_the_spread_it_names() {
        check(Distribution::Constant, 0.0);
        check(Distribution::Exponential, 1.0);
        check(Distribution::LogNormal { cv: 1.0 }, 1.0);
        // light = 1/1.9, heavy = 10/1.9: E[x^2] = (0.9 + 0.1 * 100) / 1.9^2.
        check(Distribution::Bimodal { heavy_share: 0.1, ratio: 10.0 }, (10.9_f64 / 3.61 - 1.0).sqrt());
    }

    #[test]
    fn classes_are_drawn_in_their_shares() {
        let class = |share, mean_ns| Class { share, mean_ns, distribution: Distribution::Constant };
        let classes = [class(0.7, 10.0), class(0.3, 1000.0)];
        let mut rng = stream(2, Purpose::Traffic, 0);
        let heavy = (0..100_000).filter(|_| draw(&classes, &mut rng) == (1, 1000.0)).count();
        assert!((29_000..31_000).contains(&heavy), "{heavy}");
        assert_eq!(mean_ns(&classes), 307.0);
    }
}
