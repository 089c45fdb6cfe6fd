//! Validated forms of what the controller pushes about backends. What exists here holds: the wire is checked once, at this edge, and an
//! [`InvalidResource`] names the resource and the field. Every unset field's default is stated at its field.

use std::{
    fmt,
    num::{NonZeroU16, NonZeroU32},
    sync::Arc,
    time::Duration,
};

use crate::{api::v1, http::pace::BodyRate};

mod algorithm;
mod balancing;
mod classes;
pub(crate) mod endpoints;
pub mod health;
mod peers;
pub mod session;
pub mod traffic;

pub use algorithm::{Algorithm, UnknownAlgorithm};
pub use balancing::Balancing;
pub use classes::{ClassPriority, RequestClasses, RuleTerms};
pub use endpoints::BackendUpdate;
pub use peers::{MacKey, Peer, PeerTable};
pub use traffic::TrafficPolicy;

/// A pushed resource that is refused as a whole.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{resource}: {field}: {reason}")]
pub struct InvalidResource {
    /// Kind and name, e.g. `Backend default/web:80`.
    pub resource: String,
    /// Path of the field, e.g. `endpoints[3].port`.
    pub field: String,
    /// What is wrong with it and what would be right.
    pub reason: String,
}

/// Identity of an endpoint that outlives its address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointKey(pub u64);

impl fmt::Display for EndpointKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:016x}", self.0)
    }
}

/// A backend as configured: one port of a Service, its endpoints, and how to reach them.
#[derive(Debug, Clone, PartialEq)]
pub struct BackendConfig {
    /// `namespace/service:port`.
    pub name: String,
    /// Fingerprint of the endpoints and their order.
    pub generation: u64,
    /// The endpoints; keys are distinct. Shared with the lists before and after it.
    pub endpoints: Vec<Arc<EndpointConfig>>,
    /// What they speak.
    pub protocol: Protocol,
    /// How one is chosen.
    pub algorithm: Algorithm,
    /// When one is taken out.
    pub outlier_detection: OutlierDetection,
    /// When a request is turned away.
    pub admission_control: AdmissionControl,
    /// Hard limits.
    pub circuit_breaker: CircuitBreaker,
    /// How often a request that never reached an endpoint is tried on another one. Default 1.
    pub num_retries: u32,
    /// Retries, rate limits, who may ask, faults.
    pub traffic: TrafficPolicy,
    /// Time limits towards endpoints.
    pub timeouts: BackendTimeouts,
    /// The latency objective, where one is set.
    pub objective: Option<Duration>,
    /// How its requests are told apart.
    pub classes: RequestClasses,
    /// What the adaptive rule takes into account.
    pub terms: RuleTerms,
}

/// What endpoints speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Protocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2 in clear text, without asking beforehand.
    Http2,
}

/// One address of a backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointConfig {
    /// Identity.
    pub key: EndpointKey,
    /// IP address or host name.
    pub host: String,
    /// Port.
    pub port: NonZeroU16,
    /// For people.
    pub name: String,
    /// Zone; empty if unknown.
    pub zone: String,
    /// Whether it gets new requests.
    pub state: EndpointState,
}

/// Whether an endpoint gets new requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EndpointState {
    /// It does.
    #[default]
    Ready,
    /// It does not; those in flight finish.
    Draining,
}

/// Passive outlier detection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutlierDetection {
    /// Off. Default: on.
    pub disabled: bool,
    /// 5xx answers or failures in a row that eject. Default 5.
    pub consecutive_5xx_errors: NonZeroU32,
    /// Failures to get any answer in a row that eject. Default 3.
    pub consecutive_gateway_failures: NonZeroU32,
    /// Length of a first ejection; each further one takes twice as long. Default 10 s.
    pub base_ejection_time: Duration,
    /// Longest ejection. Default 5 min.
    pub max_ejection_time: Duration,
    /// Share of the endpoints that may be ejected at a time, 0..=100; of two or more, one always may unless this is 0, and never all. Default 50.
    pub max_ejection_percent: u8,
}

