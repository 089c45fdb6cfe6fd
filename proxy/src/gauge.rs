//! How many requests are in flight, and the integral of that over time, in one atomic word: a reader never sees one without the other.

use std::sync::atomic::{
    AtomicU64,
    Ordering::{AcqRel, Relaxed},
};

use crate::time::Timestamp;

const COUNT_BITS: u32 = 20;
const COUNT_MASK: u64 = (1 << COUNT_BITS) - 1;

/// Requests in flight (at most 1,048,575) and `S = Σ end − Σ begin` in microseconds modulo 2⁴⁴, so that `∫n dt = S + n·now`.
///
/// Each begin and end is one atomic addition to both. The integral is exact modulo 203 request-days, so differences between two readings
/// are right as long as they are shorter than that.
#[derive(Debug, Default)]
pub struct InFlight(AtomicU64);

/// A reading of the integral, in request-microseconds modulo 2⁴⁴.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RequestTime(u64);

impl InFlight {
    /// One more since `now`; returns how many there were before.
    pub fn begin(&self, now: Timestamp) -> u32 {
        let word = self.0.fetch_add(1u64.wrapping_sub(micros(now) << COUNT_BITS), Relaxed);
        (word & COUNT_MASK) as u32
    }

    /// One less since `now`. Without one in flight nothing happens: the count never underflows.
    pub fn end(&self, now: Timestamp) {
        let change = (micros(now) << COUNT_BITS).wrapping_sub(1);
        // Failing means that there was none to end.
        let _ = self.0.fetch_update(AcqRel, Relaxed, |word| (word & COUNT_MASK > 0).then(|| word.wrapping_add(change)));
    }

    /// Requests in flight.
    #[inline]
    pub fn count(&self) -> u32 {
        (self.0.load(Relaxed) & COUNT_MASK) as u32
    }

    /// Count and integral at `now`, of one instant.
    pub fn read(&self, now: Timestamp) -> (u32, RequestTime) {
        let word = self.0.load(Relaxed);
        let count = word & COUNT_MASK;
        let integral = (word >> COUNT_BITS).wrapping_add(count.wrapping_mul(micros(now)));
        (count as u32, RequestTime(integral & (u64::MAX >> COUNT_BITS)))
    }
}

impl RequestTime {
    /// Request-seconds since an earlier reading.
    pub fn seconds_since(self, earlier: Self) -> f64 {
        const SIGN: u64 = 1 << (63 - COUNT_BITS);
        let difference = self.0.wrapping_sub(earlier.0) & (u64::MAX >> COUNT_BITS);
        // Workers read the clock at slightly different times: a difference just below zero is zero.
        if difference & SIGN != 0 { 0.0 } else { difference as f64 * 1e-6 }
    }
}

fn micros(time: Timestamp) -> u64 {
    time.0 / 1_000
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ending_what_never_began_changes_nothing() {
        let gauge = InFlight::default();
        gauge.end(Timestamp::from_millis(5));
        assert_eq!(gauge.read(Timestamp::from_millis(7)), (0, RequestTime(0)));
    }

    proptest! {
        #[test]
        fn the_integral_equals_the_sum_of_times_in_flight(
            origin in 0u64..u64::MAX / 2,
            requests in prop::collection::vec((0u64..10_000_000, 0u64..10_000_000), 0..50),
            at in 0u64..20_000_000,
        ) {
            // A twin that remembers every request: its begin and end in microseconds after the origin.
            let origin = origin / 1_000;
            let time = |micros: u64| Timestamp::from_micros(origin + micros);
            let gauge = InFlight::default();
            let start = gauge.read(time(0)).1;
            let mut expected = 0;
            let mut in_flight = 0;
            for &(begin, length) in requests.iter().filter(|(begin, _)| *begin <= at) {
                gauge.begin(time(begin));
                if begin + length <= at {
                    gauge.end(time(begin + length));
                    expected += length;
                } else {
                    expected += at - begin;
                    in_flight += 1;
                }
            }
            let (count, integral) = gauge.read(time(at));
            prop_assert_eq!(count, in_flight);
            prop_assert!((integral.seconds_since(start) - expected as f64 * 1e-6).abs() < 1e-6);
        }
    }
}
