//! The event loop: arrivals at proxies, messages in transit, completions at endpoints, the scenario's timeline, and the
//! router's control events, in the order of simulated time.

use std::{cmp::Reverse, collections::BinaryHeap};

use rand::{Rng, rngs::SmallRng};
use rand_distr::{Distribution as _, Exp1};

use super::{
    endpoint::Endpoint,
    random::{Purpose, stream},
    router::{Arrival, Departure, Outcome, Router, Routing, Served},
    schedule::Schedule,
    statistics::{Statistics, Summary},
    time::{NEVER, SECOND},
    work,
};
use crate::scenario::{Change, Scenario, ScenarioError};

/// Requests in flight when the last has arrived get so long to end.
const DRAIN_NS: u64 = 120 * SECOND;

/// Runs `router` through `scenario`.
///
/// # Errors
/// If the scenario does not hold (see [`Scenario::check`]).
pub fn simulate<R: Router>(scenario: &Scenario, router: &mut R) -> Result<Summary, ScenarioError> {
    scenario.check()?;
    let mut world = World::new(scenario, router);
    world.run();
    Ok(world.statistics.summary(scenario.measured_ns.end - scenario.measured_ns.start))
}

/// One request on its way.
#[derive(Debug, Clone, Copy)]
struct Request {
    arrived_ns: u64,
    sent_ns: u64,
    entered_ns: u64,
    started_ns: u64,
    work_ns: f64,
    endpoint: u32,
    served: Served,
    /// Uniform in 0..1, drawn with the work: decides whether a gray endpoint fails it.
    luck: f32,
    proxy: u16,
    class: u8,
    retries: u8,
    outcome: Outcome,
    measured: bool,
}

/// A proxy's arrivals.
struct Traffic {
    rng: SmallRng,
    /// Requests per nanosecond.
    rate: f64,
    next_ns: u64,
}

impl Traffic {
    fn draw_next(&mut self, now_ns: u64) {
        let gap: f64 = Exp1.sample(&mut self.rng);
        self.next_ns = if self.rate > 0.0 { now_ns.saturating_add((gap / self.rate) as u64) } else { NEVER };
    }
}

struct World<'a, R> {
    scenario: &'a Scenario,
    router: &'a mut R,
    endpoints: Vec<Endpoint>,
    traffic: Vec<Traffic>,
    load: f64,
    requests: Vec<Request>,
    free: Vec<u32>,
    in_flight: u32,
    /// Requests that the router keeps back.
    held: u32,
    /// `time << 64 | sequence << 32 | request << 1 | towards the proxy`: ties leave in the order in which they were sent.
    transit: BinaryHeap<Reverse<u128>>,
    sequence: u32,
    timeline_next: usize,
    schedule: Schedule,
    statistics: Statistics,
}

impl<'a, R: Router> World<'a, R> {
    fn new(scenario: &'a Scenario, router: &'a mut R) -> Self {
        let traffic = scenario
            .shares
            .iter()
            .enumerate()
            .map(|(proxy, share)| {
                let mut traffic = Traffic {
                    rng: stream(scenario.seed, Purpose::Traffic, proxy as u64),
                    rate: scenario.rate_rps * share / SECOND as f64,
                    next_ns: 0,
                };
                traffic.draw_next(0);
                traffic
            })
            .collect();
        let mut world = Self {
            scenario,
            router,
            endpoints: scenario.endpoints.iter().map(|spec| Endpoint::new(*spec)).collect(),
            traffic,
            load: 1.0,
            requests: Vec::new(),
            free: Vec::new(),
            in_flight: 0,
            held: 0,
            transit: BinaryHeap::new(),
            sequence: 0,
            timeline_next: 0,
            schedule: Schedule::new(scenario.shares.len() + scenario.endpoints.len() + 3),
            statistics: Statistics::new(scenario.endpoints.len(), scenario.classes.len()),
        };
        for proxy in 0..world.traffic.len() {
            world.schedule_arrival(proxy);
        }
        world.schedule_timeline();
        world.schedule_control();
        world
    }

    // Sources in the schedule: proxies, endpoints, then one each for messages, timeline and control.
    fn transit_source(&self) -> u32 {
        (self.traffic.len() + self.endpoints.len()) as u32
    }

    fn run(&mut self) {
        let proxies = self.traffic.len() as u32;
        let transit = self.transit_source();
        let end_ns = self.scenario.measured_ns.end;
        while let Some((now_ns, source)) = self.schedule.next() {
            if now_ns >= end_ns && (self.in_flight == 0 || now_ns >= end_ns + DRAIN_NS) {
                break;
            }
            if source < proxies {
                self.arrival(now_ns, source as usize);
            } else if source < transit {
                self.completion(now_ns, source - proxies);
            } else if source == transit {
                self.message(now_ns);
            } else if source == transit + 1 {
                self.change(now_ns);
            } else {
                self.router.control(now_ns, &mut self.endpoints);
                self.schedule_control();
            }
            if self.held > 0 {
                self.release(now_ns);
            }
        }
    }

