//! Session persistence (GEP-1619): a client that was answered by an endpoint goes there again while it is there and well. What the client holds
//! says it all; proxies keep nothing, and all of them understand it. It names the endpoint by a hash of its key, in which nothing of a pod can be read,
//! as that comes from the pod's UID; the address of an endpoint that is no pod can be found by trying all. Who makes one up gains nothing: an endpoint
//! that is not there, or not well, is never chosen by it.

use std::{collections::HashMap, time::Duration};

use aws_lc_rs::digest;
use http::{HeaderName, HeaderValue, header};

use crate::{
    config::{
        EndpointKey,
        session::{Carrier, SessionPolicy},
    },
    head::RequestHead,
};

/// Bytes of the hash that a token shows.
const TAG_BYTES: usize = 12;
type Tag = [u8; 2 * TAG_BYTES];

/// The endpoints of a backend by what tokens call them.
#[derive(Debug)]
pub struct Sessions {
    tags: Box<[Tag]>,
    by_tag: HashMap<Tag, u32>,
}

/// What a request's token says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Session {
    /// Position of the endpoint.
    pub endpoint: usize,
    /// When the session began, seconds since the Unix epoch.
    pub created_s: u64,
    /// Whether the client is to be told that it was used.
    pub renew: bool,
}

impl Sessions {
    /// For the endpoints of a backend, in their order.
    pub fn new(backend: &str, endpoints: impl Iterator<Item = EndpointKey>) -> Self {
        let tags: Box<[Tag]> = endpoints.map(|key| tag(backend, key)).collect();
        let by_tag = tags.iter().enumerate().map(|(index, tag)| (*tag, index as u32)).collect();
        Self { tags, by_tag }
    }

    /// The session that a request belongs to; `None` if it says none that holds.
    pub fn read(&self, policy: &SessionPolicy, head: &impl RequestHead, now_s: u64) -> Option<Session> {
        let token = match &policy.carrier {
            Carrier::Header(name) => head.value(name)?,
            Carrier::Cookie(name) => head.values(&header::COOKIE).find_map(|cookies| cookie(cookies, name))?,
        };
        let (tag, created_s, used_s) = parse(token)?;
        let endpoint = *self.by_tag.get(tag)? as usize;
        // A clock that is ahead makes nobody's session younger than now.
        let age = |since_s: u64| Duration::from_secs(now_s.saturating_sub(since_s));
        let over = policy.absolute.is_some_and(|limit| age(created_s) >= limit)
            || policy.idle.is_some_and(|limit| age(used_s) >= limit);
        // Told often enough that it does not end under use, and seldom enough that most answers need not.
        let renew = policy.idle.is_some_and(|limit| age(used_s) >= limit / 8);
        (!over).then_some(Session { endpoint, created_s, renew })
    }

    /// What tells a client that its session is with this endpoint.
    pub fn told(
        &self,
        policy: &SessionPolicy,
        endpoint: usize,
        (created_s, now_s): (u64, u64),
        secure: bool,
    ) -> Option<(HeaderName, HeaderValue)> {
        let tag = std::str::from_utf8(self.tags.get(endpoint)?).ok()?;
        let token = format!("{tag}.{created_s:x}.{now_s:x}");
        match &policy.carrier {
            Carrier::Header(name) => Some((name.clone(), HeaderValue::from_str(&token).ok()?)),
            Carrier::Cookie(name) => {
                let mut cookie = format!("{name}={token}; Path=/; HttpOnly");
                if secure {
                    cookie.push_str("; Secure");
                }
                if let Some(limit) = policy.absolute.filter(|_| policy.permanent) {
                    let left = limit.saturating_sub(Duration::from_secs(now_s.saturating_sub(created_s)));
                    cookie.push_str(&format!("; Max-Age={}", left.as_secs()));
                }
                Some((header::SET_COOKIE, HeaderValue::from_str(&cookie).ok()?))
            }
        }
    }
}

fn tag(backend: &str, key: EndpointKey) -> Tag {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(b"trimtab session\0");
    context.update(backend.as_bytes());
    context.update(b"\0");
    context.update(&key.0.to_be_bytes());
    let digest = context.finish();
    let mut tag = [0; 2 * TAG_BYTES];
    for (byte, digits) in digest.as_ref().iter().zip(tag.chunks_exact_mut(2)) {
        digits[0] = b"0123456789abcdef"[usize::from(byte >> 4)];
        digits[1] = b"0123456789abcdef"[usize::from(byte & 15)];
    }
    tag
}

