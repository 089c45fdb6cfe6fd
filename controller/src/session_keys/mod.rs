//! What the tokens of sessions are signed with. Proxies sign and verify them; each backend has keys of its own there, derived from these, which no proxy
//! knows. Several controllers must have the same, or sessions end when another one leads.

pub mod file;
pub mod secret;

use std::{fmt, sync::Arc};

use aws_lc_rs::hmac;
use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
    prelude::BASE64_STANDARD,
};
use rand::{TryRngCore, rngs::OsRng};
use tokio::sync::watch;

/// Bytes of a key at least: as many as the hash has.
pub const KEY_BYTES_MIN: usize = 32;
/// Keys at most: proxies take so many.
pub const KEYS_MAX: usize = 4;

/// What a person is told who has no key.
const HOW_TO: &str = "`openssl rand -base64 32` makes one";

/// Keys, the newest first: it signs, and what the others have signed is believed. There is at least one. They are never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct SessionKeys(Vec<Box<[u8]>>);

impl fmt::Debug for SessionKeys {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("SessionKeys(…)")
    }
}

/// What holds no keys, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {reason}")]
pub struct SessionKeyError {
    /// Where they should stand.
    pub place: String,
    /// What is wrong, and what would be right.
    pub reason: String,
}

impl SessionKeyError {
    fn new(place: impl Into<String>, reason: impl fmt::Display) -> Self {
        Self { place: place.into(), reason: reason.to_string() }
    }
}

impl SessionKeys {
    /// A new one, from the system's randomness.
    ///
    /// # Errors
    /// It has none to give.
    pub fn draw() -> Result<Self, SessionKeyError> {
        let mut key = vec![0; KEY_BYTES_MIN];
        OsRng.try_fill_bytes(&mut key).map_err(|error| SessionKeyError::new("a key for sessions", error))?;
        Ok(Self(vec![key.into()]))
    }

    /// From a text: a key a line, in base64 or hexadecimal, the newest first. Lines that are empty, or begin with `#`, are left out.
    ///
    /// # Errors
    /// What does not hold, by its line. What stands there is not repeated: it may be a key with a letter too many.
    pub fn parse(text: &[u8], place: &str) -> Result<Self, SessionKeyError> {
        let mut keys = Vec::new();
        for (line, number) in text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).zip(1..) {
            if line.is_empty() || line.starts_with(b"#") {
                continue;
            }
            let fault = |reason: String| SessionKeyError::new(place, format!("line {number}: {reason}"));
            let key = decoded(line).ok_or_else(|| {
                fault(format!(
                    "is neither base64 nor hexadecimal, expected at least {KEY_BYTES_MIN} random bytes in one of them; {HOW_TO}"
                ))
            })?;
            if key.len() < KEY_BYTES_MIN {
                return Err(fault(format!(
                    "is a key of {} bytes, expected at least {KEY_BYTES_MIN}; {HOW_TO}",
                    key.len()
                )));
            }
            if keys.len() == KEYS_MAX {
                return Err(fault(format!(
                    "is a key too many, expected at most {KEYS_MAX}: take out those that sign no more"
                )));
            }
            keys.push(key.into());
        }
        match keys.is_empty() {
            true => {
                Err(SessionKeyError::new(place, format!("has no key, expected one a line, the newest first; {HOW_TO}")))
            }
            false => Ok(Self(keys)),
        }
    }

    /// As [`parse`](Self::parse) reads them.
    fn text(&self) -> String {
        self.0.iter().map(|key| BASE64_STANDARD.encode(key) + "\n").collect()
    }

    /// Takes the place of the keys there, if those are others.
    fn replace(self, followed: &watch::Sender<Arc<Self>>) {
        followed.send_if_modified(|kept| {
            let others = **kept != self;
            if others {
                tracing::info!(keys = self.count(), "the keys of sessions were replaced");
                *kept = Arc::new(self);
            }
            others
        });
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Those of a backend, in the same order: HMAC-SHA-256 of its name. From them neither these can be told nor another backend's.
    pub fn of(&self, backend: &str) -> Vec<Vec<u8>> {
        let derived = |key: &[u8]| {
            let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
            context.update(b"trimtab sessions of a backend\0");
            context.update(backend.as_bytes());
            context.sign().as_ref().to_vec()
        };
        self.0.iter().map(|key| derived(key)).collect()
    }
}

