//! backendRefs to backends: one port of a Service, its endpoints from EndpointSlices, and the policy attached to it.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use gateway_api::httproutes::HttpRouteRulesBackendRefs;
use k8s_openapi::api::{
    core::v1::{Service, ServicePort},
    discovery::v1::EndpointSlice,
};

use trimtab_model::observation::EndpointKey;
use trimtab_proxy::api::v1;

use super::{
    BackendSpec, GROUP,
    backend_tls::{BackendTls, Uses},
    endpoints::{self, Placed},
    name_of, namespace_of,
    policies::{OfRoute, Place, Policies},
    routes::RouteKind,
    settings,
    status::{PolicyStatus, TlsPolicyStatus, reason},
};
use crate::{
    objects::{Autoscaler, Objects, PodFacts, Pods, Replicas},
    policy::BackendTrafficPolicySpec,
    problem::{ObjectId, Problem, Report},
};

/// Label of an EndpointSlice that names its Service.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// Resolves backendRefs, and remembers which backends are referred to.
pub(super) struct Resolver<'a> {
    objects: &'a Objects,
    services: HashMap<(&'a str, &'a str), &'a Service>,
    slices: HashMap<(&'a str, &'a str), Vec<&'a Arc<EndpointSlice>>>,
    policies: Policies<'a>,
    tls: BackendTls<'a>,
    referred: BTreeMap<String, (&'a Service, &'a ServicePort, Option<OfRoute<'a>>)>,
    /// Those of them that GRPCRoutes refer to: they speak HTTP/2.
    calls: BTreeSet<String>,
    /// The policy of what is resolved for.
    route: Option<OfRoute<'a>>,
    /// The kind of it.
    kind: RouteKind,
    /// Whether what is resolved is remembered.
    keep: bool,
}

impl<'a> Resolver<'a> {
    pub fn new(objects: &'a Objects, problems: &mut Vec<Problem>) -> Self {
        let services: HashMap<_, _> = objects
            .services
            .iter()
            .map(|service| ((namespace_of(&service.metadata), name_of(&service.metadata)), &**service))
            .collect();
        let mut slices: HashMap<_, Vec<_>> = HashMap::new();
        for slice in &objects.endpoint_slices {
            let labels = slice.metadata.labels.as_ref();
            match labels.and_then(|labels| labels.get(SERVICE_NAME_LABEL)) {
                Some(service) => {
                    slices.entry((namespace_of(&slice.metadata), service.as_str())).or_default().push(slice);
                }
                None => {
                    let mut report = report_of_slice(slice);
                    report.unresolved(
                        "metadata.labels",
                        format!("has no {SERVICE_NAME_LABEL}: its endpoints belong to no Service"),
                    );
                    super::close(report, objects, problems);
                }
            }
        }
        let policies = Policies::new(objects, &services, problems);
        let tls = BackendTls::new(objects, &services, problems);
        Resolver {
            objects,
            services,
            slices,
            policies,
            tls,
            referred: BTreeMap::new(),
            calls: BTreeSet::new(),
            route: None,
            kind: RouteKind::Http,
            keep: true,
        }
    }

    /// Whether what is resolved from now on becomes a backend of the data plane.
    pub fn keep(&mut self, keep: bool) {
        self.keep = keep;
    }

    /// What is resolved from now on is referred to by a route of this kind, from here; `None`: not from where policies could apply.
    pub fn refer_from(&mut self, kind: RouteKind, place: Option<Place<'a>>) {
        self.kind = kind;
        self.route = place.and_then(|place| self.policies.of_route(place));
    }

    /// What is to be said of the policies.
    pub fn take_policy_statuses(&mut self) -> Vec<PolicyStatus> {
        std::mem::take(&mut self.policies.statuses)
    }

    /// The number of a Service's port by its name.
    pub fn port_named(&self, namespace: &str, service: &str, name: &str) -> Option<i32> {
        let ports = self.services.get(&(namespace, service))?.spec.as_ref()?.ports.as_deref()?;
        ports.iter().find(|port| port.name.as_deref() == Some(name)).map(|port| port.port)
    }

