//! The objects that flags stand for: a Gateway a `--listen`, one HTTPRoute for everything, one Service with its EndpointSlices, one policy.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use gateway_api::{
    gateways::{Gateway, GatewayAddresses, GatewayListeners, GatewaySpec},
    httproutes::{HttpRoute, HttpRouteParentRefs, HttpRouteRules, HttpRouteRulesBackendRefs, HttpRouteSpec},
};
use k8s_openapi::{
    api::{
        core::v1::{Service, ServicePort, ServiceSpec},
        discovery::v1::{Endpoint, EndpointPort, EndpointSlice},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use super::{backends_file::Line, flags::Flags};
use crate::{
    address::Host,
    gateway::{backends::SERVICE_NAME_LABEL, listeners::GATEWAY_CLASS},
    objects::{DEFAULT_NAMESPACE, Objects},
    policy::{Adaptive, BackendTrafficPolicy, BackendTrafficPolicySpec, LoadBalancer, Objective, TargetRef},
};

/// Name of the Service, and of the objects that go with it.
const NAME: &str = "app";

/// Port of the Service; what endpoints really listen on is up to them.
const PORT: i32 = 80;

/// Name of that port.
const PORT_NAME: &str = "http";

/// All objects.
pub(super) fn objects(flags: &Flags, endpoints: &[Line]) -> Objects {
    let gateways: Vec<Gateway> =
        flags.listen.iter().enumerate().map(|(index, address)| gateway(index, address.ip(), address.port())).collect();
    let parents = gateways.iter().filter_map(|gateway| gateway.metadata.name.clone());
    Objects {
        http_routes: vec![route(parents)],
        gateways,
        services: vec![Arc::new(service())],
        endpoint_slices: slices(endpoints),
        policies: vec![policy(flags)],
        ..Objects::default()
    }
}

/// The policy alone.
pub(super) fn policy(flags: &Flags) -> BackendTrafficPolicy {
    BackendTrafficPolicy {
        metadata: metadata(NAME.to_owned()),
        spec: BackendTrafficPolicySpec {
            target_refs: vec![TargetRef { name: NAME.to_owned(), ..TargetRef::default() }],
            load_balancer: Some(LoadBalancer { algorithm: Some(flags.algorithm), ..LoadBalancer::default() }),
            adaptive: Some(Adaptive {
                mode: flags.mode,
                objective: flags.objective.map(|latency| Objective { latency: Some(latency) }),
                metrics: Some(flags.metrics.clone()),
                terms: flags.terms,
                ..Adaptive::default()
            }),
            ..BackendTrafficPolicySpec::default()
        },
        status: None,
    }
}

fn metadata(name: String) -> ObjectMeta {
    ObjectMeta { name: Some(name), namespace: Some(DEFAULT_NAMESPACE.to_owned()), ..ObjectMeta::default() }
}

fn gateway(index: usize, address: IpAddr, port: u16) -> Gateway {
    Gateway {
        metadata: metadata(format!("listen-{}", index + 1)),
        spec: GatewaySpec {
            gateway_class_name: GATEWAY_CLASS.to_owned(),
            addresses: Some(vec![GatewayAddresses {
                r#type: Some("IPAddress".to_owned()),
                value: Some(address.to_string()),
            }]),
            listeners: vec![GatewayListeners {
                name: "http".to_owned(),
                port: i32::from(port),
                protocol: "HTTP".to_owned(),
                ..GatewayListeners::default()
            }],
            ..GatewaySpec::default()
        },
        status: None,
    }
}

fn route(parents: impl Iterator<Item = String>) -> HttpRoute {
    HttpRoute {
        metadata: metadata(NAME.to_owned()),
        spec: HttpRouteSpec {
            parent_refs: Some(
                parents.map(|name| HttpRouteParentRefs { name, ..HttpRouteParentRefs::default() }).collect(),
            ),
            rules: Some(vec![HttpRouteRules {
                backend_refs: Some(vec![HttpRouteRulesBackendRefs {
                    name: NAME.to_owned(),
                    port: Some(PORT),
                    ..HttpRouteRulesBackendRefs::default()
                }]),
                ..HttpRouteRules::default()
            }]),
            ..HttpRouteSpec::default()
        },
        status: None,
    }
}

fn service() -> Service {
    Service {
        metadata: metadata(NAME.to_owned()),
        spec: Some(ServiceSpec {
            ports: Some(vec![ServicePort { name: Some(PORT_NAME.to_owned()), port: PORT, ..ServicePort::default() }]),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

/// A slice has one port for all of its endpoints, and one type of address: one slice for each combination.
fn slices(lines: &[Line]) -> Vec<Arc<EndpointSlice>> {
    let mut groups: BTreeMap<(&str, u16), Vec<&Line>> = BTreeMap::new();
    for line in lines {
        let address_type = match &line.address.host {
            Host::Ip(IpAddr::V4(_)) => "IPv4",
            Host::Ip(IpAddr::V6(_)) => "IPv6",
            Host::Name(_) => "FQDN",
        };
        groups.entry((address_type, line.address.port)).or_default().push(line);
    }
    let slice = |((address_type, port), lines): ((&str, u16), Vec<&Line>)| EndpointSlice {
        metadata: ObjectMeta {
            labels: Some(BTreeMap::from([(SERVICE_NAME_LABEL.to_owned(), NAME.to_owned())])),
            ..metadata(format!("{NAME}-{}-{port}", address_type.to_ascii_lowercase()))
        },
        address_type: address_type.to_owned(),
        endpoints: lines
            .into_iter()
            .map(|line| Endpoint {
                addresses: vec![line.address.host.to_string()],
                zone: line.zone.clone(),
                ..Endpoint::default()
            })
            .collect(),
        ports: Some(vec![EndpointPort {
            name: Some(PORT_NAME.to_owned()),
            port: Some(i32::from(port)),
            ..EndpointPort::default()
        }]),
    };
    groups.into_iter().map(slice).map(Arc::new).collect()
}
