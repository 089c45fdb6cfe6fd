//! BackendTrafficPolicies of HTTPRoutes.

use trimtab_tests::http::eventually;
use trimtab_tests::world::{PATIENCE, State, World, brief, status};

const POLICIES: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: faulty, namespace: NAMESPACE}
spec:
  parentRefs: [{name: g}]
  rules: [{matches: [{path: {value: /faulty}}], backendRefs: [{name: app, port: 80}]}]
---
apiVersion: trimtab.dev/v1alpha1
kind: BackendTrafficPolicy
metadata: {name: faults, namespace: NAMESPACE}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: faulty}]
  faultInjection: {abort: {httpStatus: 418}}
---
apiVersion: trimtab.dev/v1alpha1
kind: BackendTrafficPolicy
metadata: {name: lost, namespace: NAMESPACE}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: gone}]
  retry: {}
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_of_a_route_is_for_its_requests_alone_and_names_the_gateway() {
    let world = World::new("route-policies").await;
    let address = world.gateway().await;
    world.service("app").await;
    let pod = world.pod(0).await;
    world.endpoints("app", &[(&pod, State::Ready)]).await;
    world.route("app", "app").await;
    world.apply(POLICIES).await;
    let wrong = POLICIES
        .replace("kind: HTTPRoute, name: gone", "kind: Gateway, name: g")
        .replace("NAMESPACE", "route-policies");
    let refused = world.cluster.apply(&wrong).await.expect_err("a Gateway is no target");
    assert!(format!("{refused:#}").contains("can only be a Service"), "{refused:#}");
    let (_controller, _proxy) = world.served(&[]).await;
    eventually("faults are made up", PATIENCE, || status(address, "/faulty"), |status| *status == Ok(418)).await;
    assert_eq!(status(address, "/").await, Ok(200), "the other route to the same Service has none");
    for (name, ancestor, said) in
        [("faults", "Gateway g", "True Accepted"), ("lost", "HTTPRoute gone", "False TargetNotFound")]
    {
        let ask = || async {
            let status = world.status("trimtab.dev", "v1alpha1", "BackendTrafficPolicy", name).await;
            let one = &status["ancestors"][0];
            let of = |field: &str| one["ancestorRef"][field].as_str().unwrap_or("-").to_owned();
            (format!("{} {}", of("kind"), of("name")), brief(&one["conditions"], "Accepted"))
        };
        eventually(name, PATIENCE, ask, |found| *found == (ancestor.to_owned(), said.to_owned())).await;
    }
}
