//! Who a client is where something stands in front of the proxy: the PROXY protocol tells of a connection, `X-Forwarded-For` of a request. Either
//! is believed only from those who were named.

pub mod forwarded;
pub mod proxy_protocol;

use crate::{api::v1, config::traffic::Network};

/// Whom a listener believes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientDetection {
    /// Connections from here begin with a PROXY header; from elsewhere they have none.
    pub proxy_protocol_from: Vec<Network>,
    /// Hops in front that add to `X-Forwarded-For`, the one that connects to the proxy included.
    pub trusted_hops: u32,
    /// Hops that may be anywhere in `X-Forwarded-For`, by where they are.
    pub trusted: Vec<Network>,
}

impl ClientDetection {
    /// Reads it.
    ///
    /// # Errors
    /// The field that does not hold, and why.
    pub fn new(wire: &v1::ClientAddress) -> Result<Self, (String, String)> {
        let networks = |list: &[String], field: &str| {
            let network = |(index, text): (usize, &String)| {
                Network::parse(text).ok_or_else(|| {
                    let reason = format!("{text:?} is not a range of addresses such as 10.0.0.0/8 or 2001:db8::/32");
                    (format!("{field}[{index}]"), reason)
                })
            };
            list.iter().enumerate().map(network).collect::<Result<Vec<_>, _>>()
        };
        if wire.trusted_hops > 0 && !wire.trusted_networks.is_empty() {
            return Err(("trusted_hops".to_owned(), "stands beside trusted_networks: one of them".to_owned()));
        }
        Ok(Self {
            proxy_protocol_from: networks(&wire.proxy_protocol_from, "proxy_protocol_from")?,
            trusted_hops: wire.trusted_hops,
            trusted: networks(&wire.trusted_networks, "trusted_networks")?,
        })
    }

    /// Whether requests have to be looked at because of it.
    pub fn reads_forwarded(&self) -> bool {
        self.trusted_hops > 0 || !self.trusted.is_empty()
    }
}
