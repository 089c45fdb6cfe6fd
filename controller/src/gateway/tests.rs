//! Golden examples: objects as YAML, and everything that they become, in a form that a person can read.

use std::fmt::Write as _;

use trimtab_proxy::api::v1::{self, path_match, value_match};

use super::{BackendSpec, Config, translate};
use crate::{objects::Objects, provider::yaml::document};

/// Checks what YAML documents become.
fn check(yaml: &str, expected: &str) {
    let found = show(&translate(&objects(yaml)));
    let expected: String =
        expected.lines().map(str::trim).filter(|line| !line.is_empty()).map(|line| format!("{line}\n")).collect();
    assert_eq!(found, expected, "\nfound:\n{found}\nexpected:\n{expected}");
}

fn objects(yaml: &str) -> Objects {
    let mut objects = Objects::default();
    for placed in document::read("f.yaml", yaml.as_bytes()).unwrap_or_else(|problems| panic!("{problems:#?}")) {
        placed.object.insert_into(&mut objects);
    }
    objects
}

fn show(config: &Config) -> String {
    let mut text = String::new();
    for l in &config.listeners {
        write!(text, "listener {} {}:{} {:?}", l.name, l.address, l.port, l.hostname).unwrap();
        if let Some(tls) = &l.tls {
            let names: Vec<_> = tls.certificates.iter().map(|certificate| certificate.name.as_str()).collect();
            write!(text, " {:?} {}", tls.min_version(), names.join(" ")).unwrap();
        }
        text.push('\n');
    }
    for route in &config.routes {
        writeln!(text, "route {} on {} for {:?}", route.name, route.listeners.join(" "), route.hostnames).unwrap();
        for rule in &route.rules {
            let matches: Vec<_> = rule.matches.iter().map(show_match).collect();
            let backends: Vec<_> = rule.backends.iter().map(|b| format!("{:?}*{}", b.backend, b.weight)).collect();
            write!(
                text,
                "rule {} [{}] -> {}",
                rule.name,
                matches.join(" | "),
                if backends.is_empty() { "500".to_owned() } else { backends.join(" ") }
            )
            .unwrap();
            for (name, value) in [("request", rule.request_timeout_ms), ("backend", rule.backend_request_timeout_ms)] {
                if let Some(ms) = value {
                    write!(text, " {name}={ms}ms").unwrap();
                }
            }
            text.push('\n');
            show_filters("", &rule.filters, &mut text);
            for (index, backend) in rule.backends.iter().enumerate() {
                show_filters(&format!("{index} "), &backend.filters, &mut text);
            }
        }
    }
    config.backends.iter().for_each(|backend| show_backend(backend, &mut text));
    for problem in &config.problems {
        writeln!(text, "! {problem}").unwrap();
    }
    text
}

fn show_filters(of: &str, filters: &[v1::Filter], text: &mut String) {
    for filter in filters {
        writeln!(text, "filter {of}{:?}", filter.kind.as_ref().expect("a kind")).unwrap();
    }
}

fn show_match(one: &v1::RouteMatch) -> String {
    let mut parts = Vec::new();
    if let Some(path) = &one.path {
        let kind = match path.kind() {
            path_match::Kind::Prefix => "prefix",
            path_match::Kind::Exact => "exact",
            path_match::Kind::RegularExpression => "regex",
        };
        parts.push(format!("{kind} {}", path.value));
    }
    parts.extend(one.method.clone());
    for (what, values) in [("header", &one.headers), ("query", &one.query_params)] {
        for value in values {
            let sign = if value.kind() == value_match::Kind::Exact { "=" } else { "~" };
            parts.push(format!("{what} {}{sign}{}", value.name, value.value));
        }
    }
    parts.join(" & ")
}

