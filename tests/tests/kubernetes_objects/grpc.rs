//! GRPCRoutes: what is said of them, and who has a host name that an HTTPRoute wants as well.

use std::time::Duration;

use trimtab_tests::http::eventually;
use trimtab_tests::world::{PATIENCE, State, World, brief};

async fn says(world: &World, kind: &str, name: &str, condition: &str, expected: &str) {
    let ask = || async {
        let status = world.status("gateway.networking.k8s.io", "v1", kind, name).await;
        brief(&status["parents"][0]["conditions"], condition)
    };
    eventually(&format!("{kind} {name} says {condition}"), PATIENCE, ask, |found| found == expected).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grpcroute_has_a_status_of_its_own_and_its_host_name_for_itself() {
    let world = World::new("calls").await;
    world.gateway().await;
    world.service("app").await;
    let pod = world.pod(0).await;
    world.endpoints("app", &[(&pod, State::Ready)]).await;
    let (_controller, _proxy) = world.served(&[]).await;
    let route = |kind: &str, name: &str, service: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: NAMESPACE}}\nspec:\n  \
             parentRefs: [{{name: g}}]\n  hostnames: [calls.test]\n  rules: [{{backendRefs: [{{name: {service}, port: 80}}]}}]"
        )
    };
    world.apply(&route("GRPCRoute", "calls", "app")).await;
    world.apply(&route("GRPCRoute", "lost", "nothing")).await;
    says(&world, "GRPCRoute", "calls", "Accepted", "True Accepted").await;
    says(&world, "GRPCRoute", "calls", "ResolvedRefs", "True ResolvedRefs").await;
    says(&world, "GRPCRoute", "lost", "ResolvedRefs", "False BackendNotFound").await;
    let status = world.status("gateway.networking.k8s.io", "v1", "GRPCRoute", "calls").await;
    assert_eq!(status["parents"][0]["conditions"][0]["observedGeneration"], 1);
    // Ages are told by the second.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    world.apply(&route("HTTPRoute", "younger", "app")).await;
    says(&world, "HTTPRoute", "younger", "Accepted", "False HostnameConflict").await;
    says(&world, "GRPCRoute", "calls", "Accepted", "True Accepted").await;
}
