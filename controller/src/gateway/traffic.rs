//! What a policy says of requests beside routing: retries, rate limits, who may ask, faults.

use trimtab_proxy::api::{self, v1};

use super::settings::{percent, positive, within};
use crate::{
    duration::Duration,
    policy::{
        Algorithm, Authorization, AuthorizationAction, BackendTrafficPolicySpec, ConsistentHash, ConsistentHashType,
        FaultInjection, HashName, HeaderMatchType, LifetimeType, RateLimitRule, RateLimitUnit, Retry, RetryTrigger,
        SessionPersistence, SessionType,
    },
    problem::Report,
};

/// Rules that are counted apart.
const RATE_LIMITS_MAX: usize = 4;
/// What clients hold, unless the policy gives it a name.
const SESSION_NAME: &str = "trimtab-session";
/// Other endpoints that a request is tried on under Trimtab's own algorithm; the budget bounds what that comes to.
const RETRIES: u32 = 3;
/// Requests a second where a rule gives no limit.
const RATE: u32 = 2_000;

/// Checks what can be told from the policy alone, beyond its schema.
pub(super) fn check(spec: &BackendTrafficPolicySpec, algorithm: Algorithm, report: &mut Report) {
    if let Some(hash) = spec.load_balancer.as_ref().and_then(|balancer| balancer.consistent_hash.as_ref()) {
        let field = "spec.loadBalancer.consistentHash";
        if !matches!(algorithm, Algorithm::RingHash | Algorithm::Maglev) {
            report.noted(field, "does nothing with this loadBalancer.type, it is for RingHash and Maglev");
        }
        let name = |name: &Option<HashName>| name.as_ref().map(|named| named.name.clone()).unwrap_or_default();
        match hash.kind {
            ConsistentHashType::Header if http::HeaderName::from_bytes(name(&hash.header).as_bytes()).is_err() => {
                report.invalid(
                    format!("{field}.header.name"),
                    "is not the name of a header, expected one with type Header",
                );
            }
            ConsistentHashType::Cookie if name(&hash.cookie).is_empty() => {
                report.invalid(
                    format!("{field}.cookie.name"),
                    "is missing, expected the name of a cookie with type Cookie",
                );
            }
            _ => {}
        }
    }
    if let Some(parameters) = spec.load_balancer.as_ref().and_then(|balancer| balancer.parameters.as_ref()) {
        parameters.check(algorithm, report);
    }
    if let Some(settings) = &spec.retry {
        percent(settings.budget.as_ref().and_then(|budget| budget.percent), "spec.retry.budget.percent", report);
        let timeout = settings.per_retry.as_ref().and_then(|per_retry| per_retry.timeout);
        positive(timeout, "spec.retry.perRetry.timeout", report);
        for (index, status) in retry(Some(settings), algorithm).statuses.iter().enumerate() {
            if !(400..600).contains(status) {
                let message = format!("{status} is not the status of a failure, expected 400 to 599");
                report.invalid(format!("spec.retry.retryOn.httpStatusCodes[{index}]"), message);
            }
        }
    }
    let rules = spec.rate_limit.as_ref().and_then(|limit| limit.local.as_ref()).map(|local| &local.rules);
    if rules.is_some_and(|rules| !(1..=RATE_LIMITS_MAX).contains(&rules.len())) {
        report.invalid(
            "spec.rateLimit.local.rules",
            format!("has {} entries, expected 1 to {RATE_LIMITS_MAX}", rules.map_or(0, Vec::len)),
        );
    }
    for (index, rule) in rules.into_iter().flatten().enumerate() {
        let field = format!("spec.rateLimit.local.rules[{index}]");
        if rule.limit.as_ref().is_some_and(|limit| limit.requests == 0) {
            report.invalid(format!("{field}.limit.requests"), "is 0, expected at least 1");
        }
        for (n, selector) in rule.client_selectors.iter().flatten().enumerate() {
            let field = format!("{field}.clientSelectors[{n}].sourceCIDR");
            let value = selector.source_cidr.as_ref().map(|cidr| cidr.value.as_deref().unwrap_or("0.0.0.0/0"));
            for (h, header) in selector.headers.iter().flatten().enumerate() {
                let field = format!("spec.rateLimit.local.rules[{index}].clientSelectors[{n}].headers[{h}]");
                if http::HeaderName::from_bytes(header.name.as_bytes()).is_err() {
                    let message = format!("\"{}\" is not the name of a header", header.name.escape_default());
                    report.invalid(format!("{field}.name"), message);
                }
                let distinct = header.kind == Some(HeaderMatchType::Distinct);
                if distinct == header.value.is_some() {
                    let expected = if distinct {
                        "goes with type Exact, expected none"
                    } else {
                        "is missing, expected one with type Exact"
                    };
                    report.invalid(format!("{field}.value"), expected);
                } else if header.value.as_ref().is_some_and(|value| http::HeaderValue::from_str(value).is_err()) {
                    report.invalid(format!("{field}.value"), "is not the value of a header");
                }
            }
            match value {
                None if selector.headers.as_ref().is_some_and(|headers| !headers.is_empty()) => {}
                None => report.invalid(field, "is missing, expected type Distinct"),
                Some("0.0.0.0/0" | "::/0") => {}
                Some(other) => report.invalid(
                    format!("{field}.value"),
                    format!("\"{other}\" is not supported, expected \"0.0.0.0/0\": all clients, each by itself"),
                ),
            }
        }
    }
    for (index, rule) in spec.authorization.iter().flat_map(|access| access.rules.iter().flatten()).enumerate() {
        for (n, text) in rule.principal.client_cidrs.iter().enumerate() {
            if !api::is_network(text) {
                report.invalid(
                    format!("spec.authorization.rules[{index}].principal.clientCIDRs[{n}]"),
                    format!("\"{text}\" is not a range of addresses, expected one such as 10.0.0.0/8 or 2001:db8::/32"),
                );
            }
        }
    }
    if let Some(session) = &spec.session_persistence {
        check_session(session, report);
    }
    if let Some(buffer) = &spec.request_buffer
        && bytes(&buffer.limit).is_none()
    {
        let message = format!(
            "\"{}\" is not a number of bytes, expected one such as 512Ki, 10Mi or 1G",
            buffer.limit.escape_default()
        );
        report.invalid("spec.requestBuffer.limit", message);
    }
    if let Some(injection) = &spec.fault_injection {
        let field = "spec.faultInjection";
        if let Some(abort) = &injection.abort {
            within(abort.percentage, 0.0..=100.0, &format!("{field}.abort.percentage"), report);
            within(Some(f64::from(abort.http_status)), 200.0..=599.0, &format!("{field}.abort.httpStatus"), report);
        }
        let percentage = injection.delay.as_ref().and_then(|delay| delay.percentage);
        within(percentage, 0.0..=100.0, &format!("{field}.delay.percentage"), report);
    }
}