fn show_backend(backend: &BackendSpec, text: &mut String) {
    let resource = &backend.resource;
    write!(text, "backend {} {} {:?}", resource.name, backend.algorithm, backend.mode).unwrap();
    if let Some(objective) = resource.objective_ms {
        write!(text, " objective={objective}ms").unwrap();
    }
    if resource.protocol() == v1::Protocol::H2c {
        text.push_str(" h2c");
    }
    if resource.outlier_detection.is_some_and(|outlier| outlier.disabled) {
        text.push_str(" no-ejection");
    }
    if resource.admission_control.is_some_and(|admission| admission.enabled) {
        text.push_str(" admission");
    }
    text.push('\n');
    let usual = super::traffic::retry(None, backend.algorithm);
    if resource.retry.as_ref() != Some(&usual) {
        writeln!(text, "{:?}", resource.retry.as_ref().expect("always said")).unwrap();
    }
    resource.rate_limits.iter().for_each(|limit| writeln!(text, "{limit:?}").unwrap());
    resource.access.iter().for_each(|access| writeln!(text, "{access:?}").unwrap());
    resource.faults.iter().for_each(|faults| writeln!(text, "{faults:?}").unwrap());
    assert_eq!(resource.endpoints.len(), backend.endpoints.len());
    for (sent, endpoint) in resource.endpoints.iter().zip(&backend.endpoints) {
        assert_eq!((sent.key, &sent.name), (endpoint.key.0, &endpoint.name));
        assert_eq!(sent.state() == v1::endpoint::State::Ready, endpoint.ready);
        write!(text, "endpoint {} {} {:?}", endpoint.name, endpoint.address, sent.state()).unwrap();
        for (name, value) in
            [("zone", endpoint.zone.clone()), ("scrape", endpoint.scrape_url.as_ref().map(ToString::to_string))]
        {
            if let Some(value) = value {
                write!(text, " {name}={value}").unwrap();
            }
        }
        if endpoint.draining {
            text.push_str(" draining");
        }
        text.push('\n');
    }
}

const GATEWAY: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: g}
spec:
  gatewayClassName: trimtab
  listeners:
  - {name: http, port: 80, protocol: HTTP}
---";

const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: s}
spec:
  ports: [{name: http, port: 80}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: s-1, labels: {kubernetes.io/service-name: s}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [10.0.0.1]}]
---";

const ROUTE: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r}
spec:
  parentRefs: [{name: g}]
  rules: [{backendRefs: [{name: s, port: 80}]}]
---";

/// What Gateway, Service and Route above become.
const PLAIN: &str = "
listener default/g/http 0.0.0.0:80 \"\"
route default/r on default/g/http for []
rule 0 [] -> \"default/s:80\"*1
backend default/s:80 trimtab Active admission
endpoint 10.0.0.1:8080 10.0.0.1:8080 Ready scrape=http://10.0.0.1:8080/metrics
";

#[test]
fn a_gateway_a_route_and_a_service_are_enough() {
    check(&format!("{GATEWAY}{ROUTE}{SERVICE}"), PLAIN);
}

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
fn filters_become_what_the_data_plane_does() {
    let route = "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r}
spec:
  parentRefs: [{name: g}]
  rules:
  - filters: [{type: RequestRedirect, requestRedirect: {scheme: https, statusCode: 301}}]
  - filters:
    - {type: URLRewrite, urlRewrite: {hostname: a.test, path: {type: ReplacePrefixMatch, replacePrefixMatch: /x}}}
    - {type: RequestMirror, requestMirror: {backendRef: {name: s, port: 80}, percent: 5}}
    - {type: RequestMirror, requestMirror: {backendRef: {name: none, port: 80}, fraction: {numerator: 1, denominator: 3}}}
    - {type: CORS, cors: {allowOrigins: ['*'], allowMethods: [GET], maxAge: 9}}
    backendRefs:
    - name: s
      port: 80
      filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: a, value: b}], remove: [c]}}]
";
    check(
        &format!("{GATEWAY}{SERVICE}{route}"),
        r#"
        listener default/g/http 0.0.0.0:80 ""
        route default/r on default/g/http for []
        rule 0 [] -> 500
        filter Redirect(Redirect { scheme: "https", hostname: "", port: 0, path: None, status: 301 })
        rule 1 [] -> "default/s:80"*1
        filter Rewrite(Rewrite { hostname: "a.test", path: Some(PathRewrite { kind: Some(Prefix("/x")) }) })
        filter Mirror(Mirror { backend: "default/s:80", numerator: 5, denominator: 100 })
        filter Mirror(Mirror { backend: "", numerator: 1, denominator: 3 })
        filter Cors(Cors { allow_origins: ["*"], allow_credentials: false, allow_methods: ["GET"], allow_headers: [], expose_headers: [], max_age_s: Some(9) })
        filter 0 RequestHeaders(HeaderModifier { set: [Header { name: "a", value: "b" }], add: [], remove: ["c"] })
        backend default/s:80 trimtab Active admission
        endpoint 10.0.0.1:8080 10.0.0.1:8080 Ready scrape=http://10.0.0.1:8080/metrics
        ! HTTPRoute default/r: spec.rules[1].filters[2].requestMirror.backendRef.name: there is no Service default/none
        "#,
    );
}

