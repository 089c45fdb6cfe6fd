//! What one tick hands to the next: averages, capacity estimates and the last applied weights, by endpoint identity.
//! Pure data: the caller keeps one `Memory` a backend and passes it back in.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::guard::Watch;
use crate::numbers::{gain, interval_s, sane};
use crate::observation::{EndpointKey, EndpointObservation, Observation};
use crate::prior::{QUANTILE_SHAPE, Speed, quantile_shape};

/// An endpoint that has been away for longer is forgotten: longer than a rolling restart takes to bring a pod's address
/// back, short enough that churn does not pile up.
pub const FORGET_AFTER_S: f64 = 300.0;

/// Time constant of the fast error average: as quick as the proxies' own (DESIGN.md: fading over 2 s).
const ERROR_FAST_S: f64 = 2.0;
/// Time constant of the slow error average: long enough to remember a pod that fails in bouts.
const ERROR_SLOW_S: f64 = 30.0;
/// Answers that count as one prior opinion: a tick with a single failed answer moves an average by a third of what a
/// tick full of failures does.
const ERROR_PRIOR_ANSWERS: f64 = 2.0;

/// What must be carried from tick to tick of one backend. `Memory::default()` is the memory of a backend never seen.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Memory {
    /// First those of the last observation in its order, then those gone since. Endpoint lists rarely change, so that
    /// the next observation finds nearly all of them at the same place.
    endpoints: Vec<Entry>,
    /// How many of them were in the last observation.
    present: usize,
    /// Where each is in `endpoints`; shared with the previous memory while the list stays the same.
    index: Arc<BTreeMap<EndpointKey, usize>>,
    /// Ticks decided so far.
    pub(crate) ticks: u64,
    /// p10 ÷ p50 of the backend's latency, as last seen.
    pub(crate) quantile_shape: Option<f64>,
    pub(crate) watch: Watch,
}

type Entry = (EndpointKey, EndpointMemory);

fn keys(entries: &[Entry]) -> impl Iterator<Item = EndpointKey> + '_ {
    entries.iter().map(|&(key, _)| key)
}

/// What is remembered of one endpoint.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EndpointMemory {
    /// Evidence on its capacity.
    pub speed: Speed,
    /// Share of answers that failed, over about 2 s.
    pub error_fast: f64,
    /// The same over about 30 s.
    pub error_slow: f64,
    /// Seconds since it was seen to become ready; infinite where it was there before we were.
    pub ready_for_s: f64,
    /// Whether it has been ready: one that has not is still starting.
    pub was_ready: bool,
    /// Seconds since it was last in an observation.
    pub gone_s: f64,
    /// Weight applied at the last tick that had it.
    pub applied: Option<f64>,
    /// Exploration noise of the last tick, in standard deviations.
    pub noise: Option<f64>,
}

impl Memory {
    /// What is remembered of an endpoint.
    pub fn endpoint(&self, key: EndpointKey) -> Option<&EndpointMemory> {
        self.index.get(&key).map(|&place| &self.endpoints[place].1)
    }

    /// The same, where its place in the observation is known.
    fn at(&self, place: usize, key: EndpointKey) -> Option<&EndpointMemory> {
        match self.endpoints.get(place) {
            Some((found, memory)) if *found == key => Some(memory),
            _ => self.endpoint(key),
        }
    }

    /// How far outside of what the policy was trained on its input has lain over the last minutes, in widths of the range that training saw.
    pub fn drift(&self) -> f64 {
        self.watch.drift_now()
    }

    /// Endpoints remembered, those gone for less than [`FORGET_AFTER_S`] included.
    pub fn len(&self) -> usize {
        self.endpoints.len()
    }

    /// Whether no endpoint is remembered.
    pub fn is_empty(&self) -> bool {
        self.endpoints.is_empty()
    }

    /// Takes the last applied weights of endpoints that it shares with an earlier memory from there.
    pub(crate) fn restore_applied(&mut self, before: &Self) {
        for (place, (key, memory)) in self.endpoints.iter_mut().enumerate() {
            if let Some(earlier) = before.at(place, *key) {
                memory.applied = earlier.applied;
            }
        }
    }

    /// Each endpoint's memory with this observation folded in, in the observation's order.
    pub(crate) fn fold(&self, observation: &Observation) -> Vec<EndpointMemory> {
        let dt_s = interval_s(observation.interval_s);
        // A controller that has just started knows no pod, but the pods were there: only later arrivals are new.
        let shape = self.shape(observation).unwrap_or(QUANTILE_SHAPE);
        let ready_for_s = if self.ticks == 0 { f64::INFINITY } else { 0.0 };
        observation
            .endpoints
            .iter()
            .enumerate()
            .map(|(place, endpoint)| {
                let known = self.at(place, endpoint.key).copied();
                let mut memory = known.unwrap_or(EndpointMemory::new(ready_for_s));
                memory.fold(endpoint, observation.at_ms, dt_s, shape, known.is_some());
                memory
            })
            .collect()
    }

