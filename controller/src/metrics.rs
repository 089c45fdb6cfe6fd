//! The controller's own metrics, for Prometheus.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use trimtab_model::decision::Decision;
use trimtab_model::rollout::Why;

use crate::gateway::Config;
use crate::objects::Replicas;
use crate::proxies::Answers;
use crate::tick::Backend;

/// How a scrape ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScrapeOutcome {
    /// Numbers were found.
    Ok,
    /// It failed, or nothing was recognised.
    Error,
}

/// What happened to rows of the recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowFate {
    /// They are in a finished file.
    Written,
    /// They were lost.
    Dropped,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByReason {
    reason: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByOutcome {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByFate {
    fate: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByBackend {
    backend: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByBackendAndWhich {
    backend: String,
    which: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByWhy {
    backend: String,
    why: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByKind {
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, EncodeLabelSet)]
struct ByCondition {
    kind: &'static str,
    condition: &'static str,
    reason: &'static str,
}

/// All metrics.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    tick_seconds: Histogram,
    decisions: Counter,
    guard_actions: Family<ByReason, Counter>,
    pushes: Counter,
    propagation_seconds: Histogram,
    acks: Counter,
    nacks: Counter,
    proxies: Gauge,
    scrapes: Family<ByOutcome, Counter>,
    rows: Family<ByFate, Counter<u64, AtomicU64>>,
    rollbacks: Family<ByWhy, Counter>,
    candidate_share: Family<ByBackend, Gauge<f64, AtomicU64>>,
    drift: Family<ByBackend, Gauge<f64, AtomicU64>>,
    replicas: Family<ByBackendAndWhich, Gauge>,
    leading: Gauge,
    status_writes: Family<ByKind, Counter>,
    status_failures: Family<ByKind, Counter>,
    status_gone: Family<ByKind, Counter>,
    conditions: Family<ByCondition, Gauge>,
    problems: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("trimtab_controller");
        let metrics = Self {
            tick_seconds: Histogram::new(exponential_buckets(0.0001, 2.0, 14)),
            decisions: Counter::default(),
            guard_actions: Family::default(),
            pushes: Counter::default(),
            propagation_seconds: Histogram::new(exponential_buckets(0.001, 2.0, 14)),
            acks: Counter::default(),
            nacks: Counter::default(),
            proxies: Gauge::default(),
            scrapes: Family::default(),
            rows: Family::default(),
            rollbacks: Family::default(),
            candidate_share: Family::default(),
            drift: Family::default(),
            replicas: Family::default(),
            leading: Gauge::default(),
            status_writes: Family::default(),
            status_failures: Family::default(),
            status_gone: Family::default(),
            conditions: Family::default(),
            problems: Gauge::default(),
            registry: Registry::default(),
        };
        registry.register_with_unit(
            "tick",
            "Time that a tick took, all backends together",
            Unit::Seconds,
            metrics.tick_seconds.clone(),
        );
        registry.register("decisions", "Decisions made, one a backend and tick", metrics.decisions.clone());
        registry.register(
            "guard_actions",
            "What the guard changed or refused, by reason; one a decision and reason",
            metrics.guard_actions.clone(),
        );
        registry.register("pushes", "Snapshots published to proxies", metrics.pushes.clone());
        registry.register_with_unit(
            "propagation",
            "Time from a push until all connected proxies have acknowledged it or a newer one",
            Unit::Seconds,
            metrics.propagation_seconds.clone(),
        );
        registry.register("acks", "Responses that proxies acknowledged", metrics.acks.clone());
        registry.register("nacks", "Responses that proxies refused", metrics.nacks.clone());
        registry.register("proxies", "Connected proxies", metrics.proxies.clone());
        registry.register("scrapes", "Scrapes of endpoints, by outcome", metrics.scrapes.clone());
        registry.register("recording_rows", "Rows of the recording, by what became of them", metrics.rows.clone());
        registry.register(
            "rollbacks",
            "Versions of the policy that this controller has rolled back, by backend and reason",
            metrics.rollbacks.clone(),
        );
        registry.register(
            "candidate_share",
            "Share of the time in which a candidate decides, by its stage; 0 without one or in the shadow",
            metrics.candidate_share.clone(),
        );
        registry.register(
            "drift",
            "How far the input of the policy in force has lain outside of what it was trained on over the last minutes, in \
             widths of the range that training saw",
            metrics.drift.clone(),
        );
        registry.register(
            "autoscaler_replicas",
            "Pods of a backend's workloads as their HorizontalPodAutoscalers have them: current, and desired",
            metrics.replicas.clone(),
        );
        registry.register("leading", "1 where this controller leads, 0 where it follows", metrics.leading.clone());
        registry.register("status_writes", "Statuses written, by kind of object", metrics.status_writes.clone());
        registry.register(
            "status_write_failures",
            "Statuses that could not be written, by kind of object",
            metrics.status_failures.clone(),
        );
        registry.register(
            "status_writes_too_late",
            "Statuses of objects that had been deleted when they were to be written, by kind of object",
            metrics.status_gone.clone(),
        );
        registry.register(
            "bad_conditions",
            "Conditions that a person should see to, by kind of object, type and reason",
            metrics.conditions.clone(),
        );
        registry.register(
            "problems",
            "Problems of the configuration that a person should see to",
            metrics.problems.clone(),
        );
        Self { registry, ..metrics }
    }
}

impl Metrics {
    /// The text of `/metrics`.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = text::encode(&mut text, &self.registry);
        text
    }

    pub(crate) fn ticked(&self, tick_ms: f64) {
        self.tick_seconds.observe(tick_ms / 1e3);
    }

    pub(crate) fn decided(&self, decision: &Decision) {
        self.decisions.inc();
        let mut reasons: Vec<_> = decision.guard.iter().map(|action| action.reason).collect();
        reasons.sort_unstable();
        reasons.dedup();
        for reason in reasons {
            self.guard_actions.get_or_create(&ByReason { reason: format!("{reason:?}") }).inc();
        }
    }

    /// What the rollout of a backend has come to in a tick.
    pub(crate) fn rollout(&self, name: &str, backend: &Backend) {
        let label = ByBackend { backend: name.to_owned() };
        self.drift.get_or_create(&label).set(backend.drift);
        if let Some(live) = &backend.live {
            let stage = live.rollout.state().trial.as_ref().filter(|_| live.rollout.candidate().is_some());
            self.candidate_share.get_or_create(&label).set(stage.map_or(0.0, |trial| trial.stage.share()));
        }
    }

    /// What autoscalers say of a backend.
    pub(crate) fn replicas(&self, name: &str, replicas: Option<Replicas>) {
        let label = |which| ByBackendAndWhich { backend: name.to_owned(), which };
        match replicas {
            Some(Replicas { current, desired }) => {
                self.replicas.get_or_create(&label("current")).set(current.into());
                self.replicas.get_or_create(&label("desired")).set(desired.into());
            }
            None => {
                self.replicas.remove(&label("current"));
                self.replicas.remove(&label("desired"));
            }
        }
    }

    pub(crate) fn rolled_back(&self, name: &str, why: Why) {
        self.rollbacks.get_or_create(&ByWhy { backend: name.to_owned(), why: format!("{why:?}") }).inc();
    }

    pub(crate) fn leading(&self, leading: bool) {
        self.leading.set(i64::from(leading));
    }

    pub(crate) fn status_written(&self, kind: &'static str) {
        self.status_writes.get_or_create(&ByKind { kind }).inc();
    }

    pub(crate) fn status_failed(&self, kind: &'static str) {
        self.status_failures.get_or_create(&ByKind { kind }).inc();
    }

    pub(crate) fn status_gone(&self, kind: &'static str) {
        self.status_gone.get_or_create(&ByKind { kind }).inc();
    }

    /// What is wrong with the configuration at the moment.
    pub(crate) fn configured(&self, config: &Config) {
        self.problems.set(i64::try_from(config.problems.len()).unwrap_or(i64::MAX));
        let mut counts: BTreeMap<ByCondition, i64> = BTreeMap::new();
        for (kind, condition) in config.statuses.conditions().filter(|(_, condition)| condition.is_bad()) {
            *counts.entry(ByCondition { kind, condition: condition.kind, reason: condition.reason }).or_default() += 1;
        }
        self.conditions.clear();
        for (label, count) in counts {
            self.conditions.get_or_create(&label).set(count);
        }
    }

    /// A backend is gone.
    pub(crate) fn forget(&self, name: &str) {
        let label = ByBackend { backend: name.to_owned() };
        self.drift.remove(&label);
        self.candidate_share.remove(&label);
        self.replicas(name, None);
    }

    pub(crate) fn pushed(&self) {
        self.pushes.inc();
    }

    pub(crate) fn answered(&self, answers: &Answers) {
        self.acks.inc_by(answers.acks);
        self.nacks.inc_by(answers.nacks);
        answers.settled.iter().for_each(|settled| self.propagation_seconds.observe(settled.as_secs_f64()));
    }

    pub(crate) fn proxies(&self, connected: usize) {
        self.proxies.set(i64::try_from(connected).unwrap_or(i64::MAX));
    }

    pub(crate) fn scraped(&self, outcome: ScrapeOutcome) {
        let outcome = match outcome {
            ScrapeOutcome::Ok => "ok",
            ScrapeOutcome::Error => "error",
        };
        self.scrapes.get_or_create(&ByOutcome { outcome }).inc();
    }

    pub(crate) fn rows(&self, fate: RowFate, rows: u64) {
        let fate = match fate {
            RowFate::Written => "written",
            RowFate::Dropped => "dropped",
        };
        self.rows.get_or_create(&ByFate { fate }).inc_by(rows);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_names_what_was_counted() {
        let metrics = Metrics::default();
        metrics.ticked(3.0);
        metrics.scraped(ScrapeOutcome::Error);
        metrics.rows(RowFate::Dropped, 7);
        let settled = vec![std::time::Duration::from_millis(3)];
        metrics.answered(&Answers { acks: 2, nacks: 1, settled });
        let text = metrics.encode();
        for line in [
            "trimtab_controller_tick_seconds_count 1",
            "trimtab_controller_scrapes_total{outcome=\"error\"} 1",
            "trimtab_controller_recording_rows_total{fate=\"dropped\"} 7",
            "trimtab_controller_nacks_total 1",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
