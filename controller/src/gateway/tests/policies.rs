//! Policies: which holds for what, and what becomes of it.

use super::*;

#[test]
fn a_policy_decides_how_a_backend_is_reached() {
    let policy = policy(
        "p",
        "  loadBalancer: {type: LeastRequest}
  retry: {numRetries: 2}
  circuitBreaker: {maxConnections: 10, maxParallelRequests: 20}
  healthCheck: {panicThreshold: 40, passive: {consecutive5XxErrors: 7, maxEjectionPercent: 10}}
  timeout: {tcp: {connectTimeout: 250ms}, http: {requestTimeout: 3s, connectionIdleTimeout: 1m, minBodyRate: 100, bodyGracePeriod: 30s}}
  slowStart: {window: 20s}
  adaptive:
    mode: Shadow
    model: builtin
    objective: {latency: 150ms}
    guardrails: {shareMin: 0.1, shareMax: 5, stepMax: 2, staleAfter: 4s}
    metrics: {path: /m?x=1, port: 9100, interval: 1s, names: {inFlight: active}}",
    );
    let yaml = format!("{GATEWAY}{ROUTE}{SERVICE}{policy}");
    check(
        &yaml,
        "
        listener default/g/http 0.0.0.0:80 \"\"
        route default/r on default/g/http for []
        rule 0 [] -> \"default/s:80\"*1 backend=3000ms
        backend default/s:80 least-request Shadow objective=150ms
        Retry { num_retries: Some(2), statuses: [], reset: false, per_try_timeout_ms: None, budget_percent: None, budget_min: None }
        endpoint 10.0.0.1:8080 10.0.0.1:8080 Ready scrape=http://10.0.0.1:9100/m?x=1
        ",
    );
    let config = translate(&objects(&yaml));
    let spec = &config.backends[0];
    let resource = &spec.resource;
    assert_eq!(resource.retry.as_ref().unwrap().num_retries, Some(2));
    assert_eq!(
        resource.circuit_breaker.unwrap(),
        v1::CircuitBreaker { max_connections: Some(10), max_parallel_requests: Some(20) }
    );
    assert_eq!(
        resource.timeouts.unwrap(),
        v1::BackendTimeouts {
            connect_timeout_ms: Some(250),
            connection_idle_timeout_ms: Some(60_000),
            min_body_bytes_per_s: Some(100),
            body_grace_ms: Some(30_000)
        }
    );
    let outlier = resource.outlier_detection.unwrap();
    assert_eq!(
        (outlier.disabled, outlier.consecutive_5xx_errors, outlier.max_ejection_percent),
        (false, Some(7), Some(10))
    );
    let guard = spec.guardrails;
    assert_eq!(
        (guard.share_min, guard.share_max, guard.step_max, guard.panic_threshold),
        (Some(0.1), Some(5.0), Some(2.0), Some(0.4))
    );
    assert_eq!((guard.stale_after.map(|d| d.as_secs()), guard.slow_start.map(|d| d.as_secs())), (Some(4), Some(20)));
    let scrape = spec.scrape.as_ref().unwrap();
    assert_eq!((scrape.interval.as_millis(), scrape.names.in_flight.as_deref()), (1000, Some("active")));
    assert_eq!(spec.model.as_deref(), Some("builtin"));
}

