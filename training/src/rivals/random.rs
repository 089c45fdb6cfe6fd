//! Random: the rule that everything else has to beat, and whose queues have closed forms.

use rand::rngs::SmallRng;

use super::rule::{Rule, View};

/// Any endpoint, all with the same chance.
#[derive(Debug, Clone, Copy)]
pub struct Random;

impl Rule for Random {
    fn pick(&mut self, view: &View<'_>, rng: &mut SmallRng, _probes: &mut Vec<u32>) -> u32 {
        view.any(rng)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rivals::rule::{Members, testing::counts};

    #[test]
    fn every_endpoint_that_is_ready_gets_its_share() {
        let mut members = Members::all(4);
        members.set(1, false);
        let counts = counts(&mut Random, &members, &[0; 4], 30_000);
        assert_eq!(counts[1], 0);
        assert!([0, 2, 3].iter().all(|endpoint| counts[*endpoint].abs_diff(10_000) < 400), "{counts:?}");
    }
}
