//! Rollouts as a person sees them: the real binary follows a store in a folder, `trimtab models` writes into it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::Value;
use trimtab::demo::pod::{Pod, PodSpec};
use trimtab::demo::service_time::ServiceTime;
use trimtab_model::checkpoint::{Checkpoint, SHIPPED};
use trimtab_model::features::FEATURES;
use trimtab_tests::http::{Client, eventually};
use trimtab_tests::process::{Ended, Process};

/// Six slow pods and six that are six times as fast.
async fn pods() -> Vec<Pod> {
    let mut pods = Vec::new();
    for (index, speed) in [1.0, 6.0].into_iter().cycle().take(12).enumerate() {
        let service = ServiceTime::Constant { ms_mean: 120.0 };
        let spec = PodSpec { name: format!("pod-{index}"), speed, service, seed: index as u64, ..PodSpec::default() };
        pods.push(Pod::start(spec).await.expect("a pod starts"));
    }
    pods
}

/// A policy that gives to those who get little: to slow pods, as what is in force leaves them alone.
fn bad_policy(file: &Path) {
    let zero = Checkpoint::zero(0);
    let (mut manifest, mut tensors) = (zero.manifest().clone(), zero.tensors().clone());
    manifest.policy_version = "bad-1".to_owned();
    manifest.residual_clip = 3.0;
    let rate = FEATURES.iter().position(|feature| feature.name == "rate_ratio").expect("a feature");
    tensors.get_mut("linear.weight").expect("a tensor")[rate] = -60.0;
    let checkpoint = Checkpoint::new(manifest, tensors).expect("it holds");
    std::fs::write(file, checkpoint.to_bytes().expect("it can be written")).expect("written");
}

/// `trimtab models` on a store, to its end.
fn models(store: &Path, args: &[&str]) -> Ended {
    let mut all = vec!["models", "--store", store.to_str().expect("UTF-8")];
    all.extend(args);
    Process::start(all).end()
}

/// The same, as JSON.
fn json(store: &Path, args: &[&str]) -> Value {
    let ended = models(store, &[args, &["--output", "json"]].concat());
    assert!(ended.status.success(), "{}", ended.text);
    serde_json::from_str(&ended.text).unwrap_or_else(|error| panic!("{error}: {}", ended.text))
}

fn check(ended: &Ended, code: i32, wanted: &str) {
    assert_eq!(ended.status.code(), Some(code), "{}", ended.text);
    assert!(ended.text.contains(wanted), "no {wanted:?} in:\n{}", ended.text);
}

#[test]
fn versions_are_put_in_listed_shown_compared_pinned_and_taken_out_by_hand() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = &folder.path().join("store");
    let file = |name: &str| folder.path().join(name).to_str().expect("UTF-8").to_owned();
    std::fs::write(file("good"), SHIPPED).expect("written");
    bad_policy(Path::new(&file("bad")));
    std::fs::write(file("cut"), &SHIPPED[..500]).expect("written");

    check(&models(store, &["list"]), 1, "there is no folder");
    assert!(!store.exists(), "who reads makes nothing");
    std::fs::create_dir(store).expect("made");
    check(&models(store, &["list"]), 0, "no versions yet");
    check(&models(store, &["unpin"]), 1, "nothing is pinned");
    check(&models(store, &["promote", &file("cut")]), 1, "not a whole safetensors file");
    check(&models(store, &["promote", "v7"]), 1, "v7 is neither a file nor a version of");
    check(&models(store, &["promote", &file("good"), "--as", "v1", "--note", "a first try"]), 0, "v1 is to be tried");
    check(&models(store, &["promote", &file("bad")]), 3, "v1 is being tried on all backends (stage shadow)");
    check(&models(store, &["promote", &file("bad"), "--as", "v1"]), 3, "version v1 is in the store already");
    check(&models(store, &["promote", "bad-1", "--replace"]), 0, "bad-1 is to be tried");
    check(&models(store, &["rollback", "bad-1", "--note", "seen slow"]), 0, "rolled back (ByHand): seen slow");
    check(&models(store, &["rollback", "v9"]), 1, "there is bad-1, v1");
    check(
        &models(store, &["pin", "fallback", "--backend", "default/web:80"]),
        0,
        "fallback was pinned on default/web:80",
    );
    check(&models(store, &["pin", "v9"]), 1, "v9 is neither");
    check(&models(store, &["list"]), 0, "pinned on default/web:80: fallback");
    check(&models(store, &["unpin", "--backend", "default/web:80"]), 0, "the pin was taken away");
    check(&models(store, &["show", "bad-1"]), 0, "rolled back (ByHand)");
    check(&models(store, &["compare", "v1", "bad-1"]), 0, "files.policy.safetensors.crc32c");

    let list = json(store, &["list"]);
    let versions: Vec<&str> =
        list["versions"].as_array().expect("a list").iter().filter_map(|v| v["version"].as_str()).collect();
    assert_eq!(versions, ["bad-1", "v1"]);
    let log = json(store, &["log"]);
    let events: Vec<&str> =
        log["events"].as_array().expect("a list").iter().filter_map(|e| e["event"].as_str()).collect();
    assert_eq!(events, ["proposed", "proposed", "rolled-back", "pinned", "unpinned"]);
    assert_eq!(log["events"][0]["evidence"]["note"], "a first try");
    assert!(log["events"][0]["by"].as_str().is_some_and(|by| by.starts_with("cli ")));

    // What is broken is named, and does not stop the rest.
    std::fs::write(store.join("versions/v1/manifest.json"), "{").expect("written");
    std::fs::write(store.join("events/00000006.json"), "{").expect("written");
    let list = models(store, &["list"]);
    check(&list, 0, "versions/v1/manifest.json: it is no JSON");
    check(&list, 0, "! model store");
    check(&models(store, &["promote", "v1"]), 1, "manifest.json");
}

