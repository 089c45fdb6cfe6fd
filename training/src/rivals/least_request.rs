//! Least request: the fewest of this proxy's own requests in flight, of `choices` endpoints drawn at random or of all.

use rand::rngs::SmallRng;

use super::rule::{Rule, View};

/// Least request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LeastRequest {
    /// Endpoints that are compared; `usize::MAX` scans all.
    pub choices: usize,
}

impl LeastRequest {
    /// Compares all (HAProxy's `leastconn`, nginx's `least_conn`, Envoy's `FULL_SCAN`).
    pub const SCAN: Self = Self { choices: usize::MAX };
    /// Power of two choices (Mitzenmacher 2001; Envoy's default `choice_count`).
    pub const TWO: Self = Self { choices: 2 };
}

impl Rule for LeastRequest {
    fn pick(&mut self, view: &View<'_>, rng: &mut SmallRng, _probes: &mut Vec<u32>) -> u32 {
        view.lowest_of(self.choices, rng, |endpoint| f64::from(view.in_flight[endpoint as usize]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rivals::rule::{Members, testing::counts};

    #[test]
    fn the_scan_takes_the_fewest_and_splits_ties() {
        let counts = counts(&mut LeastRequest { ..LeastRequest::SCAN }, &Members::all(4), &[2, 1, 3, 1], 10_000);
        assert_eq!((counts[0], counts[2]), (0, 0));
        assert!(counts[1].abs_diff(5_000) < 300, "{counts:?}");
    }

    #[test]
    fn two_choices_take_the_fewer_of_every_pair() {
        // Of six pairs the lower of each: the one with most is never picked.
        let counts = counts(&mut LeastRequest { ..LeastRequest::TWO }, &Members::all(4), &[0, 1, 2, 3], 60_000);
        for (endpoint, expected) in [30_000usize, 20_000, 10_000, 0].into_iter().enumerate() {
            assert!(counts[endpoint].abs_diff(expected) < 600, "{counts:?}");
        }
    }
}
