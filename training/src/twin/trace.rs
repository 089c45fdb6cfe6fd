//! Rows of a recording as one backend's series: what every endpoint did tick by tick, and its sampled requests. Clocks jump, controllers
//! restart and rows are lost, so a trace is in segments without gaps, and says what was left out.

use std::collections::{BTreeMap, HashMap};

use trimtab_model::recording::{RequestRow, TickRow};

use super::TwinError;
use crate::fleet::Known;

/// A tick later than this many usual intervals after the one before begins another segment.
const GAP_INTERVALS: f64 = 3.0;
/// Ticks that a trace must have: two minutes of the usual ones.
const TICKS_MIN: usize = 240;
/// Sampled requests that it must have.
const REQUESTS_MIN: usize = 2_000;
/// Latencies beyond this, an hour, are no latencies.
const LATENCY_MS_MAX: f64 = 3.6e6;

/// One backend's recording.
#[derive(Debug, Clone, PartialEq)]
pub struct Trace {
    /// `namespace/service:port`.
    pub backend: String,
    /// Keys of the endpoints that were ever seen; places in this list are what everything else here counts by.
    pub keys: Vec<u64>,
    /// In order of time.
    pub ticks: Vec<Tick>,
    /// Where ticks follow each other without a gap, as ranges of `ticks`.
    pub segments: Vec<std::ops::Range<usize>>,
    /// Classes that requests were told apart by: 0 is all others.
    pub classes: Vec<Option<u64>>,
    /// Sampled requests that were answered, in order of time.
    pub requests: Vec<Request>,
    /// Requests sampled by each proxy, the busiest first.
    pub proxies: Vec<usize>,
    /// Rows that made no sense.
    pub skipped: usize,
}

/// One tick.
#[derive(Debug, Clone, PartialEq)]
pub struct Tick {
    /// When, milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// Time since the tick before.
    pub interval_s: f64,
    /// Proxies that reported.
    pub proxies: u32,
    /// Latency objective.
    pub objective_ms: Option<f64>,
    /// What each endpoint did in the interval that ended; nothing for those that were not there.
    pub endpoints: Vec<Option<Seen>>,
}

/// One endpoint in one interval.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Seen {
    /// Whether it might get requests.
    pub ready: bool,
    /// Answers below 500, 5xx answers and requests without an answer.
    pub outcomes: [u64; 3],
    /// Mean in flight, if it was reported.
    pub in_flight: Option<f64>,
    /// Whether its own metrics had arrived, and how many requests it says it serves at once.
    pub scraped: bool,
    /// See `scraped`.
    pub slots_told: Option<f64>,
    /// How many the controller had learned that it serves at once, and how sure that was.
    pub slots_learned: Option<Known>,
}

impl Seen {
    /// Requests that ended.
    pub fn ended(&self) -> u64 {
        self.outcomes.iter().sum()
    }
}

/// One sampled request that was answered.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Request {
    /// When it began, milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// Which endpoint.
    pub endpoint: usize,
    /// Which class.
    pub class: usize,
    /// Requests of all proxies in flight there when it was sent.
    pub in_flight: f64,
    /// How long it took.
    pub latency_ms: f64,
    /// Whether the answer was below 500.
    pub good: bool,
}

impl Trace {
    /// What rows say of one backend.
    ///
    /// # Errors
    /// If they say nothing, or too little.
    pub fn of(backend: &str, ticks: &[TickRow], requests: &[RequestRow]) -> Result<Self, TwinError> {
        let mut trace = Self {
            backend: backend.to_owned(),
            keys: Vec::new(),
            ticks: Vec::new(),
            segments: Vec::new(),
            classes: vec![None],
            requests: Vec::new(),
            proxies: Vec::new(),
            skipped: 0,
        };
        trace.read_ticks(ticks);
        if trace.ticks.is_empty() {
            return Err(TwinError::NoTicks(backend.to_owned()));
        }
        trace.read_requests(requests);
        let enough = |what, found: usize, needed: usize| {
            if found >= needed {
                return Ok(());
            }
            Err(TwinError::TooLittle { backend: backend.to_owned(), what, found, needed })
        };
        enough("ticks", trace.ticks.len(), TICKS_MIN)?;
        enough("sampled requests", trace.requests.len(), REQUESTS_MIN)?;
        Ok(trace)
    }

    /// The part of it between two ticks: for fitting on some and checking on others.
    #[must_use]
    pub fn part(&self, ticks: std::ops::Range<usize>) -> Self {
        let Some(kept) = self.ticks.get(ticks.clone()).filter(|kept| !kept.is_empty()) else {
            return Self { ticks: Vec::new(), segments: Vec::new(), requests: Vec::new(), ..self.clone() };
        };
        let first_ms = kept[0].at_ms - (kept[0].interval_s * 1e3) as i64;
        let span = first_ms..kept[kept.len() - 1].at_ms;
        let within = |segment: &std::ops::Range<usize>| {
            let (from, to) = (segment.start.max(ticks.start), segment.end.min(ticks.end));
            (from < to).then(|| from - ticks.start..to - ticks.start)
        };
        Self {
            ticks: kept.to_vec(),
            segments: self.segments.iter().filter_map(within).collect(),
            requests: self.requests.iter().filter(|request| span.contains(&request.at_ms)).copied().collect(),
            backend: self.backend.clone(),
            keys: self.keys.clone(),
            classes: self.classes.clone(),
            proxies: self.proxies.clone(),
            skipped: self.skipped,
        }
    }

