//! TLS beyond what listeners show: what clients must prove, and how endpoints are spoken to.

use super::*;

/// A ConfigMap with the certificate of an authority.
fn authority(name: &str) -> String {
    let made = rcgen::generate_simple_self_signed(vec![format!("{name}.test")]).unwrap();
    let pem: String = made.cert.pem().lines().map(|line| format!("    {line}\n")).collect();
    format!("\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\ndata:\n  ca.crt: |\n{pem}---")
}

fn tls_policy(name: &str, validation: &str) -> String {
    format!(
        "
apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {{name: {name}}}
spec:
  targetRefs: [{{group: '', kind: Service, name: s}}]
  validation: {validation}
---"
    )
}

fn secure_gateway(tls: &str) -> String {
    format!(
        "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: g}}
spec:
  gatewayClassName: trimtab
  tls: {tls}
  listeners:
  - name: https
    port: 443
    protocol: HTTPS
    tls:
      certificateRefs: [{{name: own}}]
      options: {{trimtab.dev/forward-client-certificate: 'true'}}
---"
    )
}

fn problems(config: &Config) -> Vec<String> {
    config.problems.iter().map(ToString::to_string).collect()
}

#[test]
fn a_backend_tls_policy_says_whom_endpoints_must_prove_to_be_and_the_gateway_what_they_are_shown() {
    let gateway = GATEWAY.replace("spec:", "spec:\n  tls: {backend: {clientCertificateRef: {name: own}}}");
    let validation = "{hostname: pod.test, caCertificateRefs: [{group: '', kind: ConfigMap, name: ca}]}";
    let yaml = [&gateway, ROUTE, SERVICE, &secret("own", "default"), &authority("ca"), &tls_policy("t", validation)];
    let config = translate(&objects(&yaml.concat()));
    assert_eq!(problems(&config), [""; 0]);
    let tls = config.backends[0].resource.tls.clone().unwrap();
    assert_eq!((tls.hostname.as_str(), tls.nobody), ("pod.test", false));
    assert!(tls.ca_pem.starts_with(b"-----BEGIN CERTIFICATE-----"));
    assert_eq!(tls.client_certificate.unwrap().name, "default/own");
    let [status] = &config.statuses.tls_policies[..] else { panic!("one policy") };
    let [(gateway, conditions)] = &status.ancestors[..] else { panic!("one Gateway: {status:?}") };
    assert_eq!((gateway.kind.as_str(), gateway.name.as_str()), ("Gateway", "g"));
    assert!(conditions.iter().all(|condition| condition.holds), "{conditions:?}");
    let system = tls_policy("t", "{hostname: pod.test, wellKnownCACertificates: System}");
    let config = translate(&objects(&format!("{GATEWAY}{ROUTE}{SERVICE}{system}")));
    assert!(config.backends[0].resource.tls.clone().unwrap().ca_pem.is_empty());
}

#[test]
fn a_backend_tls_policy_that_does_not_hold_never_means_clear_text() {
    for (validation, reason, message) in [
        (
            "{hostname: pod.test, caCertificateRefs: [{group: '', kind: ConfigMap, name: none}]}",
            "NoValidCACertificate",
            "spec.validation.caCertificateRefs[0]: there is no ConfigMap default/none",
        ),
        ("{hostname: pod.test}", "Invalid", "names no authority"),
        ("{hostname: pod.test, wellKnownCACertificates: Mine}", "Invalid", "\"Mine\" is not supported"),
        (
            "{hostname: pod.test, wellKnownCACertificates: System, subjectAltNames: [{type: URI, uri: 'spiffe://a/b'}]}",
            "Invalid",
            "only names of type Hostname are supported",
        ),
    ] {
        let config = translate(&objects(&format!("{GATEWAY}{ROUTE}{SERVICE}{}", tls_policy("t", validation))));
        assert!(config.backends[0].resource.tls.as_ref().unwrap().nobody, "{validation}");
        let found = problems(&config);
        assert!(found.iter().any(|problem| problem.contains(message)), "{message}\nnot in {found:#?}");
        let (_, conditions) = &config.statuses.tls_policies[0].ancestors[0];
        let accepted = conditions.iter().find(|condition| condition.kind == "Accepted").unwrap();
        assert_eq!((accepted.holds, accepted.reason), (false, reason), "{validation}");
    }
}

#[test]
fn of_two_backend_tls_policies_for_one_service_the_first_wins() {
    let first = tls_policy("a", "{hostname: a.test, wellKnownCACertificates: System}");
    let second = tls_policy("b", "{hostname: b.test, wellKnownCACertificates: System}");
    let config = translate(&objects(&format!("{GATEWAY}{ROUTE}{SERVICE}{second}{first}")));
    assert_eq!(config.backends[0].resource.tls.as_ref().unwrap().hostname, "a.test");
    let (_, conditions) = &config.statuses.tls_policies[1].ancestors[0];
    assert_eq!((conditions[0].holds, conditions[0].reason), (false, "Conflicted"));
}

