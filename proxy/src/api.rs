//! The data-plane API: what the controller pushes (resources over delta ADS) and what proxies report (telemetry), as generated from
//! `proto/`. These are wire types; `config` turns them into validated ones.

/// Version 1 of the API.
#[allow(missing_docs, unused_qualifications, clippy::all)]
pub mod v1 {
    tonic::include_proto!("trimtab.dataplane.v1");
}

impl std::fmt::Debug for v1::Certificate {
    /// Without the key.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { name, chain_pem, key_pem: _ } = self;
        let chain = String::from_utf8_lossy(chain_pem);
        formatter.debug_struct("Certificate").field("name", name).field("chain_pem", &chain).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for v1::SessionPersistence {
    /// Without the keys.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { cookie, header, absolute_timeout_s, idle_timeout_s, permanent, keys: _ } = self;
        formatter
            .debug_struct("SessionPersistence")
            .field("cookie", cookie)
            .field("header", header)
            .field("absolute_timeout_s", absolute_timeout_s)
            .field("idle_timeout_s", idle_timeout_s)
            .field("permanent", permanent)
            .finish_non_exhaustive()
    }
}

/// Type URL of a [`v1::Listener`].
pub const LISTENER_TYPE: &str = "type.googleapis.com/trimtab.dataplane.v1.Listener";
/// Type URL of a [`v1::HttpRoute`].
pub const HTTP_ROUTE_TYPE: &str = "type.googleapis.com/trimtab.dataplane.v1.HttpRoute";
/// Type URL of a [`v1::Backend`].
pub const BACKEND_TYPE: &str = "type.googleapis.com/trimtab.dataplane.v1.Backend";
/// Type URL of a [`v1::WeightTable`].
pub const WEIGHT_TABLE_TYPE: &str = "type.googleapis.com/trimtab.dataplane.v1.WeightTable";
/// Type URL of a [`v1::ClassTable`].
pub const CLASS_TABLE_TYPE: &str = "type.googleapis.com/trimtab.dataplane.v1.ClassTable";
/// Type URL of a [`v1::ErrorTable`].
pub const ERROR_TABLE_TYPE: &str = "type.googleapis.com/trimtab.dataplane.v1.ErrorTable";
/// Type URL of a [`v1::PeerTable`].
pub const PEER_TABLE_TYPE: &str = "type.googleapis.com/trimtab.dataplane.v1.PeerTable";
/// Name of the one [`v1::PeerTable`].
pub const PEER_TABLE: &str = "peers";

/// Field of the ADS node's metadata that holds where a proxy takes datagrams of its peers, `IP:port`.
pub const PEER_ADDRESS: &str = "trimtab.dev/peer-address";
/// Field that holds its epoch, 16 hexadecimal digits.
pub const PEER_EPOCH: &str = "trimtab.dev/peer-epoch";

/// Fingerprint of all that is said of an endpoint: whether it is `ready`, its name for people (not empty) and its zone; its address is a host, IPv6
/// without brackets, and a port.
pub fn endpoint_fingerprint(key: u64, address: (&str, u16), name: &str, zone: &str, ready: bool) -> u64 {
    crate::config::endpoints::fingerprint(key, address, name, zone, ready)
}

/// [`v1::Backend::endpoints_version`] of endpoints with these fingerprints, in their order.
pub fn endpoints_version(fingerprints: impl Iterator<Item = u64>) -> u64 {
    crate::config::endpoints::list_version(fingerprints)
}

/// The field of a filter that the data plane would refuse, and why; `None`: it holds. For whoever makes filters, so that the rules are in
/// one place.
pub fn refusal_of_filter(filter: &v1::Filter) -> Option<(String, String)> {
    let refusal = crate::route::filter::check(filter.clone()).err()?;
    Some((refusal.field, refusal.reason))
}

/// Which field of a certificate (`chain_pem` or `key_pem`) the data plane would refuse, and why; `None`: it holds.
pub fn refusal_of_certificate(certificate: &v1::Certificate) -> Option<(&'static str, String)> {
    crate::tls::certified_key(&certificate.chain_pem, &certificate.key_pem).err()
}

/// Whether the header of this name can carry a session.
pub fn is_session_header(name: &str) -> bool {
    crate::config::session::carrying(name).is_some()
}

/// Whether a certificate is for a host; `false` for one that the data plane would not take.
pub fn is_certificate_for(certificate: &v1::Certificate, host: &str) -> bool {
    crate::tls::certified_key(&certificate.chain_pem, &certificate.key_pem)
        .is_ok_and(|key| crate::tls::is_for(&key, host))
}

/// Why the data plane would not take this for certificates of authorities in PEM; `None`: it would.
pub fn refusal_of_authorities(pem: &[u8]) -> Option<String> {
    crate::tls::endpoints::roots(pem).err()
}

/// Whether the data plane takes this for a range of addresses.
pub fn is_network(text: &str) -> bool {
    crate::config::traffic::Network::parse(text).is_some()
}
