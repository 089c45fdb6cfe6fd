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
        RateLimit { requests: 2000, per_ms: 1000, per_client: false }
        RateLimit { requests: 5, per_ms: 60000, per_client: true }
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
