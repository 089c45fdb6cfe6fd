//! What becomes of pods that come, have addresses of two families, or are only expected.

#![allow(clippy::disallowed_methods, reason = "tests of real processes run in real time")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use tokio::sync::Mutex;
use trimtab_tests::http::{Client, eventually};
use trimtab_tests::process::Process;
use trimtab_tests::world::{PATIENCE, State, World, pod_of};

async fn backend(controller: &Process) -> Value {
    let view = Client::default().get(controller.address("dashboard"), "/api/v1/view").await.expect("a view").json();
    view["backends"][0].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_with_addresses_of_two_families_is_one_endpoint_and_stays_itself_with_either() {
    let world = World::new("families").await;
    let address = world.gateway().await;
    world.service("app").await;
    let pods = [world.pod(0).await, world.pod(1).await];
    world.endpoints("app", &[(&pods[0], State::Ready), (&pods[1], State::Ready)]).await;
    let slices: Api<EndpointSlice> = Api::namespaced(world.admin.clone(), &world.namespace);
    for (index, pod) in pods.iter().enumerate() {
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": { "name": format!("app-v6-{index}"), "labels": { "kubernetes.io/service-name": "app" } },
            "addressType": "IPv6",
            "ports": [{ "name": "http", "port": pod.address().port(), "protocol": "TCP" }],
            "endpoints": [{
                "addresses": [format!("fd00::{}", index + 1)],
                "conditions": { "ready": true, "serving": true, "terminating": false },
                "targetRef": {
                    "kind": "Pod", "name": format!("app-{index}"), "namespace": world.namespace,
                    "uid": format!("{}-app-{index}", world.namespace),
                },
            }],
        });
        let params = PatchParams::apply("test").force();
        slices.patch(&format!("app-v6-{index}"), &params, &Patch::Apply(&slice)).await.expect("the slice is taken");
    }
    world.route("app", "app").await;
    let (controller, port) = world.controller("one");
    controller.wait_for("proxies connect to");
    let proxy = world.proxy(&[port]);
    world.ready(&proxy).await;
    let endpoints = || async { backend(&controller).await["endpoints"].as_array().cloned().unwrap_or_default() };
    eventually("each pod is there once", PATIENCE, endpoints, |endpoints| endpoints.len() == 2).await;
    let before = endpoints().await;
    for endpoint in &before {
        assert!(endpoint["address"].as_str().expect("a text").starts_with(&world.host.to_string()), "{endpoint}");
    }
    let mut seen = [0; 2];
    for answer in futures_util::future::join_all((0..60).map(async |_| Client::default().get(address, "/").await)).await
    {
        let answer = answer.expect("an answer");
        assert_eq!(answer.status, 200);
        seen[pod_of(&answer) as usize] += 1;
    }
    assert!(seen[0] > 5 && seen[1] > 5, "{seen:?}");

    // The pod loses its IPv4 address, and is still the pod that is known.
    slices.delete("app-1", &Default::default()).await.expect("deleted");
    let other = |endpoints: &Vec<Value>| {
        endpoints.len() == 2
            && endpoints.iter().any(|one| one["address"].as_str().is_some_and(|it| it.starts_with("[fd00::2]")))
    };
    eventually("it has the other address", PATIENCE, endpoints, other).await;
    let keys = |endpoints: &[Value]| {
        let mut keys: Vec<String> = endpoints.iter().map(|endpoint| endpoint["key"].to_string()).collect();
        keys.sort();
        keys
    };
    assert_eq!(keys(&endpoints().await), keys(&before));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_autoscaler_asks_for_is_expected() {
    let world = World::new("autoscaled").await;
    world.gateway().await;
    world
        .apply(
            "
apiVersion: v1
kind: Service
metadata: {name: app, namespace: NAMESPACE}
spec:
  selector: {app: app}
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: app, namespace: NAMESPACE}
spec:
  replicas: 1
  selector: {matchLabels: {app: app}}
  template:
    metadata: {labels: {app: app}}
    spec: {containers: [{name: app, image: pod}]}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: app, namespace: NAMESPACE}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: app}
  maxReplicas: 9
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: other, namespace: NAMESPACE}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: other}
  maxReplicas: 9
