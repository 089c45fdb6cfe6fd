//! What a backend's policy says of its requests before and beside routing: retries, rate limits, who may ask, injected faults.

use std::{net::IpAddr, num::NonZeroU32, sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue, StatusCode};

use super::{Balancing, Check, InvalidResource, health::ActiveHealthCheck, millis, session::SessionPolicy};
use crate::{api::v1, tls::endpoints::EndpointTls};

/// Everything of it. The default asks for nothing.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TrafficPolicy {
    /// When a request is tried again.
    pub retry: RetryPolicy,
    /// Requests over time; all must hold.
    pub rate_limits: Vec<RateLimit>,
    /// Who may ask; `None`: everybody.
    pub access: Option<Access>,
    /// Answers and delays that are made up.
    pub faults: Faults,
    /// What consistent hashing goes by.
    pub hash: HashPolicy,
    /// Settings of the algorithms.
    pub balancing: Balancing,
    /// How endpoints are asked whether they are well; `None`: not at all.
    pub active: Option<ActiveHealthCheck>,
    /// How endpoints are spoken to over TLS; `None`: in clear text.
    pub tls: Option<Arc<EndpointTls>>,
    /// How clients are kept with the endpoint that answered them; `None`: they are not.
    pub session: Option<SessionPolicy>,
    /// Bytes that the body of a request may have; `None`: as the listener says.
    pub body_bytes_max: Option<u64>,
}

/// What makes requests alike for consistent hashing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HashPolicy {
    /// A header or a cookie; where a request lacks it, and where this is `None`, the address of the client's connection.
    pub by: Option<HashBy>,
    /// Part of every key.
    pub version: String,
}

/// A part of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HashBy {
    /// Value of a header.
    Header(HeaderName),
    /// Value of a cookie.
    Cookie(String),
}

/// When a request that reached an endpoint is tried on another one: never if it has a body or may do harm when it is repeated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Answers of these statuses. Default: none.
    pub statuses: Vec<StatusCode>,
    /// No answer at all. Default: no.
    pub reset: bool,
    /// One try may take this long. Default: as long as the rule allows.
    pub per_try: Option<Duration>,
    /// Retries in flight, in percent of the requests in flight. Default 20.
    pub budget_percent: u32,
    /// Retries in flight that are allowed however little else there is. Default 3.
    pub budget_min: u32,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { statuses: Vec::new(), reset: false, per_try: None, budget_percent: 20, budget_min: 3 }
    }
}

/// So many requests over so much time; as many may come at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateLimit {
    /// How many.
    pub requests: NonZeroU32,
    /// Over how long.
    pub per: Duration,
    /// For each client address by itself (IPv6: each /64).
    pub per_client: bool,
    /// For each rule of a route by itself.
    pub per_route: bool,
    /// Only requests that have these; without a value any one, each by itself.
    pub headers: Vec<(HeaderName, Option<HeaderValue>)>,
}

/// Who may ask, by the address of the client's connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// The first that matches counts.
    pub rules: Vec<AccessRule>,
    /// What holds where none matches.
    pub allow_others: bool,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessRule {
    /// Whether they may.
    pub allow: bool,
    /// Who.
    pub networks: Vec<Network>,
}

/// A range of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

/// Faults that are injected, to see what becomes of them.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Faults {
    /// A share of the requests is answered with this status.
    pub abort: Option<(StatusCode, f64)>,
    /// A share of the requests waits this long first.
    pub delay: Option<(Duration, f64)>,
}

impl TrafficPolicy {
    /// Whether requests have to be looked at because of it.
    pub fn looks(&self) -> bool {
        !self.rate_limits.is_empty() || self.access.is_some() || self.faults != Faults::default()
    }

