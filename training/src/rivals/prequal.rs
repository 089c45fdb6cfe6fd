//! Prequal (Wydrowski, Kleinberg, Rumble, Archer: "Load is not what you should balance: Introducing Prequal", NSDI 2024, §4): asynchronous
//! probes of random servers fill a small pool; a request goes to the coldest or, if all are hot, to the least loaded of the pool. The pool is the
//! data plane's ([`trimtab_proxy::pick::probes`]). With fewer than two probes in it a server is drawn at random, as in the paper.

use rand::{Rng, rngs::SmallRng};
pub use trimtab_proxy::pick::probes::Knobs;
use trimtab_proxy::pick::probes::Probes;

use super::{
    rule::{Members, Needs, Rule, View},
    servers::Probe,
};
use crate::{scenario::Scenario, simulator::time::MILLISECOND};

/// The paper's other recommended end: Q between 0.6 and 0.9.
pub const LOW_QUANTILE: Knobs = Knobs { quantile: 0.6, ..Knobs::DEFAULT };
/// See docs/rivals.md, "Tuning".
pub const TUNED: Knobs =
    Knobs { quantile: 0.75, probes: 8.0, removed: 0.5, age_ns: 300 * MILLISECOND, ..Knobs::DEFAULT };

/// Prequal's client in one proxy.
#[derive(Debug, Clone)]
pub struct Prequal(Probes<u32>);

impl Prequal {
    /// For the scenario's endpoints.
    pub fn new(knobs: Knobs, scenario: &Scenario) -> Self {
        Self(Probes::new(knobs, scenario.endpoints.len()))
    }

    fn ask(&mut self, view: &View<'_>, rng: &mut SmallRng, probes: &mut Vec<u32>) {
        let list = view.members.list();
        for _ in 0..self.0.owed() {
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
        let picked = self.0.choose(view.now_ns, |endpoint| Some(endpoint) != view.exclude);
        let picked = picked.unwrap_or_else(|| view.any(rng));
        self.0.remove();
        self.ask(view, rng, probes);
        picked
    }

    fn members(&mut self, _now_ns: u64, members: &Members) {
        self.0.retain(|endpoint| members.is_ready(*endpoint));
        self.0.resize(members.list().len());
    }

    fn probed(&mut self, now_ns: u64, probe: &Probe) {
        self.0.probed(now_ns, probe);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rivals::rule::testing::rng;

    #[test]
    fn a_query_goes_where_probes_say_asks_three_others_and_by_chance_where_they_say_nothing() {
        let mut rule = Prequal(Probes::new(Knobs::DEFAULT, 40));
        let members = Members::all(40);
        let pick = |rule: &mut Prequal, rng: &mut SmallRng| {
            let mut asked = Vec::new();
            let view = View { now_ns: 0, members: &members, in_flight: &[0; 40], exclude: None };
            let picked = rule.pick(&view, rng, &mut asked);
            assert_eq!(asked.len(), 3);
            picked
        };
        let mut rng = rng();
        let drawn: std::collections::BTreeSet<u32> = (0..20).map(|_| pick(&mut rule, &mut rng)).collect();
        assert!(drawn.len() > 10, "{drawn:?}");
        for (endpoint, latency_ns) in [(1, 90), (2, 10), (3, 50)] {
            rule.probed(0, &Probe { endpoint, in_flight: 0, latency_ns });
        }
        assert_eq!(pick(&mut rule, &mut rng), 2);
    }
}
