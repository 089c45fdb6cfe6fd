//! Who may ask, and faults that are made up.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::duration::Duration;

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
