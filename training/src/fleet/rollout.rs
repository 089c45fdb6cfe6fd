//! A rollout in a simulated run: the production state machine, with a log that is a list.

use std::collections::BTreeMap;

use rand::rngs::SmallRng;
use trimtab_model::{
    GuardConfig, Memory, Policy,
    decision::{Decision, Mode},
    observation::Observation,
    rollout::{Arm, BackendState, Choice, Event, Interval, Live, Policies, RolloutSettings, Ticked, What},
};
use trimtab_proxy::{api::v1, sketch::Sketch};

use super::proxy::BACKEND;
use crate::simulator::time::{MILLISECOND, SECOND};

/// What is rolled out in a run.
#[derive(Debug, Clone)]
pub struct Rollouts {
    /// What is in force at first.
    pub builtin: Policy,
    /// Versions that may be tried, by name.
    pub versions: BTreeMap<String, Policy>,
    /// What the log holds at first.
    pub log: Vec<Event>,
    /// How careful it is.
    pub settings: RolloutSettings,
}

/// The rollout as the run goes on.
#[derive(Debug, Clone)]
pub(super) struct Rolling {
    rollouts: Rollouts,
    live: Live,
    reported: Reported,
    arms: Vec<(u64, Arm)>,
    /// Whether the last decision stands for half a tick only.
    brief: bool,
}

/// What proxies reported since the last tick, all together.
#[derive(Debug, Clone, Default)]
struct Reported {
    sum: Interval,
    latency: Sketch,
    within_objective: u64,
}

impl Rolling {
    pub fn new(rollouts: Rollouts) -> Self {
        let live = Live::new(rollouts.settings);
        Self { rollouts, live, reported: Reported::default(), arms: Vec::new(), brief: false }
    }

    /// Takes in a proxy's report that covers a tick.
    pub fn report(&mut self, report: &v1::BackendLoad) {
        let sum = &mut self.reported.sum;
        sum.shed += (report.shed + report.unroutable) as f64;
        self.reported.within_objective += report.within_objective;
        for load in &report.endpoints {
            sum.failed += (load.errors + load.failures) as f64;
            sum.answers += (load.successes + load.errors + load.failures) as f64;
            sum.in_flight += f64::from(load.in_flight_mean);
        }
        if let Some(latency) = &report.latency {
            // A proxy's own sketch always holds.
            let _ = self.reported.latency.merge_wire(latency);
        }
    }

    /// Decides for a tick.
    pub fn decide(
        &mut self,
        observation: &Observation,
        memory: &mut Memory,
        guard: &GuardConfig,
        rng: &mut SmallRng,
    ) -> Decision {
        let outcome = self.reported.take(observation.interval_s);
        self.live.rollout.follow(&BackendState::of(BACKEND, &self.rollouts.log));
        let version = |name: &str| self.rollouts.versions.get(name);
        let in_force = match self.live.rollout.in_force() {
            Choice::Version(name) => version(name).unwrap_or(&self.rollouts.builtin),
            Choice::Builtin | Choice::Fallback => &self.rollouts.builtin,
        };
        let policies = Policies { in_force, candidate: self.live.rollout.candidate().and_then(version) };
        let Ticked { decision, arm, brief, ask } =
            self.live.tick(observation, &outcome, memory, policies, guard, Mode::Active, rng);
        self.brief = brief;
        self.arms.push((observation.at_ms as u64 * MILLISECOND, arm));
        if let Some((what, evidence)) = ask {
            let event = Event::new(observation.at_ms, "controller simulation", Some(BACKEND), what);
            if BackendState::check_all(&self.rollouts.log, &event, false, false).is_ok() {
                self.rollouts.log.push(event.resting_on(evidence));
            }
        }
        decision
    }

    /// Whether what was decided last stands for half a tick only.
    pub fn is_brief(&self) -> bool {
        self.brief
    }

    /// The log so far.
    pub fn log(&self) -> &[Event] {
        &self.rollouts.log
    }

    /// Who decided from when on, tick by tick.
    pub fn arms(&self) -> &[(u64, Arm)] {
        &self.arms
    }
}

impl Reported {
    fn take(&mut self, seconds: f64) -> Interval {
        let Self { sum, latency, within_objective } = std::mem::take(self);
        Interval {
            seconds,
            within_objective: Some(within_objective as f64),
            latency_ms_p50: latency.quantile_ms(0.5),
            latency_ms_p99: latency.quantile_ms(sum.tail_quantile()),
            ..sum
        }
    }
}

impl Rollouts {
    /// Has `version` tried from `at_s` on, with nothing in force before but `builtin`.
    pub fn trying(builtin: Policy, version: &str, policy: Policy, at_s: f64) -> Self {
        let proposed = What::Proposed { version: version.to_owned() };
        Self {
            builtin,
            versions: BTreeMap::from([(version.to_owned(), policy.named(version))]),
            log: vec![Event::new((at_s * 1e3) as i64, "a test", None, proposed)],
            settings: RolloutSettings { shadow_s: 10.0, ..RolloutSettings::default() },
        }
    }
}

/// Time of an event, in simulated nanoseconds.
pub fn at_ns(event: &Event) -> u64 {
    event.at_ms as u64 * (SECOND / 1_000)
}
