//! The kinds of requests with the most work, out of any number of them: the Space-Saving sketch (Metwally, Agrawal, El Abbadi: "Efficient
//! computation of frequent and top-k elements in data streams", ICDT 2005) over samples, with counts that fade.
//!
//! Each request counts with its work (its latency) and with the work of the mean request, half and half: so both kinds that take much time and
//! kinds that come often are found. Where a newcomer takes the place of the least of those that are kept, it takes over its count as a possible
//! error; only what is beyond that error is believed. A client that makes up paths therefore cannot push out a kind with more than 1/128 of
//! the whole, and what it makes up is never believed to be more than it is.

use std::time::Duration;

use crate::{api::v1, config::ClassKey, time::Timestamp};

/// Kinds that are kept. With the longest name of each (283 bytes) and its numbers a sketch takes less than 64 KiB.
pub const CANDIDATES_MAX: usize = 128;
/// Kinds that are reported.
pub const REPORTED_MAX: usize = 32;
/// After this long a sample counts half.
const HALF_LIFE: Duration = Duration::from_secs(30);
/// Share of a kind's answers that were faster than what is taken for its cost: low enough to see past queues.
const COST_QUANTILE: f64 = 0.25;
/// Least step of the estimate of that quantile, on a logarithmic scale.
const COST_STEP_MIN: f64 = 0.05;
/// An answer of this kind took no time that could be told.
const LATENCY_MS_MIN: f64 = 1e-3;

/// The sketch of one backend.
#[derive(Debug, Clone)]
pub struct Candidates {
    entries: Vec<Entry>,
    requests: f64,
    work_ms: f64,
    /// Seconds that all this covers, with those of long ago counting less.
    covered_s: f64,
    faded_at: Timestamp,
}

#[derive(Debug, Clone)]
struct Entry {
    key: ClassKey,
    name: Box<str>,
    /// What the sketch sorts by, and how much of it may be that of others.
    mass: f64,
    error: f64,
    requests: f64,
    work_ms: f64,
    samples: f64,
    cost_ms: f64,
}

/// One sampled request.
#[derive(Debug, Clone, Copy)]
pub struct Sample<'a> {
    /// Its key.
    pub key: ClassKey,
    /// Its name.
    pub name: &'a str,
    /// How long its answer took.
    pub latency_ms: f64,
    /// Requests that it stands for: one over the share that is sampled.
    pub weight: f64,
}

impl Candidates {
    /// An empty one.
    pub fn new(now: Timestamp) -> Self {
        Self { entries: Vec::new(), requests: 0.0, work_ms: 0.0, covered_s: 0.0, faded_at: now }
    }

    /// Takes in a sample. One whose numbers cannot be is left out.
    pub fn add(&mut self, sample: &Sample<'_>) {
        let Sample { key, name, latency_ms, weight } = *sample;
        if !(latency_ms.is_finite() && weight.is_finite() && latency_ms >= 0.0 && weight > 0.0) {
            return;
        }
        let latency_ms = latency_ms.max(LATENCY_MS_MIN);
        self.requests += weight;
        self.work_ms += weight * latency_ms;
        let mass = weight * (latency_ms + self.work_ms / self.requests) / 2.0;
        let index = self.entries.iter().position(|entry| entry.key == key).unwrap_or_else(|| self.make_room(key, name));
        let entry = &mut self.entries[index];
        entry.mass += mass;
        entry.requests += weight;
        entry.work_ms += weight * latency_ms;
        entry.samples += 1.0;
        entry.learn_cost(latency_ms);
    }

    /// Lets the past count less; call it every second or so.
    pub fn fade(&mut self, now: Timestamp) {
        let passed_s = now.since(self.faded_at).as_secs_f64();
        self.faded_at = now;
        let kept = 0.5_f64.powf(passed_s / HALF_LIFE.as_secs_f64());
        self.covered_s = (self.covered_s + passed_s) * kept;
        self.requests *= kept;
        self.work_ms *= kept;
        for entry in &mut self.entries {
            for number in
                [&mut entry.mass, &mut entry.error, &mut entry.requests, &mut entry.work_ms, &mut entry.samples]
            {
                *number *= kept;
            }
        }
    }

