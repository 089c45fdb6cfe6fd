//! A controller that pushes what the test sets, and remembers what the proxy answers and reports.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{Arc, Mutex},
};

use envoy_types::pb::{
    envoy::service::discovery::v3::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
        aggregated_discovery_service_server::{AggregatedDiscoveryService, AggregatedDiscoveryServiceServer},
    },
    google::protobuf::Any,
};
use futures_util::{Stream, StreamExt};
use prost::Message;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use trimtab_proxy::{
    Controller,
    api::{
        self,
        v1::{
            self, TelemetryRequest, TelemetryResponse,
            telemetry_server::{Telemetry, TelemetryServer},
        },
    },
    change::TYPES,
};

/// What each stream pushes, by type and name: a version and the message.
type Resources = BTreeMap<(usize, String), (u64, Vec<u8>)>;

#[derive(Clone)]
pub struct FakeController {
    resources: Arc<watch::Sender<Resources>>,
    pub requests: Arc<Mutex<Vec<DeltaDiscoveryRequest>>>,
    pub reports: Arc<Mutex<Vec<TelemetryRequest>>>,
    pub wishes: TelemetryResponse,
}

impl Default for FakeController {
    fn default() -> Self {
        Self {
            resources: Arc::new(watch::Sender::default()),
            requests: Arc::default(),
            reports: Arc::default(),
            wishes: TelemetryResponse { load_interval_ms: 50, sample_rate: 1.0 },
        }
    }
}

impl FakeController {
    /// Serves the streams of one proxy; ends with the returned task.
    pub fn serve(&self) -> (Controller, tokio::task::JoinHandle<()>) {
        let (controller, streams) = Controller::in_process();
        let ads = AggregatedDiscoveryServiceServer::new(self.clone());
        let telemetry = TelemetryServer::new(self.clone());
        let incoming = ReceiverStream::new(streams).map(Ok::<_, std::io::Error>);
        let server = tonic::transport::Server::builder().add_service(ads).add_service(telemetry);
        let task = tokio::spawn(async move { server.serve_with_incoming(incoming).await.unwrap() });
        (controller, task)
    }

    /// Serves one connection; when the task is aborted, the connection breaks.
    pub fn serve_one(&self, stream: tokio::io::DuplexStream) -> tokio::task::JoinHandle<()> {
        let ads = AggregatedDiscoveryServiceServer::new(self.clone());
        let telemetry = TelemetryServer::new(self.clone());
        // The connection's own task is spawned by the server; holding the transport here lets an abort break it.
        let (mut ours, theirs) = tokio::io::duplex(1 << 16);
        let mut stream = stream;
        let incoming =
            futures_util::stream::iter([Ok::<_, std::io::Error>(theirs)]).chain(futures_util::stream::pending());
        let server = tonic::transport::Server::builder().add_service(ads).add_service(telemetry);
        tokio::spawn(async move {
            tokio::select! {
                _ = tokio::io::copy_bidirectional(&mut stream, &mut ours) => {}
                served = server.serve_with_incoming(incoming) => served.unwrap(),
            }
        })
    }

    fn set(&self, kind: usize, name: &str, message: &impl Message) {
        let body = message.encode_to_vec();
        self.resources.send_modify(|resources| {
            let version = resources.get(&(kind, name.to_owned())).map_or(1, |(version, _)| version + 1);
            resources.insert((kind, name.to_owned()), (version, body));
        });
    }

    pub fn set_backend(&self, backend: &v1::Backend) {
        self.set(position(api::BACKEND_TYPE), &backend.name, backend);
    }

    pub fn set_listener(&self, listener: &v1::Listener) {
        self.set(position(api::LISTENER_TYPE), &listener.name, listener);
    }

    pub fn set_route(&self, route: &v1::HttpRoute) {
        self.set(position(api::HTTP_ROUTE_TYPE), &route.name, route);
    }

    pub fn set_weights(&self, table: &v1::WeightTable) {
        self.set(position(api::WEIGHT_TABLE_TYPE), &table.backend, table);
    }

    pub fn set_classes(&self, table: &v1::ClassTable) {
        self.set(position(api::CLASS_TABLE_TYPE), &table.backend, table);
    }

    pub fn remove_listener(&self, name: &str) {
        self.resources
            .send_modify(|resources| drop(resources.remove(&(position(api::LISTENER_TYPE), name.to_owned()))));
    }

    pub fn remove_backend(&self, name: &str) {
        self.resources.send_modify(|resources| drop(resources.remove(&(position(api::BACKEND_TYPE), name.to_owned()))));
    }

