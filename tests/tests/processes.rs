//! Controller and proxies as separate processes: what happens when the controller goes away and comes back.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use trimtab::demo::pod::{Pod, PodSpec};
use trimtab::demo::service_time::ServiceTime;
use trimtab_tests::http::{Client, eventually};
use trimtab_tests::process::Process;

async fn pod(index: u64) -> Pod {
    let service = ServiceTime::Exponential { ms_mean: 10.0 };
    Pod::start(PodSpec { name: format!("pod-{index}"), service, seed: index, ..PodSpec::default() })
        .await
        .expect("a pod starts")
}

fn free_port() -> u16 {
    let socket = TcpListener::bind("127.0.0.1:0").expect("a socket");
    socket.local_addr().expect("bound").port()
}

fn controller(grpc: u16, listen: u16, pods: &[&Pod]) -> Process {
    let mut args: Vec<String> =
        ["controller", "--dashboard", "127.0.0.1:0", "--no-recordings"].map(String::from).into();
    args.extend([format!("--grpc=127.0.0.1:{grpc}"), format!("--listen=127.0.0.1:{listen}")]);
    args.extend(pods.iter().map(|pod| format!("--to={}", pod.address())));
    Process::start(args)
}

fn proxy(grpc: u16) -> Process {
    Process::start(["proxy", "--admin", "127.0.0.1:0", "--controller", &format!("http://127.0.0.1:{grpc}")])
}

async fn answers(client: &Client, address: SocketAddr, count: usize) {
    for _ in 0..count {
        let answer = client.get(address, "/").await;
        assert_eq!(answer.as_ref().map(|answer| answer.status), Ok(200), "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_routes_without_its_controller_and_follows_it_again_when_it_is_back() {
    let (first, second) = (pod(1).await, pod(2).await);
    let grpc = free_port();
    let listen = free_port();
    let address: SocketAddr = ([127, 0, 0, 1], listen).into();
    let old = controller(grpc, listen, &[&first]);
    old.wait_for("proxies connect to");
    let proxy = proxy(grpc);
    let admin = proxy.address("admin");
    let client = Client::default();
    let ready = || async { client.get(admin, "/readyz").await.map(|answer| answer.status) };
    eventually("the proxy is ready", Duration::from_secs(10), ready, |status| *status == Ok(200)).await;
    answers(&client, address, 20).await;

    old.signal("KILL");
    old.end();
    answers(&client, address, 50).await;
    assert_eq!(second.in_flight(), 0);

    // The new controller knows another pod: the proxy has resumed once requests arrive there.
    let new = controller(grpc, listen, &[&second]);
    let dashboard = new.address("dashboard");
    let view = || async { client.get(dashboard, "/api/v1/view").await.map(|answer| answer.json()) };
    eventually("the proxy is connected and in sync again", Duration::from_secs(20), view, |view| {
        view.as_ref().is_ok_and(|view| view["proxies"][0]["in_sync"] == true)
    })
    .await;
    first.crash().await;
    answers(&client, address, 20).await;
}

/// A Gateway on this port, before pods to which clients are to come back.
fn objects_with_sessions(listen: u16, pods: &[Pod]) -> String {
    let mut objects = format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: g}}
spec:
  gatewayClassName: trimtab
  addresses: [{{value: 127.0.0.1}}]
  listeners: [{{name: http, port: {listen}, protocol: HTTP}}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: r}}
spec:
  parentRefs: [{{name: g}}]
  rules: [{{backendRefs: [{{name: s, port: 80}}]}}]
---
apiVersion: trimtab.dev/v1alpha1
kind: BackendTrafficPolicy
metadata: {{name: p}}
spec:
  targetRefs: [{{name: s}}]
  sessionPersistence: {{sessionName: sid}}
---
apiVersion: v1
kind: Service
metadata: {{name: s}}
spec: {{ports: [{{port: 80}}]}}
"
    );
    for (index, pod) in pods.iter().enumerate() {
        objects.push_str(&format!(
            "---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: s-{index}, labels: {{kubernetes.io/service-name: s}}}}
addressType: IPv4
ports: [{{port: {}}}]
endpoints: [{{addresses: [127.0.0.1]}}]
",
            pod.address().port()
        ));
    }
    objects
}