/// `TAG.CREATED.USED`, the times in hexadecimal seconds.
fn parse(token: &[u8]) -> Option<(&Tag, u64, u64)> {
    let mut parts = token.split(|byte| *byte == b'.');
    let tag = parts.next()?.try_into().ok()?;
    let mut number = || {
        let text = parts.next()?;
        let digits = (1..=16).contains(&text.len()) && text.iter().all(u8::is_ascii_hexdigit);
        u64::from_str_radix(std::str::from_utf8(text).ok().filter(|_| digits)?, 16).ok()
    };
    let (created_s, used_s) = (number()?, number()?);
    parts.next().is_none().then_some((tag, created_s, used_s))
}

/// The value of a cookie in a `Cookie` header.
pub fn cookie<'a>(cookies: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let pairs = cookies.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
    let mut values = pairs.filter_map(|pair| pair.strip_prefix(name.as_bytes())?.strip_prefix(b"="));
    values.next()
}

#[cfg(test)]
mod tests {
    use http::Request;
    use proptest::prelude::*;

    use super::*;

    fn policy(absolute_s: Option<u64>, idle_s: Option<u64>) -> SessionPolicy {
        SessionPolicy {
            carrier: Carrier::Header(HeaderName::from_static("x-session")),
            absolute: absolute_s.map(Duration::from_secs),
            idle: idle_s.map(Duration::from_secs),
            permanent: false,
        }
    }

    fn sessions() -> Sessions {
        Sessions::new("default/web:80", (1..=3).map(EndpointKey))
    }

    fn read(policy: &SessionPolicy, token: &[u8], now_s: u64) -> Option<Session> {
        let (head, ()) = Request::get("/").header("x-session", token).body(()).unwrap().into_parts();
        sessions().read(policy, &head, now_s)
    }

    fn token(policy: &SessionPolicy, endpoint: usize, times: (u64, u64)) -> Vec<u8> {
        sessions().told(policy, endpoint, times, false).unwrap().1.as_bytes().to_vec()
    }

    #[test]
    fn a_session_lasts_as_long_as_it_is_said_to() {
        let forever = policy(None, None);
        let session = Session { endpoint: 1, created_s: 100, renew: false };
        assert_eq!(read(&forever, &token(&forever, 1, (100, 100)), 1_000_000), Some(session));
        let absolute = policy(Some(60), None);
        assert_eq!(read(&absolute, &token(&absolute, 1, (100, 150)), 159), Some(session));
        assert_eq!(read(&absolute, &token(&absolute, 1, (100, 150)), 160), None);
        let idle = policy(None, Some(80));
        assert_eq!(read(&idle, &token(&idle, 1, (100, 200)), 209), Some(session));
        assert_eq!(read(&idle, &token(&idle, 1, (100, 200)), 210), Some(Session { renew: true, ..session }));
        assert_eq!(read(&idle, &token(&idle, 1, (100, 200)), 280), None);
    }

    #[test]
    fn tokens_of_another_backend_or_an_endpoint_that_left_say_nothing() {
        let forever = policy(None, None);
        let other = Sessions::new("default/other:80", (1..=3).map(EndpointKey));
        let foreign = other.told(&forever, 1, (1, 1), false).unwrap().1;
        assert_eq!(read(&forever, foreign.as_bytes(), 2), None);
        let gone =
            Sessions::new("default/web:80", (4..=6).map(EndpointKey)).told(&forever, 1, (1, 1), false).unwrap().1;
        assert_eq!(read(&forever, gone.as_bytes(), 2), None);
    }

    #[test]
    fn a_cookie_lasts_as_long_as_its_kind_says() {
        let cookie = |permanent, secure| {
            let carrier = Carrier::Cookie("s".to_owned());
            let policy = SessionPolicy { carrier, permanent, ..policy(Some(60), None) };
            sessions().told(&policy, 0, (100, 110), secure).unwrap().1.to_str().unwrap().to_owned()
        };
        let name = String::from_utf8(tag("default/web:80", EndpointKey(1)).to_vec()).unwrap();
        assert_eq!(cookie(false, false), format!("s={name}.64.6e; Path=/; HttpOnly"));
        assert_eq!(cookie(true, true), format!("s={name}.64.6e; Path=/; HttpOnly; Secure; Max-Age=50"));
    }

    proptest! {
        #[test]
        fn whatever_a_client_says_is_read_or_left(token in proptest::collection::vec(b' '..=b'~', 0..80), now in 0..u64::MAX) {
            let session = read(&policy(Some(60), Some(60)), &token, now);
            prop_assert!(session.is_none_or(|session| session.endpoint < 3));
        }
    }
}
