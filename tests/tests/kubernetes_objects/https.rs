//! HTTPS listeners with certificates from Secrets.

use std::net::SocketAddr;

use trimtab_tests::http::eventually;
use trimtab_tests::load::Load;
use trimtab_tests::world::{PATIENCE, State, World, brief, free_port};

use super::tls::{Certificate, get};

async fn listener_says(world: &World, index: usize, wanted: &[(&str, &str)]) {
    let ask = || async {
        let status = world.status("gateway.networking.k8s.io", "v1", "Gateway", "g").await;
        let conditions = &status["listeners"][index]["conditions"];
        wanted.iter().map(|(kind, _)| brief(conditions, kind)).collect::<Vec<_>>()
    };
    let all: Vec<&str> = wanted.iter().map(|(_, said)| *said).collect();
    eventually(&format!("listener {index} says {wanted:?}"), PATIENCE, ask, |found| *found == all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_served_and_replaced_and_a_bad_one_takes_its_listener_alone() {
    let world = World::new("https").await;
    world.service("app").await;
    let pod = world.pod(0).await;
    world.endpoints("app", &[(&pod, State::Ready)]).await;
    let ports = [free_port(), free_port(), free_port(), free_port()];
    let other = "https-other";
    let (first, second) = (Certificate::new("a.test"), Certificate::new("a.test"));
    let theirs = Certificate::new("b.test");
    world
        .apply(&format!(
            "{}\n---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: {other}}}\n---\n{}\n---\n\
             apiVersion: v1\nkind: Secret\nmetadata: {{name: nonsense, namespace: NAMESPACE}}\ntype: kubernetes.io/tls\n\
             stringData: {{tls.crt: 'no certificate', tls.key: 'no key'}}\n---\n\
             apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: g, namespace: NAMESPACE}}\nspec:\n  \
             gatewayClassName: trimtab\n  listeners:\n  \
             - {{name: http, port: {}, protocol: HTTP}}\n  \
             - {{name: good, port: {}, protocol: HTTPS, tls: {{certificateRefs: [{{name: good}}]}}}}\n  \
             - {{name: bad, port: {}, protocol: HTTPS, tls: {{certificateRefs: [{{name: nonsense}}]}}}}\n  \
             - {{name: foreign, port: {}, protocol: HTTPS, tls: {{certificateRefs: [{{name: theirs, namespace: {other}}}]}}}}\n",
            first.as_secret("NAMESPACE", "good"),
            theirs.as_secret(other, "theirs"),
            ports[0],
            ports[1],
            ports[2],
            ports[3],
        ))
        .await;
    world.route("app", "app").await;
    let (_controller, _proxy) = world.served(&[&format!("--namespaces={other}")]).await;
    let ask = || get("a.test", ports[1], &first);
    eventually("the certificate is served", PATIENCE, ask, |found| *found == Ok(200)).await;
    listener_says(&world, 0, &[("Programmed", "True Programmed")]).await;
    listener_says(&world, 1, &[("Programmed", "True Programmed"), ("ResolvedRefs", "True ResolvedRefs")]).await;
    listener_says(&world, 2, &[("Programmed", "False Invalid"), ("ResolvedRefs", "False InvalidCertificateRef")]).await;
    listener_says(&world, 3, &[("Programmed", "False Invalid"), ("ResolvedRefs", "False RefNotPermitted")]).await;
    world.told("g InvalidCertificateRef").await;
    world.told("g RefNotPermitted").await;

    // Everything else serves on while certificates come and go.
    let load = Load::start(SocketAddr::from(([127, 0, 0, 1], ports[0])), 2);
    world.apply(&second.as_secret("NAMESPACE", "good")).await;
    let ask = || get("a.test", ports[1], &second);
    eventually("the new certificate is served", PATIENCE, ask, |found| *found == Ok(200)).await;
    let old = get("a.test", ports[1], &first).await.expect_err("the old one is not shown any more");
    assert!(old.contains("certificate"), "{old}");
    world
        .apply(&format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: ReferenceGrant\nmetadata: {{name: g, namespace: {other}}}\nspec:\n  \
             from: [{{group: gateway.networking.k8s.io, kind: Gateway, namespace: NAMESPACE}}]\n  to: [{{group: '', kind: Secret}}]"
        ))
        .await;
    let ask = || get("b.test", ports[3], &theirs);
    eventually("what was granted is served", PATIENCE, ask, |found| *found == Ok(200)).await;
    world.apply(&Certificate::new("c.test").as_secret("NAMESPACE", "nonsense")).await;
    listener_says(&world, 2, &[("Programmed", "True Programmed"), ("ResolvedRefs", "True ResolvedRefs")]).await;
    load.lost_nothing().await;
}
