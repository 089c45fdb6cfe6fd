//! Prequal (Wydrowski, Kleinberg, Rumble, Archer: "Load is not what you should balance: Introducing Prequal", NSDI 2024, §4): asynchronous
//! probes of random servers fill a small pool; a request goes to the coldest or, if all are hot, to the least loaded of the pool.
//!
//! As in the paper: `probes` probes a query, without waiting for them; a pool of 16 in which a server's newest probe replaces its older
//! one and the oldest makes room; probes older than 1 s are dropped; after each query one is removed, the oldest and the worst in turn;
//! a probe serves `b_reuse` queries and its requests in flight count one more each time; hot is what exceeds the quantile Q of the
//! requests in flight that recent probes told. With fewer than two probes in the pool a server is drawn at random.

use rand::{Rng, rngs::SmallRng};
use trimtab_proxy::pick::prequal;

use super::{
    rule::{Members, Needs, Rule, View},
    servers::Probe,
};
use crate::{
    scenario::Scenario,
    simulator::time::{MILLISECOND, SECOND},
};

/// Its knobs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Knobs {
    /// Q_RIF: probes with more in flight than this quantile are hot.
    pub quantile: f64,
    /// m: probes that are kept.
    pub pool: usize,
    /// r_probe: probes a query.
    pub probes: f64,
    /// r_remove: probes that are removed a query.
    pub removed: f64,
    /// δ: pace at which the pool would grow if nothing expired; decides b_reuse.
    pub surplus: f64,
    /// Age limit of a probe, in nanoseconds.
    pub age_ns: u64,
}

impl Knobs {
    /// The paper's baseline configuration (§5): Q = 2^−0.25.
    pub const DEFAULT: Self =
        Self { quantile: 0.84, pool: 16, probes: 3.0, removed: 1.0, surplus: 1.0, age_ns: SECOND };
    /// The paper's other recommended end: Q between 0.6 and 0.9.
    pub const LOW_QUANTILE: Self = Self { quantile: 0.6, ..Self::DEFAULT };
    /// See docs/rivals.md, "Tuning".
    pub const TUNED: Self =
        Self { quantile: 0.75, probes: 8.0, removed: 0.5, age_ns: 300 * MILLISECOND, ..Self::DEFAULT };

    /// Probes that are kept of so many servers: m, but at most half of them. The paper has 100 servers and more; a pool of nearly all would
    /// make the reuse formula meaningless, and age its probes.
    fn pool_of(&self, servers: usize) -> usize {
        self.pool.min(servers / 2).max(POOL_MIN)
    }

    /// b_reuse = max(1, (1 + δ) / ((1 − m/n)·r_probe − r_remove)) (§4, equation 1): how many queries a probe serves. `None` without a bound,
    /// where probes come slower than they would be needed; then only age, removal and newer probes end them.
    pub fn reuse(&self, servers: usize) -> Option<f64> {
        let net = (1.0 - self.pool_of(servers) as f64 / servers as f64) * self.probes - self.removed;
        (net > 0.0).then(|| ((1.0 + self.surplus) / net).max(1.0))
    }
}

/// Requests in flight that recent probes told, for the quantile.
const RECENT: usize = 64;
/// Below so many probes the pool says too little to choose from.
const POOL_MIN: usize = 2;

#[derive(Debug, Clone, Copy)]
struct Entry {
    probe: Probe,
    received_ns: u64,
    uses_left: u32,
}

/// Prequal's client in one proxy.
#[derive(Debug, Clone)]
pub struct Prequal {
    knobs: Knobs,
    /// In order of receipt: the oldest first.
    pool: Vec<Entry>,
    recent: [u32; RECENT],
    heard: usize,
    /// Probes and removals that are owed, as rates need not be whole.
    owed_probes: f64,
    owed_removals: f64,
    remove_oldest: bool,
    reuse: Option<f64>,
    pool_max: usize,
    hot_above: u32,
}

impl Prequal {
    /// For the scenario's endpoints.
    pub fn new(knobs: Knobs, scenario: &Scenario) -> Self {
        Self {
            knobs,
            pool: Vec::with_capacity(knobs.pool + 1),
            recent: [0; RECENT],
            heard: 0,
            owed_probes: 0.0,
            owed_removals: 0.0,
            remove_oldest: true,
            reuse: knobs.reuse(scenario.endpoints.len()),
            pool_max: knobs.pool_of(scenario.endpoints.len()),
            hot_above: 0,
        }
    }

