//! A latency histogram with fixed log-linear buckets: what proxies record per endpoint, report, and the controller merges.
//!
//! Every octave from 65.5 µs to 137 s is cut into 16 buckets of equal width; below and above lie one bucket each. Because the bounds
//! are the same everywhere, merging is addition. A quantile lies in the right bucket and is interpolated there, so within the range its
//! relative error is below 1/16 (6.3 %), and about half that where answers are spread evenly.

use std::{
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::Duration,
};

use crate::{api::v1, time::nanos};

/// Latencies below this many nanoseconds share bucket 0.
const FLOOR_BITS: u32 = 16;
/// Latencies from this many nanoseconds on share the last bucket.
const CEILING_BITS: u32 = 37;
const SUB_BITS: u32 = 4;
const SUB_BUCKETS: usize = 1 << SUB_BITS;

/// Number of buckets: one below, 21 octaves of 16, one above.
pub const BUCKETS: usize = (CEILING_BITS - FLOOR_BITS) as usize * SUB_BUCKETS + 2;

/// Upper bound of a quantile's relative error for latencies between 65.5 µs and 137 s.
pub const RELATIVE_ERROR: f64 = 1.0 / SUB_BUCKETS as f64;

/// The bucket that a latency falls into.
fn bucket_of(latency_ns: u64) -> usize {
    if latency_ns < 1 << FLOOR_BITS {
        return 0;
    }
    if latency_ns >= 1 << CEILING_BITS {
        return BUCKETS - 1;
    }
    let octave = latency_ns.ilog2();
    let within = (latency_ns >> (octave - SUB_BITS)) as usize & (SUB_BUCKETS - 1);
    1 + (octave - FLOOR_BITS) as usize * SUB_BUCKETS + within
}

/// Lower and upper bound of a bucket in milliseconds. The last one has no upper bound; it is given the width of one octave.
pub fn bounds_ms(bucket: usize) -> (f64, f64) {
    let lower_ns = |bucket: usize| {
        let octave = (bucket - 1) / SUB_BUCKETS;
        let within = (bucket - 1) % SUB_BUCKETS;
        f64::from(1u32 << FLOOR_BITS) * (1u64 << octave) as f64 * (1.0 + within as f64 / SUB_BUCKETS as f64)
    };
    match bucket {
        0 => (0.0, lower_ns(1) * 1e-6),
        bucket if bucket < BUCKETS - 1 => (lower_ns(bucket) * 1e-6, lower_ns(bucket + 1) * 1e-6),
        _ => (lower_ns(BUCKETS - 1) * 1e-6, lower_ns(BUCKETS - 1) * 2e-6),
    }
}

/// A sketch that does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SketchError {
    /// The two lists of a sparse sketch differ in length.
    #[error("{buckets} buckets but {counts} counts: there must be one count a bucket")]
    Lengths {
        /// Length of `buckets`.
        buckets: usize,
        /// Length of `counts`.
        counts: usize,
    },
    /// A bucket that does not exist.
    #[error("bucket {0} does not exist: buckets are 0..{BUCKETS}")]
    Bucket(u32),
}

/// The form for the hot path: shared by all workers, one relaxed addition a latency. Counts wrap at 2³²; reports are differences.
#[derive(Debug)]
pub struct AtomicSketch {
    counts: Box<[AtomicU32]>,
}

impl AtomicSketch {
    /// An empty one.
    pub fn new() -> Self {
        Self { counts: (0..BUCKETS).map(|_| AtomicU32::new(0)).collect() }
    }

    /// Counts one latency.
    pub fn record(&self, latency: Duration) {
        self.counts[bucket_of(nanos(latency))].fetch_add(1, Relaxed);
    }

    /// What was recorded since the previous call with the same `previous`, which is brought up to date.
    pub fn delta(&self, previous: &mut Snapshot) -> Sketch {
        let mut sketch = Sketch::default();
        previous.0.resize(BUCKETS, 0);
        for (bucket, (count, previous)) in self.counts.iter().zip(&mut previous.0).enumerate() {
            let count = count.load(Relaxed);
            sketch.add(bucket, u64::from(count.wrapping_sub(*previous)));
            *previous = count;
        }
        sketch
    }
}

impl Default for AtomicSketch {
    fn default() -> Self {
        Self::new()
    }
}

/// The raw counts of an [`AtomicSketch`] at some time: what [`AtomicSketch::delta`] subtracts.
#[derive(Debug, Clone, Default)]
pub struct Snapshot(Vec<u32>);

