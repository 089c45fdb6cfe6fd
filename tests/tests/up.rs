//! `trimtab up` as a person uses it: the real binary in front of real servers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use trimtab::demo::pod::{Pod, PodSpec};
use trimtab::demo::service_time::ServiceTime;
use trimtab_tests::http::{Client, eventually};
use trimtab_tests::process::Process;

async fn pods(speeds: &[f64]) -> Vec<Pod> {
    pods_with(ServiceTime::Exponential { ms_mean: 40.0 }, speeds).await
}

async fn pods_with(service: ServiceTime, speeds: &[f64]) -> Vec<Pod> {
    let mut pods = Vec::new();
    for (index, &speed) in speeds.iter().enumerate() {
        let spec = PodSpec { name: format!("pod-{index}"), speed, service, seed: index as u64, ..PodSpec::default() };
        pods.push(Pod::start(spec).await.expect("a pod starts"));
    }
    pods
}

/// `trimtab up` with ports of its own choosing and no recording.
fn up<S: AsRef<str>>(args: impl IntoIterator<Item = S>) -> Process {
    let mut all: Vec<String> =
        ["up", "--listen", "127.0.0.1:0", "--dashboard", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
            .map(String::from)
            .into();
    let args: Vec<String> = args.into_iter().map(|arg| arg.as_ref().to_owned()).collect();
    if !args.iter().any(|arg| arg == "--recordings") {
        all.push("--no-recordings".to_owned());
    }
    all.extend(args);
    Process::start(all)
}

fn to(pods: &[Pod]) -> Vec<String> {
    pods.iter().flat_map(|pod| ["--to".to_owned(), pod.address().to_string()]).collect()
}

/// Sends requests one after the other on a few connections until told to stop; counts what came back.
struct Load {
    stop: Arc<AtomicBool>,
    good: Arc<AtomicU64>,
    bad: Arc<std::sync::Mutex<Vec<String>>>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    fn start(address: SocketAddr, clients: usize) -> Load {
        let (stop, good, bad) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default(), Arc::default());
        let one = |_| {
            let (stop, good, bad) = (Arc::clone(&stop), Arc::clone(&good), Arc::clone(&bad));
            tokio::spawn(async move {
                let bad: Arc<std::sync::Mutex<Vec<String>>> = bad;
                let client = Client::default();
                while !stop.load(Ordering::Relaxed) {
                    match client.get(address, "/").await {
                        Ok(answer) if answer.status == 200 => _ = good.fetch_add(1, Ordering::Relaxed),
                        other => bad.lock().expect("not poisoned").push(format!("{other:?}")),
                    }
                }
            })
        };
        let tasks = (0..clients).map(one).collect();
        Load { stop, good, bad, tasks }
    }

    async fn end(self) -> (u64, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.expect("a client does not panic");
        }
        (self.good.load(Ordering::Relaxed), self.bad.lock().expect("not poisoned").clone())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_reach_every_server_and_the_weights_follow_their_speeds() {
    let pods = pods(&[1.0, 1.0, 4.0]).await;
    let trimtab = up(to(&pods));
    let (address, dashboard) = (trimtab.address("listening on"), trimtab.address("dashboard"));
    let load = Load::start(address, 12);
    let client = Client::default();
    let weight = |view: &serde_json::Value, index: usize| {
        view["backends"][0]["endpoints"][index]["weight_applied"].as_f64().unwrap_or_default()
    };
    let ask = || async { client.get(dashboard, "/api/v1/view").await.expect("the dashboard answers").json() };
    let ends_with = |view: &serde_json::Value, pod: usize| {
        let endpoints = view["backends"][0]["endpoints"].as_array().expect("endpoints");
        endpoints.iter().position(|e| e["address"] == pods[pod].address().to_string()).expect("the pod is known")
    };
    eventually("the fast pod's weight is well above a slow one's", Duration::from_secs(20), ask, |view| {
        !view["backends"].as_array().is_none_or(Vec::is_empty)
            && weight(view, ends_with(view, 2)) > 2.0 * weight(view, ends_with(view, 0))
    })
    .await;
    let (good, bad) = load.end().await;
    assert!(good > 0 && bad.is_empty(), "{good} good, {bad:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weights_are_printed_as_a_table_and_as_json() {
    let pods = pods(&[1.0, 2.0]).await;
    let trimtab = up(to(&pods));
    let dashboard = format!("http://{}", trimtab.address("dashboard"));
    let address = trimtab.address("listening on");
    assert_eq!(Client::default().get(address, "/").await.map(|answer| answer.status), Ok(200));
    let client = Client::default();
    let socket = trimtab.address("dashboard");
    eventually(
        "the first tick",
        Duration::from_secs(10),
        || client.get(socket, "/api/v1/view"),
        |answer| answer.as_ref().is_ok_and(|answer| answer.json()["backends"][0]["endpoints"][1].is_object()),
    )
    .await;

    let table = Process::start(["weights", "--address", &dashboard]).end();
    assert!(table.status.success(), "{}", table.text);
    for wanted in ["ENDPOINT", "WEIGHT", "IN FLIGHT", &pods[0].address().to_string(), &pods[1].address().to_string()] {
        assert!(table.text.contains(wanted), "no {wanted} in:\n{}", table.text);
    }

    let json = Process::start(["weights", "--output", "json", "--address", &dashboard]).end();
    let view: serde_json::Value = serde_json::from_str(&json.text).expect("one JSON document");
    assert_eq!(view["backends"][0]["endpoints"].as_array().map(Vec::len), Some(2));

    let unknown = Process::start(["weights", "--backend", "nobody", "--address", &dashboard]).end();
    assert_eq!(unknown.status.code(), Some(1));
    assert!(unknown.text.contains("--backend nobody: not known; there is default/"), "{}", unknown.text);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lines_of_a_backends_file_come_and_go_within_a_second_and_no_request_fails() {
    let pods = pods(&[1.0, 1.0, 1.0]).await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("backends");
    let write = |pods: &[&Pod]| {
        let lines: String = pods.iter().map(|pod| format!("{}\n", pod.address())).collect();
        std::fs::write(&file, format!("# servers\n{lines}")).expect("the file is written");
    };
    write(&[&pods[0], &pods[1]]);
    let trimtab = up(["--backends", file.to_str().expect("UTF-8")]);
    let load = Load::start(trimtab.address("listening on"), 8);
    let busy = |pod: usize| {
        let pod = &pods[pod];
        move || async move { pod.in_flight() > 0 }
    };
    eventually("the first pod is used", Duration::from_secs(10), busy(0), |&busy| busy).await;

    write(&[&pods[1], &pods[2]]);
    let added = eventually("the new pod is used", Duration::from_secs(10), busy(2), |&busy| busy).await;
    assert!(added < Duration::from_secs(1), "adding a line took {added:?}");
    tokio::time::sleep(Duration::from_secs(1).saturating_sub(added)).await;
    for _ in 0..50 {
        assert_eq!(pods[0].in_flight(), 0, "the removed pod still gets requests a second later");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }

    // Half-written and vanished files change nothing.
    std::fs::write(&file, "").expect("written");
    tokio::time::sleep(Duration::from_millis(600)).await;
    std::fs::write(&file, "127.0.0.1:no").expect("written");
    trimtab.wait_for("\"no\" is not a port");
    std::fs::remove_file(&file).expect("removed");
    tokio::time::sleep(Duration::from_millis(600)).await;
    let (good, bad) = load.end().await;
    assert!(good > 100 && bad.is_empty(), "{good} good, {bad:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_lets_every_request_in_flight_finish() {
    let pods = pods_with(ServiceTime::Constant { ms_mean: 2_000.0 }, &[1.0, 1.0]).await;
    let trimtab = up(to(&pods));
    let address = trimtab.address("listening on");
    let client = Client::default();
    let requests: Vec<_> = (0..6)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.get(address, "/").await })
        })
        .collect();
    eventually(
        "all are in flight",
        Duration::from_secs(10),
        || async { pods[0].in_flight() + pods[1].in_flight() },
        |&n| n == 6,
    )
    .await;
    trimtab.signal("TERM");
    for request in requests {
        let answer = request.await.expect("no panic");
        assert_eq!(answer.as_ref().map(|answer| answer.status), Ok(200), "{answer:?}");
    }
    let ended = trimtab.end();
    assert!(ended.status.success(), "{}", ended.text);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hangup_ends_nothing() {
    let pods = pods(&[1.0]).await;
    let trimtab = up(to(&pods));
    let address = trimtab.address("listening on");
    trimtab.signal("HUP");
    for _ in 0..10 {
        assert_eq!(Client::default().get(address, "/").await.map(|answer| answer.status), Ok(200));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    trimtab.signal("TERM");
    assert!(trimtab.end().status.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recordings_are_parquet_files_that_pyarrow_reads() {
    let pods = pods(&[1.0, 2.0]).await;
    let folder = tempfile::tempdir().expect("a folder");
    let mut args = to(&pods);
    args.extend(["--recordings".to_owned(), folder.path().to_str().expect("UTF-8").to_owned()]);
    let trimtab = up(args);
    let load = Load::start(trimtab.address("listening on"), 4);
    tokio::time::sleep(Duration::from_secs(4)).await;
    let (good, bad) = load.end().await;
    assert!(good > 50 && bad.is_empty(), "{good} good, {bad:?}");
    trimtab.signal("TERM");
    let ended = trimtab.end();
    assert!(ended.status.success(), "{}", ended.text);

    let script = r#"
import sys, pyarrow.parquet, pathlib
folder = pathlib.Path(sys.argv[1])
def read(kind):
    files = sorted((folder / kind).rglob("*.parquet"))
    return [row for file in files for row in pyarrow.parquet.ParquetFile(file).read().to_pylist()]
ticks, requests = read("ticks"), read("requests")
assert len(ticks) >= 8 and len({row["endpoint"] for row in ticks}) == 2, len(ticks)
assert all(0 < row["weight_applied"] <= 1 for row in ticks), ticks[0]
assert requests and all(row["status"] == 200 and row["latency_ms"] > 0 for row in requests), requests[:1]
print(len(ticks), "tick rows,", len(requests), "requests")
"#;
    let tools = trimtab_tests::tools::Tools::find(&["python"]).await.expect("tests/tools.sh brings pyarrow");
    let python = tools.path("python").expect("it says where Python is");
    let output =
        std::process::Command::new(python).args(["-c", script]).arg(folder.path()).output().expect("Python runs");
    assert!(output.status.success(), "{}\n{}", String::from_utf8_lossy(&output.stderr), ended.text);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_of_gateway_api_objects_is_routed_by_its_rules() {
    let pods = pods(&[1.0, 1.0]).await;
    let folder = tempfile::tempdir().expect("a folder");
    let objects = include_str!("objects.yaml")
        .replace("PORT_A", &pods[0].address().port().to_string())
        .replace("PORT_B", &pods[1].address().port().to_string());
    std::fs::write(folder.path().join("objects.yaml"), objects).expect("written");
    let trimtab = Process::start([
        "up",
        "--no-recordings",
        "--dashboard",
        "127.0.0.1:0",
        "--admin",
        "127.0.0.1:0",
        "-f",
        folder.path().to_str().expect("UTF-8"),
    ]);
    let address = trimtab.address("listening on");
    let client = Client::default();
    let status = |path: &'static str| {
        let client = client.clone();
        async move { client.get(address, path).await.map(|answer| answer.status) }
    };
    assert_eq!(status("/a/x").await, Ok(200));
    assert_eq!(status("/b").await, Ok(200));
    assert_eq!(status("/c").await, Ok(404), "no rule matches");
    assert_eq!(status("/missing").await, Ok(500), "the rule's Service does not exist");
}

#[tokio::test]
async fn every_metric_is_in_the_docs() {
    let docs = include_str!("../../docs/metrics.md");
    let pods = pods(&[1.0]).await;
    let store = tempfile::tempdir().expect("a folder");
    let models = ["--models".to_owned(), store.path().to_str().expect("UTF-8").to_owned()];
    let trimtab = up(to(&pods).into_iter().chain(models));
    let addresses = [trimtab.address("dashboard"), trimtab.address("admin")];
    let client = Client::default();
    assert_eq!(client.get(trimtab.address("listening on"), "/").await.expect("an answer").status, 200);
    for address in addresses {
        let metrics = client.get(address, "/metrics").await.expect("metrics").text();
        let families: Vec<&str> = metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
        assert!(families.len() > 10, "{metrics}");
        for family in families {
            let (name, kind) = family.split_once(' ').expect("a name and a type");
            let total = if kind == "counter" { "_total" } else { "" };
            assert!(docs.contains(&format!("| `{name}{total}` | {kind} |")), "docs/metrics.md has no {name}, a {kind}");
        }
    }
}

#[test]
fn a_configuration_with_nothing_to_serve_yet_is_waited_for() {
    let folder = tempfile::tempdir().expect("a folder");
    // Nobody listens there.
    let port = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound").port();
    let write = |class: &str| {
        let yaml = format!(
            "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: g}}
spec: {{gatewayClassName: {class}, listeners: [{{name: h, port: {port}, protocol: HTTP}}]}}
"
        );
        std::fs::write(folder.path().join("g.yaml"), yaml).expect("written");
    };
    write("somebody-elses");
    let arguments =
        ["up", "-f", folder.path().to_str().expect("UTF-8"), "--dashboard", "127.0.0.1:0", "--no-recordings"];
    let trimtab = Process::start(arguments);
    trimtab.wait_for("nothing is served yet");
    write("trimtab");
    trimtab.wait_for("listening");
    trimtab.signal("TERM");
    let ended = trimtab.end();
    assert!(ended.status.success(), "{}", ended.text);
}
