//! What can be told of a Service alone.

use std::collections::BTreeMap;

use k8s_openapi::{api::core::v1::Service, apimachinery::pkg::util::intstr::IntOrString};

use crate::problem::Report;

/// Checks a Service by itself: its ports.
pub fn check(service: &Service, report: &mut Report) {
    let Some(spec) = &service.spec else {
        report.invalid("spec", "is missing, expected ports");
        return;
    };
    let ports = spec.ports.as_deref().unwrap_or_default();
    let mut names = BTreeMap::new();
    let mut numbers = BTreeMap::new();
    for (index, port) in ports.iter().enumerate() {
        let field = format!("spec.ports[{index}]");
        if !(1..=65535).contains(&port.port) {
            report.invalid(format!("{field}.port"), format!("{} is not a port, expected 1 to 65535", port.port));
        }
        match &port.target_port {
            Some(IntOrString::Int(number)) if !(1..=65535).contains(number) => {
                report.invalid(
                    format!("{field}.targetPort"),
                    format!("{number} is not a port, expected 1 to 65535 or a name"),
                );
            }
            _ => {}
        }
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        if !["TCP", "UDP", "SCTP"].contains(&protocol) {
            report.invalid(
                format!("{field}.protocol"),
                format!("\"{protocol}\" is not a protocol, expected one of TCP, UDP, SCTP"),
            );
        }
        let name = port.name.as_deref().unwrap_or_default();
        if name.is_empty() && ports.len() > 1 {
            report.invalid(format!("{field}.name"), "is missing, expected a name where there is more than one port");
        } else if let Some(first) = names.insert(name, index) {
            report.invalid(format!("{field}.name"), format!("\"{name}\" is also the name of ports[{first}]"));
        }
        if let Some(first) = numbers.insert((port.port, protocol), index) {
            report.invalid(format!("{field}.port"), format!("{} is also the port of ports[{first}]", port.port));
        }
    }
}
