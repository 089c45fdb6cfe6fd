//! Everything that was read from the API server, and what it amounts to: one snapshot of objects. Pure; one task owns it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use gateway_api::{
    backendtlspolicies::BackendTlsPolicy, gatewayclasses::GatewayClass, gateways::Gateway, grpcroutes::GrpcRoute,
    httproutes::HttpRoute, referencegrants::ReferenceGrant,
};
use k8s_openapi::api::{
    autoscaling::v2::HorizontalPodAutoscaler,
    core::v1::{ConfigMap, Namespace, Pod, Secret, Service},
    discovery::v1::EndpointSlice,
    networking::v1::{Ingress, IngressClass},
};
use kube::{core::PartialObjectMeta, runtime::watcher::Event};

use super::{
    kinds::{Current, Watched, split},
    pods::PodBook,
    store::{Id, Replaced, Scope, Store},
    watch::NOT_ALLOWED,
};
use crate::{
    gateway::{
        backends::SERVICE_NAME_LABEL,
        exposure::{self, Exposure},
        grpc,
        ingress::{self, IngressPorts},
    },
    objects::{Autoscaler, Objects, Replicas, Unread, Workload},
    policy::BackendTrafficPolicy,
    problem::{ObjectId, Problem},
    provider::Snapshot,
};

/// What is needed to write statuses, by object.
pub type Currents = BTreeMap<ObjectId, Current>;

/// Where the addresses of the proxies come from.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ProxyAddresses {
    /// Said by whoever deployed them.
    pub fixed: Vec<String>,
    /// The Service in front of them, by namespace and name.
    pub service: Option<(String, String)>,
    /// Whether it is the addresses of that Service's endpoints that count: those of the proxies' nodes, with `hostNetwork`.
    pub of_endpoints: bool,
    /// What Services of Gateways are made after, where each has one of its own.
    pub per_gateway: Option<exposure::Template>,
}

/// Everything that was read.
#[derive(Debug, Default)]
pub(super) struct State {
    pub gateway_classes: Store<GatewayClass>,
    pub gateways: Store<Gateway>,
    pub http_routes: Store<HttpRoute>,
    pub grpc_routes: Store<GrpcRoute>,
    pub ingresses: Store<Ingress>,
    pub ingress_classes: Store<IngressClass>,
    pub reference_grants: Store<ReferenceGrant>,
    pub services: Store<Service>,
    pub endpoint_slices: Store<EndpointSlice>,
    pub namespaces: Store<Namespace>,
    pub policies: Store<BackendTrafficPolicy>,
    pub secrets: Store<Secret>,
    pub backend_tls_policies: Store<BackendTlsPolicy>,
    pub config_maps: Store<ConfigMap>,
    pub autoscalers: Store<HorizontalPodAutoscaler>,
    pub pods: Store<PartialObjectMeta<Pod>>,
    /// GRPCRoutes as the HTTPRoutes that say the same.
    grpc_as_http: BTreeMap<Id, HttpRoute>,
    /// Namespaces of watches that are of one.
    places: BTreeMap<Scope, String>,
    addresses: ProxyAddresses,
    ingress_ports: IngressPorts,
    book: PodBook,
    currents: Currents,
    /// Whether the first listing is over: from then on what becomes ready is new.
    started: bool,
    now_ms: i64,
    changed: bool,
    restated: bool,
}

impl State {
    /// Nothing read yet. Clients reach the proxies at `addresses`, and Ingresses on these ports.
    pub fn new(addresses: ProxyAddresses, ingress_ports: IngressPorts) -> Self {
        Self { addresses, ingress_ports, ..Self::default() }
    }

    /// A watch is one of this namespace.
    pub fn place(&mut self, scope: Scope, namespace: &str) {
        self.places.insert(scope, namespace.to_owned());
    }