#[test]
fn a_gateway_says_what_clients_must_prove_by_port() {
    let validation = "{caCertificateRefs: [{group: '', kind: ConfigMap, name: ca}]}";
    let objects_of = |tls: &str| {
        objects(&[&secure_gateway(tls), ROUTE, SERVICE, &secret("own", "default"), &authority("ca")].concat())
    };
    let config = translate(&objects_of(&format!("{{frontend: {{default: {{validation: {validation}}}}}}}")));
    assert_eq!(problems(&config), [""; 0]);
    let tls = config.listeners[0].tls.clone().unwrap();
    assert!(tls.forward_client_certificate);
    assert!(!tls.client.unwrap().optional);
    let fallback = "{mode: AllowInsecureFallback, caCertificateRefs: [{group: '', kind: ConfigMap, name: ca}]}";
    let config = translate(&objects_of(&format!(
        "{{frontend: {{default: {{}}, perPort: [{{port: 443, tls: {{validation: {fallback}}}}}]}}}}"
    )));
    assert!(config.listeners[0].tls.clone().unwrap().client.unwrap().optional);
    let config = translate(&objects_of(&format!(
        "{{frontend: {{default: {{validation: {validation}}}, perPort: [{{port: 443, tls: {{}}}}]}}}}"
    )));
    assert_eq!(config.listeners[0].tls.clone().unwrap().client, None, "the port's entry stands for the default");
}

#[test]
fn a_listener_whose_clients_could_prove_nothing_is_not_served() {
    let tls = "{frontend: {default: {validation: {caCertificateRefs: [{group: '', kind: ConfigMap, name: none}]}}}}";
    let plain = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: other}
spec:
  gatewayClassName: trimtab
  listeners: [{name: http, port: 80, protocol: HTTP}]
---";
    let yaml = [&secure_gateway(tls), plain, ROUTE, SERVICE, &secret("own", "default")];
    let config = translate(&objects(&yaml.concat()));
    let names: Vec<_> = config.listeners.iter().map(|listener| listener.name.as_str()).collect();
    assert_eq!(names, ["default/other/http"], "others are served");
    let gateway = config.statuses.gateways.iter().find(|gateway| gateway.subject.name == "g").unwrap();
    let resolved = gateway.listeners[0].conditions.iter().find(|c| c.kind == "ResolvedRefs").unwrap();
    assert_eq!((resolved.holds, resolved.reason), (false, "InvalidCACertificateRef"));
}

#[test]
fn a_backend_is_the_same_value_as_before_until_its_tls_or_its_policy_changes() {
    let validation = "{hostname: pod.test, caCertificateRefs: [{group: '', kind: ConfigMap, name: ca}]}";
    let mut given = objects(&[GATEWAY, ROUTE, SERVICE, &authority("ca"), &tls_policy("t", validation)].concat());
    let mut translator = Translator::default();
    let mut next = |given: &Objects| {
        let config = translator.translate(given);
        assert_eq!(config, translate(given), "what is remembered changes nothing");
        config.backends[0].clone()
    };
    let first = next(&given);
    assert!(Arc::ptr_eq(&first, &next(&given)));
    given.config_maps = objects(&authority("ca")).config_maps;
    let second = next(&given);
    assert_ne!(first.resource.tls, second.resource.tls);
    assert!(Arc::ptr_eq(&first.endpoints[0], &second.endpoints[0]), "its endpoints have not changed");
    for retries in [7, 8] {
        let target = "[{group: gateway.networking.k8s.io, kind: HTTPRoute, name: r}]";
        let of_route = policy("p", &format!("  retry: {{numRetries: {retries}}}")).replace("[{name: s}]", target);
        given.policies = objects(&of_route).policies;
        let third = next(&given);
        let told = third.resource.retry.as_ref().and_then(|retry| retry.num_retries);
        assert_eq!((third.name(), told), ("default/s:80@default/r", Some(retries)));
        assert_eq!(third.resource.tls, second.resource.tls);
        assert!(Arc::ptr_eq(&third, &next(&given)));
    }
}

/// Listeners of one Gateway and port: host and Secret of each, with its options.
fn beside(listeners: &[(&str, &str, &str)]) -> Vec<String> {
    let mut yaml = String::from(
        "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: g}
spec:
  gatewayClassName: trimtab
  listeners:\n",
    );
    for (host, secret, options) in listeners {
        yaml += &format!(
            "  - {{name: {secret}, port: 443, protocol: HTTPS, hostname: '{host}', tls: {{certificateRefs: [{{name: {secret}}}], options: {{{options}}}}}}}\n"
        );
    }
    yaml += "---";
    listeners.iter().for_each(|(_, name, _)| yaml += &secret(name, "default"));
    let config = translate(&objects(&yaml));
    assert_eq!(config.listeners.len(), listeners.len(), "all are served");
    let conditions = config.statuses.gateways[0].listeners.iter().flat_map(|listener| &listener.conditions);
    assert!(conditions.filter(|c| c.kind != "Conflicted").all(|condition| condition.holds), "no condition is about it");
    problems(&config)
}

#[test]
fn what_a_listener_does_not_get_for_the_sake_of_another_is_said() {
    assert_eq!(beside(&[("a.test", "a", ""), ("*.test", "b", "")]), [""; 0]);
    let found = beside(&[
        ("a.test", "a", "trimtab.dev/tls-min-version: '1.3', trimtab.dev/forward-client-certificate: 'true'"),
        ("b.test", "b", ""),
    ]);
    let expected = [
        "spec.listeners[0].tls.options[trimtab.dev/forward-client-certificate]: does nothing: listener default/g/b",
        "spec.listeners[1].tls.options[trimtab.dev/tls-min-version]: is 1.3 here, too: listener default/g/a asks for it",
    ];
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.contains(expected), "{expected}\nnot in {found}");
    }
}

#[test]
fn a_certificate_for_another_host_is_noted_and_shown() {
    let found = beside(&[("other.test", "a", ""), ("*.test", "b", "")]);
    let [found] = &found[..] else { panic!("{found:#?}") };
    assert!(found.contains("spec.listeners[0].tls.certificateRefs: none is for other.test"), "{found}");
}
