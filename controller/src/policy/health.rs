//! How failing endpoints are found and avoided, and how a new one gets up to its share.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::duration::Duration;

/// How failing endpoints are found and avoided.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct HealthCheck {
    /// Outlier detection: what the answers to real requests tell. On by default where the algorithm is Trimtab; otherwise off
    /// unless this field is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passive: Option<PassiveHealthCheck>,
    /// Endpoints are asked, beside their requests, whether they are well. Default: they are not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active: Option<ActiveHealthCheck>,
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

/// Checks of each endpoint, by each proxy. An endpoint that is not well gets no new request; when it is well again, it comes back as a new one
/// does.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq)]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "self.type in ['HTTP', 'HTTPS'] || !has(self.http)", "message": "http goes with type HTTP or HTTPS", "fieldPath": ".http"},
    {"rule": "self.type == 'GRPC' || !has(self.grpc)", "message": "grpc goes with type GRPC", "fieldPath": ".grpc"},
    {"rule": "!has(self.interval) || duration(self.interval) >= duration('50ms')", "message": "is too short, expected at least 50ms", "fieldPath": ".interval"}
]))]
#[serde(rename_all = "camelCase")]
pub struct ActiveHealthCheck {
    /// What is asked.
    #[serde(rename = "type")]
    pub kind: ActiveHealthCheckType,
    /// How long one check may take. Default: 1s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = [{"rule": "duration(self) > duration('0s')", "message": "is 0, expected more"}]), extend("default" = "1s"))]
    pub timeout: Option<Duration>,
    /// From one check to the next; each is moved by up to a tenth at random. At least 50ms. Default: 3s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "3s"))]
    pub interval: Option<Duration>,
    /// Failed checks in a row that take an endpoint out. At least 1. Default: 3; the first check of an endpoint decides at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000000), extend("default" = 3))]
    pub unhealthy_threshold: Option<u32>,
    /// Good checks in a row that bring it back. At least 1. Default: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000000), extend("default" = 1))]
    pub healthy_threshold: Option<u32>,
    /// With type HTTP or HTTPS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpHealthCheck>,
    /// With type GRPC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grpc: Option<GrpcHealthCheck>,
}

/// What an endpoint is asked.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, PartialEq, Eq)]
pub enum ActiveHealthCheckType {
    /// GET a path.
    HTTP,
    /// The same over TLS; whose certificate it is does not matter, unless a BackendTLSPolicy says so.
    HTTPS,
    /// Whether a connection comes about.
    TCP,
    /// grpc.health.v1.Health/Check.
    GRPC,
}

/// A check by HTTP.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct HttpHealthCheck {
    /// What is asked for. Default: /.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "/"))]
    pub path: Option<String>,
    /// Host of the request, and the name for TLS. Default: the endpoint's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub hostname: Option<String>,
    /// Statuses that say that it is well, 100 to 599. Default: 200.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected_statuses: Option<Vec<u32>>,
}

/// A check by gRPC.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct GrpcHealthCheck {
    /// The service that is asked for. Default: the server as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Authority of the request. Default: the endpoint's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub hostname: Option<String>,
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
