//! How much at once, and how much over time: circuit breaker, rate limits, admission control.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
    /// For each rule of a route by itself. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_route: Option<bool>,
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
    /// By headers: only requests that have all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8))]
    pub headers: Option<Vec<HeaderMatch>>,
}

/// A header.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct HeaderMatch {
    /// Its name.
    pub name: String,
    /// Exact: one value, counted together. Distinct: any value, each by itself. Default: Exact.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "type")]
    #[schemars(extend("default" = "Exact"))]
    pub kind: Option<HeaderMatchType>,
    /// With type Exact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

/// How values of a header are counted.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum HeaderMatchType {
    /// One value.
    #[default]
    Exact,
    /// Any, each by itself.
    Distinct,
}

/// How large the bodies of requests may be. They are not held back: what is too large is cut off where it is noticed.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RequestBuffer {
    /// In bytes, such as 512Ki, 10Mi or 1G.
    pub limit: String,
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