    /// What is to be said of the BackendTLSPolicies, once all routes are resolved.
    pub fn tls_policy_statuses(&self, uses: &Uses) -> Vec<TlsPolicyStatus> {
        let referred = self.referred.iter().map(|(name, (service, port, _))| (name.as_str(), (*service, *port)));
        self.tls.statuses(referred, uses)
    }

    /// Name of the backend that `reference` means; `None`, with the reason reported, if there is none.
    pub fn resolve(
        &mut self,
        reference: &HttpRouteRulesBackendRefs,
        from: &str,
        field: &str,
        report: &mut Report,
    ) -> Option<String> {
        let group = reference.group.as_deref().unwrap_or_default();
        let kind = reference.kind.as_deref().unwrap_or("Service");
        if (group, kind) != ("", "Service") {
            let message = format!("{group}/{kind} is not supported, expected a Service");
            report.refused(reason::INVALID_KIND, format!("{field}.kind"), message);
            return None;
        }
        let namespace = reference.namespace.as_deref().unwrap_or(from);
        if namespace != from && !self.granted(from, namespace, &reference.name) {
            let message = format!(
                "no ReferenceGrant in {namespace} lets {} {} of {from} refer to Service {}",
                if self.kind == RouteKind::Http { "an" } else { "a" },
                self.kind.name(),
                reference.name
            );
            report.refused(reason::REF_NOT_PERMITTED, format!("{field}.namespace"), message);
            return None;
        }
        let Some(port) = reference.port else {
            report.refused(
                reason::BACKEND_NOT_FOUND,
                format!("{field}.port"),
                format!("is missing, expected a port of Service {namespace}/{}", reference.name),
            );
            return None;
        };
        let Some(service) = self.services.get(&(namespace, reference.name.as_str())).copied() else {
            let message = format!("there is no Service {namespace}/{}", reference.name);
            report.refused(reason::BACKEND_NOT_FOUND, format!("{field}.name"), message);
            return None;
        };
        let spec = service.spec.as_ref();
        if spec.and_then(|spec| spec.type_.as_deref()) == Some("ExternalName") {
            let message =
                format!("Service {namespace}/{} is of type ExternalName, which is not supported", reference.name);
            report.refused(reason::INVALID_KIND, format!("{field}.name"), message);
            return None;
        }
        let ports = spec.and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
        let Some(service_port) =
            ports.iter().find(|candidate| candidate.port == port && is_tcp(candidate.protocol.as_deref()))
        else {
            let known = ports.iter().map(|port| port.port.to_string()).collect::<Vec<_>>().join(", ");
            let expected = if known.is_empty() { "it has none".to_owned() } else { format!("expected one of {known}") };
            report.refused(
                reason::BACKEND_NOT_FOUND,
                format!("{field}.port"),
                format!("{port} is not a port of Service {namespace}/{}, {expected}", reference.name),
            );
            return None;
        };
        let suffix = self.route.map(|route| route.suffix()).unwrap_or_default();
        let name = format!("{namespace}/{}:{port}{suffix}", reference.name);
        if self.keep {
            self.referred.insert(name.clone(), (service, service_port, self.route));
            if self.kind == RouteKind::Grpc {
                self.calls.insert(name.clone());
            }
        }
        Some(name)
    }

