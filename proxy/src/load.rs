//! What a proxy knows of one endpoint from its own requests. One [`EndpointLoad`] is shared by all workers and outlives the tables
//! that point to it: it is kept by endpoint key. Nothing here locks and nothing allocates.

use std::{
    sync::atomic::{
        AtomicU32, AtomicU64,
        Ordering::{AcqRel, Relaxed},
    },
    time::Duration,
};

use crate::{
    arrival::Arrival,
    average::{ErrorAverage, LatencyAverage, PeakAverage, ServiceTime},
    config::{EndpointKey, OutlierDetection},
    gauge::InFlight,
    outlier::{OutlierEvent, OutlierKind},
    pick::sliding_window::Window,
    sketch::AtomicSketch,
    time::{Coarse, Timestamp, millis, nanos},
};

/// Most classes that are told apart; higher numbers count as class 0.
pub const CLASSES_MAX: usize = 16;

/// A kind of request that costs about the same each time. 0 stands for all that have no class of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct RequestClass(pub u8);

impl RequestClass {
    #[inline]
    pub(crate) fn index(self) -> usize {
        if usize::from(self.0) < CLASSES_MAX { usize::from(self.0) } else { 0 }
    }
}

/// How a request to an endpoint ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// An answer below 500.
    Success,
    /// A 5xx answer.
    ServerError,
    /// No answer: the connection failed or was reset, or the time was up.
    Failure,
    /// The client gave up first.
    Cancelled,
}

impl Outcome {
    /// Whether it speaks against the endpoint.
    pub fn is_error(self) -> bool {
        matches!(self, Self::ServerError | Self::Failure)
    }
}

/// What an endpoint said of itself in an answer's `endpoint-load-metrics` header (ORCA).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OrcaLoad {
    /// Requests inside the endpoint, from all its clients, the answered one not counted.
    pub in_flight: u32,
}

/// A request that [`EndpointLoad::begin`] counted in. Exactly one call of [`EndpointLoad::finish`] takes it back, also if the client
/// gave up ([`Outcome::Cancelled`]): hold it in the drop guard of the request.
#[derive(Debug)]
#[must_use = "hand it to `finish`, or the request stays in flight for ever"]
pub struct Attempt {
    class: RequestClass,
    trial: bool,
    /// What requests of its class cost at this endpoint, relative to the mean request.
    relative_cost: f32,
    /// What it was expected to wait for a slot, in milliseconds; `None`: so long that its latency does not tell what it costs.
    wait_ms: Option<f32>,
    /// How many times faster averages grow old where it is, see [`LatencyAverage::answered_in_haste`].
    haste: f32,
}

impl Attempt {
    /// At a backend where averages grow old so many times faster.
    pub(crate) fn in_haste(self, haste: f32) -> Self {
        Self { haste, ..self }
    }

    /// With what is known of its class: what such a request costs at this endpoint relative to the mean request (1 where nothing is known),
    /// and what it must expect to wait for a slot, in milliseconds; `None` if that is so much that its latency will not tell what it costs.
    pub fn known(self, relative_cost: f32, wait_ms: Option<f32>) -> Self {
        Self { relative_cost, wait_ms, ..self }
    }

    /// What requests of its class cost at its endpoint, relative to the mean request.
    pub fn relative_cost(&self) -> f32 {
        self.relative_cost
    }

    /// Whether this is the trial request of a half-open endpoint.
    pub fn is_trial(&self) -> bool {
        self.trial
    }
}

/// Completed requests since the endpoint became known, by outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Answers below 500.
    pub successes: u64,
    /// 5xx answers.
    pub errors: u64,
    /// Without an answer.
    pub failures: u64,
    /// Given up by the client.
    pub cancelled: u64,
    /// Summed latency of the successes, in microseconds.
    pub latency_us_sum: u64,
}

