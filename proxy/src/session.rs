//! Session persistence (GEP-1619): a client that was answered by an endpoint goes there again while it is there and well. What the client holds
//! says it all; proxies keep nothing, and all of them understand it. It is signed (HMAC-SHA-256, RFC 2104) with keys that only controllers and proxies
//! have: nobody else can make one up, or make one last longer. A token is good for one backend and one name of a cookie or header; it names its
//! endpoint by a hash under the same key, in which who has no key can read nothing.

use std::{collections::HashMap, time::Duration};

use aws_lc_rs::hmac;
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use http::{HeaderName, HeaderValue, header};

use crate::{
    config::{
        EndpointKey, MacKey,
        session::{Carrier, SessionPolicy},
    },
    head::RequestHead,
};

/// The first byte of a token: what follows, and how it is signed. Another version is read by nobody.
const VERSION: u8 = 1;
/// Bytes of the hash that names an endpoint.
const TAG_BYTES: usize = 12;
/// Bytes of a time, seconds since the Unix epoch: enough for nine million years.
const TIME_BYTES: usize = 6;
/// What is signed: version, endpoint, when the session began, when it was used last.
const SIGNED_BYTES: usize = 1 + TAG_BYTES + 2 * TIME_BYTES;
/// SHA-256's.
const SIGNATURE_BYTES: usize = 32;
/// A multiple of three: in base64 a token is written in one way only, without padding.
const TOKEN_BYTES: usize = SIGNED_BYTES + SIGNATURE_BYTES;
const TOKEN_DIGITS: usize = TOKEN_BYTES / 3 * 4;

type Tag = [u8; TAG_BYTES];

/// The endpoints of a backend by what tokens call them: under each key in another way. The key that signs stands first.
#[derive(Debug)]
pub struct Sessions(Box<[Signer]>);

/// One key, as it is used for a backend.
#[derive(Debug)]
struct Signer {
    tokens: hmac::Key,
    tags: hmac::Key,
    endpoints: HashMap<Tag, u32>,
}

/// What a request's token says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Session {
    /// Position of the endpoint.
    pub endpoint: usize,
    /// When the session began, seconds since the Unix epoch.
    pub created_s: u64,
    /// Whether the client is to be given another token for it.
    pub renew: bool,
}

/// A token that none of the keys has signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unsigned;

impl Sessions {
    /// For the endpoints of a backend, in their order.
    pub fn new(backend: &str, policy: &SessionPolicy, endpoints: impl Iterator<Item = EndpointKey> + Clone) -> Self {
        let signer = |key: &MacKey| {
            let tags = derived(key, b"endpoint", &policy.carrier, backend);
            Signer {
                tokens: derived(key, b"token", &policy.carrier, backend),
                endpoints: endpoints.clone().map(|endpoint| tag(&tags, endpoint)).zip(0..).collect(),
                tags,
            }
        };
        Self(policy.keys.iter().map(signer).collect())
    }

    /// The session that a request belongs to; `None` if it says none, or one that is over or of an endpoint that has left.
    ///
    /// # Errors
    /// It says one that is not ours.
    pub fn read(
        &self,
        policy: &SessionPolicy,
        head: &impl RequestHead,
        now_s: u64,
    ) -> Result<Option<Session>, Unsigned> {
        let said = match &policy.carrier {
            Carrier::Header(name) => head.value(name),
            Carrier::Cookie(name) => head.values(&header::COOKIE).find_map(|cookies| cookie(cookies, name)),
        };
        let Some(said) = said else { return Ok(None) };
        let token = decoded(said).ok_or(Unsigned)?;
        let (signed, signature) = token.split_at(SIGNED_BYTES);
        // In constant time, and before anything that is said is looked at.
        let signer = self.0.iter().position(|signer| hmac::verify(&signer.tokens, signed, signature).is_ok());
        let signer = signer.ok_or(Unsigned)?;
        let Some((tag, created_s, used_s)) = parse(signed) else { return Err(Unsigned) };
        let Some(&endpoint) = self.0[signer].endpoints.get(tag) else { return Ok(None) };
        // A clock that is ahead makes nobody's session younger than now.
        let age = |since_s: u64| Duration::from_secs(now_s.saturating_sub(since_s));
        let over = policy.absolute.is_some_and(|limit| age(created_s) >= limit)
            || policy.idle.is_some_and(|limit| age(used_s) >= limit);
        // Told often enough that it does not end under use, and seldom enough that most answers need not. A key that signs no more is about to go.
        let renew = signer > 0 || policy.idle.is_some_and(|limit| age(used_s) >= limit / 8);
        Ok((!over).then_some(Session { endpoint: endpoint as usize, created_s, renew }))
    }

