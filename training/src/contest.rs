//! Contestants on the same scenarios, and their figures as ratios to an omniscient bound.

use trimtab_proxy::config::Algorithm;

use crate::{
    bounds::ShortestExpectedDelay,
    fleet::{Fleet, FleetOptions},
    scenario::{Scenario, ScenarioError},
    simulator::{Summary, simulate},
};

/// Who routes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Contestant {
    /// Shortest expected delay with true speeds and counts.
    Omniscient,
    /// Production code.
    Fleet(FleetOptions),
}

impl Contestant {
    /// All that ships, in the order of tables.
    pub const ALL: [(&'static str, Self); 10] = [
        ("omniscient", Self::Omniscient),
        ("trimtab", Self::Fleet(FleetOptions::TRIMTAB)),
        ("trimtab, no weights", Self::Fleet(FleetOptions::LOCAL)),
        ("c3-local", Self::baseline(Algorithm::C3Local)),
        ("least-request", Self::baseline(Algorithm::LeastRequest)),
        ("least-request-p2c", Self::baseline(Algorithm::LeastRequestP2c)),
        ("peak-ewma", Self::baseline(Algorithm::PeakEwma)),
        ("weighted-round-robin", Self::baseline(Algorithm::WeightedRoundRobin)),
        ("round-robin", Self::baseline(Algorithm::RoundRobin)),
        ("random", Self::baseline(Algorithm::Random)),
    ];

    const fn baseline(algorithm: Algorithm) -> Self {
        Self::Fleet(FleetOptions::baseline(algorithm))
    }

    /// Runs it through a scenario.
    ///
    /// # Errors
    /// If the scenario does not hold.
    pub fn run(&self, scenario: &Scenario) -> Result<Summary, ScenarioError> {
        match self {
            Self::Omniscient => {
                simulate(scenario, &mut ShortestExpectedDelay::new(&scenario.classes, scenario.endpoints.len()))
            }
            Self::Fleet(options) => simulate(scenario, &mut Fleet::new(scenario, options)),
        }
    }
}

/// Geometric mean of positive numbers; `None` of none.
pub fn geometric_mean(numbers: impl IntoIterator<Item = f64>) -> Option<f64> {
    let (sum, count) =
        numbers.into_iter().fold((0.0, 0u32), |(sum, count), number| (sum + number.max(1e-12).ln(), count + 1));
    (count > 0).then(|| (sum / f64::from(count)).exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_geometric_mean_of_a_ratio_and_its_inverse_is_one() {
        assert!((geometric_mean([4.0, 0.25]).unwrap() - 1.0).abs() < 1e-12);
        assert_eq!(geometric_mean([]), None);
    }
}
