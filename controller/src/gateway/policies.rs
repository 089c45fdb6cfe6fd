//! Which policies are for which port of which Service, and for which HTTPRoute. A policy of an HTTPRoute makes the route's backends backends of
//! their own: what it sets goes before what the Service's policy sets, section by section (`retry`, `timeout`, …), as GEP-713 has it for what is
//! more specific. A policy of one rule goes before one of its route.

use std::{borrow::Cow, collections::HashMap};

use gateway_api::httproutes::HttpRoute;
use k8s_openapi::api::core::v1::{Service, ServicePort};

use super::{
    GROUP, listeners, name_of, namespace_of, settings,
    status::{self, Condition, PolicyStatus, reason},
};
use crate::{
    objects::Objects,
    policy::{BackendTrafficPolicy, BackendTrafficPolicySpec, TargetRef},
    policy_status::AncestorRef,
    problem::{Finding, ObjectId, Problem, Report},
};

/// What a policy is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Target<'a> {
    /// Namespace and name of a Service, and the name of a port where it is for that port only.
    Service(&'a str, &'a str, Option<&'a str>),
    /// Namespace and name of an HTTPRoute, and the name of a rule where it is for that rule only.
    Route(&'a str, &'a str, Option<&'a str>),
}

/// A rule of an HTTPRoute, from which backends are referred to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    /// The route's namespace.
    pub namespace: &'a str,
    /// Its name.
    pub route: &'a str,
    /// The rule's name, where it has one.
    pub rule: Option<&'a str>,
}

/// A policy of a route or of one of its rules.
#[derive(Debug, Clone, Copy)]
pub(super) struct OfRoute<'a> {
    /// The policy.
    pub policy: &'a BackendTrafficPolicy,
    /// The same for the whole route, where the policy is for one rule of it.
    whole: Option<&'a BackendTrafficPolicy>,
    place: Place<'a>,
}

impl OfRoute<'_> {
    /// What tells a backend under this policy from the same backend elsewhere: `@namespace/route`, and `#rule` where it is for one rule.
    pub fn suffix(&self) -> String {
        let Place { namespace, route, rule } = self.place;
        match rule {
            Some(rule) => format!("@{namespace}/{route}#{rule}"),
            None => format!("@{namespace}/{route}"),
        }
    }
}

/// The policies that hold, by what they are for.
pub(super) struct Policies<'a> {
    by_target: HashMap<Target<'a>, &'a BackendTrafficPolicy>,
    /// What is to be said of them all.
    pub statuses: Vec<PolicyStatus>,
}

impl<'a> Policies<'a> {
    /// Of two policies for the same target the older wins, then the one whose name sorts first, as the Gateway API says.
    pub fn new(objects: &'a Objects, services: &HashMap<(&str, &str), &Service>, problems: &mut Vec<Problem>) -> Self {
        let mut sorted: Vec<_> = objects.policies.iter().collect();
        sorted.sort_by_key(|policy| super::age_and_name(&policy.metadata));
        let lookup = Lookup { services, routes: Routes::new(objects, &sorted) };
        let mut by_target: HashMap<Target<'a>, &'a BackendTrafficPolicy> = HashMap::new();
        let mut statuses = Vec::with_capacity(sorted.len());
        for policy in sorted {
            let namespace = namespace_of(&policy.metadata);
            let mut report = Report::new(ObjectId::new("BackendTrafficPolicy", namespace, name_of(&policy.metadata)));
            settings::check(policy, &mut report);
            let invalid = report.first_invalid().map(|finding| finding.to_string());
            if invalid.is_some() {
                report.unresolved("spec", "is not applied as long as this is so");
            }
            let mut ancestors: Vec<(AncestorRef, Condition)> = Vec::new();
            for (index, reference) in policy.spec.target_refs.iter().enumerate() {
                let condition = match (&invalid, lookup.target(namespace, reference, index)) {
                    (Some(fault), _) => Condition::no("Accepted", reason::INVALID, fault.clone()),
                    (None, Ok(target)) => match by_target.get(&target) {
                        None => {
                            by_target.insert(target, policy);
                            Condition::yes("Accepted", reason::ACCEPTED)
                        }
                        Some(other) => {
                            let name = name_of(&other.metadata);
                            let message = format!("is already the target of BackendTrafficPolicy {namespace}/{name}");
                            let field = format!("spec.targetRefs[{index}]");
                            let said = format!("{field}: {message}");
                            report.refused(reason::CONFLICTED, field, message);
                            Condition::no("Accepted", reason::CONFLICTED, said)
                        }
                    },
                    (None, Err(Finding { field, message, .. })) => {
                        let said = format!("{field}: {message}");
                        report.refused(reason::TARGET_NOT_FOUND, field, message);
                        Condition::no("Accepted", reason::TARGET_NOT_FOUND, said)
                    }
                };
                for ancestor in lookup.ancestors(&policy.metadata, reference) {
                    match ancestors.iter_mut().find(|(known, _)| *known == ancestor) {
                        // Of two targets with the same ancestor the one that is not in force counts.
                        Some((_, held)) if held.holds => *held = condition.clone(),
                        Some(_) => {}
                        None => ancestors.push((ancestor, condition.clone())),
                    }
                }
            }
            statuses.push(status::policy(&policy.metadata, ancestors));
            super::close(report, objects, problems);
        }
        Policies { by_target, statuses }
    }

