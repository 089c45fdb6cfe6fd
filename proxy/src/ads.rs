//! The client of delta ADS (envoy.service.discovery.v3): subscribes to everything of our seven types, hands each response to the keeper
//! of the table as a whole, and answers with an acknowledgement or a refusal that names what is wrong.
//!
//! When the controller is gone the last table stands. On return it is told what the proxy has, so that only the difference travels.

use std::{collections::HashMap, net::SocketAddr, time::Duration};

use envoy_types::pb::{
    envoy::{
        config::core::v3::Node,
        service::discovery::v3::{
            DeltaDiscoveryRequest, DeltaDiscoveryResponse,
            aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
        },
    },
    google::{
        protobuf::{Struct, Value, value::Kind},
        rpc::Status as ErrorDetail,
    },
};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, transport::Channel};

use crate::{
    api,
    change::{Change, TYPES, WireResource},
    config::InvalidResource,
    keeper::Update,
    status::ProxyStatus,
};

/// Largest response: 5,000 endpoints take less than 1 MiB.
const RESPONSE_BYTES_MAX: usize = 64 << 20;
/// A controller that takes a connection and says nothing is given up after this long: another one may lead.
const OPEN_TIMEOUT: Duration = Duration::from_secs(3);
/// gRPC's INVALID_ARGUMENT, for refusals.
const INVALID_ARGUMENT: i32 = 3;

/// The client's memory across streams.
#[derive(Debug)]
pub struct AdsClient {
    node: Node,
    keeper: mpsc::Sender<Update>,
    status: watch::Sender<ProxyStatus>,
    /// By type: versions of the resources that are applied, by name.
    applied: HashMap<&'static str, HashMap<String, String>>,
}

impl AdsClient {
    /// For a proxy of this id, which takes datagrams of its peers there, in the life with this epoch, if it does.
    pub fn new(
        id: String,
        peer: Option<(SocketAddr, u64)>,
        keeper: mpsc::Sender<Update>,
        status: watch::Sender<ProxyStatus>,
    ) -> Self {
        let text = |text: String| Value { kind: Some(Kind::StringValue(text)) };
        let metadata = |(address, epoch): (SocketAddr, u64)| Struct {
            fields: HashMap::from([
                (api::PEER_ADDRESS.to_owned(), text(address.to_string())),
                (api::PEER_EPOCH.to_owned(), text(format!("{epoch:016x}"))),
            ]),
        };
        let node = Node {
            id,
            metadata: peer.map(metadata),
            user_agent_name: "trimtab".to_owned(),
            user_agent_version_type: Some(
                envoy_types::pb::envoy::config::core::v3::node::UserAgentVersionType::UserAgentVersion(
                    env!("CARGO_PKG_VERSION").to_owned(),
                ),
            ),
            ..Default::default()
        };
        Self { node, keeper, status, applied: HashMap::new() }
    }

    /// One stream, from its opening to its end. Once it is open, `leader` is told that the channel leads to a controller that leads.
    ///
    /// # Errors
    /// If it cannot be opened or breaks.
    pub async fn stream(&mut self, channel: Channel, leader: &watch::Sender<Option<Channel>>) -> Result<(), Status> {
        // An answer a response, and at most one response a type is unanswered; more would be a controller gone wrong, which then waits.
        let (requests, outgoing) = mpsc::channel(2 * TYPES.len());
        for type_url in TYPES {
            let subscription = DeltaDiscoveryRequest {
                node: Some(self.node.clone()),
                type_url: type_url.to_owned(),
                resource_names_subscribe: vec!["*".to_owned()],
                initial_resource_versions: self.applied.get(type_url).cloned().unwrap_or_default(),
                ..Default::default()
            };
            requests.try_send(subscription).map_err(|_| Status::internal("the queue of requests is too short"))?;
        }
        let mut client =
            AggregatedDiscoveryServiceClient::new(channel.clone()).max_decoding_message_size(RESPONSE_BYTES_MAX);
        let opened = client.delta_aggregated_resources(ReceiverStream::new(outgoing));
        let opened = tokio::time::timeout(OPEN_TIMEOUT, opened).await;
        let mut responses = opened.map_err(|_| Status::deadline_exceeded("no answer in time"))??.into_inner();
        let _connected = Connected::new(self.status.clone());
        leader.send_replace(Some(channel));
        tracing::info!("configuration stream open");
        while let Some(response) = responses.message().await? {
            let answer = self.answer(response).await?;
            requests.send(answer).await.map_err(|_| Status::unavailable("the stream is closed"))?;
        }
        Ok(())
    }

    async fn answer(&mut self, response: DeltaDiscoveryResponse) -> Result<DeltaDiscoveryRequest, Status> {
        let mut answer = DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            ..Default::default()
        };
        if let Err(errors) = self.apply(response).await? {
            let text = errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
            tracing::warn!(type_url = answer.type_url, reason = text, "configuration refused");
            answer.error_detail = Some(ErrorDetail { code: INVALID_ARGUMENT, message: text, details: Vec::new() });
        }
        Ok(answer)
    }

    async fn apply(&mut self, response: DeltaDiscoveryResponse) -> Result<Result<(), Vec<InvalidResource>>, Status> {
        let DeltaDiscoveryResponse { type_url, resources, removed_resources, .. } = response;
        let wire: Vec<WireResource<'_>> = resources
            .iter()
            .map(|resource| WireResource {
                name: &resource.name,
                type_url: resource.resource.as_ref().map_or("", |any| &any.type_url),
                body: resource.resource.as_ref().map_or(&[], |any| &any.value),
            })
            .collect();
        let change = match Change::decode(&type_url, &wire, removed_resources.clone()) {
            Ok(change) => change,
            Err(error) => return Ok(Err(vec![error])),
        };
        let (reply, applied) = oneshot::channel();
        let gone = || Status::unavailable("the proxy is stopping");
        self.keeper.send((change, reply)).await.map_err(|_| gone())?;
        let outcome = applied.await.map_err(|_| gone())?;
        if outcome.is_ok()
            && let Some(known) = TYPES.into_iter().find(|known| *known == type_url)
        {
            let versions = self.applied.entry(known).or_default();
            versions.extend(resources.into_iter().map(|resource| (resource.name, resource.version)));
            removed_resources.iter().for_each(|name| drop(versions.remove(name)));
        }
        Ok(outcome)
    }
}

/// Says in the status that the stream is open, while it is.
struct Connected(watch::Sender<ProxyStatus>);

impl Connected {
    fn new(status: watch::Sender<ProxyStatus>) -> Self {
        status.send_modify(|status| status.connected = true);
        Self(status)
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.send_modify(|status| status.connected = false);
    }
}
