//! Ingresses (networking.k8s.io/v1) to the same listeners and routes that Gateways and HTTPRoutes become. An Ingress names no ports: clients
//! reach it on two that whoever deployed the proxies has chosen, which it may share with Gateways.

use std::collections::{BTreeMap, BTreeSet};

use gateway_api::httproutes::{HttpRouteRulesBackendRefs, HttpRouteRulesMatchesPath, HttpRouteRulesMatchesPathType};
use k8s_openapi::api::networking::v1::{Ingress, IngressBackend, IngressClass};
use trimtab_proxy::api::v1;

use super::{
    backends::Resolver,
    certificates, hostname, listeners,
    listeners::{Attachable, GATEWAY_CLASS, Translated},
    matches, name_of, namespace_of,
    routes::RouteKind,
    status::{self, IngressStatus, reason},
};
use crate::{
    objects::Objects,
    problem::{ObjectId, Problem, Report},
};

/// What an IngressClass of Trimtab's has as its `controller`.
pub const INGRESS_CONTROLLER: &str = "trimtab.dev/ingress-controller";

/// The annotation by which an Ingress named its class before there was a field for it.
pub const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";

/// The annotation of the IngressClass that those Ingresses are of that name none.
pub const DEFAULT_CLASS_ANNOTATION: &str = "ingressclass.kubernetes.io/is-default-class";

/// Where listeners of Ingresses are opened.
const ANY_ADDRESS: &str = "0.0.0.0";

/// The ports of Ingresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IngressPorts {
    /// In clear text.
    pub http: u16,
    /// Over TLS, for hosts that an Ingress has a certificate for.
    pub https: u16,
}

impl Default for IngressPorts {
    fn default() -> Self {
        Self { http: 80, https: 443 }
    }
}

/// Which classes of Ingresses are ours.
#[derive(Debug)]
pub struct Classes<'a> {
    names: BTreeSet<&'a str>,
    /// Whether Ingresses without a class are ours.
    default: bool,
}

impl<'a> Classes<'a> {
    /// Those among all classes of the cluster. Without one of the usual name that name will do, as it does for Gateways.
    pub fn new(all: impl Iterator<Item = &'a IngressClass>) -> Self {
        let mut classes = Self { names: BTreeSet::from([GATEWAY_CLASS]), default: false };
        for class in all {
            let name = name_of(&class.metadata);
            if class.spec.as_ref().and_then(|spec| spec.controller.as_deref()) == Some(INGRESS_CONTROLLER) {
                classes.names.insert(name);
                let annotations = class.metadata.annotations.as_ref();
                let default = annotations.and_then(|all| all.get(DEFAULT_CLASS_ANNOTATION));
                classes.default |= default.is_some_and(|value| value == "true");
            } else {
                // A class of the usual name that names another controller is that one's.
                classes.names.remove(name);
            }
        }
        classes
    }

    /// Whether an Ingress is ours. The field goes before the annotation.
    pub fn take(&self, ingress: &Ingress) -> bool {
        let field = ingress.spec.as_ref().and_then(|spec| spec.ingress_class_name.as_deref());
        let annotation = || ingress.metadata.annotations.as_ref()?.get(CLASS_ANNOTATION).map(String::as_str);
        match field.or_else(annotation) {
            Some(class) => self.names.contains(class),
            None => self.default,
        }
    }
}

/// Names of the Secrets that an Ingress refers to, all in its own namespace.
pub fn secrets(ingress: &Ingress) -> impl Iterator<Item = &str> {
    let tls = ingress.spec.iter().flat_map(|spec| spec.tls.iter().flatten());
    tls.filter_map(|tls| tls.secret_name.as_deref()).filter(|name| !name.is_empty())
}

/// Checks what can be told from the Ingress alone.
pub fn check(ingress: &Ingress, report: &mut Report) {
    read(ingress, report);
}

/// A path of a rule, or the default backend.
struct Path<'a> {
    field: String,
    name: String,
    path: v1::PathMatch,
    backend: &'a IngressBackend,
}

