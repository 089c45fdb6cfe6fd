//! HTTPRoutes, and GRPCRoutes in their form, to route rules. What a rule asks for and Trimtab cannot do yet makes the rule answer 500: never something else than
//! what was asked for.

use std::collections::BTreeSet;

use gateway_api::{
    gateways::{Gateway, GatewayListeners},
    httproutes::{HttpRoute, HttpRouteParentRefs, HttpRouteRules, HttpRouteRulesBackendRefs, HttpRouteRulesTimeouts},
};
use trimtab_proxy::api::v1;

use super::{
    GROUP,
    backends::Resolver,
    filters, grpc, hostname, listeners,
    listeners::Attachable,
    matches, name_of, namespace_of,
    policies::Place,
    status::{self, RouteStatus, reason},
};
use crate::{
    duration::Duration,
    objects::Objects,
    problem::{Finding, ObjectId, Problem, Report},
};

/// Largest weight of a backendRef.
const WEIGHT_MAX: i32 = 1_000_000;

/// A kind of routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteKind {
    /// HTTPRoute.
    Http,
    /// GRPCRoute, as the HTTPRoute that says the same ([`grpc::as_http`]).
    Grpc,
}

impl RouteKind {
    /// What it is called.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Http => "HTTPRoute",
            Self::Grpc => "GRPCRoute",
        }
    }
}

/// Checks what can be told from the route alone.
pub fn check(route: &HttpRoute, kind: RouteKind, report: &mut Report) {
    hostnames(route, report);
    for (index, parent) in route.spec.parent_refs.iter().flatten().enumerate() {
        if parent.port.is_some_and(|port| !(1..=65535).contains(&port)) {
            report.invalid(format!("spec.parentRefs[{index}].port"), "is not a port, expected 1 to 65535");
        }
    }
    for (index, rule) in route.spec.rules.iter().flatten().enumerate() {
        let field = format!("spec.rules[{index}]");
        matches::translate(rule, kind, &field, report);
        filters::of_rule(rule, &field, report, &mut |_, _, _| None);
        timeouts(rule.timeouts.as_ref(), &field, report);
        for (index, backend) in rule.backend_refs.iter().flatten().enumerate() {
            let field = format!("{field}.backendRefs[{index}]");
            weight(backend, &field, report);
            filters::of_backend(rule, backend, &field, report, &mut |_, _, _| None);
            if backend.port.is_some_and(|port| !(1..=65535).contains(&port)) {
                report.invalid(
                    format!("{field}.port"),
                    format!("{} is not a port, expected 1 to 65535", backend.port.unwrap_or_default()),
                );
            }
        }
    }
}

/// Translates all routes that attach to at least one listener.
pub(super) fn translate<'a>(
    objects: &'a Objects,
    attachables: &[Attachable<'_>],
    resolver: &mut Resolver<'a>,
    problems: &mut Vec<Problem>,
) -> (Vec<v1::HttpRoute>, Vec<RouteStatus>) {
    let mut routes = Vec::new();
    let mut statuses = Vec::new();
    let mut hosts = grpc::Hosts::default();
    for (kind, route) in by_age(objects) {
        let said = format!("{}/{}", namespace_of(&route.metadata), name_of(&route.metadata));
        let mut report =
            Report::new(ObjectId::new(kind.name(), namespace_of(&route.metadata), name_of(&route.metadata)));
        let asked = route.spec.hostnames.as_ref().is_some_and(|hostnames| !hostnames.is_empty());
        let hostnames = hostnames(route, &mut report);
        // None of its host names holds: it must not become a route for any host.
        let no_host = asked && hostnames.is_empty();
        let mut parents = attach((kind, route), (!no_host).then_some(&*hostnames), objects, attachables, &mut report);
        // Routes of one kind share host names.
        let contested = !objects.grpc_routes.is_empty();
        for (_, taken) in parents.iter_mut().filter(|_| contested) {
            if let Ok(listeners) = taken {
                *taken = hosts.take((kind, &said), &hostnames, std::mem::take(listeners));
                if let Err(Finding { field, message, .. }) = taken {
                    report.refused(reason::HOSTNAME_CONFLICT, field.clone(), message.clone());
                }
            }
        }
        let attached: BTreeSet<String> =
            parents.iter().filter_map(|(_, taken)| taken.as_ref().ok()).flatten().cloned().collect();
        if !parents.is_empty() {
            // Whether its references lead anywhere is said of a route that attaches to nothing as well.
            let rules = rules((kind, route), resolver, !attached.is_empty(), &mut report);
            if kind == RouteKind::Grpc {
                report.rename(grpc::as_said);
            }
            let parents = parents.into_iter().map(|(parent, taken)| (parent.clone(), taken.map(|_| ()))).collect();
            let count = route.spec.rules.as_deref().unwrap_or_default().len();
            statuses.push(status::route(kind.name(), &route.metadata, parents, count, &report));
            if attached.is_empty() {
                super::close(report, objects, problems);
                continue;
            }
            routes.push(v1::HttpRoute {
                name: match kind {
                    RouteKind::Http => said,
                    RouteKind::Grpc => format!("grpc:{said}"),
                },
                listeners: attached.into_iter().collect(),
                hostnames,
                rules,
                created_at_s: super::created_at_s(&route.metadata),
                wildcards_of_one_label: false,
            });
        }
        super::close(report, objects, problems);
    }
    (routes, statuses)
}