impl Default for OutlierDetection {
    fn default() -> Self {
        const FIVE: NonZeroU32 = NonZeroU32::new(5).expect("5 is not 0");
        const THREE: NonZeroU32 = NonZeroU32::new(3).expect("3 is not 0");
        Self {
            disabled: false,
            consecutive_5xx_errors: FIVE,
            consecutive_gateway_failures: THREE,
            base_ejection_time: Duration::from_secs(10),
            max_ejection_time: Duration::from_secs(300),
            max_ejection_percent: 50,
        }
    }
}

/// The concurrency limiter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdmissionControl {
    /// Default: off.
    pub enabled: bool,
    /// The limit never sinks below this. Default: the number of endpoints, one request each.
    pub min_concurrency: Option<u32>,
    /// Nor rises above this; also where it starts. Default 1,000,000.
    pub max_concurrency: u32,
}

impl Default for AdmissionControl {
    fn default() -> Self {
        Self { enabled: false, min_concurrency: None, max_concurrency: 1_000_000 }
    }
}

/// Hard limits of a proxy process towards a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CircuitBreaker {
    /// Connections. Default: no limit.
    pub max_connections: Option<u32>,
    /// Requests in flight. Default: no limit.
    pub max_parallel_requests: Option<u32>,
}

/// Time limits towards endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackendTimeouts {
    /// Until a connection stands. Default 1 s.
    pub connect: Duration,
    /// After which an unused connection is closed. Default 60 s.
    pub connection_idle: Duration,
    /// How slowly clients may send and take bodies; `None`: as they like, while bytes flow.
    pub body_rate: Option<BodyRate>,
}

impl Default for BackendTimeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(1),
            connection_idle: Duration::from_secs(60),
            body_rate: Some(BodyRate::default()),
        }
    }
}

/// The weights of one tick.
#[derive(Debug, Clone, PartialEq)]
pub struct WeightTable {
    /// Name of the backend.
    pub backend: String,
    /// Generation of the endpoint list that the weights are about.
    pub generation: u64,
    /// The tick that decided them.
    pub tick: u64,
    /// Relative; each finite and > 0.
    pub weights: Vec<f32>,
    /// What an endpoint's score is divided by: what is asked for beyond capacity. One a weight, each finite and > 0; empty: all 1.
    pub adjustments: Vec<f32>,
    /// Parameters that go with them.
    pub parameters: RuleParameters,
    /// Proxies that send to the backend, this one included.
    pub proxies: NonZeroU32,
    /// This proxy's position among them in an order that all agree on; `None`: unknown.
    pub position: Option<u32>,
    /// Derived objective, for a backend that carries none.
    pub objective: Option<Duration>,
    /// Keys of the proxies that send to the backend, sorted; empty where the controller does not say.
    pub proxy_keys: Vec<u64>,
}

/// Identity of a class of requests, the same in every proxy and version: a stable hash of what defines it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct ClassKey(pub u64);

impl fmt::Display for ClassKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// What is known of the classes of a backend's requests. Whatever is not listed is class 0.
#[derive(Debug, Clone, PartialEq)]
pub struct ClassTable {
    /// Name of the backend.
    pub backend: String,
    /// Generation of the endpoint list that `factors` and `slots` are about.
    pub generation: u64,
    /// At most 15.
    pub classes: Vec<ClassCost>,
    /// Cost of a request of none of them, in milliseconds; finite and > 0.
    pub other_cost_ms: f32,
    /// What a class costs at an endpoint relative to its cost at the average one; endpoint-major, a row being class 0 and then
    /// `classes`. Empty: all 1.
    pub factors: Vec<f32>,
    /// Requests that an endpoint serves at once, one an endpoint; 0 where that is unknown. Empty: all unknown.
    pub slots: Vec<f32>,
}

