//! The comparison's shapes with several kinds of requests, played once, short, with one and with two of our own proxies: that kinds are found and
//! told apart behind one route, that each trial faces the same requests, and that a prediction stands beside what was measured.

use std::time::Duration;

use trimtab_tests::compare::report::{Report, ShapeReport};
use trimtab_tests::compare::rival::Rival;
use trimtab_tests::compare::shape::Shape;
use trimtab_tests::compare::trial::{self, Trial};
use trimtab_tests::tools::Tools;

const COUNTED: Duration = Duration::from_secs(3);

async fn play(shape: Shape, proxies: usize) -> [(Rival, Vec<Trial>); 2] {
    // None of other people's servers takes part.
    let tools = Tools::default();
    let plan = shape.plan(1, COUNTED, proxies);
    let (ours, before) =
        tokio::try_join!(trial::run(&tools, Rival::Trimtab, &plan), trial::run(&tools, Rival::TrimtabNoClasses, &plan))
            .unwrap_or_else(|error| panic!("{shape:?}: {error:#}"));
    for trial in [&ours, &before] {
        assert!(trial.summary.requests > 100 && trial.summary.error_share < 0.5, "{shape:?}: {trial:?}");
        assert!(trial.outside_ms_p50.is_some(), "{shape:?}: pods say how long requests were inside");
    }
    assert_eq!(ours.summary.requests, before.summary.requests, "{shape:?}: both face the same requests");
    let found = |class: &usize| ours.classes.contains(&format!("GET /c{class}/users/{{}}"));
    assert!((0..8).filter(found).count() >= 4, "{shape:?}: {:?}", ours.classes);
    [(Rival::Trimtab, vec![ours]), (Rival::TrimtabNoClasses, vec![before])]
}

fn check_prediction(shape: Shape, proxies: usize, trials: &[(Rival, Vec<Trial>)]) -> ShapeReport {
    let report = ShapeReport::new(shape, &shape.plan(1, COUNTED, proxies), trials, 1).expect("the shape has a twin");
    let before = &report.rivals[1];
    assert!(before.predicted.is_some() && before.latency_p99_ratio_difference.is_some(), "{shape:?}: {before:?}");
    report
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shapes_with_kinds_of_requests_are_played_and_predicted() {
    let shapes = [(Shape::Classes, 1), (Shape::ClassesSingle, 2), (Shape::Affinity, 2)];
    // Simulating keeps a thread busy: only when nothing runs in real time any more.
    let trials = futures_util::future::join_all(shapes.map(|(shape, proxies)| play(shape, proxies))).await;
    let mut report = Report::new(1, 1, COUNTED, true);
    report.shapes = shapes
        .iter()
        .zip(&trials)
        .map(|((shape, proxies), trials)| check_prediction(*shape, *proxies, trials))
        .collect();
    let text = report.text();
    for said in ["classes-single, 2 proxies: after 20 s of warm-up; in time: within 2000 ms", "simulated", "off by"] {
        assert!(text.contains(said), "{said:?} is not in\n{text}");
    }
}