/// All routes; where two claim the same thing, the older has it.
fn by_age(objects: &Objects) -> Vec<(RouteKind, &HttpRoute)> {
    let http = objects.http_routes.iter().map(|route| (RouteKind::Http, route));
    let grpc = objects.grpc_routes.iter().map(|route| (RouteKind::Grpc, route));
    let mut all: Vec<_> = http.chain(grpc).collect();
    // Routes of one kind share what they claim: without others, their order does not matter.
    if !objects.grpc_routes.is_empty() {
        all.sort_by_key(|(_, route)| super::age_and_name(&route.metadata));
    }
    all
}

fn hostnames(route: &HttpRoute, report: &mut Report) -> Vec<String> {
    let read = |(index, text): (usize, &String)| hostname::read(text, &format!("spec.hostnames[{index}]"), report);
    route.spec.hostnames.iter().flatten().enumerate().filter_map(read).collect()
}

/// The parents that are ours, each with the data plane's listeners that the route attaches to there, or why it does to none. `hostnames`:
/// those that hold; `None` if none does.
fn attach<'r>(
    (kind, route): (RouteKind, &'r HttpRoute),
    hostnames: Option<&[String]>,
    objects: &Objects,
    attachables: &[Attachable<'_>],
    report: &mut Report,
) -> Vec<(&'r HttpRouteParentRefs, Result<BTreeSet<String>, Finding>)> {
    let mut outcomes = Vec::new();
    let parents = route.spec.parent_refs.as_deref().unwrap_or_default();
    if parents.is_empty() {
        report.unresolved("spec.parentRefs", "is missing, expected a Gateway: the route is attached to nothing");
    }
    let ours = listeners::ours(objects);
    let namespace = namespace_of(&route.metadata);
    for (index, parent) in parents.iter().enumerate() {
        let field = format!("spec.parentRefs[{index}]");
        let Some(gateway) = parent_gateway(parent, namespace, objects, &field, report) else { continue };
        if !ours.iter().any(|ours| std::ptr::eq(*ours, gateway)) {
            continue;
        }
        let taken = attach_to((kind, route), parent, gateway, &field, hostnames, objects, attachables);
        if let Err(Finding { field, message, reason }) = &taken {
            report.refused(reason.unwrap_or(reason::NO_MATCHING_PARENT), field, message);
        }
        outcomes.push((parent, taken));
    }
    outcomes
}

/// The data plane's listeners of one Gateway that a route attaches to.
fn attach_to(
    (kind, route): (RouteKind, &HttpRoute),
    parent: &HttpRouteParentRefs,
    gateway: &Gateway,
    field: &str,
    hostnames: Option<&[String]>,
    objects: &Objects,
    attachables: &[Attachable<'_>],
) -> Result<BTreeSet<String>, Finding> {
    let refused =
        |reason, field: &str, message| Err(Finding { field: field.to_owned(), message, reason: Some(reason) });
    let exists = gateway.spec.listeners.iter().any(|listener| names(parent, listener));
    let selected: Vec<_> = attachables
        .iter()
        .filter(|attachable| std::ptr::eq(attachable.gateway, gateway) && names(parent, attachable.spec))
        .collect();
    if selected.is_empty() {
        let message = match exists {
            true => format!("{} of Gateway {} is served", no_listener(parent), parent.name),
            false => format!("{} of Gateway {} is there", no_listener(parent), parent.name),
        };
        return refused(reason::NO_MATCHING_PARENT, field, message);
    }
    let namespace = namespace_of(&route.metadata);
    let allowed: Vec<_> = selected
        .into_iter()
        .filter(|attachable| listeners::allows(attachable, kind.name(), namespace, objects))
        .collect();
    if allowed.is_empty() {
        let message = format!("allowedRoutes of Gateway {} does not allow this route", parent.name);
        return refused(reason::NOT_ALLOWED_BY_LISTENERS, field, message);
    }
    let meets = |listener: &String| {
        hostnames.is_some_and(|hostnames| {
            hostnames.is_empty() || hostnames.iter().any(|hostname| hostname::intersect(listener, hostname))
        })
    };
    let attached: BTreeSet<String> = allowed
        .into_iter()
        .filter(|attachable| match &attachable.hostname {
            Some(listener) => meets(listener),
            None => hostnames.is_some(),
        })
        .flat_map(|attachable| attachable.names.iter().cloned())
        .collect();
    if attached.is_empty() {
        let message = format!("none of them is a host that a listener of Gateway {} accepts", parent.name);
        return refused(reason::NO_MATCHING_LISTENER_HOSTNAME, "spec.hostnames", message);
    }
    Ok(attached)
}

fn no_listener(parent: &HttpRouteParentRefs) -> String {
    match (&parent.section_name, parent.port) {
        (Some(section), Some(port)) => format!("no listener \"{section}\" on port {port}"),
        (Some(section), None) => format!("no listener \"{section}\""),
        (None, Some(port)) => format!("no listener on port {port}"),
        (None, None) => "no listener".to_owned(),
    }
}

fn parent_gateway<'a>(
    parent: &HttpRouteParentRefs,
    namespace: &str,
    objects: &'a Objects,
    field: &str,
    report: &mut Report,
) -> Option<&'a Gateway> {
    let kind = parent.kind.as_deref().unwrap_or("Gateway");
    let group = parent.group.as_deref().unwrap_or(GROUP);
    if (group, kind) != (GROUP, "Gateway") {
        report.unresolved(format!("{field}.kind"), format!("{kind} is not supported, expected Gateway"));
        return None;
    }
    let namespace = parent.namespace.as_deref().unwrap_or(namespace);
    let found = objects
        .gateways
        .iter()
        .find(|gateway| namespace_of(&gateway.metadata) == namespace && name_of(&gateway.metadata) == parent.name);
    if found.is_none() {
        report.unresolved(format!("{field}.name"), format!("there is no Gateway {namespace}/{}", parent.name));
    }
    found
}

