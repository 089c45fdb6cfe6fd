//! Offline reinforcement learning on recorded ticks: better policies from what a service went through, and estimates of what they are worth,
//! with nothing but the recording. Terms are those of Sutton & Barto; docs/refinement.md says what is assumed where.
//!
//! In reading order: [`dataset`] (rows to episodes of states, actions and outcomes), [`outcome`] (what an interval was worth), [`basis`] (the linear
//! features that values are fitted on), [`learner`] (policies), [`estimate`] (what they are worth) and [`vote`] (all estimators together).
//!
//! Pure: no clock, no files, all randomness from seeds.

pub mod basis;
pub mod dataset;
pub mod estimate;
pub mod learner;
pub mod linear;
pub mod outcome;
pub mod vote;
