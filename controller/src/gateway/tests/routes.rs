//! Routes: what they match, what they attach to, what they may refer to.

use super::*;

#[test]
fn all_core_matches_are_translated() {
    let route = "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r}
spec:
  parentRefs: [{name: g}]
  hostnames: [A.example.com]
  rules:
  - name: first
    matches:
    - path: {type: Exact, value: /a}
      method: POST
      headers: [{name: X-A, value: b}, {name: x-a, value: c}, {name: y, type: RegularExpression, value: '[0-9]+'}]
      queryParams: [{name: q, value: '1'}]
    - path: {type: RegularExpression, value: '/v[0-9]/.*'}
    timeouts: {request: 2s, backendRequest: 500ms}
    backendRefs: [{name: s, port: 80, weight: 3}, {name: none, port: 80}, {name: s, port: 80, weight: 0}]
  - matches: [{path: {}}]
    timeouts: {request: 0s, backendRequest: 0s}
    backendRefs: [{name: s, port: 81}]
";
    check(
        &format!("{GATEWAY}{SERVICE}{route}"),
        "
        listener default/g/http 0.0.0.0:80 \"\"
        route default/r on default/g/http for [\"a.example.com\"]
        rule first [exact /a & POST & header x-a=b & header y~[0-9]+ & query q=1 | regex /v[0-9]/.*] -> \"default/s:80\"*3 \"\"*1 \"default/s:80\"*0 request=2000ms backend=500ms
        rule 1 [prefix /] -> \"\"*1 request=0ms
        backend default/s:80 trimtab Active admission
        endpoint 10.0.0.1:8080 10.0.0.1:8080 Ready scrape=http://10.0.0.1:8080/metrics
        ! HTTPRoute default/r: spec.rules[0].backendRefs[1].name: there is no Service default/none
        ! HTTPRoute default/r: spec.rules[1].backendRefs[0].port: 81 is not a port of Service default/s, expected one of 80
        ",
    );
}

#[test]
fn what_is_not_supported_answers_500_and_is_named() {
    let route = "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r}
spec:
  parentRefs: [{name: g}]
  rules:
  - filters: [{type: ExtensionRef, extensionRef: {group: example.com, kind: Wasm, name: w}}]
    backendRefs: [{name: s, port: 80}]
  - backendRefs:
    - {name: s, port: 80}
    - name: s
      port: 80
      filters: [{type: ExtensionRef, extensionRef: {group: example.com, kind: Wasm, name: w}}]
    - {name: s, kind: Bucket, group: example.com}
    - {name: s}
  - {}
";
    check(
        &format!("{GATEWAY}{SERVICE}{route}"),
        "
        listener default/g/http 0.0.0.0:80 \"\"
        route default/r on default/g/http for []
        rule 0 [] -> 500
        rule 1 [] -> \"default/s:80\"*1 \"\"*1 \"\"*1 \"\"*1
        rule 2 [] -> 500
        backend default/s:80 trimtab Active admission
        endpoint 10.0.0.1:8080 10.0.0.1:8080 Ready scrape=http://10.0.0.1:8080/metrics
        ! HTTPRoute default/r: spec.rules[0].filters[0]: ExtensionRef is not supported: requests are answered 500
        ! HTTPRoute default/r: spec.rules[1].backendRefs[1].filters[0]: ExtensionRef is not supported: requests are answered 500
        ! HTTPRoute default/r: spec.rules[1].backendRefs[2].kind: example.com/Bucket is not supported, expected a Service
        ! HTTPRoute default/r: spec.rules[1].backendRefs[3].port: is missing, expected a port of Service default/s
        ! HTTPRoute default/r: spec.rules[2].backendRefs: is missing: requests are answered 500
        ",
    );
}

#[test]
fn routes_attach_by_name_port_host_and_permission() {
    let yaml = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: g}
spec:
  gatewayClassName: trimtab
  addresses: [{value: 127.0.0.1}, {value: '::1'}]
  listeners:
  - {name: any, port: 80, protocol: HTTP}
  - {name: wild, port: 80, protocol: HTTP, hostname: '*.example.com'}
  - {name: open, port: 81, protocol: HTTP, allowedRoutes: {namespaces: {from: All}}}
  - {name: tls, port: 443, protocol: TLS}
  - {name: x, port: 82, protocol: HTTP, hostname: a.b}
  - {name: y, port: 82, protocol: HTTP, hostname: A.B}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: by-port}