fn check_session(session: &SessionPersistence, report: &mut Report) {
    let field = "spec.sessionPersistence";
    let name = session.session_name.as_deref().unwrap_or(SESSION_NAME);
    // The tokens of HTTP are the names of cookies too.
    if http::HeaderName::from_bytes(name.as_bytes()).is_err() {
        let message = format!("\"{}\" is not the name of a cookie or header", name.escape_default());
        report.invalid(format!("{field}.sessionName"), message);
    }
    if session.kind == Some(SessionType::Header)
        && http::HeaderName::from_bytes(name.as_bytes()).is_ok()
        && !api::is_session_header(name)
    {
        let message = format!("\"{name}\" is a header that HTTP itself goes by, expected one such as x-session");
        report.invalid(format!("{field}.sessionName"), message);
    }
    for (name, timeout) in [("absoluteTimeout", session.absolute_timeout), ("idleTimeout", session.idle_timeout)] {
        if timeout.is_some_and(|timeout| timeout.get().as_secs() == 0) {
            report.invalid(format!("{field}.{name}"), "is below a second, expected at least 1s");
        }
    }
    let permanent =
        session.cookie_config.as_ref().and_then(|config| config.lifetime_type) == Some(LifetimeType::Permanent);
    if permanent && session.absolute_timeout.is_none() {
        report.invalid(format!("{field}.absoluteTimeout"), "is missing, expected one with lifetimeType Permanent");
    }
    if session.kind == Some(SessionType::Header) && session.cookie_config.is_some() {
        report.invalid(format!("{field}.cookieConfig"), "goes with type Cookie, expected none");
    }
}

/// For the data plane.
pub(super) fn session(session: &SessionPersistence) -> v1::SessionPersistence {
    let name = session.session_name.clone().unwrap_or_else(|| SESSION_NAME.to_owned());
    let seconds =
        |timeout: Option<Duration>| timeout.map(|timeout| u32::try_from(timeout.get().as_secs()).unwrap_or(u32::MAX));
    let (cookie, header) = match session.kind.unwrap_or_default() {
        SessionType::Cookie => (name, String::new()),
        SessionType::Header => (String::new(), name),
    };
    let lifetime = session.cookie_config.as_ref().and_then(|config| config.lifetime_type).unwrap_or_default();
    v1::SessionPersistence {
        cookie,
        header,
        absolute_timeout_s: seconds(session.absolute_timeout),
        idle_timeout_s: seconds(session.idle_timeout),
        permanent: lifetime == LifetimeType::Permanent,
        // Where it is encoded for proxies they are put in; they stand nowhere else.
        keys: Vec::new(),
    }
}