/// The plain form, for merging and reading. An empty one owns no memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sketch {
    /// Counts by bucket, as long as the highest bucket in use needs.
    counts: Vec<u64>,
    total: u64,
}

impl Sketch {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts one latency.
    pub fn record(&mut self, latency: Duration) {
        self.add(bucket_of(nanos(latency)), 1);
    }

    /// Adds all that another counted.
    pub fn merge(&mut self, other: &Self) {
        if self.counts.len() < other.counts.len() {
            self.counts.resize(other.counts.len(), 0);
        }
        for (count, other) in self.counts.iter_mut().zip(&other.counts) {
            *count += other;
        }
        self.total += other.total;
    }

    /// Adds what a proxy reported, without an intermediate sketch.
    ///
    /// # Errors
    /// If the lists do not match or name a bucket that does not exist; nothing is added then.
    pub fn merge_wire(&mut self, wire: &v1::LatencySketch) -> Result<(), SketchError> {
        if wire.buckets.len() != wire.counts.len() {
            return Err(SketchError::Lengths { buckets: wire.buckets.len(), counts: wire.counts.len() });
        }
        if let Some(&bucket) = wire.buckets.iter().find(|&&bucket| bucket as usize >= BUCKETS) {
            return Err(SketchError::Bucket(bucket));
        }
        for (&bucket, &count) in wire.buckets.iter().zip(&wire.counts) {
            self.add(bucket as usize, u64::from(count));
        }
        Ok(())
    }

    /// How many latencies were counted.
    pub fn count(&self) -> u64 {
        self.total
    }

    /// Whether nothing was counted.
    pub fn is_empty(&self) -> bool {
        self.total == 0
    }

    /// Forgets everything and keeps the memory.
    pub fn clear(&mut self) {
        self.counts.fill(0);
        self.total = 0;
    }

    /// The latency in milliseconds below which the share `q` (clamped to 0..=1) of all lies; `None` of an empty sketch.
    pub fn quantile_ms(&self, q: f64) -> Option<f64> {
        self.quantiles_ms([q]).map(|[quantile]| quantile)
    }

    /// Several quantiles in one pass; `shares` must ascend.
    pub fn quantiles_ms<const N: usize>(&self, shares: [f64; N]) -> Option<[f64; N]> {
        if self.total == 0 {
            return None;
        }
        let ranks = shares.map(|q| q.clamp(0.0, 1.0) * self.total as f64);
        let mut quantiles = [0.0; N];
        let mut found = 0;
        let mut below = 0;
        for (bucket, &count) in self.counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            let (lower, upper) = bounds_ms(bucket);
            while found < N && (below + count) as f64 >= ranks[found] {
                let within = ((ranks[found] - below as f64) / count as f64).clamp(0.0, 1.0);
                quantiles[found] = lower + (upper - lower) * within;
                found += 1;
            }
            if found == N {
                break;
            }
            below += count;
            // A rank that rounding put beyond the last count lies at the end.
            quantiles[found..].fill(upper);
        }
        Some(quantiles)
    }

    /// Mean in milliseconds, from the middles of the buckets; `None` of an empty sketch.
    pub fn mean_ms(&self) -> Option<f64> {
        if self.total == 0 {
            return None;
        }
        let sum: f64 = self
            .counts
            .iter()
            .enumerate()
            .filter(|(_, count)| **count > 0)
            .map(|(bucket, &count)| {
                let (lower, upper) = bounds_ms(bucket);
                (lower + upper) / 2.0 * count as f64
            })
            .sum();
        Some(sum / self.total as f64)
    }

    /// Share of latencies at or below `limit_ms`, 0..=1, interpolated within its bucket; `None` of an empty sketch.
    pub fn share_within(&self, limit_ms: f64) -> Option<f64> {
        if self.total == 0 {
            return None;
        }
        let within: f64 = self
            .counts
            .iter()
            .enumerate()
            .filter(|(_, count)| **count > 0)
            .map(|(bucket, &count)| {
                let (lower, upper) = bounds_ms(bucket);
                ((limit_ms - lower) / (upper - lower)).clamp(0.0, 1.0) * count as f64
            })
            .sum();
        Some(within / self.total as f64)
    }

    fn add(&mut self, bucket: usize, count: u64) {
        if count == 0 {
            return;
        }
        if self.counts.len() <= bucket {
            self.counts.resize(bucket + 1, 0);
        }
        self.counts[bucket] += count;
        self.total += count;
    }
}

impl From<&Sketch> for v1::LatencySketch {
    fn from(sketch: &Sketch) -> Self {
        let used = sketch.counts.iter().enumerate().filter(|(_, count)| **count > 0);
        let (buckets, counts) =
            used.map(|(bucket, &count)| (bucket as u32, u32::try_from(count).unwrap_or(u32::MAX))).unzip();
        Self { buckets, counts }
    }
}

