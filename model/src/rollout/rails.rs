//! Guard rails: what is plainly bad is stopped within a few ticks, long before a test over many blocks could say so.
//!
//! What came of the last ticks of a visit is held against everything that as many ticks on end have shown lately under who is usually in
//! force: it must stand out from the worst of that, by a factor that no coincidence brings. Bursts, noisy neighbours and deploys of the last
//! minute are in there, so that nothing needs to be known of what is normal for a service. If the visitor changed nothing, its ticks would be
//! one draw among as many: the worst of them with a chance of one in some dozens, and by such a factor hardly ever.

use std::collections::VecDeque;

use serde_json::{Value, json};

use super::event::Why;
use super::outcome::Interval;

/// Ticks that are remembered: a minute.
const REMEMBERED: usize = 120;
/// Ticks that must be remembered before anything is compared with them.
const REMEMBERED_MIN: usize = 20;
/// Ticks of somebody who has only just begun to decide, which are not remembered: who has not tried the endpoints yet tries slow ones too, and what was in
/// flight belongs to somebody else.
const SETTLING: u32 = 10;
/// Ticks that are looked at together, at most: two seconds, in which slow answers come back.
const WINDOW: usize = 4;
/// Standard errors of a count.
const ERRORS: f64 = 4.0;
/// Count below which no share means anything.
const COUNT_MIN: f64 = 5.0;
/// The worst share that is remembered, times this: where half of the requests are lost anyway, some more are soon lost by chance.
const SHARE_FACTOR: f64 = 1.25;
/// Share of failures beyond that.
const FAILED_MARGIN: f64 = 0.02;
/// The same of requests turned away.
const SHED_MARGIN: f64 = 0.05;
/// The same of requests without an answer within the objective.
const LATE_MARGIN: f64 = 0.10;
/// The worst 99th percentile that is remembered, times this.
const LATENCY_FACTOR: f64 = 2.5;
/// Answers that a 99th percentile needs at least.
const LATENCY_ANSWERS: f64 = 50.0;
/// Share of a tick's requests without a good answer up to which it counts as steady.
const STEADY_LOST: f64 = 0.05;
/// The most requests inside that are remembered, times this, and so many more.
const PILE_UP: (f64, f64) = (2.0, 8.0);

/// What has come of the last ticks of who is usually in force.
#[derive(Debug, Clone)]
pub struct Rails {
    ticks: VecDeque<Interval>,
    /// Ticks that are still not to be remembered.
    settling: u32,
}

impl Default for Rails {
    fn default() -> Self {
        Self { ticks: VecDeque::new(), settling: SETTLING }
    }
}

/// A part of an interval's requests.
type Part = fn(&Interval) -> f64;

/// Something that is plainly bad.
#[derive(Debug, Clone, PartialEq)]
pub struct Trip {
    /// Which rail.
    pub why: Why,
    /// What was seen.
    pub seen: f64,
    /// The worst that is remembered.
    pub worst: f64,
    /// Over so many ticks.
    pub ticks: usize,
}

impl Trip {
    /// In words.
    pub fn detail(&self) -> String {
        let Self { why, seen, worst, ticks } = self;
        let what = match why {
            Why::Errors => format!("{:.1} % of requests failed, {:.1} % at worst", 100.0 * seen, 100.0 * worst),
            Why::Shed => format!("{:.1} % of requests were turned away, {:.1} % at worst", 100.0 * seen, 100.0 * worst),
            Why::Goodput => {
                format!("{:.1} % of requests got no answer in time, {:.1} % at worst", 100.0 * seen, 100.0 * worst)
            }
            Why::Latency => format!("p99 was {seen:.0} ms, {worst:.0} ms at worst"),
            _ => format!("{seen:.0} requests were inside, {worst:.0} at worst"),
        };
        format!("{what} in any {ticks} ticks of the last minute without it")
    }

    /// As numbers.
    pub fn evidence(&self) -> Value {
        json!({ "rail": self.why, "seen": self.seen, "worst_without_it": self.worst, "ticks": self.ticks })
    }
}

impl Rails {
    /// Takes in a tick of who is usually in force. Ticks without a request say nothing.
    pub fn add(&mut self, tick: Interval) {
        if tick.requests() <= 0.0 {
            return;
        }
        if self.settling > 0 {
            self.settling -= 1;
            return;
        }
        if self.ticks.len() == REMEMBERED {
            self.ticks.pop_front();
        }
        self.ticks.push_back(tick);
    }

    /// Whether enough is remembered to compare with.
    pub fn ready(&self) -> bool {
        self.ticks.len() >= REMEMBERED_MIN
    }

    /// Whether as much is remembered as can be: nobody should be tried before, as what is normal is known by halves only.
    pub fn full(&self) -> bool {
        self.ticks.len() >= REMEMBERED
    }

    /// Whether a tick is no worse than the middle of what is remembered.
    pub fn calm(&self, tick: &Interval) -> bool {
        let below = |of: fn(&Interval) -> f64| {
            let better = self.ticks.iter().filter(|other| of(other) < of(tick)).count();
            2 * better <= self.ticks.len()
        };
        below(|interval| interval.in_flight) && below(Interval::lost)
    }

    /// Whether a tick is no worse than the worst of what is remembered.
    pub fn usual(&self, tick: &Interval) -> bool {
        let worst = |of: fn(&Interval) -> f64| self.ticks.iter().map(of).fold(0.0, f64::max);
        tick.in_flight <= worst(|interval| interval.in_flight) && tick.lost() <= worst(Interval::lost)
    }

