//! Contestants on the same scenarios, and their figures as ratios to an omniscient bound. [`Contest`] is what a policy must be to
//! be simulated by name; [`all`] and [`by_name`] are the registry that `trimtab simulate` shows.

use trimtab_model::Policy;
use trimtab_proxy::config::{Algorithm, RuleTerms};

use crate::{
    bounds::Bound,
    fleet::{ClassKnowledge, Fleet, FleetOptions},
    rivals,
    scenario::{Scenario, ScenarioError},
    simulator::{Router, Summary, simulate},
};

/// What a contestant may know, and so what it is compared as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Trimtab, or Trimtab without a part of it.
    Ours,
    /// Another policy; it knows what its real counterpart knows.
    Rival,
    /// A dispatcher that sees everything at once. The best of a run's bounds is what others are told as a ratio to.
    Bound,
    /// A bound that knows the size of every request in advance as well, which no router can.
    Clairvoyant,
    /// More than a dispatcher can do, such as one queue for all endpoints: told beside the bounds, never the best of them.
    Ceiling,
}

impl Role {
    /// Whether it is a dispatcher that sees everything.
    pub fn is_bound(self) -> bool {
        self.is_bound_of(true)
    }

    /// The same, but only where `clairvoyant`, if it knows the sizes of requests too.
    pub fn is_bound_of(self, clairvoyant: bool) -> bool {
        self == Self::Bound || clairvoyant && self == Self::Clairvoyant
    }
}

/// A policy that can be simulated by its name.
pub trait Contest: Send + Sync {
    /// Name on the command line and in tables.
    fn name(&self) -> &str;

    /// What it is, in a line for people.
    fn describe(&self) -> &str;

    /// What it is compared as.
    fn role(&self) -> Role {
        Role::Rival
    }

    /// A fresh router for one run of `scenario`.
    fn router(&self, scenario: &Scenario) -> Box<dyn Router>;

    /// Runs it through a scenario.
    ///
    /// # Errors
    /// If the scenario does not hold.
    fn run(&self, scenario: &Scenario) -> Result<Summary, ScenarioError> {
        simulate(scenario, &mut self.router(scenario))
    }
}

/// Everyone, in the order of tables: ours, rivals, bounds.
pub fn all() -> Vec<Box<dyn Contest>> {
    let ours = OURS.into_iter().map(|ours| Box::new(ours) as Box<dyn Contest>);
    let rivals = rivals::all().into_iter().map(|rival| Box::new(rival) as Box<dyn Contest>);
    let bounds = Bound::ALL.into_iter().map(|bound| Box::new(bound) as Box<dyn Contest>);
    ours.chain(rivals).chain(bounds).collect()
}

/// The contestant of this name; a rival's may carry the suffixes that [`rivals::by_name`] knows.
///
/// # Errors
/// Lists the right names if there is none.
pub fn by_name(name: &str) -> Result<Box<dyn Contest>, UnknownPolicy> {
    if let Some(rival) = rivals::by_name(name) {
        return Ok(Box::new(rival));
    }
    let mut everyone = all();
    match everyone.iter().position(|one| one.name() == name) {
        Some(place) => Ok(everyone.swap_remove(place)),
        None => {
            Err(UnknownPolicy { name: name.into(), known: everyone.iter().map(|one| one.name().to_owned()).collect() })
        }
    }
}

/// There is no policy of that name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} is no policy; there are {}", known.join(", "))]
pub struct UnknownPolicy {
    name: String,
    known: Vec<String>,
}

/// Production code with a name.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Ours {
    name: &'static str,
    description: &'static str,
    options: FleetOptions,
    /// Whether the built-in policy decides, or the capacity prior alone.
    learned: bool,
}

/// What ships, the same with one part left out (what each part is worth), and algorithms of the data plane that are no rival's.
const OURS: [Ours; 15] = {
    const fn ours(name: &'static str, description: &'static str, options: FleetOptions) -> Ours {
        Ours { name, description, options, learned: true }
    }
    const fn without(terms: RuleTerms) -> FleetOptions {
        FleetOptions { terms, ..FleetOptions::TRIMTAB }
    }
    const ALL: RuleTerms = RuleTerms::ALL;
    [
        ours("trimtab", "what ships", FleetOptions::TRIMTAB),
        Ours { learned: false, ..ours("trimtab-prior", "without the learned policy", FleetOptions::TRIMTAB) },
        ours("trimtab-no-weights", "without weights", without(RuleTerms { weights: false, ..ALL })),
        ours("trimtab-no-latency", "without the latency factor", without(RuleTerms { latency: false, ..ALL })),
        ours("trimtab-no-errors", "without the error factor", without(RuleTerms { errors: false, ..ALL })),
        ours("trimtab-no-peers", "without peers' counts", FleetOptions { peers_ns: None, ..FleetOptions::TRIMTAB }),
        ours("trimtab-no-classes", "without class costs", without(RuleTerms { class_costs: false, ..ALL })),
        ours(
            "trimtab-no-slots",
            "without learning slots that pods do not tell",
            FleetOptions { learns_slots: false, ..FleetOptions::TRIMTAB },
        ),
        ours(
            "trimtab-true-costs",
            "with class costs that are known from the start",
            FleetOptions { classes: ClassKnowledge::True, ..FleetOptions::TRIMTAB },
        ),
        ours(
            "trimtab-no-class-shedding",
            "with all classes shed alike",
            without(RuleTerms { class_shedding: false, ..ALL }),
        ),
        ours(
            "trimtab-no-shedding",
            "without admission control",
            FleetOptions { admission: false, ..FleetOptions::TRIMTAB },
        ),
        Ours { learned: false, ..ours("trimtab-local", "equal weights and the local rule", FleetOptions::LOCAL) },
        ours(
            "sliding-window-round-robin",
            "the data plane's: fewest requests in a sliding window",
            FleetOptions::baseline(Algorithm::SlidingWindowRoundRobin),
        ),
        ours(
            "decaying-weights",
            "the data plane's: in turn by weight, new endpoints from a tenth of theirs on",
            FleetOptions::baseline(Algorithm::DecayingWeights),
        ),
        ours(
            "prequal-answers",
            "the data plane's: Prequal's choice by what answers tell",
            FleetOptions::baseline(Algorithm::Prequal),
        ),
    ]
};

impl Contest for Ours {
    fn name(&self) -> &str {
        self.name
    }

    fn describe(&self) -> &str {
        self.description
    }

    fn role(&self) -> Role {
        if self.options.algorithm == Algorithm::Adaptive { Role::Ours } else { Role::Rival }
    }

    fn router(&self, scenario: &Scenario) -> Box<dyn Router> {
        // What is built in has been checked when it was built.
        let policy = Policy::shipped().ok().filter(|_| self.learned).unwrap_or_else(Policy::prior_only);
        Box::new(Fleet::with_policy(scenario, &self.options, policy))
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
    fn everyone_has_a_name_of_their_own_and_is_found_by_it() {
        for (place, one) in all().iter().enumerate() {
            assert_eq!(by_name(one.name()).unwrap().describe(), one.describe());
            assert_eq!(all().iter().position(|other| other.name() == one.name()), Some(place));
        }
        let error = by_name("magic").err().unwrap().to_string();
        assert!(error.contains("\"magic\"") && error.contains("trimtab"), "{error}");
    }

    #[test]
    fn the_geometric_mean_of_a_ratio_and_its_inverse_is_one() {
        assert!((geometric_mean([4.0, 0.25]).unwrap() - 1.0).abs() < 1e-12);
        assert_eq!(geometric_mean([]), None);
    }
}
