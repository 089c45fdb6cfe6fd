//! What is to be said of each object in its status: conditions with the Gateway API's reasons. Pure, as the rest of the translation: what
//! is written, when, and by whom is decided in `provider::kubernetes`.

use std::collections::BTreeMap;

use gateway_api::{gatewayclasses::GatewayClass, gateways::Gateway, httproutes::HttpRouteParentRefs};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{exposure::Exposed, name_of, namespace_of};
use crate::{
    policy::TargetRef,
    policy_status::AncestorRef,
    problem::{Finding, Report},
};

/// Reasons, by the names that the Gateway API gives them.
pub mod reason {
    /// All is well.
    pub const ACCEPTED: &str = "Accepted";
    /// The data plane has it.
    pub const PROGRAMMED: &str = "Programmed";
    /// Every reference leads somewhere.
    pub const RESOLVED_REFS: &str = "ResolvedRefs";
    /// The listener conflicts with none.
    pub const NO_CONFLICTS: &str = "NoConflicts";
    /// Something else is wrong with it.
    pub const INVALID: &str = "Invalid";
    /// Some listeners cannot be served.
    pub const LISTENERS_NOT_VALID: &str = "ListenersNotValid";
    /// The GatewayClass asks for parameters.
    pub const INVALID_PARAMETERS: &str = "InvalidParameters";
    /// An address of a type that cannot be had.
    pub const UNSUPPORTED_ADDRESS: &str = "UnsupportedAddress";
    /// An address that cannot be had.
    pub const ADDRESS_NOT_USABLE: &str = "AddressNotUsable";
    /// Nobody said where the proxies are reached.
    pub const ADDRESS_NOT_ASSIGNED: &str = "AddressNotAssigned";
    /// A protocol that is not served.
    pub const UNSUPPORTED_PROTOCOL: &str = "UnsupportedProtocol";
    /// Another listener has the port and the host name.
    pub const HOSTNAME_CONFLICT: &str = "HostnameConflict";
    /// Another listener has the port with another protocol.
    pub const PROTOCOL_CONFLICT: &str = "ProtocolConflict";
    /// Another Gateway has the address and port.
    pub const PORT_UNAVAILABLE: &str = "PortUnavailable";
    /// A kind of route that is not served.
    pub const INVALID_ROUTE_KINDS: &str = "InvalidRouteKinds";
    /// A certificate that is not there, or is none.
    pub const INVALID_CERTIFICATE_REF: &str = "InvalidCertificateRef";
    /// An authority's certificate that is not there, or is none.
    pub const INVALID_CA_CERTIFICATE_REF: &str = "InvalidCACertificateRef";
    /// A reference to something that can hold none.
    pub const INVALID_CA_CERTIFICATE_KIND: &str = "InvalidCACertificateKind";
    /// No authority is left.
    pub const NO_VALID_CA_CERTIFICATE: &str = "NoValidCACertificate";
    /// No ReferenceGrant allows it.
    pub const REF_NOT_PERMITTED: &str = "RefNotPermitted";
    /// No such backend.
    pub const BACKEND_NOT_FOUND: &str = "BackendNotFound";
    /// A backend of a kind that cannot be one.
    pub const INVALID_KIND: &str = "InvalidKind";
    /// No such listener.
    pub const NO_MATCHING_PARENT: &str = "NoMatchingParent";
    /// The listener does not let it.
    pub const NOT_ALLOWED_BY_LISTENERS: &str = "NotAllowedByListeners";
    /// No host name in common.
    pub const NO_MATCHING_LISTENER_HOSTNAME: &str = "NoMatchingListenerHostname";
    /// A value that is not supported.
    pub const UNSUPPORTED_VALUE: &str = "UnsupportedValue";
    /// Another policy was there first.
    pub const CONFLICTED: &str = "Conflicted";
    /// The target of the policy is not there.
    pub const TARGET_NOT_FOUND: &str = "TargetNotFound";
}

/// Most addresses in the status of a Gateway.
const ADDRESSES_MAX: usize = 16;