/// Live load of one endpoint as this proxy sees it.
#[derive(Debug)]
// What every pick reads comes first and fits a pair of cache lines of its own; 128: processors fetch lines in pairs.
#[repr(C, align(128))]
pub struct EndpointLoad {
    in_flight: InFlight,
    reported: Reported,
    latency: LatencyAverage,
    errors_fast: ErrorAverage,
    in_flight_by_class: ClassCounts,
    peers: PeerCounts,
    errors_slow: ErrorAverage,
    peak: PeakAverage,
    trial: TrialPermit,
    consecutive_5xx: AtomicU32,
    consecutive_failures: AtomicU32,
    key: EndpointKey,
    arrival: Arrival,
    successes: AtomicU64,
    errors: AtomicU64,
    failures: AtomicU64,
    cancelled: AtomicU64,
    latency_us_sum: AtomicU64,
    service: [ServiceTime; CLASSES_MAX],
    window: Window,
    pub(crate) sketch: AtomicSketch,
}

/// Requests in flight of each class, 16 bits each, packed so that a pick reads them in four loads.
#[derive(Debug, Default)]
struct ClassCounts([AtomicU64; CLASSES_MAX / Self::LANES]);

impl ClassCounts {
    const LANES: usize = 4;

    fn place(class: RequestClass) -> (usize, u64) {
        let index = class.index();
        (index / Self::LANES, 1 << (16 * (index % Self::LANES)))
    }

    /// More than 65,535 of one class at one endpoint would spill into the next lane; the total in [`InFlight`] stays right.
    fn begin(&self, class: RequestClass) {
        let (word, one) = Self::place(class);
        self.0[word].fetch_add(one, Relaxed);
    }

    fn end(&self, class: RequestClass) {
        let (word, one) = Self::place(class);
        self.0[word].fetch_sub(one, Relaxed);
    }

    #[inline]
    fn words(&self) -> [u64; CLASSES_MAX / Self::LANES] {
        std::array::from_fn(|word| self.0[word].load(Relaxed))
    }

    #[inline]
    fn get(&self) -> [u16; CLASSES_MAX] {
        let mut counts = [0; CLASSES_MAX];
        for (word, lanes) in self.0.iter().zip(counts.chunks_exact_mut(Self::LANES)) {
            let word = word.load(Relaxed);
            for (lane, count) in lanes.iter_mut().enumerate() {
                *count = (word >> (16 * lane)) as u16;
            }
        }
        counts
    }
}

/// What other proxies have in flight here, as they said last.
#[derive(Debug, Default)]
struct PeerCounts {
    counts: ClassCounts,
    /// When they said so; 0: never.
    at: AtomicU32,
}

/// From this age on what peers said counts for nothing; until then it counts in full.
const PEERS_EXPIRY_S: f32 = 0.1;

impl PeerCounts {
    #[inline]
    fn is_fresh(&self, now: Coarse) -> bool {
        let at = self.at.load(Relaxed);
        at != 0 && now.seconds_since(Coarse(at)) < PEERS_EXPIRY_S
    }
}

impl EndpointLoad {
    /// Peers have so many requests in flight here.
    pub fn heard_from_peers(&self, now: Timestamp, counts: &[u16; CLASSES_MAX]) {
        for (word, lanes) in self.peers.counts.0.iter().zip(counts.chunks_exact(ClassCounts::LANES)) {
            let packed = lanes.iter().enumerate().map(|(lane, count)| u64::from(*count) << (16 * lane)).sum();
            word.store(packed, Relaxed);
        }
        self.peers.at.store(Coarse::of(now).0.max(1), Relaxed);
    }

    /// What peers have in flight here by class, if they have said so lately.
    pub(crate) fn peers(&self, now: Coarse) -> Option<[u16; CLASSES_MAX]> {
        self.peers.is_fresh(now).then(|| self.peers.counts.get())
    }

