//! Where configuration comes from. A provider yields snapshots of the same objects, whatever it reads: a folder of YAML files, the
//! command line, or (in a cluster) the Kubernetes API. It keeps yielding until it is told to stop.

pub mod backends_file;
pub mod files;
mod flag_objects;
pub mod flags;
pub mod poll;
pub mod watched;
pub mod yaml;

use std::{fmt, future::Future, path::PathBuf, sync::Arc};

use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::{
    gateway::{self, Config},
    objects::Objects,
    problem::Problem,
};

/// Where to read the configuration from.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "there is one in a process")]
pub enum Source {
    /// A YAML or JSON file, or a folder of them; watched.
    Path(PathBuf),
    /// Flags, and the backends file that they name; the file is watched.
    Flags(flags::Flags),
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
        Source::Path(path) => run(files::Files::new(path), shutdown).await,
        Source::Flags(flags) => run(flags::FlagsProvider::new(flags), shutdown).await,
    }
}

/// Reads the first snapshot from `provider` and lets it run until `shutdown`.
///
/// # Errors
/// The first snapshot could not be read.
pub async fn run<P: Provider>(mut provider: P, shutdown: CancellationToken) -> Result<Running, ProviderError> {
    let first = provider.first().await?;
    let (sender, snapshots) = watch::channel(Arc::new(first));
    Ok(Running { snapshots, task: tokio::spawn(provider.watch(sender, shutdown)) })
}

/// Translates every snapshot into the data plane's configuration; what the provider could not read stands among its problems. The task
/// ends when the provider does.
pub fn configs(mut snapshots: watch::Receiver<Arc<Snapshot>>) -> watch::Receiver<Arc<Config>> {
    let translate = |snapshot: &Snapshot| {
        let mut config = gateway::translate(&snapshot.objects);
        config.problems.splice(0..0, snapshot.problems.iter().cloned());
        for problem in &config.problems {
            tracing::warn!(%problem, "configuration");
        }
        Arc::new(config)
    };
    let (sender, configs) = watch::channel(translate(&snapshots.borrow_and_update()));
    tokio::spawn(async move {
        while snapshots.changed().await.is_ok() {
            let config = translate(&snapshots.borrow_and_update());
            if sender.send(config).is_err() {
                return;
            }
        }
    });
    configs
}

#[cfg(test)]
mod tests;
