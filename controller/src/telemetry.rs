//! The Telemetry service: one stream a proxy, with load reports, error reports and sampled requests. It checks who speaks and
//! hands everything on; what the numbers mean is decided by the owner of the state.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::{Stream, StreamExt};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use trimtab_model::slots::Sample;
use trimtab_proxy::api::v1;
use trimtab_proxy::api::v1::telemetry_request::Kind;
use trimtab_proxy::api::v1::telemetry_server::Telemetry;

use crate::leader::{self, Leadership};
use crate::recording::Recorder;

/// What proxies tell, for the owner of the state.
#[derive(Debug)]
pub enum TelemetryEvent {
    /// Loads of the last interval.
    Load {
        /// Who.
        proxy: Arc<str>,
        /// The report.
        report: v1::LoadReport,
    },
    /// Outcomes that moved an error average.
    Errors {
        /// The report.
        report: v1::ErrorReport,
    },
    /// Sampled requests that tell how long requests take where so many are in flight.
    Lessons {
        /// What they tell.
        lessons: Vec<Lesson>,
    },
    /// The proxy's stream ended.
    Closed {
        /// Who.
        proxy: Arc<str>,
        /// Number of the stream, unique in this process.
        stream: u64,
    },
    /// The proxy's stream began.
    Connected {
        /// Who.
        proxy: Arc<str>,
        /// Number of the stream, unique in this process.
        stream: u64,
    },
}

/// One sampled request that was answered well at the first attempt.
#[derive(Debug, Clone, PartialEq)]
pub struct Lesson {
    /// Its backend.
    pub backend: String,
    /// What it tells.
    pub sample: Sample,
}

impl Lesson {
    fn of(sample: &v1::RequestSample) -> Option<Self> {
        let answered = (100..500).contains(&sample.status) && sample.attempts == 1 && sample.endpoint != 0;
        answered.then(|| Self {
            backend: sample.backend.clone(),
            sample: Sample {
                endpoint: sample.endpoint,
                class: sample.class_key,
                in_flight: sample.in_flight_all.into(),
                latency_ms: sample.latency_ms.into(),
            },
        })
    }
}

/// The service. Clones share everything.
#[derive(Debug, Clone)]
pub struct TelemetryService {
    /// Bounded: while the owner is busy, a proxy's stream waits.
    events: mpsc::Sender<TelemetryEvent>,
    recorder: Option<Recorder>,
    wishes: v1::TelemetryResponse,
    streams: Arc<AtomicU64>,
    leadership: watch::Receiver<Leadership>,
    shutdown: CancellationToken,
}

impl TelemetryService {
    /// A service that tells proxies its `wishes`, hands reports to `events` and samples to `recorder`, until `shutdown`.
    pub fn new(
        events: mpsc::Sender<TelemetryEvent>,
        recorder: Option<Recorder>,
        wishes: v1::TelemetryResponse,
        leadership: watch::Receiver<Leadership>,
        shutdown: CancellationToken,
    ) -> Self {
        Self { events, recorder, wishes, streams: Arc::default(), leadership, shutdown }
    }

    /// The same service, whose streams end with this `shutdown`.
    pub fn until(&self, shutdown: CancellationToken) -> Self {
        Self { shutdown, ..self.clone() }
    }
}

#[tonic::async_trait]
impl Telemetry for TelemetryService {
    type StreamStream = Pin<Box<dyn Stream<Item = Result<v1::TelemetryResponse, Status>> + Send>>;

    async fn stream(
        &self,
        request: Request<Streaming<v1::TelemetryRequest>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        self.leadership.borrow().admit()?;
        // The end of the stream, as the reading side finds it, is what ends the answering side.
        let (end, ended) = tokio::sync::oneshot::channel();
        let reader = Reader {
            requests: request.into_inner(),
            events: self.events.clone(),
            recorder: self.recorder.clone(),
            stream: self.streams.fetch_add(1, Ordering::Relaxed),
        };
        let (shutdown, mut leadership) = (self.shutdown.clone(), self.leadership.clone());
        // On a task of its own: reading must go on even where nobody reads the answers.
        tokio::spawn(async move {
            let read = async {
                tokio::select! {
                    read = reader.run() => read,
                    refused = leader::lost(&mut leadership) => Err(refused),
                }
            };
            let status = shutdown.run_until_cancelled(read).await;
            // The answering side may be gone already.
            let _ = end.send(status.unwrap_or(Ok(())));
        });
        let wishes = futures_util::stream::iter([Ok(self.wishes)]);
        let end = futures_util::stream::once(ended)
            .filter_map(|status| std::future::ready(status.ok().and_then(Result::err).map(Err)));
        Ok(Response::new(Box::pin(wishes.chain(end))))
    }
}

struct Reader {
    requests: Streaming<v1::TelemetryRequest>,
    events: mpsc::Sender<TelemetryEvent>,
    recorder: Option<Recorder>,
    stream: u64,
}

impl Reader {
    async fn run(mut self) -> Result<(), Status> {
        let Some(first) = self.requests.message().await? else {
            return Ok(());
        };
        if first.proxy_id.is_empty() {
            return Err(Status::invalid_argument(
                "proxy_id: the first message on a telemetry stream must carry the proxy's id",
            ));
        }
        let proxy: Arc<str> = first.proxy_id.as_str().into();
        self.tell(TelemetryEvent::Connected { proxy: proxy.clone(), stream: self.stream }).await?;
        let ended = self.follow(&proxy, first).await;
        self.tell(TelemetryEvent::Closed { proxy, stream: self.stream }).await?;
        ended
    }

    async fn follow(&mut self, proxy: &Arc<str>, first: v1::TelemetryRequest) -> Result<(), Status> {
        let mut next = Some(first);
        while let Some(request) = next {
            match request.kind {
                Some(Kind::Load(report)) => self.tell(TelemetryEvent::Load { proxy: proxy.clone(), report }).await?,
                Some(Kind::Errors(report)) => self.tell(TelemetryEvent::Errors { report }).await?,
                Some(Kind::Samples(samples)) => {
                    let lessons: Vec<Lesson> = samples.samples.iter().filter_map(Lesson::of).collect();
                    if !lessons.is_empty() {
                        self.tell(TelemetryEvent::Lessons { lessons }).await?;
                    }
                    if let Some(recorder) = &self.recorder {
                        recorder.requests(proxy, samples);
                    }
                }
                None => {}
            }
            next = self.requests.message().await?;
        }
        Ok(())
    }

    async fn tell(&self, event: TelemetryEvent) -> Result<(), Status> {
        self.events.send(event).await.map_err(|_| Status::unavailable("the controller is stopping"))
    }
}
