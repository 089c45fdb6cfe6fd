//! What the exchange of in-flight counts between proxies costs, and how old the counts are when the rule gets them.
//!
//! `cargo run --release --workspace --example peers_cost -- [PROXIES [ENDPOINTS [REQUESTS_PER_S [SECONDS]]]]` runs the exchange of so many
//! proxies in this process, over real sockets on loopback, while their counts change as with so many requests a second at each. Linux only:
//! processor time is that of the threads.
#![expect(clippy::print_stdout, reason = "printing is what it is for")]

use std::{error::Error, fs, num::NonZeroU16, sync::Arc, thread, time::Duration};

use arc_swap::ArcSwap;
use rand::{Rng, SeedableRng, rngs::SmallRng};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use trimtab_proxy::{
    backend::Backend,
    clock,
    config::{
        AdmissionControl, Algorithm, BackendConfig, BackendTimeouts, CircuitBreaker, EndpointConfig, EndpointKey,
        EndpointState, MacKey, OutlierDetection, Peer, PeerTable, RequestClasses, RuleTerms,
    },
    load::{Attempt, Outcome, RequestClass},
    peers::{
        exchange::{Exchange, PeerListen},
        stats::PeerStats,
    },
    table::{BackendEntry, Table},
    time::Timestamp,
};

/// Mean number of requests in flight at an endpoint, from all proxies together.
const IN_FLIGHT: usize = 2;

struct Proxy {
    backend: Arc<Backend>,
    stats: Arc<PeerStats>,
    in_flight: Vec<(usize, Attempt)>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<u64> = std::env::args().skip(1).map(|text| text.parse()).collect::<Result<_, _>>()?;
    let argument = |index: usize, default| arguments.get(index).copied().unwrap_or(default);
    let (proxies, endpoints) = (argument(0, 16).max(2), argument(1, 32).max(1));
    let (requests_per_s, seconds) = (argument(2, 1_000).max(1), argument(3, 10).max(1));
    let stop = CancellationToken::new();
    let (sender, tables) = watch::channel(None);
    let (mut running, mut peers, mut threads) = (Vec::new(), Vec::new(), Vec::new());
    for key in 1..=proxies {
        let backend = backend(endpoints);
        let entry = Arc::new(BackendEntry::new(backend.clone(), None));
        let table = Table { version: 1, backends: vec![entry], ..Table::default() };
        let bound = PeerListen { address: ([127, 0, 0, 1], 0).into(), advertise: None }.bind()?;
        peers.push(Peer { key, address: bound.advertised, epoch: key });
        let exchange = Exchange::new(bound, (key, key), Arc::new(ArcSwap::from_pointee(table)), tables.clone());
        running.push(Proxy { backend, stats: exchange.stats(), in_flight: Vec::new() });
        let stop = stop.clone();
        threads.push(thread::Builder::new().name(format!("peers-{key}")).spawn(move || exchange.run(&stop))?);
    }
    sender.send_replace(Some(Arc::new(PeerTable { peers, proxies: proxies as u32, mac_key: MacKey([7; 32]) })));
    let mut rng = SmallRng::seed_from_u64(1);
    let mut delays = Vec::new();
    drive(&mut running, requests_per_s, 1, &mut rng, &mut delays);
    delays.clear();
    let before = (cpu_s()?, datagrams(&running));
    drive(&mut running, requests_per_s, seconds, &mut rng, &mut delays);
    let after = (cpu_s()?, datagrams(&running));
    stop.cancel();
    for thread in threads {
        thread.join().map_err(|_| "an exchange panicked")?;
    }
    let each = |total: f64| total / (proxies * seconds) as f64;
    println!("{proxies} proxies, {endpoints} endpoints, {requests_per_s} requests/s at each proxy");
    println!("processor time  {:.2} % of a core a proxy", each(after.0 - before.0) * 100.0);
    println!(
        "datagrams       {:.0} sent, {:.0} received a second and proxy",
        each(after.1.0 - before.1.0),
        each(after.1.1 - before.1.1)
    );
    delays.sort_by(f64::total_cmp);
    let quantile = |q: f64| delays.get((delays.len() as f64 * q) as usize).copied().unwrap_or(f64::NAN);
    println!("until heard     p50 {:.1} ms, p99 {:.1} ms of {}", quantile(0.5), quantile(0.99), delays.len());
    Ok(())
}

