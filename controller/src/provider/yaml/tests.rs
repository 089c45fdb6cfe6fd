//! Bad input and what is said about it, word by word: the messages are the interface here.

use proptest::prelude::*;

use super::{document, kinds::KINDS};

/// Checks all problems of a file called `f.yaml`.
fn check(text: &str, expected: &[&str]) {
    let found = match document::read("f.yaml", text.as_bytes()) {
        Ok(_) => Vec::new(),
        Err(problems) => problems.iter().map(ToString::to_string).collect::<Vec<_>>(),
    };
    assert_eq!(found, expected, "{text}");
}

/// An HTTPRoute whose spec is `spec`, which stands from line 6 on.
fn route(spec: &str) -> String {
    format!("apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata:\n  name: a\nspec:\n{spec}")
}

/// A policy whose spec, from line 6 on, is for Service `a` and `spec`, which stands from line 8 on.
fn policy(spec: &str) -> String {
    format!(
        "apiVersion: trimtab.dev/v1alpha1\nkind: BackendTrafficPolicy\nmetadata:\n  name: a\nspec:\n  targetRefs:\n  - name: a\n{spec}"
    )
}

/// A Gateway with these listeners, which stand from line 8 on.
fn gateway(listeners: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata:\n  name: a\nspec:\n  gatewayClassName: trimtab\n  listeners:\n{listeners}"
    )
}

/// A Service with these ports, which stand from line 7 on.
fn service(ports: &str) -> String {
    format!("apiVersion: v1\nkind: Service\nmetadata:\n  name: a\nspec:\n  ports:\n{ports}")
}

#[test]
fn unknown_fields_are_named_with_those_that_would_be_right() {
    check(
        &route("  rules:\n  - matches:\n    - path:\n        typ: Exact\n        value: /\n"),
        &["f.yaml:9: spec.rules[0].matches[0].path.typ: unknown field, expected one of type, value"],
    );
    check(
        &policy("  healthCheck:\n    pasive: {}\n"),
        &["f.yaml:9: spec.healthCheck.pasive: unknown field, expected one of active, panicThreshold, passive"],
    );
    check(
        &service("  - port: 80\n    Name: x\n"),
        &[
            "f.yaml:8: spec.ports[0].Name: unknown field, expected one of appProtocol, name, nodePort, port, protocol, targetPort",
        ],
    );
}

#[test]
fn wrong_types_are_named_with_the_right_one() {
    check(
        &route("  rules:\n  - backendRefs:\n    - name: 7\n      port: eighty\n      weight: 1.5\n"),
        &[
            "f.yaml:8: spec.rules[0].backendRefs[0].name: expected a string, found 7",
            "f.yaml:9: spec.rules[0].backendRefs[0].port: expected an integer, found \"eighty\"",
            "f.yaml:10: spec.rules[0].backendRefs[0].weight: expected an integer, found 1.5",
        ],
    );
    check(&route("  rules: yes\n"), &["f.yaml:6: spec.rules: expected a list, found \"yes\""]);
    check(&route("  rules:\n  - x\n"), &["f.yaml:7: spec.rules[0]: expected a mapping, found \"x\""]);
    check(
        &policy("  adaptive:\n    metrics:\n      scrape: maybe\n      port: 99999\n"),
        &[
            "f.yaml:10: spec.adaptive.metrics.scrape: expected true or false, found \"maybe\"",
            "f.yaml:11: spec.adaptive.metrics.port: expected 1 to 65535, found 99999",
        ],
    );
}

