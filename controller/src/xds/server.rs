//! The gRPC side of delta ADS: one stream a proxy. Responses are made when the connection has room for them, from the newest
//! snapshot, so that a slow proxy costs neither memory nor the others anything.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_server::AggregatedDiscoveryService;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use futures_util::Stream;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::session::Session;
use super::snapshot::Snapshot;
use crate::leader::{self, Leadership};
use crate::peers::PeerNode;

/// So long a new stream may take to subscribe to all types before those that it has are sent out of order.
const SUBSCRIBE_TIME: Duration = Duration::from_millis(200);

/// What happens on ADS streams, told to the owner of the state.
#[derive(Debug)]
pub enum AdsEvent {
    /// A proxy opened a stream.
    Connected {
        /// Number of the stream, unique in this process.
        stream: u64,
        /// The proxy's id (`node.id`).
        proxy: String,
        /// Where it takes datagrams of other proxies, if it does.
        peer: Option<PeerNode>,
    },
    /// It answered.
    Answered {
        /// Which stream.
        stream: u64,
        /// Acknowledged responses since the stream opened.
        acks: u64,
        /// Refused responses since the stream opened.
        nacks: u64,
        /// Text of the last refusal.
        last_nack: Option<String>,
        /// Number of the newest snapshot that it has acknowledged as a whole; `None`: not this one.
        in_sync: Option<u64>,
    },
    /// The stream ended.
    Closed {
        /// Which stream.
        stream: u64,
    },
}

/// The service. Clones share everything.
#[derive(Debug, Clone)]
pub struct AdsService {
    snapshots: watch::Receiver<Arc<Snapshot>>,
    /// Unbounded, yet small: a stream has at most one unanswered response a type.
    events: mpsc::UnboundedSender<AdsEvent>,
    streams: Arc<AtomicU64>,
    leadership: watch::Receiver<Leadership>,
    shutdown: CancellationToken,
}

impl AdsService {
    /// A service that pushes `snapshots` and tells `events`, until `shutdown`, to those who come while this controller leads.
    pub fn new(
        snapshots: watch::Receiver<Arc<Snapshot>>,
        events: mpsc::UnboundedSender<AdsEvent>,
        leadership: watch::Receiver<Leadership>,
        shutdown: CancellationToken,
    ) -> Self {
        Self { snapshots, events, streams: Arc::default(), leadership, shutdown }
    }

    /// The same service, whose streams end with this `shutdown`.
    pub fn until(&self, shutdown: CancellationToken) -> Self {
        Self { shutdown, ..self.clone() }
    }
}

type Responses = Pin<Box<dyn Stream<Item = Result<DeltaDiscoveryResponse, Status>> + Send>>;

#[tonic::async_trait]
impl AggregatedDiscoveryService for AdsService {
    type StreamAggregatedResourcesStream = Pin<Box<dyn Stream<Item = Result<DiscoveryResponse, Status>> + Send>>;
    type DeltaAggregatedResourcesStream = Responses;

    async fn stream_aggregated_resources(
        &self,
        _request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented("state-of-the-world ADS is not served here: use DeltaAggregatedResources"))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Responses>, Status> {
        self.leadership.borrow().admit()?;
        let mut snapshots = self.snapshots.clone();
        snapshots.mark_changed();
        let stream = AdsStream {
            requests: request.into_inner(),
            snapshots,
            snapshot: Arc::default(),
            session: Session::default(),
            in_order: true,
            patience: Box::pin(tokio::time::sleep(SUBSCRIBE_TIME)),
            told: (0, 0, None),
            leadership: self.leadership.clone(),
            over: false,
            shutdown: self.shutdown.clone(),
            lifetime: Lifetime {
                stream: self.streams.fetch_add(1, Ordering::Relaxed),
                events: self.events.clone(),
                named: false,
            },
        };
        let responses = futures_util::stream::unfold(stream, |mut stream| async move {
            let response = stream.next().await?;
            Some((response, stream))
        });
        Ok(Response::new(Box::pin(responses)))
    }
}

