//! The one place where the data plane reads a clock. Everything else takes a [`Timestamp`] as an argument.

use std::{
    sync::OnceLock,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use crate::time::Timestamp;

/// The process's origin of time: its first reading.
fn origin() -> Instant {
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    *ORIGIN.get_or_init(read)
}

#[expect(clippy::disallowed_methods, reason = "the edge that owns the monotonic clock")]
fn read() -> Instant {
    Instant::now()
}

/// Now.
pub fn now() -> Timestamp {
    Timestamp(read().saturating_duration_since(origin()).as_nanos() as u64)
}

/// The instant of a timestamp, as the runtime's timers want it.
pub fn instant(at: Timestamp) -> tokio::time::Instant {
    let at = at.0.min(Duration::from_secs(86_400 * 365 * 30).as_nanos() as u64);
    tokio::time::Instant::from_std(origin() + Duration::from_nanos(at))
}

/// Nanoseconds since the Unix epoch, for spans.
#[expect(clippy::disallowed_methods, reason = "the edge that owns the wall clock")]
pub fn unix_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

/// Milliseconds since the Unix epoch, for people and recordings.
#[expect(clippy::disallowed_methods, reason = "the edge that owns the wall clock")]
pub fn unix_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}
