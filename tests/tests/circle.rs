//! The whole circle on real sockets: a service is recorded, a policy refined from the recordings alone, promoted by the gate, taken live by a controller that
//! goes on running, and measured; then a bad one is pushed by hand, and rolled back by itself. docs/walkthrough.md tells it for people.
#![allow(clippy::print_stdout, reason = "what it found is what it is about")]

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use trimtab::demo::pod::Pod;
use trimtab::demo::score::{Outcome, Score};
use trimtab_model::checkpoint::{Checkpoint, Range};
use trimtab_tests::http::{Client, eventually};
use trimtab_tests::process::Process;
use trimtab_tests::tools::own_binary;
use trimtab_tests::walkthrough::{Load, objective, service, start_pods};

/// Recorded before anything is trained: the last 40 % less 20 s must hold five stretches of 5 s.
const RECORDED: Duration = Duration::from_secs(130);
/// How long a policy is measured, and what of that does not count, as answers to what came before come in.
const MEASURED: Duration = Duration::from_secs(20);
const SETTLING: Duration = Duration::from_secs(4);
/// What a controller learns of a service while nobody looks depends on chance, too: in some runs it comes out of the trap that this service is by itself, and
/// then there is nothing to win. Another one begins anew.
const ATTEMPTS: usize = 5;

/// Everything that runs.
struct Circle {
    folder: tempfile::TempDir,
    _pods: Vec<Pod>,
    trimtab: Process,
    proxy: SocketAddr,
    dashboard: SocketAddr,
    client: Client,
    load: Load,
    /// Loads so far: each has requests of its own.
    loads: u64,
}

impl Circle {
    async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let pods = start_pods().await.expect("pods start");
        let at = |name: &str| folder.path().join(name).to_str().expect("UTF-8").to_owned();
        let objective = format!("{}ms", objective().as_millis());
        let (recordings, models) = (at("recordings"), at("models"));
        let mut args: Vec<String> =
            ["up", "--listen", "127.0.0.1:0", "--dashboard", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
                .map(String::from)
                .into();
        let more =
            ["--no-metrics", "--rollout-shadow", "4s", "--recordings-file-age", "5s", "--controller-id", "circle"];
        args.extend(more.map(String::from));
        args.extend(["--slo", &objective, "--recordings", &recordings, "--models", &models].map(String::from));
        args.extend(pods.iter().flat_map(|pod| ["--to".to_owned(), pod.address().to_string()]));
        let trimtab = Process::start(args);
        let (proxy, dashboard) = (trimtab.address("listening on"), trimtab.address("dashboard"));
        let load = Load::start(proxy, 1, Duration::from_secs(30));
        Self { folder, _pods: pods, trimtab, proxy, dashboard, client: Client::default(), load, loads: 1 }
    }

    fn at(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().expect("UTF-8").to_owned()
    }

    /// `trimtab ARGUMENTS --output json`, to its end; and whether it went well.
    async fn trimtab(&self, arguments: &[&str]) -> Value {
        let mut command = Command::new(own_binary("trimtab").expect("trimtab is built"));
        command.args(arguments).args(["--output", "json"]);
        let output = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic").expect("it runs");
        let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{arguments:?}: {stdout}{stderr}");
        serde_json::from_str(stdout.trim()).unwrap_or(Value::Null)
    }

    async fn models(&self, arguments: &[&str]) -> Value {
        self.trimtab(&[&["models", "--store", &self.at("models")], arguments].concat()).await
    }

    async fn view(&self) -> Value {
        self.client.get(self.dashboard, "/api/v1/view").await.expect("the dashboard answers").json()
    }

    /// Waits until what the view says of the backend's model is as wanted.
    async fn until(&self, what: &str, patience_s: u64, wanted: impl Fn(&Value) -> bool) -> Duration {
        let model = |view: &Value| wanted(&view["backends"][0]["model"]);
        eventually(what, Duration::from_secs(patience_s), || self.view(), model).await
    }

    async fn last_event(&self) -> Value {
        let log = self.models(&["log"]).await;
        log["events"].as_array().and_then(|events| events.last().cloned()).unwrap_or_default()
    }

    /// Has the requests from now on counted apart, after a while; tells how those before fared.
    async fn turn(&mut self, skipped: Duration) -> Score {
        self.loads += 1;
        let next = Load::start(self.proxy, self.loads, skipped);
        std::mem::replace(&mut self.load, next).end().await.expect("the load goes on")
    }

    /// How requests fare under a policy that is pinned, or under what is in force.
    async fn measured(&mut self, pinned: Option<&str>) -> Score {
        if let Some(policy) = pinned {
            self.models(&["pin", policy]).await;
            self.until("the pin is in force", 10, |model| model["in_force"] == policy && model["pinned"] == true).await;
        }
        let _before = self.turn(SETTLING).await;
        tokio::time::sleep(SETTLING + MEASURED).await;
        self.turn(Duration::ZERO).await
    }
}

fn p99(score: &Score) -> f64 {
    score.latency_ms(0.99).expect("there are answers")
}

fn told(who: &str, score: &Score) -> String {
    let summary = score.summary(MEASURED);
    format!(
        "{who}: {} requests, p50 {:.0} ms, p99 {:.0} ms, {:.2} % in time, {:.2} % without an answer",
        summary.requests,
        score.latency_ms(0.5).unwrap_or(f64::NAN),
        p99(score),
        100.0 * summary.goodput_share,
        100.0 * summary.error_share
    )
}

