//! The task that brings the store to the control loop and the loop's wishes to the store: it looks about once a second, loads the policies
//! that may decide, and appends events. The loop itself waits for nothing: it reads the last picture, and what cannot be written now
//! is asked for again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use trimtab_model::Policy;
use trimtab_model::rollout::{BY_CONTROLLER, BackendState, Choice, Event, RolloutSettings, What};

use crate::audit::Audit;

use super::store::{Append, Log, ModelStore, StoreError};

/// How often the store is looked at.
const POLL: Duration = Duration::from_secs(1);
/// A store that takes longer for one look is not there.
const STORE_TIME: Duration = Duration::from_secs(10);
/// After so many looks at the store a file that was of no use is read again: it may have been copied only in part, or be put right by a person.
const SECOND_LOOK: u32 = 5;
/// Wishes that may wait.
const WAITING_MAX: usize = 256;

/// Which store to follow, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelsOptions {
    /// A folder's path, or a URL that `object_store` knows.
    pub url: String,
    /// Who writes, in the log.
    pub id: String,
    /// How careful rollouts are.
    pub settings: RolloutSettings,
    /// See [`crate::ControllerOptions`].
    pub exploration_std: f64,
    /// Who is told what happens there, from now on.
    pub audit: Option<Audit>,
}

/// What was last seen of the store.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Counts up with every change.
    pub generation: u64,
    log: Log,
    /// Policies that may decide, by version; or why they cannot be used.
    policies: BTreeMap<String, Result<Arc<Policy>, String>>,
    /// Whether every policy that may decide was loaded, or found to be of no use.
    complete: bool,
    /// Why the store could not be read the last time.
    problem: Option<String>,
    /// Why it could not be written the last time, until it has been again.
    unwritten: Option<String>,
}

impl Seen {
    /// Where the rollout of a backend stands.
    pub fn state_of(&self, backend: &str) -> BackendState {
        self.log.state_of(backend)
    }

    /// A version's policy: `None` while it is not loaded, an error if it cannot be used.
    pub fn policy(&self, version: &str) -> Option<&Result<Arc<Policy>, String>> {
        self.policies.get(version)
    }

    /// What a person should see.
    pub fn problems(&self) -> impl Iterator<Item = String> + '_ {
        let future = self.log.future.as_ref().map(|(path, found)| {
            format!(
                "{path} has schema version {found}: a newer Trimtab has written it; what was in force before it stays, upgrade this one"
            )
        });
        self.problem.iter().chain(&self.unwritten).cloned().chain(future).chain(self.log.problems.iter().cloned())
    }

    /// Versions that may decide on any backend, those that the log does not name included.
    fn wanted(&self) -> BTreeSet<String> {
        let named = self.log.events().filter_map(|event| event.backend.as_deref());
        let backends: BTreeSet<&str> = named.chain([""]).collect();
        let mut wanted = BTreeSet::new();
        for backend in backends {
            let state = self.log.state_of(backend);
            let choices = [Some(state.incumbent), state.pinned];
            wanted.extend(choices.iter().flatten().filter_map(Choice::version).map(str::to_owned));
            wanted.extend(state.trial.map(|trial| trial.version));
        }
        wanted
    }
}

/// The store, for the owner of the state.
#[derive(Debug)]
pub struct Models {
    options: ModelsOptions,
    seen: watch::Receiver<Arc<Seen>>,
    wishes: mpsc::Sender<Event>,
}

impl Models {
    /// Opens the store, takes a first look at it, and follows it until `shutdown`. A store that does not answer is a problem to show, not
    /// an error: it may come back.
    ///
    /// # Errors
    /// The URL cannot be used, or the folder cannot be made.
    pub async fn start(options: ModelsOptions, shutdown: CancellationToken) -> Result<Self, StoreError> {
        let store = ModelStore::open(&options.url)?;
        let (sender, seen) = watch::channel(Arc::new(Seen::default()));
        let (wishes, wished) = mpsc::channel(WAITING_MAX);
        let mut follower =
            Follower { store, seen: sender, exploration_std: options.exploration_std, audit: None, looks: 0 };
        follower.look().await;
        // What happened before stands in the store.
        follower.audit = options.audit.clone();
        tokio::spawn(follower.run(wished, shutdown));
        Ok(Self { options, seen, wishes })
    }

    /// What was last seen.
    pub fn seen(&self) -> Arc<Seen> {
        self.seen.borrow().clone()
    }

    /// How careful rollouts are.
    pub fn settings(&self) -> RolloutSettings {
        self.options.settings
    }

    /// Where the store is.
    pub fn url(&self) -> &str {
        &self.options.url
    }

    /// Wants something in the log. What does not get there is wished for again by who wants it.
    pub fn wish(&self, at_ms: i64, backend: &str, what: What, evidence: serde_json::Value) {
        let event = Event::new(at_ms, format!("{BY_CONTROLLER}{}", self.options.id), Some(backend), what);
        if self.wishes.try_send(event.resting_on(evidence)).is_err() {
            tracing::warn!(backend, "the model store is slower than events come: one is put off");
        }
    }
}

