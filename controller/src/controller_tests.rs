//! The controller as proxies live it: real gRPC clients over in-process byte streams.

use std::collections::HashMap;
use std::time::Instant;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use envoy_types::pb::google::rpc::Status as Refusal;
use hyper_util::rt::TokioIo;
use prost::Message;
use tokio::io::DuplexStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Streaming};
use trimtab_proxy::api;
use trimtab_proxy::api::v1::telemetry_client::TelemetryClient;
use trimtab_proxy::api::v1::telemetry_request::Kind as Told;

use super::*;
use crate::fixtures;
use crate::xds::Kind;

const PATIENCE: Duration = Duration::from_secs(5);

/// A controller that serves whoever dials.
struct World {
    config: watch::Sender<Arc<Config>>,
    controller: Controller,
    dial: mpsc::Sender<Result<DuplexStream, std::io::Error>>,
    shutdown: CancellationToken,
    served: JoinHandle<Result<(), ControllerError>>,
}

impl World {
    async fn start(config: Config) -> Self {
        Self::start_ticking(config, Duration::from_secs(30)).await
    }

    /// A tick of 30 s is one that a test does not see: only the first, at the start.
    async fn start_ticking(config: Config, tick_interval: Duration) -> Self {
        let shutdown = CancellationToken::new();
        let (config, followed) = watch::channel(Arc::new(config));
        let options =
            ControllerOptions { tick_interval, seed: Some(1), ..ControllerOptions::new(followed, shutdown.clone()) };
        let controller = Controller::start(options).await.unwrap();
        // The first tick, so that tests find the state as it is between two ticks.
        controller.view().wait_for(|view| view.at_ms > 0).await.unwrap();
        let (dial, incoming) = mpsc::channel(4);
        let served = tokio::spawn(controller.serve(ReceiverStream::new(incoming), CancellationToken::new()));
        Self { config, controller, dial, shutdown, served }
    }

    async fn channel(&self) -> Channel {
        let dial = self.dial.clone();
        let connector = tower::service_fn(move |_| {
            let dial = dial.clone();
            async move {
                let (ours, theirs) = tokio::io::duplex(1 << 16);
                dial.send(Ok(theirs)).await.map_err(std::io::Error::other)?;
                Ok::<_, std::io::Error>(TokioIo::new(ours))
            }
        });
        Endpoint::from_static("http://controller").connect_with_connector(connector).await.unwrap()
    }

    async fn proxy(&self, id: &str) -> Proxy {
        Proxy::connect(self.channel().await, id, &HashMap::new()).await
    }

    async fn view_where(&self, condition: impl FnMut(&Arc<View>) -> bool) -> Arc<View> {
        let mut view = self.controller.view();
        let found = tokio::time::timeout(PATIENCE, view.wait_for(condition)).await;
        found.expect("the view shows it in time").unwrap().clone()
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.served.await.unwrap().unwrap();
        self.controller.stopped().await.unwrap();
    }
}

/// A proxy's ADS side, as plain as it can be.
struct Proxy {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
    versions: HashMap<(Kind, String), String>,
    /// What came so far, for a test that fails.
    seen: Vec<String>,
}

impl Proxy {
    async fn connect(channel: Channel, id: &str, versions: &HashMap<(Kind, String), String>) -> Self {
        Self::connect_as(channel, Node { id: id.into(), ..Default::default() }, versions).await
    }

    async fn connect_as(channel: Channel, node: Node, versions: &HashMap<(Kind, String), String>) -> Self {
        let (requests, outgoing) = mpsc::channel(16);
        for kind in Kind::ALL {
            let initial = versions.iter().filter(|((of, _), _)| *of == kind);
            let request = DeltaDiscoveryRequest {
                node: Some(node.clone()),
                type_url: kind.type_url().into(),
                initial_resource_versions: initial
                    .map(|((_, name), version)| (name.clone(), version.clone()))
                    .collect(),
                ..Default::default()
            };
            requests.send(request).await.unwrap();
        }
        let mut client = AggregatedDiscoveryServiceClient::new(channel);
        let responses = client.delta_aggregated_resources(ReceiverStream::new(outgoing)).await.unwrap().into_inner();
        Self { requests, responses, versions: versions.clone(), seen: Vec::new() }
    }

    async fn next(&mut self) -> DeltaDiscoveryResponse {
        let response = tokio::time::timeout(PATIENCE, self.responses.message()).await;
        let response = response.unwrap_or_else(|_| panic!("no response in time, after {:#?}", self.seen));
        let response = response.unwrap().expect("the stream is open");
        let names: Vec<&str> = response.resources.iter().map(|resource| resource.name.as_str()).collect();
        self.seen.push(format!("{} {names:?} -{:?}", response.type_url, response.removed_resources));
        response
    }