    fn read_ticks(&mut self, rows: &[TickRow]) {
        let mut places: HashMap<u64, usize> = HashMap::new();
        let mut by_time: BTreeMap<(i64, u64), Vec<&TickRow>> = BTreeMap::new();
        for row in rows.iter().filter(|row| row.backend == self.backend) {
            if row.interval_s.is_finite() && row.interval_s >= 0.0 {
                by_time.entry((row.at_ms, row.tick)).or_default().push(row);
            } else {
                self.skipped += 1;
            }
        }
        for rows in by_time.values() {
            for row in rows {
                places.entry(row.endpoint).or_insert_with(|| {
                    self.keys.push(row.endpoint);
                    self.keys.len() - 1
                });
            }
        }
        for ((at_ms, _), rows) in by_time {
            let mut endpoints = vec![None; self.keys.len()];
            for row in &rows {
                endpoints[places[&row.endpoint]] = Some(seen(row));
            }
            let Some(row) = rows.first() else { continue };
            let objective_ms = row.objective_ms.filter(|ms| ms.is_finite() && *ms > 0.0);
            let tick = Tick { at_ms, interval_s: row.interval_s, proxies: row.proxies.max(1), objective_ms, endpoints };
            self.ticks.push(tick);
        }
        self.segments = segments(&self.ticks);
    }

    fn read_requests(&mut self, rows: &[RequestRow]) {
        let places: HashMap<u64, usize> = self.keys.iter().copied().zip(0..).collect();
        let mut classes: HashMap<u64, usize> = HashMap::new();
        let mut proxies: BTreeMap<&str, usize> = BTreeMap::new();
        for row in rows.iter().filter(|row| row.backend == self.backend) {
            *proxies.entry(&row.proxy).or_default() += 1;
            let Some(&endpoint) = places.get(&row.endpoint) else {
                // Turned away before an endpoint was chosen, or of one that no tick knew.
                self.skipped += usize::from(row.endpoint != 0);
                continue;
            };
            let Some(status) = row.status else { continue };
            let in_flight = row.in_flight_all.map_or(f64::from(row.in_flight), f64::from);
            let sane = (0.0..LATENCY_MS_MAX).contains(&row.latency_ms) && row.latency_ms > 0.0 && in_flight >= 0.0;
            if !sane || !in_flight.is_finite() {
                self.skipped += 1;
                continue;
            }
            // One that was tried elsewhere first took longer than its endpoint did.
            if row.attempts > 1 {
                continue;
            }
            let class = row.class_key.map_or(0, |key| {
                *classes.entry(key).or_insert_with(|| {
                    self.classes.push(Some(key));
                    self.classes.len() - 1
                })
            });
            let good = status < 500;
            let (at_ms, latency_ms) = (row.at_ms, row.latency_ms);
            self.requests.push(Request { at_ms, endpoint, class, in_flight, latency_ms, good });
        }
        self.requests.sort_by_key(|request| request.at_ms);
        self.proxies = proxies.into_values().collect();
        self.proxies.sort_unstable_by(|a, b| b.cmp(a));
    }
}

fn seen(row: &TickRow) -> Seen {
    let told = |value: Option<f64>| value.filter(|value| value.is_finite() && *value >= 1.0);
    Seen {
        ready: row.ready,
        outcomes: [row.reported_successes, row.reported_errors, row.reported_failures].map(|n| n.unwrap_or(0)),
        in_flight: row.reported_in_flight_mean.filter(|mean| mean.is_finite() && *mean >= 0.0),
        scraped: row.in_flight.is_some() || row.completed_rps.is_some(),
        slots_told: told(row.worker_limit),
        slots_learned: told(row.slots_learned).map(|slots| Known { slots, deviation: row.slots_deviation }),
    }
}

fn segments(ticks: &[Tick]) -> Vec<std::ops::Range<usize>> {
    let mut gaps: Vec<f64> = ticks.windows(2).map(|pair| (pair[1].at_ms - pair[0].at_ms) as f64).collect();
    let usual_ms = super::median(&mut gaps).unwrap_or(500.0).max(1.0);
    let mut segments = Vec::new();
    let mut from = 0;
    for next in 1..=ticks.len() {
        let broken = ticks.get(next).is_none_or(|tick| {
            let gap_ms = (tick.at_ms - ticks[next - 1].at_ms) as f64;
            gap_ms > GAP_INTERVALS * usual_ms
        });
        if broken {
            segments.push(from..next);
            from = next;
        }
    }
    segments
}
