//! Golden examples: objects as YAML, and everything that they become, in a form that a person can read.

mod endpoints;
mod filters;
mod listeners;
mod policies;
mod routes;
mod tls;
mod traffic;

use std::fmt::Write as _;
use std::sync::Arc;

use trimtab_proxy::api::v1::{self, path_match, value_match};

use super::{BackendSpec, Config, Translator, translate};
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
            path_match::Kind::GrpcMethod => "method",
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
    for endpoint in &backend.endpoints {
        let sent = endpoint.resource();
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

fn policy(name: &str, spec: &str) -> String {
    format!(
        "\napiVersion: trimtab.dev/v1alpha1\nkind: BackendTrafficPolicy\nmetadata: {{name: {name}}}\nspec:\n  targetRefs: [{{name: s}}]\n{spec}\n---"
    )
}

#[test]
fn a_gateway_a_route_and_a_service_are_enough() {
    check(&format!("{GATEWAY}{ROUTE}{SERVICE}"), PLAIN);
}
