//! What the simulator says of a shape before it is measured: the same pods, requests and load in simulated time, behind Trimtab's own code and
//! behind the algorithm that each rival has. What the simulator knows nothing of (network, routers, a busy machine) enters as one
//! number: the median time that measured answers spent outside of pods.

use std::time::Duration;

use anyhow::Context;
use serde::Serialize;
use trimtab_model::Policy;
use trimtab_proxy::config::{Algorithm, RuleTerms};
use trimtab_training::fleet::{Fleet, FleetOptions};
use trimtab_training::scenario::Scenario;
use trimtab_training::simulator::{Summary, simulate};

use super::rival::Rival;
use super::statistics::{Estimate, expected, geometric_mean};

/// The simulator's figures for a rival.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Prediction {
    /// Geometric mean over simulated runs.
    pub latency_ms_p50: f64,
    /// As above.
    pub latency_ms_p99: f64,
    /// Trimtab's p50 over this rival's, with where the mean of as many repetitions as were measured lies with 95 % confidence.
    pub latency_p50_ratio: Option<Estimate>,
    /// The same of p99.
    pub latency_p99_ratio: Option<Estimate>,
}

/// Runs that a prediction is the mean of. Each is as long as a measured one.
pub const RUNS: u64 = 60;

/// Seeds that nothing was trained or tuned on.
const FIRST_SEED: u64 = 1_000_000;

/// Predicts `rivals` in `twin`, one after the other, for so many measured `repetitions`; `outside` is what answers take
/// outside of pods.
///
/// # Errors
/// If the scenario or the policy that ships does not hold.
pub fn predict(
    twin: &Scenario,
    rivals: &[Rival],
    outside: Duration,
    repetitions: usize,
) -> anyhow::Result<Vec<Prediction>> {
    let ours = runs(twin, Rival::Trimtab, outside)?;
    rivals.iter().map(|rival| summed_up(&ours, &runs(twin, *rival, outside)?, *rival, repetitions)).collect()
}

fn summed_up(ours: &[Summary], theirs: &[Summary], rival: Rival, repetitions: usize) -> anyhow::Result<Prediction> {
    let mean = |value: fn(&Summary) -> f64| {
        let values: Vec<f64> = theirs.iter().map(value).collect();
        geometric_mean(&values, 0).map(|estimate| estimate.mean).context("a simulated run answered nothing")
    };
    let ratio = |value: fn(&Summary) -> f64| {
        let ratios: Vec<f64> = ours.iter().zip(theirs).map(|(ours, theirs)| value(ours) / value(theirs)).collect();
        expected(&ratios, repetitions).filter(|_| rival != Rival::Trimtab)
    };
    Ok(Prediction {
        latency_ms_p50: mean(|run| run.latency_ms_p50)?,
        latency_ms_p99: mean(|run| run.latency_ms_p99)?,
        latency_p50_ratio: ratio(|run| run.latency_ms_p50),
        latency_p99_ratio: ratio(|run| run.latency_ms_p99),
    })
}

fn runs(twin: &Scenario, rival: Rival, outside: Duration) -> anyhow::Result<Vec<Summary>> {
    let options = options(rival);
    let policy = Policy::shipped().context("the policy that ships")?;
    let one_way_ns = u64::try_from(outside.as_nanos() / 2).unwrap_or(u64::MAX);
    let run = |seed| {
        let scenario = Scenario { seed, one_way_ns, ..twin.clone() };
        Ok(simulate(&scenario, &mut Fleet::with_policy(&scenario, &options, policy.clone()))?)
    };
    (FIRST_SEED..FIRST_SEED + RUNS).map(run).collect()
}

/// The rival in the simulator. Its passive health checks are left out: nothing fails in these shapes.
fn options(rival: Rival) -> FleetOptions {
    match rival {
        Rival::Trimtab | Rival::TrimtabUnrecorded => FleetOptions::TRIMTAB,
        Rival::TrimtabNoClasses => FleetOptions {
            terms: RuleTerms { class_costs: false, class_shedding: false, ..RuleTerms::ALL },
            ..FleetOptions::TRIMTAB
        },
        Rival::NginxRoundRobin => FleetOptions::baseline(Algorithm::RoundRobin),
        // The connections that they count are requests: each has its own of the pool.
        Rival::NginxLeastConn | Rival::Haproxy | Rival::Envoy => FleetOptions::baseline(Algorithm::LeastRequest),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::shape::Shape;

    #[test]
    fn knowing_what_requests_cost_is_predicted_to_pay_where_pods_serve_one_at_a_time() {
        let twin = Shape::ClassesSingle.plan(1, Duration::from_secs(4), 1).twin.unwrap();
        let rivals = [Rival::Trimtab, Rival::TrimtabNoClasses, Rival::Haproxy];
        let [ours, before, haproxy] = predict(&twin, &rivals, Duration::from_millis(1), 2).unwrap().try_into().unwrap();
        assert_eq!(ours.latency_p99_ratio, None);
        for other in [before, haproxy] {
            let ratio = other.latency_p99_ratio.unwrap();
            assert!(ratio.mean < 0.95 && ratio.low < ratio.mean && ratio.mean < ratio.high, "{other:?}");
            assert!(other.latency_ms_p99 > ours.latency_ms_p99, "{other:?}");
        }
    }
}
