//! Validated form of the table of proxies that tell each other what they have in flight.

use std::{collections::HashSet, fmt, net::SocketAddr};

use super::{Check, InvalidResource};
use crate::api::v1;

/// Peers at most: what each of them may take of memory is bounded by the number of endpoints.
const PEERS_MAX: usize = 1024;

/// Who the proxies are that tell each other what they have in flight, and how their datagrams are told from others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerTable {
    /// Those that take datagrams; distinct keys. This proxy is among them, if it does.
    pub peers: Vec<Peer>,
    /// All connected proxies; at least as many as `peers`.
    pub proxies: u32,
    /// Key of the datagrams' HMAC-SHA-256.
    pub mac_key: MacKey,
}

/// One proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Identity: the hash of its id.
    pub key: u64,
    /// Where it takes datagrams.
    pub address: SocketAddr,
    /// Tells its lives apart.
    pub epoch: u64,
}

/// A secret for HMAC-SHA-256 that is never shown.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct MacKey(pub [u8; 32]);

impl fmt::Debug for MacKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("MacKey(…)")
    }
}

impl TryFrom<v1::PeerTable> for PeerTable {
    type Error = InvalidResource;

    fn try_from(wire: v1::PeerTable) -> Result<Self, InvalidResource> {
        let check = Check::new("PeerTable", &wire.name);
        check.that(wire.peers.len() <= PEERS_MAX, "peers", || {
            format!("{} peers: at most {PEERS_MAX}", wire.peers.len())
        })?;
        check.that(wire.proxies as usize >= wire.peers.len(), "proxies", || {
            format!("{} is less than the {} that are listed", wire.proxies, wire.peers.len())
        })?;
        let mac_key = <[u8; 32]>::try_from(&*wire.mac_key)
            .map_err(|_| check.error("mac_key", format!("{} bytes: must have 32", wire.mac_key.len())))?;
        let mut keys = HashSet::with_capacity(wire.peers.len());
        let mut peers = Vec::with_capacity(wire.peers.len());
        for (index, peer) in wire.peers.into_iter().enumerate() {
            check.that(keys.insert(peer.proxy_key), format_args!("peers[{index}].proxy_key"), || {
                format!("{:016x} stands there twice: keys must be distinct", peer.proxy_key)
            })?;
            let address: SocketAddr = peer.address.parse().map_err(|_| {
                let reason = format!("{:?} is not an IP address with a port, such as 10.0.0.7:18001", peer.address);
                check.error(format_args!("peers[{index}].address"), reason)
            })?;
            check.that(
                address.port() != 0 && !address.ip().is_unspecified(),
                format_args!("peers[{index}].address"),
                || format!("{address} cannot be sent to: IP address and port must not be 0"),
            )?;
            peers.push(Peer { key: peer.proxy_key, address, epoch: peer.epoch });
        }
        Ok(Self { peers, proxies: wire.proxies, mac_key: MacKey(mac_key) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> v1::PeerTable {
        let peer = |key: u64| v1::Peer { proxy_key: key, address: format!("10.0.0.{key}:18001"), epoch: 7 };
        v1::PeerTable { name: "peers".into(), peers: vec![peer(1), peer(2)], proxies: 3, mac_key: vec![9; 32] }
    }

    #[track_caller]
    fn check(change: impl FnOnce(&mut v1::PeerTable), expected: &str) {
        let mut wire = table();
        change(&mut wire);
        assert_eq!(PeerTable::try_from(wire).unwrap_err().field, expected);
    }

    #[test]
    fn a_table_that_does_not_hold_is_refused_by_its_field() {
        assert_eq!(PeerTable::try_from(table()).map(|table| table.peers.len()), Ok(2));
        check(|table| table.peers[1].proxy_key = 1, "peers[1].proxy_key");
        check(|table| table.peers[0].address = "proxy:1".into(), "peers[0].address");
        check(|table| table.peers[0].address = "0.0.0.0:1".into(), "peers[0].address");
        check(|table| table.peers[1].address = "10.0.0.1:0".into(), "peers[1].address");
        check(|table| table.proxies = 1, "proxies");
        check(|table| table.mac_key.truncate(31), "mac_key");
        check(|table| table.peers = vec![v1::Peer::default(); 1025], "peers");
    }

    #[test]
    fn the_key_is_not_shown() {
        let table = PeerTable::try_from(table()).unwrap();
        assert!(!format!("{table:?}").contains('9'), "{table:?}");
    }
}
