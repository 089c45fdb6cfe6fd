//! Which series mean what. The usual names of client libraries and frameworks are built in (docs/metrics.md lists them); names that the
//! user gives come first.
//!
//! A meaning may have several candidates; of those that a body has, the first counts. Series of one candidate (label sets, or
//! several names in one candidate) are added up.

use std::collections::HashMap;

use crate::policy::MetricNames;

/// What a number means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Gauge.
    InFlight,
    /// Gauge.
    Busy,
    /// Gauge.
    WorkerLimit,
    /// Counter.
    Requests,
    /// Histogram or summary; in milliseconds once scaled.
    Duration,
    /// Counter, seconds.
    CpuSeconds,
    /// Gauge: used share of the CPUs that the process may use, 0..=1.
    CpuShare,
    /// Gauge.
    CpuLimit,
    /// Gauge.
    Memory,
    /// Gauge.
    MemoryLimit,
    /// Gauge.
    StartTime,
}

/// Number of [`Role`]s.
pub const ROLES: usize = Role::StartTime as usize + 1;

/// Candidates by meaning: names, and the factor to the unit that is used.
#[rustfmt::skip]
const USUAL: &[(Role, f64, &[&str])] = &[
    (Role::InFlight, 1.0, &["http_requests_in_flight"]),
    (Role::InFlight, 1.0, &["http_server_requests_in_flight"]),
    (Role::InFlight, 1.0, &["http_server_active_requests"]),                        // OpenTelemetry
    (Role::InFlight, 1.0, &["http_requests_in_progress"]),                          // prometheus-net
    (Role::InFlight, 1.0, &["http_requests_inprogress"]),                           // prometheus-fastapi-instrumentator
    (Role::InFlight, 1.0, &["http_requests_inflight"]),
    (Role::InFlight, 1.0, &["http_in_flight_requests"]),
    (Role::InFlight, 1.0, &["http_active_requests"]),
    (Role::InFlight, 1.0, &["in_flight_requests"]),                                 // promhttp's example
    (Role::InFlight, 1.0, &["requests_in_flight"]),
    (Role::InFlight, 1.0, &["http_server_requests_active_seconds_active_count"]),   // Micrometer before 1.13
    (Role::InFlight, 1.0, &["http_server_requests_active_seconds_gcount"]),         // Micrometer
    (Role::InFlight, 1.0, &["http_server_in_flight_requests"]),
    (Role::InFlight, 1.0, &["vertx_http_server_active_requests"]),
    (Role::InFlight, 1.0, &["ktor_http_server_requests_active"]),
    (Role::InFlight, 1.0, &["jetty_server_requests_active"]),
    (Role::InFlight, 1.0, &["starlette_requests_in_progress"]),
    (Role::InFlight, 1.0, &["fastapi_requests_in_progress"]),
    (Role::InFlight, 1.0, &["axum_http_requests_pending"]),
    (Role::InFlight, 1.0, &["microsoft_aspnetcore_hosting_current_requests"]),
    (Role::InFlight, 1.0, &["envoy_http_downstream_rq_active"]),
    (Role::InFlight, 1.0, &["vllm:num_requests_running", "vllm:num_requests_waiting"]),

    (Role::Busy, 1.0, &["http_workers_busy"]),
    (Role::Busy, 1.0, &["tomcat_threads_busy_threads"]),
    (Role::Busy, 1.0, &["jetty_threads_busy"]),
    (Role::Busy, 1.0, &["puma_busy_threads"]),
    (Role::Busy, 1.0, &["http_server_workers_busy"]),
    (Role::Busy, 1.0, &["vllm:num_requests_running"]),

    (Role::WorkerLimit, 1.0, &["http_workers_limit"]),
    (Role::WorkerLimit, 1.0, &["tomcat_threads_config_max_threads"]),
    (Role::WorkerLimit, 1.0, &["jetty_threads_config_max"]),
    (Role::WorkerLimit, 1.0, &["puma_max_threads"]),
    (Role::WorkerLimit, 1.0, &["http_server_workers_limit"]),
    (Role::WorkerLimit, 1.0, &["gunicorn_workers"]),

    (Role::Requests, 1.0, &["http_requests_total"]),
    (Role::Requests, 1.0, &["http_requests_received_total"]),                       // prometheus-net
    (Role::Requests, 1.0, &["http_server_requests_total"]),
    (Role::Requests, 1.0, &["http_request_total"]),
    (Role::Requests, 1.0, &["requests_total"]),
    (Role::Requests, 1.0, &["starlette_requests_total"]),
    (Role::Requests, 1.0, &["fastapi_requests_total"]),
    (Role::Requests, 1.0, &["flask_http_request_total"]),
    (Role::Requests, 1.0, &["django_http_requests_total_by_method_total"]),
    (Role::Requests, 1.0, &["axum_http_requests_total"]),
    (Role::Requests, 1.0, &["envoy_http_downstream_rq_completed"]),
    (Role::Requests, 1.0, &["vllm:request_success_total"]),

    (Role::Duration, 1e3, &["http_request_duration_seconds"]),                      // Go, Node, Python, Ruby, Rust
    (Role::Duration, 1e3, &["http_server_requests_seconds"]),                       // Micrometer, Spring Boot
    (Role::Duration, 1e3, &["http_server_request_duration_seconds"]),               // OpenTelemetry
    (Role::Duration, 1.0, &["http_server_duration_milliseconds"]),                  // OpenTelemetry before 1.0
    (Role::Duration, 1.0, &["http_request_duration_milliseconds"]),
    (Role::Duration, 1.0, &["http_request_duration_ms"]),
    (Role::Duration, 1e3, &["http_requests_duration_seconds"]),
    (Role::Duration, 1e3, &["request_duration_seconds"]),
    (Role::Duration, 1e3, &["starlette_request_duration_seconds"]),
    (Role::Duration, 1e3, &["fastapi_requests_duration_seconds"]),
    (Role::Duration, 1e3, &["flask_http_request_duration_seconds"]),
    (Role::Duration, 1e3, &["django_http_requests_latency_seconds_by_view_method"]),
    (Role::Duration, 1e3, &["axum_http_requests_duration_seconds"]),
    (Role::Duration, 1e3, &["ktor_http_server_requests_seconds"]),
    (Role::Duration, 1e3, &["jetty_server_requests_seconds"]),
    (Role::Duration, 1.0, &["envoy_http_downstream_rq_time"]),
    (Role::Duration, 1e3, &["vllm:e2e_request_latency_seconds"]),

    (Role::CpuSeconds, 1.0, &["process_cpu_seconds_total"]),                        // Prometheus client libraries
    (Role::CpuSeconds, 1.0, &["process_cpu_time_seconds_total"]),                   // OpenTelemetry
    (Role::CpuSeconds, 1e-9, &["process_cpu_time_ns_total"]),                       // Micrometer
    (Role::CpuSeconds, 1.0, &["process_cpu_user_seconds_total", "process_cpu_system_seconds_total"]), // Node
    (Role::CpuSeconds, 1.0, &["container_cpu_usage_seconds_total"]),

    (Role::CpuShare, 1.0, &["process_cpu_usage"]),                                  // Micrometer

    (Role::CpuLimit, 1.0, &["system_cpu_count"]),                                   // Micrometer: what the JVM may use
    (Role::CpuLimit, 1.0, &["jvm_cpu_count"]),                                      // OpenTelemetry
    (Role::CpuLimit, 1.0, &["go_sched_gomaxprocs_threads"]),
    (Role::CpuLimit, 1.0, &["process_cpu_limit_cores"]),

    (Role::Memory, 1.0, &["process_resident_memory_bytes"]),                        // Prometheus client libraries
    (Role::Memory, 1.0, &["process_memory_usage_bytes"]),                           // OpenTelemetry
    (Role::Memory, 1.0, &["container_memory_working_set_bytes"]),
    (Role::Memory, 1.0, &["jvm_memory_used_bytes"]),
    (Role::Memory, 1.0, &["envoy_server_memory_physical_size"]),
    (Role::Memory, 1.0, &["dotnet_total_memory_bytes"]),

    (Role::MemoryLimit, 1.0, &["container_spec_memory_limit_bytes"]),
    (Role::MemoryLimit, 1.0, &["process_memory_limit_bytes"]),
    (Role::MemoryLimit, 1.0, &["go_gc_gomemlimit_bytes"]),
    (Role::MemoryLimit, 1.0, &["jvm_memory_max_bytes"]),

    (Role::StartTime, 1.0, &["process_start_time_seconds"]),
];

