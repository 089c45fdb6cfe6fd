//! Ingresses beside Gateways.

use std::net::SocketAddr;

use trimtab_tests::http::{Client, eventually};
use trimtab_tests::world::{PATIENCE, State, World, free_port, metric, pod_of};

use super::tls::{Certificate, get};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ingress_is_served_by_host_and_path_and_over_tls_and_its_status_has_the_address() {
    let world = World::new("ingress").await;
    let pods = [world.pod(0).await, world.pod(1).await, world.pod(2).await];
    for (index, name) in ["exact", "prefix", "fallback"].into_iter().enumerate() {
        world.service(name).await;
        world.endpoints(name, &[(&pods[index], State::Ready)]).await;
    }
    let certificate = Certificate::new("a.test");
    world.apply(&certificate.as_secret("NAMESPACE", "a")).await;
    world
        .apply(
            "
apiVersion: networking.k8s.io/v1
kind: IngressClass
metadata: {name: ingress-test}
spec: {controller: trimtab.dev/ingress-controller}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: good, namespace: NAMESPACE}
spec:
  ingressClassName: ingress-test
  defaultBackend: {service: {name: fallback, port: {name: http}}}
  tls: [{hosts: [a.test], secretName: a}]
  rules:
  - host: a.test
    http:
      paths:
      - {path: /one, pathType: Exact, backend: {service: {name: exact, port: {number: 80}}}}
      - {path: /two, pathType: Prefix, backend: {service: {name: prefix, port: {name: http}}}}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: broken, namespace: NAMESPACE}
spec:
  ingressClassName: ingress-test
  rules: [{host: b.test, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: gone, port: {number: 80}}}}]}}]
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: theirs, namespace: NAMESPACE}
spec:
  ingressClassName: somebody-elses
  defaultBackend: {service: {name: exact, port: {number: 80}}}
",
        )
        .await;
    let (http, https) = (free_port(), free_port());
    let ports = [format!("--ingress-http-port={http}"), format!("--ingress-https-port={https}")];
    let (controller, _proxy) = world.served(&[&ports[0], &ports[1]]).await;
    let at = SocketAddr::from(([127, 0, 0, 1], http));
    let client = Client::default();
    let ask = async |host: &str, path: &str| {
        let answer = client.get_as(at, host, path).await.expect("an answer");
        (answer.status, if answer.status == 200 { Some(pod_of(&answer)) } else { None })
    };
    assert_eq!(ask("a.test", "/one").await, (200, Some(0)));
    assert_eq!(ask("a.test", "/one/more").await, (200, Some(2)), "an exact path is only that");
    assert_eq!(ask("a.test", "/two/more").await, (200, Some(1)));
    assert_eq!(ask("a.test", "/twofold").await, (200, Some(2)), "a prefix is one of whole segments");
    assert_eq!(ask("elsewhere.test", "/").await, (200, Some(2)), "the default backend is for all hosts");
    assert_eq!(ask("b.test", "/").await, (500, None));
    let secure = || get("a.test", https, &certificate);
    eventually("it is served over TLS", PATIENCE, secure, |found| *found == Ok(200)).await;

    let address = || async {
        let status = world.status("networking.k8s.io", "v1", "Ingress", "good").await;
        status["loadBalancer"]["ingress"][0]["ip"].clone()
    };
    eventually("its status has the address", PATIENCE, address, |found| found == "127.0.0.1").await;
    let theirs = world.status("networking.k8s.io", "v1", "Ingress", "theirs").await;
    assert!(theirs["loadBalancer"]["ingress"].is_null(), "{theirs}");
    world.told("broken BackendNotFound").await;
    assert!(metric(&controller, "trimtab_controller_bad_conditions{kind=\"Ingress\"").await >= 1.0);

    // Once its Service is there, it works, and an Ingress that is deleted goes.
    world.service("gone").await;
    world.endpoints("gone", &[(&pods[0], State::Ready)]).await;
    let served = || async { client.get_as(at, "b.test", "/").await.map(|answer| answer.status) };
    eventually("the new Service answers", PATIENCE, served, |status| *status == Ok(200)).await;
    world.delete("networking.k8s.io", "v1", "Ingress", "broken").await;
    let fallen = || async { client.get_as(at, "b.test", "/").await.map(|answer| pod_of(&answer)) };
    eventually("the default backend has its host", PATIENCE, fallen, |pod| *pod == Ok(2)).await;
    let bad = || metric(&controller, "trimtab_controller_bad_conditions{kind=\"Ingress\"");
    eventually("nothing is wrong any more", PATIENCE, bad, |count| *count == 0.0).await;
}
