//! One trial: one rival, one shape, one seed. Everything is started afresh, warmed up, scored, and stopped.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde::Serialize;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use trimtab::demo::clock;
use trimtab::demo::load::{self, LoadOptions};
use trimtab::demo::pod::PodSpec;
use trimtab::demo::score::{Recorder, Summary};
use trimtab::demo::script::{Event, pod};

use super::pods::{Order, PodsProcess};
use super::rival::{Front, Protocol, Rival, Setup};
use super::shape::Plan;
use crate::tools::Tools;

/// What a trial found.
#[derive(Debug, Clone, Serialize)]
pub struct Trial {
    /// Requests due after the warm-up.
    pub summary: Summary,
    /// The most that a request was sent late because this machine was busy.
    pub send_lag_ms_max: f64,
    /// The same, 99th percentile.
    pub send_lag_ms_p99: f64,
    /// What answers took outside of the pods, median: network, router, and this machine being busy.
    pub outside_ms_p50: Option<f64>,
    /// The same, 99th percentile.
    pub outside_ms_p99: Option<f64>,
    /// Classes of requests that the router tells apart at the end; only Trimtab does.
    pub classes: Vec<String>,
}

/// How long to wait for a server's answer to a question of our own.
const PATIENCE: Duration = Duration::from_secs(15);

/// Between a pod leaving the list and its end.
const LEAVING_GRACE_MS: u64 = 1500;

/// Runs one trial.
///
/// # Errors
/// If a part does not start, or fails on the way.
pub async fn run(tools: &Tools, rival: Rival, plan: &Plan) -> anyhow::Result<Trial> {
    let mut fleet = Fleet::start(plan).await?;
    let setup = Setup {
        proxies: plan.proxies,
        workers: 1,
        objective: plan.objective,
        protocol: Protocol::Http1,
        pods: &fleet.addresses(),
    };
    let front = rival.start(tools, &setup).await?;
    for target in &front.targets {
        answers(*target).await.with_context(|| format!("{} is not ready", rival.name()))?;
    }
    let window = plan.warm_up..plan.warm_up + plan.counted;
    let recorder = Arc::new(Recorder::new(plan.objective, vec![window]));
    let options = LoadOptions {
        targets: front.targets.clone(),
        asks: plan.asks.clone(),
        profile: plan.profile.clone(),
        seed: plan.seed,
        timeout: plan.patience,
    };
    let start = clock::now() + Duration::from_millis(100);
    let load = tokio::spawn(load::run(options, Arc::clone(&recorder), start, CancellationToken::new()));
    fleet.live(plan, start, &front).await?;
    load.await.context("the load broke down")??;
    let classes = front.classes().await?;
    front.stop().await?;
    let score = recorder.scores().into_iter().next().context("one window has one score")?;
    let (send_lag_ms_p99, send_lag_ms_max) = (recorder.lag_ms(0.99), recorder.lag_ms(1.0));
    let summary = score.summary(plan.counted);
    let (outside_ms_p50, outside_ms_p99) = (score.outside_ms(0.5), score.outside_ms(0.99));
    Ok(Trial { summary, send_lag_ms_max, send_lag_ms_p99, outside_ms_p50, outside_ms_p99, classes })
}

/// The pods of a trial, by slot.
struct Fleet {
    process: PodsProcess,
    slots: Vec<Slot>,
    started: usize,
}

#[derive(Clone)]
struct Slot {
    spec: PodSpec,
    number: usize,
    generation: u32,
    address: SocketAddr,
}

impl Fleet {
    async fn start(plan: &Plan) -> anyhow::Result<Self> {
        let mut fleet = Self { process: PodsProcess::start()?, slots: Vec::new(), started: 0 };
        for spec in &plan.pods {
            let slot = fleet.start_pod(spec.clone(), 0).await?;
            fleet.slots.push(slot);
        }
        Ok(fleet)
    }

    fn addresses(&self) -> Vec<SocketAddr> {
        self.slots.iter().map(|slot| slot.address).collect()
    }

    async fn start_pod(&mut self, spec: PodSpec, generation: u32) -> anyhow::Result<Slot> {
        let address = self.process.start_pod(spec.clone()).await?;
        let number = self.started;
        self.started += 1;
        Ok(Slot { spec, number, generation, address })
    }

    /// Lets the plan's acts happen at their times.
    async fn live(&mut self, plan: &Plan, start: Instant, front: &Front) -> anyhow::Result<()> {
        for act in &plan.acts {
            tokio::time::sleep_until(start + act.at).await;
            match &act.event {
                Event::Fault { slots, faults, .. } => {
                    for slot in slots {
                        let pod = self.slots[*slot].number;
                        self.process.order(&Order::Faults { pod, faults: *faults }).await?;
                    }
                }
                Event::Replace { slots, cold_start } => {
                    for index in slots {
                        let old = self.slots[*index].clone();
                        let generation = old.generation + 1;
                        let spec = pod(plan.seed, *index, old.spec.speed, generation);
                        let spec = PodSpec { cold_start: Some(*cold_start), ..spec };
                        self.slots[*index] = self.start_pod(spec, generation).await?;
                        let leave = Order::Drain { pod: old.number, after_ms: LEAVING_GRACE_MS };
                        self.process.order(&leave).await?;
                    }
                    front.update(&self.addresses()).await?;
                }
            }
        }
        Ok(())
    }
}

/// Waits until a proxy answers a request with 200.
///
/// # Errors
/// If it does not within a few seconds.
pub async fn answers(target: SocketAddr) -> anyhow::Result<()> {
    let mut last = Ok(String::new());
    for _ in 0..100 {
        last = get(target, "/").await;
        if last.is_ok() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    last.map(|_| ())
}

/// The body that a server answers with 200.
///
/// # Errors
/// If there is no answer, or another status.
pub async fn get(server: SocketAddr, path: &str) -> anyhow::Result<String> {
    let client: Client<_, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let answer = client.get(format!("http://{server}{path}").parse()?);
    let answer = tokio::time::timeout(PATIENCE, answer).await.context("no answer in time")??;
    let status = answer.status();
    let body = answer.into_body().collect().await?.to_bytes();
    ensure!(status.is_success(), "{server}{path} answered {status}");
    Ok(String::from_utf8_lossy(&body).into_owned())
}
