//! The algorithms by which endpoints are chosen: their names, in configuration, on the command line and on the wire.

use std::{fmt, str::FromStr};

use crate::api::v1;

/// How the endpoint of a request is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Algorithm {
    /// Trimtab's rule: live in-flight counts, pushed weights and parameters. Spelled `trimtab`.
    #[default]
    Adaptive,
    /// In turn.
    RoundRobin,
    /// Uniformly at random.
    Random,
    /// In turn, in proportion to the pushed weights.
    WeightedRoundRobin,
    /// The fewest own requests in flight, of all.
    LeastRequest,
    /// The fewest own requests in flight, of two drawn at random.
    LeastRequestP2c,
    /// Linkerd's: the lower peak-sensitive latency times requests in flight, of two drawn at random.
    PeakEwma,
    /// `(own in flight × proxies + 1)³ × latency`, no weights.
    C3Local,
    /// Requests with the same key to the same endpoint, by a ring of hashes.
    RingHash,
    /// The same by a Maglev table.
    Maglev,
    /// The fewest requests in a sliding window.
    SlidingWindowRoundRobin,
    /// In turn, in proportion to weights; those of new endpoints begin elsewhere and approach theirs.
    DecayingWeights,
    /// The least loaded, those of the proxy's zone first.
    Locality,
    /// Prequal's choice, by what probes and answers tell.
    Prequal,
}

impl Algorithm {
    /// All of them, as they are spelled on the command line.
    pub const SPELLINGS: [(Self, &str); 14] = [
        (Self::Adaptive, "trimtab"),
        (Self::RoundRobin, "round-robin"),
        (Self::Random, "random"),
        (Self::WeightedRoundRobin, "weighted-round-robin"),
        (Self::LeastRequest, "least-request"),
        (Self::LeastRequestP2c, "least-request-p2c"),
        (Self::PeakEwma, "peak-ewma"),
        (Self::C3Local, "c3-local"),
        (Self::RingHash, "ring-hash"),
        (Self::Maglev, "maglev"),
        (Self::SlidingWindowRoundRobin, "sliding-window-round-robin"),
        (Self::DecayingWeights, "decaying-weights"),
        (Self::Locality, "locality"),
        (Self::Prequal, "prequal"),
    ];

    /// The command line's spelling.
    pub fn as_str(self) -> &'static str {
        Self::SPELLINGS.iter().find(|(algorithm, _)| *algorithm == self).map_or("trimtab", |(_, spelling)| spelling)
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.as_str())
    }
}

/// A name that is no algorithm.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown algorithm {0:?}: one of trimtab, round-robin, random, weighted-round-robin, least-request, least-request-p2c, peak-ewma, c3-local, ring-hash, maglev, sliding-window-round-robin, decaying-weights, locality, prequal"
)]
pub struct UnknownAlgorithm(pub String);

impl FromStr for Algorithm {
    type Err = UnknownAlgorithm;

    fn from_str(name: &str) -> Result<Self, UnknownAlgorithm> {
        let known = Self::SPELLINGS.iter().find(|(_, spelling)| *spelling == name);
        known.map(|(algorithm, _)| *algorithm).ok_or_else(|| UnknownAlgorithm(name.to_owned()))
    }
}

impl From<v1::Algorithm> for Algorithm {
    fn from(wire: v1::Algorithm) -> Self {
        match wire {
            v1::Algorithm::Adaptive => Self::Adaptive,
            v1::Algorithm::RoundRobin => Self::RoundRobin,
            v1::Algorithm::Random => Self::Random,
            v1::Algorithm::WeightedRoundRobin => Self::WeightedRoundRobin,
            v1::Algorithm::LeastRequest => Self::LeastRequest,
            v1::Algorithm::LeastRequestP2c => Self::LeastRequestP2c,
            v1::Algorithm::PeakEwma => Self::PeakEwma,
            v1::Algorithm::C3Local => Self::C3Local,
            v1::Algorithm::RingHash => Self::RingHash,
            v1::Algorithm::Maglev => Self::Maglev,
            v1::Algorithm::SlidingWindowRoundRobin => Self::SlidingWindowRoundRobin,
            v1::Algorithm::DecayingWeights => Self::DecayingWeights,
            v1::Algorithm::Locality => Self::Locality,
            v1::Algorithm::Prequal => Self::Prequal,
        }
    }
}

impl From<Algorithm> for v1::Algorithm {
    fn from(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Adaptive => Self::Adaptive,
            Algorithm::RoundRobin => Self::RoundRobin,
            Algorithm::Random => Self::Random,
            Algorithm::WeightedRoundRobin => Self::WeightedRoundRobin,
            Algorithm::LeastRequest => Self::LeastRequest,
            Algorithm::LeastRequestP2c => Self::LeastRequestP2c,
            Algorithm::PeakEwma => Self::PeakEwma,
            Algorithm::C3Local => Self::C3Local,
            Algorithm::RingHash => Self::RingHash,
            Algorithm::Maglev => Self::Maglev,
            Algorithm::SlidingWindowRoundRobin => Self::SlidingWindowRoundRobin,
            Algorithm::DecayingWeights => Self::DecayingWeights,
            Algorithm::Locality => Self::Locality,
            Algorithm::Prequal => Self::Prequal,
        }
    }
}
