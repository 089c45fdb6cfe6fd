//! When a request is tried again, and how long things may take.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::duration::Duration;

/// When a request is tried on another endpoint. One that never reached an endpoint always may be; one that did only if it has no body and may
/// be repeated without harm (GET, HEAD, PUT, DELETE, OPTIONS, TRACE), as said by `retryOn` and within the budget.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Retry {
    /// How often a request is tried on another endpoint. 0 to 10. Default: 3 where the algorithm is Trimtab, otherwise 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 10))]
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
    /// Kinds of failures; empty: only failures to connect. Default: reset and retriable-status-codes where the algorithm is Trimtab, otherwise none.
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
    /// A client that sends the body of its request, or takes that of an answer, at fewer bytes a second is cut off once it has used up
    /// `bodyGracePeriod`; 0: never. Time in which the endpoint is waited for does not count. Default: 500.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0), extend("default" = 500))]
    pub min_body_rate: Option<u32>,
    /// How long a client may be behind `minBodyRate`; three times as long once it has sent, or taken, so much. Default: 20s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = [{"rule": "duration(self) > duration('0s')", "message": "is 0, expected more"}]), extend("default" = "20s"))]
    pub body_grace_period: Option<Duration>,
}
