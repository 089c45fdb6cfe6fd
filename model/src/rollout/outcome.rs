//! What came of one tick, or of several together: counts of requests, how long the slow ones took, and how many were inside. It is what arms
//! are compared by, so that it holds nothing that an arm could make look better without being better.

/// What a share of failed or refused requests costs in log latency: 1 % of them like 10 % of latency.
const LOSS_COST: f64 = 10.0;
/// How much the median counts beside the 99th percentile: as in training.
const MEDIAN_COST: f64 = 0.25;

/// What came of a stretch of time.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Interval {
    /// Its length.
    pub seconds: f64,
    /// Requests that ended at an endpoint, well or badly.
    pub answers: f64,
    /// Those of them that failed: 5xx, and no answer.
    pub failed: f64,
    /// Requests that were turned away: shed, and no endpoint to be had.
    pub shed: f64,
    /// Answers within the objective; `None` where there is no objective.
    pub within_objective: Option<f64>,
    /// Requests in flight, mean over the time.
    pub in_flight: f64,
    /// Median latency. Over several ticks: their geometric mean, each counting as much as it has answers.
    pub latency_ms_p50: Option<f64>,
    /// 99th percentile of the latency of all requests, of which those that failed or were turned away count as the slowest answer: see
    /// [`Self::tail_quantile`]. Over several ticks as the median.
    pub latency_ms_p99: Option<f64>,
}

impl Interval {
    /// Several stretches as one.
    pub fn together<'i>(parts: impl IntoIterator<Item = &'i Interval>) -> Self {
        let mut sum = Self::default();
        let (mut p50, mut p99) = (LogMean::default(), LogMean::default());
        for part in parts {
            sum.seconds += part.seconds;
            sum.answers += part.answers;
            sum.failed += part.failed;
            sum.shed += part.shed;
            sum.within_objective = match (sum.within_objective, part.within_objective) {
                (Some(a), Some(b)) => Some(a + b),
                (a, b) => a.or(b),
            };
            sum.in_flight += part.in_flight * part.seconds;
            p50.add(part.latency_ms_p50, part.answers);
            p99.add(part.latency_ms_p99, part.answers);
        }
        if sum.seconds > 0.0 {
            sum.in_flight /= sum.seconds;
        }
        (sum.latency_ms_p50, sum.latency_ms_p99) = (p50.get(), p99.get());
        sum
    }

    /// The quantile of the latencies of good answers that is the 99th percentile of all requests, if those without a good answer count as slower than
    /// any: who turns away the slowest requests is no quicker for it. At most 1, the slowest answer.
    pub fn tail_quantile(&self) -> f64 {
        let good = (self.answers - self.failed).max(0.0);
        if good > 0.0 { (0.99 * self.requests() / good).min(1.0) } else { 1.0 }
    }

    /// Requests that ended or were turned away.
    pub fn requests(&self) -> f64 {
        self.answers + self.shed
    }

    /// This part of all requests; 0 of none.
    pub(super) fn share(&self, part: f64) -> f64 {
        if self.requests() > 0.0 { part / self.requests() } else { 0.0 }
    }

    /// Requests that ended without an answer within the objective; `None` where there is no objective.
    pub(super) fn late(&self) -> Option<f64> {
        self.within_objective.map(|within| (self.requests() - within).max(0.0))
    }

    /// Share of the requests without a good answer: none, a failure, or one that came too late where there is an objective.
    pub(super) fn lost(&self) -> f64 {
        self.share(self.late().unwrap_or(self.failed + self.shed))
    }

    /// Log cost, lower is better: latency of the slow, latency of the middle, and what was lost. `None` where nothing was answered.
    pub fn cost(&self) -> Option<f64> {
        let log = |ms: Option<f64>| Some(ms?.max(0.01).ln());
        let latency = log(self.latency_ms_p99)? + MEDIAN_COST * log(self.latency_ms_p50)?;
        Some(latency + LOSS_COST * self.share(self.failed + self.shed))
    }
}

/// A geometric mean.
#[derive(Default)]
struct LogMean {
    sum: f64,
    weight: f64,
}

impl LogMean {
    fn add(&mut self, value: Option<f64>, weight: f64) {
        if let Some(value) = value.filter(|value| value.is_finite() && *value > 0.0) {
            self.sum += weight * value.ln();
            self.weight += weight;
        }
    }

    fn get(&self) -> Option<f64> {
        (self.weight > 0.0).then(|| (self.sum / self.weight).exp())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_turns_requests_away_is_judged_by_a_slower_answer() {
        let tail = |answers: f64, failed: f64, shed: f64| {
            Interval { answers, failed, shed, ..Interval::default() }.tail_quantile()
        };
        assert_eq!(tail(1_000.0, 0.0, 0.0), 0.99);
        // Of 1,000 requests the tenth slowest: 5 were turned away, so the fifth slowest of 995 answers.
        assert!((tail(995.0, 0.0, 5.0) - 990.0 / 995.0).abs() < 1e-12);
        assert_eq!(tail(995.0, 0.0, 5.0), tail(1_000.0, 5.0, 0.0));
        assert_eq!((tail(900.0, 0.0, 100.0), tail(0.0, 0.0, 3.0)), (1.0, 1.0));
    }
}
