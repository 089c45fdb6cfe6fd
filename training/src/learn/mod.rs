//! Training the policy in the simulator: an evolution strategy over whole runs, because what counts (a 99th percentile after
//! thousands of interacting choices) has no gradient that could be trusted.
//!
//! In reading order: a [`course`] draws scenarios, an [`exam`] runs policies on them, [`score`] says what a run costs, [`strategy`] proposes and learns,
//! [`parameters`] turns its vectors into policies, [`distribution`] measures what the policy gets to see, [`trainer`] puts
//! them together one generation at a time, [`state`] keeps it all through a kill, and [`evaluate`] compares what came out.
//! [`events`] and [`curve`] are for people who watch.

pub mod course;
pub mod curve;
pub mod distribution;
pub mod evaluate;
pub mod events;
pub mod exam;
pub mod parallel;
pub mod parameters;
pub mod score;
pub mod state;
pub mod strategy;
pub mod trainer;

use std::{io, path::PathBuf};

use trimtab_model::checkpoint::CheckpointError;

use crate::scenario::{ScenarioError, seeds::NotTrainable};

/// Why training stopped.
#[derive(Debug, thiserror::Error)]
pub enum LearnError {
    /// A scenario does not hold.
    #[error(transparent)]
    Scenario(#[from] ScenarioError),
    /// A scenario that nothing may be learned from.
    #[error(transparent)]
    NotTrainable(#[from] NotTrainable),
    /// A policy cannot be written down.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A file cannot be read or written.
    #[error("{path}: {source}", path = path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file holds something else than it should.
    #[error("{path}: {problem}", path = path.display())]
    Content {
        /// Which.
        path: PathBuf,
        /// What it holds, and what it should.
        problem: String,
    },
    /// The plot cannot be drawn.
    #[error("the learning curve: {0}")]
    Plot(String),
    /// An option that makes no sense.
    #[error("{field} is {value}, it must be {allowed}")]
    Option {
        /// Which.
        field: &'static str,
        /// What it is.
        value: String,
        /// What would be right.
        allowed: &'static str,
    },
}
