//! Averages of one endpoint that all workers update without a lock: each is a 32-bit float and the coarse time of its last update in
//! one atomic word.

use std::{
    sync::atomic::{
        AtomicU64,
        Ordering::{AcqRel, Relaxed},
    },
    time::Duration,
};

use crate::time::{Coarse, Timestamp};

/// Answers are forgotten at this pace where they are frequent: fast enough to see a slowdown within a few hundred milliseconds.
const LATENCY_TAU_S: f32 = 0.5;
/// One answer moves a latency average by at most this share, so that rare answers are averaged too instead of the last one counting alone.
const LATENCY_GAIN_MAX: f32 = 0.2;
/// What took less counts as this long: a logarithm needs a floor.
const LATENCY_MS_MIN: f32 = 1e-3;
/// Without news for ten seconds an average counts half, see [`faded`]: an endpoint that was slow gets tried again some time.
const LATENCY_IDLE_S: f32 = 52.85;

/// With so much of it left an average is believed.
const LATENCY_FRESH: f32 = 0.5;

/// Linkerd's decay of the peak-sensitive average.
const PEAK_DECAY_S: f32 = 10.0;
/// What Linkerd assumes of an endpoint that has not answered yet.
pub const PEAK_DEFAULT_MS: f32 = 30.0;

/// A float and when it was last changed; all ones: no value yet.
#[derive(Debug)]
struct Stamped(AtomicU64);

const EMPTY: u64 = u64::MAX;

impl Stamped {
    fn new() -> Self {
        Self(AtomicU64::new(EMPTY))
    }

    #[inline]
    fn load(&self) -> Option<(f32, Coarse)> {
        unpack(self.0.load(Relaxed))
    }

    /// Replaces the value by what `change` makes of it and of the seconds since it was set; `None` leaves it.
    fn update(&self, now: Timestamp, change: impl Fn(Option<(f32, f32)>) -> Option<f32>) {
        let now = Coarse::of(now);
        let _ = self.0.fetch_update(AcqRel, Relaxed, |word| {
            let before = unpack(word).map(|(value, at)| (value, now.seconds_since(at)));
            change(before).map(|value| (u64::from(now.0) << 32) | u64::from(value.to_bits()))
        });
    }
}

#[inline]
fn unpack(word: u64) -> Option<(f32, Coarse)> {
    (word != EMPTY).then(|| (f32::from_bits(word as u32), Coarse((word >> 32) as u32)))
}

/// The latency average that c3-local and Trimtab's rule use, in milliseconds: exponentially decayed over half a second where answers
/// are frequent, over the last five or so where they are rare. Long without news it sinks, so that its endpoint is tried again.
///
/// It is a geometric mean: an endpoint is slow if most of its answers are, not because one request was a hundred times as costly as the
/// others. In simulation an arithmetic mean had a 6 % higher p99 and a 17 % higher median, 44 % where costs differ by 1:100 (docs/simulation.md).
#[derive(Debug)]
pub struct LatencyAverage(Stamped);

impl LatencyAverage {
    /// One that knows nothing.
    pub fn new() -> Self {
        Self(Stamped::new())
    }

    /// A request was answered after `latency_ms`.
    pub fn answered(&self, now: Timestamp, latency_ms: f32) {
        self.answered_in_haste(now, latency_ms, 1.0);
    }

    /// The same where time without news counts `haste` times. What is forgotten sooner must be learned sooner: an endpoint that was slow once, and has been
    /// tried again and found quick, would otherwise wait for its next trial as long as it did for this one.
    pub(crate) fn answered_in_haste(&self, now: Timestamp, latency_ms: f32, haste: f32) {
        self.0.update(now, |before| {
            Some(match before {
                None => latency_ms.max(LATENCY_MS_MIN),
                Some((value, elapsed_s)) => {
                    let left = faded(elapsed_s * (haste - 1.0));
                    // dt/(dt+τ) stands in for 1 − exp(−dt/τ): the same for short intervals, and cheaper.
                    let gain = (elapsed_s / (elapsed_s + LATENCY_TAU_S)).min(1.0 - (1.0 - LATENCY_GAIN_MAX) * left);
                    value * (latency_ms.max(LATENCY_MS_MIN) / value).powf(gain)
                }
            })
        });
    }

