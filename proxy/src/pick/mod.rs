//! How the endpoint of a request is chosen: small interchangeable algorithms behind one interface.
//!
//! An algorithm sees a [`Pool`] of candidates that may be picked; who may be is settled when a table is built, not per request. It
//! takes time and randomness as arguments, locks nothing and allocates nothing.

pub mod alias;
pub mod c3_local;
pub mod consistent;
pub mod costs;
pub mod decaying_weights;
pub mod least_request;
pub mod locality;
pub mod many;
pub mod peak_ewma;
pub mod prequal;
pub mod probes;
#[cfg(test)]
mod quiet_tests;
pub mod random;
pub mod round_robin;
pub mod rule;
pub mod sliding_window;
#[cfg(test)]
mod testing;
pub mod weighted_round_robin;

use std::sync::{Arc, atomic::AtomicU64};

use rand::RngCore;

use crate::{
    average::{LatencyAverage, MeanInFlight},
    config::{Algorithm, Balancing, EndpointKey, RuleParameters},
    load::{EndpointLoad, RequestClass},
    time::{Coarse, Timestamp},
};

/// What is known of the request when its endpoint is chosen.
#[derive(Debug, Clone, Copy, Default)]
pub struct PickRequest<'a> {
    /// Its class.
    pub class: RequestClass,
    /// What consistent hashing goes by.
    pub key: u64,
    /// Endpoints that it failed to reach already.
    pub exclude: &'a [EndpointKey],
    /// The endpoint that probes speak for, by its position in the backend's list.
    pub probed: Option<u32>,
}

/// One endpoint that may be picked.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// Its live load.
    pub load: Arc<EndpointLoad>,
    /// Position in the backend's endpoint list.
    pub index: u32,
    /// Mean weight of the pool divided by its weight.
    pub inverse_weight: f32,
    /// `1 / w^ω` of the rule over what is asked for beyond capacity, computed once.
    pub weight_factor: f64,
    /// Error average pooled over all proxies when it was received, 0..=1.
    pub pooled_error: f32,
    /// Whether this proxy is one of those that prefer the endpoint (soft affinity).
    pub preferred: bool,
}

/// What the algorithms choose from, and what they share between tables.
#[derive(Debug, Clone)]
pub struct Pool {
    /// Those that may be picked.
    pub candidates: Box<[Candidate]>,
    /// Proxies that send to them, this one included.
    pub proxies: f32,
    /// When the pooled errors were received; they fade from then on. `None`: all are zero.
    pub(crate) errors_at: Option<Coarse>,
    /// Whether what other proxies say that they have in flight counts.
    pub peers: bool,
    /// What is known of the classes of requests.
    pub costs: Option<Arc<costs::Costs>>,
    /// State that outlives tables.
    pub shared: Arc<Shared>,
}

/// What outlives tables.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Shared {
    /// Whose turn it is.
    pub cursor: AtomicU64,
    /// Average latency over all endpoints: what an endpoint that has not answered yet is taken for.
    pub latency: LatencyAverage,
    /// Own requests in flight at all endpoints, on average: whether there is little to do.
    pub in_flight: MeanInFlight,
}

/// The one interface of all algorithms.
pub trait Pick {
    /// The position of the chosen candidate in the pool; `None` only if the request excludes all.
    fn pick<R: RngCore + ?Sized>(
        &self,
        pool: &Pool,
        request: &PickRequest<'_>,
        now: Timestamp,
        rng: &mut R,
    ) -> Option<usize>;
}

/// An algorithm with what it has computed beforehand for one pool.
#[derive(Debug, Clone)]
pub enum Picker {
    /// Trimtab's rule.
    Adaptive(rule::Rule),
    /// In turn.
    RoundRobin(round_robin::RoundRobin),
    /// Uniformly at random.
    Random(random::Random),
    /// In turn by weight.
    WeightedRoundRobin(weighted_round_robin::WeightedRoundRobin),
    /// Fewest in flight of all.
    LeastRequest(least_request::FullScan),
    /// Fewest in flight of two.
    LeastRequestP2c(least_request::TwoChoices),
    /// Linkerd's.
    PeakEwma(peak_ewma::PeakEwma),
    /// c3-local.
    C3Local(c3_local::C3Local),
    /// A ring of hashes.
    RingHash(consistent::Ring),
    /// A Maglev table.
    Maglev(consistent::Maglev),
    /// The fewest in a sliding window.
    SlidingWindow(sliding_window::SlidingWindow),
    /// In turn by weights that decay.
    DecayingWeights(decaying_weights::DecayingWeights),
    /// Those of the own zone first.
    Locality(locality::Locality),
    /// Prequal's.
    Prequal(prequal::Prequal),
}

impl Picker {
    /// Prepares `algorithm` for `pool`. `parameters` are those of the rule; `is_near` says of an endpoint's position in the backend's list whether it is in
    /// the proxy's zone.
    pub fn new(
        algorithm: Algorithm,
        pool: &Pool,
        parameters: &RuleParameters,
        set: &Balancing,
        is_near: impl Fn(usize) -> bool,
    ) -> Self {
        match algorithm {
            Algorithm::Adaptive => Self::Adaptive(rule::Rule::new(pool, parameters)),
            Algorithm::RoundRobin => Self::RoundRobin(round_robin::RoundRobin),
            Algorithm::Random => Self::Random(random::Random),
            Algorithm::WeightedRoundRobin => {
                Self::WeightedRoundRobin(weighted_round_robin::WeightedRoundRobin::new(pool))
            }
            Algorithm::LeastRequest => Self::LeastRequest(least_request::FullScan),
            Algorithm::LeastRequestP2c => Self::LeastRequestP2c(least_request::TwoChoices),
            Algorithm::PeakEwma => Self::PeakEwma(peak_ewma::PeakEwma),
            Algorithm::C3Local => Self::C3Local(c3_local::C3Local::new()),
            Algorithm::RingHash => Self::RingHash(consistent::Ring::new(pool)),
            Algorithm::Maglev => Self::Maglev(consistent::Maglev::new(pool)),
            Algorithm::SlidingWindowRoundRobin => Self::SlidingWindow(sliding_window::SlidingWindow::new(set.window)),
            Algorithm::DecayingWeights => {
                Self::DecayingWeights(decaying_weights::DecayingWeights::new(pool, set.start, set.half_life))
            }
            Algorithm::Locality => Self::Locality(locality::Locality::new(pool, set.spillover, is_near)),
            Algorithm::Prequal => Self::Prequal(prequal::Prequal::new(set.hot_quantile)),
        }
    }
}

