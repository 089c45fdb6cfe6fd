//! When an endpoint came, and what follows from that. An endpoint that has just become ready looks idle, its latency is that of a server without a
//! queue, and more often than not it starts cold. There is one record of its arrival, kept with its load, and everything that heeds it:
//!
//! - **The share of a new endpoint is held** (here, and `backend/newcomers.rs`): for its first ten seconds the adaptive rule gives it at most 1.2 times its
//!   share of the requests, by the slots that it has, or else the mean endpoint's; weights, which rest on its first few answers, do not count. Left alone
//!   the rule gives any endpoint about twice its share in some seconds: too much for one that starts cold, and a burst for what is behind it. In no second
//!   that begins while it is new does it get more than 1.5 times its share. Where more than a quarter of the endpoints are new nobody is held.
//! - **Until it has answered, it is taken for slow** (`UNKNOWN` in `pick/rule.rs`), the less so the longer it has been left in peace.
//! - **What algorithms do that have a slow start of their own**: decaying weights begin where they were told to (`pick/decaying_weights.rs`), and a sliding
//!   window takes one that has come in it for the average of the others (`pick/sliding_window.rs`).
//!
//! The first is a promise (docs/kubernetes.md); what the second is worth is in docs/simulation.md. Endpoints that were there from the start, or came when
//! there were none, are not new. Pure; requests are counted only while there are new endpoints.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use crate::{
    config::EndpointKey,
    time::{Coarse, Timestamp},
};

/// How long an endpoint is new.
pub const LENGTH: Duration = Duration::from_secs(10);
/// Its share is held for that much longer, so that every second that begins while it is new is one in which it is held.
const SECOND: Duration = Duration::from_secs(1);
/// The most that a new endpoint gets, as a multiple of its share: the mean endpoint's, until more is known of its capacity. What it gets
/// of any second stays below 1.5 times its share, with room for the edges of windows and for proxies that see different loads.
const SHARE_MAX: f64 = 1.2;
/// Requests are counted over so long: short enough that what was not used at the beginning cannot all be used at the end.
const WINDOW_MS: u64 = 250;

/// When an endpoint came, and what it got since, as long as that is counted. Shared by all workers; whoever makes tables says when it became ready.
#[derive(Debug)]
pub struct Arrival {
    known_since: Coarse,
    /// Nanoseconds; 0: not beside others.
    ready_since: AtomicU64,
    sent: Tally,
}

impl Arrival {
    /// Of an endpoint that is known from `now` on, and not new.
    pub fn known(now: Timestamp) -> Self {
        Self { known_since: Coarse::of(now), ready_since: AtomicU64::new(0), sent: Tally::default() }
    }

    /// It has become ready, beside others that were.
    pub fn became_ready(&self, now: Timestamp) {
        self.ready_since.store(now.0.max(1), Relaxed);
    }

    /// For how many seconds it has been known.
    #[inline]
    pub(crate) fn known_for_s(&self, now: Coarse) -> f32 {
        now.seconds_since(self.known_since)
    }

    /// Since when it has been ready; `None`: it was there from the start.
    pub fn ready_since(&self) -> Option<Timestamp> {
        Some(self.ready_since.load(Relaxed)).filter(|since| *since != 0).map(Timestamp)
    }

    /// For how many seconds it has been ready beside others that were before; `None`: it was there from the start.
    #[inline]
    pub(crate) fn ready_for_s(&self, now: Coarse) -> Option<f32> {
        self.ready_since().map(|since| now.seconds_since(Coarse::of(since)))
    }

    /// Until when its share is held, if it ever was.
    pub fn held_until(&self) -> Option<Timestamp> {
        self.ready_since().map(|since| since + LENGTH + SECOND)
    }

    /// Whether its share is held now.
    pub fn is_held(&self, now: Timestamp) -> bool {
        self.held_until().is_some_and(|until| now < until)
    }

    /// Whether the endpoint with this key may get one of the requests of a window, of which `all` have come so far; `share` of them are meant for it.
    pub fn may(&self, key: EndpointKey, window: Window, all: u32, share: f64) -> bool {
        // Fractions of a request are rounded up in some windows and down in others, as often as they are large: on average nothing is added.
        let rounding = (u64::from(window.0) ^ key.0).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 11;
        let rounding = rounding as f64 / (1u64 << 53) as f64;
        let allowed = SHARE_MAX * share * f64::from(all) + rounding;
        f64::from(self.sent.get(window)) + 1.0 <= allowed
    }

    /// It gets one.
    pub fn gets(&self, window: Window) {
        self.sent.count(window);
    }
}

/// Whether so many new endpoints among so many are few enough to be held: a quarter. Where more are new, as in a rollout, they have to carry what the
/// others cannot: held to the mean, they and the old ones are overloaded (docs/simulation.md).
pub fn are_few(new: usize, endpoints: usize) -> bool {
    new * 4 <= endpoints
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_many_are_new_nobody_is_held() {
        assert!(are_few(1, 4) && are_few(8, 32));
        assert!(!are_few(1, 3) && !are_few(9, 32) && !are_few(3, 3));
    }

    #[test]
    fn only_one_that_became_ready_beside_others_is_held_and_a_second_longer_than_it_is_new() {
        let arrival = Arrival::known(Timestamp(5));
        assert!(!arrival.is_held(Timestamp(5)) && arrival.ready_since().is_none());
        let ready = Timestamp::from_millis(1000);
        arrival.became_ready(ready);
        assert_eq!(arrival.ready_since(), Some(ready));
        assert!(arrival.is_held(ready + LENGTH));
        assert!(!arrival.is_held(ready + LENGTH + SECOND));
    }

    #[test]
    fn a_newcomer_that_everything_would_go_to_gets_its_share_and_a_fifth() {
        for (rps, endpoints) in [(4000, 10), (400, 10), (2000, 5000)] {
            let (all, newcomer) = (Tally::default(), Arrival::known(Timestamp(0)));
            let mut got = 0;
            for request in 0..10 * rps {
                let window = Window::of(Timestamp(request * 1_000_000_000 / rps));
                let so_far = all.count(window);
                if newcomer.may(EndpointKey(77), window, so_far, 1.0 / endpoints as f64) {
                    newcomer.gets(window);
                    got += 1;
                }
            }
            let expected = SHARE_MAX * 10.0 * rps as f64 / endpoints as f64;
            let got = f64::from(got);
            assert!(
                (got - expected).abs() <= 0.1 * expected + 5.0,
                "{got} of {rps}/s over {endpoints}, {expected} expected"
            );
        }
    }
}
