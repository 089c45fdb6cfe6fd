//! Observation to decision: the pure ground floor of Trimtab. Nothing here reads a clock, draws from an unseeded rng,
//! or touches a socket or a file; time and randomness come in as arguments.
//!
//! In reading order: [`observation`] comes in, [`decision`] goes out, [`decide`](mod@decide) is the step between them,
//! and its parts are [`memory`], [`prior`], [`features`], [`policy`] (a [`network`] from a [`checkpoint`], run by
//! [`infer`], with facts about the [`service`] it was refined for) and [`guard`]. [`recording`] writes all of it down; [`rollout`] brings
//! another policy into force, and out of it.

pub mod decision;
pub mod observation;

pub mod checkpoint;
pub mod classes;
pub mod decide;
pub mod features;
pub mod guard;
pub mod infer;
pub mod memory;
pub mod network;
pub mod policy;
pub mod prior;
pub mod recording;
pub mod rollout;
pub mod service;
pub mod slots;

mod numbers;

pub use decide::decide;
pub use guard::{GuardConfig, GuardConfigError, GuardSettings};
pub use memory::Memory;
pub use policy::Policy;
