//! What rivals' servers measure and tell: load over windows (ORCA, load reports), and Prequal's latency estimate by requests in flight.
//! It is the truth at the server; what proxies see of it has travelled.

use crate::simulator::{
    Outcome,
    endpoint::{Endpoint, Meter},
    router::Departure,
    time::SECOND,
};

/// What a server measured over a window.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Load {
    /// Requests answered per second, errors included.
    pub qps: f64,
    /// Errors answered per second.
    pub eps: f64,
    /// Busy share of its slots or cores, 0..=1.
    pub utilization: f64,
}

/// A probe's answer; endpoints by their numbers.
pub type Probe = trimtab_proxy::pick::probes::Probe<u32>;

/// Measures loads.
#[derive(Debug, Clone)]
pub struct LoadMeters {
    window_ns: u64,
    meters: Vec<Option<(u64, Meter)>>,
    errors: Vec<u64>,
    loads: Vec<Option<Load>>,
}

impl LoadMeters {
    /// Over windows of this length.
    pub fn new(endpoints: usize, window_ns: u64) -> Self {
        Self { window_ns, meters: vec![None; endpoints], errors: vec![0; endpoints], loads: vec![None; endpoints] }
    }

    /// Length of a window.
    pub fn window_ns(&self) -> u64 {
        self.window_ns
    }

    /// Counts an answer.
    #[inline]
    pub fn ended(&mut self, departure: &Departure) {
        if departure.served.is_some() && departure.outcome == Outcome::Error {
            self.errors[departure.endpoint as usize] += 1;
        }
    }

    /// What each measured over the last window; `None`: it is down, or has not been up for a whole one.
    pub fn loads(&self) -> &[Option<Load>] {
        &self.loads
    }

    /// A window has ended.
    pub fn close(&mut self, now_ns: u64, endpoints: &mut [Endpoint]) {
        for (number, endpoint) in endpoints.iter_mut().enumerate() {
            let errors = std::mem::take(&mut self.errors[number]) as f64;
            if !endpoint.is_up() {
                (self.meters[number], self.loads[number]) = (None, None);
                continue;
            }
            let meter = endpoint.meter(now_ns);
            let before = self.meters[number].replace((now_ns, meter));
            // A restart sets counters to zero: what was measured before says nothing any more.
            let before = before.filter(|(at_ns, _)| endpoint.started_ns() <= *at_ns && *at_ns < now_ns);
            self.loads[number] = before.map(|(at_ns, before)| {
                let elapsed_ns = (now_ns - at_ns) as f64;
                let per_s = SECOND as f64 / elapsed_ns;
                Load {
                    qps: (meter.completed - before.completed) as f64 * per_s,
                    eps: errors * per_s,
                    utilization: (meter.busy_ns - before.busy_ns) / elapsed_ns / f64::from(endpoint.spec().slots),
                }
            });
        }
    }
}

/// Requests in flight above this share one estimate.
const IN_FLIGHT_MAX: usize = 127;
/// Latencies that a median is taken of.
const LATENCIES: usize = 16;
/// Latencies older than this are not recent.
const RECENT_NS: u64 = 5 * SECOND;

/// Prequal's latency estimate (§4 of the paper): a server tags each request with the number in flight as it came, and tells the median of
/// recent latencies tagged with the present number, or one near it.
#[derive(Debug, Clone)]
pub struct LatencyByInFlight {
    /// By endpoint, then by number in flight; grown on demand.
    rings: Vec<Vec<Ring>>,
}

#[derive(Debug, Clone, Default)]
struct Ring {
    entries: [(u64, u64); LATENCIES],
    count: usize,
}

impl Ring {
    fn add(&mut self, now_ns: u64, latency_ns: u64) {
        self.entries[self.count % LATENCIES] = (now_ns, latency_ns);
        self.count += 1;
    }

