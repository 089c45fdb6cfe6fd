//! Push to proxies: a delta ADS server (envoy.service.discovery.v3) for the resource types of the data-plane API.
//!
//! `snapshot` holds every resource, encoded once; `changes` says of a backend what is different from what a proxy has; `session` is the protocol of one stream, pure; `server` moves bytes.

mod changes;
mod server;
mod session;
mod snapshot;

pub use server::{AdsEvent, AdsService};
pub use session::Session;
pub use snapshot::{Kind, Publisher, Resource, Snapshot};
