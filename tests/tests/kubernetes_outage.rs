//! What happens to routing while the API server is away: nothing. In a file of its own, as the tests of a file share a cluster.

#![allow(clippy::disallowed_methods, reason = "tests of real processes run in real time")]

use std::time::Duration;

use trimtab_tests::http::{Client, eventually};
use trimtab_tests::world::{PATIENCE, State, World, pod_of};

/// How long the API server is away. Several times a lease; a test cannot wait for minutes.
const OUTAGE: Duration = Duration::from_secs(8);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routing_goes_on_while_the_api_server_is_away_and_nothing_flaps_when_it_is_back() {
    let world = World::new("outage").await;
    let address = world.gateway().await;
    world.service("app").await;
    let pods = [world.pod(0).await, world.pod(1).await, world.pod(2).await];
    world.endpoints("app", &[(&pods[0], State::Ready), (&pods[1], State::Ready)]).await;
    world.route("app", "app").await;
    let (leader, port) = world.controller("leader");
    leader.wait_for("this controller leads");
    let (follower, other) = world.controller("follower");
    follower.wait_for("this controller follows");
    let proxy = world.proxy(&[port, other]);
    world.ready(&proxy).await;
    let dashboard = leader.address("dashboard");
    let view = || async { Client::default().get(dashboard, "/api/v1/view").await.expect("a view").json() };
    let in_sync = |view: &serde_json::Value| view["proxies"][0]["in_sync"] == true;
    eventually("the proxy is in sync", PATIENCE, view, in_sync).await;
    let transitions = || async {
        let lease = world.lease().await;
        (lease["spec"]["holderIdentity"].clone(), lease["spec"]["leaseTransitions"].clone())
    };
    let held = transitions().await;

    world.cluster.control_plane().api.pause().expect("the API server pauses");
    let client = Client::default();
    let paused = std::time::Instant::now();
    let ticked = view().await["backends"][0]["tick"].as_u64();
    let mut seen = [0_u32; 3];
    while paused.elapsed() < OUTAGE {
        // Several at once: one after the other they would find the same pod idle every time.
        for answer in futures_util::future::join_all((0..4).map(async |_| client.get(address, "/").await)).await {
            let answer = answer.expect("an answer");
            assert_eq!(answer.status, 200);
            seen[pod_of(&answer) as usize] += 1;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let during = view().await;
    assert!(during["backends"][0]["tick"].as_u64() > ticked, "it goes on deciding");
    assert!(in_sync(&during), "and the proxy goes on listening: {during}");
    assert!(seen[0] > 20 && seen[1] > 20, "{seen:?}");

    world.cluster.control_plane().api.resume().expect("the API server goes on");
    world.cluster.api_ready().await.expect("the API server is ready");
    world.endpoint("app", 2, &pods[2], State::Ready).await;
    // By the view: a pod that has not answered yet is taken for slow, and may get nothing while the others are hardly busy.
    let followed = |view: &serde_json::Value| {
        in_sync(view) && view["backends"][0]["endpoints"].as_array().is_some_and(|endpoints| endpoints.len() == 3)
    };
    eventually("a change after the outage is followed", PATIENCE, view, followed).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(transitions().await, held, "the leader is the same all the time");
    assert!(!follower.text().contains("this controller leads"), "{}", follower.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_without_the_gateway_api_is_said_to_be_one_and_followed_once_it_has_it() {
    let world = World::bare("bare").await;
    let (controller, port) = world.controller("one");
    let line = controller.wait_for("kind=\"Gateway\"");
    assert!(line.contains("gateway.networking.k8s.io/v1 is not installed"), "{line}");
    controller.wait_for("proxies connect to");
    let problems = Client::default().get(controller.address("dashboard"), "/api/v1/view").await.expect("a view").json();
    assert!(problems["problems"].to_string().contains("HTTPRoute objects are not read"), "{problems}");

    let checked = world.check(&controller);
    assert_eq!(checked.status.code(), Some(1), "{}", checked.text);
    for text in
        ["✓ the API server can be reached (v1.", "× gateways.gateway.networking.k8s.io is defined", "trimtab crds |"]
    {
        assert!(checked.text.contains(text), "no {text:?} in:\n{}", checked.text);
    }

    world.install().await;
    let address = world.gateway().await;
    world.service("app").await;
    let pod = world.pod(0).await;
    world.endpoints("app", &[(&pod, State::Ready)]).await;
    world.route("app", "app").await;
    let proxy = world.proxy(&[port]);
    world.ready(&proxy).await;
    let client = Client::default();
    let ask = || async { client.get(address, "/").await.map(|answer| answer.status) };
    eventually("what was installed later is served", PATIENCE, ask, |status| *status == Ok(200)).await;
    let checked = || async { world.check(&controller).text };
    eventually("everything holds", PATIENCE, checked, |text| text.contains("All checks hold.")).await;
    assert_eq!(world.check(&controller).status.code(), Some(0));
    let said = controller.text().matches("kind=\"Gateway\"").count();
    assert_eq!(said, 1, "said once: {}", controller.text());
}
