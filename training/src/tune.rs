//! Tuning of the rivals' knobs: a walk along one knob at a time over a grid of values, on training families and seeds only. Everyone gets the
//! same scenarios and the same number of evaluations.
//!
//! Rules are tuned for what they are compared by, latency: were errors to count too, as they do for Trimtab's learner, rules that cannot
//! see errors would be tuned to dodge failing pods by chance, and their latency would suffer. Limiters are tuned for goodput in overload.
//!
//! `cargo run --release --workspace --example tune -- NAME…` prints it; the constants `TUNED` and docs/rivals.md hold what came out.

use crate::{
    bounds,
    contest::Contest,
    learn::{LearnError, exam::mean, parallel, score},
    rivals::{
        Kind, Rival, c3, c3_local, latency_inverse,
        least_request::LeastRequest,
        limiter::{Limiter, aimd},
        orca, peak_ewma, pid, prequal, weighted_least_request,
    },
    scenario::{Family, Scenario, Setting, seeds},
    simulator::{
        Summary,
        time::{MILLISECOND, SECOND},
    },
};

/// Evaluations that each rival gets; one is all scenarios of the [`Field`] once.
pub const BUDGET: usize = 32;
/// Numbers of proxies that are tuned for, all with one set of values.
const PROXIES: [usize; 2] = [4, 16];
/// Endpoints of the scenarios.
const ENDPOINTS: usize = 20;

/// A knob: its name and the values that are tried, rising.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Knob {
    /// Name in tables.
    pub name: &'static str,
    /// Values, rising.
    pub values: &'static [f64],
}

const fn knob(name: &'static str, values: &'static [f64]) -> Knob {
    Knob { name, values }
}

/// A rival with knobs.
#[derive(Debug, Clone, Copy)]
pub struct Tunable {
    /// Its name on the command line.
    pub name: &'static str,
    /// What can be turned.
    pub knobs: &'static [Knob],
    /// Values to start from: the original's.
    pub start: &'static [f64],
    /// Whether it is about overload (limiters) or about all else (rules).
    pub overload: bool,
    make: fn(&[f64]) -> Rival,
}

/// Number of choices that stands for "all".
const ALL_CHOICES: f64 = 1e9;