/// What is known of one class.
#[derive(Debug, Clone, PartialEq)]
pub struct ClassCost {
    /// Which.
    pub key: ClassKey,
    /// The `RequestClass` that stands for it, 1..=15, no two alike: the same in all proxies, and as long as the class is told apart, as requests
    /// in flight are counted by it.
    pub number: u8,
    /// For people: `GET /users/{}`.
    pub name: String,
    /// What a request costs at the average endpoint, in milliseconds; finite and > 0.
    pub cost_ms: f32,
    /// Its share of the requests, 0..=1.
    pub share: f32,
    /// Share of the concurrency limit that it may fill whatever it costs, 0..=1; 1: it is never shed for its cost.
    pub priority: f32,
}

/// Parameters of the pick rule: an endpoint with `n` requests in flight scores
/// `(n + offset)^exponent / weight · (latency / latency_reference)^latency_exponent · (1 − error)^−error_exponent`, and the lowest is picked.
/// The ranges make overflow impossible.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RuleParameters {
    /// κ, 0..=8: how steeply a queue counts.
    pub exponent: f32,
    /// g, 0.001..=10⁶: requests assumed to be there beside those in flight.
    pub offset: f32,
    /// z, 0..=4: how much the latency average counts.
    pub latency_exponent: f32,
    /// Latency at which its factor is 1, 0.001..=10⁷ ms.
    pub latency_reference_ms: f32,
    /// a, 0..=32: how much the error average counts.
    pub error_exponent: f32,
    /// ω, 0..=4: how much the weight counts.
    pub weight_exponent: f32,
    /// h, 0..=4: how much the work in flight counts beside the wait that follows from it, where classes and slots are known.
    pub work_share: f32,
    /// r, 0..=64: how many proxies prefer each endpoint; 0: no affinity.
    pub affinity_proxies: f32,
    /// Factor on the score of an endpoint that this proxy does not prefer, 1..=64.
    pub affinity_factor: f32,
}

impl RuleParameters {
    /// What a proxy uses by itself when no controller tells it better. The same as `trimtab_model`'s, which says how the numbers were
    /// found (a test in `training` compares them); the latency reference moves no choice.
    pub const LOCAL: Self = Self {
        exponent: 2.0,
        offset: 2.0,
        latency_exponent: 2.0,
        latency_reference_ms: 10.0,
        error_exponent: 12.0,
        weight_exponent: 1.0,
        work_share: 0.0,
        affinity_proxies: 0.0,
        affinity_factor: 1.0,
    };

    /// Between these (`trust` = 1) and others (0), linearly.
    pub fn faded(&self, others: &Self, trust: f32) -> Self {
        let blend = |own: f32, other: f32| if trust >= 1.0 { own } else { other + (own - other) * trust };
        Self {
            exponent: blend(self.exponent, others.exponent),
            offset: blend(self.offset, others.offset),
            latency_exponent: blend(self.latency_exponent, others.latency_exponent),
            // The same for all endpoints, so it moves no choice; fading it would only move what unknown endpoints count.
            latency_reference_ms: self.latency_reference_ms,
            error_exponent: blend(self.error_exponent, others.error_exponent),
            weight_exponent: blend(self.weight_exponent, others.weight_exponent),
            work_share: blend(self.work_share, others.work_share),
            // How many proxies there are is as old as the weights.
            affinity_proxies: if trust > 0.0 { self.affinity_proxies } else { others.affinity_proxies },
            affinity_factor: blend(self.affinity_factor, others.affinity_factor),
        }
    }
}

/// Error averages pooled over all proxies.
#[derive(Debug, Clone, PartialEq)]
pub struct ErrorTable {
    /// Name of the backend.
    pub backend: String,
    /// Generation of the endpoint list that they are about.
    pub generation: u64,
    /// In 0..=1.
    pub errors: Vec<f32>,
}

impl TryFrom<v1::Backend> for BackendConfig {
    type Error = InvalidResource;