    /// The quantile of what recent probes told.
    fn quantile(&self) -> u32 {
        let mut recent = self.recent;
        let recent = &mut recent[..self.heard.min(RECENT)];
        prequal::quantile(recent, self.knobs.quantile, u32::cmp).unwrap_or(0)
    }

    /// Worse probes compare higher; the rule is the data plane's.
    fn badness(&self, probe: &Probe) -> (bool, u64) {
        prequal::badness(u64::from(probe.in_flight), &u64::from(self.hot_above), probe.latency_ns)
    }

    fn best(&self, exclude: Option<u32>) -> Option<usize> {
        let places = (0..self.pool.len()).filter(|place| Some(self.pool[*place].probe.endpoint) != exclude);
        places.min_by_key(|place| self.badness(&self.pool[*place].probe))
    }

    fn remove(&mut self) {
        self.owed_removals += self.knobs.removed;
        while self.owed_removals >= 1.0 {
            self.owed_removals -= 1.0;
            if !self.pool.is_empty() {
                let worst = || (0..self.pool.len()).max_by_key(|place| self.badness(&self.pool[*place].probe));
                let place = if self.remove_oldest { 0 } else { worst().unwrap_or(0) };
                self.pool.remove(place);
                self.remove_oldest = !self.remove_oldest;
            }
        }
    }

    fn ask(&mut self, view: &View<'_>, rng: &mut SmallRng, probes: &mut Vec<u32>) {
        self.owed_probes += self.knobs.probes;
        let list = view.members.list();
        while self.owed_probes >= 1.0 {
            self.owed_probes -= 1.0;
            // Without replacement, as far as there are others.
            for _ in 0..8 {
                let endpoint = list[rng.random_range(0..list.len())];
                if !probes.contains(&endpoint) {
                    probes.push(endpoint);
                    break;
                }
            }
        }
    }
}

impl Rule for Prequal {
    fn needs(&self) -> Needs {
        Needs { probes: true, ..Needs::default() }
    }

    fn pick(&mut self, view: &View<'_>, rng: &mut SmallRng, probes: &mut Vec<u32>) -> u32 {
        let oldest_ns = view.now_ns.saturating_sub(self.knobs.age_ns);
        let expired = self.pool.iter().take_while(|entry| entry.received_ns < oldest_ns).count();
        self.pool.drain(..expired);
        self.hot_above = self.quantile();
        let best = if self.pool.len() < POOL_MIN { None } else { self.best(view.exclude) };
        let picked = match best {
            Some(place) => {
                let entry = &mut self.pool[place];
                entry.probe.in_flight += 1;
                entry.uses_left = entry.uses_left.saturating_sub(1);
                let endpoint = entry.probe.endpoint;
                if entry.uses_left == 0 {
                    self.pool.remove(place);
                }
                endpoint
            }
            None => view.any(rng),
        };
        self.remove();
        self.ask(view, rng, probes);
        picked
    }

    fn members(&mut self, _now_ns: u64, members: &Members) {
        self.pool.retain(|entry| members.is_ready(entry.probe.endpoint));
        let servers = members.list().len().max(1);
        self.reuse = self.knobs.reuse(servers);
        self.pool_max = self.knobs.pool_of(servers);
    }

