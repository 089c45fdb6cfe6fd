//! Passive outlier detection: which endpoints this proxy has taken out because of what it saw itself, and when they may be tried again.
//!
//! Pure: the owner of the table feeds events and time in and publishes what comes out. An endpoint goes healthy → ejected (for a time that
//! doubles with each ejection) → half-open (one trial request at a time) → healthy, or ejected again. A half-open endpoint still counts as
//! out.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    config::{EndpointKey, OutlierDetection},
    time::Timestamp,
};

/// Something that `EndpointLoad::finish` noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutlierEvent {
    /// At which endpoint.
    pub endpoint: EndpointKey,
    /// What.
    pub kind: OutlierKind,
}

/// What was noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OutlierKind {
    /// Too many 5xx answers or failures in a row.
    Consecutive5xx,
    /// Too many requests without any answer in a row.
    ConsecutiveGatewayFailures,
    /// The trial request of a half-open endpoint was answered well.
    TrialSucceeded,
    /// It was not.
    TrialFailed,
}

/// Where an endpoint that was ejected once stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Gets nothing.
    Ejected {
        /// Until then.
        until: Timestamp,
    },
    /// Gets one trial request at a time.
    HalfOpen,
    /// Back in; its past ejections are remembered for a while.
    Healthy {
        /// Since then.
        since: Timestamp,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Record {
    phase: Phase,
    /// Ejections that count towards the back-off, at least 1.
    ejections: u32,
}

impl Record {
    fn is_out(&self) -> bool {
        !matches!(self.phase, Phase::Healthy { .. })
    }
}

/// The ejections of one backend by this proxy; an immutable value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ejections {
    records: BTreeMap<EndpointKey, Record>,
}

impl Ejections {
    /// The phase of an endpoint; `None` if it was not ejected lately.
    pub fn phase(&self, endpoint: EndpointKey) -> Option<Phase> {
        self.records.get(&endpoint).map(|record| record.phase)
    }

    /// Whether the endpoint is out of the regular choice.
    pub fn is_out(&self, endpoint: EndpointKey) -> bool {
        self.records.get(&endpoint).is_some_and(Record::is_out)
    }

    /// How many are out.
    pub fn out_count(&self) -> usize {
        self.records.values().filter(|record| record.is_out()).count()
    }

    /// When [`Self::on_time`] has something to do next.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        let deadline = |record: &Record| match record.phase {
            Phase::Ejected { until } => Some(until),
            Phase::HalfOpen | Phase::Healthy { .. } => None,
        };
        self.records.values().filter_map(deadline).min()
    }

    /// What an event changes, if anything. `endpoints` is the number of endpoints that are not draining.
    pub fn on_event(
        &self,
        now: Timestamp,
        event: &OutlierEvent,
        endpoints: usize,
        config: &OutlierDetection,
    ) -> Option<Self> {
        if config.disabled {
            return None;
        }
        let record = self.records.get(&event.endpoint).copied();
        let record = match (event.kind, record) {
            (OutlierKind::TrialSucceeded, Some(Record { phase: Phase::HalfOpen, ejections })) => {
                Record { phase: Phase::Healthy { since: now }, ejections }
            }
            (OutlierKind::TrialFailed, Some(Record { phase: Phase::HalfOpen, ejections })) => {
                eject(now, ejections, config)
            }
            (OutlierKind::Consecutive5xx | OutlierKind::ConsecutiveGatewayFailures, record)
                if !record.is_some_and(|record| record.is_out()) =>
            {
                if self.out_count() >= ejections_max(endpoints, config) {
                    return None;
                }
                eject(now, record.map_or(0, |record| remembered(now, record, config)), config)
            }
            // A trial's answer that comes too late, or errors of requests that were sent before the ejection.
            _ => return None,
        };
        let mut next = self.clone();
        next.records.insert(event.endpoint, record);
        Some(next)
    }

    /// What the passing of time changes, if anything: ejections that are over become half-open, old ones are forgotten.
    pub fn on_time(&self, now: Timestamp, config: &OutlierDetection) -> Option<Self> {
        if self.next_deadline().is_none_or(|deadline| deadline > now) {
            return None;
        }
        let mut next = self.clone();
        next.records.retain(|_, record| record.is_out() || remembered(now, *record, config) > 0);
        for record in next.records.values_mut() {
            if matches!(record.phase, Phase::Ejected { until } if until <= now) {
                record.phase = Phase::HalfOpen;
            }
        }
        Some(next)
    }

    /// The same for another list of endpoints that are not draining, and another configuration: endpoints that left are forgotten, and if more are out than may
    /// be, those that would return first return now.
    pub fn restricted(
        &self,
        now: Timestamp,
        endpoints: impl ExactSizeIterator<Item = EndpointKey>,
        config: &OutlierDetection,
    ) -> Self {
        let allowed = ejections_max(endpoints.len(), config);
        let mut records: BTreeMap<_, _> =
            endpoints.filter_map(|key| self.records.get(&key).map(|record| (key, *record))).collect();
        let mut out: Vec<_> = records.iter_mut().map(|(_, record)| record).filter(|record| record.is_out()).collect();
        out.sort_by_key(|record| match record.phase {
            Phase::Ejected { until } => until,
            Phase::HalfOpen | Phase::Healthy { .. } => Timestamp::ZERO,
        });
        let excess = out.len().saturating_sub(allowed);
        for record in out.into_iter().take(excess) {
            record.phase = Phase::Healthy { since: now };
        }
        Self { records }
    }
}

