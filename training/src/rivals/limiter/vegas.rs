//! Netflix's `VegasLimit` (concurrency-limits), after TCP Vegas: the queue is estimated as limit · (1 − least latency / latency) and held
//! between bounds that grow with the logarithm of the limit.

use super::{LIMIT_MAX, LIMIT_MIN, Limit, Sample};

/// Vegas with Netflix's bounds: below log10(limit) + 6·log10(limit), below 3·log10 + log10, above 6·log10 − log10.
#[derive(Debug, Clone)]
pub struct Vegas {
    limit: f64,
    least_ns: Option<f64>,
    samples: f64,
    probe: f64,
}

impl Vegas {
    /// The least latency is taken anew every so many times the limit, times a jitter.
    const PROBE_MULTIPLIER: f64 = 30.0;

    /// With Netflix's defaults.
    pub fn new() -> Self {
        Self { limit: LIMIT_MIN, least_ns: None, samples: 0.0, probe: 0.5 }
    }
}

impl Default for Vegas {
    fn default() -> Self {
        Self::new()
    }
}

impl Limit for Vegas {
    fn limit(&self) -> f64 {
        self.limit
    }

    fn update(&mut self, sample: &Sample) {
        self.samples += 1.0;
        if self.samples >= self.probe * Self::PROBE_MULTIPLIER * self.limit {
            self.samples = 0.0;
            // The original draws the jitter from 0.5..1; by golden-section steps it needs no rng.
            self.probe = 0.5 + ((self.probe - 0.5) * 2.0 + 0.618_033_988_75).fract() / 2.0;
            self.least_ns = Some(sample.rtt_ns);
            return;
        }
        let least_ns = match self.least_ns {
            Some(least_ns) if sample.rtt_ns >= least_ns => least_ns,
            _ => {
                self.least_ns = Some(sample.rtt_ns);
                return;
            }
        };
        let step = self.limit.log10().floor().max(1.0);
        let queue = (self.limit * (1.0 - least_ns / sample.rtt_ns)).ceil();
        self.limit += if sample.dropped {
            -step
        } else if f64::from(sample.in_flight) * 2.0 < self.limit {
            return;
        } else if queue <= step {
            6.0 * step
        } else if queue < 3.0 * step {
            step
        } else if queue > 6.0 * step {
            -step
        } else {
            return;
        };
        self.limit = self.limit.clamp(1.0, LIMIT_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_queue_estimate_is_held_between_its_bounds() {
        let after = |rtt_ns: f64| {
            let mut vegas = Vegas { limit: 100.0, least_ns: Some(100.0), samples: 0.0, probe: 0.5 };
            vegas.update(&Sample { now_ns: 0, rtt_ns, in_flight: 80, dropped: false });
            vegas.limit()
        };
        // log10(100) = 2: queues of 1, 5, 10 and 50.
        assert_eq!([after(101.0), after(105.0), after(111.0), after(200.0)], [112.0, 102.0, 100.0, 98.0]);
    }
}
