//! What a policy says of active health checks.

use trimtab_proxy::api::v1::{self, active_health_check::Kind};

use super::settings::positive;
use crate::{
    duration::Duration,
    policy::{ActiveHealthCheck, ActiveHealthCheckType, HealthCheck},
    problem::Report,
};

/// Checks what can be told from the policy alone, beyond its schema.
pub(super) fn check(active: &ActiveHealthCheck, report: &mut Report) {
    let field = "spec.healthCheck.active";
    positive(active.timeout, &format!("{field}.timeout"), report);
    if let Some(interval) = active.interval.filter(|interval| interval.get().as_millis() < 50) {
        report.invalid(format!("{field}.interval"), format!("{interval} is too often, expected at least 50ms"));
    }
    let thresholds =
        [("unhealthyThreshold", active.unhealthy_threshold), ("healthyThreshold", active.healthy_threshold)];
    for (name, _) in thresholds.iter().filter(|(_, threshold)| *threshold == Some(0)) {
        report.invalid(format!("{field}.{name}"), "is 0, expected at least 1");
    }
    let is_http = matches!(active.kind, ActiveHealthCheckType::HTTP | ActiveHealthCheckType::HTTPS);
    if active.http.is_some() && !is_http {
        report.invalid(format!("{field}.http"), "goes with type HTTP or HTTPS, expected none");
    }
    if active.grpc.is_some() && active.kind != ActiveHealthCheckType::GRPC {
        report.invalid(format!("{field}.grpc"), "goes with type GRPC, expected none");
    }
    let mut hostname = |name: Option<&String>, part: &str| {
        if let Some(name) = name.filter(|name| http::uri::Authority::try_from(name.as_str()).is_err()) {
            let message = format!("\"{}\" is not a host, expected one such as api.example.com", name.escape_default());
            report.invalid(format!("{field}.{part}.hostname"), message);
        }
    };
    hostname(active.http.as_ref().and_then(|http| http.hostname.as_ref()), "http");
    hostname(active.grpc.as_ref().and_then(|grpc| grpc.hostname.as_ref()), "grpc");
    let Some(http) = &active.http else { return };
    if let Some(path) = &http.path
        && (!path.starts_with('/') || path.parse::<http::uri::PathAndQuery>().is_err())
    {
        let message = format!("\"{}\" is not a path, expected one such as /healthz", path.escape_default());
        report.invalid(format!("{field}.http.path"), message);
    }
    for (index, status) in http.expected_statuses.iter().flatten().enumerate() {
        if !(100..600).contains(status) {
            let message = format!("{status} is not a status, expected 100 to 599");
            report.invalid(format!("{field}.http.expectedStatuses[{index}]"), message);
        }
    }
}

/// For the data plane.
pub(super) fn active(health: &HealthCheck) -> Option<v1::ActiveHealthCheck> {
    let active = health.active.as_ref()?;
    let (http, grpc) = (active.http.clone().unwrap_or_default(), active.grpc.clone().unwrap_or_default());
    let kind = match active.kind {
        ActiveHealthCheckType::HTTP => Kind::Http,
        ActiveHealthCheckType::HTTPS => Kind::Https,
        ActiveHealthCheckType::TCP => Kind::Tcp,
        ActiveHealthCheckType::GRPC => Kind::Grpc,
    };
    Some(v1::ActiveHealthCheck {
        kind: kind.into(),
        interval_ms: active.interval.map(Duration::as_millis_u32),
        timeout_ms: active.timeout.map(Duration::as_millis_u32),
        unhealthy_threshold: active.unhealthy_threshold,
        healthy_threshold: active.healthy_threshold,
        path: http.path.unwrap_or_default(),
        hostname: http.hostname.or(grpc.hostname).unwrap_or_default(),
        expected_statuses: http.expected_statuses.unwrap_or_default(),
        grpc_service: grpc.service.unwrap_or_default(),
        panic_threshold: health.panic_threshold,
    })
}
