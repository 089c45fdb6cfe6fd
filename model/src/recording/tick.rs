//! One row an endpoint and tick.

use super::columns::rows;
use crate::decision::{Decision, GuardAction, Mode};
use crate::observation::{EndpointKey, EndpointObservation, Measured, Observation, Reported};

rows! {
    /// One endpoint at one tick: what was known, what was decided.
    pub struct TickRow: "ticks" {
        /// `namespace/service:port`.
        pub backend: String,
        /// The tick.
        pub tick: u64,
        /// When it was, milliseconds since the Unix epoch.
        pub at_ms: i64,
        /// Time since the previous tick.
        pub interval_s: f64,
        /// Proxies that reported lately.
        pub proxies: u32,
        /// Latency objective.
        pub objective_ms: Option<f64>,
        /// Key of the endpoint.
        pub endpoint: u64,
        /// Its name: the pod's, or `host:port`.
        pub endpoint_name: String,
        /// Whether it may get requests.
        pub ready: bool,
        /// Seconds since it became ready.
        pub ready_age_s: Option<f64>,
        /// Container restarts.
        pub restarts: Option<u32>,
        /// Whether it is in the proxies' zone.
        pub zone_match: Option<bool>,

        /// Length of time that the proxies' counts cover; null, like all `reported_` columns, where none reported.
        pub reported_interval_s: Option<f64>,
        /// Age of the oldest report.
        pub reported_age_s: Option<f32>,
        /// Answers below 500.
        pub reported_successes: Option<u64>,
        /// 5xx answers.
        pub reported_errors: Option<u64>,
        /// Requests without an answer.
        pub reported_failures: Option<u64>,
        /// Time-weighted mean in flight, all proxies together.
        pub reported_in_flight_mean: Option<f64>,
        /// In flight at the end.
        pub reported_in_flight: Option<u32>,
        /// Mean latency.
        pub reported_latency_ms_mean: Option<f64>,
        /// 10th percentile.
        pub reported_latency_ms_p10: Option<f64>,
        /// Median.
        pub reported_latency_ms_p50: Option<f64>,
        /// 99th percentile.
        pub reported_latency_ms_p99: Option<f64>,
        /// Proxies that ejected it.
        pub reported_ejected_by: Option<u32>,
        /// Pooled soft error average.
        pub reported_error: Option<f64>,

        /// Requests inside the pod.
        pub in_flight: Option<f64>,
        /// Its age; as for all that follow.
        pub in_flight_age_s: Option<f32>,
        /// Busy workers.
        pub busy: Option<f64>,
        /// Age.
        pub busy_age_s: Option<f32>,
        /// Requests it can serve at once.
        pub worker_limit: Option<f64>,
        /// Age.
        pub worker_limit_age_s: Option<f32>,
        /// Completed requests per second.
        pub completed_rps: Option<f64>,
        /// Age.
        pub completed_rps_age_s: Option<f32>,
        /// Mean duration as the pod saw it.
        pub latency_ms_mean: Option<f64>,
        /// Age.
        pub latency_ms_mean_age_s: Option<f32>,
        /// 99th percentile as the pod saw it.
        pub latency_ms_p99: Option<f64>,
        /// Age.
        pub latency_ms_p99_age_s: Option<f32>,
        /// CPU used, in cores.
        pub cpu_cores: Option<f64>,
        /// Age.
        pub cpu_cores_age_s: Option<f32>,
        /// CPU limit, in cores.
        pub cpu_limit_cores: Option<f64>,
        /// Age.
        pub cpu_limit_cores_age_s: Option<f32>,
        /// Resident memory.
        pub memory_bytes: Option<f64>,
        /// Age.
        pub memory_bytes_age_s: Option<f32>,
        /// Memory limit.
        pub memory_limit_bytes: Option<f64>,
        /// Age.
        pub memory_limit_bytes_age_s: Option<f32>,
        /// Start of the process, seconds since the Unix epoch.
        pub start_time_s: Option<f64>,
        /// Age.
        pub start_time_s_age_s: Option<f32>,

        /// Estimated capacity.
        pub capacity_rps: Option<f64>,
        /// Share by the capacity prior.
        pub weight_baseline: f64,
        /// Share that the policy proposed, noise included.
        pub weight_proposed: f64,
        /// Share that was pushed.
        pub weight_applied: f64,
        /// κ pushed.
        pub rule_exponent: f32,
        /// g pushed.
        pub rule_offset: f32,
        /// z pushed.
        pub rule_latency_exponent: f32,
        /// Reference latency pushed.
        pub rule_latency_reference_ms: f32,
        /// a pushed.
        pub rule_error_exponent: f32,
        /// Log-density of the exploration noise of the whole backend; null where none was drawn.
        pub log_probability: Option<f64>,
        /// Version of the policy.
        pub policy_version: String,
        /// Mode: `Off`, `Shadow` or `Active`.
        pub mode: String,
        /// Names of the guard's reasons that concern this endpoint, in order.
        pub guard: Vec<String>,
        /// What was asked for beyond capacity: the score was divided by it. Null where weights said it all.
        pub adjustment: Option<f64>,
        /// ω pushed.
        pub rule_weight_exponent: Option<f32>,
        /// h pushed.
        pub rule_work_share: Option<f32>,
        /// Requests that it serves at once, as learned from how long they took.
        pub slots_learned: Option<f64>,
        /// How sure that is: the standard deviation of its logarithm; null where it is only what is usual among the others.
        pub slots_deviation: Option<f64>,
    }
}

