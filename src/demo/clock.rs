//! The demo's only clock: pods, load and story all read the time here.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

/// The present moment on the runtime's clock.
#[expect(clippy::disallowed_methods, reason = "the demo is an edge: it owns real sockets and real time")]
pub fn now() -> Instant {
    Instant::now()
}

/// Time since the Unix epoch; zero on a machine whose clock stands before it.
#[expect(clippy::disallowed_methods, reason = "a pod tells its start time on the wall clock, as processes do")]
pub fn since_epoch() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}
