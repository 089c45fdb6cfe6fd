use super::*;
use trimtab_model::{
    features::{CONTEXT, FEATURES, Features},
    observation::EndpointKey,
};

use crate::offline::dataset::{At, Cut, End};

fn reported(mean_ms: f64) -> Reported {
    Reported {
        interval_s: 0.5,
        successes: 200,
        in_flight_mean: 0.4 * mean_ms,
        latency_ms_mean: Some(mean_ms),
        latency_ms_p10: Some(0.2 * mean_ms),
        latency_ms_p50: Some(0.8 * mean_ms),
        latency_ms_p99: Some(4.0 * mean_ms),
        ..Reported::default()
    }
}

fn dataset(seen: &[Reported]) -> Dataset {
    let step = |seen: &Reported| Step {
        at_ms: 0,
        features: Features {
            endpoints: ndarray::Array2::zeros((1, FEATURES.len())),
            context: ndarray::Array1::zeros(CONTEXT.len()),
        },
        endpoints: vec![At {
            key: EndpointKey(1),
            ready: true,
            heard: true,
            share: 1.0,
            action: 0.0,
            proposed: 0.0,
            seen: Some(*seen),
        }],
        parameters: [0.0; 5],
        log_probability: None,
        objective_ms: Some(100.0),
        adjusted: true,
    };
    let steps = seen.iter().map(step).collect();
    let episode = Episode { backend: String::new(), steps, end: End::Truncated(Cut::RecordingEnds) };
    Dataset { episodes: vec![episode], ..Dataset::default() }
}

#[test]
fn the_percentile_is_about_that_of_what_was_reported() {
    let outcomes = Outcomes::new(&dataset(&[reported(10.0); 20]));
    let p99_ms = outcomes.p99_ms.unwrap();
    assert!((p99_ms - 40.0).abs() < 0.5, "{p99_ms}");
    assert!(outcomes.series.iter().flatten().flatten().all(|x| x.abs() < 1e-9), "nothing differs from the mean");
}

#[test]
fn more_latency_more_errors_and_less_goodput_are_told_in_their_units() {
    let mut seen = vec![reported(10.0); 200];
    seen.extend([reported(11.0); 200]);
    let bad = Reported { errors: 20, successes: 180, ..reported(11.0) };
    seen.extend([bad; 200]);
    let outcomes = Outcomes::new(&dataset(&seen));
    let mean = |measure: Measure, range: std::ops::Range<usize>| {
        let values = &outcomes.of(measure)[0][range.clone()];
        values.iter().sum::<f64>() / range.len() as f64
    };
    let step = |measure, from: usize| mean(measure, from + 210..from + 390) - mean(measure, from + 10..from + 190);
    assert!((step(Measure::LogMean, 0) - 0.095).abs() < 0.01, "{}", step(Measure::LogMean, 0));
    assert!((0.07..0.13).contains(&step(Measure::LogP99, 0)), "{}", step(Measure::LogP99, 0));
    assert!((step(Measure::Errors, 200) - 0.1).abs() < 0.02, "{}", step(Measure::Errors, 200));
    assert!((step(Measure::Goodput, 200) + 0.1).abs() < 0.02, "{}", step(Measure::Goodput, 200));
}

#[test]
fn rewards_are_bounded_relative_and_worse_for_errors() {
    let failing = Reported { errors: 200, successes: 0, latency_ms_mean: None, latency_ms_p99: None, ..reported(10.0) };
    let mut seen = vec![reported(10.0); 50];
    seen.extend([reported(1e6), failing, Reported::default(), reported(5.0)]);
    let rewards = rewards(&dataset(&seen)).concat();
    assert!(rewards[..49].iter().all(|reward| reward.abs() < 0.3), "{rewards:?}");
    let [slow, failed, nothing, quick] = rewards[49..] else { panic!("{rewards:?}") };
    assert!((-5.0..-1.0).contains(&slow) && failed <= -2.0 && nothing == 0.0 && quick > 0.3, "{rewards:?}");
}

#[test]
fn the_normal_distribution_is_that_of_the_tables() {
    for (score, above) in [(0.0, 0.5), (1.0, 0.158_655), (2.326_348, 0.01), (-1.0, 0.841_345)] {
        assert!((normal_above(score) - above).abs() < 1e-5, "{score}");
        assert!((normal_quantile(1.0 - above) - score).abs() < 1e-3, "{score}");
    }
}
