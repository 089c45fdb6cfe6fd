//! Session persistence of a backend: by what clients are known again, and for how long.

use std::time::Duration;

use http::HeaderName;

use super::{Check, InvalidResource};
use crate::api::v1;

/// How clients are kept with the endpoint that answered them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionPolicy {
    /// What the client holds.
    pub carrier: Carrier,
    /// A session ends after this long. Default: never.
    pub absolute: Option<Duration>,
    /// And after this long without a request. Default: never.
    pub idle: Option<Duration>,
    /// The cookie says how long it lasts; otherwise the client forgets it at the end of its own session.
    pub permanent: bool,
}

/// What a client holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Carrier {
    /// A cookie.
    Cookie(String),
    /// A header, which it sends as it got it.
    Header(HeaderName),
}

impl SessionPolicy {
    pub(super) fn check(wire: &v1::SessionPersistence, check: &Check) -> Result<Self, InvalidResource> {
        let carrier = match (wire.cookie.as_str(), wire.header.as_str()) {
            (name, "") if is_cookie_name(name) => Carrier::Cookie(name.to_owned()),
            ("", name) if !name.is_empty() => Carrier::Header(
                HeaderName::from_bytes(name.as_bytes())
                    .map_err(|_| check.error("session.header", format!("{name:?} is not a header name")))?,
            ),
            (name, _) => {
                let reason = format!("{name:?} is not the name of a cookie, or stands beside a header");
                return Err(check.error("session.cookie", reason));
            }
        };
        let seconds = |value: Option<u32>, field: &str| -> Result<Option<Duration>, InvalidResource> {
            Ok(check.positive(value, field)?.map(|seconds| Duration::from_secs(u64::from(seconds.get()))))
        };
        let absolute = seconds(wire.absolute_timeout_s, "session.absolute_timeout_s")?;
        check.that(!wire.permanent || absolute.is_some(), "session.permanent", || {
            "needs an absolute_timeout_s, which is how long the cookie lasts".to_owned()
        })?;
        Ok(Self {
            carrier,
            absolute,
            idle: seconds(wire.idle_timeout_s, "session.idle_timeout_s")?,
            permanent: wire.permanent,
        })
    }
}

/// A token (RFC 6265 §4.1.1).
pub fn is_cookie_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}
