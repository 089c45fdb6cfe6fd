//! Where clients reach a Gateway: on the proxies' own addresses, on those of a load balancer or Service that all Gateways share, or on a Service
//! of its own that the controller makes. What a Gateway asks for in `spec.addresses` is honoured where it can be, and refused by name where not.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, btree_map::Entry},
    net::IpAddr,
    sync::Arc,
};

use gateway_api::gateways::Gateway;
use k8s_openapi::{
    api::core::v1::{Service, ServicePort, ServiceSpec},
    apimachinery::pkg::{apis::meta::v1::ObjectMeta, util::intstr::IntOrString},
};

use super::{fingerprint::Fnv1a, listeners, name_of, namespace_of, status::reason};
use crate::{objects::Objects, problem::Report};

/// The label of Services that the controller makes, each for one Gateway.
pub const GATEWAY_LABEL: &str = "trimtab.dev/gateway";

/// GEP-1762: the name of the Gateway that an object is made for.
const GATEWAY_NAME_LABEL: &str = "gateway.networking.k8s.io/gateway-name";

/// Longest value of a label, and longest name of a Service.
const LABEL_BYTES_MAX: usize = 63;

/// The proxies' ports for Gateways with a Service of their own: two of them may have the same port, each on its own address.
pub const TARGET_PORT_MIN: u16 = 20_000;
/// How many there are.
pub const TARGET_PORTS: u16 = 10_000;

/// How clients reach the proxies of a cluster.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Exposure {
    /// On the addresses that Gateways ask for, which are the proxies' own.
    #[default]
    Direct,
    /// On addresses in front of the proxies, the same for all Gateways.
    Shared,
    /// Each Gateway on a Service of its own, made after this one.
    PerGateway(Template),
}

/// What the Services of Gateways have in common.
pub type Template = Arc<Service>;

/// Reads a template from JSON.
///
/// # Errors
/// It is no Service, or lacks what cannot be guessed.
pub fn template(text: &str) -> Result<Template, String> {
    let service: Service =
        serde_json::from_str(text).map_err(|error| format!("it is not a Service in JSON: {error}"))?;
    let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    if service.metadata.namespace.is_none() {
        return Err("metadata.namespace is missing, expected the namespace of the proxies".to_owned());
    }
    match selector.is_some_and(|selector| !selector.is_empty()) {
        true => Ok(Arc::new(service)),
        false => Err("spec.selector is missing, expected the labels of the proxies".to_owned()),
    }
}

/// A Service that the controller makes for a Gateway.
#[derive(Debug, Clone, PartialEq)]
pub struct GatewayService {
    /// Namespace and name of the Gateway.
    pub gateway: (String, String),
    /// As it is to be.
    pub service: Service,
    /// Whether it stands like that.
    pub stands: bool,
}

/// Services of Gateways.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GatewayServices {
    /// Those that are to be there.
    pub wanted: Vec<GatewayService>,
    /// Namespace and name of those whose Gateway is gone.
    pub gone: Vec<(String, String)>,
}

/// Where one Gateway is reached.
pub(super) struct Exposed {
    /// What the proxies listen on.
    pub listen: Vec<IpAddr>,
    /// The proxies' ports by the Gateway's, where they differ.
    pub targets: BTreeMap<u16, u16>,
    /// Where clients reach it.
    pub addresses: Vec<String>,
    /// Why it is reached nowhere, if it is not.
    pub pending: &'static str,
}

/// Hands out addresses and ports, Gateway by Gateway.
pub(super) struct Exposures<'a> {
    objects: &'a Objects,
    /// Services that stand, by name.
    standing: HashMap<&'a str, &'a Service>,
    taken: BTreeSet<u16>,
    services: GatewayServices,
}

impl<'a> Exposures<'a> {
    pub fn new(objects: &'a Objects) -> Self {
        let mut exposures =
            Self { objects, standing: HashMap::new(), taken: BTreeSet::new(), services: GatewayServices::default() };
        if let Exposure::PerGateway(template) = &objects.exposure {
            let namespace = template.metadata.namespace.as_deref().unwrap_or_default();
            let made = |service: &&Arc<Service>| {
                let labels = service.metadata.labels.as_ref();
                service.metadata.namespace.as_deref() == Some(namespace)
                    && labels.is_some_and(|labels| labels.contains_key(GATEWAY_LABEL))
            };
            for service in objects.services.iter().filter(made) {
                exposures.standing.insert(name_of(&service.metadata), service);
                exposures.taken.extend(ports(service).filter_map(target));
            }
        }
        exposures
    }

