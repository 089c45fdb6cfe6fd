//! The one policy of ours: `BackendTrafficPolicy` (`trimtab.dev/v1alpha1`), attached to a Service or an HTTPRoute. Field names are those that users of
//! Envoy Gateway and Istio know; what is only ours is under `adaptive`. These are wire types: `gateway` turns them into a `BackendSpec`.

use std::{fmt, str::FromStr};

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use trimtab_proxy::api::v1;

use crate::{duration::Duration, policy_status::PolicyStatus};

/// How requests are spread over the endpoints of a Service, how failing endpoints are avoided, and how far Trimtab's learned policy
/// may act. Everything is optional: a Service without a policy is routed adaptively with the defaults below.
#[derive(CustomResource, Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[kube(
    group = "trimtab.dev",
    version = "v1alpha1",
    kind = "BackendTrafficPolicy",
    plural = "backendtrafficpolicies",
    shortname = "btp",
    namespaced,
    category = "gateway-api",
    status = "PolicyStatus",
    printcolumn = r#"{"name": "Target", "type": "string", "jsonPath": ".spec.targetRefs[0].name"}"#,
    printcolumn = r#"{"name": "Algorithm", "type": "string", "jsonPath": ".spec.loadBalancer.type"}"#,
    printcolumn = r#"{"name": "Mode", "type": "string", "jsonPath": ".spec.adaptive.mode"}"#,
    printcolumn = r#"{"name": "Accepted", "type": "string", "jsonPath": ".status.ancestors[0].conditions[?(@.type==\"Accepted\")].status"}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#,
    derive = "PartialEq",
    derive = "Default"
)]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "!has(self.adaptive) || !has(self.adaptive.mode) || self.adaptive.mode != 'Active' || !has(self.loadBalancer) || \
             !has(self.loadBalancer.type) || self.loadBalancer.type in ['Trimtab', 'WeightedRoundRobin', 'DecayingWeights', 'Locality']",
    "message": "adaptive.mode Active needs an algorithm that heeds weights, expected loadBalancer.type Trimtab, WeightedRoundRobin, DecayingWeights or Locality, or mode Shadow",
    "fieldPath": ".adaptive.mode"
}]))]
#[serde(rename_all = "camelCase")]
pub struct BackendTrafficPolicySpec {
    /// The Services and HTTPRoutes that it is for, in the policy's own namespace. With `sectionName`, one port of the Service or one rule of
    /// the HTTPRoute; such a policy goes before one for the whole. What an HTTPRoute's policy sets goes before what its Services' policies
    /// set, section by section; the route then has backends of its own, with connections and counts of their own.
    #[schemars(length(min = 1, max = 16))]
    pub target_refs: Vec<TargetRef>,
    /// How an endpoint is chosen for a request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_balancer: Option<LoadBalancer>,
    /// How failing endpoints are found and avoided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheck>,
    /// Bounds on what one proxy process sends to the Service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub circuit_breaker: Option<CircuitBreaker>,
    /// When a request is tried on another endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
    /// Requests over time; what is beyond is answered 429.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<RateLimit>,
    /// Which clients may ask; others are answered 403.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authorization: Option<Authorization>,
    /// Faults that are made up, to see what becomes of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault_injection: Option<FaultInjection>,
    /// Time limits towards the endpoints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Timeout>,
    /// Answering 503 at once instead of queueing what cannot be answered in time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admission_control: Option<AdmissionControl>,
    /// How a new endpoint gets up to its share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slow_start: Option<SlowStart>,
    /// Trimtab's own part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adaptive: Option<Adaptive>,
}

