//! The thread that exchanges counts with the peers. No request waits for it or wakes it: it looks at the counts every millisecond,
//! and at its socket every half of one, so that the cost is that of a few wake-ups however many peers talk.

use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::Arc,
    thread,
    time::Duration,
};

use arc_swap::ArcSwap;
use socket2::{Domain, Socket, Type};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    INTERVAL, Subject,
    heard::Heard,
    sent::Sent,
    stats::{Known, PeerStats},
    wire::DATAGRAM_BYTES_MAX,
};
use crate::{clock, config::PeerTable, table::Table, time::Timestamp};

/// How often the socket is looked at.
const LOOK: Duration = Duration::from_micros(500);
/// The same while there are no peers.
const IDLE: Duration = Duration::from_millis(20);
/// How often people are shown who the peers are.
const SHOW: Duration = Duration::from_millis(25);
/// Datagrams that are taken in before it is the turn of sending again.
const BATCH: usize = 1024;
/// What may wait in the socket: half a millisecond of a hundred busy peers.
const RECEIVE_BUFFER_BYTES: usize = 1 << 20;

/// Where a proxy takes datagrams of its peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerListen {
    /// The address to listen on; port 0 lets the system choose.
    pub address: SocketAddr,
    /// The IP address that the others are told, where it is another: it must be given where `address` is unspecified (`0.0.0.0`).
    pub advertise: Option<IpAddr>,
}

/// Why a proxy cannot listen to its peers.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// There is nothing to tell the others.
    #[error(
        "peer advertise: must be set to the IP address at which other proxies reach this one, as it listens on {0}"
    )]
    NoAddress(SocketAddr),
    /// Nobody can send there.
    #[error("peer advertise: {0} is no address that others could send to")]
    Unspecified(IpAddr),
    /// The system does not let it.
    #[error("peer listen: cannot listen on {address}: {source}")]
    Bind {
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
}

/// A bound socket, and what it is told to others as.
#[derive(Debug)]
pub struct Bound {
    socket: UdpSocket,
    /// Where it listens.
    pub listen: SocketAddr,
    /// What the others are told.
    pub advertised: SocketAddr,
}

impl Bound {
    /// The socket once more, for a successor.
    ///
    /// # Errors
    /// If the system has no descriptor left.
    pub fn try_clone(&self) -> io::Result<UdpSocket> {
        self.socket.try_clone()
    }
}

impl PeerListen {
    /// Binds the socket.
    ///
    /// # Errors
    /// If nobody could send to it, or the system does not let it.
    pub fn bind(self) -> Result<Bound, ListenError> {
        self.bind_or_take(None)
    }

    /// The same with the socket of a predecessor, if that listens where this one is to listen.
    ///
    /// # Errors
    /// If nobody could send to it, or the system does not let it.
    pub fn bind_or_take(self, inherited: Option<UdpSocket>) -> Result<Bound, ListenError> {
        match self.advertise {
            None if self.address.ip().is_unspecified() => return Err(ListenError::NoAddress(self.address)),
            Some(ip) if ip.is_unspecified() => return Err(ListenError::Unspecified(ip)),
            _ => {}
        }
        let inherited = inherited.filter(|socket| socket.local_addr().is_ok_and(|local| local == self.address));
        let bind = || {
            if let Some(socket) = inherited {
                let advertised = SocketAddr::new(self.advertise.unwrap_or(self.address.ip()), self.address.port());
                return Ok(Bound { socket, listen: self.address, advertised });
            }
            let socket = Socket::new(Domain::for_address(self.address), Type::DGRAM, None)?;
            socket.set_nonblocking(true)?;
            // The system may give less; then a burst loses more, which is told again.
            socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES)?;
            socket.bind(&self.address.into())?;
            let socket = UdpSocket::from(socket);
            let listen = socket.local_addr()?;
            let advertised = SocketAddr::new(self.advertise.unwrap_or(listen.ip()), listen.port());
            Ok(Bound { socket, listen, advertised })
        };
        bind().map_err(|source| ListenError::Bind { address: self.address, source })
    }
}

/// Everything that the thread works with.
#[derive(Debug)]
pub struct Exchange {
    socket: UdpSocket,
    table: Arc<ArcSwap<Table>>,
    peers: watch::Receiver<Option<Arc<PeerTable>>>,
    stats: Arc<PeerStats>,
    sent: Sent,
    heard: Heard,
    /// The table that `subjects` were made of.
    known: Arc<Table>,
    subjects: Vec<Subject>,
}

