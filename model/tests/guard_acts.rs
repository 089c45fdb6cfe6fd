//! Each reason of the guard: when it acts, and what is then applied.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use trimtab_model::checkpoint::{Checkpoint, Range};
use trimtab_model::decision::{Decision, Mode, Reason};
use trimtab_model::guard::GuardSettings;
use trimtab_model::observation::{EndpointKey, EndpointObservation, Measured, Observation, Reported, Scraped};
use trimtab_model::{GuardConfig, Memory, Policy, decide};

fn told(value: f64) -> Option<Measured> {
    Some(Measured { value, age_s: 0.1 })
}

/// An endpoint that has 4 slots, 2 of them busy, each working at `speed` requests a second.
fn pod(key: u64, speed: f64) -> EndpointObservation {
    EndpointObservation {
        key: EndpointKey(key),
        ready: true,
        ready_age_s: Some(1e3),
        restarts: None,
        zone_match: None,
        slots: None,
        slots_deviation: None,
        reported: Some(Reported {
            interval_s: 0.5,
            successes: 100,
            in_flight_mean: 2.0,
            latency_ms_p99: Some(20.0),
            ..Reported::default()
        }),
        scraped: Scraped {
            busy: told(2.0),
            worker_limit: told(4.0),
            completed_rps: told(2.0 * speed),
            ..Scraped::default()
        },
    }
}

/// A controller of one backend.
struct Loop {
    policy: Policy,
    mode: Mode,
    guard: GuardConfig,
    memory: Memory,
    tick: u64,
}

impl Loop {
    fn new(policy: Policy) -> Self {
        Self { policy, mode: Mode::Active, guard: GuardConfig::default(), memory: Memory::default(), tick: 0 }
    }

    fn tick(&mut self, endpoints: &[EndpointObservation]) -> Decision {
        self.tick += 1;
        let observation = Observation {
            backend: "default/web:80".to_owned(),
            tick: self.tick,
            at_ms: 500 * self.tick as i64,
            interval_s: 0.5,
            proxies: 2,
            objective_ms: None,
            endpoints: endpoints.to_vec(),
        };
        let mut rng = StdRng::seed_from_u64(self.tick);
        let (decision, memory) = decide(&observation, &self.memory, &self.policy, &self.guard, self.mode, &mut rng);
        self.memory = memory;
        decision
    }

    fn ticks(&mut self, count: usize, endpoints: &[EndpointObservation]) -> Decision {
        (1..count).for_each(|_| drop(self.tick(endpoints)));
        self.tick(endpoints)
    }
}

/// The prior's loop after a while with these pods.
fn settled(pods: &[EndpointObservation]) -> Loop {
    let mut control = Loop::new(Policy::prior_only());
    control.ticks(60, pods);
    control
}

/// A policy that is not the prior: it leans one way on everything with a capacity unlike the median's.
fn leaning() -> Policy {
    let zero = Checkpoint::zero(32);
    let mut tensors = zero.tensors().clone();
    for (index, number) in tensors.get_mut("scorer.1.weight").unwrap().iter_mut().enumerate() {
        *number = (index as f32).sin();
    }
    Policy::new(&Checkpoint::new(zero.manifest().clone(), tensors).unwrap()).unwrap()
}

/// Checks for which endpoints the guard acted for this reason; `None` stands for all.
fn check(decision: &Decision, reason: Reason, expected: &[Option<u64>]) {
    let found: Vec<Option<u64>> = decision
        .guard
        .iter()
        .filter(|action| action.reason == reason)
        .map(|action| action.endpoint.map(|key| key.0))
        .collect();
    assert_eq!(found, expected, "{reason:?} among {:#?}", decision.guard);
}

#[test]
fn capacities_of_one_to_four_pass_untouched_even_of_two() {
    let pods = [pod(0, 10.0), pod(1, 40.0)];
    let decision = settled(&pods).tick(&pods);
    assert_eq!(decision.guard, vec![]);
    assert!((decision.applied[1] / decision.applied[0] / 4.0 - 1.0).abs() < 0.15, "{:?}", decision.applied);
    assert_eq!(decision.capacity_rps.iter().flatten().count(), 2);
}

