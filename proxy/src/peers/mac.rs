//! Whether a datagram comes from a proxy of the same controller: HMAC-SHA-256 (RFC 2104, FIPS 180-4), cut to 16 bytes (RFC 2104, section 5),
//! under a key that the controller hands to all of them. It says nothing of who else can read it.

use std::time::Duration;

use aws_lc_rs::{constant_time, hmac};

use crate::{config::MacKey, time::Timestamp};

/// Bytes of a tag.
pub const TAG_BYTES: usize = 16;
/// After a change of key the old one signs for this long: other proxies hear of the new one up to ten seconds later, when they have found
/// the controller again.
const OLD_SIGNS: Duration = Duration::from_secs(15);
/// And is believed for this long.
const OLD_HOLDS: Duration = Duration::from_secs(60);

/// The present key and the one before.
#[derive(Debug)]
pub struct MacKeys {
    current: (MacKey, hmac::Key),
    since: Timestamp,
    previous: Option<hmac::Key>,
}

impl MacKeys {
    /// The first key; it signs at once.
    pub fn new(key: MacKey, now: Timestamp) -> Self {
        Self { current: (key, prepared(&key)), since: now, previous: None }
    }

    /// Another key, or the same. Whether it is another.
    pub fn renew(&mut self, key: MacKey, now: Timestamp) -> bool {
        if self.current.0 == key {
            return false;
        }
        let before = std::mem::replace(&mut self.current, (key, prepared(&key)));
        self.previous = Some(before.1);
        self.since = now;
        true
    }

    /// The tag of a datagram.
    pub fn sign(&self, bytes: &[u8], now: Timestamp) -> [u8; TAG_BYTES] {
        match &self.previous {
            Some(previous) if now.since(self.since) < OLD_SIGNS => tag(previous, bytes),
            _ => tag(&self.current.1, bytes),
        }
    }

    /// The signed part of a datagram that ends with its tag; `None` if the tag is of no key that holds.
    pub fn verified<'a>(&self, datagram: &'a [u8], now: Timestamp) -> Option<&'a [u8]> {
        let (bytes, claimed) = datagram.split_last_chunk::<TAG_BYTES>()?;
        let holds = |key: &hmac::Key| constant_time::verify_slices_are_equal(&tag(key, bytes), claimed).is_ok();
        let previous = self.previous.as_ref().filter(|_| now.since(self.since) < OLD_HOLDS);
        (holds(&self.current.1) || previous.is_some_and(holds)).then_some(bytes)
    }
}

fn prepared(key: &MacKey) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, &key.0)
}

fn tag(key: &hmac::Key, bytes: &[u8]) -> [u8; TAG_BYTES] {
    let whole = hmac::sign(key, bytes);
    let mut tag = [0; TAG_BYTES];
    // SHA-256 gives 32.
    tag.iter_mut().zip(whole.as_ref()).for_each(|(byte, whole)| *byte = *whole);
    tag
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp::from_millis(1_000_000);

    fn signed(keys: &MacKeys, text: &str, now: Timestamp) -> Vec<u8> {
        [text.as_bytes(), &keys.sign(text.as_bytes(), now)].concat()
    }

    #[track_caller]
    fn check(keys: &MacKeys, datagram: &[u8], now: Timestamp, expected: bool) {
        assert_eq!(keys.verified(datagram, now).is_some(), expected, "{datagram:?} at {now:?}");
    }

    #[test]
    fn only_what_was_signed_with_the_key_is_believed() {
        let keys = MacKeys::new(MacKey([1; 32]), START);
        let datagram = signed(&keys, "counts", START);
        assert_eq!(keys.verified(&datagram, START), Some(&b"counts"[..]));
        for bit in 0..datagram.len() * 8 {
            let mut other = datagram.clone();
            other[bit / 8] ^= 1 << (bit % 8);
            check(&keys, &other, START, false);
        }
        check(&keys, &datagram[..15], START, false);
        check(&MacKeys::new(MacKey([2; 32]), START), &datagram, START, false);
    }

    #[test]
    fn rfc_4231_test_case_2_holds() {
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"Jefe");
        let expected = [0x5b, 0xdc, 0xc1, 0x46, 0xbf, 0x60, 0x75, 0x4e, 0x6a, 0x04, 0x24, 0x26, 0x08, 0x95, 0x75, 0xc7];
        assert_eq!(tag(&key, b"what do ya want for nothing?"), expected);
    }

    #[test]
    fn a_change_of_key_interrupts_nothing() {
        let (old, new) = (MacKey([1; 32]), MacKey([2; 32]));
        let late = MacKeys::new(old, START);
        let mut early = MacKeys::new(old, START);
        assert!(!early.renew(old, START));
        assert!(early.renew(new, START));
        let soon = START + Duration::from_secs(10);
        check(&late, &signed(&early, "", soon), soon, true);
        check(&early, &signed(&late, "", soon), soon, true);
        let later = START + Duration::from_secs(20);
        check(&late, &signed(&early, "", later), later, false);
        check(&early, &signed(&late, "", later), later, true);
        let much_later = START + Duration::from_secs(61);
        check(&early, &signed(&late, "", much_later), much_later, false);
    }
}
