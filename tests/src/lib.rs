//! End-to-end tests against real parts, and the comparison benchmark.
