//! Deterministic discrete-event simulation of a service behind P proxies: simulated time, network, pods and randomness
//! around the production routing code. A [`Scenario`](crate::scenario::Scenario) (data, made from a seed) and a
//! [`Router`] go in, a [`Summary`] comes out; the same pair replays bit for bit.

pub mod endpoint;
pub mod engine;
pub mod random;
pub mod router;
pub mod schedule;
pub mod statistics;
pub mod time;
pub mod work;

pub use engine::simulate;
pub use router::{Outcome, Router, Routing};
pub use statistics::Summary;
