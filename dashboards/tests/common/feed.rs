//! A synthetic service that tells a story: unequal pods, a noisy neighbour, a gray pod, a cold start, a burst. Everything
//! follows from the seed and the number of the tick, so that a test sees the same picture every time.

use trimtab_controller::view::{
    BackendView, ClassView, EndpointState, EndpointView, GuardView, Mode, ModelView, ProxyView, Reason, RecordingView,
    RuleParameters, View,
};

/// When the story begins, milliseconds since the Unix epoch: 2026-03-03 14:30 UTC.
pub const START_MS: i64 = 1_772_548_200_000;
/// Time between ticks.
pub const TICK_MS: i64 = 500;
/// The name of the one backend of [`Feed::view`].
pub const BACKEND: &str = "shop/checkout:8080";
/// Ticks of the whole story; then it begins again.
const STORY_TICKS: u64 = 1_200;
const WORKERS: f64 = 8.0;
const OBJECTIVE_MS: f64 = 150.0;

/// The service, tick by tick.
pub struct Feed {
    pods: Vec<Pod>,
    tick: u64,
    seed: u64,
}

struct Pod {
    name: String,
    address: String,
    speed: f64,
    /// Smoothed capacity, as the prior sees it.
    prior: f64,
    applied: f64,
    error: f64,
    born: u64,
}

impl Feed {
    /// A service of `count` pods.
    pub fn new(count: usize) -> Self {
        let mut feed = Self { pods: Vec::new(), tick: 0, seed: 0x5eed };
        for index in 0..count {
            let suffix: String = (0..5).map(|_| b"bcdfghjklmnpqrstvwxz2456789"[feed.draw(27)] as char).collect();
            let late = index + 1 == count || (count > 6 && index + 4 == count);
            feed.pods.push(Pod {
                name: format!("checkout-6d8f7c9b5d-{suffix}"),
                address: format!("10.244.{}.{}:8080", index / 250, index % 250 + 2),
                speed: [1.0, 2.0, 4.0][index % 3],
                prior: [1.0, 2.0, 4.0][index % 3] * 60.0,
                applied: 1.0 / count as f64,
                error: 0.0,
                born: if late { 720 } else { 0 },
            });
        }
        feed
    }

    /// Names of the pods, in order, those that are not there yet included.
    #[allow(dead_code, reason = "not every test asks")]
    pub fn names(&self) -> Vec<String> {
        self.pods.iter().map(|pod| pod.name.clone()).collect()
    }