    /// What tells a client that its session is with this endpoint.
    pub fn told(
        &self,
        policy: &SessionPolicy,
        endpoint: EndpointKey,
        (created_s, now_s): (u64, u64),
        secure: bool,
    ) -> Option<(HeaderName, HeaderValue)> {
        let signer = self.0.first()?;
        let token = encoded(&signer.tokens, tag(&signer.tags, endpoint), created_s, now_s);
        let token = std::str::from_utf8(&token).ok()?;
        match &policy.carrier {
            Carrier::Header(name) => Some((name.clone(), HeaderValue::from_str(token).ok()?)),
            Carrier::Cookie(name) => {
                let mut cookie = format!("{name}={token}; Path=/; HttpOnly");
                if secure {
                    cookie.push_str("; Secure");
                }
                if let Some(limit) = policy.absolute.filter(|_| policy.permanent) {
                    let left = limit.saturating_sub(Duration::from_secs(now_s.saturating_sub(created_s)));
                    cookie.push_str(&format!("; Max-Age={}", left.as_secs()));
                }
                Some((header::SET_COOKIE, HeaderValue::try_from(cookie).ok()?))
            }
        }
    }
}

/// The key for one purpose, for what one backend's clients hold. The name of a cookie or header has no zero byte, and the backend's stands last: no two
/// inputs are written alike.
fn derived(key: &MacKey, purpose: &[u8], carrier: &Carrier, backend: &str) -> hmac::Key {
    let (kind, name) = match carrier {
        Carrier::Cookie(name) => ("cookie", name.as_str()),
        Carrier::Header(name) => ("header", name.as_str()),
    };
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, &key.0));
    for part in [b"trimtab session".as_slice(), purpose, kind.as_bytes(), name.as_bytes(), backend.as_bytes()] {
        context.update(part);
        context.update(b"\0");
    }
    hmac::Key::new(hmac::HMAC_SHA256, context.sign().as_ref())
}

fn tag(key: &hmac::Key, endpoint: EndpointKey) -> Tag {
    let whole = hmac::sign(key, &endpoint.0.to_be_bytes());
    let mut tag = [0; TAG_BYTES];
    tag.iter_mut().zip(whole.as_ref()).for_each(|(byte, whole)| *byte = *whole);
    tag
}

fn encoded(key: &hmac::Key, tag: Tag, created_s: u64, used_s: u64) -> [u8; TOKEN_DIGITS] {
    let time = |time_s: u64| time_s.to_be_bytes().into_iter().skip(8 - TIME_BYTES);
    let mut token = [0; TOKEN_BYTES];
    let signed = std::iter::once(VERSION).chain(tag).chain(time(created_s)).chain(time(used_s));
    token.iter_mut().zip(signed).for_each(|(byte, signed)| *byte = signed);
    let signature = hmac::sign(key, &token[..SIGNED_BYTES]);
    token[SIGNED_BYTES..].iter_mut().zip(signature.as_ref()).for_each(|(byte, signature)| *byte = *signature);
    let mut digits = [0; TOKEN_DIGITS];
    let written = BASE64_URL_SAFE_NO_PAD.encode_slice(token, &mut digits);
    debug_assert_eq!(written, Ok(TOKEN_DIGITS));
    digits
}

/// The bytes of a token, signed or not.
fn decoded(digits: &[u8]) -> Option<[u8; TOKEN_BYTES]> {
    let digits: &[u8; TOKEN_DIGITS] = digits.try_into().ok()?;
    let mut token = [0; TOKEN_BYTES];
    let read = BASE64_URL_SAFE_NO_PAD.decode_slice(digits, &mut token).ok()?;
    (read == TOKEN_BYTES).then_some(token)
}

