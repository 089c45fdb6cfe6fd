//! One queue before all endpoints: a request waits where it can still go anywhere. More than a dispatcher can do, and in overload the
//! measure of what first come, first served yields at all.

use std::collections::VecDeque;

use super::{Truth, slots::has_free_slot};
use crate::{
    scenario::Scenario,
    simulator::{
        Router, Routing,
        endpoint::Endpoint,
        router::{Arrival, Departure},
    },
};

/// First come, first served from one queue to free slots, the fastest for the request's class first. A slot that frees up idles for one
/// network delay until its next request arrives, as it would.
#[derive(Debug, Clone)]
pub struct CentralQueue {
    truth: Truth,
    queue: VecDeque<Arrival>,
}

impl CentralQueue {
    /// For this scenario's endpoints and classes.
    pub fn new(scenario: &Scenario) -> Self {
        Self { truth: Truth::new(scenario), queue: VecDeque::new() }
    }

    fn free(&mut self, arrival: &Arrival, endpoints: &[Endpoint]) -> Option<u32> {
        let fastest = self.truth.lowest(arrival, endpoints, |truth, number, endpoint| {
            if has_free_slot(endpoint) {
                truth.mean_ns(arrival.class, number) / endpoint.speed()
            } else {
                f64::INFINITY
            }
        });
        fastest.filter(|endpoint| has_free_slot(&endpoints[*endpoint as usize]))
    }
}

impl Router for CentralQueue {
    fn route(&mut self, arrival: &Arrival, endpoints: &[Endpoint]) -> Routing {
        if let Some(endpoint) = self.queue.is_empty().then(|| self.free(arrival, endpoints)).flatten() {
            return Routing::To(endpoint);
        }
        // Requests that wait do so in a pod's memory, too: the queue holds what all endpoints' queues would.
        let room: usize = endpoints.iter().map(|endpoint| endpoint.spec().room as usize).sum();
        if self.queue.len() >= room {
            return Routing::Shed;
        }
        if arrival.tried.is_some() {
            self.queue.push_front(*arrival)
        } else {
            self.queue.push_back(*arrival)
        }
        Routing::Wait
    }

    fn ended(&mut self, _departure: &Departure) {}

    fn readiness(&mut self, _now_ns: u64, endpoint: u32, ready: bool) {
        self.truth.ready[endpoint as usize] = ready;
    }

    fn next_waiting(&mut self, _now_ns: u64, endpoints: &[Endpoint]) -> Option<(u32, u32)> {
        let first = *self.queue.front()?;
        let endpoint = self.free(&first, endpoints)?;
        self.queue.pop_front();
        Some((first.request, endpoint))
    }
}
