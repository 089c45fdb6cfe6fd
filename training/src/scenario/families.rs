//! Scenario families: what services meet, as data made from a seed.

use rand::{Rng, rngs::SmallRng};

use super::{Change, Event, Scenario, Telemetry};
use crate::simulator::{
    endpoint::{Discipline, EndpointSpec, Gray},
    random::{Purpose, stream},
    time::{MICROSECOND, MILLISECOND, SECOND, millis, seconds},
    work::{Class, Distribution},
};

/// Length of a run, and how much of its beginning does not count.
const LENGTH_NS: u64 = 40 * SECOND;
const WARM_UP_NS: u64 = 8 * SECOND;

/// A kind of scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// All pods are equal and stay so.
    Homogeneous,
    /// Speeds 1, 2 and 4; 1 to 8 slots.
    Heterogeneous,
    /// Pods slow down by 3 to 5 times for 50 ms to 5 s, now here, now there.
    Interference,
    /// Pods fail a share of their requests fast, or slowly, while their health checks pass.
    Gray,
    /// Pods crash, start cold, drain.
    Churn,
    /// Load rises to 1.2 times what all pods together can serve.
    Burst,
}

impl Family {
    /// All of them, in the order of tables.
    pub const ALL: [Self; 6] =
        [Self::Homogeneous, Self::Heterogeneous, Self::Interference, Self::Gray, Self::Churn, Self::Burst];

    /// Name in tables and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Homogeneous => "homogeneous",
            Self::Heterogeneous => "heterogeneous",
            Self::Interference => "interference",
            Self::Gray => "gray",
            Self::Churn => "churn",
            Self::Burst => "burst",
        }
    }

    /// The scenario of this family with this seed, for so many proxies with equal shares.
    pub fn scenario(self, seed: u64, proxies: usize) -> Scenario {
        let mut rng = stream(seed, Purpose::Scenario, self as u64);
        let load = match self {
            Self::Interference | Self::Churn => rng.random_range(0.55..0.70),
            Self::Gray => rng.random_range(0.60..0.75),
            _ => rng.random_range(0.70..0.85),
        };
        let endpoints = self.endpoints(&mut rng);
        let mut scenario = Scenario {
            name: self.name().into(),
            seed,
            shares: vec![1.0 / proxies as f64; proxies],
            endpoints,
            classes: vec![class(&mut rng)],
            rate_rps: 1.0,
            timeline: Vec::new(),
            measured_ns: WARM_UP_NS..LENGTH_NS,
            objective_ns: 0,
            one_way_ns: 100 * MICROSECOND,
            reports_in_flight: false,
            retries: 1,
            telemetry: Telemetry::default(),
        };
        scenario.rate_rps = load * scenario.capacity_rps();
        // Ten times the mean work at the slowest pods' own speed: what a careful operator would promise.
        scenario.objective_ns = (10.0 * scenario.classes[0].mean_ns) as u64;
        scenario.timeline = self.timeline(&scenario, load, &mut rng);
        scenario.timeline.sort_by_key(|event| event.at_ns);
        scenario
    }

    fn endpoints(self, rng: &mut SmallRng) -> Vec<EndpointSpec> {
        let count = rng.random_range(10..=32);
        let slots = rng.random_range(1..=8);
        let discipline = if rng.random_bool(0.75) { Discipline::Fcfs } else { Discipline::ProcessorSharing };
        // Half of all services with trouble have unequal pods too.
        let unequal = match self {
            Self::Homogeneous => false,
            Self::Heterogeneous => true,
            _ => rng.random_bool(0.5),
        };
        (0..count)
            .map(|_| {
                let slots = if unequal { rng.random_range(1..=8) } else { slots };
                let speed = if unequal { [1.0, 2.0, 4.0][rng.random_range(0..3)] } else { 1.0 };
                EndpointSpec { discipline, slots, room: 128 * slots, speed }
            })
            .collect()
    }

    fn timeline(self, scenario: &Scenario, load: f64, rng: &mut SmallRng) -> Vec<Event> {
        let endpoints = scenario.endpoints.len() as u32;
        match self {
            Self::Homogeneous | Self::Heterogeneous => Vec::new(),
            Self::Interference => (0..endpoints).flat_map(|endpoint| interference(endpoint, rng)).collect(),
            Self::Gray => {
                let failing = (endpoints / 8).max(1);
                (0..failing).flat_map(|step| gray(step * 7 % endpoints, rng)).collect()
            }
            Self::Churn => {
                let restarts = endpoints / 3;
                (0..restarts).flat_map(|step| restart(step * 3 % endpoints, rng)).collect()
            }
            Self::Burst => {
                let from_ns = WARM_UP_NS;
                vec![Event { at_ns: from_ns, change: Change::Load { factor: 1.2 / load } }]
            }
        }
    }
}

