//! How endpoints are asked, beside their requests, whether they are well.

use std::{num::NonZeroU32, time::Duration};

use http::{HeaderValue, StatusCode, uri::PathAndQuery};

use super::{Check, InvalidResource, millis};
use crate::api::v1;

/// Active health checks of a backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActiveHealthCheck {
    /// What is asked.
    pub probe: Probe,
    /// From the start of one check to the start of the next. Default 3 s.
    pub interval: Duration,
    /// How long one may take. Default 1 s.
    pub timeout: Duration,
    /// Failed checks in a row that take an endpoint out. Default 3.
    pub unhealthy_threshold: NonZeroU32,
    /// Good checks in a row that bring it back. Default 1.
    pub healthy_threshold: NonZeroU32,
    /// With a smaller percentage of healthy endpoints all get requests; 0: never. Default 50.
    pub panic_threshold: u8,
}

/// What an endpoint is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// `GET`, over TLS if `tls`.
    Http {
        /// Whether over TLS.
        tls: bool,
        /// What for.
        path: PathAndQuery,
        /// `Host`, and the name for TLS; `None`: the endpoint's address.
        hostname: Option<HeaderValue>,
        /// Statuses that say that it is well.
        expected: Vec<StatusCode>,
    },
    /// Whether a connection comes about.
    Tcp,
    /// `grpc.health.v1.Health/Check`.
    Grpc {
        /// About this service; empty: the whole server.
        service: String,
        /// `:authority`; `None`: the endpoint's address.
        hostname: Option<HeaderValue>,
    },
}

const INTERVAL: Duration = Duration::from_secs(3);
/// More often than this a check costs endpoints more than it tells.
const INTERVAL_MIN: Duration = Duration::from_millis(50);
const TIMEOUT: Duration = Duration::from_secs(1);
const UNHEALTHY_THRESHOLD: NonZeroU32 = NonZeroU32::new(3).expect("3 is not 0");

impl ActiveHealthCheck {
    pub(super) fn check(wire: &v1::ActiveHealthCheck, check: &Check) -> Result<Self, InvalidResource> {
        use v1::active_health_check::Kind;
        let field = |name: &str| format!("active_health_check.{name}");
        let positive = |value: Option<u32>, name: &str| check.positive(value, &field(name));
        let interval = positive(wire.interval_ms, "interval_ms")?.map_or(INTERVAL, millis);
        check.that(interval >= INTERVAL_MIN, field("interval_ms"), || {
            format!("{interval:?} is too often: at least {INTERVAL_MIN:?}")
        })?;
        let hostname = match wire.hostname.as_str() {
            "" => None,
            name => Some(
                HeaderValue::from_str(name)
                    .map_err(|_| check.error(field("hostname"), format!("{name:?} cannot stand in a Host header")))?,
            ),
        };
        let path = match wire.path.as_str() {
            "" => PathAndQuery::from_static("/"),
            path => path
                .parse()
                .ok()
                .filter(|_| path.starts_with('/'))
                .ok_or_else(|| check.error(field("path"), format!("{path:?} is not a path such as /healthz")))?,
        };
        let expected = wire.expected_statuses.iter().enumerate().map(|(index, status)| {
            let known = u16::try_from(*status).ok().filter(|status| (100..600).contains(status));
            known.and_then(|status| StatusCode::from_u16(status).ok()).ok_or_else(|| {
                check.error(
                    field(&format!("expected_statuses[{index}]")),
                    format!("{status} is not a status: 100..=599"),
                )
            })
        });
        let mut expected = expected.collect::<Result<Vec<_>, _>>()?;
        if expected.is_empty() {
            expected.push(StatusCode::OK);
        }
        let probe = match Kind::try_from(wire.kind) {
            Ok(kind @ (Kind::Http | Kind::Https)) => Probe::Http { tls: kind == Kind::Https, path, hostname, expected },
            Ok(Kind::Tcp) => Probe::Tcp,
            Ok(Kind::Grpc) => Probe::Grpc { service: wire.grpc_service.clone(), hostname },
            Err(_) => return Err(check.error(field("kind"), format!("{} is not a kind of check", wire.kind))),
        };
        let percent = wire.panic_threshold.unwrap_or(50);
        let panic_threshold = u8::try_from(percent)
            .ok()
            .filter(|percent| *percent <= 100)
            .ok_or_else(|| check.error(field("panic_threshold"), format!("{percent} is not a percentage: 0..=100")))?;
        Ok(Self {
            probe,
            interval,
            timeout: positive(wire.timeout_ms, "timeout_ms")?.map_or(TIMEOUT, millis),
            unhealthy_threshold: positive(wire.unhealthy_threshold, "unhealthy_threshold")?
                .unwrap_or(UNHEALTHY_THRESHOLD),
            healthy_threshold: positive(wire.healthy_threshold, "healthy_threshold")?.unwrap_or(NonZeroU32::MIN),
            panic_threshold,
        })
    }
}
