//! Gateways to listeners: which sockets to open, and which routes may attach to them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use gateway_api::{
    gatewayclasses::GatewayClass,
    gateways::{
        Gateway, GatewayListeners, GatewayListenersAllowedRoutesNamespacesFrom as From,
        GatewayListenersAllowedRoutesNamespacesSelector as Selector,
    },
};
use trimtab_proxy::api::v1;

use super::{
    certificates, client_address,
    exposure::{Exposures, GatewayServices},
    hostname, namespace_of,
    status::{self, GatewayStatus, reason},
};
use crate::{
    objects::Objects,
    problem::{ObjectId, Problem, Report},
};

/// The class of gateways that is Trimtab's without a GatewayClass object.
pub const GATEWAY_CLASS: &str = "trimtab";

/// What a GatewayClass of Trimtab's has as its `controllerName`.
pub const CONTROLLER_NAME: &str = "trimtab.dev/gateway-controller";

/// A listener that routes can attach to.
pub(super) struct Attachable<'a> {
    pub gateway: &'a Gateway,
    pub spec: &'a GatewayListeners,
    /// Lower case; `None`: any host.
    pub hostname: Option<String>,
    /// Names of the data plane's listeners that it became: one an address.
    pub names: Vec<String>,
}

/// What the gateways become.
pub(super) struct Translated<'a> {
    /// For the data plane.
    pub listeners: Vec<v1::Listener>,
    /// For routes.
    pub attachables: Vec<Attachable<'a>>,
    /// For people; routes are not counted yet.
    pub gateways: Vec<GatewayStatus>,
    /// Services that Gateways are to have of their own.
    pub services: GatewayServices,
}

/// GatewayClasses that name Trimtab.
pub(super) fn our_classes(objects: &Objects) -> impl Iterator<Item = &GatewayClass> {
    objects.gateway_classes.iter().filter(|class| class.spec.controller_name == CONTROLLER_NAME)
}

/// Gateways of our classes; the others are somebody else's.
pub(super) fn ours(objects: &Objects) -> Vec<&Gateway> {
    // Without a GatewayClass the usual name will do; a class of that name that names another controller is that one's.
    let usual = (!is_class(objects, GATEWAY_CLASS)).then_some(GATEWAY_CLASS);
    let classes: BTreeSet<&str> =
        our_classes(objects).filter_map(|class| class.metadata.name.as_deref()).chain(usual).collect();
    let mut gateways: Vec<&Gateway> =
        objects.gateways.iter().filter(|gateway| classes.contains(gateway.spec.gateway_class_name.as_str())).collect();
    gateways.sort_by_key(|gateway| super::age_and_name(&gateway.metadata));
    gateways
}

fn is_class(objects: &Objects, name: &str) -> bool {
    objects.gateway_classes.iter().any(|class| class.metadata.name.as_deref() == Some(name))
}

/// Checks what can be told from the Gateway alone.
pub fn check(gateway: &Gateway, report: &mut Report) {
    addresses(gateway, report);
    client_address::translate(gateway, report);
    if gateway.spec.listeners.is_empty() {
        report.invalid("spec.listeners", "is empty, expected at least one listener");
    }
    let mut names = BTreeMap::new();
    for (index, listener) in gateway.spec.listeners.iter().enumerate() {
        let field = format!("spec.listeners[{index}]");
        read(listener, &field, report);
        if listener.port == 0 {
            report.invalid(format!("{field}.port"), "0 is not a port, expected 1 to 65535");
        }
        if let Some(first) = names.insert(listener.name.as_str(), index) {
            report.invalid(
                format!("{field}.name"),
                format!("\"{}\" is also the name of listeners[{first}]", listener.name),
            );
        }
    }
}

