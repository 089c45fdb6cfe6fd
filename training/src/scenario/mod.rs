//! A scenario: everything about a run except the router, as plain data. [`Family`] makes them from a seed.

mod families;
mod story;

pub use families::Family;
pub use story::{rotating_slow_pods, unequal_pods, with_costs_of_1_to_100};

use std::ops::Range;

use crate::simulator::{
    endpoint::{EndpointSpec, Gray},
    time::SECOND,
    work::{self, Class},
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
    /// Kinds of requests; their shares sum to 1.
    pub classes: Vec<Class>,
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
}

/// Delays between endpoints, controller and proxies.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Telemetry {
    /// Whether endpoints have metrics at all.
    pub scraped: bool,
    /// Time between two scrapes of an endpoint.
    pub scrape_interval_ns: u64,
    /// From the pod's numbers being read to the controller knowing them.
    pub scrape_delay_ns: u64,
    /// Share of scrapes that are lost, 0..=1.
    pub scrape_loss: f64,
    /// From a proxy's report to the controller knowing it, and from a decision to the proxies applying it.
    pub control_delay_ns: u64,
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
    /// Requests per second that all endpoints together can serve when nothing is wrong with them.
    pub fn capacity_rps(&self) -> f64 {
        let speed: f64 = self.endpoints.iter().map(EndpointSpec::capacity).sum();
        speed * 1e9 / work::mean_ns(&self.classes)
    }

    /// The same with so many measured seconds.
    #[must_use]
    pub fn lasting(mut self, seconds: u64) -> Self {
        self.measured_ns.end = self.measured_ns.start + seconds * SECOND;
        self
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
            for seed in 0..20 {
                let scenario = family.scenario(seed, 3);
                assert_eq!(scenario.check(), Ok(()), "{family:?} seed {seed}");
                assert_eq!(scenario, family.scenario(seed, 3));
                assert_ne!(scenario.endpoints, family.scenario(seed + 100, 3).endpoints, "{family:?} seed {seed}");
            }
        }
    }

    #[test]
    fn a_bad_number_is_named() {
        let mut scenario = Family::Homogeneous.scenario(1, 1);
        scenario.shares = vec![0.5];
        let error = scenario.check().unwrap_err();
        assert_eq!(error.to_string(), "scenario homogeneous: shares must each be above 0 and sum to 1");
    }
}
