//! How many requests each endpoint serves at once, where its pod does not tell: learned while requests are routed.
//!
//! A request takes what its class costs at its endpoint, plus a wait that begins only when more requests are inside than are served at once. So
//! the count in flight at which latencies begin to rise tells the slots, whatever the work is like; and whether cheap requests then wait as
//! long as costly ones (first come, first served) or slow down as much (processor sharing) tells how requests share the endpoint.
//!
//! Sampled requests are summed up in cells, by the count that they found and by how costly they are. For each number of slots the cells say how
//! likely it is; with what is usual in the fleet as prior (empirical Bayes: pods of one template are alike, and then all of them tell of each)
//! that is a distribution over the slots of every endpoint. It is told once it is narrow for most endpoints: what is known of slots decides
//! between two rules that differ (see [`decide`](crate::decide::decide)). Pure; the same code runs in the controller and in the simulator.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use crate::classes::Cost;
use crate::numbers::gain;

/// Numbers of slots that are told apart: within a seventh of each other.
const GRID: [u32; 24] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 16, 18, 20, 24, 28, 32, 40, 48, 64, 96, 128];
/// Counts in flight that are told apart, by the smallest of each group.
const COUNTS: [u32; 26] =
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 18, 20, 24, 28, 32, 40, 56, 80, 128];
/// Logarithms of a class's cost relative to the mean request's there, in the middle of each group.
const LOG_COSTS: [f64; 5] = [-2.0, -1.0, 0.0, 1.0, 2.0];
/// How requests may wait, as tried: costs are geometric means, which the mean work is more or less above, and where few requests bring most of
/// the work, most waits are short.
const WAITINGS: [Waiting; 6] = [
    Waiting::Fcfs(0.4),
    Waiting::Fcfs(0.8),
    Waiting::Fcfs(1.4),
    Waiting::Exponential,
    Waiting::ProcessorSharing(0.7),
    Waiting::ProcessorSharing(1.0),
];
/// Logarithms of latency over cost count up to this: what goes on in a spell says little about slots.
const LOG_RATIO_MAX: f64 = 2.5;
/// Samples are forgotten at this pace.
const MEMORY_S: f64 = 600.0;
/// Samples follow each other closely and the wait is only modelled: so much of a sample counts.
const TEMPER: f64 = 0.5;
/// How far the cost of a class at an endpoint may be off, as the standard deviation of its logarithm.
const COST_ERROR: f64 = 0.3;
/// Standard deviation of the logarithm of an endpoint's slots at which they are taken for known, and at which they no longer are.
const KNOWN: f64 = 0.5;
const FORGOTTEN: f64 = 0.8;
/// What was told changes only by more than this factor, in logarithms.
const MOVED: f64 = 0.12;
/// Time between two rounds of evaluation, endpoints that are evaluated in one tick, and the share of an even prior in each round's.
const ROUND_S: f64 = 5.0;
const ENDPOINTS_PER_TICK: usize = 256;
const OPEN_MIND: f64 = 0.02;
/// Samples that wait for the next tick at most; more say nothing new.
const PENDING_MAX: usize = 8_192;

const CELLS: usize = COUNTS.len() * LOG_COSTS.len();

/// What is known of the slots of one backend's endpoints.
#[derive(Debug, Clone)]
pub struct SlotMemory {
    endpoints: BTreeMap<u64, Endpoint>,
    pending: Vec<Sample>,
    since_s: f64,
    round: Option<Round>,
    /// How usual each number of slots is.
    usual: [f64; GRID.len()],
    /// Variance of the logarithm of latency over what is expected.
    variance: f64,
    /// How requests wait, one of [`WAITINGS`].
    waiting: usize,
    /// Whether enough is known to tell.
    tells: bool,
}

/// What a round of evaluation has found so far.
#[derive(Debug, Clone, Default)]
struct Round {
    /// The endpoint to go on with.
    next: u64,
    endpoints: usize,
    known: usize,
    /// Sum of the posteriors.
    usual: [f64; GRID.len()],
    /// Logarithm of how likely the samples are, by how requests might wait.
    log_evidence: [f64; WAITINGS.len()],
    squares: f64,
    samples: f64,
}