/// What Trimtab supports beyond doubt, as the conformance suite names it, sorted.
pub const SUPPORTED_FEATURES: [&str; 24] = [
    "BackendTLSPolicy",
    "GRPCRoute",
    "Gateway",
    "GatewayBackendClientCertificate",
    "GatewayFrontendClientCertificateValidation",
    "GatewayFrontendClientCertificateValidationInsecureFallback",
    "HTTPRoute",
    "HTTPRouteBackendProtocolH2C",
    "HTTPRouteBackendRequestHeaderModification",
    "HTTPRouteBackendTimeout",
    "HTTPRouteHostRewrite",
    "HTTPRouteMethodMatching",
    "HTTPRouteNamedRouteRule",
    "HTTPRouteParentRefPort",
    "HTTPRoutePathRedirect",
    "HTTPRoutePathRewrite",
    "HTTPRoutePortRedirect",
    "HTTPRouteQueryParamMatching",
    "HTTPRouteRequestMirror",
    "HTTPRouteRequestPercentageMirror",
    "HTTPRouteRequestTimeout",
    "HTTPRouteResponseHeaderModification",
    "HTTPRouteSchemeRedirect",
    "ReferenceGrant",
];

/// One condition, but for when it last changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// Its type, e.g. Accepted.
    pub kind: &'static str,
    /// Whether it holds.
    pub holds: bool,
    /// Why.
    pub reason: &'static str,
    /// The same for people.
    pub message: String,
}

impl Condition {
    /// It holds.
    pub fn yes(kind: &'static str, reason: &'static str) -> Self {
        Self { kind, holds: true, reason, message: String::new() }
    }

    /// It does not hold.
    pub fn no(kind: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        Self { kind, holds: false, reason, message: message.into() }
    }

    /// Whether it tells of something that a person should see to. Conflicted and PartiallyInvalid are good when they do not hold.
    pub fn is_bad(&self) -> bool {
        self.holds == matches!(self.kind, "Conflicted" | "PartiallyInvalid")
    }
}

/// Which object, and which version of it was looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Subject {
    /// Namespace; empty for an object without one.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// `metadata.generation`.
    pub generation: Option<i64>,
}

impl Subject {
    fn of(metadata: &ObjectMeta) -> Self {
        Self {
            namespace: metadata.namespace.clone().unwrap_or_default(),
            name: name_of(metadata).to_owned(),
            generation: metadata.generation,
        }
    }
}

/// The status of a GatewayClass of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClassStatus {
    /// Which.
    pub subject: Subject,
    /// Accepted.
    pub conditions: Vec<Condition>,
}

/// The status of a Gateway of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayStatus {
    /// Which.
    pub subject: Subject,
    /// Accepted, Programmed.
    pub conditions: Vec<Condition>,
    /// Where clients reach it: IP addresses, or host names.
    pub addresses: Vec<String>,
    /// In the order of the Gateway.
    pub listeners: Vec<ListenerStatus>,
}

/// The status of one listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerStatus {
    /// Its name.
    pub name: String,
    /// Routes that are attached to it.
    pub attached_routes: i32,
    /// Kinds of routes that it takes.
    pub supported_kinds: Vec<&'static str>,
    /// Accepted, Programmed, ResolvedRefs, Conflicted.
    pub conditions: Vec<Condition>,
}

/// The status of a route.
#[derive(Debug, Clone, PartialEq)]
pub struct RouteStatus {
    /// HTTPRoute or GRPCRoute.
    pub kind: &'static str,
    /// Which.
    pub subject: Subject,
    /// One for each parent that is ours, in the order of the route.
    pub parents: Vec<ParentStatus>,
}

/// How a route stands with one parent.
#[derive(Debug, Clone, PartialEq)]
pub struct ParentStatus {
    /// The parent, as the route says it.
    pub parent: HttpRouteParentRefs,
    /// Accepted, ResolvedRefs.
    pub conditions: Vec<Condition>,
}

/// The status of a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyStatus {
    /// Which.
    pub subject: Subject,
    /// One for each target, in the order of the policy.
    pub ancestors: Vec<(AncestorRef, Condition)>,
}

/// The status of an Ingress of ours. It has no conditions of its own: what is wrong is counted, and told in an Event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IngressStatus {
    /// Which.
    pub subject: Subject,
    /// Where clients reach it: IP addresses, or host names.
    pub addresses: Vec<String>,
    /// Whether all of it is served.
    pub accepted: Condition,
}

/// The status of a BackendTLSPolicy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsPolicyStatus {
    /// Which.
    pub subject: Subject,
    /// One for each Gateway of ours that it bears on: Accepted, ResolvedRefs.
    pub ancestors: Vec<(AncestorRef, Vec<Condition>)>,
}

