//! What is summed up between two moves of the limit, and what it says: whether requests queue too long.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use super::{
    ENDED_MIN,
    rules::{AdmissionRules, UNIT},
};
use crate::{
    load::{CLASSES_MAX, RequestClass},
    time::nanos,
};

/// Where nothing is known of costs: slow answers mean a queue only if the mean answer takes this share of the objective. Below it is a few slow
/// endpoints: routing's business.
const MEAN_SHARE_MIN: f64 = 0.32;
/// Where costs are known: only if the mean wait is so many mean costs. A few requests that are slow by bad luck are no queue.
const QUEUE_COSTS_MIN: f64 = 2.0;
/// A mean wait of so many mean costs, or of this share of the objective if that is less, is a queue that will not go away by itself: answers that
/// are slow already would come too late to tell, the more so the longer the objective.
const LONG_QUEUE_COSTS: f64 = 10.0;
const LONG_QUEUE_SHARE: f64 = 0.25;
/// The mean wait that is allowed while next to nothing is shed, as a share of the objective.
const WAIT_SHARE: f64 = 0.32;
/// When this share of the work is shed, the load is too much for certain, and queues are kept as short as they can be. Below, the allowed
/// wait is in between: at a load just below the capacity a queue comes and goes, and answers are in time nevertheless.
const MUCH_SHED: f32 = 0.1;
/// Meanwhile at most this share of the work may go into slow answers. It is wasted, so costly requests count for more.
const SLOW_WORK_SHARE: f64 = 0.07;
/// The limit sinks to this share of what was in use, or to where the wait would be right, between the two latter.
const CUT: f64 = 0.8;
const CUT_TO_FIT: (f64, f64) = (0.5, 0.9);

/// Sums of a window that is not over yet.
#[derive(Debug, Default)]
pub(super) struct Sums {
    ended: AtomicU32,
    /// Of what was in flight as they ended.
    work_sum: AtomicU64,
    /// Most in flight, in units of work.
    peak: AtomicU64,
    done_us: AtomicU64,
    shed_us: AtomicU64,
    arrived: [AtomicU32; CLASSES_MAX],
    /// Answers that tell of a queue or of none, since the limit was last looked at.
    answers: AtomicU32,
    slow: AtomicU32,
    latency_us: AtomicU64,
    cost_us: AtomicU64,
    slow_cost_us: AtomicU64,
    shed: AtomicU32,
}

/// What came, went and was turned away during a window.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Flow {
    /// Requests that came, by class.
    pub arrived: [f32; CLASSES_MAX],
    /// What those that ended cost together.
    pub done_us: f32,
    /// What those that were turned away would have cost.
    pub shed_us: f32,
    /// Mean in flight as requests ended, in requests of mean cost.
    pub in_flight: f32,
}

/// What answers told.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Window {
    answers: f64,
    slow: f64,
    latency_us: f64,
    cost_us: f64,
    slow_cost_us: f64,
    shed: bool,
    /// Most in flight, in requests of mean cost.
    pub peak: f32,
}

impl Sums {
    pub fn arrived(&self, class: RequestClass) {
        self.arrived[class.index()].fetch_add(1, Relaxed);
    }

    pub fn shed(&self, cost_us: u64) {
        self.shed.fetch_add(1, Relaxed);
        self.shed_us.fetch_add(cost_us, Relaxed);
    }

    /// So much work is in flight.
    pub fn reached(&self, work: u64) {
        if work > self.peak.load(Relaxed) {
            self.peak.fetch_max(work, Relaxed);
        }
    }

    /// A request ended while so much was in flight; returns how many did so far.
    pub fn ended(&self, work: u64, cost_us: u64) -> u32 {
        self.work_sum.fetch_add(work, Relaxed);
        self.done_us.fetch_add(cost_us, Relaxed);
        self.ended.fetch_add(1, Relaxed) + 1
    }

    /// An answer came that tells of the present.
    pub fn answered(&self, latency_us: u64, cost_us: u64, slow: bool) {
        self.latency_us.fetch_add(latency_us, Relaxed);
        self.cost_us.fetch_add(cost_us, Relaxed);
        self.answers.fetch_add(1, Relaxed);
        if slow {
            self.slow.fetch_add(1, Relaxed);
            self.slow_cost_us.fetch_add(cost_us, Relaxed);
        }
    }

