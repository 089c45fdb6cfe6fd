//! Trimtab's rule: score every candidate by how long this request would take there, take the lowest.
//!
//! `base^κ / w^ω · (latency / reference)^z · (1 − e)^−a`, where the latency average and e (the larger of the own and the pooled
//! error average) are live, and everything else comes from the controller. The base is the expected time in units of the mean request's cost:
//!
//! - `y + T_x + h·Σ n_k T_k / c + (g − 1)` where classes and the endpoint's slots c are known: T_k is the cost of class k there, n_k how many are in
//!   flight, x the request's class, and y the wait for a slot ([`wait`]);
//! - `(n̂ + g) · f_x` otherwise: all requests count alike but for what the request's class costs more there than elsewhere. With one class and
//!   one slot both say `n̂ + g`.
//!
//! Where there is little to do ([`quiet`]), the score of an idle endpoint is raised by up to [`QUIET_SPREAD`] at random, latencies are told apart less finely, and what
//! is known of those that get nothing grows old sooner: requests spread over all that are about as good.
//!
//! Up to [`SCAN_MAX`] candidates all are scanned; of more, [a few](super::many).

use rand::RngCore;

use super::{
    Candidate, Pick, PickRequest, Pool,
    costs::{Costs, Queue},
    lowest_below,
    many::Many,
    mixed,
};
use crate::{
    average::faded,
    config::RuleParameters,
    load::{CLASSES_MAX, EndpointLoad, RequestClass},
    time::{Coarse, Timestamp},
};

/// Up to so many candidates all are scanned.
pub const SCAN_MAX: usize = 32;
/// An endpoint that has not answered yet where others have is taken for so many times slower than they: who is slow answers last, new pods start cold more often than
/// not, and look idle. The first answers correct it. (Simulated scale-outs over 12 seeds: p99 1.22 of the bound's without, 1.00 with it; 2 gives 1.20.)
/// As any average without news it grows old: whatever else there is to choose from, it is tried some time.
const UNKNOWN: f32 = 3.0;
/// With so many requests in flight an endpoint, on average, counts and averages are all that matters; with fewer, there is the more quiet.
const QUIET_BELOW: f32 = 0.5;
/// In complete quiet, idle endpoints whose scores differ by less than this share get their turns by chance. One of the equals would otherwise get all
/// requests, because its last answers happened to be the quickest, and what is known of the others would grow old (`quiet_tests.rs`).
const QUIET_SPREAD: f64 = 1.0;
/// Latencies, and what requests cost, are then compared as if each were so many milliseconds longer. Below, differences come from a connection that has cooled down or from whose turn it was
/// on a busy machine, and no client notices them; raised to a power they would decide everything.
const QUIET_RESOLUTION_MS: f32 = 1.0;
/// And a latency average without news grows old so many times faster, in addition.
const QUIET_HASTE: f32 = 9.0;
/// An error average counts up to this: beyond, the score would only grow without saying more.
const ERROR_MAX: f32 = 0.95;
/// Pooled errors fade like the averages that they are made of.
const POOLED_FADE_S: f32 = 2.0;

/// The rule with one set of parameters, prepared for one pool.
#[derive(Debug, Clone)]
pub struct Rule {
    count: Power,
    offset: f32,
    latency: Power,
    reference_ms: f32,
    error: Power,
    work_share: f32,
    /// Proxies that share an endpoint with this one where it is preferred, and the factor where it is not.
    affinity: Option<(f32, f64)>,
    /// Where there are more than [`SCAN_MAX`].
    many: Option<Many>,
}

/// The factors of one candidate's score: what the rule saw and what it made of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Terms {
    /// n̂: requests in flight there, from all proxies, as estimated.
    pub in_flight: f32,
    /// The latency average that was used, in milliseconds, as the mean request would take.
    pub latency_ms: f32,
    /// The error average that was used, 0..=1.
    pub error: f32,
    /// What the request waits for a slot, in units of the mean request's cost; 0 where slots are unknown.
    pub wait: f32,
    /// What it takes there itself, in the same unit; 1 where nothing is known of its class.
    pub cost: f32,
    /// `base^κ`.
    pub count_factor: f64,
    /// `1 / w^ω`, where w is relative to the mean weight, over the adjustment that came with it.
    pub weight_factor: f64,
    /// `(latency / reference)^z`, both a little longer where there is little to do.
    pub latency_factor: f64,
    /// `(1 − e)^−a`.
    pub error_factor: f64,
    /// 1 where this proxy prefers the endpoint, and where there is no affinity.
    pub affinity_factor: f64,
}