/// Whether a parentRef means this listener of its Gateway.
fn names(parent: &HttpRouteParentRefs, listener: &GatewayListeners) -> bool {
    parent.section_name.as_ref().is_none_or(|section| *section == listener.name)
        && parent.port.is_none_or(|port| port == listener.port)
}

/// The rules. Backends of a route that is not `attached` are looked up, but not kept for the data plane.
fn rules<'a>(
    (kind, route): (RouteKind, &'a HttpRoute),
    resolver: &mut Resolver<'a>,
    attached: bool,
    report: &mut Report,
) -> Vec<v1::RouteRule> {
    resolver.keep(attached);
    let rules = route.spec.rules.as_deref().unwrap_or_default();
    if rules.is_empty() {
        report.unresolved("spec.rules", "is missing: requests are answered 500");
        return vec![v1::RouteRule::default()];
    }
    let namespace = namespace_of(&route.metadata);
    rules
        .iter()
        .enumerate()
        .filter_map(|(index, rule)| {
            let place = Place { namespace, route: name_of(&route.metadata), rule: rule.name.as_deref() };
            // Policies are for HTTPRoutes.
            resolver.refer_from(kind, Some(place).filter(|_| kind == RouteKind::Http));
            translate_rule(rule, kind, index, namespace, resolver, report)
        })
        .collect()
}

