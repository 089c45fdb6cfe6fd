//! How a new version of the policy comes into force on live traffic, and goes out of it again. Pure: what happens in the world comes in as
//! arguments, what should happen goes out as values.
//!
//! In reading order: an [`event`](Event) is one line of the log that is both the state and its audit; [`state`](BackendState) is the
//! fold of all of them for one backend; [`version`](VersionManifest) is what a version says of itself; an [`outcome`](Interval) is
//! what came of a tick; [`blocks`] say whose turn it is; [`betting`] tests what the blocks show; [`rails`] stops what is plainly bad; and
//! [`Rollout`] puts them together. [`Live`] is a tick with all of it.

mod arms;
pub mod betting;
pub mod blocks;
mod event;
mod live;
mod outcome;
pub mod rails;
mod settings;
mod state;
mod trial;
mod version;

pub use arms::{Arm, Arms};
pub use event::{BY_CONTROLLER, Choice, EVENT_SCHEMA_VERSION, Event, Stage, What, Why};
pub use live::{Live, Policies, Ticked};
pub use outcome::Interval;
pub use settings::RolloutSettings;
pub use state::{BackendState, Conflict, RolledBack, Trial};
pub use trial::{Fitness, Progress, Rollout, Step};
pub use version::{Gate, MANIFEST_SCHEMA_VERSION, NameError, StoredFile, VersionManifest, check_name};
