//! The simulator and the learners.
