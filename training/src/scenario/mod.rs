//! A scenario: everything about a run except the router, as plain data. [`Family`] makes them from a seed.

mod capacity;
mod family;
mod ingredients;
mod recipe;
pub mod seeds;
mod story;
mod world;

pub use family::{Family, Setting, UnknownFamily};
pub use story::{
    class_affinity, request_classes, request_classes_single, roomy_pods, rotating_slow_pods, unequal_pods,
    with_costs_of_1_to_100,
};

pub use world::world;

use std::ops::Range;

use crate::simulator::{
    endpoint::{EndpointSpec, Gray},
    time::MILLISECOND,
    work::Class,
};

/// Everything about a run except the router.
#[derive(Debug, Clone, PartialEq)]
pub struct Scenario {
    /// For people and error messages.
    pub name: String,
    /// All randomness of the run comes from here.
    pub seed: u64,
    /// Each proxy's share of the requests; they sum to 1.
    pub shares: Vec<f64>,
    /// The endpoints, in the order of the backend's endpoint list.
    pub endpoints: Vec<EndpointSpec>,
    /// Node group of each endpoint: those that are alike in what [`Self::affinity`] says of them. Empty: all are in group 0.
    pub groups: Vec<u8>,
    /// Kinds of requests, at most [`Self::CLASSES_MAX`]; their shares sum to 1.
    pub classes: Vec<Class>,
    /// How much more work a request of a class is on a group, class-major (classes × groups). Empty: 1 everywhere.
    pub affinity: Vec<f64>,
    /// Requests per second of all proxies together while no [`Change::Load`] says otherwise.
    pub rate_rps: f64,
    /// What changes during the run, in order of time.
    pub timeline: Vec<Event>,
    /// Requests that arrive in this window count; arrivals stop at its end.
    pub measured_ns: Range<u64>,
    /// The latency objective that goodput is measured against.
    pub objective_ns: u64,
    /// Network delay between a proxy and an endpoint, one way.
    pub one_way_ns: u64,
    /// Whether endpoints say on their answers how many requests are inside (ORCA).
    pub reports_in_flight: bool,
    /// How often a request that could not connect is tried again.
    pub retries: u32,
    /// How the controller hears and is heard.
    pub telemetry: Telemetry,
    /// How each endpoint's metrics are wrong. Empty: all are right.
    pub lies: Vec<Lie>,
}

/// Delays between endpoints, controller and proxies.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Telemetry {
    /// Whether endpoints have metrics at all.
    pub scraped: bool,
    /// Whether their metrics tell how many requests they serve at once; most servers' do not.
    pub slots_told: bool,
    /// Time between two scrapes of an endpoint.
    pub scrape_interval_ns: u64,
    /// Every scrape is late by up to this much, uniformly.
    pub scrape_jitter_ns: u64,
    /// From the pod's numbers being read to the controller knowing them.
    pub scrape_delay_ns: u64,
    /// Share of scrapes that are lost, 0..=1.
    pub scrape_loss: f64,
    /// From a proxy's report to the controller knowing it, and from a decision to the proxies applying it.
    pub control_delay_ns: u64,
}

impl Default for Telemetry {
    /// Scrapes twice a second that take 20 ms, proxies 5 ms away from the controller.
    fn default() -> Self {
        Self {
            scraped: true,
            slots_told: true,
            scrape_interval_ns: 500 * MILLISECOND,
            scrape_jitter_ns: 25 * MILLISECOND,
            scrape_delay_ns: 20 * MILLISECOND,
            scrape_loss: 0.01,
            control_delay_ns: 5 * MILLISECOND,
        }
    }
}

/// How a pod's metrics are wrong. Real ones are wrong in these ways.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Lie {
    /// They are right.
    #[default]
    None,
    /// Time stolen by neighbours shows nowhere: workers that wait for a CPU count as idle.
    StolenTime,
    /// They are renewed only this often, and say nothing of their age.
    Stale {
        /// Between two renewals.
        every_ns: u64,
    },
    /// A pod that is quite well, whatever happens: hardly busy, quick, never an error.
    Rosy,
    /// Numbers that cannot be: negative, infinite, no number at all.
    Nonsense,
}