    /// The policy of the rule or route that refers to a backend.
    pub fn of_route(&self, place: Place<'a>) -> Option<OfRoute<'a>> {
        let Place { namespace, route, rule } = place;
        let get = |rule| self.by_target.get(&Target::Route(namespace, route, rule)).copied();
        let whole = get(None);
        match rule.and_then(|rule| get(Some(rule))) {
            Some(policy) => Some(OfRoute { policy, whole, place }),
            None => whole.map(|policy| OfRoute { policy, whole: None, place: Place { rule: None, ..place } }),
        }
    }

    /// What is in force for a port of a Service, where it is referred to under a policy of a route or not.
    pub fn of(
        &self,
        service: &Service,
        port: &ServicePort,
        route: Option<OfRoute<'a>>,
    ) -> Option<Cow<'a, BackendTrafficPolicySpec>> {
        let own = self.of_service(service, port).map(|policy| Cow::Borrowed(&policy.spec));
        let Some(route) = route else { return own };
        let outer = match (route.whole, own) {
            (Some(whole), own) => Some(over(&whole.spec, own)),
            (None, own) => own,
        };
        Some(over(&route.policy.spec, outer))
    }

    /// The policy for a port: the one that names the port, else the one for the Service.
    fn of_service(&self, service: &Service, port: &ServicePort) -> Option<&'a BackendTrafficPolicy> {
        let (namespace, name) = (namespace_of(&service.metadata), name_of(&service.metadata));
        let get = |port| self.by_target.get(&Target::Service(namespace, name, port)).copied();
        port.name.as_deref().and_then(|port| get(Some(port))).or_else(|| get(None))
    }
}

/// What `specific` sets, and what `general` sets beside it.
fn over<'a>(
    specific: &'a BackendTrafficPolicySpec,
    general: Option<Cow<'a, BackendTrafficPolicySpec>>,
) -> Cow<'a, BackendTrafficPolicySpec> {
    let Some(general) = general else { return Cow::Borrowed(specific) };
    let fields = |spec: &BackendTrafficPolicySpec| match serde_json::to_value(spec) {
        Ok(serde_json::Value::Object(fields)) => fields,
        _ => serde_json::Map::new(),
    };
    let mut merged = fields(&general);
    merged.extend(fields(specific).into_iter().filter(|(_, section)| !section.is_null()));
    match serde_json::from_value(serde_json::Value::Object(merged)) {
        Ok(merged) => Cow::Owned(merged),
        // Two that hold make one that holds: sections are whole.
        Err(_) => Cow::Borrowed(specific),
    }
}

