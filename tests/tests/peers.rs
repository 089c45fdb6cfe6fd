//! Proxies that tell each other what they have in flight, as separate processes: they hear of each other, forget who is gone, and believe
//! nobody else.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use trimtab::demo::pod::{Pod, PodSpec};
use trimtab::demo::service_time::ServiceTime;
use trimtab_tests::http::{Client, eventually};
use trimtab_tests::process::Process;

const PATIENCE: Duration = Duration::from_secs(15);

/// A pod that takes its time: there is always something in flight.
async fn pod(index: u64) -> Pod {
    let service = ServiceTime::Exponential { ms_mean: 100.0 };
    let spec = PodSpec { name: format!("pod-{index}"), workers: 64, service, seed: index, ..PodSpec::default() };
    Pod::start(spec).await.expect("a pod starts")
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a socket").port()
}

struct Proxy {
    process: Process,
    admin: SocketAddr,
}

impl Proxy {
    fn start(grpc: u16, id: &str) -> Self {
        let controller = format!("http://127.0.0.1:{grpc}");
        let process = Process::start(["proxy", "--admin", "127.0.0.1:0", "--id", id, "--controller", &controller]);
        Self { admin: process.address("admin"), process }
    }

    async fn config(&self, client: &Client) -> serde_json::Value {
        client.get(self.admin, "/config").await.expect("the admin endpoint answers").json()
    }

    async fn metric(&self, client: &Client, name: &str) -> f64 {
        let text = client.get(self.admin, "/metrics").await.expect("the admin endpoint answers").text();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in\n{text}")).parse().expect("a number")
    }
}

/// How many peers a `/config` shows that were heard within this many milliseconds.
fn fresh(config: &serde_json::Value, age_ms: f64) -> usize {
    let peers = config["peers"]["peers"].as_array().expect("it takes part");
    peers.iter().filter(|peer| peer["age_ms"].as_f64().is_some_and(|age| age < age_ms)).count()
}

/// In flight at all endpoints: own, and what is known of the others'.
fn in_flight(config: &serde_json::Value) -> (u64, Option<u64>) {
    let endpoints = config["backends"][0]["endpoints"].as_array().expect("a backend");
    let own = endpoints.iter().filter_map(|endpoint| endpoint["in_flight"].as_u64()).sum();
    (own, endpoints.iter().map(|endpoint| endpoint["in_flight_peers"].as_u64()).sum())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proxies_know_what_the_others_have_in_flight_forget_the_dead_and_believe_nobody_else() {
    let (first, second) = (pod(1).await, pod(2).await);
    let (grpc, listen) = (free_port(), free_port());
    let mut args: Vec<String> =
        ["controller", "--dashboard", "127.0.0.1:0", "--no-recordings"].map(String::from).into();
    args.extend([format!("--grpc=127.0.0.1:{grpc}"), format!("--listen=127.0.0.1:{listen}")]);
    args.extend([&first, &second].map(|pod| format!("--to={}", pod.address())));
    let controller = Process::start(args);
    controller.wait_for("proxies connect to");
    let proxies: Vec<Proxy> = ["a", "b", "c"].map(|id| Proxy::start(grpc, id)).into();
    let client = Client::default();
    for proxy in &proxies {
        eventually("both others are heard", PATIENCE, || proxy.config(&client), |config| fresh(config, 100.0) == 2)
            .await;
    }

    // Twelve clients, each with connections of its own: the kernel spreads them over the three proxies.
    let address: SocketAddr = ([127, 0, 0, 1], listen).into();
    let (stop, answered, refused) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)), Arc::default());
    let clients: Vec<_> = (0..12)
        .map(|_| {
            let (stop, answered, refused) = (stop.clone(), answered.clone(), Arc::<AtomicUsize>::clone(&refused));
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    // A connection of its own each time: one that the killed proxy held is lost, the next is not.
                    let answer = Client::default().get(address, "/").await;
                    let good = answer.is_ok_and(|answer| answer.status == 200);
                    if good { &answered } else { &refused }.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    eventually(
        "each knows of requests of the others",
        PATIENCE,
        || proxies[0].config(&client),
        |config| in_flight(config).1.is_some_and(|others| others > 0),
    )
    .await;
    // Own and others' requests are all there are, but for what moves within milliseconds.
    let mut sums = 0;
    for _ in 0..50 {
        let (own, others) = in_flight(&proxies[1].config(&client).await);
        sums += own + others.expect("they are heard");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!((400..=720).contains(&sums), "{} in flight on average, of 12", f64::from(sums as u32) / 50.0);

    // Killed without a word: silent within 100 ms, and off the list as soon as the controller has noticed.
    let killed = &proxies[2];
    killed.process.signal("KILL");
    let took = eventually(
        "the dead is forgotten",
        PATIENCE,
        || proxies[0].config(&client),
        |config| config["peers"]["peers"].as_array().is_some_and(|peers| peers.len() == 1) && fresh(config, 100.0) == 1,
    )
    .await;
    assert!(took < Duration::from_secs(1), "only after {took:?}");

    // Whoever does not know the key is not heard.
    let rejected = "trimtab_proxy_peer_datagrams_rejected_total{reason=\"forged\"}";
    assert_eq!(proxies[0].metric(&client, rejected).await, 0.0);
    let target: SocketAddr = proxies[0].config(&client).await["peers"]["listen"]
        .as_str()
        .and_then(|at| at.parse().ok())
        .expect("an address");
    let forger = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let mut forged = b"TTP\x01".to_vec();
    forged.resize(120, 7);
    for _ in 0..10 {
        forger.send_to(&forged, target).expect("sent");
        forger.send_to(b"hello", target).expect("sent");
    }
    eventually("forged ones are counted", PATIENCE, || proxies[0].metric(&client, rejected), |n| *n == 10.0).await;
    let malformed = "trimtab_proxy_peer_datagrams_rejected_total{reason=\"malformed\"}";
    assert_eq!(proxies[0].metric(&client, malformed).await, 10.0);
    assert_eq!(fresh(&proxies[0].config(&client).await, 100.0), 1, "the living one is still heard");

    // What the killed proxy had in flight is lost, nothing else.
    let before = answered.load(Ordering::Relaxed);
    eventually("routing goes on", PATIENCE, async || answered.load(Ordering::Relaxed), |now| *now > before + 50).await;
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.expect("a client");
    }
    let refused = Arc::<AtomicUsize>::clone(&refused).load(Ordering::Relaxed);
    assert!(refused <= 12, "{refused} requests were lost");
}

#[test]
fn an_address_that_others_cannot_send_to_is_refused_by_its_flag() {
    let check = |args: &[&str], expected: &str| {
        let ended = Process::start(["proxy", "--admin", "127.0.0.1:0"].iter().chain(args)).end();
        assert!(!ended.status.success() && ended.text.contains(expected), "{}", ended.text);
    };
    check(&["--peer-listen", "0.0.0.0:0"], "peer advertise: must be set to the IP address at which other proxies");
    check(&["--peer-listen", "localhost"], "neither an address such as 10.0.0.7:18001 nor `off`");
    check(&["--peer-listen", "203.0.113.1:0"], "peer listen: cannot listen on 203.0.113.1:0");
}
