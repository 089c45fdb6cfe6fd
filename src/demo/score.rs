//! How a load fared: outcomes counted, latencies in a histogram, per chapter and over the last seconds.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// What became of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Answered below 500 within the objective: goodput.
    Good,
    /// Answered below 500, too late.
    Late,
    /// Answered 503: shed by the proxy, or the pod's queue was full.
    Shed,
    /// Another 5xx.
    ServerError,
    /// No connection, a reset, an answer that broke off.
    Failed,
    /// No complete answer within the client's patience.
    TimedOut,
}

/// Outcomes and latencies of some requests.
///
/// Latencies are those of answers below 500, from the moment the request was due; a request that timed out counts with the
/// whole time that the client waited, so that giving up does not make a tail look better. Fast errors do not count.
#[derive(Debug, Clone)]
pub struct Score {
    counts: [u64; 6],
    latency_us: Histogram<u64>,
    /// Time that answered requests spent outside of pods: network, router, and this machine being busy.
    outside_us: Histogram<u64>,
}

/// Latencies beyond it count as this much, microseconds.
const LATENCY_US_MAX: u64 = 120_000_000;

impl Default for Score {
    fn default() -> Self {
        Self { counts: [0; 6], latency_us: histogram(), outside_us: histogram() }
    }
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).expect("1 µs to 120 s with 3 digits are valid bounds")
}

fn in_us(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX).max(1)
}

impl Score {
    /// Counts one request.
    pub fn record(&mut self, outcome: Outcome, latency: Duration) {
        self.counts[outcome as usize] += 1;
        if matches!(outcome, Outcome::Good | Outcome::Late | Outcome::TimedOut) {
            self.latency_us.saturating_record(in_us(latency));
        }
    }

    /// Adds another score's requests to this one's.
    pub fn add(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(other.counts) {
            *count += more;
        }
        // Cannot fail: both have the same bounds.
        let _ = self.latency_us.add(&other.latency_us);
        let _ = self.outside_us.add(&other.outside_us);
    }

    /// Requests with this outcome.
    pub fn count(&self, outcome: Outcome) -> u64 {
        self.counts[outcome as usize]
    }

    /// All requests.
    pub fn requests(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Requests without a good answer: 5xx, shed ones included, failures and time-outs.
    pub fn errors(&self) -> u64 {
        self.requests() - self.count(Outcome::Good) - self.count(Outcome::Late)
    }

    /// Latency at quantile `q` (0..=1), milliseconds; `None` without any answer.
    pub fn latency_ms(&self, q: f64) -> Option<f64> {
        (!self.latency_us.is_empty()).then(|| self.latency_us.value_at_quantile(q) as f64 / 1000.0)
    }

    /// Time outside of pods at quantile `q` (0..=1), milliseconds; `None` where no pod told.
    pub fn outside_ms(&self, q: f64) -> Option<f64> {
        (!self.outside_us.is_empty()).then(|| self.outside_us.value_at_quantile(q) as f64 / 1000.0)
    }

    /// The figures that people read, for requests that were due within `span`.
    pub fn summary(&self, span: Duration) -> Summary {
        let requests = self.requests();
        let share = |count: u64| if requests == 0 { 0.0 } else { count as f64 / requests as f64 };
        let span_s = span.as_secs_f64();
        let good = self.count(Outcome::Good);
        Summary {
            requests,
            latency_ms_p50: self.latency_ms(0.5),
            latency_ms_p99: self.latency_ms(0.99),
            goodput_rps: if span_s > 0.0 { good as f64 / span_s } else { 0.0 },
            goodput_share: share(good),
            error_share: share(self.errors()),
            shed_share: share(self.count(Outcome::Shed)),
        }
    }
}

/// A score as figures.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Summary {
    /// Requests that were due.
    pub requests: u64,
    /// Median latency of answers.
    pub latency_ms_p50: Option<f64>,
    /// 99th percentile of the latency of answers.
    pub latency_ms_p99: Option<f64>,
    /// Answers within the objective per second.
    pub goodput_rps: f64,
    /// Share of requests answered within the objective, 0..=1.
    pub goodput_share: f64,
    /// Share of requests without a good answer (5xx, shed ones included, failures, time-outs), 0..=1.
    pub error_share: f64,
    /// Share of requests answered 503, 0..=1; part of `error_share`.
    pub shed_share: f64,
}

/// Collects what becomes of the requests of one load while it runs.
#[derive(Debug)]
pub struct Recorder {
    objective: Duration,
    windows: Vec<Range<Duration>>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    scores: Vec<Score>,
    /// Youngest last; each covers [`SLOT`].
    recent: VecDeque<(u64, Score)>,
    in_flight: u64,
    lag_us: Histogram<u64>,
}

/// Width of the slots of the recent score.
const SLOT: Duration = Duration::from_millis(500);

/// Slots that the recent score sums: the last five seconds.
const SLOTS: u64 = 10;

impl Recorder {
    /// Scores the requests due within each window (times since the start of the load) apart; an answer is good if it came
    /// within `objective`.
    pub fn new(objective: Duration, windows: Vec<Range<Duration>>) -> Self {
        let scores = vec![Score::default(); windows.len()];
        let state = State { scores, recent: VecDeque::new(), in_flight: 0, lag_us: histogram() };
        Self { objective, windows, state: Mutex::new(state) }
    }

    /// Notes a request that is sent `lag` after it was due.
    pub fn sent(&self, lag: Duration) {
        let mut state = self.state();
        state.in_flight += 1;
        state.lag_us.saturating_record(in_us(lag));
    }