/// A Service or an HTTPRoute in the policy's namespace, or a part of it.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "((!has(self.group) || self.group == '') && (!has(self.kind) || self.kind == 'Service')) || \
             (has(self.group) && self.group == 'gateway.networking.k8s.io' && has(self.kind) && self.kind == 'HTTPRoute')",
    "message": "can only be a Service (group \"\") or an HTTPRoute (group gateway.networking.k8s.io)"
}]))]
#[serde(rename_all = "camelCase")]
pub struct TargetRef {
    /// API group: "" for a Service, gateway.networking.k8s.io for an HTTPRoute. Default: "".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = ""), length(max = 253))]
    pub group: Option<String>,
    /// "Service" or "HTTPRoute". Default: "Service".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "Service"), length(max = 63))]
    pub kind: Option<String>,
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Name of a port of the Service, or of a rule of the HTTPRoute. Default: all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub section_name: Option<String>,
}

/// How an endpoint is chosen for a request.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct LoadBalancer {
    /// The algorithm. Default: Trimtab.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "type")]
    #[schemars(extend("default" = "Trimtab"))]
    pub algorithm: Option<Algorithm>,
    /// What RingHash and Maglev go by. Default: the address of the client's connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consistent_hash: Option<ConsistentHash>,
    /// What the algorithms that came last can be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameters: Option<crate::balancing::Parameters>,
}

/// Requests that are alike in this go to the same endpoint. Where a request lacks it, the address of the client's connection counts.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ConsistentHash {
    /// What it is.
    #[serde(rename = "type")]
    pub kind: ConsistentHashType,
    /// With type Header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<HashName>,
    /// With type Cookie. The cookie is the application's; none is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cookie: Option<HashName>,
    /// Part of every key: another version sends clients to other endpoints, e.g. for a canary. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

/// What consistent hashing goes by.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConsistentHashType {
    /// The address of the client's connection.
    SourceIP,
    /// A header.
    Header,
    /// A cookie.
    Cookie,
}

/// A name.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct HashName {
    /// Of the header or cookie.
    pub name: String,
}

/// An algorithm that chooses an endpoint for a request.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// Live in-flight counts, learned weights and parameters.
    #[default]
    Trimtab,
    /// One after the other.
    RoundRobin,
    /// Any, with equal chances.
    Random,
    /// One after the other, in proportion to the weights (smooth).
    WeightedRoundRobin,
    /// The endpoint with the fewest requests in flight from this proxy; all are looked at.
    LeastRequest,
    /// The one of two random endpoints with fewer requests in flight from this proxy.
    LeastRequestP2C,
    /// The one of two random endpoints with the lower peak-sensitive latency average times requests in flight.
    PeakEwma,
    /// Cubed in-flight counts scaled by the number of proxies, times a latency average; no weights.
    C3Local,
    /// Requests that are alike in `consistentHash` to the same endpoint, by a ring of hashes: when an endpoint leaves, only its own move.
    RingHash,
    /// The same by a Maglev table: shares are more even, a few more requests move.
    Maglev,
    /// The endpoint that got the fewest requests in a sliding window: round robin that makes up for who was passed over.
    SlidingWindowRoundRobin,
    /// One after the other, in proportion to the weights; that of an endpoint that comes to others begins elsewhere and approaches its own.
    DecayingWeights,
    /// The least loaded for its weight, those of the proxy's zone first: requests spill over to other zones by load.
    Locality,
    /// Prequal's choice by what answers tell: of those that are not hot, the quickest.
    Prequal,
}

impl Algorithm {
    /// All of them.
    pub const ALL: [Algorithm; 14] = [
        Algorithm::Trimtab,
        Algorithm::RoundRobin,
        Algorithm::Random,
        Algorithm::WeightedRoundRobin,
        Algorithm::LeastRequest,
        Algorithm::LeastRequestP2C,
        Algorithm::PeakEwma,
        Algorithm::C3Local,
        Algorithm::RingHash,
        Algorithm::Maglev,
        Algorithm::SlidingWindowRoundRobin,
        Algorithm::DecayingWeights,
        Algorithm::Locality,
        Algorithm::Prequal,
    ];