/// Equal pods that answer within a fraction of a millisecond and are scraped twice a second: a look finds one of them busy now and then, by chance.
#[test]
fn equal_pods_that_are_next_to_idle_are_taken_for_equal() {
    let mut pods: Vec<_> = (0..5).map(|key| pod(key, 10.0)).collect();
    let mut control = Loop::new(Policy::prior_only());
    let mut rng = StdRng::seed_from_u64(7);
    for _ in 0..240 {
        for pod in &mut pods {
            pod.scraped.completed_rps = told(30.0 + rng.random_range(-6.0..6.0));
            pod.scraped.busy = told(if rng.random_bool(0.02) { 1.0 } else { 0.0 });
            pod.scraped.worker_limit = told(64.0);
        }
        let decision = control.tick(&pods);
        let off = decision.applied.iter().map(|share| (5.0 * share).max(0.2 / share)).fold(0.0, f64::max);
        assert!(off < 2.0, "off by x{off:.2}: {:?}", decision.applied);
    }
}

#[test]
fn shares_keep_floor_and_ceiling() {
    let mut pods: Vec<_> = (0..10).map(|key| pod(key, 10.0)).collect();
    // Full all the time, so that there is no doubt.
    pods[0] = pod(0, 0.2);
    pods[0].scraped.busy = told(4.0);
    pods[1] = pod(1, 200.0);
    let decision = settled(&pods).tick(&pods);
    check(&decision, Reason::ShareFloor, &[Some(0)]);
    check(&decision, Reason::ShareCeiling, &[Some(1)]);
    let mean_of_others = |index: usize| (1.0 - decision.applied[index]) / 9.0;
    assert!((decision.applied[0] / mean_of_others(0) - 0.05).abs() < 1e-6);
    assert!((decision.applied[1] / mean_of_others(1) - 8.0).abs() < 1e-6);
}

#[test]
fn weights_move_one_step_a_tick_and_a_failing_endpoint_falls_at_once() {
    let mut pods: Vec<_> = (0..4).map(|key| pod(key, 10.0)).collect();
    let mut control = settled(&pods);
    for sample in &mut pods[0..2] {
        sample.scraped.busy = Some(Measured { value: 4.0, age_s: 0.1 });
        sample.scraped.completed_rps = Some(Measured { value: 0.2, age_s: 0.1 });
    }
    let reported = pods[1].reported.as_mut().unwrap();
    (reported.successes, reported.errors) = (10, 90);
    let (mut before, mut failing_fell) = (control.tick(&pods).applied, 0.0f64);
    for _ in 0..6 {
        let after = control.tick(&pods).applied;
        let steady = after[3] / before[3];
        assert!((after[0] / before[0] / steady).ln() > -1.41, "{before:?} {after:?}");
        failing_fell = failing_fell.min((after[1] / before[1] / steady).ln());
        before = after;
    }
    let (slow, failing) = (before[0] / before[3], before[1] / before[3]);
    assert!(slow < 0.3 && failing < 0.3, "{before:?}");
}

#[test]
fn new_endpoints_ramp_up_from_a_tenth() {
    let mut pods: Vec<_> = (0..4).map(|key| pod(key, 10.0)).collect();
    let mut control = settled(&pods);
    pods.push(EndpointObservation { ready_age_s: None, ..pod(9, 10.0) });
    let first = control.tick(&pods);
    check(&first, Reason::SlowStart, &[Some(9)]);
    assert!((first.applied[4] / first.applied[0] - 0.1).abs() < 0.02, "{:?}", first.applied);
    let halfway = control.ticks(10, &pods);
    assert!((halfway.applied[4] / halfway.applied[0] - 0.55).abs() < 0.1, "{:?}", halfway.applied);
    let grown = control.ticks(11, &pods);
    check(&grown, Reason::SlowStart, &[]);
    assert!((grown.applied[4] / grown.applied[0] - 1.0).abs() < 0.1, "{:?}", grown.applied);
}

#[test]
fn a_slow_start_holds_scores_back_only_where_it_is_strict() {
    let mut pods: Vec<_> = (0..4).map(|key| pod(key, 10.0)).collect();
    let mut control = settled(&pods);
    pods.push(EndpointObservation { ready_age_s: None, ..pod(9, 10.0) });
    assert_eq!(control.tick(&pods).adjustments, [1.0; 5]);
    control.guard = GuardConfig::new(GuardSettings { slow_start_strict: true, ..GuardSettings::default() }).unwrap();
    let adjustments = control.tick(&pods).adjustments;
    assert_eq!(adjustments[..4], [1.0; 4]);
    assert!((0.1..0.2).contains(&adjustments[4]), "{adjustments:?}");
}