/// The paths of an Ingress by host, lower case; "" stands for every host. What does not hold is reported and left out.
fn read<'a>(ingress: &'a Ingress, report: &mut Report) -> BTreeMap<String, Vec<Path<'a>>> {
    let mut hosts: BTreeMap<String, Vec<Path<'a>>> = BTreeMap::new();
    let Some(spec) = &ingress.spec else {
        report.invalid("spec", "is missing, expected rules or a defaultBackend");
        return hosts;
    };
    for (index, rule) in spec.rules.iter().flatten().enumerate() {
        let field = format!("spec.rules[{index}]");
        let host = match rule.host.as_deref().unwrap_or_default() {
            "" => String::new(),
            text => match hostname::read(text, &format!("{field}.host"), report) {
                Some(host) => host,
                None => continue,
            },
        };
        let paths = hosts.entry(host).or_default();
        for (position, path) in rule.http.iter().flat_map(|http| &http.paths).enumerate() {
            let field = format!("{field}.http.paths[{position}]");
            let kind = match path.path_type.as_str() {
                "Exact" => HttpRouteRulesMatchesPathType::Exact,
                // What an implementation takes it for is up to it.
                "Prefix" | "ImplementationSpecific" => HttpRouteRulesMatchesPathType::PathPrefix,
                other => {
                    report.invalid(
                        format!("{field}.pathType"),
                        format!("\"{other}\" is not a type, expected Exact, Prefix or ImplementationSpecific"),
                    );
                    continue;
                }
            };
            let value = path.path.clone().filter(|path| !path.is_empty());
            let said = HttpRouteRulesMatchesPath { r#type: Some(kind), value };
            let Some(made) = matches::translate_path(&said, &field, report) else { continue };
            let (name, backend) = (format!("{index}.{position}"), &path.backend);
            paths.push(Path { field: format!("{field}.backend"), name, path: made, backend });
        }
    }
    if let Some(backend) = &spec.default_backend {
        // For every host, and for what the rules of its own hosts leave: last, so that a rule for "/" comes before it.
        hosts.entry(String::new()).or_default();
        for paths in hosts.values_mut() {
            let (field, name) = ("spec.defaultBackend".to_owned(), "default".to_owned());
            let path = v1::PathMatch { kind: v1::path_match::Kind::Prefix as i32, value: "/".to_owned() };
            paths.push(Path { field, name, path, backend });
        }
    }
    if hosts.is_empty() && spec.rules.iter().flatten().next().is_none() {
        report.invalid("spec.rules", "is empty and there is no defaultBackend, expected one of them");
    }
    hosts
}

/// Listeners that Ingresses may use, and those that they have of their own.
struct Places<'p, 'a> {
    translated: &'p mut Translated<'a>,
    objects: &'a Objects,
}

/// Translates all Ingresses of our classes. Their listeners are added to those of Gateways.
pub(super) fn translate<'a>(
    objects: &'a Objects,
    translated: &mut Translated<'a>,
    resolver: &mut Resolver<'_>,
    problems: &mut Vec<Problem>,
) -> (Vec<v1::HttpRoute>, Vec<IngressStatus>) {
    let classes = Classes::new(objects.ingress_classes.iter());
    let mut ours: Vec<&Ingress> = objects.ingresses.iter().filter(|ingress| classes.take(ingress)).collect();
    // The first to name a host says which certificate it has.
    ours.sort_by_key(|ingress| super::age_and_name(&ingress.metadata));
    let mut places = Places { translated, objects };
    let (mut routes, mut statuses) = (Vec::new(), Vec::new());
    resolver.refer_from(RouteKind::Http, None);
    for ingress in ours {
        let (namespace, name) = (namespace_of(&ingress.metadata), name_of(&ingress.metadata));
        let mut report = Report::new(ObjectId::new("Ingress", namespace, name));
        let hosts = read(ingress, &mut report);
        for (host, paths) in hosts {
            let listeners = places.of(ingress, &host, &mut report);
            resolver.keep(!listeners.is_empty());
            let rules = paths.iter().map(|path| rule(path, namespace, resolver, &mut report)).collect();
            if !listeners.is_empty() {
                routes.push(v1::HttpRoute {
                    name: format!("ingress:{namespace}/{name}:{host}"),
                    listeners,
                    hostnames: Some(host).filter(|host| !host.is_empty()).into_iter().collect(),
                    rules,
                    created_at_s: super::created_at_s(&ingress.metadata),
                    wildcards_of_one_label: true,
                });
            }
        }
        statuses.push(status::ingress(&ingress.metadata, &report, &objects.proxy_addresses));
        super::close(report, objects, problems);
    }
    (routes, statuses)
}

