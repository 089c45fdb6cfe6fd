//! Policies and rivals on the same scenarios, with the same requests, beside an omniscient bound that is run only once.

use trimtab_model::Policy;
use trimtab_proxy::config::Algorithm;

use super::{LearnError, course::Lesson, parallel, score};
use crate::{
    bounds::ShortestExpectedDelay,
    fleet::{Fleet, FleetOptions},
    scenario::{Scenario, ScenarioError},
    simulator::{Summary, simulate},
};

/// Who sits an exam: what the proxies are configured with, and the controller's policy.
#[derive(Debug, Clone)]
pub struct Examinee {
    options: FleetOptions,
    policy: Policy,
}

impl Examinee {
    /// Trimtab with this policy.
    pub fn policy(policy: Policy) -> Self {
        Self { options: FleetOptions::TRIMTAB, policy }
    }

    /// Trimtab with the capacity prior alone.
    pub fn prior() -> Self {
        Self::policy(Policy::prior_only())
    }

    /// What is measured against at every validation, by name: the prior, and the rules that need no controller.
    pub fn rivals() -> [(&'static str, Self); 3] {
        let rival = |algorithm| Self { options: FleetOptions::baseline(algorithm), policy: Policy::prior_only() };
        [
            ("prior", Self::prior()),
            ("c3-local", rival(Algorithm::C3Local)),
            ("least-request", rival(Algorithm::LeastRequest)),
        ]
    }

    /// Its fleet for a scenario.
    pub fn fleet(&self, scenario: &Scenario) -> Fleet {
        Fleet::with_policy(scenario, &self.options, self.policy.clone())
    }
}

/// Scenarios and what the bound does on them.
#[derive(Debug)]
pub struct Exam {
    lessons: Vec<Lesson>,
    scenarios: Vec<Scenario>,
    bounds: Vec<Summary>,
}

impl Exam {
    /// Runs the bound on these lessons.
    ///
    /// # Errors
    /// If a lesson is not for learning, or its scenario does not hold.
    pub fn new(lessons: Vec<Lesson>, jobs: usize) -> Result<Self, LearnError> {
        let scenarios = lessons.iter().map(Lesson::scenario).collect::<Result<Vec<_>, _>>()?;
        let bounds = parallel::map(jobs, scenarios.len(), |index| bound(&scenarios[index]));
        let bounds = bounds.into_iter().collect::<Result<_, _>>()?;
        Ok(Self { lessons, scenarios, bounds })
    }

    /// Its lessons.
    pub fn lessons(&self) -> &[Lesson] {
        &self.lessons
    }

    /// Their scenarios.
    pub fn scenarios(&self) -> &[Scenario] {
        &self.scenarios
    }

    /// What the bound did, by lesson.
    pub fn bounds(&self) -> &[Summary] {
        &self.bounds
    }

    /// What each examinee did, by lesson.
    ///
    /// # Errors
    /// If a scenario does not hold.
    pub fn sit(&self, examinees: &[Examinee], jobs: usize) -> Result<Vec<Vec<Summary>>, LearnError> {
        let count = self.scenarios.len();
        let run = |index: usize| {
            // All examinees on one lesson, then the next: its data stays in the cache.
            let (lesson, examinee) = (index / examinees.len(), index % examinees.len());
            let scenario = &self.scenarios[lesson];
            simulate(scenario, &mut examinees[examinee].fleet(scenario))
        };
        let runs = parallel::map(jobs, count * examinees.len(), run);
        let mut summaries: Vec<Vec<Summary>> = vec![Vec::with_capacity(count); examinees.len()];
        for (index, run) in runs.into_iter().enumerate() {
            summaries[index % examinees.len()].push(run?);
        }
        Ok(summaries)
    }

    /// What one examinee's runs cost, by lesson.
    pub fn costs(&self, runs: &[Summary]) -> Vec<f64> {
        let cost = |(index, run): (usize, &Summary)| {
            let overload = self.lessons[index].family.is_overload();
            score::cost(&self.scenarios[index], overload, run, &self.bounds[index])
        };
        runs.iter().enumerate().map(cost).collect()
    }

    /// The mean cost of each examinee.
    ///
    /// # Errors
    /// If a scenario does not hold.
    pub fn mean_costs(&self, examinees: &[Examinee], jobs: usize) -> Result<Vec<f64>, LearnError> {
        let runs = self.sit(examinees, jobs)?;
        Ok(runs.iter().map(|runs| mean(&self.costs(runs))).collect())
    }
}

/// The mean; 0 of none.
pub fn mean(numbers: &[f64]) -> f64 {
    numbers.iter().sum::<f64>() / numbers.len().max(1) as f64
}

fn bound(scenario: &Scenario) -> Result<Summary, ScenarioError> {
    simulate(scenario, &mut ShortestExpectedDelay::new(scenario))
}
