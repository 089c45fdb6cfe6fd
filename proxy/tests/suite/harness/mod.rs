//! A proxy under test: real sockets on loopback, real hyper backends, and a controller that says what the test tells it to, over the same
//! gRPC that a real one speaks.

pub mod backend;
pub mod client;
pub mod controller;
pub mod proxy;

pub use backend::{Backend, RawBackend, text};
pub use client::{Answer, Raw};
pub use controller::FakeController;
pub use proxy::{Proxy, Setup};

use std::{future::Future, time::Duration};

/// Waits until `holds`, and fails the test if it does not within five seconds.
#[track_caller]
pub fn eventually<F, Fut>(what: &'static str, mut holds: F) -> impl Future<Output = ()>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = bool>,
{
    let caller = std::panic::Location::caller();
    async move {
        for _ in 0..500 {
            if holds().await {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{what}: not within 5 s ({caller})");
    }
}