    /// A request ended without a good answer after `latency_ms`: an answer would have taken at least that long.
    pub fn took_at_least(&self, now: Timestamp, latency_ms: f32) {
        if self.0.load().is_some_and(|(value, _)| latency_ms > value) {
            self.answered(now, latency_ms);
        }
    }

    /// The average at `now`; `None` before the first answer.
    #[inline]
    pub fn get(&self, now: Timestamp) -> Option<f32> {
        self.at(Coarse::of(now), 1.0)
    }

    /// The average where time without news counts `haste` times.
    #[inline]
    pub(crate) fn at(&self, now: Coarse, haste: f32) -> Option<f32> {
        let (value, at) = self.0.load()?;
        Some(value * faded(now.seconds_since(at) * haste))
    }

    /// The same of an endpoint that may have been asked and not have answered: that its average has grown old is a reason to ask, and none to believe that it is
    /// quicker than it was, or than `mean_ms`, what all answers take.
    #[inline]
    pub(crate) fn asked_at(
        &self,
        now: Coarse,
        haste: f32,
        mean_ms: Option<f32>,
        is_asked: impl FnOnce() -> bool,
    ) -> Option<f32> {
        let (value, at) = self.0.load()?;
        let left = faded(now.seconds_since(at) * haste);
        Some(match mean_ms {
            Some(mean_ms) if left < LATENCY_FRESH && is_asked() => (value * left).max(value.min(mean_ms)),
            _ => value * left,
        })
    }

    /// The average as it was when the last answer came.
    #[inline]
    pub(crate) fn unaged(&self) -> Option<f32> {
        self.0.load().map(|(value, _)| value)
    }
}

/// What is left of a latency average after so many seconds without news: half after ten, a quarter after 22, a twentieth after a minute. A fourth power stands in
/// for an exponential and is cheaper.
#[inline]
pub(crate) fn faded(idle_s: f32) -> f32 {
    let root = LATENCY_IDLE_S / (LATENCY_IDLE_S + idle_s.max(0.0));
    root * root * (root * root)
}

impl Default for LatencyAverage {
    fn default() -> Self {
        Self::new()
    }
}

/// How many requests are in flight on average over the last seconds, by Little's law: each that ends adds the time that it took.
#[derive(Debug)]
pub struct MeanInFlight(Stamped);

/// So long the past counts.
const IN_FLIGHT_TAU_S: f32 = 5.0;

impl MeanInFlight {
    /// Of nothing yet.
    pub fn new() -> Self {
        Self(Stamped::new())
    }

    /// A request ended, well or not, after `latency`.
    pub fn ended(&self, now: Timestamp, latency: Duration) {
        self.0.update(now, |before| {
            let (value, elapsed_s) = before.unwrap_or((0.0, 0.0));
            Some(value * (-elapsed_s / IN_FLIGHT_TAU_S).exp() + latency.as_secs_f32() / IN_FLIGHT_TAU_S)
        });
    }

    /// The average at `now`.
    #[inline]
    pub(crate) fn at(&self, now: Coarse) -> f32 {
        self.0.load().map_or(0.0, |(value, at)| value * (-now.seconds_since(at) / IN_FLIGHT_TAU_S).exp())
    }
}

impl Default for MeanInFlight {
    fn default() -> Self {
        Self::new()
    }
}

/// The time that requests of one class take at one endpoint without waiting, from those that had to wait little: how many, and the sum of
/// the logarithms of their latency less the wait that they had to expect. Sums of several proxies add up.
#[derive(Debug, Default)]
pub struct ServiceTime {
    /// Answers (32 bits) of all, and of those that had to wait little.
    counts: AtomicU64,
    /// Sum of log₂ of milliseconds of the latter, in 2⁻¹⁶, wrapping.
    log_sum: AtomicU64,
}

/// A reading of a [`ServiceTime`]; differences between two readings are what came between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ServiceReading {
    answers: u32,
    unqueued: u32,
    log_sum: u64,
}

/// Less than this share of a latency is never taken for the service: the expected wait was wrong then.
const SERVICE_SHARE_MIN: f32 = 0.25;
/// One in 2⁻¹⁶.
const LOG_UNIT: f64 = 65_536.0;

