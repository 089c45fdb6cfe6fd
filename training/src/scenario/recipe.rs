//! How a family and a seed become a scenario: a plan says which ingredients go in, and each is drawn from a stream of its own, so
//! that the same seed with another number of proxies, another load or another length is as nearly the same service as can be.

use rand::{Rng, rngs::SmallRng};

use super::{
    Change, Event, Family, Lie, Scenario, Setting, Telemetry,
    ingredients::{log_uniform, pods, requests, troubles},
};
use crate::simulator::{
    endpoint::Discipline,
    random::{Purpose, stream},
    time::{MICROSECOND, MILLISECOND, SECOND, millis, seconds},
};

/// What does not count at the beginning of a run: queues fill, averages and the controller's memory settle.
const WARM_UP_NS: u64 = 20 * SECOND;
/// As many requests as a 99th percentile needs; more only cost time.
const REQUESTS: f64 = 60_000.0;
/// Measured seconds: long enough for troubles to play out, not longer than needed.
const SECONDS: (f64, f64) = (12.0, 30.0);
/// A rolling restart of everything takes longer.
const DEPLOY_SECONDS_MIN: f64 = 24.0;

/// Streams of random numbers of a scenario.
#[derive(Clone, Copy)]
enum Stream {
    Plan,
    Pods,
    Requests,
    Proxies,
    Troubles,
    Lies,
}

/// What the requests are like.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Requests {
    /// All of one class.
    Alike,
    /// 4 to 12 classes.
    Classes,
    /// 8 classes, and node groups that differ in what they are good at.
    Affinity,
}

/// Which troubles there are.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Trouble {
    Interference,
    Pauses,
    Restarts,
    Gray,
    Surges,
    /// So many times the capacity.
    Overload(f64),
    Deploy,
    ScaleOut,
}

/// Which metrics are wrong.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Lies {
    None,
    /// No pod sees stolen time.
    StolenTime,
    /// This share of the pods, each in its own way.
    Some(f64),
}

/// What goes into a scenario.
#[derive(Debug, Clone, PartialEq)]
struct Plan {
    load: f64,
    seconds_min: f64,
    pods: pods::Pods,
    requests: Requests,
    unequal_proxies: bool,
    one_way_ns: u64,
    reports_in_flight: bool,
    telemetry: Telemetry,
    lies: Lies,
    troubles: Vec<Trouble>,
}

/// The scenario of a family in a setting.
pub(super) fn scenario(family: Family, setting: &Setting) -> Scenario {
    let rng = |stream_of: Stream| stream(setting.seed, Purpose::Scenario, (family as u64) << 8 | stream_of as u64);
    let plan = Plan::of(family, &mut rng(Stream::Plan));
    let load = setting.load.unwrap_or(plan.load);
    let endpoints = plan.pods.draw(setting.endpoints, &mut rng(Stream::Pods));
    let mut draws = rng(Stream::Requests);
    let classes = match plan.requests {
        Requests::Alike => vec![requests::alike(&mut draws)],
        Requests::Classes => {
            let count = draws.random_range(4..=12);
            requests::classes(count, &mut draws)
        }
        Requests::Affinity => requests::classes(8, &mut draws),
    };
    let (groups, affinity) = match plan.requests {
        Requests::Affinity => requests::affinity(classes.len(), endpoints.len(), &mut draws),
        _ => (Vec::new(), Vec::new()),
    };
    let mut scenario = Scenario {
        name: family.name().into(),
        seed: setting.seed,
        shares: pods::shares(setting.proxies, plan.unequal_proxies, &mut rng(Stream::Proxies)),
        objective_ns: requests::objective_ns(&classes, &affinity),
        endpoints,
        groups,
        classes,
        affinity,
        rate_rps: 1.0,
        timeline: Vec::new(),
        measured_ns: WARM_UP_NS..WARM_UP_NS + SECOND,
        one_way_ns: plan.one_way_ns,
        reports_in_flight: setting.reports_in_flight.unwrap_or(plan.reports_in_flight),
        retries: 1,
        telemetry: Telemetry { slots_told: plan.telemetry.slots_told && setting.slots_told, ..plan.telemetry },
        lies: lies(plan.lies, setting.endpoints, &mut rng(Stream::Lies)),
    };
    let length_s = match setting.seconds {
        Some(seconds) => seconds.max(1) as f64,
        None => (REQUESTS / (load * scenario.capacity_rps())).clamp(plan.seconds_min, SECONDS.1),
    };
    scenario.measured_ns.end = WARM_UP_NS + seconds(length_s);
    plan.trouble(&mut scenario, load, &mut rng(Stream::Troubles));
    // The load is of what is left: a service whose pods are slowed down for a tenth of the time has a tenth more of them.
    scenario.rate_rps = load * scenario.capacity_rps() * scenario.availability();
    scenario
}

