//! The capacity prior: how much each endpoint can do, by Little's law, and the weights that follow.
//!
//! # Why it is stable
//!
//! Weights that follow latency oscillate: latency is mostly queueing, the queue follows the weight, and near saturation
//! the loop gain is ~1/(1 − load). The estimate here does not depend on the endpoint's own weight or queue. By Little's
//! law
//! *completed rps ÷ mean busy slots* is the rate at which one slot works, whether its queue holds nothing or a thousand
//! requests; times the number of slots it is what the endpoint could do. A change of weight changes how many slots are
//! busy and how much they complete in the same proportion, and cancels.
//!
//! Where a pod does not tell how many slots are busy, the 10th percentile of the latency that proxies saw stands in for
//! the service time. It can contain waiting, so the loop is closed there; with the pick rule `(n + g)^κ / w` balanced
//! over endpoints, in-flight follows the weight as `w^(1/κ)` and that latency at most in-flight, so the loop gain is at
//! most `1/κ` < 1 and it settles.
//!
//! # How it forgets
//!
//! Completions are counts, so how sure an estimate is follows from how many it rests on. A long average (`LONG_S`)
//! holds while the last few samples agree with it; when the last one, two or four of them contradict it by more than
//! chance explains, they replace it. Few completions thus move it slowly and many at once: a neighbour that takes two
//! thirds of a busy pod's CPU is seen within one or two ticks. Without evidence the estimate stays and drifts slowly to
//! the median of the others. How busy a pod is, is known from a look a scrape: of one that is next to idle, looks tell
//! next to nothing, however many requests it completes, and its completions count for as much less.

use crate::memory::EndpointMemory;
use crate::numbers::{fresh, gain, median, normalise, sane};
use crate::observation::{EndpointObservation, Reported};

/// Time constant of the long average. Long, because a change does not wait for it; bounded, because slow drifts do.
const LONG_S: f64 = 6.0;
/// Time constant at which an estimate without new evidence loses its confidence.
const IDLE_S: f64 = 60.0;
/// Completions that the median of the other endpoints counts for: one or two ticks of a slow pod outweigh it.
const PRIOR_COMPLETIONS: f64 = 8.0;
/// A busy slot that is seen at a look counts for as many completions.
const COMPLETIONS_OF_A_LOOK: f64 = 4.0;
/// Completions from which on an endpoint's own rate counts in the median.
const KNOWN_COMPLETIONS: f64 = 5.0;
/// Standard errors by which recent samples must fall below the average to replace it: a false alarm in hundreds of
/// ticks, of which the next samples undo most.
const DROP_ERRORS: f64 = 3.0;
/// The same upwards, and from two samples on: more careful, because a pod thought too fast gets a queue, and one
/// thought too slow only some idle time; and one look at the busy gauge that finds a pod idle by chance makes it seem
/// fast.
const RISE_ERRORS: f64 = 4.0;
/// Less busy time than this is none: a rate is a count divided by it.
const BUSY_S_MIN: f64 = 1e-3;
/// Samples that are remembered singly.
const RECENT: usize = 4;
/// No endpoint is taken to differ from the median by more than this factor: three doublings beyond the 1:8 of the most
/// unequal node generations; what lies outside is a wrong metric.
const RATIO_MAX: f64 = 64.0;
/// Answers from which on a tick's 10th percentile is one, and not just the minimum.
const QUANTILE_ANSWERS: f64 = 20.0;
/// Answers below which a tick's median says nothing.
const MEDIAN_ANSWERS: f64 = 5.0;
/// p10 ÷ p50 where no endpoint has ever told: that of an exponential distribution, ln(10/9) ÷ ln 2.
pub(crate) const QUANTILE_SHAPE: f64 = 0.152;
/// Time constant of the service-time estimate from latencies.
const SERVICE_S: f64 = 1.5;
/// Share of failed answers from which on a tick's latencies are not those of real work: failing fast is not being fast.
const FAILING_SHARE: f64 = 0.05;
/// Two scrapes closer than this are one scrape read twice.
const SAME_SCRAPE_MS: f64 = 20.0;

/// Evidence on one endpoint's speed.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Speed {
    long: Work,
    recent: [Work; RECENT],
    /// ln of the service time in milliseconds, from latencies, and the answers it rests on.
    service: Option<(f64, f64)>,
    /// Requests that the endpoint serves at once, as last told.
    worker_limit: Option<f64>,
    /// When the newest work sample was measured.
    measured_at_ms: Option<f64>,
    /// ln of (what recent samples say ÷ the long average).
    trend: f64,
}

