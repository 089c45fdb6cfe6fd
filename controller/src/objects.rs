//! The objects that configure Trimtab, typed, as one immutable value. Providers make it; `gateway` translates it.

use std::{collections::BTreeMap, sync::Arc};

use gateway_api::{
    backendtlspolicies::BackendTlsPolicy, gatewayclasses::GatewayClass, gateways::Gateway, httproutes::HttpRoute,
    referencegrants::ReferenceGrant,
};
use k8s_openapi::api::{
    core::v1::{ConfigMap, Namespace, Secret, Service},
    discovery::v1::EndpointSlice,
    networking::v1::{Ingress, IngressClass},
};

use crate::{
    gateway::{exposure::Exposure, ingress::IngressPorts},
    keys::KeyMap,
    policy::BackendTrafficPolicy,
    problem::{ObjectId, Origin},
};

/// Namespace of an object that names none.
pub const DEFAULT_NAMESPACE: &str = "default";

/// All objects at one moment. Within a kind they are unique by namespace and name; the order carries no meaning.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Objects {
    /// Classes of gateways.
    pub gateway_classes: Vec<GatewayClass>,
    /// Where requests come in.
    pub gateways: Vec<Gateway>,
    /// Where they go.
    pub http_routes: Vec<HttpRoute>,
    /// Where calls go: GRPCRoutes, as the HTTPRoutes that say the same.
    pub grpc_routes: Vec<HttpRoute>,
    /// The older way of saying both.
    pub ingresses: Vec<Ingress>,
    /// Classes of them.
    pub ingress_classes: Vec<IngressClass>,
    /// Who may refer across namespaces.
    pub reference_grants: Vec<ReferenceGrant>,
    /// What routes refer to.
    pub services: Vec<Arc<Service>>,
    /// The addresses behind services. Shared, as services are: they are the many, and most of them stay from one moment to the next.
    pub endpoint_slices: Vec<Arc<EndpointSlice>>,
    /// What pods say of themselves, by the key of their endpoint.
    pub pods: Pods,
    /// What Gateways present to clients: those of type `kubernetes.io/tls` that they refer to.
    pub secrets: Vec<Secret>,
    /// Which Services are spoken to over TLS.
    pub backend_tls_policies: Vec<BackendTlsPolicy>,
    /// Certificates of authorities: those that Gateways and BackendTLSPolicies refer to.
    pub config_maps: Vec<ConfigMap>,
    /// Namespaces, for their labels: `allowedRoutes` selects by them.
    pub namespaces: Vec<Namespace>,
    /// How the requests to a service are spread.
    pub policies: Vec<BackendTrafficPolicy>,
    /// How many pods workloads have, and are to have.
    pub autoscalers: Vec<Autoscaler>,
    /// The ports of Ingresses.
    pub ingress_ports: IngressPorts,
    /// Whether some Gateways or classes may be missing here because they could not be read: nothing is taken away for that.
    pub gateways_unread: bool,
    /// Namespaces of which not everything may be read that should be.
    pub unread: Vec<Unread>,
    /// How clients reach Gateways.
    pub exposure: Exposure,
    /// Where clients reach the proxies, but for Gateways with an address of their own: IP addresses or host names.
    pub proxy_addresses: Vec<String>,
    /// Where an object stands, for those that came from a file.
    pub origins: BTreeMap<ObjectId, Origin>,
}

/// A namespace of which not everything may be read that should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unread {
    /// Its name.
    pub namespace: String,
    /// Its UID; empty where it may not be read itself.
    pub uid: String,
    /// Which kinds are not read, and why.
    pub message: String,
}

/// A HorizontalPodAutoscaler, as far as it is heeded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Autoscaler {
    /// Its namespace, and its target's.
    pub namespace: String,
    /// What it scales.
    pub target: Workload,
    /// How many pods there are, and are to be.
    pub replicas: Replicas,
}

/// What pods belong to, such as a Deployment.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Workload {
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub name: String,
}

/// What an autoscaler says of a workload.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Replicas {
    /// Pods that there are.
    pub current: u32,
    /// Pods that there are to be.
    pub desired: u32,
}

/// Pods by the key of their endpoint.
pub type Pods = Arc<KeyMap<Arc<PodFacts>>>;

/// What is known of a pod beside its endpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodFacts {
    /// When it became ready, milliseconds since the Unix epoch, as far as was seen.
    pub ready_since_ms: Option<i64>,
    /// Annotation `prometheus.io/scrape`.
    pub scrape: Option<bool>,
    /// Annotation `prometheus.io/port`.
    pub metrics_port: Option<u16>,
    /// Annotation `prometheus.io/path`.
    pub metrics_path: Option<String>,
    /// What it belongs to.
    pub workload: Option<Workload>,
}

impl Objects {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.gateway_classes.len()
            + self.gateways.len()
            + self.http_routes.len()
            + self.grpc_routes.len()
            + self.ingresses.len()
            + self.ingress_classes.len()
            + self.reference_grants.len()
            + self.services.len()
            + self.endpoint_slices.len()
            + self.secrets.len()
            + self.backend_tls_policies.len()
            + self.config_maps.len()
            + self.namespaces.len()
            + self.policies.len()
            + self.autoscalers.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
