//! What happens to routing while the API server is away: nothing. In a file of its own, as the tests of a file share a cluster.

#![allow(clippy::disallowed_methods, reason = "tests of real processes run in real time")]

use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::Mutex;
use trimtab::demo::pod::Pod;
use trimtab_tests::http::{Client, eventually};
use trimtab_tests::load::Load;
use trimtab_tests::process::Process;
use trimtab_tests::world::{PATIENCE, State, World, pod_of};

/// What ails the control plane ails all who share it.
static ALONE: Mutex<()> = Mutex::const_new(());

/// A service under load, two controllers and a proxy.
struct Scene {
    world: World,
    address: std::net::SocketAddr,
    pods: Vec<Pod>,
    leader: Process,
    follower: Process,
    proxy: Process,
}

impl Scene {
    async fn new(name: &str) -> Self {
        let world = World::new(name).await;
        let address = world.gateway().await;
        world.service("app").await;
        let mut pods = Vec::new();
        for number in 0..4 {
            pods.push(world.pod(number).await);
        }
        world.endpoints("app", &[(&pods[0], State::Ready), (&pods[1], State::Ready)]).await;
        world.route("app", "app").await;
        let (leader, port) = world.controller("leader");
        leader.wait_for("this controller leads");
        let (follower, other) = world.controller("follower");
        follower.wait_for("this controller follows");
        let proxy = world.proxy(&[port, other]);
        world.ready(&proxy).await;
        let scene = Self { world, address, pods, leader, follower, proxy };
        eventually("the proxy is in sync", PATIENCE, || scene.view(), in_sync).await;
        eventually("statuses are written", PATIENCE, || scene.statuses(), |(_, route)| !route["parents"].is_null())
            .await;
        // Nothing changes any more.
        tokio::time::sleep(Duration::from_secs(2)).await;
        scene
    }

    /// What whoever has the proxy sees.
    async fn view(&self) -> Value {
        let client = Client::default();
        let mut last = Value::Null;
        for controller in [&self.leader, &self.follower] {
            last = client.get(controller.address("dashboard"), "/api/v1/view").await.expect("a view").json();
            if last["proxies"][0]["connected"] == true || last["proxies"][0]["in_sync"] == true {
                break;
            }
        }
        last
    }

    /// Whom the lease is of, and how often that has changed.
    async fn lease(&self) -> (Value, u64) {
        let lease = self.world.lease().await;
        (lease["spec"]["holderIdentity"].clone(), lease["spec"]["leaseTransitions"].as_u64().unwrap_or(0))
    }

    /// The statuses of Gateway and route, with the version of the objects: a write without a change would show.
    async fn statuses(&self) -> (Value, Value) {
        let of = |kind| {
            self.world.status("gateway.networking.k8s.io", "v1", kind, if kind == "Gateway" { "g" } else { "app" })
        };
        (of("Gateway").await, of("HTTPRoute").await)
    }

    /// Endpoints by name, and whether they get requests.
    async fn endpoints(&self) -> Vec<String> {
        let view = self.view().await;
        let endpoints = view["backends"][0]["endpoints"].as_array().cloned().unwrap_or_default();
        endpoints.iter().map(|endpoint| format!("{} {}", endpoint["name"], endpoint["state"])).collect()
    }

    /// Nothing was lost, nothing has been written meanwhile, and what changes from now on is followed.
    async fn is_as_before(&self, load: Load, statuses: &(Value, Value)) {
        self.world.endpoint("app", 2, &self.pods[2], State::Ready).await;
        let three = |endpoints: &Vec<String>| endpoints.len() == 3;
        eventually("a change afterwards is followed", PATIENCE, || self.endpoints(), three).await;
        eventually("the proxy is in sync", PATIENCE, || self.view(), in_sync).await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!(self.statuses().await, *statuses, "nothing was written that had not changed");
        load.lost_nothing().await;
        assert!(self.proxy.text().matches("listening").count() <= 1, "{}", self.proxy.text());
    }
}

fn in_sync(view: &Value) -> bool {
    view["proxies"][0]["in_sync"] == true
}