    pub(super) fn check(wire: &v1::Backend, check: &Check) -> Result<Self, InvalidResource> {
        let mut rate_limits = Vec::with_capacity(wire.rate_limits.len());
        for (index, limit) in wire.rate_limits.iter().enumerate() {
            let field = |name: &str| format!("rate_limits[{index}].{name}");
            let positive = |value: u32, name: &str| {
                NonZeroU32::new(value).ok_or_else(|| check.error(field(name), "must be at least 1".to_owned()))
            };
            rate_limits.push(RateLimit {
                requests: positive(limit.requests, "requests")?,
                per: millis(positive(limit.per_ms, "per_ms")?),
                per_client: limit.per_client,
                per_route: limit.per_route,
                headers: limit
                    .headers
                    .iter()
                    .enumerate()
                    .map(|(n, header)| {
                        let at = |part: &str| field(&format!("headers[{n}].{part}"));
                        let name = HeaderName::from_bytes(header.name.as_bytes())
                            .map_err(|_| check.error(at("name"), format!("{:?} is not a header name", header.name)))?;
                        let value = header.value.as_deref().map(HeaderValue::from_str).transpose();
                        let value = value.map_err(|_| check.error(at("value"), "is not a header value".to_owned()))?;
                        Ok((name, value))
                    })
                    .collect::<Result<_, _>>()?,
            });
        }
        let active = wire.active_health_check.as_ref();
        let tls = wire.tls.as_ref().map(EndpointTls::new).transpose();
        let tls = tls.map_err(|(field, reason)| check.error(format_args!("tls.{field}"), reason))?;
        let session = wire.session.as_ref().map(|session| SessionPolicy::check(session, check)).transpose()?;
        Ok(Self {
            session,
            body_bytes_max: wire.max_request_body_bytes,
            tls: tls.map(Arc::new),
            active: active.map(|active| ActiveHealthCheck::check(active, check)).transpose()?,
            retry: wire.retry.as_ref().map(|retry| RetryPolicy::check(retry, check)).transpose()?.unwrap_or_default(),
            rate_limits,
            access: wire.access.as_ref().map(|access| Access::check(access, check)).transpose()?,
            hash: wire.hash.as_ref().map(|hash| HashPolicy::check(hash, check)).transpose()?.unwrap_or_default(),
            balancing: wire.balancing.as_ref().map(|set| Balancing::check(set, check)).transpose()?.unwrap_or_default(),
            faults: wire.faults.as_ref().map(|faults| Faults::check(faults, check)).transpose()?.unwrap_or_default(),
        })
    }
}

impl HashPolicy {
    fn check(wire: &v1::ConsistentHash, check: &Check) -> Result<Self, InvalidResource> {
        check.that(wire.header.is_empty() || wire.cookie.is_empty(), "hash.cookie", || {
            "stands beside a header: one of them".to_owned()
        })?;
        let by = if !wire.header.is_empty() {
            let name = HeaderName::from_bytes(wire.header.as_bytes());
            let reason = |_| check.error("hash.header", format!("{:?} is not a header name", wire.header));
            Some(HashBy::Header(name.map_err(reason)?))
        } else {
            (!wire.cookie.is_empty()).then(|| HashBy::Cookie(wire.cookie.clone()))
        };
        Ok(Self { by, version: wire.version.clone() })
    }
}

impl RetryPolicy {
    fn check(wire: &v1::Retry, check: &Check) -> Result<Self, InvalidResource> {
        let default = Self::default();
        let status = |(index, status): (usize, &u32)| {
            let known = u16::try_from(*status).ok().and_then(|status| StatusCode::from_u16(status).ok());
            known.filter(|status| status.is_server_error() || status.is_client_error()).ok_or_else(|| {
                check.error(
                    format_args!("retry.statuses[{index}]"),
                    format!("{status} is not the status of a failure: 400..=599"),
                )
            })
        };
        let percent = wire.budget_percent.unwrap_or(default.budget_percent);
        check.that(percent <= 100, "retry.budget_percent", || format!("{percent} is not a percentage: 0..=100"))?;
        Ok(Self {
            statuses: wire.statuses.iter().enumerate().map(status).collect::<Result<_, _>>()?,
            reset: wire.reset,
            per_try: check.positive(wire.per_try_timeout_ms, "retry.per_try_timeout_ms")?.map(millis),
            budget_percent: percent,
            budget_min: wire.budget_min.unwrap_or(default.budget_min),
        })
    }
}

