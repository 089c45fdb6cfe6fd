//! Golden examples: Ingresses as YAML, and the listeners, routes and statuses that they become.

use std::fmt::Write as _;

use trimtab_proxy::api::v1::path_match;

use super::{super::translate, *};
use crate::provider::yaml::document;

const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: other}
spec: {ports: [{name: http, port: 8080}]}
---
";

fn objects(yaml: &str) -> Objects {
    let mut objects = Objects { proxy_addresses: vec!["192.0.2.1".to_owned()], ..Objects::default() };
    let yaml = format!("{SERVICE}{yaml}");
    for placed in document::read("f.yaml", yaml.as_bytes()).unwrap_or_else(|problems| panic!("{problems:#?}")) {
        placed.object.insert_into(&mut objects);
    }
    objects
}

/// Checks what the objects become; what is said of Services without endpoints is left out.
fn check(objects: &Objects, expected: &str) {
    let config = translate(objects);
    let mut found = String::new();
    for listener in &config.listeners {
        let tls = listener.tls.iter().flat_map(|tls| &tls.certificates).map(|one| one.name.as_str());
        let tls: Vec<_> = tls.collect();
        writeln!(found, "listener {} :{} {:?} {}", listener.name, listener.port, listener.hostname, tls.join(" "))
            .unwrap();
    }
    for route in &config.routes {
        writeln!(found, "route {} on {} for {:?}", route.name, route.listeners.join(" "), route.hostnames).unwrap();
        for rule in &route.rules {
            let path = rule.matches[0].path.as_ref().expect("a path");
            let kind = if path.kind() == path_match::Kind::Exact { "exact" } else { "prefix" };
            writeln!(found, "{} {kind} {} -> {:?}", rule.name, path.value, rule.backends[0].backend).unwrap();
        }
    }
    for ingress in &config.statuses.ingresses {
        let Condition { holds, reason, message, .. } = &ingress.accepted;
        let addresses = ingress.addresses.join(" ");
        writeln!(found, "ingress {} at {addresses} {holds} {reason} {message}", ingress.subject.name).unwrap();
    }
    let tidy = |text: &str| -> Vec<String> {
        text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect()
    };
    assert_eq!(tidy(&found), tidy(expected), "\nfound:\n{found}");
}

use super::status::Condition;

#[test]
fn rules_paths_and_the_default_backend_become_routes_by_host() {
    let yaml = "
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: i}
spec:
  ingressClassName: trimtab
  defaultBackend: {service: {name: other, port: {name: http}}}
  rules:
  - host: A.example.com
    http:
      paths:
      - {path: /x, pathType: Exact, backend: {service: {name: web, port: {number: 80}}}}
      - {path: /y, pathType: Prefix, backend: {service: {name: web, port: {name: http}}}}
  - host: '*.b.example.com'
    http: {paths: [{path: /, pathType: ImplementationSpecific, backend: {service: {name: web, port: {number: 80}}}}]}
";
    check(
        &objects(yaml),
        r#"
        listener ingress/http/ :80 ""
        route ingress:default/i: on ingress/http/ for []
        default prefix / -> "default/other:8080"
        route ingress:default/i:*.b.example.com on ingress/http/ for ["*.b.example.com"]
        1.0 prefix / -> "default/web:80"
        default prefix / -> "default/other:8080"
        route ingress:default/i:a.example.com on ingress/http/ for ["a.example.com"]
        0.0 exact /x -> "default/web:80"
        0.1 prefix /y -> "default/web:80"
        default prefix / -> "default/other:8080"
        ingress i at 192.0.2.1 true Accepted"#,
    );
}

fn of_class(class: &str) -> String {
    format!(
        "
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {{name: i, annotations: {{note: x}}}}
spec: {{{class} defaultBackend: {{service: {{name: web, port: {{number: 80}}}}}}}}
---
"
    )
}

fn class(name: &str, controller: &str, default: bool) -> String {
    format!(
        "
apiVersion: networking.k8s.io/v1
kind: IngressClass
metadata: {{name: {name}, annotations: {{ingressclass.kubernetes.io/is-default-class: '{default}'}}}}
spec: {{controller: {controller}}}
---
"
    )
}

#[test]
fn an_ingress_is_ours_by_its_class_its_old_annotation_or_by_default() {
    let taken = |yaml: String| !translate(&objects(&yaml)).statuses.ingresses.is_empty();
    let (none, named) = (of_class(""), of_class("ingressClassName: mine,"));
    let annotated = none.replace("note: x", "kubernetes.io/ingress.class: mine");
    assert!(!taken(none.clone()));
    assert!(!taken(named.clone()));
    assert!(taken(of_class("ingressClassName: trimtab,")));
    assert!(taken(named.clone() + &class("mine", INGRESS_CONTROLLER, false)));
    assert!(taken(annotated + &class("mine", INGRESS_CONTROLLER, false)));
    assert!(!taken(none.clone() + &class("mine", INGRESS_CONTROLLER, false)));
    assert!(taken(none + &class("mine", INGRESS_CONTROLLER, true)));
    assert!(!taken(named + &class("mine", "example.com/other", true)));
    assert!(!taken(of_class("ingressClassName: trimtab,") + &class("trimtab", "example.com/other", false)));
}

