//! The controller's one clock. Everything else takes the time as an argument.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use k8s_openapi::jiff::Timestamp;

/// One moment, on both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// For durations.
    pub instant: Instant,
    /// For people and recordings: milliseconds since the Unix epoch.
    pub at_ms: i64,
}

impl Now {
    /// The moment that is `later` after this one.
    pub fn plus(self, later: Duration) -> Self {
        Self {
            instant: self.instant + later,
            at_ms: self.at_ms.saturating_add(i64::try_from(later.as_millis()).unwrap_or(i64::MAX)),
        }
    }

    /// Seconds since `earlier`; 0 if it is not earlier.
    pub fn since_s(self, earlier: Instant) -> f64 {
        self.instant.saturating_duration_since(earlier).as_secs_f64()
    }
}

/// A moment for people, in UTC.
pub fn timestamp(at_ms: i64) -> String {
    match Timestamp::from_millisecond(at_ms) {
        Ok(at) => at.strftime("%Y-%m-%d %H:%M:%S").to_string(),
        Err(_) => "unknown".to_owned(),
    }
}

/// Reads the clock.
#[expect(clippy::disallowed_methods, reason = "the controller owns a clock; this is where it is read")]
pub fn now() -> Now {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
    Now {
        instant: Instant::now(),
        at_ms: since_epoch.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX)),
    }
}