impl TickRow {
    /// The rows of one tick. `name` tells an endpoint's name for people. A decision about other endpoints than the
    /// observation's has no rows.
    pub fn of(observation: &Observation, decision: &Decision, name: impl Fn(EndpointKey) -> String) -> Vec<Self> {
        let keys = observation.endpoints.iter().map(|endpoint| endpoint.key);
        if !keys.eq(decision.endpoints.iter().copied()) {
            return Vec::new();
        }
        let guard = Guarded::new(&decision.guard);
        let rows = observation.endpoints.iter().enumerate();
        rows.map(|(index, endpoint)| Self::new(observation, decision, index, endpoint, name(endpoint.key), &guard))
            .collect()
    }

    fn new(
        observation: &Observation,
        decision: &Decision,
        index: usize,
        endpoint: &EndpointObservation,
        endpoint_name: String,
        guard: &Guarded<'_>,
    ) -> Self {
        let reported = endpoint.reported;
        let counted = |of: fn(&Reported) -> u64| reported.as_ref().map(of);
        let seen = |of: fn(&Reported) -> f64| reported.as_ref().map(of);
        let scraped = &endpoint.scraped;
        let value = |measured: Option<Measured>| measured.map(|m| m.value);
        let age = |measured: Option<Measured>| measured.map(|m| m.age_s);
        let at = |weights: &[f64]| weights.get(index).copied().unwrap_or(f64::NAN);
        let rule = decision.parameters;
        Self {
            backend: observation.backend.clone(),
            tick: observation.tick,
            at_ms: observation.at_ms,
            interval_s: observation.interval_s,
            proxies: observation.proxies,
            objective_ms: observation.objective_ms,
            endpoint: endpoint.key.0,
            endpoint_name,
            ready: endpoint.ready,
            ready_age_s: endpoint.ready_age_s,
            restarts: endpoint.restarts,
            zone_match: endpoint.zone_match,
            reported_interval_s: seen(|r| r.interval_s),
            reported_age_s: reported.map(|r| r.age_s),
            reported_successes: counted(|r| r.successes),
            reported_errors: counted(|r| r.errors),
            reported_failures: counted(|r| r.failures),
            reported_in_flight_mean: seen(|r| r.in_flight_mean),
            reported_in_flight: reported.map(|r| r.in_flight),
            reported_latency_ms_mean: reported.and_then(|r| r.latency_ms_mean),
            reported_latency_ms_p10: reported.and_then(|r| r.latency_ms_p10),
            reported_latency_ms_p50: reported.and_then(|r| r.latency_ms_p50),
            reported_latency_ms_p99: reported.and_then(|r| r.latency_ms_p99),
            reported_ejected_by: reported.map(|r| r.ejected_by),
            reported_error: seen(|r| r.error),
            in_flight: value(scraped.in_flight),
            in_flight_age_s: age(scraped.in_flight),
            busy: value(scraped.busy),
            busy_age_s: age(scraped.busy),
            worker_limit: value(scraped.worker_limit),
            worker_limit_age_s: age(scraped.worker_limit),
            completed_rps: value(scraped.completed_rps),
            completed_rps_age_s: age(scraped.completed_rps),
            latency_ms_mean: value(scraped.latency_ms_mean),
            latency_ms_mean_age_s: age(scraped.latency_ms_mean),
            latency_ms_p99: value(scraped.latency_ms_p99),
            latency_ms_p99_age_s: age(scraped.latency_ms_p99),
            cpu_cores: value(scraped.cpu_cores),
            cpu_cores_age_s: age(scraped.cpu_cores),
            cpu_limit_cores: value(scraped.cpu_limit_cores),
            cpu_limit_cores_age_s: age(scraped.cpu_limit_cores),
            memory_bytes: value(scraped.memory_bytes),
            memory_bytes_age_s: age(scraped.memory_bytes),
            memory_limit_bytes: value(scraped.memory_limit_bytes),
            memory_limit_bytes_age_s: age(scraped.memory_limit_bytes),
            start_time_s: value(scraped.start_time_s),
            start_time_s_age_s: age(scraped.start_time_s),
            capacity_rps: decision.capacity_rps.get(index).copied().flatten(),
            weight_baseline: at(&decision.baseline),
            weight_proposed: at(&decision.proposed),
            weight_applied: at(&decision.applied),
            rule_exponent: rule.exponent,
            rule_offset: rule.offset,
            rule_latency_exponent: rule.latency_exponent,
            rule_latency_reference_ms: rule.latency_reference_ms,
            rule_error_exponent: rule.error_exponent,
            log_probability: decision.log_probability,
            policy_version: decision.policy_version.clone(),
            mode: mode_name(decision.mode).to_owned(),
            guard: guard.reasons(endpoint.key),
            adjustment: decision.adjustments.get(index).copied(),
            rule_weight_exponent: Some(rule.weight_exponent),
            rule_work_share: Some(rule.work_share),
            slots_learned: endpoint.slots,
            slots_deviation: endpoint.slots_deviation,
        }
    }
}

