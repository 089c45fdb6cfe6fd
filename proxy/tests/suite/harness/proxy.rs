//! The proxy under test, and how it is set up.

use std::{net::SocketAddr, time::Duration};

use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use trimtab_proxy::{
    ProxyError, ProxyOptions, ProxyStatus,
    api::v1,
    observe::{log::LogOptions, red::otlp::MetricsOptions, trace::otlp::TraceOptions},
};

use super::{
    client::{Answer, Raw},
    controller::FakeController,
};

/// The name of the one listener of a simple setup.
pub const LISTENER: &str = "test/gateway/http";
/// The name of its one backend.
pub const BACKEND: &str = "test/web:80";

/// What the proxy is to do. By default: one listener, one route that sends everything to one backend.
pub struct Setup {
    pub listener: v1::Listener,
    pub route: v1::HttpRoute,
    pub backends: Vec<v1::Backend>,
    pub workers: usize,
    pub drain_timeout: Duration,
    pub admin: bool,
    pub fast_path: bool,
    pub access_log: Option<LogOptions>,
    pub trace: Option<TraceOptions>,
    pub metrics: Option<MetricsOptions>,
}

/// `TRIMTAB_FAST_PATH=off` runs all tests over hyper alone.
fn fast_path() -> bool {
    std::env::var("TRIMTAB_FAST_PATH").map_or(true, |set| set != "off")
}

pub fn endpoint(key: u64, address: SocketAddr) -> v1::Endpoint {
    v1::Endpoint {
        key,
        host: address.ip().to_string(),
        port: u32::from(address.port()),
        name: format!("pod-{key}"),
        ..Default::default()
    }
}

/// A backend whose endpoints have keys from 1.
pub fn backend(name: &str, endpoints: &[SocketAddr]) -> v1::Backend {
    let endpoints: Vec<_> = endpoints.iter().zip(1..).map(|(address, key)| endpoint(key, *address)).collect();
    let generation = endpoints.iter().fold(7u64, |hash, e| hash.wrapping_mul(31).wrapping_add(u64::from(e.port)));
    v1::Backend {
        name: name.to_owned(),
        generation,
        endpoints,
        algorithm: v1::Algorithm::RoundRobin.into(),
        ..Default::default()
    }
}

/// A rule that sends all to a backend.
pub fn rule(backend: &str) -> v1::RouteRule {
    let backends = vec![v1::WeightedBackend { backend: backend.to_owned(), weight: 1, ..Default::default() }];
    v1::RouteRule { backends, ..Default::default() }
}

impl Setup {
    /// Everything goes to these endpoints, in turn.
    pub fn to(endpoints: &[SocketAddr]) -> Self {
        let listener =
            v1::Listener { name: LISTENER.to_owned(), address: "127.0.0.1".to_owned(), ..Default::default() };
        let route = v1::HttpRoute {
            name: "test/route".to_owned(),
            listeners: vec![LISTENER.to_owned()],
            rules: vec![rule(BACKEND)],
            ..Default::default()
        };
        Self {
            listener,
            route,
            backends: vec![backend(BACKEND, endpoints)],
            workers: 2,
            drain_timeout: Duration::from_secs(5),
            admin: false,
            fast_path: fast_path(),
            access_log: None,
            trace: None,
            metrics: None,
        }
    }

    pub fn limits(mut self, limits: v1::ListenerLimits) -> Self {
        self.listener.limits = Some(limits);
        self
    }

    pub fn backend(mut self, change: impl FnOnce(&mut v1::Backend)) -> Self {
        change(&mut self.backends[0]);
        self
    }

    pub fn rule(mut self, change: impl FnOnce(&mut v1::RouteRule)) -> Self {
        change(&mut self.route.rules[0]);
        self
    }

    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.drain_timeout = timeout;
        self
    }

    pub fn fast_path(mut self, fast_path: bool) -> Self {
        self.fast_path = fast_path;
        self
    }

    pub fn observed(mut self, access_log: Option<LogOptions>, trace: Option<TraceOptions>) -> Self {
        (self.access_log, self.trace) = (access_log, trace);
        self
    }

    pub fn with_admin(mut self) -> Self {
        self.admin = true;
        self
    }

    /// Starts it and waits until it listens and has its route.
    pub async fn start(self) -> Proxy {
        let controller = FakeController::default();
        self.backends.iter().for_each(|backend| controller.set_backend(backend));
        controller.set_listener(&self.listener);
        controller.set_route(&self.route);
        let (workers, drain_timeout, admin, fast_path) = (self.workers, self.drain_timeout, self.admin, self.fast_path);
        let (access_log, trace, metrics) = (self.access_log.clone(), self.trace.clone(), self.metrics.clone());
        let mut proxy = Proxy::start_with(controller, |options| {
            (options.workers, options.drain_timeout, options.fast_path) = (workers, drain_timeout, fast_path);
            (options.access_log, options.trace, options.metrics) = (access_log, trace, metrics);
            options.admin = admin.then(|| "127.0.0.1:0".parse().unwrap());
        });
        proxy.ready().await;
        // The route comes after the listener.
        let route = self.route.name.clone();
        super::eventually("the route is there", || {
            let acknowledged = proxy.controller.acknowledged(trimtab_proxy::api::HTTP_ROUTE_TYPE) > 0;
            let refused = proxy.controller.refusals();
            assert!(refused.is_empty(), "{route}: {refused:?}");
            async move { acknowledged }
        })
        .await;
        proxy
    }
}

/// A running proxy.
pub struct Proxy {
    pub controller: FakeController,
    pub status: watch::Receiver<ProxyStatus>,
    pub shutdown: CancellationToken,
    server: JoinHandle<()>,
    task: JoinHandle<Result<(), ProxyError>>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
        self.server.abort();
    }
}

impl Proxy {
    pub fn start_with(controller: FakeController, change: impl FnOnce(&mut ProxyOptions)) -> Self {
        let (link, server) = controller.serve();
        let mut options = ProxyOptions::new("proxy-under-test", link);
        options.seed = Some(1);
        change(&mut options);
        let status = options.status.subscribe();
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(trimtab_proxy::run(options, shutdown.clone()));
        Self { controller, status, shutdown, server, task }
    }

    pub async fn ready(&mut self) {
        let ready = self.status.wait_for(|status| status.ready);
        tokio::time::timeout(Duration::from_secs(5), ready).await.expect("not ready within 5 s").unwrap();
    }

    /// Where the one listener listens.
    pub fn address(&self) -> SocketAddr {
        self.status.borrow().address(LISTENER).expect("the listener is not bound")
    }

    pub fn admin_address(&self) -> SocketAddr {
        self.status.borrow().admin.expect("no admin endpoint")
    }

    /// A bare connection.
    pub async fn raw(&self) -> Raw {
        Raw::connect(self.address()).await
    }

    /// A GET on a connection of its own.
    pub async fn get(&self, target: &str) -> Answer {
        self.send(&format!("GET {target} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n")).await
    }

    /// Sends a request as it is written, on a connection of its own, and reads one answer.
    pub async fn send(&self, request: &str) -> Answer {
        let mut raw = self.raw().await;
        raw.write(request).await;
        raw.answer().await
    }

    /// Drains, and says how it ended.
    pub async fn stop(self) -> Result<(), ProxyError> {
        self.shutdown.cancel();
        self.ended().await
    }

    /// How it ends by itself.
    pub async fn ended(mut self) -> Result<(), ProxyError> {
        let task = std::mem::replace(&mut self.task, tokio::spawn(async { Ok(()) }));
        task.await.expect("the proxy panicked")
    }
}