/// Which part of a histogram or summary a series is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    /// A plain number; a summary's quantile.
    Value,
    /// `_bucket`.
    Bucket,
    /// `_sum`.
    Sum,
    /// `_count`.
    Count,
}

/// What a series name stands for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Meaning {
    /// What it means.
    pub role: Role,
    /// Lower goes first.
    pub rank: u16,
    /// Factor to the unit that is used.
    pub scale: f64,
    /// Which part.
    pub part: Part,
}

/// All names that are looked for.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Lexicon {
    /// A name may have two meanings (`vllm:num_requests_running` is both busy and part of in-flight).
    by_name: HashMap<Box<[u8]>, Vec<Meaning>>,
}

impl Lexicon {
    /// The user's names, then the usual ones for what the user did not name.
    pub fn new(names: &MetricNames) -> Self {
        let mut lexicon = Self::default();
        let given = [
            (Role::InFlight, &names.in_flight),
            (Role::Busy, &names.busy),
            (Role::WorkerLimit, &names.worker_limit),
            (Role::Requests, &names.requests),
            (Role::Duration, &names.duration),
            (Role::CpuSeconds, &names.cpu),
            (Role::CpuLimit, &names.cpu_limit),
            (Role::Memory, &names.memory),
            (Role::MemoryLimit, &names.memory_limit),
            (Role::StartTime, &names.start_time),
        ];
        for (role, name) in given {
            let Some(name) = name else { continue };
            let in_ms = name.ends_with("_ms") || name.ends_with("_milliseconds");
            let scale = if role == Role::Duration && !in_ms { 1e3 } else { 1.0 };
            lexicon.add(role, 0, scale, name);
        }
        for (rank, (role, scale, candidate)) in (1..).zip(USUAL) {
            let named = |of: Role| given.iter().any(|(role, name)| *role == of && name.is_some());
            let replaced = named(*role) || (*role == Role::CpuShare && named(Role::CpuSeconds));
            if !replaced {
                candidate.iter().for_each(|name| lexicon.add(*role, rank, *scale, name));
            }
        }
        lexicon
    }