/// One sampled request that was answered well.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// Key of its endpoint.
    pub endpoint: u64,
    /// Identity of its class; 0: of none.
    pub class: u64,
    /// Requests of all proxies in flight there when it was sent.
    pub in_flight: f64,
    /// How long it took.
    pub latency_ms: f64,
}

#[derive(Debug, Clone)]
struct Endpoint {
    /// By count, then by cost.
    cells: Vec<Cell>,
    /// What was told, if anything.
    told: Option<u32>,
    /// Standard deviation of the logarithm of what may be so.
    deviation: f64,
}

/// Logarithms of latency over cost: how many, their sum, their sum of squares.
#[derive(Debug, Clone, Copy, Default)]
struct Cell {
    samples: f64,
    sum: f64,
    squares: f64,
}

/// How requests share an endpoint.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Waiting {
    /// First come, first served; they wait for so much of the mean work ahead.
    Fcfs(f64),
    /// The same where the work of a class is spread exponentially: a small wait lifts the logarithms of latencies more then, as many are short.
    Exponential,
    /// All at once; beyond the slots each goes slower, by this power of the crowding.
    ProcessorSharing(f64),
}

impl Default for SlotMemory {
    fn default() -> Self {
        Self {
            endpoints: BTreeMap::new(),
            pending: Vec::new(),
            since_s: 0.0,
            round: None,
            usual: [1.0 / GRID.len() as f64; GRID.len()],
            variance: 1.0,
            waiting: 1,
            tells: false,
        }
    }
}

impl SlotMemory {
    /// Takes in a sample; one with numbers that cannot be is ignored.
    pub fn add(&mut self, sample: Sample) {
        let Sample { in_flight, latency_ms, .. } = sample;
        let sane = in_flight.is_finite() && in_flight >= 0.0 && latency_ms.is_finite() && latency_ms > 0.0;
        if sane && self.pending.len() < PENDING_MAX {
            self.pending.push(sample);
        }
    }

    /// Time passes, and only these endpoints are left. `cost` tells what a class costs at an endpoint, where that is known.
    pub fn pass(
        &mut self,
        seconds: f64,
        endpoints: impl Iterator<Item = u64>,
        cost: impl Fn(u64, u64) -> Option<Cost>,
    ) {
        for sample in std::mem::take(&mut self.pending) {
            if let Some(cost) = cost(sample.endpoint, sample.class) {
                self.endpoints.entry(sample.endpoint).or_default().add(&sample, cost);
            }
        }
        self.since_s += seconds.max(0.0);
        if self.round.is_none() && self.since_s >= ROUND_S && !self.endpoints.is_empty() {
            let left: BTreeSet<u64> = endpoints.collect();
            self.endpoints.retain(|key, _| left.contains(key));
            let keep = 1.0 - gain(self.since_s, MEMORY_S);
            self.endpoints.values_mut().flat_map(|endpoint| &mut endpoint.cells).for_each(|cell| cell.scale(keep));
            self.since_s = 0.0;
            self.round = Some(Round::default());
        }
        if let Some(round) = self.round.take() {
            self.evaluate(round);
        }
    }

    /// Requests that an endpoint serves at once, as far as that can be told; what is usual for one that nothing is known of.
    pub fn slots(&self, endpoint: u64) -> Option<f64> {
        if !self.tells {
            return None;
        }
        let usual = || usual_slots(&self.usual);
        Some(f64::from(self.endpoints.get(&endpoint).and_then(|endpoint| endpoint.told).unwrap_or_else(usual)))
    }

    /// How sure that is of this endpoint itself: the standard deviation of the logarithm of its slots. `None` where it is only what is usual.
    pub fn deviation(&self, endpoint: u64) -> Option<f64> {
        let known = self.endpoints.get(&endpoint).filter(|endpoint| endpoint.told.is_some())?;
        self.tells.then_some(known.deviation)
    }