    /// The memory after a tick: these endpoints, plus those gone not too long ago.
    pub(crate) fn remember(
        &self,
        observation: &Observation,
        endpoints: Vec<EndpointMemory>,
        applied: &[f64],
        watch: Watch,
    ) -> Self {
        let dt_s = interval_s(observation.interval_s);
        let (here_before, gone_before) = self.endpoints.split_at(self.present);
        let present = observation.endpoints.iter().zip(endpoints).zip(applied);
        let mut list: Vec<Entry> = Vec::with_capacity(self.endpoints.len());
        list.extend(
            present.map(|((endpoint, memory), &applied)| {
                (endpoint.key, EndpointMemory { applied: Some(applied), ..memory })
            }),
        );
        let present = list.len();
        let same = keys(&list).eq(keys(here_before));
        let aged = |&(key, memory): &Entry| (key, EndpointMemory { gone_s: memory.gone_s + dt_s, ..memory });
        let remembered = |(_, memory): &Entry| memory.gone_s <= FORGET_AFTER_S;
        if same {
            list.extend(gone_before.iter().map(aged).filter(remembered));
        } else {
            let here: BTreeSet<EndpointKey> = keys(&list).collect();
            let gone = self.endpoints.iter().filter(|(key, _)| !here.contains(key));
            list.extend(gone.map(aged).filter(remembered));
        }
        let index = if same && list.len() == self.endpoints.len() {
            Arc::clone(&self.index)
        } else {
            Arc::new(keys(&list).enumerate().map(|(place, key)| (key, place)).collect())
        };
        Self {
            endpoints: list,
            present,
            index,
            ticks: self.ticks.saturating_add(1),
            quantile_shape: self.shape(observation),
            watch,
        }
    }

    fn shape(&self, observation: &Observation) -> Option<f64> {
        let now = quantile_shape(&observation.endpoints);
        match (self.quantile_shape, now) {
            // A tenth of the way a tick: a shape is the service's, and changes with releases.
            (Some(before), Some(now)) => Some(before + 0.1 * (now - before)),
            (before, now) => now.or(before),
        }
    }
}

impl EndpointMemory {
    fn new(ready_for_s: f64) -> Self {
        Self {
            speed: Speed::default(),
            error_fast: 0.0,
            error_slow: 0.0,
            ready_for_s,
            was_ready: false,
            gone_s: 0.0,
            applied: None,
            noise: None,
        }
    }

    fn fold(&mut self, endpoint: &EndpointObservation, at_ms: i64, dt_s: f64, shape: f64, known: bool) {
        self.gone_s = 0.0;
        self.was_ready |= endpoint.ready;
        self.ready_for_s = match (endpoint.ready, known) {
            (false, _) => 0.0,
            (true, true) => self.ready_for_s + dt_s,
            (true, false) => self.ready_for_s,
        };
        self.fold_errors(endpoint, dt_s);
        self.speed.fold(endpoint, at_ms, dt_s, shape);
    }

    fn fold_errors(&mut self, endpoint: &EndpointObservation, dt_s: f64) {
        let Some(reported) = endpoint.reported else { return };
        let failed = reported.errors as f64 + reported.failures as f64;
        let answers = reported.successes as f64 + failed;
        if answers > 0.0 {
            let share = failed / answers;
            let trust = answers / (answers + ERROR_PRIOR_ANSWERS);
            self.error_fast += trust * gain(dt_s, ERROR_FAST_S) * (share - self.error_fast);
            self.error_slow += trust * gain(dt_s, ERROR_SLOW_S) * (share - self.error_slow);
        } else {
            // Without requests there is no news; what was bad is slowly forgiven, so that it is tried again.
            self.error_fast -= gain(dt_s, 5.0 * ERROR_FAST_S) * self.error_fast;
            self.error_slow -= gain(dt_s, 5.0 * ERROR_SLOW_S) * self.error_slow;
        }
    }

    /// Seconds since the endpoint became ready, as the cluster or our own memory knows it.
    pub(crate) fn ready_age_s(&self, endpoint: &EndpointObservation) -> f64 {
        endpoint.ready_age_s.and_then(sane).unwrap_or(self.ready_for_s)
    }
}
