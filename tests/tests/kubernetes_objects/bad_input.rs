//! What is wrong is said with condition, reason, Event and metric, and takes nothing else with it.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use trimtab_tests::http::{Client, eventually};
use trimtab_tests::load::Load;
use trimtab_tests::world::{PATIENCE, State, World, brief, condition, free_port, metric, status};

/// A world with a Service that answers, behind `g`, and load on it from now on.
async fn served(world: &World) -> SocketAddr {
    let address = world.gateway().await;
    world.service("app").await;
    world.route("app", "app").await;
    address
}

async fn gateway_status(world: &World, name: &str) -> Value {
    world.status("gateway.networking.k8s.io", "v1", "Gateway", name).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listeners_that_conflict_say_so_and_those_that_were_first_serve_on() {
    let world = World::new("listeners").await;
    let address = served(&world).await;
    let pod = world.pod(0).await;
    world.endpoints("app", &[(&pod, State::Ready)]).await;
    let (controller, _proxy) = world.served(&[]).await;
    let load = Load::start(address, 2);
    // Ages are told by the second.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let (twice, port) = (free_port(), address.port());
    world
        .apply(&format!(
            "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: younger, namespace: NAMESPACE}}
spec:
  gatewayClassName: trimtab
  listeners:
  - {{name: taken, port: {port}, protocol: HTTP}}
  - {{name: beside, port: {port}, protocol: HTTP, hostname: beside.test}}
  - {{name: raw, port: {twice}, protocol: TCP}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: nowhere, namespace: NAMESPACE}}
spec:
  parentRefs: [{{name: younger, sectionName: taken}}]
  rules: [{{backendRefs: [{{name: app, port: 80}}]}}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: other-host, namespace: NAMESPACE}}
spec:
  parentRefs: [{{name: younger, sectionName: beside}}]
  hostnames: [elsewhere.test]
  rules: [{{backendRefs: [{{name: app, port: 80}}]}}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: no-port, namespace: NAMESPACE}}
spec:
  parentRefs: [{{name: g}}]
  rules: [{{matches: [{{path: {{value: /no-port}}}}], backendRefs: [{{name: app, port: 81}}]}}]
"
        ))
        .await;
    let ask = || async {
        let status = gateway_status(&world, "younger").await;
        (0..3).map(|index| brief(&status["listeners"][index]["conditions"], "Accepted")).collect::<Vec<_>>()
    };
    eventually("listeners say what is wrong", PATIENCE, ask, |found| {
        *found == ["False PortUnavailable", "True Accepted", "False UnsupportedProtocol"]
    })
    .await;
    let status_now = gateway_status(&world, "younger").await;
    let accepted = condition(&status_now["conditions"], "Accepted").clone();
    assert_eq!((&accepted["status"], &accepted["reason"]), (&"True".into(), &"ListenersNotValid".into()));
    world.route_says("nowhere", "Accepted", "False NoMatchingParent").await;
    world.route_says("other-host", "Accepted", "False NoMatchingListenerHostname").await;
    world.route_says("no-port", "ResolvedRefs", "False BackendNotFound").await;
    for told in ["younger PortUnavailable", "nowhere NoMatchingParent", "no-port BackendNotFound"] {
        world.told(told).await;
    }
    for series in [
        "kind=\"Gateway\",condition=\"Accepted\",reason=\"PortUnavailable\"",
        "kind=\"HTTPRoute\",condition=\"ResolvedRefs\"",
    ] {
        let name = format!("trimtab_controller_bad_conditions{{{series}");
        eventually(series, PATIENCE, || metric(&controller, &name), |count| *count >= 1.0).await;
    }
    assert_eq!(status(address, "/no-port").await, Ok(500));
    load.lost_nothing().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_classes_both_are_served_and_one_of_somebody_else_is_left_alone() {
    let world = World::new("classes").await;
    served(&world).await;
    let pod = world.pod(0).await;
    world.endpoints("app", &[(&pod, State::Ready)]).await;
    let ports = [free_port(), free_port(), free_port()];
    let gateway = |name: &str, class: &str, port: u16| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: {name}, namespace: NAMESPACE}}\nspec:\n  \
             gatewayClassName: {class}\n  listeners: [{{name: http, port: {port}, protocol: HTTP}}]\n---\n"
        )
    };
    let class = |name: &str, more: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {{name: {name}}}\nspec: {{{more}}}\n---\n"
        )
    };
    world
        .apply(
            &[
                class("second", "controllerName: trimtab.dev/gateway-controller"),
                class("third", "controllerName: trimtab.dev/gateway-controller, parametersRef: {group: a.test, kind: B, name: c}"),
                class("foreign", "controllerName: example.com/other"),
                gateway("of-second", "second", ports[0]),
                gateway("of-foreign", "foreign", ports[1]),
                "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: second, namespace: NAMESPACE}\nspec:\n  \
                 parentRefs: [{name: of-second}]\n  rules: [{backendRefs: [{name: app, port: 80}]}]\n"
                    .to_owned(),
            ]
            .concat(),
        )
        .await;
    let (_controller, _proxy) = world.served(&[]).await;
    let ask = || status(SocketAddr::from(([127, 0, 0, 1], ports[0])), "/");
    eventually("the second class is served", PATIENCE, ask, |status| *status == Ok(200)).await;
    let class_says = async |name: &str, wanted: &str| {
        let ask = || async {
            let status = world.status("gateway.networking.k8s.io", "v1", "GatewayClass", name).await;
            brief(&status["conditions"], "Accepted")
        };
        eventually(name, PATIENCE, ask, |found| found == wanted).await;
    };
    class_says("second", "True Accepted").await;
    class_says("third", "False InvalidParameters").await;
    class_says("foreign", "Unknown Pending").await;
    let foreign = gateway_status(&world, "of-foreign").await;
    assert_ne!(condition(&foreign["conditions"], "Accepted")["status"], "True", "{foreign}");
    world.delete("gateway.networking.k8s.io", "v1", "GatewayClass", "third").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slices_with_nonsense_lose_nobody_and_their_good_endpoints_are_used() {
    let world = World::new("slices").await;
    let address = served(&world).await;
    let pod = world.pod(0).await;
    world.endpoints("app", &[(&pod, State::Ready)]).await;
    let (controller, _proxy) = world.served(&[]).await;
    let load = Load::start(address, 2);
    world
        .apply(&format!(
            "
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: without-service, namespace: NAMESPACE}}
addressType: IPv4
ports: [{{name: http, port: 80}}]
endpoints: [{{addresses: [10.1.2.3]}}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: other-port, namespace: NAMESPACE, labels: {{kubernetes.io/service-name: app}}}}
addressType: IPv4
ports: [{{name: grpc, port: 81}}, {{name: http, protocol: UDP, port: 82}}]
endpoints: [{{addresses: [10.1.2.5], conditions: {{ready: true, terminating: true}}}}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: no-ports, namespace: NAMESPACE, labels: {{kubernetes.io/service-name: app}}}}
addressType: IPv4
endpoints: [{{addresses: [10.1.2.6]}}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: names, namespace: NAMESPACE, labels: {{kubernetes.io/service-name: app}}}}
addressType: FQDN
ports: [{{name: http, port: 80}}]
endpoints: [{{addresses: [a.test], conditions: {{ready: false}}}}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: twice, namespace: NAMESPACE, labels: {{kubernetes.io/service-name: app}}}}
addressType: IPv4
ports: [{{name: http, port: {port}}}]
endpoints:
- {{addresses: [{ip}], conditions: {{}}}}
- {{addresses: [{ip}], conditions: {{ready: true}}}}
",
            port = pod.address().port(),
            ip = pod.address().ip(),
        ))
        .await;
    let view = || async {
        Client::default().get(controller.address("dashboard"), "/api/v1/view").await.expect("a view").json()
    };
    eventually("it is said", PATIENCE, view, |view| view["problems"].to_string().contains("without-service")).await;
    let problems = || metric(&controller, "trimtab_controller_problems");
    eventually("it is counted", PATIENCE, problems, |count| *count >= 1.0).await;
    let view = view().await;
    let names = view["backends"][0]["endpoints"].to_string();
    assert!(!names.contains("10.1.2."), "no endpoint without the port: {names}");
    tokio::time::sleep(Duration::from_secs(1)).await;
    load.lost_nothing().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_that_are_gone_before_they_are_dealt_with_disturb_nobody() {
    let world = World::new("fleeting").await;
    let address = served(&world).await;
    let pod = world.pod(0).await;
    world.endpoints("app", &[(&pod, State::Ready)]).await;
    let (controller, _proxy) = world.served(&[]).await;
    let load = Load::start(address, 2);
    for round in 0..25 {
        let port = free_port();
        world
            .apply(&format!(
                "
apiVersion: v1
kind: Service
metadata: {{name: brief, namespace: NAMESPACE}}
spec: {{ports: [{{name: http, port: 80}}]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: brief, namespace: NAMESPACE}}
spec: {{gatewayClassName: trimtab, listeners: [{{name: http, port: {port}, protocol: HTTP}}]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: brief, namespace: NAMESPACE}}
spec: {{parentRefs: [{{name: brief}}], rules: [{{backendRefs: [{{name: brief, port: 80}}]}}]}}
---
apiVersion: trimtab.dev/v1alpha1
kind: BackendTrafficPolicy
metadata: {{name: brief, namespace: NAMESPACE}}
spec: {{targetRefs: [{{name: brief}}]}}
"
            ))
            .await;
        // At another moment of the reconciliation each time.
        tokio::time::sleep(Duration::from_millis(round * 9)).await;
        for (group, version, kind) in [
            ("gateway.networking.k8s.io", "v1", "Gateway"),
            ("", "v1", "Service"),
            ("trimtab.dev", "v1alpha1", "BackendTrafficPolicy"),
            ("gateway.networking.k8s.io", "v1", "HTTPRoute"),
        ] {
            world.delete(group, version, kind, "brief").await;
        }
    }
    world.route("later", "app").await;
    world.route_says("later", "Accepted", "True Accepted").await;
    assert_eq!(
        metric(&controller, "trimtab_controller_status_write_failures_total").await,
        0.0,
        "{}",
        controller.text()
    );
    load.lost_nothing().await;
}