    async fn answer(&mut self, response: &DeltaDiscoveryResponse, refusal: Option<&str>) {
        let kind = Kind::from_type_url(&response.type_url).unwrap();
        if refusal.is_none() {
            for resource in &response.resources {
                self.versions.insert((kind, resource.name.clone()), resource.version.clone());
            }
            for name in &response.removed_resources {
                self.versions.remove(&(kind, name.clone()));
            }
        }
        let request = DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            error_detail: refusal.map(|message| Refusal { message: message.into(), ..Default::default() }),
            ..Default::default()
        };
        self.requests.send(request).await.unwrap();
    }

    /// Acknowledges until something of this kind comes (not the empty first response), and acknowledges that too.
    async fn until(&mut self, kind: Kind) -> DeltaDiscoveryResponse {
        loop {
            let response = self.next().await;
            self.answer(&response, None).await;
            let empty = response.resources.is_empty() && response.removed_resources.is_empty();
            if response.type_url == kind.type_url() && !empty {
                return response;
            }
        }
    }

    /// Nothing comes for a while.
    async fn quiet(&mut self) {
        let response = tokio::time::timeout(Duration::from_millis(150), self.responses.message()).await;
        assert!(response.is_err(), "{response:?}");
    }

    /// Takes and acknowledges the five first responses.
    async fn settle(&mut self) -> Vec<DeltaDiscoveryResponse> {
        let mut seen = Vec::new();
        for _ in 0..Kind::ALL.len() {
            let response = self.next().await;
            self.answer(&response, None).await;
            seen.push(response);
        }
        seen
    }
}

fn decode<M: Message + Default>(response: &DeltaDiscoveryResponse) -> M {
    M::decode(&*response.resources[0].resource.as_ref().unwrap().value).unwrap()
}

fn config(endpoints: usize) -> Config {
    Config {
        listeners: vec![v1::Listener { name: "a/g/http".into(), port: 80, ..Default::default() }],
        routes: vec![v1::HttpRoute { name: "a/r".into(), ..Default::default() }],
        backends: vec![Arc::new(fixtures::backend("a/b:80", endpoints))],
        ..Config::default()
    }
}

#[tokio::test]
async fn a_new_proxy_gets_everything_in_order_and_is_in_sync() {
    let world = World::start_ticking(config(3), Duration::from_millis(50)).await;
    let mut proxy = world.proxy("proxy-1").await;
    let first = proxy.settle().await;
    let order: Vec<&str> = first.iter().map(|response| response.type_url.as_str()).collect();
    assert_eq!(order, Kind::ALL.map(Kind::type_url));
    let table: v1::WeightTable = decode(&first[3]);
    assert_eq!((table.generation, table.weights.len()), (3, 3));
    assert!(first[4].resources.is_empty(), "no errors yet");

    // The proxy that keeps up with the ticks is in sync; one tick later than it connected.
    let keeping_up = tokio::spawn(async move {
        loop {
            proxy.until(Kind::WeightTable).await;
        }
    });
    let view = world.view_where(|view| view.proxies.iter().any(|proxy| proxy.in_sync)).await;
    assert_eq!(view.proxies[0].id, "proxy-1");
    assert!(view.backends[0].tick > 0 && view.backends[0].endpoints.len() == 3);
    keeping_up.abort();
    world.stop().await;
}

#[tokio::test]
async fn configuration_changes_arrive_without_a_tick_and_removals_too() {
    let world = World::start(config(3)).await;
    let mut proxy = world.proxy("proxy-1").await;
    proxy.settle().await;

    world.config.send_replace(Arc::new(config(5)));
    let backend: v1::Backend = decode(&proxy.until(Kind::Backend).await);
    assert_eq!(backend.endpoints.len(), 5);
    let table: v1::WeightTable = decode(&proxy.until(Kind::WeightTable).await);
    assert_eq!((table.generation, table.weights.len()), (5, 5));
    assert!(table.weights[4] < table.weights[0], "newcomers ramp up: {:?}", table.weights);

    world.config.send_replace(Arc::default());
    assert_eq!(proxy.until(Kind::WeightTable).await.removed_resources, ["a/b:80"]);
    assert_eq!(proxy.until(Kind::Listener).await.removed_resources, ["a/g/http"]);
    assert_eq!(proxy.until(Kind::HttpRoute).await.removed_resources, ["a/r"]);
    assert_eq!(proxy.until(Kind::Backend).await.removed_resources, ["a/b:80"]);
    proxy.quiet().await;
    world.stop().await;
}