impl Access {
    fn check(wire: &v1::Access, check: &Check) -> Result<Self, InvalidResource> {
        let mut rules = Vec::with_capacity(wire.rules.len());
        for (index, rule) in wire.rules.iter().enumerate() {
            let mut networks = Vec::with_capacity(rule.networks.len());
            for (n, text) in rule.networks.iter().enumerate() {
                let network = Network::parse(text).ok_or_else(|| {
                    let reason = format!("{text:?} is not a range of addresses such as 10.0.0.0/8 or 2001:db8::/32");
                    check.error(format_args!("access.rules[{index}].networks[{n}]"), reason)
                })?;
                networks.push(network);
            }
            rules.push(AccessRule { allow: rule.allow, networks });
        }
        Ok(Self { rules, allow_others: !wire.deny_others })
    }

    /// Whether a client may ask.
    pub fn allows(&self, client: IpAddr) -> bool {
        let first = self.rules.iter().find(|rule| rule.networks.iter().any(|network| network.contains(client)));
        first.map_or(self.allow_others, |rule| rule.allow)
    }
}

impl Network {
    /// `ADDRESS/PREFIX`, or an address alone.
    pub fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
        let address: IpAddr = address.parse().ok()?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => bits,
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => digits.parse().ok()?,
            Some(_) => return None,
        };
        (prefix <= bits).then_some(Self { address, prefix })
    }

    /// Whether an address is in it.
    pub fn contains(&self, other: IpAddr) -> bool {
        match (self.address, other) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0);
                own.to_bits() & mask == other.to_bits() & mask
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix)).unwrap_or(0);
                own.to_bits() & mask == other.to_bits() & mask
            }
            _ => false,
        }
    }
}

impl Faults {
    fn check(wire: &v1::Faults, check: &Check) -> Result<Self, InvalidResource> {
        let share = |percent: f32, field: &str| {
            check
                .that((0.0..=100.0).contains(&percent), field, || format!("{percent} is not a percentage: 0..=100"))?;
            Ok(f64::from(percent) / 100.0)
        };
        let abort = match &wire.abort {
            None => None,
            Some(abort) => {
                let status = u16::try_from(abort.status).ok().and_then(|status| StatusCode::from_u16(status).ok());
                let status = status.filter(|status| (200..600).contains(&status.as_u16()));
                let reason =
                    || check.error("faults.abort.status", format!("{} is not a status: 200..=599", abort.status));
                Some((status.ok_or_else(reason)?, share(abort.percent, "faults.abort.percent")?))
            }
        };
        let delay = match &wire.delay {
            None => None,
            Some(delay) => {
                let wait = Duration::from_millis(u64::from(delay.delay_ms));
                Some((wait, share(delay.percent, "faults.delay.percent")?))
            }
        };
        Ok(Self { abort, delay })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(network: &str, address: &str, expected: bool) {
        let network = Network::parse(network).unwrap();
        assert_eq!(network.contains(address.parse().unwrap()), expected, "{network:?} {address}");
    }

    #[test]
    fn a_network_holds_what_begins_like_it() {
        check("10.0.0.0/8", "10.255.0.1", true);
        check("10.0.0.0/8", "11.0.0.1", false);
        check("192.0.2.1", "192.0.2.1", true);
        check("192.0.2.1/32", "192.0.2.2", false);
        check("0.0.0.0/0", "203.0.113.9", true);
        check("2001:db8::/32", "2001:db8:1::1", true);
        check("2001:db8::/32", "2001:db9::1", false);
        check("::/0", "2001:db8::1", true);
        check("0.0.0.0/0", "::1", false);
        for text in ["10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/+8", "a/8", "", "10.0.0.0/", "::/129"] {
            assert!(Network::parse(text).is_none(), "{text}");
        }
    }

    #[test]
    fn the_first_rule_that_matches_counts() {
        let rule = |allow: bool, network: &str| AccessRule { allow, networks: vec![Network::parse(network).unwrap()] };
        let access = Access { rules: vec![rule(false, "10.1.0.0/16"), rule(true, "10.0.0.0/8")], allow_others: false };
        let allows = |client: &str| access.allows(client.parse().unwrap());
        assert_eq!((allows("10.1.2.3"), allows("10.2.0.1"), allows("192.0.2.1")), (false, true, false));
    }
}