    /// Takes in an event of one watch.
    pub fn apply<K: Watched>(&mut self, scope: Scope, event: Event<K>, now_ms: i64) {
        self.now_ms = now_ms;
        let event = match event {
            Event::Init => Event::Init,
            Event::InitDone => Event::InitDone,
            Event::InitApply(object) => Event::InitApply(self.split(object)),
            Event::Apply(object) => Event::Apply(self.split(object)),
            Event::Delete(object) => {
                let (id, object, _) = split(object);
                Event::Delete((id, object))
            }
        };
        // A listing without surprises changes nothing but that it is known to be complete.
        self.changed |= matches!(event, Event::InitDone) && K::store(self).missing().is_some();
        let replaced = K::store(self).take(scope, event);
        self.note(&replaced);
    }

    /// A watch has ended for good.
    pub fn end<K: Watched>(&mut self, scope: Scope) {
        self.places.remove(&scope);
        let replaced = K::store(self).end(scope);
        self.note(&replaced);
    }

    /// A kind is not there or may not be read. Tells whether that is news.
    pub fn miss<K: Watched>(&mut self, scope: Scope, reason: String) -> bool {
        let news = K::store(self).miss(scope, reason);
        self.changed |= news;
        news
    }

    fn note<K: Watched>(&mut self, replaced: &[Replaced<K>]) {
        for replaced in replaced {
            self.changed |= K::note(self, replaced);
            if replaced.new.is_none() && self.currents.remove(&object_id::<K>(&replaced.id)).is_some() {
                self.restated = true;
            }
        }
    }

    fn split<K: Watched>(&mut self, object: K) -> (Id, K) {
        let (id, object, current) = split(object);
        if let Some(current) = current {
            let held = self.currents.insert(object_id::<K>(&id), current.clone());
            self.restated |= held.as_ref() != Some(&current);
        }
        (id, object)
    }

    pub fn note_grpc_route(&mut self, replaced: &Replaced<GrpcRoute>) {
        match &replaced.new {
            Some(route) => drop(self.grpc_as_http.insert(replaced.id.clone(), grpc::as_http(route))),
            None => drop(self.grpc_as_http.remove(&replaced.id)),
        }
    }

    pub fn note_slice(&mut self, replaced: &Replaced<EndpointSlice>) {
        if self.started {
            self.book.slice(replaced.old.as_deref(), replaced.new.as_deref(), false, self.now_ms);
        }
    }

    pub fn note_pod(&mut self, replaced: &Replaced<PartialObjectMeta<Pod>>) -> bool {
        match (&replaced.new, &replaced.old) {
            (Some(pod), _) => self.book.pod(pod),
            (None, Some(pod)) => {
                self.book.gone(pod);
                false
            }
            (None, None) => false,
        }
    }

    /// Whether everything has been listed once.
    pub fn is_listed(&self) -> bool {
        self.gateway_classes.is_listed()
            && self.gateways.is_listed()
            && self.http_routes.is_listed()
            && self.grpc_routes.is_listed()
            && self.ingresses.is_listed()
            && self.ingress_classes.is_listed()
            && self.reference_grants.is_listed()
            && self.services.is_listed()
            && self.endpoint_slices.is_listed()
            && self.namespaces.is_listed()
            && self.policies.is_listed()
            && self.secrets.is_listed()
            && self.backend_tls_policies.is_listed()
            && self.config_maps.is_listed()
            && self.pods.is_listed()
            && self.autoscalers.is_listed()
    }

    /// The first listing is over.
    pub fn start(&mut self, now_ms: i64) {
        if !std::mem::replace(&mut self.started, true) {
            let slices: Vec<_> = self.endpoint_slices.iter().cloned().collect();
            slices.iter().for_each(|slice| self.book.slice(None, Some(slice), true, now_ms));
        }
    }

    /// Whether the configuration may have changed since this was last asked.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// The same of what is needed to write statuses.
    pub fn take_restated(&mut self) -> bool {
        std::mem::take(&mut self.restated)
    }

    /// What is needed to write statuses.
    pub fn currents(&self) -> &Currents {
        &self.currents
    }

