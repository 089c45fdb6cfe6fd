//! Tests of what is refused, and of the defaults.

use super::*;

fn valid() -> v1::Backend {
    let endpoint = |key: u64| v1::Endpoint { key, host: "10.0.0.1".to_owned(), port: 8080, ..Default::default() };
    v1::Backend {
        name: "default/web:80".to_owned(),
        generation: 5,
        endpoints: vec![endpoint(1), endpoint(2)],
        ..Default::default()
    }
}

/// What a change to a valid backend is refused with: the field.
fn refused(change: impl FnOnce(&mut v1::Backend)) -> String {
    let mut wire = valid();
    change(&mut wire);
    let error = BackendConfig::try_from(wire).unwrap_err();
    assert!(error.resource.starts_with("Backend"), "{error}");
    error.field
}

#[test]
fn unset_fields_take_the_documented_defaults() {
    let config = BackendConfig::try_from(valid()).unwrap();
    assert_eq!(config.algorithm, Algorithm::Adaptive);
    assert_eq!(config.num_retries, 1);
    assert_eq!(config.outlier_detection, OutlierDetection::default());
    assert_eq!(config.admission_control, AdmissionControl::default());
    assert_eq!(config.timeouts.connect, Duration::from_secs(1));
    assert_eq!(config.endpoints[1].name, "10.0.0.1:8080");
    assert_eq!(config.objective, None);
}

#[test]
fn every_refusal_names_its_field() {
    assert_eq!(refused(|wire| wire.name.clear()), "name");
    assert_eq!(refused(|wire| wire.algorithm = 99), "algorithm");
    assert_eq!(refused(|wire| wire.endpoints[1].key = 1), "endpoints[1].key");
    assert_eq!(refused(|wire| wire.endpoints[0].host.clear()), "endpoints[0].host");
    assert_eq!(refused(|wire| wire.endpoints[1].port = 0), "endpoints[1].port");
    assert_eq!(refused(|wire| wire.endpoints[1].port = 65_536), "endpoints[1].port");
    assert_eq!(refused(|wire| wire.endpoints[0].state = 7), "endpoints[0].state");
    assert_eq!(refused(|wire| wire.objective_ms = Some(f32::NAN)), "objective_ms");
    assert_eq!(refused(|wire| wire.objective_ms = Some(0.0)), "objective_ms");
    let detection = |detection: v1::OutlierDetection| refused(|wire| wire.outlier_detection = Some(detection));
    assert_eq!(
        detection(v1::OutlierDetection { max_ejection_percent: Some(101), ..Default::default() }),
        "outlier_detection.max_ejection_percent"
    );
    assert_eq!(
        detection(v1::OutlierDetection { consecutive_5xx_errors: Some(0), ..Default::default() }),
        "outlier_detection.consecutive_5xx_errors"
    );
    assert_eq!(
        detection(v1::OutlierDetection {
            base_ejection_time_ms: Some(10),
            max_ejection_time_ms: Some(9),
            ..Default::default()
        }),
        "outlier_detection.max_ejection_time_ms"
    );
    assert_eq!(
        refused(|wire| {
            wire.admission_control =
                Some(v1::AdmissionControl { enabled: true, min_concurrency: Some(9), max_concurrency: Some(8) });
        }),
        "admission_control.min_concurrency"
    );
    assert_eq!(
        refused(|wire| {
            wire.circuit_breaker = Some(v1::CircuitBreaker { max_parallel_requests: Some(0), ..Default::default() });
        }),
        "circuit_breaker.max_parallel_requests"
    );
    assert_eq!(
        refused(|wire| wire.timeouts = Some(v1::BackendTimeouts { connect_timeout_ms: Some(0), ..Default::default() })),
        "timeouts.connect_timeout_ms"
    );
}

#[test]
fn an_unset_longest_ejection_is_no_shorter_than_the_base() {
    let mut wire = valid();
    wire.outlier_detection = Some(v1::OutlierDetection { base_ejection_time_ms: Some(600_000), ..Default::default() });
    let detection = BackendConfig::try_from(wire).unwrap().outlier_detection;
    assert_eq!(detection.max_ejection_time, Duration::from_secs(600));
}

#[test]
fn weights_and_parameters_are_checked_one_by_one() {
    let parameters = v1::RuleParameters {
        exponent: 3.0,
        offset: 1.0,
        latency_exponent: 1.0,
        latency_reference_ms: 10.0,
        error_exponent: 12.0,
        ..Default::default()
    };
    let table = v1::WeightTable {
        backend: "b".to_owned(),
        weights: vec![1.0, 2.0],
        parameters: Some(parameters),
        proxies: 3,
        ..Default::default()
    };
    assert!(WeightTable::try_from(table.clone()).is_ok());
    for weight in [0.0, -1.0, f32::NAN, f32::INFINITY, f32::MIN_POSITIVE / 2.0] {
        let table = v1::WeightTable { weights: vec![1.0, weight], ..table.clone() };
        assert_eq!(WeightTable::try_from(table).unwrap_err().field, "weights[1]");
    }
    for adjustment in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        let table = v1::WeightTable { adjustments: vec![1.0, adjustment], ..table.clone() };
        assert_eq!(WeightTable::try_from(table).unwrap_err().field, "adjustments[1]");
    }
    let field = |table: v1::WeightTable| WeightTable::try_from(table).unwrap_err().field;
    assert_eq!(field(v1::WeightTable { proxies: 0, ..table.clone() }), "proxies");
    assert_eq!(field(v1::WeightTable { parameters: None, ..table.clone() }), "parameters");
    for (wrong, name) in [
        (v1::RuleParameters { exponent: 9.0, ..parameters }, "parameters.exponent"),
        (v1::RuleParameters { offset: 0.0, ..parameters }, "parameters.offset"),
        (v1::RuleParameters { latency_exponent: f32::NAN, ..parameters }, "parameters.latency_exponent"),
        (v1::RuleParameters { latency_reference_ms: 0.0, ..parameters }, "parameters.latency_reference_ms"),
        (v1::RuleParameters { error_exponent: -1.0, ..parameters }, "parameters.error_exponent"),
    ] {
        assert_eq!(field(v1::WeightTable { parameters: Some(wrong), ..table.clone() }), name);
    }
    let errors = v1::ErrorTable { backend: "b".to_owned(), generation: 1, errors: vec![0.0, 1.5] };
    assert_eq!(ErrorTable::try_from(errors).unwrap_err().field, "errors[1]");
}

#[test]
fn algorithms_are_spelled_as_on_the_command_line() {
    for (algorithm, spelling) in Algorithm::SPELLINGS {
        assert_eq!(spelling.parse(), Ok(algorithm));
        assert_eq!(algorithm.to_string(), spelling);
        assert_eq!(Algorithm::from(v1::Algorithm::from(algorithm)), algorithm);
    }
    let unknown = "fastest".parse::<Algorithm>().unwrap_err().to_string();
    assert!(Algorithm::SPELLINGS.iter().all(|(_, spelling)| unknown.contains(spelling)), "{unknown}");
}

#[test]
fn parameters_fade_to_the_local_ones() {
    let pushed = RuleParameters { exponent: 1.0, error_exponent: 2.0, ..RuleParameters::LOCAL };
    assert_eq!(pushed.faded(&RuleParameters::LOCAL, 1.0), pushed);
    assert_eq!(pushed.faded(&RuleParameters::LOCAL, 0.0), RuleParameters::LOCAL);
    assert_eq!(pushed.faded(&RuleParameters::LOCAL, 0.5).exponent, 1.5);
}
