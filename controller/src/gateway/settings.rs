//! A policy and the endpoints it is for, to what proxies and the control loop get. This is where the defaults that depend on each
//! other are settled; plain defaults stay unset and are the consumer's.

use std::{ops::RangeInclusive, time::Duration};

use http::Uri;
use trimtab_model::{decision::Mode, observation::EndpointKey};
use trimtab_proxy::api::v1;

use super::{
    BackendSpec, EndpointSpec, GROUP, GuardrailSettings, ScrapeSettings,
    endpoints::{self, Found, Placed},
    health, policies, traffic,
};
use crate::{
    balancing::Parameters,
    duration,
    policy::{
        Adaptive, AdaptiveMode, Algorithm, BackendTrafficPolicy, BackendTrafficPolicySpec, ClassPriority, Classes,
        MetricsScheme, Terms,
    },
    problem::Report,
};

/// Scrapes are this far apart unless the policy says otherwise: one a tick.
pub const SCRAPE_INTERVAL: Duration = Duration::from_millis(500);

/// Scrapes are at least this far apart: more often tells nothing new and costs the endpoints.
pub const SCRAPE_INTERVAL_MIN: Duration = Duration::from_millis(100);

/// Longest name of a header that classes are told by.
const CLASS_HEADER_BYTES_MAX: usize = 128;
/// Longest pattern of a priority, and most priorities: as the data plane takes them.
const PATTERN_BYTES_MAX: usize = 512;
const PRIORITIES_MAX: usize = 64;

/// Where metrics are unless the policy says otherwise.
pub const METRICS_PATH: &str = "/metrics";

/// Checks what can be told from the policy alone, beyond its schema.
pub fn check(policy: &BackendTrafficPolicy, report: &mut Report) {
    let spec = &policy.spec;
    if spec.target_refs.is_empty() {
        report.invalid("spec.targetRefs", "is empty, expected at least one Service or HTTPRoute");
    }
    for (index, target) in spec.target_refs.iter().enumerate() {
        let kind = target.kind.as_deref().unwrap_or("Service");
        if (target.group.as_deref().unwrap_or_default(), kind) != ("", "Service") && !policies::is_route(target) {
            report.invalid(
                format!("spec.targetRefs[{index}].kind"),
                format!("{kind} is not supported, expected Service (group \"\") or HTTPRoute (group {GROUP})"),
            );
        }
        if target.name.is_empty() {
            let field = format!("spec.targetRefs[{index}].name");
            report.invalid(field, "is empty, expected the name of a Service or HTTPRoute");
        }
    }
    if let Some(said) = &spec.health_check {
        percent(said.panic_threshold, "spec.healthCheck.panicThreshold", report);
        if let Some(active) = &said.active {
            health::check(active, report);
        }
        if let Some(passive) = &said.passive {
            let field = "spec.healthCheck.passive";
            percent(passive.max_ejection_percent, &format!("{field}.maxEjectionPercent"), report);
            positive(passive.base_ejection_time, &format!("{field}.baseEjectionTime"), report);
            positive(passive.max_ejection_time, &format!("{field}.maxEjectionTime"), report);
            if let (Some(base), Some(max)) = (passive.base_ejection_time, passive.max_ejection_time)
                && max < base
            {
                report.invalid(
                    format!("{field}.maxEjectionTime"),
                    format!("{max} is below baseEjectionTime, expected at least {base}"),
                );
            }
        }
    }
    if let Some(admission) = &spec.admission_control
        && let (Some(min), Some(max)) = (admission.min_concurrency, admission.max_concurrency)
        && max < min
    {
        report.invalid(
            "spec.admissionControl.maxConcurrency",
            format!("{max} is below minConcurrency, expected at least {min}"),
        );
    }
    if let Some(timeout) = &spec.timeout {
        positive(timeout.tcp.as_ref().and_then(|tcp| tcp.connect_timeout), "spec.timeout.tcp.connectTimeout", report);
        let idle = timeout.http.as_ref().and_then(|http| http.connection_idle_timeout);
        positive(idle, "spec.timeout.http.connectionIdleTimeout", report);
        let grace = timeout.http.as_ref().and_then(|http| http.body_grace_period);
        positive(grace, "spec.timeout.http.bodyGracePeriod", report);
    }
    traffic::check(spec, algorithm(spec), report);
    if let Some(adaptive) = &spec.adaptive {
        check_adaptive(adaptive, algorithm(spec), report);
    }
}

