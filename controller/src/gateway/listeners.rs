//! Gateways to listeners: which sockets to open, and which routes may attach to them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use gateway_api::gateways::{Gateway, GatewayListeners, GatewayListenersAllowedRoutesNamespacesFrom as From};
use trimtab_proxy::api::v1;

use super::{hostname, namespace_of};
use crate::{
    objects::Objects,
    problem::{ObjectId, Problem, Report},
};

/// The class of gateways that is Trimtab's without a GatewayClass object.
pub const GATEWAY_CLASS: &str = "trimtab";

/// What a GatewayClass of Trimtab's has as its `controllerName`.
pub const CONTROLLER_NAME: &str = "trimtab.dev/controller";

/// A listener that routes can attach to.
pub(super) struct Attachable<'a> {
    pub gateway: &'a Gateway,
    pub spec: &'a GatewayListeners,
    /// Lower case; `None`: any host.
    pub hostname: Option<String>,
    /// Names of the data plane's listeners that it became: one an address.
    pub names: Vec<String>,
}

/// Gateways of our classes; the others are somebody else's.
pub(super) fn ours(objects: &Objects) -> Vec<&Gateway> {
    let classes: BTreeSet<&str> = objects
        .gateway_classes
        .iter()
        .filter(|class| class.spec.controller_name == CONTROLLER_NAME)
        .filter_map(|class| class.metadata.name.as_deref())
        .chain([GATEWAY_CLASS])
        .collect();
    let mut gateways: Vec<&Gateway> =
        objects.gateways.iter().filter(|gateway| classes.contains(gateway.spec.gateway_class_name.as_str())).collect();
    gateways.sort_by_key(|gateway| super::age_and_name(&gateway.metadata));
    gateways
}

/// Checks what can be told from the Gateway alone.
pub fn check(gateway: &Gateway, report: &mut Report) {
    addresses(gateway, report);
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
pub(super) fn translate<'a>(
    objects: &'a Objects,
    problems: &mut Vec<Problem>,
) -> (Vec<v1::Listener>, Vec<Attachable<'a>>) {
    let mut listeners = Vec::new();
    let mut attachables = Vec::new();
    let mut taken: BTreeMap<(String, u32, String), String> = BTreeMap::new();
    let gateways = ours(objects);
    for gateway in &objects.gateways {
        if !gateways.iter().any(|ours| std::ptr::eq(*ours, gateway)) {
            let mut report = report_of(gateway);
            report.unresolved(
                "spec.gatewayClassName",
                format!(
                    "\"{}\" is not a class of Trimtab's, expected {GATEWAY_CLASS}",
                    gateway.spec.gateway_class_name
                ),
            );
            super::close(report, objects, problems);
        }
    }
    for gateway in gateways {
        let mut report = report_of(gateway);
        let addresses = addresses(gateway, &mut report);
        let conflicts = conflicts(gateway);
        for (index, spec) in gateway.spec.listeners.iter().enumerate() {
            let field = format!("spec.listeners[{index}]");
            let Some((port, hostname)) = read(spec, &field, &mut report) else { continue };
            if conflicts.contains(&index) {
                report.unresolved(
                    field,
                    "has the port and hostname of another listener of this Gateway: none of them is served",
                );
                continue;
            }
            let mut names = Vec::new();
            for address in &addresses {
                let name = listener_name(gateway, spec, (addresses.len() > 1).then_some(address));
                let key = (address.to_string(), port, hostname.clone().unwrap_or_default());
                if let Some(other) = taken.get(&key).filter(|_| port != 0) {
                    report.unresolved(
                        &field,
                        format!("has the address, port and hostname of listener {other}, which is older and is served"),
                    );
                    continue;
                }
                taken.insert(key, name.clone());
                listeners.push(v1::Listener {
                    name: name.clone(),
                    address: address.to_string(),
                    port,
                    hostname: hostname.clone().unwrap_or_default(),
                    limits: None,
                });
                names.push(name);
            }
            if !names.is_empty() {
                attachables.push(Attachable { gateway, spec, hostname, names });
            }
        }
        super::close(report, objects, problems);
    }
    listeners.sort_by(|a, b| a.name.cmp(&b.name));
    (listeners, attachables)
}

/// Whether a route of namespace `namespace` may attach.
pub(super) fn allows(attachable: &Attachable<'_>, namespace: &str) -> bool {
    let Some(allowed) = &attachable.spec.allowed_routes else {
        return namespace_of(&attachable.gateway.metadata) == namespace;
    };
    let kind_allowed = allowed.kinds.as_ref().is_none_or(|kinds| {
        kinds.is_empty()
            || kinds
                .iter()
                .any(|kind| kind.kind == "HTTPRoute" && kind.group.as_deref().is_none_or(|group| group == super::GROUP))
    });
    let namespaces = allowed.namespaces.as_ref();
    kind_allowed
        && match namespaces.and_then(|namespaces| namespaces.from.as_ref()).unwrap_or(&From::Same) {
            From::All => true,
            From::Same => namespace_of(&attachable.gateway.metadata) == namespace,
            From::Selector => namespaces.and_then(|namespaces| namespaces.selector.as_ref()).is_some_and(|selector| {
                let name_only = |labels: &BTreeMap<String, String>| {
                    labels.iter().all(|(key, value)| key == NAMESPACE_NAME_LABEL && value == namespace)
                };
                selector.match_expressions.as_ref().is_none_or(Vec::is_empty)
                    && selector.match_labels.as_ref().is_some_and(name_only)
            }),
        }
}

/// The one label that every namespace has; others are not known here.
const NAMESPACE_NAME_LABEL: &str = "kubernetes.io/metadata.name";

fn report_of(gateway: &Gateway) -> Report {
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
fn addresses(gateway: &Gateway, report: &mut Report) -> Vec<IpAddr> {
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
        "HTTPS" | "TLS" | "TCP" | "UDP" => {
            let message =
                format!("{} is not supported yet, expected HTTP; the listener is not served", listener.protocol);
            report.unresolved(format!("{field}.protocol"), message);
            None
        }
        other => {
            report.invalid(format!("{field}.protocol"), format!("\"{other}\" is not a protocol, expected HTTP"));
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
