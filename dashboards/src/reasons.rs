//! The guard's reasons in words. The match is exhaustive, so a new reason does not compile before it is explained.

use serde::Serialize;
use trimtab_controller::view::Reason;

/// Every reason, in the order in which the stream's bit masks number them.
pub const ALL: [Reason; 16] = [
    Reason::ModeOff,
    Reason::ModeShadow,
    Reason::ShareFloor,
    Reason::ShareCeiling,
    Reason::StepLimit,
    Reason::StaleMetrics,
    Reason::MissingMetrics,
    Reason::PanicThreshold,
    Reason::SlowStart,
    Reason::UnfamiliarInput,
    Reason::PolicyFault,
    Reason::WorseThanFallback,
    Reason::Switchback,
    Reason::RolledBack,
    Reason::Pinned,
    Reason::StaleFacts,
];

/// How much a person should care.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Weight {
    /// Set by the operator, or normal operation.
    Information,
    /// The guard held the policy back.
    Notice,
    /// Something is missing or broken.
    Warning,
}

/// A reason as the page shows it.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Explained {
    /// Its name, as in decisions, metrics and recordings.
    pub name: Reason,
    /// How much it matters.
    pub weight: Weight,
    /// What it means and what happens then.
    pub meaning: &'static str,
}

/// All reasons with their explanations.
pub fn explained() -> impl Iterator<Item = Explained> {
    ALL.into_iter().map(|name| {
        let (weight, meaning) = meaning(name);
        Explained { name, weight, meaning }
    })
}

/// The bit of a reason in the stream's masks.
pub fn bit(reason: Reason) -> u16 {
    1 << match reason {
        Reason::ModeOff => 0,
        Reason::ModeShadow => 1,
        Reason::ShareFloor => 2,
        Reason::ShareCeiling => 3,
        Reason::StepLimit => 4,
        Reason::StaleMetrics => 5,
        Reason::MissingMetrics => 6,
        Reason::PanicThreshold => 7,
        Reason::SlowStart => 8,
        Reason::UnfamiliarInput => 9,
        Reason::PolicyFault => 10,
        Reason::WorseThanFallback => 11,
        Reason::Switchback => 12,
        Reason::RolledBack => 13,
        Reason::Pinned => 14,
        Reason::StaleFacts => 15,
    }
}

fn meaning(reason: Reason) -> (Weight, &'static str) {
    use Weight::{Information, Notice, Warning};
    match reason {
        Reason::ModeOff => {
            (Information, "The policy is switched off for this backend; the fallback's weights are applied.")
        }
        Reason::ModeShadow => {
            (Information, "The policy decides and is recorded, but only the fallback's weights are applied.")
        }
        Reason::ShareFloor => (
            Notice,
            "The policy wanted less than the smallest share an endpoint may have, so the share was raised to it.",
        ),
        Reason::ShareCeiling => (
            Notice,
            "The policy wanted more than the largest share an endpoint may have, so the share was lowered to it.",
        ),
        Reason::StepLimit => {
            (Notice, "The weight wanted to move further than one tick allows; it goes there in several steps.")
        }
        Reason::StaleMetrics => {
            (Warning, "The endpoint's metrics are older than allowed, so its prior counts and not the policy.")
        }
        Reason::MissingMetrics => (Warning, "There are no metrics of this endpoint at all, so its prior counts."),
        Reason::PanicThreshold => {
            (Warning, "Too few endpoints are healthy to carry the traffic, so all of them get some again.")
        }
        Reason::SlowStart => (Information, "The endpoint is new; its share ramps up while it warms."),
        Reason::UnfamiliarInput => {
            (Warning, "The measurements are unlike anything the policy was trained on, so the fallback is applied.")
        }
        Reason::PolicyFault => {
            (Warning, "The policy failed or its output was not a number, so the fallback is applied.")
        }
        Reason::WorseThanFallback => {
            (Warning, "The policy did worse than its fallback lately, so the fallback is applied.")
        }
        Reason::Switchback => {
            (Information, "The fallback takes a short turn, so that what is in force is compared with it.")
        }
        Reason::RolledBack => (
            Warning,
            "The version that was in force was rolled back, so the fallback is in force until another is confirmed.",
        ),
        Reason::Pinned => (Information, "A person has pinned the fallback; it stays in force until it is unpinned."),
        Reason::StaleFacts => (
            Notice,
            "What the policy knows of the service is out of date: slots that were learned live count in its place. Refine it again.",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_follow_the_order_of_the_list() {
        for (index, reason) in ALL.into_iter().enumerate() {
            assert_eq!(bit(reason), 1 << index, "{reason:?}");
        }
    }
}
