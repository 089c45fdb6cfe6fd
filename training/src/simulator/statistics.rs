//! What a run is judged by: latency of what was answered, errors, what was shed, goodput. Only requests that arrived in
//! the scenario's measured window count, whenever they end.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::{
    router::Outcome,
    time::{MICROSECOND, MILLISECOND, SECOND},
};

/// Latencies are kept in microseconds up to this; what takes longer counts as this long.
const LATENCY_US_MAX: u64 = 3_600_000_000;
/// Quantiles that the tail is told by: 99 % and up, in steps of a twentieth of a point.
pub const TAIL: usize = 21;
const TAIL_FROM: f64 = 0.99;

/// Counts while a run is going on.
#[derive(Debug, Clone)]
pub struct Statistics {
    latency_us: Histogram<u64>,
    latency_ns_sum: f64,
    arrived: u64,
    outcomes: [u64; Outcome::COUNT],
    within_objective: u64,
    per_endpoint: Vec<u64>,
    per_class: Vec<OfClass>,
    fingerprint: u64,
}

/// Requests of one class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct OfClass {
    /// That ended.
    pub ended: u64,
    /// That were answered well and within the objective.
    pub within_objective: u64,
}

impl Statistics {
    /// Nothing counted yet.
    pub fn new(endpoints: usize, classes: usize) -> Self {
        let latency_us = Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).expect("constant bounds are valid");
        Self {
            latency_us,
            latency_ns_sum: 0.0,
            arrived: 0,
            outcomes: [0; Outcome::COUNT],
            within_objective: 0,
            per_endpoint: vec![0; endpoints],
            per_class: vec![OfClass::default(); classes],
            fingerprint: 0xcbf2_9ce4_8422_2325,
        }
    }

    /// A request arrived in the measured window.
    #[inline]
    pub fn arrived(&mut self) {
        self.arrived += 1;
    }

    /// A request of the measured window ended. `endpoint` is where it was sent last, if anywhere.
    #[inline]
    pub fn ended(&mut self, outcome: Outcome, latency_ns: u64, class: u8, endpoint: Option<u32>, objective_ns: u64) {
        self.outcomes[outcome as usize] += 1;
        let of_class = &mut self.per_class[usize::from(class)];
        of_class.ended += 1;
        if outcome == Outcome::Success {
            let within = u64::from(latency_ns <= objective_ns);
            self.latency_us.saturating_record(latency_ns / MICROSECOND);
            self.latency_ns_sum += latency_ns as f64;
            self.within_objective += within;
            of_class.within_objective += within;
        }
        if let Some(endpoint) = endpoint {
            self.per_endpoint[endpoint as usize] += 1;
        }
        let trace = latency_ns ^ (u64::from(endpoint.unwrap_or(u32::MAX)) << 40) ^ ((outcome as u64) << 60);
        self.fingerprint = (self.fingerprint ^ trace).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
    }

    /// The result, for a measured window of so many nanoseconds.
    pub fn summary(&self, window_ns: u64) -> Summary {
        let window_s = window_ns as f64 / SECOND as f64;
        let count = |outcome: Outcome| self.outcomes[outcome as usize];
        let share = |part: u64| if self.arrived == 0 { 0.0 } else { part as f64 / self.arrived as f64 };
        let ended: u64 = self.outcomes.iter().sum();
        let successes = count(Outcome::Success);
        let quantile_ms = |q: f64| self.latency_us.value_at_quantile(q) as f64 / 1_000.0;
        Summary {
            arrived: self.arrived,
            offered_rps: self.arrived as f64 / window_s,
            goodput_rps: self.within_objective as f64 / window_s,
            goodput_share: share(self.within_objective),
            error_share: share(count(Outcome::Error) + count(Outcome::Failure) + count(Outcome::Unreachable)),
            shed_share: share(count(Outcome::Shed)),
            unroutable_share: share(count(Outcome::Unroutable)),
            unfinished: self.arrived - ended,
            latency_ms_mean: self.latency_ns_sum / MILLISECOND as f64 / successes.max(1) as f64,
            latency_ms_p50: quantile_ms(0.5),
            latency_ms_p90: quantile_ms(0.9),
            latency_ms_p99: quantile_ms(0.99),
            latency_ms_p999: quantile_ms(0.999),
            tail_ms: std::array::from_fn(|step| {
                quantile_ms(TAIL_FROM + (1.0 - TAIL_FROM) * step as f64 / (TAIL - 1) as f64)
            }),
            per_endpoint: self.per_endpoint.clone(),
            per_class: self.per_class.clone(),
            fingerprint: self.fingerprint,
        }
    }
}