    fn try_from(wire: v1::Backend) -> Result<Self, InvalidResource> {
        let check = Check::new("Backend", &wire.name);
        check.that(!wire.name.is_empty(), "name", || "must not be empty".to_owned())?;
        let algorithm = v1::Algorithm::try_from(wire.algorithm)
            .map_err(|_| check.error("algorithm", format!("{} is not an algorithm", wire.algorithm)))?;
        let traffic = TrafficPolicy::check(&wire, &check)?;
        let unknown = || "differ from endpoints that are not known here: all endpoints must be sent".to_owned();
        check.that(wire.changes.is_none(), "changes", unknown)?;
        let endpoint = |(index, endpoint)| {
            EndpointConfig::check(endpoint, format_args!("endpoints[{index}]"), &check).map(Arc::new)
        };
        let endpoints: Vec<_> = wire.endpoints.into_iter().enumerate().map(endpoint).collect::<Result<_, _>>()?;
        if let Some(index) = endpoints::twice(&endpoints) {
            let reason = format!("{} stands there twice: keys must be distinct", endpoints[index].key);
            return Err(check.error(format_args!("endpoints[{index}].key"), reason));
        }
        let protocol = match v1::Protocol::try_from(wire.protocol) {
            Ok(v1::Protocol::Http11) => Protocol::Http1,
            Ok(v1::Protocol::H2c) => Protocol::Http2,
            Err(_) => return Err(check.error("protocol", format!("{} is not a protocol", wire.protocol))),
        };
        let breaker = wire.circuit_breaker.unwrap_or_default();
        let timeouts = BackendTimeouts::check(wire.timeouts.unwrap_or_default(), &check)?;
        Ok(Self {
            endpoints,
            protocol,
            algorithm: algorithm.into(),
            outlier_detection: OutlierDetection::check(wire.outlier_detection.unwrap_or_default(), &check)?,
            admission_control: AdmissionControl::check(wire.admission_control.unwrap_or_default(), &check)?,
            circuit_breaker: CircuitBreaker {
                max_connections: check
                    .positive(breaker.max_connections, "circuit_breaker.max_connections")?
                    .map(NonZeroU32::get),
                max_parallel_requests: check
                    .positive(breaker.max_parallel_requests, "circuit_breaker.max_parallel_requests")?
                    .map(NonZeroU32::get),
            },
            num_retries: wire.retry.and_then(|retry| retry.num_retries).unwrap_or(1),
            traffic,
            timeouts,
            objective: check.objective(wire.objective_ms)?,
            classes: RequestClasses::check(wire.classes.unwrap_or_default(), &check)?,
            terms: wire.terms.map(RuleTerms::from).unwrap_or_default(),
            generation: wire.generation,
            name: wire.name,
        })
    }
}

impl EndpointConfig {
    fn check(wire: v1::Endpoint, field: fmt::Arguments<'_>, check: &Check) -> Result<Self, InvalidResource> {
        check.that(!wire.host.is_empty(), format_args!("{field}.host"), || "must not be empty".to_owned())?;
        let port = u16::try_from(wire.port).ok().and_then(NonZeroU16::new).ok_or_else(|| {
            check.error(format_args!("{field}.port"), format!("{} is not a port: 1..=65535", wire.port))
        })?;
        let state = match v1::endpoint::State::try_from(wire.state) {
            Ok(v1::endpoint::State::Ready) => EndpointState::Ready,
            Ok(v1::endpoint::State::Draining) => EndpointState::Draining,
            Err(_) => {
                return Err(check.error(format_args!("{field}.state"), format!("{} is not a state", wire.state)));
            }
        };
        let name = if wire.name.is_empty() { format!("{}:{port}", wire.host) } else { wire.name };
        Ok(Self { key: EndpointKey(wire.key), host: wire.host, port, name, zone: wire.zone, state })
    }
}

