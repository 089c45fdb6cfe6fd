//! Additive (or gentle) increase, multiplicative decrease: at each answer as in Netflix's `AIMDLimit`, and on the share of slow answers in
//! windows, the simple limiter that DESIGN found to yield 98 % of what is possible.

use super::{LIMIT_MAX, LIMIT_MIN, Limit, Sample};
use crate::simulator::time::MILLISECOND;

/// Netflix's `AIMDLimit`: an answer later than the timeout (here the objective) or none takes a tenth off; any other adds one while at
/// least half of the limit is in use.
#[derive(Debug, Clone)]
pub struct Aimd {
    limit: f64,
    timeout_ns: f64,
}

impl Aimd {
    const BACKOFF: f64 = 0.9;

    /// With the objective as timeout.
    pub fn new(timeout_ns: f64) -> Self {
        Self { limit: LIMIT_MIN, timeout_ns }
    }
}

impl Limit for Aimd {
    fn limit(&self) -> f64 {
        self.limit
    }

    fn update(&mut self, sample: &Sample) {
        if sample.dropped || sample.rtt_ns > self.timeout_ns {
            self.limit = (self.limit * Self::BACKOFF).floor();
        } else if f64::from(sample.in_flight) * 2.0 >= self.limit {
            self.limit += 1.0;
        }
        self.limit = self.limit.clamp(LIMIT_MIN, LIMIT_MAX);
    }
}

/// Knobs of [`WindowedAimd`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Knobs {
    /// Factor on the limit after a bad window.
    pub decrease: f64,
    /// Factor on the limit after a good one in which it was used.
    pub increase: f64,
    /// Share of the objective above which an answer is slow.
    pub slow_share: f64,
}

impl Knobs {
    /// See docs/rivals.md, "Tuning".
    pub const TUNED: Self = Self { decrease: 0.8, increase: 1.05, slow_share: 0.7 };
}

/// AIMD on windows of at least 100 ms and twenty answers: more than 5 % slow ones lower the limit.
#[derive(Debug, Clone)]
pub struct WindowedAimd {
    knobs: Knobs,
    limit: f64,
    slow_ns: f64,
    end_ns: u64,
    answers: u32,
    slow: u32,
    in_flight_max: u32,
    lowered_ns: f64,
}

impl WindowedAimd {
    const WINDOW_NS: u64 = 100 * MILLISECOND;
    const ANSWERS_MIN: u32 = 20;
    const SLOW_ANSWERS_SHARE_MAX: f64 = 0.05;

    /// For this objective.
    pub fn new(knobs: Knobs, objective_ns: f64) -> Self {
        Self {
            knobs,
            limit: LIMIT_MAX,
            slow_ns: knobs.slow_share * objective_ns,
            end_ns: 0,
            answers: 0,
            slow: 0,
            in_flight_max: 0,
            lowered_ns: 0.0,
        }
    }
}

impl Limit for WindowedAimd {
    fn limit(&self) -> f64 {
        self.limit
    }

    fn update(&mut self, sample: &Sample) {
        // What was sent before the limit sank tells about the time before.
        if sample.now_ns as f64 - sample.rtt_ns < self.lowered_ns {
            return;
        }
        self.answers += 1;
        self.slow += u32::from(sample.dropped || sample.rtt_ns > self.slow_ns);
        self.in_flight_max = self.in_flight_max.max(sample.in_flight);
        if sample.now_ns < self.end_ns || self.answers < Self::ANSWERS_MIN {
            return;
        }
        let in_use = f64::from(self.in_flight_max);
        if f64::from(self.slow) > Self::SLOW_ANSWERS_SHARE_MAX * f64::from(self.answers) {
            self.limit = (self.limit.min(in_use) * self.knobs.decrease).max(1.0);
            self.lowered_ns = sample.now_ns as f64;
        } else if in_use >= 0.9 * self.limit {
            self.limit = (self.limit * self.knobs.increase).max(self.limit + 1.0).min(LIMIT_MAX);
        }
        (self.answers, self.slow, self.in_flight_max) = (0, 0, 0);
        self.end_ns = sample.now_ns + Self::WINDOW_NS;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(now_ns: u64, rtt_ns: f64, in_flight: u32) -> Sample {
        Sample { now_ns, rtt_ns, in_flight, dropped: false }
    }

    #[test]
    fn netflixs_adds_one_while_used_and_takes_a_tenth_off() {
        let mut aimd = Aimd { limit: 50.0, timeout_ns: 100.0 };
        aimd.update(&sample(0, 50.0, 24));
        assert_eq!(aimd.limit(), 50.0);
        aimd.update(&sample(0, 50.0, 25));
        assert_eq!(aimd.limit(), 51.0);
        aimd.update(&sample(0, 101.0, 25));
        assert_eq!(aimd.limit(), 45.0);
    }

    #[test]
    fn a_window_with_slow_answers_lowers_what_was_in_use_and_a_good_one_raises_it() {
        let mut aimd = WindowedAimd::new(Knobs::TUNED, 100.0);
        for number in 0..20 {
            aimd.update(&sample(1_000, if number < 2 { 90.0 } else { 10.0 }, 60));
        }
        assert_eq!(aimd.limit(), 48.0);
        for number in 0..20 {
            aimd.update(&sample(2 * WindowedAimd::WINDOW_NS + number, 10.0, 47));
        }
        assert!((aimd.limit() - 50.4).abs() < 1e-9);
    }
}