/// Everyone with knobs.
pub const TUNABLES: [Tunable; 12] = [
    Tunable {
        name: "least-request",
        knobs: &[knob("choices", &[2.0, 3.0, 5.0, 8.0, ALL_CHOICES])],
        start: &[2.0],
        overload: false,
        make: |v| rule(Kind::LeastRequest(LeastRequest { choices: v[0] as usize })),
    },
    Tunable {
        name: "weighted-least-request",
        knobs: &[
            knob("bias", &[0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 8.0]),
            knob("choices if equal", &[2.0, 3.0, 5.0, ALL_CHOICES]),
        ],
        start: &[1.0, 2.0],
        overload: false,
        make: |v| {
            rule(Kind::WeightedLeastRequest(weighted_least_request::Knobs { bias: v[0], choices: v[1] as usize }))
        },
    },
    Tunable {
        name: "peak-ewma",
        knobs: &[
            knob("decay, s", &[0.1, 0.3, 1.0, 3.0, 10.0, 30.0]),
            knob("choices", &[2.0, 3.0, 5.0, 8.0, ALL_CHOICES]),
        ],
        start: &[10.0, 2.0],
        overload: false,
        make: |v| rule(Kind::PeakEwma(peak_ewma::Knobs { decay_s: v[0], choices: v[1] as usize })),
    },
    Tunable {
        name: "c3",
        knobs: &[
            knob("exponent", &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
            knob("gain", &[0.03, 0.1, 0.2, 0.4, 0.9]),
            knob("concurrency", &[0.25, 0.5, 1.0, 2.0]),
        ],
        start: &[3.0, 0.9, 1.0],
        overload: false,
        make: |v| rule(Kind::C3(c3::Knobs { exponent: v[0], gain: v[1], concurrency: v[2] })),
    },
    Tunable {
        name: "c3-local",
        knobs: &[
            knob("exponent", &[0.25, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0]),
            knob("offset", &[0.5, 1.0, 2.0, 3.0, 5.0, 8.0, 12.0]),
        ],
        start: &[3.0, 1.0],
        overload: false,
        make: |v| rule(Kind::C3Local(c3_local::Knobs { exponent: v[0], offset: v[1] })),
    },
    Tunable {
        name: "prequal",
        knobs: &[
            knob("Q", &[0.0, 0.3, 0.6, 0.75, 0.84, 0.9, 0.99]),
            knob("pool", &[4.0, 8.0, 16.0, 32.0]),
            knob("probes", &[2.0, 3.0, 5.0, 8.0]),
            knob("removed", &[0.25, 0.5, 1.0, 2.0]),
            knob("surplus", &[0.0, 1.0, 2.0]),
            knob("age, s", &[0.03, 0.1, 0.3, 1.0]),
        ],
        start: &[0.84, 16.0, 3.0, 1.0, 1.0, 1.0],
        overload: false,
        make: |v| {
            rule(Kind::Prequal(prequal::Knobs {
                quantile: v[0],
                pool: v[1] as usize,
                probes: v[2],
                removed: v[3],
                surplus: v[4],
                age_ns: (v[5] * SECOND as f64) as u64,
            }))
        },
    },
    Tunable {
        name: "orca",
        knobs: &[
            knob("update, s", &[0.1, 0.3, 1.0, 3.0]),
            knob("penalty", &[0.0, 1.0, 3.0, 10.0]),
            knob("window, s", &[0.1, 0.3, 1.0, 3.0]),
            knob("blackout, s", &[0.0, 1.0, 3.0, 10.0]),
        ],
        start: &[1.0, 1.0, 1.0, 10.0],
        overload: false,
        make: |v| {
            let ns = |s: f64| (s * SECOND as f64) as u64;
            let (window_ns, blackout_ns) = (ns(v[2]), ns(v[3]));
            rule(Kind::Orca(orca::Knobs { update_ns: ns(v[0]), penalty: v[1], window_ns, blackout_ns }))
        },
    },
    Tunable {
        name: "pid",
        knobs: &[
            knob("proportional", &[0.0, 0.1, 0.3, 1.0]),
            knob("integral, 1/s", &[0.03, 0.1, 0.3, 0.5, 1.0, 2.0]),
            knob("derivative, s", &[0.0, 0.03, 0.1]),
            knob("smoothing", &[0.1, 0.3, 0.5, 1.0]),
            knob("period, s", &[0.1, 0.3, 0.5, 1.0, 3.0]),
        ],
        start: &[0.1, 0.3, 0.0, 0.5, 1.0],
        overload: false,
        make: |v| {
            rule(Kind::Pid(pid::Knobs {
                proportional: v[0],
                integral: v[1],
                derivative: v[2],
                smoothing: v[3],
                period_ns: (v[4] * SECOND as f64) as u64,
            }))
        },
    },
    Tunable {
        name: "latency-inverse",
        knobs: &[knob("window, s", &[0.1, 0.3, 1.0, 3.0, 10.0, 30.0]), knob("exponent", &[0.25, 0.5, 1.0, 1.5, 2.0])],
        start: &[10.0, 1.0],
        overload: false,
        make: |v| rule(Kind::LatencyInverse(latency_inverse::Knobs { window_s: v[0], exponent: v[1] })),
    },
    Tunable {
        name: "aimd",
        knobs: &[
            knob("decrease", &[0.6, 0.7, 0.8, 0.9, 0.95]),
            knob("increase", &[1.02, 1.05, 1.1, 1.2]),
            knob("slow share", &[0.4, 0.5, 0.6, 0.7, 0.8, 0.9]),
        ],
        start: &[0.8, 1.05, 0.8],
        overload: true,
        make: |v| {
            let knobs = aimd::Knobs { decrease: v[0], increase: v[1], slow_share: v[2] };
            limiter(Limiter::Windows(knobs))
        },
    },
    Tunable {
        name: "gradient2",
        knobs: &[
            knob("tolerance", &[1.0, 1.25, 1.5, 2.0, 2.5, 3.0]),
            knob("window, ms", &[30.0, 100.0, 300.0, 1000.0]),
        ],
        start: &[1.5, 1000.0],
        overload: true,
        make: |v| limiter(Limiter::Gradient2 { tolerance: v[0], window_ns: v[1] as u64 * MILLISECOND }),
    },
    Tunable {
        name: "vegas",
        knobs: &[knob("window, ms", &[0.0, 10.0, 30.0, 100.0, 300.0, 1000.0])],
        start: &[0.0],
        overload: true,
        make: |v| {
            let window_ns = v[0] as u64 * MILLISECOND;
            limiter(Limiter::Vegas { window_ns: (window_ns > 0).then_some(window_ns) })
        },
    },
];

fn rule(kind: Kind) -> Rival {
    Rival::new("candidate", "a candidate of the tuning", kind)
}

/// Limiters are tuned before the rule that they are most used with.
fn limiter(limiter: Limiter) -> Rival {
    rule(Kind::LeastRequest(LeastRequest::SCAN)).limited("candidate", "", limiter)
}

/// The rival of this name that has knobs.
pub fn tunable(name: &str) -> Option<&'static Tunable> {
    TUNABLES.iter().find(|tunable| tunable.name == name)
}

