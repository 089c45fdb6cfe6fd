//! The proxies of a rival as a simulated [`Router`]: each has its own rule, in-flight counts, endpoint list and randomness. Changes of the
//! endpoint list reach it as late as production proxies, probes and load reports with the scenario's delays.

use std::collections::VecDeque;

use rand::rngs::SmallRng;

use super::{
    ejection::Ejection,
    rule::{Members, Needs, Rule, View},
    servers::{LatencyByInFlight, Load, LoadMeters, Probe},
};
use crate::{
    scenario::Scenario,
    simulator::{
        Router, Routing,
        endpoint::Endpoint,
        random::{Purpose, stream},
        router::{Arrival, Departure},
        time::NEVER,
    },
};

/// All proxies of a run with one kind of rule.
#[derive(Debug)]
pub struct Proxies<R> {
    proxies: Vec<Proxy<R>>,
    one_way_ns: u64,
    control_delay_ns: u64,
    /// Changes of the endpoint list on their way, in order of arrival.
    readiness: VecDeque<(u64, u32, bool)>,
    /// Probes on their way to endpoints, and back.
    probes: VecDeque<(u64, u32, u32)>,
    replies: VecDeque<(u64, u32, Probe)>,
    estimates: Option<LatencyByInFlight>,
    meters: Option<LoadMeters>,
    window_at_ns: u64,
    /// Load reports on their way.
    reports: VecDeque<(u64, Vec<Option<Load>>)>,
    /// Probes of the request that is being routed.
    asked: Vec<u32>,
}

#[derive(Debug)]
struct Proxy<R> {
    rule: R,
    members: Members,
    /// What the endpoint list says; `members` may lack some that are ejected.
    listed: Members,
    in_flight: Vec<u32>,
    rng: SmallRng,
    ejection: Option<Ejection>,
}

impl<R: Rule> Proxies<R> {
    /// For a run of `scenario`; `make` makes the rule of one proxy.
    pub fn new(scenario: &Scenario, mut make: impl FnMut(&Scenario) -> R) -> Self {
        let endpoints = scenario.endpoints.len();
        let proxy = |number: usize| {
            let mut rule = make(scenario);
            let members = Members::all(endpoints);
            rule.members(0, &members);
            let rng = stream(scenario.seed, Purpose::Routing, number as u64);
            Proxy { rule, listed: members.clone(), members, in_flight: vec![0; endpoints], rng, ejection: None }
        };
        let proxies: Vec<Proxy<R>> = (0..scenario.shares.len()).map(proxy).collect();
        let needs = proxies.first().map_or(Needs::default(), |proxy| proxy.rule.needs());
        Self {
            proxies,
            one_way_ns: scenario.one_way_ns,
            control_delay_ns: scenario.telemetry.control_delay_ns,
            readiness: VecDeque::new(),
            probes: VecDeque::new(),
            replies: VecDeque::new(),
            estimates: needs.probes.then(|| LatencyByInFlight::new(endpoints)),
            meters: needs.load_window_ns.map(|window_ns| LoadMeters::new(endpoints, window_ns)),
            window_at_ns: if needs.load_window_ns.is_some() { 0 } else { NEVER },
            reports: VecDeque::new(),
            asked: Vec::new(),
        }
    }

    /// The same, with proxies that eject endpoints after consecutive errors.
    #[must_use]
    pub fn with_ejection(mut self) -> Self {
        for proxy in &mut self.proxies {
            proxy.ejection = Some(Ejection::new(proxy.members.endpoints()));
        }
        self
    }

    fn close_window(&mut self, now_ns: u64, endpoints: &mut [Endpoint]) {
        let Some(meters) = &mut self.meters else { return };
        meters.close(now_ns, endpoints);
        self.window_at_ns = now_ns + meters.window_ns();
        // From the server to whoever collects, and from there to the proxies.
        self.reports.push_back((now_ns + 2 * self.control_delay_ns, meters.loads().to_vec()));
    }

    fn probe_arrives(&mut self, now_ns: u64, proxy: u32, endpoint: u32, endpoints: &[Endpoint]) {
        let server = &endpoints[endpoint as usize];
        // A dead one does not answer.
        if let Some(estimates) = self.estimates.as_ref().filter(|_| server.is_up()) {
            let in_flight = server.inside();
            let latency_ns = estimates.estimate_ns(now_ns, endpoint, in_flight);
            self.replies.push_back((now_ns + self.one_way_ns, proxy, Probe { endpoint, in_flight, latency_ns }));
        }
    }
}