    /// Secrets that Gateways and Ingresses of ours refer to.
    pub fn wanted_secrets(&self) -> BTreeSet<Id> {
        let mut wanted = BTreeSet::new();
        for gateway in self.gateways.iter() {
            let own = gateway.metadata.namespace.clone().unwrap_or_default();
            let tls = gateway.spec.listeners.iter().filter_map(|listener| listener.tls.as_ref());
            for reference in tls.flat_map(|tls| tls.certificate_refs.iter().flatten()) {
                let core = reference.group.as_deref().unwrap_or_default().is_empty();
                if core && reference.kind.as_deref().unwrap_or("Secret") == "Secret" {
                    let namespace = reference.namespace.clone().unwrap_or_else(|| own.clone());
                    wanted.insert((namespace, reference.name.clone()));
                }
            }
            let backend = gateway.spec.tls.as_ref().and_then(|tls| tls.backend.as_ref());
            if let Some(reference) = backend.and_then(|backend| backend.client_certificate_ref.as_ref()) {
                let namespace = reference.namespace.clone().unwrap_or_else(|| own.clone());
                wanted.insert((namespace, reference.name.clone()));
            }
        }
        let classes = ingress::Classes::new(self.ingress_classes.iter().map(|class| &**class));
        for one in self.ingresses.iter().filter(|one| classes.take(one)) {
            let own = one.metadata.namespace.as_deref().unwrap_or_default();
            wanted.extend(ingress::secrets(one).map(|name| (own.to_owned(), name.to_owned())));
        }
        wanted
    }

    /// ConfigMaps that Gateways and BackendTLSPolicies refer to.
    pub fn wanted_config_maps(&self) -> BTreeSet<Id> {
        let mut wanted = BTreeSet::new();
        for gateway in self.gateways.iter() {
            let own = gateway.metadata.namespace.clone().unwrap_or_default();
            let Some(frontend) = gateway.spec.tls.as_ref().and_then(|tls| tls.frontend.as_ref()) else { continue };
            let mut want = |namespace: &Option<String>, name: &str| {
                wanted.insert((namespace.clone().unwrap_or_else(|| own.clone()), name.to_owned()));
            };
            for reference in frontend.default.validation.iter().flat_map(|validation| &validation.ca_certificate_refs) {
                want(&reference.namespace, &reference.name);
            }
            let per_port = frontend.per_port.iter().flatten().filter_map(|entry| entry.tls.validation.as_ref());
            for reference in per_port.flat_map(|validation| &validation.ca_certificate_refs) {
                want(&reference.namespace, &reference.name);
            }
        }
        for policy in self.backend_tls_policies.iter() {
            let own = policy.metadata.namespace.clone().unwrap_or_default();
            for reference in policy.spec.validation.ca_certificate_refs.iter().flatten() {
                if reference.kind == "ConfigMap" {
                    wanted.insert((own.clone(), reference.name.clone()));
                }
            }
        }
        wanted
    }