    /// Of an endpoint that is known from `now` on and has not been sent anything yet.
    pub fn new(key: EndpointKey, now: Timestamp) -> Self {
        Self {
            in_flight: InFlight::default(),
            reported: Reported::default(),
            latency: LatencyAverage::new(),
            errors_fast: ErrorAverage::fast(),
            errors_slow: ErrorAverage::slow(),
            peak: PeakAverage::new(),
            trial: TrialPermit::default(),
            consecutive_5xx: AtomicU32::new(0),
            consecutive_failures: AtomicU32::new(0),
            key,
            arrival: Arrival::known(now),
            in_flight_by_class: ClassCounts::default(),
            peers: PeerCounts::default(),
            successes: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            cancelled: AtomicU64::new(0),
            latency_us_sum: AtomicU64::new(0),
            service: Default::default(),
            window: Window::default(),
            sketch: AtomicSketch::new(),
        }
    }

    /// When it came.
    #[inline]
    pub fn arrival(&self) -> &Arrival {
        &self.arrival
    }

    /// What sliding-window round robin counts.
    pub(crate) fn window(&self) -> &Window {
        &self.window
    }

    /// Which endpoint.
    pub fn key(&self) -> EndpointKey {
        self.key
    }

    /// A request is sent to the endpoint.
    pub fn begin(&self, now: Timestamp, class: RequestClass) -> Attempt {
        self.in_flight.begin(now);
        self.in_flight_by_class.begin(class);
        self.reported.sent();
        Attempt { class, trial: self.trial.start(), relative_cost: 1.0, wait_ms: Some(0.0), haste: 1.0 }
    }

    /// The request ended: the endpoint took `latency` for it, which goes into no average where it is not known (`None`). With what the endpoint
    /// said of its load, if it did. Returns what the owner of the table must hear of.
    pub fn finish(
        &self,
        attempt: Attempt,
        now: Timestamp,
        outcome: Outcome,
        latency: impl Into<Option<Duration>>,
        orca: Option<OrcaLoad>,
        detection: &OutlierDetection,
    ) -> Option<OutlierEvent> {
        self.in_flight.end(now);
        self.in_flight_by_class.end(attempt.class);
        if let Some(orca) = orca {
            self.reported.store(now, orca.in_flight);
        }
        if let Some(latency) = latency.into() {
            self.took(&attempt, now, outcome, latency);
        }
        let counter = match outcome {
            Outcome::Success => &self.successes,
            Outcome::ServerError => &self.errors,
            Outcome::Failure => &self.failures,
            Outcome::Cancelled => &self.cancelled,
        };
        counter.fetch_add(1, Relaxed);
        if outcome != Outcome::Cancelled {
            self.errors_fast.ended(now, outcome.is_error());
            self.errors_slow.ended(now, outcome.is_error());
        }
        let crossed = self.streaks(outcome, detection);
        let kind = if attempt.trial {
            self.trial.free();
            match outcome {
                Outcome::Success => Some(OutlierKind::TrialSucceeded),
                Outcome::ServerError | Outcome::Failure => Some(OutlierKind::TrialFailed),
                Outcome::Cancelled => None,
            }
        } else {
            crossed
        };
        kind.filter(|_| !detection.disabled).map(|kind| OutlierEvent { endpoint: self.key, kind })
    }

    /// Learns from how long an attempt took.
    fn took(&self, attempt: &Attempt, now: Timestamp, outcome: Outcome, latency: Duration) {
        let latency_ms = millis(latency);
        self.peak.ended(now, latency_ms);
        // What the mean request would have taken: a pod that gets the costly ones is not a slow pod.
        let mean_ms = latency_ms / attempt.relative_cost;
        if outcome == Outcome::Success {
            self.latency.answered_in_haste(now, mean_ms, attempt.haste);
            self.latency_us_sum.fetch_add(nanos(latency) / 1_000, Relaxed);
            self.sketch.record(latency);
            self.service[attempt.class.index()].answered(latency_ms, attempt.wait_ms);
        } else {
            self.latency.took_at_least(now, mean_ms);
        }
    }

