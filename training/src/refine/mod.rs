//! Refinement: from a service's recordings to a version of the policy that is better for it, or to the reasons why there is none.
//!
//! In reading order: the [`inventory`] says what the recordings have, the [`audit`] whether they agree with themselves, [`candidates`] are made from them, a [`trial`] runs them in the service's
//! [twin](crate::twin), [`foresight`] asks whether what was found out explains requests that nothing was fitted to, the [`gate`] hears all estimators
//! and decides, and the [`report`] says why, for people. [`job`] puts them in order.

pub mod audit;
pub mod candidates;
pub mod foresight;
pub mod gate;
pub mod inventory;
pub mod job;
pub mod report;
pub mod trial;

pub use gate::{Gate, Refusal};
pub use inventory::Inventory;
pub use job::{Job, Options, Refined};