impl<R: Rule> Proxy<R> {
    fn list(&mut self, now_ns: u64, endpoint: u32, ready: bool) {
        self.listed.set(endpoint, ready);
        let ejected = self.ejection.as_ref().is_some_and(|ejection| ejection.is_ejected(endpoint));
        if self.members.set(endpoint, ready && !ejected) {
            self.rule.members(now_ns, &self.members);
        }
    }

    fn forgive(&mut self, now_ns: u64) {
        while let Some(endpoint) = self.ejection.as_mut().and_then(|ejection| ejection.forgive(now_ns)) {
            self.list(now_ns, endpoint, self.listed.is_ready(endpoint));
        }
    }
}

impl<R: Rule> Router for Proxies<R> {
    #[inline]
    fn route(&mut self, arrival: &Arrival, _endpoints: &[Endpoint]) -> Routing {
        let proxy = &mut self.proxies[arrival.proxy];
        let now_ns = arrival.now_ns;
        if proxy.ejection.is_some() {
            proxy.forgive(now_ns);
        }
        let none = match proxy.members.list() {
            [] => true,
            [only] => arrival.tried == Some(*only),
            _ => false,
        };
        if none {
            return Routing::Unroutable;
        }
        let view = View { now_ns, members: &proxy.members, in_flight: &proxy.in_flight, exclude: arrival.tried };
        let endpoint = proxy.rule.pick(&view, &mut proxy.rng, &mut self.asked);
        proxy.in_flight[endpoint as usize] += 1;
        for asked in self.asked.drain(..) {
            self.probes.push_back((now_ns + self.one_way_ns, arrival.proxy as u32, asked));
        }
        Routing::To(endpoint)
    }

    #[inline]
    fn ended(&mut self, departure: &Departure) {
        if let Some(estimates) = &mut self.estimates {
            estimates.ended(departure);
        }
        let mut load = None;
        if let Some(meters) = &mut self.meters {
            meters.ended(departure);
            load = meters.loads()[departure.endpoint as usize].as_ref().filter(|_| departure.served.is_some());
        }
        let proxy = &mut self.proxies[departure.proxy];
        proxy.in_flight[departure.endpoint as usize] -= 1;
        proxy.rule.ended(departure, load);
        let ejected = proxy.ejection.as_mut().is_some_and(|ejection| ejection.ended(departure, &proxy.listed));
        if ejected && proxy.members.set(departure.endpoint, false) {
            proxy.rule.members(departure.now_ns, &proxy.members);
        }
    }

    fn readiness(&mut self, now_ns: u64, endpoint: u32, ready: bool) {
        self.readiness.push_back((now_ns + self.control_delay_ns, endpoint, ready));
    }

    fn control_at_ns(&self) -> u64 {
        let due = |at_ns: Option<u64>| at_ns.unwrap_or(NEVER);
        self.window_at_ns
            .min(due(self.readiness.front().map(|(at_ns, ..)| *at_ns)))
            .min(due(self.probes.front().map(|(at_ns, ..)| *at_ns)))
            .min(due(self.replies.front().map(|(at_ns, ..)| *at_ns)))
            .min(due(self.reports.front().map(|(at_ns, ..)| *at_ns)))
    }

    fn control(&mut self, now_ns: u64, endpoints: &mut [Endpoint]) {
        if self.window_at_ns <= now_ns {
            self.close_window(now_ns, endpoints);
        }
        while let Some((_, endpoint, ready)) = self.readiness.pop_front_if(|(at_ns, ..)| *at_ns <= now_ns) {
            for proxy in &mut self.proxies {
                proxy.list(now_ns, endpoint, ready);
            }
        }
        while let Some((_, proxy, endpoint)) = self.probes.pop_front_if(|(at_ns, ..)| *at_ns <= now_ns) {
            self.probe_arrives(now_ns, proxy, endpoint, endpoints);
        }
        while let Some((_, proxy, probe)) = self.replies.pop_front_if(|(at_ns, ..)| *at_ns <= now_ns) {
            self.proxies[proxy as usize].rule.probed(now_ns, &probe);
        }
        while let Some((_, loads)) = self.reports.pop_front_if(|(at_ns, _)| *at_ns <= now_ns) {
            for proxy in &mut self.proxies {
                proxy.rule.loads(now_ns, &loads, &proxy.members);
            }
        }
    }
}
