//! Randomness of a run: one seed, split into streams that do not disturb each other. Arrivals and work are drawn from
//! streams of their own, so that every router compared on a seed faces exactly the same requests (common random numbers).

use rand::{SeedableRng, rngs::SmallRng};

/// What a stream of random numbers is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Shape of a scenario.
    Scenario = 1,
    /// Gaps between a proxy's requests, and what each of them asks for.
    Traffic = 2,
    /// Choices of a proxy's routing rule.
    Routing = 3,
    /// The controller: jitter of scrapes, exploration.
    Control = 4,
    /// Training: which scenarios, and the noise of candidates.
    Learning = 5,
}

/// The stream for `purpose`, number `index`, of the run with this seed.
pub fn stream(seed: u64, purpose: Purpose, index: u64) -> SmallRng {
    SmallRng::seed_from_u64(mix(mix(seed ^ mix(purpose as u64)) ^ index))
}

/// SplitMix64's finaliser (Steele et al. 2014): neighbouring seeds yield unrelated streams.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::Rng;

    #[test]
    fn streams_of_one_seed_differ_by_purpose_and_index_and_repeat_exactly() {
        let first = |purpose, index| stream(7, purpose, index).random::<u64>();
        assert_eq!(first(Purpose::Traffic, 0), first(Purpose::Traffic, 0));
        assert_ne!(first(Purpose::Traffic, 0), first(Purpose::Traffic, 1));
        assert_ne!(first(Purpose::Traffic, 0), first(Purpose::Routing, 0));
    }
}
