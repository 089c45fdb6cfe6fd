//! TLS towards endpoints: BackendTLSPolicies say which Services are spoken to over TLS and whom their endpoints must prove to be (GEP-1897), a
//! Gateway which certificate it shows them (GEP-3155). A policy that does not hold never means clear text: then nobody is spoken to.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use gateway_api::{
    backendtlspolicies::{BackendTlsPolicy, BackendTlsPolicyValidationSubjectAltNamesType as NameType},
    gateways::Gateway,
};
use k8s_openapi::api::core::v1::{Service, ServicePort};
use trimtab_proxy::api::v1::{self, filter::Kind as FilterKind};

use super::{
    GROUP, certificates, listeners, name_of, namespace_of,
    status::{Condition, TlsPolicyStatus, reason},
    trust::{self, Reference, Refused},
};
use crate::{
    objects::Objects,
    policy_status::AncestorRef,
    problem::{ObjectId, Problem, Report},
};

/// Namespace and name of a Service, and the name of a port where the policy is for that port only.
type Target<'a> = (&'a str, &'a str, Option<&'a str>);

/// The policies, by what they are for.
pub(super) struct BackendTls<'a> {
    entries: Vec<Entry<'a>>,
    by_target: HashMap<Target<'a>, usize>,
}

struct Entry<'a> {
    policy: &'a BackendTlsPolicy,
    tls: v1::EndpointTls,
    conditions: Vec<Condition>,
}

/// Which Gateways (namespace, name) send requests to which backends.
#[derive(Debug, Default)]
pub(super) struct Uses(BTreeMap<String, BTreeSet<(String, String)>>);

impl Uses {
    /// As translated routes have it.
    pub fn of(routes: &[v1::HttpRoute]) -> Self {
        let mut uses: BTreeMap<String, BTreeSet<(String, String)>> = BTreeMap::new();
        for route in routes {
            let gateways: BTreeSet<(String, String)> = route
                .listeners
                .iter()
                .filter_map(|listener| {
                    let mut parts = listener.split('/');
                    Some((parts.next()?.to_owned(), parts.next()?.to_owned()))
                })
                .collect();
            let backends = route.rules.iter().flat_map(|rule| {
                let filters = rule.filters.iter().chain(rule.backends.iter().flat_map(|backend| &backend.filters));
                let mirrors = filters.filter_map(|filter| match &filter.kind {
                    Some(FilterKind::Mirror(mirror)) => Some(mirror.backend.as_str()),
                    _ => None,
                });
                rule.backends.iter().map(|backend| backend.backend.as_str()).chain(mirrors)
            });
            for backend in backends.filter(|backend| !backend.is_empty()) {
                uses.entry(backend.to_owned()).or_default().extend(gateways.iter().cloned());
            }
        }
        Self(uses)
    }

    fn gateways(&self, backend: &str) -> impl Iterator<Item = &(String, String)> {
        self.0.get(backend).into_iter().flatten()
    }
}

impl<'a> BackendTls<'a> {
    /// Of two policies for the same target the older wins, then the one whose name sorts first, as the Gateway API says.
    pub fn new(objects: &'a Objects, services: &HashMap<(&str, &str), &Service>, problems: &mut Vec<Problem>) -> Self {
        let mut sorted: Vec<_> = objects.backend_tls_policies.iter().collect();
        sorted.sort_by_key(|policy| super::age_and_name(&policy.metadata));
        let mut found = Self { entries: Vec::with_capacity(sorted.len()), by_target: HashMap::new() };
        for policy in sorted {
            let namespace = namespace_of(&policy.metadata);
            let mut report = report_of(policy);
            let (tls, mut conditions) = translate(policy, objects, &mut report);
            for (index, target) in policy.spec.target_refs.iter().enumerate() {
                let field = format!("spec.targetRefs[{index}]");
                if (target.group.as_str(), target.kind.as_str()) != ("", "Service") {
                    let message = format!("{} is not supported, expected a Service", target.kind);
                    report.unresolved(format!("{field}.kind"), message);
                    continue;
                }
                let known = services.get(&(namespace, target.name.as_str()));
                let section = target.section_name.as_deref().filter(|section| !section.is_empty());
                let ports = known.and_then(|service| service.spec.as_ref()?.ports.as_deref()).unwrap_or_default();
                let has_port = section.is_none_or(|name| ports.iter().any(|port| port.name.as_deref() == Some(name)));
                if known.is_none() || !has_port {
                    let message = match section.filter(|_| known.is_some()) {
                        Some(port) => {
                            format!("\"{port}\" is not the name of a port of Service {namespace}/{}", target.name)
                        }
                        None => format!("there is no Service {namespace}/{}", target.name),
                    };
                    report.unresolved(field, message);
                    continue;
                }
                let key = (namespace, target.name.as_str(), section);
                if let Some(other) = found.by_target.get(&key) {
                    let other = name_of(&found.entries[*other].policy.metadata);
                    let message = format!("is already the target of BackendTLSPolicy {namespace}/{other}");
                    conditions.retain(|condition| condition.kind != "Accepted");
                    conditions.insert(0, Condition::no("Accepted", reason::CONFLICTED, format!("{field}: {message}")));
                    report.unresolved(field, message);
                    continue;
                }
                found.by_target.insert(key, found.entries.len());
            }
            found.entries.push(Entry { policy, tls, conditions });
            super::close(report, objects, problems);
        }
        found
    }