/// Hexadecimal if it can be: base64 of 32 random bytes in which no other digit stands is not to be expected.
fn decoded(line: &[u8]) -> Option<Vec<u8>> {
    const CONFIG: GeneralPurposeConfig =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, CONFIG);
    const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, CONFIG);
    if line.len().is_multiple_of(2) && line.iter().all(u8::is_ascii_hexdigit) {
        let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
        return line.chunks_exact(2).map(pair).collect();
    }
    STANDARD.decode(line).or_else(|_| URL_SAFE.decode(line)).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ONE: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    const SAME: &str = "000102030405060708090A0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
    const OTHER: &str = "__79_Pv6-fj39vX08_Lx8O_u7ezr6uno5-bl5OPi4eA";

    fn parse(text: &str) -> Result<SessionKeys, SessionKeyError> {
        SessionKeys::parse(text.as_bytes(), "keys")
    }

    #[test]
    fn keys_are_read_in_base64_and_hexadecimal_the_newest_first() {
        let one: Box<[u8]> = (0..32).collect();
        assert_eq!(parse(ONE).unwrap().0, std::slice::from_ref(&one));
        assert_eq!(parse(SAME).unwrap(), parse(ONE).unwrap());
        let other: Box<[u8]> = (0..32).map(|byte| 255 - byte).collect();
        let both = parse(&format!("# the new one\r\n{OTHER}\r\n\r\n {ONE}")).unwrap();
        assert_eq!(both.0, [other, one]);
        assert_eq!(parse(&both.text()).unwrap(), both);
    }

    #[test]
    fn what_is_no_key_is_named_by_its_line_and_not_repeated() {
        let check = |text: &str, expected: &str| {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.starts_with("keys: ") && error.contains(expected), "{error}");
            assert!(!error.contains("hunter"), "{error}");
        };
        check("", "has no key, expected one a line");
        check("# hunter\n\n", "has no key");
        check(
            &format!("{ONE}\nhunter 2"),
            "line 2: is neither base64 nor hexadecimal, expected at least 32 random bytes",
        );
        check(
            "\nhunterhunterhunter00",
            "line 2: is a key of 15 bytes, expected at least 32; `openssl rand -base64 32`",
        );
        check("00112233445566778899aabbccddeeff", "line 1: is a key of 16 bytes");
        check(&format!("{ONE}\n").repeat(5), "line 5: is a key too many, expected at most 4");
        assert_eq!(parse(&format!("{ONE}\n").repeat(4)).unwrap().count(), 4);
    }

    #[test]
    fn each_backend_has_keys_of_its_own() {
        let keys = parse(&format!("{ONE}\n{OTHER}")).unwrap();
        let (web, api) = (keys.of("default/web:80"), keys.of("default/api:80"));
        assert_eq!(web, keys.of("default/web:80"), "of any controller");
        let all: std::collections::BTreeSet<&[u8]> =
            web.iter().chain(&api).map(|key| &**key).chain(keys.0.iter().map(|key| &**key)).collect();
        assert_eq!(all.len(), 6);
        assert!(web.iter().all(|key| key.len() == 32));
        assert_eq!(parse(ONE).unwrap().of("default/web:80")[..], web[..1]);
    }

    #[test]
    fn keys_that_are_drawn_differ_and_none_is_shown() {
        let (one, other) = (SessionKeys::draw().unwrap(), SessionKeys::draw().unwrap());
        assert!(one != other);
        assert_eq!(format!("{one:?}"), "SessionKeys(…)");
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(keys) = SessionKeys::parse(&text, "keys") {
                prop_assert!((1..=KEYS_MAX).contains(&keys.count()));
                prop_assert!(keys.0.iter().all(|key| key.len() >= KEY_BYTES_MIN));
            }
        }

        #[test]
        fn what_is_written_is_read_again(keys in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 32..80), 1..=4)) {
            let keys = SessionKeys(keys.into_iter().map(Into::into).collect());
            prop_assert_eq!(SessionKeys::parse(keys.text().as_bytes(), "keys"), Ok(keys));
        }
    }
}
