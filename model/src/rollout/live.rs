//! One tick of a backend with a rollout in it: `decide`, by whoever's turn it is.

use rand::Rng;
use serde_json::Value;

use super::arms::{Arm, Arms};
use super::event::{Choice, What};
use super::outcome::Interval;
use super::settings::RolloutSettings;
use super::trial::{Fitness, Rollout, Step};
use crate::decide::decide;
use crate::decision::{Decision, GuardAction, Mode, Reason};
use crate::features::Features;
use crate::guard::GuardConfig;
use crate::memory::Memory;
use crate::observation::Observation;
use crate::policy::{Policy, Strangeness};
use crate::service::complete;

/// The policies that may decide.
#[derive(Debug, Clone, Copy)]
pub struct Policies<'p> {
    /// What is in force; where that is the fallback, anything.
    pub in_force: &'p Policy,
    /// The candidate; `None` where there is none, or it is not at hand yet.
    pub candidate: Option<&'p Policy>,
}

/// A backend's rollout with what its arms remember.
#[derive(Debug, Clone)]
pub struct Live {
    /// Where it stands.
    pub rollout: Rollout,
    arms: Arms,
}

/// What came of a tick.
#[derive(Debug, Clone, PartialEq)]
pub struct Ticked {
    /// What was decided.
    pub decision: Decision,
    /// By whom.
    pub arm: Arm,
    /// Whether what was applied before is to be applied again in the middle of the tick.
    pub brief: bool,
    /// What should be written into the log, with its evidence.
    pub ask: Option<(What, Value)>,
}

impl Live {
    /// Of a backend that was never seen.
    pub fn new(settings: RolloutSettings) -> Self {
        Self { rollout: Rollout::new(settings), arms: Arms::default() }
    }

    /// One tick. `outcome` is what came of the interval that ended, `memory` what the last tick left, and it leaves the next.
    #[expect(clippy::too_many_arguments, reason = "they are what `decide` takes, and what came of the interval")]
    pub fn tick(
        &mut self,
        observation: &Observation,
        outcome: &Interval,
        memory: &mut Memory,
        policies: Policies<'_>,
        guard: &GuardConfig,
        mode: Mode,
        rng: &mut impl Rng,
    ) -> Ticked {
        let candidate = policies.candidate.filter(|_| mode == Mode::Active);
        let looked_at = candidate.filter(|_| self.rollout.in_shadow());
        let fitness = looked_at.map(|policy| fitness(policy, observation, memory, guard, rng));
        let Step { arm, visit, brief, ask } =
            self.rollout.tick(outcome, fitness, candidate.is_some(), observation.at_ms, rng);
        let prior = Policy::prior_only();
        let policy = match arm {
            Arm::Incumbent => policies.in_force,
            Arm::Candidate => candidate.unwrap_or(policies.in_force),
            Arm::Fallback => &prior,
        };
        self.arms.enter(arm, policy.version(), memory);
        let (mut decision, next) = decide(observation, memory, policy, guard, mode, rng);
        *memory = next;
        if let Some((reason, detail)) = self.reason(arm, visit) {
            decision.guard.insert(0, GuardAction { reason, endpoint: None, detail });
        }
        Ticked { decision, arm, brief, ask }
    }

    /// Why the fallback decides, if it does.
    fn reason(&self, arm: Arm, visit: bool) -> Option<(Reason, String)> {
        let state = self.rollout.state();
        match arm {
            Arm::Incumbent | Arm::Candidate => None,
            Arm::Fallback if visit => {
                let detail = format!("the capacity prior takes a turn, to compare {} with it", self.rollout.in_force());
                Some((Reason::Switchback, detail))
            }
            Arm::Fallback if state.pinned == Some(Choice::Fallback) => {
                Some((Reason::Pinned, "the capacity prior is pinned".to_owned()))
            }
            Arm::Fallback => {
                let verdict = self.rollout.progress().verdict;
                Some((Reason::RolledBack, format!("what was in force was rolled back: {verdict}")))
            }
        }
    }
}

/// How a policy would do on this observation.
fn fitness(
    policy: &Policy,
    observation: &Observation,
    memory: &Memory,
    guard: &GuardConfig,
    rng: &mut impl Rng,
) -> Fitness {
    let observation = &*complete(observation, policy.service()).observation;
    let proposal = match policy.propose(&Features::of(observation, memory), rng) {
        Ok(proposal) if proposal.is_finite() => proposal,
        _ => return Fitness::Fault,
    };
    let settings = guard.settings();
    let far = |strange: &Strangeness| f64::from(strange.distance) > settings.unfamiliar_margin;
    let strange = proposal.strange.iter().flatten().filter(|strange| far(strange)).count();
    let share = strange as f64 / proposal.strange.len().max(1) as f64;
    let unfamiliar =
        proposal.strange_context.is_some_and(|strange| far(&strange)) || share > settings.unfamiliar_share_max;
    if unfamiliar { Fitness::Unfamiliar } else { Fitness::Fit }
}