    fn draw(&mut self, below: usize) -> usize {
        // SplitMix64.
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % below as u64) as usize
    }

    /// About 1, give or take `spread`.
    fn noise(&mut self, spread: f64) -> f64 {
        1.0 + spread * ((self.draw(2_000) + self.draw(2_000)) as f64 / 2_000.0 - 1.0)
    }

    /// The next tick.
    pub fn view(&mut self) -> View {
        self.tick += 1;
        let story = self.tick % STORY_TICKS;
        let mut guard = Vec::new();
        let alive: Vec<usize> = (0..self.pods.len()).filter(|&index| self.pods[index].born <= self.tick).collect();

        let mut capacities = Vec::new();
        for &index in &alive {
            let antagonist = index % 12 == 2 && (180..420).contains(&story);
            let noise = self.noise(0.04);
            let pod = &mut self.pods[index];
            let capacity = pod.speed * 60.0 * noise * if antagonist { 0.35 } else { 1.0 };
            pod.prior += 0.05 * (capacity - pod.prior);
            let gray = index % 12 == 4 && (480..620).contains(&story);
            pod.error += 0.08 * (if gray { 0.7 } else { 0.0 } - pod.error);
            if pod.error < 1e-4 {
                pod.error = 0.0;
            }
            capacities.push(capacity);
        }
        let (baseline, proposed) = self.decide(&alive, &capacities, &mut guard);
        let nominal: f64 = alive.iter().map(|&index| self.pods[index].speed * 60.0).sum();
        let burst = (900..1_040).contains(&story);
        let load = nominal * if burst { 1.18 } else { 0.72 } * self.noise(0.05);
        let admitted = load.min(capacities.iter().sum::<f64>() * 0.96);

        let mut endpoints = Vec::new();
        for (place, &index) in alive.iter().enumerate() {
            let jitter = self.noise(0.1);
            endpoints.push(self.endpoint(
                index,
                capacities[place],
                admitted * jitter,
                (baseline[place], proposed[place]),
            ));
        }
        self.assemble(endpoints, guard, admitted, load - admitted)
    }

    /// Baseline and proposed weights; moves the applied ones towards the proposed ones as far as the guard lets them.
    fn decide(&mut self, alive: &[usize], capacities: &[f64], guard: &mut Vec<GuardView>) -> (Vec<f64>, Vec<f64>) {
        let floor = 0.15 / alive.len() as f64;
        let prior: f64 = alive.iter().map(|&index| self.pods[index].prior).sum();
        let baseline: Vec<f64> = alive.iter().map(|&index| self.pods[index].prior / prior).collect();
        let wanted: Vec<f64> = (0..alive.len())
            .map(|place| capacities[place].powf(1.08) * (1.0 - self.pods[alive[place]].error).powi(12))
            .collect();
        let sum: f64 = wanted.iter().sum();
        let proposed: Vec<f64> = wanted.iter().map(|weight| weight / sum).collect();
        for (place, &index) in alive.iter().enumerate() {
            let (pod, wanted) = (&mut self.pods[index], proposed[place]);
            let mut act =
                |reason, detail: String| guard.push(GuardView { reason, endpoint: Some(pod.name.clone()), detail });
            let age = self.tick - pod.born;
            let mut target = wanted;
            if pod.born > 0 && age < 60 {
                act(Reason::SlowStart, format!("new for {:.1} s, ramps up over 30 s", age as f64 * 0.5));
                target *= (age as f64 + 1.0) / 60.0;
            }
            if target < floor {
                act(
                    Reason::ShareFloor,
                    format!("{:.2} % wanted, raised to the floor of {:.2} %", target * 100.0, floor * 100.0),
                );
                target = floor;
            }
            let step = pod.applied * 0.12;
            if (target - pod.applied).abs() > step {
                let allowed = pod.applied + step.copysign(target - pod.applied);
                act(
                    Reason::StepLimit,
                    format!("{:.2} % wanted, {:.2} % allowed this tick", target * 100.0, allowed * 100.0),
                );
                target = allowed;
            }
            pod.applied = target;
        }
        let applied: f64 = alive.iter().map(|&index| self.pods[index].applied).sum();
        alive.iter().for_each(|&index| self.pods[index].applied /= applied);
        (baseline, proposed)
    }

    fn endpoint(&self, index: usize, capacity: f64, rps: f64, (baseline, proposed): (f64, f64)) -> EndpointView {
        let pod = &self.pods[index];
        let rps = rps * pod.applied;
        let busy = (rps / capacity).min(0.97);
        let service_ms = 1_000.0 * WORKERS / 60.0 / 8.0 / pod.speed;
        let p50 = service_ms * 0.7 * (1.0 + busy.powi(8) * 4.0);
        let without_metrics = index % 12 == 7;
        EndpointView {
            name: pod.name.clone(),
            address: pod.address.clone(),
            key: format!("{index:016x}"),
            state: match pod.error {
                _ if pod.born > 0 && self.tick - pod.born < 60 => EndpointState::SlowStart,
                error if error > 0.6 => EndpointState::Ejected,
                error if error > 0.3 => EndpointState::PartlyEjected,
                _ => EndpointState::Active,
            },
            weight_baseline: baseline,
            weight_proposed: proposed,
            weight_applied: pod.applied,
            share: pod.applied,
            rps,
            in_flight: rps * p50 * 1.3 / 1_000.0 + busy.powi(6) * 6.0,
            latency_ms_p50: Some(p50),
            latency_ms_p99: Some(p50 * (3.4 + busy.powi(4) * 2.0)),
            error: pod.error,
            ejected_by: if pod.error > 0.6 { 3 } else { u32::from(pod.error > 0.3) * 2 },
            failing_by: 0,
            failing: None,
            capacity_rps: Some(capacity),
            slots: Some(if without_metrics { 3.0 } else { 4.0 }),
            slots_learned: without_metrics,
            adjustment: 1.0,
            scrape_age_s: (!without_metrics).then_some(0.1 + (index % 5) as f64 * 0.08),
            scrape_error: without_metrics.then(|| "GET /metrics: 404 Not Found".into()),
        }
    }

    fn assemble(&self, endpoints: Vec<EndpointView>, guard: Vec<GuardView>, rps: f64, shed_rps: f64) -> View {
        let slow: f64 = endpoints.iter().map(|e| e.rps / rps * e.latency_ms_p99.unwrap_or(0.0)).sum();
        let p50: f64 = endpoints.iter().map(|e| e.rps / rps * e.latency_ms_p50.unwrap_or(0.0)).sum();
        let errors: f64 = endpoints.iter().map(|e| e.rps / rps * e.error).sum();
        let backend = BackendView {
            name: BACKEND.into(),
            algorithm: "trimtab".into(),
            mode: Mode::Active,
            tick: self.tick,
            objective_ms: Some(OBJECTIVE_MS),
            objective_derived: true,
            rps,
            goodput_rps: rps * (1.0 - errors) * if slow > OBJECTIVE_MS { 0.975 } else { 0.9985 },
            shed_rps: shed_rps.max(0.0),
            error_share: errors,
            latency_ms_p50: Some(p50),
            latency_ms_p99: Some(slow * 1.25),
            concurrency_limit: Some((rps * 0.06).round()),
            parameters: RuleParameters {
                exponent: 2.6,
                offset: 1.0,
                latency_exponent: 0.5,
                latency_reference_ms: 30.0,
                error_exponent: 12.0,
                weight_exponent: 1.0,
                work_share: 0.0,
                affinity_proxies: 0.0,
                affinity_factor: 1.0,
            },
            model: ModelView {
                decides: "checkout-7".into(),
                in_force: "builtin".into(),
                pinned: false,
                candidate: Some("checkout-7".into()),
                stage: Some("25%".into()),
                stage_since_ms: Some(START_MS),
                blocks: 14,
                difference: Some(-0.043),
                verdict: "better than what is in force so far, not for sure yet".into(),
                drift: 0.02,
            },
            guard,
            replicas: None,
            classes: [("GET /items/{}", 0.8, 4.0), ("GET /search", 0.17, 35.0), ("POST /reports 1KiB+", 0.03, 400.0)]
                .map(|(name, share, cost_ms)| ClassView {
                    name: name.into(),
                    key: format!("{:016x}", name.len()),
                    share,
                    cost_ms,
                    factor_min: Some(0.7),
                    factor_max: Some(1.9),
                    priority: 0.0,
                    shed_share: 0.0,
                })
                .into(),
            endpoints,
        };
        View {
            at_ms: START_MS + self.tick as i64 * TICK_MS,
            version: "0.1.0".into(),
            policy_version: "prior-1".into(),
            tick_ms: 1.4 + 0.3 * ((self.tick as f64) / 7.0).sin(),
            proxies: (1..=3)
                .map(|number| ProxyView {
                    id: format!("proxy-{number}"),
                    report_age_s: Some(0.2),
                    acks: self.tick * 2,
                    nacks: 0,
                    last_nack: None,
                    in_sync: true,
                })
                .collect(),
            backends: vec![backend],
            problems: vec![],
            recording: Some(RecordingView {
                url: "file:///var/lib/trimtab/recordings".into(),
                rows_written: self.tick * 12,
                rows_dropped: 0,
                last_error: None,
            }),
        }
    }
}
