//! A closed world for the decision loop: pods with slots and a queue, exponential service, Poisson arrivals, the pick
//! rule over live in-flight counts, and a tick every 500 ms that scrapes, reports and decides.
#![allow(dead_code, reason = "each test binary uses its part")]

pub mod wild;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use trimtab_model::classes::{ClassMemory, Seen};
use trimtab_model::decision::{Decision, Mode, RuleParameters};
use trimtab_model::observation::{EndpointKey, EndpointObservation, Measured, Observation, Reported, Scraped};
use trimtab_model::{GuardConfig, Memory, Policy, decide};

/// Length of a tick.
pub const TICK_S: f64 = 0.5;

/// How pods tell of themselves.
#[derive(Clone, Copy, PartialEq)]
pub enum Metrics {
    /// Busy workers, worker limit, completions.
    Busy,
    /// Requests inside, worker limit, completions.
    InFlight,
    /// Nothing: only the proxies' reports.
    None,
}

/// Which rule proxies follow.
#[derive(Clone, Copy, PartialEq)]
pub enum Follows {
    /// The one in which weights count most: what is estimated must stay right and calm where it feeds back most.
    Weights,
    /// The one that is decided, on costs that are learned from answers. Without the latency factor, which only calms it.
    Decided,
}

/// One pod.
pub struct Pod {
    pub key: u64,
    /// Requests a second of one slot.
    pub speed: f64,
    pub slots: usize,
    /// Share of requests that fail at once.
    pub failing: f64,
    /// Arrival times of those in service, and whether they found a free slot.
    serving: Vec<(f64, bool)>,
    /// Arrival times of those waiting, oldest first.
    waiting: std::collections::VecDeque<f64>,
    in_flight_s: f64,
    latencies_ms: Vec<f64>,
    /// Of those that found a free slot: how many, and the sum of the logarithms of their latency in milliseconds.
    unqueued: (u32, f64),
    errors: u64,
}

impl Pod {
    pub fn new(key: u64, speed: f64, slots: usize) -> Self {
        Self {
            key,
            speed,
            slots,
            failing: 0.0,
            serving: Vec::new(),
            waiting: Default::default(),
            in_flight_s: 0.0,
            latencies_ms: Vec::new(),
            unqueued: (0, 0.0),
            errors: 0,
        }
    }

    pub fn in_flight(&self) -> usize {
        self.serving.len() + self.waiting.len()
    }

    fn observe(&mut self, metrics: Metrics) -> EndpointObservation {
        let told = |value: f64| Some(Measured { value, age_s: 0.05 });
        let mut sorted = std::mem::take(&mut self.latencies_ms);
        sorted.sort_by(f64::total_cmp);
        let quantile = |q: f64| sorted.get((q * sorted.len() as f64) as usize).copied();
        let errors = std::mem::take(&mut self.errors);
        let completed = (sorted.len() as u64 + errors) as f64 / TICK_S;
        let scraped = Scraped {
            in_flight: told(self.in_flight() as f64),
            busy: (metrics == Metrics::Busy).then(|| told(self.serving.len() as f64)).flatten(),
            worker_limit: told(self.slots as f64),
            completed_rps: told(completed),
            ..Scraped::default()
        };
        EndpointObservation {
            key: EndpointKey(self.key),
            ready: true,
            ready_age_s: None,
            restarts: None,
            zone_match: None,
            slots: None,
            slots_deviation: None,
            reported: Some(Reported {
                interval_s: TICK_S,
                age_s: 0.05,
                successes: sorted.len() as u64,
                errors,
                failures: 0,
                in_flight_mean: std::mem::take(&mut self.in_flight_s) / TICK_S,
                in_flight: self.in_flight() as u32,
                latency_ms_mean: (!sorted.is_empty()).then(|| sorted.iter().sum::<f64>() / sorted.len() as f64),
                latency_ms_p10: quantile(0.1),
                latency_ms_p50: quantile(0.5),
                latency_ms_p99: quantile(0.99),
                ejected_by: 0,
                error: 0.0,
            }),
            scraped: if metrics == Metrics::None { Scraped::default() } else { scraped },
        }
    }
}

/// The world.
pub struct World {
    pub pods: Vec<Pod>,
    pub arrivals_rps: f64,
    pub metrics: Metrics,
    pub policy: Policy,
    pub mode: Mode,
    pub follows: Follows,
    pub memory: Memory,
    classes: ClassMemory,
    /// Cost at each pod relative to the average one, as learned.
    pub factors: Vec<f64>,
    pub last: Option<Decision>,
    tick: u64,
    now_s: f64,
    rng: StdRng,
}

