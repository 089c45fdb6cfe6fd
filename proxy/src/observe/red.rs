//! Rate, errors and duration by route and backend (the RED method). Each worker counts in cells of its own, which a scrape adds up: per
//! request there is no lock, no allocation and no line of memory that two cores write to.

pub mod otlp;

use std::{
    cell::RefCell,
    collections::BTreeMap,
    sync::{Arc, Weak},
    time::Duration,
};

use http::StatusCode;

use super::Blame;
use crate::{counters::Counter, time::nanos};

/// Upper bounds of the buckets of durations, in seconds: Prometheus' own, with three more below for services that answer at once.
pub const BOUNDS_S: [f64; 14] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// The same in nanoseconds.
const BOUNDS_NS: [u64; BOUNDS_S.len()] = [
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
];

/// Pairs of route and backend that are told apart; requests of further ones are counted together. Each is some 25 lines of a scrape.
pub const SERIES_MAX: usize = 1_000;
/// The backend of requests that got to none, and the route of those that matched none. No route or backend is called so: theirs have a slash.
pub const NONE: &str = "none";
/// Route and backend of what is beyond [`SERIES_MAX`].
pub const OTHER: &str = "other";

/// Classes of status as labels; the first is of requests that got no answer.
pub const CODES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// Requests of one route to one backend.
#[derive(Debug)]
pub struct Series {
    /// The route, with the name of the rule.
    pub route: Arc<str>,
    /// The backend.
    pub backend: Arc<str>,
    workers: Box<[Cells]>,
}

#[derive(Debug, Default)]
#[repr(align(128))]
struct Cells {
    codes: [Counter; CODES.len()],
    errors: [Counter; Blame::ALL.len()],
    /// Not cumulative; the last has no bound.
    buckets: [Counter; BOUNDS_S.len() + 1],
    sum_us: Counter,
}

/// A series, added up over the workers.
#[derive(Debug, Default, PartialEq)]
pub struct Sums {
    /// By class of status, as in [`CODES`].
    pub codes: [u64; CODES.len()],
    /// By who is to blame, as in [`Blame::ALL`].
    pub errors: [u64; Blame::ALL.len()],
    /// Durations by bucket, not cumulative.
    pub buckets: [u64; BOUNDS_S.len() + 1],
    /// Durations altogether, in seconds.
    pub sum_s: f64,
}

impl Sums {
    /// Requests altogether.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

impl Series {
    fn new(route: Arc<str>, backend: Arc<str>, workers: usize) -> Self {
        Self { route, backend, workers: (0..workers).map(|_| Cells::default()).collect() }
    }

    /// Counts a request that is over. Only the worker of that number may call it with that number.
    pub fn add(&self, worker: usize, status: Option<StatusCode>, blame: Option<Blame>, took: Duration) {
        let Some(cells) = self.workers.get(worker) else { return };
        let code = status.map_or(0, |status| usize::from(status.as_u16() / 100).min(5));
        cells.codes[code].add(1);
        if let Some(blame) = blame {
            cells.errors[blame as usize].add(1);
        }
        let took = nanos(took);
        let bucket = BOUNDS_NS.iter().position(|bound| took <= *bound).unwrap_or(BOUNDS_NS.len());
        cells.buckets[bucket].add(1);
        cells.sum_us.add(took / 1_000);
    }

    /// What all workers have counted.
    pub fn sums(&self) -> Sums {
        let mut sums = Sums::default();
        for cells in &self.workers {
            let add = |sums: &mut [u64], counters: &[Counter]| {
                sums.iter_mut().zip(counters).for_each(|(sum, counter)| *sum += counter.get());
            };
            add(&mut sums.codes, &cells.codes);
            add(&mut sums.errors, &cells.errors);
            add(&mut sums.buckets, &cells.buckets);
            sums.sum_s += cells.sum_us.get() as f64 * 1e-6;
        }
        sums
    }
}

/// Route and backend.
type Names = (Arc<str>, Arc<str>);

/// Series by what they are of. A series lives as long as a route does: one that goes and comes back begins at 0, which Prometheus takes
/// for a restart.
#[derive(Debug)]
pub struct Book {
    workers: usize,
    known: RefCell<BTreeMap<Names, Weak<Series>>>,
    other: Arc<Series>,
    unrouted: Arc<Series>,
}

impl Book {
    /// For so many workers.
    pub fn new(workers: usize) -> Self {
        let series = |name: &str| Arc::new(Series::new(name.into(), name.into(), workers));
        Self { workers, known: RefCell::default(), other: series(OTHER), unrouted: series(NONE) }
    }

    /// Requests that matched no route, or could not be looked for one.
    pub fn unrouted(&self) -> Arc<Series> {
        self.unrouted.clone()
    }

    /// The series of a route and a backend; of many others too, where there are too many.
    pub fn series(&self, route: &Arc<str>, backend: &str) -> Arc<Series> {
        let mut known = self.known.borrow_mut();
        let key = (route.clone(), Arc::from(backend));
        if let Some(series) = known.get(&key).and_then(Weak::upgrade) {
            return series;
        }
        if known.len() >= SERIES_MAX {
            known.retain(|_, series| series.strong_count() > 0);
        }
        if known.len() >= SERIES_MAX {
            return self.other.clone();
        }
        let series = Arc::new(Series::new(key.0.clone(), key.1.clone(), self.workers));
        known.insert(key, Arc::downgrade(&series));
        series
    }

    /// What is counted together beyond [`SERIES_MAX`].
    pub fn other(&self) -> Arc<Series> {
        self.other.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_workers_count_is_added_up() {
        let book = Book::new(2);
        let series = book.series(&"a/r".into(), "a/b:80");
        let ms = Duration::from_millis;
        series.add(0, Some(StatusCode::OK), None, ms(7));
        series.add(1, Some(StatusCode::OK), None, ms(10));
        series.add(1, Some(StatusCode::BAD_GATEWAY), Some(Blame::Upstream), ms(20_000));
        series.add(0, None, Some(Blame::Client), ms(0));
        // There is no such worker.
        series.add(2, None, None, ms(0));
        let sums = series.sums();
        assert_eq!(sums.codes, [1, 0, 2, 0, 0, 1]);
        assert_eq!(sums.errors, [1, 1, 0, 0]);
        assert_eq!(sums.count(), 4);
        assert_eq!((sums.buckets[0], sums.buckets[4], sums.buckets[14]), (1, 2, 1), "a bound belongs to its bucket");
        assert!((sums.sum_s - 20.017).abs() < 1e-9);
    }

    #[test]
    fn bounds_are_the_same_in_seconds_and_nanoseconds() {
        assert!(BOUNDS_S.iter().zip(BOUNDS_NS).all(|(s, ns)| (s * 1e9).round() as u64 == ns));
    }

    #[test]
    fn series_are_kept_while_somebody_uses_them_and_are_bounded() {
        let book = Book::new(1);
        let route: Arc<str> = "a/r".into();
        let first = book.series(&route, "a/b:0");
        assert!(Arc::ptr_eq(&first, &book.series(&route, "a/b:0")));
        let kept: Vec<_> = (1..SERIES_MAX).map(|port| book.series(&route, &format!("a/b:{port}"))).collect();
        assert_eq!(&*book.series(&route, "a/b:9999").route, OTHER);
        drop(kept);
        assert_eq!(&*book.series(&route, "a/b:9999").backend, "a/b:9999", "there is room again");
    }
}
