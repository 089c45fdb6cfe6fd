//! How slowly a client may send or take a body. Whoever sends a byte now and then is never silent for long, and would hold a request in flight for
//! ever: so a body has time to spare, which passes while the next move is the client's, and which bytes earn. Apache's `mod_reqtimeout` reckons
//! in the same way (`body=20,MinRate=500`), but counts time in which it was the server that did not read, and lets a client save up without end.

use std::{num::NonZeroU32, time::Duration};

use crate::time::Timestamp;

/// What is asked of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyRate {
    /// So many bytes earn a second.
    pub bytes_per_s: NonZeroU32,
    /// What there is to spare at the beginning. At most three times as much can be saved up.
    pub grace: Duration,
}

impl BodyRate {
    /// Bytes a second that any line can do.
    pub const BYTES_PER_S: NonZeroU32 = NonZeroU32::MIN.saturating_add(499);
    /// Apache's default; with what a body earns, pauses of a minute pass, as long as those after which a silent client is given up.
    pub const GRACE: Duration = Duration::from_secs(20);
    const SAVED_MAX: u32 = 3;
}

impl Default for BodyRate {
    fn default() -> Self {
        Self { bytes_per_s: Self::BYTES_PER_S, grace: Self::GRACE }
    }
}

/// One body in one direction.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    rate: Option<BodyRate>,
    spare: Duration,
    /// Since when it is the client's turn.
    since: Option<Timestamp>,
}

impl Pace {
    /// A body that is held to `rate`; `None`: to nothing.
    pub fn new(rate: Option<BodyRate>) -> Self {
        Self { rate, spare: rate.map_or(Duration::ZERO, |rate| rate.grace), since: None }
    }

    /// The next move is the client's.
    pub fn waits(&mut self, now: Timestamp) {
        self.since.get_or_insert(now);
    }

    /// Whether it is the client's turn.
    pub fn is_waiting(&self) -> bool {
        self.since.is_some()
    }

    /// The client has made a move.
    pub fn moved(&mut self, now: Timestamp) {
        if let Some(since) = self.since.take() {
            self.spare = self.spare.saturating_sub(now.since(since));
        }
    }

    /// So many bytes of content went by.
    pub fn earn(&mut self, bytes: u64) {
        if let Some(BodyRate { bytes_per_s, grace }) = self.rate {
            let earned = bytes.saturating_mul(1_000_000_000) / u64::from(bytes_per_s.get());
            self.spare = self.spare.saturating_add(Duration::from_nanos(earned)).min(grace * BodyRate::SAVED_MAX);
        }
    }

    /// When the client has been too slow; `MAX`: not if things stay as they are.
    pub fn due(&self) -> Timestamp {
        match (self.rate, self.since) {
            (Some(_), Some(since)) => since + self.spare,
            _ => Timestamp::MAX,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace() -> Pace {
        Pace::new(Some(BodyRate::default()))
    }

    fn at(seconds: f64) -> Timestamp {
        Timestamp::from_micros((1e6 * seconds) as u64)
    }

    /// When a client is cut off that moves so many bytes every so many seconds, for an hour at most.
    fn cut(mut pace: Pace, bytes: u64, every_s: f64) -> Option<f64> {
        let mut now_s = 0.0;
        while now_s < 3_600.0 {
            pace.waits(at(now_s));
            if pace.due() <= at(now_s + every_s) {
                return Some(pace.due().0 as f64 / 1e9);
            }
            now_s += every_s;
            pace.moved(at(now_s));
            pace.earn(bytes);
        }
        None
    }

    #[test]
    fn a_trickle_is_cut_off_and_a_slow_line_is_not() {
        assert_eq!(cut(pace(), 0, 1.0), Some(20.0));
        let trickle = cut(pace(), 1, 1.0).unwrap();
        assert!((20.0..21.0).contains(&trickle), "{trickle}");
        let half = cut(pace(), 250, 1.0).unwrap();
        assert!((39.0..41.0).contains(&half), "{half}");
        assert_eq!(cut(pace(), 500, 1.0), None);
        assert_eq!(cut(pace(), 9_500, 19.0), None);
        assert_eq!(cut(Pace::new(None), 0, 1.0), None);
    }

    #[test]
    fn what_was_sent_fast_is_not_saved_up_for_ever() {
        let mut pace = pace();
        pace.earn(1 << 30);
        pace.waits(at(0.0));
        assert_eq!(pace.due(), at(60.0));
    }

    #[test]
    fn time_in_which_it_is_not_the_clients_turn_does_not_count() {
        let mut pace = pace();
        pace.waits(at(0.0));
        pace.moved(at(15.0));
        assert_eq!(pace.due(), Timestamp::MAX);
        pace.waits(at(1_000.0));
        // Said again at every wake-up.
        pace.waits(at(1_002.0));
        assert_eq!(pace.due(), at(1_005.0));
    }
}
