//! Configuration from the command line: `--listen`, `--to`, `--backends` and what goes with them, turned into the very objects that a
//! folder of YAML files would hold.

use std::{net::SocketAddr, path::PathBuf};

use crate::{
    address::HostPort,
    duration::Duration,
    policy::{AdaptiveMode, Algorithm, Metrics},
};

/// What the flags say.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    /// Where to accept requests; at least one. Port 0: the system chooses.
    pub listen: Vec<SocketAddr>,
    /// Endpoints named one by one.
    pub to: Vec<HostPort>,
    /// A file with an endpoint a line, watched.
    pub backends: Option<PathBuf>,
    /// The algorithm.
    pub algorithm: Algorithm,
    /// The latency objective; `None`: derived.
    pub objective: Option<Duration>,
    /// How far the learned policy may act; `None`: the policy's default.
    pub mode: Option<AdaptiveMode>,
    /// How endpoints are scraped.
    pub metrics: Metrics,
}