/// A change at a time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Event {
    /// When.
    pub at_ns: u64,
    /// What.
    pub change: Change,
}

/// What can change during a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Change {
    /// An endpoint's speed becomes this multiple of its own (0 pauses it).
    Factor {
        /// Which.
        endpoint: u32,
        /// At least 0.
        factor: f64,
    },
    /// An endpoint starts or stops answering with errors.
    Gray {
        /// Which.
        endpoint: u32,
        /// Which errors.
        gray: Gray,
    },
    /// An endpoint dies with everything inside it.
    Crash {
        /// Which.
        endpoint: u32,
    },
    /// A dead endpoint accepts connections again.
    Start {
        /// Which.
        endpoint: u32,
    },
    /// The endpoint list learns that an endpoint may, or may no longer, get requests.
    Ready {
        /// Which.
        endpoint: u32,
        /// May it.
        ready: bool,
    },
    /// The request rate becomes this multiple of the scenario's.
    Load {
        /// Above 0.
        factor: f64,
    },
}

/// What is wrong with a scenario.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("scenario {name}: {field} {problem}")]
pub struct ScenarioError {
    name: String,
    field: &'static str,
    problem: String,
}

impl Scenario {
    /// Classes that a scenario may have: as many as a proxy tells apart.
    pub const CLASSES_MAX: usize = 16;

    /// Node groups that [`Self::affinity`] tells apart; at least 1.
    pub fn group_count(&self) -> usize {
        (self.affinity.len() / self.classes.len().max(1)).max(1)
    }

    /// How much more work a request of a class is at an endpoint; 1 where nothing is said of it.
    #[inline]
    pub fn factor(&self, class: u8, endpoint: u32) -> f64 {
        if self.affinity.is_empty() {
            return 1.0;
        }
        let group = self.groups.get(endpoint as usize).copied().unwrap_or(0);
        self.affinity[usize::from(class) * self.group_count() + usize::from(group)]
    }

    /// The same service between two times of its run: what had happened before has happened when it begins, `warm_up_ns` of it do not count, and its
    /// requests are others.
    #[must_use]
    pub fn part(&self, span_ns: Range<u64>, warm_up_ns: u64, seed: u64) -> Self {
        let until = |event: &&Event| event.at_ns < span_ns.end;
        let timeline = self.timeline.iter().take_while(until);
        let timeline =
            timeline.map(|event| Event { at_ns: event.at_ns.saturating_sub(span_ns.start), ..*event }).collect();
        Self { seed, timeline, measured_ns: warm_up_ns..span_ns.end - span_ns.start, ..self.clone() }
    }

