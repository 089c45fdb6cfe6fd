//! Observation to decision: the pure ground floor of Trimtab. Nothing here reads a clock, draws from an unseeded rng, or
//! touches a socket or a file; time and randomness come in as arguments.

pub mod decision;
pub mod observation;

pub mod decide;
pub mod guard;
pub mod memory;
pub mod policy;
pub mod prior;

mod numbers;

pub use decide::decide;
pub use guard::GuardConfig;
pub use memory::Memory;
pub use policy::Policy;
