//! What the controller is granted is what it uses: the API server's own audit log says so.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::jiff::{Timestamp, ToSpan, tz::TimeZone};
use serde_json::Value;
use trimtab_controller::pki::authority::authority;
use trimtab_tests::cluster::objects;
use trimtab_tests::http::eventually;
use trimtab_tests::world::{PATIENCE, RBAC, State, World, free_port};

use super::tls::Certificate;

const ACCOUNT: &str = "system:serviceaccount:trimtab:trimtab-controller";

/// Group, resource (with its subresource) and verb.
type Right = (String, String, String);

/// Everything that the manifest grants.
fn granted() -> BTreeSet<Right> {
    let texts = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let mut rights = BTreeSet::new();
    for object in objects::parse(RBAC).expect("objects") {
        for rule in object.data["rules"].as_array().into_iter().flatten() {
            for group in texts(&rule["apiGroups"]) {
                for resource in texts(&rule["resources"]) {
                    let verbs = texts(&rule["verbs"]).into_iter();
                    rights.extend(verbs.map(|verb| (group.clone(), resource.clone(), verb)));
                }
            }
        }
    }
    rights
}

/// What the controller has done by now, and what it was refused.
fn audited(world: &World) -> (BTreeSet<Right>, BTreeSet<Right>) {
    let text = std::fs::read_to_string(world.cluster.audit_log()).unwrap_or_default();
    let (mut done, mut refused) = (BTreeSet::new(), BTreeSet::new());
    // The last line may be half written.
    for event in text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        let object = &event["objectRef"];
        if event["user"]["username"] != ACCOUNT || object.is_null() {
            continue;
        }
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let resource = match object["subresource"].as_str() {
            Some(subresource) => format!("{}/{subresource}", text(&object["resource"])),
            None => text(&object["resource"]),
        };
        let right = (text(&object["apiGroup"]), resource, text(&event["verb"]));
        match event["responseStatus"]["code"].as_u64() {
            Some(403) => refused.insert(right),
            _ => done.insert(right),
        };
    }
    (done, refused)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_that_is_granted_is_used_and_nothing_else_is_tried() {
    let world = World::audited("permissions").await;
    // An authority that is to be replaced: then its Secret is updated.
    let made = Timestamp::now().to_zoned(TimeZone::UTC).date().saturating_sub(3470.days());
    let old = authority(made).expect("an authority");
    let indented = |pem: &str| pem.lines().map(|line| format!("    {line}\n")).collect::<String>();
    world
        .apply(&format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: trimtab-ca, namespace: trimtab, annotations: {{trimtab.dev/issued: '{made}'}}}}\n\
             type: kubernetes.io/tls\nstringData:\n  tls.crt: |\n{}  tls.key: |\n{}",
            indented(&old.certificate),
            indented(&old.key)
        ))
        .await;
    world
        .apply(&format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: authority, namespace: NAMESPACE}}\ndata:\n  ca.crt: |\n{}---\n\
             apiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {{name: t, namespace: NAMESPACE}}\nspec:\n  \
             targetRefs: [{{group: '', kind: Service, name: app}}]\n  \
             validation: {{hostname: a.test, caCertificateRefs: [{{group: '', kind: ConfigMap, name: authority}}]}}",
            indented(&old.certificate)
        ))
        .await;
    let (http, https) = (free_port(), free_port());
    world
        .apply(&format!(
            "{}\n---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: g, namespace: NAMESPACE}}\nspec:\n  \
             gatewayClassName: trimtab\n  listeners:\n  - {{name: http, port: {http}, protocol: HTTP}}\n  \
             - {{name: https, port: {https}, protocol: HTTPS, tls: {{certificateRefs: [{{name: a}}]}}}}\n---\n\
             apiVersion: trimtab.dev/v1alpha1\nkind: BackendTrafficPolicy\nmetadata: {{name: p, namespace: NAMESPACE}}\n\
             spec: {{targetRefs: [{{name: app}}]}}\n---\n\
             apiVersion: gateway.networking.k8s.io/v1\nkind: GRPCRoute\nmetadata: {{name: calls, namespace: NAMESPACE}}\nspec:\n  \
             parentRefs: [{{name: g, sectionName: https}}]\n  hostnames: [calls.test]\n  rules: [{{backendRefs: [{{name: app, port: 80}}]}}]\n---\n\
             apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{name: i, namespace: NAMESPACE}}\nspec:\n  \
             ingressClassName: trimtab\n  defaultBackend: {{service: {{name: app, port: {{number: 80}}}}}}",
            Certificate::new("a.test").as_secret("NAMESPACE", "a"),
        ))
        .await;
    world.service("app").await;
    let pod = world.pod(0).await;
    world.endpoints("app", &[(&pod, State::Ready)]).await;
    world.route("app", "app").await;
    let ingress = format!("--ingress-http-port={}", free_port());
    // In all namespaces, as the chart has it.
    let (controller, _) = world.controller_everywhere("one", &["--tls-secrets", "--session-key-secret", &ingress]);
    controller.wait_for("proxies connect to");
    world.route_says("app", "Accepted", "True Accepted").await;
    // The same thing goes wrong twice: the second time the Event is patched.
    let broken = |port: u16| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: app, namespace: NAMESPACE}}\nspec:\n  \
             parentRefs: [{{name: g}}]\n  rules: [{{backendRefs: [{{name: app, port: {port}}}]}}]"
        )
    };
    for _ in 0..2 {
        world.apply(&broken(81)).await;
        world.route_says("app", "ResolvedRefs", "False BackendNotFound").await;
        world.apply(&broken(80)).await;
        world.route_says("app", "ResolvedRefs", "True ResolvedRefs").await;
    }
    let granted = granted();
    assert!(granted.len() > 30, "{granted:?}");
    let unused = || async {
        let (done, _) = audited(&world);
        granted.difference(&done).cloned().collect::<Vec<_>>()
    };
    // Watches are in the log when they end, which they do within a minute.
    eventually("everything that is granted is used", 4 * PATIENCE, unused, Vec::is_empty).await;
    let (done, refused) = audited(&world);
    assert!(refused.is_empty(), "forbidden: {refused:?}");
    let beyond: Vec<_> = done.difference(&granted).collect();
    assert!(beyond.is_empty(), "done without a grant of the manifest: {beyond:?}");
    tokio::time::sleep(Duration::from_millis(100)).await;
}
