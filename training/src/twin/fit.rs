//! What a service's endpoints and requests are like when nothing is wrong: slots, discipline and speed of every endpoint, cost of every class
//! and of each class on each endpoint, and how the work of a class is spread.
//!
//! A request's latency is the time that it takes there, plus a wait that begins only when more requests are inside than are served at once. So
//! the count at which latency begins to rise tells the slots, whatever the distribution of the work; and whether cheap requests then wait as
//! long as costly ones (first come, first served) or are slowed down as much (processor sharing) tells the discipline. All of it is by
//! absolute deviations of logarithms: spells in which an endpoint was slow are outliers then.

use std::collections::BTreeMap;

use super::{
    median,
    trace::{Request, Trace},
};
use crate::simulator::{endpoint::Discipline, work::Quantiles};

/// Numbers of slots that are tried.
const SLOTS: [u32; 26] =
    [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 20, 24, 28, 32, 40, 48, 64, 80, 96, 128];
/// How much of the mean work ahead a request waits for, as tried: the median wait is shorter than the mean one where few requests bring
/// most of the work.
const WAITS: [f64; 3] = [0.6, 0.8, 1.0];
/// Samples of an endpoint that are looked at, evenly spread.
const SAMPLES: usize = 3_000;
/// Share of the requests that may have found more than the slots that are tried: a moment's stall fills any pod, and tells nothing of it.
const RARE: f64 = 0.01;
/// Requests of an endpoint that its cost rests on at least.
const QUIET_MIN: usize = 40;
/// The fit settles within so many rounds.
const ROUNDS: usize = 3;
/// Samples of a class on an endpoint that count as much as the assumption that it costs there what it costs anywhere.
const SHRINKAGE: f64 = 12.0;
/// Normal quantile of 97.5 %.
const Z: f64 = 1.96;
/// Seconds of a block, and how much slower than usual (in logarithms) makes it a spell.
const BLOCK_MS: i64 = 2_000;
const SPELL: f64 = 0.4;
/// Bounds of what the network is taken to need.
const NETWORK_MS: (f64, f64) = (0.04, 4.0);
/// Samples from which on a class has a distribution of its own.
const DISTRIBUTION_MIN: usize = 200;

/// What a service is like.
#[derive(Debug, Clone, PartialEq)]
pub struct Fit {
    /// Time that requests and answers are on their way, together; a guess on the low side, as latencies do not tell it from work.
    pub network_ms: f64,
    /// How requests wait.
    pub waiting: Waiting,
    /// In the order of the trace's keys.
    pub endpoints: Vec<EndpointFit>,
    /// In the order of the trace's classes.
    pub classes: Vec<ClassFit>,
    /// How much more a class costs on an endpoint than its cost and the endpoint's slowness say, class-major.
    pub factors: Vec<f64>,
    /// Mean absolute deviation of what was seen from what is expected, in logarithms.
    pub deviation: f64,
}

/// What an endpoint is like.
#[derive(Debug, Clone, PartialEq)]
pub struct EndpointFit {
    /// Requests that it serves at once.
    pub slots: u32,
    /// Whether it told, or one more would explain what was seen clearly worse, or half as many: where pods are never full, what was seen tells how much room
    /// there is at least.
    pub slots_known: bool,
    /// How much longer requests take there than at the average endpoint.
    pub slowness: f64,
    /// Samples that this rests on.
    pub samples: usize,
    /// Share of each class in the requests that it got: routers send costly ones where they cost least.
    pub mix: Vec<f64>,
}

/// What requests of a class are like.
#[derive(Debug, Clone, PartialEq)]
pub struct ClassFit {
    /// Share of all requests.
    pub share: f64,
    /// Mean time at the average endpoint without waiting, in milliseconds.
    pub mean_ms: f64,
    /// How it is spread.
    pub quantiles: Quantiles,
}

/// Costs in logarithms, while they are being fitted.
#[derive(Debug, Clone)]
struct Costs {
    classes: Vec<f64>,
    endpoints: Vec<f64>,
    /// Class-major.
    factors: Vec<f64>,
    /// Mean over median of the time that a class takes.
    mean_over_median: Vec<f64>,
}

impl Costs {
    fn at(&self, class: usize, endpoint: usize) -> f64 {
        self.classes[class] + self.endpoints[endpoint] + self.factors[class * self.endpoints.len() + endpoint]
    }
}