    /// The kinds with the most work for certain, most first, as they are reported; `None` before there is anything to tell.
    pub fn report(&self) -> Option<v1::ClassCandidates> {
        if self.covered_s <= 0.0 || self.requests <= 0.0 {
            return None;
        }
        let per_s = |number: f64| (number / self.covered_s) as f32;
        let mut certain: Vec<&Entry> = self.entries.iter().filter(|entry| entry.mass > entry.error).collect();
        certain.sort_by(|a, b| (b.mass - b.error).total_cmp(&(a.mass - a.error)));
        certain.truncate(REPORTED_MAX);
        let one = |entry: &&Entry| v1::ClassCandidate {
            key: entry.key.0,
            name: entry.name.to_string(),
            requests_per_s: per_s(entry.requests),
            work_ms_per_s: per_s(entry.work_ms),
            cost_ms: entry.cost_ms as f32,
            samples: entry.samples as f32,
        };
        Some(v1::ClassCandidates {
            top: certain.iter().map(one).collect(),
            requests_per_s: per_s(self.requests),
            work_ms_per_s: per_s(self.work_ms),
        })
    }

    /// The position of a new entry: at the end, or in place of the least.
    fn make_room(&mut self, key: ClassKey, name: &str) -> usize {
        let mut entry = Entry {
            key,
            name: name.into(),
            mass: 0.0,
            error: 0.0,
            requests: 0.0,
            work_ms: 0.0,
            samples: 0.0,
            cost_ms: 0.0,
        };
        if self.entries.len() < CANDIDATES_MAX {
            self.entries.push(entry);
            return self.entries.len() - 1;
        }
        let masses = self.entries.iter().map(|entry| entry.mass).enumerate();
        let (least, mass) = masses.min_by(|(_, a), (_, b)| a.total_cmp(b)).unwrap_or((0, 0.0));
        (entry.mass, entry.error) = (mass, mass);
        self.entries[least] = entry;
        least
    }
}