    /// Everything at this moment.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            objects: Objects {
                gateway_classes: owned(&self.gateway_classes),
                gateways: owned(&self.gateways),
                http_routes: owned(&self.http_routes),
                grpc_routes: self.grpc_as_http.values().cloned().collect(),
                ingresses: owned(&self.ingresses),
                ingress_classes: owned(&self.ingress_classes),
                ingress_ports: self.ingress_ports,
                reference_grants: owned(&self.reference_grants),
                services: self.services.iter().cloned().collect(),
                endpoint_slices: self.endpoint_slices.iter().cloned().collect(),
                pods: self.book.facts(),
                secrets: owned(&self.secrets),
                backend_tls_policies: owned(&self.backend_tls_policies),
                config_maps: owned(&self.config_maps),
                namespaces: owned(&self.namespaces),
                policies: owned(&self.policies),
                autoscalers: self.autoscalers.iter().filter_map(|one| autoscaler(one)).collect(),
                gateways_unread: self.gateways.missing().is_some() || self.gateway_classes.missing().is_some(),
                unread: self.unread(),
                exposure: self.exposure(),
                proxy_addresses: self.proxy_addresses(),
                origins: BTreeMap::new(),
            },
            problems: self.problems(),
        }
    }

    /// Where clients reach the proxies: as was said, or as their Service has it.
    fn proxy_addresses(&self) -> Vec<String> {
        let mut addresses = self.addresses.fixed.clone();
        let Some(id) = &self.addresses.service else { return addresses };
        if self.addresses.of_endpoints {
            addresses.extend(self.endpoints_of(id));
        } else if let Some(service) = self.services.get(id) {
            addresses.extend(exposure::addresses_of(service));
        }
        addresses
    }

    /// The addresses of a Service's ready endpoints, each once.
    fn endpoints_of(&self, (namespace, name): &Id) -> BTreeSet<String> {
        let of_service = |slice: &&Arc<EndpointSlice>| {
            let labels = slice.metadata.labels.as_ref();
            slice.metadata.namespace.as_ref() == Some(namespace)
                && labels.and_then(|labels| labels.get(SERVICE_NAME_LABEL)) == Some(name)
        };
        let endpoints = self.endpoint_slices.iter().filter(of_service).flat_map(|slice| &slice.endpoints);
        let ready = endpoints.filter(|one| one.conditions.as_ref().and_then(|of| of.ready).unwrap_or(true));
        ready.flat_map(|endpoint| endpoint.addresses.iter().cloned()).collect()
    }

    fn exposure(&self) -> Exposure {
        match (&self.addresses.per_gateway, &self.addresses.service) {
            (Some(template), _) => Exposure::PerGateway(template.clone()),
            (None, Some(_)) => Exposure::Shared,
            (None, None) => Exposure::Direct,
        }
    }

    /// Watches that have nothing to watch: which, of what kind, and why.
    fn missing(&self) -> Vec<(Scope, &'static str, &str)> {
        fn of<K: Watched>(store: &Store<K>) -> impl Iterator<Item = (Scope, &'static str, &str)> {
            store.all_missing().map(|(scope, reason)| (scope, K::NAME, reason))
        }
        of(&self.gateway_classes)
            .chain(of(&self.gateways))
            .chain(of(&self.http_routes))
            .chain(of(&self.ingresses))
            .chain(of(&self.ingress_classes))
            .chain(of(&self.reference_grants))
            .chain(of(&self.policies))
            .chain(of(&self.services))
            .chain(of(&self.endpoint_slices))
            .chain(of(&self.pods))
            .chain(of(&self.namespaces))
            .chain(of(&self.secrets))
            .chain(of(&self.autoscalers))
            .chain(of(&self.config_maps))
            // Of all kinds these are the youngest: where they are not installed nobody misses them.
            .chain(of(&self.grpc_routes).filter(|(_, _, why)| !why.contains("is not installed")))
            .chain(of(&self.backend_tls_policies).filter(|(_, _, why)| !why.contains("is not installed")))
            .collect()
    }

    fn problems(&self) -> Vec<Problem> {
        let missing = self.missing().into_iter();
        let problem = |(scope, kind, reason)| {
            let namespace = self.places.get(&scope).filter(|_| is_forbidden(reason));
            let object = namespace.map(|namespace| ObjectId::new("Namespace", "", namespace));
            Problem { origin: None, object, field: None, message: format!("{kind} objects are not read: {reason}") }
        };
        let mut problems: Vec<Problem> = missing.map(problem).collect();
        // Watches of all namespaces fail for the same reason.
        problems.dedup();
        problems
    }

    /// Namespaces of which something may not be read.
    fn unread(&self) -> Vec<Unread> {
        let mut by_namespace: BTreeMap<&str, (BTreeSet<&str>, &str)> = BTreeMap::new();
        for (scope, kind, reason) in self.missing() {
            if let Some(namespace) = self.places.get(&scope).filter(|_| is_forbidden(reason)) {
                by_namespace.entry(namespace).or_insert_with(|| (BTreeSet::new(), reason)).0.insert(kind);
            }
        }
        let uid = |name: &str| {
            let found = self.namespaces.iter().find(|namespace| namespace.metadata.name.as_deref() == Some(name));
            found.and_then(|namespace| namespace.metadata.uid.clone()).unwrap_or_default()
        };
        by_namespace
            .into_iter()
            .map(|(namespace, (kinds, reason))| Unread {
                namespace: namespace.to_owned(),
                uid: uid(namespace),
                message: format!("{} objects are not read: {reason}", kinds.into_iter().collect::<Vec<_>>().join(", ")),
            })
            .collect()
    }
}

