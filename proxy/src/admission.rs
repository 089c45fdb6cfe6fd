//! Admission control of one backend in one proxy: a concurrency limit that follows the latency objective, a share of it for each class of
//! requests, and the circuit breaker. Atomics only; shared by all workers.
//!
//! In overload routing decides nothing and admission decides everything: without shedding every answer is late. Two things are moved at the end of
//! each [window](window): the **limit** on the work in flight, by how long answers waited, and the **shares** of it that classes may fill, by how much of the
//! work that came was done: cheap classes all of it, the costliest nothing, one in between a part ([`shares`]). The limit holds for everyone and is
//! hardly ever met where classes are told apart: who must be turned away is turned away by its cost. It starts at its maximum, so a fresh
//! proxy sheds nothing before it has seen slow answers. What a proxy is slow with itself is no queue and is not told here ([`lateness`](crate::lateness)).
//! Without an objective it never sheds.

mod rules;
mod shares;
mod window;

use std::{
    sync::atomic::{
        AtomicU32, AtomicU64,
        Ordering::{AcqRel, Relaxed},
    },
    time::Duration,
};

use crate::{
    load::{CLASSES_MAX, Outcome, RequestClass},
    time::{Timestamp, nanos},
};

pub use rules::AdmissionRules;
use rules::{UNIT, WINDOW};
use shares::Demand;
use window::{Sums, Window};

/// A window is over no sooner than after so many requests.
const ENDED_MIN: u32 = 20;
/// What a client is told to wait; `Retry-After` counts in whole seconds, and bursts are over or not by then.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// A request that was let in. Exactly one call of [`Admission::finish`] takes it back, whatever became of it.
#[derive(Debug)]
#[must_use = "hand it to `finish`, or the request counts as in flight for ever"]
pub struct Admitted {
    class: RequestClass,
    /// What it counts for: remembered, as another table may say otherwise when it ends.
    weight: u32,
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
    /// What is in flight weighs so much, in [`UNIT`]s of a mean request.
    work: AtomicU64,
    /// Share of the limit that each class may fill; f32s in bits.
    shares: [AtomicU32; CLASSES_MAX],
    sums: Sums,
    window_end: AtomicU64,
    /// Since when every window has given reason to lower the limit; 0: the last one gave none.
    pressed_since: AtomicU64,
    /// When the limit sank last. Requests that began before tell about the time before.
    lowered_at: AtomicU64,
    demand: Demand,
    /// Requests that met the limit, by class; counts up.
    shed_of: [AtomicU64; CLASSES_MAX],
}

impl Admission {
    /// One that has seen nothing.
    pub fn new() -> Self {
        Self {
            in_flight: AtomicU32::new(0),
            limit: AtomicU32::new(f32::INFINITY.to_bits()),
            work: AtomicU64::new(0),
            shares: [const { AtomicU32::new(1f32.to_bits()) }; CLASSES_MAX],
            sums: Sums::default(),
            window_end: AtomicU64::new(0),
            pressed_since: AtomicU64::new(0),
            lowered_at: AtomicU64::new(0),
            demand: Demand::default(),
            shed_of: [const { AtomicU64::new(0) }; CLASSES_MAX],
        }
    }

    /// Lets a request in or turns it away.
    ///
    /// # Errors
    /// [`Shed`] says which limit it met.
    pub fn admit(&self, rules: &AdmissionRules, class: RequestClass) -> Result<Admitted, Shed> {
        let before = self.in_flight.fetch_add(1, Relaxed);
        if rules.max_parallel().is_some_and(|max| before >= max) {
            self.in_flight.fetch_sub(1, Relaxed);
            return Err(Shed::CircuitOpen { retry_after: RETRY_AFTER });
        }
        let weight = rules.weight(class);
        let work = self.work.fetch_add(weight.into(), Relaxed);
        if rules.objective().is_some() {
            self.sums.arrived(class);
        }
        // One is always let in: a share that rounds to nothing must not lock a class out of an idle backend.
        let met = |limit: f32| work as f32 >= UNIT * limit * self.share(rules, class);
        if before > 0 && self.limit(rules).is_some_and(met) {
            self.in_flight.fetch_sub(1, Relaxed);
            self.work.fetch_sub(weight.into(), Relaxed);
            self.sums.shed(rules.cost_us(class));
            self.shed_of[class.index()].fetch_add(1, Relaxed);
            return Err(Shed::Overload { retry_after: RETRY_AFTER });
        }
        self.sums.reached(work + u64::from(weight));
        Ok(Admitted { class, weight })
    }

