//! Tests that may be looked at after every block and stopped at any time: the wealth of a gambler who bets against the claim to be refuted.
//!
//! If the claim "the mean of what comes next is at most `m`" holds, no way of betting makes money on average, and by Ville's inequality
//! the wealth ever reaches `1/α` with probability at most `α`, however often one looks. The bet is the plug-in for the best
//! one so far, "aGRAPA" (Waudby-Smith & Ramdas, "Estimating means of bounded random variables by betting", JRSS B 86, 2024, §4 and appendix),
//! for one side. Values are differences within [−1, 1]; nothing is assumed of their distribution, nor that they are independent.

/// Largest part of what could be lost that is bet: leaves the gambler something whatever comes.
const STAKE_MAX: f64 = 0.75;
/// Blocks that a first guess of mean and variance counts as.
const GUESS: f64 = 2.0;
/// First guess of the variance of a difference: a factor of 1.65 in cost either way is common in half a second.
const GUESS_VARIANCE: f64 = 0.25;

/// A bet against "the mean is at most `claim`".
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bet {
    claim: f64,
    log_wealth: f64,
    /// Largest so far.
    log_best: f64,
    moments: Moments,
}

/// Running mean and variance, with a guess to begin with.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Moments {
    /// Values so far.
    pub count: u64,
    sum: f64,
    squares: f64,
}

impl Moments {
    fn add(&mut self, value: f64) {
        self.count += 1;
        self.sum += value;
        self.squares += value * value;
    }

    /// The plain mean; 0 of none.
    pub fn mean(&self) -> f64 {
        if self.count > 0 { self.sum / self.count as f64 } else { 0.0 }
    }

    /// The plain standard deviation.
    pub fn deviation(&self) -> f64 {
        let mean = self.mean();
        if self.count > 0 { (self.squares / self.count as f64 - mean * mean).max(0.0).sqrt() } else { 0.0 }
    }

    fn guess(&self) -> (f64, f64) {
        let weight = self.count as f64 + GUESS;
        let mean = self.sum / weight;
        (mean, ((self.squares + GUESS * GUESS_VARIANCE) / weight - mean * mean).max(1e-4))
    }
}

impl Bet {
    /// Against "the mean is at most `claim`", −1 < claim < 1.
    pub fn that_more_than(claim: f64) -> Self {
        Self { claim, log_wealth: 0.0, log_best: 0.0, moments: Moments::default() }
    }

    /// Takes in the next value; what is beyond [−1, 1] counts as the end that it is beyond.
    pub fn add(&mut self, value: f64) {
        if value.is_nan() {
            return;
        }
        let value = value.clamp(-1.0, 1.0);
        // The bet is laid before the value is known.
        let (mean, variance) = self.moments.guess();
        let edge = mean - self.claim;
        let stake = (edge / (variance + edge * edge)).clamp(0.0, STAKE_MAX / (1.0 + self.claim));
        self.log_wealth += (stake * (value - self.claim)).ln_1p();
        self.log_best = self.log_best.max(self.log_wealth);
        self.moments.add(value);
    }

    /// The evidence against the claim as a wealth that began at 1.
    pub fn wealth(&self) -> f64 {
        self.log_wealth.min(700.0).exp()
    }

    /// Whether the claim is refuted, with this probability of a mistake ever.
    pub fn refuted(&self, mistake: f64) -> bool {
        self.log_best >= -mistake.ln()
    }

    /// What it has seen.
    pub fn moments(&self) -> Moments {
        self.moments
    }

    /// Forgets losses, for a watch that never ends: the wealth never falls below 1, and alarms come, where the claim holds, after `1/α` values on
    /// average or later (an e-detector: Shin, Ramdas & Rinaldo, "E-detectors", NEJSDS 2, 2024).
    pub fn restart_if_losing(&mut self) {
        if self.log_wealth < 0.0 {
            self.log_wealth = 0.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    /// How many of 400 gamblers who look at every value refute "at most 0", on values with this mean.
    fn refutations(mean: f64, values: usize, mistake: f64) -> usize {
        (0..400)
            .filter(|&seed| {
                let mut rng = StdRng::seed_from_u64(seed);
                let mut bet = Bet::that_more_than(0.0);
                (0..values).any(|_| {
                    bet.add(mean + rng.random_range(-0.6..0.6));
                    bet.refuted(mistake)
                })
            })
            .count()
    }

    #[test]
    fn who_looks_all_the_time_is_wrong_no_more_often_than_said() {
        let wrong = refutations(0.0, 2_000, 0.05);
        assert!(wrong <= 400 / 20 + 10, "{wrong} of 400");
    }

    #[test]
    fn what_is_so_is_found() {
        assert!(refutations(0.1, 400, 0.05) > 380);
        assert!(refutations(0.5, 60, 0.01) > 390);
    }

    #[test]
    fn no_value_makes_it_anything_but_a_wealth() {
        let mut bet = Bet::that_more_than(0.2);
        for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.0, 1.0, 1e9, -1e9] {
            bet.add(value);
            assert!(bet.wealth().is_finite() && bet.wealth() > 0.0);
        }
    }
}
