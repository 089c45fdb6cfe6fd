//! EndpointSlices to the endpoints of one port of a Service: joined, each endpoint once, in an order that does not depend on the
//! order of the slices.

use std::sync::Arc;

use k8s_openapi::{
    api::{
        core::v1::{ObjectReference, Service, ServicePort},
        discovery::v1::{Endpoint, EndpointSlice},
    },
    apimachinery::pkg::util::intstr::IntOrString,
};

use trimtab_model::observation::EndpointKey;

use super::{
    EndpointSpec,
    backends::is_tcp,
    fingerprint::{self, Fnv1a},
    name_of,
};
use crate::{
    address::{Host, HostPort, parse_host},
    keys::KeyMap,
    objects::{PodFacts, Pods},
    problem::Report,
};

/// One endpoint, before the policy is applied to it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Found {
    pub key: u64,
    pub address: HostPort,
    pub name: String,
    pub zone: Option<String>,
    pub ready: bool,
    pub draining: bool,
    /// What its pod says of itself, where it is known.
    pub pod: Option<Arc<PodFacts>>,
}

/// One endpoint of a backend, and what puts it into its place among the others.
#[derive(Debug, Clone)]
pub(super) struct Placed {
    address: HostPort,
    pub spec: Arc<EndpointSpec>,
}

impl Placed {
    pub fn new(address: HostPort, spec: EndpointSpec) -> Self {
        Self { address, spec: Arc::new(spec) }
    }

    fn order(&self) -> (&HostPort, EndpointKey) {
        (&self.address, self.spec.key)
    }
}

/// The order in which slices are gone through: a pod with addresses of several families is taken from the first.
pub(super) fn sort_slices(slices: &mut [&Arc<EndpointSlice>]) {
    slices.sort_by(|a, b| {
        let order = |slice: &EndpointSlice| family_rank(&slice.address_type);
        (order(a), name_of(&a.metadata)).cmp(&(order(b), name_of(&b.metadata)))
    });
}

/// The endpoints of one slice for a port, as they stand there.
pub(super) fn collect(
    slice: &EndpointSlice,
    service: &Service,
    port: &ServicePort,
    pods: &Pods,
    report: &mut Report,
) -> Vec<Found> {
    let Some(number) = target_port(slice, service, port, report) else { return Vec::new() };
    let endpoints = slice.endpoints.iter().enumerate();
    endpoints.filter_map(|(index, endpoint)| read(endpoint, number, index, pods, report)).collect()
}

/// Puts the endpoints of one slice into their order, so that joining them with others is little work.
pub(super) fn sort(endpoints: &mut [Placed]) {
    endpoints.sort_by(|a, b| a.order().cmp(&b.order()));
}

/// All endpoints of a port, sorted by address: of sorted slices, in the order of [`sort_slices`]. A pod with addresses of several families is
/// there once, with its IPv4 address.
pub(super) fn join<'p>(slices: impl Iterator<Item = &'p [Placed]>) -> Vec<Placed> {
    let mut seen = KeyMap::default();
    let mut all: Vec<Placed> =
        slices.flatten().filter(|placed| seen.insert(placed.spec.key, ()).is_none()).cloned().collect();
    serve_while_terminating(&mut all);
    // A stable sort finds the runs that are sorted already.
    sort(&mut all);
    all
}

/// Fingerprint of keys, addresses and order: what packed tables refer to.
pub(super) fn generation(endpoints: &[Placed]) -> u64 {
    endpoints
        .iter()
        .fold(Fnv1a::new().number(endpoints.len() as u64), |hash, endpoint| {
            hash.number(endpoint.spec.key.0).text(&endpoint.spec.address)
        })
        .get()
}

/// The key of an endpoint with this address: its pod's, where it has one.
fn key_of(endpoint: &Endpoint, address: &HostPort) -> u64 {
    match pod_of(endpoint).and_then(|pod| pod.uid.as_deref()) {
        Some(uid) => fingerprint::endpoint_key(uid),
        None => fingerprint::endpoint_key(&address.to_string()),
    }
}

fn pod_of(endpoint: &Endpoint) -> Option<&ObjectReference> {
    endpoint.target_ref.as_ref().filter(|target| target.kind.as_deref() == Some("Pod"))
}