    /// Notes what became of the request that was due at `due`. `status` is `None` where there was no answer.
    pub fn done(&self, due: Duration, latency: Duration, status: Result<u16, NoAnswer>) {
        let outcome = match status {
            Ok(503) => Outcome::Shed,
            Ok(500..) => Outcome::ServerError,
            Ok(_) if latency <= self.objective => Outcome::Good,
            Ok(_) => Outcome::Late,
            Err(NoAnswer::Failed) => Outcome::Failed,
            Err(NoAnswer::TimedOut) => Outcome::TimedOut,
        };
        let mut state = self.state();
        state.in_flight = state.in_flight.saturating_sub(1);
        let window = self.windows.iter().position(|window| window.contains(&due));
        if let Some(score) = window.and_then(|window| state.scores.get_mut(window)) {
            score.record(outcome, latency);
        }
        let slot = slot_at(due + latency);
        match state.recent.iter_mut().rev().find(|(at, _)| *at == slot) {
            Some((_, score)) => score.record(outcome, latency),
            None => {
                let mut score = Score::default();
                score.record(outcome, latency);
                state.recent.push_back((slot, score));
                while state.recent.len() > usize::try_from(SLOTS + 2).unwrap_or(usize::MAX) {
                    state.recent.pop_front();
                }
            }
        }
    }

    /// Notes that the request that was due at `due` spent so much of its latency outside of the pod.
    pub fn passed(&self, due: Duration, outside: Duration) {
        let window = self.windows.iter().position(|window| window.contains(&due));
        let mut state = self.state();
        if let Some(score) = window.and_then(|window| state.scores.get_mut(window)) {
            score.outside_us.saturating_record(in_us(outside));
        }
    }

    /// One score a window.
    pub fn scores(&self) -> Vec<Score> {
        self.state().scores.clone()
    }

    /// What was answered in the last five seconds before `now` (time since the start of the load), and the span covered.
    pub fn recent(&self, now: Duration) -> (Score, Duration) {
        let oldest = slot_at(now).saturating_sub(SLOTS);
        let mut sum = Score::default();
        for (_, score) in self.state().recent.iter().filter(|(at, _)| *at >= oldest) {
            sum.add(score);
        }
        (sum, now.min(SLOT * u32::try_from(SLOTS).unwrap_or(u32::MAX)))
    }

    /// Requests sent and not answered yet.
    pub fn in_flight(&self) -> u64 {
        self.state().in_flight
    }

    /// How late requests were sent, at quantile `q` (0..=1), milliseconds: a measure of whether this machine kept up with the load. It is
    /// part of every latency.
    pub fn lag_ms(&self, q: f64) -> f64 {
        self.state().lag_us.value_at_quantile(q) as f64 / 1000.0
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a request has no status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoAnswer {
    /// No connection, a reset, an answer that broke off.
    Failed,
    /// The client gave up.
    TimedOut,
}

fn slot_at(at: Duration) -> u64 {
    u64::try_from(at.as_millis() / SLOT.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn recorder() -> Recorder {
        Recorder::new(ms(300), vec![ms(0)..ms(1000), ms(1000)..ms(2000)])
    }

    #[test]
    fn a_request_belongs_to_the_window_in_which_it_was_due() {
        let recorder = recorder();
        recorder.done(ms(999), ms(5000), Ok(200));
        recorder.done(ms(1000), ms(10), Ok(200));
        recorder.done(ms(2000), ms(10), Ok(200));
        let requests: Vec<_> = recorder.scores().iter().map(Score::requests).collect();
        assert_eq!(requests, [1, 1]);
    }

    #[test]
    fn outcomes_follow_status_and_objective() {
        let recorder = recorder();
        for (latency, status) in [
            (300, Ok(200)),
            (301, Ok(404)),
            (1, Ok(503)),
            (1, Ok(500)),
            (1, Err(NoAnswer::Failed)),
            (4000, Err(NoAnswer::TimedOut)),
        ] {
            recorder.done(ms(0), ms(latency), status);
        }
        let score = &recorder.scores()[0];
        let outcomes =
            [Outcome::Good, Outcome::Late, Outcome::Shed, Outcome::ServerError, Outcome::Failed, Outcome::TimedOut];
        assert_eq!(outcomes.map(|outcome| score.count(outcome)), [1; 6]);
        assert_eq!(score.errors(), 4);
    }

    #[test]
    fn fast_errors_do_not_flatter_the_latency_and_time_outs_count() {
        let recorder = recorder();
        for _ in 0..90 {
            recorder.done(ms(0), ms(1), Ok(500));
        }
        for _ in 0..9 {
            recorder.done(ms(0), ms(100), Ok(200));
        }
        recorder.done(ms(0), ms(4000), Err(NoAnswer::TimedOut));
        let summary = recorder.scores()[0].summary(ms(1000));
        assert!((summary.latency_ms_p50.unwrap() - 100.0).abs() < 1.0, "{summary:?}");
        assert!(summary.latency_ms_p99.unwrap() >= 3_990.0, "{summary:?}");
        assert!((summary.error_share - 0.91).abs() < 1e-9, "{summary:?}");
    }

    #[test]
    fn the_recent_score_forgets() {
        let recorder = recorder();
        recorder.done(ms(100), ms(50), Ok(200));
        recorder.done(ms(6_000), ms(50), Ok(200));
        assert_eq!(recorder.recent(ms(400)).0.requests(), 2, "nothing is older than five seconds");
        assert_eq!(recorder.recent(ms(6_100)).0.requests(), 1);
        assert_eq!(recorder.recent(ms(20_000)).0.requests(), 0);
    }
}
