//! Gateways and where they are reached, under each way of exposing them.

use k8s_openapi::api::core::v1::{LoadBalancerIngress, LoadBalancerStatus, ServiceStatus};

use super::{
    super::{Config, translate},
    *,
};
use crate::provider::yaml::document;

fn gateway(name: &str, more: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: {name}}}\nspec: {{gatewayClassName: trimtab, {more}\
         listeners: [{{name: http, port: 80, protocol: HTTP}}]}}\n---\n"
    )
}

fn objects(exposure: Exposure, yaml: &str) -> Objects {
    let addresses = vec!["192.0.2.1".to_owned()];
    let mut objects = Objects { proxy_addresses: addresses, exposure, ..Objects::default() };
    for placed in document::read("f.yaml", yaml.as_bytes()).unwrap_or_else(|problems| panic!("{problems:#?}")) {
        placed.object.insert_into(&mut objects);
    }
    objects
}

/// Name, addresses and `Programmed` of each Gateway.
fn said(config: &Config) -> Vec<String> {
    let brief = |gateway: &crate::gateway::status::GatewayStatus| {
        let of = |kind: &str| gateway.conditions.iter().find(|one| one.kind == kind).expect("a condition").reason;
        let (accepted, programmed) = (of("Accepted"), of("Programmed"));
        format!("{} [{}] {accepted} {programmed}", gateway.subject.name, gateway.addresses.join(" "))
    };
    config.statuses.gateways.iter().map(brief).collect()
}

fn template() -> Exposure {
    let text = r#"{"metadata": {"namespace": "trimtab", "annotations": {"a": "1"}},
                   "spec": {"type": "LoadBalancer", "selector": {"app": "proxy"}}}"#;
    Exposure::PerGateway(Arc::new(serde_json::from_str(text).unwrap()))
}

/// The objects after the controller has made what it wants, with these addresses for the Services in their order.
fn made(mut objects: Objects, addresses: &[&str]) -> Objects {
    for (wanted, address) in translate(&objects).gateway_services.wanted.into_iter().zip(addresses) {
        let mut service = wanted.service;
        let ingress = vec![LoadBalancerIngress { ip: Some((*address).to_owned()), ..LoadBalancerIngress::default() }];
        let load_balancer = Some(LoadBalancerStatus { ingress: Some(ingress) });
        service.status = Some(ServiceStatus { load_balancer, ..ServiceStatus::default() });
        objects.services.push(Arc::new(service));
    }
    objects
}

#[test]
fn gateways_that_share_addresses_may_ask_for_these_and_for_no_others() {
    let yaml = gateway("a", "addresses: [{value: 192.0.2.1}], ")
        + &gateway("b", "addresses: [{value: 192.0.2.9}], ").replace("port: 80", "port: 81")
        + &gateway("c", "addresses: [{type: example.com/own, value: x}], ").replace("port: 80", "port: 82");
    let config = translate(&objects(Exposure::Shared, &yaml));
    assert_eq!(
        said(&config),
        [
            "a [192.0.2.1] Accepted Programmed",
            "b [] Accepted AddressNotUsable",
            "c [192.0.2.1] UnsupportedAddress Invalid"
        ]
    );
    assert!(
        config.listeners.iter().all(|listener| listener.address == "0.0.0.0"),
        "nobody binds a load balancer's address"
    );
}

#[test]
fn two_gateways_with_one_port_have_services_and_ports_of_their_own() {
    let yaml = gateway("a", "") + &gateway("b", "infrastructure: {annotations: {a: '2'}}, ");
    let objects = objects(template(), &yaml);
    let before = translate(&objects);
    assert_eq!(said(&before), ["a [] Accepted AddressNotAssigned", "b [] Accepted AddressNotAssigned"]);
    let wanted = &before.gateway_services.wanted;
    assert_eq!(wanted.len(), 2);
    let annotation = |index: usize| wanted[index].service.metadata.annotations.clone().unwrap_or_default()["a"].clone();
    assert_eq!((annotation(0), annotation(1)), ("1".to_owned(), "2".to_owned()));

    let objects = made(objects, &["192.0.2.1", "192.0.2.2"]);
    let after = translate(&objects);
    assert_eq!(said(&after), ["a [192.0.2.1] Accepted Programmed", "b [192.0.2.2] Accepted Programmed"]);
    assert!(after.gateway_services.wanted.iter().all(|wanted| wanted.stands), "nothing is left to do");
    let ports: Vec<_> = after.listeners.iter().map(|listener| (listener.port, listener.public_port)).collect();
    assert!(
        ports.iter().all(|(port, public)| *port >= 20_000 && *public == 80) && ports[0].0 != ports[1].0,
        "{ports:?}"
    );
    assert_eq!(before.listeners, after.listeners, "proxies need not listen anew");
}

#[test]
fn the_service_of_a_gateway_that_is_gone_is_left_over_and_another_gateway_keeps_its_port() {
    let both = made(objects(template(), &(gateway("a", "") + &gateway("b", ""))), &["192.0.2.1", "192.0.2.2"]);
    let before = translate(&both);
    let mut left = both;
    left.gateways.remove(0);
    let after = translate(&left);
    assert_eq!(after.gateway_services.gone.len(), 1);
    assert!(after.gateway_services.gone[0].1.starts_with("gateway-a-"));
    assert_eq!(after.listeners[0].port, before.listeners[1].port);
    left.gateways_unread = true;
    assert!(translate(&left).gateway_services.gone.is_empty(), "it may be there all the same");
}

#[test]
fn an_address_that_is_asked_for_goes_to_the_load_balancer_and_one_that_is_not_had_is_said() {
    let objects = objects(template(), &gateway("a", "addresses: [{value: 192.0.2.7}], "));
    let wanted = translate(&objects).gateway_services.wanted;
    assert_eq!(wanted[0].service.spec.as_ref().unwrap().load_balancer_ip.as_deref(), Some("192.0.2.7"));
    assert_eq!(said(&translate(&made(objects.clone(), &["192.0.2.7"]))), ["a [192.0.2.7] Accepted Programmed"]);
    assert_eq!(said(&translate(&made(objects, &["192.0.2.8"]))), ["a [] Accepted AddressNotUsable"]);
}

#[test]
fn names_of_services_fit_and_differ() {
    let of = |name: &str| {
        let mut gateway = Gateway::default();
        gateway.metadata.name = Some(name.to_owned());
        service_name(&gateway)
    };
    let (long, other) = (of(&"a".repeat(200)), of(&format!("{}b", "a".repeat(199))));
    assert!(long.len() <= 63 && long != other, "{long} {other}");
}
