//! Trimtab as the chart deploys it: installed by Helm into the test cluster, its pods run as the chart says: without root, with read-only
//! roots, with the rights of their service accounts, and with certificates that the controllers issue.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicyBinding;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::events::v1::Event;
use kube::Api;
use kube::api::ListParams;
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use tokio::process::Command;
use trimtab_tests::cluster::{Cluster, objects};
use trimtab_tests::http::{Client, eventually};
use trimtab_tests::process::Process;
use trimtab_tests::tools::Tools;

const PATIENCE: Duration = Duration::from_secs(60);

const SHOP: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: http}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: web
        image: pod
        ports: [{name: http, containerPort: 8080}]
        readinessProbe: {httpGet: {path: /readyz, port: 9090}, periodSeconds: 1}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: shop, namespace: shop}
spec:
  gatewayClassName: trimtab
  listeners: [{name: http, port: PORT, protocol: HTTP}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: shop}
spec:
  parentRefs: [{name: shop}]
  rules: [{backendRefs: [{name: web, port: 80}]}]
";

async fn install(cluster: &Cluster, release: &str, chart: &str, values: &str) {
    let tools = Tools::find(&["kubernetes"]).await.expect("helm is built");
    let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/helm").join(chart);
    let mut command = Command::new(tools.path("helm").expect("helm is named"));
    command.args(["install", release, "--namespace", "trimtab", "--create-namespace", "--set", values, "--kubeconfig"]);
    command.arg(cluster.kubeconfig_file()).arg(chart);
    // Everything is ready before there is any Gateway. (A load balancer, which nobody makes here, would be waited for in vain.)
    if values.contains("service.type=ClusterIP") {
        command.args(["--wait", "--timeout", "3m"]);
    }
    let status = command.status().await.expect("helm runs");
    assert!(status.success(), "helm install {release} --set {values}");
}

