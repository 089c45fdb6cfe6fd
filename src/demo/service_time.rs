//! How long a request takes on a pod of speed 1 with nobody else there: a seeded distribution, and a small correction that
//! keeps its mean exact although timers wake up late.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

/// Distribution of service times.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "shape", rename_all = "kebab-case", deny_unknown_fields)]
pub enum ServiceTime {
    /// Always the mean.
    Constant {
        /// Mean, milliseconds.
        ms_mean: f64,
    },
    /// Memoryless: the usual textbook server.
    Exponential {
        /// Mean, milliseconds.
        ms_mean: f64,
    },
    /// A skewed bell, as most real services look.
    Lognormal {
        /// Mean, milliseconds.
        ms_mean: f64,
        /// Standard deviation of the logarithm; 1 is a heavy tail.
        sigma: f64,
    },
    /// Cheap requests with some expensive ones among them, each kind exponential.
    Bimodal {
        /// Mean of the cheap ones, milliseconds.
        cheap_ms_mean: f64,
        /// Mean of the expensive ones, milliseconds.
        expensive_ms_mean: f64,
        /// Share of expensive ones, 0..=1.
        expensive_share: f64,
    },
}

impl ServiceTime {
    /// Mean over all requests, milliseconds.
    pub fn ms_mean(&self) -> f64 {
        match *self {
            Self::Constant { ms_mean } | Self::Exponential { ms_mean } | Self::Lognormal { ms_mean, .. } => ms_mean,
            Self::Bimodal { cheap_ms_mean, expensive_ms_mean, expensive_share } => {
                expensive_share * expensive_ms_mean + (1.0 - expensive_share) * cheap_ms_mean
            }
        }
    }

    /// One service time, milliseconds.
    pub fn draw_ms(&self, rng: &mut impl Rng) -> f64 {
        match *self {
            Self::Constant { ms_mean } => ms_mean,
            Self::Exponential { ms_mean } => ms_mean * exponential(rng),
            // The mean of a lognormal is exp(mu + sigma² / 2).
            Self::Lognormal { ms_mean, sigma } => ms_mean * (sigma * normal(rng) - sigma * sigma / 2.0).exp(),
            Self::Bimodal { cheap_ms_mean, expensive_ms_mean, expensive_share } => {
                let mean = if rng.random::<f64>() < expensive_share { expensive_ms_mean } else { cheap_ms_mean };
                mean * exponential(rng)
            }
        }
    }
}

/// An exponential variate of mean 1, by inversion.
pub fn exponential(rng: &mut impl Rng) -> f64 {
    -(1.0 - rng.random::<f64>()).ln()
}

/// A standard normal variate (Box and Muller, 1958).
fn normal(rng: &mut impl Rng) -> f64 {
    let radius = (2.0 * exponential(rng)).sqrt();
    radius * (std::f64::consts::TAU * rng.random::<f64>()).cos()
}

/// The randomness of one pod: the same seed gives the same sequence of service times and coin tosses.
///
/// A timer of 1 ms granularity rounds up, and a busy machine wakes late; both would make every pod slower than it says. So
/// what one request took too long is taken off the next ones.
#[derive(Debug)]
pub struct Draws {
    rng: StdRng,
    lateness_s: f64,
}

/// Beyond this, lateness is a stall of the machine rather than a timer's rounding, and is not made up for.
const LATENESS_S_MAX: f64 = 0.005;

impl Draws {
    /// A sequence that depends on nothing but `seed`.
    pub fn new(seed: u64) -> Self {
        Self { rng: StdRng::seed_from_u64(seed), lateness_s: 0.0 }
    }

    /// How long to sleep for a request that takes `factor` times the drawn time.
    pub fn sleep_for(&mut self, service: &ServiceTime, factor: f64) -> Duration {
        let ms = service.draw_ms(&mut self.rng);
        self.sleep_for_ms(ms * factor)
    }

    /// How long to sleep for a request that takes `ms`, at least 0.
    pub fn sleep_for_ms(&mut self, ms: f64) -> Duration {
        let wanted_s = ms / 1000.0;
        let sleep_s = (wanted_s - self.lateness_s).max(0.0);
        self.lateness_s -= wanted_s - sleep_s;
        Duration::try_from_secs_f64(sleep_s).unwrap_or(Duration::MAX)
    }

    /// Notes how late a sleep ended.
    pub fn slept(&mut self, asked: Duration, took: Duration) {
        let late_s = took.as_secs_f64() - asked.as_secs_f64();
        self.lateness_s = (self.lateness_s + late_s).min(LATENESS_S_MAX);
    }

    /// True with probability `share`.
    pub fn toss(&mut self, share: f64) -> bool {
        self.rng.random::<f64>() < share
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_mean(service: ServiceTime) {
        let mut rng = StdRng::seed_from_u64(7);
        let n = 200_000;
        let mean = (0..n).map(|_| service.draw_ms(&mut rng)).sum::<f64>() / f64::from(n);
        let expected = service.ms_mean();
        assert!((mean / expected - 1.0).abs() < 0.02, "{service:?}: mean {mean} ms, not {expected} ms");
    }

    #[test]
    fn every_shape_has_the_mean_that_it_says() {
        check_mean(ServiceTime::Constant { ms_mean: 40.0 });
        check_mean(ServiceTime::Exponential { ms_mean: 40.0 });
        check_mean(ServiceTime::Lognormal { ms_mean: 40.0, sigma: 1.0 });
        check_mean(ServiceTime::Bimodal { cheap_ms_mean: 20.0, expensive_ms_mean: 200.0, expensive_share: 0.1 });
    }

    #[test]
    fn lateness_of_one_request_shortens_the_next() {
        let mut draws = Draws::new(1);
        let service = ServiceTime::Constant { ms_mean: 20.0 };
        let first = draws.sleep_for(&service, 1.0);
        draws.slept(first, first + Duration::from_micros(900));
        let second = draws.sleep_for(&service, 1.0);
        assert_eq!(second.as_micros(), 19_100);
    }

    #[test]
    fn a_stall_of_the_machine_is_not_made_up_for() {
        let mut draws = Draws::new(1);
        let service = ServiceTime::Constant { ms_mean: 20.0 };
        draws.slept(Duration::from_millis(20), Duration::from_secs(3));
        assert_eq!(draws.sleep_for(&service, 1.0), Duration::from_millis(15));
    }
}
