//! The log of events as a state: any sequence folds, what was rolled back stays out, pins win.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use proptest::prelude::*;
use trimtab_model::rollout::{BackendState, Choice, Conflict, Event, Stage, What, Why};

const BACKENDS: [&str; 2] = ["default/a:80", "default/b:80"];

fn version() -> impl Strategy<Value = String> {
    prop_oneof![Just("v1".to_owned()), Just("v2".to_owned()), Just("v3".to_owned())]
}

fn choice() -> impl Strategy<Value = Choice> {
    prop_oneof![Just(Choice::Builtin), Just(Choice::Fallback), version().prop_map(Choice::Version)]
}

fn what() -> impl Strategy<Value = What> {
    prop_oneof![
        version().prop_map(|version| What::Proposed { version }),
        (version(), 0..5usize).prop_map(|(version, at)| What::StageEntered { version, stage: Stage::ALL[at] }),
        version().prop_map(|version| What::Confirmed { version }),
        (version(), any::<bool>()).prop_map(|(version, by_hand)| {
            let why = if by_hand { Why::ByHand } else { Why::Latency };
            What::RolledBack { version, why, detail: String::new() }
        }),
        choice().prop_map(|to| What::Pinned { to }),
        Just(What::Unpinned),
    ]
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = (what(), proptest::option::of(0..BACKENDS.len()), any::<i64>());
    let event = event.prop_map(|(what, at, at_ms)| Event::new(at_ms, "x", at.map(|at| BACKENDS[at]), what));
    proptest::collection::vec(event, 0..40)
}

/// What may be applied to traffic in this state.
fn runs(state: &BackendState) -> Vec<String> {
    let on_trial = state.trial.as_ref().filter(|_| state.pinned.is_none()).map(|trial| trial.version.clone());
    state.in_force().version().map(str::to_owned).into_iter().chain(on_trial).collect()
}

proptest! {
    #[test]
    fn whatever_happened_a_version_that_is_out_runs_only_if_a_person_put_it_back(events in events()) {
        for backend in BACKENDS {
            let mut state = BackendState::default();
            for event in events.iter().filter(|event| event.concerns(backend)) {
                state.fold(event);
                for version in runs(&state) {
                    let pinned = state.pinned.as_ref().and_then(Choice::version) == Some(&*version);
                    prop_assert!(pinned || !state.rolled_back.contains_key(&version), "{version} after {event:?}: {state:?}");
                }
            }
            prop_assert_eq!(state, BackendState::of(backend, &events));
        }
    }

    #[test]
    fn a_pin_wins_until_a_person_takes_it_away(before in events(), to in choice(), after in events()) {
        let mut state = BackendState::of(BACKENDS[0], &before);
        state.fold(&Event::new(0, "cli", None, What::Pinned { to: to.clone() }));
        for event in after.iter().filter(|event| event.concerns(BACKENDS[0])) {
            let by_person = match &event.what {
                What::Pinned { .. } | What::Unpinned => true,
                What::RolledBack { why, .. } => *why == Why::ByHand,
                _ => false,
            };
            if by_person {
                break;
            }
            state.fold(event);
            prop_assert_eq!(state.in_force(), &to);
        }
    }

    #[test]
    fn events_survive_being_written(events in events()) {
        for event in events {
            let text = serde_json::to_string(&event).unwrap();
            prop_assert_eq!(serde_json::from_str::<Event>(&text).unwrap(), event);
        }
    }

    #[test]
    fn what_may_come_next_changes_the_state(events in events(), next in what()) {
        let mut state = BackendState::of(BACKENDS[0], &events);
        let before = state.clone();
        let passes = state.check(&next, BACKENDS[0], false, false).is_ok();
        state.fold(&Event::new(1, "x", None, next.clone()));
        if passes && !matches!(next, What::Unpinned | What::Pinned { .. }) {
            prop_assert_ne!(state, before);
        }
    }
}

/// The state after these events of one backend.
fn state(events: &[What]) -> BackendState {
    let events: Vec<Event> = events.iter().map(|what| Event::new(1, "x", None, what.clone())).collect();
    BackendState::of(BACKENDS[0], &events)
}

fn proposed(version: &str) -> What {
    What::Proposed { version: version.to_owned() }
}

fn entered(version: &str, stage: Stage) -> What {
    What::StageEntered { version: version.to_owned(), stage }
}

fn rolled_back(version: &str) -> What {
    What::RolledBack { version: version.to_owned(), why: Why::Latency, detail: "slow".to_owned() }
}

#[test]
fn a_candidate_goes_stage_by_stage_into_force_and_what_fails_there_leaves_the_fallback() {
    let mut way = vec![proposed("v1")];
    for stage in [Stage::Five, Stage::TwentyFive, Stage::Half] {
        let here = state(&way);
        assert_eq!(here.check(&entered("v1", stage), BACKENDS[0], false, false), Ok(()));
        assert_eq!(here.in_force(), &Choice::Builtin);
        way.push(entered("v1", stage));
    }
    way.push(What::Confirmed { version: "v1".to_owned() });
    assert_eq!(state(&way).in_force(), &Choice::Version("v1".to_owned()));
    way.push(rolled_back("v1"));
    assert_eq!(state(&way).in_force(), &Choice::Fallback);
}

#[test]
fn who_comes_too_late_is_told_why() {
    let check = |events: &[What], next: What, wanted: &str| {
        let error = state(events).check(&next, BACKENDS[0], false, false).unwrap_err();
        assert!(error.to_string().contains(wanted), "{error}");
    };
    check(&[proposed("v1")], proposed("v2"), "v1 is being tried");
    check(&[proposed("v1")], entered("v2", Stage::Five), "v2 is not being tried");
    check(&[proposed("v1")], entered("v1", Stage::Half), "cannot enter stage 50%");
    check(&[proposed("v1")], What::Confirmed { version: "v1".to_owned() }, "it is at shadow");
    check(&[proposed("v1"), rolled_back("v1")], proposed("v1"), "v1 was rolled back");
    check(&[proposed("v1"), rolled_back("v1")], rolled_back("v1"), "it is rolled back");
    let again = state(&[proposed("v1"), rolled_back("v1")]).check(&proposed("v1"), BACKENDS[0], true, false);
    assert_eq!(again, Ok(()), "a person may");
}

#[test]
fn an_event_for_all_backends_must_fit_each() {
    let events = [
        // No controller has ever written of this one: it may be a slip of the pen.
        Event::new(0, "cli x", Some("default/nope:80"), What::Pinned { to: Choice::Fallback }),
        Event::new(1, "cli x", None, proposed("v1")),
        Event::new(2, "controller x", Some(BACKENDS[0]), rolled_back("v1")),
        Event::new(2, "controller x", Some(BACKENDS[1]), entered("v1", Stage::Five)),
    ];
    let next = Event::new(3, "x", None, proposed("v2"));
    let error = BackendState::check_all(&events, &next, false, false).unwrap_err();
    assert!(matches!(error, Conflict::InTrial { backend, .. } if backend == BACKENDS[1]));
    assert_eq!(BackendState::check_all(&events, &next, false, true), Ok(()));
    let ended = Event::new(3, "controller x", Some(BACKENDS[1]), rolled_back("v1"));
    assert_eq!(BackendState::check_all(&[&events[..], &[ended]].concat(), &next, false, false), Ok(()));
}