/// The result of a run. Latencies are those of successful answers, from the request's arrival at its proxy to the last of
/// its response there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Requests that arrived in the measured window.
    pub arrived: u64,
    /// The same, per second.
    pub offered_rps: f64,
    /// Successful answers within the objective, per second of the window.
    pub goodput_rps: f64,
    /// Successful answers within the objective, as a share of what arrived.
    pub goodput_share: f64,
    /// 5xx answers and failures, as a share of what arrived.
    pub error_share: f64,
    /// Refused by admission control, as a share of what arrived.
    pub shed_share: f64,
    /// Refused because no endpoint was to be had, as a share of what arrived.
    pub unroutable_share: f64,
    /// Still in flight when the run was cut off.
    pub unfinished: u64,
    /// Mean latency.
    pub latency_ms_mean: f64,
    /// Median latency.
    pub latency_ms_p50: f64,
    /// 90th percentile.
    pub latency_ms_p90: f64,
    /// 99th percentile.
    pub latency_ms_p99: f64,
    /// 99.9th percentile.
    pub latency_ms_p999: f64,
    /// From the 99th percentile to the slowest answer, see [`Self::latency_ms_from_p99`].
    pub tail_ms: [f64; TAIL],
    /// Requests that each endpoint got, counting only the last attempt of each.
    pub per_endpoint: Vec<u64>,
    /// By class.
    pub per_class: Vec<OfClass>,
    /// Hash over every measured request's end: equal for runs that went exactly alike.
    pub fingerprint: u64,
}

impl Summary {
    /// Share of what arrived that got no good answer, however late: errors, failures, and what was turned away.
    pub fn unanswered_share(&self) -> f64 {
        self.error_share + self.shed_share + self.unroutable_share
    }

    /// Latency at this quantile, from 0.99 to 1, to a twentieth of a point; the next one above counts.
    pub fn latency_ms_from_p99(&self, quantile: f64) -> f64 {
        let step = (quantile - TAIL_FROM) / (1.0 - TAIL_FROM) * (TAIL - 1) as f64;
        self.tail_ms[(step - 1e-6).ceil().clamp(0.0, (TAIL - 1) as f64) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_is_told_beyond_the_99th_percentile_and_classes_apart() {
        let mut statistics = Statistics::new(1, 2);
        for number in 1..=1_000 {
            statistics.arrived();
            let outcome = if number > 996 { Outcome::Shed } else { Outcome::Success };
            statistics.ended(outcome, number * MILLISECOND, u8::from(number > 500), Some(0), 750 * MILLISECOND);
        }
        let summary = statistics.summary(SECOND);
        assert!((summary.unanswered_share() - 0.004).abs() < 1e-12);
        assert_eq!(summary.latency_ms_from_p99(0.99), summary.latency_ms_p99);
        // The tenth slowest of all is the sixth slowest of those that were answered.
        let tenth = summary.latency_ms_from_p99(0.99 / 0.996);
        assert!((990.0..994.0).contains(&tenth), "{tenth}");
        assert!(summary.latency_ms_from_p99(2.0) >= 995.0);
        assert_eq!(summary.per_class[0], OfClass { ended: 500, within_objective: 500 });
        assert_eq!(summary.per_class[1], OfClass { ended: 500, within_objective: 250 });
    }
}