    /// A request that was let in ended, `latency` after it was sent on: what the proxy itself was late by is not in it.
    pub fn finish(
        &self,
        admitted: Admitted,
        rules: &AdmissionRules,
        now: Timestamp,
        outcome: Outcome,
        latency: Duration,
    ) {
        let Admitted { class, weight } = admitted;
        self.in_flight.fetch_sub(1, Relaxed);
        let work = self.work.fetch_sub(weight.into(), Relaxed);
        if rules.objective().is_none() {
            return;
        }
        let cost_us = rules.cost_us(class);
        let ended = self.sums.ended(work, cost_us);
        let latency_us = nanos(latency) / 1_000;
        let slow = latency_us > rules.slow_us(class);
        // A fast error says nothing about a queue.
        let tells = outcome == Outcome::Success || slow;
        if tells && (now - latency).0 >= self.lowered_at.load(Relaxed) {
            self.sums.answered(latency_us, cost_us, slow);
        }
        let window_end = self.window_end.load(Relaxed);
        if ended >= ENDED_MIN && now.0 >= window_end {
            let claim = self.window_end.compare_exchange(window_end, (now + WINDOW).0, AcqRel, Relaxed);
            if claim.is_ok() {
                self.close_window(rules, now);
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

    /// The concurrency limit in force, in requests of mean cost; `None` where the limiter is off or has no objective.
    pub fn limit(&self, rules: &AdmissionRules) -> Option<f32> {
        rules.objective()?;
        Some(rules.clamped(f32::from_bits(self.limit.load(Relaxed))))
    }

    /// Share of the limit that requests of a class may fill at present, 0..=1.
    pub fn share(&self, rules: &AdmissionRules, class: RequestClass) -> f32 {
        let share = f32::from_bits(self.shares[class.index()].load(Relaxed));
        rules.classes().map_or(1.0, |classes| share.max(classes.priorities[class.index()]))
    }

    /// Moves limit and shares by what the window showed. Run by one worker at a time: the one that claimed the window.
    fn close_window(&self, rules: &AdmissionRules, now: Timestamp) {
        let flow = self.sums.take_flow();
        if let Some(window) = self.sums.take_window(self.work.load(Relaxed)) {
            self.move_limit(rules, &window, now);
        }
        let (Some(classes), Some(limit)) = (rules.classes(), self.limit(rules)) else { return };
        let shares = self.demand.shares(classes, &flow, limit, now);
        // Nobody is held back before answers were too slow, nor long after: then only the averages go on.
        let shares = if rules.is_largest(limit) { [1.0; CLASSES_MAX] } else { shares };
        self.shares.iter().zip(shares).for_each(|(share, new)| share.store(new.to_bits(), Relaxed));
    }

    fn move_limit(&self, rules: &AdmissionRules, window: &Window, now: Timestamp) {
        let Some(limit) = self.limit(rules) else { return };
        let lowered_at = Timestamp(self.lowered_at.load(Relaxed));
        let cut = window.cut(rules, self.demand.shed());
        let since = self.pressed_since.load(Relaxed);
        let since = if since == 0 { now.0.max(1) } else { since };
        self.pressed_since.store(if cut.is_some() { since } else { 0 }, Relaxed);
        let moved = match cut {
            Some(_) if rules.is_largest(limit) && now < Timestamp(since) + rules.patience() => limit,
            Some(cut) => {
                self.lowered_at.store(now.0, Relaxed);
                // A queue that has had time to grow is not shortened step by step: each step shows only once what waits has been answered.
                let cut = if rules.is_largest(limit) { cut.min(window.to_mark(rules)) } else { cut };
                // From what was in use: a limit far above it would take many windows to bind.
                limit.min(window.peak / rules.target()) * cut
            }
            // Before that no request that was let in since could have shown itself slow: those that did not wait come first.
            None if lowered_at.0 > 0 && now < lowered_at + rules.slow_mark() => limit,
            None => rules.raised(limit),
        };
        self.limit.store(rules.clamped(moved).to_bits(), Relaxed);
    }
}

impl Default for Admission {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests;
