//! The shapes of trouble that rivals are compared over: which pods, what happens to them, how much load. Plain data, made
//! from a seed, the same for every rival.

use std::time::Duration;

use clap::ValueEnum;
use trimtab::demo::arrivals::RateProfile;
use trimtab::demo::faults::{ColdStart, Faults};
use trimtab::demo::kinds::Asks;
use trimtab::demo::pod::PodSpec;
use trimtab::demo::script::{Act, Event, pod};
use trimtab_training::scenario::{self, Scenario};

use super::twin;

/// A named shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Shape {
    /// Ten equal pods at 75 % load: nobody should win.
    Homogeneous,
    /// Ten pods of three speeds at 55 % load.
    Heterogeneous,
    /// Three of ten equal pods are slow, others every three seconds, at 60 % load.
    Antagonists,
    /// One of ten equal pods answers 500 at once, at 50 % load.
    Gray,
    /// Four of ten equal pods are replaced by new ones that start six times slower, at 55 % load.
    ColdStart,
    /// Ten pods of three speeds at 120 % load.
    Burst,
    /// Three proxies share ten pods of three speeds, two of which are slow, others every three seconds, at 50 % load.
    ThreeProxies,
    /// Eight kinds of requests with costs of 1:100 on six unequal pods of two workers, at 70 % load.
    Classes,
    /// The same requests on twelve equal pods of one worker, at 70 % load.
    ClassesSingle,
    /// The same requests on nine pods of two workers in three groups; each kind is 2 or 3 times as much work on some of them. At 70 % of the
    /// load that they could bear if every kind went everywhere.
    Affinity,
}

/// A shape in full.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The pods at the start.
    pub pods: Vec<PodSpec>,
    /// What happens to them, by time since the start of the load.
    pub acts: Vec<Act>,
    /// The load: a warm-up that does not count, then what counts.
    pub profile: RateProfile,
    /// Length of the warm-up.
    pub warm_up: Duration,
    /// Length of what counts.
    pub counted: Duration,
    /// Proxies that share the work.
    pub proxies: usize,
    /// Seed of the arrivals.
    pub seed: u64,
    /// What requests ask for.
    pub asks: Asks,
    /// An answer within it is good.
    pub objective: Duration,
    /// How long a client waits for an answer.
    pub patience: Duration,
    /// The same in simulated time, where there is one.
    pub twin: Option<Scenario>,
}

/// Of shapes whose requests are all alike: an answer within it is good.
pub const OBJECTIVE: Duration = Duration::from_millis(400);

const PATIENCE: Duration = Duration::from_secs(5);

/// Load of the shapes with several kinds of requests.
const LOAD_OF_KINDS: f64 = 0.7;

const WARM_UP: Duration = Duration::from_secs(3);

const MIXED: [f64; 10] = [1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 4.0, 4.0, 4.0];
const EQUAL: [f64; 10] = [2.0; 10];

impl Shape {
    /// What it says on the command line and in tables.
    pub fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Whether requests are of several kinds.
    pub fn has_kinds(self) -> bool {
        matches!(self, Self::Classes | Self::ClassesSingle | Self::Affinity)
    }