    /// Goes on with a round.
    fn evaluate(&mut self, mut round: Round) {
        let narrow = if self.tells { FORGOTTEN } else { KNOWN };
        let mut rest = self.endpoints.range_mut(round.next..);
        for (_, endpoint) in rest.by_ref().take(ENDPOINTS_PER_TICK) {
            let mut posterior = Posterior::default();
            for (waiting, expected) in EXPECTED.iter().enumerate() {
                let of_waiting = endpoint.posterior(expected, &self.usual, self.variance);
                round.log_evidence[waiting] += of_waiting.log_evidence;
                if waiting == self.waiting {
                    posterior = of_waiting;
                }
            }
            round.endpoints += 1;
            round.squares += posterior.squares;
            round.samples += posterior.samples;
            round.usual.iter_mut().zip(&posterior.probabilities).for_each(|(sum, p)| *sum += p);
            let (mean, deviation) = log_moments(&posterior.probabilities);
            round.known += usize::from(deviation < narrow);
            endpoint.deviation = deviation;
            let moved = |told: u32| (f64::from(told).ln() - mean).abs() > MOVED;
            if endpoint.told.is_none_or(moved) {
                endpoint.told = Some(mean.exp().round().max(1.0) as u32);
            }
        }
        match rest.next() {
            Some((key, _)) => self.round = Some(Round { next: *key, ..round }),
            None => self.conclude(&round),
        }
    }

    /// A round is over.
    fn conclude(&mut self, round: &Round) {
        if round.endpoints == 0 {
            self.tells = false;
            return;
        }
        let even = OPEN_MIND / GRID.len() as f64;
        self.usual = round.usual.map(|sum| sum / round.endpoints as f64 * (1.0 - OPEN_MIND) + even);
        if round.samples > 0.0 {
            self.variance = (round.squares / round.samples).clamp(0.01, 4.0);
        }
        let likeliest = (0..WAITINGS.len()).max_by(|a, b| round.log_evidence[*a].total_cmp(&round.log_evidence[*b]));
        self.waiting = likeliest.unwrap_or(self.waiting);
        self.tells = 2 * round.known > round.endpoints;
    }
}

/// What each way of waiting expects of a cell with so many slots, as the logarithm of latency over cost.
static EXPECTED: LazyLock<[Expected; WAITINGS.len()]> = LazyLock::new(|| {
    WAITINGS.map(|waiting| (0..CELLS).map(|cell| GRID.map(|slots| waiting.log_ratio(cell, f64::from(slots)))).collect())
});

/// By cell.
type Expected = Vec<[f64; GRID.len()]>;

/// What is likely of one endpoint.
#[derive(Default)]
struct Posterior {
    /// Of each number of slots.
    probabilities: [f64; GRID.len()],
    /// Logarithm of how likely the samples are.
    log_evidence: f64,
    /// Squares that the likeliest number leaves unexplained, and from how many samples.
    squares: f64,
    samples: f64,
}

impl Default for Endpoint {
    fn default() -> Self {
        Self { cells: vec![Cell::default(); CELLS], told: None, deviation: f64::INFINITY }
    }
}

impl Cell {
    fn scale(&mut self, factor: f64) {
        self.samples *= factor;
        self.sum *= factor;
        self.squares *= factor;
    }
}

impl Endpoint {
    fn add(&mut self, sample: &Sample, cost: Cost) {
        let log_ratio = (sample.latency_ms / cost.class_ms).ln();
        let log_cost = (cost.class_ms / cost.mean_ms).ln();
        if !log_ratio.is_finite() || !log_cost.is_finite() {
            return;
        }
        let count = COUNTS.partition_point(|from| f64::from(*from) <= sample.in_flight.round()).saturating_sub(1);
        let costly = (log_cost.round() + 2.0).clamp(0.0, 4.0) as usize;
        let log_ratio = log_ratio.clamp(-LOG_RATIO_MAX, LOG_RATIO_MAX);
        let cell = &mut self.cells[count * LOG_COSTS.len() + costly];
        cell.samples += 1.0;
        cell.sum += log_ratio;
        cell.squares += log_ratio * log_ratio;
    }

