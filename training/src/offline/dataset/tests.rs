use proptest::prelude::*;

use super::*;
use crate::{
    fleet::{Fleet, FleetOptions},
    scenario::{Change, Event, Family, Scenario, Setting},
    simulator::{simulate, time::SECOND},
};

fn scenario() -> Scenario {
    Family::Heterogeneous.scenario(&Setting { seconds: Some(10), ..Setting::new(3, 2, 5) })
}

fn fleet(scenario: &Scenario, std: f64) -> Fleet {
    let policy = Policy::shipped().unwrap().with_exploration(std);
    let mut fleet = Fleet::with_policy(scenario, &FleetOptions::TRIMTAB, policy).keeping_ticks().recording(0.0);
    simulate(scenario, &mut fleet).unwrap();
    fleet
}

fn rows() -> Vec<TickRow> {
    fleet(&scenario(), 0.15).into_recording().ticks
}

/// Changes a recording of five endpoints; how its episodes end, and how long they are.
fn check(change: impl FnOnce(&mut Vec<TickRow>), expected: &[(End, usize)]) -> Dataset {
    let mut rows: Vec<TickRow> = rows().into_iter().filter(|row| row.tick <= 20).collect();
    change(&mut rows);
    let dataset = Dataset::new(&rows, None);
    let found: Vec<(End, usize)> = dataset.episodes.iter().map(|episode| (episode.end, episode.steps.len())).collect();
    assert_eq!(found, expected, "{:?}", dataset.skipped);
    dataset
}

const ENDS: End = End::Truncated(Cut::RecordingEnds);

#[test]
fn features_are_those_that_the_policy_saw_bit_by_bit() {
    let mut scenario = scenario();
    scenario.timeline = vec![
        Event { at_ns: 8 * SECOND, change: Change::Ready { endpoint: 2, ready: false } },
        Event { at_ns: 14 * SECOND, change: Change::Ready { endpoint: 2, ready: true } },
    ];
    let fleet = fleet(&scenario, 0.15);
    let seen: Vec<Features> = fleet.ticks().iter().map(|tick| tick.features.clone()).collect();
    let dataset = Dataset::new(&fleet.into_recording().ticks, None);
    let again: Vec<Features> = dataset.steps().map(|step| step.features.clone()).collect();
    assert!(seen.len() > 50 && seen == again, "{} ticks, {} steps", seen.len(), again.len());
}

#[test]
fn actions_are_what_the_policy_added_and_the_noise_is_as_wide_as_it_was() {
    let fleet = fleet(&scenario(), 0.2);
    let adjustments: Vec<Vec<f64>> = fleet.ticks().iter().map(|tick| tick.decision.adjustments.clone()).collect();
    let dataset = Dataset::new(&fleet.into_recording().ticks, None);
    for (step, adjustments) in dataset.steps().zip(adjustments) {
        let mut expected: Vec<f64> = adjustments.iter().map(|adjustment| adjustment.ln()).collect();
        centre(step, &mut expected);
        let right = step.endpoints.iter().zip(&expected).all(|(at, action)| (at.action - action).abs() < 1e-9);
        assert!(right || adjustments.is_empty(), "{expected:?}");
        assert!((step.endpoints.iter().map(|at| at.share).sum::<f64>() - 1.0).abs() < 1e-9);
    }
    let std = dataset.exploration_std.unwrap();
    assert!((std - 0.2).abs() < 0.02, "{std}");
}

#[test]
fn a_recording_without_a_hole_is_one_episode() {
    check(|_| {}, &[(ENDS, 20)]);
}

#[test]
fn holes_cut_and_are_counted() {
    let dataset = check(|rows| rows.retain(|row| row.tick != 8), &[(End::Truncated(Cut::Gap), 7), (ENDS, 12)]);
    assert_eq!((dataset.skipped.ticks, dataset.skipped.gaps), (19, 1));
    let jump = |by_ms: i64| {
        move |rows: &mut Vec<TickRow>| {
            rows.iter_mut().filter(|row| row.tick > 8).for_each(|row| row.at_ms = row.at_ms.saturating_add(by_ms));
        }
    };
    for by_ms in [3_600_000, -3_600_000] {
        check(jump(by_ms), &[(End::Truncated(Cut::ClockJump), 8), (ENDS, 12)]);
    }
    check(
        |rows| rows.retain(|row| row.tick <= 8 || row.endpoint != 2),
        &[(End::Truncated(Cut::EndpointsChanged), 8), (ENDS, 12)],
    );
    check(
        |rows| rows.iter_mut().filter(|row| row.tick > 8).for_each(|row| row.policy_version = "2".to_owned()),
        &[(End::Truncated(Cut::PolicyChanged), 8), (ENDS, 12)],
    );
    // Another controller counts from 1 again.
    check(
        |rows| rows.iter_mut().filter(|row| row.tick > 8).for_each(|row| row.tick -= 8),
        &[(End::Truncated(Cut::PolicyChanged), 8), (ENDS, 12)],
    );
}