    /// How many proxies share the work, one after the other, unless asked otherwise.
    pub fn proxies(self) -> &'static [usize] {
        match self {
            Self::ThreeProxies => &[3],
            _ if self.has_kinds() => &[1, 3],
            _ => &[1],
        }
    }

    /// The shape over `counted` before so many proxies, with all randomness from `seed`.
    pub fn plan(self, seed: u64, counted: Duration, proxies: usize) -> Plan {
        let (speeds, load) = match self {
            Self::Homogeneous => (EQUAL, 0.75),
            Self::Heterogeneous => (MIXED, 0.55),
            Self::Antagonists => (EQUAL, 0.6),
            Self::Gray => (EQUAL, 0.5),
            Self::ColdStart => (EQUAL, 0.55),
            Self::Burst => (MIXED, 1.2),
            Self::ThreeProxies => (MIXED, 0.5),
            Self::Classes => return twin::plan(scenario::request_classes(seed, proxies, LOAD_OF_KINDS), counted),
            Self::ClassesSingle => {
                return twin::plan(scenario::request_classes_single(seed, proxies, LOAD_OF_KINDS), counted);
            }
            Self::Affinity => return twin::plan(scenario::class_affinity(seed, proxies, LOAD_OF_KINDS), counted),
        };
        let pods: Vec<PodSpec> = speeds.iter().enumerate().map(|(slot, speed)| pod(seed, slot, *speed, 0)).collect();
        let rps = load * pods.iter().map(PodSpec::capacity_rps).sum::<f64>();
        let length = WARM_UP + counted;
        let at = |share: f64| WARM_UP + counted.mul_f64(share);
        let acts = match self {
            Self::Homogeneous | Self::Heterogeneous | Self::Burst => Vec::new(),
            Self::Classes | Self::ClassesSingle | Self::Affinity => Vec::new(),
            Self::Antagonists => antagonists(3, length),
            Self::ThreeProxies => antagonists(2, length),
            Self::Gray => vec![fault(at(0.0), &[4], Faults::gray(1.0))],
            Self::ColdStart => {
                let cold_start = ColdStart { factor: 6.0, ramp_s: counted.as_secs_f64() * 0.4 };
                let replace = |share, slots: [usize; 2]| Act {
                    at: at(share),
                    event: Event::Replace { slots: slots.to_vec(), cold_start },
                };
                vec![replace(0.0, [1, 6]), replace(0.4, [3, 8])]
            }
        };
        let profile = match self {
            // The burst comes upon a fleet that was fine a moment ago.
            Self::Burst => RateProfile::constant(rps / 2.4, WARM_UP).then(rps, counted),
            _ => RateProfile::constant(rps, length),
        };
        let asks = Asks::Path("/".to_owned());
        let (objective, patience) = (OBJECTIVE, PATIENCE);
        Plan { pods, acts, profile, warm_up: WARM_UP, counted, proxies, seed, asks, objective, patience, twin: None }
    }
}

fn fault(at: Duration, slots: &[usize], faults: Faults) -> Act {
    Act { at, event: Event::Fault { slots: slots.to_vec(), faults, says: "" } }
}

/// `count` of ten pods are four times slower, others every three seconds.
fn antagonists(count: usize, length: Duration) -> Vec<Act> {
    let mut acts = Vec::new();
    let (mut at, mut first) = (Duration::ZERO, 0);
    while at < length {
        let slots: Vec<usize> = (0..count).map(|nth| (first + 3 * nth) % 10).collect();
        acts.push(fault(at, &slots, Faults::slow(4.0)));
        at += Duration::from_secs(3);
        acts.push(fault(at, &slots, Faults::default()));
        // Seven and ten have no common divisor: every pod gets its turn.
        first = (first + 7) % 10;
    }
    acts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_is_told_in_order_over_pods_that_exist() {
        for shape in Shape::value_variants() {
            let plan = shape.plan(1, Duration::from_secs(12), shape.proxies()[0]);
            assert!(plan.acts.is_empty() || plan.pods.len() == 10, "{shape:?}");
            assert!(plan.acts.iter().map(|act| act.at).is_sorted(), "{shape:?}: {:?}", plan.acts);
            assert!(plan.profile.length() == plan.warm_up + plan.counted, "{shape:?}");
            for act in &plan.acts {
                let (Event::Fault { slots, .. } | Event::Replace { slots, .. }) = &act.event;
                assert!(slots.iter().all(|slot| *slot < 10), "{shape:?}: {act:?}");
            }
        }
    }

    #[test]
    fn exactly_three_antagonists_are_at_work_at_any_time() {
        let mut slow = [false; 10];
        for act in Shape::Antagonists.plan(1, Duration::from_secs(30), 1).acts {
            let Event::Fault { slots, faults, .. } = act.event else { panic!("only faults") };
            slots.iter().for_each(|slot| slow[*slot] = faults.slow_factor > 1.0);
            let count = slow.iter().filter(|slow| **slow).count();
            assert!(count == 3 || count == 0, "{count} slow pods at {:?}", act.at);
        }
    }
}
