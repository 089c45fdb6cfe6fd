//! What the guard remembers from tick to tick: how long the input has looked unfamiliar, and how the policy fares against its
//! fallback.

/// Ticks of unfamiliar input until the fallback: one odd tick is noise, two are not.
const UNFAMILIAR_TICKS: u32 = 2;
/// Ticks of familiar input until the policy is heard again.
const FAMILIAR_TICKS: u32 = 10;

/// The guard's own memory.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Watch {
    unfamiliar_ticks: u32,
    familiar_ticks: u32,
    fallen_back: bool,
}

impl Watch {
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

    /// Why the fallback fares better, if it does.
    pub(super) fn worse(&self) -> Option<String> {
        None
    }
}
