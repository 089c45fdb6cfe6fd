//! When requests arrive: a Poisson process whose rate changes over time. The same seed and profile give the same moments
//! to everyone, so two worlds see the very same load.

use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::service_time::exponential;

/// A rate that is constant piece by piece and zero after the last.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RateProfile {
    pieces: Vec<Piece>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Piece {
    until_s: f64,
    rps: f64,
}

impl RateProfile {
    /// `rps` for `length`.
    pub fn constant(rps: f64, length: Duration) -> Self {
        Self::default().then(rps, length)
    }

    /// Appends `rps` for `length`; a negative or non-finite rate counts as none.
    #[must_use]
    pub fn then(mut self, rps: f64, length: Duration) -> Self {
        let until_s = self.length_s() + length.as_secs_f64();
        self.pieces.push(Piece { until_s, rps: if rps.is_finite() { rps.max(0.0) } else { 0.0 } });
        self
    }

    /// Until when requests arrive.
    pub fn length(&self) -> Duration {
        Duration::from_secs_f64(self.length_s())
    }

    /// Arrival times since the start of the load, ascending.
    pub fn arrivals(&self, seed: u64) -> Arrivals {
        Arrivals { profile: self.clone(), rng: StdRng::seed_from_u64(seed), at_s: 0.0, piece: 0 }
    }

    fn length_s(&self) -> f64 {
        self.pieces.last().map_or(0.0, |last| last.until_s)
    }
}

/// Arrival times of one load, made as they are needed.
#[derive(Debug)]
pub struct Arrivals {
    profile: RateProfile,
    rng: StdRng,
    at_s: f64,
    piece: usize,
}

impl Iterator for Arrivals {
    type Item = Duration;

    /// Spends an exponential amount of expected arrivals (Poisson process by time change): exact at every change of rate.
    fn next(&mut self) -> Option<Duration> {
        let mut arrivals_left = exponential(&mut self.rng);
        while let Some(Piece { until_s, rps }) = self.profile.pieces.get(self.piece).copied() {
            let expected = rps * (until_s - self.at_s);
            if expected > arrivals_left {
                self.at_s += arrivals_left / rps;
                return Some(Duration::from_secs_f64(self.at_s));
            }
            arrivals_left -= expected;
            self.at_s = until_s;
            self.piece += 1;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile() -> RateProfile {
        RateProfile::constant(200.0, Duration::from_secs(100))
            .then(0.0, Duration::from_secs(10))
            .then(1000.0, Duration::from_secs(20))
    }

    #[test]
    fn the_same_seed_gives_the_same_moments() {
        let moments = |seed| profile().arrivals(seed).collect::<Vec<_>>();
        assert_eq!(moments(3), moments(3));
        assert_ne!(moments(3), moments(4));
    }

    #[test]
    fn each_piece_gets_its_rate() {
        let mut counts = [0_u32; 3];
        for at in profile().arrivals(1) {
            let at_s = at.as_secs_f64();
            counts[if at_s < 100.0 {
                0
            } else if at_s < 110.0 {
                1
            } else {
                2
            }] += 1;
        }
        let [steady, silent, burst] = counts;
        assert!(steady.abs_diff(20_000) < 500, "{steady} arrivals in the steady piece, not about 20,000");
        assert_eq!(silent, 0);
        assert!(burst.abs_diff(20_000) < 500, "{burst} arrivals in the burst, not about 20,000");
    }

    #[test]
    fn gaps_are_memoryless() {
        let moments: Vec<_> = RateProfile::constant(100.0, Duration::from_secs(400)).arrivals(5).collect();
        let gaps_s: Vec<f64> = moments.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64()).collect();
        let n = gaps_s.len() as f64;
        let mean = gaps_s.iter().sum::<f64>() / n;
        let deviation = (gaps_s.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / n).sqrt();
        assert!((deviation / mean - 1.0).abs() < 0.03, "coefficient of variation {}", deviation / mean);
    }
}
