//! What a policy says of requests beside routing.

use super::*;

const TO_S: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r}
spec:
  parentRefs: [{name: g}]
  rules: [{backendRefs: [{name: s, port: 80}]}]
---";

#[test]
fn a_policy_on_traffic_becomes_what_the_data_plane_does() {
    let policy = "
apiVersion: trimtab.dev/v1alpha1
kind: BackendTrafficPolicy
metadata: {name: p}
spec:
  targetRefs: [{name: s}]
  retry:
    numRetries: 3
    retryOn: {triggers: [connect-failure, retriable-status-codes], httpStatusCodes: [502, 503]}
    perRetry: {timeout: 250ms}
    budget: {percent: 10, minRetryConcurrency: 1}
  rateLimit:
    local:
      rules:
      - {}
      - limit: {requests: 5, unit: Minute}
        clientSelectors: [{sourceCIDR: {type: Distinct, value: 0.0.0.0/0}}]
  authorization:
    rules: [{action: Allow, principal: {clientCIDRs: [10.0.0.0/8]}}]
  faultInjection:
    abort: {httpStatus: 500, percentage: 0.5}
    delay: {fixedDelay: 2s}
";
    check(
        &format!("{GATEWAY}{SERVICE}{TO_S}{policy}"),
        r#"
        listener default/g/http 0.0.0.0:80 ""
        route default/r on default/g/http for []
        rule 0 [] -> "default/s:80"*1
        backend default/s:80 trimtab Active admission
        Retry { num_retries: Some(3), statuses: [502, 503], reset: false, per_try_timeout_ms: Some(250), budget_percent: Some(10), budget_min: Some(1) }
        RateLimit { requests: 2000, per_ms: 1000, per_client: false, headers: [], per_route: false }
        RateLimit { requests: 5, per_ms: 60000, per_client: true, headers: [], per_route: false }
        Access { rules: [AccessRule { allow: true, networks: ["10.0.0.0/8"] }], deny_others: true }
        Faults { abort: Some(FaultAbort { status: 500, percent: 0.5 }), delay: Some(FaultDelay { delay_ms: 2000, percent: 100.0 }) }
        endpoint 10.0.0.1:8080 10.0.0.1:8080 Ready scrape=http://10.0.0.1:8080/metrics
        "#,
    );
}

#[test]
fn a_policy_on_traffic_that_makes_no_sense_is_named_by_its_field() {
    let check = |spec: &str, expected: &str| {
        let policy = format!(
            "
apiVersion: trimtab.dev/v1alpha1
kind: BackendTrafficPolicy
metadata: {{name: p}}
spec:
  targetRefs: [{{name: s}}]
  {spec}
"
        );
        let problems = document::read("f.yaml", policy.as_bytes()).expect_err("a problem");
        let text: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert!(text.iter().any(|problem| problem.contains(expected)), "{text:#?}");
    };
    check(
        "retry: {retryOn: {triggers: [retriable-status-codes], httpStatusCodes: [200]}}",
        "spec.retry.retryOn.httpStatusCodes[0]: 200 is not the status of a failure, expected 400 to 599",
    );
    check("retry: {perRetry: {timeout: 0s}}", "spec.retry.perRetry.timeout: is zero");
    check("rateLimit: {local: {rules: []}}", "spec.rateLimit.local.rules: has 0 entries, expected 1 to 4");
    check(
        "rateLimit: {local: {rules: [{clientSelectors: [{sourceCIDR: {value: 10.0.0.0/8}}]}]}}",
        "spec.rateLimit.local.rules[0].clientSelectors[0].sourceCIDR.value: \"10.0.0.0/8\" is not supported",
    );
    check(
        "authorization: {rules: [{action: Allow, principal: {clientCIDRs: [10.0.0.0/33]}}]}",
        "spec.authorization.rules[0].principal.clientCIDRs[0]: \"10.0.0.0/33\" is not a range of addresses",
    );
    check("faultInjection: {abort: {httpStatus: 99}}", "httpStatus");
}

