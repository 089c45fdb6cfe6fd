//! The rollout of one backend, tick by tick, in a world that is what each arm makes of it.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use trimtab_model::rollout::{
    Arm, BackendState, Choice, Event, Fitness, Interval, Rollout, RolloutSettings, Stage, Step, What, Why,
};

const BACKEND: &str = "default/web:80";
const TICK_MS: i64 = 500;

/// A world with a log that takes everything that fits.
struct World {
    rollout: Rollout,
    log: Vec<Event>,
    /// Whether the log can be written.
    writable: bool,
    fitness: Option<Fitness>,
    rng: StdRng,
    now_ms: i64,
    last: Step,
    /// Arms by tick.
    arms: Vec<Arm>,
    /// What each arm does to a tick: incumbent, candidate, fallback.
    does: [fn(&mut Interval); 3],
}

/// 100 answers in half a second, with noise.
fn tick(rng: &mut StdRng) -> Interval {
    let noise = rng.random_range(-0.2..0.2_f64).exp();
    Interval {
        seconds: 0.5,
        answers: 100.0,
        within_objective: Some(99.0),
        in_flight: 5.0 * noise,
        latency_ms_p50: Some(20.0 * noise),
        latency_ms_p99: Some(80.0 * noise),
        ..Interval::default()
    }
}

fn nothing(_: &mut Interval) {}

fn slower(by: f64, tick: &mut Interval) {
    tick.latency_ms_p50 = tick.latency_ms_p50.map(|ms| by * ms);
    tick.latency_ms_p99 = tick.latency_ms_p99.map(|ms| by * ms);
}

fn settings() -> RolloutSettings {
    RolloutSettings { shadow_s: 20.0, stage_s_max: 4.0 * 3600.0, ..RolloutSettings::default() }
}

impl World {
    fn new(does: [fn(&mut Interval); 3]) -> Self {
        Self {
            rollout: Rollout::new(settings()),
            log: Vec::new(),
            writable: true,
            fitness: Some(Fitness::Fit),
            rng: StdRng::seed_from_u64(7),
            now_ms: 0,
            last: Step::default(),
            arms: Vec::new(),
            does,
        }
    }

    fn proposing(does: [fn(&mut Interval); 3]) -> Self {
        let mut world = Self::new(does);
        world.say(What::Proposed { version: "v1".to_owned() });
        world
    }

    fn say(&mut self, what: What) {
        self.log.push(Event::new(self.now_ms, "cli", None, what));
    }

    fn tick(&mut self) {
        self.rollout.follow(&BackendState::of(BACKEND, &self.log));
        let mut outcome = tick(&mut self.rng);
        self.does[self.last.arm as usize](&mut outcome);
        self.now_ms += TICK_MS;
        let fitness = self.fitness.filter(|_| self.rollout.in_shadow());
        self.last = self.rollout.tick(&outcome, fitness, true, self.now_ms, &mut self.rng);
        self.arms.push(self.last.arm);
        if let Some((what, evidence)) = self.last.ask.clone().filter(|_| self.writable) {
            let event = Event::new(self.now_ms, "controller", Some(BACKEND), what).resting_on(evidence);
            if BackendState::check_all(&self.log, &event, false, false).is_ok() {
                self.log.push(event);
            }
        }
    }

    fn pass(&mut self, ticks: usize) {
        (0..ticks).for_each(|_| self.tick());
    }

    /// Until the log says so, for so many hours.
    fn until(&mut self, hours: f64, wanted: impl Fn(&What) -> bool) -> What {
        let end_ms = self.now_ms + (hours * 3.6e6) as i64;
        while self.now_ms < end_ms {
            self.tick();
            if let Some(event) = self.log.iter().find(|event| wanted(&event.what)) {
                return event.what.clone();
            }
        }
        panic!("not within {hours} h: {:#?}", self.log)
    }

    fn state(&self) -> BackendState {
        BackendState::of(BACKEND, &self.log)
    }

    fn turns(&self, arm: Arm) -> usize {
        self.arms.iter().filter(|decided| **decided == arm).count()
    }

    /// Another process goes on with the same log.
    fn restart(&mut self) {
        self.rollout = Rollout::new(settings());
        self.last = Step::default();
    }
}

fn is_confirmed(what: &What) -> bool {
    matches!(what, What::Confirmed { .. })
}

fn is_out(what: &What) -> bool {
    matches!(what, What::RolledBack { .. })
}

fn why(what: &What) -> Option<Why> {
    match what {
        What::RolledBack { why, .. } => Some(*why),
        _ => None,
    }
}