#[test]
fn what_the_policy_asks_for_beyond_capacity_adjusts_scores_where_it_is_heard() {
    let pods = [pod(0, 10.0), pod(1, 40.0)];
    let mut control = Loop::new(leaning());
    let heard = control.ticks(60, &pods);
    let asked = |index: usize| heard.proposed[index] / heard.baseline[index];
    let ratio = heard.adjustments[1] / heard.adjustments[0];
    assert!((ratio.ln()).abs() > 0.01 && (ratio / (asked(1) / asked(0)) - 1.0).abs() < 1e-6, "{heard:?}");
    control.mode = Mode::Shadow;
    assert_eq!(control.tick(&pods).adjustments, [1.0; 2]);
    let mute = pods.map(|pod| EndpointObservation { scraped: Scraped { worker_limit: None, ..pod.scraped }, ..pod });
    assert!(control.tick(&mute).adjustments.is_empty(), "without slots weights say it all");
}

#[test]
fn nobody_ramps_up_when_the_controller_is_new_or_all_are() {
    let old = EndpointObservation { ready_age_s: None, ..pod(0, 10.0) };
    check(&Loop::new(Policy::prior_only()).tick(&[old, pod(1, 10.0)]), Reason::SlowStart, &[]);
    let young = |key| EndpointObservation { ready_age_s: Some(1.0), ..pod(key, 10.0) };
    check(&Loop::new(Policy::prior_only()).tick(&[young(0), young(1)]), Reason::SlowStart, &[]);
}

#[test]
fn with_most_endpoints_unhealthy_all_get_their_prior_share() {
    let mut pods: Vec<_> = (0..4).map(|key| pod(key, 10.0)).collect();
    let mut control = settled(&pods);
    for sick in &mut pods[0..3] {
        sick.reported.as_mut().unwrap().ejected_by = 2;
    }
    let decision = control.tick(&pods);
    check(&decision, Reason::PanicThreshold, &[None]);
    assert!(decision.applied.iter().all(|share| (share - 0.25).abs() < 0.02), "{:?}", decision.applied);
    pods[0].reported.as_mut().unwrap().ejected_by = 0;
    check(&control.tick(&pods), Reason::PanicThreshold, &[]);
}

#[test]
fn endpoints_that_are_starting_are_no_sign_of_ill_health_and_those_that_were_ready_are() {
    let old: Vec<_> = (0..3).map(|key| pod(key, 10.0)).collect();
    let mut control = settled(&old);
    let unready = |endpoint| EndpointObservation { ready: false, ready_age_s: None, reported: None, ..endpoint };
    let scaled_up: Vec<_> = old.iter().cloned().chain((3..12).map(|key| unready(pod(key, 10.0)))).collect();
    check(&control.tick(&scaled_up), Reason::PanicThreshold, &[]);
    let mut failing = scaled_up;
    failing[..2].iter_mut().for_each(|pod| *pod = unready(pod.clone()));
    check(&control.tick(&failing), Reason::PanicThreshold, &[None]);
}

#[test]
fn an_endpoint_that_is_not_ready_gets_the_floor_and_comes_back_slowly() {
    let mut pods: Vec<_> = (0..3).map(|key| EndpointObservation { ready_age_s: None, ..pod(key, 10.0) }).collect();
    let mut control = settled(&pods);
    pods[0].ready = false;
    let away = control.tick(&pods).applied;
    assert!(away[0] < 0.05 && (away[1] - away[2]).abs() < 0.02, "{away:?}");
    pods[0].ready = true;
    check(&control.tick(&pods), Reason::SlowStart, &[Some(0)]);
}

#[test]
fn without_recent_metrics_an_endpoints_prior_counts() {
    let mut pods = [pod(0, 10.0), pod(1, 20.0), pod(2, 40.0), pod(3, 40.0)];
    let mut control = Loop::new(leaning());
    control.ticks(40, &pods);
    pods[0].scraped.busy.as_mut().unwrap().age_s = 6.0;
    pods[0].scraped.completed_rps.as_mut().unwrap().age_s = 6.0;
    (pods[1].scraped, pods[1].reported) = (Scraped::default(), None);
    let decision = control.ticks(10, &pods);
    check(&decision, Reason::StaleMetrics, &[Some(0)]);
    check(&decision, Reason::MissingMetrics, &[Some(1)]);
    let ratio = |weights: &[f64]| weights[0] / weights[1];
    assert!((ratio(&decision.applied) / ratio(&decision.baseline) - 1.0).abs() < 0.01, "{decision:#?}");
    assert!((ratio(&decision.proposed) / ratio(&decision.baseline) - 1.0).abs() > 0.01, "{decision:#?}");
}