/// How requests wait.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Waiting {
    /// How they share an endpoint.
    pub discipline: Discipline,
    /// One of [`WAITS`]: of the mean work ahead under FCFS, as an exponent of the crowding under processor sharing.
    pub share: f64,
}

impl Waiting {
    /// Expected latency of a request that takes `cost` there and finds `in_flight` others on `slots`; the mean request takes `mean`.
    fn latency(self, cost: f64, mean: f64, in_flight: f64, slots: f64) -> f64 {
        match self.discipline {
            Discipline::Fcfs => cost + self.share * (in_flight + 1.0 - slots).max(0.0) / slots * mean,
            Discipline::ProcessorSharing => cost * ((in_flight + 1.0) / slots).max(1.0).powf(self.share),
        }
    }
}

impl Fit {
    /// Fits a trace, if requests share endpoints like this. Which discipline it is, latencies of one class cannot tell.
    pub fn of(trace: &Trace, discipline: Discipline) -> Self {
        let network_ms = network_ms(trace);
        let good = trace.requests.iter().filter(|request| request.good);
        let good: Vec<Request> = good.map(|request| without_network(request, network_ms)).collect();
        let mut by_endpoint: Vec<Vec<Request>> = vec![Vec::new(); trace.keys.len()];
        good.iter().for_each(|request| by_endpoint[request.endpoint].push(*request));
        let told = slots_told(trace);
        let shares = shares(&good, &vec![0.0; trace.classes.len()]);
        let mixes: Vec<Vec<f64>> = by_endpoint.iter().map(|requests| self::shares(requests, &shares)).collect();

        let mut quiet: Vec<f64> = by_endpoint.iter().map(|requests| least_busy(requests)).collect();
        let mut costs = costs(&good, &quiet, trace.classes.len());
        let mut chosen = choose(discipline, &by_endpoint, &told, &mixes, &costs);
        for _ in 1..ROUNDS {
            // A request that finds a slot free does not wait; few do on a small endpoint that is never idle.
            for (limit, (slots, requests)) in quiet.iter_mut().zip(chosen.slots.iter().zip(&by_endpoint)) {
                // A request that finds a slot free does not wait; few find one at a small endpoint that is never idle.
                *limit = (f64::from(slots.slots) - 1.0).max(least_busy(requests));
            }
            costs = self::costs(&good, &quiet, trace.classes.len());
            chosen = choose(discipline, &by_endpoint, &told, &mixes, &costs);
        }
        costs.endpoints.iter_mut().zip(&chosen.slots).for_each(|(log, chosen)| *log += chosen.slower);
        let usual = usual_slowness(&costs, &by_endpoint);
        let endpoints = chosen
            .slots
            .iter()
            .zip(&costs.endpoints)
            .zip(mixes)
            .zip(&by_endpoint)
            .map(|(((slots, log), mix), requests)| EndpointFit {
                slots: slots.slots,
                slots_known: slots.known,
                slowness: (log - usual).exp(),
                samples: requests.len(),
                mix,
            })
            .collect();
        let classes = classes(&by_endpoint, &quiet, &costs, &shares, usual);
        Self {
            network_ms,
            waiting: chosen.waiting,
            endpoints,
            classes,
            factors: costs.factors.iter().map(|log| log.exp()).collect(),
            deviation: chosen.deviation,
        }
    }

    /// What the mean request that an endpoint gets takes there without waiting, in milliseconds.
    pub fn mean_ms(&self, endpoint: usize) -> f64 {
        let of_class = |(class, share): (usize, &f64)| share * self.cost_ms(class, endpoint);
        self.endpoints[endpoint].mix.iter().enumerate().map(of_class).sum()
    }

    /// What a request of a class takes at an endpoint without waiting, in the mean, in milliseconds.
    pub fn cost_ms(&self, class: usize, endpoint: usize) -> f64 {
        let factor = self.factors[class * self.endpoints.len() + endpoint];
        self.classes[class].mean_ms * self.endpoints[endpoint].slowness * factor
    }

    /// How much longer a request took than the median one that finds as much in flight, in logarithms.
    pub fn residual(&self, request: &Request) -> f64 {
        self.residual_of(request, f64::from(self.endpoints[request.endpoint].slots))
    }