impl World {
    /// Pods of these speeds and 4 slots each, at this share of their capacity.
    pub fn new(speeds: &[f64], load: f64, metrics: Metrics, seed: u64) -> Self {
        Self {
            pods: speeds.iter().enumerate().map(|(index, &speed)| Pod::new(index as u64, speed, 4)).collect(),
            arrivals_rps: load * 4.0 * speeds.iter().sum::<f64>(),
            metrics,
            policy: Policy::prior_only(),
            mode: Mode::Active,
            follows: Follows::Weights,
            memory: Memory::default(),
            classes: ClassMemory::default(),
            factors: vec![1.0; speeds.len()],
            last: None,
            tick: 0,
            now_s: 0.0,
            rng: StdRng::seed_from_u64(seed),
        }
    }

    /// Lives one tick and decides.
    pub fn tick(&mut self) -> &Decision {
        let end_s = self.now_s + TICK_S;
        while self.event(end_s) {}
        self.tick += 1;
        let metrics = self.metrics;
        self.learn_costs();
        let observation = Observation {
            backend: "default/web:80".to_owned(),
            tick: self.tick,
            at_ms: (1e3 * end_s) as i64,
            interval_s: TICK_S,
            proxies: 1,
            objective_ms: None,
            endpoints: self.pods.iter_mut().map(|pod| pod.observe(metrics)).collect(),
        };
        let guard = GuardConfig::default();
        let (decision, memory) = decide(&observation, &self.memory, &self.policy, &guard, self.mode, &mut self.rng);
        self.memory = memory;
        self.last.insert(decision)
    }

    /// As the controller does from the proxies' reports.
    fn learn_costs(&mut self) {
        for pod in &mut self.pods {
            let (unqueued, log_sum) = std::mem::take(&mut pod.unqueued);
            let cost_ms = (log_sum / f64::from(unqueued.max(1))).exp() as f32;
            self.classes.add(pod.key, 0, Seen { answers: pod.latencies_ms.len() as u32, unqueued, cost_ms });
        }
        let keys: Vec<u64> = self.pods.iter().map(|pod| pod.key).collect();
        self.classes.pass(TICK_S, &keys);
        if let Some(costs) = self.classes.costs(&keys) {
            self.factors = costs.factors;
        }
    }

    /// Lives some ticks.
    pub fn ticks(&mut self, count: usize) -> &Decision {
        for _ in 1..count {
            self.tick();
        }
        self.tick()
    }

    /// The next event before `end_s`, if there is one (Gillespie's method: all times are exponential).
    fn event(&mut self, end_s: f64) -> bool {
        let serving: f64 = self.pods.iter().map(|pod| pod.speed * pod.serving.len() as f64).sum();
        let total = self.arrivals_rps + serving;
        let step_s = -(1.0 - self.rng.random::<f64>()).ln() / total;
        let next_s = (self.now_s + step_s).min(end_s);
        for pod in &mut self.pods {
            pod.in_flight_s += pod.in_flight() as f64 * (next_s - self.now_s);
        }
        self.now_s = next_s;
        if next_s >= end_s {
            return false;
        }
        let mut which = self.rng.random::<f64>() * total;
        if which < self.arrivals_rps {
            self.arrive();
            return true;
        }
        which -= self.arrivals_rps;
        for pod in &mut self.pods {
            let rate = pod.speed * pod.serving.len() as f64;
            if which < rate {
                let done = self.rng.random_range(0..pod.serving.len());
                let (arrived, unqueued) = pod.serving.swap_remove(done);
                let latency_ms = 1e3 * (next_s - arrived);
                pod.latencies_ms.push(latency_ms);
                if unqueued {
                    pod.unqueued = (pod.unqueued.0 + 1, pod.unqueued.1 + latency_ms.max(1e-3).ln());
                }
                pod.serving.extend(pod.waiting.pop_front().map(|arrived| (arrived, false)));
                return true;
            }
            which -= rate;
        }
        true
    }

    fn arrive(&mut self) {
        let score = |index: usize, pod: &Pod| {
            let Some(decision) = &self.last else { return pod.in_flight() as f64 };
            let rule = match self.follows {
                Follows::Weights => RuleParameters::WITH_WEIGHTS,
                Follows::Decided => decision.parameters,
            };
            let (count, slots) = (pod.in_flight() as f64, pod.slots as f64);
            let base = match self.follows {
                Follows::Weights => count + f64::from(rule.offset),
                Follows::Decided => {
                    let wait = if count < slots { 0.0 } else { count / slots };
                    let queue = wait + f64::from(rule.work_share) * count / slots;
                    self.factors[index] * (1.0 + queue) + f64::from(rule.offset) - 1.0
                }
            };
            base.powf(rule.exponent.into()) / decision.applied[index].powf(rule.weight_exponent.into())
        };
        let scores: Vec<f64> = self.pods.iter().enumerate().map(|(index, pod)| score(index, pod)).collect();
        let best = (0..scores.len()).min_by(|&a, &b| scores[a].total_cmp(&scores[b])).unwrap_or(0);
        let pod = &mut self.pods[best];
        if self.rng.random::<f64>() < pod.failing {
            pod.errors += 1;
        } else if pod.serving.len() < pod.slots {
            pod.serving.push((self.now_s, true));
        } else {
            pod.waiting.push_back(self.now_s);
        }
    }
}