#[test]
fn missing_fields_and_other_spellings_of_enums_are_named() {
    check(
        &route(
            "  rules:\n  - backendRefs:\n    - port: 80\n    matches:\n    - path: {type: Prefix}\n      method: get\n",
        ),
        &[
            "f.yaml:8: spec.rules[0].backendRefs[0].name: is missing, expected a string",
            "f.yaml:10: spec.rules[0].matches[0].path.type: expected one of Exact, PathPrefix, RegularExpression, found \"Prefix\"",
            "f.yaml:11: spec.rules[0].matches[0].method: expected one of GET, HEAD, POST, PUT, DELETE, CONNECT, OPTIONS, TRACE, PATCH, found \"get\"",
        ],
    );
    check(
        &policy("  loadBalancer:\n    type: round-robin\n"),
        &[
            "f.yaml:9: spec.loadBalancer.type: expected one of Trimtab, RoundRobin, Random, WeightedRoundRobin, LeastRequest, LeastRequestP2C, \
             PeakEwma, C3Local, RingHash, Maglev, SlidingWindowRoundRobin, DecayingWeights, Locality, Prequal, found \"round-robin\"",
        ],
    );
}

#[test]
fn an_object_must_say_what_it_is() {
    check("a: 1\n", &["f.yaml:1: kind: is missing, expected a kind such as HTTPRoute"]);
    check(
        "kind: Gateway\n",
        &["f.yaml:1: apiVersion: is missing, expected a version such as gateway.networking.k8s.io/v1"],
    );
    check(
        "apiVersion: v1\nkind: Pod\n",
        &[
            "f.yaml:2: kind: unknown kind \"Pod\", expected one of GatewayClass, Gateway, HTTPRoute, GRPCRoute, Ingress, IngressClass, ReferenceGrant, Service, EndpointSlice, Secret, BackendTLSPolicy, ConfigMap, Namespace, \
           BackendTrafficPolicy",
        ],
    );
    check(
        "apiVersion: gateway.networking.k8s.io/v1alpha2\nkind: HTTPRoute\n",
        &[
            "f.yaml:1: apiVersion: \"gateway.networking.k8s.io/v1alpha2\" is not a version of HTTPRoute that Trimtab knows, expected \
           gateway.networking.k8s.io/v1",
        ],
    );
    check(
        "apiVersion: v1\nkind: Service\nmetadata:\n  labels: {}\nspec: {}\n",
        &["f.yaml:3: metadata.name: is missing, expected a name such as my-route"],
    );
    check(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: My_Service\nspec: {}\n",
        &[
            "f.yaml:4: metadata.name: \"My_Service\" is not a name, expected lower-case letters, digits, '-' and '.' such as my-route",
        ],
    );
    check("- a\n", &["f.yaml:1: is not an object, expected a mapping with apiVersion, kind and metadata"]);
}

#[test]
fn objects_that_stand_twice_are_named_with_both_places() {
    let text = format!("{}---\n{}", service("  - port: 80\n"), service("  - port: 81\n"));
    check(&text, &["f.yaml:9: Service default/a stands twice, first in f.yaml:1"]);
}