impl TlsPolicyStatus {
    pub(super) fn new(metadata: &ObjectMeta, ancestors: Vec<(AncestorRef, Vec<Condition>)>) -> Self {
        Self { subject: Subject::of(metadata), ancestors }
    }
}

/// Everything that is to be said.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Statuses {
    /// GatewayClasses of ours.
    pub classes: Vec<ClassStatus>,
    /// Gateways of ours.
    pub gateways: Vec<GatewayStatus>,
    /// HTTPRoutes and GRPCRoutes with a parent of ours.
    pub routes: Vec<RouteStatus>,
    /// Ingresses of ours.
    pub ingresses: Vec<IngressStatus>,
    /// All policies.
    pub policies: Vec<PolicyStatus>,
    /// BackendTLSPolicies that bear on a Gateway of ours.
    pub tls_policies: Vec<TlsPolicyStatus>,
}

impl Statuses {
    /// The Service that was to be made for a Gateway, of this namespace and name, is refused: it is reached nowhere that it is told of.
    pub fn refuse_service(&mut self, (namespace, name): &(String, String), why: &str) {
        let of =
            |gateway: &&mut GatewayStatus| gateway.subject.namespace == *namespace && gateway.subject.name == *name;
        for gateway in self.gateways.iter_mut().filter(of) {
            for condition in gateway.conditions.iter_mut().filter(|condition| condition.kind == "Programmed") {
                // What keeps it from being accepted at all goes before that.
                if condition.reason != reason::INVALID {
                    *condition = Condition::no("Programmed", reason::ADDRESS_NOT_USABLE, why.to_owned());
                }
            }
        }
    }

    /// All conditions, with the kind of the object that they are of.
    pub fn conditions(&self) -> impl Iterator<Item = (&'static str, &Condition)> {
        let classes = self.classes.iter().flat_map(|class| &class.conditions);
        let gateways = self.gateways.iter().flat_map(|gateway| {
            gateway.conditions.iter().chain(gateway.listeners.iter().flat_map(|listener| &listener.conditions))
        });
        let routes = self.routes.iter().flat_map(|route| {
            route.parents.iter().flat_map(|parent| &parent.conditions).map(|condition| (route.kind, condition))
        });
        let policies = self.policies.iter().flat_map(|policy| policy.ancestors.iter().map(|(_, condition)| condition));
        let ingresses = self.ingresses.iter().map(|ingress| ("Ingress", &ingress.accepted));
        let tls_policies = self.tls_policies.iter().flat_map(|policy| &policy.ancestors).flat_map(|(_, all)| all);
        classes
            .map(|condition| ("GatewayClass", condition))
            .chain(gateways.map(|condition| ("Gateway", condition)))
            .chain(routes)
            .chain(ingresses)
            .chain(policies.map(|condition| ("BackendTrafficPolicy", condition)))
            .chain(tls_policies.map(|condition| ("BackendTLSPolicy", condition)))
    }
}

/// What a GatewayClass of ours comes to.
pub(super) fn class(class: &GatewayClass) -> ClassStatus {
    let accepted = match &class.spec.parameters_ref {
        None => Condition::yes("Accepted", reason::ACCEPTED),
        Some(_) => Condition::no(
            "Accepted",
            reason::INVALID_PARAMETERS,
            "spec.parametersRef: Trimtab takes no parameters, expected none",
        ),
    };
    ClassStatus { subject: Subject::of(&class.metadata), conditions: vec![accepted] }
}