#[test]
fn a_policy_says_how_requests_are_told_apart_and_which_terms_act() {
    let yaml = |adaptive: &str| {
        let policy = policy("p", &format!("  adaptive:\n{adaptive}"));
        format!("{GATEWAY}{ROUTE}{SERVICE}{policy}")
    };
    let config = translate(&objects(&yaml(
        "    classes: {header: x-request-class, priorities: [{match: \"GET /health*\", priority: 1}]}
    terms: {affinity: false}",
    )));
    let resource = &config.backends[0].resource;
    let classes = resource.classes.as_ref().unwrap();
    assert_eq!((classes.enabled, &*classes.header, classes.priorities.len()), (None, "x-request-class", 1));
    assert_eq!(classes.priorities[0], v1::ClassPriority { r#match: "GET /health*".into(), priority: 1.0 });
    let terms = resource.terms.unwrap();
    assert_eq!((terms.affinity, terms.class_costs), (Some(false), None));

    let wrong = yaml("    classes: {header: \"a b\", priorities: [{match: \"\", priority: 1}]}");
    let problems = document::read("f.yaml", wrong.as_bytes()).unwrap_err();
    let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
    for part in [
        "spec.adaptive.classes.header: \"a b\" is not the name of a header",
        "spec.adaptive.classes.priorities[0].match: has 0 bytes",
    ] {
        assert!(problems.iter().any(|problem| problem.contains(part)), "{part}: {problems:?}");
    }
}

#[test]
fn baselines_neither_eject_nor_shed_unless_told_to() {
    let expected = PLAIN.replace("trimtab Active admission", "round-robin Off no-ejection");
    check(&format!("{GATEWAY}{ROUTE}{SERVICE}{}", policy("p", "  loadBalancer: {type: RoundRobin}")), &expected);
    let told = "  loadBalancer: {type: RoundRobin}\n  healthCheck: {passive: {}}\n  admissionControl: {enabled: true}";
    let expected = PLAIN.replace("trimtab Active admission", "round-robin Off admission");
    check(&format!("{GATEWAY}{ROUTE}{SERVICE}{}", policy("p", told)), &expected);
}

#[test]
fn of_two_policies_for_one_service_the_first_wins_and_one_for_a_port_goes_before_both() {
    let (a, b) = (policy("a", "  loadBalancer: {type: Random}"), policy("b", "  loadBalancer: {type: PeakEwma}"));
    let clash = "! BackendTrafficPolicy default/b: spec.targetRefs[0]: is already the target of BackendTrafficPolicy default/a\n";
    let expected = PLAIN.replace("trimtab Active admission", "random Off no-ejection") + clash;
    check(&format!("{GATEWAY}{ROUTE}{SERVICE}{b}{a}"), &expected);
    let port = b.replace("name: s", "name: s, sectionName: http");
    check(
        &format!("{GATEWAY}{ROUTE}{SERVICE}{a}{port}"),
        &PLAIN.replace("trimtab Active admission", "peak-ewma Off no-ejection"),
    );
    let lost = b.replace("name: s", "name: s, sectionName: grpc") + &a.replace("name: s", "name: t");
    let expected = format!(
        "{PLAIN}! BackendTrafficPolicy default/a: spec.targetRefs[0].name: there is no Service default/t\n\
         ! BackendTrafficPolicy default/b: spec.targetRefs[0].sectionName: \"grpc\" is not the name of a port of Service default/s\n"
    );
    check(&format!("{GATEWAY}{ROUTE}{SERVICE}{lost}"), &expected);
}

#[test]
fn endpoints_without_metrics_are_not_scraped() {
    let config = translate(&objects(&format!(
        "{GATEWAY}{ROUTE}{SERVICE}{}",
        policy("p", "  adaptive: {metrics: {scrape: false}}")
    )));
    assert_eq!((config.backends[0].scrape.as_ref(), config.backends[0].endpoints[0].scrape_url.as_ref()), (None, None));
}

#[test]
fn active_health_checks_become_what_the_data_plane_asks() {
    let spec = "  healthCheck:
    panicThreshold: 20
    active:
      type: HTTP
      interval: 1s
      timeout: 200ms
      unhealthyThreshold: 2
      http: {path: /healthz, hostname: well.test, expectedStatuses: [200, 204]}";
    let config = translate(&objects(&format!("{GATEWAY}{ROUTE}{SERVICE}{}", policy("p", spec))));
    let expected = v1::ActiveHealthCheck {
        kind: v1::active_health_check::Kind::Http.into(),
        interval_ms: Some(1_000),
        timeout_ms: Some(200),
        unhealthy_threshold: Some(2),
        path: "/healthz".to_owned(),
        hostname: "well.test".to_owned(),
        expected_statuses: vec![200, 204],
        panic_threshold: Some(20),
        ..Default::default()
    };
    assert_eq!(config.problems, []);
    assert_eq!(config.backends[0].resource.active_health_check, Some(expected));
}

#[test]
fn active_health_checks_that_make_no_sense_are_named_by_their_field() {
    let spec = "  healthCheck:
    active:
      type: TCP
      interval: 10ms
      http: {path: healthz, expectedStatuses: [99]}
      grpc: {hostname: 'a b'}";
    let problems = document::read("f.yaml", policy("p", spec).as_bytes()).expect_err("problems");
    let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
    for expected in [
        "spec.healthCheck.active.interval: 10ms is too often, expected at least 50ms",
        "spec.healthCheck.active.http: goes with type HTTP or HTTPS, expected none",
        "spec.healthCheck.active.grpc: goes with type GRPC, expected none",
        "spec.healthCheck.active.grpc.hostname: \"a b\" is not a host, expected one such as api.example.com",
        "spec.healthCheck.active.http.path: \"healthz\" is not a path, expected one such as /healthz",
        "spec.healthCheck.active.http.expectedStatuses[0]: 99 is not a status, expected 100 to 599",
    ] {
        assert!(problems.iter().any(|problem| problem.contains(expected)), "{expected}\nnot in {problems:#?}");
    }
}

#[test]
fn names_of_metrics_are_names_and_what_does_nothing_is_noted() {
    let spec = "  adaptive: {metrics: {names: {busy: 'a b', inFlight: app:in_flight, memory: 2x}}}";
    let problems = document::read("f.yaml", policy("p", spec).as_bytes()).expect_err("problems");
    let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
    for expected in [
        "spec.adaptive.metrics.names.busy: \"a b\" is not the name of a metric",
        "spec.adaptive.metrics.names.memory: \"2x\" is not the name of a metric",
    ] {
        assert!(problems.iter().any(|problem| problem.contains(expected)), "{expected}\nnot in {problems:#?}");
    }
    assert_eq!(problems.len(), 2, "{problems:#?}");

    let spec = "  loadBalancer: {type: LeastRequest, consistentHash: {type: SourceIP}}";
    let config = translate(&objects(&format!("{GATEWAY}{ROUTE}{SERVICE}{}", policy("p", spec))));
    let problems: Vec<String> = config.problems.iter().map(ToString::to_string).collect();
    let expected = "spec.loadBalancer.consistentHash: does nothing with this loadBalancer.type";
    assert!(problems.len() == 1 && problems[0].contains(expected), "{problems:#?}");
}
