//! Prequal's pool of probes (Wydrowski, Kleinberg, Rumble, Archer: "Load is not what you should balance: Introducing Prequal", NSDI 2024, §4): what a few
//! endpoints said of their load lately. A query goes to the coldest of them or, if all are hot, to the least loaded, by [the rule](super::prequal) that
//! is told of answers too.
//!
//! As in the paper: so many probes are sent a query, without waiting for them; a pool of 16 in which an endpoint's newest probe replaces its older
//! one and the oldest makes room; probes older than 1 s are dropped; after each query one is removed, the oldest and the worst in turn;
//! a probe serves `b_reuse` queries and its requests in flight count one more each time; hot is what exceeds the quantile Q of the
//! requests in flight that recent probes told. With fewer than two probes in the pool it says nothing.
//!
//! The data plane and the simulator's rival share it. Pure: time is an argument, and who asks for a query's probes chooses at random whom.

use std::time::Duration;

use super::prequal;
use crate::time::nanos;

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
        Self { quantile: 0.84, pool: 16, probes: 3.0, removed: 1.0, surplus: 1.0, age_ns: 1_000_000_000 };

    /// Probes that are kept of so many servers: m, but at most half of them. The paper has 100 servers and more; a pool of nearly all would
    /// make the reuse formula meaningless, and age its probes.
    pub fn pool_of(&self, servers: usize) -> usize {
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

/// A probe's answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Probe<E> {
    /// Who answered.
    pub endpoint: E,
    /// Requests in flight there.
    pub in_flight: u32,
    /// What a request that comes at so many in flight takes, in nanoseconds.
    pub latency_ns: u64,
}

impl<E> Probe<E> {
    /// One that took, or foretells, this long.
    pub fn new(endpoint: E, in_flight: u32, latency: Duration) -> Self {
        Self { endpoint, in_flight, latency_ns: nanos(latency) }
    }
}

#[derive(Debug, Clone, Copy)]
struct Entry<E> {
    probe: Probe<E>,
    received_ns: u64,
    uses_left: u32,
}

/// The pool of one client of the endpoints.
#[derive(Debug, Clone)]
pub struct Probes<E> {
    knobs: Knobs,
    /// In order of receipt: the oldest first.
    pool: Vec<Entry<E>>,
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

impl<E: Copy + PartialEq> Probes<E> {
    /// Of so many endpoints.
    pub fn new(knobs: Knobs, servers: usize) -> Self {
        let mut probes = Self {
            knobs,
            pool: Vec::with_capacity(knobs.pool + 1),
            recent: [0; RECENT],
            heard: 0,
            owed_probes: 0.0,
            owed_removals: 0.0,
            remove_oldest: true,
            reuse: None,
            pool_max: 0,
            hot_above: 0,
        };
        probes.resize(servers);
        probes
    }

    /// Its knobs.
    pub fn knobs(&self) -> &Knobs {
        &self.knobs
    }

    /// There are so many endpoints now.
    pub fn resize(&mut self, servers: usize) {
        let servers = servers.max(1);
        self.reuse = self.knobs.reuse(servers);
        self.pool_max = self.knobs.pool_of(servers);
    }

    /// Keeps those of which `keep` says so, which may have another name for them.
    pub fn retain(&mut self, mut keep: impl FnMut(&mut E) -> bool) {
        self.pool.retain_mut(|entry| keep(&mut entry.probe.endpoint));
    }

    /// Who gets a query, of those that are allowed; `None`: the pool does not tell. What a query takes from the pool, and the probes that it sends,
    /// are up to [`Self::remove`] and [`Self::owed`].
    pub fn choose(&mut self, now_ns: u64, allowed: impl Fn(E) -> bool) -> Option<E> {
        let oldest_ns = now_ns.saturating_sub(self.knobs.age_ns);
        let expired = self.pool.iter().take_while(|entry| entry.received_ns < oldest_ns).count();
        self.pool.drain(..expired);
        self.hot_above = self.quantile();
        if self.pool.len() < POOL_MIN {
            return None;
        }
        let places = (0..self.pool.len()).filter(|place| allowed(self.pool[*place].probe.endpoint));
        let place = places.min_by_key(|place| self.badness(*place))?;
        let entry = &mut self.pool[place];
        entry.probe.in_flight += 1;
        entry.uses_left = entry.uses_left.saturating_sub(1);
        let endpoint = entry.probe.endpoint;
        if entry.uses_left == 0 {
            self.pool.remove(place);
        }
        Some(endpoint)
    }

    /// Removes what a query does.
    pub fn remove(&mut self) {
        self.owed_removals += self.knobs.removed;
        while self.owed_removals >= 1.0 {
            self.owed_removals -= 1.0;
            if !self.pool.is_empty() {
                let worst = || (0..self.pool.len()).max_by_key(|place| self.badness(*place));
                let place = if self.remove_oldest { 0 } else { worst().unwrap_or(0) };
                self.pool.remove(place);
                self.remove_oldest = !self.remove_oldest;
            }
        }
    }

