//! What the log of events comes to for one backend. The fold accepts any sequence; [`BackendState::check`] says which event may come next.

use std::collections::{BTreeMap, BTreeSet};

use thiserror::Error;

use super::event::{BY_CONTROLLER, Choice, Event, Stage, What, Why};

/// Where the rollout of one backend stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendState {
    /// What is in force where nothing else is said: what was confirmed last, and at first the policy inside the binary.
    pub incumbent: Choice,
    /// Since when; `None`: from the beginning.
    pub incumbent_since_ms: Option<i64>,
    /// What is being tried.
    pub trial: Option<Trial>,
    /// What a person has put in force whatever the rollout says.
    pub pinned: Option<Choice>,
    /// Versions that are out.
    pub rolled_back: BTreeMap<String, RolledBack>,
}

/// A candidate on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trial {
    /// The candidate.
    pub version: String,
    /// How far it has come.
    pub stage: Stage,
    /// Since when.
    pub since_ms: i64,
}

/// Why and since when a version is out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RolledBack {
    /// Why.
    pub why: Why,
    /// In words.
    pub detail: String,
    /// Since when.
    pub at_ms: i64,
    /// Who said so.
    pub by: String,
}

impl Default for BackendState {
    fn default() -> Self {
        Self {
            incumbent: Choice::Builtin,
            incumbent_since_ms: None,
            trial: None,
            pinned: None,
            rolled_back: BTreeMap::new(),
        }
    }
}

/// Why an event cannot come next.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Conflict {
    /// Another version is being tried.
    #[error(
        "{version} is being tried on {backend} (stage {stage}): wait for its end, roll it back, or say that it is to be replaced"
    )]
    InTrial {
        /// Which.
        version: String,
        /// How far it has come.
        stage: Stage,
        /// Where.
        backend: String,
    },
    /// The event is about a candidate that is none.
    #[error("{version} is not being tried on {backend}: it is {is}")]
    NotInTrial {
        /// Which.
        version: String,
        /// What it is instead.
        is: &'static str,
        /// Where.
        backend: String,
    },
    /// The step leaves out a stage, or goes back.
    #[error("{version} cannot enter stage {stage} on {backend}: it is at {at}")]
    Stage {
        /// Which.
        version: String,
        /// Where to.
        stage: Stage,
        /// Where it is.
        at: Stage,
        /// Where.
        backend: String,
    },
    /// It is what it should become.
    #[error("{version} is in force on {backend} already")]
    InForce {
        /// Which.
        version: String,
        /// Where.
        backend: String,
    },
    /// Only a person gives a version that was rolled back another chance.
    #[error("{version} was rolled back on {backend} ({why:?}: {detail}): only a person can have it tried again")]
    RolledBack {
        /// Which.
        version: String,
        /// Why.
        why: Why,
        /// In words.
        detail: String,
        /// Where.
        backend: String,
    },
}

