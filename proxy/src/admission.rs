//! Admission control of one backend in one proxy: a concurrency limit that follows the latency objective (AIMD), and the circuit
//! breaker. Atomics only; shared by all workers.
//!
//! In overload routing decides nothing and admission decides everything: without shedding every answer is late. The limit sinks to 0.8 of what was in use
//! when more than 5 % of a window's answers took longer than 0.8 of the objective, and otherwise grows by 5 % a window while it is in use
//! (DESIGN.md, "In overload"). It starts at its maximum, so a fresh proxy sheds nothing before it has seen slow answers; and without an
//! objective it never sheds.

use std::{
    sync::atomic::{
        AtomicU32, AtomicU64,
        Ordering::{AcqRel, Relaxed},
    },
    time::Duration,
};

use crate::{
    config::{AdmissionControl, CircuitBreaker},
    load::{CLASSES_MAX, Outcome, RequestClass},
    time::{Timestamp, nanos},
};

/// Share of the objective above which an answer counts as slow.
const SLOW_SHARE: f64 = 0.8;
/// A window with a larger share of slow answers than one in this many lowers the limit.
const SLOW_ONE_IN: u64 = 20;
const DECREASE: f32 = 0.8;
const INCREASE: f32 = 1.05;
/// A limit counts as in use when this share of it was reached.
const IN_USE_SHARE: f32 = 0.9;
/// Slow answers mean a queue only if the mean is slow too. Below this share of the slow mark it is a few slow endpoints: routing's business.
const MEAN_SHARE_MIN: f64 = 0.4;
/// Windows last at least this long, and until there are [`ANSWERS_MIN`] answers.
const WINDOW: Duration = Duration::from_millis(100);
const ANSWERS_MIN: u32 = 20;
/// What a client is told to wait; `Retry-After` counts in whole seconds, and bursts are over or not by then.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The rules of one version of the table.
#[derive(Debug, Clone, PartialEq)]
pub struct AdmissionRules {
    enabled: bool,
    min: f32,
    max: f32,
    max_parallel: Option<u32>,
    objective: Option<Duration>,
    /// Share of the limit that a class may fill, by class; 1 for those that are not listed.
    class_shares: Box<[f32]>,
}

impl AdmissionRules {
    /// For a backend with so many endpoints and this objective.
    pub fn new(
        control: &AdmissionControl,
        breaker: &CircuitBreaker,
        endpoints: usize,
        objective: Option<Duration>,
    ) -> Self {
        let min = control.min_concurrency.unwrap_or_else(|| u32::try_from(endpoints).unwrap_or(u32::MAX).max(1));
        Self {
            enabled: control.enabled,
            min: min.min(control.max_concurrency) as f32,
            max: control.max_concurrency as f32,
            max_parallel: breaker.max_parallel_requests,
            objective,
            class_shares: Box::default(),
        }
    }

    /// The same with shares of the limit by class, each clamped to 0..=1: expensive classes are shed first.
    #[must_use]
    pub fn with_class_shares(mut self, shares: &[f32]) -> Self {
        self.class_shares = shares.iter().map(|share| share.clamp(0.0, 1.0)).collect();
        self
    }

    fn share(&self, class: RequestClass) -> f32 {
        self.class_shares.get(usize::from(class.0)).copied().unwrap_or(1.0)
    }

    /// The objective, if the limiter is on: without one it does not act.
    fn objective(&self) -> Option<Duration> {
        self.objective.filter(|_| self.enabled)
    }
}

/// A request that was let in. Exactly one call of [`Admission::finish`] takes it back, whatever became of it.
#[derive(Debug)]
#[must_use = "hand it to `finish`, or the request counts as in flight for ever"]
pub struct Admitted {
    class: RequestClass,
}

impl Admitted {
    /// The class that it was let in as.
    pub fn class(&self) -> RequestClass {
        self.class
    }
}

/// A request that was turned away: answer 503 with `Retry-After`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Shed {
    /// The concurrency limit is reached.
    #[error("concurrency limit reached")]
    Overload {
        /// For the `Retry-After` header.
        retry_after: Duration,
    },
    /// The circuit breaker's `max_parallel_requests` is reached.
    #[error("circuit breaker open: too many parallel requests")]
    CircuitOpen {
        /// For the `Retry-After` header.
        retry_after: Duration,
    },
}

impl Shed {
    /// For the `Retry-After` header.
    pub fn retry_after(&self) -> Duration {
        match self {
            Self::Overload { retry_after } | Self::CircuitOpen { retry_after } => *retry_after,
        }
    }
}

/// The live part, which outlives tables.
#[derive(Debug)]
#[repr(align(128))]
pub struct Admission {
    in_flight: AtomicU32,
    /// An f32 in bits; infinite until the limit moved for the first time.
    limit: AtomicU32,
    /// Most in flight during the window.
    peak: AtomicU32,
    shed: AtomicU32,
    answers: AtomicU32,
    slow: AtomicU32,
    latency_us_sum: AtomicU64,
    window_end: AtomicU64,
    /// When the limit sank last. Requests that began before tell about the time before.
    lowered_at: AtomicU64,
    /// Requests that met the limit, by class; counts up.
    shed_of: [AtomicU64; CLASSES_MAX],
}

