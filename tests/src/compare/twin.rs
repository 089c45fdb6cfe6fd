//! Shapes that exist twice: as a scenario of the simulator, and on real sockets as a plan made from it. One definition, so that what is
//! predicted and what is measured are the same pods, requests and load.

use std::time::Duration;

use trimtab::demo::arrivals::RateProfile;
use trimtab::demo::kinds::{Asks, Kind, Share};
use trimtab::demo::pod::PodSpec;
use trimtab::demo::service_time::ServiceTime;
use trimtab_training::scenario::Scenario;
use trimtab_training::simulator::endpoint::EndpointSpec;
use trimtab_training::simulator::time::{MILLISECOND, SECOND};
use trimtab_training::simulator::work::{Class, Distribution};

use super::shape::Plan;

/// Trimtab finds out by itself which kinds of requests there are and what they cost; so much time it has for that before anything counts.
pub const WARM_UP: Duration = Duration::from_secs(20);

/// Longer than any router lets a request wait here: a simulated client does not give up.
const PATIENCE: Duration = Duration::from_secs(30);

/// What to play on real sockets for `counted`. The scenario must be of classes with log-normal work, and nothing may happen in it.
pub fn plan(mut scenario: Scenario, counted: Duration) -> Plan {
    scenario.measured_ns = WARM_UP.as_secs() * SECOND..(WARM_UP + counted).as_secs() * SECOND;
    let pods = (0..scenario.endpoints.len()).map(|number| pod(&scenario, number)).collect();
    let share = |(number, class): (usize, &Class)| Share { path: path(number), share: class.share };
    Plan {
        pods,
        acts: Vec::new(),
        profile: RateProfile::constant(scenario.rate_rps, WARM_UP + counted),
        warm_up: WARM_UP,
        counted,
        proxies: scenario.shares.len(),
        seed: scenario.seed,
        asks: Asks::Kinds(scenario.classes.iter().enumerate().map(share).collect()),
        objective: Duration::from_nanos(scenario.objective_ns),
        patience: PATIENCE,
        twin: Some(scenario),
    }
}

/// What the paths of a class's requests begin with.
pub fn path(class: usize) -> String {
    format!("/c{class}/users/")
}

fn pod(scenario: &Scenario, number: usize) -> PodSpec {
    let EndpointSpec { slots, room, speed, .. } = scenario.endpoints[number];
    let kind = |(class, of): (usize, &Class)| {
        let factor = scenario.factor(class as u8, number as u32);
        Kind { path: path(class), service: service(of, factor) }
    };
    PodSpec {
        name: format!("pod-{number}"),
        workers: slots as usize,
        queue_limit: room.saturating_sub(slots) as usize,
        kinds: scenario.classes.iter().enumerate().map(kind).collect(),
        speed,
        seed: scenario.seed ^ ((number as u64) << 32),
        ..PodSpec::default()
    }
}

fn service(class: &Class, factor: f64) -> ServiceTime {
    let ms_mean = class.mean_ns * factor / MILLISECOND as f64;
    match class.distribution {
        Distribution::LogNormal { cv } => ServiceTime::Lognormal { ms_mean, sigma: cv.mul_add(cv, 1.0).ln().sqrt() },
        // Pods draw from no recorded distribution; one with the same mean and spread stands in.
        Distribution::Recorded(quantiles) => {
            ServiceTime::Lognormal { ms_mean, sigma: quantiles.second_moment().max(1.0).ln().sqrt() }
        }
        Distribution::Exponential => ServiceTime::Exponential { ms_mean },
        Distribution::Constant => ServiceTime::Constant { ms_mean },
        Distribution::Bimodal { heavy_share, ratio } => {
            let light = ms_mean / (1.0 - heavy_share + heavy_share * ratio);
            ServiceTime::Bimodal {
                cheap_ms_mean: light,
                expensive_ms_mean: light * ratio,
                expensive_share: heavy_share,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use trimtab_training::scenario::{class_affinity, request_classes};

    #[test]
    fn a_plan_offers_the_load_of_its_twin_to_pods_of_the_same_capacity() {
        for scenario in [request_classes(1, 3, 0.7), class_affinity(1, 1, 0.7)] {
            let plan = plan(scenario.clone(), Duration::from_secs(10));
            let Asks::Kinds(shares) = &plan.asks else { panic!("several kinds") };
            let work_ms = |pod: &PodSpec| -> f64 {
                shares.iter().zip(&pod.kinds).map(|(share, kind)| share.share * kind.service.ms_mean()).sum()
            };
            let rps: f64 = plan.pods.iter().map(|pod| pod.workers as f64 * pod.speed * 1000.0 / work_ms(pod)).sum();
            // Where classes differ by pod, the scenario takes the mean of the work and not of the capacity.
            assert!((scenario.capacity_rps() / rps - 1.0).abs() < 0.03, "{}: {rps}", scenario.name);
            assert_eq!(plan.proxies, scenario.shares.len());
            assert!(plan.pods.iter().all(|pod| pod.workers + pod.queue_limit == 400));
        }
    }
}
