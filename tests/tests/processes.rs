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