impl OutlierDetection {
    fn check(wire: v1::OutlierDetection, check: &Check) -> Result<Self, InvalidResource> {
        let default = Self::default();
        let base = check.positive(wire.base_ejection_time_ms, "outlier_detection.base_ejection_time_ms")?;
        let max = check.positive(wire.max_ejection_time_ms, "outlier_detection.max_ejection_time_ms")?;
        let base_ejection_time = base.map_or(default.base_ejection_time, millis);
        // An unset longest time is no shorter than the base that was set.
        let max_ejection_time = max.map_or(default.max_ejection_time.max(base_ejection_time), millis);
        check.that(max_ejection_time >= base_ejection_time, "outlier_detection.max_ejection_time_ms", || {
            format!("{max_ejection_time:?} is less than the base ejection time of {base_ejection_time:?}")
        })?;
        let percent = wire.max_ejection_percent.unwrap_or(u32::from(default.max_ejection_percent));
        let max_ejection_percent = u8::try_from(percent).ok().filter(|percent| *percent <= 100).ok_or_else(|| {
            check.error("outlier_detection.max_ejection_percent", format!("{percent} is not a percentage: 0..=100"))
        })?;
        Ok(Self {
            disabled: wire.disabled,
            consecutive_5xx_errors: check
                .positive(wire.consecutive_5xx_errors, "outlier_detection.consecutive_5xx_errors")?
                .unwrap_or(default.consecutive_5xx_errors),
            consecutive_gateway_failures: check
                .positive(wire.consecutive_gateway_failures, "outlier_detection.consecutive_gateway_failures")?
                .unwrap_or(default.consecutive_gateway_failures),
            base_ejection_time,
            max_ejection_time,
            max_ejection_percent,
        })
    }
}

impl AdmissionControl {
    fn check(wire: v1::AdmissionControl, check: &Check) -> Result<Self, InvalidResource> {
        let min = check.positive(wire.min_concurrency, "admission_control.min_concurrency")?;
        let max = check.positive(wire.max_concurrency, "admission_control.max_concurrency")?;
        let max_concurrency = max.map_or(Self::default().max_concurrency, NonZeroU32::get);
        let min_concurrency = min.map(NonZeroU32::get);
        check.that(
            min_concurrency.is_none_or(|min| min <= max_concurrency),
            "admission_control.min_concurrency",
            || format!("{} is more than max_concurrency, {max_concurrency}", min_concurrency.unwrap_or_default()),
        )?;
        Ok(Self { enabled: wire.enabled, min_concurrency, max_concurrency })
    }
}

impl BackendTimeouts {
    fn check(wire: v1::BackendTimeouts, check: &Check) -> Result<Self, InvalidResource> {
        let default = Self::default();
        let connect = check.positive(wire.connect_timeout_ms, "timeouts.connect_timeout_ms")?;
        let idle = check.positive(wire.connection_idle_timeout_ms, "timeouts.connection_idle_timeout_ms")?;
        let grace = check.positive(wire.body_grace_ms, "timeouts.body_grace_ms")?;
        Ok(Self {
            connect: connect.map_or(default.connect, millis),
            connection_idle: idle.map_or(default.connection_idle, millis),
            body_rate: NonZeroU32::new(wire.min_body_bytes_per_s.unwrap_or(BodyRate::BYTES_PER_S.get()))
                .map(|bytes_per_s| BodyRate { bytes_per_s, grace: grace.map_or(BodyRate::GRACE, millis) }),
        })
    }
}

impl TryFrom<v1::WeightTable> for WeightTable {
    type Error = InvalidResource;

    fn try_from(wire: v1::WeightTable) -> Result<Self, InvalidResource> {
        let check = Check::new("WeightTable", &wire.backend);
        let positive = |numbers: &[f32], name: &str, what: &str| {
            let wrong = numbers.iter().position(|number| !(number.is_normal() && *number > 0.0));
            wrong.map_or(Ok(()), |index| {
                let reason = format!("{} is not {what}: each must be finite and > 0", numbers[index]);
                Err(check.error(format_args!("{name}[{index}]"), reason))
            })
        };
        positive(&wire.weights, "weights", "a weight")?;
        positive(&wire.adjustments, "adjustments", "an adjustment")?;
        let parameters =
            wire.parameters.ok_or_else(|| check.error("parameters", "must be set with the weights".to_owned()))?;
        let proxies = NonZeroU32::new(wire.proxies)
            .ok_or_else(|| check.error("proxies", "0 cannot be: this proxy is one".to_owned()))?;
        Ok(Self {
            generation: wire.generation,
            tick: wire.tick,
            weights: wire.weights,
            adjustments: wire.adjustments,
            parameters: RuleParameters::check(&parameters, &check)?,
            proxies,
            position: None,
            objective: check.objective(wire.objective_ms)?,
            proxy_keys: {
                let sorted = wire.proxy_keys.is_sorted();
                check.that(sorted, "proxy_keys", || "must be in ascending order".to_owned())?;
                wire.proxy_keys
            },
            backend: wire.backend,
        })
    }
}

