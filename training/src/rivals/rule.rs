//! What a rival is to its proxies: a rule that chooses among the endpoints that may get requests, and hears how requests went. One value
//! is the state of one proxy; what another proxy or an endpoint knows reaches it by messages alone.

use std::fmt::Debug;

use rand::{Rng, rngs::SmallRng};

use super::servers::{Load, Probe};
use crate::simulator::router::Departure;

/// The endpoint list as one proxy knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Members {
    /// Whether an endpoint may get requests, by its number.
    ready: Vec<bool>,
    /// Those that may, in order.
    list: Vec<u32>,
}

impl Members {
    /// So many, all ready.
    pub fn all(endpoints: usize) -> Self {
        Self { ready: vec![true; endpoints], list: (0..endpoints as u32).collect() }
    }

    /// Those that may get requests, in order.
    #[inline]
    pub fn list(&self) -> &[u32] {
        &self.list
    }

    /// Whether one may.
    #[inline]
    pub fn is_ready(&self, endpoint: u32) -> bool {
        self.ready[endpoint as usize]
    }

    /// Endpoints, ready or not.
    pub fn endpoints(&self) -> usize {
        self.ready.len()
    }

    /// Changes one; false: it was so already.
    pub fn set(&mut self, endpoint: u32, ready: bool) -> bool {
        if self.ready[endpoint as usize] == ready {
            return false;
        }
        self.ready[endpoint as usize] = ready;
        match self.list.binary_search(&endpoint) {
            Ok(place) => drop(self.list.remove(place)),
            Err(place) => self.list.insert(place, endpoint),
        }
        true
    }
}

/// What a proxy knows when a request wants to be routed. There is always at least one candidate.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// Now.
    pub now_ns: u64,
    /// Who may get requests.
    pub members: &'a Members,
    /// This proxy's own requests in flight, by endpoint.
    pub in_flight: &'a [u32],
    /// Where the request could not be sent: no candidate.
    pub exclude: Option<u32>,
}

impl View<'_> {
    /// Whether the request may go there.
    #[inline]
    pub fn allows(&self, endpoint: u32) -> bool {
        self.exclude != Some(endpoint) && self.members.is_ready(endpoint)
    }

    /// One of the candidates, all with the same chance.
    #[inline]
    pub fn any(&self, rng: &mut SmallRng) -> u32 {
        self.any_but(None, rng).unwrap_or(self.members.list()[0])
    }

    /// One of the candidates but `taken`; `None` if there is no other.
    #[inline]
    pub fn any_but(&self, taken: Option<u32>, rng: &mut SmallRng) -> Option<u32> {
        let list = self.members.list();
        let out = |endpoint: Option<u32>| endpoint.is_some_and(|endpoint| self.members.is_ready(endpoint));
        let outs = usize::from(out(self.exclude)) + usize::from(out(taken) && taken != self.exclude);
        if outs == list.len() {
            return None;
        }
        // At most two are out: a few draws find another.
        loop {
            let endpoint = list[rng.random_range(0..list.len())];
            if Some(endpoint) != self.exclude && Some(endpoint) != taken {
                return Some(endpoint);
            }
        }
    }

    /// The candidate with the lowest score; of several, one at random.
    #[inline]
    pub fn lowest(&self, rng: &mut SmallRng, mut score: impl FnMut(u32) -> f64) -> u32 {
        let mut best = None;
        let mut best_score = f64::INFINITY;
        let mut ties = 1u32;
        for &endpoint in self.members.list() {
            if Some(endpoint) == self.exclude {
                continue;
            }
            let score = score(endpoint);
            if score < best_score || best.is_none() {
                (best, best_score, ties) = (Some(endpoint), score, 1);
            } else if score == best_score {
                ties += 1;
                if rng.random_range(0..ties) == 0 {
                    best = Some(endpoint);
                }
            }
        }
        best.unwrap_or(self.members.list()[0])
    }

    /// The candidate with the lowest score of `choices` different ones drawn at random; of all, if there are no more.
    #[inline]
    pub fn lowest_of(&self, choices: usize, rng: &mut SmallRng, mut score: impl FnMut(u32) -> f64) -> u32 {
        if choices >= self.members.list().len() {
            return self.lowest(rng, score);
        }
        // Drawn with replacement but for the pair, which is by far the most used: then they differ.
        let mut best = self.any(rng);
        let mut best_score = score(best);
        let mut last = best;
        for _ in 1..choices {
            let Some(other) = self.any_but(Some(last), rng) else { break };
            let other_score = score(other);
            if other_score < best_score {
                (best, best_score) = (other, other_score);
            }
            last = other;
        }
        best
    }
}

