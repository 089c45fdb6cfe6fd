//! Peak EWMA as in Finagle, Linkerd and tower: of the endpoints drawn, the lowest latency average times (requests in flight + 1). The
//! average rises to a slow answer at once and sinks exponentially, also while nothing is answered.

use rand::rngs::SmallRng;

use super::rule::{Rule, View};
use crate::simulator::{
    router::Departure,
    time::{MILLISECOND, SECOND},
};

/// Its knobs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Knobs {
    /// Time constant of the average, in seconds.
    pub decay_s: f64,
    /// Endpoints that are compared; `usize::MAX` scans all.
    pub choices: usize,
}

impl Knobs {
    /// Linkerd's: 10 s, two choices.
    pub const DEFAULT: Self = Self { decay_s: 10.0, choices: 2 };
    /// See docs/rivals.md, "Tuning".
    pub const TUNED: Self = Self { decay_s: 30.0, choices: usize::MAX };
}

/// What Linkerd takes an endpoint for that has not answered yet.
const UNKNOWN_NS: f64 = 30.0 * MILLISECOND as f64;

#[derive(Debug, Clone, Copy)]
struct Average {
    ns: f64,
    at_ns: u64,
    /// Whether it has answered.
    known: bool,
}

/// Peak EWMA.
#[derive(Debug, Clone)]
pub struct PeakEwma {
    knobs: Knobs,
    averages: Vec<Average>,
}

impl PeakEwma {
    /// For so many endpoints.
    pub fn new(knobs: Knobs, endpoints: usize) -> Self {
        Self { knobs, averages: vec![Average { ns: UNKNOWN_NS, at_ns: 0, known: false }; endpoints] }
    }

    fn keep(&self, elapsed_ns: u64) -> f64 {
        (-(elapsed_ns as f64) / (self.knobs.decay_s * SECOND as f64)).exp()
    }

    fn average_ns(&self, endpoint: u32, now_ns: u64) -> f64 {
        let average = &self.averages[endpoint as usize];
        // Who has not answered yet does not look faster for having been away longer.
        if average.known { average.ns * self.keep(now_ns - average.at_ns) } else { average.ns }
    }
}

impl Rule for PeakEwma {
    fn pick(&mut self, view: &View<'_>, rng: &mut SmallRng, _probes: &mut Vec<u32>) -> u32 {
        view.lowest_of(self.knobs.choices, rng, |endpoint| {
            self.average_ns(endpoint, view.now_ns) * (f64::from(view.in_flight[endpoint as usize]) + 1.0)
        })
    }

    fn ended(&mut self, departure: &Departure, _load: Option<&super::servers::Load>) {
        let latency_ns = departure.latency_ns as f64;
        let before = self.averages[departure.endpoint as usize];
        let keep = if before.known { self.keep(departure.now_ns - before.at_ns) } else { 1.0 };
        let ns = if latency_ns > before.ns { latency_ns } else { before.ns * keep + latency_ns * (1.0 - keep) };
        self.averages[departure.endpoint as usize] = Average { ns, at_ns: departure.now_ns, known: true };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        rivals::rule::Members,
        rivals::rule::testing::{answer, rng},
        simulator::router::Served,
    };

    #[test]
    fn the_average_jumps_up_and_sinks_by_its_time_constant() {
        let mut rule = PeakEwma::new(Knobs::DEFAULT, 1);
        let answered = |rule: &mut PeakEwma, now_ns, latency_ns| {
            rule.ended(&answer(0, now_ns, latency_ns, Served::default()), None);
        };
        answered(&mut rule, 0, 100 * MILLISECOND);
        assert_eq!(rule.averages[0].ns, 100e6);
        // After 10 s: 100·e⁻¹ + 20·(1 − e⁻¹) = 49.43.
        answered(&mut rule, 10 * SECOND, 20 * MILLISECOND);
        assert!((rule.averages[0].ns / 1e6 - 49.43).abs() < 0.01, "{}", rule.averages[0].ns);
        assert!((rule.average_ns(0, 20 * SECOND) / 1e6 - 18.18).abs() < 0.01);
    }

    #[test]
    fn latency_and_queue_trade_off() {
        let mut rule = PeakEwma::new(Knobs::DEFAULT, 2);
        rule.ended(&answer(0, 0, 10 * MILLISECOND, Served::default()), None);
        rule.ended(&answer(0, SECOND * 1000, 10 * MILLISECOND, Served::default()), None);
        rule.ended(&answer(1, SECOND * 1000, 50 * MILLISECOND, Served::default()), None);
        let members = Members::all(2);
        let mut pick = |in_flight: &[u32]| {
            let view = View { now_ns: SECOND * 1000, members: &members, in_flight, exclude: None };
            rule.pick(&view, &mut rng(), &mut Vec::new())
        };
        // 10·4 < 50·1 < 10·6.
        assert_eq!(pick(&[3, 0]), 0);
        assert_eq!(pick(&[5, 0]), 1);
    }
}
