//! Gateways, their listeners and certificates.

use super::*;

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
        ! Gateway default/g: spec.listeners[0].tls.options[trimtab.dev/tls-min-version]: is 1.3 here, too: listener default/g/b asks for it, whose address and port are the same
        ! Gateway default/g: spec.listeners[1].tls.certificateRefs[0].name: there is no Secret default/none
        ! Gateway default/g: spec.listeners[1].tls.certificateRefs[3].namespace: no ReferenceGrant in other lets a Gateway of default refer to Secret other/c
        ! Gateway default/g: spec.listeners[2].tls.certificateRefs: none resolves: the listener is not served
        ! Gateway default/g: spec.listeners[2].tls.certificateRefs[0].name: Secret default/opaque is of type \"\", expected kubernetes.io/tls
        ! Gateway default/g: spec.listeners[3].protocol: HTTP does not go with one that comes first (by age, then by name) at the same address and port: it is not served
        ! Gateway default/g: spec.listeners[4].tls.certificateRefs: none resolves: the listener is not served
        ! Gateway default/g: spec.listeners[4].tls.certificateRefs[0].name: Secret default/broken: tls.crt has no certificate in PEM
        ",
    );
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
fn a_gateway_says_who_may_speak_for_clients() {
    let gateway = |annotations: &str| {
        GATEWAY.replace("spec:", &format!("spec:\n  infrastructure: {{annotations: {{{annotations}}}}}"))
    };
    let config = translate(&objects(&gateway(
        "trimtab.dev/proxy-protocol-from: '10.0.0.0/8, 192.0.2.1', trimtab.dev/trusted-hops: '2'",
    )));
    let expected = v1::ClientAddress {
        proxy_protocol_from: vec!["10.0.0.0/8".into(), "192.0.2.1".into()],
        trusted_hops: 2,
        trusted_networks: Vec::new(),
    };
    assert_eq!(config.listeners[0].client_address, Some(expected));
    let config = translate(&objects(&gateway("trimtab.dev/trusted-hop: '2', example.com/a: b")));
    let problems: Vec<String> = config.problems.iter().map(ToString::to_string).collect();
    let unknown = "spec.infrastructure.annotations[trimtab.dev/trusted-hop]: is not known and does nothing";
    assert!(problems.len() == 1 && problems[0].contains(unknown), "{problems:#?}");
    let elsewhere = "metadata: {annotations: {trimtab.dev/trusted-hops: '2'}, ";
    let config = translate(&objects(&GATEWAY.replacen("metadata: {", elsewhere, 1)));
    let problems: Vec<String> = config.problems.iter().map(ToString::to_string).collect();
    let misplaced = "metadata.annotations[trimtab.dev/trusted-hops]: does nothing here, expected spec.infrastructure";
    assert!(problems.len() == 1 && problems[0].contains(misplaced), "{problems:#?}");
    let check = |annotations: &str, expected: &str| {
        let problems = document::read("f.yaml", gateway(annotations).as_bytes()).expect_err("a problem");
        let text: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert!(text.iter().any(|problem| problem.contains(expected)), "{text:#?}");
    };
    check(
        "trimtab.dev/proxy-protocol-from: all",
        "spec.infrastructure.annotations[trimtab.dev/proxy-protocol-from]: \"all\" is not a range",
    );
    check("trimtab.dev/trusted-hops: '-1'", "\"-1\" is not a number of hops, expected 0 to 32");
    check(
        "trimtab.dev/trusted-hops: '1', trimtab.dev/trusted-networks: 10.0.0.0/8",
        "stands beside trimtab.dev/trusted-networks",
    );
}