/// What tuning measures on, with the bound of each scenario.
#[derive(Debug)]
pub struct Field {
    scenarios: Vec<(Scenario, Summary)>,
    overload: bool,
}

impl Field {
    /// All training families with or without overload, for 4 and 16 proxies, with these seeds; requests count for `seconds`.
    ///
    /// # Errors
    /// If a seed is kept for tests, or a scenario does not hold.
    pub fn new(overload: bool, seeds: impl Iterator<Item = u64> + Clone, seconds: u64) -> Result<Self, LearnError> {
        let families = || Family::TRAINING.into_iter().filter(|family| family.is_overload() == overload);
        let mut scenarios = Vec::new();
        for family in families() {
            for seed in seeds.clone() {
                for proxies in PROXIES {
                    let setting = Setting { seconds: Some(seconds), ..Setting::new(seed, proxies, ENDPOINTS) };
                    seeds::assert_trainable(family, seed)?;
                    scenarios.push(family.scenario(&setting));
                }
            }
        }
        let bounds = parallel::map(1, scenarios.len(), |index| bounds::best(&scenarios[index]));
        let paired = scenarios.into_iter().zip(bounds);
        let scenarios = paired.map(|(scenario, bound)| Ok((scenario, bound?.1))).collect::<Result<_, LearnError>>()?;
        Ok(Self { scenarios, overload })
    }

    /// Mean cost of a contestant; lower is better: of limiters [`score::cost`], of rules `ln(p99 / bound's) + 0.25 ln(p50 / bound's)`.
    ///
    /// # Errors
    /// If a scenario does not hold.
    pub fn score(&self, contestant: &dyn Contest) -> Result<f64, LearnError> {
        let costs = self.scenarios.iter().map(|(scenario, bound)| {
            let summary = contestant.run(scenario)?;
            Ok(if self.overload { score::cost(scenario, true, &summary, bound) } else { latency_cost(&summary, bound) })
        });
        Ok(mean(&costs.collect::<Result<Vec<_>, LearnError>>()?))
    }
}

/// What the median counts for beside the 99th percentile.
const MEDIAN_SHARE: f64 = 0.25;

fn latency_cost(run: &Summary, bound: &Summary) -> f64 {
    let log_ratio = |ours_ms: f64, bound_ms: f64| (ours_ms.max(1e-3) / bound_ms.max(1e-3)).ln();
    log_ratio(run.latency_ms_p99, bound.latency_ms_p99)
        + MEDIAN_SHARE * log_ratio(run.latency_ms_p50, bound.latency_ms_p50)
}

/// Walks from the original's values, and again from the middle of the grid, along one knob at a time to the neighbouring value while that
/// is better, until none is or half of the budget is spent. `tell` hears of every candidate. Returns the best values and their cost.
///
/// # Errors
/// As `score`.
pub fn search<E>(
    tunable: &Tunable,
    budget: usize,
    mut score: impl FnMut(&Rival) -> Result<f64, E>,
    mut tell: impl FnMut(&[f64], f64),
) -> Result<(Vec<f64>, f64), E> {
    let middle: Vec<f64> = tunable.knobs.iter().map(|knob| knob.values[knob.values.len() / 2]).collect();
    let mut tried: Vec<Vec<f64>> = Vec::new();
    let mut evaluate = |values: &[f64]| {
        let cost = score(&(tunable.make)(values))?;
        tell(values, cost);
        Ok(cost)
    };
    let mut best = walk(tunable, tunable.start, &mut tried, budget.div_ceil(2), &mut evaluate)?;
    if !tried.contains(&middle) && tried.len() < budget {
        let other = walk(tunable, &middle, &mut tried, budget, &mut evaluate)?;
        if other.1 < best.1 {
            best = other;
        }
    }
    Ok(best)
}