    /// Whether so little has happened lately that a few ticks tell a visitor's doing from it.
    pub fn steady(&self) -> bool {
        self.full() && self.ticks.iter().all(|tick| tick.lost() <= STEADY_LOST)
    }

    /// Forgets everything: somebody else is in force.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Whether the last ticks of `visit`, which are not remembered here, are plainly bad: so many at least, or a few more together.
    pub fn judge(&self, visit: &[Interval], ticks_min: usize) -> Option<Trip> {
        if !self.ready() {
            return None;
        }
        (ticks_min.max(1)..=visit.len().min(WINDOW))
            .find_map(|ticks| self.judge_together(&visit[visit.len() - ticks..]))
    }

    fn judge_together(&self, visit: &[Interval]) -> Option<Trip> {
        let ticks = visit.len();
        let seen = Interval::together(visit);
        let windows: Vec<Interval> = (0..=self.ticks.len() - ticks)
            .map(|start| Interval::together(self.ticks.range(start..start + ticks)))
            .collect();
        let trip = |why, seen, worst| Some(Trip { why, seen, worst, ticks });
        let worst = |of: &dyn Fn(&Interval) -> f64| windows.iter().map(of).fold(0.0, f64::max);

        let shares: [(Why, f64, Part); 3] = [
            (Why::Errors, FAILED_MARGIN, |i| i.failed),
            (Why::Shed, SHED_MARGIN, |i| i.shed),
            (Why::Goodput, LATE_MARGIN, |i| i.late().unwrap_or(0.0)),
        ];
        for (why, margin, part) in shares {
            let worst = worst(&|window| window.share(part(window)));
            let usual = SHARE_FACTOR * worst;
            let expected = usual * seen.requests();
            let surplus = part(&seen) - expected;
            let chance = COUNT_MIN.max(ERRORS * expected.sqrt());
            if seen.share(part(&seen)) > usual + margin && surplus > chance {
                return trip(why, seen.share(part(&seen)), worst);
            }
        }
        if let Some(p99) = seen.latency_ms_p99.filter(|_| seen.answers >= LATENCY_ANSWERS) {
            let worst = worst(&|window| window.latency_ms_p99.unwrap_or(0.0));
            if worst > 0.0 && p99 > LATENCY_FACTOR * worst {
                return trip(Why::Latency, p99, worst);
            }
        }
        let inside = worst(&|window| window.in_flight);
        if seen.in_flight > PILE_UP.0 * inside + PILE_UP.1 {
            return trip(Why::PileUp, seen.in_flight, inside);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 100 answers in half a second, some of them late.
    fn tick(late: f64, p99: f64) -> Interval {
        Interval {
            seconds: 0.5,
            answers: 100.0,
            within_objective: Some(100.0 - late),
            in_flight: 4.0,
            latency_ms_p50: Some(10.0),
            latency_ms_p99: Some(p99),
            ..Interval::default()
        }
    }

    fn check(visit: &[Interval], expected: Option<Why>) {
        let mut rails = Rails::default();
        (0..60 + SETTLING).for_each(|n| rails.add(tick(f64::from(n % 7), 50.0 + f64::from(n % 10))));
        assert_eq!(rails.judge(visit, 1).map(|trip| trip.why), expected, "{visit:?}");
    }

    #[test]
    fn each_rail_stops_what_it_is_for() {
        check(&[Interval { failed: 20.0, ..tick(0.0, 50.0) }], Some(Why::Errors));
        check(&[Interval { shed: 40.0, ..tick(0.0, 50.0) }], Some(Why::Shed));
        check(&[tick(60.0, 50.0)], Some(Why::Goodput));
        check(&[tick(0.0, 400.0)], Some(Why::Latency));
        check(&[Interval { in_flight: 30.0, ..tick(0.0, 50.0) }], Some(Why::PileUp));
    }

    #[test]
    fn what_is_no_worse_than_the_last_minute_passes() {
        check(&[], None);
        check(&[tick(7.0, 60.0)], None);
        check(&[Interval { failed: 2.0, ..tick(3.0, 55.0) }; 4], None);
    }

    #[test]
    fn where_much_is_lost_anyway_some_more_is_no_sign() {
        let mut rails = Rails::default();
        let shed = |percent: f64| Interval {
            answers: 1_000.0 - 10.0 * percent,
            within_objective: None,
            shed: 10.0 * percent,
            ..tick(0.0, 50.0)
        };
        (0..60 + SETTLING).for_each(|n| rails.add(shed(f64::from(40 + n % 20))));
        assert_eq!(rails.judge(&[shed(68.0)], 1), None);
        assert_eq!(rails.judge(&[shed(90.0)], 1).map(|trip| trip.why), Some(Why::Shed));
    }

    #[test]
    fn nothing_is_judged_by_nothing() {
        let mut rails = Rails::default();
        (1..REMEMBERED_MIN + SETTLING as usize).for_each(|_| rails.add(tick(0.0, 50.0)));
        assert_eq!(rails.judge(&[tick(100.0, 9e9)], 1), None);
    }

    #[test]
    fn how_somebody_began_is_not_what_is_normal() {
        let mut rails = Rails::default();
        (0..SETTLING).for_each(|_| rails.add(tick(80.0, 900.0)));
        (0..REMEMBERED - 1).for_each(|_| rails.add(tick(0.0, 50.0)));
        assert!(rails.ready() && !rails.full() && !rails.steady());
        rails.add(tick(0.0, 50.0));
        assert!(rails.full() && rails.steady());
        assert_eq!(rails.judge(&[tick(0.0, 400.0)], 1).map(|trip| trip.why), Some(Why::Latency));
    }
}