impl BackendState {
    /// What the events, oldest first, come to for this backend.
    pub fn of<'e>(backend: &str, events: impl IntoIterator<Item = &'e Event>) -> Self {
        let mut state = Self::default();
        events.into_iter().filter(|event| event.concerns(backend)).for_each(|event| state.fold(event));
        state
    }

    /// Takes in the next event, whatever it is. One that does not fit changes nothing, as if its writer had come too late.
    pub fn fold(&mut self, event: &Event) {
        match &event.what {
            What::Proposed { version } => {
                if let Some(trial) = self.trial.take().filter(|trial| trial.version != *version) {
                    let detail = format!("{version} was proposed in its place");
                    self.out(trial.version, Why::Superseded, detail, event);
                }
                self.rolled_back.remove(version);
                if self.incumbent.version() != Some(version) {
                    self.trial = Some(Trial { version: version.clone(), stage: Stage::Shadow, since_ms: event.at_ms });
                }
            }
            What::StageEntered { version, stage } => {
                let on_trial = self.trial.as_mut().filter(|trial| trial.version == *version && trial.stage < *stage);
                if let Some(trial) = on_trial.filter(|_| *stage < Stage::Full) {
                    (trial.stage, trial.since_ms) = (*stage, event.at_ms);
                }
            }
            What::Confirmed { version } => {
                if self.trial.as_ref().is_some_and(|trial| trial.version == *version) {
                    self.trial = None;
                    self.incumbent = Choice::Version(version.clone());
                    self.incumbent_since_ms = Some(event.at_ms);
                }
            }
            What::RolledBack { version, why, detail } => {
                self.trial.take_if(|trial| trial.version == *version);
                if self.incumbent.version() == Some(version) {
                    // What was in force before it was beaten by it; the fallback needs nobody's word.
                    self.incumbent = Choice::Fallback;
                    self.incumbent_since_ms = Some(event.at_ms);
                }
                // Pins win: only a person takes out what a person has put in force.
                self.pinned.take_if(|pinned| *why == Why::ByHand && pinned.version() == Some(version));
                self.out(version.clone(), *why, detail.clone(), event);
            }
            What::Pinned { to } => {
                if let Choice::Version(version) = to {
                    self.rolled_back.remove(version);
                }
                self.pinned = Some(to.clone());
            }
            What::Unpinned => self.pinned = None,
        }
    }

    fn out(&mut self, version: String, why: Why, detail: String, event: &Event) {
        let rolled_back = RolledBack { why, detail, at_ms: event.at_ms, by: event.by.clone() };
        self.rolled_back.insert(version, rolled_back);
    }

    /// What is in force but for the turns of a candidate.
    pub fn in_force(&self) -> &Choice {
        self.pinned.as_ref().unwrap_or(&self.incumbent)
    }

    /// What a version is here, in a word.
    pub fn standing(&self, version: &str) -> &'static str {
        if self.pinned.as_ref().and_then(Choice::version) == Some(version) {
            "pinned"
        } else if self.incumbent.version() == Some(version) {
            "in force"
        } else if self.trial.as_ref().is_some_and(|trial| trial.version == version) {
            "on trial"
        } else if self.rolled_back.contains_key(version) {
            "rolled back"
        } else {
            "not tried"
        }
    }

    /// Whether this may come next on `backend`. `by_hand`: a person says it, who may try again what was rolled back; `replace`: it
    /// may take the place of a candidate.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, what: &What, backend: &str, by_hand: bool, replace: bool) -> Result<(), Conflict> {
        let backend = || backend.to_owned();
        match what {
            What::Proposed { version } => {
                if self.incumbent.version() == Some(version) {
                    return Err(Conflict::InForce { version: version.clone(), backend: backend() });
                }
                if let Some(trial) = self.trial.as_ref().filter(|_| !replace) {
                    let Trial { version, stage, .. } = trial.clone();
                    return Err(Conflict::InTrial { version, stage, backend: backend() });
                }
                match self.rolled_back.get(version).filter(|_| !by_hand) {
                    Some(RolledBack { why, detail, .. }) => Err(Conflict::RolledBack {
                        version: version.clone(),
                        why: *why,
                        detail: detail.clone(),
                        backend: backend(),
                    }),
                    None => Ok(()),
                }
            }
            What::StageEntered { version, stage } => {
                let at = self.on_trial(version, backend)?.stage;
                let right = at.next() == Some(*stage) && *stage < Stage::Full;
                let wrong = || Conflict::Stage { version: version.clone(), stage: *stage, at, backend: backend() };
                if right { Ok(()) } else { Err(wrong()) }
            }
            What::Confirmed { version } => {
                let at = self.on_trial(version, backend)?.stage;
                let wrong = || Conflict::Stage { version: version.clone(), stage: Stage::Full, at, backend: backend() };
                if at == Stage::Half { Ok(()) } else { Err(wrong()) }
            }
            What::RolledBack { version, .. } => match self.standing(version) {
                is @ ("not tried" | "rolled back") if !by_hand => {
                    Err(Conflict::NotInTrial { version: version.clone(), is, backend: backend() })
                }
                _ => Ok(()),
            },
            What::Pinned { .. } | What::Unpinned => Ok(()),
        }
    }

    /// The same for an event of any reach: one that is about all backends must be able to come next on each that a controller has written of, and one
    /// that proposes what is in force on some is still news to the others. What only people have named may be nobody's, and nothing ever ends there.
    ///
    /// # Errors
    /// Why not.
    pub fn check_all(events: &[Event], next: &Event, by_hand: bool, replace: bool) -> Result<(), Conflict> {
        if let Some(backend) = &next.backend {
            return Self::of(backend, events).check(&next.what, backend, by_hand, replace);
        }
        let by_controllers = events.iter().filter(|event| event.by.starts_with(BY_CONTROLLER));
        let mut backends: BTreeSet<&str> = by_controllers.filter_map(|event| event.backend.as_deref()).collect();
        if backends.is_empty() {
            backends.insert("all backends");
        }
        let mut in_force = None;
        let count = backends.len();
        let mut there = 0;
        for backend in backends {
            match Self::of(backend, events).check(&next.what, backend, by_hand, replace) {
                Err(conflict @ Conflict::InForce { .. }) => (in_force, there) = (Some(conflict), there + 1),
                other => other?,
            }
        }
        match in_force {
            Some(conflict) if there == count => Err(conflict),
            _ => Ok(()),
        }
    }

    fn on_trial(&self, version: &str, backend: impl Fn() -> String) -> Result<&Trial, Conflict> {
        let not =
            || Conflict::NotInTrial { version: version.to_owned(), is: self.standing(version), backend: backend() };
        self.trial.as_ref().filter(|trial| trial.version == version).ok_or_else(not)
    }
}