/// Requests on a few connections, until told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    good: Arc<AtomicU64>,
    tasks: Vec<tokio::task::JoinHandle<Vec<String>>>,
}

impl Load {
    fn start(address: std::net::SocketAddr, clients: usize) -> Self {
        let (stop, good) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let one = |_| {
            let (stop, good) = (Arc::clone(&stop), Arc::clone(&good));
            tokio::spawn(async move {
                let (client, mut bad) = (Client::default(), Vec::new());
                while !stop.load(Ordering::Relaxed) {
                    match client.get(address, "/").await {
                        Ok(answer) if answer.status == 200 => _ = good.fetch_add(1, Ordering::Relaxed),
                        other => bad.push(format!("{other:?}")),
                    }
                }
                bad
            })
        };
        let tasks = (0..clients).map(one).collect();
        Self { stop, good, tasks }
    }

    async fn end(self) -> (u64, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        let mut bad = Vec::new();
        for task in self.tasks {
            bad.extend(task.await.expect("a client does not panic"));
        }
        (self.good.load(Ordering::Relaxed), bad)
    }
}

fn up(store: &Path, pods: &[Pod]) -> Process {
    let mut args: Vec<String> = [
        "up",
        "--listen",
        "127.0.0.1:0",
        "--dashboard",
        "127.0.0.1:0",
        "--admin",
        "127.0.0.1:0",
        "--no-recordings",
        "--slo",
        "1s",
        "--tick",
        "250ms",
        "--rollout-shadow",
        "4s",
        "--controller-id",
        "test",
        "--models",
    ]
    .map(String::from)
    .into();
    args.push(store.to_str().expect("UTF-8").to_owned());
    args.extend(pods.iter().flat_map(|pod| ["--to".to_owned(), pod.address().to_string()]));
    Process::start(args)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_model_promoted_by_hand_is_rolled_back_by_itself_stays_out_after_a_restart_and_no_request_fails() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = &folder.path().join("store");
    let file = folder.path().join("bad");
    bad_policy(&file);
    let pods = pods().await;
    let trimtab = up(store, &pods);
    let load = Load::start(trimtab.address("listening on"), 16);
    let client = Client::default();
    let dashboard = trimtab.address("dashboard");
    let view = |dashboard| {
        let client = client.clone();
        async move { client.get(dashboard, "/api/v1/view").await.expect("the dashboard answers").json() }
    };
    let model = |view: &Value| view["backends"][0]["model"].clone();
    eventually("it runs", Duration::from_secs(10), || view(dashboard), |view| model(view)["in_force"] == "builtin")
        .await;

    check(&models(store, &["promote", file.to_str().expect("UTF-8")]), 0, "bad-1 is to be tried");
    let shadow = |view: &Value| model(view)["candidate"] == "bad-1" && model(view)["stage"] == "shadow";
    let picked_up = eventually("it is picked up", Duration::from_secs(10), || view(dashboard), shadow).await;
    assert!(picked_up < Duration::from_secs(4), "without a restart, within a poll: {picked_up:?}");

    let log = || {
        let store = store.clone();
        async move { tokio::task::spawn_blocking(move || json(&store, &["log"])).await.expect("no panic") }
    };
    let last = |log: &Value| log["events"].as_array().and_then(|events| events.last().cloned()).unwrap_or_default();
    let out = |log: &Value| last(log)["event"] == "rolled-back";
    eventually("it is rolled back", Duration::from_secs(240), log, out).await;
    let event = last(&log().await);
    assert_eq!((&event["version"], &event["by"]), (&"bad-1".into(), &"controller test".into()), "{event:#}");
    // Where a burst falls into the last minute, the first look says nothing: it may take a second one, a minute later.
    let exposed_ticks = event["evidence"]["exposed_ticks"].as_u64();
    assert!(exposed_ticks.is_some_and(|ticks| ticks <= 10), "it decided for at most 5 s: {event:#}");
    assert!(event["evidence"]["finding"]["rail"].is_string(), "with the evidence: {event:#}");
    let gone = |view: &Value| model(view)["candidate"].is_null() && model(view)["in_force"] == "builtin";
    let shown = eventually("it is gone", Duration::from_secs(10), || view(dashboard), gone).await;
    assert!(shown < Duration::from_secs(5));
    let metrics = client.get(dashboard, "/metrics").await.expect("metrics").text();
    assert!(metrics.contains("trimtab_controller_rollbacks_total{"), "{metrics}");
    let weights = Process::start(["weights", "--address", &format!("http://{dashboard}")]).end();
    assert!(weights.text.contains("bad-1 was rolled back"), "{}", weights.text);

    let (good, bad) = load.end().await;
    assert!(good > 500 && bad.is_empty(), "{good} good, {} bad: {:?}", bad.len(), bad.first());
    trimtab.signal("TERM");
    let ended = trimtab.end();
    assert!(ended.status.success(), "{}", ended.text);

    let trimtab = up(store, &pods);
    let dashboard = trimtab.address("dashboard");
    eventually(
        "it runs again",
        Duration::from_secs(10),
        || view(dashboard),
        |view| model(view)["in_force"] == "builtin",
    )
    .await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(model(&view(dashboard).await)["candidate"].is_null(), "what is out stays out");
    check(&models(store, &["show", "bad-1"]), 0, "rolled back");

    // A pin is in force at once.
    check(&models(store, &["pin", "fallback"]), 0, "fallback was pinned");
    let pinned = |view: &Value| model(view)["in_force"] == "fallback" && model(view)["pinned"] == true;
    eventually("the pin is in force", Duration::from_secs(5), || view(dashboard), pinned).await;
}