impl Entry {
    /// Moves the estimate of the low quantile (Robbins and Monro 1951): down by more than up, so that it rests where the answers below are as
    /// many as they should be.
    fn learn_cost(&mut self, latency_ms: f64) {
        if self.cost_ms == 0.0 {
            self.cost_ms = latency_ms;
            return;
        }
        let step = (2.0 / self.samples.max(1.0)).max(COST_STEP_MIN);
        let below = if latency_ms < self.cost_ms { 1.0 } else { 0.0 };
        self.cost_ms *= (step * (COST_QUANTILE - below)).exp();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::{Rng, SeedableRng, rngs::SmallRng};

    use super::*;
    use crate::class::identity::key_of;

    const T: Timestamp = Timestamp::from_millis(1_000_000);

    fn add(candidates: &mut Candidates, name: &str, latency_ms: f64) {
        candidates.add(&Sample { key: key_of(name), name, latency_ms, weight: 1.0 });
    }

    fn names(report: &v1::ClassCandidates) -> Vec<&str> {
        report.top.iter().map(|candidate| &*candidate.name).collect()
    }

    #[test]
    fn a_million_made_up_paths_take_no_more_memory_and_push_nothing_out() {
        let mut candidates = Candidates::new(T);
        let mut rng = SmallRng::seed_from_u64(1);
        for round in 0..1_000_000_u64 {
            add(&mut candidates, &format!("GET /{:x}/{}", rng.random::<u64>(), "x".repeat(250)), 1.0);
            if round % 20 == 0 {
                add(&mut candidates, "GET /report", 20.0);
                add(&mut candidates, "GET /item", 1.0);
            }
            if round % 10_000 == 0 {
                candidates.fade(T + Duration::from_millis(round / 10));
            }
        }
        candidates.fade(T + Duration::from_secs(100));
        let bytes: usize = candidates.entries.iter().map(|entry| size_of::<Entry>() + entry.name.len()).sum();
        assert!(candidates.entries.len() <= CANDIDATES_MAX && bytes < 64 << 10, "{bytes} bytes");
        let report = candidates.report().unwrap();
        assert_eq!(names(&report)[..2], ["GET /report", "GET /item"]);
        assert!(report.top.len() <= REPORTED_MAX);
        let (report_share, made_up) = (&report.top[0], &report.top[2]);
        assert!((report_share.work_ms_per_s / report.work_ms_per_s - 0.49).abs() < 0.03, "{report_share:?}");
        assert!(made_up.work_ms_per_s / report.work_ms_per_s < 1e-3, "{made_up:?}");
    }

    #[test]
    fn rates_are_those_of_the_last_minute() {
        let mut candidates = Candidates::new(T);
        for second in 1..=300 {
            (0..50).for_each(|_| add(&mut candidates, "GET /a", 2.0));
            if second <= 60 {
                (0..50).for_each(|_| add(&mut candidates, "GET /b", 2.0));
            }
            candidates.fade(T + Duration::from_secs(second));
        }
        let report = candidates.report().unwrap();
        let [a, b] = &report.top[..] else { panic!("two kinds") };
        assert!((a.requests_per_s - 50.0).abs() < 1.0 && (a.work_ms_per_s - 100.0).abs() < 2.0, "{a:?}");
        assert!(b.requests_per_s < 0.5, "{b:?}");
    }

    #[test]
    fn a_sample_counts_for_all_that_it_stands_for() {
        let mut candidates = Candidates::new(T);
        candidates.add(&Sample { key: ClassKey(1), name: "a", latency_ms: 3.0, weight: 40.0 });
        for (latency_ms, weight) in [(f64::NAN, 1.0), (-1.0, 1.0), (1.0, 0.0), (1.0, f64::INFINITY)] {
            candidates.add(&Sample { key: ClassKey(2), name: "b", latency_ms, weight });
        }
        candidates.fade(T + Duration::from_secs(1));
        let report = candidates.report().unwrap();
        assert!((report.requests_per_s - 40.0).abs() < 2.0, "{report:?}");
        assert_eq!(names(&report), ["a"]);
    }

    #[test]
    fn the_cost_is_a_low_quantile_of_the_latency() {
        let mut candidates = Candidates::new(T);
        let mut rng = SmallRng::seed_from_u64(2);
        for _ in 0..5_000 {
            add(&mut candidates, "a", 10.0 + rng.random::<f64>() * 20.0);
        }
        candidates.fade(T + Duration::from_secs(1));
        let cost = candidates.report().unwrap().top[0].cost_ms;
        assert!((cost - 15.0).abs() < 3.0, "{cost}");
    }

    proptest! {
        #[test]
        fn what_is_kept_is_counted_to_within_a_128th_of_all(seed: u64, kinds in 1_usize..2_000, skew in 0.5..4.0_f64) {
            let mut rng = SmallRng::seed_from_u64(seed);
            let mut candidates = Candidates::new(T);
            let mut truth = vec![0.0; kinds];
            for _ in 0..20_000 {
                let kind = (rng.random::<f64>().powf(skew) * kinds as f64) as usize;
                truth[kind] += 1.0;
                add(&mut candidates, &kind.to_string(), 1.0);
            }
            for (kind, count) in truth.iter().enumerate().filter(|(_, count)| **count > 20_000.0 / 128.0) {
                let found = candidates.entries.iter().find(|entry| entry.key == key_of(&kind.to_string()));
                prop_assert!(found.is_some(), "kind {} with {} of 20,000 was lost", kind, count);
            }
            for entry in &candidates.entries {
                let count = truth[entry.name.parse::<usize>().unwrap()];
                prop_assert!(entry.mass - entry.error <= count + 1e-6 && count <= entry.mass + 1e-6);
                prop_assert!(entry.requests <= count);
            }
        }
    }
}