#[test]
fn what_is_better_comes_into_force_stage_by_stage() {
    let mut world = World::proposing([nothing, |tick| slower(0.8, tick), nothing]);
    world.pass(40);
    assert_eq!(world.turns(Arm::Candidate), 0, "nothing is applied in the shadow");
    world.until(4.0, is_confirmed);
    let stages: Vec<Stage> = world
        .log
        .iter()
        .filter_map(|event| match event.what {
            What::StageEntered { stage, .. } => Some(stage),
            _ => None,
        })
        .collect();
    assert_eq!(stages, [Stage::Five, Stage::TwentyFive, Stage::Half]);
    assert_eq!(world.state().in_force(), &Choice::Version("v1".to_owned()));
    for event in world.log.iter().filter(|event| event.by == "controller") {
        assert!(event.evidence["finding"].is_object(), "{event:?}");
    }
    world.pass(20_000);
    assert!(!world.log.iter().any(|event| is_out(&event.what)), "{:#?}", world.log.last());
    let turns = world.arms.iter().rev().take(10_000).filter(|arm| **arm == Arm::Fallback).count();
    assert!((150..350).contains(&turns), "the fallback takes short turns: {turns}");
}

#[test]
fn each_plain_harm_ends_a_trial_in_its_first_turn() {
    let check = |harm: fn(&mut Interval), expected: Why| {
        let mut world = World::proposing([nothing, harm, nothing]);
        let out = world.until(1.0, is_out);
        assert_eq!(why(&out), Some(expected));
        assert_eq!(world.turns(Arm::Candidate), 1, "{expected:?}");
        let first = world.arms.iter().position(|arm| *arm == Arm::Candidate).unwrap();
        assert!(world.arms.len() - first <= 10, "within 5 s");
        world.pass(1_000);
        assert_eq!(world.turns(Arm::Candidate), 1, "and never again");
    };
    check(|tick| tick.failed = 30.0, Why::Errors);
    check(|tick| tick.shed = 50.0, Why::Shed);
    check(|tick| tick.within_objective = Some(20.0), Why::Goodput);
    check(|tick| slower(20.0, tick), Why::Latency);
    check(|tick| tick.in_flight = 90.0, Why::PileUp);
}

#[test]
fn what_is_a_little_worse_is_found_out_over_many_blocks() {
    let mut world = World::proposing([nothing, |tick| slower(1.25, tick), nothing]);
    let out = world.until(4.0, |what| is_out(what) || is_confirmed(what));
    assert!(matches!(why(&out), Some(Why::WorseThanIncumbent | Why::Undecided)), "{out:?}");
}

#[test]
fn what_makes_no_difference_is_given_up_after_a_bounded_time() {
    let mut world = World::proposing([nothing; 3]);
    let out = world.until(13.0, |what| is_out(what) || is_confirmed(what));
    assert_eq!(why(&out), Some(Why::Undecided), "{out:?}");
}

#[test]
fn a_disturbance_that_goes_on_without_the_candidate_is_not_its_doing() {
    let mut world = World::proposing([nothing, |tick| slower(0.8, tick), nothing]);
    world.until(4.0, |what| matches!(what, What::StageEntered { stage: Stage::Half, .. }));
    while world.last.arm != Arm::Candidate {
        world.tick();
    }
    // Everything is slow for a quarter of a minute, whoever decides.
    world.does = [|tick| slower(20.0, tick); 3];
    world.pass(30);
    world.does = [nothing, |tick| slower(0.8, tick), nothing];
    world.until(4.0, is_confirmed);
    assert!(!world.log.iter().any(|event| is_out(&event.what)));
}

#[test]
fn harm_that_shows_only_at_half_of_the_time_ends_it_within_seconds() {
    let mut world = World::proposing([nothing, |tick| slower(0.8, tick), nothing]);
    world.until(4.0, |what| matches!(what, What::StageEntered { stage: Stage::Half, .. }));
    world.pass(100);
    while world.last.arm != Arm::Candidate {
        world.tick();
    }
    world.does[Arm::Candidate as usize] = |tick| tick.failed = 40.0;
    let before_ms = world.now_ms;
    world.until(1.0, is_out);
    assert!(world.now_ms - before_ms <= 5_000, "{} ms", world.now_ms - before_ms);
}

#[test]
fn in_force_it_is_still_compared_and_goes_out_when_the_service_has_changed() {
    let mut world = World::proposing([nothing, |tick| slower(0.8, tick), nothing]);
    world.until(4.0, is_confirmed);
    world.pass(2_000);
    // Now the version makes everything worse than the fallback would be.
    world.does = [|tick| slower(4.0, tick), nothing, nothing];
    let before_ms = world.now_ms;
    let out = world.until(1.0, is_out);
    assert_eq!(why(&out), Some(Why::WorseThanFallback));
    let took_s = (world.now_ms - before_ms) as f64 / 1e3;
    assert!(took_s < 180.0, "it took {took_s} s");
    world.pass(100);
    assert_eq!(world.last.arm, Arm::Fallback);
    assert_eq!(world.state().in_force(), &Choice::Fallback);
}