struct Follower {
    store: ModelStore,
    seen: watch::Sender<Arc<Seen>>,
    exploration_std: f64,
    audit: Option<Audit>,
    /// Looks since files that are of no use were last read.
    looks: u32,
}

impl Follower {
    async fn run(mut self, mut wished: mpsc::Receiver<Event>, shutdown: CancellationToken) {
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.seen.closed() => return,
                event = wished.recv() => match event {
                    Some(event) => self.append(&event).await,
                    None => return,
                },
                () = tokio::time::sleep(POLL) => {}
            }
            self.look().await;
        }
    }

    async fn append(&mut self, event: &Event) {
        let log = self.seen.borrow().log.clone();
        let (name, version) = (event.what.name(), event.what.version().unwrap_or_default());
        let backend = event.backend.as_deref().unwrap_or_default();
        match within(self.store.append_after(log, event, Append::default())).await {
            Ok(number) => tracing::info!(number, event = name, version, backend, "written into the log of models"),
            Err(Failure::Store(StoreError::Conflict(conflict))) => {
                tracing::info!(%conflict, event = name, version, backend, "others came first");
            }
            Err(failure) => {
                tracing::warn!(%failure, event = name, version, backend, "the log of models cannot be written");
                self.change(|seen| seen.unwritten = Some(format!("{failure}; {name} {version} is not in the log yet")));
            }
        }
    }

    /// Looks at what is new.
    async fn look(&mut self) {
        let before = self.seen.borrow().clone();
        let broken = || before.policies.values().any(Result::is_err);
        self.looks += 1;
        let again = self.looks >= SECOND_LOOK && broken();
        if before.problem.is_none()
            && before.complete
            && !again
            && matches!(within(self.store.has_news(&before.log)).await, Ok(false))
        {
            return;
        }
        let log = match within(self.store.events_after(before.log.clone())).await {
            Ok(log) => log,
            Err(failure) => {
                let problem = format!("{failure}; the models that are in force stay");
                if before.problem.as_ref() != Some(&problem) {
                    tracing::warn!(problem, "the model store cannot be read");
                    self.change(|seen| seen.problem = Some(problem));
                }
                return;
            }
        };
        let mut after = Seen { log, problem: None, ..(*before).clone() };
        if after.log != before.log {
            after.unwritten = None;
        }
        if let Some(audit) = &self.audit {
            after.log.events().skip(before.log.events.len()).for_each(|event| audit.model(event));
        }
        for problem in &after.log.problems[before.log.problems.len()..] {
            tracing::warn!(problem, "an event of the model store is left out");
        }
        let wanted = after.wanted();
        after.policies.retain(|version, _| wanted.contains(version));
        if again {
            self.looks = 0;
        }
        for version in wanted {
            let known = after.policies.get(&version);
            if known.is_some_and(|policy| policy.is_ok() || !again) {
                continue;
            }
            let said = known.and_then(|policy| policy.as_ref().err()).cloned();
            match within(self.store.policy(&version)).await {
                Ok(policy) => {
                    tracing::info!(version, "policy loaded");
                    after.policies.insert(version, Ok(Arc::new(policy.exploring(self.exploration_std))));
                }
                // A network that fails is tried again, a file that is broken stays so.
                Err(failure @ (Failure::Time | Failure::Store(StoreError::Io { .. }))) => {
                    after.problem = Some(failure.to_string());
                }
                Err(failure) => {
                    let failure = failure.to_string();
                    if said.as_ref() != Some(&failure) {
                        tracing::warn!(version, failure, "policy cannot be loaded");
                    }
                    after.policies.insert(version, Err(failure));
                }
            }
        }
        after.complete = after.problem.is_none();
        let changed = after.log != before.log
            || after.problem != before.problem
            || after.complete != before.complete
            || !after.policies.iter().map(usable).eq(before.policies.iter().map(usable));
        if changed {
            after.generation += 1;
            self.seen.send_replace(Arc::new(after));
        }
    }

    fn change(&self, change: impl FnOnce(&mut Seen)) {
        let mut seen = (**self.seen.borrow()).clone();
        change(&mut seen);
        seen.generation += 1;
        self.seen.send_replace(Arc::new(seen));
    }
}

/// A version, and whether its policy can be used, or why not.
fn usable<'a>((version, policy): (&'a String, &'a Result<Arc<Policy>, String>)) -> (&'a str, Result<(), &'a str>) {
    (version, policy.as_ref().map(|_| ()).map_err(String::as_str))
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the model store has not answered within {} s", STORE_TIME.as_secs())]
    Time,
}

async fn within<T>(work: impl Future<Output = Result<T, StoreError>>) -> Result<T, Failure> {
    match tokio::time::timeout(STORE_TIME, work).await {
        Ok(done) => Ok(done?),
        Err(_) => Err(Failure::Time),
    }
}

#[cfg(test)]
#[path = "follow_tests.rs"]
mod tests;