    /// The same if its endpoint served so many requests at once.
    pub fn residual_of(&self, request: &Request, slots: f64) -> f64 {
        let median_ms = self.cost_ms(request.class, request.endpoint) * self.classes[request.class].quantiles.median();
        let mean_ms = self.mean_ms(request.endpoint);
        let expected = self.waiting.latency(median_ms, mean_ms, request.in_flight, slots);
        (without_network(request, self.network_ms).latency_ms / expected.max(1e-6)).ln()
    }

    /// Squared coefficient of variation of what the requests that an endpoint gets take.
    pub fn variation(&self, endpoint: usize) -> f64 {
        let square = |(class, share): (usize, &f64)| {
            share * self.cost_ms(class, endpoint).powi(2) * self.classes[class].quantiles.second_moment()
        };
        let square: f64 = self.endpoints[endpoint].mix.iter().enumerate().map(square).sum();
        (square / self.mean_ms(endpoint).powi(2).max(1e-12) - 1.0).max(0.0)
    }

    /// The usual number of slots; nothing where it is known of no endpoint.
    pub fn usual_slots(&self) -> Option<u32> {
        self.endpoints.iter().find(|endpoint| endpoint.slots_known)?;
        let mut slots: Vec<f64> = self.endpoints.iter().map(|endpoint| f64::from(endpoint.slots)).collect();
        median(&mut slots).map(|slots| slots as u32)
    }
}

/// A part of what the quickest answers take.
fn network_ms(trace: &Trace) -> f64 {
    const QUICKEST: f64 = 0.001;
    const PART: f64 = 0.3;
    let mut latencies: Vec<f64> = trace.requests.iter().filter(|r| r.good).map(|r| r.latency_ms).collect();
    if latencies.is_empty() {
        return 0.0;
    }
    let place = (QUICKEST * latencies.len() as f64) as usize;
    (PART * *latencies.select_nth_unstable_by(place, f64::total_cmp).1).clamp(NETWORK_MS.0, NETWORK_MS.1)
}

fn without_network(request: &Request, network_ms: f64) -> Request {
    let latency_ms = (request.latency_ms - network_ms).max(0.05 * request.latency_ms);
    Request { latency_ms, ..*request }
}

/// What each endpoint last told of its slots.
fn slots_told(trace: &Trace) -> Vec<Option<u32>> {
    let mut told = vec![None; trace.keys.len()];
    for tick in &trace.ticks {
        for (told, seen) in told.iter_mut().zip(&tick.endpoints) {
            if let Some(slots) = seen.and_then(|seen| seen.slots_told) {
                *told = Some(slots as u32);
            }
        }
    }
    told
}

/// Share of each class in these requests, to which what is usual is added as [`SHRINKAGE`] more.
fn shares(requests: &[Request], usual: &[f64]) -> Vec<f64> {
    let mut counts: Vec<f64> = usual.iter().map(|share| share * SHRINKAGE).collect();
    requests.iter().for_each(|request| counts[request.class] += 1.0);
    let sum: f64 = counts.iter().sum::<f64>().max(1e-9);
    counts.iter().map(|count| count / sum).collect()
}

/// The smallest count that enough requests found, or fewer: those hardly waited, whatever the slots.
fn least_busy(requests: &[Request]) -> f64 {
    let mut counts: Vec<f64> = requests.iter().map(|request| request.in_flight).collect();
    let Some(last) = counts.len().checked_sub(1) else { return 0.0 };
    *counts.select_nth_unstable_by(QUIET_MIN.min(last), f64::total_cmp).1
}