/// Lets requests come and go for so long, and measures now and then how long it takes until the last proxy knows of a request of the first.
fn drive(proxies: &mut [Proxy], requests_per_s: u64, seconds: u64, rng: &mut SmallRng, delays: &mut Vec<f64>) {
    let start = clock::now();
    let end = start + Duration::from_secs(seconds);
    let mut sent = 0;
    let mut probe: Option<(Timestamp, f32)> = None;
    loop {
        let now = clock::now();
        if now >= end {
            return;
        }
        let due = (now.since(start).as_secs_f64() * requests_per_s as f64) as u64;
        for _ in sent..due {
            for proxy in proxies.iter_mut() {
                proxy.request(now, rng);
            }
        }
        sent = due;
        probe = watch_first(proxies, probe, now, delays);
        thread::sleep(Duration::from_micros(200));
    }
}

/// Endpoint 0 is left to the probe: the first proxy alone sends to it.
fn watch_first(
    proxies: &[Proxy],
    probe: Option<(Timestamp, f32)>,
    now: Timestamp,
    delays: &mut Vec<f64>,
) -> Option<(Timestamp, f32)> {
    let (first, last) = (proxies.first()?, proxies.last()?);
    let known = last.backend.explain(0, RequestClass::default(), now)?.in_flight;
    match probe {
        Some((since, before)) if known > before => {
            delays.push(now.since(since).as_secs_f64() * 1e3);
            None
        }
        Some(waiting) => Some(waiting),
        None => {
            // It stays in flight for ever.
            let _attempt = first.backend.begin(0, now, RequestClass::default());
            Some((now, known))
        }
    }
}

impl Proxy {
    /// A request begins, and the one that has been there longest ends.
    fn request(&mut self, now: Timestamp, rng: &mut SmallRng) {
        let endpoints = self.backend.endpoints().len();
        let endpoint = rng.random_range(1..endpoints.max(2)).min(endpoints - 1);
        self.in_flight.push((endpoint, self.backend.begin(endpoint, now, RequestClass(rng.random_range(0..8)))));
        if self.in_flight.len() > (endpoints * IN_FLIGHT).div_ceil(16) {
            let (endpoint, attempt) = self.in_flight.remove(0);
            self.backend.finish(endpoint, attempt, now, Outcome::Success, Duration::from_millis(1), None);
        }
    }
}

fn datagrams(proxies: &[Proxy]) -> (f64, f64) {
    let sum = |count: fn(&PeerStats) -> u64| proxies.iter().map(|proxy| count(&proxy.stats)).sum::<u64>() as f64;
    (sum(|stats| stats.sent.get()), sum(|stats| stats.received.get()))
}

/// Processor time of all exchanges so far, in seconds (proc(5), schedstat).
fn cpu_s() -> Result<f64, Box<dyn Error>> {
    let mut total = 0.0;
    for task in fs::read_dir("/proc/self/task")? {
        let task = task?.path();
        if fs::read_to_string(task.join("comm"))?.starts_with("peers-") {
            let stat = fs::read_to_string(task.join("schedstat"))?;
            total += stat.split(' ').next().unwrap_or_default().parse::<f64>()? * 1e-9;
        }
    }
    Ok(total)
}

fn backend(endpoints: u64) -> Arc<Backend> {
    let endpoint = |key| EndpointConfig {
        key: EndpointKey(key),
        host: "127.0.0.1".to_owned(),
        port: NonZeroU16::MIN,
        name: String::new(),
        zone: String::new(),
        state: EndpointState::Ready,
    };
    let config = BackendConfig {
        protocol: trimtab_proxy::config::Protocol::Http1,
        traffic: trimtab_proxy::config::TrafficPolicy::default(),
        name: "default/web:80".to_owned(),
        generation: 1,
        endpoints: (0..endpoints).map(endpoint).map(Arc::new).collect(),
        algorithm: Algorithm::Adaptive,
        outlier_detection: OutlierDetection::default(),
        admission_control: AdmissionControl::default(),
        circuit_breaker: CircuitBreaker::default(),
        num_retries: 1,
        timeouts: BackendTimeouts::default(),
        objective: None,
        classes: RequestClasses::default(),
        terms: RuleTerms::default(),
    };
    Arc::new(Backend::new(config, None, clock::now()))
}