    /// How many probes a query sends.
    pub fn owed(&mut self) -> u32 {
        self.owed_probes += self.knobs.probes;
        let whole = self.owed_probes.floor();
        self.owed_probes -= whole;
        whole as u32
    }

    /// A probe has been answered.
    pub fn probed(&mut self, now_ns: u64, probe: &Probe<E>) {
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

    /// The quantile of what recent probes told.
    fn quantile(&self) -> u32 {
        let mut recent = self.recent;
        let recent = &mut recent[..self.heard.min(RECENT)];
        prequal::quantile(recent, self.knobs.quantile, u32::cmp).unwrap_or(0)
    }

    /// Worse probes compare higher.
    fn badness(&self, place: usize) -> (bool, u64) {
        let probe = &self.pool[place].probe;
        prequal::badness(u64::from(probe.in_flight), &u64::from(self.hot_above), probe.latency_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// With answers of (endpoint, in flight, latency), each of which serves two queries.
    fn probes(knobs: Knobs, answers: &[(u32, u32, u64)]) -> Probes<u32> {
        let mut probes = Probes::new(knobs, 40);
        probes.reuse = Some(2.0);
        for &(endpoint, in_flight, latency_ns) in answers {
            probes.probed(0, &Probe { endpoint, in_flight, latency_ns });
        }
        probes
    }

    /// A query: whom it goes to.
    fn query(probes: &mut Probes<u32>, now_ns: u64) -> Option<u32> {
        let chosen = probes.choose(now_ns, |_| true);
        probes.remove();
        chosen
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
        let mut probes = probes(knobs, &[(1, 1, 50), (2, 2, 40), (3, 3, 30), (9, 9, 10)]);
        assert_eq!(query(&mut probes, 0), Some(3));
        // Its requests in flight are 4 now: hot. The next best is 2, then 2 again is used up.
        assert_eq!(query(&mut probes, 0), Some(2));
        assert_eq!(query(&mut probes, 0), Some(2));
        assert_eq!(query(&mut probes, 0), Some(1));
    }

    #[test]
    fn where_all_are_hot_the_least_loaded_wins() {
        let knobs = Knobs { quantile: 0.0, removed: 0.0, ..Knobs::DEFAULT };
        let mut probes = probes(knobs, &[(1, 5, 10), (2, 4, 50), (3, 2, 9)]);
        probes.recent = [0; RECENT];
        assert_eq!(query(&mut probes, 0), Some(3));
    }

    #[test]
    fn who_is_not_allowed_is_passed_over_and_stays() {
        let knobs = Knobs { removed: 0.0, ..Knobs::DEFAULT };
        let mut probes = probes(knobs, &[(1, 0, 10), (2, 0, 50)]);
        assert_eq!(probes.choose(0, |endpoint| endpoint != 1), Some(2));
        assert_eq!(probes.choose(0, |_| false), None);
        assert_eq!(probes.choose(0, |_| true), Some(1));
    }

    #[test]
    fn a_query_sends_three_probes_and_removes_the_oldest_then_the_worst() {
        let answers = [(1, 0, 90), (2, 0, 50), (3, 0, 10), (4, 0, 20), (5, 0, 30)];
        let mut probes = probes(Knobs::DEFAULT, &answers);
        let pool = |probes: &Probes<u32>| probes.pool.iter().map(|entry| entry.probe.endpoint).collect::<Vec<_>>();
        probes.recent = [9; RECENT];
        probes.heard = RECENT;
        assert_eq!(query(&mut probes, 0), Some(3));
        assert_eq!((pool(&probes), probes.owed()), (vec![2, 3, 4, 5], 3));
        // The second use of 3 is its last; then the worst, 2, is removed.
        assert_eq!(query(&mut probes, 0), Some(3));
        assert_eq!(pool(&probes), [4, 5]);
        // Older than a second: it says nothing any more.
        assert_eq!(query(&mut probes, 2 * SECOND), None);
        assert_eq!(pool(&probes), [0u32; 0]);
    }

    #[test]
    fn a_rate_that_is_not_whole_is_kept_on_average() {
        let mut probes = probes(Knobs { probes: 0.75, ..Knobs::DEFAULT }, &[]);
        assert_eq!((0..8).map(|_| probes.owed()).collect::<Vec<_>>(), [0, 1, 1, 1, 0, 1, 1, 1]);
    }

    #[test]
    fn the_pool_keeps_one_probe_an_endpoint_and_sixteen_at_most() {
        let answers: Vec<_> = (0..20).map(|endpoint| (endpoint, 0, 5)).collect();
        let mut probes = probes(Knobs::DEFAULT, &answers);
        assert_eq!((probes.pool.len(), probes.pool[0].probe.endpoint), (16, 4));
        probes.probed(1, &Probe { endpoint: 7, in_flight: 3, latency_ns: 1 });
        assert_eq!((probes.pool.len(), probes.pool[15].probe.in_flight), (16, 3));
    }
}
