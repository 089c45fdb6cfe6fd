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

/// How a new endpoint gets up to its share.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct SlowStart {
    /// Its share ramps up over this long after it became ready; 0s: at once. Default: 10s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "10s"))]
    pub window: Option<Duration>,
}