    /// The time limit that the policies of these backends set for a request, in milliseconds: the longest, if all of them set one.
    pub fn request_timeout_ms<'n>(&self, backends: impl Iterator<Item = &'n str>) -> Option<u32> {
        let timeout = |name: &str| {
            let (service, port, route) = self.referred.get(name)?;
            let policy = self.policies.of(service, port, *route)?;
            policy.timeout.as_ref()?.http.as_ref()?.request_timeout
        };
        let all: Option<Vec<_>> = backends.filter(|name| !name.is_empty()).map(timeout).collect();
        all?.into_iter().max().map(|timeout| timeout.as_millis_u32())
    }

    /// All backends that were referred to, by name. `memo` is what was made of the objects before, and is brought up to date.
    pub fn into_backends(self, uses: &Uses, memo: &mut Memo, problems: &mut Vec<Problem>) -> Vec<Arc<BackendSpec>> {
        let mut backends = Vec::with_capacity(self.referred.len());
        let same_pods = Arc::ptr_eq(&memo.pods, &self.objects.pods);
        let mut before = std::mem::take(&mut memo.backends);
        for (name, (service, port, route)) in &self.referred {
            let mut report =
                Report::new(ObjectId::new("Service", namespace_of(&service.metadata), name_of(&service.metadata)));
            let slices = self.slices.get(&(namespace_of(&service.metadata), name_of(&service.metadata)));
            let mut slices = slices.cloned().unwrap_or_default();
            endpoints::sort_slices(&mut slices);
            if slices.is_empty() {
                let message =
                    format!("no EndpointSlice has the label {SERVICE_NAME_LABEL}: {}", name_of(&service.metadata));
                report.unresolved("metadata.name", message);
            }
            let policy = self.policies.of(service, port, *route).map(Cow::into_owned);
            let calls = self.calls.contains(name) && port.app_protocol.is_none();
            let protocol = if calls { v1::Protocol::H2c } else { protocol(port, &mut report) };
            super::close(report, self.objects, problems);
            // It depends on Secrets, ConfigMaps and Gateways: worked out each time, and compared.
            let tls = self.tls.of((service, port), name, uses, self.objects, problems);
            let about = About { service: (*service).clone(), port: (*port).clone(), calls, policy };
            let held = before.remove(name).filter(|held| held.about == about);
            let (spec, held) = held.map_or((None, Vec::new()), |held| (Some(held.spec), held.parts));
            let held_count = held.len();
            let mut held: HashMap<_, Part> = held.into_iter().map(|part| (Arc::as_ptr(&part.slice), part)).collect();
            let mut kept = 0;
            let part = |slice: &&Arc<EndpointSlice>| {
                let same = held.remove(&Arc::as_ptr(slice));
                match same.filter(|part| same_pods || part.holds(&self.objects.pods)) {
                    Some(part) => {
                        kept += 1;
                        part
                    }
                    None => Part::new(slice, &about, self.objects),
                }
            };
            let parts: Vec<Part> = slices.iter().map(part).collect();
            problems.extend(parts.iter().flat_map(|part| part.problems.iter().cloned()));
            let same = |spec: &Arc<BackendSpec>| kept == parts.len() && kept == held_count && spec.resource.tls == tls;
            let spec = spec.filter(same).unwrap_or_else(|| {
                let placed = endpoints::join(parts.iter().map(|part| &*part.endpoints));
                let mut backend = settings::backend(name.clone(), &placed, protocol, about.policy.as_ref());
                backend.resource.tls = tls;
                Arc::new(backend)
            });
            // It changes more often than what endpoints depend on, and by itself.
            let replicas = self.replicas(namespace_of(&service.metadata), &parts);
            let spec = match spec.replicas == replicas {
                true => spec,
                false => Arc::new(BackendSpec { replicas, ..(*spec).clone() }),
            };
            memo.backends.insert(name.clone(), Held { about, parts, spec: spec.clone() });
            backends.push(spec);
        }
        memo.pods = self.objects.pods.clone();
        backends
    }

    /// What the autoscalers of the workloads behind these endpoints say, summed up.
    fn replicas(&self, namespace: &str, parts: &[Part]) -> Option<Replicas> {
        let autoscalers = self.objects.autoscalers.iter().filter(|autoscaler| autoscaler.namespace == namespace);
        let behind = |autoscaler: &&Autoscaler| {
            let mut pods = parts.iter().flat_map(|part| &part.facts).filter_map(|(_, facts)| facts.as_ref());
            pods.any(|facts| facts.workload.as_ref() == Some(&autoscaler.target))
        };
        autoscalers.filter(behind).map(|autoscaler| autoscaler.replicas).reduce(|a, b| Replicas {
            current: a.current.saturating_add(b.current),
            desired: a.desired.saturating_add(b.desired),
        })
    }

    fn granted(&self, from: &str, to: &str, service: &str) -> bool {
        self.objects.reference_grants.iter().filter(|grant| namespace_of(&grant.metadata) == to).any(|grant| {
            grant
                .spec
                .from
                .iter()
                .any(|source| source.group == GROUP && source.kind == self.kind.name() && source.namespace == from)
                && grant.spec.to.iter().any(|target| {
                    target.group.is_empty()
                        && target.kind == "Service"
                        && target.name.as_deref().is_none_or(|name| name.is_empty() || name == service)
                })
        })
    }
}