/// What a Gateway comes to: `served` says for each listener whether the data plane gets it.
pub(super) fn gateway(gateway: &Gateway, report: &Report, served: &[bool], exposed: &Exposed) -> GatewayStatus {
    let listeners: Vec<ListenerStatus> = gateway
        .spec
        .listeners
        .iter()
        .enumerate()
        .map(|(index, listener)| {
            let findings = report.findings_at(&format!("spec.listeners[{index}]"));
            ListenerStatus {
                name: listener.name.clone(),
                attached_routes: 0,
                supported_kinds: supported_kinds(listener),
                conditions: listener_conditions(&findings, served.get(index).copied().unwrap_or(false)),
            }
        })
        .collect();
    // As many as the Gateway API has room for.
    let addresses: Vec<String> = exposed.addresses.iter().take(ADDRESSES_MAX).cloned().collect();
    let (unusable, unsupported): (Vec<_>, Vec<_>) = report
        .findings_at("spec.addresses")
        .into_iter()
        .partition(|finding| finding.reason == Some(reason::ADDRESS_NOT_USABLE));
    let (bad_address, unusable) = (unsupported.first(), unusable.first());
    let valid = served.iter().filter(|served| **served).count();
    let accepted = match bad_address {
        Some(finding) => Condition::no("Accepted", reason::UNSUPPORTED_ADDRESS, finding.to_string()),
        None if valid == 0 => {
            Condition::no("Accepted", reason::LISTENERS_NOT_VALID, "no listener can be served, see their conditions")
        }
        None if valid < served.len() => Condition {
            kind: "Accepted",
            holds: true,
            reason: reason::LISTENERS_NOT_VALID,
            message: "some listeners cannot be served, see their conditions".to_owned(),
        },
        None => Condition::yes("Accepted", reason::ACCEPTED),
    };
    let programmed = if !accepted.holds {
        Condition::no("Programmed", reason::INVALID, "the Gateway is not accepted")
    } else if let Some(finding) = unusable {
        Condition::no("Programmed", reason::ADDRESS_NOT_USABLE, finding.to_string())
    } else if addresses.is_empty() {
        Condition::no("Programmed", reason::ADDRESS_NOT_ASSIGNED, exposed.pending)
    } else {
        Condition::yes("Programmed", reason::PROGRAMMED)
    };
    GatewayStatus {
        subject: Subject::of(&gateway.metadata),
        conditions: vec![accepted, programmed],
        addresses,
        listeners,
    }
}

/// The kinds of routes that a listener takes, of those that it asks for.
fn supported_kinds(listener: &gateway_api::gateways::GatewayListeners) -> Vec<&'static str> {
    let takes_http = matches!(listener.protocol.as_str(), "HTTP" | "HTTPS");
    let asked = listener.allowed_routes.as_ref().and_then(|allowed| allowed.kinds.as_deref()).unwrap_or_default();
    let ours = |group: &Option<String>| group.as_deref().is_none_or(|group| group == super::GROUP);
    let wanted = |kind: &&str| asked.is_empty() || asked.iter().any(|one| one.kind == **kind && ours(&one.group));
    if takes_http { super::listeners::ROUTE_KINDS.into_iter().filter(wanted).collect() } else { Vec::new() }
}

fn listener_conditions(findings: &[&Finding], served: bool) -> Vec<Condition> {
    let first = |wanted: fn(Option<&'static str>) -> bool| findings.iter().find(|finding| wanted(finding.reason));
    let of_conflict =
        |why: Option<&'static str>| matches!(why, Some(reason::HOSTNAME_CONFLICT | reason::PROTOCOL_CONFLICT));
    let of_refs = |why: Option<&'static str>| {
        matches!(
            why,
            Some(
                reason::INVALID_CERTIFICATE_REF
                    | reason::INVALID_CA_CERTIFICATE_REF
                    | reason::INVALID_CA_CERTIFICATE_KIND
                    | reason::REF_NOT_PERMITTED
                    | reason::INVALID_ROUTE_KINDS
            )
        )
    };
    let accepted = match findings.iter().find(|finding| !of_conflict(finding.reason) && !of_refs(finding.reason)) {
        Some(finding) => Condition::no("Accepted", finding.reason.unwrap_or(reason::INVALID), finding.to_string()),
        None => match first(of_conflict) {
            Some(finding) => Condition::no("Accepted", finding.reason.unwrap_or(reason::INVALID), finding.to_string()),
            None => Condition::yes("Accepted", reason::ACCEPTED),
        },
    };
    let conflicted = match first(of_conflict) {
        Some(finding) => Condition {
            kind: "Conflicted",
            holds: true,
            reason: finding.reason.unwrap_or(reason::HOSTNAME_CONFLICT),
            message: finding.to_string(),
        },
        None => Condition { kind: "Conflicted", holds: false, reason: reason::NO_CONFLICTS, message: String::new() },
    };
    let resolved = match first(of_refs) {
        Some(finding) => Condition::no("ResolvedRefs", finding.reason.unwrap_or(reason::INVALID), finding.to_string()),
        None => Condition::yes("ResolvedRefs", reason::RESOLVED_REFS),
    };
    let programmed = match served {
        true => Condition::yes("Programmed", reason::PROGRAMMED),
        false => Condition::no("Programmed", reason::INVALID, "the listener is not served"),
    };
    vec![accepted, programmed, resolved, conflicted]
}

