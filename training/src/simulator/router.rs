//! What a simulated run asks of the code under test: choose an endpoint, hear how it went, and act when control is due.

use super::{endpoint::Endpoint, time::NEVER};

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// An answer below 500.
    Success,
    /// A 5xx answer.
    Error,
    /// The connection was accepted, but no answer came (reset, crash).
    Failure,
    /// The connection was refused: the request never reached the endpoint.
    Unreachable,
    /// Refused by admission control.
    Shed,
    /// No endpoint was to be had.
    Unroutable,
}

impl Outcome {
    /// How many there are.
    pub const COUNT: usize = 6;
}

/// Where a request goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Routing {
    /// To this endpoint.
    To(u32),
    /// Refused by admission control.
    Shed,
    /// There is no endpoint for it.
    Unroutable,
    /// It stays with the router, which sends it later from [`Router::next_waiting`].
    Wait,
}

/// A request that wants to be routed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Arrival {
    /// Its number; those of requests that ended are used again.
    pub request: u32,
    /// The proxy that it is at.
    pub proxy: usize,
    /// Now.
    pub now_ns: u64,
    /// Its class.
    pub class: u8,
    /// The work that it brings, in nanoseconds at speed 1: truth that only omniscient bounds may look at.
    pub work_ns: f64,
    /// Endpoint that could not be reached on the first attempt; `None` on the first attempt.
    pub tried: Option<u32>,
}

/// What an endpoint itself knows about a request that it answered. Of the routing rules only those may look at it whose originals come
/// with servers that report it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Served {
    /// Others inside the endpoint as the request entered.
    pub in_flight_before: u32,
    /// Others inside the endpoint as its answer left.
    pub in_flight_after: u32,
    /// From entering to leaving the endpoint.
    pub inside_ns: u64,
    /// The part of it after its turn had come: all of it under processor sharing, the time in a slot under FCFS.
    pub service_ns: u64,
}

/// The end of one attempt.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Departure {
    /// Its number.
    pub request: u32,
    /// The proxy that it was at.
    pub proxy: usize,
    /// The endpoint that it was sent to.
    pub endpoint: u32,
    /// Its class.
    pub class: u8,
    /// Now.
    pub now_ns: u64,
    /// Since it was sent.
    pub latency_ns: u64,
    /// How it ended; never `Shed` or `Unroutable`.
    pub outcome: Outcome,
    /// Requests inside the endpoint as its answer left, where endpoints report that.
    pub reported_in_flight: Option<u32>,
    /// What the endpoint knows about it; `None` if it did not answer.
    pub served: Option<Served>,
    /// Whether the request will be tried once more, on another endpoint.
    pub retried: bool,
}

/// All proxies of a run, and whatever steers them. `endpoints` is the truth: only omniscient bounds may look at it when
/// they route; a controller may look at it as far as a scrape would show it.
pub trait Router {
    /// Chooses for one request and accounts for it as sent.
    fn route(&mut self, arrival: &Arrival, endpoints: &[Endpoint]) -> Routing;

    /// An attempt that was routed has ended.
    fn ended(&mut self, departure: &Departure);

    /// The service's endpoint list says that an endpoint may get requests, or no longer.
    fn readiness(&mut self, _now_ns: u64, _endpoint: u32, _ready: bool) {}

    /// Takes out one of the requests that [`Routing::Wait`] kept back, with the endpoint that it now goes to. Asked again and again, until
    /// `None`, whenever anything has happened while requests wait.
    fn next_waiting(&mut self, _now_ns: u64, _endpoints: &[Endpoint]) -> Option<(u32, u32)> {
        None
    }

    /// When [`Self::control`] wants to run next.
    fn control_at_ns(&self) -> u64 {
        NEVER
    }

    /// Scrapes, reports, ticks, pushes: whatever is due at `now_ns`.
    fn control(&mut self, _now_ns: u64, _endpoints: &mut [Endpoint]) {}
}

impl<R: Router + ?Sized> Router for Box<R> {
    fn route(&mut self, arrival: &Arrival, endpoints: &[Endpoint]) -> Routing {
        (**self).route(arrival, endpoints)
    }

    fn ended(&mut self, departure: &Departure) {
        (**self).ended(departure);
    }

    fn readiness(&mut self, now_ns: u64, endpoint: u32, ready: bool) {
        (**self).readiness(now_ns, endpoint, ready);
    }

    fn next_waiting(&mut self, now_ns: u64, endpoints: &[Endpoint]) -> Option<(u32, u32)> {
        (**self).next_waiting(now_ns, endpoints)
    }

    fn control_at_ns(&self) -> u64 {
        (**self).control_at_ns()
    }

    fn control(&mut self, now_ns: u64, endpoints: &mut [Endpoint]) {
        (**self).control(now_ns, endpoints);
    }
}
