//! Services as nobody trained for them: what a refinement from recordings is tried on.

use rand::Rng;

use super::{Family, Scenario, Setting, seeds};
use crate::simulator::{
    random::{Purpose, stream},
    time::SECOND,
};

/// The service of this number, over so many seconds: a swarm whose pods do not tell how many requests they serve at once, as most servers do not;
/// some of them are not scraped at all.
pub fn world(number: u64, seconds: u64) -> Scenario {
    let seed = seeds::WORLDS.start + number;
    let mut rng = stream(seed, Purpose::Scenario, u64::MAX);
    let endpoints = rng.random_range(6..=20);
    let proxies = [1, 2, 4, 8][rng.random_range(0..4)];
    let setting = Setting { seconds: Some(seconds), ..Setting::new(seed, proxies, endpoints) };
    let mut scenario = Family::Swarm.scenario(&setting);
    scenario.name = format!("world {number}");
    scenario.telemetry.slots_told = false;
    scenario.measured_ns.end = scenario.measured_ns.start + seconds * SECOND;
    scenario
}
