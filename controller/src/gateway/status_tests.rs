//! Golden examples: objects as YAML, and what is said of them in their statuses.

use std::fmt::Write as _;

use super::{Config, status::Condition, translate};
use crate::{objects::Objects, provider::yaml::document};

/// Checks what is said of the objects of these YAML documents: every condition in short, with its message where it has one.
fn check(yaml: &str, expected: &str) {
    let found = show(&translate(&objects(yaml)));
    let expected: String =
        expected.lines().map(str::trim).filter(|line| !line.is_empty()).map(|line| format!("{line}\n")).collect();
    assert_eq!(found, expected, "\nfound:\n{found}\nexpected:\n{expected}");
}

fn objects(yaml: &str) -> Objects {
    let mut objects = Objects { proxy_addresses: vec!["192.0.2.1".to_owned()], ..Objects::default() };
    for placed in document::read("f.yaml", yaml.as_bytes()).unwrap_or_else(|problems| panic!("{problems:#?}")) {
        placed.object.insert_into(&mut objects);
    }
    objects
}

fn show(config: &Config) -> String {
    let mut text = String::new();
    let short = |conditions: &mut dyn Iterator<Item = &Condition>| -> String {
        conditions
            .map(|condition| {
                let sign = if condition.is_bad() { '!' } else { ' ' };
                let message =
                    if condition.message.is_empty() { String::new() } else { format!(": {}", condition.message) };
                format!("{sign}{}={} {}{message}\n", condition.kind, condition.holds, condition.reason)
            })
            .collect()
    };
    for class in &config.statuses.classes {
        writeln!(text, "class {}\n{}", class.subject.name, short(&mut class.conditions.iter())).unwrap();
    }
    for gateway in &config.statuses.gateways {
        writeln!(text, "gateway {} at {}", gateway.subject.name, gateway.addresses.join(" ")).unwrap();
        writeln!(text, "{}", short(&mut gateway.conditions.iter())).unwrap();
        for listener in &gateway.listeners {
            let kinds = listener.supported_kinds.join(" ");
            writeln!(text, "listener {} routes={} kinds={kinds}", listener.name, listener.attached_routes).unwrap();
            writeln!(text, "{}", short(&mut listener.conditions.iter())).unwrap();
        }
    }
    for route in &config.statuses.routes {
        for parent in &route.parents {
            writeln!(text, "route {} at {}", route.subject.name, parent.parent.name).unwrap();
            writeln!(text, "{}", short(&mut parent.conditions.iter())).unwrap();
        }
    }
    for policy in &config.statuses.policies {
        for (ancestor, condition) in &policy.ancestors {
            writeln!(text, "policy {} for {}", policy.subject.name, ancestor.name).unwrap();
            writeln!(text, "{}", short(&mut std::iter::once(condition))).unwrap();
        }
    }
    text.lines().map(str::trim).filter(|line| !line.is_empty()).map(|line| format!("{line}\n")).collect()
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
spec: {ports: [{name: http, port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: s-1, labels: {kubernetes.io/service-name: s}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [10.0.0.1]}]
---";

const FINE: &str = "
gateway g at 192.0.2.1
Accepted=true Accepted
Programmed=true Programmed
listener http routes=1 kinds=HTTPRoute GRPCRoute
Accepted=true Accepted
Programmed=true Programmed
ResolvedRefs=true ResolvedRefs
Conflicted=false NoConflicts
";

fn route(spec: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r}}\nspec:\n  {}\n---",
        spec.trim().replace('\n', "\n  ")
    )
}

#[test]
fn what_works_says_so() {
    let route = route("parentRefs: [{name: g}]\nrules: [{backendRefs: [{name: s, port: 80}]}]");
    let class = "\napiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {name: trimtab}\n\
                 spec: {controllerName: trimtab.dev/gateway-controller}\n---";
    check(
        &format!("{GATEWAY}{SERVICE}\n{route}{class}"),
        &format!(
            "class trimtab\nAccepted=true Accepted\n{FINE}route r at g\nAccepted=true Accepted\nResolvedRefs=true ResolvedRefs"
        ),
    );
}

#[test]
fn a_class_of_the_usual_name_that_is_another_controllers_takes_its_gateways_with_it() {
    let class = "\napiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {name: trimtab}\n\
                 spec: {controllerName: example.com/other}\n---";
    check(&format!("{GATEWAY}{class}"), "");
}

#[test]
fn references_that_lead_nowhere_have_the_reasons_of_the_gateway_api() {
    for (reference, reason) in [
        (
            "{name: gone, port: 80}",
            "BackendNotFound: spec.rules[0].backendRefs[0].name: there is no Service default/gone",
        ),
        (
            "{name: s, port: 81}",
            "BackendNotFound: spec.rules[0].backendRefs[0].port: 81 is not a port of Service default/s, expected one of 80",
        ),
        (
            "{name: s, kind: Bucket, group: example.com, port: 80}",
            "InvalidKind: spec.rules[0].backendRefs[0].kind: example.com/Bucket is not supported, expected a Service",
        ),
        (
            "{name: s, namespace: b, port: 80}",
            "RefNotPermitted: spec.rules[0].backendRefs[0].namespace: no ReferenceGrant in b lets an HTTPRoute of default refer to \
             Service s",
        ),
    ] {
        let route = route(&format!("parentRefs: [{{name: g}}]\nrules: [{{backendRefs: [{reference}]}}]"));
        check(
            &format!("{GATEWAY}{SERVICE}\n{route}"),
            &format!("{FINE}route r at g\nAccepted=true Accepted\n!ResolvedRefs=false {reason}"),
        );
    }
}