impl TryFrom<&v1::LatencySketch> for Sketch {
    type Error = SketchError;

    fn try_from(wire: &v1::LatencySketch) -> Result<Self, SketchError> {
        let mut sketch = Self::default();
        sketch.merge_wire(wire)?;
        Ok(sketch)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sketch_of(latencies_ns: &[u64]) -> Sketch {
        let mut sketch = Sketch::new();
        latencies_ns.iter().for_each(|&ns| sketch.record(Duration::from_nanos(ns)));
        sketch
    }

    #[test]
    fn buckets_touch_each_other_and_hold_what_falls_into_them() {
        for bucket in 0..BUCKETS - 1 {
            let (_, upper) = bounds_ms(bucket);
            let next = bounds_ms(bucket + 1).0;
            assert!((upper - next).abs() < 1e-9 * upper, "bucket {bucket}");
            assert_eq!(bucket_of((next * 1e6).round() as u64), bucket + 1);
            assert_eq!(bucket_of((next * 1e6).round() as u64 - 1), bucket);
        }
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn a_sketch_that_does_not_hold_is_refused_and_adds_nothing() {
        let mut sketch = sketch_of(&[1_000_000]);
        let lengths = v1::LatencySketch { buckets: vec![1, 2], counts: vec![1] };
        assert_eq!(sketch.merge_wire(&lengths), Err(SketchError::Lengths { buckets: 2, counts: 1 }));
        let bucket = v1::LatencySketch { buckets: vec![1, 99_999], counts: vec![1, 1] };
        assert_eq!(sketch.merge_wire(&bucket), Err(SketchError::Bucket(99_999)));
        assert_eq!(sketch.count(), 1);
    }

    #[test]
    fn an_empty_sketch_has_no_quantile() {
        assert_eq!(Sketch::new().quantile_ms(0.5), None);
        assert_eq!(Sketch::new().mean_ms(), None);
        assert_eq!(Sketch::new().share_within(1.0), None);
    }

    #[test]
    fn deltas_of_the_atomic_form_add_up() {
        let shared = AtomicSketch::new();
        let mut snapshot = Snapshot::default();
        shared.record(Duration::from_millis(3));
        assert_eq!(shared.delta(&mut snapshot), sketch_of(&[3_000_000]));
        shared.record(Duration::from_millis(50));
        shared.record(Duration::from_millis(3));
        assert_eq!(shared.delta(&mut snapshot), sketch_of(&[3_000_000, 50_000_000]));
        assert!(shared.delta(&mut snapshot).is_empty());
    }

    proptest! {
        #[test]
        fn a_quantile_is_within_the_stated_error(
            mut latencies_ns in prop::collection::vec(70_000u64..130_000_000_000, 1..200),
            q in 0.0f64..=1.0,
        ) {
            let sketch = sketch_of(&latencies_ns);
            latencies_ns.sort_unstable();
            let index = ((q * latencies_ns.len() as f64).ceil() as usize).clamp(1, latencies_ns.len()) - 1;
            let exact = latencies_ns[index] as f64 * 1e-6;
            let estimate = sketch.quantile_ms(q).unwrap();
            prop_assert!((estimate - exact).abs() <= exact * RELATIVE_ERROR * 1.000_001, "{estimate} for {exact}");
        }

        #[test]
        fn quantiles_in_one_pass_are_those_one_by_one(
            latencies_ns in prop::collection::vec(any::<u64>(), 1..100),
            mut shares in prop::array::uniform4(0.0f64..=1.0),
        ) {
            shares.sort_by(f64::total_cmp);
            let sketch = sketch_of(&latencies_ns);
            let one_by_one = shares.map(|q| sketch.quantile_ms(q).unwrap());
            prop_assert_eq!(sketch.quantiles_ms(shares), Some(one_by_one));
        }

        #[test]
        fn the_wire_form_and_merging_lose_nothing(
            a in prop::collection::vec(any::<u64>(), 0..50),
            b in prop::collection::vec(0u64..1_000_000_000, 0..50),
        ) {
            let all: Vec<u64> = a.iter().chain(&b).copied().collect();
            let (a, b) = (sketch_of(&a), sketch_of(&b));
            let mut merged = Sketch::try_from(&v1::LatencySketch::from(&a)).unwrap();
            prop_assert_eq!(&merged, &a);
            merged.merge(&b);
            prop_assert_eq!(merged, sketch_of(&all));
        }
    }
}