#[test]
fn durations_ports_and_regular_expressions_are_checked_where_they_stand() {
    check(
        &route("  rules:\n  - timeouts:\n      request: 10\n"),
        &["f.yaml:8: spec.rules[0].timeouts.request: expected a string, found 10"],
    );
    check(
        &route("  rules:\n  - timeouts:\n      request: 10 s\n      backendRequest: 1s\n"),
        &[
            "f.yaml:8: spec.rules[0].timeouts.request: \"10 s\" is not a duration, expected one such as 150ms, 3m or 1h30m",
        ],
    );
    check(
        &route("  rules:\n  - timeouts:\n      request: 1s\n      backendRequest: 2s\n"),
        &["f.yaml:9: spec.rules[0].timeouts.backendRequest: is longer than timeouts.request, expected at most that"],
    );
    check(
        &policy("  adaptive:\n    objective:\n      latency: fast\n"),
        &["f.yaml:10: spec.adaptive.objective.latency: expected a duration such as 150ms, 3m or 1h30m, found \"fast\""],
    );
    check(
        &route(
            "  rules:\n  - matches:\n    - path: {type: RegularExpression, value: '/a('}\n  - matches:\n    - path: {value: api}\n",
        ),
        &[
            "f.yaml:8: spec.rules[0].matches[0].path.value: is not a regular expression (RE2 syntax): unclosed group",
            "f.yaml:10: spec.rules[1].matches[0].path.value: \"api\" does not start with \"/\", expected a path such as /api",
        ],
    );
    check(
        &route("  rules:\n  - backendRefs:\n    - name: a\n      port: 70000\n      weight: -1\n"),
        &[
            "f.yaml:9: spec.rules[0].backendRefs[0].port: 70000 is not a port, expected 1 to 65535",
            "f.yaml:10: spec.rules[0].backendRefs[0].weight: -1 is not a weight, expected 0 to 1000000",
        ],
    );
    check(
        &gateway(
            "  - name: a\n    port: 0\n    protocol: HTTP\n  - name: a\n    port: 80\n    protocol: http\n    hostname: a_b..c\n",
        ),
        &[
            "f.yaml:9: spec.listeners[0].port: 0 is not a port, expected 1 to 65535",
            "f.yaml:11: spec.listeners[1].name: \"a\" is also the name of listeners[0]",
            "f.yaml:13: spec.listeners[1].protocol: \"http\" is not a protocol, expected HTTP or HTTPS",
            "f.yaml:14: spec.listeners[1].hostname: \"a_b..c\" is not a host name, expected one such as app.example.com or *.example.com",
        ],
    );
}

#[test]
fn fields_that_do_not_go_together_are_named() {
    check(
        &policy("  loadBalancer: {type: RoundRobin}\n  adaptive:\n    mode: Active\n"),
        &[
            "f.yaml:10: spec.adaptive.mode: Active needs an algorithm that heeds weights, expected loadBalancer.type Trimtab, \
           WeightedRoundRobin, DecayingWeights or Locality, or mode Shadow",
        ],
    );
    check(
        &policy("  admissionControl: {minConcurrency: 9, maxConcurrency: 8}\n"),
        &["f.yaml:8: spec.admissionControl.maxConcurrency: 8 is below minConcurrency, expected at least 9"],
    );
    check(
        &policy("  healthCheck:\n    passive:\n      baseEjectionTime: 1m\n      maxEjectionTime: 30s\n"),
        &["f.yaml:11: spec.healthCheck.passive.maxEjectionTime: 30s is below baseEjectionTime, expected at least 1m"],
    );
    check(
        &policy("  adaptive:\n    guardrails:\n      stepMax: 1\n      shareMax: .nan\n"),
        &[
            "f.yaml:10: spec.adaptive.guardrails.stepMax: expected 1.02 to 1000, found 1",
            "f.yaml:11: spec.adaptive.guardrails.shareMax: expected 1 to 1000, found NaN",
        ],
    );
    check(
        &policy("  adaptive:\n    metrics: {path: metrics, interval: 10ms, scheme: https}\n"),
        &[
            "f.yaml:9: spec.adaptive.metrics.interval: 10ms is too often, expected at least 100ms",
            "f.yaml:9: spec.adaptive.metrics.path: \"metrics\" is not a path, expected one such as /metrics",
            "f.yaml:9: spec.adaptive.metrics.scheme: https is not supported yet, expected http",
        ],
    );
    check(
        &service("  - port: 80\n  - port: 80\n    name: b\n    targetPort: 0\n"),
        &[
            "f.yaml:7: spec.ports[0].name: is missing, expected a name where there is more than one port",
            "f.yaml:8: spec.ports[1].port: 80 is also the port of ports[0]",
            "f.yaml:10: spec.ports[1].targetPort: 0 is not a port, expected 1 to 65535 or a name",
        ],
    );
    check(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: a}\naddressType: IPv4\nendpoints:\n- addresses: [\"::1\"]\n- addresses: []\n",
        &[
            "f.yaml:6: endpoints[0].addresses[0]: \"::1\" does not go with addressType IPv4, expected an IPv4 address such as 10.0.0.1",
            "f.yaml:7: endpoints[1].addresses: is empty, expected at least one address",
        ],
    );
}

