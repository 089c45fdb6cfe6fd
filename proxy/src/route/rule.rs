//! Validated routes and listeners, as they come from the wire.

use std::{net::IpAddr, num::NonZeroU16, sync::Arc, time::Duration};

use super::{
    filter::Filters,
    hostname::Hostname,
    matcher::{Field, Matcher},
};
use crate::{api::v1, client::ClientDetection, config::InvalidResource, tls::ListenerTls};

/// A route: rules for the requests of some listeners and hosts.
#[derive(Debug, Clone)]
pub struct RouteConfig {
    /// `namespace/name`.
    pub name: String,
    /// Listeners that it is attached to.
    pub listeners: Vec<String>,
    /// Hosts; never empty.
    pub hostnames: Vec<Hostname>,
    /// In the order of the resource.
    pub rules: Vec<RuleConfig>,
    /// Seconds since the Unix epoch.
    pub created_at_s: i64,
}

/// One rule.
#[derive(Debug, Clone)]
pub struct RuleConfig {
    /// For people.
    pub name: String,
    /// Any of these; never empty.
    pub matches: Vec<Matcher>,
    /// Where requests go.
    pub backends: Vec<WeightedBackend>,
    /// What is done to all of its requests.
    pub filters: Filters,
    /// Limits in time.
    pub timeouts: RuleTimeouts,
}

/// A share of a rule's requests.
#[derive(Debug, Clone)]
pub struct WeightedBackend {
    /// Name of the backend; `None`: it does not resolve.
    pub name: Option<String>,
    /// Its share, relative to the others'.
    pub weight: u32,
    /// What is done to its requests, after the rule's own filters.
    pub filters: Filters,
}

/// Limits in time of one rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RuleTimeouts {
    /// From the first byte of the request to the last of the response.
    pub request: RequestTimeout,
    /// From the request sent upstream to the last byte of its response.
    pub backend_request: Option<Duration>,
}

/// How long a request may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RequestTimeout {
    /// As long as bytes flow: it is given up after [`STALL_TIMEOUT`] without any, in either direction. The default, so that long transfers pass.
    #[default]
    WhileProgressing,
    /// This long, and never longer than [`STALL_TIMEOUT`] without a byte.
    Total(Duration),
    /// No limit at all, for streams that may be silent.
    Unlimited,
}

/// Without a byte in either direction for this long a request is given up, unless its rule says `Unlimited`. The 60 s that nginx
/// allows between two reads.
pub const STALL_TIMEOUT: Duration = Duration::from_secs(60);

impl TryFrom<v1::HttpRoute> for RouteConfig {
    type Error = InvalidResource;

    fn try_from(wire: v1::HttpRoute) -> Result<Self, InvalidResource> {
        let resource = format!("HttpRoute {}", wire.name);
        let field = |path: String| Field { resource: &resource, path };
        if wire.name.is_empty() {
            return Err(field(String::new()).error("name", "must not be empty"));
        }
        let mut hostnames = Vec::with_capacity(wire.hostnames.len().max(1));
        for (index, text) in wire.hostnames.iter().enumerate() {
            hostnames
                .push(Hostname::parse(text).map_err(|reason| field(format!("hostnames[{index}]")).error("", reason))?);
        }
        if wire.wildcards_of_one_label {
            hostnames = hostnames.into_iter().map(Hostname::of_one_label).collect();
        }
        if hostnames.is_empty() {
            hostnames.push(Hostname::Any);
        }
        let mut rules = Vec::with_capacity(wire.rules.len());
        for (index, rule) in wire.rules.into_iter().enumerate() {
            let mut matches = Vec::with_capacity(rule.matches.len().max(1));
            for (m, wire) in rule.matches.into_iter().enumerate() {
                matches.push(Matcher::new(wire, &field(format!("rules[{index}].matches[{m}]")))?);
            }
            if matches.is_empty() {
                matches.push(Matcher::any());
            }
            let ms = |ms: u32| Duration::from_millis(u64::from(ms));
            let mut backends = Vec::with_capacity(rule.backends.len());
            for (b, wire) in rule.backends.into_iter().enumerate() {
                let filters = Filters::new(wire.filters, &field(format!("rules[{index}].backends[{b}]")))?;
                let name = (!wire.backend.is_empty()).then_some(wire.backend);
                backends.push(WeightedBackend { name, weight: wire.weight, filters });
            }
            rules.push(RuleConfig {
                name: rule.name,
                matches,
                backends,
                filters: Filters::new(rule.filters, &field(format!("rules[{index}]")))?,
                timeouts: RuleTimeouts {
                    request: match rule.request_timeout_ms {
                        None => RequestTimeout::WhileProgressing,
                        Some(0) => RequestTimeout::Unlimited,
                        Some(limit) => RequestTimeout::Total(ms(limit)),
                    },
                    backend_request: rule.backend_request_timeout_ms.filter(|limit| *limit > 0).map(ms),
                },
            });
        }
        Ok(Self { listeners: wire.listeners, hostnames, rules, created_at_s: wire.created_at_s, name: wire.name })
    }
}