    pub fn take_flow(&self) -> Flow {
        let ended = self.ended.swap(0, Relaxed).max(1) as f32;
        Flow {
            arrived: std::array::from_fn(|class| self.arrived[class].swap(0, Relaxed) as f32),
            done_us: self.done_us.swap(0, Relaxed) as f32,
            shed_us: self.shed_us.swap(0, Relaxed) as f32,
            in_flight: self.work_sum.swap(0, Relaxed) as f32 / ended / UNIT,
        }
    }

    /// `None` while too few answers tell of the present. The next window's peak is at least what is in flight now.
    pub fn take_window(&self, work: u64) -> Option<Window> {
        (self.answers.load(Relaxed) >= ENDED_MIN).then(|| Window {
            answers: f64::from(self.answers.swap(0, Relaxed)).max(1.0),
            slow: self.slow.swap(0, Relaxed).into(),
            latency_us: self.latency_us.swap(0, Relaxed) as f64,
            cost_us: self.cost_us.swap(0, Relaxed) as f64,
            slow_cost_us: self.slow_cost_us.swap(0, Relaxed) as f64,
            shed: self.shed.swap(0, Relaxed) > 0,
            peak: self.peak.swap(work, Relaxed) as f32 / UNIT,
        })
    }
}

impl Window {
    /// The share of what was in use with which the mean answer would be just not slow, by Little's law; 1 where nobody waits for long before the limit
    /// is lowered for the first time.
    pub fn to_mark(&self, rules: &AdmissionRules) -> f32 {
        if !rules.is_derived() {
            return 1.0;
        }
        let latency_us = self.latency_us / self.answers;
        let mark_us = nanos(rules.slow_mark()) as f64 / 1e3 + self.cost_us / self.answers;
        (mark_us / latency_us.max(1.0)).min(1.0) as f32
    }

    /// To which share of what was in use the limit must sink; `None`: there is no reason to. `shed_share` is the share of the work that was turned
    /// away lately.
    pub fn cut(&self, rules: &AdmissionRules, shed_share: f32) -> Option<f32> {
        let objective_us = rules.objective_us();
        let latency_us = self.latency_us / self.answers;
        let slow = self.slow > rules.slow_max(self.answers, self.shed);
        if rules.is_derived() && !slow {
            return None;
        }
        let Some(classes) = rules.classes() else {
            let queueing = slow && latency_us >= MEAN_SHARE_MIN * objective_us;
            return queueing.then_some(CUT as f32);
        };
        let cost_us = self.cost_us / self.answers;
        let wait_us = latency_us - cost_us;
        let long_us = (LONG_QUEUE_COSTS * classes.mean_us).min(LONG_QUEUE_SHARE * objective_us).max(classes.wait_us);
        let queueing = (slow && wait_us > QUEUE_COSTS_MIN * classes.mean_us) || wait_us > long_us;
        // By Little's law the latency follows what is in flight.
        let to_fit = ((classes.wait_us + cost_us) / latency_us.max(1.0)).clamp(CUT_TO_FIT.0, CUT_TO_FIT.1);
        let much = f64::from((shed_share / MUCH_SHED).min(1.0));
        let lenient_us = classes.wait_us.max(WAIT_SHARE * objective_us);
        let allowed_us = lenient_us + (classes.wait_us - lenient_us) * much;
        let cut = if self.shed && much >= 1.0 {
            let wasted = self.slow_cost_us > SLOW_WORK_SHARE * self.cost_us;
            if wait_us > allowed_us { Some(to_fit) } else { wasted.then_some(CUT) }
        } else if self.shed && wait_us > allowed_us {
            Some(to_fit.max(CUT))
        } else {
            // Nothing is shed yet, or next to nothing: a gentle step, as it may be over soon.
            queueing.then_some(if self.shed { CUT } else { to_fit.max(CUT) })
        };
        cut.map(|cut| cut as f32)
    }
}