    /// The endpoint said otherwise than on an answer how many requests it has inside.
    pub fn told_in_flight(&self, now: Timestamp, in_flight: u32) {
        self.reported.store(now, in_flight);
    }

    /// Own requests in flight, of all classes.
    #[inline]
    pub fn in_flight(&self) -> u32 {
        self.in_flight.count()
    }

    /// Own requests in flight of one class.
    pub fn in_flight_of(&self, class: RequestClass) -> u32 {
        self.in_flight_by_class.get()[class.index()].into()
    }

    /// Own requests in flight by class.
    #[inline]
    pub fn in_flight_by_class(&self) -> [u16; CLASSES_MAX] {
        self.in_flight_by_class.get()
    }

    /// What is known of the time that this endpoint takes for requests of a class, without waiting.
    pub fn service(&self, class: RequestClass) -> &ServiceTime {
        &self.service[class.index()]
    }

    /// Requests in flight from all proxies, as well as can be told: reported by the endpoint on its last answer plus own sends since, where
    /// that is fresh; otherwise own requests times `proxies`. In between the two are blended. Never below own requests.
    #[inline]
    pub fn in_flight_estimate(&self, now: Timestamp, proxies: f32) -> f32 {
        self.in_flight_at(Coarse::of(now), proxies)
    }

    /// Own requests in flight and those of peers, where what they say is fresh and `listen` is set: packed by class, 16 bits each. Own ones alone,
    /// and false, where it is not.
    #[inline]
    pub(crate) fn packed(&self, now: Coarse, listen: bool) -> ([u64; CLASSES_MAX / ClassCounts::LANES], bool) {
        let mut words = self.in_flight_by_class.words();
        let heard = listen && self.peers.is_fresh(now);
        if heard {
            // A lane that is full to the brim would carry into the next: 65,535 requests of one class at one endpoint.
            words.iter_mut().zip(self.peers.counts.words()).for_each(|(own, peers)| *own = own.wrapping_add(peers));
        }
        (words, heard)
    }

    #[inline]
    pub(crate) fn in_flight_at(&self, now: Coarse, proxies: f32) -> f32 {
        let own = self.in_flight.count() as f32;
        match self.reported.load(now) {
            None => own * proxies,
            Some((reported, trust)) => (reported * trust + own * proxies * (1.0 - trust)).max(own),
        }
    }

    /// Average latency in milliseconds; `None` before the first answer.
    #[inline]
    pub fn latency_ms(&self, now: Timestamp) -> Option<f32> {
        self.latency.get(now)
    }

    /// Its latency average as requests are sent by it; `mean_ms` is that of all endpoints.
    #[inline]
    pub(crate) fn latency_at(&self, now: Coarse, haste: f32, mean_ms: Option<f32>) -> Option<f32> {
        self.latency.asked_at(now, haste, mean_ms, || self.in_flight() > 0)
    }

    /// For how many seconds it has been left in peace without ever having answered well: since it became ready, or since its last error.
    pub(crate) fn untried_s(&self, now: Coarse) -> f32 {
        let known_s = self.arrival.ready_for_s(now).unwrap_or_else(|| self.arrival.known_for_s(now));
        self.errors_fast.news_s(now).map_or(known_s, |error_s| error_s.min(known_s))
    }

    /// Peak-sensitive average latency in milliseconds (Linkerd's).
    pub fn peak_ms(&self, now: Timestamp) -> f32 {
        self.peak.get(now)
    }

    /// This proxy's own soft error average, 0..=1: the fast one, which steers.
    #[inline]
    pub fn error(&self, now: Timestamp) -> f32 {
        self.errors_fast.get(now)
    }

    #[inline]
    pub(crate) fn error_at(&self, now: Coarse) -> f32 {
        self.errors_fast.at(now)
    }

    /// The slow soft error average, 0..=1, for people and features.
    pub fn error_slow(&self, now: Timestamp) -> f32 {
        self.errors_slow.get(now)
    }

