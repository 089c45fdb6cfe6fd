//! Earliest end with every size known: what a dispatcher could do that could read requests' costs, and those of all before them, in advance.

use std::collections::VecDeque;

use super::Truth;
use crate::{
    scenario::Scenario,
    simulator::{
        Router, Routing,
        endpoint::{Discipline, Endpoint},
        router::{Arrival, Departure},
    },
};

/// Sends each request where it ends soonest if nothing else comes and speeds stay as they are: under FCFS by playing the queue out over
/// the slots, under processor sharing by what others share of its time.
#[derive(Debug, Clone)]
pub struct LeastWorkLeft {
    truth: Truth,
    one_way_ns: u64,
    /// By endpoint: work that is on its way, and when it arrives.
    transit: Vec<VecDeque<(u64, f64)>>,
    slots: Vec<f64>,
}

impl LeastWorkLeft {
    /// For this scenario's endpoints and classes.
    pub fn new(scenario: &Scenario) -> Self {
        Self {
            truth: Truth::new(scenario),
            one_way_ns: scenario.one_way_ns,
            transit: vec![VecDeque::new(); scenario.endpoints.len()],
            slots: Vec::new(),
        }
    }
}

/// Time until a request with so much work ends, at speed 1.
fn end_ns(endpoint: &Endpoint, now_ns: u64, transit: &VecDeque<(u64, f64)>, work_ns: f64, slots: &mut Vec<f64>) -> f64 {
    let count = endpoint.spec().slots as usize;
    let coming = transit.iter().filter(|(at_ns, _)| *at_ns > now_ns).map(|(_, work_ns)| *work_ns);
    if endpoint.assigned() < count as u32 {
        return work_ns;
    }
    match endpoint.spec().discipline {
        Discipline::Fcfs => {
            slots.clear();
            slots.extend(endpoint.left_in_service_ns(now_ns).map(|(left_ns, _)| left_ns));
            slots.resize(count.max(slots.len()), 0.0);
            for work_ns in endpoint.waiting_ns().map(|(work_ns, _)| work_ns).chain(coming) {
                *earliest(slots) += work_ns;
            }
            *earliest(slots) + work_ns
        }
        Discipline::ProcessorSharing => {
            let shared: f64 = endpoint
                .left_in_service_ns(now_ns)
                .map(|(left_ns, _)| left_ns)
                .chain(coming)
                .map(|left_ns| left_ns.min(work_ns))
                .sum();
            work_ns.max((work_ns + shared) / count as f64)
        }
    }
}

/// The slot that is free first.
fn earliest(slots: &mut [f64]) -> &mut f64 {
    let mut place = 0;
    for other in 1..slots.len() {
        if slots[other] < slots[place] {
            place = other;
        }
    }
    &mut slots[place]
}

impl Router for LeastWorkLeft {
    fn route(&mut self, arrival: &Arrival, endpoints: &[Endpoint]) -> Routing {
        for transit in &mut self.transit {
            while transit.pop_front_if(|(at_ns, _)| *at_ns <= arrival.now_ns).is_some() {}
        }
        let (transit, slots) = (&self.transit, &mut self.slots);
        let picked = self.truth.lowest(arrival, endpoints, |truth, number, endpoint| {
            let work_ns = arrival.work_ns * truth.factor(arrival.class, number);
            let end_ns = end_ns(endpoint, arrival.now_ns, &transit[number], work_ns, slots);
            if endpoint.speed() > 0.0 { end_ns / endpoint.speed() } else { f64::INFINITY }
        });
        let Some(endpoint) = picked else { return Routing::Unroutable };
        let work_ns = arrival.work_ns * self.truth.factor(arrival.class, endpoint as usize);
        self.transit[endpoint as usize].push_back((arrival.now_ns + self.one_way_ns, work_ns));
        Routing::To(endpoint)
    }

    fn ended(&mut self, _departure: &Departure) {}

    fn readiness(&mut self, _now_ns: u64, endpoint: u32, ready: bool) {
        self.truth.ready[endpoint as usize] = ready;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulator::endpoint::EndpointSpec;

    #[test]
    fn a_queue_is_played_out_over_the_slots() {
        let spec = |discipline| EndpointSpec { discipline, slots: 2, room: 9, speed: 1.0 };
        let mut pod = Endpoint::new(spec(Discipline::Fcfs));
        for (request, work_ns) in [(0, 100.0), (1, 30.0), (2, 50.0)] {
            pod.assign();
            pod.offer(0, request, work_ns);
        }
        pod.assign();
        // At 10: slots free after 90 and 20; 50 goes to the second (70), the one on its way (40) there too (110); ours to the first.
        let transit = VecDeque::from([(15, 40.0)]);
        assert_eq!(end_ns(&pod, 10, &transit, 7.0, &mut Vec::new()), 97.0);

        let mut shared = Endpoint::new(spec(Discipline::ProcessorSharing));
        for (request, work_ns) in [(0, 100.0), (1, 5.0)] {
            shared.assign();
            shared.offer(0, request, work_ns);
        }
        // min(100, 20) + min(5, 20) + 20 over two cores.
        assert_eq!(end_ns(&shared, 0, &VecDeque::new(), 20.0, &mut Vec::new()), 22.5);
    }
}