#[test]
fn a_policy_that_fails_or_knows_nothing_of_the_service_never_leaves_the_shadow() {
    for fitness in [Fitness::Fault, Fitness::Unfamiliar] {
        let mut world = World::proposing([nothing; 3]);
        world.fitness = Some(fitness);
        let out = world.until(1.0, is_out);
        assert_eq!(why(&out), Some(Why::Unfit));
        assert_eq!(world.turns(Arm::Candidate), 0);
    }
}

#[test]
fn without_a_log_that_can_be_written_nothing_goes_further_and_harm_still_ends() {
    let mut world = World::proposing([nothing, |tick| tick.failed = 30.0, nothing]);
    world.writable = false;
    world.pass(1_000);
    assert_eq!(world.turns(Arm::Candidate), 0, "no stage begins before the log says so");
    world.writable = true;
    world.until(1.0, |what| matches!(what, What::StageEntered { .. }));
    world.writable = false;
    world.pass(1_000);
    assert_eq!(world.turns(Arm::Candidate), 1, "out at once, whatever the log takes");
    world.writable = true;
    world.pass(30);
    assert!(world.log.iter().any(|event| is_out(&event.what)), "and it is asked for again until it is written");
}

#[test]
fn another_process_goes_on_where_the_log_says_with_the_shortest_turns() {
    let mut world = World::proposing([nothing, |tick| slower(0.8, tick), nothing]);
    world.until(4.0, |what| matches!(what, What::StageEntered { stage: Stage::TwentyFive, .. }));
    world.restart();
    world.pass(400);
    assert!(world.turns(Arm::Candidate) > 20, "still at a quarter of the time");
    world.until(4.0, is_confirmed);
    world.restart();
    world.pass(1);
    assert_eq!(world.rollout.in_force(), &Choice::Version("v1".to_owned()));

    let mut world = World::proposing([nothing, |tick| tick.failed = 30.0, nothing]);
    world.until(1.0, is_out);
    world.restart();
    world.pass(2_000);
    assert_eq!(world.turns(Arm::Candidate), 1, "what is out stays out");
}

#[test]
fn a_person_may_have_it_tried_again_pin_it_and_take_the_pin_away() {
    let mut world = World::proposing([nothing, |tick| tick.failed = 30.0, nothing]);
    world.until(1.0, is_out);
    world.say(What::Proposed { version: "v1".to_owned() });
    world.pass(1_000);
    assert_eq!(world.turns(Arm::Candidate), 2, "one more chance, one more turn");

    world.say(What::Pinned { to: Choice::Fallback });
    world.pass(2);
    assert_eq!((world.last.arm, world.last.visit), (Arm::Fallback, false));
    world.say(What::Unpinned);
    world.pass(2);
    assert_eq!(world.last.arm, Arm::Incumbent);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn whatever_comes_only_who_may_decides(
        seed in any::<u64>(),
        world in proptest::collection::vec((0.0..4.0_f64, 0.0..200.0_f64, 0.0..100.0_f64, any::<bool>()), 400)
    ) {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut rollout = Rollout::new(RolloutSettings { shadow_s: 5.0, ..RolloutSettings::default() });
        let mut log = vec![Event::new(0, "cli", None, What::Proposed { version: "v1".to_owned() })];
        for (at, (slow, answers, failed, applies)) in world.into_iter().enumerate() {
            rollout.follow(&BackendState::of(BACKEND, &log));
            let outcome = Interval {
                seconds: 0.5,
                answers,
                failed: failed.min(answers),
                in_flight: slow * 10.0,
                latency_ms_p50: Some(slow),
                latency_ms_p99: Some(slow * 3.0),
                ..Interval::default()
            };
            let step = rollout.tick(&outcome, Some(Fitness::Fit), applies, 500 * at as i64, &mut rng);
            if step.arm == Arm::Candidate {
                let state = BackendState::of(BACKEND, &log);
                prop_assert!(applies && state.trial.is_some_and(|trial| trial.stage > Stage::Shadow));
                prop_assert_eq!(rollout.candidate(), Some("v1"));
            }
            if let Some((what, _)) = step.ask {
                let event = Event::new(500 * at as i64, "controller", Some(BACKEND), what);
                prop_assert_eq!(BackendState::check_all(&log, &event, false, false), Ok(()));
                log.push(event);
            }
        }
    }
}
