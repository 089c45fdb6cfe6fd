//! c3-local: `(own in flight × proxies + offset)^exponent × latency average`, lowest of all. With exponent 3 and offset 1 it is the rule of
//! that name that ships (`proxy::pick::c3_local`), on the very same average; a test holds the two together.

use rand::rngs::SmallRng;
use trimtab_proxy::{average::LatencyAverage, time::Timestamp};

use super::{
    rule::{Rule, View},
    servers::Load,
};
use crate::{
    scenario::Scenario,
    simulator::{Outcome, router::Departure, time::MILLISECOND},
};

/// Its knobs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Knobs {
    /// Exponent of the queue.
    pub exponent: f64,
    /// Added to the queue.
    pub offset: f64,
}

impl Knobs {
    /// C3's.
    pub const DEFAULT: Self = Self { exponent: 3.0, offset: 1.0 };
    /// See docs/rivals.md, "Tuning".
    pub const TUNED: Self = Self { exponent: 1.0, offset: 3.0 };
}

/// c3-local.
#[derive(Debug)]
pub struct C3Local {
    knobs: Knobs,
    proxies: f64,
    averages: Vec<LatencyAverage>,
    /// Over all endpoints: what one is taken for that has not answered.
    common: LatencyAverage,
}

impl C3Local {
    /// For the scenario's proxies and endpoints.
    pub fn new(knobs: Knobs, scenario: &Scenario) -> Self {
        Self {
            knobs,
            proxies: scenario.shares.len() as f64,
            averages: scenario.endpoints.iter().map(|_| LatencyAverage::new()).collect(),
            common: LatencyAverage::new(),
        }
    }

    fn score(&self, endpoint: u32, in_flight: u32, now: Timestamp) -> f64 {
        let latency_ms =
            self.averages[endpoint as usize].get(now).or_else(|| self.common.get(now)).map_or(1.0, f64::from);
        let queue = f64::from(in_flight) * self.proxies + self.knobs.offset;
        let power = if self.knobs.exponent == 3.0 { queue * queue * queue } else { queue.powf(self.knobs.exponent) };
        power * latency_ms
    }
}

impl Rule for C3Local {
    fn pick(&mut self, view: &View<'_>, rng: &mut SmallRng, _probes: &mut Vec<u32>) -> u32 {
        let now = Timestamp(view.now_ns);
        view.lowest(rng, |endpoint| self.score(endpoint, view.in_flight[endpoint as usize], now))
    }

    fn ended(&mut self, departure: &Departure, _load: Option<&Load>) {
        let now = Timestamp(departure.now_ns);
        let latency_ms = (departure.latency_ns as f64 / MILLISECOND as f64) as f32;
        let average = &self.averages[departure.endpoint as usize];
        if departure.outcome == Outcome::Success {
            average.answered(now, latency_ms);
            self.common.answered(now, latency_ms);
        } else {
            average.took_at_least(now, latency_ms);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{rivals::rule::testing::answer, simulator::router::Served};

    #[test]
    fn the_score_is_the_cube_of_the_common_queue_times_latency() {
        let mut rule = C3Local {
            knobs: Knobs { exponent: 3.0, offset: 1.0 },
            proxies: 4.0,
            averages: vec![LatencyAverage::new(), LatencyAverage::new()],
            common: LatencyAverage::new(),
        };
        rule.ended(&answer(0, 0, 20 * MILLISECOND, Served::default()), None);
        let score = |endpoint, in_flight| rule.score(endpoint, in_flight, Timestamp::ZERO);
        assert!((score(0, 2) - 9f64.powi(3) * 20.0).abs() < 1e-3);
        // The other one is taken for average.
        assert!((score(1, 0) - 20.0).abs() < 1e-5);
    }
}
