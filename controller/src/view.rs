//! The read-only picture of the controller that the dashboard, `trimtab weights` and the demo show: one immutable value a tick,
//! behind one watch channel. These are wire types: they are what the dashboard's API serves as JSON.

use serde::{Deserialize, Serialize};
pub use trimtab_model::decision::{Mode, Reason, RuleParameters};

/// The whole picture after one tick.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct View {
    /// When it was made, milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// Trimtab's version.
    pub version: String,
    /// Version of the loaded policy.
    pub policy_version: String,
    /// Time that the last tick took, all backends together.
    pub tick_ms: f64,
    /// Connected proxies.
    pub proxies: Vec<ProxyView>,
    /// Backends by name, sorted.
    pub backends: Vec<BackendView>,
    /// Problems with the configuration that a person should see, e.g. a file that did not parse (the last good one stays).
    pub problems: Vec<String>,
    /// Recording: rows written and dropped so far; `None` where recording is off.
    pub recording: Option<RecordingView>,
}

/// One connected proxy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProxyView {
    /// Its id.
    pub id: String,
    /// Seconds since its last load report; `None` if none came yet.
    pub report_age_s: Option<f64>,
    /// Resources that it acknowledged and that it refused since it connected.
    pub acks: u64,
    /// Refusals (NACKs).
    pub nacks: u64,
    /// Text of the last NACK.
    pub last_nack: Option<String>,
    /// Whether it has acknowledged the newest weights.
    pub in_sync: bool,
}

/// Recording counters since start.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RecordingView {
    /// Where it goes.
    pub url: String,
    /// Rows in finished files.
    pub rows_written: u64,
    /// Rows lost (store dead, disk full, buffer full).
    pub rows_dropped: u64,
    /// The last error, if the last attempt failed.
    pub last_error: Option<String>,
}

/// One backend after one tick.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BackendView {
    /// `namespace/service:port`.
    pub name: String,
    /// The algorithm that its proxies run, in the spelling of `--algorithm`.
    pub algorithm: String,
    /// Mode of the policy.
    pub mode: Mode,
    /// The tick.
    pub tick: u64,
    /// Latency objective in use.
    pub objective_ms: Option<f64>,
    /// True where the objective was derived, not set.
    pub objective_derived: bool,
    /// Completed requests per second, by all proxies.
    pub rps: f64,
    /// Answers within the objective, per second.
    pub goodput_rps: f64,
    /// Requests answered 503 by admission control, per second.
    pub shed_rps: f64,
    /// Share of 5xx answers and failures, 0..=1; shed requests do not count.
    pub error_share: f64,
    /// Client-side median over the last ticks.
    pub latency_ms_p50: Option<f64>,
    /// Client-side 99th percentile over the last ticks (about 5 s).
    pub latency_ms_p99: Option<f64>,
    /// Admission control's limit, summed over proxies; `None` where it is off.
    pub concurrency_limit: Option<f64>,
    /// Rule parameters in force.
    pub parameters: RuleParameters,
    /// Which policy decides, and how its rollout stands.
    #[serde(default)]
    pub model: ModelView,
    /// What the guard did at this tick.
    pub guard: Vec<GuardView>,
    /// Kinds of requests that are told apart.
    #[serde(default)]
    pub classes: Vec<ClassView>,
    /// How many pods its autoscalers say that there are and are to be, where it has any.
    #[serde(default)]
    pub replicas: Option<ReplicasView>,
    /// Endpoints, in list order.
    pub endpoints: Vec<EndpointView>,
}

/// What HorizontalPodAutoscalers say of the workloads behind a backend.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicasView {
    /// Pods that there are.
    pub current: u32,
    /// Pods that there are to be: more than `current` means that some are to be expected.
    pub desired: u32,
}

