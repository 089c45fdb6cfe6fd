//! Where all endpoints of a backend lie at one tick: with thousands of them a chart shows this, and lines only for the few that matter.

use std::collections::BTreeMap;

use trimtab_controller::view::EndpointView;

use super::SpreadAnswer;
use super::series::{Packed, number};

/// A number of an endpoint, if it has it.
type Quantity = (&'static str, fn(&EndpointView) -> Option<f64>);

/// The quantities that are charted by endpoint.
const QUANTITIES: [Quantity; 5] = [
    ("weight_applied", |endpoint| Some(endpoint.weight_applied)),
    ("in_flight", |endpoint| Some(endpoint.in_flight)),
    ("latency_ms_p99", |endpoint| endpoint.latency_ms_p99),
    ("error", |endpoint| Some(endpoint.error)),
    ("capacity_rps", |endpoint| endpoint.capacity_rps),
];

/// The 5th percentile, the median and the 95th percentile over the endpoints, for each of the charted quantities.
#[derive(Debug, Clone, Copy)]
pub struct Spread([[Packed; 3]; QUANTITIES.len()]);

impl Spread {
    /// The spread of `endpoints`; those without a number do not count.
    pub fn new(endpoints: &[EndpointView]) -> Self {
        Self(QUANTITIES.map(|(_, value)| quantiles(endpoints.iter().filter_map(value).collect())))
    }
}

/// The spreads of several rows, by quantity.
pub fn by_field<'a>(rows: impl Iterator<Item = &'a Spread>) -> BTreeMap<&'static str, SpreadAnswer> {
    let mut answers: BTreeMap<&str, SpreadAnswer> = BTreeMap::new();
    for Spread(row) in rows {
        for ((name, _), [low, middle, high]) in QUANTITIES.iter().zip(row) {
            let answer = answers.entry(name).or_default();
            answer.low.push(number(*low));
            answer.middle.push(number(*middle));
            answer.high.push(number(*high));
        }
    }
    answers
}

/// Nearest-rank percentiles 5, 50 and 95; NaN without any value.
fn quantiles(mut values: Vec<f64>) -> [Packed; 3] {
    values.sort_unstable_by(f64::total_cmp);
    let last = values.len().saturating_sub(1) as f64;
    [0.05, 0.5, 0.95]
        .map(|share| values.get((share * last).round() as usize).map_or(Packed::NAN, |&value| value as Packed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nine_of_ten_lie_between_the_outer_quantiles() {
        assert_eq!(quantiles((0..=100).rev().map(f64::from).collect()), [5.0, 50.0, 95.0]);
        assert_eq!(quantiles(vec![7.0]), [7.0; 3]);
        assert!(quantiles(vec![]).iter().all(|value| value.is_nan()));
    }
}
