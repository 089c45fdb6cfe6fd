//! Maps by endpoint. Keys are fingerprints already, and every change of thousands of endpoints looks all of them up: one multiplication spreads
//! them, where the standard hasher takes several times as long to withstand attackers who do not choose keys here.

use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasherDefault, Hasher},
};

use crate::config::EndpointKey;

/// A map by endpoint.
pub type KeyMap<V> = HashMap<EndpointKey, V, BuildHasherDefault<KeyHasher>>;
/// A set of numbers that are spread already, or nearly.
pub type IdSet = HashSet<u64, BuildHasherDefault<KeyHasher>>;

/// Spreads one 64-bit key over all bits.
#[derive(Debug, Clone, Copy, Default)]
pub struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u64(&mut self, key: u64) {
        // 2^64 divided by the golden ratio, as in Fibonacci hashing; both halves of the product, so that high bits count too.
        let product = u128::from(self.0 ^ key) * 0x9E37_79B9_7F4A_7C15;
        self.0 = (product >> 64) as u64 ^ product as u64;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::hash::Hash;

    #[test]
    fn keys_that_differ_in_few_bits_spread_over_all() {
        let hash = |key: u64| {
            let mut hasher = KeyHasher::default();
            EndpointKey(key).hash(&mut hasher);
            hasher.finish()
        };
        // Chance would fill 2,589 of 4,096.
        for keys in [(1..=4096).collect::<Vec<u64>>(), (1..=4096).map(|key| key << 40).collect()] {
            let low: HashSet<u64> = keys.iter().map(|key| hash(*key) % 4096).collect();
            let high: HashSet<u64> = keys.iter().map(|key| hash(*key) >> 57).collect();
            assert!(low.len() > 1500 && high.len() > 100, "{} {}", low.len(), high.len());
        }
    }
}
