//! What a scenario's endpoints can serve: all of them together when nothing is wrong, and the share of that which troubles leave.

use super::{Change, Scenario};
use crate::simulator::{endpoint::EndpointSpec, time::SECOND, work::Class};

impl Scenario {
    /// Mean work of a request in nanoseconds at speed 1, when requests of every class go to endpoints in proportion to their
    /// capacity.
    pub fn mean_work_ns(&self) -> f64 {
        (0..self.classes.len() as u8)
            .map(|class| self.classes[usize::from(class)].share * self.class_work_ns(class))
            .sum()
    }

    /// The same of one class.
    pub fn class_work_ns(&self, class: u8) -> f64 {
        let Class { mean_ns, .. } = self.classes[usize::from(class)];
        if self.affinity.is_empty() {
            return mean_ns;
        }
        let capacity: f64 = self.endpoints.iter().map(EndpointSpec::capacity).sum();
        let weighted =
            self.endpoints.iter().zip(0..).map(|(spec, endpoint)| spec.capacity() * self.factor(class, endpoint));
        mean_ns * weighted.sum::<f64>() / capacity
    }

    /// Requests per second that all endpoints together can serve when nothing is wrong with them and requests go to them in
    /// proportion to their capacity. A router that sends every class where it is cheap can serve more.
    pub fn capacity_rps(&self) -> f64 {
        let speed: f64 = self.endpoints.iter().map(EndpointSpec::capacity).sum();
        speed * 1e9 / self.mean_work_ns()
    }

    /// The largest share of the requests of the measured window that can be answered: by shedding the costliest classes first and the last of
    /// them in part, all capacity spent on the others, none on answers that come late. A router may do a little better where some of what
    /// it let in is answered after the window, or where it sends every class to where that is cheap.
    pub fn reachable_goodput(&self) -> f64 {
        let mut classes: Vec<(f64, f64)> =
            (0..self.classes.len()).map(|class| (self.class_work_ns(class as u8), self.classes[class].share)).collect();
        classes.sort_by(|a, b| a.0.total_cmp(&b.0));
        let capacity_rps = self.capacity_rps() * self.availability();
        let good_at = |rate_rps: f64| {
            let mut left = capacity_rps * self.mean_work_ns() / rate_rps;
            let served = |&(work_ns, share): &(f64, f64)| {
                let part = (left / (share * work_ns)).clamp(0.0, 1.0);
                left -= part * share * work_ns;
                part * share
            };
            classes.iter().map(served).sum::<f64>()
        };
        let (mut arrived, mut good) = (0.0, 0.0);
        let mut stretch = |from_ns: u64, to_ns: u64, factor: f64| {
            let (from_ns, to_ns) = (from_ns.max(self.measured_ns.start), to_ns.min(self.measured_ns.end));
            let requests = factor * to_ns.saturating_sub(from_ns) as f64;
            arrived += requests;
            good += requests * good_at(factor * self.rate_rps);
        };
        let (mut since_ns, mut factor) = (0, 1.0);
        for event in &self.timeline {
            if let Change::Load { factor: next } = event.change {
                stretch(since_ns, event.at_ns, factor);
                (since_ns, factor) = (event.at_ns, next);
            }
        }
        stretch(since_ns, u64::MAX, factor);
        good / arrived
    }

    /// Share of the capacity that is there on average while requests are measured: without what is dead, not ready, slowed
    /// down, or answered with errors. Between 0 and 1 unless pods are sped up.
    pub fn availability(&self) -> f64 {
        struct Now {
            factor: f64,
            up: bool,
            ready: bool,
            fails: f64,
            since_ns: u64,
            sum: f64,
        }
        impl Now {
            fn pass(&mut self, at_ns: u64, window: &std::ops::Range<u64>) {
                let (from, to) = (self.since_ns.max(window.start), at_ns.min(window.end));
                if self.up && self.ready && to > from {
                    self.sum += (to - from) as f64 * self.factor * (1.0 - self.fails);
                }
                self.since_ns = at_ns;
            }
        }
        let mut endpoints: Vec<Now> = self
            .endpoints
            .iter()
            .map(|_| Now { factor: 1.0, up: true, ready: true, fails: 0.0, since_ns: 0, sum: 0.0 })
            .collect();
        for event in &self.timeline {
            let (Change::Factor { endpoint, .. }
            | Change::Gray { endpoint, .. }
            | Change::Crash { endpoint }
            | Change::Start { endpoint }
            | Change::Ready { endpoint, .. }) = event.change
            else {
                continue;
            };
            let now = &mut endpoints[endpoint as usize];
            now.pass(event.at_ns, &self.measured_ns);
            match event.change {
                Change::Factor { factor, .. } => now.factor = factor,
                Change::Gray { gray, .. } => now.fails = gray.share,
                Change::Crash { .. } => now.up = false,
                Change::Start { .. } => now.up = true,
                Change::Ready { ready, .. } => now.ready = ready,
                Change::Load { .. } => {}
            }
        }
        let window_ns = (self.measured_ns.end - self.measured_ns.start) as f64;
        let mut left = 0.0;
        let mut whole = 0.0;
        for (now, spec) in endpoints.iter_mut().zip(&self.endpoints) {
            now.pass(u64::MAX, &self.measured_ns);
            left += spec.capacity() * now.sum / window_ns;
            whole += spec.capacity();
        }
        left / whole
    }

