//! Trimtab's own part of the policy: how far the learned policy may act, what it aims at, and where it gets its numbers.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::duration::Duration;

/// Trimtab's own part: how far the learned policy may act, what it aims at, and where it gets its numbers.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Adaptive {
    /// Off: the capacity prior's weights. Shadow: the learned policy decides and is recorded, the prior's weights are applied.
    /// Active: the learned policy's weights are applied, within the guardrails. Default: Active where the algorithm heeds weights
    /// (Trimtab, WeightedRoundRobin), otherwise Off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<AdaptiveMode>,
    /// What counts as a good answer. Default: derived from what the Service does when it is not overloaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub objective: Option<Objective>,
    /// What the learned policy may never go beyond.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guardrails: Option<Guardrails>,
    /// How the endpoints' own metrics are read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<Metrics>,
    /// How requests are told apart by what they cost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classes: Option<Classes>,
    /// What the rule may take into account; everything, unless said otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terms: Option<Terms>,
    /// Which policy decides: "builtin", or the path of a checkpoint. Default: what the controller was started with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
}

/// How requests are told apart: by method, path (with ids and numbers folded), size of the body, gRPC method. Those that matter get a
/// class of their own, at most 15; the others share one.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Classes {
    /// Whether they are. Default: true where the algorithm is Trimtab; the others do not tell requests apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Name of a header whose value, where a request has it, is its class; e.g. x-request-class. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    /// What is shed last in overload, whatever it costs; of several that match, the first counts. At most 64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub priorities: Option<Vec<ClassPriority>>,
}

/// How important some classes are.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ClassPriority {
    /// Name of a class as `trimtab weights` shows it, or a value of the header; "*" at the end stands for anything.
    #[serde(rename = "match")]
    pub pattern: String,
    /// Share of the concurrency limit that these classes may fill at least; 1: they are never shed for what they cost. 0 to 1.
    #[schemars(range(min = 0, max = 1))]
    pub priority: f64,
}

/// What the rule may take into account. Each is true by default.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Terms {
    /// The weights that each tick decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<bool>,
    /// The endpoints' latency as each proxy sees it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency: Option<bool>,
    /// The endpoints' errors, pooled over the proxies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errors: Option<bool>,
    /// What requests of each class cost, in general and at each endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class_costs: Option<bool>,
    /// That each endpoint has proxies that prefer it, where there are many proxies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<bool>,
    /// That admission control sheds expensive requests first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class_shedding: Option<bool>,
    /// What other proxies say that they have in flight, where there are several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peers: Option<bool>,
}

/// How far the learned policy may act.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdaptiveMode {
    /// It does not run; the capacity prior's weights are applied.
    Off,
    /// It decides and is recorded; the capacity prior's weights are applied.
    Shadow,
    /// Its weights are applied, within the guardrails.
    Active,
}

/// What counts as a good answer.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Objective {
    /// Answers within this time count towards goodput. Default: derived.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = [{"rule": "duration(self) > duration('0s')", "message": "is 0, expected more"}]))]
    pub latency: Option<Duration>,
}

/// What the learned policy may never go beyond. Shares are multiples of the mean share of the other endpoints.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Guardrails {
    /// No ready endpoint's share falls below this. 0.001 to 1. Default: 0.05.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.001, max = 1), extend("default" = 0.05))]
    pub share_min: Option<f64>,
    /// No endpoint's share rises above this. 1 to 1000. Default: 8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000), extend("default" = 8))]
    pub share_max: Option<f64>,
    /// Largest factor by which a weight moves in one tick (500 ms), up or down. 1.02 to 1000. Default: 1.65 up, 4 down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1.02, max = 1000))]
    pub step_max: Option<f64>,
    /// An endpoint's own metrics older than this are not used. Default: as long as the learned policy says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = [{"rule": "duration(self) > duration('0s')", "message": "is 0, expected more"}]))]
    pub stale_after: Option<Duration>,
    /// For this long after an endpoint became ready its own numbers do not move its weight. Not supported yet. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blackout_period: Option<Duration>,
    /// After this long without any numbers an endpoint's learned weight is forgotten. Not supported yet. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight_expiration_period: Option<Duration>,
}

/// How the endpoints' own metrics (Prometheus text over HTTP) are read.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Metrics {
    /// Whether endpoints are scraped at all. Default: true; one that has no metrics works from the proxies' reports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = true))]
    pub scrape: Option<bool>,
    /// Path. Default: /metrics.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Port. Default: the port that requests go to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<u16>,
    /// Default: http.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "http"))]
    pub scheme: Option<MetricsScheme>,
    /// How often. At least 100ms. Default: 500ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "500ms"), extend("x-kubernetes-validations" = [
        {"rule": "duration(self) >= duration('100ms')", "message": "is too short, expected at least 100ms"}
    ]))]
    pub interval: Option<Duration>,
    /// Which series mean what, where the usual names do not do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub names: Option<MetricNames>,
}

/// How metrics are fetched.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, Default, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum MetricsScheme {
    /// In clear text.
    #[default]
    Http,
    /// Over TLS; not supported yet.
    Https,
}

/// Names of the series with the numbers that Trimtab uses; what is left out is looked for under the usual names.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct MetricNames {
    /// Gauge: requests inside the endpoint, waiting or served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_flight: Option<String>,
    /// Gauge: requests being served (busy workers).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub busy: Option<String>,
    /// Gauge: requests that it can serve at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker_limit: Option<String>,
    /// Counter: completed requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<String>,
    /// Histogram or summary: duration of requests in seconds, or in milliseconds where the name ends in `_ms` or `_milliseconds`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration: Option<String>,
    /// Counter: CPU time used, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<String>,
    /// Gauge: CPU limit, in cores.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_limit: Option<String>,
    /// Gauge: resident memory, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<String>,
    /// Gauge: memory limit, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_limit: Option<String>,
    /// Gauge: when the process started, in seconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<String>,
}
