//! Proxies that tell each other what they have in flight: what a proxy says of itself when it connects, and the table of all of them.

use std::net::SocketAddr;

use envoy_types::pb::google::protobuf::{Struct, value::Kind as Value};
use rand::TryRngCore;
use rand::rngs::OsRng;
use trimtab_proxy::api::{self, v1};

use crate::gateway::fingerprint;

/// Where a proxy takes datagrams of others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerNode {
    /// Its UDP address.
    pub address: SocketAddr,
    /// Tells its lives apart.
    pub epoch: u64,
}

/// A secret that all proxies of this controller share, anew with each controller. It is never shown.
pub struct MacKey([u8; 32]);

impl std::fmt::Debug for MacKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("MacKey(…)")
    }
}

impl MacKey {
    /// From the system's randomness, whatever seed the rest is run with: who knows the seed must not know the key. `None` if the system has
    /// none to give; then proxies exchange nothing.
    pub fn draw() -> Option<Self> {
        let mut key = [0; 32];
        OsRng.try_fill_bytes(&mut key).ok().map(|()| Self(key))
    }
}

impl PeerNode {
    /// From the metadata of an ADS node; `None` where it says nothing of peers.
    ///
    /// # Errors
    /// What does not hold, by its field.
    pub fn from_metadata(metadata: Option<&Struct>) -> Result<Option<Self>, String> {
        let text = |name: &str| match metadata?.fields.get(name)?.kind.as_ref()? {
            Value::StringValue(text) => Some(text.as_str()),
            _ => Some(""),
        };
        let Some(address) = text(api::PEER_ADDRESS) else { return Ok(None) };
        let parsed = address.parse::<SocketAddr>().ok();
        let valid =
            parsed.filter(|address| address.port() != 0 && !address.ip().is_unspecified()).ok_or_else(|| {
                let field = api::PEER_ADDRESS;
                format!("node.metadata[{field}]: {address:?} is not an address to send to, such as 10.0.0.7:18001")
            })?;
        let epoch = text(api::PEER_EPOCH).unwrap_or_default();
        let epoch = u64::from_str_radix(epoch, 16).map_err(|_| {
            let field = api::PEER_EPOCH;
            format!("node.metadata[{field}]: {epoch:?} is not a number of up to 16 hexadecimal digits")
        })?;
        Ok(Some(Self { address: valid, epoch }))
    }
}

/// The table of these peers, by id, of whom there are so many connected `proxies` in all.
pub fn table<'a>(peers: impl Iterator<Item = (&'a str, PeerNode)>, proxies: usize, key: &MacKey) -> v1::PeerTable {
    let peer = |(id, node): (&str, PeerNode)| v1::Peer {
        proxy_key: fingerprint::proxy_key(id),
        address: node.address.to_string(),
        epoch: node.epoch,
    };
    v1::PeerTable {
        name: api::PEER_TABLE.to_owned(),
        peers: peers.map(peer).collect(),
        proxies: u32::try_from(proxies).unwrap_or(u32::MAX),
        mac_key: key.0.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::google::protobuf::Value as Field;

    use super::*;

    fn check(fields: &[(&str, &str)], expected: Result<Option<&str>, &str>) {
        let field = |text: &str| Field { kind: Some(Value::StringValue(text.to_owned())) };
        let metadata = Struct { fields: fields.iter().map(|(name, text)| ((*name).to_owned(), field(text))).collect() };
        match (PeerNode::from_metadata(Some(&metadata)), expected) {
            (Ok(node), Ok(address)) => assert_eq!(node.map(|node| node.address.to_string()).as_deref(), address),
            (Err(error), Err(part)) => assert!(error.contains(part), "{error}"),
            (found, expected) => panic!("{found:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn what_a_proxy_says_of_itself_is_checked_by_field() {
        assert_eq!(PeerNode::from_metadata(None), Ok(None));
        check(&[("zone", "a")], Ok(None));
        check(&[(api::PEER_ADDRESS, "10.0.0.7:1"), (api::PEER_EPOCH, "00000000000000ff")], Ok(Some("10.0.0.7:1")));
        check(&[(api::PEER_ADDRESS, "proxy:1")], Err("peer-address]: \"proxy:1\" is not"));
        check(&[(api::PEER_ADDRESS, "0.0.0.0:1")], Err("peer-address]"));
        check(&[(api::PEER_ADDRESS, "10.0.0.7:0")], Err("peer-address]"));
        check(&[(api::PEER_ADDRESS, "10.0.0.7:1")], Err("peer-epoch]: \"\" is not"));
    }

    #[test]
    fn keys_differ_and_are_not_shown() {
        let (one, other) = (MacKey::draw().unwrap(), MacKey::draw().unwrap());
        assert_ne!(one.0, other.0);
        assert_eq!(format!("{one:?}"), "MacKey(…)");
    }
}
