//! Active health checks: endpoints are asked, beside their requests, whether they are well. [`Streak`] is the pure part; `probe` asks once;
//! `checker` is the task that asks all of them in their turns and tells the keeper of the table what changed.

pub mod checker;
mod probe;

use std::num::NonZeroU32;

use crate::config::EndpointKey;

/// What checks have found out anew about one endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// Name of the backend.
    pub backend: String,
    /// Which endpoint.
    pub endpoint: EndpointKey,
    /// What is wrong with it, for people; `None`: it is well.
    pub failing: Option<String>,
}

/// Checks of one endpoint in a row. The first decides at once: nothing is known until then, and a bad endpoint has requests coming.
#[derive(Debug, Default)]
pub struct Streak {
    well: Option<bool>,
    /// Checks in a row that said the opposite.
    against: u32,
}

impl Streak {
    /// Takes in a check. `true` if what is to be believed of the endpoint changed.
    pub fn add(&mut self, passed: bool, unhealthy_threshold: NonZeroU32, healthy_threshold: NonZeroU32) -> bool {
        if self.well == Some(passed) {
            self.against = 0;
            return false;
        }
        self.against += 1;
        let threshold = if passed { healthy_threshold } else { unhealthy_threshold };
        let turns = self.well.is_none() || self.against >= threshold.get();
        if turns {
            *self = Self { well: Some(passed), against: 0 };
        }
        turns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is believed after each of these checks (`+` passed, `-` failed), with thresholds of three and two.
    #[track_caller]
    fn check(checks: &str, believed: &str) {
        let (three, two) = (NonZeroU32::new(3).unwrap(), NonZeroU32::new(2).unwrap());
        let mut streak = Streak::default();
        let mut now = '?';
        let found: String = checks
            .chars()
            .map(|check| {
                if streak.add(check == '+', three, two) {
                    now = check;
                }
                now
            })
            .collect();
        assert_eq!(found, believed, "{checks}");
    }

    #[test]
    fn the_first_check_decides_and_later_ones_in_a_row() {
        check("-", "-");
        check("+---", "+++-");
        check("+--+--", "++++++");
        check("--++", "---+");
        check("-+-+-++", "------+");
    }
}
