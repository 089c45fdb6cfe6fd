//! One event of the life of the versions. Events are only ever added: together they are the state of every rollout and the audit
//! of how it came about.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Version of the layout of events; changes when an event of the new one would be misread by an old Trimtab.
pub const EVENT_SCHEMA_VERSION: u32 = 1;

/// What [`Event::by`] of controllers begins with.
pub const BY_CONTROLLER: &str = "controller ";

/// Something that happened, with who did it and what they went by.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// [`EVENT_SCHEMA_VERSION`] of the writer.
    pub schema_version: u32,
    /// When, milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// Who: `controller ID`, `cli USER`, `trainer ID`.
    pub by: String,
    /// The backend that it is about, `namespace/service:port`; nothing: all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
    /// What happened.
    #[serde(flatten)]
    pub what: What,
    /// The numbers that it rests on, whatever they are.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub evidence: Value,
}

impl Event {
    /// Something that happened, without evidence yet.
    pub fn new(at_ms: i64, by: impl Into<String>, backend: Option<&str>, what: What) -> Self {
        Self {
            schema_version: EVENT_SCHEMA_VERSION,
            at_ms,
            by: by.into(),
            backend: backend.map(str::to_owned),
            what,
            evidence: Value::Null,
        }
    }

    /// The same, resting on this.
    #[must_use]
    pub fn resting_on(self, evidence: Value) -> Self {
        Self { evidence, ..self }
    }

    /// Whether it is about this backend.
    pub fn concerns(&self, backend: &str) -> bool {
        self.backend.as_deref().is_none_or(|own| own == backend)
    }
}

/// What can happen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum What {
    /// A version is to be tried: it becomes the candidate, and begins in the shadow. Proposing a version that was rolled back is how a
    /// person gives it another chance.
    Proposed {
        /// Which.
        version: String,
    },
    /// The candidate has come so far.
    StageEntered {
        /// Which.
        version: String,
        /// Where to.
        stage: Stage,
    },
    /// The candidate has become what is in force.
    Confirmed {
        /// Which.
        version: String,
    },
    /// The version is out, and stays out until somebody proposes it again.
    RolledBack {
        /// Which.
        version: String,
        /// Why.
        why: Why,
        /// Why, in words.
        #[serde(default)]
        detail: String,
    },
    /// Whatever the rollout says, this is in force.
    Pinned {
        /// What.
        to: Choice,
    },
    /// The rollout decides again.
    Unpinned,
}

impl What {
    /// The version that it is about, if it is about one.
    pub fn version(&self) -> Option<&str> {
        match self {
            Self::Proposed { version }
            | Self::StageEntered { version, .. }
            | Self::Confirmed { version }
            | Self::RolledBack { version, .. }
            | Self::Pinned { to: Choice::Version(version) } => Some(version),
            Self::Pinned { .. } | Self::Unpinned => None,
        }
    }

    /// Its name, as in the log.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Proposed { .. } => "proposed",
            Self::StageEntered { .. } => "stage-entered",
            Self::Confirmed { .. } => "confirmed",
            Self::RolledBack { .. } => "rolled-back",
            Self::Pinned { .. } => "pinned",
            Self::Unpinned => "unpinned",
        }
    }
}

/// How far a candidate has come, as the share of the time in which it decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Stage {
    /// It proposes and is looked at; nothing of it is applied.
    #[serde(rename = "shadow")]
    Shadow,
    /// It decides 5 % of the time.
    #[serde(rename = "5%")]
    Five,
    /// It decides a quarter of the time.
    #[serde(rename = "25%")]
    TwentyFive,
    /// It decides half of the time, until it is shown to be better, or no better.
    #[serde(rename = "50%")]
    Half,
    /// It is in force; the fallback takes short turns to compare with.
    #[serde(rename = "100%")]
    Full,
}

impl Stage {
    /// All, in order.
    pub const ALL: [Self; 5] = [Self::Shadow, Self::Five, Self::TwentyFive, Self::Half, Self::Full];

    /// As people read it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Shadow => "shadow",
            Self::Five => "5%",
            Self::TwentyFive => "25%",
            Self::Half => "50%",
            Self::Full => "100%",
        }
    }

    /// Share of the time in which the candidate decides.
    pub fn share(self) -> f64 {
        match self {
            Self::Shadow => 0.0,
            Self::Five => 0.05,
            Self::TwentyFive => 0.25,
            Self::Half => 0.5,
            Self::Full => 1.0,
        }
    }

    /// The next one.
    pub fn next(self) -> Option<Self> {
        Self::ALL.into_iter().find(|stage| *stage > self)
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What can be in force.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum Choice {
    /// The policy inside the binary.
    Builtin,
    /// The capacity prior.
    Fallback,
    /// A version of the store.
    Version(String),
}

impl Choice {
    /// As people write it.
    pub fn name(&self) -> &str {
        match self {
            Self::Builtin => "builtin",
            Self::Fallback => "fallback",
            Self::Version(version) => version,
        }
    }

    /// The version, if it is one.
    pub fn version(&self) -> Option<&str> {
        match self {
            Self::Version(version) => Some(version),
            Self::Builtin | Self::Fallback => None,
        }
    }
}

impl From<String> for Choice {
    fn from(name: String) -> Self {
        match name.as_str() {
            "builtin" => Self::Builtin,
            "fallback" => Self::Fallback,
            _ => Self::Version(name),
        }
    }
}

impl From<Choice> for String {
    fn from(choice: Choice) -> Self {
        choice.name().to_owned()
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Why a version is out. The names are the operator's contract: they appear in the log, the metrics and the dashboard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Why {
    /// Its file cannot be used.
    Unusable,
    /// In the shadow it failed, or most of what it saw was unlike its training.
    Unfit,
    /// More requests failed than ever under what was in force.
    Errors,
    /// More requests were turned away.
    Shed,
    /// Fewer answers came within the objective.
    Goodput,
    /// The slowest answers took much longer.
    Latency,
    /// Requests piled up.
    PileUp,
    /// Over all blocks it was worse than what was in force.
    WorseThanIncumbent,
    /// In force, it was worse than the fallback.
    WorseThanFallback,
    /// It could not be told apart from what was in force within the time that a stage may take.
    Undecided,
    /// A person said so.
    ByHand,
    /// Another version was proposed in its place.
    Superseded,
}