const LIMITED: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: closed}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: limited, namespace: trimtab}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: limited}
rules:
- {apiGroups: [gateway.networking.k8s.io], resources: [gatewayclasses], verbs: [list, watch]}
- {apiGroups: [networking.k8s.io], resources: [ingressclasses], verbs: [list, watch]}
- {apiGroups: [''], resources: [namespaces], verbs: [list, watch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: limited}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: limited}
subjects: [{kind: ServiceAccount, name: limited, namespace: trimtab}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: limited, namespace: NAMESPACE}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: trimtab-controller}
subjects: [{kind: ServiceAccount, name: limited, namespace: trimtab}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: limited, namespace: trimtab}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: trimtab-controller}
subjects: [{kind: ServiceAccount, name: limited, namespace: trimtab}]
---
# Events about what is in no namespace, as the closed one itself, are in this one.
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: limited, namespace: default}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: trimtab-controller}
subjects: [{kind: ServiceAccount, name: limited, namespace: trimtab}]
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_that_may_not_be_read_is_said_and_the_others_are_served() {
    let mut world = World::new("open").await;
    let address = served(&world).await;
    let pod = world.pod(0).await;
    world.endpoints("app", &[(&pod, State::Ready)]).await;
    world.apply(LIMITED).await;
    world.run_as("limited").await;
    let (controller, _proxy) = world.served(&["--namespaces=closed"]).await;
    let ask = || status(address, "/");
    eventually("the open namespace is served", PATIENCE, ask, |status| *status == Ok(200)).await;
    let view = Client::default().get(controller.address("dashboard"), "/api/v1/view").await.expect("a view").json();
    let problems = view["problems"].to_string();
    assert!(problems.contains("Service objects are not read: not allowed"), "{problems}");
    assert!(metric(&controller, "trimtab_controller_problems").await >= 1.0);
    world.route_says("app", "Accepted", "True Accepted").await;
    let told = || world.events_in("default");
    eventually("an Event tells it", PATIENCE, told, |events| events.iter().any(|event| event == "closed NotReadable"))
        .await;
}
