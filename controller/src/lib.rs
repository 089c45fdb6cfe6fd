//! The controller: providers of configuration, scraping, the control tick, push to proxies, recording.

pub mod address;
pub mod balancing;
pub mod crds;
pub mod duration;
pub mod gateway;
pub mod objects;
pub mod policy;
pub mod policy_status;
pub mod problem;
pub mod provider;
pub mod view;

pub mod audit;
pub mod check;
pub mod checks;
pub mod classes;
pub mod clock;
pub mod collect;
pub mod controller;
pub mod errors;
pub mod keys;
pub mod leader;
pub mod loads;
pub mod metrics;
pub mod models;
pub mod objective;
pub mod pki;
pub mod recording;
pub mod scrape;
pub mod session_keys;
pub mod status;
pub mod store;
pub mod telemetry;
pub mod tick;
pub mod window;
pub mod xds;

mod index;
mod peers;
mod picture;
pub mod policies;
mod proxies;

#[cfg(test)]
mod fixtures;

/// What Trimtab calls itself where the API server keeps who wrote which field.
pub const FIELD_MANAGER: &str = "trimtab";

pub use controller::{Controller, ControllerError, ControllerOptions};