    fn probed(&mut self, now_ns: u64, probe: &Probe) {
        self.recent[self.heard % RECENT] = probe.in_flight;
        self.heard += 1;
        self.pool.retain(|entry| entry.probe.endpoint != probe.endpoint);
        while self.pool.len() >= self.pool_max {
            self.pool.remove(0);
        }
        // A budget that is not whole is rounded at random in the paper; by turns it has the same mean.
        let uses_left = self.reuse.map_or(u32::MAX, |reuse| {
            let turn = (self.heard as f64 * 0.618_033_988_75).fract();
            (reuse + turn).floor() as u32
        });
        self.pool.push(Entry { probe: *probe, received_ns: now_ns, uses_left });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rivals::rule::testing::rng;

    fn prequal(knobs: Knobs, probes: &[(u32, u32, u64)]) -> Prequal {
        let mut rule = Prequal {
            knobs,
            pool: Vec::new(),
            recent: [0; RECENT],
            heard: 0,
            owed_probes: 0.0,
            owed_removals: 0.0,
            remove_oldest: true,
            reuse: Some(2.0),
            pool_max: knobs.pool_of(40),
            hot_above: 0,
        };
        for &(endpoint, in_flight, latency_ns) in probes {
            rule.probed(0, &Probe { endpoint, in_flight, latency_ns });
        }
        rule
    }

    fn pick(rule: &mut Prequal, now_ns: u64, asked: &mut Vec<u32>) -> u32 {
        let members = Members::all(40);
        rule.pick(&View { now_ns, members: &members, in_flight: &[0; 40], exclude: None }, &mut rng(), asked)
    }

    #[test]
    fn reuse_is_the_papers_formula() {
        // n = 100, m = 16: 2 / (0.84·3 − 1) = 1.316; n = 32: 2 / (0.5·3 − 1) = 4; n = 1000, r_probe = 5: below 1.
        let reuse = |knobs: Knobs, servers| knobs.reuse(servers);
        assert!((reuse(Knobs::DEFAULT, 100).unwrap() - 1.316).abs() < 0.001);
        assert_eq!(reuse(Knobs::DEFAULT, 32), Some(4.0));
        assert_eq!(reuse(Knobs { probes: 5.0, ..Knobs::DEFAULT }, 1000), Some(1.0));
        // Of eight servers four are kept: 2 / (0.5·3 − 1). Two probes a query bring no more than is removed.
        assert_eq!(reuse(Knobs::DEFAULT, 8), Some(4.0));
        assert_eq!(reuse(Knobs { probes: 2.0, ..Knobs::DEFAULT }, 8), None);
    }

    #[test]
    fn of_cold_probes_the_fastest_wins_and_hot_ones_lose() {
        // In flight 1, 2, 3, 9: the 0.6 quantile is 3 (rank 1.8 of 0..=3), so 9 is hot although it is the fastest.
        let knobs = Knobs { quantile: 0.6, removed: 0.0, probes: 0.0, ..Knobs::DEFAULT };
        let mut rule = prequal(knobs, &[(1, 1, 50), (2, 2, 40), (3, 3, 30), (9, 9, 10)]);
        assert_eq!(pick(&mut rule, 0, &mut Vec::new()), 3);
        // Its requests in flight are 4 now: hot. The next best is 2, then 2 again is used up.
        assert_eq!(pick(&mut rule, 0, &mut Vec::new()), 2);
        assert_eq!(pick(&mut rule, 0, &mut Vec::new()), 2);
        assert_eq!(pick(&mut rule, 0, &mut Vec::new()), 1);
    }

    #[test]
    fn where_all_are_hot_the_least_loaded_wins() {
        let mut rule =
            prequal(Knobs { quantile: 0.0, removed: 0.0, ..Knobs::DEFAULT }, &[(1, 5, 10), (2, 4, 50), (3, 2, 9)]);
        rule.recent = [0; RECENT];
        assert_eq!(pick(&mut rule, 0, &mut Vec::new()), 3);
    }

    #[test]
    fn a_query_sends_three_probes_and_removes_the_oldest_then_the_worst() {
        let mut rule = prequal(Knobs::DEFAULT, &[(1, 0, 90), (2, 0, 50), (3, 0, 10), (4, 0, 20), (5, 0, 30)]);
        let pool = |rule: &Prequal| rule.pool.iter().map(|entry| entry.probe.endpoint).collect::<Vec<_>>();
        let mut asked = Vec::new();
        rule.recent = [9; RECENT];
        rule.heard = RECENT;
        assert_eq!(pick(&mut rule, 0, &mut asked), 3);
        assert_eq!((pool(&rule), asked.len()), (vec![2, 3, 4, 5], 3));
        // The second use of 3 is its last; then the worst, 2, is removed.
        assert_eq!(pick(&mut rule, 0, &mut asked), 3);
        assert_eq!(pool(&rule), [4, 5]);
        // Older than a second: nothing to choose from but chance.
        pick(&mut rule, 2 * SECOND, &mut asked);
        assert_eq!(pool(&rule), [0u32; 0]);
    }

    #[test]
    fn the_pool_keeps_one_probe_a_server_and_sixteen_at_most() {
        let probes: Vec<_> = (0..20).map(|endpoint| (endpoint, 0, 5)).collect();
        let mut rule = prequal(Knobs::DEFAULT, &probes);
        assert_eq!((rule.pool.len(), rule.pool[0].probe.endpoint), (16, 4));
        rule.probed(1, &Probe { endpoint: 7, in_flight: 3, latency_ns: 1 });
        assert_eq!((rule.pool.len(), rule.pool[15].probe.in_flight), (16, 3));
    }
}
