//! A worker that is busy with something else: handshakes of many clients that arrive at once. Endpoints are well meanwhile, and nobody is turned away.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use http::StatusCode;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{
    ClientConfig, RootCertStore,
    client::Resumption,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::{net::TcpStream, task::JoinSet};
use tokio_rustls::{TlsConnector, client::TlsStream};
use trimtab_proxy::api::v1;

use crate::{
    harness::{Backend, Proxy, Setup, client::Raw, text},
    http2::request,
};

/// Far above what the endpoint takes, and below what a worker is late with so many handshakes.
const OBJECTIVE_MS: f32 = 150.0;
/// Requests at a time while all is quiet, and clients that come at once.
const STEADY: usize = 48;
const BURST: usize = 160;
/// How often it may go wrong for reasons of the machine's.
const TRIES: usize = 5;

/// A certificate whose signature takes a server milliseconds.
fn costly_certificate() -> v1::Certificate {
    let key = rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_4096).unwrap();
    let made = rcgen::CertificateParams::new(vec!["a.test".to_owned()]).unwrap().self_signed(&key).unwrap();
    v1::Certificate {
        name: "test/cert".into(),
        chain_pem: made.pem().into_bytes(),
        key_pem: key.serialize_pem().into_bytes(),
    }
}

/// Each connection of it is a handshake from scratch.
fn client(certificate: &v1::Certificate, protocol: &[u8]) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&certificate.chain_pem).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.resumption = Resumption::disabled();
    config.alpn_protocols = vec![protocol.to_vec()];
    TlsConnector::from(Arc::new(config))
}

async fn connect(tls: &TlsConnector, address: SocketAddr) -> TlsStream<TcpStream> {
    let socket = TcpStream::connect(address).await.unwrap();
    socket.set_nodelay(true).unwrap();
    tls.connect(ServerName::try_from("a.test").unwrap(), socket).await.unwrap()
}

/// Clients, and what became of their requests.
#[derive(Clone)]
struct Clients {
    tls: TlsConnector,
    address: SocketAddr,
    http2: bool,
    answered: Arc<AtomicUsize>,
    turned_away: Arc<AtomicUsize>,
    over: Arc<AtomicBool>,
}

impl Clients {
    /// One on a connection of its own: requests one after the other, at most so many.
    async fn run(self, requests: usize) {
        let stream = connect(&self.tls, self.address).await;
        let count = |status: u16| {
            let counter = if status == 200 { &self.answered } else { &self.turned_away };
            counter.fetch_add(1, SeqCst);
        };
        let goes_on = |done: usize| done < requests && !self.over.load(SeqCst);
        let mut done = 0;
        if self.http2 {
            let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
            tokio::spawn(connection);
            while goes_on(done) {
                let answer = sender.send_request(request("/", "")).await.unwrap();
                assert!([StatusCode::OK, StatusCode::SERVICE_UNAVAILABLE].contains(&answer.status()));
                count(answer.status().as_u16());
                done += 1;
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            return;
        }
        let mut raw = Raw::over(stream);
        while goes_on(done) {
            raw.write("GET / HTTP/1.1\r\nhost: a.test\r\n\r\n").await;
            count(raw.answer().await.status);
            done += 1;
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

async fn late_ms(proxy: &Proxy) -> f64 {
    let mut raw = Raw::connect(proxy.admin_address()).await;
    raw.write("GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await;
    let metrics = raw.answer().await.body;
    let name = "trimtab_proxy_worker_late_seconds_total ";
    let value = metrics.lines().find_map(|line| line.strip_prefix(name)).expect("the metric is there");
    value.parse::<f64>().unwrap() * 1e3
}

/// How it went.
#[derive(Debug)]
struct Try {
    /// Nobody was turned away.
    well: bool,
    /// The worker was late by more than the objective, and so more than that says something.
    telling: bool,
    #[expect(dead_code, reason = "shown where a test fails")]
    what: String,
}

async fn go(certificate: &v1::Certificate, http2: bool, fast_path: bool) -> Try {
    let backend = Backend::new(|_| async {
        tokio::time::sleep(Duration::from_millis(5)).await;
        text("well")
    })
    .await;
    let mut setup = Setup::to(&[backend.address]).with_admin().fast_path(fast_path).backend(|b| {
        b.objective_ms = Some(OBJECTIVE_MS);
        b.admission_control = Some(v1::AdmissionControl { enabled: true, ..Default::default() });
    });
    setup.listener.tls = Some(v1::Tls { certificates: vec![certificate.clone()], ..Default::default() });
    setup.workers = 1;
    let proxy = setup.start().await;
    let tls = client(certificate, if http2 { b"h2" } else { b"http/1.1" });
    let (answered, turned_away, over) = Default::default();
    let clients = Clients { tls, address: proxy.address(), http2, answered, turned_away, over };
    let mut tasks = JoinSet::new();
    let mut late = Vec::new();
    (0..STEADY).for_each(|_| drop(tasks.spawn(clients.clone().run(usize::MAX))));
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(1_000)).await;
        let before = late_ms(&proxy).await;
        let mut burst = JoinSet::new();
        (0..BURST).for_each(|_| drop(burst.spawn(clients.clone().run(3))));
        while let Some(ended) = burst.join_next().await {
            ended.unwrap();
        }
        late.push(late_ms(&proxy).await - before);
    }
    clients.over.store(true, SeqCst);
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
    let (answered, turned_away) = (clients.answered.load(SeqCst), clients.turned_away.load(SeqCst));
    let what =
        format!("http2 {http2}, fast path {fast_path}: {answered} answered, {turned_away} not, late by {late:.0?} ms");
    assert!(answered > 3 * 3 * BURST, "{what}");
    Try { well: turned_away == 0, telling: late.iter().sum::<f64>() > f64::from(OBJECTIVE_MS), what }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn handshakes_of_many_clients_are_no_queue_of_the_endpoint() {
    let certificate = costly_certificate();
    for (http2, fast_path) in [(false, true), (false, false), (true, true)] {
        // The endpoint is on the same machine, and may be late itself where that is busy with other things: then it is right to turn requests away. And
        // clients that are late themselves come one after the other, so that the worker is not.
        let mut tries: Vec<Try> = Vec::new();
        while tries.len() < TRIES && !tries.last().is_some_and(|last| last.well && last.telling) {
            tries.push(go(&certificate, http2, fast_path).await);
        }
        let shown = tries.iter().any(|one| one.well && one.telling);
        assert!(shown, "turned away, or not late, each time: {tries:#?}");
    }
}