/// Tells the end of a stream, however it comes.
struct Lifetime {
    stream: u64,
    events: mpsc::UnboundedSender<AdsEvent>,
    named: bool,
}

impl Drop for Lifetime {
    fn drop(&mut self) {
        if self.named {
            // Nobody listens any more when the controller itself has ended.
            let _ = self.events.send(AdsEvent::Closed { stream: self.stream });
        }
    }
}

struct AdsStream {
    requests: Streaming<DeltaDiscoveryRequest>,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    snapshot: Arc<Snapshot>,
    session: Session,
    in_order: bool,
    patience: Pin<Box<tokio::time::Sleep>>,
    /// Acknowledgements, refusals and the snapshot in sync, as last told.
    told: (u64, u64, Option<u64>),
    leadership: watch::Receiver<Leadership>,
    /// Whether the proxy was told that this controller does not lead any more.
    over: bool,
    shutdown: CancellationToken,
    lifetime: Lifetime,
}

impl AdsStream {
    /// Waits until there is something to send; `None` when the proxy or the controller is gone.
    async fn next(&mut self) -> Option<Result<DeltaDiscoveryResponse, Status>> {
        loop {
            if self.over {
                return None;
            }
            self.in_order &= !self.session.subscribed_to_all();
            if self.snapshots.has_changed().ok()? {
                self.snapshot = self.snapshots.borrow_and_update().clone();
            }
            if let Some(response) = self.session.next(&self.snapshot, self.in_order) {
                return Some(Ok(response));
            }
            self.tell_progress();
            tokio::select! {
                () = self.shutdown.cancelled() => return None,
                refused = leader::lost(&mut self.leadership) => {
                    self.over = true;
                    return Some(Err(refused));
                }
                changed = self.snapshots.changed() => {
                    changed.ok()?;
                    self.snapshot = self.snapshots.borrow_and_update().clone();
                }
                request = self.requests.message() => match request {
                    Ok(Some(request)) => {
                        if let Err(refused) = self.receive(request) {
                            return Some(Err(refused));
                        }
                    }
                    Ok(None) => return None,
                    Err(error) => {
                        tracing::debug!(%error, "ads stream broke");
                        return None;
                    }
                },
                () = &mut self.patience, if self.in_order => self.in_order = false,
            }
        }
    }

    fn receive(&mut self, request: DeltaDiscoveryRequest) -> Result<(), Status> {
        if !self.lifetime.named {
            let id = request.node.as_ref().map_or("", |node| node.id.as_str());
            if id.is_empty() {
                return Err(Status::invalid_argument(
                    "node.id: the first request on an ADS stream must carry the proxy's id",
                ));
            }
            let metadata = request.node.as_ref().and_then(|node| node.metadata.as_ref());
            let peer = PeerNode::from_metadata(metadata).map_err(Status::invalid_argument)?;
            self.lifetime.named = true;
            self.tell(AdsEvent::Connected { stream: self.lifetime.stream, proxy: id.to_owned(), peer });
        }
        let nacks = self.session.nacks;
        self.session.receive(request);
        if self.session.nacks > nacks {
            let (stream, reason) = (self.lifetime.stream, &self.session.last_nack);
            tracing::warn!(stream, reason, "proxy refused a resource");
        }
        Ok(())
    }

    /// Tells how far the proxy is, if that has changed. A proxy that reconnects with everything in place is in sync without an answer.
    fn tell_progress(&mut self) {
        let in_sync = self.session.in_sync(&self.snapshot).then_some(self.snapshot.number);
        let progress = (self.session.acks, self.session.nacks, in_sync);
        if self.lifetime.named && self.told != progress {
            self.told = progress;
            let (acks, nacks, in_sync) = progress;
            let last_nack = self.session.last_nack.clone();
            self.tell(AdsEvent::Answered { stream: self.lifetime.stream, acks, nacks, last_nack, in_sync });
        }
    }

    fn tell(&self, event: AdsEvent) {
        // Nobody listens any more when the controller itself has ended; the snapshots end with it.
        let _ = self.lifetime.events.send(event);
    }
}
