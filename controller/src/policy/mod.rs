//! The one policy of ours: `BackendTrafficPolicy` (`trimtab.dev/v1alpha1`), attached to a Service or an HTTPRoute. Field names are those that users of
//! Envoy Gateway and Istio know; what is only ours is under `adaptive`. These are wire types: `gateway` turns them into a `BackendSpec`.

mod access;
mod adaptive;
mod balancing;
mod health;
mod limits;
mod retry;
mod session;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use access::{
    Authorization, AuthorizationAction, AuthorizationRule, FaultAbort, FaultDelay, FaultInjection, Principal,
};
pub use adaptive::{
    Adaptive, AdaptiveMode, ClassPriority, Classes, Guardrails, MetricNames, Metrics, MetricsScheme, Objective, Terms,
};
pub use balancing::{Algorithm, ConsistentHash, ConsistentHashType, HashName, LoadBalancer, UnknownAlgorithm};
pub use health::{
    ActiveHealthCheck, ActiveHealthCheckType, GrpcHealthCheck, HealthCheck, HttpHealthCheck, PassiveHealthCheck,
    SlowStart,
};
pub use limits::{
    AdmissionControl, CircuitBreaker, ClientSelector, HeaderMatch, HeaderMatchType, LocalRateLimit, RateLimit,
    RateLimitRule, RateLimitUnit, RateLimitValue, RequestBuffer, SourceCidr, SourceMatch,
};
pub use retry::{HttpTimeout, PerRetry, Retry, RetryBudget, RetryOn, RetryTrigger, TcpTimeout, Timeout};
pub use session::{CookieConfig, LifetimeType, SessionPersistence, SessionType};

use crate::policy_status::PolicyStatus;

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
    /// A client that was answered by an endpoint goes there again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_persistence: Option<SessionPersistence>,
    /// How large the bodies of requests may be; what is beyond is answered 413.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_buffer: Option<RequestBuffer>,
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