/// Translates all gateways.
pub(super) fn translate<'a>(objects: &'a Objects, problems: &mut Vec<Problem>) -> Translated<'a> {
    let mut listeners: Vec<v1::Listener> = Vec::new();
    // Which report and field each of them is from.
    let mut origins: Vec<(usize, String)> = Vec::new();
    let mut reports: Vec<Report> = Vec::new();
    let mut statuses = Vec::new();
    let mut attachables = Vec::new();
    let mut taken: BTreeMap<(String, u32, String), String> = BTreeMap::new();
    // Whether a socket is over TLS: its first listener says.
    let mut secured: BTreeMap<(String, u32), bool> = BTreeMap::new();
    let mut exposures = Exposures::new(objects);
    // What clients must prove there, likewise.
    let mut proofs: BTreeMap<(String, u32), Option<v1::ClientValidation>> = BTreeMap::new();
    let gateways = ours(objects);
    for gateway in &objects.gateways {
        let class = gateway.spec.gateway_class_name.as_str();
        if !gateways.iter().any(|ours| std::ptr::eq(*ours, gateway)) && !is_class(objects, class) {
            let mut report = report_of(gateway);
            report.unresolved(
                "spec.gatewayClassName",
                format!("\"{class}\" is not a class of Trimtab's, expected {GATEWAY_CLASS}"),
            );
            super::close(report, objects, problems);
        }
    }
    for gateway in gateways {
        let mut report = report_of(gateway);
        let exposed = exposures.of(gateway, &mut report);
        let addresses = &exposed.listen;
        let conflicts = conflicts(gateway);
        let client_address = client_address::translate(gateway, &mut report);
        let mut served = vec![false; gateway.spec.listeners.len()];
        for (index, spec) in gateway.spec.listeners.iter().enumerate() {
            let field = format!("spec.listeners[{index}]");
            let Some((public_port, hostname)) = read(spec, &field, &mut report) else { continue };
            let target = u16::try_from(public_port).ok().and_then(|port| exposed.targets.get(&port));
            let port = target.map_or(public_port, |target| u32::from(*target));
            if conflicts.contains(&index) {
                report.refused(
                    reason::HOSTNAME_CONFLICT,
                    field,
                    "has the port and hostname of another listener of this Gateway: none of them is served",
                );
                continue;
            }
            let tls = match spec.protocol.as_str() {
                "HTTPS" => match certificates::translate(gateway, spec, &field, objects, &mut report) {
                    Some(tls) => Some(tls),
                    None => continue,
                },
                _ => None,
            };
            let mut names = Vec::new();
            for address in addresses {
                let name = listener_name(gateway, spec, (addresses.len() > 1).then_some(address));
                let key = (address.to_string(), port, hostname.clone().unwrap_or_default());
                if let Some(other) = taken.get(&key).filter(|_| port != 0) {
                    report.refused(
                        reason::PORT_UNAVAILABLE,
                        &field,
                        format!("has the address, port and hostname of listener {other}, which comes first (by age, then by name) and is served"),
                    );
                    continue;
                }
                let secure = *secured.entry((address.to_string(), port)).or_insert(tls.is_some());
                if port != 0 && secure != tls.is_some() {
                    report.refused(
                        reason::PROTOCOL_CONFLICT,
                        format!("{field}.protocol"),
                        format!(
                            "{} does not go with one that comes first (by age, then by name) at the same address and port: it is not served",
                            spec.protocol
                        ),
                    );
                    continue;
                }
                let asked = tls.as_ref().and_then(|tls| tls.client.clone());
                let first = proofs.entry((address.to_string(), port)).or_insert_with(|| asked.clone());
                if port != 0 && *first != asked {
                    report.refused(
                        reason::PROTOCOL_CONFLICT,
                        format!("{field}.tls"),
                        "spec.tls.frontend asks clients for something else than one that comes first (by age, then by name) at the same address and port: it is not served",
                    );
                    continue;
                }
                taken.insert(key, name.clone());
                origins.push((reports.len(), field.clone()));
                listeners.push(v1::Listener {
                    name: name.clone(),
                    address: address.to_string(),
                    port,
                    public_port: if port == public_port { 0 } else { public_port },
                    hostname: hostname.clone().unwrap_or_default(),
                    limits: None,
                    tls: tls.clone(),
                    client_address: client_address.clone(),
                });
                names.push(name);
            }
            unsupported_kinds(spec, &field, &mut report);
            if !names.is_empty() {
                served[index] = true;
                attachables.push(Attachable { gateway, spec, hostname, names });
            }
        }
        statuses.push(status::gateway(gateway, &report, &served, &exposed));
        reports.push(report);
    }
    for (listener, (report, field)) in listeners.iter().zip(&origins) {
        let beside =
            listeners.iter().filter(|other| (&other.address, other.port) == (&listener.address, listener.port));
        certificates::compare(listener, beside, field, &mut reports[*report]);
    }
    reports.into_iter().for_each(|report| super::close(report, objects, problems));
    Translated { listeners, attachables, gateways: statuses, services: exposures.into_services() }
}