impl Exchange {
    /// Of the proxy with this key, in the life with this epoch.
    pub fn new(
        bound: Bound,
        (key, epoch): (u64, u64),
        table: Arc<ArcSwap<Table>>,
        peers: watch::Receiver<Option<Arc<PeerTable>>>,
    ) -> Self {
        let now = clock::now();
        Self {
            stats: PeerStats::new(bound.listen, bound.advertised),
            socket: bound.socket,
            known: Arc::default(),
            table,
            peers,
            sent: Sent::new(key, epoch, now),
            heard: Heard::new(key, now),
            subjects: Vec::new(),
        }
    }

    /// What it counts.
    pub fn stats(&self) -> Arc<PeerStats> {
        self.stats.clone()
    }

    /// Exchanges counts on this thread until `stop`.
    pub fn run(mut self, stop: &CancellationToken) {
        let (mut send_at, mut show_at) = (Timestamp::ZERO, Timestamp::ZERO);
        let mut buffer = [0; DATAGRAM_BYTES_MAX + 1];
        while !stop.is_cancelled() {
            let now = clock::now();
            self.follow(now);
            self.receive(&mut buffer, now);
            self.heard.hand_over(&self.subjects, now);
            if now >= send_at {
                self.send(now);
                send_at = now + INTERVAL;
            }
            if now >= show_at {
                let known = Known { expected: self.heard.expected(), peers: self.heard.peers().collect() };
                self.stats.peers.store(Arc::new(known));
                show_at = now + SHOW;
            }
            thread::sleep(if self.heard.peers().len() == 0 { IDLE } else { LOOK });
        }
    }

    fn follow(&mut self, now: Timestamp) {
        // A sender that is gone changes nothing any more.
        if self.peers.has_changed().unwrap_or(false)
            && let Some(table) = self.peers.borrow_and_update().clone()
        {
            self.heard.set_table(&table, now);
        }
        let table = self.table.load();
        if !Arc::ptr_eq(&table, &self.known) {
            self.known = Arc::clone(&table);
            self.subjects = table.backends.iter().filter_map(|entry| Subject::of(&entry.backend)).collect();
            self.heard.follow(&self.subjects);
        }
    }

    fn receive(&mut self, buffer: &mut [u8], now: Timestamp) {
        for _ in 0..BATCH {
            match self.socket.recv_from(buffer) {
                Ok((length, _)) => match self.heard.receive(&buffer[..length], now) {
                    Ok(()) => self.stats.received.add(1),
                    Err(rejected) => self.stats.reject(rejected),
                },
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // What the network says of a datagram that was sent (RFC 1122, 4.1.3.3) stands here too; the peer is silent then.
                Err(error) => tracing::trace!(%error, "receiving from peers"),
            }
        }
    }

    fn send(&mut self, now: Timestamp) {
        let peers = self.heard.peers().len();
        let Some(keys) = self.heard.keys() else { return };
        let datagrams = self.sent.datagrams(now, &self.subjects, peers, keys);
        if datagrams.is_empty() {
            return;
        }
        for address in self.heard.destinations(now) {
            for datagram in &datagrams {
                match self.socket.send_to(datagram, address) {
                    Ok(_) => self.stats.sent.add(1),
                    // Hints: what cannot be sent now is told again later.
                    Err(error) => {
                        self.stats.send_errors.add(1);
                        tracing::trace!(%address, %error, "sending to a peer");
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bind(address: &str, advertise: Option<&str>) -> Result<Bound, ListenError> {
        let address = address.parse().unwrap();
        PeerListen { address, advertise: advertise.map(|ip| ip.parse().unwrap()) }.bind()
    }

    #[test]
    fn others_are_told_an_address_that_they_can_send_to() {
        let own = bind("127.0.0.1:0", None).unwrap();
        assert_eq!(own.advertised, own.listen);
        let other = bind("0.0.0.0:0", Some("127.0.0.1")).unwrap();
        assert_eq!(other.advertised, SocketAddr::new([127, 0, 0, 1].into(), other.listen.port()));
        assert!(matches!(bind("0.0.0.0:0", None), Err(ListenError::NoAddress(_))));
        assert!(matches!(bind("0.0.0.0:0", Some("0.0.0.0")), Err(ListenError::Unspecified(_))));
        let taken = own.listen.to_string();
        assert!(matches!(bind(&taken, None), Err(ListenError::Bind { .. })));
    }
}
