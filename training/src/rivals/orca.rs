//! Client-side weighted round robin on ORCA load reports (gRFC A58; Envoy's `client_side_weighted_round_robin`):
//! `weight = qps / (utilization + eps/qps · penalty)`, from reports on answers, scheduled by static strides.
//!
//! Defaults of both: blackout 10 s, expiration 3 min, update period 1 s, penalty 1. Utilization is the busy share of slots over the
//! server's window: what a server that sets `application_utilization` well would report, and better than CPU.

use rand::rngs::SmallRng;

use super::{
    rule::{Members, Needs, Rule, View},
    schedulers::StaticStride,
    servers::Load,
};
use crate::simulator::{
    router::Departure,
    time::{MILLISECOND, SECOND},
};

/// Its knobs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Knobs {
    /// `weight_update_period`.
    pub update_ns: u64,
    /// `error_utilization_penalty`.
    pub penalty: f64,
    /// Window over which servers measure.
    pub window_ns: u64,
    /// `blackout_period`: an endpoint's weight counts once it has reported for so long.
    pub blackout_ns: u64,
}

impl Knobs {
    /// Those of gRPC and Envoy.
    pub const DEFAULT: Self = Self { update_ns: SECOND, penalty: 1.0, window_ns: SECOND, blackout_ns: 10 * SECOND };
    /// See docs/rivals.md, "Tuning".
    pub const TUNED: Self =
        Self { update_ns: 100 * MILLISECOND, penalty: 3.0, window_ns: 300 * MILLISECOND, blackout_ns: 0 };
}

/// `weight_expiration_period`.
const EXPIRATION_NS: u64 = 180 * SECOND;

#[derive(Debug, Clone, Copy, Default)]
struct Report {
    weight: f64,
    since_ns: Option<u64>,
    at_ns: u64,
}

/// ORCA-driven weighted round robin.
#[derive(Debug, Clone)]
pub struct Orca {
    knobs: Knobs,
    reports: Vec<Report>,
    /// Endpoints that were there when the run began: the service has been up for long, their blackouts are over.
    seasoned: Vec<bool>,
    stride: StaticStride,
    update_at_ns: u64,
}

impl Orca {
    /// For so many endpoints.
    pub fn new(knobs: Knobs, endpoints: usize) -> Self {
        Self {
            knobs,
            reports: vec![Report::default(); endpoints],
            seasoned: vec![true; endpoints],
            stride: StaticStride::default(),
            update_at_ns: 0,
        }
    }

    /// A58's weight; `None`: the report says nothing.
    fn weight(&self, load: &Load) -> Option<f64> {
        let utilization =
            load.utilization + if load.qps > 0.0 { load.eps / load.qps * self.knobs.penalty } else { 0.0 };
        (load.qps > 0.0 && utilization > 0.0).then(|| load.qps / utilization)
    }

    fn weight_at(&self, endpoint: u32, now_ns: u64) -> Option<f64> {
        let report = &self.reports[endpoint as usize];
        let since_ns = report.since_ns.filter(|_| now_ns - report.at_ns < EXPIRATION_NS)?;
        let over = self.seasoned[endpoint as usize] || now_ns - since_ns >= self.knobs.blackout_ns;
        over.then_some(report.weight)
    }
}

impl Rule for Orca {
    fn needs(&self) -> Needs {
        Needs { load_window_ns: Some(self.knobs.window_ns), ..Needs::default() }
    }

    fn pick(&mut self, view: &View<'_>, rng: &mut SmallRng, _probes: &mut Vec<u32>) -> u32 {
        if view.now_ns >= self.update_at_ns {
            self.update_at_ns = view.now_ns + self.knobs.update_ns;
            let mut stride = std::mem::take(&mut self.stride);
            stride.set(view.members, rng, |endpoint| self.weight_at(endpoint, view.now_ns));
            self.stride = stride;
        }
        self.stride.next(view)
    }

    fn ended(&mut self, departure: &Departure, load: Option<&Load>) {
        let Some(weight) = load.and_then(|load| self.weight(load)) else { return };
        let report = &mut self.reports[departure.endpoint as usize];
        // After a gap longer than the expiration the blackout starts anew.
        let gap = departure.now_ns.saturating_sub(report.at_ns) >= EXPIRATION_NS;
        let since_ns = report.since_ns.filter(|_| !gap).unwrap_or(departure.now_ns);
        *report = Report { weight, since_ns: Some(since_ns), at_ns: departure.now_ns };
    }

    fn members(&mut self, _now_ns: u64, members: &Members) {
        // One that left comes back as new: with a blackout.
        for (endpoint, report) in self.reports.iter_mut().enumerate() {
            if !members.is_ready(endpoint as u32) {
                report.since_ns = None;
                self.seasoned[endpoint] = false;
            }
        }
        self.update_at_ns = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        rivals::rule::testing::{answer, counts},
        simulator::router::Served,
    };

    const LOAD: Load = Load { qps: 100.0, eps: 10.0, utilization: 0.4 };

    #[test]
    fn the_weight_is_that_of_a58() {
        let orca = |penalty| Orca::new(Knobs { penalty, ..Knobs::DEFAULT }, 1);
        // 100 / (0.4 + 0.1·1) = 200; without a penalty 250.
        assert_eq!(orca(1.0).weight(&LOAD), Some(200.0));
        assert_eq!(orca(0.0).weight(&LOAD), Some(250.0));
        assert_eq!(orca(1.0).weight(&Load { qps: 0.0, ..LOAD }), None);
    }

    #[test]
    fn weights_count_after_the_blackout_and_share_out_requests() {
        let mut orca = Orca::new(Knobs { blackout_ns: 0, ..Knobs::DEFAULT }, 2);
        for (endpoint, utilization) in [(0, 0.2), (1, 0.6)] {
            let load = Load { qps: 100.0, eps: 0.0, utilization };
            orca.ended(&answer(endpoint, 0, 1, Served::default()), Some(&load));
        }
        let counts = counts(&mut orca, &Members::all(2), &[0; 2], 40_000);
        assert!((counts[0] as f64 / 40_000.0 - 0.75).abs() < 0.001, "{counts:?}");
        let black = Orca { knobs: Knobs::DEFAULT, seasoned: vec![false; 2], ..orca };
        assert_eq!(black.weight_at(0, 9 * SECOND), None);
        assert_eq!(black.weight_at(0, 10 * SECOND), Some(500.0));
    }
}
