//! Hot restart: listening sockets go to a successor, and no client notices.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use tokio::net::TcpStream;
use trimtab_proxy::PeerListen;

use crate::harness::{Backend, FakeController, Proxy, Raw, Setup, eventually, text};

/// What clients met.
#[derive(Default)]
struct Met {
    stop: AtomicBool,
    answered: AtomicUsize,
    /// Connections that did not come about.
    refused: AtomicUsize,
    /// Requests that were sent and not answered with 200.
    lost: AtomicUsize,
}

/// Sends requests one after the other, on one connection as long as the proxy leaves it open, or each on its own.
async fn client(address: SocketAddr, keep_alive: bool, met: Arc<Met>) {
    while !met.stop.load(SeqCst) {
        let Ok(stream) = TcpStream::connect(address).await else {
            met.refused.fetch_add(1, SeqCst);
            continue;
        };
        stream.set_nodelay(true).unwrap();
        let mut raw = Raw::over(stream);
        loop {
            let sent = raw.try_write("GET / HTTP/1.1\r\nhost: t\r\n\r\n").await.is_ok();
            let answer = if sent { raw.try_answer().await } else { None };
            let Some(answer) = answer.filter(|answer| answer.status == 200) else {
                met.lost.fetch_add(1, SeqCst);
                break;
            };
            met.answered.fetch_add(1, SeqCst);
            if answer.header("connection") == Some("close") || !keep_alive || met.stop.load(SeqCst) {
                break;
            }
        }
    }
}

struct Site {
    backend: Backend,
    address: SocketAddr,
    admin: SocketAddr,
    peers: SocketAddr,
    folder: PathBuf,
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// An address that is free for now.
fn free() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

impl Site {
    async fn new(name: &str) -> Self {
        let backend = Backend::new(|_| async {
            tokio::time::sleep(Duration::from_millis(3)).await;
            text("x")
        })
        .await;
        let folder = std::env::temp_dir().join(format!("trimtab-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        Self { backend, address: free(), admin: free(), peers: free(), folder }
    }

    /// A proxy with that number of workers; it takes over from the one before, if there is one.
    fn start(&self, workers: usize) -> Proxy {
        let controller = FakeController::default();
        let mut setup = Setup::to(&[self.backend.address]);
        setup.listener.port = u32::from(self.address.port());
        controller.set_backend(&setup.backends[0]);
        controller.set_listener(&setup.listener);
        controller.set_route(&setup.route);
        self.start_with(controller, workers)
    }

    fn start_with(&self, controller: FakeController, workers: usize) -> Proxy {
        Proxy::start_with(controller, |options| {
            options.workers = workers;
            options.drain_timeout = Duration::from_secs(20);
            options.admin = Some(self.admin);
            options.peers = Some(PeerListen { address: self.peers, advertise: None });
            options.handover = Some(self.folder.join("socket"));
        })
    }
}

async fn get(address: SocketAddr, path: &str) -> u16 {
    let mut raw = Raw::connect(address).await;
    raw.write(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")).await;
    raw.answer().await.status
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_upgrades_under_load_lose_no_request_and_refuse_no_connection() {
    let site = Site::new("upgrade").await;
    let mut proxy = site.start(2);
    proxy.ready().await;
    eventually("it has its route", || async { get(site.address, "/").await == 200 }).await;
    let met = Arc::<Met>::default();
    let clients: Vec<_> = (0..16).map(|n| tokio::spawn(client(site.address, n % 2 == 0, met.clone()))).collect();
    // One worker less, then more.
    for workers in [1, 3] {
        let before = met.answered.load(SeqCst);
        eventually("there is load", || async { met.answered.load(SeqCst) > before + 200 }).await;
        let mut next = site.start(workers);
        next.ready().await;
        let previous = std::mem::replace(&mut proxy, next);
        tokio::time::timeout(Duration::from_secs(30), previous.ended()).await.expect("it drains").unwrap();
    }
    let before = met.answered.load(SeqCst);
    eventually("there is load", || async { met.answered.load(SeqCst) > before + 200 }).await;
    met.stop.store(true, SeqCst);
    for client in clients {
        client.await.unwrap();
    }
    let (lost, refused) = (met.lost.load(SeqCst), met.refused.load(SeqCst));
    assert_eq!((lost, refused), (0, 0), "of {} requests", met.answered.load(SeqCst));
    assert_eq!(get(site.admin, "/readyz").await, 200, "the admin endpoint went along");
    proxy.stop().await.unwrap();
}

#[tokio::test]
async fn a_successor_takes_nothing_before_it_has_a_configuration() {
    let site = Site::new("unconfigured").await;
    let mut proxy = site.start(1);
    proxy.ready().await;
    eventually("it has its route", || async { get(site.address, "/").await == 200 }).await;
    let unconfigured = site.start_with(FakeController::default(), 1);
    eventually("it is up", || async { unconfigured.status.borrow().connected }).await;
    // A listener alone is no configuration either.
    let setup = Setup::to(&[site.backend.address]);
    let listener = trimtab_proxy::api::v1::Listener { port: u32::from(site.address.port()), ..setup.listener };
    unconfigured.controller.set_listener(&listener);
    for _ in 0..40 {
        assert_eq!(get(site.address, "/").await, 200);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(!unconfigured.status.borrow().ready && !proxy.status.borrow().draining);
    // It gives up: nothing has happened.
    drop(unconfigured);
    let mut next = site.start(1);
    next.ready().await;
    proxy.ended().await.unwrap();
    assert_eq!(get(site.address, "/").await, 200);
}

#[tokio::test]
async fn a_path_that_is_no_socket_is_refused_by_name() {
    let site = Site::new("no-socket").await;
    std::fs::write(site.folder.join("socket"), "mine").unwrap();
    let error = site.start(1).ended().await.unwrap_err().to_string();
    assert!(error.starts_with("handover: ") && error.contains("is no socket"), "{error}");
    assert_eq!(std::fs::read_to_string(site.folder.join("socket")).unwrap(), "mine");
}
