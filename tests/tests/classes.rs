//! Classes of requests end to end: the real binary in front of servers on which one kind of request costs twenty times another.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::sync::Semaphore;
use trimtab_tests::http::{Client, eventually};
use trimtab_tests::process::Process;

const ITEM: Duration = Duration::from_millis(3);
const REPORT: Duration = Duration::from_millis(60);

/// A server with four workers: a report takes long, an item does not.
async fn server() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a socket");
    let address = listener.local_addr().expect("bound");
    let workers = Arc::new(Semaphore::new(4));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let workers = Arc::clone(&workers);
            let service = service_fn(move |request: Request<Incoming>| {
                let workers = Arc::clone(&workers);
                async move {
                    let _worker = workers.acquire().await;
                    let report = request.uri().path().starts_with("/report");
                    tokio::time::sleep(if report { REPORT } else { ITEM }).await;
                    Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"ok"))))
                }
            });
            let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            tokio::spawn(async move { drop(connection.await) });
        }
    });
    address
}

/// Asks for nine items and a report, each of another id, over and over; stops when dropped.
struct Load(Arc<AtomicBool>);

impl Load {
    fn start(address: SocketAddr, clients: u64) -> Self {
        let stop = Arc::<AtomicBool>::default();
        for client in 0..clients {
            let stop = Arc::clone(&stop);
            tokio::spawn(async move {
                let http = Client::default();
                for round in 0_u64.. {
                    let id = 1_000_000 * client + round;
                    let path =
                        if id % 10 == 9 { format!("/report/{id:012x}/pdf?x={id}") } else { format!("/item/{id}") };
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    // While a proxy starts, nobody listens yet.
                    if http.get(address, &path).await.is_err() {
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                }
            });
        }
        Self(stop)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Cost of the class of this name in a list of them; 0 if it is not there.
fn cost(classes: &Value, name: &str) -> f64 {
    let classes = classes.as_array().map(Vec::as_slice).unwrap_or_default();
    let found = classes.iter().find(|class| class["name"] == name);
    found.and_then(|class| class["cost_ms"].as_f64()).unwrap_or(0.0)
}

fn in_order(classes: &Value) -> bool {
    let (item, report) = (cost(classes, "GET /item/{}"), cost(classes, "GET /report/{}/pdf"));
    item > 0.0 && report > 5.0 * item
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn classes_appear_by_themselves_with_their_costs() {
    let (first, second) = (server().await, server().await);
    let args =
        ["up", "--listen", "127.0.0.1:0", "--dashboard", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--no-recordings"];
    let mut args: Vec<String> = args.map(String::from).into();
    args.extend([first, second].map(|address| format!("--to={address}")));
    let trimtab = Process::start(args);
    let (address, dashboard) = (trimtab.address("listening on"), trimtab.address("dashboard"));
    let _load = Load::start(address, 4);

    let client = Client::default();
    let view = || async { client.get(dashboard, "/api/v1/view").await.map(|answer| answer.json()).unwrap_or_default() };
    let known = |view: &Value| {
        let classes = &view["backends"][0]["classes"];
        // Both kinds, in the order of their costs, and what they cost at either server.
        in_order(classes) && classes.as_array().is_some_and(|all| all.iter().all(|class| class["factor_min"].is_f64()))
    };
    eventually("two classes with their costs", Duration::from_secs(30), view, known).await;
    let classes = view().await["backends"][0]["classes"].clone();
    assert_eq!(classes.as_array().map(Vec::len), Some(2), "{classes}");
    let report = cost(&classes, "GET /report/{}/pdf");
    // A machine that is busy with other things makes it take longer, never shorter.
    assert!(report > 50.0, "a report takes 60 ms: {classes}");

    let table = Process::start(["weights", "--address", &format!("http://{dashboard}")]).end();
    assert!(table.status.success(), "{}", table.text);
    let lines: Vec<&str> = table.text.lines().skip_while(|line| !line.starts_with(" CLASS")).collect();
    assert!(
        lines.len() >= 3 && lines[1].contains("GET /item/{}") && lines[2].contains("GET /report/{}/pdf"),
        "{}",
        table.text
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_that_has_lost_its_controller_finds_classes_by_itself() {
    let server = server().await;
    let free = || std::net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port");
    let (grpc, listen) = (free(), free());
    let controller = Process::start([
        "controller",
        "--dashboard=127.0.0.1:0",
        "--no-recordings",
        &format!("--grpc={grpc}"),
        &format!("--listen={listen}"),
        &format!("--to={server}"),
    ]);
    controller.wait_for("proxies connect to");
    let proxy = Process::start(["proxy", "--admin", "127.0.0.1:0", "--controller", &format!("http://{grpc}")]);
    let admin = proxy.address("admin");
    let client = Client::default();
    let ready = || async { client.get(admin, "/readyz").await.map(|answer| answer.status) };
    eventually("the proxy is ready", Duration::from_secs(10), ready, |status| *status == Ok(200)).await;
    controller.signal("KILL");
    controller.end();

    let _load = Load::start(listen, 4);
    let classes = || async {
        let config = client.get(admin, "/config").await.map(|answer| answer.json()).unwrap_or_default();
        config["backends"][0]["classes"].clone()
    };
    eventually("classes of its own", Duration::from_secs(40), classes, in_order).await;
}