impl Terms {
    /// The product; finite and > 0.
    #[inline]
    pub fn score(&self) -> f64 {
        self.count_factor * self.weight_factor * self.latency_factor * self.error_factor * self.affinity_factor
    }
}

impl Rule {
    /// Prepares the rule for `pool`.
    pub fn new(pool: &Pool, parameters: &RuleParameters) -> Self {
        let weights = pool.candidates.iter().map(|candidate| 1.0 / f64::from(candidate.inverse_weight));
        Self {
            count: Power::new(parameters.exponent),
            offset: parameters.offset,
            latency: Power::new(parameters.latency_exponent),
            reference_ms: parameters.latency_reference_ms,
            error: Power::new(parameters.error_exponent),
            work_share: parameters.work_share,
            affinity: (parameters.affinity_proxies >= 1.0 && pool.proxies > parameters.affinity_proxies)
                .then_some((parameters.affinity_proxies, parameters.affinity_factor.into())),
            many: (pool.candidates.len() > SCAN_MAX).then(|| Many::new(weights)),
        }
    }

    /// The terms of one candidate for a request of a class: the very ones that picking compares.
    pub fn explain(&self, pool: &Pool, candidate: &Candidate, class: RequestClass, now: Timestamp) -> Terms {
        let look = Look::at(pool, Coarse::of(now), 0);
        let factors = self.factors(pool, candidate, &look);
        let there = There::look(&candidate.load, look.now, factors.sharing, pool.peers);
        let (base, wait, cost) = match &pool.costs {
            None => (there.in_flight + self.offset, 0.0, 1.0),
            Some(costs) => self.expected(costs, candidate.index as usize, &there, class, look.resolution),
        };
        Terms { in_flight: there.in_flight, wait, cost, count_factor: self.count.of(base), ..factors.terms }
    }

    /// The score, or infinity if it is above `best`: without looking at what is in flight, where an idle endpoint would score higher.
    #[inline]
    fn score_below(&self, pool: &Pool, candidate: &Candidate, class: RequestClass, look: &Look, best: f64) -> f64 {
        let factors = self.factors(pool, candidate, look);
        let product = factors.terms.score();
        let index = candidate.index as usize;
        let least = pool.costs.as_ref().map_or(self.offset, |costs| self.least(costs, index, class, look.resolution));
        if self.count.of(least) * product > best {
            return f64::INFINITY;
        }
        let there = There::look(&candidate.load, look.now, factors.sharing, pool.peers);
        let base = match &pool.costs {
            None => there.in_flight + self.offset,
            Some(costs) => self.expected(costs, index, &there, class, look.resolution).0,
        };
        let score = self.count.of(base) * product;
        if look.quiet > 0.0 && there.in_flight <= 0.0 { score * look.spread(candidate.index) } else { score }
    }

    /// Everything but the base.
    #[inline]
    fn factors(&self, pool: &Pool, candidate: &Candidate, look: &Look) -> Factors {
        let now = look.now;
        let load = &*candidate.load;
        let (sharing, affinity_factor) = match self.affinity {
            Some((few, _)) if candidate.preferred => (few, 1.0),
            Some((_, factor)) => (pool.proxies, factor),
            None => (pool.proxies, 1.0),
        };
        let latency_ms = load
            .latency_at(now, look.haste, look.mean_ms)
            .or_else(|| look.mean_ms.map(|ms| ms * unknown(load, now, look.haste)))
            .unwrap_or(self.reference_ms);
        let latency_ms = latency_ms.max(1e-3);
        let error = load.error_at(now).max(candidate.pooled_error * look.fade).min(ERROR_MAX);
        let terms = Terms {
            in_flight: 0.0,
            latency_ms,
            error,
            wait: 0.0,
            cost: 1.0,
            count_factor: 1.0,
            weight_factor: candidate.weight_factor,
            latency_factor: self
                .latency
                .of((latency_ms + look.resolution_ms) / (self.reference_ms + look.resolution_ms)),
            error_factor: if error > 1e-4 { self.error.of(1.0 / (1.0 - error)) } else { 1.0 },
            affinity_factor,
        };
        Factors { terms, sharing }
    }

