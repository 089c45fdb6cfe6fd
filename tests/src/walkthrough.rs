//! The service of the walk-through (docs/walkthrough.md), on real sockets: pods that take a while, and a load. The test of the whole circle and the
//! program for people, `walkthrough`, are about the same one.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use trimtab::demo::arrivals::RateProfile;
use trimtab::demo::clock;
use trimtab::demo::load::{self, LoadOptions};
use trimtab::demo::pod::Pod;
use trimtab::demo::score::{Recorder, Score};
use trimtab_training::scenario::{Scenario, roomy_pods};

use crate::compare::twin;

/// All that is random is drawn from here.
const SEED: u64 = 1;
/// Load of the service, as a share of what its pods could do if every kind of request went everywhere.
const LOAD: f64 = 0.25;
/// Nobody plays it for longer.
const LENGTH: Duration = Duration::from_secs(4 * 3600);

/// The service.
pub fn service() -> Scenario {
    roomy_pods(SEED, 1, LOAD)
}

/// An answer within it is good.
pub fn objective() -> Duration {
    Duration::from_nanos(service().objective_ns)
}

/// Starts the service's pods.
///
/// # Errors
/// If there are no sockets for them.
pub async fn start_pods() -> anyhow::Result<Vec<Pod>> {
    let mut pods = Vec::new();
    for spec in twin::plan(service(), LENGTH).pods {
        pods.push(Pod::start(spec).await.context("a pod does not start")?);
    }
    Ok(pods)
}

/// The service's load on a proxy, until it is ended. Where another one begins as it ends, it goes on as if it were the same.
#[derive(Debug)]
pub struct Load {
    recorder: Arc<Recorder>,
    stop: CancellationToken,
    task: JoinHandle<Result<(), http::Error>>,
}

impl Load {
    /// Starts it; the requests of its first `skipped` do not count. `seed`: of its arrivals.
    pub fn start(proxy: SocketAddr, seed: u64, skipped: Duration) -> Self {
        let plan = twin::plan(service(), LENGTH);
        let recorder = Arc::new(Recorder::new(plan.objective, vec![skipped..LENGTH]));
        let options = LoadOptions {
            targets: vec![proxy],
            asks: plan.asks,
            profile: RateProfile::constant(service().rate_rps, LENGTH),
            seed,
            timeout: plan.patience,
        };
        let stop = CancellationToken::new();
        let task = tokio::spawn(load::run(options, Arc::clone(&recorder), clock::now(), stop.clone()));
        Self { recorder, stop, task }
    }

    /// What has counted so far.
    pub fn score(&self) -> Score {
        self.recorder.scores().swap_remove(0)
    }

    /// How late requests were sent, 99th percentile in milliseconds: what this machine adds to every latency.
    pub fn lag_ms(&self) -> f64 {
        self.recorder.lag_ms(0.99)
    }

    /// No more requests.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// No more requests; waits for the answers, and tells what has counted.
    ///
    /// # Errors
    /// If the load broke down.
    pub async fn end(self) -> anyhow::Result<Score> {
        self.stop();
        self.task.await.context("the load broke down")??;
        Ok(self.recorder.scores().swap_remove(0))
    }
}