    fn entry(&self, service: &Service, port: &ServicePort) -> Option<&Entry<'a>> {
        let (namespace, name) = (namespace_of(&service.metadata), name_of(&service.metadata));
        let by_port = port.name.as_deref().and_then(|port| self.by_target.get(&(namespace, name, Some(port))));
        let index = by_port.or_else(|| self.by_target.get(&(namespace, name, None)))?;
        self.entries.get(*index)
    }

    /// How the endpoints of a port are spoken to, if it is over TLS. `backend` is its name. Gateways that show different certificates cannot
    /// share a backend's connections: the oldest one's is shown.
    pub fn of(
        &self,
        (service, port): (&Service, &ServicePort),
        backend: &str,
        uses: &Uses,
        objects: &Objects,
        problems: &mut Vec<Problem>,
    ) -> Option<v1::EndpointTls> {
        let mut tls = self.entry(service, port)?.tls.clone();
        let ours = listeners::ours(objects);
        let users = ours.into_iter().filter(|gateway| {
            let metadata = &gateway.metadata;
            uses.gateways(backend).any(|(namespace, name)| {
                (namespace.as_str(), name.as_str()) == (namespace_of(metadata), name_of(metadata))
            })
        });
        let mut first: Option<&Gateway> = None;
        for gateway in users {
            let mut report = listeners::report_of(gateway);
            let shown = client_certificate(gateway, objects, &mut report);
            match first {
                None => {
                    first = Some(gateway);
                    // What is to be shown and cannot be is not left out: an endpoint that asks for it would refuse, one that does not might
                    // take us for somebody else.
                    tls.nobody |= shown.is_err();
                    tls.client_certificate = shown.ok().flatten();
                }
                Some(other) => {
                    let same = shown.ok().flatten().map(|shown| shown.name)
                        == tls.client_certificate.as_ref().map(|shown| shown.name.clone());
                    if !same {
                        report.unresolved(
                            "spec.tls.backend.clientCertificateRef",
                            format!(
                                "{backend} is shown that of Gateway {}, which comes first (by age, then by name)",
                                name_of(&other.metadata)
                            ),
                        );
                    }
                }
            }
            super::close(report, objects, problems);
        }
        Some(tls)
    }

    /// What is to be said of the policies: one ancestor for each Gateway that sends requests to what they are for.
    pub fn statuses<'b>(
        &self,
        backends: impl Iterator<Item = (&'b str, (&'b Service, &'b ServicePort))> + Clone,
        uses: &Uses,
    ) -> Vec<TlsPolicyStatus> {
        let one = |entry: &Entry<'_>| {
            let namespace = namespace_of(&entry.policy.metadata);
            let concerns = |service: &Service| {
                namespace_of(&service.metadata) == namespace
                    && entry.policy.spec.target_refs.iter().any(|target| target.name == name_of(&service.metadata))
            };
            let gateways: BTreeSet<&(String, String)> = backends
                .clone()
                .filter(|(_, (service, _))| concerns(service))
                .flat_map(|(backend, _)| uses.gateways(backend))
                .collect();
            let ancestors = gateways.into_iter().map(|(namespace, name)| {
                let gateway = AncestorRef {
                    group: GROUP.to_owned(),
                    kind: "Gateway".to_owned(),
                    namespace: Some(namespace.clone()),
                    name: name.clone(),
                    section_name: None,
                };
                (gateway, entry.conditions.clone())
            });
            TlsPolicyStatus::new(&entry.policy.metadata, ancestors.collect())
        };
        self.entries.iter().map(one).collect()
    }
}

/// Checks what can be told from the policy alone, beyond its schema.
pub fn check(policy: &BackendTlsPolicy, report: &mut Report) {
    if policy.spec.validation.hostname.is_empty() {
        report.invalid(
            "spec.validation.hostname",
            "is empty, expected the name that the endpoints' certificates are for",
        );
    }
    let _ = certificates::version(policy.spec.options.as_ref(), "spec", report);
}