/// The kinds of routes that listeners take, in the order in which their status names them.
pub(super) const ROUTE_KINDS: [&str; 2] = ["HTTPRoute", "GRPCRoute"];

/// Kinds of routes that a listener asks for and that are not served here.
fn unsupported_kinds(listener: &GatewayListeners, field: &str, report: &mut Report) {
    let kinds = listener.allowed_routes.as_ref().and_then(|allowed| allowed.kinds.as_deref()).unwrap_or_default();
    for (index, kind) in kinds.iter().enumerate() {
        let ours = kind.group.as_deref().is_none_or(|group| group == super::GROUP);
        if !ours || !ROUTE_KINDS.contains(&kind.kind.as_str()) {
            report.refused(
                reason::INVALID_ROUTE_KINDS,
                format!("{field}.allowedRoutes.kinds[{index}]"),
                format!("{} is not supported, expected HTTPRoute or GRPCRoute", kind.kind),
            );
        }
    }
}

/// Fills in how many routes are attached to each listener.
pub(super) fn count_routes(translated: &mut Translated<'_>, routes: &[v1::HttpRoute]) {
    let Translated { attachables, gateways, .. } = translated;
    for attachable in attachables {
        let gateway = &attachable.gateway.metadata;
        let status = gateways.iter_mut().find(|status| {
            status.subject.name == super::name_of(gateway)
                && status.subject.namespace == gateway.namespace.as_deref().unwrap_or_default()
        });
        let listener = status
            .and_then(|status| status.listeners.iter_mut().find(|listener| listener.name == attachable.spec.name));
        if let Some(listener) = listener {
            let attached = |route: &&v1::HttpRoute| route.listeners.iter().any(|name| attachable.names.contains(name));
            listener.attached_routes = i32::try_from(routes.iter().filter(attached).count()).unwrap_or(i32::MAX);
        }
    }
}

/// Whether a route of this kind and namespace may attach.
pub(super) fn allows(attachable: &Attachable<'_>, kind: &str, namespace: &str, objects: &Objects) -> bool {
    let Some(allowed) = &attachable.spec.allowed_routes else {
        return namespace_of(&attachable.gateway.metadata) == namespace;
    };
    let kind_allowed = allowed.kinds.as_ref().is_none_or(|kinds| {
        kinds.is_empty()
            || kinds
                .iter()
                .any(|one| one.kind == kind && one.group.as_deref().is_none_or(|group| group == super::GROUP))
    });
    let namespaces = allowed.namespaces.as_ref();
    kind_allowed
        && match namespaces.and_then(|namespaces| namespaces.from.as_ref()).unwrap_or(&From::Same) {
            From::All => true,
            From::Same => namespace_of(&attachable.gateway.metadata) == namespace,
            From::Selector => namespaces
                .and_then(|namespaces| namespaces.selector.as_ref())
                .is_some_and(|selector| selects(selector, namespace, objects)),
        }
}

/// The one label that every namespace has, whether or not there is an object for it.
const NAMESPACE_NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// Whether a selector holds for the labels of a namespace. One that says nothing selects everything, as label selectors do; an operator
/// that is not known selects nothing.
fn selects(selector: &Selector, namespace: &str, objects: &Objects) -> bool {
    let object = objects.namespaces.iter().find(|object| object.metadata.name.as_deref() == Some(namespace));
    let labels = object.and_then(|object| object.metadata.labels.as_ref());
    let label = |key: &str| match labels.and_then(|labels| labels.get(key)) {
        Some(value) => Some(value.as_str()),
        None => (key == NAMESPACE_NAME_LABEL).then_some(namespace),
    };
    selector.match_labels.iter().flatten().all(|(key, value)| label(key) == Some(value))
        && selector.match_expressions.iter().flatten().all(|expression| {
            let found = label(&expression.key);
            let among = || found.is_some_and(|found| expression.values.iter().flatten().any(|value| value == found));
            match expression.operator.as_str() {
                "In" => among(),
                "NotIn" => !among(),
                "Exists" => found.is_some(),
                "DoesNotExist" => found.is_none(),
                _ => false,
            }
        })
}