/// HTTPRoutes that policies may target, with the Gateways of ours that they name.
struct Routes<'a> {
    by_name: HashMap<(&'a str, &'a str), (&'a HttpRoute, Vec<AncestorRef>)>,
}

impl<'a> Routes<'a> {
    fn new(objects: &'a Objects, policies: &[&BackendTrafficPolicy]) -> Self {
        // Most clusters have no such policy: then nothing is looked up.
        let wanted = policies.iter().flat_map(|policy| &policy.spec.target_refs).any(is_route);
        let gateways = if wanted { listeners::ours(objects) } else { Vec::new() };
        let with_gateways = |route: &'a HttpRoute| {
            let namespace = namespace_of(&route.metadata);
            let parents = route.spec.parent_refs.iter().flatten().filter_map(|parent| {
                let of = parent.namespace.as_deref().unwrap_or(namespace);
                let ours = gateways
                    .iter()
                    .any(|one| namespace_of(&one.metadata) == of && name_of(&one.metadata) == parent.name);
                ours.then(|| AncestorRef {
                    group: GROUP.to_owned(),
                    kind: "Gateway".to_owned(),
                    namespace: Some(of.to_owned()),
                    name: parent.name.clone(),
                    section_name: None,
                })
            });
            ((namespace, name_of(&route.metadata)), (route, parents.collect()))
        };
        Self { by_name: objects.http_routes.iter().filter(|_| wanted).map(with_gateways).collect() }
    }
}

struct Lookup<'l, 'a> {
    services: &'l HashMap<(&'l str, &'l str), &'l Service>,
    routes: Routes<'a>,
}

impl<'a> Lookup<'_, 'a> {
    /// What a reference means, or why it means nothing.
    fn target(&self, namespace: &'a str, reference: &'a TargetRef, index: usize) -> Result<Target<'a>, Finding> {
        let section = section(reference);
        let name = reference.name.as_str();
        let fault = |field: &str, message: String| {
            let field = format!("spec.targetRefs[{index}].{field}");
            Err(Finding { field, message, reason: Some(reason::TARGET_NOT_FOUND) })
        };
        if is_route(reference) {
            let Some((route, _)) = self.routes.by_name.get(&(namespace, name)) else {
                return fault("name", format!("there is no HTTPRoute {namespace}/{name}"));
            };
            let mut rules = route.spec.rules.iter().flatten();
            return match section {
                Some(section) if !rules.any(|rule| rule.name.as_deref() == Some(section)) => fault(
                    "sectionName",
                    format!("\"{section}\" is not the name of a rule of HTTPRoute {namespace}/{name}"),
                ),
                section => Ok(Target::Route(namespace, name, section)),
            };
        }
        let Some(service) = self.services.get(&(namespace, name)) else {
            return fault("name", format!("there is no Service {namespace}/{name}"));
        };
        let mut ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
        match section {
            Some(section) if !ports.any(|port| port.name.as_deref() == Some(section)) => {
                fault("sectionName", format!("\"{section}\" is not the name of a port of Service {namespace}/{name}"))
            }
            section => Ok(Target::Service(namespace, name, section)),
        }
    }

    /// What a policy bears on by this reference: a Service, or the Gateways of a route; the route itself where it has none of ours.
    fn ancestors(
        &self,
        policy: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta,
        reference: &TargetRef,
    ) -> Vec<AncestorRef> {
        let namespace = namespace_of(policy);
        let itself = status::ancestor(policy, reference);
        match self.routes.by_name.get(&(namespace, reference.name.as_str())) {
            Some((_, gateways)) if is_route(reference) && !gateways.is_empty() => gateways.clone(),
            _ => vec![itself],
        }
    }
}

fn section(reference: &TargetRef) -> Option<&str> {
    reference.section_name.as_deref().filter(|section| !section.is_empty())
}

/// Whether a reference is to an HTTPRoute.
pub(super) fn is_route(reference: &TargetRef) -> bool {
    reference.kind.as_deref() == Some("HTTPRoute") && reference.group.as_deref() == Some(GROUP)
}

#[cfg(test)]
#[path = "policies_tests.rs"]
mod tests;