    /// Completed requests of all classes since the endpoint became known.
    pub fn counters(&self) -> Counters {
        Counters {
            successes: self.successes.load(Relaxed),
            errors: self.errors.load(Relaxed),
            failures: self.failures.load(Relaxed),
            cancelled: self.cancelled.load(Relaxed),
            latency_us_sum: self.latency_us_sum.load(Relaxed),
        }
    }

    /// Asks to send the next request as the trial of a half-open endpoint; granted to one at a time, over all workers. A grant that is
    /// not followed by [`Self::begin`] lapses after a second.
    pub(crate) fn try_trial(&self, now: Timestamp) -> bool {
        self.trial.try_grant(now)
    }

    pub(crate) fn gauge(&self) -> &InFlight {
        &self.in_flight
    }

    /// Counts errors in a row; tells when a threshold is crossed, and again at each of its multiples, in case it was not heeded.
    fn streaks(&self, outcome: Outcome, detection: &OutlierDetection) -> Option<OutlierKind> {
        let extend = |streak: &AtomicU32, threshold: u32| {
            let length = streak.fetch_add(1, Relaxed).wrapping_add(1);
            length != 0 && length.is_multiple_of(threshold)
        };
        let end = |streak: &AtomicU32| {
            if streak.load(Relaxed) != 0 {
                streak.store(0, Relaxed);
            }
        };
        match outcome {
            Outcome::Success => {
                end(&self.consecutive_5xx);
                end(&self.consecutive_failures);
                None
            }
            Outcome::ServerError => {
                end(&self.consecutive_failures);
                extend(&self.consecutive_5xx, detection.consecutive_5xx_errors.get())
                    .then_some(OutlierKind::Consecutive5xx)
            }
            Outcome::Failure => {
                let five = extend(&self.consecutive_5xx, detection.consecutive_5xx_errors.get());
                let failures = extend(&self.consecutive_failures, detection.consecutive_gateway_failures.get());
                if failures {
                    Some(OutlierKind::ConsecutiveGatewayFailures)
                } else {
                    five.then_some(OutlierKind::Consecutive5xx)
                }
            }
            Outcome::Cancelled => None,
        }
    }
}

/// The in-flight count that the endpoint reported last and own sends since, in one word: time (32 bits), count (16), sends (16).
#[derive(Debug, Default)]
struct Reported(AtomicU64);

/// From this age on a reported count says nothing any more; until then trust fades linearly.
const REPORT_EXPIRY_S: f32 = 1.0;

impl Reported {
    fn store(&self, now: Timestamp, in_flight: u32) {
        // 0 means "never"; the time is set to 1 at the origin itself.
        let at = u64::from(Coarse::of(now).0.max(1));
        self.0.store((at << 32) | (u64::from(in_flight.min(0xffff)) << 16), Relaxed);
    }

    fn sent(&self) {
        let word = self.0.load(Relaxed);
        if word != 0 && word & 0xffff < 0xfff0 {
            self.0.fetch_add(1, Relaxed);
        }
    }

    /// Count, sends included, and how far to trust it, 0..=1; `None` if there is none or it has expired.
    #[inline]
    fn load(&self, now: Coarse) -> Option<(f32, f32)> {
        let word = self.0.load(Relaxed);
        if word == 0 {
            return None;
        }
        let age_s = now.seconds_since(Coarse((word >> 32) as u32));
        let count = ((word >> 16) & 0xffff) as f32 + (word & 0xffff) as f32;
        (age_s < REPORT_EXPIRY_S).then_some((count, 1.0 - age_s / REPORT_EXPIRY_S))
    }
}

/// The permit to try a half-open endpoint: free, granted at some time, or taken by a request in flight.
#[derive(Debug, Default)]
struct TrialPermit(AtomicU64);

impl TrialPermit {
    const FREE: u64 = 0;
    const RUNNING: u64 = 1;
    const GRANT_EXPIRY_NS: u64 = 1_000_000_000;