/// One walk; what was tried before is not tried again, and `tried` grows up to `limit`.
fn walk<E>(
    tunable: &Tunable,
    start: &[f64],
    tried: &mut Vec<Vec<f64>>,
    limit: usize,
    evaluate: &mut impl FnMut(&[f64]) -> Result<f64, E>,
) -> Result<(Vec<f64>, f64), E> {
    let mut best = start.to_vec();
    tried.push(best.clone());
    let mut best_cost = evaluate(&best)?;
    loop {
        let before = best_cost;
        // One step at a time; where that does not help, two: measured costs are not smooth.
        for (steps, place) in (1..=2).flat_map(|steps| (0..tunable.knobs.len()).map(move |place| (steps, place))) {
            if steps == 2 && best_cost < before {
                break;
            }
            for up in [true, false] {
                let next = |best: &[f64]| neighbour(tunable, best, place, up, steps);
                while let Some(next) = next(&best).filter(|next| !tried.contains(next)) {
                    if tried.len() >= limit {
                        return Ok((best, best_cost));
                    }
                    tried.push(next.clone());
                    let next_cost = evaluate(&next)?;
                    if next_cost >= best_cost {
                        break;
                    }
                    (best, best_cost) = (next, next_cost);
                }
            }
        }
        if best_cost >= before {
            return Ok((best, best_cost));
        }
    }
}

/// The same values with the one of a knob that is so many steps up or down on its grid.
fn neighbour(tunable: &Tunable, values: &[f64], place: usize, up: bool, steps: usize) -> Option<Vec<f64>> {
    let grid = tunable.knobs[place].values;
    let now = grid.iter().position(|other| *other == values[place])?;
    let next = if up { now.checked_add(steps)? } else { now.checked_sub(steps)? };
    let mut values = values.to_vec();
    values[place] = *grid.get(next)?;
    Some(values)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    #[test]
    fn starts_are_on_their_grids_and_grids_rise() {
        for tunable in &TUNABLES {
            assert_eq!(tunable.knobs.len(), tunable.start.len(), "{}", tunable.name);
            for (knob, start) in tunable.knobs.iter().zip(tunable.start) {
                assert!(knob.values.contains(start), "{} {}", tunable.name, knob.name);
                assert!(knob.values.is_sorted(), "{} {}", tunable.name, knob.name);
            }
        }
    }

    #[test]
    fn the_walk_finds_the_bottom_of_a_bowl_within_its_budget() {
        let tunable = tunable("c3").unwrap();
        let bowl = |rival: &Rival| match rival.kind() {
            Kind::C3(knobs) => Ok::<f64, Infallible>((knobs.exponent - 2.0).abs() + (knobs.gain - 0.1).abs()),
            other => panic!("{other:?}"),
        };
        let (best, cost) = search(tunable, BUDGET, bowl, |_, _| {}).unwrap();
        assert_eq!((best[0], best[1], cost), (2.0, 0.1, 0.0));
        let mut count = 0;
        search(tunable, 4, bowl, |_, _| count += 1).unwrap();
        assert_eq!(count, 4);
    }

    #[test]
    fn tuning_refuses_seeds_that_are_kept_for_tests() {
        assert!(Field::new(true, [seeds::TESTING.start].into_iter(), 1).is_err());
    }

    #[test]
    fn the_bound_costs_nothing_and_chance_a_lot() {
        let field = Field::new(false, [11].into_iter(), 1).unwrap();
        let chance = field.score(&rule(Kind::Random)).unwrap();
        let scan = field.score(&rule(Kind::LeastRequest(LeastRequest::SCAN))).unwrap();
        assert!(chance > scan && scan > 0.0, "{chance} {scan}");
        let bounds = field.scenarios.iter().map(|(_, bound)| latency_cost(bound, bound));
        assert!(bounds.sum::<f64>().abs() < 1e-9);
    }
}
