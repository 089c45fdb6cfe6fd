//! Weights in inverse proportion to average latency, by weighted round robin: what many gateways offer as "latency-aware" balancing. Known
//! to oscillate near saturation (the loop's gain grows with 1/(1 − load)); the average's time constant trades that for slowness.

use rand::rngs::SmallRng;

use super::{
    rule::{Members, Rule, View},
    schedulers::EarliestDeadline,
    servers::Load,
};
use crate::simulator::{Outcome, router::Departure, time::SECOND};

/// Its knobs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Knobs {
    /// Time constant of the latency average, in seconds.
    pub window_s: f64,
    /// Exponent on the inverse latency.
    pub exponent: f64,
}

impl Knobs {
    /// Plain inverse latency over 10 s.
    pub const DEFAULT: Self = Self { window_s: 10.0, exponent: 1.0 };
    /// See docs/rivals.md, "Tuning".
    pub const TUNED: Self = Self { window_s: 1.0, exponent: 1.0 };
}

#[derive(Debug, Clone, Copy, Default)]
struct Average {
    ns: f64,
    at_ns: u64,
    known: bool,
}

/// Weights in inverse proportion to latency.
#[derive(Debug, Clone)]
pub struct LatencyInverse {
    knobs: Knobs,
    averages: Vec<Average>,
    common: Average,
    scheduler: EarliestDeadline,
    stale: bool,
}

impl LatencyInverse {
    /// For so many endpoints.
    pub fn new(knobs: Knobs, endpoints: usize) -> Self {
        Self {
            knobs,
            averages: vec![Average::default(); endpoints],
            common: Average::default(),
            scheduler: EarliestDeadline::default(),
            stale: true,
        }
    }
}

impl Average {
    /// A time-weighted average: answers in a burst count no more than their time.
    fn add(&mut self, now_ns: u64, latency_ns: f64, window_s: f64) {
        let elapsed_s = (now_ns - self.at_ns) as f64 / SECOND as f64;
        let gain = if self.known { 1.0 - (-elapsed_s / window_s).exp() } else { 1.0 };
        *self = Self { ns: self.ns + gain * (latency_ns - self.ns), at_ns: now_ns, known: true };
    }

    fn weight(&self, common: &Self, exponent: f64) -> f64 {
        // Who has not answered is taken for average.
        let ns = if self.known { self.ns } else { common.ns };
        if ns > 0.0 { (common.ns / ns).powf(exponent) } else { 1.0 }
    }
}

impl Rule for LatencyInverse {
    fn pick(&mut self, view: &View<'_>, rng: &mut SmallRng, _probes: &mut Vec<u32>) -> u32 {
        let (averages, common, exponent) = (&self.averages, &self.common, self.knobs.exponent);
        let weight = |endpoint: u32| averages[endpoint as usize].weight(common, exponent);
        if std::mem::take(&mut self.stale) {
            self.scheduler.reset(view.members, rng, weight);
        }
        self.scheduler.next(view, weight)
    }

    fn ended(&mut self, departure: &Departure, _load: Option<&Load>) {
        if departure.outcome == Outcome::Success {
            let latency_ns = departure.latency_ns as f64;
            self.averages[departure.endpoint as usize].add(departure.now_ns, latency_ns, self.knobs.window_s);
            self.common.add(departure.now_ns, latency_ns, self.knobs.window_s);
        }
    }

    fn members(&mut self, _now_ns: u64, members: &Members) {
        for (endpoint, average) in self.averages.iter_mut().enumerate() {
            average.known &= members.is_ready(endpoint as u32);
        }
        self.stale = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        rivals::rule::testing::{answer, counts},
        simulator::router::Served,
    };

    #[test]
    fn shares_are_inverse_to_latency() {
        let mut rule = LatencyInverse::new(Knobs::DEFAULT, 2);
        rule.ended(&answer(0, 0, 10_000, Served::default()), None);
        rule.ended(&answer(1, 0, 40_000, Served::default()), None);
        assert_eq!(counts(&mut rule, &Members::all(2), &[0; 2], 500), [400, 100]);
    }

    #[test]
    fn the_average_moves_by_the_time_that_passed() {
        let mut average = Average::default();
        average.add(0, 100.0, 10.0);
        // 10 s later: 100 + (1 − e⁻¹)·(200 − 100).
        average.add(10 * SECOND, 200.0, 10.0);
        assert!((average.ns - 163.212).abs() < 0.001, "{}", average.ns);
    }
}