    /// The base of an idle endpoint; nothing is scored 0.
    #[inline]
    fn least(&self, costs: &Costs, index: usize, class: RequestClass, resolution: f32) -> f32 {
        if costs.slots(index) <= 0.0 {
            self.offset * dearer(costs, index, class, resolution)
        } else {
            let cost = (costs.at(index, class) + resolution) / (1.0 + resolution);
            (cost + self.offset - 1.0).max(1e-3)
        }
    }

    /// Base, wait and cost of a request where classes are known.
    #[inline]
    fn expected(
        &self,
        costs: &Costs,
        index: usize,
        there: &There,
        class: RequestClass,
        resolution: f32,
    ) -> (f32, f32, f32) {
        let cost = costs.at(index, class);
        let slots = costs.slots(index);
        if slots <= 0.0 {
            return ((there.in_flight + self.offset) * dearer(costs, index, class, resolution), 0.0, cost);
        }
        let own = self.least(costs, index, class, resolution);
        if there.in_flight <= 0.0 {
            return (own, 0.0, cost);
        }
        let queue = there.queue(costs, index);
        let wait = queue.wait(slots);
        (wait + self.work_share * queue.work() / slots + own, wait, cost)
    }
}

/// How many times more a class costs at one endpoint than at the average one.
#[inline]
fn dearer(costs: &Costs, index: usize, class: RequestClass, resolution: f32) -> f32 {
    (costs.at(index, class) + resolution) / (costs.relative(class) + resolution)
}

/// What is the same for all candidates of one pick.
struct Look {
    now: Coarse,
    /// Of the pooled errors.
    fade: f32,
    quiet: f32,
    /// How many times faster averages without news grow old.
    haste: f32,
    /// What all answers take, on average.
    mean_ms: Option<f32>,
    /// Of latencies.
    resolution_ms: f32,
    /// Of costs: the same, in units of the mean request's cost.
    resolution: f32,
    noise: u64,
}

impl Look {
    #[inline]
    fn at(pool: &Pool, now: Coarse, noise: u64) -> Self {
        let quiet = quiet(pool, now);
        let (haste, resolution_ms) = (1.0 + QUIET_HASTE * quiet, QUIET_RESOLUTION_MS * quiet);
        let resolution = pool.costs.as_ref().map_or(0.0, |costs| resolution_ms / costs.mean_ms().max(1e-3));
        let mean_ms = pool.shared.latency.unaged();
        Self { now, fade: pooled_fade(pool, now), quiet, haste, mean_ms, resolution_ms, resolution, noise }
    }

    /// The factor of an idle endpoint's score, by chance: at least 1.
    fn spread(&self, index: u32) -> f64 {
        let own = u64::from(index).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let chance = (mixed(self.noise.wrapping_add(own)) >> 32) as f64 / f64::from(u32::MAX);
        1.0 + QUIET_SPREAD * f64::from(self.quiet) * chance
    }
}

/// How little there is to do: from 0, enough, to 1, nothing.
fn quiet(pool: &Pool, now: Coarse) -> f32 {
    let each = pool.shared.in_flight.at(now) * pool.proxies / pool.candidates.len() as f32;
    (1.0 - each / QUIET_BELOW).max(0.0)
}

/// How many times faster than usual averages without news grow old.
pub(crate) fn haste(pool: &Pool, now: Coarse) -> f32 {
    1.0 + QUIET_HASTE * quiet(pool, now)
}

/// How many times slower than the others an endpoint is taken for that has not answered yet.
fn unknown(load: &EndpointLoad, now: Coarse, haste: f32) -> f32 {
    UNKNOWN * faded(load.untried_s(now) * haste)
}

/// Terms without a base, and how many proxies share the endpoint with this one.
struct Factors {
    terms: Terms,
    sharing: f32,
}

/// What is in flight at an endpoint, as well as can be told.
struct There {
    /// From all proxies.
    in_flight: f32,
    /// By class: own ones, and peers' where they tell.
    counted: [u64; CLASSES_MAX / 4],
    /// Those of other proxies that have not told of theirs.
    others: f32,
}

