//! The latency objective of a backend for which none was set: derived from what the service does when it is not overloaded.
//!
//! Latencies are looked at in windows of some seconds. A window counts as calm if no request was shed, few failed, and its median is
//! not far above that of the calm windows so far. The objective is twice the 99th percentile of the calmer windows of the last ten
//! minutes (their 20th percentile, so that a few bad ones do not raise it), but at least 100 ms. It is held while the service is overloaded, and
//! moves only by more than 15 %, so that admission control has something to hold on to. A service that has become slower for
//! good is believed after the ten minutes: then no calm window is left, and it starts afresh.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use trimtab_proxy::sketch::Sketch;

/// Length of a window.
const WINDOW: Duration = Duration::from_millis(2500);
/// Answers from which on a window's 99th percentile says something.
const ANSWERS_MIN: u64 = 100;
/// How long a window is remembered.
const MEMORY: Duration = Duration::from_secs(600);
/// The objective in multiples of the calm 99th percentile.
const FACTOR: f64 = 2.0;
/// No objective below this. Requests are turned away for the objective's sake, and nobody has asked for that: a garbage collection, a CPU quota that is
/// used up or a busy machine holds a quick service up for some tens of milliseconds, which is over by itself and which no person notices.
const OBJECTIVE_MS_MIN: f64 = 100.0;
/// The calm windows' percentile that counts.
const CALM_QUANTILE: f64 = 0.2;
/// A window whose median is above this multiple of the calm median is queueing.
const QUEUEING: f64 = 3.0;
/// A window with a larger share of failed answers tells nothing of good ones.
const FAILED_SHARE_MAX: f64 = 0.05;
/// Relative move below which the objective stays.
const HOLD: f64 = 0.15;

#[derive(Debug, Clone, Copy)]
struct Calm {
    at: Instant,
    p50_ms: f64,
    p99_ms: f64,
}

/// Derives one backend's objective.
#[derive(Debug)]
pub struct DerivedObjective {
    since: Option<Instant>,
    latency: Sketch,
    failed: u64,
    shed: u64,
    calm: VecDeque<Calm>,
    objective_ms: Option<f64>,
}

impl Default for DerivedObjective {
    fn default() -> Self {
        Self { since: None, latency: Sketch::new(), failed: 0, shed: 0, calm: VecDeque::new(), objective_ms: None }
    }
}

impl DerivedObjective {
    /// The objective; `None` until a calm window has been seen.
    pub fn objective_ms(&self) -> Option<f64> {
        self.objective_ms
    }

    /// Takes in what happened since the last call: latencies of answers, failed answers, and requests that were shed.
    pub fn observe(&mut self, latency: &Sketch, failed: u64, shed: u64, now: Instant) {
        let since = *self.since.get_or_insert(now);
        self.latency.merge(latency);
        self.failed += failed;
        self.shed += shed;
        if now.saturating_duration_since(since) < WINDOW || self.latency.count() < ANSWERS_MIN {
            return;
        }
        self.close(now);
        self.latency.clear();
        (self.failed, self.shed, self.since) = (0, 0, Some(now));
    }

    fn close(&mut self, now: Instant) {
        self.calm.retain(|calm| now.saturating_duration_since(calm.at) < MEMORY);
        let (Some(p50_ms), Some(p99_ms)) = (self.latency.quantile_ms(0.5), self.latency.quantile_ms(0.99)) else {
            return;
        };
        let failing = self.failed as f64 > FAILED_SHARE_MAX * self.latency.count() as f64;
        let queueing = self.calm_quantile(|calm| calm.p50_ms).is_some_and(|calm| p50_ms > QUEUEING * calm);
        if self.shed > 0 || failing || queueing {
            return;
        }
        self.calm.push_back(Calm { at: now, p50_ms, p99_ms });
        let Some(calm_ms) = self.calm_quantile(|calm| calm.p99_ms) else {
            return;
        };
        let wanted_ms = round((FACTOR * calm_ms).max(OBJECTIVE_MS_MIN));
        if self.objective_ms.is_none_or(|held_ms| (wanted_ms / held_ms - 1.0).abs() > HOLD) {
            self.objective_ms = Some(wanted_ms);
        }
    }

    fn calm_quantile(&self, number: impl Fn(&Calm) -> f64) -> Option<f64> {
        let mut numbers: Vec<f64> = self.calm.iter().map(number).collect();
        numbers.sort_by(f64::total_cmp);
        let rank = (CALM_QUANTILE * numbers.len() as f64).ceil() as usize;
        numbers.get(rank.max(1) - 1).copied()
    }
}

/// To two significant digits: more would only look precise.
fn round(ms: f64) -> f64 {
    let unit = 10f64.powf(ms.log10().floor() - 1.0);
    (ms / unit).round() * unit
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds windows of (milliseconds that most answers take, shed) and returns the objective after each.
    fn objectives(windows: &[(u64, u64)]) -> Vec<Option<f64>> {
        let start = crate::clock::now().instant;
        let mut derived = DerivedObjective::default();
        let mut objectives = Vec::new();
        derived.observe(&Sketch::new(), 0, 0, start);
        for (index, &(ms, shed)) in windows.iter().enumerate() {
            let mut latency = Sketch::new();
            for answer in 0..200 {
                latency.record(Duration::from_millis(if answer % 20 == 0 { 4 * ms } else { ms }));
            }
            derived.observe(&latency, 0, shed, start + WINDOW * (index as u32 + 1));
            objectives.push(derived.objective_ms());
        }
        objectives
    }

    #[test]
    fn it_is_twice_the_calm_p99() {
        let objective = objectives(&[(100, 0)])[0].unwrap();
        assert!((750.0..=900.0).contains(&objective), "{objective}");
    }

    #[test]
    fn it_is_held_while_the_service_is_overloaded() {
        let seen = objectives(&[(100, 0), (100, 0), (1000, 0), (1000, 50), (150, 3), (100, 0)]);
        assert!(seen.iter().all(|objective| *objective == seen[0]), "{seen:?}");
    }

    #[test]
    fn a_start_in_overload_is_corrected_when_calm_returns() {
        let seen = objectives(&[(2000, 0), (100, 0)]);
        assert!(seen[1] < seen[0], "{seen:?}");
    }

    #[test]
    fn a_quick_service_is_not_held_to_how_quick_it_is() {
        assert_eq!(objectives(&[(1, 0), (2, 0), (1, 0)]), [Some(100.0); 3]);
    }

    #[test]
    fn too_few_answers_derive_nothing() {
        let start = crate::clock::now().instant;
        let mut derived = DerivedObjective::default();
        let mut latency = Sketch::new();
        latency.record(Duration::from_millis(5));
        for second in 0..60 {
            derived.observe(&latency, 0, 0, start + Duration::from_secs(second));
        }
        assert_eq!(derived.objective_ms(), None);
    }
}
