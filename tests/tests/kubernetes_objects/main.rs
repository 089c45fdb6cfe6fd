//! What objects of a real cluster come to, end to end: each of these tests applies some, and asks what is served and what is said of them.

#![allow(clippy::disallowed_methods, reason = "tests of real processes run in real time")]

mod bad_input;
mod grpc;
mod https;
mod ingress;
mod permissions;
mod policies;
mod rotation;
mod routes;
mod sessions;
mod tls;