impl There {
    #[inline]
    fn look(load: &EndpointLoad, now: Coarse, sharing: f32, listen: bool) -> Self {
        let (counted, heard) = load.packed(now, listen);
        if heard {
            // Four lanes at once: fold the upper half of each word onto the lower one.
            let sum = |word: u64| {
                let pairs = (word & 0x0000_ffff_0000_ffff) + ((word >> 16) & 0x0000_ffff_0000_ffff);
                (pairs & 0xffff_ffff) + (pairs >> 32)
            };
            let in_flight = counted.iter().map(|word| sum(*word)).sum::<u64>() as f32;
            return Self { in_flight, counted, others: 0.0 };
        }
        let in_flight = load.in_flight_at(now, sharing);
        Self { in_flight, counted, others: (in_flight - load.in_flight() as f32).max(0.0) }
    }

    /// The same with what each class costs there.
    #[inline]
    fn queue(&self, costs: &Costs, index: usize) -> Queue {
        let row = costs.row(index);
        let mut queue = Queue::default();
        if self.others > 0.0 {
            for (class, (share, cost)) in costs.mix().iter().zip(row).enumerate() {
                let own = (self.counted[class / 4] >> (16 * (class % 4))) as u16;
                queue.add(f32::from(own) + self.others * share, *cost);
            }
            return queue;
        }
        for (number, word) in self.counted.iter().enumerate() {
            let mut word = *word;
            while word != 0 {
                let lane = word.trailing_zeros() / 16;
                let count = (word >> (16 * lane)) as u16;
                queue.add(f32::from(count), row[4 * number + lane as usize]);
                word &= !(0xffff << (16 * lane));
            }
        }
        queue
    }
}

/// What a request that goes to the endpoint at `index` now must be expected to wait for a slot, in units of the mean request's cost. Of an
/// endpoint whose slots are unknown any request in flight is taken for one that fills it.
pub(crate) fn expected_wait(
    costs: &Costs,
    index: usize,
    load: &EndpointLoad,
    now: Coarse,
    sharing: f32,
    listen: bool,
) -> f32 {
    let there = There::look(load, now, sharing, listen);
    if there.in_flight <= 0.0 { 0.0 } else { there.queue(costs, index).wait(costs.slots(index).max(1.0)) }
}

/// Requests in flight at an endpoint from all proxies, as picking takes them to be.
pub(crate) fn in_flight_all(load: &EndpointLoad, now: Coarse, sharing: f32, listen: bool) -> f32 {
    There::look(load, now, sharing, listen).in_flight
}

impl Pick for Rule {
    fn pick<R: RngCore + ?Sized>(
        &self,
        pool: &Pool,
        request: &PickRequest<'_>,
        now: Timestamp,
        rng: &mut R,
    ) -> Option<usize> {
        let look = Look::at(pool, Coarse::of(now), rng.next_u64());
        let score = |candidate: &Candidate, best: f64| self.score_below(pool, candidate, request.class, &look, best);
        let all = |rng: &mut R| lowest_below(pool, request, 0..pool.candidates.len(), rng, score);
        match &self.many {
            None => all(rng),
            Some(many) => many.lowest(pool, request, rng, score).or_else(|| all(rng)),
        }
    }
}

fn pooled_fade(pool: &Pool, now: Coarse) -> f32 {
    pool.errors_at.map_or(0.0, |at| (-now.seconds_since(at) / POOLED_FADE_S).exp())
}

/// A power with a fast way for the usual exponents.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Power {
    Zero,
    One,
    Two,
    TwoAndAHalf,
    Three,
    Four,
    Other(f32),
}

impl Power {
    fn new(exponent: f32) -> Self {
        match exponent {
            0.0 => Self::Zero,
            1.0 => Self::One,
            2.0 => Self::Two,
            2.5 => Self::TwoAndAHalf,
            3.0 => Self::Three,
            4.0 => Self::Four,
            other => Self::Other(other),
        }
    }

