//! How late a worker is. One that has much to do at once (clients that arrive together and want handshakes, above all), or that is not given its core,
//! reads answers some time after they have come. That time is no queue of the endpoint: admission control would shed, and the latency factor turn away from
//! endpoints that are well.
//!
//! While requests wait for answers the worker has a heartbeat, a timer that is handled as any socket is: looked for where sockets are looked for, and
//! waiting its turn where their tasks do. When it comes late, so do answers. An answer that is read can have lain no longer than since the worker looked for the last
//! time before; this much of its wait, and never more than the wait itself, does not count. So an endpoint's queue that is longer than the worker's turns
//! is seen however busy the worker is. Pure: time is an argument.

use std::time::Duration;

use crate::time::Timestamp;

/// Time from one beat to the next.
pub const PERIOD: Duration = Duration::from_millis(2);
/// A beat that comes within this after the last is in time: timers count whole milliseconds, and go off up to two late on an idle worker.
const IN_TIME: Duration = Duration::from_millis(4);

/// What the heartbeat tells of one worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lateness {
    /// The last beat; `None`: there was none, as nobody waits for anything.
    beat_at: Option<Timestamp>,
    /// Time from the one before to it, and from the one before that to that.
    gap: Duration,
    gap_before: Duration,
}

impl Lateness {
    /// A beat. Returns by how much it was late.
    pub fn beat(&mut self, now: Timestamp) -> Duration {
        self.gap_before = self.gap;
        self.gap = self.beat_at.replace(now).map_or(Duration::ZERO, |before| now.since(before));
        if self.gap > IN_TIME { self.gap - PERIOD } else { Duration::ZERO }
    }

    /// For how long what is read at `now` may have lain unread: since the worker looked in the turn before this one. The beat of that turn came after that
    /// look, which came after the beat before; and this turn may have had its beat already.
    #[inline]
    pub fn at(&self, now: Timestamp) -> Duration {
        let Some(beat_at) = self.beat_at else { return Duration::ZERO };
        let since = now.since(beat_at);
        let late = since.max(self.gap).max(self.gap_before) > IN_TIME;
        if late { since + self.gap + self.gap_before } else { Duration::ZERO }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_millis(1_000 + millis)
    }

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// After beats at these milliseconds.
    fn after(beats: &[u64]) -> Lateness {
        let mut lateness = Lateness::default();
        for millis in beats {
            lateness.beat(at(*millis));
        }
        lateness
    }

    #[test]
    fn a_worker_that_is_in_time_takes_nothing_off() {
        let lateness = after(&[0, 2, 5, 9]);
        assert_eq!((lateness.at(at(9)), lateness.at(at(13))), (ms(0), ms(0)));
        assert_eq!(Lateness::default().at(at(50)), ms(0), "at rest");
    }

    #[test]
    fn what_is_read_after_a_long_turn_may_have_lain_all_of_it() {
        // The turn from 2 to 52. Whether the heartbeat has its turn before the answer or after makes no difference.
        assert_eq!(after(&[0, 2]).at(at(52)), ms(52));
        let mut lateness = after(&[0, 2]);
        assert_eq!(lateness.beat(at(51)), ms(47));
        assert_eq!(lateness.at(at(52)), ms(52));
        // Two in a row: it may have come just after it was looked in the first, and waits for its turn in the second.
        assert_eq!(after(&[0, 2, 52]).at(at(102)), ms(102));
        // It may have come before the beat of a turn that went on, and a beat in time after that says nothing. A second one ends it.
        assert_eq!(after(&[0, 2, 52, 54]).at(at(55)), ms(53));
        assert_eq!(after(&[0, 2, 52, 54, 56]).at(at(57)), ms(0));
    }

    proptest! {
        // The twin knows when the worker looked: at the start of each turn, in which the heartbeat, if its time has come, and the answer have their places.
        #[test]
        fn nothing_has_lain_longer_than_is_taken_off_but_for_what_a_worker_in_time_takes(
            turns in prop::collection::vec(1u64..60, 3..20),
            place in 0.0f64..1.0,
            beat_place in 0.0f64..1.0,
            came in 0.0f64..1.0,
        ) {
            let mut lateness = Lateness::default();
            lateness.beat(at(0));
            let (mut start, mut due) = (0, 2);
            let mut taken = None;
            for (turn, length) in turns.iter().enumerate() {
                let read_at = start + (*length as f64 * place) as u64;
                let beat_at = start + (*length as f64 * beat_place) as u64;
                let read = |lateness: &Lateness| lateness.at(at(read_at));
                let last = turn + 1 == turns.len();
                if last && read_at < beat_at {
                    taken = Some(read(&lateness));
                }
                if start >= due {
                    lateness.beat(at(beat_at));
                    due = beat_at + 2;
                }
                if last {
                    // It came somewhere in the turn before, and was found when this one began.
                    let before = turns[turn - 1];
                    let lay = ms(read_at - (start - (before as f64 * came) as u64));
                    let taken = taken.unwrap_or_else(|| read(&lateness));
                    prop_assert!(taken >= lay || lay <= 2 * IN_TIME + PERIOD, "lay {lay:?}, taken off {taken:?}");
                    // Three times from a beat to the next, or to now: the rest of a turn, and the turn that comes once the next is due.
                    let longest = ms(turns.iter().copied().max().unwrap_or_default());
                    let bound = 3 * (2 * longest + PERIOD);
                    prop_assert!(taken <= bound, "taken off {taken:?} of at most {bound:?}");
                }
                start += length;
            }
        }
    }
}