#[test]
fn a_filter_that_makes_no_sense_is_named_by_its_field() {
    let check = |matches: &str, filters: &str, expected: &str| {
        let route = format!(
            "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: r}}
spec:
  parentRefs: [{{name: g}}]
  rules:
  - matches: {matches}
    filters: {filters}
"
        );
        // It is wrong by itself: the file with it is refused.
        let problems = document::read("f.yaml", route.as_bytes()).expect_err("a problem");
        let text: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert!(text.iter().any(|problem| problem.contains(expected)), "{text:#?}");
    };
    check(
        "[]",
        "[{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: Content-Length, value: '1'}]}}]",
        "spec.rules[0].filters[0].requestHeaderModifier.set[0].name: \"Content-Length\" is the proxy's own to set",
    );
    check("[]", "[{type: CORS}]", "spec.rules[0].filters[0].cors: is missing, expected it with type CORS");
    check(
        "[]",
        "[{type: CORS, cors: {allowOrigins: [a]}}]",
        "spec.rules[0].filters[0].cors.allowOrigins[0]: \"a\" is not an origin",
    );
    check(
        "[{path: {type: Exact, value: /a}}]",
        "[{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}]",
        "spec.rules[0].filters[0].urlRewrite.path.replacePrefixMatch: needs matches of type PathPrefix",
    );
    check(
        "[]",
        "[{type: RequestMirror, requestMirror: {backendRef: {name: s, port: 80}, percent: 101}}]",
        "spec.rules[0].filters[0].requestMirror.percent: 101 of 100 is not a share",
    );
    check(
        "[]",
        "[{type: RequestRedirect, requestRedirect: {}}, {type: URLRewrite, urlRewrite: {hostname: a}}]",
        "spec.rules[0].filters: has both RequestRedirect and URLRewrite",
    );
}

/// A Secret with a certificate for `name`, as people write it into a file.
fn secret(name: &str, namespace: &str) -> String {
    let made = rcgen::generate_simple_self_signed(vec![format!("{name}.test")]).unwrap();
    let indented = |pem: String| pem.lines().map(|line| format!("    {line}\n")).collect::<String>();
    let (chain, key) = (indented(made.cert.pem()), indented(made.signing_key.serialize_pem()));
    format!(
        "
apiVersion: v1
kind: Secret
metadata: {{name: {name}, namespace: {namespace}}}
type: kubernetes.io/tls
stringData:
  tls.crt: |
{chain}  tls.key: |
{key}---"
    )
}

const TO_S: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r}
spec:
  parentRefs: [{name: g}]
  rules: [{backendRefs: [{name: s, port: 80}]}]
---";

#[test]
fn a_policy_on_traffic_becomes_what_the_data_plane_does() {
    let policy = "
apiVersion: trimtab.dev/v1alpha1
kind: BackendTrafficPolicy
metadata: {name: p}
spec:
  targetRefs: [{name: s}]
  retry:
    numRetries: 3
    retryOn: {triggers: [connect-failure, retriable-status-codes], httpStatusCodes: [502, 503]}
    perRetry: {timeout: 250ms}
    budget: {percent: 10, minRetryConcurrency: 1}
  rateLimit:
    local:
      rules:
      - {}
      - limit: {requests: 5, unit: Minute}
        clientSelectors: [{sourceCIDR: {type: Distinct, value: 0.0.0.0/0}}]
  authorization:
    rules: [{action: Allow, principal: {clientCIDRs: [10.0.0.0/8]}}]
  faultInjection:
    abort: {httpStatus: 500, percentage: 0.5}
    delay: {fixedDelay: 2s}
";
    check(
        &format!("{GATEWAY}{SERVICE}{TO_S}{policy}"),
        r#"
        listener default/g/http 0.0.0.0:80 ""
        route default/r on default/g/http for []
        rule 0 [] -> "default/s:80"*1
        backend default/s:80 trimtab Active admission
        Retry { num_retries: Some(3), statuses: [502, 503], reset: false, per_try_timeout_ms: Some(250), budget_percent: Some(10), budget_min: Some(1) }
        RateLimit { requests: 2000, per_ms: 1000, per_client: false }
        RateLimit { requests: 5, per_ms: 60000, per_client: true }
        Access { rules: [AccessRule { allow: true, networks: ["10.0.0.0/8"] }], deny_others: true }
        Faults { abort: Some(FaultAbort { status: 500, percent: 0.5 }), delay: Some(FaultDelay { delay_ms: 2000, percent: 100.0 }) }
        endpoint 10.0.0.1:8080 10.0.0.1:8080 Ready scrape=http://10.0.0.1:8080/metrics
        "#,
    );
}