/// How many of so many endpoints may be out at a time: the configured share, but at least one of two or more, and never all.
pub fn ejections_max(endpoints: usize, config: &OutlierDetection) -> usize {
    if config.disabled || config.max_ejection_percent == 0 || endpoints < 2 {
        return 0;
    }
    (endpoints * usize::from(config.max_ejection_percent) / 100).clamp(1, endpoints - 1)
}

fn eject(now: Timestamp, ejections: u32, config: &OutlierDetection) -> Record {
    let factor = 1u32.checked_shl(ejections).unwrap_or(u32::MAX);
    let length = config.base_ejection_time.saturating_mul(factor).min(config.max_ejection_time);
    Record { phase: Phase::Ejected { until: now + length }, ejections: ejections.saturating_add(1) }
}

/// Past ejections that still count: one is forgotten for each base ejection time in good health.
fn remembered(now: Timestamp, record: Record, config: &OutlierDetection) -> u32 {
    let Phase::Healthy { since } = record.phase else { return record.ejections };
    let base = config.base_ejection_time.max(Duration::from_millis(1));
    let forgotten = now.since(since).as_millis() / base.as_millis();
    record.ejections.saturating_sub(u32::try_from(forgotten).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CONFIG: OutlierDetection = OutlierDetection {
        disabled: false,
        consecutive_5xx_errors: std::num::NonZeroU32::MIN,
        consecutive_gateway_failures: std::num::NonZeroU32::MIN,
        base_ejection_time: Duration::from_secs(10),
        max_ejection_time: Duration::from_secs(300),
        max_ejection_percent: 50,
    };

    const fn s(seconds: u64) -> Timestamp {
        Timestamp::from_millis(seconds * 1_000)
    }

    fn event(endpoint: u64, kind: OutlierKind) -> OutlierEvent {
        OutlierEvent { endpoint: EndpointKey(endpoint), kind }
    }

    /// Feeds what happened to endpoint 1 of ten, and tells its phase after each step.
    fn phases(steps: &[(u64, Option<OutlierKind>)]) -> Vec<Option<Phase>> {
        let mut ejections = Ejections::default();
        let mut step = |&(at, kind): &(u64, Option<OutlierKind>)| {
            let next = match kind {
                Some(kind) => ejections.on_event(s(at), &event(1, kind), 10, &CONFIG),
                None => ejections.on_time(s(at), &CONFIG),
            };
            ejections = next.unwrap_or_else(|| ejections.clone());
            ejections.phase(EndpointKey(1))
        };
        steps.iter().map(&mut step).collect()
    }

    #[test]
    fn ejection_lasts_longer_each_time_until_a_trial_succeeds() {
        use OutlierKind::{Consecutive5xx, TrialFailed, TrialSucceeded};
        let steps = [
            (0, Some(Consecutive5xx)),
            (9, None),
            (10, None),
            (11, Some(TrialFailed)),
            (31, None),
            (32, Some(TrialSucceeded)),
        ];
        let expected = [
            Phase::Ejected { until: s(10) },
            Phase::Ejected { until: s(10) },
            Phase::HalfOpen,
            Phase::Ejected { until: s(31) },
            Phase::HalfOpen,
            Phase::Healthy { since: s(32) },
        ];
        assert_eq!(phases(&steps), expected.map(Some));
    }

    #[test]
    fn past_ejections_are_forgotten_in_good_health() {
        use OutlierKind::{Consecutive5xx, TrialSucceeded};
        let soon = [(0, Some(Consecutive5xx)), (10, None), (11, Some(TrialSucceeded)), (12, Some(Consecutive5xx))];
        assert_eq!(phases(&soon).pop(), Some(Some(Phase::Ejected { until: s(32) })));
        let late = [(0, Some(Consecutive5xx)), (10, None), (11, Some(TrialSucceeded)), (25, Some(Consecutive5xx))];
        assert_eq!(phases(&late).pop(), Some(Some(Phase::Ejected { until: s(35) })));
    }

    #[test]
    fn late_answers_and_repeated_events_change_nothing() {
        let ejections = Ejections::default();
        assert_eq!(ejections.on_event(s(0), &event(1, OutlierKind::TrialFailed), 10, &CONFIG), None);
        let ejected = ejections.on_event(s(0), &event(1, OutlierKind::Consecutive5xx), 10, &CONFIG).unwrap();
        assert_eq!(ejected.on_event(s(1), &event(1, OutlierKind::Consecutive5xx), 10, &CONFIG), None);
        assert_eq!(ejected.on_event(s(1), &event(1, OutlierKind::TrialSucceeded), 10, &CONFIG), None);
        assert_eq!(ejected.next_deadline(), Some(s(10)));
    }

    #[test]
    fn an_ejection_never_lasts_longer_than_the_longest() {
        let mut ejections =
            Ejections::default().on_event(s(0), &event(1, OutlierKind::Consecutive5xx), 10, &CONFIG).unwrap();
        for _ in 0..100 {
            let now = ejections.next_deadline().unwrap();
            ejections = ejections.on_time(now, &CONFIG).unwrap();
            ejections = ejections.on_event(now, &event(1, OutlierKind::TrialFailed), 10, &CONFIG).unwrap();
            assert!(ejections.next_deadline().unwrap().since(now) <= CONFIG.max_ejection_time);
        }
    }

    #[test]
    fn at_least_one_of_two_may_be_ejected_and_never_all() {
        for (endpoints, percent, expected) in
            [(0, 100, 0), (1, 100, 0), (2, 10, 1), (2, 100, 1), (10, 50, 5), (10, 100, 9), (10, 0, 0), (3, 50, 1)]
        {
            let config = OutlierDetection { max_ejection_percent: percent, ..CONFIG };
            assert_eq!(ejections_max(endpoints, &config), expected, "{endpoints} endpoints, {percent} %");
        }
    }

    proptest! {
        #[test]
        fn never_are_more_out_than_may_be(
            percent in 0u8..=100,
            steps in prop::collection::vec((0u64..12, 0u8..6, 1u64..60), 0..200),
        ) {
            let config = OutlierDetection { max_ejection_percent: percent, ..CONFIG };
            let mut ejections = Ejections::default();
            let mut endpoints = 12;
            let mut now = 0;
            for (endpoint, what, value) in steps {
                now += value;
                let kind = match what {
                    0 | 1 => OutlierKind::Consecutive5xx,
                    2 => OutlierKind::TrialSucceeded,
                    3 => OutlierKind::TrialFailed,
                    4 => {
                        endpoints = value % 12 + 1;
                        ejections = ejections.restricted(s(now), (0..endpoints as usize).map(|key| EndpointKey(key as u64)), &config);
                        continue;
                    }
                    _ => {
                        ejections = ejections.on_time(s(now), &config).unwrap_or(ejections);
                        continue;
                    }
                };
                // As in a backend: events about endpoints that left are dropped.
                if endpoint < endpoints {
                    let next = ejections.on_event(s(now), &event(endpoint, kind), endpoints as usize, &config);
                    ejections = next.unwrap_or(ejections);
                }
                prop_assert!(ejections.out_count() <= ejections_max(endpoints as usize, &config));
            }
        }
    }
}
