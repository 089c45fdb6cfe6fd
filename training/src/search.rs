//! Choosing the pick rule's default parameters by measurement: a coordinate search over a grid of values, on scenarios whose
//! seeds are used for nothing else.

use trimtab_model::decision::RuleParameters;

use crate::{
    contest::{Contestant, geometric_mean},
    fleet::FleetOptions,
    scenario::{Family, Scenario, ScenarioError, Setting, rotating_slow_pods, unequal_pods, with_costs_of_1_to_100},
    simulator::Summary,
};

/// Values of κ that are tried.
const EXPONENTS: [f32; 7] = [1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0];
/// Values of g that are tried.
const OFFSETS: [f32; 5] = [0.5, 1.0, 2.0, 3.0, 4.0];
/// Values of z that are tried.
const LATENCY_EXPONENTS: [f32; 9] = [0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0];
/// What the median counts for beside the 99th percentile.
const MEDIAN_SHARE: f64 = 0.25;

/// Endpoints of the families' scenarios.
const ENDPOINTS: usize = 20;

/// How good a contestant is on a set of scenarios; lower is better.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Score {
    /// 99th percentile as a multiple of the bound's, geometric mean.
    pub p99: f64,
    /// The same of the median.
    pub p50: f64,
}

impl Score {
    /// One number to compare by.
    pub fn cost(&self) -> f64 {
        self.p99.ln() + MEDIAN_SHARE * self.p50.ln()
    }
}

/// Scenarios with what the bound achieves on them.
#[derive(Debug)]
pub struct Arena {
    rounds: Vec<(Scenario, Summary)>,
}

impl Arena {
    /// All families but overload (there admission decides, not the rule), the stories, and costs of 1:100, for each seed and number
    /// of proxies; requests count for `seconds`.
    ///
    /// # Errors
    /// If a scenario does not hold.
    pub fn new(seeds: impl Iterator<Item = u64>, proxies: &[usize], seconds: u64) -> Result<Self, ScenarioError> {
        let mut rounds = Vec::new();
        for seed in seeds {
            for &proxies in proxies {
                let setting = Setting::new(seed, proxies, ENDPOINTS);
                let families = Family::TRAINING.into_iter().filter(|family| !family.is_overload());
                let mut scenarios: Vec<Scenario> = families.map(|family| family.scenario(&setting)).collect();
                scenarios.push(unequal_pods(seed, proxies, 0.8));
                scenarios.push(rotating_slow_pods(seed, proxies, 0.75));
                for family in [Family::Homogeneous, Family::Heterogeneous, Family::Interference] {
                    scenarios.push(with_costs_of_1_to_100(family.scenario(&setting)));
                }
                for scenario in scenarios {
                    let scenario = scenario.lasting(seconds);
                    let bound = Contestant::Omniscient.run(&scenario)?;
                    rounds.push((scenario, bound));
                }
            }
        }
        Ok(Self { rounds })
    }

    /// How good a contestant is here.
    ///
    /// # Errors
    /// If a scenario does not hold.
    pub fn score(&self, contestant: &Contestant) -> Result<Score, ScenarioError> {
        let mut p99 = Vec::new();
        let mut p50 = Vec::new();
        for (scenario, bound) in &self.rounds {
            let summary = contestant.run(scenario)?;
            p99.push(summary.latency_ms_p99 / bound.latency_ms_p99);
            p50.push(summary.latency_ms_p50 / bound.latency_ms_p50);
        }
        let mean = |ratios: Vec<f64>| geometric_mean(ratios).unwrap_or(f64::INFINITY);
        Ok(Score { p99: mean(p99), p50: mean(p50) })
    }

    /// Walks from `start` along one parameter at a time to the neighbouring value that scores better, until none does. `tell`
    /// hears of every candidate.
    ///
    /// # Errors
    /// If a scenario does not hold.
    pub fn search(
        &self,
        options: &FleetOptions,
        start: RuleParameters,
        mut tell: impl FnMut(&RuleParameters, &Score),
    ) -> Result<(RuleParameters, Score), ScenarioError> {
        let mut score = |parameters: RuleParameters| {
            let score = self.score(&Contestant::Fleet(FleetOptions { parameters: Some(parameters), ..*options }))?;
            tell(&parameters, &score);
            Ok(score)
        };
        let mut best = (start, score(start)?);
        let mut tried = vec![start];
        loop {
            let before = best;
            for coordinate in 0..3 {
                for up in [true, false] {
                    while let Some(next) = neighbour(&best.0, coordinate, up).filter(|next| !tried.contains(next)) {
                        tried.push(next);
                        let next_score = score(next)?;
                        if next_score.cost() >= best.1.cost() {
                            break;
                        }
                        best = (next, next_score);
                    }
                }
            }
            if best == before {
                return Ok(best);
            }
        }
    }
}

/// The same with the next higher or lower value of one parameter.
fn neighbour(parameters: &RuleParameters, coordinate: usize, up: bool) -> Option<RuleParameters> {
    let mut next = *parameters;
    let (value, values): (&mut f32, &[f32]) = match coordinate {
        0 => (&mut next.exponent, &EXPONENTS),
        1 => (&mut next.offset, &OFFSETS),
        _ => (&mut next.latency_exponent, &LATENCY_EXPONENTS),
    };
    *value = if up {
        *values.iter().find(|other| *other > value)?
    } else {
        *values.iter().rev().find(|other| *other < value)?
    };
    Some(next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use trimtab_proxy::config::RuleParameters as ProxyRuleParameters;

    #[test]
    fn a_proxy_without_a_controller_uses_the_models_local_rule() {
        let (ours, theirs) = (RuleParameters::LOCAL, ProxyRuleParameters::LOCAL);
        assert_eq!(
            (ours.exponent, ours.offset, ours.latency_exponent, ours.error_exponent),
            (theirs.exponent, theirs.offset, theirs.latency_exponent, theirs.error_exponent)
        );
    }

    #[test]
    fn neighbours_stay_on_the_grid() {
        let local = RuleParameters::LOCAL;
        assert_eq!(neighbour(&local, 0, true).unwrap().exponent, 3.0);
        assert_eq!(neighbour(&local, 2, false).unwrap().latency_exponent, 1.5);
        assert_eq!(neighbour(&RuleParameters { offset: 4.0, ..local }, 1, true), None);
    }
}
