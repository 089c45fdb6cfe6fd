//! Versions of the policy in a store, and how they come into force: [`store`] keeps versions and the log of what happened to them,
//! [`follow`] brings both to the control loop and writes what the loop wants written.
//!
//! What the log means, and what should happen next, is `trimtab_model::rollout`'s to say.

pub mod follow;
pub mod store;

pub use follow::{Models, ModelsOptions, Seen};
pub use store::{Append, Log, ModelStore, Numbered, StoreError, StoredVersion, VersionFiles};