impl Plan {
    fn of(family: Family, rng: &mut SmallRng) -> Self {
        let mut plan = Self {
            load: rng.random_range(0.70..0.85),
            seconds_min: SECONDS.0,
            pods: pods::Pods {
                discipline: if rng.random_bool(0.75) { Discipline::Fcfs } else { Discipline::ProcessorSharing },
                slots: (1, 8),
                // Half of all services with trouble have unequal pods too.
                unequal: rng.random_bool(0.5),
            },
            requests: Requests::Alike,
            unequal_proxies: false,
            one_way_ns: 100 * MICROSECOND,
            reports_in_flight: false,
            telemetry: Telemetry::default(),
            lies: Lies::None,
            troubles: Vec::new(),
        };
        let fcfs = |slots, unequal| pods::Pods { discipline: Discipline::Fcfs, slots, unequal };
        let stolen = if rng.random_bool(0.5) { Lies::StolenTime } else { Lies::None };
        match family {
            Family::Homogeneous => plan.pods.unequal = false,
            Family::Heterogeneous => plan.pods.unequal = true,
            Family::Interference => {
                plan.troubles = vec![Trouble::Interference];
                plan.lies = stolen;
            }
            Family::Surge => plan.troubles = vec![Trouble::Surges],
            Family::Burst => plan.troubles = vec![Trouble::Overload(1.2)],
            Family::Burst150 => plan.troubles = vec![Trouble::Overload(1.5)],
            Family::BurstClasses | Family::BurstClasses150 => {
                let of_capacity = if family == Family::BurstClasses { 1.2 } else { 1.5 };
                plan.requests = Requests::Classes;
                plan.troubles = vec![Trouble::Overload(of_capacity)];
            }
            Family::Churn => plan.troubles = vec![Trouble::Restarts],
            Family::ScaleOut => plan.troubles = vec![Trouble::ScaleOut],
            Family::Gray => plan.troubles = vec![Trouble::Gray],
            Family::ClassesSingle => {
                plan.requests = Requests::Classes;
                plan.pods = fcfs((1, 1), false);
            }
            Family::ClassesMulti => {
                plan.requests = Requests::Classes;
                plan.pods = fcfs((2, 8), plan.pods.unequal);
            }
            Family::Affinity => {
                plan.requests = Requests::Affinity;
                plan.pods = fcfs((1, 4), false);
            }
            Family::Mixed => {
                plan.requests = if plan.pods.unequal { Requests::Affinity } else { Requests::Classes };
                plan.pods.unequal = true;
                plan.unequal_proxies = true;
                plan.troubles = vec![Trouble::Interference];
                plan.lies = stolen;
            }
            Family::Deploy => {
                plan.seconds_min = DEPLOY_SECONDS_MIN;
                plan.troubles = vec![Trouble::Deploy];
            }
            Family::Swarm => plan.swarm(rng),
        }
        plan
    }