/// Checks what can be told from the slice alone.
pub fn check(slice: &EndpointSlice, report: &mut Report) {
    if !["IPv4", "IPv6", "FQDN"].contains(&slice.address_type.as_str()) {
        report.invalid(
            "addressType",
            format!("\"{}\" is not a type of address, expected one of IPv4, IPv6, FQDN", slice.address_type),
        );
        return;
    }
    for (index, port) in slice.ports.iter().flatten().enumerate() {
        if port.port.is_some_and(|port| !(1..=65535).contains(&port)) {
            report.invalid(
                format!("ports[{index}].port"),
                format!("{} is not a port, expected 1 to 65535", port.port.unwrap_or_default()),
            );
        }
    }
    for (index, endpoint) in slice.endpoints.iter().enumerate() {
        if endpoint.addresses.is_empty() {
            report.invalid(format!("endpoints[{index}].addresses"), "is empty, expected at least one address");
        }
        for (at, address) in endpoint.addresses.iter().enumerate() {
            let expected = match (slice.address_type.as_str(), parse_host(address)) {
                ("IPv4", Some(Host::Ip(ip))) if ip.is_ipv4() => continue,
                ("IPv6", Some(Host::Ip(ip))) if ip.is_ipv6() => continue,
                ("FQDN", Some(Host::Name(_))) => continue,
                ("IPv4", _) => "an IPv4 address such as 10.0.0.1",
                ("IPv6", _) => "an IPv6 address such as fd00::1",
                _ => "a host name such as app.internal",
            };
            let message =
                format!("\"{address}\" does not go with addressType {}, expected {expected}", slice.address_type);
            report.invalid(format!("endpoints[{index}].addresses[{at}]"), message);
        }
    }
}

fn family_rank(address_type: &str) -> u8 {
    match address_type {
        "IPv4" => 0,
        "IPv6" => 1,
        _ => 2,
    }
}

/// The number of the port that requests go to at the endpoints of this slice.
fn target_port(slice: &EndpointSlice, service: &Service, port: &ServicePort, report: &mut Report) -> Option<u16> {
    let ports = slice.ports.as_deref().unwrap_or_default();
    let wanted = port.name.as_deref().unwrap_or_default();
    let by_name = ports.iter().find(|candidate| {
        candidate.name.as_deref().unwrap_or_default() == wanted && is_tcp(candidate.protocol.as_deref())
    });
    let only = || match (service.spec.as_ref().and_then(|spec| spec.ports.as_deref()), ports) {
        // Written by hand, with one port on each side: the names need not say what is clear anyway.
        (Some([_]), [only]) if is_tcp(only.protocol.as_deref()) => Some(only),
        _ => None,
    };
    let number = match by_name.or_else(only) {
        Some(found) => found.port.or_else(|| service_target(port)),
        // Without ports none is defined; a port without a number stands for any. Slices of Services without pods have neither.
        None if ports.is_empty() => {
            if !slice.endpoints.is_empty() {
                let message = format!(
                    "is empty: no port is defined, expected \"{wanted}\", which is port {} of Service {}",
                    port.port,
                    name_of(&service.metadata)
                );
                report.unresolved("ports", message);
            }
            return None;
        }
        None => {
            let message = format!(
                "has no port \"{wanted}\", which is port {} of Service {}",
                port.port,
                name_of(&service.metadata)
            );
            report.unresolved("ports", message);
            return None;
        }
    };
    let valid = number.and_then(|number| u16::try_from(number).ok()).filter(|number| *number > 0);
    if valid.is_none() {
        report.unresolved("ports", format!("no number for port \"{wanted}\", expected 1 to 65535"));
    }
    valid
}

fn service_target(port: &ServicePort) -> Option<i32> {
    match &port.target_port {
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(_)) => None,
        None => Some(port.port),
    }
}

/// Addresses of one endpoint are interchangeable; the first one is used, as kube-proxy does.
fn read(endpoint: &Endpoint, port: u16, index: usize, pods: &Pods, report: &mut Report) -> Option<Found> {
    let Some(host) = endpoint.addresses.first().and_then(|address| parse_host(address)) else {
        report.invalid(format!("endpoints[{index}].addresses[0]"), "is neither an IP address nor a host name");
        return None;
    };
    let address = HostPort { host, port };
    let (pod, key) = (pod_of(endpoint), key_of(endpoint, &address));
    let conditions = endpoint.conditions.as_ref();
    // Unset means ready and serving, and not terminating.
    let ready = conditions.and_then(|conditions| conditions.ready).unwrap_or(true);
    let terminating = conditions.and_then(|conditions| conditions.terminating).unwrap_or(false);
    let serving = conditions.and_then(|conditions| conditions.serving).unwrap_or(ready);
    Some(Found {
        key,
        pod: pods.get(&EndpointKey(key)).cloned(),
        name: pod.and_then(|pod| pod.name.clone()).unwrap_or_else(|| address.to_string()),
        address,
        zone: endpoint.zone.clone().filter(|zone| !zone.is_empty()),
        ready,
        draining: terminating && serving && !ready,
    })
}

/// Where no endpoint is ready, those that are on their way out but still serve get requests (KEP-1669): better than none.
fn serve_while_terminating(endpoints: &mut [Placed]) {
    if endpoints.iter().all(|endpoint| !endpoint.spec.ready) {
        for endpoint in endpoints.iter_mut().filter(|endpoint| endpoint.spec.draining) {
            Arc::make_mut(&mut endpoint.spec).ready = true;
        }
    }
}
