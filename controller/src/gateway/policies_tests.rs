//! Policies of Services and of HTTPRoutes together: which backends there are, what is in force for each, and what is said.

use super::super::{Config, translate};
use crate::{objects::Objects, provider::yaml::document};

const OBJECTS: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: g}
spec:
  gatewayClassName: trimtab
  listeners: [{name: http, port: 80, protocol: HTTP}]
---
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
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r}
spec:
  parentRefs: [{name: g}]
  rules:
  - {name: slow, matches: [{path: {value: /slow}}], backendRefs: [{name: s, port: 80}]}
  - {backendRefs: [{name: s, port: 80}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: other}
spec:
  parentRefs: [{name: g}]
  rules: [{matches: [{path: {value: /other}}], backendRefs: [{name: s, port: 80}]}]
---
";

fn config(policies: &[String]) -> Config {
    let mut objects = Objects::default();
    let yaml = format!("{OBJECTS}{}", policies.concat());
    for placed in document::read("f.yaml", yaml.as_bytes()).unwrap_or_else(|problems| panic!("{problems:#?}")) {
        placed.object.insert_into(&mut objects);
    }
    translate(&objects)
}

fn policy(name: &str, target: &str, spec: &str) -> String {
    format!(
        "apiVersion: trimtab.dev/v1alpha1\nkind: BackendTrafficPolicy\nmetadata: {{name: {name}}}\nspec: {{targetRefs: [{{{target}}}], \
         {spec}}}\n---\n"
    )
}

fn of_route(name: &str, section: &str, spec: &str) -> String {
    policy(name, &format!("group: gateway.networking.k8s.io, kind: HTTPRoute, name: r{section}"), spec)
}

/// Retries, connections and algorithm of each backend.
fn in_force(config: &Config) -> Vec<String> {
    let brief = |backend: &std::sync::Arc<crate::gateway::BackendSpec>| {
        let retries = backend.resource.retry.as_ref().and_then(|retry| retry.num_retries);
        let connections = backend.resource.circuit_breaker.and_then(|breaker| breaker.max_connections);
        format!("{} {retries:?} {connections:?} {}", backend.name(), backend.algorithm)
    };
    config.backends.iter().map(brief).collect()
}

fn said(config: &Config) -> Vec<String> {
    let of = |status: &crate::gateway::status::PolicyStatus| {
        let name = status.subject.name.clone();
        let each = status.ancestors.iter().map(move |(ancestor, condition)| {
            format!("{name} {} {} {}", ancestor.kind, ancestor.name, condition.reason)
        });
        each.collect::<Vec<_>>()
    };
    config.statuses.policies.iter().flat_map(of).collect()
}

#[test]
fn a_policy_of_a_route_goes_before_that_of_its_service_section_by_section_and_for_that_route_alone() {
    let config = config(&[
        policy("s", "name: s", "retry: {numRetries: 2}, circuitBreaker: {maxConnections: 7}"),
        of_route("r", "", "retry: {numRetries: 5}, loadBalancer: {type: Random}"),
    ]);
    assert_eq!(
        in_force(&config),
        ["default/s:80 Some(2) Some(7) trimtab", "default/s:80@default/r Some(5) Some(7) random"]
    );
    let backends = |index: usize, rule: usize| config.routes[index].rules[rule].backends[0].backend.as_str();
    assert_eq!(backends(0, 0), "default/s:80");
    assert_eq!((backends(1, 0), backends(1, 1)), ("default/s:80@default/r", "default/s:80@default/r"));
    assert_eq!(said(&config), ["r Gateway g Accepted", "s Service s Accepted"]);
}

#[test]
fn a_policy_of_one_rule_goes_before_that_of_its_route() {
    let config = config(&[
        of_route("route", "", "retry: {numRetries: 5}, circuitBreaker: {maxConnections: 3}"),
        of_route("rule", ", sectionName: slow", "retry: {numRetries: 9}, timeout: {http: {requestTimeout: 3s}}"),
    ]);
    assert_eq!(
        in_force(&config),
        [
            "default/s:80 Some(3) None trimtab",
            "default/s:80@default/r Some(5) Some(3) trimtab",
            "default/s:80@default/r#slow Some(9) Some(3) trimtab",
        ]
    );
    let rules = &config.routes[1].rules;
    assert_eq!((rules[0].backend_request_timeout_ms, rules[1].backend_request_timeout_ms), (Some(3000), None));
}

#[test]
fn a_route_or_rule_that_is_not_there_and_an_older_policy_are_said() {
    let config = config(&[
        of_route("a", "", "retry: {}"),
        of_route("b", "", "loadBalancer: {type: Random}"),
        of_route("c", ", sectionName: gone", "retry: {}"),
        of_route("d", "", "retry: {}").replace("name: r}", "name: gone}"),
    ]);
    assert_eq!(
        said(&config),
        [
            "a Gateway g Accepted",
            "b Gateway g Conflicted",
            "c Gateway g TargetNotFound",
            "d HTTPRoute gone TargetNotFound"
        ]
    );
    assert!(config.backends.iter().all(|backend| backend.algorithm == crate::policy::Algorithm::Trimtab));
    let problems = config.problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    assert!(problems.contains("\"gone\" is not the name of a rule of HTTPRoute default/r"), "{problems}");
    assert!(problems.contains("there is no HTTPRoute default/gone"), "{problems}");
}
