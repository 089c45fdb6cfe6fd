//! When each source of events acts next. Every endpoint, every proxy's arrivals, the messages in transit, the timeline and
//! the controller are one source each with one pending time, so the heap holds a few dozen entries, whatever is in flight,
//! and moving a completion (a speed change, a request that joins) updates an entry in place instead of leaving a stale one.

use super::time::NEVER;

/// Children of a node: a flatter heap touches fewer cache lines than a binary one.
const ARITY: usize = 4;

/// A 4-ary min-heap over `(time, source)`, indexed by source. Ties go to the lower source: replays are exact.
#[derive(Debug, Clone)]
pub struct Schedule {
    heap: Vec<u128>,
    place: Vec<u32>,
}

impl Schedule {
    /// A schedule of so many sources, none of which has anything to do.
    pub fn new(sources: usize) -> Self {
        Self {
            heap: (0..sources as u32).map(|source| key(NEVER, source)).collect(),
            place: (0..sources as u32).collect(),
        }
    }

    /// The source that acts next, and when; `None` when none has anything to do.
    #[inline]
    pub fn next(&self) -> Option<(u64, u32)> {
        let (at_ns, source) = parts(*self.heap.first()?);
        (at_ns != NEVER).then_some((at_ns, source))
    }

    /// Sets when `source` acts next; [`NEVER`] takes it out.
    #[inline]
    pub fn set(&mut self, source: u32, at_ns: u64) {
        let place = self.place[source as usize] as usize;
        let new = key(at_ns, source);
        let old = self.heap[place];
        if new < old {
            self.sift_up(place, new);
        } else if new > old {
            self.sift_down(place, new);
        }
    }

    fn sift_up(&mut self, mut place: usize, entry: u128) {
        while place > 0 {
            let parent = (place - 1) / ARITY;
            if self.heap[parent] <= entry {
                break;
            }
            self.put(place, self.heap[parent]);
            place = parent;
        }
        self.put(place, entry);
    }

    fn sift_down(&mut self, mut place: usize, entry: u128) {
        loop {
            let first = place * ARITY + 1;
            let last = (first + ARITY).min(self.heap.len());
            let Some(least) = (first..last).min_by_key(|&child| self.heap[child]) else { break };
            if self.heap[least] >= entry {
                break;
            }
            self.put(place, self.heap[least]);
            place = least;
        }
        self.put(place, entry);
    }

    #[inline]
    fn put(&mut self, place: usize, entry: u128) {
        self.heap[place] = entry;
        self.place[parts(entry).1 as usize] = place as u32;
    }
}

const fn key(at_ns: u64, source: u32) -> u128 {
    (at_ns as u128) << 32 | source as u128
}

const fn parts(key: u128) -> (u64, u32) {
    ((key >> 32) as u64, key as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulator::random::{Purpose, stream};
    use rand::Rng;

    #[test]
    fn agrees_with_a_linear_scan_whatever_is_moved() {
        let mut rng = stream(3, Purpose::Scenario, 0);
        let mut slow = vec![NEVER; 37];
        let mut schedule = Schedule::new(slow.len());
        for _ in 0..20_000 {
            let source = rng.random_range(0..slow.len());
            let at_ns = if rng.random_bool(0.2) { NEVER } else { rng.random_range(0..500) };
            slow[source] = at_ns;
            schedule.set(source as u32, at_ns);
            let expected =
                slow.iter().enumerate().map(|(source, at)| (*at, source as u32)).min().filter(|(at, _)| *at != NEVER);
            assert_eq!(schedule.next(), expected);
        }
    }
}