/// Asks with this token. Returns the number of the pod that answered, and the token that was given, if one was.
async fn in_session(address: SocketAddr, token: &str) -> (usize, Option<String>) {
    let request = http::Request::get(format!("http://{address}/")).header("cookie", format!("sid={token}"));
    let answer = Client::default().send(request.body(Default::default()).expect("a request")).await.expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.text());
    let cookie = answer.headers.get("set-cookie").map(|cookie| cookie.to_str().expect("text"));
    let token = cookie.map(|cookie| cookie["sid=".len()..].split(';').next().expect("a value").to_owned());
    (answer.body.len(), token)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_outlasts_its_controller_and_its_key_where_keys_are_in_a_file() {
    let mut pods = Vec::new();
    for index in 1..=3 {
        // Told apart by the length of their answers.
        let spec =
            PodSpec { name: format!("pod-{index}"), seed: index, body_bytes: index as usize, ..PodSpec::default() };
        pods.push(Pod::start(spec).await.expect("a pod starts"));
    }
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    let (grpc, listen) = (free_port(), free_port());
    std::fs::write(path("objects.yaml"), objects_with_sessions(listen, &pods)).expect("written");
    let (old, new) = ("01".repeat(32), "d6nnpT3SpTqN5Tr5fOo8S4mq4rYyLhyS8oQ0b0uVtGg=");
    let keys = |keys: &str| {
        std::fs::write(path("keys.new"), keys).expect("written");
        std::fs::rename(path("keys.new"), path("keys")).expect("renamed");
    };
    keys(&old);
    let controller = |more: &[String]| {
        let mut args = ["controller", "--dashboard=127.0.0.1:0", "--no-recordings"].map(String::from).to_vec();
        args.extend([format!("--grpc=127.0.0.1:{grpc}"), format!("--config={}", path("objects.yaml").display())]);
        args.extend_from_slice(more);
        Process::start(args)
    };
    let with_keys = [format!("--session-key-file={}", path("keys").display())];
    let first = controller(&with_keys);
    first.wait_for("proxies connect to");
    let proxies = [proxy(grpc), proxy(grpc)];
    let client = Client::default();
    let in_sync = async |controller: &Process| {
        let dashboard = controller.address("dashboard");
        let view = || async { client.get(dashboard, "/api/v1/view").await.map(|answer| answer.json()) };
        eventually("both proxies are in sync", Duration::from_secs(20), view, |view| {
            let proxies = view.as_ref().ok().and_then(|view| view["proxies"].as_array().cloned()).unwrap_or_default();
            proxies.len() == 2 && proxies.iter().all(|proxy| proxy["in_sync"] == true)
        })
        .await;
    };
    in_sync(&first).await;
    let address: SocketAddr = ([127, 0, 0, 1], listen).into();
    let ready = || async { client.get(address, "/").await.map(|answer| answer.status) };
    eventually("requests are answered", Duration::from_secs(10), ready, |status| *status == Ok(200)).await;
    let (pod, token) = in_session(address, "").await;
    let token = token.expect("a session begins");
    // Each time by a connection of its own: both proxies are asked.
    let holds = async |token: &str| {
        for _ in 0..16 {
            assert_eq!(in_session(address, token).await, (pod, None));
        }
    };
    holds(&token).await;
    // Nothing that the controller or a proxy shows has the key in it, nor one that was derived.
    for (process, path) in [(&first, "/api/v1/view"), (&proxies[0], "/config")] {
        let at = process.address(if path == "/config" { "admin" } else { "dashboard" });
        let shown = client.get(at, path).await.expect("an answer").text();
        assert!(!shown.contains(&old[..16]) && !shown.contains("\"keys\""), "{shown}");
    }

    first.signal("KILL");
    first.end();
    holds(&token).await;
    let second = controller(&with_keys);
    in_sync(&second).await;
    holds(&token).await;

    keys(&format!("{new}\n{old}\n"));
    second.wait_for("the keys of sessions were replaced");
    // By connections of their own: both proxies have heard of it once every answer brings a new token.
    let signed_anew = || async {
        let mut told = 0;
        for _ in 0..16 {
            told += usize::from(in_session(address, &token).await.1.is_some());
        }
        told
    };
    eventually("both proxies sign with the new key", Duration::from_secs(10), signed_anew, |told| *told == 16).await;
    let (same, renewed) = in_session(address, &token).await;
    let renewed = renewed.expect("another token");
    assert_eq!(same, pod);
    holds(&renewed).await;

    // A controller without the file has a key of its own.
    second.signal("KILL");
    second.end();
    let third = controller(&[]);
    in_sync(&third).await;
    let (_, told) = in_session(address, &renewed).await;
    assert!(told.is_some_and(|told| told != renewed), "a new session begins");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_seen_by_one_proxy_lower_the_share_at_the_other() {
    use trimtab::demo::faults::Faults;
    let (good, gray) = (pod(1).await, pod(2).await);
    let grpc = free_port();
    let listen = free_port();
    let controller = controller(grpc, listen, &[&good, &gray]);
    controller.wait_for("proxies connect to");
    // Both proxies share the address; the kernel spreads connections over them.
    let proxies = [proxy(grpc), proxy(grpc)];
    let client = Client::default();
    for proxy in &proxies {
        let admin = proxy.address("admin");
        let ready = || async { client.get(admin, "/readyz").await.map(|answer| answer.status) };
        eventually("the proxy is ready", Duration::from_secs(10), ready, |status| *status == Ok(200)).await;
    }
    gray.set_faults(Faults::gray(1.0));
    let address: SocketAddr = ([127, 0, 0, 1], listen).into();
    let mut errors = 0;
    for _ in 0..400 {
        // A connection of its own each time: both proxies are used.
        let answer = Client::default().get(address, "/").await.expect("an answer");
        errors += usize::from(answer.status == 500);
    }
    // Round robin would show 200. Two proxies that learn alone need about five errors each before they eject.
    assert!(errors <= 12, "{errors} of 400 requests failed");
}
