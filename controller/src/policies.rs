//! The policies in use: the one that is built in, and checkpoints from files, which are watched. A file that cannot be used is a problem
//! to show; the last good version of it stays in force, and before there was one, the built-in policy.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use thiserror::Error;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use trimtab_model::Policy;
use trimtab_model::checkpoint::CheckpointError;

/// How often files are looked at. By looking, and not by notification: volumes that are mounted into pods give none.
const POLL: Duration = Duration::from_secs(1);
/// A larger file is not one of ours: the network has thousands of parameters, not millions.
const FILE_BYTES_MAX: u64 = 64 << 20;
/// What `spec.adaptive.model` calls the built-in policy.
const BUILTIN: &str = "builtin";

/// Why a checkpoint cannot be used.
#[derive(Debug, Error)]
pub enum PolicyError {
    /// The file cannot be read.
    #[error("checkpoint {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is too large.
    #[error("checkpoint {}: {bytes} bytes, at most {FILE_BYTES_MAX} are allowed: is it a Trimtab policy?", path.display())]
    Size {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// Its content cannot be used.
    #[error("checkpoint {}: {source}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// Why.
        source: CheckpointError,
    },
    /// The policy inside the binary is broken.
    #[error("the built-in policy cannot be used, this is a bug: {0}")]
    BuiltIn(CheckpointError),
}

/// What is known of one file.
#[derive(Debug, Clone, Default)]
struct Entry {
    fingerprint: Option<(u64, Option<SystemTime>)>,
    policy: Option<Arc<Policy>>,
    problem: Option<String>,
}

type Entries = BTreeMap<PathBuf, Entry>;

/// The policies, for the owner of the state.
#[derive(Debug)]
pub struct Policies {
    builtin: Arc<Policy>,
    default: Option<PathBuf>,
    wanted: watch::Sender<BTreeSet<PathBuf>>,
    entries: watch::Receiver<Arc<Entries>>,
}

impl Policies {
    /// Loads the checkpoint to use by default, and watches it until `shutdown`.
    ///
    /// # Errors
    /// The checkpoint cannot be used; without one, none.
    pub async fn start(
        checkpoint: Option<PathBuf>,
        exploration_std: f64,
        shutdown: CancellationToken,
    ) -> Result<Self, PolicyError> {
        let builtin = Arc::new(Policy::shipped().map_err(PolicyError::BuiltIn)?.exploring(exploration_std));
        let mut entries = Entries::new();
        if let Some(path) = &checkpoint {
            let path = path.clone();
            let (path, loaded) = off_thread(move || (path.clone(), load(&path, exploration_std))).await;
            entries.insert(path, Entry { policy: Some(Arc::new(loaded?)), ..Entry::default() });
        }
        let (sender, entries) = watch::channel(Arc::new(entries));
        let wanted = watch::Sender::new(checkpoint.iter().cloned().collect());
        tokio::spawn(poll(sender, wanted.subscribe(), exploration_std, shutdown));
        Ok(Self { builtin, default: checkpoint, wanted, entries })
    }

    /// Watches these files too, as `spec.adaptive.model` names them, and no others but the default.
    pub fn want<'m>(&self, models: impl Iterator<Item = &'m str>) {
        let paths: BTreeSet<PathBuf> =
            models.filter(|model| *model != BUILTIN).map(PathBuf::from).chain(self.default.clone()).collect();
        self.wanted.send_if_modified(|wanted| {
            let changed = *wanted != paths;
            *wanted = paths;
            changed
        });
    }

    /// The policy for a backend whose configuration names `model`, if that or the default names one: what is named comes before any rollout.
    pub fn named(&self, model: Option<&str>) -> Option<Arc<Policy>> {
        (model.is_some() || self.default.is_some()).then(|| self.of(model))
    }

    /// The policy inside the binary.
    pub fn builtin(&self) -> Arc<Policy> {
        self.builtin.clone()
    }

    /// The policy for a backend whose configuration names `model`.
    pub fn of(&self, model: Option<&str>) -> Arc<Policy> {
        let path = match model {
            Some(BUILTIN) => None,
            Some(path) => Some(Path::new(path)),
            None => self.default.as_deref(),
        };
        path.and_then(|path| self.entries.borrow().get(path)?.policy.clone()).unwrap_or_else(|| self.builtin.clone())
    }

    /// What is wrong with files.
    pub fn problems(&self) -> Vec<String> {
        self.entries.borrow().values().filter_map(|entry| entry.problem.clone()).collect()
    }
}