impl Default for Telemetry {
    /// Scrapes twice a second that take 20 ms, proxies 5 ms away from the controller.
    fn default() -> Self {
        Self {
            scraped: true,
            scrape_interval_ns: 500 * MILLISECOND,
            scrape_delay_ns: 20 * MILLISECOND,
            scrape_loss: 0.01,
            control_delay_ns: 5 * MILLISECOND,
        }
    }
}

fn class(rng: &mut SmallRng) -> Class {
    let mean_ns = millis(log_uniform(rng, 10.0, 40.0)) as f64;
    let distribution = match rng.random_range(0..3) {
        0 => Distribution::Exponential,
        1 => Distribution::LogNormal { cv: rng.random_range(0.5..1.5) },
        _ => Distribution::Bimodal { heavy_share: 0.1, ratio: rng.random_range(5.0..12.0) },
    };
    Class { share: 1.0, mean_ns, distribution }
}

/// Slow spells of 50 ms to 5 s, 15 % of the time.
fn interference(endpoint: u32, rng: &mut SmallRng) -> Vec<Event> {
    const SLOW_SHARE: f64 = 0.15;
    let mut events = Vec::new();
    let mut now_s = 0.0;
    loop {
        let slow_s = log_uniform(rng, 0.05, 5.0);
        now_s += -rng.random::<f64>().max(1e-9).ln() * slow_s * (1.0 - SLOW_SHARE) / SLOW_SHARE;
        if seconds(now_s) >= LENGTH_NS {
            return events;
        }
        let factor = 1.0 / rng.random_range(3.0..5.0);
        events.push(Event { at_ns: seconds(now_s), change: Change::Factor { endpoint, factor } });
        now_s += slow_s;
        events.push(Event { at_ns: seconds(now_s), change: Change::Factor { endpoint, factor: 1.0 } });
    }
}

/// One long spell of errors, mostly fast ones.
fn gray(endpoint: u32, rng: &mut SmallRng) -> Vec<Event> {
    let from_ns = WARM_UP_NS + seconds(rng.random_range(1.0..8.0));
    let to_ns = from_ns + seconds(rng.random_range(8.0..20.0));
    let share = rng.random_range(0.3..1.0);
    let fast_ns = rng.random_bool(0.75).then(|| millis(rng.random_range(0.5..3.0)));
    vec![
        Event { at_ns: from_ns, change: Change::Gray { endpoint, gray: Gray { share, fast_ns } } },
        Event { at_ns: to_ns, change: Change::Gray { endpoint, gray: Gray::default() } },
    ]
}

/// A crash (noticed late) or a drain (announced), then a cold start.
fn restart(endpoint: u32, rng: &mut SmallRng) -> Vec<Event> {
    let at_ns = WARM_UP_NS + seconds(rng.random_range(1.0..20.0));
    let announced = rng.random_bool(0.5);
    let gone_ns = if announced { at_ns + 3 * SECOND } else { at_ns };
    let noticed_ns = if announced { at_ns } else { at_ns + seconds(rng.random_range(0.5..2.0)) };
    let start_ns = gone_ns.max(noticed_ns) + seconds(rng.random_range(1.0..3.0));
    let mut events = vec![
        Event { at_ns: gone_ns, change: Change::Crash { endpoint } },
        Event { at_ns: noticed_ns, change: Change::Ready { endpoint, ready: false } },
        Event { at_ns: start_ns, change: Change::Start { endpoint } },
        Event { at_ns: start_ns + SECOND / 10, change: Change::Ready { endpoint, ready: true } },
    ];
    let warm_s = rng.random_range(2.0..6.0);
    for step in 0..=8 {
        let warmth = f64::from(step) / 8.0;
        let change = Change::Factor { endpoint, factor: 0.25 + 0.75 * warmth };
        events.push(Event { at_ns: start_ns + seconds(warm_s * warmth), change });
    }
    events
}

fn log_uniform(rng: &mut SmallRng, from: f64, to: f64) -> f64 {
    rng.random_range(from.ln()..to.ln()).exp()
}