/// A listener: a socket, the hosts it answers for, and its limits.
#[derive(Debug, Clone, PartialEq)]
pub struct ListenerConfig {
    /// `namespace/gateway/listener`.
    pub name: String,
    /// Where it listens.
    pub address: IpAddr,
    /// 0: the system chooses.
    pub port: u16,
    /// The port that clients connect to, where it is another one.
    pub public_port: Option<NonZeroU16>,
    /// Hosts it answers for.
    pub hostname: Hostname,
    /// Its limits.
    pub limits: Limits,
    /// TLS; `None`: clear text.
    pub tls: Option<Arc<ListenerTls>>,
    /// Who may say on whose behalf they come; `None`: nobody.
    pub client_detection: Option<Arc<ClientDetection>>,
}

/// What a client may take. Listeners that share a socket share the strictest of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a request head. Default 64 KiB.
    pub header_bytes_max: usize,
    /// Headers in a request. Default 100.
    pub headers_max: usize,
    /// From the first byte of a head, or from the connection, to the head's end. Default 10 s.
    pub header_timeout: Duration,
    /// Until an idle connection is closed. Default 60 s.
    pub idle_timeout: Duration,
    /// Client connections of the proxy process on the socket. Default 50,000.
    pub connections_max: usize,
    /// Bytes of a request body. Default: no limit.
    pub body_bytes_max: Option<u64>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            header_bytes_max: 64 << 10,
            headers_max: 100,
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            connections_max: 50_000,
            body_bytes_max: None,
        }
    }
}

impl Limits {
    /// The strictest of each.
    pub fn stricter(self, other: Self) -> Self {
        Self {
            header_bytes_max: self.header_bytes_max.min(other.header_bytes_max),
            headers_max: self.headers_max.min(other.headers_max),
            header_timeout: self.header_timeout.min(other.header_timeout),
            idle_timeout: self.idle_timeout.min(other.idle_timeout),
            connections_max: self.connections_max.min(other.connections_max),
            body_bytes_max: match (self.body_bytes_max, other.body_bytes_max) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (one, other) => one.or(other),
            },
        }
    }
}

impl TryFrom<v1::Listener> for ListenerConfig {
    type Error = InvalidResource;

    fn try_from(wire: v1::Listener) -> Result<Self, InvalidResource> {
        let resource = format!("Listener {}", wire.name);
        let field = Field { resource: &resource, path: String::new() };
        if wire.name.is_empty() {
            return Err(field.error("name", "must not be empty"));
        }
        let address = wire
            .address
            .parse()
            .map_err(|_| field.error("address", format!("{:?} is not an IP address", wire.address)))?;
        let port = u16::try_from(wire.port)
            .map_err(|_| field.error("port", format!("{} is not a port: 0..=65535", wire.port)))?;
        let public_port = u16::try_from(wire.public_port)
            .map_err(|_| field.error("public_port", format!("{} is not a port: 0..=65535", wire.public_port)))?;
        let hostname = Hostname::parse(&wire.hostname).map_err(|reason| field.error("hostname", reason))?;
        let limits = wire.limits.unwrap_or_default();
        let default = Limits::default();
        let positive = |value: Option<u32>, name: &str| match value {
            Some(0) => Err(field.error(&format!("limits.{name}"), "must be at least 1")),
            value => Ok(value),
        };
        let ms =
            |value: Option<u32>, default: Duration| value.map_or(default, |ms| Duration::from_millis(u64::from(ms)));
        let count = |value: Option<u32>, default: usize| value.map_or(default, |value| value as usize);
        let headers_max = count(positive(limits.max_headers, "max_headers")?, default.headers_max);
        // hyper keeps room for each on the stack.
        if headers_max > 10_000 {
            return Err(field.error("limits.max_headers", format!("{headers_max} is more than 10000")));
        }
        let tls = wire.tls.map(|tls| ListenerTls::new(&tls)).transpose();
        let tls = tls.map_err(|(name, reason)| field.error(&format!("tls.{name}"), reason))?;
        let detection = wire.client_address.as_ref().map(ClientDetection::new).transpose();
        let detection = detection.map_err(|(name, reason)| field.error(&format!("client_address.{name}"), reason))?;
        Ok(Self {
            address,
            port,
            public_port: NonZeroU16::new(public_port),
            hostname,
            client_detection: detection.map(Arc::new),
            tls: tls.map(Arc::new),
            limits: Limits {
                header_bytes_max: count(
                    positive(limits.max_header_bytes, "max_header_bytes")?,
                    default.header_bytes_max,
                ),
                headers_max,
                header_timeout: ms(positive(limits.header_timeout_ms, "header_timeout_ms")?, default.header_timeout),
                idle_timeout: ms(positive(limits.idle_timeout_ms, "idle_timeout_ms")?, default.idle_timeout),
                connections_max: count(positive(limits.max_connections, "max_connections")?, default.connections_max),
                body_bytes_max: limits.max_body_bytes,
            },
            name: wire.name,
        })
    }
}
