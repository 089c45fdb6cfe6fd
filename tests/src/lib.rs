//! End-to-end tests against real parts, and the comparison benchmark.

pub mod compare;
pub mod tools;
