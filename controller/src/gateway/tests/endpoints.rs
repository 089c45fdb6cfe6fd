//! Services and EndpointSlices: what becomes of them.

use super::*;

#[test]
fn the_order_of_objects_and_endpoints_changes_nothing() {
    let many = SERVICE.replace(
        "{addresses: [10.0.0.1]}",
        "{addresses: [10.0.0.9]}, {addresses: [10.0.0.10]}, {addresses: [10.0.0.1]}",
    );
    let turned = SERVICE.replace(
        "{addresses: [10.0.0.1]}",
        "{addresses: [10.0.0.1]}, {addresses: [10.0.0.9]}, {addresses: [10.0.0.10]}",
    );
    let one = translate(&objects(&format!("{GATEWAY}{ROUTE}{many}")));
    let other = translate(&objects(&format!("{turned}{ROUTE}{GATEWAY}")));
    assert_eq!(one, other);
    let order: Vec<_> = one.backends[0].endpoints.iter().map(|endpoint| endpoint.address.as_str()).collect();
    assert_eq!(order, ["10.0.0.1:8080", "10.0.0.9:8080", "10.0.0.10:8080"]);
}

#[test]
fn the_generation_changes_with_endpoints_and_not_with_their_readiness() {
    let generation = |endpoints: &str| {
        let yaml = format!("{GATEWAY}{ROUTE}{}", SERVICE.replace("{addresses: [10.0.0.1]}", endpoints));
        translate(&objects(&yaml)).backends[0].generation()
    };
    let one = generation("{addresses: [10.0.0.1]}, {addresses: [10.0.0.2]}");
    assert_eq!(one, generation("{addresses: [10.0.0.1]}, {addresses: [10.0.0.2], conditions: {ready: false}}"));
    assert_ne!(one, generation("{addresses: [10.0.0.1]}, {addresses: [10.0.0.3]}"));
    assert_ne!(one, generation("{addresses: [10.0.0.1]}"));
}

#[test]
fn a_port_says_what_its_endpoints_speak() {
    let route = "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r}
spec:
  parentRefs: [{name: g}]
  rules: [{backendRefs: [{name: p, port: 80}, {name: p, port: 81}, {name: p, port: 82}]}]
---
apiVersion: v1
kind: Service
metadata: {name: p}
spec:
  ports:
  - {name: a, port: 80, appProtocol: kubernetes.io/h2c}
  - {name: b, port: 81, appProtocol: grpc}
  - {name: c, port: 82, appProtocol: mysql}
";
    check(
        &format!("{GATEWAY}{route}"),
        r#"
        listener default/g/http 0.0.0.0:80 ""
        route default/r on default/g/http for []
        rule 0 [] -> "default/p:80"*1 "default/p:81"*1 "default/p:82"*1
        backend default/p:80 trimtab Active h2c admission
        backend default/p:81 trimtab Active h2c admission
        backend default/p:82 trimtab Active admission
        ! Service default/p: metadata.name: no EndpointSlice has the label kubernetes.io/service-name: p
        ! Service default/p: spec.ports[82].appProtocol: "mysql" is not a protocol that Trimtab knows, expected http, kubernetes.io/h2c, grpc or kubernetes.io/ws: HTTP/1.1 is spoken
        "#,
    );
}

#[test]
fn slices_are_joined_by_pod_with_zones_names_and_readiness() {
    let slices = "
apiVersion: v1
kind: Service
metadata: {name: s}
spec: {ports: [{name: http, port: 80, targetPort: web}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: s-v6, labels: {kubernetes.io/service-name: s}}
addressType: IPv6
ports: [{name: http, port: 8080}]
endpoints:
- {addresses: ['fd00::1'], targetRef: {kind: Pod, name: pod-1, uid: u1}}
- {addresses: ['fd00::2'], targetRef: {kind: Pod, name: pod-2, uid: u2}, conditions: {ready: false}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: s-v4, labels: {kubernetes.io/service-name: s}}
addressType: IPv4
ports: [{name: other, port: 1}, {name: http, port: 8080}]
endpoints:
- {addresses: [10.0.0.1], zone: a, targetRef: {kind: Pod, name: pod-1, uid: u1}}
- {addresses: [10.0.0.3], conditions: {ready: false, serving: true, terminating: true}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: s-bad, labels: {kubernetes.io/service-name: s}}
addressType: IPv4
ports: [{name: other, port: 1}, {name: more, port: 2}]
endpoints: [{addresses: [10.0.0.4]}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: s-none, labels: {kubernetes.io/service-name: s}}
addressType: IPv4
endpoints: [{addresses: [10.0.0.5]}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: s-placeholder, labels: {kubernetes.io/service-name: s}}
addressType: IPv4
ports: []
endpoints: []
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: lost}
addressType: IPv4
endpoints: []
---";
    check(
        &format!("{GATEWAY}{ROUTE}{slices}"),
        "
        listener default/g/http 0.0.0.0:80 \"\"
        route default/r on default/g/http for []
        rule 0 [] -> \"default/s:80\"*1
        backend default/s:80 trimtab Active admission
        endpoint pod-1 10.0.0.1:8080 Ready zone=a scrape=http://10.0.0.1:8080/metrics
        endpoint 10.0.0.3:8080 10.0.0.3:8080 Draining scrape=http://10.0.0.3:8080/metrics draining
        endpoint pod-2 [fd00::2]:8080 Draining scrape=http://[fd00::2]:8080/metrics
        ! EndpointSlice default/lost: metadata.labels: has no kubernetes.io/service-name: its endpoints belong to no Service
        ! EndpointSlice default/s-bad: ports: has no port \"http\", which is port 80 of Service s
        ! EndpointSlice default/s-none: ports: is empty: no port is defined, expected \"http\", which is port 80 of Service s
        ",
    );
}

#[test]
fn where_nothing_is_ready_what_still_serves_gets_requests() {
    let service = SERVICE.replace(
        "{addresses: [10.0.0.1]}",
        "{addresses: [10.0.0.1], conditions: {ready: false, serving: true, terminating: true}}, {addresses: [10.0.0.2], conditions: {ready: false}}",
    );
    let config = translate(&objects(&format!("{GATEWAY}{ROUTE}{service}")));
    let ready: Vec<_> =
        config.backends[0].endpoints.iter().map(|endpoint| (endpoint.address.as_str(), endpoint.ready)).collect();
    assert_eq!(ready, [("10.0.0.1:8080", true), ("10.0.0.2:8080", false)]);
}

#[test]
fn a_service_without_slices_is_a_backend_without_endpoints_and_a_problem() {
    let service = SERVICE.split("---").next().unwrap();
    check(
        &format!("{GATEWAY}{ROUTE}{service}"),
        "
        listener default/g/http 0.0.0.0:80 \"\"
        route default/r on default/g/http for []
        rule 0 [] -> \"default/s:80\"*1
        backend default/s:80 trimtab Active admission
        ! Service default/s: metadata.name: no EndpointSlice has the label kubernetes.io/service-name: s
        ",
    );
}
