//! The simulator and the learners: the production pick rule and `decide` in simulated time, on scenarios made from seeds.

pub mod bounds;
pub mod contest;
pub mod fleet;
pub mod learn;
pub mod offline;
pub mod refine;
pub mod report;
pub mod rivals;
pub mod scenario;
pub mod simulator;
pub mod tune;
pub mod twin;
