//! HTTP/1.1 and HTTP/2: from a client's socket to an endpoint's and back.
//!
//! There are two ways: the [`fast`] path for what is plain, and hyper for everything else ([`forward`], [`body`], [`upstream`], [`upgrade`]).
//! What decides is shared and knows neither: [`connection`], [`arrive`], [`attempts`], [`pool`], [`account`], [`pace`], [`edits`],
//! [`orca`] and [`error`].

pub mod account;
pub mod arrive;
pub mod attempts;
pub mod body;
pub mod connection;
pub mod edits;
pub mod error;
pub mod fast;
pub mod forward;
pub mod framing;
pub mod grpc;
pub mod headers;
pub mod http2;
pub mod max_forwards;
pub mod mirror;
pub mod orca;
pub mod pace;
pub mod pool;
pub mod resend;
pub mod session;
pub mod shared;
pub mod stream;
pub mod upgrade;
pub mod upstream;
pub mod websocket;