    /// How many responses of this type the proxy has acknowledged.
    pub fn acknowledged(&self, type_url: &str) -> usize {
        let requests = self.requests.lock().unwrap();
        let acknowledges = |r: &&DeltaDiscoveryRequest| {
            r.type_url == type_url && !r.response_nonce.is_empty() && r.error_detail.is_none()
        };
        requests.iter().filter(acknowledges).count()
    }

    /// Texts of all refusals.
    pub fn refusals(&self) -> Vec<String> {
        let requests = self.requests.lock().unwrap();
        requests.iter().filter_map(|request| Some(request.error_detail.as_ref()?.message.clone())).collect()
    }

    /// Load reports, oldest first.
    pub fn loads(&self) -> Vec<v1::LoadReport> {
        let reports = self.reports.lock().unwrap();
        reports
            .iter()
            .filter_map(|report| match &report.kind {
                Some(v1::telemetry_request::Kind::Load(load)) => Some(load.clone()),
                _ => None,
            })
            .collect()
    }

    pub fn samples(&self) -> Vec<v1::RequestSample> {
        let reports = self.reports.lock().unwrap();
        reports
            .iter()
            .filter_map(|report| match &report.kind {
                Some(v1::telemetry_request::Kind::Samples(samples)) => Some(samples.samples.clone()),
                _ => None,
            })
            .flatten()
            .collect()
    }
}

/// Where a type stands in [`TYPES`].
fn position(type_url: &str) -> usize {
    TYPES.iter().position(|known| *known == type_url).expect("a type of ours")
}

fn difference(kind: usize, sent: &mut Resources, wanted: &Resources, nonce: u64) -> Option<DeltaDiscoveryResponse> {
    let of_kind = |resources: &Resources| -> Resources {
        resources.iter().filter(|((k, _), _)| *k == kind).map(|(k, v)| (k.clone(), v.clone())).collect()
    };
    let (had, wanted) = (of_kind(sent), of_kind(wanted));
    let changed: Vec<_> = wanted.iter().filter(|(key, value)| had.get(key) != Some(value)).collect();
    let removed: Vec<String> =
        had.keys().filter(|key| !wanted.contains_key(key)).map(|(_, name)| name.clone()).collect();
    if changed.is_empty() && removed.is_empty() {
        return None;
    }
    let resource = |((_, name), (version, body)): (&(usize, String), &(u64, Vec<u8>))| Resource {
        name: name.clone(),
        version: version.to_string(),
        resource: Some(Any { type_url: TYPES[kind].to_owned(), value: body.clone() }),
        ..Default::default()
    };
    let response = DeltaDiscoveryResponse {
        resources: changed.into_iter().map(resource).collect(),
        type_url: TYPES[kind].to_owned(),
        removed_resources: removed,
        nonce: nonce.to_string(),
        ..Default::default()
    };
    sent.retain(|(k, _), _| *k != kind);
    sent.extend(wanted);
    Some(response)
}

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl AggregatedDiscoveryService for FakeController {
    type StreamAggregatedResourcesStream = Responses<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Responses<DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        _: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented("delta only"))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let mut incoming = request.into_inner();
        let (sender, receiver) = mpsc::channel(16);
        let mut wanted = self.resources.subscribe();
        let requests = self.requests.clone();
        tokio::spawn(async move {
            while let Ok(Some(request)) = incoming.message().await {
                requests.lock().unwrap().push(request);
            }
        });
        tokio::spawn(async move {
            let mut sent = Resources::new();
            let mut nonce = 0;
            loop {
                let now = wanted.borrow_and_update().clone();
                for kind in 0..TYPES.len() {
                    nonce += 1;
                    if let Some(response) = difference(kind, &mut sent, &now, nonce)
                        && sender.send(Ok(response)).await.is_err()
                    {
                        return;
                    }
                }
                if wanted.changed().await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

#[tonic::async_trait]
impl Telemetry for FakeController {
    type StreamStream = Responses<TelemetryResponse>;

    async fn stream(
        &self,
        request: Request<Streaming<TelemetryRequest>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        let mut incoming = request.into_inner();
        let reports = self.reports.clone();
        tokio::spawn(async move {
            while let Ok(Some(report)) = incoming.message().await {
                reports.lock().unwrap().push(report);
            }
        });
        let wishes = futures_util::stream::iter([Ok(self.wishes)]).chain(futures_util::stream::pending());
        Ok(Response::new(Box::pin(wishes)))
    }
}