impl RuleParameters {
    fn check(wire: &v1::RuleParameters, check: &Check) -> Result<Self, InvalidResource> {
        let range = |value: f32, name: &str, low: f32, high: f32| {
            let inside = (low..=high).contains(&value);
            check
                .that(inside, format_args!("parameters.{name}"), || format!("{value} is not within {low}..={high}"))?;
            Ok(value)
        };
        Ok(Self {
            exponent: range(wire.exponent, "exponent", 0.0, 8.0)?,
            offset: range(wire.offset, "offset", 1e-3, 1e6)?,
            latency_exponent: range(wire.latency_exponent, "latency_exponent", 0.0, 4.0)?,
            latency_reference_ms: range(wire.latency_reference_ms, "latency_reference_ms", 1e-3, 1e7)?,
            error_exponent: range(wire.error_exponent, "error_exponent", 0.0, 32.0)?,
            weight_exponent: range(wire.weight_exponent.unwrap_or(1.0), "weight_exponent", 0.0, 4.0)?,
            work_share: range(wire.work_share, "work_share", 0.0, 4.0)?,
            affinity_proxies: range(wire.affinity_proxies, "affinity_proxies", 0.0, 64.0)?,
            affinity_factor: range(wire.affinity_factor.unwrap_or(1.0), "affinity_factor", 1.0, 64.0)?,
        })
    }
}

impl TryFrom<v1::RuleParameters> for RuleParameters {
    type Error = InvalidResource;

    fn try_from(wire: v1::RuleParameters) -> Result<Self, InvalidResource> {
        Self::check(&wire, &Check::new("RuleParameters", ""))
    }
}

impl TryFrom<v1::ErrorTable> for ErrorTable {
    type Error = InvalidResource;

    fn try_from(wire: v1::ErrorTable) -> Result<Self, InvalidResource> {
        let check = Check::new("ErrorTable", &wire.backend);
        if let Some(index) = wire.errors.iter().position(|error| !(0.0..=1.0).contains(error)) {
            let reason = format!("{} is not a share of errors: 0..=1", wire.errors[index]);
            return Err(check.error(format_args!("errors[{index}]"), reason));
        }
        Ok(Self { backend: wire.backend, generation: wire.generation, errors: wire.errors })
    }
}

fn millis(millis: NonZeroU32) -> Duration {
    Duration::from_millis(u64::from(millis.get()))
}

/// Names the resource in errors.
struct Check {
    resource: String,
}

impl Check {
    fn new(kind: &str, name: &str) -> Self {
        Self { resource: format!("{kind} {name}") }
    }

    fn error(&self, field: impl fmt::Display, reason: String) -> InvalidResource {
        InvalidResource { resource: self.resource.clone(), field: field.to_string(), reason }
    }

    fn that(
        &self,
        holds: bool,
        field: impl fmt::Display,
        reason: impl FnOnce() -> String,
    ) -> Result<(), InvalidResource> {
        if holds { Ok(()) } else { Err(self.error(field, reason())) }
    }

    fn positive(&self, value: Option<u32>, field: &str) -> Result<Option<NonZeroU32>, InvalidResource> {
        let positive = |value| NonZeroU32::new(value).ok_or_else(|| self.error(field, "must be at least 1".to_owned()));
        value.map(positive).transpose()
    }

    fn objective(&self, objective_ms: Option<f32>) -> Result<Option<Duration>, InvalidResource> {
        let valid = |ms: f32| {
            let inside = (0.1..=3.6e6).contains(&ms);
            self.that(inside, "objective_ms", || format!("{ms} is not within 0.1 ms and an hour"))?;
            Ok(Duration::from_secs_f64(f64::from(ms) * 1e-3))
        };
        objective_ms.map(valid).transpose()
    }
}

#[cfg(test)]
mod tests;