#[test]
fn sessions_bodies_and_limits_by_header_become_what_the_data_plane_does() {
    let spec = "  requestBuffer: {limit: 10Mi}
  sessionPersistence: {sessionName: sid, absoluteTimeout: 1h, cookieConfig: {lifetimeType: Permanent}}
  rateLimit:
    local:
      rules:
      - perRoute: true
        clientSelectors: [{headers: [{name: x-user, type: Distinct}, {name: x-plan, value: free}]}]";
    let config = translate(&objects(&format!("{GATEWAY}{ROUTE}{SERVICE}{}", policy("p", spec))));
    assert_eq!(config.problems, []);
    let resource = &config.backends[0].resource;
    assert_eq!(resource.max_request_body_bytes, Some(10 << 20));
    let session = v1::SessionPersistence {
        cookie: "sid".to_owned(),
        absolute_timeout_s: Some(3600),
        permanent: true,
        ..Default::default()
    };
    assert_eq!(resource.session, Some(session));
    let header =
        |name: &str, value: Option<&str>| v1::RateLimitHeader { name: name.into(), value: value.map(Into::into) };
    let limit = &resource.rate_limits[0];
    assert_eq!((limit.per_route, limit.per_client), (true, false));
    assert_eq!(limit.headers, [header("x-user", None), header("x-plan", Some("free"))]);
}

#[test]
fn sessions_bodies_and_limits_by_header_that_make_no_sense_are_named_by_their_field() {
    let spec = "  requestBuffer: {limit: 10MiB}
  sessionPersistence: {sessionName: 'a b', idleTimeout: 10ms, type: Header, cookieConfig: {lifetimeType: Permanent}}
  rateLimit: {local: {rules: [{clientSelectors: [{headers: [{name: x-user}, {name: 'a b', type: Distinct, value: c}]}]}]}}";
    let problems = document::read("f.yaml", policy("p", spec).as_bytes()).expect_err("problems");
    let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
    for expected in [
        "spec.requestBuffer.limit: \"10MiB\" is not a number of bytes, expected one such as 512Ki, 10Mi or 1G",
        "spec.sessionPersistence.sessionName: \"a b\" is not the name of a cookie or header",
        "spec.sessionPersistence.idleTimeout: is below a second, expected at least 1s",
        "spec.sessionPersistence.absoluteTimeout: is missing, expected one with lifetimeType Permanent",
        "spec.sessionPersistence.cookieConfig: goes with type Cookie, expected none",
        "clientSelectors[0].headers[0].value: is missing, expected one with type Exact",
        "clientSelectors[0].headers[1].name: \"a b\" is not the name of a header",
        "clientSelectors[0].headers[1].value: goes with type Exact, expected none",
    ] {
        assert!(problems.iter().any(|problem| problem.contains(expected)), "{expected}\nnot in {problems:#?}");
    }
}

#[test]
fn what_a_policy_on_retries_does_not_say_is_as_usual() {
    let retry = |spec: &str| {
        let config = translate(&objects(&format!("{GATEWAY}{ROUTE}{SERVICE}{}", policy("p", spec))));
        assert_eq!(config.problems, []);
        let retry = config.backends[0].resource.retry.clone().unwrap();
        (retry.reset, retry.statuses)
    };
    assert_eq!(retry("  retry: {retryOn: {httpStatusCodes: [502]}}"), (true, vec![502]));
    assert_eq!(retry("  retry: {retryOn: {}}"), (true, vec![503]));
    assert_eq!(retry("  retry: {retryOn: {triggers: []}}"), (false, vec![]));
    let round_robin = "  loadBalancer: {type: RoundRobin}\n  retry: {retryOn: {httpStatusCodes: [502]}}";
    assert_eq!(retry(round_robin), (false, vec![]));
}

#[test]
fn a_session_is_not_carried_by_a_header_that_http_goes_by() {
    let problems = |name: &str| {
        let spec = format!("  sessionPersistence: {{type: Header, sessionName: {name}}}");
        document::read("f.yaml", policy("p", &spec).as_bytes()).err().map_or(0, |problems| problems.len())
    };
    for taken in ["Transfer-Encoding", "content-length", "connection", "host", "set-cookie"] {
        assert_eq!(problems(taken), 1, "{taken}");
    }
    assert_eq!(problems("x-session"), 0);
}
