//! Shortest expected delay: the usual definition of a perfect dispatcher that does not know the sizes of requests.

use super::Truth;
use crate::{
    scenario::Scenario,
    simulator::{
        Router, Routing,
        endpoint::{Discipline, Endpoint},
        router::{Arrival, Departure},
    },
};

/// Sends each request where it is expected to end soonest, given every endpoint's true in-flight requests by class (all proxies', and what
/// is still on its way), slots and present speed, and true mean costs of classes there. Sizes of single requests are unknown to it.
#[derive(Debug, Clone)]
pub struct ShortestExpectedDelay {
    truth: Truth,
    /// By endpoint: requests sent there that have not been heard of, and the sum of their mean work.
    sent: Vec<Sent>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Sent {
    count: u32,
    mean_ns_sum: f64,
}

impl ShortestExpectedDelay {
    /// For this scenario's endpoints and classes.
    pub fn new(scenario: &Scenario) -> Self {
        Self { truth: Truth::new(scenario), sent: vec![Sent::default(); scenario.endpoints.len()] }
    }

    /// Chooses without accounting for it.
    pub(super) fn choose(&mut self, arrival: &Arrival, endpoints: &[Endpoint]) -> Option<u32> {
        let sent = &self.sent;
        self.truth.lowest(arrival, endpoints, |truth, number, endpoint| {
            let own_ns = truth.mean_ns(arrival.class, number);
            let Sent { count, mean_ns_sum } = sent[number];
            // What has ended but is not heard of yet no longer counts: the true number, at the mean cost of what was sent.
            let ahead_ns = if count == 0 { own_ns } else { mean_ns_sum / f64::from(count) };
            expected_ns(endpoint, endpoint.assigned(), ahead_ns, own_ns)
        })
    }

    pub(super) fn sent(&mut self, class: u8, endpoint: u32) {
        let sent = &mut self.sent[endpoint as usize];
        sent.count += 1;
        sent.mean_ns_sum += self.truth.mean_ns(class, endpoint as usize);
    }
}

/// Expected time at an endpoint for a request of mean work `own_ns` behind `ahead` others of mean work `ahead_ns`, at the present speed, in
/// nanoseconds; infinite at one that stands still.
#[inline]
fn expected_ns(endpoint: &Endpoint, ahead: u32, ahead_ns: f64, own_ns: f64) -> f64 {
    let slots = f64::from(endpoint.spec().slots);
    let ahead = f64::from(ahead);
    let work_ns = match endpoint.spec().discipline {
        // Wait for the (ahead - slots + 1)-th departure of a full endpoint, then be served.
        Discipline::Fcfs => own_ns + ((ahead + 1.0 - slots) / slots).max(0.0) * ahead_ns,
        Discipline::ProcessorSharing => own_ns.max((own_ns + ahead * ahead_ns.min(own_ns)) / slots),
    };
    let speed = endpoint.speed();
    if speed > 0.0 { work_ns / speed } else { f64::INFINITY }
}

impl Router for ShortestExpectedDelay {
    fn route(&mut self, arrival: &Arrival, endpoints: &[Endpoint]) -> Routing {
        let Some(endpoint) = self.choose(arrival, endpoints) else { return Routing::Unroutable };
        self.sent(arrival.class, endpoint);
        Routing::To(endpoint)
    }

    fn ended(&mut self, departure: &Departure) {
        let mean_ns = self.truth.mean_ns(departure.class, departure.endpoint as usize);
        let sent = &mut self.sent[departure.endpoint as usize];
        sent.count -= 1;
        // Sums of floats drift; an empty one is exactly zero.
        sent.mean_ns_sum = if sent.count == 0 { 0.0 } else { sent.mean_ns_sum - mean_ns };
    }

    fn readiness(&mut self, _now_ns: u64, endpoint: u32, ready: bool) {
        self.truth.ready[endpoint as usize] = ready;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulator::endpoint::EndpointSpec;

    fn check(discipline: Discipline, ahead: u32, expected: f64) {
        let endpoint = Endpoint::new(EndpointSpec { discipline, slots: 2, room: 9, speed: 2.0 });
        // Work of 20 behind work of 40, at twice the speed.
        let ns = expected_ns(&endpoint, ahead, 40.0, 20.0);
        assert_eq!(ns, expected, "{discipline:?} behind {ahead}");
    }

    #[test]
    fn the_expected_time_is_the_service_time_while_a_slot_is_free_and_then_grows_by_what_is_ahead() {
        check(Discipline::Fcfs, 1, 10.0);
        check(Discipline::Fcfs, 2, 20.0);
        check(Discipline::Fcfs, 3, 30.0);
        check(Discipline::ProcessorSharing, 1, 10.0);
        // Others share as long as this one is there: 20 each.
        check(Discipline::ProcessorSharing, 3, 20.0);
    }
}