impl ServiceTime {
    /// A request was answered after `latency_ms`. `wait_ms`: what it had to expect to wait for a slot; `None`: too much for the rest to tell.
    pub fn answered(&self, latency_ms: f32, wait_ms: Option<f32>) {
        self.counts.fetch_add(1 << 32 | u64::from(wait_ms.is_some()), Relaxed);
        if let Some(wait_ms) = wait_ms {
            let service_ms = (latency_ms - wait_ms).max(SERVICE_SHARE_MIN * latency_ms).max(LATENCY_MS_MIN);
            let log = (f64::from(service_ms).log2() * LOG_UNIT) as i64;
            self.log_sum.fetch_add(log as u64, Relaxed);
        }
    }

    /// Everything so far.
    pub fn read(&self) -> ServiceReading {
        let counts = self.counts.load(Relaxed);
        // The lower half may carry into the upper one after 2³² answers: one too many is no matter.
        ServiceReading { answers: (counts >> 32) as u32, unqueued: counts as u32, log_sum: self.log_sum.load(Relaxed) }
    }
}

impl ServiceReading {
    /// Answers, how many of them found a free slot, and the geometric mean latency of the latter in milliseconds, since an earlier reading;
    /// `None` if there were no answers.
    pub fn since(&self, earlier: &Self) -> Option<(u32, u32, f32)> {
        let answers = self.answers.wrapping_sub(earlier.answers);
        let unqueued = self.unqueued.wrapping_sub(earlier.unqueued);
        let log_sum = self.log_sum.wrapping_sub(earlier.log_sum) as i64 as f64 / LOG_UNIT;
        let mean_ms = (log_sum / f64::from(unqueued.max(1))).exp2() as f32;
        (answers > 0).then_some((answers, unqueued.min(answers), mean_ms))
    }
}

/// Finagle's and Linkerd's peak-sensitive average, in milliseconds: rises to a slow answer at once, sinks back over ten seconds.
#[derive(Debug)]
pub struct PeakAverage(Stamped);

impl PeakAverage {
    /// One that knows nothing.
    pub fn new() -> Self {
        Self(Stamped::new())
    }

    /// A request ended, well or not, after `latency_ms`.
    pub fn ended(&self, now: Timestamp, latency_ms: f32) {
        self.0.update(now, |before| {
            let (value, elapsed_s) = before.unwrap_or((PEAK_DEFAULT_MS, 0.0));
            Some(if latency_ms > value {
                latency_ms
            } else {
                let keep = (-elapsed_s / PEAK_DECAY_S).exp();
                value * keep + latency_ms * (1.0 - keep)
            })
        });
    }

    /// The average at `now`; [`PEAK_DEFAULT_MS`] before the first answer.
    pub fn get(&self, now: Timestamp) -> f32 {
        match self.0.load() {
            None => PEAK_DEFAULT_MS,
            Some((value, at)) => value * (-Coarse::of(now).seconds_since(at) / PEAK_DECAY_S).exp(),
        }
    }
}

impl Default for PeakAverage {
    fn default() -> Self {
        Self::new()
    }
}

/// A soft average of errors, 0..=1: moves by a fixed gain an answer and fades by itself, so that an endpoint that failed and is
/// shunned for it is forgiven.
#[derive(Debug)]
pub struct ErrorAverage {
    value: Stamped,
    gain: f32,
    fade_s: f32,
}

impl ErrorAverage {
    /// The one that steers requests away: 0.05 an answer, fading over 2 s (the values of the study in DESIGN.md).
    pub fn fast() -> Self {
        Self { value: Stamped::new(), gain: 0.05, fade_s: 2.0 }
    }

    /// The one that remembers: 0.005 an answer, fading over a minute.
    pub fn slow() -> Self {
        Self { value: Stamped::new(), gain: 0.005, fade_s: 60.0 }
    }

    /// A request ended: with an error or not.
    pub fn ended(&self, now: Timestamp, error: bool) {
        // The usual case costs one load: nothing to remember, and nothing to forget.
        if !error && self.value.load().is_none_or(|(value, _)| value < 1e-6) {
            return;
        }
        self.value.update(now, |before| {
            let (value, elapsed_s) = before.unwrap_or((0.0, 0.0));
            let faded = value * (-elapsed_s / self.fade_s).exp();
            Some(faded + self.gain * (f32::from(u8::from(error)) - faded))
        });
    }

    /// The average at `now`, 0..=1.
    #[inline]
    pub fn get(&self, now: Timestamp) -> f32 {
        self.at(Coarse::of(now))
    }

