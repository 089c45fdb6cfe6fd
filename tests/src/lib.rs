//! What the end-to-end tests share (the real binary as a process, an HTTP client, where the tools are), and the comparison benchmark.

#![allow(clippy::disallowed_methods, reason = "tests of real processes run in real time")]

pub mod abuse;
pub mod cluster;
pub mod compare;
pub mod echo;
pub mod http;
pub mod load;
pub mod process;
pub mod smuggling;
pub mod tools;
pub mod walkthrough;
pub mod world;