/// A number of bytes in the manner of Kubernetes' quantities.
pub(super) fn bytes(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor = match unit {
        "" => 1,
        "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// What consistent hashing goes by.
pub(super) fn hash(hash: &ConsistentHash) -> v1::ConsistentHash {
    let name = |kind: ConsistentHashType, name: &Option<HashName>| {
        let named = name.as_ref().filter(|_| hash.kind == kind);
        named.map(|named| named.name.clone()).unwrap_or_default()
    };
    v1::ConsistentHash {
        header: name(ConsistentHashType::Header, &hash.header),
        cookie: name(ConsistentHashType::Cookie, &hash.cookie),
        version: hash.version.clone().unwrap_or_default(),
    }
}

/// A baseline passes on what it gets unless it is told to do otherwise, as its original does.
pub(super) fn retry(settings: Option<&Retry>, algorithm: Algorithm) -> v1::Retry {
    let on = settings.and_then(|settings| settings.retry_on.as_ref());
    let (reset, by_status) = match on.and_then(|on| on.triggers.as_ref()) {
        Some(triggers) => {
            (triggers.contains(&RetryTrigger::Reset), triggers.contains(&RetryTrigger::RetriableStatusCodes))
        }
        None => (algorithm == Algorithm::Trimtab, algorithm == Algorithm::Trimtab),
    };
    let statuses = on.and_then(|on| on.http_status_codes.clone()).unwrap_or_else(|| vec![503]);
    let budget = settings.and_then(|settings| settings.budget.as_ref());
    v1::Retry {
        num_retries: settings
            .and_then(|settings| settings.num_retries)
            .or_else(|| (algorithm == Algorithm::Trimtab).then_some(RETRIES)),
        statuses: if by_status { statuses } else { Vec::new() },
        reset,
        per_try_timeout_ms: settings
            .and_then(|settings| settings.per_retry.as_ref()?.timeout)
            .map(Duration::as_millis_u32),
        budget_percent: budget.and_then(|budget| budget.percent),
        budget_min: budget.and_then(|budget| budget.min_retry_concurrency),
    }
}

pub(super) fn rate_limits(policy: &BackendTrafficPolicySpec) -> Vec<v1::RateLimit> {
    let limit = |rule: &RateLimitRule| {
        let (requests, per_ms) = rule.limit.as_ref().map_or((RATE, 1_000), |limit| {
            let per_ms = match limit.unit {
                RateLimitUnit::Second => 1_000,
                RateLimitUnit::Minute => 60_000,
                RateLimitUnit::Hour => 3_600_000,
            };
            (limit.requests, per_ms)
        });
        let selectors = rule.client_selectors.as_deref().unwrap_or_default();
        let headers = selectors.iter().flat_map(|selector| selector.headers.iter().flatten());
        v1::RateLimit {
            requests,
            per_ms,
            per_client: selectors.iter().any(|selector| selector.source_cidr.is_some()),
            headers: headers.map(|h| v1::RateLimitHeader { name: h.name.clone(), value: h.value.clone() }).collect(),
            per_route: rule.per_route.unwrap_or(false),
        }
    };
    let local = policy.rate_limit.as_ref().and_then(|limit| limit.local.as_ref());
    local.iter().flat_map(|local| &local.rules).map(limit).collect()
}

pub(super) fn access(authorization: &Authorization) -> v1::Access {
    let rules = authorization.rules.iter().flatten().map(|rule| v1::AccessRule {
        allow: rule.action == AuthorizationAction::Allow,
        networks: rule.principal.client_cidrs.clone(),
    });
    let others = authorization.default_action.unwrap_or(AuthorizationAction::Deny);
    v1::Access { rules: rules.collect(), deny_others: others == AuthorizationAction::Deny }
}

pub(super) fn faults(injection: &FaultInjection) -> v1::Faults {
    let percent = |percentage: Option<f64>| percentage.unwrap_or(100.0) as f32;
    v1::Faults {
        abort: injection
            .abort
            .as_ref()
            .map(|abort| v1::FaultAbort { status: abort.http_status, percent: percent(abort.percentage) }),
        delay: injection.delay.as_ref().map(|delay| v1::FaultDelay {
            delay_ms: delay.fixed_delay.as_millis_u32(),
            percent: percent(delay.percentage),
        }),
    }
}