#[test]
fn what_is_no_yaml_at_all_is_named_with_its_line() {
    assert_eq!(document::read("f.yaml", b"a: 1\nb: \xff\n").unwrap_err()[0].to_string(), "f.yaml:2: is not UTF-8 text");
    let broken = document::read("f.yaml", b"a: [1\nb: 2\n").unwrap_err();
    assert_eq!(broken.len(), 1, "{broken:?}");
    assert!(broken[0].to_string().starts_with("f.yaml:2: "), "{}", broken[0]);
}

#[test]
fn problems_of_one_file_are_counted_beyond_a_hundred() {
    let listeners: String =
        (0..150).map(|index| format!("  - name: l{index}\n    port: 0\n    protocol: HTTP\n")).collect();
    let problems = document::read("f.yaml", gateway(&listeners).as_bytes()).unwrap_err();
    assert_eq!(problems.len(), 101);
    assert_eq!(problems[100].to_string(), "f.yaml: has 50 more problems");
}

#[test]
fn what_a_cluster_prints_is_accepted() {
    let text = "apiVersion: v1\nkind: List\nmetadata: {resourceVersion: \"\"}\nitems:\n- apiVersion: v1\n  kind: Service\n  metadata:\n    name: a\n    namespace: b\n    \
                uid: 3c8c\n    creationTimestamp: \"2026-01-02T03:04:05Z\"\n    annotations: {x.y/z: \"1\"}\n  spec:\n    clusterIP: 10.0.0.1\n    selector: {app: a}\n    \
                ports:\n    - {port: 80, targetPort: http, nodePort: null}\n  status:\n    loadBalancer: {}\n";
    let objects = document::read("f.yaml", text.as_bytes()).unwrap();
    assert_eq!(objects[0].id.to_string(), "Service b/a");
    assert_eq!(objects[0].origin.to_string(), "f.yaml:5");
    check(
        &text.replace("2026-01-02T03:04:05Z", "yesterday"),
        &[
            "f.yaml:11: items[0].metadata.creationTimestamp: expected a time such as 2026-01-02T03:04:05Z, found \"yesterday\"",
        ],
    );
}

#[test]
fn the_examples_of_the_user_documentation_hold() {
    let text = include_str!("../../../../docs/configuration.md");
    let blocks: Vec<&str> = text.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert_eq!(blocks.len(), 11);
    for block in blocks {
        check(block, &[]);
    }
}

#[test]
fn every_kind_has_a_schema_that_knows_its_fields() {
    for kind in &KINDS {
        let text = format!(
            "apiVersion: {}\nkind: {}\nmetadata: {{name: a, nam: b}}\nspek: {{}}\n",
            kind.api_version, kind.kind
        );
        let problems = document::read("f.yaml", text.as_bytes()).unwrap_err();
        let fields: Vec<_> = problems.iter().filter_map(|problem| problem.field.as_deref()).collect();
        assert!(fields.contains(&"metadata.nam") && fields.contains(&"spek"), "{}: {fields:?}", kind.kind);
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = document::read("f.yaml", &bytes);
    }

    #[test]
    fn arbitrary_yaml_like_text_never_panics(text in "([a-c]{0,2}[:\\-\\[\\]{}&*!|>?#,'\"%@~\\n 0-9\t]{0,3}){0,80}") {
        let _ = document::read("f.yaml", text.as_bytes());
    }

    #[test]
    fn a_good_file_that_is_cut_anywhere_or_has_a_byte_changed_never_panics(cut in 0_usize..2000, at in 0_usize..2000, byte: u8) {
        let good = include_bytes!("../../../../deploy/examples/local/policies.yaml");
        let mut bytes = good[..good.len().min(cut)].to_vec();
        if let Some(changed) = bytes.get_mut(at) {
            *changed = byte;
        }
        let _ = document::read("f.yaml", &bytes);
    }
}