/// A cluster with Trimtab, installed with these values, and three pods behind a Gateway that listens on this port. Returns when `pods` are ready.
async fn deploy(values: &str, port: u16, pods: usize) -> Cluster {
    let cluster = Cluster::start().await.expect("a cluster starts");
    let tools = Tools::find(&["gateway-api"]).await.expect("definitions of the Gateway API");
    for kind in ["gatewayclasses", "gateways", "httproutes", "grpcroutes", "referencegrants"] {
        let file = format!("gateway.networking.k8s.io_{kind}.yaml");
        let file = tools.path("gateway-crds").expect("a folder").join(file);
        cluster.apply(&std::fs::read_to_string(file).expect("readable")).await.expect("definitions are taken");
    }
    install(&cluster, "trimtab-crds", "trimtab-crds", "").await;
    install(&cluster, "trimtab", "trimtab", values).await;
    cluster.apply(&SHOP.replace("PORT", &port.to_string())).await.expect("the objects are taken");
    let all: Api<Pod> = Api::all(cluster.client().await);
    let ready = || async {
        let pods = all.list(&ListParams::default()).await.expect("pods").items;
        pods.iter().filter(|pod| is_ready(pod)).count()
    };
    eventually("controllers, proxies and pods are ready", PATIENCE, ready, |ready| *ready == pods).await;
    cluster
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Rules of the roles in a YAML text, by kind.
fn rules(yaml: &str) -> Vec<(String, serde_json::Value)> {
    let roles = objects::parse(yaml).expect("objects").into_iter().filter_map(|object| {
        let kind = object.types.map(|types| types.kind).unwrap_or_default();
        Some((kind, object.data.get("rules")?.clone()))
    });
    roles.collect()
}

#[tokio::test]
async fn the_chart_grants_the_controller_what_the_plain_manifest_grants() {
    let tools = Tools::find(&["kubernetes"]).await.expect("helm is built");
    let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/helm/trimtab");
    let mut command = Command::new(tools.path("helm").expect("helm is named"));
    command.args(["template", "trimtab", "--show-only", "templates/rbac.yaml"]).arg(chart);
    let rendered = command.output().await.expect("helm runs").stdout;
    let chart = rules(&String::from_utf8(rendered).expect("helm prints text"));
    assert_eq!(chart.len(), 2, "a ClusterRole and a Role");
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/kubernetes/controller-rbac.yaml");
    assert_eq!(chart, rules(&std::fs::read_to_string(manifest).expect("the manifest")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_chart_installs_serves_a_gateway_and_loses_nothing_when_its_leader_or_the_api_server_goes() {
    let cluster = deploy("", 80, 2 + 2 + 3).await;
    let client = cluster.client().await;
    let services: Api<Service> = Api::namespaced(client.clone(), "trimtab");
    let service = services.get("trimtab-proxy").await.expect("the Service");
    let address = service.spec.and_then(|spec| spec.cluster_ip).expect("an address").parse().expect("an address");
    let (at, requests) = (SocketAddr::new(address, 80), Client::default());
    let served = || async { requests.get(at, "/").await.map(|answer| answer.status) };
    eventually("requests are served", PATIENCE, served, |status| *status == Ok(200)).await;

    // As an administrator sees it: the leader is asked through the API server.
    let kubeconfig = format!("--kubeconfig={}", cluster.kubeconfig_file().display());
    let check = || async {
        let args = ["check", &kubeconfig, "--lease=trimtab-controller", "--tls-secrets", "--output=json"];
        let ended = Process::start(args).end();
        (ended.status.code(), ended.text)
    };
    eventually("all checks hold", PATIENCE, check, |(code, text)| {
        let categories = ["leader", "certificates", "proxies", "pods", "models", "configuration"];
        *code == Some(0) && categories.iter().all(|name| text.contains(&format!("\"category\": \"{name}\"")))
    })
    .await;

    let pods: Api<Pod> = Api::namespaced(client.clone(), "trimtab");
    let leases: Api<k8s_openapi::api::coordination::v1::Lease> = Api::namespaced(client, "trimtab");
    let leader = || async {
        let lease = leases.get_opt("trimtab-controller").await.expect("an answer");
        lease.and_then(|lease| lease.spec).and_then(|spec| spec.holder_identity).unwrap_or_default()
    };
    let first = leader().await;
    pods.delete(&first, &kube::api::DeleteParams::default()).await.expect("the leader is deleted");
    let taken_over = eventually("another leads", PATIENCE, leader, |now| !now.is_empty() && *now != first).await;
    assert!(taken_over < Duration::from_secs(10), "only after {taken_over:?}");
    for _ in 0..50 {
        assert_eq!(served().await, Ok(200));
    }
    // Before the API server goes: one that has just started forbids for a moment what it has not read the roles for.
    for pod in pods.list(&ListParams::default()).await.expect("pods").items {
        let name = pod.metadata.name.expect("a name");
        let text = cluster.logs("trimtab", &name, if name.contains("controller") { "controller" } else { "proxy" });
        assert!(!text.to_lowercase().contains("forbidden"), "{name} lacks a right:\n{text}");
    }
    cluster.control_plane().api.kill().expect("the API server is killed");
    for _ in 0..50 {
        assert_eq!(served().await, Ok(200));
    }
    cluster.control_plane().api.run().expect("the API server starts");
    cluster.api_ready().await.expect("it is ready again");
}

const SECOND: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: second}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: second, namespace: second}
spec:
  gatewayClassName: trimtab
  infrastructure: {annotations: {example.com/note: mine}}
  listeners: [{name: http, port: 80, protocol: HTTP}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: elsewhere, namespace: second}
spec:
  parentRefs: [{name: second}]
  rules: [{filters: [{type: RequestRedirect, requestRedirect: {hostname: elsewhere.test}}]}]
";

/// Somebody in the cluster does not want it.
const NO_THIRD: &str = "
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: no-third}
spec:
  matchConstraints:
    resourceRules: [{apiGroups: [''], apiVersions: [v1], operations: [CREATE, UPDATE], resources: [services]}]
  validations: [{expression: \"!object.metadata.name.startsWith('gateway-third')\", message: there is to be no third}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: no-third}
spec: {policyName: no-third, validationActions: [Deny]}
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_gateways_have_addresses_of_their_own_and_the_same_port() {
    let values = "proxy.service.type=ClusterIP,proxy.gatewayServices.enabled=true,proxy.gatewayServices.type=ClusterIP";
    let cluster = deploy(values, 80, 2 + 2 + 3).await;
    cluster.apply(SECOND).await.expect("the objects are taken");
    let client = cluster.client().await;
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("gateway.networking.k8s.io", "v1", "Gateway"));
    let address = async |name: &str| {
        let gateways: Api<DynamicObject> = Api::namespaced_with(client.clone(), name, &resource);
        let ask = || async {
            let gateway = gateways.get(name).await.expect("the Gateway");
            gateway.data["status"]["addresses"][0]["value"].as_str().map(str::to_owned)
        };
        eventually(&format!("{name} has an address"), PATIENCE, ask, Option::is_some).await;
        SocketAddr::new(ask().await.expect("an address").parse().expect("an IP address"), 80)
    };
    let (first, second) = (address("shop").await, address("second").await);
    assert_ne!(first, second);
    let requests = Client::default();
    let ask =
        async |at| requests.get(at, "/").await.map(|answer| (answer.status, answer.headers.get("location").cloned()));
    eventually("the first is served", PATIENCE, || ask(first), |said| *said == Ok((200, None))).await;
    let there = http::HeaderValue::from_static("http://elsewhere.test/");
    eventually("the second is served", PATIENCE, || ask(second), |said| *said == Ok((302, Some(there.clone())))).await;

    let services: Api<Service> = Api::namespaced(client.clone(), "trimtab");
    let made = || async {
        let services = services.list(&ListParams::default().labels("trimtab.dev/gateway")).await.expect("Services");
        services.items.into_iter().filter_map(|service| service.metadata.annotations).collect::<Vec<_>>()
    };
    let annotations = made().await;
    assert_eq!(annotations.len(), 2);
    assert!(annotations.iter().any(|all| all.get("example.com/note").is_some_and(|note| note == "mine")));
    let gateways: Api<DynamicObject> = Api::namespaced_with(client.clone(), "second", &resource);
    gateways.delete("second", &kube::api::DeleteParams::default()).await.expect("deleted");
    eventually("its Service goes with it", PATIENCE, made, |left| left.len() == 1).await;
    assert_eq!(ask(first).await, Ok((200, None)), "and the other one stays");

    cluster.apply(NO_THIRD).await.expect("the policy is taken");
    // It is in force a moment after it is taken.
    tokio::time::sleep(Duration::from_secs(3)).await;
    cluster
        .apply(&SECOND.replace("name: second", "name: third").replace("namespace: second", "namespace: third"))
        .await
        .expect("taken");
    let thirds: Api<DynamicObject> = Api::namespaced_with(client.clone(), "third", &resource);
    let says = || async {
        let gateway = thirds.get("third").await.expect("the Gateway");
        let conditions = gateway.data["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let found = conditions.into_iter().find(|condition| condition["type"] == "Programmed").unwrap_or_default();
        format!("{} {}", found["reason"], found["message"])
    };
    eventually("the third says why it has no address", PATIENCE, says, |text| {
        text.contains("AddressNotUsable") && text.contains("there is to be no third")
    })
    .await;
    let events: Api<Event> = Api::namespaced(client.clone(), "third");
    let told = || async {
        let events = events.list(&ListParams::default()).await.expect("events").items;
        events.into_iter().filter_map(|event| event.reason).collect::<Vec<_>>()
    };
    eventually("an Event tells it", PATIENCE, told, |reasons| reasons.iter().any(|one| one == "AddressNotUsable"))
        .await;
    assert_eq!(ask(first).await, Ok((200, None)), "and the first one is served");
    let policies: Api<ValidatingAdmissionPolicyBinding> = Api::all(client.clone());
    policies.delete("no-third", &kube::api::DeleteParams::default()).await.expect("deleted");
    let third = address("third").await;
    eventually(
        "the third is served once it may be",
        PATIENCE,
        || ask(third),
        |said| *said == Ok((302, Some(there.clone()))),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proxies_of_a_daemon_set_listen_on_the_addresses_of_their_nodes_and_know_their_zones() {
    let values = "proxy.kind=DaemonSet,proxy.hostNetwork=true,proxy.service.type=ClusterIP,\
                  proxy.service.ports[0].name=http,proxy.service.ports[0].port=8080";
    let cluster = deploy(values, 8080, 2 + 3 + 3).await;
    let nodes: Api<Node> = Api::all(cluster.client().await);
    let (requests, mut known, mut proxies) = (Client::default(), BTreeSet::new(), Vec::new());
    for node in nodes.list(&ListParams::default()).await.expect("nodes").items {
        let addresses = node.status.and_then(|status| status.addresses).expect("addresses");
        let address = addresses.iter().find(|one| one.type_ == "InternalIP").expect("an address of the node");
        let at = SocketAddr::new(address.address.parse().expect("an address"), 8080);
        assert_eq!(requests.get(at, "/").await.map(|answer| answer.status), Ok(200), "{at}");
        known.insert(address.address.clone());
        proxies.push((node.metadata.labels.expect("labels")["topology.kubernetes.io/zone"].clone(), at));
    }
    // And these are the addresses that the Gateway says.
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("gateway.networking.k8s.io", "v1", "Gateway"));
    let gateways: Api<DynamicObject> = Api::namespaced_with(cluster.client().await, "shop", &resource);
    let said = || async {
        let gateway = gateways.get("shop").await.expect("the Gateway");
        let addresses = gateway.data["status"]["addresses"].as_array().cloned().unwrap_or_default();
        addresses.iter().filter_map(|one| one["value"].as_str().map(str::to_owned)).collect::<BTreeSet<_>>()
    };
    eventually("the Gateway says the nodes' addresses", PATIENCE, said, |found| *found == known).await;

    // Each knows the zone of its node, and where it is to prefer what is near it sends everything there.
    cluster.apply(NEAR).await.expect("the policy is taken");
    let pods = pods_and_zones(&cluster).await;
    assert_eq!(pods.len(), 3, "{pods:?}");
    let zones: BTreeSet<&str> = pods.iter().map(|(zone, _)| &**zone).collect();
    assert!(zones.len() > 1, "there is something to choose from: {pods:?}");
    for (zone, at) in proxies.into_iter().filter(|(zone, _)| zones.contains(&**zone)) {
        let near = || async {
            let before = answered(&requests, &pods).await;
            for _ in 0..40 {
                assert_eq!(requests.get(at, "/").await.map(|answer| answer.status), Ok(200), "{zone}");
            }
            let mut counts = answered(&requests, &pods).await;
            counts.iter_mut().for_each(|(zone, count)| *count -= before[zone]);
            counts
        };
        let there = format!("what the proxy of {zone} gets is answered in {zone}");
        eventually(&there, PATIENCE, near, |counts| counts[&zone] == 40).await;
    }
}

const NEAR: &str = "
apiVersion: trimtab.dev/v1alpha1
kind: BackendTrafficPolicy
metadata: {name: near, namespace: shop}
spec:
  targetRefs: [{name: web}]
  loadBalancer: {type: Locality}
";

/// The pods behind the Service: the zone of each, and where it listens.
async fn pods_and_zones(cluster: &Cluster) -> Vec<(String, SocketAddr)> {
    let slices: Api<EndpointSlice> = Api::namespaced(cluster.client().await, "shop");
    let slices = slices.list(&ListParams::default().labels("kubernetes.io/service-name=web")).await.expect("slices");
    let endpoints = slices.items.into_iter().flat_map(|slice| slice.endpoints);
    endpoints
        .map(|endpoint| {
            let address = endpoint.addresses[0].parse().expect("an address");
            (endpoint.zone.expect("a zone"), SocketAddr::new(address, 8080))
        })
        .collect()
}

/// How many requests the pods of each zone have answered.
async fn answered(requests: &Client, pods: &[(String, SocketAddr)]) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for (zone, at) in pods {
        let text = requests.get(*at, "/metrics").await.expect("the pod's metrics").text();
        let lines = text.lines().filter(|line| line.starts_with("http_requests_total{"));
        *counts.entry(zone.clone()).or_default() +=
            lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum::<u64>();
    }
    counts
}