    /// Where a Gateway is reached. What it asks for in vain is reported.
    pub fn of(&mut self, gateway: &Gateway, report: &mut Report) -> Exposed {
        let proxies = &self.objects.proxy_addresses;
        match &self.objects.exposure {
            Exposure::Direct => {
                let listen = listeners::addresses(gateway, report);
                let asked = gateway.spec.addresses.iter().flatten().filter_map(|address| address.value.clone());
                let asked: Vec<String> = asked.collect();
                Exposed {
                    listen,
                    targets: BTreeMap::new(),
                    addresses: if asked.is_empty() { proxies.clone() } else { asked },
                    pending: "it is not known where the proxies are reached, expected --gateway-address or --gateway-service of the \
                              controller, or spec.addresses",
                }
            }
            Exposure::Shared => shared(gateway, proxies, report),
            Exposure::PerGateway(template) => {
                let template = template.clone();
                self.own(gateway, &template, report)
            }
        }
    }

    /// What has to be made for the Gateways that were asked about, and what is left over. Where Gateways could not be read nothing is: an address
    /// that is given back may be somebody else's afterwards.
    pub fn into_services(mut self) -> GatewayServices {
        if self.objects.gateways_unread {
            return self.services;
        }
        let wanted: BTreeSet<&str> =
            self.services.wanted.iter().map(|wanted| name_of(&wanted.service.metadata)).collect();
        let gone = self.standing.values().filter(|service| !wanted.contains(name_of(&service.metadata)));
        let id =
            |service: &&Service| (namespace_of(&service.metadata).to_owned(), name_of(&service.metadata).to_owned());
        let mut gone: Vec<_> = gone.map(id).collect();
        gone.sort();
        self.services.gone = gone;
        self.services
    }

    fn own(&mut self, gateway: &Gateway, template: &Service, report: &mut Report) -> Exposed {
        let name = service_name(gateway);
        let standing = self.standing.get(name.as_str()).copied();
        let mut targets = BTreeMap::new();
        for listener in &gateway.spec.listeners {
            let Some(port) = u16::try_from(listener.port).ok().filter(|port| *port > 0) else { continue };
            if let Entry::Vacant(vacant) = targets.entry(port) {
                let held = standing.into_iter().flat_map(ports).find(|one| one.port == i32::from(port));
                if let Some(target) = held.and_then(target).or_else(|| self.free(&name, port)) {
                    self.taken.insert(target);
                    vacant.insert(target);
                }
            }
        }
        let requested = requested(gateway, report);
        let service = service(gateway, template, &name, &targets, requested.first().map(String::as_str));
        let stands = standing.is_some_and(|standing| covers(standing, &service));
        let addresses = standing.map(addresses_of).unwrap_or_default();
        let of = (namespace_of(&gateway.metadata).to_owned(), name_of(&gateway.metadata).to_owned());
        self.services.wanted.push(GatewayService { gateway: of, service, stands });
        let addresses = only(requested, addresses, report);
        Exposed {
            listen: vec![IpAddr::from([0, 0, 0, 0])],
            targets,
            addresses,
            pending: "the Service that was made for it has no address yet",
        }
    }

    /// A port of the proxies that nobody has; the same again as long as nothing else changes.
    fn free(&self, service: &str, port: u16) -> Option<u16> {
        let first = Fnv1a::new().text(service).number(u64::from(port)).get() % u64::from(TARGET_PORTS);
        let first = u16::try_from(first).unwrap_or_default();
        (0..TARGET_PORTS)
            .map(|step| TARGET_PORT_MIN + (first + step) % TARGET_PORTS)
            .find(|port| !self.taken.contains(port))
    }
}

/// All Gateways on the same addresses: one that asks for others cannot have them.
fn shared(gateway: &Gateway, proxies: &[String], report: &mut Report) -> Exposed {
    let requested = requested(gateway, report);
    let addresses = only(requested, proxies.to_vec(), report);
    Exposed {
        listen: vec![IpAddr::from([0, 0, 0, 0])],
        targets: BTreeMap::new(),
        addresses,
        pending: "the Service in front of the proxies has no address yet, see --gateway-service of the controller",
    }
}

/// The addresses that a Gateway asks for by value. One without a value leaves the choice to us.
fn requested(gateway: &Gateway, report: &mut Report) -> Vec<String> {
    let mut requested = Vec::new();
    for (index, address) in gateway.spec.addresses.iter().flatten().enumerate() {
        let value = address.value.clone().filter(|value| !value.is_empty());
        match address.r#type.as_deref().unwrap_or("IPAddress") {
            "IPAddress" | "Hostname" => requested.extend(value),
            other => report.unresolved(
                format!("spec.addresses[{index}].type"),
                format!("\"{other}\" is not supported, expected IPAddress or Hostname"),
            ),
        }
    }
    requested
}

/// Those of the addresses that were asked for, if any were.
fn only(requested: Vec<String>, held: Vec<String>, report: &mut Report) -> Vec<String> {
    if requested.is_empty() || held.is_empty() {
        return held;
    }
    for address in requested.iter().filter(|address| !held.contains(address)) {
        let message = format!("{address} cannot be had, expected one of {}", held.join(", "));
        report.refused(reason::ADDRESS_NOT_USABLE, "spec.addresses", message);
    }
    held.into_iter().filter(|address| requested.contains(address)).collect()
}