    /// In the spelling of `--algorithm`.
    pub const fn name(self) -> &'static str {
        match self {
            Algorithm::Trimtab => "trimtab",
            Algorithm::RoundRobin => "round-robin",
            Algorithm::Random => "random",
            Algorithm::WeightedRoundRobin => "weighted-round-robin",
            Algorithm::LeastRequest => "least-request",
            Algorithm::LeastRequestP2C => "least-request-p2c",
            Algorithm::PeakEwma => "peak-ewma",
            Algorithm::C3Local => "c3-local",
            Algorithm::RingHash => "ring-hash",
            Algorithm::Maglev => "maglev",
            Algorithm::SlidingWindowRoundRobin => "sliding-window-round-robin",
            Algorithm::DecayingWeights => "decaying-weights",
            Algorithm::Locality => "locality",
            Algorithm::Prequal => "prequal",
        }
    }

    /// As the data plane says it.
    pub const fn data_plane(self) -> v1::Algorithm {
        match self {
            Algorithm::Trimtab => v1::Algorithm::Adaptive,
            Algorithm::RoundRobin => v1::Algorithm::RoundRobin,
            Algorithm::Random => v1::Algorithm::Random,
            Algorithm::WeightedRoundRobin => v1::Algorithm::WeightedRoundRobin,
            Algorithm::LeastRequest => v1::Algorithm::LeastRequest,
            Algorithm::LeastRequestP2C => v1::Algorithm::LeastRequestP2c,
            Algorithm::PeakEwma => v1::Algorithm::PeakEwma,
            Algorithm::C3Local => v1::Algorithm::C3Local,
            Algorithm::RingHash => v1::Algorithm::RingHash,
            Algorithm::Maglev => v1::Algorithm::Maglev,
            Algorithm::SlidingWindowRoundRobin => v1::Algorithm::SlidingWindowRoundRobin,
            Algorithm::DecayingWeights => v1::Algorithm::DecayingWeights,
            Algorithm::Locality => v1::Algorithm::Locality,
            Algorithm::Prequal => v1::Algorithm::Prequal,
        }
    }

    /// Whether it heeds the weights that a tick pushes.
    pub const fn uses_weights(self) -> bool {
        matches!(
            self,
            Algorithm::Trimtab | Algorithm::WeightedRoundRobin | Algorithm::DecayingWeights | Algorithm::Locality
        )
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that is not an algorithm's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown algorithm \"{0}\", expected one of {names}", names = Algorithm::ALL.map(Algorithm::name).join(", "))]
pub struct UnknownAlgorithm(pub String);

impl FromStr for Algorithm {
    type Err = UnknownAlgorithm;

    fn from_str(text: &str) -> Result<Self, UnknownAlgorithm> {
        Algorithm::ALL
            .into_iter()
            .find(|algorithm| algorithm.name() == text)
            .ok_or_else(|| UnknownAlgorithm(text.to_owned()))
    }
}

/// How failing endpoints are found and avoided.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct HealthCheck {
    /// Outlier detection: what the answers to real requests tell. On by default where the algorithm is Trimtab; otherwise off
    /// unless this field is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passive: Option<PassiveHealthCheck>,
    /// Percentage of endpoints that must be healthy; with fewer, all of them get requests. 0 to 100. Default: 50.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100), extend("default" = 50))]
    pub panic_threshold: Option<u32>,
}

