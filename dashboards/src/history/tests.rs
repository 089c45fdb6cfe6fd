//! The history keeps what it promises, in the memory that it promises.

use trimtab_controller::view::{BackendView, EndpointState, EndpointView, Mode, ModelView, RuleParameters, View};

use super::*;

fn endpoint(name: String, weight: f64) -> EndpointView {
    EndpointView {
        address: name.clone(),
        key: "1".into(),
        state: EndpointState::Active,
        weight_baseline: weight,
        weight_proposed: weight,
        weight_applied: weight,
        share: weight,
        rps: 10.0,
        in_flight: 1.0,
        latency_ms_p50: None,
        latency_ms_p99: None,
        error: 0.0,
        ejected_by: 0,
        failing_by: 0,
        failing: None,
        capacity_rps: None,
        slots: None,
        slots_learned: false,
        adjustment: 1.0,
        scrape_age_s: None,
        scrape_error: None,
        name,
    }
}

fn view(tick: u64, at_ms: i64, names: impl Iterator<Item = String>) -> View {
    let endpoints: Vec<_> = names.map(|name| endpoint(name, 0.01)).collect();
    let parameters = RuleParameters {
        exponent: 1.0,
        offset: 1.0,
        latency_exponent: 0.0,
        latency_reference_ms: 1.0,
        error_exponent: 12.0,
        weight_exponent: 1.0,
        work_share: 0.0,
        affinity_proxies: 0.0,
        affinity_factor: 1.0,
    };
    let backend = BackendView {
        name: "default/web:80".into(),
        algorithm: "trimtab".into(),
        mode: Mode::Active,
        tick,
        objective_ms: None,
        objective_derived: false,
        rps: tick as f64,
        goodput_rps: 0.0,
        shed_rps: 0.0,
        error_share: 0.0,
        latency_ms_p50: None,
        latency_ms_p99: None,
        concurrency_limit: None,
        parameters,
        model: ModelView::default(),
        guard: vec![],
        replicas: None,
        classes: vec![],
        endpoints,
    };
    View { at_ms, backends: vec![backend], ..View::default() }
}

fn pods(count: usize) -> impl Iterator<Item = String> {
    (0..count).map(|index| format!("pod-{index}"))
}

fn all() -> Choice {
    Choice { since_ms: 0, endpoint: None, limit: 100, points: 10_000 }
}

fn answer(history: &History, choice: Choice) -> Answer {
    history.answer("default/web:80", &choice).unwrap()
}

#[test]
fn ten_minutes_of_every_tick_are_kept_for_a_few_endpoints() {
    let mut history = History::default();
    for tick in 0..3_000 {
        history.push(&view(tick, tick as i64 * 500, pods(12)));
    }
    let answer = answer(&history, all());
    assert_eq!(answer.at_ms.len(), 1_201);
    assert_eq!(answer.at_ms.last(), Some(&(2_999 * 500)));
    assert_eq!(answer.spacing_ms, Some(500));
    assert_eq!(answer.endpoints.len(), 12);
    assert!(answer.endpoints.iter().all(|endpoint| endpoint.values["rps"].len() == 1_201));
}

#[test]
fn ten_minutes_of_five_thousand_endpoints_stay_within_the_bound() {
    let mut history = History::default();
    for tick in 0..1_500 {
        history.push(&view(tick, tick as i64 * 500, pods(5_000)));
        assert!(history.cells() <= CELLS_MAX, "tick {tick}: {} cells", history.cells());
    }
    let answer = answer(&history, all());
    assert!((150..=200).contains(&answer.at_ms.len()), "{} rows", answer.at_ms.len());
    assert!(answer.at_ms[answer.at_ms.len() - 1] - answer.at_ms[0] > 590_000);
    assert_eq!((answer.endpoints_total, answer.endpoints.len()), (5_000, 100));
}

#[test]
fn the_bound_holds_when_every_tick_brings_new_endpoints_and_ticks_are_fast() {
    let mut history = History::default();
    for tick in 0..1_000usize {
        let names = (0..1_000).map(|index| format!("pod-{}", tick * 1_000 + index));
        history.push(&view(tick as u64, tick as i64 * 100, names));
        assert!(history.cells() <= CELLS_MAX, "tick {tick}: {} cells", history.cells());
    }
    assert!(answer(&history, all()).at_ms.len() > 10);
}

#[test]
fn an_endpoint_that_was_away_has_a_gap() {
    let mut history = History::default();
    for (tick, count) in [2, 1, 1, 2, 2].into_iter().enumerate() {
        history.push(&view(tick as u64, tick as i64 * 500, pods(count)));
    }
    let choice = Choice { endpoint: Some("pod-1".into()), ..all() };
    let there: Vec<bool> = answer(&history, choice).endpoints[0].values["rps"].iter().map(Option::is_some).collect();
    // The first row is not after `since_ms: 0`.
    assert_eq!(there, [false, false, true, true]);
    assert!(history.answer("default/web:80", &Choice { endpoint: Some("pod-9".into()), ..all() }).is_none());
    assert!(history.answer("default/other:80", &all()).is_none());
}

#[test]
fn since_and_points_select_rows_and_the_newest_is_always_there() {
    let mut history = History::default();
    for tick in 0..1_000 {
        history.push(&view(tick, tick as i64 * 500, pods(2)));
    }
    assert_eq!(answer(&history, Choice { since_ms: 498_000, ..all() }).at_ms, [498_500, 499_000, 499_500]);
    assert!(answer(&history, Choice { since_ms: 10_000_000, ..all() }).at_ms.is_empty());
    let thinned = answer(&history, Choice { points: 100, ..all() });
    assert_eq!((thinned.at_ms.len(), thinned.at_ms.last()), (100, Some(&499_500)));
}

#[test]
fn a_view_that_is_published_again_adds_nothing_and_a_clock_set_back_replaces() {
    let mut history = History::default();
    for tick in 1..=10 {
        history.push(&view(tick, tick as i64 * 500, pods(1)));
        history.push(&view(tick, tick as i64 * 500 + 400, pods(1)));
    }
    assert_eq!(answer(&history, all()).at_ms.len(), 10);
    history.push(&view(11, 2_750, pods(1)));
    assert_eq!(answer(&history, all()).at_ms, [500, 1_000, 1_500, 2_000, 2_500]);
    history.push(&view(12, 3_250, pods(1)));
    assert_eq!(answer(&history, all()).at_ms.last(), Some(&3_250));
}

#[test]
fn those_that_matter_are_chosen_first() {
    let mut seen = view(1, 500, pods(1_000));
    let endpoints = &mut seen.backends[0].endpoints;
    endpoints[500].weight_applied = 0.5;
    endpoints[600].error = 0.4;
    endpoints[700].latency_ms_p99 = Some(900.0);
    endpoints[800].in_flight = 80.0;
    let mut history = History::default();
    history.push(&seen);
    let names: Vec<_> = answer(&history, Choice { limit: 4, ..all() }).endpoints.into_iter().map(|e| e.name).collect();
    assert_eq!(names, ["pod-500", "pod-600", "pod-700", "pod-800"]);
}