    fn arrival(&mut self, now_ns: u64, proxy: usize) {
        let traffic = &mut self.traffic[proxy];
        let (class, work_ns) = work::draw(&self.scenario.classes, &mut traffic.rng);
        let luck = traffic.rng.random();
        traffic.draw_next(now_ns);
        self.schedule_arrival(proxy);
        let measured = self.scenario.measured_ns.contains(&now_ns);
        if measured {
            self.statistics.arrived();
        }
        let request = Request {
            arrived_ns: now_ns,
            sent_ns: now_ns,
            entered_ns: now_ns,
            started_ns: now_ns,
            work_ns,
            endpoint: 0,
            served: Served::default(),
            luck,
            proxy: proxy as u16,
            class,
            retries: 0,
            outcome: Outcome::Success,
            measured,
        };
        let index = match self.free.pop() {
            Some(index) => {
                self.requests[index as usize] = request;
                index
            }
            None => {
                self.requests.push(request);
                (self.requests.len() - 1) as u32
            }
        };
        self.in_flight += 1;
        self.dispatch(now_ns, index, None);
    }

    fn dispatch(&mut self, now_ns: u64, index: u32, tried: Option<u32>) {
        let request = &mut self.requests[index as usize];
        let arrival = Arrival {
            request: index,
            proxy: request.proxy as usize,
            now_ns,
            class: request.class,
            work_ns: request.work_ns,
            tried,
        };
        match self.router.route(&arrival, &self.endpoints) {
            Routing::To(endpoint) => self.depart(now_ns, index, endpoint),
            Routing::Wait => self.held += 1,
            Routing::Shed => self.retire(now_ns, index, Outcome::Shed, None),
            // A retry that finds no other endpoint ends as its first attempt did.
            Routing::Unroutable => {
                let outcome = if tried.is_some() { Outcome::Unreachable } else { Outcome::Unroutable };
                self.retire(now_ns, index, outcome, tried);
            }
        }
        // A router may want to act because of this request: probes that it has sent, for one.
        self.schedule_control();
    }

    /// A request leaves for its endpoint.
    fn depart(&mut self, now_ns: u64, index: u32, endpoint: u32) {
        let request = &mut self.requests[index as usize];
        request.endpoint = endpoint;
        request.sent_ns = now_ns;
        self.endpoints[endpoint as usize].assign();
        self.send(now_ns + self.scenario.one_way_ns, index, false);
    }

    /// Lets the router send what it kept back.
    fn release(&mut self, now_ns: u64) {
        while let Some((index, endpoint)) = self.router.next_waiting(now_ns, &self.endpoints) {
            self.held -= 1;
            self.depart(now_ns, index, endpoint);
        }
    }

    fn send(&mut self, at_ns: u64, index: u32, towards_proxy: bool) {
        self.sequence = self.sequence.wrapping_add(1);
        let message = index << 1 | u32::from(towards_proxy);
        self.transit.push(Reverse(u128::from(at_ns) << 64 | u128::from(self.sequence) << 32 | u128::from(message)));
        self.schedule_transit();
    }

    fn message(&mut self, now_ns: u64) {
        let Some(Reverse(entry)) = self.transit.pop() else { return };
        self.schedule_transit();
        let index = (entry as u32) >> 1;
        if entry & 1 == 1 { self.answered(now_ns, index) } else { self.entered(now_ns, index) }
    }

    /// A request reaches its endpoint.
    fn entered(&mut self, now_ns: u64, index: u32) {
        let request = &mut self.requests[index as usize];
        let number = request.endpoint;
        let endpoint = &mut self.endpoints[number as usize];
        request.entered_ns = now_ns;
        request.started_ns = now_ns;
        request.served.in_flight_before = endpoint.inside();
        if !endpoint.is_up() {
            self.answer(now_ns, index, Outcome::Unreachable);
            return;
        }
        let gray = endpoint.gray();
        if f64::from(request.luck) < gray.share {
            if let Some(fast_ns) = gray.fast_ns {
                endpoint.answered(fast_ns);
                self.answer(now_ns + fast_ns, index, Outcome::Error);
                return;
            }
            request.outcome = Outcome::Error;
        }
        let work_ns = request.work_ns * self.scenario.factor(request.class, number);
        if endpoint.offer(now_ns, index, work_ns) {
            self.schedule_completion(number);
        } else {
            self.answer(now_ns, index, Outcome::Error);
        }
    }

    fn completion(&mut self, now_ns: u64, number: u32) {
        let endpoint = &mut self.endpoints[number as usize];
        let next = endpoint.next_in_line();
        let Some(index) = endpoint.complete(now_ns) else { return };
        if let Some(next) = next {
            self.requests[next as usize].started_ns = now_ns;
        }
        let request = &mut self.requests[index as usize];
        request.served.service_ns = now_ns - request.started_ns;
        endpoint.answered(now_ns - request.entered_ns);
        let outcome = request.outcome;
        self.schedule_completion(number);
        self.answer(now_ns, index, outcome);
    }