/// Work done over some time.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct Work {
    /// Requests completed without error.
    completions: f64,
    /// Slots busy × seconds.
    busy_s: f64,
    /// Seconds.
    elapsed_s: f64,
    /// Scrapes.
    samples: f64,
}

impl Work {
    fn add(&mut self, other: Work) {
        self.completions += other.completions;
        self.busy_s += other.busy_s;
        self.elapsed_s += other.elapsed_s;
        self.samples += other.samples;
    }

    fn decay(&mut self, factor: f64) {
        self.completions *= factor;
        self.busy_s *= factor;
        self.elapsed_s *= factor;
        self.samples *= factor;
    }

    /// ln of the rate per busy slot, where there is enough to tell.
    fn log_rate(&self) -> Option<f64> {
        (self.completions >= KNOWN_COMPLETIONS && self.busy_s >= BUSY_S_MIN)
            .then(|| (self.completions / self.busy_s).ln())
    }

    /// Relative variance of `busy_s`, which is known from one look a scrape: that of a binomial where the limit is
    /// known (a pod whose slots are all busy has none), of a Poisson count where it is not; never quite 0, as service
    /// times vary too.
    fn gauge_variance(&self, worker_limit: Option<f64>) -> f64 {
        let busy = (self.busy_s / self.elapsed_s).max(1e-3);
        let idle_share = worker_limit.map_or(1.0, |limit| 1.0 - busy / limit).max(0.1);
        idle_share / (busy * self.samples.max(1.0))
    }

    /// The share of `count` completions that is evidence, as the time that they are divided by is known from a few looks
    /// only: variances of a count and of a gauge add up.
    fn evidence_share(&self, count: f64, worker_limit: Option<f64>) -> f64 {
        let completions = count / COMPLETIONS_OF_A_LOOK;
        if self.elapsed_s > 0.0 { 1.0 / (1.0 + completions * self.gauge_variance(worker_limit)) } else { 1.0 }
    }
}

impl Speed {
    /// Takes in what one tick tells. `shape` is the backend's p10 ÷ p50, see [`quantile_shape`].
    pub(crate) fn fold(&mut self, endpoint: &EndpointObservation, at_ms: i64, dt_s: f64, shape: f64) {
        if let Some(limit) = fresh(endpoint.scraped.worker_limit).filter(|&limit| limit >= 1.0) {
            self.worker_limit = Some(limit);
        }
        match self.work(endpoint, at_ms, dt_s) {
            Some((work, elapsed_s)) => self.fold_work(work, elapsed_s),
            None => self.long.decay(1.0 - gain(dt_s, IDLE_S)),
        }
        match endpoint.reported.and_then(|reported| self.service_ms(&reported, shape)) {
            Some((service_ms, answers)) => self.fold_service(service_ms, answers, dt_s),
            None => {
                if let Some((_, answers)) = &mut self.service {
                    *answers *= 1.0 - gain(dt_s, IDLE_S);
                }
            }
        }
    }

    /// Completions this average rests on.
    pub fn completions(&self) -> f64 {
        self.long.completions
    }

    /// How much the endpoint's own evidence counts against the median of the others, 0..1.
    pub fn confidence(&self) -> f64 {
        let answers = self.service.map_or(0.0, |(_, answers)| answers);
        let completions = self.long.completions;
        let count = (completions * self.long.evidence_share(completions, self.worker_limit)).max(answers);
        count / (count + PRIOR_COMPLETIONS)
    }

    /// ln of (what the last samples say ÷ what the estimate says): below 0, it is getting slower.
    pub fn trend(&self) -> f64 {
        self.trend
    }

    /// Requests it serves at once, where it ever told.
    pub fn worker_limit(&self) -> Option<f64> {
        self.worker_limit
    }

