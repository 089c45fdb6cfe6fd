//! Netflix's `Gradient2Limit` (concurrency-limits): the limit follows the ratio of the long-term latency to the present one, with room for
//! a small queue.

use super::{LIMIT_MAX, LIMIT_MIN, Limit, Sample};

/// Gradient2 with Netflix's smoothing 0.2, queue of 4 and long window of 600.
#[derive(Debug, Clone)]
pub struct Gradient2 {
    limit: f64,
    tolerance: f64,
    long_ns: f64,
    samples: u32,
}

impl Gradient2 {
    const SMOOTHING: f64 = 0.2;
    const QUEUE: f64 = 4.0;
    const LONG_WINDOW: f64 = 600.0;
    const WARM_UP: u32 = 10;

    /// The latency may rise to `tolerance` times the long-term one before the limit sinks; Netflix's default is 1.5.
    pub fn new(tolerance: f64) -> Self {
        Self { limit: LIMIT_MIN, tolerance, long_ns: 0.0, samples: 0 }
    }

    /// A plain mean at first, then an exponential one.
    fn add_long(&mut self, rtt_ns: f64) {
        self.samples += 1;
        let gain =
            if self.samples <= Self::WARM_UP { 1.0 / f64::from(self.samples) } else { 2.0 / (Self::LONG_WINDOW + 1.0) };
        self.long_ns += gain * (rtt_ns - self.long_ns);
    }
}

impl Limit for Gradient2 {
    fn limit(&self) -> f64 {
        self.limit
    }

    fn update(&mut self, sample: &Sample) {
        self.add_long(sample.rtt_ns);
        let long_ns = self.long_ns;
        // After a time of overload the long-term latency is far too high: it sinks faster.
        if long_ns > 2.0 * sample.rtt_ns {
            self.long_ns *= 0.95;
        }
        if f64::from(sample.in_flight) < self.limit / 2.0 {
            return;
        }
        let gradient = (self.tolerance * long_ns / sample.rtt_ns).clamp(0.5, 1.0);
        let wanted = self.limit * gradient + Self::QUEUE;
        self.limit += Self::SMOOTHING * (wanted - self.limit);
        self.limit = self.limit.clamp(LIMIT_MIN, LIMIT_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_grows_by_its_queue_and_sinks_by_the_gradient() {
        let mut limit = Gradient2 { limit: 100.0, tolerance: 1.5, long_ns: 10.0, samples: 100 };
        let sample = |rtt_ns, in_flight| Sample { now_ns: 0, rtt_ns, in_flight, dropped: false };
        limit.update(&sample(10.0, 49));
        assert_eq!(limit.limit(), 100.0, "not in use");
        limit.update(&sample(10.0, 50));
        assert!((limit.limit() - 100.8).abs() < 1e-9);
        limit.long_ns = 10.0 - 2.0 / 601.0 * 20.0 / (1.0 - 2.0 / 601.0);
        // The long-term latency is 10 again with this sample of 30: gradient 0.5, wanted 54.4, a fifth of the way.
        limit.update(&sample(30.0, 100));
        assert!((limit.limit() - (100.8 + 0.2 * (54.4 - 100.8))).abs() < 0.1, "{}", limit.limit());
    }
}