fn report_of(policy: &BackendTlsPolicy) -> Report {
    Report::new(ObjectId::new("BackendTLSPolicy", namespace_of(&policy.metadata), name_of(&policy.metadata)))
}

fn translate(policy: &BackendTlsPolicy, objects: &Objects, report: &mut Report) -> (v1::EndpointTls, Vec<Condition>) {
    let validation = &policy.spec.validation;
    let namespace = namespace_of(&policy.metadata);
    check(policy, report);
    let mut accepted = match report.first_invalid() {
        Some(fault) => Condition::no("Accepted", reason::INVALID, fault.to_string()),
        None => Condition::yes("Accepted", reason::ACCEPTED),
    };
    let mut resolved = Condition::yes("ResolvedRefs", reason::RESOLVED_REFS);
    let mut fault = |field: String, why: &'static str, message: String, report: &mut Report| {
        if accepted.holds {
            accepted = Condition::no("Accepted", why, format!("{field}: {message}"));
        }
        report.unresolved(field, message);
    };
    let mut ca_pem = Vec::new();
    let references = validation.ca_certificate_refs.as_deref().unwrap_or_default();
    for (index, reference) in references.iter().enumerate() {
        let field = format!("spec.validation.caCertificateRefs[{index}]");
        let lead = Reference { group: &reference.group, kind: &reference.kind, name: &reference.name, namespace: None };
        match trust::authorities(objects, "BackendTLSPolicy", namespace, lead) {
            Ok(pem) => {
                ca_pem.extend(pem);
                ca_pem.push(b'\n');
            }
            Err(refused) => {
                let why = match refused {
                    Refused::Kind(_) => reason::INVALID_KIND,
                    _ => reason::INVALID_CA_CERTIFICATE_REF,
                };
                if resolved.holds {
                    resolved = Condition::no("ResolvedRefs", why, format!("{field}: {}", refused.message()));
                }
                report.unresolved(field, refused.message());
            }
        }
    }
    match validation.well_known_ca_certificates.as_deref() {
        None if references.is_empty() => fault(
            "spec.validation".to_owned(),
            reason::INVALID,
            "names no authority, expected caCertificateRefs or wellKnownCACertificates: System".to_owned(),
            report,
        ),
        None if ca_pem.is_empty() => {
            let message = "none resolves: nobody is spoken to".to_owned();
            fault("spec.validation.caCertificateRefs".to_owned(), reason::NO_VALID_CA_CERTIFICATE, message, report);
        }
        None | Some("System") => {}
        Some(other) => fault(
            "spec.validation.wellKnownCACertificates".to_owned(),
            reason::INVALID,
            format!("\"{other}\" is not supported, expected System"),
            report,
        ),
    }
    let mut subject_alt_names = Vec::new();
    for (index, name) in validation.subject_alt_names.iter().flatten().enumerate() {
        match (&name.r#type, &name.hostname) {
            (NameType::Hostname, Some(hostname)) => subject_alt_names.push(hostname.clone()),
            _ => {
                let field = format!("spec.validation.subjectAltNames[{index}]");
                fault(field, reason::INVALID, "only names of type Hostname are supported".to_owned(), report);
            }
        }
    }
    let tls = v1::EndpointTls {
        hostname: validation.hostname.clone(),
        ca_pem,
        subject_alt_names,
        client_certificate: None,
        min_version: certificates::version(policy.spec.options.as_ref(), "spec", &mut report_of(policy)).into(),
        nobody: !accepted.holds,
    };
    (tls, vec![accepted, resolved])
}

/// What a Gateway shows to endpoints that ask for it.
fn client_certificate(
    gateway: &Gateway,
    objects: &Objects,
    report: &mut Report,
) -> Result<Option<v1::Certificate>, ()> {
    let backend = gateway.spec.tls.as_ref().and_then(|tls| tls.backend.as_ref());
    let Some(reference) = backend.and_then(|backend| backend.client_certificate_ref.as_ref()) else { return Ok(None) };
    let lead = Reference {
        group: reference.group.as_deref().unwrap_or_default(),
        kind: reference.kind.as_deref().unwrap_or("Secret"),
        name: &reference.name,
        namespace: reference.namespace.as_deref(),
    };
    match certificates::certificate(gateway, lead, objects) {
        Ok(certificate) => Ok(Some(certificate)),
        Err((part, message)) => {
            report.unresolved(format!("spec.tls.backend.clientCertificateRef.{part}"), message);
            Err(())
        }
    }
}
