//! What is said of a policy in its status, as GEP-713 has it: for each ancestor that it bears on, whether it is in force there and why not.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Most ancestors that a status names; GEP-713 allows no more.
pub const ANCESTORS_MAX: usize = 16;

/// The status of a policy.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
pub struct PolicyStatus {
    /// What the policy bears on, and how it stands there. An entry belongs to the controller that it names.
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    pub ancestors: Vec<PolicyAncestorStatus>,
}

/// How a policy stands with one ancestor.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PolicyAncestorStatus {
    /// The ancestor: a Service that the policy targets, or a Gateway of an HTTPRoute that it targets.
    pub ancestor_ref: AncestorRef,
    /// Who wrote this, e.g. trimtab.dev/gateway-controller.
    #[schemars(length(min = 1, max = 253))]
    pub controller_name: String,
    /// Accepted, and why not.
    #[serde(default)]
    #[schemars(
        length(max = 8),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"])
    )]
    pub conditions: Vec<Condition>,
}

/// What a policy bears on.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "camelCase")]
pub struct AncestorRef {
    /// API group; "" is the core group.
    #[serde(default)]
    pub group: String,
    /// Kind, e.g. Service.
    pub kind: String,
    /// Its namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// The port of the Service that is meant, by name; all of them without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub section_name: Option<String>,
}