#[test]
fn ticks_that_cannot_be_are_left_out_and_counted() {
    for wrong in [f64::NAN, 0.0, -1.0, f64::INFINITY] {
        let dataset = check(
            |rows| rows.iter_mut().filter(|row| row.tick == 8).for_each(|row| row.weight_proposed = wrong),
            &[(End::Truncated(Cut::BrokenTick), 7), (ENDS, 12)],
        );
        assert_eq!(dataset.skipped.broken, 1);
    }
    let twice = |rows: &mut Vec<TickRow>| {
        let index = rows.iter().position(|row| row.tick == 8).unwrap();
        rows.insert(index, rows[index].clone());
    };
    // A tick with one endpoint more is another list, and no tick.
    check(twice, &[(End::Truncated(Cut::EndpointsChanged), 7), (ENDS, 12)]);
}

#[test]
fn a_backend_without_ready_endpoints_terminates() {
    check(
        |rows| rows.iter_mut().filter(|row| row.tick == 8).for_each(|row| row.ready = false),
        &[(End::Terminated, 8), (ENDS, 12)],
    );
}

#[test]
fn nothing_and_a_single_tick_hold_nothing_to_learn_from() {
    let dataset = check(Vec::clear, &[]);
    assert_eq!((dataset.skipped, dataset.exploration_std), (Skipped::default(), None));
    let dataset = check(|rows| rows.retain(|row| row.tick == 3), &[]);
    assert_eq!((dataset.skipped.ticks, dataset.skipped.alone), (1, 1));
}

#[test]
fn without_exploration_no_noise_is_found() {
    let dataset = Dataset::new(&fleet(&scenario(), 0.0).into_recording().ticks, None);
    assert_eq!(dataset.exploration_std, None);
    assert!(dataset.steps().flat_map(|step| &step.endpoints).all(|at| at.action.abs() < 1e-9));
}

#[test]
fn every_backend_has_episodes_of_its_own() {
    let rows = rows();
    let other = rows.iter().map(|row| TickRow { backend: "shop/cart:80".to_owned(), ..row.clone() });
    let both: Vec<TickRow> = rows.iter().cloned().zip(other).flat_map(|(a, b)| [a, b]).collect();
    let (one, two) = (Dataset::new(&rows, None), Dataset::new(&both, None));
    assert_eq!((one.episodes.len(), two.episodes.len()), (1, 2));
    assert_eq!(two.episodes[0].steps, two.episodes[1].steps);
}

#[test]
fn what_is_held_out_is_not_learned_from() {
    let dataset = Dataset::new(&rows(), None);
    let (kept, held) = dataset.split(26, 2);
    let times = |of: &Dataset| of.steps().map(|step| step.at_ms).collect::<Vec<_>>();
    let (kept_times, held_times) = (times(&kept), times(&held));
    assert!(!held_times.is_empty() && kept_times.len() > held_times.len());
    // Nor is what the same noise was drawn for.
    let noise_ms = 500 * EXPLORATION_TICKS as i64;
    let apart = |at_ms: &i64| kept_times.iter().all(|kept_ms| kept_ms > at_ms || at_ms - kept_ms >= noise_ms);
    assert!(held_times.iter().all(apart), "{kept_times:?} {held_times:?}");
    assert!(kept.episodes.iter().chain(&held.episodes).all(|episode| episode.steps.len() >= 2));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn whatever_is_recorded_no_number_is_none(
        at in 0usize..200, field in 0usize..8, value in prop_oneof![Just(f64::NAN), Just(f64::INFINITY), any::<f64>()],
    ) {
        let mut rows = ROWS.with(Clone::clone);
        let index = at % rows.len();
        let row = &mut rows[index];
        match field {
            0 => row.reported_latency_ms_mean = Some(value),
            1 => row.reported_latency_ms_p99 = Some(value),
            2 => row.weight_applied = value,
            3 => row.adjustment = Some(value),
            4 => row.interval_s = value,
            5 => row.objective_ms = Some(value),
            6 => row.log_probability = Some(value),
            _ => row.reported_in_flight_mean = Some(value),
        }
        let dataset = Dataset::new(&rows, None);
        for step in dataset.steps() {
            prop_assert!(step.endpoints.iter().all(|at| at.action.is_finite() && at.proposed.is_finite() && at.share.is_finite()));
            prop_assert!(step.parameters.iter().all(|x| x.is_finite()));
        }
        let outcomes = crate::offline::outcome::Outcomes::new(&dataset);
        for series in &outcomes.series {
            prop_assert!(series.iter().flatten().all(|x| x.is_finite()));
        }
        prop_assert!(crate::offline::outcome::rewards(&dataset).iter().flatten().all(|x| x.is_finite()));
        let basis = crate::offline::basis::Basis::new(&dataset);
        for episode in &dataset.episodes {
            prop_assert!(basis.states(episode).iter().all(|x| x.is_finite()));
        }
    }
}

thread_local! {
    static ROWS: Vec<TickRow> = rows().into_iter().filter(|row| row.tick <= 40).collect();
}