/// The API server goes away under load for so long, by a pause or by a crash, and comes back.
async fn api_server_away(name: &str, length: Duration, crash: bool) {
    let scene = Scene::new(name).await;
    let (held, statuses) = (scene.lease().await, scene.statuses().await);
    let load = Load::start(scene.address, 4);
    {
        let mut parts = scene.world.cluster.control_plane();
        if crash { parts.api.kill() } else { parts.api.pause() }.expect("the API server goes away");
    }
    let (away, ticked) = (Instant::now(), scene.view().await["backends"][0]["tick"].as_u64());
    let (client, mut seen) = (Client::default(), [0_u32; 4]);
    while away.elapsed() < length {
        // Several at once: one after the other they would find the same pod idle every time.
        for answer in futures_util::future::join_all((0..4).map(async |_| client.get(scene.address, "/").await)).await {
            let answer = answer.expect("an answer");
            assert_eq!(answer.status, 200);
            seen[pod_of(&answer) as usize] += 1;
        }
        assert_eq!(scene.endpoints().await.len(), 2, "nobody is taken out");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let during = scene.view().await;
    assert!(during["backends"][0]["tick"].as_u64() > ticked, "it goes on deciding");
    assert!(in_sync(&during), "and the proxy goes on listening: {during}");
    assert!(seen[0] > 20 && seen[1] > 20, "{seen:?}");
    {
        let mut parts = scene.world.cluster.control_plane();
        if crash { parts.api.run() } else { parts.api.resume() }.expect("the API server comes back");
    }
    scene.world.cluster.api_ready().await.expect("the API server is ready");
    scene.is_as_before(load, &statuses).await;
    assert_eq!(scene.lease().await, held, "the leader is the same all the time");
    assert!(!scene.follower.text().contains("this controller leads"), "{}", scene.follower.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routing_goes_on_while_the_api_server_is_away_and_nothing_flaps_when_it_is_back() {
    let _alone = ALONE.lock().await;
    // Several times a lease.
    api_server_away("outage", Duration::from_secs(8), false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes a minute and a half: cargo test --release --workspace --test kubernetes_outage -- --ignored"]
async fn routing_goes_on_through_a_minute_without_an_api_server_that_crashed() {
    let _alone = ALONE.lock().await;
    api_server_away("minute", Duration::from_secs(60), true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routing_goes_on_while_etcd_hangs_and_leadership_passes_once_at_most() {
    let _alone = ALONE.lock().await;
    let scene = Scene::new("etcd").await;
    let (held, statuses) = (scene.lease().await, scene.statuses().await);
    let load = Load::start(scene.address, 4);
    scene.world.cluster.control_plane().etcd.pause().expect("etcd pauses");
    let paused = Instant::now();
    while paused.elapsed() < Duration::from_secs(6) {
        assert_eq!(scene.endpoints().await.len(), 2, "nobody is taken out");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    scene.world.cluster.control_plane().etcd.resume().expect("etcd goes on");
    scene.world.cluster.api_ready().await.expect("the API server is ready");
    scene.is_as_before(load, &statuses).await;
    let (holder, transitions) = scene.lease().await;
    assert!(transitions <= held.1 + 1, "{holder} after {transitions} transitions, {held:?} before");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_has_expired_lists_anew_and_only_what_is_different_has_an_effect() {
    let _alone = ALONE.lock().await;
    let scene = Scene::new("expired").await;
    let statuses = scene.statuses().await;
    let load = Load::start(scene.address, 4);
    // While both controllers sleep the API server restarts, much happens, and etcd forgets how it happened.
    scene.leader.signal("STOP");
    scene.follower.signal("STOP");
    scene.world.cluster.control_plane().api.kill().expect("the API server goes away");
    scene.world.cluster.control_plane().api.run().expect("the API server comes back");
    scene.world.cluster.api_ready().await.expect("the API server is ready");
    scene.world.endpoint("app", 3, &scene.pods[3], State::Ready).await;
    scene.world.endpoint("app", 0, &scene.pods[0], State::Unready).await;
    let compacted = scene.world.cluster.compact().await.expect("etcd compacts");
    assert!(compacted > 0);
    scene.leader.signal("CONT");
    scene.follower.signal("CONT");
    for controller in [&scene.leader, &scene.follower] {
        controller.wait_for("watch expired, listing anew");
    }
    let caught_up = |endpoints: &Vec<String>| {
        let [first, second, third] = &endpoints[..] else { return false };
        first.contains("Draining") && !second.contains("Draining") && third.contains("app-3")
    };
    eventually(
        "what happened meanwhile is known",
        PATIENCE,
        || async {
            let mut endpoints = scene.endpoints().await;
            endpoints.sort();
            endpoints
        },
        caught_up,
    )
    .await;
    scene.world.endpoint("app", 0, &scene.pods[0], State::Ready).await;
    eventually(
        "a change afterwards is followed",
        PATIENCE,
        || scene.endpoints(),
        |endpoints| endpoints.len() == 3 && endpoints.iter().all(|endpoint| !endpoint.contains("Draining")),
    )
    .await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(scene.statuses().await, statuses, "nothing was written that had not changed");
    load.lost_nothing().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_without_the_gateway_api_is_said_to_be_one_and_followed_once_it_has_it() {
    let world = World::bare("bare").await;
    let (controller, port) = world.controller("one");
    let line = controller.wait_for("kind=\"Gateway\"");
    assert!(line.contains("gateway.networking.k8s.io/v1 is not installed"), "{line}");
    controller.wait_for("proxies connect to");
    let (client, dashboard) = (Client::default(), controller.address("dashboard"));
    let problems = || async {
        let view = client.get(dashboard, "/api/v1/view").await.expect("a view").json();
        view["problems"].to_string()
    };
    eventually("it is said", PATIENCE, problems, |said| said.contains("HTTPRoute objects are not read")).await;

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
