//! What scenarios are made of, each drawn from a seed: pods and proxies, requests, troubles.

pub(super) mod pods;
pub(super) mod requests;
pub(super) mod troubles;

use rand::{Rng, rngs::SmallRng};

/// Between `from` and `to`, as likely to be within any factor of two as within any other.
pub(super) fn log_uniform(rng: &mut SmallRng, from: f64, to: f64) -> f64 {
    rng.random_range(from.ln()..to.ln()).exp()
}
