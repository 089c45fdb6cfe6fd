//! Simulated time: whole nanoseconds since the run began, so that runs replay bit for bit.

/// One microsecond, in nanoseconds.
pub const MICROSECOND: u64 = 1_000;
/// One millisecond, in nanoseconds.
pub const MILLISECOND: u64 = 1_000_000;
/// One second, in nanoseconds.
pub const SECOND: u64 = 1_000_000_000;
/// Later than anything that happens.
pub const NEVER: u64 = u64::MAX;

/// Nanoseconds in so many seconds; negative and NaN count as 0.
pub fn seconds(seconds: f64) -> u64 {
    (seconds * SECOND as f64) as u64
}

/// Nanoseconds in so many milliseconds; negative and NaN count as 0.
pub fn millis(milliseconds: f64) -> u64 {
    (milliseconds * MILLISECOND as f64) as u64
}
