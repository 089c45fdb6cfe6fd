//! A pod that becomes ready under load is not flooded, though it looks idle: in no second of its first ten does it get more than 1.5 times its
//! share. Later it is one of many, and the rule gives any of them twice its share in some seconds and next to nothing in others.
use trimtab_proxy::arrival;
use trimtab_training::{
    fleet::{Fleet, FleetOptions},
    scenario::{Change, Event, Scenario, unequal_pods},
    simulator::{
        Router, Routing,
        endpoint::Endpoint,
        router::{Arrival, Departure},
        simulate,
        time::SECOND,
    },
};

const READY_NS: u64 = 20 * SECOND;

/// A fleet of which it is written down where it sends requests.
struct Watched {
    fleet: Fleet,
    /// When, and to which endpoint.
    sent: Vec<(u64, u32)>,
}

impl Router for Watched {
    fn route(&mut self, arrival: &Arrival, endpoints: &[Endpoint]) -> Routing {
        let routing = self.fleet.route(arrival, endpoints);
        if let Routing::To(endpoint) = routing {
            self.sent.push((arrival.now_ns, endpoint));
        }
        routing
    }

    fn ended(&mut self, departure: &Departure) {
        self.fleet.ended(departure);
    }

    fn readiness(&mut self, now_ns: u64, endpoint: u32, ready: bool) {
        self.fleet.readiness(now_ns, endpoint, ready);
    }

    fn control_at_ns(&self) -> u64 {
        self.fleet.control_at_ns()
    }

    fn control(&mut self, now_ns: u64, endpoints: &mut [Endpoint]) {
        self.fleet.control(now_ns, endpoints);
    }
}

/// Twelve equal pods, of which three come later: of unequal ones the rule gives more to the fast ones than their share of the capacity, rightly.
fn scale_out(seed: u64, proxies: usize, slots_told: bool) -> (Scenario, Vec<u32>) {
    let mut scenario = unequal_pods(seed, proxies, 0.6);
    scenario.endpoints.iter_mut().for_each(|endpoint| (endpoint.slots, endpoint.speed) = (3, 1.0));
    scenario.rate_rps = 0.6 * scenario.capacity_rps();
    scenario.telemetry.slots_told = slots_told;
    scenario.measured_ns = 10 * SECOND..40 * SECOND;
    let new = vec![9, 10, 11];
    for &endpoint in &new {
        let event = |at_ns, change| Event { at_ns, change };
        scenario.timeline.push(event(0, Change::Ready { endpoint, ready: false }));
        scenario.timeline.push(event(READY_NS, Change::Ready { endpoint, ready: true }));
    }
    scenario.timeline.sort_by_key(|event| event.at_ns);
    (scenario, new)
}

/// The most that an endpoint got in any second while it was new, as a multiple of its share.
fn most(sent: &[(u64, u32)], endpoint: u32, share: f64) -> f64 {
    // Every second that begins while it is new.
    let new = READY_NS..READY_NS + arrival::LENGTH.as_nanos() as u64 + SECOND;
    let after: Vec<_> = sent.iter().filter(|(at_ns, _)| new.contains(at_ns)).collect();
    let (mut from, mut own, mut most) = (0, 0_u32, 0.0_f64);
    for (until, (at_ns, to)) in after.iter().enumerate() {
        own += u32::from(*to == endpoint);
        while after[from].0 + SECOND <= *at_ns {
            own -= u32::from(after[from].1 == endpoint);
            from += 1;
        }
        let all = (until + 1 - from) as f64;
        // A whole second must have passed.
        if *at_ns >= READY_NS + SECOND {
            most = most.max(f64::from(own) / all / share);
        }
    }
    most
}

#[test]
fn a_pod_that_becomes_ready_never_gets_more_than_one_and_a_half_times_its_share() {
    for slots_told in [true, false] {
        for proxies in [1, 4] {
            for seed in 0..3 {
                let (scenario, new) = scale_out(seed, proxies, slots_told);
                let share = 1.0 / scenario.endpoints.len() as f64;
                let fleet = Fleet::new(&scenario, &FleetOptions::TRIMTAB);
                let mut watched = Watched { fleet, sent: Vec::new() };
                simulate(&scenario, &mut watched).unwrap();
                let factors: Vec<f64> = new.iter().map(|&endpoint| most(&watched.sent, endpoint, share)).collect();
                println!("slots told {slots_told}, {proxies} proxies, seed {seed}: {factors:.2?}");
                assert!(
                    factors.iter().all(|factor| *factor <= 1.5),
                    "slots told {slots_told}, {proxies} proxies, seed {seed}: {factors:.2?} times their shares in one second"
                );
            }
        }
    }
}