/// A policy that was trained where everything was different. Pods of this service have so much room that what would drown others harms nobody here; what
/// happens to one that does harm is told in `models.rs`.
fn bad_policy(file: &Path) {
    let zero = Checkpoint::zero(0);
    let (mut manifest, mut tensors) = (zero.manifest().clone(), zero.tensors().clone());
    manifest.policy_version = "bad-1".to_owned();
    for feature in manifest.features.iter_mut().chain(&mut manifest.context) {
        let high = feature.seen.expect("a range").high;
        feature.seen = Some(Range { low: 0.95 * high, high });
    }
    tensors.get_mut("linear.weight").expect("a tensor").fill(3.0);
    let checkpoint = Checkpoint::new(manifest, tensors).expect("it holds");
    std::fs::write(file, checkpoint.to_bytes().expect("it can be written")).expect("written");
}

/// What a training came to.
struct Refined {
    /// Name of the version, if one was promoted.
    version: Option<String>,
    /// The 99th percentile that the twin expects of it over that of what is in force, with its interval.
    expected: [f64; 3],
}

/// From recordings to a version that is on trial.
async fn refined(circle: &Circle) -> Refined {
    tokio::time::sleep(RECORDED).await;
    let (recordings, models, out) = (circle.at("recordings"), circle.at("models"), circle.at("refined"));
    let job = ["train", "--from", "recordings", &recordings, "--models", &models, "--out", &out];
    let summary = circle.trimtab(&[&job[..], &["--search", "0", "--stretch", "5"]].concat()).await;
    let facts = &summary["candidates"][0];
    println!(
        "{}; twin {}; foresight {}; refusals {}",
        summary["outcome"], summary["twin"], facts["gate"]["foresight"], facts["refusals"]
    );
    let estimates = facts["gate"]["estimates"].as_array().expect("a list");
    let of_twin = |e: &&Value| e["estimator"] == "twin" && e["measure"] == "log_p99";
    let twin = estimates.iter().find(of_twin).expect("the twin is heard");
    let expected = ["difference", "low", "high"].map(|end| twin[end].as_f64().map_or(f64::NAN, f64::exp));
    Refined { version: summary["version"].as_str().map(str::to_owned), expected }
}

/// Pushes the bad policy past the gate, and waits until it is out. Tells how requests fared from then on.
async fn push_and_see(circle: &mut Circle) {
    let file = circle.folder.path().join("bad");
    bad_policy(&file);
    circle.models(&["promote", file.to_str().expect("UTF-8"), "--replace", "--note", "looks good to me"]).await;
    let _before = circle.turn(Duration::ZERO).await;
    circle.until("the bad one is picked up", 20, |model| model["candidate"] == "bad-1").await;
    circle.until("the bad one is out", 120, |model| model["candidate"].is_null()).await;
    tokio::time::sleep(SETTLING).await;
    let event = circle.last_event().await;
    let harmed = circle.turn(Duration::ZERO).await;
    println!("{}", told("while the bad one was tried", &harmed));
    println!("it was rolled back ({}): {}", event["why"], event["detail"]);
    assert_eq!((&event["event"], &event["version"]), (&"rolled-back".into(), &"bad-1".into()), "{event:#}");
    assert_eq!(event["by"], "controller circle", "by itself: {event:#}");
    let exposed_ticks = event["evidence"]["exposed_ticks"].as_u64();
    assert!(exposed_ticks.is_none_or(|ticks| ticks <= 10), "it decided for at most 5 s: {event:#}");
    assert!(harmed.errors() * 100 <= harmed.requests(), "hardly anybody got no answer");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_service_records_of_itself_makes_it_quicker_and_what_a_person_breaks_is_rolled_back() {
    println!("{:.0} requests/s, objective {} ms", service().rate_rps, objective().as_millis());
    let mut found = None;
    for _ in 0..ATTEMPTS {
        let circle = Circle::start().await;
        if let Refined { version: Some(version), expected } = refined(&circle).await {
            found = Some((circle, version, expected));
            break;
        }
    }
    let (mut circle, version, [expected, low, high]) = found.expect("the gate promotes what recordings tell");
    println!("{version}: the gate expects {expected:.2} of the p99 ({low:.2} to {high:.2})");

    // The controller takes it up as it goes, and only looks at it: what is in force still decides.
    circle.until("it is picked up", 10, |model| model["candidate"] == *version).await;
    let recorded = circle.turn(Duration::ZERO).await;
    println!("{}", told("as recorded, under the built-in policy", &recorded));
    circle.until("it decides for short turns", 60, |model| model["stage"] == "5%").await;
    let after = circle.measured(Some(&version)).await;
    println!("{}", told("refined", &after));
    println!("p99 on sockets: {:.2} of what it was", p99(&after) / p99(&recorded));
    assert!(p99(&after) < p99(&recorded), "what the gate promoted is better on sockets");
    // What was learned while the refined policy decided stays for a while: this is no fair comparison with it.
    let back = circle.measured(Some("builtin")).await;
    println!("{}", told("built in again, with what was learned meanwhile", &back));
    circle.models(&["unpin"]).await;
    let failed = [&recorded, &after, &back].map(|score| score.count(Outcome::Failed));
    assert_eq!(failed, [0; 3], "no request is lost by what policies do");

    push_and_see(&mut circle).await;
    circle.load.stop();
    circle.trimtab.signal("TERM");
    let ended = circle.trimtab.end();
    assert!(ended.status.success(), "{}", ended.text);
}