/// Endpoint, beginning and last use.
fn parse(signed: &[u8]) -> Option<(&Tag, u64, u64)> {
    let rest = signed.strip_prefix(&[VERSION])?;
    let (tag, rest) = rest.split_first_chunk::<TAG_BYTES>()?;
    let (created, rest) = rest.split_first_chunk::<TIME_BYTES>()?;
    let used: &[u8; TIME_BYTES] = rest.try_into().ok()?;
    let time = |bytes: &[u8; TIME_BYTES]| bytes.iter().fold(0, |time_s, byte| time_s << 8 | u64::from(*byte));
    Some((tag, time(created), time(used)))
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

    const BACKEND: &str = "default/web:80";

    fn policy(absolute_s: Option<u64>, idle_s: Option<u64>) -> SessionPolicy {
        SessionPolicy {
            carrier: Carrier::Header(HeaderName::from_static("x-session")),
            absolute: absolute_s.map(Duration::from_secs),
            idle: idle_s.map(Duration::from_secs),
            permanent: false,
            keys: [MacKey([1; 32])].into(),
        }
    }

    fn with_keys(keys: &[u8]) -> SessionPolicy {
        SessionPolicy { keys: keys.iter().map(|key| MacKey([*key; 32])).collect(), ..policy(None, None) }
    }

    fn sessions(policy: &SessionPolicy) -> Sessions {
        Sessions::new(BACKEND, policy, (1..=3).map(EndpointKey))
    }

    fn read(policy: &SessionPolicy, token: &[u8], now_s: u64) -> Result<Option<Session>, Unsigned> {
        let (head, ()) = Request::get("/").header("x-session", token).body(()).unwrap().into_parts();
        sessions(policy).read(policy, &head, now_s)
    }

    /// That its session is with the endpoint at this position.
    fn token(policy: &SessionPolicy, endpoint: usize, times: (u64, u64)) -> Vec<u8> {
        let key = EndpointKey(endpoint as u64 + 1);
        sessions(policy).told(policy, key, times, false).unwrap().1.as_bytes().to_vec()
    }

    #[test]
    fn a_session_lasts_as_long_as_it_is_said_to() {
        let forever = policy(None, None);
        let session = Session { endpoint: 1, created_s: 100, renew: false };
        assert_eq!(read(&forever, &token(&forever, 1, (100, 100)), 1_000_000), Ok(Some(session)));
        let absolute = policy(Some(60), None);
        assert_eq!(read(&absolute, &token(&absolute, 1, (100, 150)), 159), Ok(Some(session)));
        assert_eq!(read(&absolute, &token(&absolute, 1, (100, 150)), 160), Ok(None));
        let idle = policy(None, Some(80));
        assert_eq!(read(&idle, &token(&idle, 1, (100, 200)), 209), Ok(Some(session)));
        assert_eq!(read(&idle, &token(&idle, 1, (100, 200)), 210), Ok(Some(Session { renew: true, ..session })));
        assert_eq!(read(&idle, &token(&idle, 1, (100, 200)), 280), Ok(None));
    }

    #[test]
    fn tokens_of_another_backend_or_name_or_key_are_not_signed() {
        let here = policy(None, None);
        let elsewhere = |backend: &str, policy: &SessionPolicy| {
            let sessions = Sessions::new(backend, policy, (1..=3).map(EndpointKey));
            let (_, value) = sessions.told(policy, EndpointKey(2), (1, 1), false).unwrap();
            let value = value.to_str().unwrap();
            value.strip_prefix("x-session=").unwrap_or(value).split(';').next().unwrap().as_bytes().to_vec()
        };
        let named = |carrier: Carrier| SessionPolicy { carrier, ..policy(None, None) };
        assert!(read(&here, &elsewhere(BACKEND, &here), 2).unwrap().is_some());
        for (backend, policy) in [
            ("default/other:80", policy(None, None)),
            (BACKEND, named(Carrier::Header(HeaderName::from_static("x-other")))),
            (BACKEND, named(Carrier::Cookie("x-session".to_owned()))),
            (BACKEND, with_keys(&[2])),
        ] {
            assert_eq!(read(&here, &elsewhere(backend, &policy), 2), Err(Unsigned), "{backend} {policy:?}");
        }
    }

    #[test]
    fn a_token_of_an_endpoint_that_has_left_says_nothing_and_is_no_forgery() {
        let policy = policy(None, None);
        assert_eq!(read(&policy, &token(&policy, 3, (1, 1)), 2), Ok(None));
    }

    #[test]
    fn a_token_in_which_anything_is_altered_is_not_signed() {
        let policy = policy(None, None);
        let good = decoded(&token(&policy, 1, (100, 100))).unwrap();
        let altered = |bytes: &[u8]| read(&policy, BASE64_URL_SAFE_NO_PAD.encode(bytes).as_bytes(), 200);
        assert!(altered(&good).unwrap().is_some());
        for bit in 0..TOKEN_BYTES * 8 {
            let mut other = good;
            other[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(altered(&other), Err(Unsigned), "bit {bit}");
        }
        assert_eq!(altered(&good[..TOKEN_BYTES - 1]), Err(Unsigned));
        assert_eq!(altered(&[&good[..], &[0]].concat()), Err(Unsigned));
        // The endpoint of one token with the signature of another.
        let other = decoded(&token(&policy, 2, (100, 100))).unwrap();
        assert_eq!(altered(&[&other[..SIGNED_BYTES], &good[SIGNED_BYTES..]].concat()), Err(Unsigned));
    }

    #[test]
    fn what_would_be_a_token_of_another_version_is_read_by_nobody() {
        let policy = policy(None, None);
        let mut token = decoded(&token(&policy, 1, (100, 100))).unwrap();
        token[0] = VERSION + 1;
        let signature = hmac::sign(&sessions(&policy).0[0].tokens, &token[..SIGNED_BYTES]);
        token[SIGNED_BYTES..].copy_from_slice(signature.as_ref());
        assert_eq!(read(&policy, BASE64_URL_SAFE_NO_PAD.encode(token).as_bytes(), 200), Err(Unsigned));
        assert_eq!(read(&policy, b"000102030405060708090a0b.64.6e", 200), Err(Unsigned));
    }

    #[test]
    fn keys_are_replaced_without_a_session_that_ends() {
        let [old, both, new] = [&[1][..], &[2, 1], &[2]].map(with_keys);
        let kept = |policy, token: &[u8]| read(policy, token, 200).map(|session| session.unwrap().renew);
        let before = token(&old, 2, (100, 100));
        assert_eq!(kept(&both, &before), Ok(true), "it is replaced while it is believed");
        let after = token(&both, 2, (100, 200));
        assert_eq!(kept(&both, &after), Ok(false));
        assert_eq!(kept(&new, &after), Ok(false), "the first key signs");
        assert_eq!(read(&new, &before, 200), Err(Unsigned));
        assert_eq!(read(&old, &after, 200), Err(Unsigned));
    }

    #[test]
    fn a_cookie_lasts_as_long_as_its_kind_says() {
        let cookie = |permanent, secure| {
            let carrier = Carrier::Cookie("s".to_owned());
            let policy = SessionPolicy { carrier, permanent, ..policy(Some(60), None) };
            let told = sessions(&policy).told(&policy, EndpointKey(1), (100, 110), secure).unwrap();
            let (token, rest) = told.1.to_str().unwrap().split_once(';').unwrap();
            let bytes = decoded(token.strip_prefix("s=").unwrap().as_bytes()).unwrap();
            let (_, created_s, used_s) = parse(&bytes[..SIGNED_BYTES]).unwrap();
            assert_eq!((created_s, used_s), (100, 110));
            rest.to_owned()
        };
        assert_eq!(cookie(false, false), " Path=/; HttpOnly");
        assert_eq!(cookie(true, true), " Path=/; HttpOnly; Secure; Max-Age=50");
    }

    #[test]
    fn who_has_no_key_cannot_tell_whose_endpoint_it_is() {
        let [one, other] = [&[1][..], &[2]].map(with_keys);
        let named = |policy| parse(&decoded(&token(policy, 1, (1, 1))).unwrap()[..SIGNED_BYTES]).unwrap().0.to_owned();
        assert_eq!(named(&one), named(&one));
        assert_ne!(named(&one), named(&other));
    }

    proptest! {
        #[test]
        fn whatever_a_client_says_is_read_or_left(
            token in prop_oneof!["[ -~]{0,100}", "[A-Za-z0-9_-]{76}", "AQ[A-Za-z0-9_-]{74}"],
            now in 0..u64::MAX,
        ) {
            prop_assert_eq!(read(&policy(Some(60), Some(60)), token.as_bytes(), now), Err(Unsigned));
        }

        #[test]
        fn what_was_told_is_read_again(endpoint in 0..3_usize, created_s in 0..1_u64 << 48, used_s in 0..1_u64 << 48) {
            let policy = policy(None, None);
            let session = Session { endpoint, created_s, renew: false };
            prop_assert_eq!(read(&policy, &token(&policy, endpoint, (created_s, used_s)), 0), Ok(Some(session)));
        }

        #[test]
        fn another_spelling_of_a_token_is_not_signed(at in 0..TOKEN_DIGITS, digit in "[ -~]") {
            let policy = policy(None, None);
            let mut spelt = token(&policy, 1, (100, 100));
            prop_assume!(spelt[at] != digit.as_bytes()[0]);
            spelt[at] = digit.as_bytes()[0];
            prop_assert_eq!(read(&policy, &spelt, 200), Err(Unsigned));
        }
    }
}