    /// The same with so many measured seconds. Troubles that a family planned for a shorter run do not come again.
    #[must_use]
    pub fn lasting(mut self, seconds: u64) -> Self {
        self.measured_ns.end = self.measured_ns.start + seconds * SECOND;
        self
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        scenario::{Change, Event, Scenario, unequal_pods},
        simulator::{endpoint::Gray, time::SECOND},
    };

    /// Four equal pods, measured from 10 s to 20 s.
    fn scenario() -> Scenario {
        let mut scenario = unequal_pods(1, 1, 0.8).lasting(10);
        let first = scenario.endpoints[0];
        scenario.endpoints = vec![first; 4];
        scenario
    }

    fn check(events: &[(u64, Change)], expected: f64) {
        let mut scenario = scenario();
        scenario.timeline =
            events.iter().map(|(at_s, change)| Event { at_ns: at_s * SECOND, change: *change }).collect();
        let measured = scenario.availability();
        assert!((measured - expected).abs() < 1e-9, "{events:?}: {measured}, expected {expected}");
    }

    #[test]
    fn availability_counts_what_troubles_leave_while_requests_are_measured() {
        check(&[], 1.0);
        check(&[(0, Change::Factor { endpoint: 0, factor: 0.5 })], 0.875);
        check(&[(12, Change::Crash { endpoint: 1 }), (17, Change::Start { endpoint: 1 })], 0.875);
        check(&[(0, Change::Ready { endpoint: 1, ready: false }), (15, Change::Crash { endpoint: 1 })], 0.75);
        check(&[(15, Change::Gray { endpoint: 2, gray: Gray { share: 0.5, fast_ns: None } })], 0.9375);
        check(&[(1, Change::Crash { endpoint: 1 }), (9, Change::Start { endpoint: 1 })], 1.0);
    }

    #[test]
    fn what_can_be_reached_in_overload_leaves_out_the_costliest_requests_first() {
        let mut scenario = scenario();
        let rps = scenario.capacity_rps();
        let mut check = |load: f64, expected: f64| {
            scenario.rate_rps = load * rps;
            let found = scenario.reachable_goodput();
            assert!((found - expected).abs() < 1e-9, "at {load}: {found}, expected {expected}");
        };
        check(0.8, 1.0);
        check(1.25, 0.8);
        // A tenth of the requests is nine tenths of the work.
        let mean_ns = scenario.classes[0].mean_ns;
        let class = |share: f64, work: f64| crate::simulator::work::Class {
            share,
            mean_ns: work * mean_ns / share,
            ..scenario.classes[0]
        };
        scenario.classes = vec![class(0.1, 0.9), class(0.9, 0.1)];
        let mut check = |load: f64, expected: f64| {
            scenario.rate_rps = load * rps;
            let found = scenario.reachable_goodput();
            assert!((found - expected).abs() < 1e-9, "with classes at {load}: {found}, expected {expected}");
        };
        check(1.0, 1.0);
        check(2.0, 0.9 + 0.1 * (0.5 - 0.1) / 0.9);
        check(20.0, 0.45);
        // Half of the time nothing is wrong: of three requests two arrive at 2.
        scenario.rate_rps = rps;
        let half_ns = scenario.measured_ns.start + 5 * SECOND;
        scenario.timeline = vec![Event { at_ns: half_ns, change: Change::Load { factor: 2.0 } }];
        let expected = (1.0 + 2.0 * (0.9 + 0.1 * (0.5 - 0.1) / 0.9)) / 3.0;
        assert!((scenario.reachable_goodput() - expected).abs() < 1e-9);
    }

    #[test]
    fn capacity_counts_affinity_as_if_every_class_went_everywhere() {
        let mut scenario = scenario();
        let before = scenario.capacity_rps();
        scenario.groups = vec![0, 0, 0, 1];
        scenario.affinity = vec![1.0, 3.0];
        assert!((scenario.capacity_rps() / before - 4.0 / 6.0).abs() < 1e-9);
    }
}