    /// Whether all numbers are within their ranges.
    ///
    /// # Errors
    /// Names the first field that is not, and what would be right.
    pub fn check(&self) -> Result<(), ScenarioError> {
        let sum_to_one = |sum: f64| (sum - 1.0).abs() < 1e-6;
        let endpoints = self.endpoints.len();
        let valid = |number: u32| (number as usize) < endpoints;
        let require = |holds: bool, field: &'static str, problem: &str| {
            if holds { Ok(()) } else { Err(ScenarioError { name: self.name.clone(), field, problem: problem.into() }) }
        };
        require(endpoints > 0, "endpoints", "must not be empty")?;
        require(
            self.endpoints.iter().all(|spec| spec.slots > 0 && spec.room > 0 && spec.speed > 0.0),
            "endpoints",
            "need at least one slot, room for one request, and a speed above 0",
        )?;
        require(
            self.shares.iter().all(|share| *share > 0.0) && sum_to_one(self.shares.iter().sum()),
            "shares",
            "must each be above 0 and sum to 1",
        )?;
        require(self.shares.len() <= usize::from(u16::MAX), "shares", "must be at most 65535")?;
        require(
            self.classes.iter().all(|class| class.mean_ns > 0.0 && class.share >= 0.0)
                && sum_to_one(self.classes.iter().map(|class| class.share).sum()),
            "classes",
            "need a mean above 0 and shares that sum to 1",
        )?;
        require(self.classes.len() <= Self::CLASSES_MAX, "classes", "must be at most 16")?;
        let groups = self.group_count();
        require(
            (self.groups.is_empty() || self.groups.len() == endpoints)
                && self.groups.iter().all(|group| usize::from(*group) < groups || self.affinity.is_empty()),
            "groups",
            "need one for each endpoint, and each a column of the affinity",
        )?;
        require(
            self.affinity.len().is_multiple_of(self.classes.len())
                && self.affinity.iter().all(|f| *f > 0.0 && f.is_finite()),
            "affinity",
            "needs a factor above 0 for each class and group",
        )?;
        require(
            self.lies.is_empty() || self.lies.len() == endpoints,
            "lies",
            "need one for each endpoint, or none at all",
        )?;
        require(self.rate_rps > 0.0, "rate_rps", "must be above 0")?;
        require(self.measured_ns.start < self.measured_ns.end, "measured_ns", "must not be empty")?;
        require(self.timeline.is_sorted_by_key(|event| event.at_ns), "timeline", "must be in order of time")?;
        require(
            self.timeline.iter().all(|event| match event.change {
                Change::Factor { endpoint, factor } => valid(endpoint) && factor >= 0.0,
                Change::Gray { endpoint, gray } => valid(endpoint) && (0.0..=1.0).contains(&gray.share),
                Change::Crash { endpoint } | Change::Start { endpoint } | Change::Ready { endpoint, .. } => {
                    valid(endpoint)
                }
                Change::Load { factor } => factor > 0.0,
            }),
            "timeline",
            "names an endpoint that is not there, or a factor or share out of range",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_family_makes_scenarios_that_hold_and_differ_by_seed() {
        for family in Family::ALL {
            for seed in 0..12 {
                let endpoints = [2, 8, 32, 50][seed as usize % 4];
                let setting = Setting::new(seed, 1 + seed as usize % 4, endpoints);
                let scenario = family.scenario(&setting);
                assert_eq!(scenario.check(), Ok(()), "{family:?} seed {seed}");
                assert_eq!(scenario, family.scenario(&setting));
                let other = family.scenario(&Setting { seed: seed + 100, ..setting });
                assert_ne!(scenario.classes, other.classes, "{family:?} seed {seed}");
            }
        }
    }

    #[test]
    fn a_bad_number_is_named() {
        let check = |change: fn(&mut Scenario), expected: &str| {
            let mut scenario = Family::Homogeneous.scenario(&Setting::new(1, 1, 4));
            change(&mut scenario);
            let error = scenario.check().unwrap_err().to_string();
            assert_eq!(error, format!("scenario homogeneous: {expected}"));
        };
        check(|scenario| scenario.shares = vec![0.5], "shares must each be above 0 and sum to 1");
        check(
            |scenario| scenario.groups = vec![0; 3],
            "groups need one for each endpoint, and each a column of the affinity",
        );
        check(
            |scenario| scenario.affinity = vec![1.0, 0.0],
            "affinity needs a factor above 0 for each class and group",
        );
        check(|scenario| scenario.lies = vec![Lie::Rosy], "lies need one for each endpoint, or none at all");
    }

    #[test]
    fn the_factor_is_that_of_the_class_on_the_endpoints_group() {
        let mut scenario = Family::ClassesSingle.scenario(&Setting::new(1, 1, 3));
        scenario.classes.truncate(2);
        scenario.groups = vec![0, 1, 1];
        scenario.affinity = vec![1.0, 2.0, 3.0, 1.0];
        let factors: Vec<f64> = (0..2)
            .flat_map(|class| (0..3).map(move |endpoint| (class, endpoint)))
            .map(|(c, e)| scenario.factor(c, e))
            .collect();
        assert_eq!(factors, [1.0, 2.0, 2.0, 3.0, 1.0, 1.0]);
    }
}