/// An empty report on a Gateway.
pub(super) fn report_of(gateway: &Gateway) -> Report {
    Report::new(ObjectId::new("Gateway", namespace_of(&gateway.metadata), super::name_of(&gateway.metadata)))
}

fn listener_name(gateway: &Gateway, listener: &GatewayListeners, address: Option<&IpAddr>) -> String {
    let name = format!("{}/{}/{}", namespace_of(&gateway.metadata), super::name_of(&gateway.metadata), listener.name);
    match address {
        Some(address) => format!("{name}@{address}"),
        None => name,
    }
}

/// The addresses to listen on; without any, all IPv4 addresses of the machine.
pub(super) fn addresses(gateway: &Gateway, report: &mut Report) -> Vec<IpAddr> {
    let listed = gateway.spec.addresses.as_deref().unwrap_or_default();
    if listed.is_empty() {
        return vec![IpAddr::from([0, 0, 0, 0])];
    }
    let mut addresses = BTreeSet::new();
    for (index, address) in listed.iter().enumerate() {
        let field = format!("spec.addresses[{index}]");
        match address.r#type.as_deref().unwrap_or("IPAddress") {
            "IPAddress" => match address.value.as_deref().map(str::parse) {
                Some(Ok(ip)) => {
                    addresses.insert(ip);
                }
                Some(Err(_)) => report.invalid(
                    format!("{field}.value"),
                    format!(
                        "\"{}\" is not an IP address, expected one such as 127.0.0.1 or ::1",
                        address.value.as_deref().unwrap_or_default()
                    ),
                ),
                None => {
                    report.invalid(format!("{field}.value"), "is missing, expected an IP address such as 127.0.0.1")
                }
            },
            other => {
                report.unresolved(format!("{field}.type"), format!("\"{other}\" is not supported, expected IPAddress"))
            }
        }
    }
    addresses.into_iter().collect()
}

/// Port and hostname of a listener; `None` where it cannot be served.
fn read(listener: &GatewayListeners, field: &str, report: &mut Report) -> Option<(u32, Option<String>)> {
    let port = u16::try_from(listener.port).ok().map(u32::from);
    if port.is_none() {
        report.invalid(format!("{field}.port"), format!("{} is not a port, expected 1 to 65535", listener.port));
    }
    let hostname = match listener.hostname.as_deref() {
        None | Some("") => Some(None),
        Some(text) => hostname::read(text, &format!("{field}.hostname"), report).map(Some),
    };
    match listener.protocol.as_str() {
        "HTTP" => {
            if listener.tls.is_some() {
                report.invalid(format!("{field}.tls"), "does not go with protocol HTTP, expected no tls");
            }
            port.zip(hostname)
        }
        "HTTPS" => {
            certificates::check(listener, field, report);
            port.zip(hostname)
        }
        "TLS" | "TCP" | "UDP" => {
            let message = format!(
                "{} is not supported yet, expected HTTP or HTTPS; the listener is not served",
                listener.protocol
            );
            report.refused(reason::UNSUPPORTED_PROTOCOL, format!("{field}.protocol"), message);
            None
        }
        other => {
            report
                .invalid(format!("{field}.protocol"), format!("\"{other}\" is not a protocol, expected HTTP or HTTPS"));
            None
        }
    }
}

/// Indices of listeners that cannot be told apart from another one of the same Gateway.
fn conflicts(gateway: &Gateway) -> BTreeSet<usize> {
    let mut seen: BTreeMap<(i32, String), Vec<usize>> = BTreeMap::new();
    for (index, listener) in gateway.spec.listeners.iter().enumerate().filter(|(_, listener)| listener.port != 0) {
        seen.entry((listener.port, listener.hostname.clone().unwrap_or_default().to_ascii_lowercase()))
            .or_default()
            .push(index);
    }
    seen.into_values().filter(|indices| indices.len() > 1).flatten().collect()
}
