//! Session persistence of a backend: by what clients are known again, and for how long.

use std::time::Duration;

use http::{HeaderName, header};

use super::{Check, InvalidResource, MacKey};
use crate::{api::v1, route::filter::is_framing};

/// Keys that may be in force at a time: the present one, some from before it, and the next one.
const KEYS_MAX: usize = 4;

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
    /// What tokens are signed with; the first signs, all are believed. There is at least one.
    pub keys: Box<[MacKey]>,
}

/// What a client holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Carrier {
    /// A cookie.
    Cookie(String),
    /// A header, which it sends as it got it.
    Header(HeaderName),
}

/// The header of that name, if it can carry a session: it says neither where a message ends nor what HTTP itself goes by.
pub(crate) fn carrying(name: &str) -> Option<HeaderName> {
    let taken = [header::HOST, header::COOKIE, header::SET_COOKIE, header::DATE];
    HeaderName::from_bytes(name.as_bytes()).ok().filter(|name| !is_framing(name) && !taken.contains(name))
}

impl SessionPolicy {
    pub(super) fn check(wire: &v1::SessionPersistence, check: &Check) -> Result<Self, InvalidResource> {
        let carrier = match (wire.cookie.as_str(), wire.header.as_str()) {
            (name, "") if is_cookie_name(name) => Carrier::Cookie(name.to_owned()),
            ("", name) if !name.is_empty() => Carrier::Header(carrying(name).ok_or_else(|| {
                check.error("session.header", format!("{name:?} is not the name of a header that can carry it"))
            })?),
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
        check.that((1..=KEYS_MAX).contains(&wire.keys.len()), "session.keys", || {
            format!("{} keys: must be 1 to {KEYS_MAX}", wire.keys.len())
        })?;
        let key = |(index, key): (usize, &Vec<u8>)| {
            <[u8; 32]>::try_from(&**key).map(MacKey).map_err(|_| {
                check.error(format_args!("session.keys[{index}]"), format!("{} bytes: must have 32", key.len()))
            })
        };
        let keys = wire.keys.iter().enumerate().map(key).collect::<Result<_, _>>()?;
        Ok(Self {
            carrier,
            keys,
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

#[cfg(test)]
mod tests {
    use super::*;

    fn wire() -> v1::SessionPersistence {
        v1::SessionPersistence { cookie: "s".to_owned(), keys: vec![vec![77; 32]], ..Default::default() }
    }

    #[track_caller]
    fn check(change: impl FnOnce(&mut v1::SessionPersistence), expected: &str) {
        let mut wire = wire();
        change(&mut wire);
        let error = SessionPolicy::check(&wire, &Check::new("Backend", "a/b:1")).unwrap_err();
        assert_eq!(error.field, expected);
    }

    #[test]
    fn what_does_not_hold_is_named_by_its_field() {
        assert!(SessionPolicy::check(&wire(), &Check::new("Backend", "a/b:1")).is_ok());
        check(|session| session.header = "x".to_owned(), "session.cookie");
        check(|session| session.cookie = "a b".to_owned(), "session.cookie");
        check(|session| session.idle_timeout_s = Some(0), "session.idle_timeout_s");
        check(|session| session.permanent = true, "session.permanent");
        check(|session| session.keys.clear(), "session.keys");
        check(|session| session.keys = vec![vec![7; 32]; 5], "session.keys");
        check(|session| session.keys.push(vec![7; 31]), "session.keys[1]");
    }

    #[test]
    fn keys_are_not_shown() {
        let wire = wire();
        let policy = SessionPolicy::check(&wire, &Check::new("Backend", "a/b:1")).unwrap();
        for shown in [format!("{wire:?}"), format!("{policy:?}")] {
            assert!(!shown.contains("77"), "{shown}");
        }
    }
}
