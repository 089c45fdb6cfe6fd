//! One world of the demo: pods, the backends file that names them, a router in front, and the load's score. Both worlds are
//! made by this code; they differ in the algorithm and in nothing else.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use trimtab_controller::duration::Duration as ObjectDuration;
use trimtab_controller::policy::Algorithm;
use trimtab_controller::provider::Source;
use trimtab_controller::provider::flags::Flags;
use trimtab_controller::view::View;

use super::kinds::Asks;
use super::load::{self, LoadOptions};
use super::pod::{Pod, PodSpec};
use super::score::Recorder;
use super::script::{self, Event, Script};
use crate::up::{self, ControlSettings, ProxySettings, Running, UpOptions};

/// A world that runs.
#[derive(Debug)]
pub struct World {
    /// What it is called: the algorithm's name.
    pub name: &'static str,
    /// How its load fares.
    pub recorder: Arc<Recorder>,
    script: Arc<Script>,
    slots: Mutex<Vec<Slot>>,
    backends: Backends,
    /// Old pods that finish what they have.
    leaving: TaskTracker,
    address: SocketAddr,
    dashboard: Option<SocketAddr>,
    view: watch::Receiver<Arc<View>>,
    running: Running,
}

#[derive(Debug, Clone)]
struct Slot {
    pod: Arc<Pod>,
    generation: u32,
}

/// How long a replaced pod still accepts requests after it has left the backends file: what a `preStop` hook with a sleep does.
const LEAVING_GRACE: Duration = Duration::from_millis(1500);

/// How long a replaced pod may take to finish what it has.
const DRAIN_PATIENCE: Duration = Duration::from_secs(10);

impl World {
    /// Starts the pods and a router with `algorithm` in front of them.
    ///
    /// # Errors
    /// If sockets or files cannot be had, or the router does not start.
    pub async fn start(
        script: Arc<Script>,
        algorithm: Algorithm,
        dashboard: Option<SocketAddr>,
    ) -> anyhow::Result<Self> {
        let mut slots = Vec::with_capacity(script.pods.len());
        for spec in &script.pods {
            slots.push(Slot { pod: start_pod(spec.clone()).await?, generation: 0 });
        }
        let backends = Backends::new().context("cannot make a folder for the backends file")?;
        backends.write(&slots).context("cannot write the backends file")?;
        let objective_ms = u32::try_from(script.objective.as_millis()).unwrap_or(u32::MAX);
        let options = UpOptions {
            source: Source::Flags(Flags {
                listen: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
                backends: Some(backends.file()),
                algorithm,
                objective: Some(ObjectDuration::from_millis(objective_ms)),
                ..Flags::default()
            }),
            control: ControlSettings { seed: Some(script.seed), ..ControlSettings::default() },
            proxy: ProxySettings { id: algorithm.name().to_owned(), ..ProxySettings::default() },
            dashboard,
        };
        let running = up::start(options).await.with_context(|| format!("cannot start the router ({algorithm})"))?;
        let address = running.listeners.first().copied().context("the router does not listen")?;
        Ok(Self {
            name: algorithm.name(),
            recorder: Arc::new(Recorder::new(script.objective, script.windows())),
            script,
            slots: Mutex::new(slots),
            backends,
            leaving: TaskTracker::new(),
            address,
            dashboard: running.dashboard,
            view: running.view.clone(),
            running,
        })
    }

    /// Where its dashboard is.
    pub fn dashboard(&self) -> Option<SocketAddr> {
        self.dashboard
    }

    /// What its controller sees.
    pub fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.borrow())
    }

    /// Its pods by slot.
    pub fn pods(&self) -> Vec<Arc<Pod>> {
        self.slots().iter().map(|slot| Arc::clone(&slot.pod)).collect()
    }

    /// Sends the load from `start` on; returns when every request has its outcome.
    ///
    /// # Errors
    /// If the router's address does not make a URI.
    pub async fn load(&self, start: Instant, stop: CancellationToken) -> anyhow::Result<()> {
        let options = LoadOptions {
            targets: vec![self.address],
            asks: Asks::Path("/".to_owned()),
            profile: self.script.profile.clone(),
            seed: self.script.seed,
            timeout: self.script.patience,
        };
        Ok(load::run(options, Arc::clone(&self.recorder), start, stop).await?)
    }

    /// Lets the script's acts happen at their times.
    ///
    /// # Errors
    /// If a new pod does not start or the backends file cannot be written.
    pub async fn act(&self, start: Instant) -> anyhow::Result<()> {
        for act in &self.script.acts {
            tokio::time::sleep_until(start + act.at).await;
            match &act.event {
                Event::Fault { slots, faults, .. } => {
                    let pods = self.pods();
                    slots.iter().filter_map(|slot| pods.get(*slot)).for_each(|pod| pod.set_faults(*faults));
                }
                Event::Replace { slots, cold_start } => self.replace(slots, *cold_start).await?,
            }
        }
        Ok(())
    }

    async fn replace(&self, slots: &[usize], cold_start: super::faults::ColdStart) -> anyhow::Result<()> {
        for index in slots {
            let Some(old) = self.slots().get(*index).cloned() else { continue };
            let generation = old.generation + 1;
            let spec = script::pod(self.script.seed, *index, old.pod.spec().speed, generation);
            let pod = start_pod(PodSpec { cold_start: Some(cold_start), ..spec }).await?;
            self.slots()[*index] = Slot { pod, generation };
            self.leaving.spawn(async move {
                tokio::time::sleep(LEAVING_GRACE).await;
                old.pod.drain(DRAIN_PATIENCE).await;
            });
        }
        let slots = self.slots().clone();
        self.backends.write(&slots).context("cannot write the backends file")
    }

    /// Stops the router, then the pods.
    ///
    /// # Errors
    /// If the router had failed.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.running.shutdown().await?;
        for slot in self.slots.into_inner().unwrap_or_else(PoisonError::into_inner) {
            slot.pod.crash().await;
        }
        Ok(())
    }

    fn slots(&self) -> std::sync::MutexGuard<'_, Vec<Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn start_pod(spec: PodSpec) -> anyhow::Result<Arc<Pod>> {
    let name = spec.name.clone();
    Ok(Arc::new(Pod::start(spec).await.with_context(|| format!("cannot start {name}"))?))
}

/// The file that `--backends` would name, in a folder that goes when the world ends.
#[derive(Debug)]
struct Backends {
    folder: TempDir,
}

impl Backends {
    fn new() -> io::Result<Self> {
        Ok(Self { folder: tempfile::Builder::new().prefix("trimtab-demo-").tempdir()? })
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("backends")
    }

    /// Replaces the file in one step, so that nobody reads half of it.
    fn write(&self, slots: &[Slot]) -> io::Result<()> {
        let mut text = String::from("# the pods of this world; trimtab follows this file\n");
        for slot in slots {
            text.push_str(&slot.pod.address().to_string());
            text.push('\n');
        }
        let draft = self.folder.path().join("backends.new");
        std::fs::write(&draft, text)?;
        std::fs::rename(draft, self.file())
    }
}