/// What a route comes to with each of its parents. `parents` holds why one does not take the route.
pub(super) fn route(
    kind: &'static str,
    metadata: &ObjectMeta,
    parents: Vec<(HttpRouteParentRefs, Result<(), Finding>)>,
    rules: usize,
    report: &Report,
) -> RouteStatus {
    let resolved = match report.findings_at("spec.rules").into_iter().find(|finding| is_of_backend(finding)) {
        Some(finding) => Condition::no("ResolvedRefs", finding.reason.unwrap_or(reason::INVALID), finding.to_string()),
        None => Condition::yes("ResolvedRefs", reason::RESOLVED_REFS),
    };
    // What is wrong with a rule by itself, not with what it refers to.
    let faulty: BTreeMap<usize, &Finding> = (0..rules)
        .filter_map(|index| {
            let findings = report.findings_at(&format!("spec.rules[{index}]"));
            Some((index, findings.into_iter().find(|finding| !is_of_backend(finding))?))
        })
        .collect();
    let rules_hold = match faulty.values().next() {
        Some(finding) if faulty.len() == rules => {
            Condition::no("Accepted", reason::UNSUPPORTED_VALUE, finding.to_string())
        }
        _ => Condition::yes("Accepted", reason::ACCEPTED),
    };
    let partly = (rules_hold.holds).then(|| faulty.values().next()).flatten().map(|finding| Condition {
        kind: "PartiallyInvalid",
        holds: true,
        reason: reason::UNSUPPORTED_VALUE,
        message: format!("Dropped Rule: {finding}"),
    });
    let parents = parents
        .into_iter()
        .map(|(parent, taken)| {
            let mut conditions = match taken {
                Ok(()) => vec![rules_hold.clone()],
                Err(finding) => vec![Condition::no(
                    "Accepted",
                    finding.reason.unwrap_or(reason::NO_MATCHING_PARENT),
                    finding.to_string(),
                )],
            };
            conditions.push(resolved.clone());
            conditions.extend(partly.clone());
            ParentStatus { parent, conditions }
        })
        .collect();
    RouteStatus { kind, subject: Subject::of(metadata), parents }
}

fn is_of_backend(finding: &Finding) -> bool {
    matches!(finding.reason, Some(reason::BACKEND_NOT_FOUND | reason::INVALID_KIND | reason::REF_NOT_PERMITTED))
}

/// What an Ingress comes to.
pub(super) fn ingress(metadata: &ObjectMeta, report: &Report, proxies: &[String]) -> IngressStatus {
    let accepted = match report.findings().next() {
        Some(finding) => Condition::no("Accepted", finding.reason.unwrap_or(reason::INVALID), finding.to_string()),
        None => Condition::yes("Accepted", reason::ACCEPTED),
    };
    IngressStatus { subject: Subject::of(metadata), addresses: proxies.to_vec(), accepted }
}

/// What a policy comes to with each of its targets.
pub(super) fn policy(metadata: &ObjectMeta, ancestors: Vec<(AncestorRef, Condition)>) -> PolicyStatus {
    PolicyStatus { subject: Subject::of(metadata), ancestors }
}

/// What a target of a policy names.
pub(super) fn ancestor(metadata: &ObjectMeta, target: &TargetRef) -> AncestorRef {
    AncestorRef {
        group: target.group.clone().unwrap_or_default(),
        kind: target.kind.clone().unwrap_or_else(|| "Service".to_owned()),
        namespace: Some(namespace_of(metadata).to_owned()),
        name: target.name.clone(),
        section_name: target.section_name.clone().filter(|section| !section.is_empty()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn supported_features_are_sorted_as_the_gateway_api_wants_them() {
        assert!(SUPPORTED_FEATURES.is_sorted());
    }

    #[test]
    fn conditions_that_are_good_when_they_do_not_hold_are_told_apart() {
        assert!(Condition::no("Accepted", reason::INVALID, "").is_bad());
        assert!(!Condition::no("Conflicted", reason::NO_CONFLICTS, "").is_bad());
        assert!(Condition { holds: true, ..Condition::no("PartiallyInvalid", reason::UNSUPPORTED_VALUE, "") }.is_bad());
    }
}
