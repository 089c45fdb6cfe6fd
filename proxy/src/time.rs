//! Time as the data plane's pure parts see it: a number that somebody hands in. Nothing here reads a clock, so production and
//! simulation run the same code.

use std::{
    ops::{Add, Sub},
    time::Duration,
};

/// Nanoseconds since an arbitrary origin that is the same for all of a process. Arithmetic saturates: 64 bits last 584 years, and a
/// clock that steps back yields zero rather than a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// The origin.
    pub const ZERO: Self = Self(0);
    /// Later than anything that happens.
    pub const MAX: Self = Self(u64::MAX);

    /// The instant `micros` microseconds after the origin.
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros.saturating_mul(1_000))
    }

    /// The instant `millis` milliseconds after the origin.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis.saturating_mul(1_000_000))
    }

    /// The instant `seconds` after the origin; what is negative or not a number is the origin.
    pub fn from_secs_f64(seconds: f64) -> Self {
        Self((seconds * 1e9) as u64)
    }

    /// Seconds since the origin.
    pub fn as_secs_f64(self) -> f64 {
        self.0 as f64 * 1e-9
    }

    /// Time since `earlier`; zero if `earlier` is later.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Timestamp {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(nanos(duration)))
    }
}

impl Sub<Duration> for Timestamp {
    type Output = Self;

    fn sub(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(nanos(duration)))
    }
}

/// A duration in whole nanoseconds, at most `u64::MAX`.
pub(crate) fn nanos(duration: Duration) -> u64 {
    duration.as_secs().saturating_mul(1_000_000_000).saturating_add(u64::from(duration.subsec_nanos()))
}

/// A duration in milliseconds.
pub(crate) fn millis(duration: Duration) -> f32 {
    (duration.as_secs_f64() * 1e3) as f32
}

/// Time in steps of 65.5 µs, modulo 2³² steps (78 hours): small enough to share one atomic word with the number that it dates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Coarse(pub u32);

impl Coarse {
    const STEP_BITS: u32 = 16;
    const STEP_S: f32 = (1u32 << Self::STEP_BITS) as f32 * 1e-9;

    pub fn of(time: Timestamp) -> Self {
        Self((time.0 >> Self::STEP_BITS) as u32)
    }

    /// Seconds since `earlier`, zero if it is later. What is older than 39 hours counts as new: by then it no longer matters.
    pub fn seconds_since(self, earlier: Self) -> f32 {
        (self.0.wrapping_sub(earlier.0) as i32).max(0) as f32 * Self::STEP_S
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates_at_both_ends() {
        assert_eq!(Timestamp::MAX + Duration::MAX, Timestamp::MAX);
        assert_eq!(Timestamp::ZERO - Duration::from_secs(1), Timestamp::ZERO);
        assert_eq!(Timestamp::ZERO.since(Timestamp::MAX), Duration::ZERO);
        assert_eq!(Timestamp::from_secs_f64(-1.0), Timestamp::ZERO);
        assert_eq!(Timestamp::from_secs_f64(f64::NAN), Timestamp::ZERO);
        assert_eq!(Timestamp::from_secs_f64(f64::INFINITY), Timestamp::MAX);
    }

    #[test]
    fn coarse_time_survives_its_wrap_and_a_clock_that_steps_back() {
        let before = Coarse::of(Timestamp((u64::from(u32::MAX) << 16) | 0xffff));
        let after = Coarse::of(Timestamp(1 << 48));
        assert!((after.seconds_since(before) - Coarse::STEP_S).abs() < 1e-9);
        assert_eq!(before.seconds_since(after), 0.0);
    }
}
