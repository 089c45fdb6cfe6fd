//! GRPCRoutes: what they ask for, said as an HTTPRoute. A call is a request for `/service/method` (gRPC over HTTP/2), filters and backendRefs are a part of
//! those of HTTPRoutes, and everything that is done to a request is the same. What is of GRPCRoutes alone is here: how methods are matched, and that one
//! host name of a listener belongs to routes of one kind.

use std::collections::{BTreeSet, HashMap};

use gateway_api::{
    grpcroutes::{GrpcRoute, GrpcRouteRulesMatchesMethod, GrpcRouteRulesMatchesMethodType as MethodType},
    httproutes::{HttpRoute, HttpRouteRulesMatchesPath, HttpRouteSpec},
};
use serde_json::{Value, json};

use super::{
    hostname,
    routes::{self, RouteKind},
    status::reason,
};
use crate::problem::{Finding, Report};

/// How the path begins of a match by the method alone: as no path does.
const METHOD_ALONE: &str = "*/";

/// The method that the path of a GRPCRoute stands for, where it is matched alone.
pub(super) fn method_alone(path: &HttpRouteRulesMatchesPath) -> Option<&str> {
    path.value.as_deref()?.strip_prefix(METHOD_ALONE)
}

/// The HTTPRoute that says the same.
pub fn as_http(route: &GrpcRoute) -> HttpRoute {
    let mut spec = serde_json::to_value(&route.spec).unwrap_or_default();
    let rules = route.spec.rules.iter().flatten().zip(spec["rules"].as_array_mut().into_iter().flatten());
    for (rule, value) in rules {
        let matches = rule.matches.iter().flatten().zip(value["matches"].as_array_mut().into_iter().flatten());
        for (one, value) in matches {
            if let Some(value) = value.as_object_mut() {
                value.remove("method");
                value.extend(one.method.as_ref().and_then(path).map(|path| ("path".to_owned(), path)));
            }
        }
    }
    HttpRoute {
        metadata: route.metadata.clone(),
        // All that a GRPCRoute can say beside its matches an HTTPRoute can.
        spec: serde_json::from_value::<HttpRouteSpec>(spec).unwrap_or_default(),
        status: None,
    }
}

/// Checks what can be told from the GRPCRoute alone.
pub fn check(route: &GrpcRoute, report: &mut Report) {
    routes::check(&as_http(route), RouteKind::Grpc, report);
    report.rename(as_said);
}

/// The field of a GRPCRoute that a field of the HTTPRoute stands for.
pub(super) fn as_said(field: &str) -> String {
    match field.strip_suffix(".path.value") {
        Some(field) => format!("{field}.method"),
        None => field.to_owned(),
    }
}

/// The path of a method's calls; `None`: all.
fn path(method: &GrpcRouteRulesMatchesMethod) -> Option<Value> {
    let said = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let (service, method, kind) = (said(&method.service), said(&method.method), method.r#type.as_ref());
    let path = |kind: &str, value: String| Some(json!({ "type": kind, "value": value }));
    match (service, method, kind.unwrap_or(&MethodType::Exact)) {
        (None, None, _) => None,
        (Some(service), Some(method), MethodType::Exact) => path("Exact", format!("/{service}/{method}")),
        (Some(service), None, MethodType::Exact) => path("PathPrefix", format!("/{service}")),
        (None, Some(method), MethodType::Exact) => path("Exact", format!("{METHOD_ALONE}{method}")),
        (service, method, MethodType::RegularExpression) => {
            let any = || "[^/]+".to_owned();
            path(
                "RegularExpression",
                format!("/(?:{})/(?:{})", service.unwrap_or_else(any), method.unwrap_or_else(any)),
            )
        }
    }
}

/// Which host names of which listeners routes have: an HTTPRoute and a GRPCRoute cannot have the same one. The older has it.
#[derive(Debug, Default)]
pub(super) struct Hosts {
    by_listener: HashMap<String, Vec<Holder>>,
}

#[derive(Debug)]
struct Holder {
    kind: RouteKind,
    name: String,
    /// Empty: all.
    hostnames: Vec<String>,
}

impl Hosts {
    /// A route asks for its host names (none: all) on listeners, and gets those listeners on which no route of the other kind has one of them. Routes
    /// ask in the order of their age.
    ///
    /// # Errors
    /// There is none left.
    pub fn take(
        &mut self,
        (kind, name): (RouteKind, &str),
        hostnames: &[String],
        mut listeners: BTreeSet<String>,
    ) -> Result<BTreeSet<String>, Finding> {
        let mut clash = None;
        listeners.retain(|listener| {
            let holders = self.by_listener.get(listener).into_iter().flatten();
            let other = holders.into_iter().find(|other| other.kind != kind && other.meets(hostnames));
            if let Some(other) = other {
                clash.get_or_insert_with(|| {
                    format!("{} {}, which comes first (by age, then by name)", other.kind.name(), other.name)
                });
            }
            other.is_none()
        });
        if listeners.is_empty()
            && let Some(other) = clash
        {
            let message = format!("{other}, has one of them there: no {} can share it", kind.name());
            return Err(Finding {
                field: "spec.hostnames".to_owned(),
                message,
                reason: Some(reason::HOSTNAME_CONFLICT),
            });
        }
        for listener in &listeners {
            let holder = Holder { kind, name: name.to_owned(), hostnames: hostnames.to_vec() };
            self.by_listener.entry(listener.clone()).or_default().push(holder);
        }
        Ok(listeners)
    }
}

impl Holder {
    fn meets(&self, hostnames: &[String]) -> bool {
        let all = |names: &[String]| names.is_empty();
        all(&self.hostnames)
            || all(hostnames)
            || self.hostnames.iter().any(|own| hostnames.iter().any(|other| hostname::intersect(own, other)))
    }
}