#[test]
fn a_route_that_no_listener_takes_says_why() {
    let none = FINE.replace("routes=1", "routes=0");
    let refs = "ResolvedRefs=true ResolvedRefs";
    let rules = "rules: [{backendRefs: [{name: s, port: 80}]}]";
    let section = route(&format!("parentRefs: [{{name: g, sectionName: x}}]\n{rules}"));
    check(
        &format!("{GATEWAY}{SERVICE}\n{section}"),
        &format!(
            "{none}route r at g\n!Accepted=false NoMatchingParent: spec.parentRefs[0]: no listener \"x\" of Gateway g is there\n{refs}"
        ),
    );
    let elsewhere = route(&format!("parentRefs: [{{name: g, namespace: default}}]\n{rules}"))
        .replace("{name: r}", "{name: r, namespace: b}");
    let grantless = "!ResolvedRefs=false BackendNotFound: spec.rules[0].backendRefs[0].name: there is no Service b/s";
    check(
        &format!("{GATEWAY}{SERVICE}\n{elsewhere}"),
        &format!(
            "{none}route r at g\n!Accepted=false NotAllowedByListeners: spec.parentRefs[0]: allowedRoutes of Gateway g does not allow this \
             route\n{grantless}"
        ),
    );
    let hosts = route(&format!("parentRefs: [{{name: g}}]\nhostnames: [a.example.com]\n{rules}"));
    let gateway = GATEWAY.replace("protocol: HTTP", "protocol: HTTP, hostname: b.example.com");
    check(
        &format!("{gateway}{SERVICE}\n{hosts}"),
        &format!(
            "{none}route r at g\n!Accepted=false NoMatchingListenerHostname: spec.hostnames: none of them is a host that a listener of \
             Gateway g accepts\n{refs}"
        ),
    );
}

#[test]
fn listeners_that_cannot_be_served_leave_the_others_alone() {
    let gateway = GATEWAY.replace(
        "  - {name: http, port: 80, protocol: HTTP}",
        "  - {name: http, port: 80, protocol: HTTP}\n  - {name: a, port: 81, protocol: HTTP}\n  - {name: b, port: 81, protocol: HTTP}\n  \
         - {name: raw, port: 82, protocol: TCP}",
    );
    let conflict = |index: usize| {
        let message = format!(
            "spec.listeners[{index}]: has the port and hostname of another listener of this Gateway: none of them is served"
        );
        format!(
            "!Accepted=false HostnameConflict: {message}\n!Programmed=false Invalid: the listener is not served\n\
             ResolvedRefs=true ResolvedRefs\n!Conflicted=true HostnameConflict: {message}\n"
        )
    };
    let fine = FINE
        .replace("Accepted=true Accepted\nProgrammed=true Programmed\nlistener", "Accepted=true ListenersNotValid: some listeners cannot be served, see their conditions\nProgrammed=true Programmed\nlistener")
        .replace("routes=1", "routes=0");
    check(
        &gateway,
        &format!(
            "{fine}listener a routes=0 kinds=HTTPRoute GRPCRoute\n{}listener b routes=0 kinds=HTTPRoute GRPCRoute\n{}listener raw routes=0 kinds=\n\
             !Accepted=false UnsupportedProtocol: spec.listeners[3].protocol: TCP is not supported yet, expected HTTP or HTTPS; the listener is not \
             served\n!Programmed=false Invalid: the listener is not served\nResolvedRefs=true ResolvedRefs\nConflicted=false NoConflicts",
            conflict(1),
            conflict(2)
        ),
    );
}

#[test]
fn of_two_policies_for_one_service_the_older_is_in_force_and_the_other_says_so() {
    let policy = |name: &str, created: &str| {
        format!(
            "\napiVersion: trimtab.dev/v1alpha1\nkind: BackendTrafficPolicy\nmetadata: {{name: {name}, creationTimestamp: {created}}}\n\
             spec: {{targetRefs: [{{name: s}}]}}\n---"
        )
    };
    let (new, old) = (policy("a", "2026-01-02T00:00:00Z"), policy("b", "2026-01-01T00:00:00Z"));
    let none = FINE.replace("routes=1", "routes=0");
    check(
        &format!("{GATEWAY}{SERVICE}{new}{old}"),
        &format!(
            "{none}policy b for s\nAccepted=true Accepted\npolicy a for s\n!Accepted=false Conflicted: spec.targetRefs[0]: is already the \
             target of BackendTrafficPolicy default/b"
        ),
    );
    let gone = policy("a", "2026-01-01T00:00:00Z").replace("{name: s}", "{name: gone}");
    check(
        &format!("{GATEWAY}{gone}"),
        &format!(
            "{none}policy a for gone\n!Accepted=false TargetNotFound: spec.targetRefs[0].name: there is no Service default/gone"
        ),
    );
}

#[test]
fn namespaces_are_selected_by_their_labels() {
    let gateway = GATEWAY.replace(
        "protocol: HTTP",
        "protocol: HTTP, allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {team: blue}, matchExpressions: [{key: env, \
         operator: NotIn, values: [test]}]}}}",
    );
    let route = route("parentRefs: [{name: g, namespace: default}]\nrules: [{backendRefs: [{name: s, namespace: default, port: 80}]}]")
        .replace("{name: r}", "{name: r, namespace: b}");
    let namespace =
        |labels: &str| format!("\napiVersion: v1\nkind: Namespace\nmetadata: {{name: b, labels: {{{labels}}}}}\n---");
    for (labels, taken) in [("team: blue", true), ("team: blue, env: test", false), ("team: red", false)] {
        let config = translate(&objects(&format!("{gateway}{SERVICE}\n{route}{}", namespace(labels))));
        assert_eq!(config.routes.len(), usize::from(taken), "{labels}");
    }
}
