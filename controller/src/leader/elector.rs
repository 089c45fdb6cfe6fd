//! Who leads, decided from what a Lease says and when it was seen to say so: pure. As in client-go, clocks of different machines are never
//! compared: a lease has run out when this process has seen it unchanged for as long as it is good for.

use std::time::{Duration, Instant};

/// What a Lease says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Who holds it; `None`: it was given up.
    pub holder: Option<String>,
    /// When it was last renewed, as the holder wrote it; only compared with itself.
    pub renewed: String,
    /// How often it has changed hands.
    pub transitions: i32,
    /// How long it is good for without being renewed.
    pub duration: Duration,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Write the Lease with this identity as its holder.
    Write {
        /// How often it has changed hands then.
        transitions: i32,
    },
    /// Look again after this time, at the latest.
    Wait(Duration),
}

/// The state of one candidate.
#[derive(Debug)]
pub struct Elector {
    identity: String,
    poll: Duration,
    seen: Option<(Record, Instant)>,
    /// Whether the lease could not be read since it was last seen.
    blind: bool,
}

impl Elector {
    /// A candidate with this name, unique among all of them, that looks at least every `poll`.
    pub fn new(identity: String, poll: Duration) -> Self {
        Self { identity, poll, seen: None, blind: false }
    }

    /// Who holds the lease, as far as is known.
    pub fn holder(&self) -> Option<&str> {
        self.seen.as_ref().and_then(|(record, _)| record.holder.as_deref())
    }

    /// Whether this candidate does.
    pub fn leads(&self) -> bool {
        self.holder() == Some(&*self.identity)
    }

    /// The Lease was read, or written by this candidate: `None` if there is none.
    pub fn observe(&mut self, record: Option<Record>, now: Instant) {
        let blind = std::mem::take(&mut self.blind);
        match (record, &self.seen) {
            (None, _) => self.seen = None,
            (Some(record), Some((seen, _))) if record == *seen && !blind => {}
            (Some(record), _) => self.seen = Some((record, now)),
        }
    }

    /// The lease could not be read. Who holds it could not renew it either, as likely as not: that time does not count against it.
    pub fn lost_sight(&mut self) {
        self.blind = true;
    }

    /// What to do, given what was observed.
    pub fn step(&self, now: Instant) -> Step {
        let Some((record, at)) = &self.seen else { return Step::Write { transitions: 0 } };
        match &record.holder {
            Some(holder) if *holder == self.identity => Step::Write { transitions: record.transitions },
            None => Step::Write { transitions: record.transitions.saturating_add(1) },
            Some(_) => match (*at + record.duration).checked_duration_since(now) {
                Some(left) if !left.is_zero() => Step::Wait(left.min(self.poll)),
                _ => Step::Write { transitions: record.transitions.saturating_add(1) },
            },
        }
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a moment to count from")]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(2);
    const POLL: Duration = Duration::from_millis(250);

    fn record(holder: &str, renewed: u32) -> Option<Record> {
        let holder = (!holder.is_empty()).then(|| holder.to_owned());
        Some(Record { holder, renewed: renewed.to_string(), transitions: 3, duration: LEASE })
    }

    /// What a candidate "me" does after it has seen these records at these times (ms).
    fn check(seen: &[(u64, Option<Record>)], now_ms: u64, expected: Step) {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut elector = Elector::new("me".to_owned(), POLL);
        for (ms, record) in seen {
            elector.observe(record.clone(), at(*ms));
        }
        assert_eq!(elector.step(at(now_ms)), expected, "{seen:?} at {now_ms}");
    }

    #[test]
    fn a_lease_is_taken_when_it_is_free_and_renewed_when_it_is_held() {
        check(&[(0, None)], 0, Step::Write { transitions: 0 });
        check(&[(0, record("", 1))], 0, Step::Write { transitions: 4 });
        check(&[(0, record("me", 1))], 500, Step::Write { transitions: 3 });
    }

    #[test]
    fn a_lease_of_another_is_taken_only_when_it_was_not_renewed_for_all_its_time() {
        check(&[(0, record("she", 1))], 0, Step::Wait(POLL));
        check(&[(0, record("she", 1)), (1_900, record("she", 1))], 1_900, Step::Wait(Duration::from_millis(100)));
        check(&[(0, record("she", 1)), (1_900, record("she", 2))], 2_500, Step::Wait(POLL));
        check(&[(0, record("she", 1)), (2_000, record("she", 1))], 2_000, Step::Write { transitions: 4 });
    }

    #[test]
    fn time_without_sight_of_the_lease_does_not_count() {
        let start = Instant::now();
        let mut elector = Elector::new("me".to_owned(), POLL);
        elector.observe(record("she", 1), start);
        elector.lost_sight();
        let back = start + Duration::from_secs(60);
        elector.observe(record("she", 1), back);
        assert_eq!(elector.step(back), Step::Wait(POLL), "she is given the time to renew it");
        assert_eq!(elector.step(back + LEASE), Step::Write { transitions: 4 });
    }

    #[test]
    fn what_was_seen_first_by_a_newcomer_is_given_its_whole_time() {
        // The holder may have died an hour ago: only its clock would say so.
        check(&[(10_000, record("she", 1))], 11_900, Step::Wait(Duration::from_millis(100)));
    }

    #[test]
    fn two_candidates_never_both_hold_a_lease_that_only_one_of_them_could_write() {
        let start = Instant::now();
        let mut electors = ["a", "b"].map(|name| Elector::new(name.to_owned(), POLL));
        // A lease with optimistic concurrency: who writes first wins, the other reads.
        let (mut lease, mut version) = (None::<Record>, 0);
        let mut led = Vec::new();
        for tick in 0..200_u64 {
            let now = start + Duration::from_millis(tick * 50);
            for (index, elector) in electors.iter_mut().enumerate() {
                // "a" is dead from 3 s to 7 s.
                if index == 0 && (60..140).contains(&tick) {
                    continue;
                }
                let read = version;
                elector.observe(lease.clone(), now);
                if let Step::Write { transitions } = elector.step(now)
                    && read == version
                {
                    version += 1;
                    let holder = Some(["a", "b"][index].to_owned());
                    lease = Some(Record { holder, renewed: version.to_string(), transitions, duration: LEASE });
                    elector.observe(lease.clone(), now);
                }
            }
            led.push(lease.as_ref().and_then(|lease| lease.holder.clone()).unwrap_or_default());
        }
        let took_over = led.iter().position(|holder| holder == "b").unwrap();
        assert!((99..=101).contains(&took_over), "2 s after the last renewal at 2.95 s: {took_over}");
        assert!(led[took_over..].iter().all(|holder| holder == "b"), "the old one does not take it back");
        assert_eq!(lease.map(|lease| lease.transitions), Some(1));
    }
}