impl Admission {
    /// One that has seen nothing.
    pub fn new() -> Self {
        Self {
            in_flight: AtomicU32::new(0),
            limit: AtomicU32::new(f32::INFINITY.to_bits()),
            peak: AtomicU32::new(0),
            shed: AtomicU32::new(0),
            answers: AtomicU32::new(0),
            slow: AtomicU32::new(0),
            latency_us_sum: AtomicU64::new(0),
            window_end: AtomicU64::new(0),
            lowered_at: AtomicU64::new(0),
            shed_of: [const { AtomicU64::new(0) }; CLASSES_MAX],
        }
    }

    /// Lets a request in or turns it away.
    ///
    /// # Errors
    /// [`Shed`] says which limit it met.
    pub fn admit(&self, rules: &AdmissionRules, class: RequestClass) -> Result<Admitted, Shed> {
        let before = self.in_flight.fetch_add(1, Relaxed);
        if rules.max_parallel.is_some_and(|max| before >= max) {
            self.in_flight.fetch_sub(1, Relaxed);
            return Err(Shed::CircuitOpen { retry_after: RETRY_AFTER });
        }
        // One is always let in: a share that rounds to nothing must not lock a class out of an idle backend.
        if before > 0 && self.limit(rules).is_some_and(|limit| before as f32 >= limit * rules.share(class)) {
            self.in_flight.fetch_sub(1, Relaxed);
            self.shed.fetch_add(1, Relaxed);
            self.shed_of[class.index()].fetch_add(1, Relaxed);
            return Err(Shed::Overload { retry_after: RETRY_AFTER });
        }
        if before >= self.peak.load(Relaxed) {
            self.peak.fetch_max(before + 1, Relaxed);
        }
        Ok(Admitted { class })
    }

    /// A request that was let in ended, `latency` after the client sent it.
    pub fn finish(
        &self,
        admitted: Admitted,
        rules: &AdmissionRules,
        now: Timestamp,
        outcome: Outcome,
        latency: Duration,
    ) {
        let Admitted { class: _ } = admitted;
        self.in_flight.fetch_sub(1, Relaxed);
        let Some(objective) = rules.objective() else { return };
        let slow_mark = objective.mul_f64(SLOW_SHARE);
        let slow = latency > slow_mark;
        // A fast error says nothing about a queue.
        let tells = outcome == Outcome::Success || slow;
        if !tells || (now - latency).0 < self.lowered_at.load(Relaxed) {
            return;
        }
        if slow {
            self.slow.fetch_add(1, Relaxed);
        }
        self.latency_us_sum.fetch_add(nanos(latency) / 1_000, Relaxed);
        let answers = self.answers.fetch_add(1, Relaxed) + 1;
        let window_end = self.window_end.load(Relaxed);
        if answers >= ANSWERS_MIN && now.0 >= window_end {
            let claim = self.window_end.compare_exchange(window_end, (now + WINDOW).0, AcqRel, Relaxed);
            if claim.is_ok() {
                self.close_window(rules, now, slow_mark);
            }
        }
    }

    /// Requests of a class that met the concurrency limit so far.
    pub fn shed_of(&self, class: RequestClass) -> u64 {
        self.shed_of[class.index()].load(Relaxed)
    }

    /// Requests in flight.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }

    /// The concurrency limit in force; `None` where the limiter is off or has no objective.
    pub fn limit(&self, rules: &AdmissionRules) -> Option<f32> {
        rules.objective()?;
        Some(f32::from_bits(self.limit.load(Relaxed)).clamp(rules.min, rules.max))
    }

    /// Moves the limit by what the window showed. Run by one worker at a time: the one that claimed the window.
    fn close_window(&self, rules: &AdmissionRules, now: Timestamp, slow_mark: Duration) {
        let answers = u64::from(self.answers.swap(0, Relaxed)).max(1);
        let slow = u64::from(self.slow.swap(0, Relaxed));
        let mean_us = self.latency_us_sum.swap(0, Relaxed) as f64 / answers as f64;
        let shed = self.shed.swap(0, Relaxed);
        let peak = self.peak.swap(self.in_flight.load(Relaxed), Relaxed) as f32;
        let Some(limit) = self.limit(rules) else { return };
        let queueing = mean_us >= MEAN_SHARE_MIN * slow_mark.as_secs_f64() * 1e6;
        let moved = if slow * SLOW_ONE_IN > answers && queueing {
            self.lowered_at.store(now.0, Relaxed);
            // From what was in use: a limit far above it would take many windows to bind.
            limit.min(peak) * DECREASE
        } else if shed > 0 || peak >= limit * IN_USE_SHARE {
            (limit * INCREASE).max(limit + 1.0)
        } else {
            return;
        };
        self.limit.store(moved.clamp(rules.min, rules.max).to_bits(), Relaxed);
    }
}

impl Default for Admission {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests;