    /// The median of those not before `since_ns`.
    fn median_ns(&self, since_ns: u64) -> Option<u64> {
        let mut latencies = [0; LATENCIES];
        let mut count = 0;
        for (at_ns, latency_ns) in &self.entries[..self.count.min(LATENCIES)] {
            if *at_ns >= since_ns {
                latencies[count] = *latency_ns;
                count += 1;
            }
        }
        if count == 0 {
            return None;
        }
        let (_, median, _) = latencies[..count].select_nth_unstable(count / 2);
        Some(*median)
    }
}

impl LatencyByInFlight {
    /// Servers that have seen nothing.
    pub fn new(endpoints: usize) -> Self {
        Self { rings: vec![Vec::new(); endpoints] }
    }

    /// Takes in an answer.
    #[inline]
    pub fn ended(&mut self, departure: &Departure) {
        // A server's estimate is of requests that it served; an error that took no time would make it look fast.
        let Some(served) = departure.served.filter(|_| departure.outcome == Outcome::Success) else { return };
        let rings = &mut self.rings[departure.endpoint as usize];
        let tag = (served.in_flight_before as usize).min(IN_FLIGHT_MAX);
        if rings.len() <= tag {
            rings.resize_with(tag + 1, Ring::default);
        }
        rings[tag].add(departure.now_ns, served.inside_ns);
    }

    /// The estimate for a request that comes now, in nanoseconds; 0 from a server that has answered nothing.
    pub fn estimate_ns(&self, now_ns: u64, endpoint: u32, in_flight: u32) -> u64 {
        let rings = &self.rings[endpoint as usize];
        if rings.is_empty() {
            return 0;
        }
        let tag = (in_flight as usize).min(IN_FLIGHT_MAX);
        let nearest = |since_ns: u64| {
            let near = tag.min(rings.len() - 1);
            if let Some(median) = rings.get(tag).and_then(|ring| ring.median_ns(since_ns)) {
                return Some(median);
            }
            (0..rings.len()).find_map(|distance| {
                let below = near.checked_sub(distance).and_then(|tag| rings[tag].median_ns(since_ns));
                below.or_else(|| rings.get(near + distance).and_then(|ring| ring.median_ns(since_ns)))
            })
        };
        nearest(now_ns.saturating_sub(RECENT_NS)).or_else(|| nearest(0)).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        rivals::rule::testing::answer,
        simulator::{
            endpoint::{Discipline, EndpointSpec},
            router::Served,
        },
    };

    #[test]
    fn load_is_what_was_done_in_the_window() {
        let spec = EndpointSpec { discipline: Discipline::Fcfs, slots: 2, room: 9, speed: 1.0 };
        let mut endpoints = [Endpoint::new(spec)];
        let mut meters = LoadMeters::new(1, SECOND);
        meters.close(0, &mut endpoints);
        assert_eq!(meters.loads(), [None]);
        endpoints[0].offer(0, 1, 0.5e9);
        endpoints[0].complete(SECOND / 2);
        endpoints[0].answered(SECOND / 2);
        meters.close(SECOND, &mut endpoints);
        // One of two slots was busy for half of a second.
        assert_eq!(meters.loads(), [Some(Load { qps: 1.0, eps: 0.0, utilization: 0.25 })]);
    }

    #[test]
    fn a_latency_estimate_is_the_median_at_the_present_number_in_flight_or_near_it() {
        let mut estimates = LatencyByInFlight::new(1);
        assert_eq!(estimates.estimate_ns(0, 0, 3), 0);
        for (in_flight_before, inside_ns) in [(2, 10), (2, 30), (2, 20), (5, 100)] {
            estimates.ended(&answer(0, 7, 0, Served { in_flight_before, inside_ns, ..Served::default() }));
        }
        assert_eq!(estimates.estimate_ns(7, 0, 2), 20);
        assert_eq!(estimates.estimate_ns(7, 0, 3), 20);
        assert_eq!(estimates.estimate_ns(7, 0, 9), 100);
        // What is not recent counts only where there is nothing else.
        assert_eq!(estimates.estimate_ns(7 + RECENT_NS + 1, 0, 2), 20);
    }
}