    /// The work between the previous scrape and this one, and the time between; `None` without a new scrape or without
    /// work.
    fn work(&mut self, endpoint: &EndpointObservation, at_ms: i64, dt_s: f64) -> Option<(Work, f64)> {
        let scraped = &endpoint.scraped;
        let completed_rps = fresh(scraped.completed_rps)?;
        let busy = fresh(scraped.busy).or_else(|| {
            // Work-conserving: as many are served as are there, up to the limit.
            Some(fresh(scraped.in_flight)?.min(self.worker_limit?))
        })?;
        let busy = self.worker_limit.map_or(busy, |limit| busy.min(limit));
        let measured_at_ms = at_ms as f64 - 1e3 * f64::from(scraped.completed_rps?.age_s.max(0.0));
        let elapsed_s = match self.measured_at_ms {
            Some(before_ms) if (measured_at_ms - before_ms).abs() < SAME_SCRAPE_MS => return None,
            Some(before_ms) if measured_at_ms > before_ms => ((measured_at_ms - before_ms) / 1e3).min(LONG_S),
            // The first scrape, or a clock that was set back.
            _ => dt_s,
        };
        self.measured_at_ms = Some(measured_at_ms);
        // Errors are completions too, and quick ones: only good answers are work done. Requests that never got an
        // answer are not among the pod's completions.
        let good = endpoint
            .reported
            .filter(|reported| reported.successes > 0 || reported.errors > 0)
            .map_or(1.0, |r| r.successes as f64 / (r.successes as f64 + r.errors as f64));
        let work =
            Work { completions: completed_rps * good * elapsed_s, busy_s: busy * elapsed_s, elapsed_s, samples: 1.0 };
        // Nothing done with nobody busy is no evidence; nothing done with slots busy is.
        (work.completions > 0.0 || work.busy_s > 0.0).then_some((work, elapsed_s))
    }

    fn fold_work(&mut self, work: Work, elapsed_s: f64) {
        self.recent.rotate_right(1);
        self.recent[0] = work;
        let replacement = self.contradiction();
        self.long.decay(1.0 - gain(elapsed_s, LONG_S));
        self.long.add(work);
        if let Some(window) = replacement {
            self.long = window;
            self.recent = [Work::default(); RECENT];
            self.recent[0] = work;
        }
    }

    /// The shortest recent window that the long average cannot explain.
    fn contradiction(&mut self) -> Option<Work> {
        self.trend = 0.0;
        let rate = self.long.log_rate()?.exp();
        let uncertain = 1.0 / self.long.completions + self.long.gauge_variance(self.worker_limit);
        let mut window = Work::default();
        for (index, sample) in self.recent.iter().enumerate() {
            window.add(*sample);
            if !matches!(index + 1, 1 | 2 | RECENT) || window.busy_s <= 0.0 {
                continue;
            }
            let expected = rate * window.busy_s;
            let relative = uncertain + window.gauge_variance(self.worker_limit);
            let errors = (window.completions - expected) / (expected.max(1.0) + expected * expected * relative).sqrt();
            self.trend = ((window.completions + 1.0) / (expected + 1.0)).ln();
            if errors < -DROP_ERRORS || (index > 0 && errors > RISE_ERRORS) {
                return Some(window);
            }
        }
        None
    }

    /// Service time as latencies tell it, in milliseconds, and the answers that it rests on.
    fn service_ms(&self, reported: &Reported, shape: f64) -> Option<(f64, f64)> {
        let answers = reported.successes as f64;
        if answers < MEDIAN_ANSWERS || failed_share(reported) > FAILING_SHARE {
            return None;
        }
        let p10_ms = if answers >= QUANTILE_ANSWERS {
            positive(reported.latency_ms_p10)?
        } else {
            // The 10th percentile of a few answers is their minimum, and larger the fewer they are: a pod would be
            // thought slow because it gets little. The median does not lean that way.
            shape * positive(reported.latency_ms_p50)?
        };
        // First come, first served with all slots busy: the part of the time that is service is limit ÷ in-flight.
        let in_flight = sane(reported.in_flight_mean).unwrap_or(0.0);
        let served = self.worker_limit.map_or(1.0, |limit| (limit / in_flight.max(limit)).min(1.0));
        Some((p10_ms * served, answers))
    }

    fn fold_service(&mut self, service_ms: f64, answers: f64, dt_s: f64) {
        let log_ms = service_ms.max(1e-3).ln();
        self.service = Some(match self.service {
            None => (log_ms, answers),
            Some((before, known)) => {
                // Few answers move it slowly: one prior opinion's worth of answers halves the gain.
                let share = gain(dt_s, SERVICE_S) * answers / (answers + PRIOR_COMPLETIONS);
                (before + share * (log_ms - before), known + gain(dt_s, LONG_S) * (answers * LONG_S / dt_s - known))
            }
        });
    }
}

fn positive(ms: Option<f64>) -> Option<f64> {
    ms.and_then(sane).filter(|&ms| ms > 0.0)
}