fn rule(path: &Path<'_>, namespace: &str, resolver: &mut Resolver<'_>, report: &mut Report) -> v1::RouteRule {
    let backend = backend(path, namespace, resolver, report);
    let timeout = resolver.request_timeout_ms(backend.as_deref().into_iter());
    v1::RouteRule {
        name: path.name.clone(),
        matches: vec![v1::RouteMatch { path: Some(path.path.clone()), ..v1::RouteMatch::default() }],
        // What leads nowhere is answered 500, as for HTTPRoutes.
        backends: vec![v1::WeightedBackend { backend: backend.unwrap_or_default(), weight: 1, filters: Vec::new() }],
        backend_request_timeout_ms: timeout.filter(|ms| *ms > 0),
        ..v1::RouteRule::default()
    }
}

fn backend(path: &Path<'_>, namespace: &str, resolver: &mut Resolver<'_>, report: &mut Report) -> Option<String> {
    let field = &path.field;
    let Some(service) = &path.backend.service else {
        report.refused(reason::INVALID_KIND, format!("{field}.resource"), "is not supported, expected a service");
        return None;
    };
    let port = service.port.as_ref();
    let number = port.and_then(|port| port.number);
    let named = port.and_then(|port| port.name.as_deref());
    let port = match (number, named) {
        (Some(number), _) => Some(number),
        (None, Some(name)) => match resolver.port_named(namespace, &service.name, name) {
            Some(number) => Some(number),
            None => {
                let message = format!("Service {namespace}/{} has no port named \"{name}\"", service.name);
                report.refused(reason::BACKEND_NOT_FOUND, format!("{field}.service.port.name"), message);
                return None;
            }
        },
        (None, None) => None,
    };
    let reference = HttpRouteRulesBackendRefs { name: service.name.clone(), port, ..Default::default() };
    resolver.resolve(&reference, namespace, &format!("{field}.service"), report)
}