/// One rule; `None` where it cannot even be said which requests it is for.
fn translate_rule(
    rule: &HttpRouteRules,
    kind: RouteKind,
    index: usize,
    namespace: &str,
    resolver: &mut Resolver<'_>,
    report: &mut Report,
) -> Option<v1::RouteRule> {
    let field = format!("spec.rules[{index}]");
    let matches = matches::translate(rule, kind, &field, report);
    let (request, backend_request) = timeouts(rule.timeouts.as_ref(), &field, report);
    let filters = filters::of_rule(rule, &field, report, &mut |reference, field, report| {
        resolver.resolve(reference, namespace, field, report)
    });
    let redirects = filters.iter().flatten().any(|filter| matches!(filter.kind, Some(v1::filter::Kind::Redirect(_))));
    let backends = match filters {
        Some(_) if redirects && rule.backend_refs.as_ref().is_none_or(Vec::is_empty) => Vec::new(),
        Some(_) => backends(rule, &field, namespace, resolver, report),
        None => Vec::new(),
    };
    let named = backends.iter().map(|weighted| weighted.backend.as_str());
    let backend_request = backend_request.or_else(|| resolver.request_timeout_ms(named));
    Some(v1::RouteRule {
        name: rule.name.clone().unwrap_or_else(|| index.to_string()),
        matches: matches?,
        backends,
        request_timeout_ms: request,
        backend_request_timeout_ms: backend_request.filter(|ms| *ms > 0),
        filters: filters.unwrap_or_default(),
    })
}

fn backends(
    rule: &HttpRouteRules,
    field: &str,
    namespace: &str,
    resolver: &mut Resolver<'_>,
    report: &mut Report,
) -> Vec<v1::WeightedBackend> {
    let refs = rule.backend_refs.as_deref().unwrap_or_default();
    if refs.is_empty() {
        report.unresolved(format!("{field}.backendRefs"), "is missing: requests are answered 500");
    }
    let mut backends = Vec::with_capacity(refs.len());
    for (index, reference) in refs.iter().enumerate() {
        let field = format!("{field}.backendRefs[{index}]");
        // A weight that makes no sense must not shift traffic to the others: its share is that of weight 1, answered 500.
        let (weight, holds) = match weight(reference, &field, report) {
            Some(weight) => (weight, true),
            None => (1, false),
        };
        let filters = filters::of_backend(rule, reference, &field, report, &mut |reference, field, report| {
            resolver.resolve(reference, namespace, field, report)
        });
        let supported = holds && filters.is_some();
        let resolved = resolver.resolve(reference, namespace, &field, report);
        let backend = resolved.filter(|_| supported).unwrap_or_default();
        backends.push(v1::WeightedBackend { backend, weight, filters: filters.unwrap_or_default() });
    }
    backends
}

fn weight(reference: &HttpRouteRulesBackendRefs, field: &str, report: &mut Report) -> Option<u32> {
    let weight = reference.weight.unwrap_or(1);
    let holds = (0..=WEIGHT_MAX).contains(&weight);
    if !holds {
        report.invalid(format!("{field}.weight"), format!("{weight} is not a weight, expected 0 to {WEIGHT_MAX}"));
    }
    u32::try_from(weight).ok().filter(|_| holds)
}

/// Milliseconds for the whole request and for the request to the backend. 0 means no limit.
fn timeouts(timeouts: Option<&HttpRouteRulesTimeouts>, field: &str, report: &mut Report) -> (Option<u32>, Option<u32>) {
    let Some(timeouts) = timeouts else { return (None, None) };
    let mut read = |name: &str, text: &Option<String>| -> Option<u32> {
        match text.as_deref()?.parse::<Duration>() {
            Ok(duration) => Some(duration.as_millis_u32()),
            Err(error) => {
                report.invalid(format!("{field}.timeouts.{name}"), error.to_string());
                None
            }
        }
    };
    let request = read("request", &timeouts.request);
    let backend_request = read("backendRequest", &timeouts.backend_request);
    if let (Some(request @ 1..), Some(backend_request)) = (request, backend_request)
        && backend_request > request
    {
        report.invalid(
            format!("{field}.timeouts.backendRequest"),
            "is longer than timeouts.request, expected at most that",
        );
    }
    (request, backend_request)
}

/// An enum of the Gateway API in its own spelling.
pub(super) fn as_text(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(text)) => text,
        _ => String::new(),
    }
}