/// Which policy decides on a backend, and how its rollout stands.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ModelView {
    /// Version of the policy that decided in this tick.
    pub decides: String,
    /// What is in force but for the turns of a candidate: a version, `builtin` or `fallback`. Empty where configuration names the policy.
    pub in_force: String,
    /// Whether a person has pinned it.
    pub pinned: bool,
    /// What is being tried.
    pub candidate: Option<String>,
    /// How far it has come: `shadow`, `5%`, `25%`, `50%`.
    pub stage: Option<String>,
    /// Since when, milliseconds since the Unix epoch.
    pub stage_since_ms: Option<i64>,
    /// Blocks that were compared in this stage.
    pub blocks: u64,
    /// Mean difference of log cost: candidate less what is in force, or that less the fallback.
    pub difference: Option<f64>,
    /// The last thing that happened, in words.
    pub verdict: String,
    /// How far the input has lain outside of what the policy was trained on over the last minutes, in widths of the range that training saw.
    pub drift: f64,
}

/// One action of the guard.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GuardView {
    /// Why.
    pub reason: Reason,
    /// Endpoint's name; `None`: all.
    pub endpoint: Option<String>,
    /// What was wanted, what was allowed.
    pub detail: String,
}

/// One class of requests.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClassView {
    /// E.g. `GET /users/{}`.
    pub name: String,
    /// Stable identity, hexadecimal.
    pub key: String,
    /// Share of the backend's requests, 0..=1.
    pub share: f64,
    /// What one costs at the average endpoint when nothing is queued.
    pub cost_ms: f64,
    /// What it costs at the endpoint that finds it easiest, relative to that; `None`: not known yet.
    pub factor_min: Option<f64>,
    /// And at the one that finds it hardest.
    pub factor_max: Option<f64>,
    /// Share of the concurrency limit that it may fill whatever it costs, 0..=1.
    pub priority: f64,
    /// Share of its requests that admission control turned away lately, 0..=1.
    pub shed_share: f64,
}

/// One endpoint after one tick.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EndpointView {
    /// Pod name or `host:port`.
    pub name: String,
    /// `host:port`.
    pub address: String,
    /// Stable identity, hexadecimal.
    pub key: String,
    /// What it is doing.
    pub state: EndpointState,
    /// What the fallback would give it, 0..=1.
    pub weight_baseline: f64,
    /// What the policy proposes.
    pub weight_proposed: f64,
    /// What is applied.
    pub weight_applied: f64,
    /// Share of the requests that it really got lately, 0..=1.
    pub share: f64,
    /// Completed requests per second.
    pub rps: f64,
    /// In flight, all proxies together, mean over the interval.
    pub in_flight: f64,
    /// Median latency lately.
    pub latency_ms_p50: Option<f64>,
    /// 99th percentile lately.
    pub latency_ms_p99: Option<f64>,
    /// Soft error average pooled over the proxies, 0..=1.
    pub error: f64,
    /// Proxies that ejected it.
    pub ejected_by: u32,
    /// Proxies whose active health checks keep it out.
    #[serde(default)]
    pub failing_by: u32,
    /// Why, in the words of one of them.
    #[serde(default)]
    pub failing: Option<String>,
    /// Estimated capacity in requests per second, where known.
    pub capacity_rps: Option<f64>,
    /// Requests that it serves at once, where known.
    #[serde(default)]
    pub slots: Option<f64>,
    /// Whether that was learned, as its pod does not tell.
    #[serde(default)]
    pub slots_learned: bool,
    /// What the policy, or a slow start that was asked for, wants of it beyond its capacity: its score is divided by it; 1: nothing.
    #[serde(default = "one")]
    pub adjustment: f64,
    /// Age of its own metrics; `None` if it has none.
    pub scrape_age_s: Option<f64>,
    /// Why it cannot be scraped, if it cannot.
    pub scrape_error: Option<String>,
}

/// State of an endpoint, as a person would say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum EndpointState {
    /// Gets its share.
    Active,
    /// New: its share ramps up.
    SlowStart,
    /// Ejected by some proxies.
    PartlyEjected,
    /// Ejected by all proxies.
    Ejected,
    /// Its active health checks fail at most proxies.
    Unhealthy,
    /// No new requests; in-flight ones finish.
    Draining,
}

fn one() -> f64 {
    1.0
}
