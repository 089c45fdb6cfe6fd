//! Proxies tell each other, every few milliseconds, how many requests of each class they have in flight at each endpoint, so that they do
//! not all choose the same idle one. By UDP between the proxies themselves: the way over the controller would take too long. Only hints
//! travel: whatever is lost, late or not believed, the rule falls back to own counts times the number of proxies.
//!
//! `wire` is the datagram, `mac` tells whether it is one of ours, `sent` decides what is told when, `heard` keeps what was heard; all pure.
//! `exchange` is the thread with the socket.

pub mod exchange;
pub mod heard;
pub mod mac;
pub mod sent;
pub mod stats;
#[cfg(test)]
mod testing;
pub mod wire;

use std::{sync::Arc, time::Duration};

use crate::{backend::Backend, config::Algorithm, hash, load::CLASSES_MAX, pick::costs::Costs};

/// What changed is told this often at most.
pub const INTERVAL: Duration = Duration::from_millis(1);
/// What did not change is told again after this long: datagrams get lost, and silence means that a proxy is gone.
pub const HEARTBEAT: Duration = Duration::from_millis(25);
/// What was heard counts for this long.
pub const FRESH: Duration = Duration::from_millis(100);

/// Requests in flight at one endpoint, by class.
pub type Counts = [u16; CLASSES_MAX];

/// Which endpoints and classes counts are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct About {
    /// Hash of the backend's name.
    pub backend: u64,
    /// Fingerprint of its endpoints and their order.
    pub generation: u64,
    /// Which class a number stands for; 0: none are told apart.
    pub numbering: u64,
}

/// A backend whose counts are exchanged.
#[derive(Debug, Clone)]
pub struct Subject {
    /// What its counts are about.
    pub about: About,
    /// The backend.
    pub backend: Arc<Backend>,
}

impl Subject {
    /// `None` where the backend's rule does not ask what others have in flight.
    pub fn of(backend: &Arc<Backend>) -> Option<Self> {
        let config = backend.config();
        let about = About {
            backend: hash::fnv1a(&config.name),
            generation: config.generation,
            numbering: backend.costs().map_or(0, Costs::numbering),
        };
        let asks = config.terms.peers && config.algorithm == Algorithm::Adaptive;
        asks.then(|| Self { about, backend: backend.clone() })
    }
}