#[test]
fn a_policy_on_traffic_that_makes_no_sense_is_named_by_its_field() {
    let check = |spec: &str, expected: &str| {
        let policy = format!(
            "
apiVersion: trimtab.dev/v1alpha1
kind: BackendTrafficPolicy
metadata: {{name: p}}
spec:
  targetRefs: [{{name: s}}]
  {spec}
"
        );
        let problems = document::read("f.yaml", policy.as_bytes()).expect_err("a problem");
        let text: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert!(text.iter().any(|problem| problem.contains(expected)), "{text:#?}");
    };
    check(
        "retry: {retryOn: {triggers: [retriable-status-codes], httpStatusCodes: [200]}}",
        "spec.retry.retryOn.httpStatusCodes[0]: 200 is not the status of a failure, expected 400 to 599",
    );
    check("retry: {perRetry: {timeout: 0s}}", "spec.retry.perRetry.timeout: is zero");
    check("rateLimit: {local: {rules: []}}", "spec.rateLimit.local.rules: has 0 entries, expected 1 to 4");
    check(
        "rateLimit: {local: {rules: [{clientSelectors: [{sourceCIDR: {value: 10.0.0.0/8}}]}]}}",
        "spec.rateLimit.local.rules[0].clientSelectors[0].sourceCIDR.value: \"10.0.0.0/8\" is not supported",
    );
    check(
        "authorization: {rules: [{action: Allow, principal: {clientCIDRs: [10.0.0.0/33]}}]}",
        "spec.authorization.rules[0].principal.clientCIDRs[0]: \"10.0.0.0/33\" is not a range of addresses",
    );
    check("faultInjection: {abort: {httpStatus: 99}}", "httpStatus");
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
fn https_listeners_show_certificates_of_secrets() {
    let gateway = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: g}
spec:
  gatewayClassName: trimtab
  listeners:
  - {name: a, port: 443, protocol: HTTPS, hostname: a.test, tls: {certificateRefs: [{name: a}]}}
  - name: b
    port: 443
    protocol: HTTPS
    hostname: b.test
    tls:
      certificateRefs: [{name: none}, {name: a}, {name: b, namespace: other}, {name: c, namespace: other}]
      options: {trimtab.dev/tls-min-version: '1.3'}
  - {name: c, port: 443, protocol: HTTPS, hostname: c.test, tls: {certificateRefs: [{name: opaque}]}}
  - {name: d, port: 443, protocol: HTTP, hostname: d.test}
  - {name: e, port: 444, protocol: HTTPS, tls: {certificateRefs: [{name: broken}]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: ReferenceGrant
metadata: {name: grant, namespace: other}
spec:
  from: [{group: gateway.networking.k8s.io, kind: Gateway, namespace: default}]
  to: [{group: '', kind: Secret, name: b}]
---
apiVersion: v1
kind: Secret
metadata: {name: opaque}
data: {tls.crt: ''}
---
apiVersion: v1
kind: Secret
metadata: {name: broken}
type: kubernetes.io/tls
stringData: {tls.crt: no, tls.key: no}
---";
    let secrets = [("a", "default"), ("b", "other"), ("c", "other")].map(|(name, namespace)| secret(name, namespace));
    check(
        &format!("{gateway}{}", secrets.concat()),
        "
        listener default/g/a 0.0.0.0:443 \"a.test\" Tls12 default/a
        listener default/g/b 0.0.0.0:443 \"b.test\" Tls13 default/a other/b
        ! Gateway default/g: spec.listeners[1].tls.certificateRefs[0].name: there is no Secret default/none
        ! Gateway default/g: spec.listeners[1].tls.certificateRefs[3].namespace: no ReferenceGrant in other lets a Gateway of default refer to Secret other/c
        ! Gateway default/g: spec.listeners[2].tls.certificateRefs: none resolves: the listener is not served
        ! Gateway default/g: spec.listeners[2].tls.certificateRefs[0].name: Secret default/opaque is of type \"\", expected kubernetes.io/tls
        ! Gateway default/g: spec.listeners[3].protocol: HTTP does not go with an older listener of the same address and port: it is not served
        ! Gateway default/g: spec.listeners[4].tls.certificateRefs: none resolves: the listener is not served
        ! Gateway default/g: spec.listeners[4].tls.certificateRefs[0].name: Secret default/broken: tls.crt has no certificate in PEM
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
fn gateways_of_other_classes_are_left_alone() {
    let class = "
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: mine}
spec: {controllerName: trimtab.dev/gateway-controller}
---";
    let gateway = GATEWAY.replace("gatewayClassName: trimtab", "gatewayClassName: mine");
    check(&format!("{class}{gateway}{ROUTE}{SERVICE}"), PLAIN);
    check(
        &format!("{gateway}{ROUTE}{SERVICE}"),
        "
        ! no Gateway of class trimtab has a listener that can be served: nothing is
        ! Gateway default/g: spec.gatewayClassName: \"mine\" is not a class of Trimtab's, expected trimtab
        ",
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

fn policy(name: &str, spec: &str) -> String {
    format!(
        "\napiVersion: trimtab.dev/v1alpha1\nkind: BackendTrafficPolicy\nmetadata: {{name: {name}}}\nspec:\n  targetRefs: [{{name: s}}]\n{spec}\n---"
    )
}

#[test]
fn a_policy_decides_how_a_backend_is_reached() {
    let policy = policy(
        "p",
        "  loadBalancer: {type: LeastRequest}
  retry: {numRetries: 2}
  circuitBreaker: {maxConnections: 10, maxParallelRequests: 20}
  healthCheck: {panicThreshold: 40, passive: {consecutive5XxErrors: 7, maxEjectionPercent: 10}}
  timeout: {tcp: {connectTimeout: 250ms}, http: {requestTimeout: 3s, connectionIdleTimeout: 1m}}
  slowStart: {window: 20s}
  adaptive:
    mode: Shadow
    model: builtin
    objective: {latency: 150ms}
    guardrails: {shareMin: 0.1, shareMax: 5, stepMax: 2, staleAfter: 4s}
    metrics: {path: /m?x=1, port: 9100, interval: 1s, names: {inFlight: active}}",
    );
    let yaml = format!("{GATEWAY}{ROUTE}{SERVICE}{policy}");
    check(
        &yaml,
        "
        listener default/g/http 0.0.0.0:80 \"\"
        route default/r on default/g/http for []
        rule 0 [] -> \"default/s:80\"*1 backend=3000ms
        backend default/s:80 least-request Shadow objective=150ms
        Retry { num_retries: Some(2), statuses: [], reset: false, per_try_timeout_ms: None, budget_percent: None, budget_min: None }
        endpoint 10.0.0.1:8080 10.0.0.1:8080 Ready scrape=http://10.0.0.1:9100/m?x=1
        ",
    );
    let config = translate(&objects(&yaml));
    let spec = &config.backends[0];
    let resource = &spec.resource;
    assert_eq!(resource.retry.as_ref().unwrap().num_retries, Some(2));
    assert_eq!(
        resource.circuit_breaker.unwrap(),
        v1::CircuitBreaker { max_connections: Some(10), max_parallel_requests: Some(20) }
    );
    assert_eq!(
        resource.timeouts.unwrap(),
        v1::BackendTimeouts { connect_timeout_ms: Some(250), connection_idle_timeout_ms: Some(60_000) }
    );
    let outlier = resource.outlier_detection.unwrap();
    assert_eq!(
        (outlier.disabled, outlier.consecutive_5xx_errors, outlier.max_ejection_percent),
        (false, Some(7), Some(10))
    );
    let guard = spec.guardrails;
    assert_eq!(
        (guard.share_min, guard.share_max, guard.step_max, guard.panic_threshold),
        (Some(0.1), Some(5.0), Some(2.0), Some(0.4))
    );
    assert_eq!((guard.stale_after.map(|d| d.as_secs()), guard.slow_start.map(|d| d.as_secs())), (Some(4), Some(20)));
    let scrape = spec.scrape.as_ref().unwrap();
    assert_eq!((scrape.interval.as_millis(), scrape.names.in_flight.as_deref()), (1000, Some("active")));
    assert_eq!(spec.model.as_deref(), Some("builtin"));
}

#[test]
fn a_policy_says_how_requests_are_told_apart_and_which_terms_act() {
    let yaml = |adaptive: &str| {
        let policy = policy("p", &format!("  adaptive:\n{adaptive}"));
        format!("{GATEWAY}{ROUTE}{SERVICE}{policy}")
    };
    let config = translate(&objects(&yaml(
        "    classes: {header: x-request-class, priorities: [{match: \"GET /health*\", priority: 1}]}
    terms: {affinity: false}",
    )));
    let resource = &config.backends[0].resource;
    let classes = resource.classes.as_ref().unwrap();
    assert_eq!((classes.enabled, &*classes.header, classes.priorities.len()), (None, "x-request-class", 1));
    assert_eq!(classes.priorities[0], v1::ClassPriority { r#match: "GET /health*".into(), priority: 1.0 });
    let terms = resource.terms.unwrap();
    assert_eq!((terms.affinity, terms.class_costs), (Some(false), None));

    let wrong = yaml("    classes: {header: \"a b\", priorities: [{match: \"\", priority: 1}]}");
    let problems = document::read("f.yaml", wrong.as_bytes()).unwrap_err();
    let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
    for part in [
        "spec.adaptive.classes.header: \"a b\" is not the name of a header",
        "spec.adaptive.classes.priorities[0].match: has 0 bytes",
    ] {
        assert!(problems.iter().any(|problem| problem.contains(part)), "{part}: {problems:?}");
    }
}

#[test]
fn baselines_neither_eject_nor_shed_unless_told_to() {
    let expected = PLAIN.replace("trimtab Active admission", "round-robin Off no-ejection");
    check(&format!("{GATEWAY}{ROUTE}{SERVICE}{}", policy("p", "  loadBalancer: {type: RoundRobin}")), &expected);
    let told = "  loadBalancer: {type: RoundRobin}\n  healthCheck: {passive: {}}\n  admissionControl: {enabled: true}";
    let expected = PLAIN.replace("trimtab Active admission", "round-robin Off admission");
    check(&format!("{GATEWAY}{ROUTE}{SERVICE}{}", policy("p", told)), &expected);
}

#[test]
fn of_two_policies_for_one_service_the_first_wins_and_one_for_a_port_goes_before_both() {
    let (a, b) = (policy("a", "  loadBalancer: {type: Random}"), policy("b", "  loadBalancer: {type: PeakEwma}"));
    let clash = "! BackendTrafficPolicy default/b: spec.targetRefs[0]: is already the target of BackendTrafficPolicy default/a\n";
    let expected = PLAIN.replace("trimtab Active admission", "random Off no-ejection") + clash;
    check(&format!("{GATEWAY}{ROUTE}{SERVICE}{b}{a}"), &expected);
    let port = b.replace("name: s", "name: s, sectionName: http");
    check(
        &format!("{GATEWAY}{ROUTE}{SERVICE}{a}{port}"),
        &PLAIN.replace("trimtab Active admission", "peak-ewma Off no-ejection"),
    );
    let lost = b.replace("name: s", "name: s, sectionName: grpc") + &a.replace("name: s", "name: t");
    let expected = format!(
        "{PLAIN}! BackendTrafficPolicy default/a: spec.targetRefs[0].name: there is no Service default/t\n\
         ! BackendTrafficPolicy default/b: spec.targetRefs[0].sectionName: \"grpc\" is not the name of a port of Service default/s\n"
    );
    check(&format!("{GATEWAY}{ROUTE}{SERVICE}{lost}"), &expected);
}

#[test]
fn endpoints_without_metrics_are_not_scraped() {
    let config = translate(&objects(&format!(
        "{GATEWAY}{ROUTE}{SERVICE}{}",
        policy("p", "  adaptive: {metrics: {scrape: false}}")
    )));
    assert_eq!((config.backends[0].scrape.as_ref(), config.backends[0].endpoints[0].scrape_url.as_ref()), (None, None));
}