/// Whether the reason is that it may not be read.
fn is_forbidden(reason: &str) -> bool {
    reason.starts_with(NOT_ALLOWED)
}

/// What an autoscaler says, once it has said it.
fn autoscaler(object: &HorizontalPodAutoscaler) -> Option<Autoscaler> {
    let (target, status) = (&object.spec.as_ref()?.scale_target_ref, object.status.as_ref()?);
    let count = |replicas: i32| u32::try_from(replicas).unwrap_or(0);
    Some(Autoscaler {
        namespace: object.metadata.namespace.clone().unwrap_or_default(),
        target: Workload { kind: target.kind.clone(), name: target.name.clone() },
        replicas: Replicas {
            current: count(status.current_replicas.unwrap_or(0)),
            desired: count(status.desired_replicas),
        },
    })
}

fn owned<K: Watched>(store: &Store<K>) -> Vec<K> {
    store.iter().map(|object| (**object).clone()).collect()
}

fn object_id<K: Watched>((namespace, name): &Id) -> ObjectId {
    ObjectId::new(K::NAME, namespace, name)
}

#[cfg(test)]
mod tests {
    use gateway_api::gateways::{GatewaySpec, GatewayStatus};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    use super::*;

    fn gateway(generation: i64, version: &str) -> Gateway {
        Gateway {
            metadata: ObjectMeta {
                namespace: Some("a".to_owned()),
                name: Some("g".to_owned()),
                generation: Some(generation),
                resource_version: Some(version.to_owned()),
                ..ObjectMeta::default()
            },
            spec: GatewaySpec::default(),
            status: None,
        }
    }

    fn changes(state: &mut State) -> (bool, bool) {
        (state.take_changed(), state.take_restated())
    }

    #[test]
    fn a_status_that_was_written_is_no_change_of_the_configuration() {
        let mut state = State::default();
        state.apply(0, Event::Apply(gateway(1, "1")), 0);
        assert_eq!(changes(&mut state), (true, true));
        let written = Gateway { status: Some(GatewayStatus::default()), ..gateway(1, "2") };
        state.apply(0, Event::Apply(written.clone()), 0);
        assert_eq!(changes(&mut state), (false, true));
        state.apply(0, Event::Apply(written), 0);
        assert_eq!(changes(&mut state), (false, false));
        let current = state.currents().get(&ObjectId::new("Gateway", "a", "g")).unwrap();
        assert_eq!(current.resource_version, "2");
        state.apply(0, Event::Delete(gateway(1, "3")), 0);
        assert_eq!(changes(&mut state), (true, true));
        assert!(state.currents().is_empty());
    }

    #[test]
    fn a_kind_that_comes_back_takes_its_problem_with_it() {
        let mut state = State::default();
        state.policies.begin(0);
        assert!(!state.is_listed());
        assert!(state.miss::<BackendTrafficPolicy>(0, "not installed".to_owned()));
        assert!(state.is_listed());
        assert_eq!(
            state.snapshot().problems[0].to_string(),
            "BackendTrafficPolicy objects are not read: not installed"
        );
        state.take_changed();
        state.apply::<BackendTrafficPolicy>(0, Event::Init, 0);
        state.apply::<BackendTrafficPolicy>(0, Event::InitDone, 0);
        assert!(state.take_changed());
        assert!(state.snapshot().problems.is_empty());
    }

    #[test]
    fn the_certificates_of_ingresses_are_secrets_that_are_wanted() {
        let ingress = |class: &str| {
            let spec = serde_json::json!({"ingressClassName": class, "tls": [{"secretName": "own"}]});
            let metadata = serde_json::json!({"namespace": class, "name": "i"});
            serde_json::from_value::<Ingress>(serde_json::json!({"metadata": metadata, "spec": spec})).unwrap()
        };
        let mut state = State::default();
        state.apply(0, Event::Apply(ingress("trimtab")), 0);
        state.apply(0, Event::Apply(ingress("other")), 0);
        assert_eq!(state.wanted_secrets(), BTreeSet::from([("trimtab".to_owned(), "own".to_owned())]));
        assert!(state.wanted_config_maps().is_empty());
    }
}