#[tokio::test]
async fn a_refusal_is_shown_and_the_version_is_not_sent_again() {
    let world = World::start_ticking(config(3), Duration::from_secs(1)).await;
    let mut proxy = world.proxy("proxy-1").await;
    let backend = proxy.next().await;
    proxy.answer(&backend, Some("a/b:80: endpoints[0].host is empty")).await;
    let view = world.view_where(|view| view.proxies.iter().any(|proxy| proxy.nacks > 0)).await;
    assert_eq!(view.proxies[0].last_nack.as_deref(), Some("a/b:80: endpoints[0].host is empty"));
    assert!(!view.proxies[0].in_sync);
    assert!(world.controller.metrics().encode().contains("trimtab_controller_nacks_total 1"));

    let mut later = config(3);
    Arc::make_mut(&mut later.backends[0]).resource.objective_ms = Some(50.0);
    world.config.send_replace(Arc::new(later));
    let fixed: v1::Backend = decode(&proxy.until(Kind::Backend).await);
    assert_eq!(fixed.objective_ms, Some(50.0));
    world.stop().await;
}

#[tokio::test]
async fn a_proxy_that_comes_back_gets_only_what_changed_meanwhile() {
    let world = World::start(config(3)).await;
    let mut proxy = world.proxy("proxy-1").await;
    proxy.settle().await;
    let versions = proxy.versions.clone();
    drop(proxy);
    world.config.send_replace(Arc::new(Config { routes: Vec::new(), ..config(3) }));
    // The first responses may be empty; of content there is only the removal.
    let mut proxy = Proxy::connect(world.channel().await, "proxy-1", &versions).await;
    let mut changes: Vec<String> = Vec::new();
    while let Ok(response) = tokio::time::timeout(Duration::from_millis(300), proxy.next()).await {
        proxy.answer(&response, None).await;
        changes.extend(response.resources.iter().map(|resource| resource.name.clone()));
        changes.extend(response.removed_resources.iter().map(|name| format!("-{name}")));
    }
    assert_eq!(changes, ["-a/r"]);
    world.stop().await;
}