/// Outlier detection, local to each proxy.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "!has(self.maxEjectionTime) || !has(self.baseEjectionTime) || \
             duration(self.maxEjectionTime) >= duration(self.baseEjectionTime)",
    "message": "maxEjectionTime is below baseEjectionTime, expected at least that",
    "fieldPath": ".maxEjectionTime"
}]))]
#[serde(rename_all = "camelCase")]
pub struct PassiveHealthCheck {
    /// 5xx answers or failures in a row that eject an endpoint. At least 1. Default: 5.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "consecutive5XxErrors")]
    #[schemars(range(min = 1, max = 1000000), extend("default" = 5))]
    pub consecutive_5xx_errors: Option<u32>,
    /// Failures in a row to get any answer (connect, reset, time-out) that eject an endpoint. At least 1. Default: 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000000), extend("default" = 3))]
    pub consecutive_gateway_errors: Option<u32>,
    /// How long the first ejection lasts; it doubles with each one that follows. Default: 10s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = [{"rule": "duration(self) > duration('0s')", "message": "is 0, expected more"}]))]
    pub base_ejection_time: Option<Duration>,
    /// The longest that an ejection may last. Default: 5m, or `baseEjectionTime` where that is longer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = [{"rule": "duration(self) > duration('0s')", "message": "is 0, expected more"}]))]
    pub max_ejection_time: Option<Duration>,
    /// Percentage of endpoints that may be ejected at once. 0 to 100. Default: 50.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100), extend("default" = 50))]
    pub max_ejection_percent: Option<u32>,
}

/// Bounds on what one proxy process sends to the Service; what is beyond is answered 503 at once.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct CircuitBreaker {
    /// Connections to all endpoints together. Default: no bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_connections: Option<u32>,
    /// Requests in flight to all endpoints together. Default: no bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_parallel_requests: Option<u32>,
}

/// When a request is tried on another endpoint. One that never reached an endpoint always may be; one that did only if it has no body and may
/// be repeated without harm (GET, HEAD, PUT, DELETE, OPTIONS, TRACE), as said by `retryOn` and within the budget.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Retry {
    /// How often a request is tried on another endpoint. 0 to 10. Default: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 10), extend("default" = 1))]
    pub num_retries: Option<u32>,
    /// What is worth another try beside a failure to connect. Default: reset and 503 where the algorithm is Trimtab, otherwise nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_on: Option<RetryOn>,
    /// Limits of one try.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_retry: Option<PerRetry>,
    /// How many retries there may be at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<RetryBudget>,
}

/// What is worth another try.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RetryOn {
    /// Kinds of failures; empty: only failures to connect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub triggers: Option<Vec<RetryTrigger>>,
    /// Statuses, 400 to 599, with the trigger retriable-status-codes. Default: 503.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_status_codes: Option<Vec<u32>>,
}

/// A kind of failure.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum RetryTrigger {
    /// No connection could be made. Always tried again, said or not.
    ConnectFailure,
    /// The endpoint closed the connection without an answer.
    Reset,
    /// It answered with one of `httpStatusCodes`.
    RetriableStatusCodes,
}

/// Limits of one try.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PerRetry {
    /// From the request sent to an endpoint to the last byte of its response; then another endpoint is tried, or 504 answered. Default: as long
    /// as the whole request may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
}

/// How many retries, of requests that reached an endpoint, there may be at a time, per proxy process.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RetryBudget {
    /// In percent of the requests in flight. 0 to 100. Default: 20.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub percent: Option<u32>,
    /// So many are allowed at least. Default: 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_retry_concurrency: Option<u32>,
}

/// Requests over time.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RateLimit {
    /// Counted by each proxy process for itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<LocalRateLimit>,
}

/// Limits that each proxy process counts for itself.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct LocalRateLimit {
    /// All must hold. 1 to 4.
    pub rules: Vec<RateLimitRule>,
}

/// One limit.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RateLimitRule {
    /// Which requests are counted together. Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_selectors: Option<Vec<ClientSelector>>,
    /// How many. Default: 2000 a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<RateLimitValue>,
}

/// Which requests are counted together.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ClientSelector {
    /// By the address of the client's connection.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "sourceCIDR")]
    pub source_cidr: Option<SourceCidr>,
}

/// Addresses of clients.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct SourceCidr {
    /// Only Distinct: each address by itself; of IPv6 addresses, each /64.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "type")]
    pub kind: Option<SourceMatch>,
    /// Only "0.0.0.0/0": all clients. Default: that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