impl<'a> Places<'_, 'a> {
    /// Names of the listeners for a host of an Ingress: in clear text, and over TLS where it has a certificate for the host.
    fn of(&mut self, ingress: &Ingress, host: &str, report: &mut Report) -> Vec<String> {
        let ports = self.objects.ingress_ports;
        let mut names = BTreeSet::new();
        names.extend(self.clear(ingress, host, ports.http, report));
        let tls = ingress.spec.iter().flat_map(|spec| spec.tls.iter().flatten()).enumerate();
        let named = |hosts: Option<&Vec<String>>| {
            hosts
                .is_none_or(|hosts| hosts.is_empty() || hosts.iter().any(|one| covers(&one.to_ascii_lowercase(), host)))
        };
        for (index, tls) in tls.filter(|(_, tls)| named(tls.hosts.as_ref())) {
            let field = format!("spec.tls[{index}].secretName");
            let secret = tls.secret_name.as_deref().filter(|name| !name.is_empty());
            names.extend(self.encrypted(ingress, host, ports.https, secret, &field, report));
        }
        names.into_iter().collect()
    }

    fn clear(&mut self, ingress: &Ingress, host: &str, port: u16, report: &mut Report) -> Option<String> {
        match self.covering(host, port) {
            Some((name, attachable)) => {
                let allowed = listeners::allows(
                    attachable,
                    RouteKind::Http.name(),
                    namespace_of(&ingress.metadata),
                    self.objects,
                );
                if !allowed {
                    refuse(attachable, host, port, report);
                }
                allowed.then_some(name)
            }
            None => self.own(port, "", "http", None, report),
        }
    }

    fn encrypted(
        &mut self,
        ingress: &Ingress,
        host: &str,
        port: u16,
        secret: Option<&str>,
        field: &str,
        report: &mut Report,
    ) -> Option<String> {
        if let Some((name, attachable)) = self.covering(host, port) {
            if !listeners::allows(attachable, RouteKind::Http.name(), namespace_of(&ingress.metadata), self.objects) {
                refuse(attachable, host, port, report);
                return None;
            }
            // A Gateway's listener for this very host has its certificate.
            if secret.is_none() || attachable.hostname.as_deref().unwrap_or_default() == host {
                return Some(name);
            }
        }
        let Some(secret) = secret else {
            let message = format!("is missing, and no Gateway has a certificate for \"{host}\": not served over TLS");
            report.refused(reason::INVALID_CERTIFICATE_REF, field, message);
            return None;
        };
        match certificates::of_secret(namespace_of(&ingress.metadata), secret, self.objects) {
            Ok(certificate) => {
                let min_version = v1::tls::Version::Tls12.into();
                let tls = v1::Tls { certificates: vec![certificate], min_version, ..Default::default() };
                self.own(port, host, "https", Some((tls, field)), report)
            }
            Err(message) => {
                report.refused(reason::INVALID_CERTIFICATE_REF, field, format!("{message}: not served over TLS"));
                None
            }
        }
    }

    /// The listener of a Gateway that requests for this host come to: the one with the most specific host name.
    fn covering(&self, host: &str, port: u16) -> Option<(String, &Attachable<'a>)> {
        let at_port = self.translated.listeners.iter().filter(|listener| is_at(listener, port));
        let best = at_port.filter(|listener| covers(&listener.hostname, host)).filter_map(|listener| {
            let attachable = self.translated.attachables.iter().find(|one| one.names.contains(&listener.name))?;
            Some((listener.hostname.len(), listener.name.clone(), attachable))
        });
        best.max_by_key(|(length, ..)| *length).map(|(_, name, attachable)| (name, attachable))
    }

    /// The listener that Ingresses have of their own for a host.
    fn own(
        &mut self,
        port: u16,
        host: &str,
        kind: &str,
        tls: Option<(v1::Tls, &str)>,
        report: &mut Report,
    ) -> Option<String> {
        let all = &mut self.translated.listeners;
        let name = format!("ingress/{kind}/{host}");
        let secure = tls.is_some();
        if let Some(other) = all.iter().find(|listener| is_at(listener, port) && listener.tls.is_some() != secure) {
            let speaks = if other.tls.is_some() { "HTTPS" } else { "HTTP" };
            let message =
                format!("port {port} is one of listener {}, which speaks {speaks}: not served there", other.name);
            report.refused(reason::PROTOCOL_CONFLICT, "spec", message);
            return None;
        }
        if let Some(held) = all.iter().find(|listener| listener.name == name) {
            if let (Some((wanted, field)), Some(held)) = (&tls, &held.tls)
                && held.certificates != wanted.certificates
            {
                let message =
                    format!("an older Ingress has another certificate for \"{host}\", which is the one that is shown");
                report.refused(reason::CONFLICTED, *field, message);
            }
            return Some(name);
        }
        all.push(v1::Listener {
            name: name.clone(),
            address: ANY_ADDRESS.to_owned(),
            port: u32::from(port),
            public_port: 0,
            hostname: host.to_owned(),
            limits: None,
            tls: tls.map(|(tls, _)| tls),
            client_address: None,
        });
        Some(name)
    }
}

fn is_at(listener: &v1::Listener, port: u16) -> bool {
    listener.address == ANY_ADDRESS && listener.port == u32::from(port)
}

fn refuse(attachable: &Attachable<'_>, host: &str, port: u16, report: &mut Report) {
    let (namespace, name) = (namespace_of(&attachable.gateway.metadata), name_of(&attachable.gateway.metadata));
    let host = if host.is_empty() { "every host" } else { host };
    let message = format!(
        "{host} on port {port} is of listener \"{}\" of Gateway {namespace}/{name}, whose allowedRoutes do not allow this namespace",
        attachable.spec.name
    );
    report.refused(reason::NOT_ALLOWED_BY_LISTENERS, "spec.rules", message);
}

/// Whether all requests for `host` are such for `listener` as well; "" stands for every host.
fn covers(listener: &str, host: &str) -> bool {
    match listener.strip_prefix('*') {
        _ if listener.is_empty() || listener == host => true,
        Some(suffix) => host.trim_start_matches('*').ends_with(suffix) && !host.is_empty(),
        None => false,
    }
}

#[cfg(test)]
#[path = "ingress_tests.rs"]
mod tests;