/// Costs by alternating medians of the logarithms, from requests that found at most `quiet` others.
fn costs(good: &[Request], quiet: &[f64], classes: usize) -> Costs {
    let endpoints = quiet.len();
    let mut costs = Costs {
        classes: vec![0.0; classes],
        endpoints: vec![0.0; endpoints],
        factors: vec![0.0; classes * endpoints],
        mean_over_median: vec![1.0; classes],
    };
    let samples: Vec<&Request> = good.iter().filter(|request| request.in_flight <= quiet[request.endpoint]).collect();
    let mut residuals: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
    for _ in 0..4 {
        let residual = |costs: &Costs, r: &Request| r.latency_ms.ln() - costs.at(r.class, r.endpoint);
        for (by_class, count) in [(true, classes), (false, endpoints)] {
            residuals.clear();
            for request in &samples {
                let place = if by_class { request.class } else { request.endpoint };
                residuals.entry(place).or_default().push(residual(&costs, request));
            }
            for place in 0..count {
                let step = residuals.get_mut(&place).and_then(|list| median(list)).unwrap_or(0.0);
                if by_class { costs.classes[place] += step } else { costs.endpoints[place] += step }
            }
        }
        residuals.clear();
        for request in &samples {
            let place = request.class * endpoints + request.endpoint;
            residuals.entry(place).or_default().push(residual(&costs, request));
        }
        for (&place, list) in &mut residuals {
            let count = list.len() as f64;
            costs.factors[place] += median(list).unwrap_or(0.0) * count / (count + SHRINKAGE);
        }
    }
    let mut ratios: Vec<Vec<f64>> = vec![Vec::new(); classes];
    for request in &samples {
        ratios[request.class].push(request.latency_ms / costs.at(request.class, request.endpoint).exp());
    }
    for (ratio, list) in costs.mean_over_median.iter_mut().zip(&ratios).filter(|(_, list)| !list.is_empty()) {
        // Within bounds: a few spells must not pass for the nature of a class.
        *ratio = (list.iter().map(|x| x.min(20.0)).sum::<f64>() / list.len() as f64).clamp(1.0, 4.0);
    }
    costs
}

/// Slots of one endpoint.
#[derive(Debug, Clone, Copy)]
struct Chosen {
    slots: u32,
    /// How much slower it is than its costs said, in logarithms.
    slower: f64,
    known: bool,
}

/// What explains the waits best.
struct Choice {
    waiting: Waiting,
    slots: Vec<Chosen>,
    deviation: f64,
}

fn choose(
    discipline: Discipline,
    by_endpoint: &[Vec<Request>],
    told: &[Option<u32>],
    mixes: &[Vec<f64>],
    costs: &Costs,
) -> Choice {
    let choice = |share: f64| {
        let waiting = Waiting { discipline, share };
        let (mut sum, mut count) = (0.0, 0.0);
        let mut slots = Vec::with_capacity(by_endpoint.len());
        for (endpoint, requests) in by_endpoint.iter().enumerate() {
            let (chosen, deviation, samples) =
                choose_slots(endpoint, requests, told[endpoint], &mixes[endpoint], costs, waiting);
            sum += deviation * samples;
            count += samples;
            slots.push(chosen);
        }
        Choice { waiting, slots, deviation: sum / f64::max(count, 1.0) }
    };
    let [first, rest @ ..] = WAITS.map(choice);
    rest.into_iter().fold(first, |best, choice| if choice.deviation < best.deviation { choice } else { best })
}

/// The slots and the slowness of an endpoint that together explain its latencies best, their mean deviation, and from how many samples: cost and
/// wait grow with slowness alike, so that for each number of slots the best slowness is a median.
fn choose_slots(
    endpoint: usize,
    requests: &[Request],
    told: Option<u32>,
    mix: &[f64],
    costs: &Costs,
    waiting: Waiting,
) -> (Chosen, f64, f64) {
    let cost = |class: usize| costs.at(class, endpoint).exp();
    let of_class = |(class, share): (usize, &f64)| share * cost(class) * costs.mean_over_median[class];
    let mean: f64 = mix.iter().enumerate().map(of_class).sum();
    let step = requests.len().div_ceil(SAMPLES).max(1);
    let samples: Vec<(f64, f64, f64)> =
        requests.iter().step_by(step).map(|r| (r.in_flight, r.latency_ms.ln(), cost(r.class))).collect();
    let explain = |slots: u32| {
        Explained::new(slots, &samples, |&(in_flight, log, cost)| {
            log - waiting.latency(cost, mean, in_flight, f64::from(slots)).ln()
        })
    };
    if let Some(slots) = told {
        let told = explain(slots);
        return (Chosen { slots, slower: told.slower, known: true }, told.deviation, samples.len() as f64);
    }
    let most = often(samples.iter().map(|sample| sample.0).collect()) + 1.0;
    let tried: Vec<Explained> = SLOTS.into_iter().filter(|slots| f64::from(*slots) <= most).map(explain).collect();
    let best = (0..tried.len()).min_by(|a, b| tried[*a].deviation.total_cmp(&tried[*b].deviation));
    let Some(best) = best else { return (Chosen { slots: 1, slower: 0.0, known: false }, 0.0, 0.0) };
    let worse = |other: &Explained, errors: f64| {
        let (worse, error) = other.worse_than(&tried[best]);
        worse > errors * error
    };
    let half = tried[..best].iter().rfind(|fewer| 2 * fewer.slots <= tried[best].slots);
    let known = tried.get(best + 1).is_some_and(|more| worse(more, 1.0)) || half.is_some_and(|half| worse(half, Z));
    let Explained { slots, slower, deviation, .. } = tried[best];
    (Chosen { slots, slower, known }, deviation, samples.len() as f64)
}