/// How addresses are counted.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceMatch {
    /// Each by itself.
    Distinct,
}

/// So many requests in a unit of time; as many may come at once.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RateLimitValue {
    /// At least 1.
    #[schemars(range(min = 1))]
    pub requests: u32,
    /// The unit.
    pub unit: RateLimitUnit,
}

/// A unit of time.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, PartialEq, Eq)]
pub enum RateLimitUnit {
    /// A second.
    Second,
    /// A minute.
    Minute,
    /// An hour.
    Hour,
}

/// Which clients may ask.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Authorization {
    /// What holds where no rule matches. Default: Deny.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_action: Option<AuthorizationAction>,
    /// The first that matches counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rules: Option<Vec<AuthorizationRule>>,
}

/// One rule.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct AuthorizationRule {
    /// Whether they may.
    pub action: AuthorizationAction,
    /// Who.
    pub principal: Principal,
}

/// Clients.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Principal {
    /// Ranges that the address of the client's connection may be in, such as 10.0.0.0/8.
    #[serde(rename = "clientCIDRs")]
    pub client_cidrs: Vec<String>,
}

/// Whether a client may ask.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthorizationAction {
    /// It may.
    Allow,
    /// It is answered 403.
    Deny,
}

/// Faults that are made up.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct FaultInjection {
    /// Requests that are answered without asking an endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub abort: Option<FaultAbort>,
    /// Requests that are held back before an endpoint is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay: Option<FaultDelay>,
}

/// Requests that are answered without asking an endpoint.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct FaultAbort {
    /// With this status. 200 to 599.
    #[schemars(range(min = 200, max = 599))]
    pub http_status: u32,
    /// How many, in percent. Default: 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub percentage: Option<f64>,
}

/// Requests that are held back before an endpoint is asked.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct FaultDelay {
    /// For this long.
    pub fixed_delay: Duration,
    /// How many, in percent. Default: 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub percentage: Option<f64>,
}

/// Time limits towards the endpoints.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Timeout {
    /// Limits of the connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp: Option<TcpTimeout>,
    /// Limits of requests and of idle connections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpTimeout>,
}

/// Limits of the connection.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct TcpTimeout {
    /// How long connecting may take. Default: 1s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = [{"rule": "duration(self) > duration('0s')", "message": "is 0, expected more"}]), extend("default" = "1s"))]
    pub connect_timeout: Option<Duration>,
}

/// Limits of requests and of idle connections.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct HttpTimeout {
    /// From the request sent to an endpoint to the last byte of its response; `timeouts.backendRequest` of an HTTPRoute rule goes
    /// before it. A rule with several backends uses the longest, if all of them have one. Default: no limit of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_timeout: Option<Duration>,
    /// An idle connection to an endpoint is closed after this long. Default: 60s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = [{"rule": "duration(self) > duration('0s')", "message": "is 0, expected more"}]), extend("default" = "60s"))]
    pub connection_idle_timeout: Option<Duration>,
}

/// A local limit on requests in flight, adapted so that answers stay within the objective.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "!has(self.minConcurrency) || !has(self.maxConcurrency) || self.maxConcurrency >= self.minConcurrency",
    "message": "maxConcurrency is below minConcurrency, expected at least that",
    "fieldPath": ".maxConcurrency"
}]))]
#[serde(rename_all = "camelCase")]
pub struct AdmissionControl {
    /// Default: true where the algorithm is Trimtab, otherwise false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// The limit never goes below this, per proxy. Default: the number of endpoints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000000))]
    pub min_concurrency: Option<u32>,
    /// The limit never goes above this, per proxy; also where it starts. Default: 1000000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000000))]
    pub max_concurrency: Option<u32>,
}

/// How a new endpoint gets up to its share.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct SlowStart {
    /// Its share ramps up over this long after it became ready; 0s: at once. Default: 10s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "10s"))]
    pub window: Option<Duration>,
}

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