fn check_adaptive(adaptive: &Adaptive, algorithm: Algorithm, report: &mut Report) {
    if adaptive.mode == Some(AdaptiveMode::Active) && !algorithm.uses_weights() {
        let message = "Active needs an algorithm that heeds weights, expected loadBalancer.type Trimtab, WeightedRoundRobin, DecayingWeights or Locality, or mode Shadow";
        report.invalid("spec.adaptive.mode", message);
    }
    positive(
        adaptive.objective.as_ref().and_then(|objective| objective.latency),
        "spec.adaptive.objective.latency",
        report,
    );
    if adaptive.model.as_deref() == Some("") {
        report.invalid("spec.adaptive.model", "is empty, expected \"builtin\" or the path of a checkpoint");
    }
    if let Some(guardrails) = &adaptive.guardrails {
        let field = "spec.adaptive.guardrails";
        within(guardrails.share_min, 0.001..=1.0, &format!("{field}.shareMin"), report);
        within(guardrails.share_max, 1.0..=1000.0, &format!("{field}.shareMax"), report);
        within(guardrails.step_max, 1.02..=1000.0, &format!("{field}.stepMax"), report);
        positive(guardrails.stale_after, &format!("{field}.staleAfter"), report);
        let not_yet = [
            ("blackoutPeriod", guardrails.blackout_period),
            ("weightExpirationPeriod", guardrails.weight_expiration_period),
        ];
        for (name, _) in not_yet.iter().filter(|(_, value)| value.is_some()) {
            report.unresolved(format!("{field}.{name}"), "is not supported yet and has no effect");
        }
    }
    if let Some(classes) = &adaptive.classes {
        check_classes(classes, report);
    }
    if let Some(metrics) = &adaptive.metrics {
        let field = "spec.adaptive.metrics";
        if metrics.scheme == Some(MetricsScheme::Https) {
            report.invalid(format!("{field}.scheme"), "https is not supported yet, expected http");
        }
        if metrics.port == Some(0) {
            report.invalid(format!("{field}.port"), "0 is not a port, expected 1 to 65535");
        }
        if let Some(path) = &metrics.path
            && (!path.starts_with('/') || path.parse::<http::uri::PathAndQuery>().is_err())
        {
            report.invalid(
                format!("{field}.path"),
                format!("\"{}\" is not a path, expected one such as {METRICS_PATH}", path.escape_default()),
            );
        }
        if let Some(interval) = metrics.interval
            && interval.get() < SCRAPE_INTERVAL_MIN
        {
            report.invalid(
                format!("{field}.interval"),
                format!("{interval} is too often, expected at least {}ms", SCRAPE_INTERVAL_MIN.as_millis()),
            );
        }
        // Each of them is the name of a series.
        let names = metrics.names.as_ref().and_then(|names| serde_json::to_value(names).ok());
        for (which, name) in names.as_ref().and_then(|names| names.as_object()).into_iter().flatten() {
            let name = name.as_str().unwrap_or_default();
            if !is_metric_name(name) {
                let message = format!("\"{}\" is not the name of a metric", name.escape_default());
                report.invalid(format!("{field}.names.{which}"), message);
            }
        }
    }
}

/// As Prometheus' text format has them.
fn is_metric_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b':');
    !name.is_empty() && name.bytes().all(plain) && !name.starts_with(|first: char| first.is_ascii_digit())
}

fn check_classes(classes: &Classes, report: &mut Report) {
    let field = "spec.adaptive.classes";
    if let Some(header) = &classes.header
        && (header.len() > CLASS_HEADER_BYTES_MAX || http::HeaderName::from_bytes(header.as_bytes()).is_err())
    {
        report.invalid(
            format!("{field}.header"),
            format!(
                "\"{}\" is not the name of a header, expected one such as x-request-class",
                header.escape_default()
            ),
        );
    }
    let priorities = classes.priorities.as_deref().unwrap_or_default();
    if priorities.len() > PRIORITIES_MAX {
        report.invalid(
            format!("{field}.priorities"),
            format!("has {} entries, expected at most {PRIORITIES_MAX}", priorities.len()),
        );
    }
    for (index, priority) in priorities.iter().enumerate() {
        let field = format!("{field}.priorities[{index}]");
        if !(1..=PATTERN_BYTES_MAX).contains(&priority.pattern.len()) {
            let message = format!("has {} bytes, expected 1 to {PATTERN_BYTES_MAX}", priority.pattern.len());
            report.invalid(format!("{field}.match"), message);
        }
        within(Some(priority.priority), 0.0..=1.0, &format!("{field}.priority"), report);
    }
}

