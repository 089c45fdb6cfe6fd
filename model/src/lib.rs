//! Observation to decision: the pure ground floor of Trimtab. Nothing here reads a clock, draws from an unseeded rng, or
//! touches a socket or a file; time and randomness come in as arguments.

pub mod observation;
pub mod decision;