    fn try_grant(&self, now: Timestamp) -> bool {
        let word = self.0.load(Relaxed);
        let expired = word > Self::RUNNING && now.0.saturating_sub(word) > Self::GRANT_EXPIRY_NS;
        (word == Self::FREE || expired) && self.0.compare_exchange(word, now.0.max(2), AcqRel, Relaxed).is_ok()
    }

    /// Whether the request that begins now is the one that was granted.
    fn start(&self) -> bool {
        let word = self.0.load(Relaxed);
        word > Self::RUNNING && self.0.compare_exchange(word, Self::RUNNING, AcqRel, Relaxed).is_ok()
    }

    fn free(&self) {
        self.0.store(Self::FREE, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: Timestamp = Timestamp::from_millis(5_000);

    fn load() -> EndpointLoad {
        EndpointLoad::new(EndpointKey(7), T)
    }

    fn finish(load: &EndpointLoad, now: Timestamp, outcome: Outcome) -> Option<OutlierKind> {
        let attempt = load.begin(now, RequestClass::default());
        let latency = Duration::from_millis(3);
        let event = load.finish(attempt, now, outcome, latency, None, &OutlierDetection::default());
        event.map(|event| {
            assert_eq!(event.endpoint, EndpointKey(7));
            event.kind
        })
    }

    #[test]
    fn what_every_pick_reads_shares_a_cache_line() {
        use std::mem::{align_of, offset_of};
        assert_eq!(align_of::<EndpointLoad>(), 128);
        for offset in [
            offset_of!(EndpointLoad, in_flight),
            offset_of!(EndpointLoad, reported),
            offset_of!(EndpointLoad, latency),
            offset_of!(EndpointLoad, errors_fast),
        ] {
            assert!(offset < 64, "{offset}");
        }
    }

    #[test]
    fn cancelled_requests_count_down() {
        let load = load();
        let attempt = load.begin(T, RequestClass(3));
        assert_eq!(
            (load.in_flight(), load.in_flight_of(RequestClass(3)), load.in_flight_of(RequestClass(0))),
            (1, 1, 0)
        );
        load.finish(attempt, T, Outcome::Cancelled, Duration::ZERO, None, &OutlierDetection::default());
        assert_eq!((load.in_flight(), load.in_flight_of(RequestClass(3))), (0, 0));
        assert_eq!(load.counters().cancelled, 1);
        assert_eq!(load.error(T), 0.0, "a client that gives up is no fault of the endpoint");
    }

    #[test]
    fn an_answer_of_which_nobody_knows_how_long_it_took_is_counted_and_in_no_average() {
        let load = load();
        let learned = || {
            let service = format!("{:?} {:?}", load.service(RequestClass(0)), load.sketch);
            (load.latency_ms(T), load.peak_ms(T), load.counters().latency_us_sum, service)
        };
        let finish = |latency: Option<Duration>| {
            let attempt = load.begin(T, RequestClass(0));
            load.finish(attempt, T, Outcome::Success, latency, None, &OutlierDetection::default());
        };
        let before = learned();
        finish(None);
        assert_eq!(learned(), before);
        assert_eq!((load.counters().successes, load.in_flight()), (1, 0));
        finish(Some(Duration::from_millis(8)));
        assert_ne!(learned(), before);
        assert!((load.latency_ms(T).unwrap() - 8.0).abs() < 0.01, "{:?}", load.latency_ms(T));
    }

    #[test]
    fn a_class_that_cannot_be_told_apart_counts_as_class_0() {
        let load = load();
        let _stays = load.begin(T, RequestClass(200));
        assert_eq!(load.in_flight_of(RequestClass(0)), 1);
    }

    #[test]
    fn five_errors_in_a_row_make_an_event_and_a_success_starts_over() {
        let load = load();
        let run = |outcomes: &[Outcome]| -> Vec<_> {
            outcomes.iter().filter_map(|outcome| finish(&load, T, *outcome)).collect()
        };
        use Outcome::{Cancelled, Failure, ServerError, Success};
        assert_eq!(run(&[ServerError, ServerError, ServerError, ServerError, Success]), []);
        assert_eq!(run(&[ServerError, Cancelled, ServerError, ServerError, ServerError]), []);
        assert_eq!(run(&[ServerError]), [OutlierKind::Consecutive5xx]);
        assert_eq!(run(&[ServerError; 4]), []);
        assert_eq!(run(&[ServerError]), [OutlierKind::Consecutive5xx], "again, in case it was not heeded");
        assert_eq!(run(&[Success, Failure, Failure, Failure]), [OutlierKind::ConsecutiveGatewayFailures]);
        assert_eq!(run(&[Success, Failure, Failure, ServerError, Failure, Failure]), [OutlierKind::Consecutive5xx]);
    }

    #[test]
    fn the_estimate_is_reported_plus_sent_while_fresh_and_own_times_proxies_after() {
        let load = load();
        let first = load.begin(T, RequestClass::default());
        let _second = load.begin(T, RequestClass::default());
        assert_eq!(load.in_flight_estimate(T, 3.0), 6.0);
        let report = Some(OrcaLoad { in_flight: 9 });
        load.finish(first, T, Outcome::Success, Duration::from_millis(1), report, &OutlierDetection::default());
        let _third = load.begin(T, RequestClass::default());
        assert_eq!(load.in_flight_estimate(T, 3.0), 10.0);
        let halfway = load.in_flight_estimate(T + Duration::from_millis(500), 3.0);
        assert!((halfway - 8.0).abs() < 0.1, "between 10 and 6: {halfway}");
        assert_eq!(load.in_flight_estimate(T + Duration::from_secs(2), 3.0), 6.0);
    }

    #[test]
    fn an_endpoint_cannot_report_less_than_is_known_to_be_there() {
        let load = load();
        let (first, _second) = (load.begin(T, RequestClass::default()), load.begin(T, RequestClass::default()));
        let report = Some(OrcaLoad { in_flight: 0 });
        load.finish(first, T, Outcome::Success, Duration::from_millis(1), report, &OutlierDetection::default());
        assert_eq!(load.in_flight_estimate(T, 3.0), 1.0);
    }

    #[test]
    fn one_trial_at_a_time_over_all_workers() {
        let load = load();
        let granted = std::thread::scope(|scope| {
            let workers: Vec<_> =
                (0..4).map(|_| scope.spawn(|| (0..1_000).filter(|_| load.try_trial(T)).count())).collect();
            workers.into_iter().map(|worker| worker.join().unwrap()).sum::<usize>()
        });
        assert_eq!(granted, 1);
        let attempt = load.begin(T, RequestClass::default());
        assert!(attempt.is_trial());
        assert!(!load.try_trial(T + Duration::from_secs(60)), "it is still running");
        let event =
            load.finish(attempt, T, Outcome::Success, Duration::from_millis(1), None, &OutlierDetection::default());
        assert_eq!(event.map(|event| event.kind), Some(OutlierKind::TrialSucceeded));
        assert!(load.try_trial(T));
        assert!(!load.try_trial(T + Duration::from_millis(500)));
        assert!(load.try_trial(T + Duration::from_secs(2)), "a grant that was not used lapses");
    }

    #[test]
    fn workers_beside_each_other_lose_nothing() {
        let load = load();
        std::thread::scope(|scope| {
            for worker in 0..4u8 {
                let load = &load;
                scope.spawn(move || {
                    for n in 0..2_000 {
                        let attempt = load.begin(T, RequestClass(worker));
                        let latency = Duration::from_micros(n);
                        load.finish(attempt, T, Outcome::Success, latency, None, &OutlierDetection::default());
                    }
                });
            }
        });
        assert_eq!(load.in_flight(), 0);
        assert_eq!(load.counters().successes, 8_000);
        assert_eq!(load.counters().latency_us_sum, 4 * (0..2_000).sum::<u64>());
    }
}