#[test]
fn a_backend_of_which_nothing_is_known_says_so_once_and_shares_alike() {
    let bare = |key| EndpointObservation { reported: None, scraped: Scraped::default(), ..pod(key, 1.0) };
    let decision = Loop::new(Policy::prior_only()).tick(&[bare(0), bare(1)]);
    check(&decision, Reason::MissingMetrics, &[None]);
    assert_eq!(decision.applied, [0.5, 0.5]);
    assert_eq!(decision.capacity_rps, [None, None]);
}

#[test]
fn modes_off_and_shadow_apply_the_prior() {
    let pods = [pod(0, 10.0), pod(1, 20.0), pod(2, 40.0)];
    for (mode, reason) in [(Mode::Off, Reason::ModeOff), (Mode::Shadow, Reason::ModeShadow)] {
        let mut control = Loop::new(leaning());
        control.mode = mode;
        let decision = control.ticks(60, &pods);
        check(&decision, reason, &[None]);
        assert!(decision.applied.iter().zip(&decision.baseline).all(|(a, b)| (a - b).abs() < 1e-9), "{decision:#?}");
        assert_eq!(decision.proposed != decision.baseline, mode == Mode::Shadow);
    }
}

#[test]
fn a_policy_that_overflows_is_a_fault_and_the_prior_is_applied() {
    let zero = Checkpoint::zero(32);
    let mut tensors = zero.tensors().clone();
    for (index, number) in tensors.values_mut().flatten().enumerate() {
        *number = if index % 2 == 0 { f32::MAX } else { -f32::MAX };
    }
    let wild = Policy::new(&Checkpoint::new(zero.manifest().clone(), tensors).unwrap()).unwrap();
    let decision = Loop::new(wild).ticks(30, &[pod(0, 10.0), pod(1, 20.0)]);
    check(&decision, Reason::PolicyFault, &[None]);
    assert_eq!(decision.proposed, decision.baseline);
}

#[test]
fn a_policy_that_does_worse_than_its_fallback_is_put_aside_and_heard_again() {
    let with_p99 = |p99_ms: f64| {
        let mut pods = [pod(0, 10.0), pod(1, 20.0), pod(2, 40.0)];
        for pod in &mut pods {
            pod.reported.as_mut().unwrap().latency_ms_p99 = Some(p99_ms);
        }
        pods
    };
    let mut control = Loop::new(leaning());
    control.mode = Mode::Shadow;
    control.ticks(100, &with_p99(20.0));
    control.mode = Mode::Active;
    let seen = (0..100).position(|_| {
        let decision = control.tick(&with_p99(30.0));
        decision.guard.iter().any(|action| action.reason == Reason::WorseThanFallback)
    });
    assert!(seen.is_some_and(|ticks| (55..80).contains(&ticks)), "after {seen:?} ticks");
    check(&control.ticks(60, &with_p99(20.0)), Reason::WorseThanFallback, &[None]);
    check(&control.ticks(120, &with_p99(20.0)), Reason::WorseThanFallback, &[]);
}

#[test]
fn endpoints_long_gone_are_forgotten() {
    let pods: Vec<_> = (0..3).map(|key| pod(key, 10.0)).collect();
    let mut control = settled(&pods);
    control.ticks(500, &pods[..1]);
    assert_eq!(control.memory.len(), 3, "250 s: they may come back");
    control.ticks(200, &pods[..1]);
    assert_eq!(control.memory.len(), 1);
}

#[test]
fn input_that_lies_a_little_outside_for_minutes_is_drift_and_ends_when_it_is_well_inside_again() {
    let zero = Checkpoint::zero(0);
    let (mut manifest, tensors) = (zero.manifest().clone(), zero.tensors().clone());
    // With two pods alike their capacity ratio is 0: 0.2 widths above what training saw.
    let capacity = manifest.features.iter_mut().find(|feature| feature.name == "capacity_ratio").unwrap();
    capacity.seen = Some(Range { low: -1.2, high: -0.2 });
    let mut world = Loop::new(Policy::new(&Checkpoint::new(manifest, tensors).unwrap()).unwrap());
    let fallen = |decision: &Decision| {
        decision.guard.iter().any(|a| a.reason == Reason::UnfamiliarInput && a.endpoint.is_none())
    };
    let pods = [pod(1, 10.0), pod(2, 10.0)];
    for _ in 0..60 {
        assert!(!fallen(&world.tick(&pods)), "for a moment that is nothing");
    }
    let ticks = (0..1_000).take_while(|_| !fallen(&world.tick(&pods))).count();
    assert!((100..400).contains(&ticks), "after a minute or two: {ticks} ticks");
    assert!(world.memory.drift() > 0.1);
    let decision = world.tick(&pods);
    assert!(decision.guard[0].detail.contains("for minutes"), "{:?}", decision.guard[0]);
}
