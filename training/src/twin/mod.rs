//! A service's twin: the simulator, calibrated from the service's own recordings and nothing else, so that what a policy would do to this
//! service can be tried without doing it.
//!
//! In reading order: a [`trace`] sorts the rows, [`fit`] finds out what the endpoints and requests are like, [`episodes`] what happened to them,
//! [`world`] replays a stretch of it as a scenario, and [`check`] holds the twin against recordings that it was not made from.

pub mod check;
pub mod episodes;
pub mod fit;
pub mod trace;
pub mod world;

pub use check::Fidelity;
pub use fit::Fit;
pub use trace::Trace;
pub use world::Twin;

/// Why there can be no twin.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum TwinError {
    /// Nothing of this backend was recorded.
    #[error("the recordings hold no ticks of backend {0}")]
    NoTicks(String),
    /// Too little was recorded to learn from.
    #[error("the recordings of backend {backend} hold {found} {what}, at least {needed} are needed")]
    TooLittle {
        /// Which backend.
        backend: String,
        /// Of what.
        what: &'static str,
        /// How many there are.
        found: usize,
        /// How many there must be.
        needed: usize,
    },
}

/// The median; nothing of none. Reorders.
pub(crate) fn median(numbers: &mut [f64]) -> Option<f64> {
    if numbers.is_empty() {
        return None;
    }
    let middle = numbers.len() / 2;
    let (_, median, _) = numbers.select_nth_unstable_by(middle, f64::total_cmp);
    Some(*median)
}
