//! Holds endpoints that have just become ready to their share. They look idle, and their latency is that of a server without a queue; the rule
//! gives any endpoint about twice its share in some seconds, which is too much for one that starts cold, and a burst for what is behind it. Pure;
//! counted only while there are newcomers.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use crate::{config::EndpointKey, time::Timestamp};

/// How long an endpoint is new.
pub const LENGTH: Duration = Duration::from_secs(10);
/// The most that a newcomer gets, as a multiple of the mean endpoint's part of the requests: nothing is known of its capacity yet. What it gets
/// of any second stays below 1.5 times its share, with room for the edges of windows and for proxies that see different loads.
const SHARE_MAX: f64 = 1.25;
/// Requests are counted over so long: short enough that what was not used at the beginning cannot all be used at the end.
const WINDOW_MS: u64 = 250;

/// Whether so many newcomers among so many endpoints are few enough to be held back: a quarter. Where more are new, as in a rollout, they have to carry what the others
/// cannot: held to the mean they and the old ones are overloaded (p99 in `deploy` 1.76 times that of shortest expected delay; with this 1.24, with nobody
/// held back 1.17).
pub fn are_few(newcomers: usize, endpoints: usize) -> bool {
    newcomers * 4 <= endpoints
}

/// A count that starts anew with each window.
#[derive(Debug, Default)]
pub struct Tally(AtomicU64);

impl Tally {
    /// One more in this window; the count with it.
    pub fn count(&self, window: Window) -> u32 {
        let next =
            |packed: u64| if (packed >> 32) as u32 == window.0 { packed + 1 } else { (u64::from(window.0) << 32) | 1 };
        self.0.fetch_update(Relaxed, Relaxed, |packed| Some(next(packed))).map_or(0, |packed| next(packed) as u32)
    }

    /// The count of this window so far.
    pub fn get(&self, window: Window) -> u32 {
        let packed = self.0.load(Relaxed);
        if (packed >> 32) as u32 == window.0 { packed as u32 } else { 0 }
    }
}

/// A window of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window(u32);

impl Window {
    /// The one that holds `now`.
    pub fn of(now: Timestamp) -> Self {
        // Numbers come again after decades.
        Self((now.0 / 1_000_000 / WINDOW_MS) as u32)
    }
}

/// An endpoint that has just become ready.
#[derive(Debug)]
pub struct Newcomer {
    /// It is new until then.
    pub until: Timestamp,
    key: EndpointKey,
    sent: Tally,
}

impl Newcomer {
    /// Ready since `now`.
    pub fn new(key: EndpointKey, now: Timestamp) -> Self {
        Self { until: now + LENGTH, key, sent: Tally::default() }
    }

    /// Whether it may get one of the requests of a window, of which `all` have come so far for `endpoints`.
    pub fn may(&self, window: Window, all: u32, endpoints: usize) -> bool {
        // Fractions of a request are rounded up in some windows and down in others, as often as they are large: on average nothing is added.
        let rounding = (u64::from(window.0) ^ self.key.0).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 11;
        let rounding = rounding as f64 / (1u64 << 53) as f64;
        let allowed = SHARE_MAX * f64::from(all) / endpoints.max(1) as f64 + rounding;
        f64::from(self.sent.get(window)) + 1.0 <= allowed
    }

    /// It gets one.
    pub fn gets(&self, window: Window) {
        self.sent.count(window);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_many_are_new_nobody_is_held_back() {
        assert!(are_few(1, 4) && are_few(8, 32));
        assert!(!are_few(1, 3) && !are_few(9, 32) && !are_few(3, 3));
    }

    #[test]
    fn a_newcomer_that_everything_would_go_to_gets_its_share_and_a_quarter() {
        for (rps, endpoints) in [(4000, 10), (400, 10), (2000, 5000)] {
            let (all, newcomer) = (Tally::default(), Newcomer::new(EndpointKey(77), Timestamp(0)));
            let mut got = 0;
            for request in 0..10 * rps {
                let window = Window::of(Timestamp(request * 1_000_000_000 / rps));
                let so_far = all.count(window);
                if newcomer.may(window, so_far, endpoints) {
                    newcomer.gets(window);
                    got += 1;
                }
            }
            let expected = 1.25 * 10.0 * rps as f64 / endpoints as f64;
            let got = f64::from(got);
            assert!(
                (got - expected).abs() <= 0.1 * expected + 5.0,
                "{got} of {rps}/s over {endpoints}, {expected} expected"
            );
        }
    }
}