#[tokio::test]
async fn a_proxy_that_does_not_answer_finds_the_newest_and_no_queue() {
    let world = World::start(config(3)).await;
    let mut slow = world.proxy("slow").await;
    let held = slow.next().await;
    for endpoints in 4..40 {
        world.config.send_replace(Arc::new(config(endpoints)));
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    slow.answer(&held, None).await;
    let newest: v1::Backend = decode(&slow.until(Kind::Backend).await);
    assert_eq!(newest.endpoints.len(), 39);
    world.stop().await;
}

#[tokio::test]
async fn errors_that_one_proxy_sees_reach_the_others_within_100_ms() {
    let world = World::start(config(3)).await;
    let mut other = world.proxy("other").await;
    other.settle().await;
    let (tell, told) = mpsc::channel(4);
    let mut telemetry = TelemetryClient::new(world.channel().await);
    let mut wishes = telemetry.stream(ReceiverStream::new(told)).await.unwrap().into_inner();
    assert_eq!(wishes.message().await.unwrap().unwrap().load_interval_ms, 250);

    let key = fixtures::backend("a/b:80", 3).endpoints[1].key.0;
    let report = v1::ErrorReport {
        backends: vec![v1::BackendErrors {
            backend: "a/b:80".into(),
            keys: vec![key, 999],
            answers: vec![20, 1],
            failures: vec![20, 1],
        }],
    };
    let request = v1::TelemetryRequest { proxy_id: "witness".into(), kind: Some(Told::Errors(report)) };
    let sent = clock::now().instant;
    tell.send(request).await.unwrap();
    let table: v1::ErrorTable = decode(&other.until(Kind::ErrorTable).await);
    let took = sent.elapsed();
    assert!(took < Duration::from_millis(100), "{took:?}");
    assert_eq!((table.errors[0], table.errors[2]), (0.0, 0.0));
    assert!((table.errors[1] - 0.64).abs() < 0.02, "{:?}", table.errors);

    // Fading is pushed too, and comes to an end.
    let faded: v1::ErrorTable = decode(&other.until(Kind::ErrorTable).await);
    assert!(faded.errors[1] < table.errors[1]);
    world.view_where(|view| view.backends[0].endpoints.len() == 3).await;
    world.stop().await;
}

#[tokio::test]
async fn load_reports_show_in_the_view() {
    let world = World::start_ticking(config(2), Duration::from_millis(100)).await;
    let (tell, told) = mpsc::channel(4);
    let mut telemetry = TelemetryClient::new(world.channel().await);
    let _wishes = telemetry.stream(ReceiverStream::new(told)).await.unwrap();
    let endpoints = fixtures::backend("a/b:80", 2).endpoints;
    let load = |key: u64, successes| v1::EndpointLoad { key, successes, in_flight_mean: 2.0, ..Default::default() };
    let report = v1::LoadReport {
        interval_ms: 100.0,
        backends: vec![v1::BackendLoad {
            backend: "a/b:80".into(),
            endpoints: vec![load(endpoints[0].key.0, 30), load(endpoints[1].key.0, 10)],
            concurrency_limit: Some(64.0),
            ..Default::default()
        }],
        ..Default::default()
    };
    let request = v1::TelemetryRequest { proxy_id: "proxy-1".into(), kind: Some(Told::Load(report)) };
    tell.send(request).await.unwrap();
    let view = world.view_where(|view| view.backends.first().is_some_and(|backend| backend.rps > 0.0)).await;
    assert!((view.backends[0].endpoints[0].share - 0.75).abs() < 1e-9);
    assert_eq!(view.backends[0].concurrency_limit, Some(64.0));
    assert_eq!(view.proxies[0].id, "proxy-1");
    drop(tell);
    world.view_where(|view| view.proxies.is_empty()).await;
    world.stop().await;
}

#[tokio::test]
async fn who_does_not_say_who_they_are_is_refused() {
    let world = World::start(config(1)).await;
    let mut client = AggregatedDiscoveryServiceClient::new(world.channel().await);
    let nameless = DeltaDiscoveryRequest { type_url: Kind::Backend.type_url().into(), ..Default::default() };
    let stream = client.delta_aggregated_resources(tokio_stream::iter([nameless])).await.unwrap();
    let refusal = stream.into_inner().message().await.unwrap_err();
    assert_eq!(refusal.code(), Code::InvalidArgument);
    assert!(refusal.message().contains("node.id"), "{refusal}");

    let mut telemetry = TelemetryClient::new(world.channel().await);
    let stream = telemetry.stream(tokio_stream::iter([v1::TelemetryRequest::default()])).await.unwrap();
    let mut stream = stream.into_inner();
    stream.message().await.unwrap().unwrap();
    let refusal = stream.message().await.unwrap_err();
    assert!(refusal.message().contains("proxy_id"), "{refusal}");
    world.stop().await;
}

#[tokio::test]
async fn shutdown_ends_open_streams_quickly() {
    let world = World::start(config(1)).await;
    let mut proxy = world.proxy("proxy-1").await;
    proxy.settle().await;
    let started: Instant = clock::now().instant;
    world.stop().await;
    assert!(started.elapsed() < Duration::from_secs(1));
    assert!(!matches!(tokio::time::timeout(PATIENCE, proxy.responses.message()).await, Ok(Ok(Some(_)))));
}

#[tokio::test]
async fn options_that_make_no_sense_are_named() {
    let (_, followed) = watch::channel(Arc::default());
    let options = ControllerOptions {
        tick_interval: Duration::ZERO,
        ..ControllerOptions::new(followed, CancellationToken::new())
    };
    let error = Controller::start(options).await.unwrap_err().to_string();
    assert!(error.contains("tick_interval is 0ns"), "{error}");
}

#[tokio::test]
async fn proxies_are_told_at_once_who_the_others_are() {
    use envoy_types::pb::google::protobuf::{Struct, Value, value::Kind as Text};
    let world = World::start(config(1)).await;
    let connect = async |id: &str, port: u16| {
        let text = |text: String| Value { kind: Some(Text::StringValue(text)) };
        let fields = HashMap::from([
            (api::PEER_ADDRESS.to_owned(), text(format!("10.0.0.1:{port}"))),
            (api::PEER_EPOCH.to_owned(), text(format!("{port:x}"))),
        ]);
        let node = Node { id: id.into(), metadata: Some(Struct { fields }), ..Default::default() };
        Proxy::connect_as(world.channel().await, node, &HashMap::new()).await
    };
    let told = async |proxy: &mut Proxy| decode::<v1::PeerTable>(&proxy.until(Kind::PeerTable).await);
    let mut first = connect("a", 18001).await;
    let alone = told(&mut first).await;
    assert_eq!((alone.peers.len(), alone.proxies, alone.mac_key.len()), (1, 1, 32));
    let second = connect("b", 18002).await;
    let both = told(&mut first).await;
    let expected = v1::Peer {
        proxy_key: crate::gateway::fingerprint::proxy_key("b"),
        address: "10.0.0.1:18002".to_owned(),
        epoch: 18002,
    };
    assert_eq!((both.peers.get(1), both.proxies), (Some(&expected), 2));
    assert_eq!(both.mac_key, alone.mac_key);
    let _without_peers = world.proxy("c").await;
    assert_eq!(told(&mut first).await.proxies, 3);
    drop(second);
    let left = told(&mut first).await;
    assert_eq!((left.peers.len(), left.proxies), (1, 2));
    world.stop().await;
}
