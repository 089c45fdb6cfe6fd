//! The stable 64-bit hash behind class keys and proxy keys: FNV-1a (http://www.isthe.com/chongo/tech/comp/fnv/). Proxies and the controller
//! compare these between processes and versions, and they stand in recordings, so the hash must not change with a library. It withstands no
//! attacker: who forges a key forges what could be sent in the clear.

use std::fmt;

/// FNV-1a, 64 bit, of a text that is written to it piece by piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fnv1a(u64);

impl Default for Fnv1a {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv1a {
    /// Takes more bytes.
    pub fn write_bytes(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().fold(self.0, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3));
    }

    /// The hash of what was written so far.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Write for Fnv1a {
    #[inline]
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0 = text.bytes().fold(self.0, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
        Ok(())
    }
}

/// The hash of a whole text.
pub fn fnv1a(text: &str) -> u64 {
    let mut hash = Fnv1a::default();
    // Hashing does not fail.
    let _ = fmt::Write::write_str(&mut hash, text);
    hash.get()
}

/// The key of a proxy in weight tables: the hash of its id.
pub fn proxy_key(id: &str) -> u64 {
    fnv1a(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_published_fnv_1a() {
        // Test vectors of the FNV reference code.
        for (text, expected) in
            [("", 0xcbf2_9ce4_8422_2325), ("a", 0xaf63_dc4c_8601_ec8c), ("foobar", 0x8594_4171_f739_67e8)]
        {
            assert_eq!(fnv1a(text), expected, "{text}");
        }
    }
}
