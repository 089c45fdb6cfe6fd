//! What the guard remembers from tick to tick: how long the input has looked unfamiliar, and how the policy fares
//! against its fallback.
//!
//! # Worse than the fallback
//!
//! Each tick's outcome is credited to whatever was applied while it came about: the policy, where it really differed
//! from the prior, or the prior. The two running averages are compared, and when the policy's is worse by more than
//! chance and more than a trifle, the prior is applied for a while, twice as long each time.
//!
//! The fallback's average only fills when the fallback is in force: in the modes `Off` and `Shadow`, after another
//! reason of the guard, and during the time that this one holds. Old evidence fades, so that the two are compared over
//! the same few minutes; but nothing here assigns time to them by lot. In a long stretch of `Active` there is no
//! fallback to compare with and this reason stays silent: the live switchback is what will then feed the comparison.

use crate::numbers::{gain, sane};
use crate::observation::Observation;

/// Ticks of unfamiliar input until the fallback: one odd tick is noise, two are not.
const UNFAMILIAR_TICKS: u32 = 2;
/// Ticks of familiar input until the policy is heard again.
const FAMILIAR_TICKS: u32 = 10;

/// Time constant of the drift: a service that has changed stays so for longer than a burst or a deploy takes.
const DRIFT_S: f64 = 180.0;

/// Time constant at which evidence fades: load and neighbours change over minutes.
const EVIDENCE_S: f64 = 300.0;
/// Seconds of evidence needed on both sides.
const EVIDENCE_MIN_S: f64 = 30.0;
/// Queues live for seconds, so that ticks closer than this tell the same thing twice.
const INDEPENDENT_S: f64 = 5.0;
/// Standard errors of difference.
const ERRORS: f64 = 3.0;
/// Smallest difference of log cost that matters: 10 % of latency.
const TRIFLE: f64 = 0.095;
/// What a share of errors costs in log latency: 1 % of errors like 10 % of latency.
const ERROR_COST: f64 = 10.0;
/// How long the fallback holds the first time, and at most.
const HOLD_S: (f64, f64) = (60.0, 3600.0);

/// Who was in force during an interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum InForce {
    /// The prior.
    Fallback,
    /// The policy, and it differed.
    Policy,
    /// Nobody to credit: first tick, or a policy that agrees with the prior.
    #[default]
    Neither,
}

/// The guard's own memory.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Watch {
    unfamiliar_ticks: u32,
    familiar_ticks: u32,
    fallen_back: bool,
    /// How far outside of what the policy was trained on its input has lain, smoothed; and whether that was too far.
    drift: f64,
    drifted: bool,
    in_force: InForce,
    policy: Outcomes,
    fallback: Outcomes,
    /// Seconds for which the fallback still holds, and held last.
    hold_s: f64,
    held_s: f64,
}

/// Fading mean and variance of log cost.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct Outcomes {
    seconds: f64,
    mean: f64,
    square: f64,
}

impl Watch {
    /// Takes in the outcome of the interval that ended.
    pub(crate) fn fold(&mut self, observation: &Observation, dt_s: f64) {
        self.hold_s = (self.hold_s - dt_s).max(0.0);
        self.policy.fade(dt_s);
        self.fallback.fade(dt_s);
        if let Some(cost) = cost(observation) {
            match self.in_force {
                InForce::Policy => self.policy.add(cost, dt_s),
                InForce::Fallback => self.fallback.add(cost, dt_s),
                InForce::Neither => {}
            }
        }
        let difference = self.policy.mean - self.fallback.mean;
        let error = (self.policy.error() + self.fallback.error()).sqrt();
        let enough = self.policy.seconds >= EVIDENCE_MIN_S && self.fallback.seconds >= EVIDENCE_MIN_S;
        if enough && difference > TRIFLE && difference > ERRORS * error {
            self.held_s = (2.0 * self.held_s).clamp(HOLD_S.0, HOLD_S.1);
            self.hold_s = self.held_s;
            // After the hold the policy gets a fresh hearing.
            self.policy = Outcomes::default();
        }
    }

    /// The same, after others have decided: what came of that is not credited to anybody.
    pub(crate) fn resumed(self) -> Self {
        Self { in_force: InForce::Neither, ..self }
    }

    /// Notes who is in force from now on.
    pub(crate) fn put_in_force(&mut self, who: InForce) {
        self.in_force = who;
    }

    /// Whether to fall back for unfamiliar input, after a tick with or without it.
    pub(super) fn unfamiliar(&mut self, now: bool) -> bool {
        if now {
            self.unfamiliar_ticks = self.unfamiliar_ticks.saturating_add(1);
            self.familiar_ticks = 0;
        } else {
            self.familiar_ticks = self.familiar_ticks.saturating_add(1);
            self.unfamiliar_ticks = 0;
        }
        self.fallen_back = if self.fallen_back {
            self.familiar_ticks < FAMILIAR_TICKS
        } else {
            self.unfamiliar_ticks >= UNFAMILIAR_TICKS
        };
        self.fallen_back
    }

    /// Takes in how far outside the input lay in this tick, in widths of the range that training saw.
    pub(crate) fn drift(&mut self, distance: f64, dt_s: f64, drift_max: f64) {
        self.drift += gain(dt_s, DRIFT_S) * (distance - self.drift);
        // Whoever has drifted is back when well inside again.
        self.drifted = self.drift > if self.drifted { 0.5 * drift_max } else { drift_max };
    }

    /// How far outside it has lain lately.
    pub(crate) fn drift_now(&self) -> f64 {
        self.drift
    }

    /// Whether that is too far.
    pub(super) fn drifted(&self) -> bool {
        self.drifted
    }

    /// Seconds for which the fallback still holds because it fares better.
    pub(super) fn worse_for_s(&self) -> Option<f64> {
        (self.hold_s > 0.0).then_some(self.hold_s)
    }
}

impl Outcomes {
    fn fade(&mut self, dt_s: f64) {
        self.seconds *= 1.0 - gain(dt_s, EVIDENCE_S);
    }

    fn add(&mut self, cost: f64, dt_s: f64) {
        self.seconds += dt_s;
        let share = dt_s / self.seconds;
        self.mean += share * (cost - self.mean);
        self.square += share * (cost * cost - self.square);
    }

    /// Squared standard error of the mean.
    fn error(&self) -> f64 {
        let variance = (self.square - self.mean * self.mean).max(0.0);
        variance / (self.seconds / INDEPENDENT_S).max(1.0)
    }
}

/// Log cost of an interval: the requests' mean over endpoints of p99, and errors; `None` without answers.
fn cost(observation: &Observation) -> Option<f64> {
    let (mut answers, mut failed, mut timed, mut latency_ms) = (0.0, 0.0, 0.0, 0.0);
    for reported in observation.endpoints.iter().filter_map(|endpoint| endpoint.reported) {
        let bad = reported.errors as f64 + reported.failures as f64;
        answers += reported.successes as f64 + bad;
        failed += bad;
        if let Some(p99_ms) = reported.latency_ms_p99.and_then(sane) {
            timed += reported.successes as f64;
            latency_ms += reported.successes as f64 * p99_ms;
        }
    }
    (timed > 0.0).then(|| (latency_ms / timed).max(0.01).ln() + ERROR_COST * failed / answers)
}
