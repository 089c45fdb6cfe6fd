//! HTTP/1.1: from a client's socket to an endpoint's and back.
//!
//! hyper parses and writes both sides; everything else is here, in the order in which a request meets it. What a hand-written fast path
//! would share is kept apart from hyper: [`framing`], [`headers`], [`account`], [`orca`] and [`error`] know nothing of it.

pub mod account;
pub mod body;
pub mod connection;
pub mod error;
pub mod forward;
pub mod framing;
pub mod headers;
pub mod orca;
pub mod pool;
pub mod session;
pub mod upgrade;
pub mod upstream;