    /// Seconds since it changed last; an answer that is no error changes it only as long as there is an error to forget. `None`: there was no error.
    pub(crate) fn news_s(&self, now: Coarse) -> Option<f32> {
        self.value.load().map(|(_, at)| now.seconds_since(at))
    }

    #[inline]
    pub(crate) fn at(&self, now: Coarse) -> f32 {
        match self.value.load() {
            Some((value, at)) if value >= 1e-6 => value * (-now.seconds_since(at) / self.fade_s).exp(),
            _ => 0.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    #[test]
    fn the_first_answer_is_the_average_and_later_ones_move_it() {
        let average = LatencyAverage::new();
        assert_eq!(average.get(ms(0)), None);
        average.answered(ms(0), 10.0);
        assert_eq!(average.get(ms(0)), Some(10.0));
        average.answered(ms(2_000), 110.0);
        let value = average.get(ms(2_000)).unwrap();
        assert!((16.0..=16.3).contains(&value), "one answer moves its logarithm by a fifth at most: {value}");
        for n in 0..3_000 {
            average.answered(ms(10_000 + n), 110.0);
        }
        assert!(average.get(ms(13_000)).unwrap() > 108.0);
    }

    #[test]
    fn in_haste_an_average_that_was_slow_long_ago_believes_the_next_answer_rather_than_itself() {
        let after = |haste: f32| {
            let average = LatencyAverage::new();
            average.answered(ms(0), 100.0);
            average.answered_in_haste(ms(10_000), 1.0, haste);
            average.get(ms(10_000)).unwrap()
        };
        assert!(after(10.0) < 2.0 && after(1.0) > 30.0, "{} and {}", after(10.0), after(1.0));
    }

    #[test]
    fn requests_of_a_tenth_of_a_second_fifty_times_a_second_are_five_in_flight() {
        let mean = MeanInFlight::new();
        assert_eq!(mean.at(Coarse::of(ms(0))), 0.0);
        for n in 0..1_500 {
            mean.ended(ms(20 * n), Duration::from_millis(100));
        }
        let value = mean.at(Coarse::of(ms(30_000)));
        assert!((4.9..5.1).contains(&value), "{value}");
        assert!(mean.at(Coarse::of(ms(60_000))) < 0.02);
    }

    #[test]
    fn one_costly_request_in_fifty_does_not_make_an_endpoint_look_slow() {
        let average = LatencyAverage::new();
        for n in 0..1_000 {
            average.answered(ms(10 * n), if n % 50 == 25 { 1_000.0 } else { 10.0 });
        }
        let value = average.get(ms(10_000)).unwrap();
        assert!((10.0..13.0).contains(&value), "{value}");
        average.answered(ms(10_001), 0.0);
        assert!(average.get(ms(10_001)).unwrap() > 0.0, "an answer in no time is no fault");
    }

    #[test]
    fn an_unanswered_request_only_raises_the_average() {
        let average = LatencyAverage::new();
        average.took_at_least(ms(0), 1.0);
        assert_eq!(average.get(ms(0)), None, "a refused connection says nothing about latency");
        average.answered(ms(0), 10.0);
        average.took_at_least(ms(1_000), 1.0);
        assert_eq!(average.get(ms(0)), Some(10.0));
        average.took_at_least(ms(1_000), 1_000.0);
        assert!(average.get(ms(1_000)).unwrap() > 20.0);
    }

    #[test]
    fn the_peak_average_rises_at_once_and_sinks_slowly() {
        let average = PeakAverage::new();
        assert_eq!(average.get(ms(0)), PEAK_DEFAULT_MS);
        average.ended(ms(0), 500.0);
        assert_eq!(average.get(ms(0)), 500.0);
        average.ended(ms(1_000), 5.0);
        let value = average.get(ms(1_000));
        assert!((400.0..500.0).contains(&value), "{value}");
        assert!(average.get(ms(31_000)) < 30.0);
    }

    #[test]
    fn errors_count_at_once_and_fade_by_themselves() {
        let average = ErrorAverage::fast();
        for _ in 0..20 {
            average.ended(ms(0), true);
        }
        let value = average.get(ms(0));
        assert!((0.6..0.7).contains(&value), "{value}");
        let faded = average.get(ms(2_000));
        assert!((faded / value - (-1.0f32).exp()).abs() < 1e-3, "{faded}");
        for n in 0..100 {
            average.ended(ms(n), false);
        }
        assert!(average.get(ms(100)) < 0.01);
    }
}