/// The name of a Gateway's Service: for people, and made unique by a hash of namespace and name.
fn service_name(gateway: &Gateway) -> String {
    let hash = format!("-{:08x}", identity(gateway) & 0xffff_ffff);
    let name = name_of(&gateway.metadata).replace('.', "-");
    let room = LABEL_BYTES_MAX - hash.len() - "gateway-".len();
    let kept = name.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| *end <= room).last();
    format!("gateway-{}{hash}", name.get(..kept.unwrap_or(0)).unwrap_or_default())
}

fn identity(gateway: &Gateway) -> u64 {
    Fnv1a::new().text(namespace_of(&gateway.metadata)).text(name_of(&gateway.metadata)).get()
}

/// A Gateway's Service: what the template says, the Gateway's own labels and annotations for what is made for it (GEP-1762), and its ports.
fn service(
    gateway: &Gateway,
    template: &Service,
    name: &str,
    targets: &BTreeMap<u16, u16>,
    address: Option<&str>,
) -> Service {
    let infrastructure = gateway.spec.infrastructure.as_ref();
    let mut labels = template.metadata.labels.clone().unwrap_or_default();
    labels.extend(infrastructure.and_then(|all| all.labels.clone()).unwrap_or_default());
    labels.insert(GATEWAY_LABEL.to_owned(), format!("{:016x}", identity(gateway)));
    if name_of(&gateway.metadata).len() <= LABEL_BYTES_MAX {
        labels.insert(GATEWAY_NAME_LABEL.to_owned(), name_of(&gateway.metadata).to_owned());
    }
    let mut annotations = template.metadata.annotations.clone().unwrap_or_default();
    annotations.extend(infrastructure.and_then(|all| all.annotations.clone()).unwrap_or_default());
    let (namespace, of) = (namespace_of(&gateway.metadata), name_of(&gateway.metadata));
    annotations.insert(GATEWAY_LABEL.to_owned(), format!("{namespace}/{of}"));
    let mut spec = template.spec.clone().unwrap_or_default();
    let port = |(port, target): (&u16, &u16)| ServicePort {
        name: Some(format!("p{port}")),
        port: i32::from(*port),
        protocol: Some("TCP".to_owned()),
        target_port: Some(IntOrString::Int(i32::from(*target))),
        ..ServicePort::default()
    };
    spec.ports = Some(targets.iter().map(port).collect());
    match (spec.type_.as_deref(), address) {
        (Some("LoadBalancer"), Some(address)) => spec.load_balancer_ip = Some(address.to_owned()),
        (_, Some(address)) => spec.cluster_ip = Some(address.to_owned()),
        (_, None) => {}
    }
    Service {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: template.metadata.namespace.clone(),
            labels: Some(labels),
            annotations: Some(annotations),
            ..ObjectMeta::default()
        },
        spec: Some(spec),
        status: None,
    }
}

fn ports(service: &Service) -> impl Iterator<Item = &ServicePort> {
    service.spec.iter().flat_map(|spec| spec.ports.iter().flatten())
}

fn target(port: &ServicePort) -> Option<u16> {
    match &port.target_port {
        Some(IntOrString::Int(number)) => u16::try_from(*number).ok(),
        _ => None,
    }
}

/// Where a Service is reached: its load balancer's addresses, or those within the cluster where it has no load balancer.
pub fn addresses_of(service: &Service) -> Vec<String> {
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = status.and_then(|status| status.ingress.as_deref()).unwrap_or_default();
    let balanced: Vec<String> =
        ingress.iter().filter_map(|one| one.ip.clone().or_else(|| one.hostname.clone())).collect();
    let spec = service.spec.as_ref();
    if !balanced.is_empty() {
        return balanced;
    }
    let own = spec.and_then(|spec| spec.cluster_ips.clone()).unwrap_or_default();
    own.into_iter().filter(|address| address != "None" && !address.is_empty()).collect()
}

/// Whether a Service that stands has all that is wanted of its specification; what the API server fills in is no difference.
fn covers(standing: &Service, wanted: &Service) -> bool {
    let (Some(standing), Some(wanted)) = (&standing.spec, &wanted.spec) else { return false };
    let brief = |spec: &ServiceSpec| -> Vec<(i32, Option<IntOrString>)> {
        spec.ports.iter().flatten().map(|port| (port.port, port.target_port.clone())).collect()
    };
    let same = |standing: &Option<String>, wanted: &Option<String>| wanted.is_none() || standing == wanted;
    brief(standing) == brief(wanted)
        && standing.selector == wanted.selector
        && same(&standing.type_, &wanted.type_)
        && same(&standing.cluster_ip, &wanted.cluster_ip)
        && same(&standing.load_balancer_ip, &wanted.load_balancer_ip)
        && same(&standing.external_traffic_policy, &wanted.external_traffic_policy)
}

#[cfg(test)]
#[path = "exposure_tests.rs"]
mod tests;
