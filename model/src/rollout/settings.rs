//! How careful a rollout is.

use serde::Serialize;

use super::event::Stage;

/// What a rollout goes by. The defaults are for production; a test that wants an answer in minutes says other times, not other errors.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct RolloutSettings {
    /// How long a candidate stays in the shadow at least.
    pub shadow_s: f64,
    /// How long a stage may last before the candidate is given up as undecided.
    pub stage_s_max: f64,
    /// Chance that a step up, or a confirmation, is a mistake.
    pub mistake: f64,
    /// Chance that a candidate is rolled back for being worse over all blocks although it is not.
    pub mistake_worse: f64,
    /// How much worse, in log cost, a candidate may at most be to leave the stages of 5 % and 25 %.
    pub margins: [f64; 2],
    /// Share of a minute's requests that a candidate may harm. It decides for a larger part of the time only when it is shown to harm no more than
    /// this over that part.
    pub harm_max: f64,
    /// Blocks of the first looks before the candidate decides 5 % of the time.
    pub peeks_min: u64,
    /// Blocks of a stage before it is left: at 5 % they are the rungs of the ladder.
    pub blocks_min: u64,
    /// Share of the ticks in the shadow in which the candidate may find its input unlike its training.
    pub unfamiliar_share_max: f64,
    /// Whether the fallback takes turns against a version that is in force.
    pub hold_back: bool,
}

impl Default for RolloutSettings {
    fn default() -> Self {
        Self {
            shadow_s: 60.0,
            stage_s_max: 24.0 * 3600.0,
            mistake: 0.05,
            mistake_worse: 0.01,
            // A quarter more latency at 5 % of the time, a tenth at a quarter of it: 1–3 % of everything either way.
            margins: [0.22, 0.095],
            harm_max: 0.01,
            peeks_min: 6,
            blocks_min: 12,
            unfamiliar_share_max: 0.2,
            hold_back: true,
        }
    }
}

impl RolloutSettings {
    /// How much worse a candidate may be to leave this stage; `None` where it must be better.
    pub(super) fn margin(&self, stage: Stage) -> Option<f64> {
        match stage {
            Stage::Five => Some(self.margins[0]),
            Stage::TwentyFive => Some(self.margins[1]),
            Stage::Shadow | Stage::Half | Stage::Full => None,
        }
    }
}