/// The median endpoint's p10 ÷ p50 of latency at this tick, of those with enough answers to tell.
pub(crate) fn quantile_shape(endpoints: &[EndpointObservation]) -> Option<f64> {
    let shapes = endpoints.iter().filter_map(|endpoint| {
        let reported = endpoint.reported.filter(|reported| reported.successes as f64 >= QUANTILE_ANSWERS)?;
        Some((positive(reported.latency_ms_p10)? / positive(reported.latency_ms_p50)?).clamp(1e-3, 1.0))
    });
    median(&mut shapes.collect::<Vec<f64>>())
}

fn failed_share(reported: &Reported) -> f64 {
    let failed = reported.errors as f64 + reported.failures as f64;
    failed / (reported.successes as f64 + failed).max(1.0)
}

/// What the prior says of all endpoints, in the order of the observation.
#[derive(Debug, Clone, PartialEq)]
pub struct Prior {
    /// Shares in proportion to capacity; each > 0, sum 1.
    pub weights: Vec<f64>,
    /// ln of capacity relative to the median endpoint.
    pub log_capacity: Vec<f64>,
    /// Capacity in requests per second, where the endpoint's own metrics tell it.
    pub capacity_rps: Vec<Option<f64>>,
    /// Whether the weights rest on anything; otherwise they are equal.
    pub informed: bool,
}

impl Prior {
    /// The prior after the memories have taken in the present observation.
    pub fn new(endpoints: &[EndpointMemory]) -> Self {
        let speeds = || endpoints.iter().map(|endpoint| &endpoint.speed);
        let mut rates: Vec<f64> = speeds().filter_map(|speed| speed.long.log_rate()).collect();
        let rate_median = median(&mut rates);
        let service_log_rate = |speed: &Speed| speed.service.map(|(log_ms, _)| 1e3f64.ln() - log_ms);
        let mut service_rates: Vec<f64> = speeds().filter_map(service_log_rate).collect();
        let service_median = median(&mut service_rates);
        // Rates from a low quantile of latency are too high by a factor that endpoints share; those that tell both give
        // it.
        let mut factors: Vec<f64> =
            speeds().filter_map(|speed| Some(speed.long.log_rate()? - service_log_rate(speed)?)).collect();
        let factor = median(&mut factors).or(rate_median.zip(service_median).map(|(rate, service)| rate - service));
        let middle = rate_median.or(service_median).unwrap_or(0.0);
        let mut limits: Vec<f64> = speeds().filter_map(|speed| speed.worker_limit).collect();
        let limit_median = median(&mut limits).unwrap_or(1.0);

        let mut log_capacity = Vec::with_capacity(endpoints.len());
        let mut capacity_rps = Vec::with_capacity(endpoints.len());
        for speed in speeds() {
            let from_service = service_log_rate(speed).map(|rate| rate + factor.unwrap_or(0.0));
            let answers = speed.service.map_or(0.0, |(_, answers)| answers);
            let trust = answers / (answers + PRIOR_COMPLETIONS);
            let expected = middle + trust * (from_service.unwrap_or(middle) - middle);
            // The mean of the gamma distribution of a rate that was thought to be `expected` on the strength of
            // PRIOR_COMPLETIONS, after counting: it is `expected` without any evidence.
            let pseudo_busy_s = PRIOR_COMPLETIONS / expected.exp();
            let Work { completions, busy_s, .. } = speed.long;
            let count = completions.max(busy_s * expected.exp());
            let evidence = speed.long.evidence_share(count, speed.worker_limit);
            let log_rate = ((evidence * completions + PRIOR_COMPLETIONS) / (evidence * busy_s + pseudo_busy_s)).ln();
            let bounded = log_rate.clamp(middle - RATIO_MAX.ln(), middle + RATIO_MAX.ln());
            let log_limit = speed.worker_limit.unwrap_or(limit_median).ln();
            log_capacity.push(bounded + log_limit);
            let known = speed.long.log_rate().and(speed.worker_limit);
            capacity_rps.push(known.map(|limit| bounded.exp() * limit));
        }
        let centre = median(&mut log_capacity.clone()).unwrap_or(0.0);
        for log in &mut log_capacity {
            *log = (*log - centre).clamp(-RATIO_MAX.ln(), RATIO_MAX.ln());
        }
        let mut weights: Vec<f64> = log_capacity.iter().map(|log| log.exp()).collect();
        normalise(&mut weights);
        let informed = rate_median.is_some() || service_median.is_some() || !limits.is_empty();
        Self { weights, log_capacity, capacity_rps, informed }
    }
}
