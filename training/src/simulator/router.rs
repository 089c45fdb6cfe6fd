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
    /// Endpoint that could not be reached on the first attempt; `None` on the first attempt.
    pub tried: Option<u32>,
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

    /// When [`Self::control`] wants to run next.
    fn control_at_ns(&self) -> u64 {
        NEVER
    }

    /// Scrapes, reports, ticks, pushes: whatever is due at `now_ns`.
    fn control(&mut self, _now_ns: u64, _endpoints: &mut [Endpoint]) {}
}