/// A mode's name in recordings.
fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Off => "Off",
        Mode::Shadow => "Shadow",
        Mode::Active => "Active",
    }
}

/// Guard actions, sorted for looking up an endpoint's among thousands.
struct Guarded<'a>(Vec<(Option<EndpointKey>, usize, &'a GuardAction)>);

impl<'a> Guarded<'a> {
    fn new(actions: &'a [GuardAction]) -> Self {
        let mut sorted: Vec<_> =
            actions.iter().enumerate().map(|(order, action)| (action.endpoint, order, action)).collect();
        sorted.sort_by_key(|&(endpoint, order, _)| (endpoint, order));
        Self(sorted)
    }

    /// Names of those on all endpoints and on this one, in order.
    fn reasons(&self, key: EndpointKey) -> Vec<String> {
        let of = |endpoint: Option<EndpointKey>| {
            let start = self.0.partition_point(|&(other, ..)| other < endpoint);
            self.0[start..].iter().take_while(move |&&(other, ..)| other == endpoint)
        };
        let mut found: Vec<_> =
            of(None).chain(of(Some(key))).map(|&(_, order, action)| (order, action.reason)).collect();
        found.sort_unstable();
        found.into_iter().map(|(_, reason)| format!("{reason:?}")).collect()
    }
}