/// The largest count that so many requests found that it was no stall of a moment; 0 of none.
fn often(mut counts: Vec<f64>) -> f64 {
    let Some(last) = counts.len().checked_sub(1) else { return 0.0 };
    let place = (last as f64 * (1.0 - RARE)).floor() as usize;
    *counts.select_nth_unstable_by(place, f64::total_cmp).1
}

/// How well a number of slots explains an endpoint's latencies.
struct Explained {
    slots: u32,
    slower: f64,
    /// Of each sample.
    deviations: Vec<f64>,
    /// Mean of them.
    deviation: f64,
}

impl Explained {
    fn new<S>(slots: u32, samples: &[S], residual: impl Fn(&S) -> f64) -> Self {
        let residuals: Vec<f64> = samples.iter().map(residual).collect();
        let slower = median(&mut residuals.clone()).unwrap_or(0.0);
        let deviations: Vec<f64> = residuals.into_iter().map(|residual| (residual - slower).abs()).collect();
        let deviation = deviations.iter().sum::<f64>() / deviations.len().max(1) as f64;
        Self { slots, slower, deviations, deviation }
    }

    /// By how much more it deviates than another, and the standard error of that.
    fn worse_than(&self, other: &Self) -> (f64, f64) {
        let differences = self.deviations.iter().zip(&other.deviations).map(|(mine, theirs)| mine - theirs);
        let count = self.deviations.len().max(2) as f64;
        let mean = self.deviation - other.deviation;
        let variance = differences.map(|difference| (difference - mean).powi(2)).sum::<f64>() / (count - 1.0);
        (mean, (variance / count).sqrt())
    }
}

/// Slowness of the average endpoint, in logarithms, each weighted by what it answered.
fn usual_slowness(costs: &Costs, by_endpoint: &[Vec<Request>]) -> f64 {
    let weighted =
        costs.endpoints.iter().zip(by_endpoint).map(|(log, requests)| (log * requests.len() as f64, requests.len()));
    let (sum, count) = weighted.fold((0.0, 0), |(sum, count), (log, samples)| (sum + log, count + samples));
    sum / (count as f64).max(1.0)
}

fn classes(by_endpoint: &[Vec<Request>], quiet: &[f64], costs: &Costs, shares: &[f64], usual: f64) -> Vec<ClassFit> {
    // How long each request took, over what the median one takes there, without those in spells.
    let mut ratios: Vec<Vec<f64>> = vec![Vec::new(); shares.len()];
    for (endpoint, requests) in by_endpoint.iter().enumerate() {
        let unqueued = |request: &&Request| request.in_flight <= quiet[endpoint];
        let ratio = |request: &Request| request.latency_ms / costs.at(request.class, endpoint).exp();
        let mut blocks: BTreeMap<i64, Vec<&Request>> = BTreeMap::new();
        for request in requests.iter().filter(unqueued) {
            blocks.entry(request.at_ms.div_euclid(BLOCK_MS)).or_default().push(request);
        }
        for block in blocks.values() {
            let mut logs: Vec<f64> = block.iter().map(|request| ratio(request).ln()).collect();
            let spell = logs.len() >= 4 && median(&mut logs).is_some_and(|median| median > SPELL);
            if !spell {
                block.iter().for_each(|request| ratios[request.class].push(ratio(request)));
            }
        }
    }
    let all = Quantiles::of(&mut ratios.concat());
    ratios
        .iter_mut()
        .enumerate()
        .map(|(class, ratios)| {
            let own = ratios.len() >= DISTRIBUTION_MIN;
            let mean_over_median =
                if ratios.is_empty() { 1.0 } else { ratios.iter().sum::<f64>() / ratios.len() as f64 };
            ClassFit {
                share: shares[class],
                mean_ms: (costs.classes[class] + usual).exp() * mean_over_median,
                quantiles: if own { Quantiles::of(ratios) } else { all },
            }
        })
        .collect()
}
