//! What the exchange counts, for the admin endpoint. Only the exchange writes.

use std::{net::SocketAddr, sync::Arc};

use arc_swap::ArcSwap;

use super::heard::{PeerState, Rejected};
use crate::counters::Counter;

/// Numbers of one proxy's exchange with its peers.
#[derive(Debug)]
pub struct PeerStats {
    /// Where it takes datagrams.
    pub listen: SocketAddr,
    /// What other proxies are told to send to.
    pub advertised: SocketAddr,
    /// Datagrams sent, each peer counted.
    pub sent: Counter,
    /// Datagrams that the system would not send.
    pub send_errors: Counter,
    /// Datagrams received, whatever became of them.
    pub received: Counter,
    /// Those that were dropped, by reason, in the order of [`Rejected::ALL`].
    pub rejected: [Counter; Rejected::ALL.len()],
    /// Who the peers are, as of a moment ago.
    pub peers: ArcSwap<Known>,
}

/// The peers at one moment.
#[derive(Debug, Default)]
pub struct Known {
    /// How many other proxies there are, those that take part in no exchange included.
    pub expected: u32,
    /// Those that take part.
    pub peers: Vec<PeerState>,
}

impl PeerStats {
    /// Of a proxy that takes datagrams there.
    pub fn new(listen: SocketAddr, advertised: SocketAddr) -> Arc<Self> {
        Arc::new(Self {
            listen,
            advertised,
            sent: Counter::default(),
            send_errors: Counter::default(),
            received: Counter::default(),
            rejected: Default::default(),
            peers: ArcSwap::default(),
        })
    }

    /// A datagram was dropped.
    pub(super) fn reject(&self, rejected: Rejected) {
        self.received.add(1);
        self.rejected[rejected as usize].add(1);
    }
}