spec: {parentRefs: [{name: g, port: 81}], rules: [{backendRefs: [{name: s, port: 80}]}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: by-host}
spec: {parentRefs: [{name: g, sectionName: wild}], hostnames: [a.example.com, other.org], rules: [{backendRefs: [{name: s, port: 80}]}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: no-host}
spec: {parentRefs: [{name: g, sectionName: wild}], hostnames: [other.org], rules: []}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: elsewhere, namespace: other}
spec: {parentRefs: [{name: g, namespace: default}, {name: g, namespace: default, sectionName: any}], rules: [{backendRefs: [{name: s, namespace: default, port: 80}]}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: nowhere}
spec: {parentRefs: [{name: h}, {name: g, sectionName: tls}, {name: s, kind: Service, group: ''}], rules: []}
---";
    check(
        &format!("{yaml}{SERVICE}"),
        "
        listener default/g/any@127.0.0.1 127.0.0.1:80 \"\"
        listener default/g/any@::1 ::1:80 \"\"
        listener default/g/open@127.0.0.1 127.0.0.1:81 \"\"
        listener default/g/open@::1 ::1:81 \"\"
        listener default/g/wild@127.0.0.1 127.0.0.1:80 \"*.example.com\"
        listener default/g/wild@::1 ::1:80 \"*.example.com\"
        route default/by-host on default/g/wild@127.0.0.1 default/g/wild@::1 for [\"a.example.com\", \"other.org\"]
        rule 0 [] -> \"default/s:80\"*1
        route default/by-port on default/g/open@127.0.0.1 default/g/open@::1 for []
        rule 0 [] -> \"default/s:80\"*1
        route other/elsewhere on default/g/open@127.0.0.1 default/g/open@::1 for []
        rule 0 [] -> \"\"*1
        backend default/s:80 trimtab Active admission
        endpoint 10.0.0.1:8080 10.0.0.1:8080 Ready scrape=http://10.0.0.1:8080/metrics
        ! Gateway default/g: spec.listeners[3].protocol: TLS is not supported yet, expected HTTP or HTTPS; the listener is not served
        ! Gateway default/g: spec.listeners[4]: has the port and hostname of another listener of this Gateway: none of them is served
        ! Gateway default/g: spec.listeners[5]: has the port and hostname of another listener of this Gateway: none of them is served
        ! HTTPRoute default/no-host: spec.hostnames: none of them is a host that a listener of Gateway g accepts
        ! HTTPRoute default/no-host: spec.rules: is missing: requests are answered 500
        ! HTTPRoute default/nowhere: spec.parentRefs[0].name: there is no Gateway default/h
        ! HTTPRoute default/nowhere: spec.parentRefs[1]: no listener \"tls\" of Gateway g is served
        ! HTTPRoute default/nowhere: spec.parentRefs[2].kind: Service is not supported, expected Gateway
        ! HTTPRoute default/nowhere: spec.rules: is missing: requests are answered 500
        ! HTTPRoute other/elsewhere: spec.parentRefs[1]: allowedRoutes of Gateway g does not allow this route
        ! HTTPRoute other/elsewhere: spec.rules[0].backendRefs[0].namespace: no ReferenceGrant in default lets an HTTPRoute of other refer to Service s
        ",
    );
}

#[test]
fn a_reference_grant_lets_routes_refer_across_namespaces() {
    let route = ROUTE
        .replace("{name: r}", "{name: r, namespace: other}")
        .replace("name: s", "name: s, namespace: default")
        .replace("name: g", "name: g, namespace: default");
    let gateway = GATEWAY.replace("protocol: HTTP", "protocol: HTTP, allowedRoutes: {namespaces: {from: All}}");
    let grant = "
apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {name: g}
spec:
  from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: other}]
  to: [{group: '', kind: Service, name: s}]
---";
    check(&format!("{gateway}{route}{grant}{SERVICE}"), &PLAIN.replace("default/r", "other/r"));
}

#[test]
fn calls_go_by_service_and_method_to_endpoints_that_speak_http_2() {
    let route = "
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: r}
spec:
  parentRefs: [{name: g}]
  hostnames: [a.example.com]
  rules:
  - name: first
    matches:
    - method: {service: shop.Cart, method: Add}
      headers: [{name: X-A, value: b}]
    - method: {service: shop.Cart}
    - method: {method: Check}
    - method: {type: RegularExpression, service: 'shop[.].*'}
    - {}
    backendRefs: [{name: s, port: 80, weight: 3}, {name: none, port: 80}]
";
    check(
        &format!("{GATEWAY}{SERVICE}{route}"),
        "
        listener default/g/http 0.0.0.0:80 \"\"
        route grpc:default/r on default/g/http for [\"a.example.com\"]
        rule first [exact /shop.Cart/Add & header x-a=b | prefix /shop.Cart | method Check | regex /(?:shop[.].*)/(?:[^/]+) | ] -> \"default/s:80\"*3 \"\"*1
        backend default/s:80 trimtab Active h2c admission
        endpoint 10.0.0.1:8080 10.0.0.1:8080 Ready scrape=http://10.0.0.1:8080/metrics
        ! GRPCRoute default/r: spec.rules[0].backendRefs[1].name: there is no Service default/none
        ",
    );
}

#[test]
fn of_an_httproute_and_a_grpcroute_with_the_same_host_the_older_has_it() {
    let route = |kind: &str, name: &str, second: u32, host: &str| {
        format!(
            "
apiVersion: gateway.networking.k8s.io/v1
kind: {kind}
metadata: {{name: {name}, creationTimestamp: '2026-01-01T00:00:0{second}Z'}}
spec: {{parentRefs: [{{name: g}}], hostnames: [{host}], rules: [{{backendRefs: [{{name: s, port: 80}}]}}]}}
---"
        )
    };
    let yaml = route("HTTPRoute", "younger", 2, "a.example.com")
        + &route("GRPCRoute", "older", 1, "'*.example.com'")
        + &route("HTTPRoute", "other", 3, "a.example.org");
    check(
        &format!("{yaml}{GATEWAY}{SERVICE}"),
        "
        listener default/g/http 0.0.0.0:80 \"\"
        route default/other on default/g/http for [\"a.example.org\"]
        rule 0 [] -> \"default/s:80\"*1
        route grpc:default/older on default/g/http for [\"*.example.com\"]
        rule 0 [] -> \"default/s:80\"*1
        backend default/s:80 trimtab Active h2c admission
        endpoint 10.0.0.1:8080 10.0.0.1:8080 Ready scrape=http://10.0.0.1:8080/metrics
        ! HTTPRoute default/younger: spec.hostnames: GRPCRoute default/older, which comes first (by age, then by name), has one of them there: no HTTPRoute can share it
        ",
    );
}
