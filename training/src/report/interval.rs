//! 95 % intervals over seeds: Student's t on what the seeds gave. Ratios are averaged as logarithms, so that 2 and ½ cancel.

/// Normal quantile of 97.5 %.
const Z: f64 = 1.959_963_985;

/// A mean with the interval in which the true one lies with 95 % confidence.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    /// Estimate.
    pub mean: f64,
    /// Lower and upper end; `None` with fewer than two seeds.
    pub bounds: Option<(f64, f64)>,
}

impl Interval {
    /// Of the arithmetic mean; `None` of none.
    pub fn of(numbers: &[f64]) -> Option<Self> {
        if numbers.is_empty() {
            return None;
        }
        let count = numbers.len() as f64;
        let mean = numbers.iter().sum::<f64>() / count;
        let bounds = (numbers.len() > 1).then(|| {
            let variance = numbers.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (count - 1.0);
            let half = student_t(numbers.len() - 1) * (variance / count).sqrt();
            (mean - half, mean + half)
        });
        Some(Self { mean, bounds })
    }

    /// Of the geometric mean of numbers whose natural logarithms these are; `None` of none.
    pub fn of_logarithms(logarithms: &[f64]) -> Option<Self> {
        let Self { mean, bounds } = Self::of(logarithms)?;
        Some(Self { mean: mean.exp(), bounds: bounds.map(|(low, high)| (low.exp(), high.exp())) })
    }

    /// Half of the interval's width, in the unit of the mean.
    pub fn half_width(&self) -> Option<f64> {
        self.bounds.map(|(low, high)| (high - low) / 2.0)
    }
}

/// 97.5 % quantile of Student's t with so many degrees of freedom: exact up to 4, then Abramowitz & Stegun 26.7.5 (error below
/// 0.001).
fn student_t(freedom: usize) -> f64 {
    match freedom {
        0 | 1 => 12.706_205,
        2 => 4.302_653,
        3 => 3.182_446,
        4 => 2.776_445,
        _ => {
            let n = freedom as f64;
            let odd = |power: i32| Z.powi(power);
            Z + (odd(3) + Z) / (4.0 * n)
                + (5.0 * odd(5) + 16.0 * odd(3) + 3.0 * Z) / (96.0 * n.powi(2))
                + (3.0 * odd(7) + 19.0 * odd(5) + 17.0 * odd(3) - 15.0 * Z) / (384.0 * n.powi(3))
                + (79.0 * odd(9) + 776.0 * odd(7) + 1_482.0 * odd(5) - 1_920.0 * odd(3) - 945.0 * Z)
                    / (92_160.0 * n.powi(4))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulator::random::{Purpose, stream};
    use rand_distr::{Distribution, StandardNormal};

    #[test]
    fn the_quantiles_are_those_of_the_tables() {
        for (freedom, expected) in [(1, 12.706), (4, 2.776), (5, 2.571), (9, 2.262), (19, 2.093), (120, 1.980)] {
            assert!((student_t(freedom) - expected).abs() < 1e-3, "{freedom}: {}", student_t(freedom));
        }
    }

    #[test]
    fn the_true_mean_lies_inside_nineteen_times_of_twenty() {
        let mut rng = stream(1, Purpose::Scenario, 0);
        let covers = |_: &usize| {
            let draws: Vec<f64> = (0..6).map(|_| -> f64 { StandardNormal.sample(&mut rng) }).collect();
            Interval::of(&draws).unwrap().bounds.is_some_and(|(low, high)| low <= 0.0 && 0.0 <= high)
        };
        let share = (0..20_000).filter(covers).count() as f64 / 20_000.0;
        assert!((share - 0.95).abs() < 0.01, "{share}");
    }

    #[test]
    fn a_ratio_and_its_inverse_average_to_one_and_one_seed_has_no_interval() {
        let mean = Interval::of_logarithms(&[4.0_f64.ln(), 0.25_f64.ln()]).unwrap().mean;
        assert!((mean - 1.0).abs() < 1e-12);
        assert_eq!(Interval::of(&[3.0]), Some(Interval { mean: 3.0, bounds: None }));
        assert_eq!(Interval::of(&[]), None);
    }
}
