//! The stable 64-bit hash behind endpoint keys and generations: FNV-1a (http://www.isthe.com/chongo/tech/comp/fnv/), 64 bit, over
//! bytes. It is written down in recordings and compared between processes, so it must not change with a library's version; the
//! input is not an attacker's, so it need not withstand one.

/// FNV-1a, 64 bit.
#[derive(Debug, Clone, Copy)]
pub struct Fnv1a(u64);

impl Default for Fnv1a {
    fn default() -> Self {
        Fnv1a::new()
    }
}

impl Fnv1a {
    /// The hash of nothing.
    pub const fn new() -> Self {
        Fnv1a(0xcbf2_9ce4_8422_2325)
    }

    /// Takes in some bytes.
    #[must_use]
    pub fn bytes(self, bytes: &[u8]) -> Self {
        bytes.iter().fold(self, |hash, byte| Fnv1a((hash.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)))
    }

    /// Takes in a number, little endian.
    #[must_use]
    pub fn number(self, number: u64) -> Self {
        self.bytes(&number.to_le_bytes())
    }

    /// Takes in a text and where it ends.
    #[must_use]
    pub fn text(self, text: &str) -> Self {
        self.number(text.len() as u64).bytes(text.as_bytes())
    }

    /// The hash.
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// The key of an endpoint: the hash of its pod's UID, or of `host:port` where there is no pod.
pub fn endpoint_key(identity: &str) -> u64 {
    Fnv1a::new().bytes(identity.as_bytes()).get()
}

/// The key of a proxy, as it stands in weight tables: the hash of its id.
pub fn proxy_key(id: &str) -> u64 {
    Fnv1a::new().bytes(id.as_bytes()).get()
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
            assert_eq!(endpoint_key(text), expected, "{text}");
        }
    }
}