    fn add(&mut self, role: Role, rank: u16, scale: f64, name: &str) {
        let mut add = |name: String, part| {
            self.by_name.entry(name.into_bytes().into()).or_default().push(Meaning { role, rank, scale, part });
        };
        add(name.to_owned(), Part::Value);
        if role == Role::Duration {
            add(format!("{name}_bucket"), Part::Bucket);
            add(format!("{name}_sum"), Part::Sum);
            add(format!("{name}_count"), Part::Count);
        }
    }

    /// What a name stands for; empty for one of no interest.
    pub fn meanings(&self, name: &[u8]) -> &[Meaning] {
        self.by_name.get(name).map_or(&[], Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_the_user_gives_replaces_the_usual_ones() {
        let lexicon = Lexicon::new(&MetricNames { duration: Some("took_ms".into()), ..Default::default() });
        assert_eq!(lexicon.meanings(b"http_request_duration_seconds_bucket"), []);
        let meaning = lexicon.meanings(b"took_ms_bucket")[0];
        assert_eq!((meaning.role, meaning.scale, meaning.part), (Role::Duration, 1.0, Part::Bucket));
        assert_eq!(lexicon.meanings(b"http_requests_total").len(), 1);
        assert_eq!(lexicon.meanings(b"promhttp_metric_handler_requests_in_flight"), []);
    }

    #[test]
    fn the_documented_table_is_the_one_in_the_code() {
        let documented = include_str!("../../../docs/metrics.md");
        for (_, _, names) in USUAL {
            for name in *names {
                assert!(documented.contains(&format!("`{name}`")), "docs/metrics.md does not list {name}");
            }
        }
    }
}
