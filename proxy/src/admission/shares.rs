//! Who is turned away when there is too much to do: classes lined up by cost, let in as far as the work that gets done reaches.
//!
//! Shedding the costliest requests first answers the most. What gets done of what comes, both counted at the classes' costs, says how far down the
//! line one can go, and what is in flight corrects it. It is a rate and not a queue that decides: with many proxies each has only a few requests in
//! flight, and their number says little.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use super::{rules::ClassRules, window::Flow};
use crate::{load::CLASSES_MAX, time::Timestamp};

/// Rates are averages over about this long: what comes changes fast, what can be done does not.
const ARRIVED_S: f32 = 0.5;
const DONE_S: f32 = 1.0;
/// What is let in changes by this share of all work for all of the limit that is in flight too much or too little.
const GAIN: f32 = 0.2;
/// What is in flight is held there, as a share of the limit.
const MIDDLE: f32 = 0.5;
/// A class goes from nothing to all of the limit within its own share of the work; one that is less than one over this, within that much.
const STEEPNESS_MAX: f32 = 8.0;

/// Rates of what comes and what gets done. Written by the worker that closes a window; f32s in bits.
#[derive(Debug, Default)]
pub(super) struct Demand {
    /// Requests a second, by class.
    arrived: [AtomicU32; CLASSES_MAX],
    /// Work a second, in microseconds.
    done: AtomicU32,
    /// Share of the work that was turned away.
    shed: AtomicU32,
    at: AtomicU64,
}

/// An exponential average that is `passed_s` older.
fn follow(average: &AtomicU32, value: f32, passed_s: f32, memory_s: f32) -> f32 {
    let before = f32::from_bits(average.load(Relaxed));
    let next = before + (value - before) * (1.0 - (-passed_s / memory_s).exp());
    average.store(next.to_bits(), Relaxed);
    next
}

impl Demand {
    /// Share of the work that was turned away lately, 0..=1.
    pub fn shed(&self) -> f32 {
        f32::from_bits(self.shed.load(Relaxed))
    }

    /// Share of `limit` that each class may fill after a window with this flow.
    pub fn shares(&self, classes: &ClassRules, flow: &Flow, limit: f32, now: Timestamp) -> [f32; CLASSES_MAX] {
        let passed_s = (now.since(Timestamp(self.at.swap(now.0, Relaxed)))).as_secs_f32().max(1e-3);
        let costs_us = classes.costs_us.map(|cost_us| cost_us as f32);
        let done = follow(&self.done, flow.done_us / passed_s, passed_s, DONE_S);
        let arrived: [f32; CLASSES_MAX] = std::array::from_fn(|class| {
            costs_us[class] * follow(&self.arrived[class], flow.arrived[class] / passed_s, passed_s, ARRIVED_S)
        });
        let total = arrived.iter().sum::<f32>().max(1e-6);
        follow(&self.shed, flow.shed_us / passed_s / total, passed_s, ARRIVED_S);
        let let_in = (done / total).min(1.0) + GAIN * (MIDDLE - flow.in_flight / limit);
        line_up(&arrived, &costs_us, let_in)
    }
}

/// Share of the limit that each class may fill, where they bring so much work each, cost so much a request, and `let_in` of all work is let in. Nobody is
/// held back for the cheapest, whom only the limit bounds.
fn line_up(work: &[f32; CLASSES_MAX], costs: &[f32; CLASSES_MAX], let_in: f32) -> [f32; CLASSES_MAX] {
    let total = work.iter().sum::<f32>().max(1e-6);
    let cheaper = |class: usize| -> f32 {
        (0..CLASSES_MAX).filter(|other| costs[*other] < costs[class]).map(|other| work[other]).sum()
    };
    std::array::from_fn(|class| {
        let before = cheaper(class);
        if before <= 0.0 {
            return 1.0;
        }
        let middle = (before + work[class] / 2.0) / total;
        let steepness = (total / work[class].max(1e-6)).min(STEEPNESS_MAX);
        (MIDDLE + steepness * (let_in - middle)).clamp(0.0, 1.0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Four classes with costs 1, 2, 10 and 100 and so much work each; shares in percent.
    fn check(work: [f32; 4], let_in: f32, expected: [i32; 4]) {
        let padded = |four: [f32; 4]| std::array::from_fn(|class| four.get(class).copied().unwrap_or(0.0));
        let shares = line_up(&padded(work), &padded([1.0, 2.0, 10.0, 100.0]), let_in);
        let found: [i32; 4] = std::array::from_fn(|class| (100.0 * shares[class]).round() as i32);
        assert_eq!(found, expected, "{work:?} with {let_in} of it let in");
    }

    #[test]
    fn costly_classes_are_shed_whole_and_one_of_them_in_part() {
        check([10.0, 20.0, 30.0, 40.0], 1.1, [100, 100, 100, 100]);
        check([10.0, 20.0, 30.0, 40.0], 0.8, [100, 100, 100, 50]);
        check([10.0, 20.0, 30.0, 40.0], 0.6, [100, 100, 100, 0]);
        check([10.0, 20.0, 30.0, 40.0], 0.36, [100, 100, 20, 0]);
        check([10.0, 20.0, 30.0, 40.0], 0.0, [100, 0, 0, 0]);
    }

    #[test]
    fn a_class_that_is_little_work_is_not_cut_off_at_once() {
        check([50.0, 0.0, 1.0, 49.0], 0.505, [100, 54, 50, 0]);
    }
}
