//! Where configuration comes from. A provider yields snapshots of the same objects, whatever it reads: a folder of YAML files, the
//! command line, or (in a cluster) the Kubernetes API. It keeps yielding until it is told to stop.

pub mod backends_file;
pub mod files;
mod flag_objects;
pub mod flags;
pub mod kubernetes;
pub mod poll;
pub mod watched;
pub mod yaml;

use std::{collections::HashSet, fmt, future::Future, path::PathBuf, sync::Arc, time::Duration};

use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::{
    clock,
    gateway::{BackendSpec, Config, Translator, ingress::IngressPorts},
    objects::Objects,
    problem::Problem,
};

/// Where to read the configuration from.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "there is one in a process")]
pub enum Source {
    /// A YAML or JSON file, or a folder of them; watched.
    Path(PathBuf, IngressPorts),
    /// Flags, and the backends file that they name; the file is watched.
    Flags(flags::Flags),
    /// The Kubernetes API.
    Kubernetes(kubernetes::KubernetesOptions),
}

/// What a provider knows at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Snapshot {
    /// The objects, the last good ones where newer ones could not be read.
    pub objects: Objects,
    /// What could not be read, and why.
    pub problems: Vec<Problem>,
}

/// A source of snapshots.
pub trait Provider: Send + Sized + 'static {
    /// The first snapshot.
    ///
    /// # Errors
    /// Everything that is wrong: there is no last good configuration to fall back on.
    fn first(&mut self) -> impl Future<Output = Result<Snapshot, ProviderError>> + Send;

    /// Sends a snapshot whenever something has changed, until `shutdown` or until nobody listens.
    fn watch(
        self,
        snapshots: watch::Sender<Arc<Snapshot>>,
        shutdown: CancellationToken,
    ) -> impl Future<Output = ()> + Send;
}

/// A running provider.
#[derive(Debug)]
pub struct Running {
    /// The newest snapshot.
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    /// Ends after shutdown; if it ends before, configuration is no longer followed.
    pub task: JoinHandle<()>,
    /// The cluster that it comes from, for those who write there.
    pub cluster: Option<Cluster>,
}

/// A cluster as those see it who write statuses and elect a leader.
#[derive(Clone)]
pub struct Cluster {
    /// Talks to its API server.
    pub client: kube::Client,
    /// How statuses stand.
    pub currents: watch::Receiver<Arc<kubernetes::Currents>>,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cluster(…)")
    }
}

/// Why there is no first snapshot: everything that is wrong, not only the first.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ProviderError {
    /// At least one.
    pub problems: Vec<Problem>,
}

impl fmt::Display for ProviderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{problem}")?;
        }
        Ok(())
    }
}

impl From<Problem> for ProviderError {
    fn from(problem: Problem) -> Self {
        ProviderError { problems: vec![problem] }
    }
}

/// Starts the provider for `source`.
///
/// # Errors
/// The first snapshot could not be read.
pub async fn start(source: Source, shutdown: CancellationToken) -> Result<Running, ProviderError> {
    match source {
        Source::Path(path, ports) => run(files::Files::new(path).with_ingress_ports(ports), shutdown).await,
        Source::Flags(flags) => run(flags::FlagsProvider::new(flags), shutdown).await,
        Source::Kubernetes(options) => {
            let client = kubernetes::client(options.kubeconfig.as_ref()).await?;
            let provider = kubernetes::Kubernetes::new(client.clone(), options);
            let currents = provider.currents();
            let running = run(provider, shutdown).await?;
            Ok(Running { cluster: Some(Cluster { client, currents }), ..running })
        }
    }
}

/// Reads the first snapshot from `provider` and lets it run until `shutdown`.
///
/// # Errors
/// The first snapshot could not be read.
pub async fn run<P: Provider>(mut provider: P, shutdown: CancellationToken) -> Result<Running, ProviderError> {
    let first = provider.first().await?;
    let (sender, snapshots) = watch::channel(Arc::new(first));
    Ok(Running { snapshots, task: tokio::spawn(provider.watch(sender, shutdown)), cluster: None })
}

/// Translates every snapshot into the data plane's configuration; what the provider could not read stands among its problems. The task
/// ends when the provider does.
pub fn configs(mut snapshots: watch::Receiver<Arc<Snapshot>>) -> watch::Receiver<Arc<Config>> {
    let mut translator = Translator::default();
    let first = translate(&mut translator, &snapshots.borrow_and_update());
    log(&first, &[]);
    let (sender, configs) = watch::channel(Arc::new(first));
    tokio::spawn(async move {
        while snapshots.changed().await.is_ok() {
            let began = clock::now().instant;
            // Taken out at once: whoever brings the next snapshot waits while this one is looked at.
            let snapshot = snapshots.borrow_and_update().clone();
            let config = translate(&mut translator, &snapshot);
            let before = sender.borrow().clone();
            let mut rest = clock::now().instant.saturating_duration_since(began) * 2;
            if config != *before {
                log(&config, &before.problems);
                rest = rest.max(REST_PER_ENDPOINT * renewed(&config, &before));
                if sender.send(Arc::new(config)).is_err() {
                    return;
                }
            }
            tokio::time::sleep(rest.min(REST_MAX)).await;
        }
    });
    configs
}

/// Where everything changes all the time, changes that come within such a rest go out together. What a change costs grows with the endpoints of
/// its backend, for this controller and for each of its proxies, and so does the rest: 50 ms for 5,000. A change after a while of quiet waits for nobody.
const REST_PER_ENDPOINT: Duration = Duration::from_micros(10);
/// The longest rest between two translations: it is part of the 200 ms within which proxies are to know.
const REST_MAX: Duration = Duration::from_millis(50);

/// Endpoints of the backends that are others than before.
fn renewed(config: &Config, before: &Config) -> u32 {
    let known: HashSet<*const BackendSpec> = before.backends.iter().map(Arc::as_ptr).collect();
    let others = config.backends.iter().filter(|backend| !known.contains(&Arc::as_ptr(backend)));
    others.map(|backend| u32::try_from(backend.endpoints.len()).unwrap_or(u32::MAX)).fold(0, u32::saturating_add)
}

fn translate(translator: &mut Translator, snapshot: &Snapshot) -> Config {
    let mut config = translator.translate(&snapshot.objects);
    config.problems.splice(0..0, snapshot.problems.iter().cloned());
    config
}

/// A problem is logged when it arises, not again with every change of something else.
fn log(config: &Config, before: &[Problem]) {
    let known: HashSet<&Problem> = before.iter().collect();
    for problem in config.problems.iter().filter(|problem| !known.contains(problem)) {
        tracing::warn!(%problem, "configuration");
    }
}

#[cfg(test)]
mod tests;