/// What a rule needs beside its proxy's own requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Needs {
    /// Probes that it sends from [`Rule::pick`].
    pub probes: bool,
    /// Loads that servers measure over windows of this length; they come with every answer, and all together at the end of each window.
    pub load_window_ns: Option<u64>,
}

/// A rival's state in one proxy.
pub trait Rule: Debug {
    /// What it needs from others.
    fn needs(&self) -> Needs {
        Needs::default()
    }

    /// The endpoint of a request. It is sent there at once. Endpoints pushed to `probes` are asked how they are.
    fn pick(&mut self, view: &View<'_>, rng: &mut SmallRng, probes: &mut Vec<u32>) -> u32;

    /// A request ended. `load` is what the endpoint last measured, on an answer, if the rule needs it.
    fn ended(&mut self, _departure: &Departure, _load: Option<&Load>) {}

    /// The endpoint list has changed (it is all endpoints at first).
    fn members(&mut self, _now_ns: u64, _members: &Members) {}

    /// A probe came back.
    fn probed(&mut self, _now_ns: u64, _probe: &Probe) {}

    /// What all endpoints measured over the last window, by endpoint; `None` for those that say nothing.
    fn loads(&mut self, _now_ns: u64, _loads: &[Option<Load>], _members: &Members) {}
}

#[cfg(test)]
pub(super) mod testing {
    use super::*;
    use crate::simulator::{
        Outcome,
        random::{Purpose, stream},
        router::Served,
    };

    /// A rng for tests.
    pub fn rng() -> SmallRng {
        stream(1, Purpose::Routing, 0)
    }

    /// How often a rule picks each endpoint, by number, when nothing is in flight and every request ends at once without being heard of.
    pub fn counts(rule: &mut impl Rule, members: &Members, in_flight: &[u32], picks: usize) -> Vec<usize> {
        let mut counts = vec![0; members.endpoints()];
        let mut rng = rng();
        let mut probes = Vec::new();
        for _ in 0..picks {
            let view = View { now_ns: 0, members, in_flight, exclude: None };
            counts[rule.pick(&view, &mut rng, &mut probes) as usize] += 1;
        }
        counts
    }

    /// An answer from `endpoint` at `now_ns` after `latency_ns`.
    pub fn answer(endpoint: u32, now_ns: u64, latency_ns: u64, served: Served) -> Departure {
        Departure {
            request: 0,
            proxy: 0,
            endpoint,
            class: 0,
            now_ns,
            latency_ns,
            outcome: Outcome::Success,
            reported_in_flight: None,
            served: Some(served),
            retried: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_keep_their_order_as_they_leave_and_come_back() {
        let mut members = Members::all(4);
        assert!(members.set(1, false) && members.set(3, false) && !members.set(3, false));
        assert_eq!(members.list(), [0, 2]);
        assert!(members.set(1, true));
        assert_eq!(members.list(), [0, 1, 2]);
    }

    #[test]
    fn draws_avoid_what_is_excluded_and_what_is_not_ready() {
        let mut members = Members::all(4);
        members.set(2, false);
        let mut rng = testing::rng();
        let view = View { now_ns: 0, members: &members, in_flight: &[0; 4], exclude: Some(1) };
        for _ in 0..100 {
            assert!([0, 3].contains(&view.any(&mut rng)));
            assert_eq!(view.any_but(Some(3), &mut rng), Some(0));
            assert!([0, 3].contains(&view.lowest_of(2, &mut rng, |_| 1.0)));
            assert_eq!(view.lowest(&mut rng, |endpoint| -f64::from(endpoint)), 3);
        }
    }

    #[test]
    fn there_is_no_other_where_all_are_out() {
        let mut members = Members::all(2);
        let mut rng = testing::rng();
        let view = View { now_ns: 0, members: &members, in_flight: &[0; 2], exclude: Some(1) };
        assert_eq!(view.any_but(Some(0), &mut rng), None);
        members.set(1, false);
        let view = View { now_ns: 0, members: &members, in_flight: &[0; 2], exclude: None };
        assert_eq!(view.any_but(Some(0), &mut rng), None);
    }
}
