//! GRPCRoutes: what is said of them, and who has a host name that an HTTPRoute wants as well.

use std::net::SocketAddr;
use std::time::Duration;

use trimtab_tests::echo::Echo;
use trimtab_tests::http::{Client, eventually};
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_go_where_their_service_and_method_say() {
    let world = World::new("methods").await;
    let address = world.gateway().await;
    let (carts, rest) = (
        Echo::start_calls("carts", SocketAddr::new(world.host, 0)).await,
        Echo::start_calls("rest", SocketAddr::new(world.host, 0)).await,
    );
    for (name, echo) in [("carts", &carts), ("rest", &rest)] {
        world.service(name).await;
        world.endpoint_at(name, 0, echo.address(), State::Ready).await;
    }
    world
        .apply(
            "
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: shop, namespace: NAMESPACE}
spec:
  parentRefs: [{name: g}]
  rules:
  - matches: [{method: {service: shop.Cart, method: Add}, headers: [{name: x-tier, value: gold}]}]
    filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-set, value: ours}]}}]
    backendRefs: [{name: carts, port: 80}]
  - matches: [{method: {service: shop.Cart}}]
    backendRefs: [{name: rest, port: 80}]
",
        )
        .await;
    let (_controller, _proxy) = world.served(&[]).await;
    says(&world, "GRPCRoute", "shop", "ResolvedRefs", "True ResolvedRefs").await;
    let client = Client::http2();
    let call = async |path: &str, tier: &str| {
        let request = http::Request::post(format!("http://{address}{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("x-tier", tier);
        let answer = client.send(request.body(Default::default()).expect("a request")).await.expect("an answer");
        let header =
            |name: &str| answer.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("-").to_owned();
        (header("x-endpoint"), header("grpc-status"), answer)
    };
    eventually("calls are served", PATIENCE, || call("/shop.Cart/Add", "gold"), |(endpoint, ..)| endpoint == "carts")
        .await;
    let (_, _, answer) = call("/shop.Cart/Add", "gold").await;
    assert_eq!(
        (&answer.json()["path"], &answer.json()["headers"]["x-set"]),
        (&"/shop.Cart/Add".into(), &"ours".into())
    );
    assert_eq!(call("/shop.Cart/Add", "tin").await.0, "rest");
    assert_eq!(call("/shop.Cart/Remove", "gold").await.0, "rest");
    let (endpoint, status, answer) = call("/shop.Bill/Pay", "gold").await;
    assert_eq!(
        (endpoint.as_str(), status.as_str(), answer.status),
        ("-", "12", 200),
        "UNIMPLEMENTED: {}",
        answer.text()
    );
}