impl Pick for Picker {
    fn pick<R: RngCore + ?Sized>(
        &self,
        pool: &Pool,
        request: &PickRequest<'_>,
        now: Timestamp,
        rng: &mut R,
    ) -> Option<usize> {
        match self {
            Self::Adaptive(picker) => picker.pick(pool, request, now, rng),
            Self::RoundRobin(picker) => picker.pick(pool, request, now, rng),
            Self::Random(picker) => picker.pick(pool, request, now, rng),
            Self::WeightedRoundRobin(picker) => picker.pick(pool, request, now, rng),
            Self::LeastRequest(picker) => picker.pick(pool, request, now, rng),
            Self::LeastRequestP2c(picker) => picker.pick(pool, request, now, rng),
            Self::PeakEwma(picker) => picker.pick(pool, request, now, rng),
            Self::C3Local(picker) => picker.pick(pool, request, now, rng),
            Self::RingHash(picker) => picker.pick(pool, request, now, rng),
            Self::Maglev(picker) => picker.pick(pool, request, now, rng),
            Self::SlidingWindow(picker) => picker.pick(pool, request, now, rng),
            Self::DecayingWeights(picker) => picker.pick(pool, request, now, rng),
            Self::Locality(picker) => picker.pick(pool, request, now, rng),
            Self::Prequal(picker) => picker.pick(pool, request, now, rng),
        }
    }
}

impl PickRequest<'_> {
    /// Whether the request must not go there.
    #[inline]
    pub(crate) fn excludes(&self, candidate: &Candidate) -> bool {
        !self.exclude.is_empty() && self.exclude.contains(&candidate.load.key())
    }
}

/// The candidate with the lowest score; of several, one at random, all with the same chance. One random number a call, and work for ties
/// only where there are any.
#[inline]
pub(crate) fn lowest<R: RngCore + ?Sized>(
    pool: &Pool,
    request: &PickRequest<'_>,
    positions: impl Iterator<Item = usize>,
    rng: &mut R,
    score: impl Fn(&Candidate) -> f64,
) -> Option<usize> {
    lowest_below(pool, request, positions, rng, |candidate, _| score(candidate))
}

/// The same for a score that is told the lowest one so far, and may say infinity instead of working out one that is higher.
#[inline]
pub(crate) fn lowest_below<R: RngCore + ?Sized>(
    pool: &Pool,
    request: &PickRequest<'_>,
    positions: impl Iterator<Item = usize>,
    rng: &mut R,
    score: impl Fn(&Candidate, f64) -> f64,
) -> Option<usize> {
    let mut best = None;
    let mut best_score = f64::INFINITY;
    let mut ties = 1;
    let mut noise = Ties(rng.next_u64());
    for position in positions {
        let candidate = &pool.candidates[position];
        if request.excludes(candidate) {
            continue;
        }
        let score = score(candidate, best_score);
        if score < best_score || best.is_none() {
            (best, best_score, ties) = (Some(position), score, 1);
        } else if score == best_score {
            ties += 1;
            if noise.one_in(ties) {
                best = Some(position);
            }
        }
    }
    best
}

/// Cheap noise for ties from one random number (SplitMix64's sequence).
struct Ties(u64);

impl Ties {
    fn one_in(&mut self, n: u64) -> bool {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        (mixed(self.0) >> 32).wrapping_mul(n) >> 32 == 0
    }
}

/// A number whose upper half looks random for every input.
#[inline]
fn mixed(number: u64) -> u64 {
    (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9)
}

/// A uniformly random number below `n`, for n < 2³² (the bias is below n/2³²).
#[inline]
pub(crate) fn below<R: RngCore + ?Sized>(rng: &mut R, n: usize) -> usize {
    ((u64::from(rng.next_u32()) * n as u64) >> 32) as usize
}

/// A uniformly random candidate that the request does not exclude, other than `not`.
pub(crate) fn any_candidate<R: RngCore + ?Sized>(
    pool: &Pool,
    request: &PickRequest<'_>,
    not: Option<usize>,
    rng: &mut R,
) -> Option<usize> {
    let allowed = |position: &usize| Some(*position) != not && !request.excludes(&pool.candidates[*position]);
    let len = pool.candidates.len();
    if request.exclude.is_empty() {
        // Skipping one position keeps the rest equally likely.
        return match not {
            None => (len > 0).then(|| below(rng, len)),
            Some(not) => (len > 1).then(|| {
                let position = below(rng, len - 1);
                position + usize::from(position >= not)
            }),
        };
    }
    // A retry: rare, so it may count.
    let count = (0..len).filter(allowed).count();
    let nth = (count > 0).then(|| below(rng, count))?;
    (0..len).filter(allowed).nth(nth)
}