/// Looks at the files until `shutdown`, or until nobody wants to know.
async fn poll(
    entries: watch::Sender<Arc<Entries>>,
    mut wanted: watch::Receiver<BTreeSet<PathBuf>>,
    exploration_std: f64,
    shutdown: CancellationToken,
) {
    loop {
        let paths = wanted.borrow_and_update().clone();
        let before = entries.borrow().clone();
        let after = off_thread(move || look(&before, &paths, exploration_std)).await;
        if let Some(after) = after {
            entries.send_replace(Arc::new(after));
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = entries.closed() => return,
            () = tokio::time::sleep(POLL) => {}
            Ok(()) = wanted.changed() => {}
        }
    }
}

/// The entries as they are now, if they differ. A file is read when its size or time of change differs.
fn look(before: &Entries, paths: &BTreeSet<PathBuf>, exploration_std: f64) -> Option<Entries> {
    let mut after: Entries = before
        .iter()
        .filter(|(path, _)| paths.contains(*path))
        .map(|(path, entry)| (path.clone(), entry.clone()))
        .collect();
    let mut changed = after.len() != before.len();
    for path in paths {
        let entry = after.entry(path.clone()).or_default();
        let metadata = std::fs::metadata(path);
        let fingerprint = metadata.as_ref().ok().map(|metadata| (metadata.len(), metadata.modified().ok()));
        let unread = entry.policy.is_none() && entry.problem.is_none();
        if fingerprint == entry.fingerprint && !unread {
            continue;
        }
        changed = true;
        entry.fingerprint = fingerprint;
        match load(path, exploration_std) {
            Ok(policy) => {
                tracing::info!(path = %path.display(), version = policy.version(), "policy loaded");
                (entry.policy, entry.problem) = (Some(Arc::new(policy)), None);
            }
            Err(error) => {
                let stays = entry.policy.as_ref().map_or("the built-in policy", |policy| policy.version());
                tracing::warn!(%error, stays, "policy cannot be loaded");
                entry.problem = Some(format!("{error}; {stays} stays in force"));
            }
        }
    }
    changed.then_some(after)
}

fn load(path: &Path, exploration_std: f64) -> Result<Policy, PolicyError> {
    let read = |source| PolicyError::Read { path: path.to_owned(), source };
    let bytes = std::fs::metadata(path).map_err(read)?.len();
    if bytes > FILE_BYTES_MAX {
        return Err(PolicyError::Size { path: path.to_owned(), bytes });
    }
    let bytes = std::fs::read(path).map_err(read)?;
    let policy = Policy::load(&bytes).map_err(|source| PolicyError::Content { path: path.to_owned(), source })?;
    Ok(policy.exploring(exploration_std))
}

/// Runs what touches files where it blocks nobody.
async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // The runtime is shutting down, and this task with it.
        Err(_) => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use trimtab_model::checkpoint::SHIPPED;

    fn looked(before: &Entries, path: &Path) -> Entries {
        look(before, &BTreeSet::from([path.to_owned()]), 0.0).unwrap_or_else(|| before.clone())
    }

    #[test]
    fn a_file_that_breaks_leaves_the_last_good_policy_and_says_why() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy.safetensors");
        let missing = looked(&Entries::new(), &path);
        assert!(missing[&path].problem.as_ref().unwrap().contains("the built-in policy stays in force"));

        std::fs::write(&path, SHIPPED).unwrap();
        let good = looked(&missing, &path);
        assert!(good[&path].policy.is_some() && good[&path].problem.is_none());
        assert!(look(&good, &BTreeSet::from([path.clone()]), 0.0).is_none(), "read once");

        std::fs::write(&path, &SHIPPED[..SHIPPED.len() / 2]).unwrap();
        let broken = looked(&good, &path);
        assert!(broken[&path].policy.is_some());
        let problem = broken[&path].problem.as_ref().unwrap();
        assert!(problem.contains("policy.safetensors") && problem.contains("stays in force"), "{problem}");

        std::fs::write(&path, SHIPPED).unwrap();
        assert_eq!(looked(&broken, &path)[&path].problem, None);
    }

    #[tokio::test]
    async fn a_checkpoint_that_cannot_be_used_at_the_start_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("none.safetensors");
        let error = Policies::start(Some(path), 0.0, CancellationToken::new()).await.unwrap_err();
        assert!(error.to_string().contains("none.safetensors"), "{error}");
    }

    #[tokio::test]
    async fn a_backend_may_name_a_policy_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("own.safetensors");
        std::fs::write(&path, SHIPPED).unwrap();
        let policies = Policies::start(None, 0.0, CancellationToken::new()).await.unwrap();
        let name = path.to_str().unwrap();
        policies.want([name, "builtin"].into_iter());
        let mut entries = policies.entries.clone();
        entries.wait_for(|entries| entries.contains_key(&path)).await.unwrap();
        assert!(!Arc::ptr_eq(&policies.of(Some(name)), &policies.builtin));
        assert!(Arc::ptr_eq(&policies.of(Some("builtin")), &policies.builtin));
        assert!(Arc::ptr_eq(&policies.of(None), &policies.builtin));
    }
}