/// What was made of the objects before: a change of one slice makes the endpoints of that slice anew, and shares all others.
#[derive(Debug, Default)]
pub struct Memo {
    backends: HashMap<String, Held>,
    /// What was known of pods.
    pods: Pods,
}

/// One backend as it was made.
#[derive(Debug)]
struct Held {
    about: About,
    /// In the order of [`endpoints::sort_slices`].
    parts: Vec<Part>,
    spec: Arc<BackendSpec>,
}

/// What all endpoints of a backend depend on.
#[derive(Debug, PartialEq)]
struct About {
    service: Service,
    port: ServicePort,
    calls: bool,
    policy: Option<BackendTrafficPolicySpec>,
}

/// What one slice brings to a backend.
#[derive(Debug)]
struct Part {
    slice: Arc<EndpointSlice>,
    /// What was known of the pods, in no particular order.
    facts: Vec<(EndpointKey, Option<Arc<PodFacts>>)>,
    endpoints: Vec<Placed>,
    problems: Vec<Problem>,
}

impl Part {
    fn new(slice: &Arc<EndpointSlice>, about: &About, objects: &Objects) -> Self {
        let mut report = report_of_slice(slice);
        let found = endpoints::collect(slice, &about.service, &about.port, &objects.pods, &mut report);
        let facts = found.iter().map(|found| (EndpointKey(found.key), found.pod.clone())).collect();
        let place = |found: endpoints::Found| {
            let spec = settings::endpoint(&found, about.policy.as_ref());
            Placed::new(found.address, spec)
        };
        let mut endpoints: Vec<Placed> = found.into_iter().map(place).collect();
        endpoints::sort(&mut endpoints);
        let mut problems = Vec::new();
        super::close(report, objects, &mut problems);
        Self { slice: slice.clone(), facts, endpoints, problems }
    }

    /// Whether it still holds with what is known of pods now.
    fn holds(&self, pods: &Pods) -> bool {
        self.facts.iter().all(|(key, before)| match (before, pods.get(key)) {
            (None, None) => true,
            (Some(before), Some(now)) => Arc::ptr_eq(before, now) || before == now,
            _ => false,
        })
    }
}

/// What the endpoints of a port speak: its `appProtocol`, by the names of Kubernetes (KEP-3726) and the common one of gRPC.
fn protocol(port: &ServicePort, report: &mut Report) -> v1::Protocol {
    match port.app_protocol.as_deref() {
        None | Some("http" | "http1" | "https" | "kubernetes.io/ws" | "kubernetes.io/wss") => v1::Protocol::Http11,
        Some("kubernetes.io/h2c" | "h2c" | "http2" | "grpc") => v1::Protocol::H2c,
        Some(other) => {
            let message = format!(
                "\"{other}\" is not a protocol that Trimtab knows, expected http, kubernetes.io/h2c, grpc or kubernetes.io/ws: HTTP/1.1 is spoken"
            );
            report.unresolved(format!("spec.ports[{}].appProtocol", port.port), message);
            v1::Protocol::Http11
        }
    }
}

/// Whether a protocol of a port is TCP, as it is by default.
pub(super) fn is_tcp(protocol: Option<&str>) -> bool {
    protocol.is_none_or(|protocol| protocol == "TCP")
}

/// An empty report on a slice.
pub(super) fn report_of_slice(slice: &EndpointSlice) -> Report {
    Report::new(ObjectId::new("EndpointSlice", namespace_of(&slice.metadata), name_of(&slice.metadata)))
}