",
        )
        .await;
    world.route("app", "app").await;
    let (controller, _) = world.controller("one");
    controller.wait_for("proxies connect to");
    let replicas = || async { backend(&controller).await["replicas"].clone() };
    let autoscalers: Api<HorizontalPodAutoscaler> = Api::namespaced(world.admin.clone(), &world.namespace);
    // The controller that would say so does not run in the test cluster.
    let say = async |name: &str, current: i32, desired: i32| {
        let status = json!({ "status": { "currentReplicas": current, "desiredReplicas": desired } });
        autoscalers.patch_status(name, &PatchParams::default(), &Patch::Merge(&status)).await.expect("it is taken");
    };
    say("other", 5, 7).await;
    say("app", 1, 4).await;
    let wanted = json!({ "current": 1, "desired": 4 });
    eventually("three more pods are expected", 2 * PATIENCE, replicas, |found| *found == wanted).await;
    let metrics = Client::default().get(controller.address("dashboard"), "/metrics").await.expect("metrics").text();
    for line in ["which=\"current\"} 1", "which=\"desired\"} 4"] {
        let line = format!("trimtab_controller_autoscaler_replicas{{backend=\"autoscaled/app:80\",{line}");
        assert!(metrics.contains(&line), "{line} is not in\n{metrics}");
    }
    let weights =
        Process::start(["weights".to_owned(), format!("--address=http://{}", controller.address("dashboard"))]).end();
    assert!(weights.text.contains("3 more pods expected"), "{}", weights.text);
    say("app", 4, 4).await;
    let settled = json!({ "current": 4, "desired": 4 });
    eventually("nobody is expected any more", PATIENCE, replicas, |found| *found == settled).await;
}

/// Sends at a steady rate while `during` happens, and returns when which pod answered.
async fn sent(address: std::net::SocketAddr, rps: u32, seconds: u32, began: Instant) -> Vec<(Duration, u64)> {
    let answers = Arc::new(Mutex::new(Vec::new()));
    let client = Client::default();
    let mut due = tokio::time::interval(Duration::from_secs(1) / rps);
    let mut tasks = Vec::new();
    for _ in 0..rps * seconds {
        due.tick().await;
        let (client, answers) = (client.clone(), answers.clone());
        tasks.push(tokio::spawn(async move {
            let at = began.elapsed();
            let answer = client.get(address, "/").await.expect("an answer");
            assert_eq!(answer.status, 200);
            answers.lock().await.push((at, pod_of(&answer)));
        }));
    }
    for task in tasks {
        task.await.expect("no panic");
    }
    let mut answers = answers.lock().await.clone();
    answers.sort();
    answers
}

/// The largest share that a pod had of the requests of any second from `from` on.
fn largest_share(answers: &[(Duration, u64)], pod: u64, from: Duration) -> f64 {
    let after: Vec<_> = answers.iter().filter(|(at, _)| *at >= from).collect();
    let mut largest = 0.0_f64;
    for (first, (at, _)) in after.iter().enumerate() {
        let second = after[first..].iter().take_while(|(later, _)| *later < *at + Duration::from_secs(1));
        let (all, own) = second.fold((0, 0), |(all, own), (_, to)| (all + 1, own + u32::from(*to == pod)));
        if after.last().is_some_and(|(last, _)| *last >= *at + Duration::from_secs(1)) {
            largest = largest.max(f64::from(own) / f64::from(all));
        }
    }
    largest
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_comes_never_gets_more_than_one_and_a_half_times_its_share_in_any_second() {
    let world = World::new("newcomer").await;
    let address = world.gateway().await;
    world.service("app").await;
    let mut pods = Vec::new();
    for number in 0..5 {
        pods.push(world.pod(number).await);
    }
    let before: Vec<_> = pods[..4].iter().map(|pod| (pod, State::Ready)).collect();
    world.endpoints("app", &before).await;
    world.route("app", "app").await;
    let (controller, port) = world.controller("one");
    controller.wait_for("proxies connect to");
    let proxy = world.proxy(&[port]);
    world.ready(&proxy).await;
    let began = Instant::now();
    let load = tokio::spawn(sent(address, 150, 16, began));
    tokio::time::sleep(Duration::from_secs(5)).await;
    world.endpoint("app", 4, &pods[4], State::Ready).await;
    let came = began.elapsed();
    let answers = load.await.expect("no panic");
    let share = largest_share(&answers, 4, came);
    println!("the new pod had at most {:.2} times its share of a second", share * 5.0);
    assert!(answers.iter().any(|(_, pod)| *pod == 4), "it is used");
    assert!(share <= 1.5 / 5.0, "{share}");
}