    /// `base` > 0 to the power.
    #[inline]
    fn of(self, base: f32) -> f64 {
        let wide = f64::from(base);
        match self {
            Self::Zero => 1.0,
            Self::One => wide,
            Self::Two => wide * wide,
            Self::TwoAndAHalf => wide * wide * wide.sqrt(),
            Self::Three => wide * wide * wide,
            Self::Four => (wide * wide) * (wide * wide),
            // Single precision is several times faster, and exact to 10⁻⁵ here; beyond 2^±120 it saturates.
            Self::Other(exponent) => f64::from((exponent * base.log2()).clamp(-120.0, 120.0).exp2()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::{Rng, SeedableRng, rngs::SmallRng, seq::SliceRandom};

    use super::*;
    use crate::pick::testing::{IDLE, NOW, Spec, any_specs, check_shares, histogram, keyed_pool, pool};

    const PARAMETERS: RuleParameters = RuleParameters::LOCAL;
    const CLASS: RequestClass = RequestClass(0);

    /// The formula, written down as it stands in the documentation.
    fn slow_score(spec: &Spec, proxies: f64, p: &RuleParameters) -> f64 {
        let own = f64::from(spec.in_flight);
        let n = spec.reported.map_or(own * proxies, |reported| f64::from(reported).max(own));
        let latency = f64::from(spec.latency_ms.map_or(p.latency_reference_ms, |ms| ms as f32));
        let error = f64::from(spec.error.min(ERROR_MAX));
        (n + f64::from(p.offset)).powf(p.exponent.into()) / f64::from(spec.weight)
            * ((latency + 1.0) / (f64::from(p.latency_reference_ms) + 1.0)).powf(p.latency_exponent.into())
            * (1.0 - error).powf(-f64::from(p.error_exponent))
    }

    fn any_parameters() -> impl Strategy<Value = RuleParameters> {
        let exponent = || prop_oneof![Just(0.0f32), Just(1.0), Just(2.0), Just(2.5), Just(3.0), Just(4.0), 0.1f32..5.0];
        (exponent(), 0.1f32..5.0, prop_oneof![Just(0.0f32), Just(1.0), 0.1f32..3.0], 1.0f32..500.0, 0.0f32..20.0)
            .prop_map(|(exponent, offset, latency_exponent, latency_reference_ms, error_exponent)| RuleParameters {
                exponent,
                offset,
                latency_exponent,
                latency_reference_ms,
                error_exponent,
                ..RuleParameters::LOCAL
            })
    }

    #[test]
    fn idle_equals_are_picked_equally_often() {
        let pool = pool(&[IDLE; 32], 1.0);
        check_shares(&histogram(&Rule::new(&pool, &PARAMETERS), &pool, 64_000), &[1.0 / 32.0; 32]);
    }

    #[test]
    fn requests_held_open_spread_in_proportion_to_the_weights() {
        // With κ = 1 the rule fills (n + g) / w evenly.
        let weights = [1.0, 2.0, 4.0, 8.0];
        let pool = pool(&weights.map(|weight| Spec { weight, ..IDLE }), 1.0);
        let rule = Rule::new(&pool, &RuleParameters { exponent: 1.0, offset: 1e-3, ..PARAMETERS });
        let mut rng = SmallRng::seed_from_u64(3);
        for _ in 0..1_500 {
            let picked = rule.pick(&pool, &PickRequest::default(), NOW, &mut rng).unwrap();
            let _stays = pool.candidates[picked].load.begin(NOW, Default::default());
        }
        let in_flight: Vec<u32> = pool.candidates.iter().map(|candidate| candidate.load.in_flight()).collect();
        for (got, expected) in in_flight.iter().zip([100u32, 200, 400, 800]) {
            assert!(got.abs_diff(expected) <= 1, "{in_flight:?}");
        }
    }

    #[test]
    fn an_endpoint_that_fails_is_shunned_and_forgiven() {
        let pool = pool(&[Spec { error: 0.3, ..IDLE }, IDLE], 1.0);
        let rule = Rule::new(&pool, &PARAMETERS);
        let factor = |seconds: u64| {
            rule.explain(&pool, &pool.candidates[0], CLASS, NOW + std::time::Duration::from_secs(seconds)).error_factor
        };
        assert!(factor(0) > 50.0, "0.7^-12 is 72: {}", factor(0));
        assert!(factor(10) < 1.1, "{}", factor(10));
    }

    #[test]
    fn extreme_inputs_yield_finite_scores() {
        let extremes = [
            Spec { in_flight: 0, latency_ms: Some(0), weight: 1e9, error: 0.0, reported: Some(0) },
            Spec { in_flight: 2_000, latency_ms: Some(u32::MAX), weight: 1e-9, error: 1.0, reported: Some(u32::MAX) },
        ];
        for proxies in [1.0, 1e6] {
            let pool = pool(&extremes, proxies);
            for (exponent, latency_exponent, error_exponent) in [(8.0, 4.0, 32.0), (7.9, 3.9, 31.9), (0.0, 0.0, 0.0)] {
                for (offset, latency_reference_ms) in [(1e-3, 1e-3), (1e6, 1e7)] {
                    let parameters = RuleParameters {
                        exponent,
                        offset,
                        latency_exponent,
                        latency_reference_ms,
                        error_exponent,
                        ..PARAMETERS
                    };
                    let rule = Rule::new(&pool, &parameters);
                    for candidate in &pool.candidates {
                        let terms = rule.explain(&pool, candidate, CLASS, NOW);
                        assert!(terms.score().is_normal() && terms.score() > 0.0, "{parameters:?} {terms:?}");
                    }
                }
            }
        }
    }

    proptest! {
        #[test]
        fn the_score_equals_the_formula_and_the_pick_is_the_lowest(
            specs in any_specs(1..SCAN_MAX + 1),
            proxies in 1u32..20,
            parameters in any_parameters(),
            seed: u64,
        ) {
            let pool = pool(&specs, proxies as f32);
            let rule = Rule::new(&pool, &parameters);
            let slow: Vec<f64> = specs.iter().map(|spec| slow_score(spec, proxies.into(), &parameters)).collect();
            for (candidate, slow) in pool.candidates.iter().zip(&slow) {
                let terms = rule.explain(&pool, candidate, CLASS, NOW);
                prop_assert!((terms.score() / slow - 1.0).abs() < 2e-3, "{terms:?}: {} for {slow}", terms.score());
            }
            let mut rng = SmallRng::seed_from_u64(seed);
            let picked = rule.pick(&pool, &PickRequest::default(), NOW, &mut rng).unwrap();
            // Where nothing is in flight, nor reported, chance raises the score.
            let most = specs.iter().zip(&slow).map(|(spec, slow)| {
                let idle = spec.in_flight == 0 && spec.reported.unwrap_or(0) == 0;
                slow * if idle { 1.0 + QUIET_SPREAD } else { 1.0 }
            });
            prop_assert!(slow[picked] <= most.fold(f64::INFINITY, f64::min) * 1.004);
        }

        #[test]
        fn the_order_of_the_endpoints_does_not_matter(specs in any_specs(1..SCAN_MAX + 1), seed: u64) {
            // Without ties and idle endpoints there is one right answer, whatever the order and whatever is drawn.
            let mut keyed: Vec<(u64, Spec)> = specs
                .into_iter()
                .enumerate()
                .map(|(key, spec)| {
                    let weight = spec.weight * (1.0 + key as f32 * 1e-3);
                    (key as u64, Spec { weight, in_flight: spec.in_flight + 1, ..spec })
                })
                .collect();
            let mut rng = SmallRng::seed_from_u64(seed);
            let mut pick = |keyed: &[(u64, Spec)]| {
                let pool = keyed_pool(keyed, 4.0);
                let picked = Rule::new(&pool, &PARAMETERS).pick(&pool, &PickRequest::default(), NOW, &mut rng);
                pool.candidates[picked.unwrap()].load.key()
            };
            let before = pick(&keyed);
            keyed.shuffle(&mut SmallRng::seed_from_u64(seed));
            prop_assert_eq!(pick(&keyed), before);
        }

        #[test]
        fn nobody_that_is_excluded_is_picked(specs in any_specs(1..100), seed: u64) {
            let pool = pool(&specs, 2.0);
            let mut rng = SmallRng::seed_from_u64(seed);
            let excluded: Vec<_> = pool.candidates.iter().filter(|_| rng.random_bool(0.5)).map(|c| c.load.key()).collect();
            let request = PickRequest { exclude: &excluded, ..Default::default() };
            match Rule::new(&pool, &PARAMETERS).pick(&pool, &request, NOW, &mut rng) {
                Some(picked) => prop_assert!(!excluded.contains(&pool.candidates[picked].load.key())),
                None => prop_assert_eq!(excluded.len(), specs.len()),
            }
        }
    }
}
