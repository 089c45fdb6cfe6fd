//! What a running proxy tells whoever started it.

use std::net::SocketAddr;

/// State of a proxy as a whole.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProxyStatus {
    /// Listeners by name.
    pub listeners: Vec<ListenerStatus>,
    /// Where the admin endpoint listens, if it does.
    pub admin: Option<SocketAddr>,
    /// The controller has said which listeners there are, and one of them is bound, if there are any: others may be down without taking it along.
    pub ready: bool,
    /// The controller's stream is open.
    pub connected: bool,
    /// It was told to stop, and finishes what is in flight.
    pub draining: bool,
}

/// One listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerStatus {
    /// `namespace/gateway/listener`.
    pub name: String,
    /// Where it listens, or why it does not.
    pub bound: Result<SocketAddr, String>,
}

impl ProxyStatus {
    /// Where a listener listens.
    pub fn address(&self, listener: &str) -> Option<SocketAddr> {
        self.listeners.iter().find(|status| status.name == listener)?.bound.as_ref().ok().copied()
    }
}
