//! The decision loop against a small closed world: pods with slots, unequal speeds, and queues.

use rand::SeedableRng;
use rand::rngs::StdRng;
use trimtab_model::decision::Mode;
use trimtab_model::observation::{EndpointKey, EndpointObservation, Measured, Observation, Reported, Scraped};
use trimtab_model::{GuardConfig, Memory, Policy, decide};

/// A backend of pods that tell busy slots and completions, each working at `speeds[i]` requests a second and slot, with `busy[i]` of 4
/// slots busy.
fn observation(tick: u64, speeds: &[f64], busy: &[f64]) -> Observation {
    let measured = |value| Some(Measured { value, age_s: 0.1 });
    let endpoints = speeds.iter().zip(busy).enumerate().map(|(index, (&speed, &busy))| EndpointObservation {
        key: EndpointKey(index as u64),
        ready: true,
        ready_age_s: Some(1e3),
        restarts: Some(0),
        zone_match: None,
        reported: Some(Reported {
            interval_s: 0.5,
            successes: (speed * busy * 0.5) as u64,
            in_flight_mean: busy,
            ..Reported::default()
        }),
        scraped: Scraped {
            busy: measured(busy),
            worker_limit: measured(4.0),
            completed_rps: measured(speed * busy),
            ..Scraped::default()
        },
    });
    Observation {
        backend: "default/web:80".to_owned(),
        tick,
        at_ms: 500 * tick as i64,
        interval_s: 0.5,
        proxies: 1,
        objective_ms: None,
        endpoints: endpoints.collect(),
    }
}

/// Shares after so many ticks of a constant world.
fn settled(speeds: &[f64], busy: &[f64], ticks: u64) -> Vec<f64> {
    let mut memory = Memory::default();
    let mut rng = StdRng::seed_from_u64(1);
    let mut applied = Vec::new();
    for tick in 0..ticks {
        let (decision, next) = decide(
            &observation(tick, speeds, busy),
            &memory,
            &Policy::prior_only(),
            &GuardConfig::default(),
            Mode::Active,
            &mut rng,
        );
        memory = next;
        applied = decision.applied;
    }
    applied
}

#[test]
fn weights_follow_the_speed_of_a_slot_and_not_how_many_are_busy() {
    let shares = settled(&[10.0, 20.0, 40.0, 40.0], &[3.9, 3.0, 3.5, 1.5], 40);
    for (index, expected) in [1.0 / 11.0, 2.0 / 11.0, 4.0 / 11.0, 4.0 / 11.0].into_iter().enumerate() {
        assert!((shares[index] / expected - 1.0).abs() < 0.1, "{shares:?}");
    }
}