    /// The answer (or the reset) leaves the endpoint.
    fn answer(&mut self, at_ns: u64, index: u32, outcome: Outcome) {
        let request = &mut self.requests[index as usize];
        request.outcome = outcome;
        let endpoint = &mut self.endpoints[request.endpoint as usize];
        endpoint.unassign();
        request.served.in_flight_after = endpoint.inside();
        request.served.inside_ns = at_ns - request.entered_ns;
        self.send(at_ns + self.scenario.one_way_ns, index, true);
    }

    /// The answer reaches the proxy.
    fn answered(&mut self, now_ns: u64, index: u32) {
        let request = &mut self.requests[index as usize];
        let outcome = request.outcome;
        let endpoint = request.endpoint;
        let retried = outcome == Outcome::Unreachable && u32::from(request.retries) < self.scenario.retries;
        let answered = matches!(outcome, Outcome::Success | Outcome::Error);
        let departure = Departure {
            request: index,
            proxy: request.proxy as usize,
            endpoint,
            class: request.class,
            now_ns,
            latency_ns: now_ns - request.sent_ns,
            outcome,
            reported_in_flight: (self.scenario.reports_in_flight && answered).then_some(request.served.in_flight_after),
            served: answered.then_some(request.served),
            retried,
        };
        if retried {
            request.retries += 1;
            request.outcome = Outcome::Success;
        }
        self.router.ended(&departure);
        if retried {
            self.dispatch(now_ns, index, Some(endpoint));
        } else {
            self.retire(now_ns, index, outcome, Some(endpoint));
        }
    }

    fn retire(&mut self, now_ns: u64, index: u32, outcome: Outcome, endpoint: Option<u32>) {
        let request = &self.requests[index as usize];
        if request.measured {
            let latency_ns = now_ns - request.arrived_ns;
            self.statistics.ended(outcome, latency_ns, request.class, endpoint, self.scenario.objective_ns);
        }
        self.free.push(index);
        self.in_flight -= 1;
    }

    /// The next change of the timeline.
    fn change(&mut self, now_ns: u64) {
        let change = self.scenario.timeline[self.timeline_next].change;
        self.timeline_next += 1;
        self.schedule_timeline();
        match change {
            Change::Factor { endpoint, factor } => {
                self.endpoints[endpoint as usize].set_factor(now_ns, factor);
                self.schedule_completion(endpoint);
            }
            Change::Gray { endpoint, gray } => self.endpoints[endpoint as usize].set_gray(gray),
            Change::Crash { endpoint } => {
                let lost = self.endpoints[endpoint as usize].crash(now_ns);
                self.schedule_completion(endpoint);
                for index in lost {
                    self.answer(now_ns, index, Outcome::Failure);
                }
            }
            Change::Start { endpoint } => self.endpoints[endpoint as usize].start(now_ns),
            Change::Ready { endpoint, ready } => {
                self.router.readiness(now_ns, endpoint, ready);
                self.schedule_control();
            }
            Change::Load { factor } => self.set_load(now_ns, factor),
        }
    }

    /// Poisson arrivals have no memory, so the gap that is left may simply be stretched to the new rate.
    fn set_load(&mut self, now_ns: u64, factor: f64) {
        let stretch = self.load / factor;
        self.load = factor;
        for proxy in 0..self.traffic.len() {
            let traffic = &mut self.traffic[proxy];
            traffic.rate /= stretch;
            if traffic.next_ns != NEVER {
                traffic.next_ns = now_ns + ((traffic.next_ns - now_ns) as f64 * stretch) as u64;
            }
            self.schedule_arrival(proxy);
        }
    }

    fn schedule_arrival(&mut self, proxy: usize) {
        let next_ns = self.traffic[proxy].next_ns;
        let at_ns = if next_ns < self.scenario.measured_ns.end { next_ns } else { NEVER };
        self.schedule.set(proxy as u32, at_ns);
    }

    fn schedule_completion(&mut self, number: u32) {
        let at_ns = self.endpoints[number as usize].completes_at_ns();
        self.schedule.set(self.traffic.len() as u32 + number, at_ns);
    }

    fn schedule_transit(&mut self) {
        let at_ns = self.transit.peek().map_or(NEVER, |Reverse(entry)| (entry >> 64) as u64);
        self.schedule.set(self.transit_source(), at_ns);
    }

    fn schedule_timeline(&mut self) {
        let at_ns = self.scenario.timeline.get(self.timeline_next).map_or(NEVER, |event| event.at_ns);
        self.schedule.set(self.transit_source() + 1, at_ns);
    }

    fn schedule_control(&mut self) {
        self.schedule.set(self.transit_source() + 2, self.router.control_at_ns());
    }
}
