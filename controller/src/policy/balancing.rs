//! How an endpoint is chosen: the algorithm, and what consistent hashing goes by.

use std::{fmt, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use trimtab_proxy::api::v1;

/// How an endpoint is chosen for a request.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct LoadBalancer {
    /// The algorithm. Default: Trimtab.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "type")]
    #[schemars(extend("default" = "Trimtab"))]
    pub algorithm: Option<Algorithm>,
    /// What RingHash and Maglev go by. Default: the address of the client's connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consistent_hash: Option<ConsistentHash>,
    /// What the algorithms that came last can be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameters: Option<crate::balancing::Parameters>,
}

/// Requests that are alike in this go to the same endpoint. Where a request lacks it, the address of the client's connection counts.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ConsistentHash {
    /// What it is.
    #[serde(rename = "type")]
    pub kind: ConsistentHashType,
    /// With type Header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<HashName>,
    /// With type Cookie. The cookie is the application's; none is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cookie: Option<HashName>,
    /// Part of every key: another version sends clients to other endpoints, e.g. for a canary. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

/// What consistent hashing goes by.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConsistentHashType {
    /// The address of the client's connection.
    SourceIP,
    /// A header.
    Header,
    /// A cookie.
    Cookie,
}

/// A name.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct HashName {
    /// Of the header or cookie.
    pub name: String,
}

/// An algorithm that chooses an endpoint for a request.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// Live in-flight counts, learned weights and parameters.
    #[default]
    Trimtab,
    /// One after the other.
    RoundRobin,
    /// Any, with equal chances.
    Random,
    /// One after the other, in proportion to the weights (smooth).
    WeightedRoundRobin,
    /// The endpoint with the fewest requests in flight from this proxy; all are looked at.
    LeastRequest,
    /// The one of two random endpoints with fewer requests in flight from this proxy.
    LeastRequestP2C,
    /// The one of two random endpoints with the lower peak-sensitive latency average times requests in flight.
    PeakEwma,
    /// Cubed in-flight counts scaled by the number of proxies, times a latency average; no weights.
    C3Local,
    /// Requests that are alike in `consistentHash` to the same endpoint, by a ring of hashes: when an endpoint leaves, only its own move.
    RingHash,
    /// The same by a Maglev table: shares are more even, a few more requests move.
    Maglev,
    /// The endpoint that got the fewest requests in a sliding window: round robin that makes up for who was passed over.
    SlidingWindowRoundRobin,
    /// One after the other, in proportion to the weights; that of an endpoint that comes to others begins elsewhere and approaches its own.
    DecayingWeights,
    /// The least loaded for its weight, those of the proxy's zone first: requests spill over to other zones by load.
    Locality,
    /// Prequal's choice by what probes and answers tell: of those that are not hot, the quickest.
    Prequal,
}

impl Algorithm {
    /// All of them.
    pub const ALL: [Algorithm; 14] = [
        Algorithm::Trimtab,
        Algorithm::RoundRobin,
        Algorithm::Random,
        Algorithm::WeightedRoundRobin,
        Algorithm::LeastRequest,
        Algorithm::LeastRequestP2C,
        Algorithm::PeakEwma,
        Algorithm::C3Local,
        Algorithm::RingHash,
        Algorithm::Maglev,
        Algorithm::SlidingWindowRoundRobin,
        Algorithm::DecayingWeights,
        Algorithm::Locality,
        Algorithm::Prequal,
    ];

    /// In the spelling of `--algorithm`.
    pub const fn name(self) -> &'static str {
        match self {
            Algorithm::Trimtab => "trimtab",
            Algorithm::RoundRobin => "round-robin",
            Algorithm::Random => "random",
            Algorithm::WeightedRoundRobin => "weighted-round-robin",
            Algorithm::LeastRequest => "least-request",
            Algorithm::LeastRequestP2C => "least-request-p2c",
            Algorithm::PeakEwma => "peak-ewma",
            Algorithm::C3Local => "c3-local",
            Algorithm::RingHash => "ring-hash",
            Algorithm::Maglev => "maglev",
            Algorithm::SlidingWindowRoundRobin => "sliding-window-round-robin",
            Algorithm::DecayingWeights => "decaying-weights",
            Algorithm::Locality => "locality",
            Algorithm::Prequal => "prequal",
        }
    }

    /// As the data plane says it.
    pub const fn data_plane(self) -> v1::Algorithm {
        match self {
            Algorithm::Trimtab => v1::Algorithm::Adaptive,
            Algorithm::RoundRobin => v1::Algorithm::RoundRobin,
            Algorithm::Random => v1::Algorithm::Random,
            Algorithm::WeightedRoundRobin => v1::Algorithm::WeightedRoundRobin,
            Algorithm::LeastRequest => v1::Algorithm::LeastRequest,
            Algorithm::LeastRequestP2C => v1::Algorithm::LeastRequestP2c,
            Algorithm::PeakEwma => v1::Algorithm::PeakEwma,
            Algorithm::C3Local => v1::Algorithm::C3Local,
            Algorithm::RingHash => v1::Algorithm::RingHash,
            Algorithm::Maglev => v1::Algorithm::Maglev,
            Algorithm::SlidingWindowRoundRobin => v1::Algorithm::SlidingWindowRoundRobin,
            Algorithm::DecayingWeights => v1::Algorithm::DecayingWeights,
            Algorithm::Locality => v1::Algorithm::Locality,
            Algorithm::Prequal => v1::Algorithm::Prequal,
        }
    }

    /// Whether it heeds the weights that a tick pushes.
    pub const fn uses_weights(self) -> bool {
        matches!(
            self,
            Algorithm::Trimtab | Algorithm::WeightedRoundRobin | Algorithm::DecayingWeights | Algorithm::Locality
        )
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that is not an algorithm's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown algorithm \"{0}\", expected one of {names}", names = Algorithm::ALL.map(Algorithm::name).join(", "))]
pub struct UnknownAlgorithm(pub String);

impl FromStr for Algorithm {
    type Err = UnknownAlgorithm;

    fn from_str(text: &str) -> Result<Self, UnknownAlgorithm> {
        Algorithm::ALL
            .into_iter()
            .find(|algorithm| algorithm.name() == text)
            .ok_or_else(|| UnknownAlgorithm(text.to_owned()))
    }
}
