//! What comes out of a tick for one backend: weights, rule parameters, and why.

use serde::{Deserialize, Serialize};

use crate::observation::EndpointKey;

/// Parameters of the pick rule, shared by all endpoints of a backend. A proxy scores an endpoint with `n` requests in
/// flight as
/// `(n + offset)^exponent / weight^weight_exponent * (latency / latency_reference_ms)^latency_exponent * (1 - error)^-error_exponent`, or with the
/// expected time of the request in the place of `n + offset` where classes and slots are known.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RuleParameters {
    /// κ: how steeply a queue counts.
    pub exponent: f32,
    /// g: requests assumed to be there beside those in flight.
    pub offset: f32,
    /// z: how much the proxy's own, fast latency average counts.
    pub latency_exponent: f32,
    /// Latency at which the latency factor is 1, in milliseconds.
    pub latency_reference_ms: f32,
    /// a: how much the pooled error average counts.
    pub error_exponent: f32,
    /// ω: how much the weight counts.
    pub weight_exponent: f32,
    /// h: how much the work in flight counts beside the wait that follows from it.
    pub work_share: f32,
    /// r: how many proxies prefer each endpoint; 0: no affinity.
    pub affinity_proxies: f32,
    /// Factor on the score of an endpoint that a proxy does not prefer.
    pub affinity_factor: f32,
}

/// The defaults, here (and, for a proxy without a controller, in `trimtab_proxy::config`) and nowhere else: found by
/// `cargo run --release --workspace --example rule_parameters`, figures in docs/simulation.md. The optimum is
/// flat: within 2 % at p99 lie all with about the same ratios of the exponents, so they are rounded to what is cheap to raise to.
///
/// `latency_reference_ms` scales all scores alike and so never changes a choice between endpoints of known latency; `decide`
/// replaces it by the backend's median latency, which is what an endpoint without a latency of its own is taken to have.
impl RuleParameters {
    /// For equal weights, when nothing is known of the endpoints.
    pub const LOCAL: Self = Self {
        exponent: 2.0,
        offset: 2.0,
        latency_exponent: 2.0,
        latency_reference_ms: 100.0,
        error_exponent: 12.0,
        weight_exponent: 1.0,
        work_share: 0.0,
        affinity_proxies: 0.0,
        affinity_factor: 1.0,
    };

    /// For weights that say how much an endpoint can do (the capacity prior) where endpoints do not tell how many requests they serve at once.
    /// Only the ratios of the exponents matter for which endpoint is picked, so this is `(n + 2) / w^(1/3) * latency^(5/6)`: the weight
    /// counts for little where latency is fresh, as latency says much the same, and a large weight prefers large pods over equally fast
    /// small ones that are idle too.
    pub const WITH_WEIGHTS: Self = Self {
        exponent: 3.0,
        offset: 2.0,
        latency_exponent: 2.5,
        latency_reference_ms: 100.0,
        error_exponent: 12.0,
        weight_exponent: 1.0,
        work_share: 0.0,
        affinity_proxies: 0.0,
        affinity_factor: 1.0,
    };

    /// Where endpoints tell how many requests they serve at once: the expected time of the request itself, times how slow the endpoint was
    /// of late. Work in flight keeps requests spread; capacity is in the expected
    /// time, so that weights count for nothing.
    pub const WITH_SLOTS: Self = Self {
        exponent: 1.0,
        offset: 1.0,
        latency_exponent: 1.0,
        latency_reference_ms: 100.0,
        error_exponent: 12.0,
        weight_exponent: 0.0,
        work_share: 0.5,
        affinity_proxies: 0.0,
        affinity_factor: 1.0,
    };
}

/// How far the policy may act on one backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Mode {
    /// The policy does not run; the fallback is applied.
    Off,
    /// The policy decides and is recorded; the fallback is applied.
    Shadow,
    /// The policy's decision is applied, within the guard.
    #[default]
    Active,
}

/// Why the guard changed or refused something. The names are the operator's contract: they appear in decisions,
/// metrics, the dashboard and recordings, and do not change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Reason {
    /// The backend's mode is `Off`.
    ModeOff,
    /// The backend's mode is `Shadow`.
    ModeShadow,
    /// A share was raised to the floor.
    ShareFloor,
    /// A share was lowered to the ceiling.
    ShareCeiling,
    /// A weight wanted to move further than one tick allows.
    StepLimit,
    /// Metrics of an endpoint are older than allowed: its prior counts, not the policy.
    StaleMetrics,
    /// No metrics of an endpoint at all.
    MissingMetrics,
    /// Fewer endpoints are healthy than the panic threshold: all get traffic.
    PanicThreshold,
    /// A new endpoint ramps up.
    SlowStart,
    /// The features are outside what the policy was trained on.
    UnfamiliarInput,
    /// The policy's output was not finite, or it failed.
    PolicyFault,
    /// The policy does worse than its fallback.
    WorseThanFallback,
    /// The fallback takes a short turn, so that what is in force is compared with it.
    Switchback,
    /// The version that was in force was rolled back: the fallback is in force.
    RolledBack,
    /// A person has pinned the fallback.
    Pinned,
    /// What the policy knows of the service contradicts what was learned of it live, which counts instead.
    StaleFacts,
}

/// One thing that the guard did.
#[derive(Debug, Clone, PartialEq)]
pub struct GuardAction {
    /// Why.
    pub reason: Reason,
    /// On which endpoint; `None`: on all.
    pub endpoint: Option<EndpointKey>,
    /// What was wanted and what was allowed, in words.
    pub detail: String,
}

/// The decision of one tick for one backend. All vectors are in the order of the observation's endpoints; each of the
/// three weight vectors is finite, > 0 and sums to 1.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// Tick of the observation.
    pub tick: u64,
    /// Which endpoints the vectors are about.
    pub endpoints: Vec<EndpointKey>,
    /// What the fallback (the capacity prior) says.
    pub baseline: Vec<f64>,
    /// What the policy proposes.
    pub proposed: Vec<f64>,
    /// What is pushed.
    pub applied: Vec<f64>,
    /// What the policy and slow start ask for beyond capacity, one an endpoint, finite and > 0: an endpoint's score is divided by it. Empty where
    /// the rule does not know how long a request takes; there the weights say it all.
    pub adjustments: Vec<f64>,
    /// Requests that each endpoint serves at once, as far as it tells or the policy knows of the service.
    pub slots: Vec<Option<f64>>,
    /// Rule parameters that go with `applied`.
    pub parameters: RuleParameters,
    /// Estimated capacity in requests per second; `None` where the endpoint's own metrics do not tell it.
    pub capacity_rps: Vec<Option<f64>>,
    /// What the guard did, in order.
    pub guard: Vec<GuardAction>,
    /// Log-density of the exploration noise in `proposed`; `None` where nothing was drawn.
    pub log_probability: Option<f64>,
    /// Version of the policy that proposed.
    pub policy_version: String,
    /// Mode under which it was made.
    pub mode: Mode,
}