    /// Least squares for each number of slots, with a common factor of the costs fitted along.
    fn posterior(&self, expected: &Expected, usual: &[f64; GRID.len()], variance: f64) -> Posterior {
        let shrinkage = variance / (COST_ERROR * COST_ERROR);
        let samples: f64 = self.cells.iter().map(|cell| cell.samples).sum();
        let (mut sums, mut squares) = ([0.0; GRID.len()], [0.0; GRID.len()]);
        for (cell, expected) in self.cells.iter().zip(expected).filter(|(cell, _)| cell.samples > 0.0) {
            for ((sum, squares), expected) in sums.iter_mut().zip(&mut squares).zip(expected) {
                *sum += cell.sum - cell.samples * expected;
                *squares += cell.squares - 2.0 * expected * cell.sum + cell.samples * expected * expected;
            }
        }
        squares.iter_mut().zip(sums).for_each(|(squares, sum)| *squares -= sum * sum / (samples + shrinkage));
        let least = squares.iter().copied().fold(f64::INFINITY, f64::min);
        let mut probabilities = [0.0; GRID.len()];
        for ((probability, squares), usual) in probabilities.iter_mut().zip(squares).zip(usual) {
            *probability = usual * (-0.5 * TEMPER * (squares - least) / variance).exp();
        }
        let sum: f64 = probabilities.iter().sum();
        probabilities.iter_mut().for_each(|probability| *probability /= sum);
        let log_evidence = sum.ln() - 0.5 * TEMPER * least / variance;
        Posterior { probabilities, log_evidence, squares: least, samples }
    }
}

impl Waiting {
    /// Logarithm of latency over cost that requests of a cell are expected to have.
    fn log_ratio(self, place: usize, slots: f64) -> f64 {
        let inside = count_of(place / LOG_COSTS.len()) + 1.0;
        let departures = (inside - slots).max(0.0);
        let ahead = departures / slots / LOG_COSTS[place % LOG_COSTS.len()].exp();
        match self {
            Self::Fcfs(share) => (share * ahead).ln_1p(),
            // The mean of ln(x + ahead) less that of ln x, for exponential x with mean 1; the time until so many departures varies itself, which
            // the factor stands for (with one slot it is within 2 % of what ψ says).
            Self::Exponential if ahead > 0.0 => {
                let ahead = ahead * (-1.0 / (3.0 * departures)).exp();
                ahead.ln() + scaled_exponential_integral(ahead) + EULER_GAMMA
            }
            Self::Exponential => 0.0,
            Self::ProcessorSharing(power) => power * (inside / slots).max(1.0).ln(),
        }
    }
}

const EULER_GAMMA: f64 = 0.577_215_664_901_532_9;

/// `e^x E1(x)` for x > 0, within 1e-4 (Abramowitz & Stegun 5.1.53 and 5.1.54).
fn scaled_exponential_integral(x: f64) -> f64 {
    if x < 1.0 {
        let series = [-0.577_215_66, 0.999_991_93, -0.249_910_55, 0.055_199_68, -0.009_760_04, 0.001_078_57];
        let polynomial = series.iter().rev().fold(0.0, |sum, coefficient| sum * x + coefficient);
        return x.exp() * (polynomial - x.ln());
    }
    let quotient = (x * x + 2.334_733 * x + 0.250_621) / (x * x + 3.330_657 * x + 1.681_534);
    quotient / x
}

/// The middle of a group of counts.
fn count_of(group: usize) -> f64 {
    let from = f64::from(COUNTS[group]);
    COUNTS.get(group + 1).map_or(from * 1.25, |next| 0.5 * (from + f64::from(next - 1)))
}

/// Mean and standard deviation of the logarithm.
fn log_moments(probabilities: &[f64; GRID.len()]) -> (f64, f64) {
    let logs = || GRID.iter().map(|slots| f64::from(*slots).ln()).zip(probabilities);
    let mean: f64 = logs().map(|(log, p)| log * p).sum();
    let variance: f64 = logs().map(|(log, p)| (log - mean).powi(2) * p).sum();
    (mean, variance.max(0.0).sqrt())
}

fn usual_slots(usual: &[f64; GRID.len()]) -> u32 {
    log_moments(usual).0.exp().round().max(1.0) as u32
}