    /// Draws every ingredient by itself.
    fn swarm(&mut self, rng: &mut SmallRng) {
        self.load = rng.random_range(0.5..0.9);
        self.pods.slots = [(1, 1), (1, 4), (2, 8), (4, 16)][rng.random_range(0..4)];
        self.requests = [Requests::Alike, Requests::Classes, Requests::Affinity][rng.random_range(0..3)];
        self.unequal_proxies = rng.random_bool(0.5);
        self.one_way_ns = millis(log_uniform(rng, 0.05, 2.0));
        self.reports_in_flight = rng.random_bool(0.3);
        let interval_ns = millis(log_uniform(rng, 250.0, 5_000.0));
        self.telemetry = Telemetry {
            scraped: rng.random_bool(0.8),
            slots_told: true,
            scrape_interval_ns: interval_ns,
            scrape_jitter_ns: (interval_ns as f64 * rng.random_range(0.0..0.3)) as u64,
            scrape_delay_ns: millis(log_uniform(rng, 5.0, 300.0)),
            scrape_loss: rng.random_range(0.0..0.1),
            control_delay_ns: millis(log_uniform(rng, 1.0, 50.0)),
        };
        self.lies = match rng.random_range(0..4) {
            0 => Lies::StolenTime,
            1 => Lies::Some(rng.random_range(0.05..0.3)),
            _ => Lies::None,
        };
        let troubles = [
            (Trouble::Interference, 0.4),
            (Trouble::Pauses, 0.25),
            (Trouble::Restarts, 0.25),
            (Trouble::Gray, 0.25),
            (Trouble::Surges, 0.25),
        ];
        self.troubles = troubles.into_iter().filter(|(_, chance)| rng.random_bool(*chance)).map(|(t, _)| t).collect();
    }

    /// Writes the timeline; a rolling restart also adds the pods that it starts.
    fn trouble(&self, scenario: &mut Scenario, load: f64, rng: &mut SmallRng) {
        let window = scenario.measured_ns.clone();
        let mut events = Vec::new();
        // What restarts sets its own pace while it warms up; neighbours would overwrite that.
        let mut restarting = Vec::new();
        for trouble in &self.troubles {
            match *trouble {
                Trouble::Restarts => {
                    restarting = troubles::victims(scenario, scenario.endpoints.len().div_ceil(3), 1.0, rng);
                    events.extend(troubles::restarts(&restarting, &window, rng));
                }
                Trouble::Gray => {
                    let failing = troubles::victims(scenario, scenario.endpoints.len().div_ceil(8), 0.2, rng);
                    for endpoint in failing {
                        let (more, lie) = troubles::gray(endpoint, &window, rng);
                        events.extend(more);
                        if let Some(lie) = lie {
                            scenario.lies.resize(scenario.endpoints.len(), Lie::None);
                            scenario.lies[endpoint as usize] = lie;
                        }
                    }
                }
                Trouble::Surges => events.extend(troubles::surges(load, &window, rng)),
                Trouble::Overload(of_capacity) => {
                    let change = Change::Load { factor: of_capacity / load };
                    events.push(Event { at_ns: window.start, change });
                }
                Trouble::Deploy => events.extend(troubles::deploy(scenario, rng)),
                Trouble::ScaleOut => events.extend(troubles::scale_out(scenario, rng)),
                Trouble::Interference | Trouble::Pauses => {}
            }
        }
        let spells = match (self.troubles.contains(&Trouble::Interference), self.troubles.contains(&Trouble::Pauses)) {
            (false, false) => &[][..],
            (true, false) => &[troubles::INTERFERENCE],
            (false, true) => &[troubles::PAUSES],
            (true, true) => &[troubles::INTERFERENCE, troubles::PAUSES],
        };
        if !spells.is_empty() {
            for endpoint in (0..scenario.endpoints.len() as u32).filter(|endpoint| !restarting.contains(endpoint)) {
                events.extend(troubles::slow_spells(
                    endpoint,
                    spells[endpoint as usize % spells.len()],
                    window.end,
                    rng,
                ));
            }
        }
        events.sort_by_key(|event| event.at_ns);
        scenario.timeline = events;
    }
}

