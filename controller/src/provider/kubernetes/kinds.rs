//! The kinds that are watched: what is kept of each, and where. What is not kept (field managers, annotations, other controllers' status)
//! costs no memory, and its changes disturb nobody.

use std::fmt::Debug;

use gateway_api::{
    backendtlspolicies::BackendTlsPolicy, gatewayclasses::GatewayClass, gateways::Gateway, grpcroutes::GrpcRoute,
    httproutes::HttpRoute, referencegrants::ReferenceGrant,
};
use k8s_openapi::{
    api::{
        autoscaling::v2::{HorizontalPodAutoscaler, HorizontalPodAutoscalerSpec, HorizontalPodAutoscalerStatus},
        core::v1::{ConfigMap, Namespace, Pod, Secret, Service, ServiceStatus},
        discovery::v1::EndpointSlice,
        networking::v1::{Ingress, IngressClass},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Resource, core::PartialObjectMeta};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{
    pods::TEMPLATE_HASH_LABEL,
    state::State,
    store::{Id, Replaced, Same, Store},
};
use crate::{
    audit::last_writer,
    gateway::{
        backends::SERVICE_NAME_LABEL,
        exposure::GATEWAY_LABEL,
        ingress::{CLASS_ANNOTATION, DEFAULT_CLASS_ANNOTATION},
    },
    policy::BackendTrafficPolicy,
    problem::OWN_PREFIX,
};

/// Annotations of pods that are heeded.
pub(super) const POD_ANNOTATIONS: [&str; 3] = ["prometheus.io/scrape", "prometheus.io/port", "prometheus.io/path"];

/// What is needed to write the status of an object.
#[derive(Debug, Clone, PartialEq)]
pub struct Current {
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.resourceVersion`.
    pub resource_version: String,
    /// The status as it stands.
    pub status: Value,
}

/// A kind that is watched.
pub(super) trait Watched:
    Resource<DynamicType = ()> + Same + Clone + DeserializeOwned + Debug + Send + Sync + 'static
{
    /// What it is called.
    const NAME: &'static str;
    /// Whether it is people who write it, so that it is of interest who did.
    const AUDITED: bool = false;

    /// Where its objects are kept.
    fn store(state: &mut State) -> &mut Store<Self>;

    /// Drops what nobody reads, and hands out the status where Trimtab writes one.
    fn strip(&mut self) -> Option<Value>;

    /// Takes note of a change, and tells whether it bears on the configuration.
    fn note(_state: &mut State, _replaced: &Replaced<Self>) -> bool {
        true
    }
}

/// Strips an object, and says what it is called and how its status stands.
pub(super) fn split<K: Watched>(mut object: K) -> (Id, K, Option<Current>) {
    let metadata = object.meta_mut();
    let id = (metadata.namespace.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default());
    let (uid, version) = (metadata.uid.clone(), metadata.resource_version.take());
    metadata.managed_fields = if K::AUDITED { last_writer(metadata.managed_fields.take()) } else { None };
    let status = object.strip();
    let current = status.map(|status| Current {
        uid: uid.unwrap_or_default(),
        resource_version: version.unwrap_or_default(),
        status,
    });
    (id, object, current)
}

/// What identifies an object and orders it by age.
fn bare(metadata: &ObjectMeta) -> ObjectMeta {
    ObjectMeta {
        name: metadata.name.clone(),
        namespace: metadata.namespace.clone(),
        uid: metadata.uid.clone(),
        creation_timestamp: metadata.creation_timestamp.clone(),
        generation: metadata.generation,
        managed_fields: metadata.managed_fields.clone(),
        ..ObjectMeta::default()
    }
}

/// The same with those of its annotations that are heeded.
fn with_annotations(metadata: &mut ObjectMeta, is_heeded: impl Fn(&str) -> bool) -> ObjectMeta {
    let mut annotations = metadata.annotations.take().unwrap_or_default();
    annotations.retain(|name, _| is_heeded(name));
    ObjectMeta { annotations: (!annotations.is_empty()).then_some(annotations), ..bare(metadata) }
}

fn as_value(status: Option<impl serde::Serialize>) -> Option<Value> {
    Some(status.and_then(|status| serde_json::to_value(status).ok()).unwrap_or(Value::Null))
}

macro_rules! same {
    ($($kind:ty),*) => {
        $(impl Same for $kind {
            fn same(&self, other: &Self) -> bool {
                self == other
            }
        })*
    };
}

same!(
    GatewayClass,
    Gateway,
    HttpRoute,
    GrpcRoute,
    Ingress,
    IngressClass,
    ReferenceGrant,
    Service,
    EndpointSlice,
    Namespace,
    Secret,
    ConfigMap,
    BackendTlsPolicy,
    BackendTrafficPolicy,
    HorizontalPodAutoscaler
);

impl Same for PartialObjectMeta<Pod> {
    fn same(&self, other: &Self) -> bool {
        self.metadata == other.metadata
    }
}

macro_rules! with_status {
    ($kind:ty, $name:literal, $store:ident) => {
        impl Watched for $kind {
            const NAME: &'static str = $name;
            const AUDITED: bool = true;

            fn store(state: &mut State) -> &mut Store<Self> {
                &mut state.$store
            }

            fn strip(&mut self) -> Option<Value> {
                self.metadata = bare(&self.metadata);
                as_value(self.status.take())
            }
        }
    };
}

with_status!(GatewayClass, "GatewayClass", gateway_classes);
with_status!(HttpRoute, "HTTPRoute", http_routes);

impl Watched for Gateway {
    const NAME: &'static str = "Gateway";
    const AUDITED: bool = true;

    fn store(state: &mut State) -> &mut Store<Self> {
        &mut state.gateways
    }

    fn strip(&mut self) -> Option<Value> {
        // They do nothing here, which people are told.
        self.metadata = with_annotations(&mut self.metadata, |name| name.starts_with(OWN_PREFIX));
        as_value(self.status.take())
    }
}

impl Watched for GrpcRoute {
    const NAME: &'static str = "GRPCRoute";
    const AUDITED: bool = true;

    fn store(state: &mut State) -> &mut Store<Self> {
        &mut state.grpc_routes
    }

    fn strip(&mut self) -> Option<Value> {
        self.metadata = bare(&self.metadata);
        as_value(self.status.take())
    }

    fn note(state: &mut State, replaced: &Replaced<Self>) -> bool {
        state.note_grpc_route(replaced);
        true
    }
}
with_status!(BackendTlsPolicy, "BackendTLSPolicy", backend_tls_policies);
with_status!(BackendTrafficPolicy, "BackendTrafficPolicy", policies);

impl Watched for Ingress {
    const NAME: &'static str = "Ingress";

    fn store(state: &mut State) -> &mut Store<Self> {
        &mut state.ingresses
    }

    fn strip(&mut self) -> Option<Value> {
        self.metadata = with_annotations(&mut self.metadata, |name| name == CLASS_ANNOTATION);
        as_value(self.status.take())
    }
}

impl Watched for IngressClass {
    const NAME: &'static str = "IngressClass";

    fn store(state: &mut State) -> &mut Store<Self> {
        &mut state.ingress_classes
    }

    fn strip(&mut self) -> Option<Value> {
        self.metadata = with_annotations(&mut self.metadata, |name| name == DEFAULT_CLASS_ANNOTATION);
        None
    }
}

impl Watched for ReferenceGrant {
    const NAME: &'static str = "ReferenceGrant";
    const AUDITED: bool = true;

    fn store(state: &mut State) -> &mut Store<Self> {
        &mut state.reference_grants
    }

    fn strip(&mut self) -> Option<Value> {
        self.metadata = bare(&self.metadata);
        None
    }
}

impl Watched for Service {
    const NAME: &'static str = "Service";

    fn store(state: &mut State) -> &mut Store<Self> {
        &mut state.services
    }

    /// Of its status only the load balancer's addresses are read, for those of Gateways.
    fn strip(&mut self) -> Option<Value> {
        let mut labels = self.metadata.labels.take().unwrap_or_default();
        labels.retain(|name, _| name == GATEWAY_LABEL);
        let labels = (!labels.is_empty()).then_some(labels);
        self.metadata = ObjectMeta { labels, ..bare(&self.metadata) };
        let load_balancer = self.status.take().and_then(|status| status.load_balancer);
        self.status = load_balancer
            .map(|load_balancer| ServiceStatus { load_balancer: Some(load_balancer), ..ServiceStatus::default() });
        None
    }
}

impl Watched for EndpointSlice {
    const NAME: &'static str = "EndpointSlice";

    fn store(state: &mut State) -> &mut Store<Self> {
        &mut state.endpoint_slices
    }

    fn strip(&mut self) -> Option<Value> {
        let labels = self.metadata.labels.take().unwrap_or_default();
        self.metadata = ObjectMeta {
            labels: Some(labels.into_iter().filter(|(name, _)| name == SERVICE_NAME_LABEL).collect()),
            // The endpoints controller counts it up with every change of what a pod is.
            generation: None,
            ..bare(&self.metadata)
        };
        for endpoint in &mut self.endpoints {
            endpoint.hints = None;
            endpoint.hostname = None;
            endpoint.deprecated_topology = None;
            if let Some(target) = &mut endpoint.target_ref {
                target.resource_version = None;
            }
        }
        None
    }

    fn note(state: &mut State, replaced: &Replaced<Self>) -> bool {
        state.note_slice(replaced);
        true
    }
}

impl Watched for Namespace {
    const NAME: &'static str = "Namespace";

    fn store(state: &mut State) -> &mut Store<Self> {
        &mut state.namespaces
    }

    fn strip(&mut self) -> Option<Value> {
        let labels = self.metadata.labels.take();
        self.metadata = ObjectMeta { labels, ..bare(&self.metadata) };
        (self.spec, self.status) = (None, None);
        None
    }
}

impl Watched for HorizontalPodAutoscaler {
    const NAME: &'static str = "HorizontalPodAutoscaler";

    fn store(state: &mut State) -> &mut Store<Self> {
        &mut state.autoscalers
    }

    /// What it scales, and how many pods there are and are to be. Its metrics, which change all the time, are its own affair.
    fn strip(&mut self) -> Option<Value> {
        self.metadata = bare(&self.metadata);
        let target = self.spec.take().map(|spec| spec.scale_target_ref).unwrap_or_default();
        self.spec = Some(HorizontalPodAutoscalerSpec { scale_target_ref: target, ..Default::default() });
        self.status = self.status.take().map(|status| HorizontalPodAutoscalerStatus {
            current_replicas: status.current_replicas,
            desired_replicas: status.desired_replicas,
            ..Default::default()
        });
        None
    }
}

impl Watched for Secret {
    const NAME: &'static str = "Secret";
    const AUDITED: bool = true;

    fn store(state: &mut State) -> &mut Store<Self> {
        &mut state.secrets
    }

    fn strip(&mut self) -> Option<Value> {
        self.metadata = bare(&self.metadata);
        None
    }
}

impl Watched for ConfigMap {
    const NAME: &'static str = "ConfigMap";

    fn store(state: &mut State) -> &mut Store<Self> {
        &mut state.config_maps
    }

    fn strip(&mut self) -> Option<Value> {
        self.metadata = bare(&self.metadata);
        None
    }
}

impl Watched for PartialObjectMeta<Pod> {
    const NAME: &'static str = "Pod";

    fn store(state: &mut State) -> &mut Store<Self> {
        &mut state.pods
    }

    fn strip(&mut self) -> Option<Value> {
        let mut labels = self.metadata.labels.take().unwrap_or_default();
        labels.retain(|name, _| name == TEMPLATE_HASH_LABEL);
        let mut owners = self.metadata.owner_references.take().unwrap_or_default();
        owners.retain(|owner| owner.controller == Some(true));
        self.metadata = ObjectMeta {
            labels: (!labels.is_empty()).then_some(labels),
            owner_references: (!owners.is_empty()).then_some(owners),
            generation: None,
            ..with_annotations(&mut self.metadata, |name| POD_ANNOTATIONS.contains(&name))
        };
        None
    }

    fn note(state: &mut State, replaced: &Replaced<Self>) -> bool {
        state.note_pod(replaced)
    }
}