fn request_classes(classes: &Classes) -> v1::RequestClasses {
    let priority =
        |said: &ClassPriority| v1::ClassPriority { r#match: said.pattern.clone(), priority: said.priority as f32 };
    v1::RequestClasses {
        enabled: classes.enabled,
        header: classes.header.clone().unwrap_or_default(),
        priorities: classes.priorities.iter().flatten().map(priority).collect(),
    }
}

fn rule_terms(terms: Terms) -> v1::RuleTerms {
    v1::RuleTerms {
        weights: terms.weights,
        latency: terms.latency,
        errors: terms.errors,
        class_costs: terms.class_costs,
        affinity: terms.affinity,
        class_shedding: terms.class_shedding,
        peers: terms.peers,
    }
}

/// The backend `name` with these endpoints under this policy.
pub(super) fn backend(
    name: String,
    placed: &[Placed],
    protocol: v1::Protocol,
    policy: Option<&BackendTrafficPolicySpec>,
) -> BackendSpec {
    let default = BackendTrafficPolicySpec::default();
    let policy = policy.unwrap_or(&default);
    let adaptive = policy.adaptive.clone().unwrap_or_default();
    let metrics = adaptive.metrics.clone().unwrap_or_default();
    let algorithm = algorithm(policy);
    let resource = v1::Backend {
        name,
        generation: endpoints::generation(placed),
        endpoints: Vec::new(),
        endpoints_version: 0,
        changes: None,
        protocol: protocol.into(),
        algorithm: algorithm.data_plane() as i32,
        outlier_detection: Some(outlier_detection(policy, algorithm)),
        admission_control: Some(admission_control(policy, algorithm)),
        circuit_breaker: policy.circuit_breaker.as_ref().map(|breaker| v1::CircuitBreaker {
            max_connections: breaker.max_connections,
            max_parallel_requests: breaker.max_parallel_requests,
        }),
        retry: Some(traffic::retry(policy.retry.as_ref(), algorithm)),
        hash: policy.load_balancer.as_ref().and_then(|b| b.consistent_hash.as_ref()).map(traffic::hash),
        balancing: policy.load_balancer.as_ref().and_then(|b| b.parameters.as_ref()).map(Parameters::data_plane),
        rate_limits: traffic::rate_limits(policy),
        access: policy.authorization.as_ref().map(traffic::access),
        faults: policy.fault_injection.as_ref().map(traffic::faults),
        active_health_check: policy.health_check.as_ref().and_then(health::active),
        session: policy.session_persistence.as_ref().map(traffic::session),
        max_request_body_bytes: policy.request_buffer.as_ref().and_then(|buffer| traffic::bytes(&buffer.limit)),
        tls: None,
        timeouts: policy.timeout.as_ref().map(|timeout| v1::BackendTimeouts {
            connect_timeout_ms: timeout
                .tcp
                .as_ref()
                .and_then(|tcp| tcp.connect_timeout)
                .map(duration::Duration::as_millis_u32),
            connection_idle_timeout_ms: timeout
                .http
                .as_ref()
                .and_then(|http| http.connection_idle_timeout)
                .map(duration::Duration::as_millis_u32),
            min_body_bytes_per_s: timeout.http.as_ref().and_then(|http| http.min_body_rate),
            body_grace_ms: timeout
                .http
                .as_ref()
                .and_then(|http| http.body_grace_period)
                .map(duration::Duration::as_millis_u32),
        }),
        objective_ms: adaptive
            .objective
            .as_ref()
            .and_then(|objective| objective.latency)
            .map(|latency| latency.get().as_secs_f32() * 1e3),
        classes: adaptive.classes.as_ref().map(request_classes),
        terms: adaptive.terms.map(rule_terms),
    };
    let scraped = metrics.scrape.unwrap_or(true);
    BackendSpec {
        resource,
        endpoints: placed.iter().map(|endpoint| endpoint.spec.clone()).collect(),
        algorithm,
        mode: mode(&adaptive, algorithm),
        model: adaptive.model.clone(),
        guardrails: guardrails(policy, &adaptive),
        scrape: scraped.then(|| ScrapeSettings {
            interval: metrics.interval.map_or(SCRAPE_INTERVAL, duration::Duration::get),
            names: metrics.names.clone().unwrap_or_default(),
        }),
        replicas: None,
    }
}

fn algorithm(policy: &BackendTrafficPolicySpec) -> Algorithm {
    policy.load_balancer.as_ref().and_then(|balancer| balancer.algorithm).unwrap_or_default()
}

fn mode(adaptive: &Adaptive, algorithm: Algorithm) -> Mode {
    match adaptive.mode {
        Some(AdaptiveMode::Off) => Mode::Off,
        Some(AdaptiveMode::Shadow) => Mode::Shadow,
        Some(AdaptiveMode::Active) => Mode::Active,
        None if algorithm.uses_weights() => Mode::Active,
        None => Mode::Off,
    }
}

/// What the control loop gets to know of an endpoint under this policy.
pub(super) fn endpoint(found: &Found, policy: Option<&BackendTrafficPolicySpec>) -> EndpointSpec {
    let metrics = policy.and_then(|policy| policy.adaptive.as_ref()?.metrics.as_ref());
    let said = metrics.and_then(|metrics| metrics.scrape);
    // What the policy says goes before what the pod says of itself.
    let pod = found.pod.as_deref();
    let scraped = said.unwrap_or_else(|| pod.is_none_or(|pod| pod.scrape != Some(false)));
    let scrape_url = || {
        let (port, path) = (metrics.and_then(|m| m.port), metrics.and_then(|m| m.path.as_deref()));
        let mut target = found.address.clone();
        target.port = port.or(pod.and_then(|pod| pod.metrics_port)).unwrap_or(target.port);
        let path = path.or(pod.and_then(|pod| pod.metrics_path.as_deref())).unwrap_or(METRICS_PATH);
        Uri::builder().scheme("http").authority(target.to_string()).path_and_query(path).build().ok()
    };
    EndpointSpec {
        key: EndpointKey(found.key),
        name: found.name.clone(),
        address: found.address.to_string(),
        ready: found.ready,
        draining: found.draining,
        zone: found.zone.clone(),
        scrape_url: scraped.then(scrape_url).flatten(),
        ready_since_ms: found.pod.as_ref().and_then(|pod| pod.ready_since_ms),
        restarts: None,
    }
}

/// A baseline ejects nothing unless it is told to, as its original does.
fn outlier_detection(policy: &BackendTrafficPolicySpec, algorithm: Algorithm) -> v1::OutlierDetection {
    match policy.health_check.as_ref().and_then(|health| health.passive.as_ref()) {
        Some(passive) => v1::OutlierDetection {
            disabled: false,
            consecutive_5xx_errors: passive.consecutive_5xx_errors,
            consecutive_gateway_failures: passive.consecutive_gateway_errors,
            base_ejection_time_ms: passive.base_ejection_time.map(duration::Duration::as_millis_u32),
            max_ejection_time_ms: passive.max_ejection_time.map(duration::Duration::as_millis_u32),
            max_ejection_percent: passive.max_ejection_percent,
        },
        None => v1::OutlierDetection { disabled: algorithm != Algorithm::Trimtab, ..Default::default() },
    }
}

fn admission_control(policy: &BackendTrafficPolicySpec, algorithm: Algorithm) -> v1::AdmissionControl {
    let set = policy.admission_control.clone().unwrap_or_default();
    v1::AdmissionControl {
        enabled: set.enabled.unwrap_or(algorithm == Algorithm::Trimtab),
        min_concurrency: set.min_concurrency,
        max_concurrency: set.max_concurrency,
    }
}

fn guardrails(policy: &BackendTrafficPolicySpec, adaptive: &Adaptive) -> GuardrailSettings {
    let set = adaptive.guardrails.clone().unwrap_or_default();
    GuardrailSettings {
        share_min: set.share_min,
        share_max: set.share_max,
        step_max: set.step_max,
        stale_after: set.stale_after.map(duration::Duration::get),
        blackout: set.blackout_period.map(duration::Duration::get),
        weight_expiration: set.weight_expiration_period.map(duration::Duration::get),
        panic_threshold: policy
            .health_check
            .as_ref()
            .and_then(|health| health.panic_threshold)
            .map(|percent| f64::from(percent) / 100.0),
        slow_start: policy.slow_start.as_ref().and_then(|slow_start| slow_start.window).map(duration::Duration::get),
    }
}

pub(super) fn percent(value: Option<u32>, field: &str, report: &mut Report) {
    if let Some(value) = value.filter(|value| *value > 100) {
        report.invalid(field, format!("{value} is not a percentage, expected 0 to 100"));
    }
}

pub(super) fn positive(value: Option<duration::Duration>, field: &str, report: &mut Report) {
    if value.is_some_and(|value| value.get().is_zero()) {
        report.invalid(field, "is zero, expected at least 1ms");
    }
}

pub(super) fn within(value: Option<f64>, range: RangeInclusive<f64>, field: &str, report: &mut Report) {
    if let Some(value) = value.filter(|value| !range.contains(value)) {
        report.invalid(field, format!("{value} is out of range, expected {} to {}", range.start(), range.end()));
    }
}