fn lies(lies: Lies, endpoints: usize, rng: &mut SmallRng) -> Vec<Lie> {
    match lies {
        Lies::None => Vec::new(),
        Lies::StolenTime => vec![Lie::StolenTime; endpoints],
        Lies::Some(share) => (0..endpoints)
            .map(|_| {
                let lie = match rng.random_range(0..4) {
                    0 => Lie::StolenTime,
                    1 => Lie::Stale { every_ns: rng.random_range(2_000..20_000) * MILLISECOND },
                    2 => Lie::Rosy,
                    _ => Lie::Nonsense,
                };
                if rng.random_bool(share) { lie } else { Lie::None }
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::seeds;

    /// What load is offered while requests are measured, as a share of what is left of the capacity.
    fn offered(scenario: &Scenario) -> f64 {
        scenario.rate_rps / (scenario.capacity_rps() * scenario.availability())
    }

    #[test]
    fn the_load_of_the_setting_is_offered_in_every_family() {
        for family in Family::ALL {
            for seed in 0..10 {
                let setting = Setting { load: Some(0.8), ..Setting::new(seed, 4, 16) };
                let measured = offered(&family.scenario(&setting));
                assert!((measured - 0.8).abs() < 1e-9, "{} seed {seed}: {measured}", family.name());
            }
        }
    }

    #[test]
    fn a_family_without_a_load_draws_one_below_one() {
        for family in Family::ALL {
            for seed in 0..20 {
                let load = offered(&family.scenario(&Setting::new(seed, 4, 16)));
                assert!((0.5..=0.9).contains(&load), "{} seed {seed}: {load}", family.name());
            }
        }
    }

    #[test]
    fn troubles_leave_at_least_half_of_the_capacity_and_a_deploy_as_much_as_there_was() {
        for family in Family::ALL {
            for seed in 0..20 {
                let left = family.scenario(&Setting::new(seed, 4, 16)).availability();
                let allowed = if family == Family::Deploy { 0.4..=0.6 } else { 0.5..=1.0 };
                assert!(allowed.contains(&left), "{} seed {seed}: {left}", family.name());
            }
        }
    }

    #[test]
    fn the_same_seed_with_more_proxies_is_the_same_service() {
        for family in Family::ALL {
            let scenario = |proxies| family.scenario(&Setting::new(3, proxies, 12));
            let (one, many) = (scenario(1), scenario(16));
            assert_eq!((one.endpoints, one.classes, one.timeline), (many.endpoints, many.classes, many.timeline));
            assert_eq!(many.shares.len(), 16);
        }
    }

    #[test]
    fn measured_time_is_that_of_enough_requests_within_bounds() {
        for family in Family::ALL {
            for endpoints in [4, 32, 200] {
                let scenario = family.scenario(&Setting::new(5, 4, endpoints));
                let seconds = (scenario.measured_ns.end - scenario.measured_ns.start) as f64 / SECOND as f64;
                assert!((12.0..=30.0).contains(&seconds), "{} with {endpoints}: {seconds} s", family.name());
            }
        }
        let setting = Setting { seconds: Some(5), ..Setting::new(5, 4, 8) };
        assert_eq!(Family::Churn.scenario(&setting).measured_ns.end, WARM_UP_NS + 5 * SECOND);
    }

    #[test]
    fn swarms_have_every_ingredient_and_not_always() {
        let swarm: Vec<Scenario> =
            (0..60).map(|step| Family::Swarm.scenario(&Setting::new(seeds::TESTING.start + step, 3, 12))).collect();
        let check = |what: &str, has: fn(&Scenario) -> bool| {
            let count = swarm.iter().filter(|scenario| has(scenario)).count();
            assert!((4..=56).contains(&count), "{what}: {count} of 60");
        };
        check("processor sharing", |s| s.endpoints[0].discipline == Discipline::ProcessorSharing);
        check("one slot", |s| s.endpoints.iter().all(|spec| spec.slots == 1));
        check("classes", |s| s.classes.len() > 1);
        check("affinity", |s| !s.affinity.is_empty());
        check("unequal proxies", |s| s.shares[0] != s.shares[1]);
        check("in-flight reports", |s| s.reports_in_flight);
        check("scrapes", |s| s.telemetry.scraped);
        check("lies", |s| !s.lies.is_empty());
        check("trouble", |s| !s.timeline.is_empty());
        check("crashes", |s| s.timeline.iter().any(|event| matches!(event.change, Change::Crash { .. })));
        check("errors", |s| s.timeline.iter().any(|event| matches!(event.change, Change::Gray { .. })));
        check("surges", |s| s.timeline.iter().any(|event| matches!(event.change, Change::Load { .. })));
    }
}
