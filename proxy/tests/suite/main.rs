//! The proxy over real sockets: one test a sentence. One binary, because each would link all of hyper and tonic again.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod harness;

mod checks;
mod classes;
mod conformance;
mod differential;
mod failures;
mod fast;
mod filters;
mod floods;
mod handed_over;
mod hostile;
mod http2;
mod late;
mod lifecycle;
mod observe;
mod pace;
mod prequal;
mod requests;
mod resend;
mod restart;
mod streaming;
mod tls;
mod traffic;
mod websocket;
