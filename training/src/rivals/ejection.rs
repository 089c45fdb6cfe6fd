//! Outlier detection for rivals, as Envoy has it by default: consecutive errors eject an endpoint for a while that grows with each time.
//! Originals come without it (a rule is one thing, ejection another); `NAME+ejection` is the same rule with it.

use super::rule::Members;
use crate::simulator::{Outcome, router::Departure, time::SECOND};

/// Envoy's `consecutive_5xx`.
const CONSECUTIVE: u32 = 5;
/// Envoy's `base_ejection_time` and `max_ejection_time`.
const BASE_NS: u64 = 30 * SECOND;
const MAX_NS: u64 = 300 * SECOND;
/// Envoy's `max_ejection_percent`; one may always be ejected.
const SHARE_MAX: f64 = 0.1;

/// One proxy's outlier detection.
#[derive(Debug, Clone)]
pub struct Ejection {
    states: Vec<State>,
    ejected: usize,
    next_ns: u64,
}

#[derive(Debug, Clone, Default)]
struct State {
    consecutive: u32,
    times: u64,
    until_ns: Option<u64>,
}

impl Ejection {
    /// One that has seen nothing.
    pub fn new(endpoints: usize) -> Self {
        Self { states: vec![State::default(); endpoints], ejected: 0, next_ns: u64::MAX }
    }

    /// Whether an endpoint is ejected.
    pub fn is_ejected(&self, endpoint: u32) -> bool {
        self.states[endpoint as usize].until_ns.is_some()
    }

    /// Takes in an answer; true: it ejects its endpoint.
    pub fn ended(&mut self, departure: &Departure, listed: &Members) -> bool {
        let allowed = ((listed.list().len() as f64 * SHARE_MAX) as usize).max(1);
        let state = &mut self.states[departure.endpoint as usize];
        if departure.outcome == Outcome::Success {
            state.consecutive = 0;
            return false;
        }
        state.consecutive += 1;
        if state.consecutive < CONSECUTIVE || state.until_ns.is_some() || self.ejected >= allowed {
            return false;
        }
        state.consecutive = 0;
        state.times += 1;
        let until_ns = departure.now_ns + (state.times * BASE_NS).min(MAX_NS);
        state.until_ns = Some(until_ns);
        self.ejected += 1;
        self.next_ns = self.next_ns.min(until_ns);
        true
    }

    /// Takes back one ejection that is over by now.
    pub fn forgive(&mut self, now_ns: u64) -> Option<u32> {
        if now_ns < self.next_ns {
            return None;
        }
        let over = self.states.iter().position(|state| state.until_ns.is_some_and(|until_ns| until_ns <= now_ns));
        if let Some(over) = over {
            self.states[over].until_ns = None;
            self.ejected -= 1;
        }
        self.next_ns = self.states.iter().filter_map(|state| state.until_ns).min().unwrap_or(u64::MAX);
        over.map(|over| over as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{rivals::rule::testing::answer, simulator::router::Served};

    #[test]
    fn five_errors_in_a_row_eject_for_half_a_minute_and_no_more_than_allowed_at_once() {
        let members = Members::all(4);
        let mut ejection = Ejection::new(4);
        let error = |endpoint| Departure { outcome: Outcome::Error, ..answer(endpoint, 1, 1, Served::default()) };
        for _ in 0..4 {
            assert!(!ejection.ended(&error(2), &members));
        }
        ejection.ended(&answer(2, 1, 1, Served::default()), &members);
        let ejects: Vec<bool> = (0..5).map(|_| ejection.ended(&error(2), &members)).collect();
        assert_eq!(ejects, [false, false, false, false, true]);
        assert!((0..9).all(|_| !ejection.ended(&error(3), &members)));
        assert_eq!(ejection.forgive(BASE_NS), None);
        assert_eq!(ejection.forgive(BASE_NS + 1), Some(2));
        assert!(!ejection.is_ejected(2));
    }
}
