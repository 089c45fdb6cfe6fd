//! The kinds of objects that a file may hold: how each is named, checked and turned into its Rust type.

use std::sync::{Arc, LazyLock};

use gateway_api::{
    backendtlspolicies::BackendTlsPolicy, gatewayclasses::GatewayClass, gateways::Gateway, grpcroutes::GrpcRoute,
    httproutes::HttpRoute, referencegrants::ReferenceGrant,
};
use k8s_openapi::{
    ByteString,
    api::{
        core::v1::{ConfigMap, Namespace, Secret, Service},
        discovery::v1::EndpointSlice,
        networking::v1::{Ingress, IngressClass},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;

use super::schema::Schema;
use crate::{
    gateway::{
        backend_tls, endpoints, grpc, ingress, listeners,
        routes::{self, RouteKind},
        services, settings,
    },
    objects::Objects,
    policy::BackendTrafficPolicy,
    problem::Report,
};

/// One object of a known kind.
#[derive(Debug, Clone, PartialEq)]
#[allow(clippy::large_enum_variant, reason = "few are alive at once, and they end up in vectors of their own type")]
pub enum Object {
    /// A class of gateways.
    GatewayClass(GatewayClass),
    /// Where requests come in.
    Gateway(Gateway),
    /// Where they go.
    HttpRoute(HttpRoute),
    /// Where gRPC calls go.
    GrpcRoute(GrpcRoute),
    /// Both in one, as it was said before there was the Gateway API.
    Ingress(Ingress),
    /// A class of them.
    IngressClass(IngressClass),
    /// Who may refer across namespaces.
    ReferenceGrant(ReferenceGrant),
    /// What routes refer to.
    Service(Service),
    /// Addresses behind a service.
    EndpointSlice(EndpointSlice),
    /// A certificate and its key.
    Secret(Secret),
    /// Which Services are spoken to over TLS.
    BackendTlsPolicy(BackendTlsPolicy),
    /// Certificates of authorities.
    ConfigMap(ConfigMap),
    /// A namespace and its labels.
    Namespace(Namespace),
    /// How requests to a service are spread.
    Policy(BackendTrafficPolicy),
}

/// A kind.
pub struct Kind {
    /// `apiVersion`, e.g. "gateway.networking.k8s.io/v1".
    pub api_version: &'static str,
    /// `kind`, e.g. "HTTPRoute".
    pub kind: &'static str,
    /// Whether its objects have a namespace.
    pub namespaced: bool,
    schema: LazyLock<Schema>,
    parse: fn(serde_json::Value) -> Result<Object, serde_path_to_error::Error<serde_json::Error>>,
}

impl Kind {
    /// What an object of this kind must look like.
    pub fn schema(&self) -> &Schema {
        &self.schema
    }

    /// The object.
    ///
    /// # Errors
    /// What the schema cannot say, with the field, e.g. a timestamp that is none.
    pub fn parse(&self, value: serde_json::Value) -> Result<Object, serde_path_to_error::Error<serde_json::Error>> {
        (self.parse)(value)
    }
}

/// All of them.
pub static KINDS: [Kind; 15] = [
    Kind {
        api_version: "gateway.networking.k8s.io/v1",
        kind: "GatewayClass",
        namespaced: false,
        schema: LazyLock::new(Schema::of_object::<GatewayClass>),
        parse: |value| typed(value).map(Object::GatewayClass),
    },
    Kind {
        api_version: "gateway.networking.k8s.io/v1",
        kind: "Gateway",
        namespaced: true,
        schema: LazyLock::new(Schema::of_object::<Gateway>),
        parse: |value| typed(value).map(Object::Gateway),
    },
    Kind {
        api_version: "gateway.networking.k8s.io/v1",
        kind: "HTTPRoute",
        namespaced: true,
        schema: LazyLock::new(Schema::of_object::<HttpRoute>),
        parse: |value| typed(value).map(Object::HttpRoute),
    },
    Kind {
        api_version: "gateway.networking.k8s.io/v1",
        kind: "GRPCRoute",
        namespaced: true,
        schema: LazyLock::new(Schema::of_object::<GrpcRoute>),
        parse: |value| typed(value).map(Object::GrpcRoute),
    },
    Kind {
        api_version: "networking.k8s.io/v1",
        kind: "Ingress",
        namespaced: true,
        schema: LazyLock::new(Schema::of_object::<Ingress>),
        parse: |value| typed(value).map(Object::Ingress),
    },
    Kind {
        api_version: "networking.k8s.io/v1",
        kind: "IngressClass",
        namespaced: false,
        schema: LazyLock::new(Schema::of_object::<IngressClass>),
        parse: |value| typed(value).map(Object::IngressClass),
    },
    Kind {
        api_version: "gateway.networking.k8s.io/v1",
        kind: "ReferenceGrant",
        namespaced: true,
        schema: LazyLock::new(Schema::of_object::<ReferenceGrant>),
        parse: |value| typed(value).map(Object::ReferenceGrant),
    },
    Kind {
        api_version: "gateway.networking.k8s.io/v1beta1",
        kind: "ReferenceGrant",
        namespaced: true,
        schema: LazyLock::new(Schema::of_object::<ReferenceGrant>),
        // The two versions differ in nothing but their name.
        parse: |mut value| {
            if let Some(version) = value.get_mut("apiVersion") {
                *version = "gateway.networking.k8s.io/v1".into();
            }
            typed(value).map(Object::ReferenceGrant)
        },
    },
    Kind {
        api_version: "v1",
        kind: "Service",
        namespaced: true,
        schema: LazyLock::new(Schema::of_object::<Service>),
        parse: |value| typed(value).map(Object::Service),
    },
    Kind {
        api_version: "discovery.k8s.io/v1",
        kind: "EndpointSlice",
        namespaced: true,
        schema: LazyLock::new(Schema::of_object::<EndpointSlice>),
        parse: |value| typed(value).map(Object::EndpointSlice),
    },
    Kind {
        api_version: "v1",
        kind: "Secret",
        namespaced: true,
        schema: LazyLock::new(Schema::of_object::<Secret>),
        // In a file a certificate may stand as text; the API server would move it to `data` as well.
        parse: |value| {
            typed(value).map(|mut secret: Secret| {
                let text = secret.string_data.take().unwrap_or_default();
                let bytes = text.into_iter().map(|(name, text)| (name, ByteString(text.into_bytes())));
                secret.data.get_or_insert_default().extend(bytes);
                Object::Secret(secret)
            })
        },
    },
    Kind {
        api_version: "gateway.networking.k8s.io/v1",
        kind: "BackendTLSPolicy",
        namespaced: true,
        schema: LazyLock::new(Schema::of_object::<BackendTlsPolicy>),
        parse: |value| typed(value).map(Object::BackendTlsPolicy),
    },
    Kind {
        api_version: "v1",
        kind: "ConfigMap",
        namespaced: true,
        schema: LazyLock::new(Schema::of_object::<ConfigMap>),
        parse: |value| typed(value).map(Object::ConfigMap),
    },
    Kind {
        api_version: "v1",
        kind: "Namespace",
        namespaced: false,
        schema: LazyLock::new(Schema::of_object::<Namespace>),
        parse: |value| typed(value).map(Object::Namespace),
    },
    Kind {
        api_version: "trimtab.dev/v1alpha1",
        kind: "BackendTrafficPolicy",
        namespaced: true,
        schema: LazyLock::new(Schema::of_object::<BackendTrafficPolicy>),
        parse: |value| typed(value).map(Object::Policy),
    },
];

fn typed<T: DeserializeOwned + JsonSchema>(
    value: serde_json::Value,
) -> Result<T, serde_path_to_error::Error<serde_json::Error>> {
    serde_path_to_error::deserialize(value)
}

impl Object {
    /// Checks what neither schema nor type can say, and what can be told without looking at other objects.
    pub fn check(&self, report: &mut Report) {
        match self {
            Object::GatewayClass(_)
            | Object::IngressClass(_)
            | Object::ReferenceGrant(_)
            | Object::Secret(_)
            | Object::ConfigMap(_)
            | Object::Namespace(_) => {}
            Object::Ingress(object) => ingress::check(object, report),
            Object::BackendTlsPolicy(policy) => backend_tls::check(policy, report),
            Object::Gateway(gateway) => listeners::check(gateway, report),
            Object::HttpRoute(route) => routes::check(route, RouteKind::Http, report),
            Object::GrpcRoute(route) => grpc::check(route, report),
            Object::Service(service) => services::check(service, report),
            Object::EndpointSlice(slice) => endpoints::check(slice, report),
            Object::Policy(policy) => settings::check(policy, report),
        }
    }

    /// Its metadata, to be completed.
    pub fn metadata_mut(&mut self) -> &mut ObjectMeta {
        match self {
            Object::GatewayClass(object) => &mut object.metadata,
            Object::Gateway(object) => &mut object.metadata,
            Object::HttpRoute(object) => &mut object.metadata,
            Object::GrpcRoute(object) => &mut object.metadata,
            Object::Ingress(object) => &mut object.metadata,
            Object::IngressClass(object) => &mut object.metadata,
            Object::ReferenceGrant(object) => &mut object.metadata,
            Object::Service(object) => &mut object.metadata,
            Object::EndpointSlice(object) => &mut object.metadata,
            Object::Secret(object) => &mut object.metadata,
            Object::BackendTlsPolicy(object) => &mut object.metadata,
            Object::ConfigMap(object) => &mut object.metadata,
            Object::Namespace(object) => &mut object.metadata,
            Object::Policy(object) => &mut object.metadata,
        }
    }

    /// Puts it where it belongs.
    pub fn insert_into(self, objects: &mut Objects) {
        match self {
            Object::GatewayClass(object) => objects.gateway_classes.push(object),
            Object::Gateway(object) => objects.gateways.push(object),
            Object::HttpRoute(object) => objects.http_routes.push(object),
            Object::GrpcRoute(object) => objects.grpc_routes.push(grpc::as_http(&object)),
            Object::Ingress(object) => objects.ingresses.push(object),
            Object::IngressClass(object) => objects.ingress_classes.push(object),
            Object::ReferenceGrant(object) => objects.reference_grants.push(object),
            Object::Service(object) => objects.services.push(Arc::new(object)),
            Object::EndpointSlice(object) => objects.endpoint_slices.push(Arc::new(object)),
            Object::Secret(object) => objects.secrets.push(object),
            Object::BackendTlsPolicy(object) => objects.backend_tls_policies.push(object),
            Object::ConfigMap(object) => objects.config_maps.push(object),
            Object::Namespace(object) => objects.namespaces.push(object),
            Object::Policy(object) => objects.policies.push(object),
        }
    }
}