fn secret(name: &str) -> String {
    let made = rcgen::generate_simple_self_signed(vec!["a.example.com".to_owned()]).unwrap();
    let indented = |pem: &str| pem.lines().map(|line| format!("    {line}\n")).collect::<String>();
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}}}\ntype: kubernetes.io/tls\nstringData:\n  tls.crt: |\n{}  tls.key: |\n{}---\n",
        indented(&made.cert.pem()),
        indented(&made.signing_key.serialize_pem())
    )
}

fn with_tls(name: &str, host: &str, secret: &str) -> String {
    format!(
        "
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {{name: {name}}}
spec:
  ingressClassName: trimtab
  tls: [{{hosts: ['{host}'], secretName: {secret}}}]
  rules:
  - {{host: a.example.com, http: {{paths: [{{path: /, pathType: Prefix, backend: {{service: {{name: web, port: {{number: 80}}}}}}}}]}}}}
---
"
    )
}

#[test]
fn a_host_is_served_over_tls_where_it_has_a_certificate_and_in_clear_text_anyway() {
    let yaml = secret("s") + &with_tls("i", "*.example.com", "s") + &with_tls("j", "a.example.com", "gone");
    check(
        &objects(&yaml),
        r#"
        listener ingress/http/ :80 ""
        listener ingress/https/a.example.com :443 "a.example.com" default/s
        route ingress:default/i:a.example.com on ingress/http/ ingress/https/a.example.com for ["a.example.com"]
        0.0 prefix / -> "default/web:80"
        route ingress:default/j:a.example.com on ingress/http/ for ["a.example.com"]
        0.0 prefix / -> "default/web:80"
        ingress i at 192.0.2.1 true Accepted
        ingress j at 192.0.2.1 false InvalidCertificateRef spec.tls[0].secretName: there is no Secret default/gone: not served over TLS"#,
    );
    // Another certificate for the same host: the first one stays.
    let yaml = secret("s") + &secret("t") + &with_tls("i", "a.example.com", "s") + &with_tls("j", "a.example.com", "t");
    let config = translate(&objects(&yaml));
    let shown: Vec<_> = config.listeners.iter().filter_map(|listener| listener.tls.as_ref()).collect();
    assert_eq!((shown.len(), shown[0].certificates[0].name.as_str()), (1, "default/s"));
    assert_eq!(config.statuses.ingresses[1].accepted.reason, reason::CONFLICTED);
}

fn gateway(listener: &str) -> String {
    format!(
        "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: g, namespace: infra}}
spec: {{gatewayClassName: trimtab, listeners: [{{name: l, port: 80, {listener}}}]}}
---
"
    )
}

#[test]
fn an_ingress_shares_a_port_with_a_gateway_that_lets_its_namespace_and_with_no_other() {
    let ingress = with_tls("i", "b.example.com", "unused");
    let config = |gateway: &str| translate(&objects(&(gateway.to_owned() + &ingress)));
    let shared = config(&gateway("protocol: HTTP, allowedRoutes: {namespaces: {from: All}}"));
    assert_eq!(shared.routes[0].listeners, ["infra/g/l"]);
    assert!(shared.statuses.ingresses[0].accepted.holds);
    assert_eq!(shared.statuses.gateways[0].listeners[0].attached_routes, 0, "that counts routes of the Gateway API");

    let closed = config(&gateway("protocol: HTTP, hostname: '*.example.com'"));
    assert!(closed.routes.is_empty());
    let said = &closed.statuses.ingresses[0].accepted;
    assert_eq!(said.reason, reason::NOT_ALLOWED_BY_LISTENERS);
    assert!(said.message.contains("infra/g"), "{}", said.message);

    // Another host: the port is shared, each with a listener of its own.
    let beside = config(&gateway("protocol: HTTP, hostname: 'b.example.com'"));
    assert_eq!(beside.routes[0].listeners, ["ingress/http/"]);
    assert!(beside.statuses.ingresses[0].accepted.holds);
}

#[test]
fn what_leads_nowhere_is_answered_500_and_said() {
    let yaml = of_class("ingressClassName: trimtab,").replace("name: web", "name: gone");
    let config = translate(&objects(&yaml));
    assert_eq!(config.routes[0].rules[0].backends[0].backend, "");
    assert_eq!(config.statuses.ingresses[0].accepted.reason, reason::BACKEND_NOT_FOUND);
}
