//! The data plane: sockets, HTTP and the pick rule. It knows no Kubernetes and no learning.

pub mod api;
pub mod config;
pub mod head;
pub mod keys;
pub mod route;
pub mod table;
pub mod tls;

pub mod admission;
pub mod arrival;
pub mod average;
pub mod backend;
pub mod class;
pub mod gauge;
pub mod govern;
pub mod hash;
pub mod hosts;
pub mod lateness;
pub mod load;
pub mod outlier;
pub mod path;
pub mod peers;
pub mod pick;
pub mod report;
pub mod sketch;
pub mod time;

pub mod client;
pub mod clock;
pub mod counters;
pub mod health;
pub mod heart;
pub mod http;
pub mod observe;
pub mod probing;
pub mod sample;
pub mod session;
pub mod sockets;
pub mod worker;

pub mod admin;
pub mod ads;
pub mod change;
pub mod handover;
pub mod keeper;
pub mod link;
pub mod metrics;
pub mod server;
pub mod status;
pub mod telemetry;

#[cfg(any(test, fuzzing))]
pub mod fuzzing;

pub use link::Controller;
pub use peers::exchange::PeerListen;
pub use server::{ProxyError, ProxyOptions, run};
pub use status::{ListenerStatus, ProxyStatus};
