//! `/metrics`: everything is read at the scrape from where it is counted anyway; nothing is counted twice.

use std::{fmt, sync::Arc};

use arc_swap::ArcSwap;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, MetricEncoder, NoLabelSet},
    metrics::MetricType,
    registry::Registry,
};
use tokio::sync::watch;

use crate::{
    backend::Backend,
    clock,
    config::Algorithm,
    counters::{Counter, Counters},
    http::{error::Reason, http2::flood::Flood},
    load::{CLASSES_MAX, RequestClass},
    observe::{
        Blame, Observed,
        red::{self, Series, Sums},
    },
    peers::{FRESH, heard::Rejected, stats::PeerStats},
    pick::costs::Costs,
    sketch::{Sketch, Snapshot},
    status::ProxyStatus,
    table::Table,
};

/// Upper bounds of the latency histogram's buckets, in seconds: Prometheus' own, with two more below.
const BOUNDS_S: [f64; 13] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

type Labels<'a> = Vec<(&'static str, &'a str)>;

/// What the metrics are read from.
#[derive(Debug, Clone)]
pub struct Sources {
    /// The table.
    pub table: Arc<ArcSwap<Table>>,
    /// Counters, one set a worker.
    pub workers: Vec<Arc<Counters>>,
    /// The proxy's state.
    pub status: watch::Receiver<ProxyStatus>,
    /// The exchange with other proxies, if this one takes part.
    pub peers: Option<Arc<PeerStats>>,
    /// What access log and traces count of themselves.
    pub observed: Arc<Observed>,
}

/// A registry that reads from `sources` at each scrape.
pub fn registry(sources: Sources) -> Registry {
    let mut registry = Registry::with_prefix("trimtab_proxy");
    registry.register_collector(Box::new(sources));
    registry
}

impl Collector for Sources {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut out = Writer(&mut encoder);
        self.workers(&mut out)?;
        self.proxy(&mut out)?;
        if let Some(peers) = &self.peers {
            exchange(&mut out, peers)?;
        }
        self.observers(&mut out)?;
        let table = self.table.load();
        per_route(&mut out, &table)?;
        let backends: Vec<&Backend> = table.backends.iter().map(|entry| &*entry.backend).collect();
        per_backend(&mut out, &table, &backends)?;
        per_class(&mut out, &backends)?;
        per_endpoint(&mut out, &backends)
    }
}

impl Sources {
    fn sum(&self, counter: impl Fn(&Counters) -> &Counter) -> u64 {
        self.workers.iter().map(|counters| counter(counters).get()).sum()
    }

    fn workers(&self, out: &mut Writer<'_, '_>) -> fmt::Result {
        out.counter("client_connections_accepted", "Client connections accepted", self.sum(|c| &c.accepted))?;
        out.counter(
            "client_connections_refused",
            "Client connections beyond the limit, closed at once",
            self.sum(|c| &c.refused),
        )?;
        out.gauge("client_connections", "Open client connections", self.sum(|c| &c.open) as f64)?;
        out.counter("tls_handshakes", "TLS handshakes with clients", self.sum(|c| &c.handshakes))?;
        out.counter("tls_sessions_resumed", "TLS handshakes that resumed a session", self.sum(|c| &c.resumptions))?;
        out.counter(
            "tls_handshake_failures",
            "TLS handshakes that failed or did not end in time",
            self.sum(|c| &c.handshake_failures),
        )?;
        let help = "Times that a client connection left the fast path for an unusual request";
        out.counter("fast_path_handed_over", help, self.sum(|c| &c.handed_over))?;
        let help = "Times that one came back after it had been idle";
        out.counter("fast_path_taken_back", help, self.sum(|c| &c.taken_back))?;
        out.counter(
            "header_timeouts",
            "Client connections closed because a request head did not come in time",
            self.sum(|c| &c.header_timeouts),
        )?;
        out.counter("malformed_requests", "Requests that do not parse", self.sum(|c| &c.malformed))?;
        out.family("http2_floods", "Connections over HTTP/2 cut off for a flood", MetricType::Counter, |out| {
            Flood::NAMES.iter().enumerate().try_for_each(|(index, kind)| {
                out.labelled(&vec![("kind", *kind)], |out| out.count(self.sum(|c| &c.floods[index])))
            })
        })?;
        out.counter("upstream_connects", "Connection attempts to endpoints", self.sum(|c| &c.connects))?;
        out.counter(
            "upstream_connect_failures",
            "Connection attempts to endpoints that failed",
            self.sum(|c| &c.connect_failures),
        )?;
        out.counter(
            "upstream_stale_connections",
            "Pooled connections that the endpoint had closed",
            self.sum(|c| &c.stale),
        )?;
        out.gauge("upstream_idle_connections", "Idle connections to endpoints", self.sum(|c| &c.idle) as f64)?;
        out.counter("retries", "Requests tried on another endpoint", self.sum(|c| &c.retries))?;
        out.counter(
            "retries_refused",
            "Failures that were passed on because no other endpoint or no retry was left",
            self.sum(|c| &c.retries_refused),
        )?;

        let help = "Session tokens of clients that no key of the backend's has signed";
        out.counter("session_tokens_refused", help, self.sum(|c| &c.tokens_refused))?;
        out.counter("mirrored_requests", "Copies of requests sent to mirrors", self.sum(|c| &c.mirrored))?;
        out.counter(
            "mirrored_requests_abandoned",
            "Copies of requests that were not sent or not answered",
            self.sum(|c| &c.mirrors_abandoned),
        )?;
        let help = "Time in which workers did not look at their sockets while requests waited for answers";
        out.family("worker_late_seconds", help, MetricType::Counter, |out| {
            out.seconds(self.sum(|c| &c.late_ns) as f64 * 1e-9)
        })?;
        out.counter("upgrades", "Connections that became tunnels", self.sum(|c| &c.upgrades))?;
        out.counter("request_body_bytes", "Bytes of request bodies", self.sum(|c| &c.request_bytes))?;
        out.counter("response_body_bytes", "Bytes of response bodies", self.sum(|c| &c.response_bytes))?;
        out.counter(
            "outlier_events_lost",
            "Outlier events that did not fit their queue",
            self.sum(|c| &c.events_lost),
        )?;
        let statuses = ["0xx", "1xx", "2xx", "3xx", "4xx", "5xx"];
        out.family("requests", "Answers, by class of status", MetricType::Counter, |out| {
            statuses.iter().enumerate().skip(1).try_for_each(|(index, class)| {
                out.labelled(&vec![("status", *class)], |out| out.count(self.sum(|c| &c.answers[index])))
            })
        })?;
        out.family("rejected_requests", "Answers of the proxy itself, by reason", MetricType::Counter, |out| {
            Reason::NAMES.iter().enumerate().try_for_each(|(index, reason)| {
                out.labelled(&vec![("reason", *reason)], |out| out.count(self.sum(|c| &c.reasons[index])))
            })
        })
    }

    fn observers(&self, out: &mut Writer<'_, '_>) -> fmt::Result {
        use std::sync::atomic::Ordering::Relaxed;
        let observed = &self.observed;
        out.counter("access_log_lines", "Lines of the access log", observed.lines.load(Relaxed))?;
        out.family("access_log_dropped", "Lines that were lost, by reason", MetricType::Counter, |out| {
            let reasons = [("queue_full", &observed.lines_dropped), ("write_failed", &observed.lines_failed)];
            reasons.iter().try_for_each(|(reason, count)| {
                out.labelled(&vec![("reason", *reason)], |out| out.count(count.load(Relaxed)))
            })
        })?;
        out.counter("spans_exported", "Spans that the collector has taken", observed.spans.load(Relaxed))?;
        out.counter("spans_dropped", "Spans that were lost", observed.spans_dropped.load(Relaxed))?;
        out.counter("metrics_exports", "Times that the collector took all metrics", observed.metrics.load(Relaxed))?;
        let failed = observed.metrics_failed.load(Relaxed);
        out.counter("metrics_exports_failed", "Times that the collector of metrics did not answer well", failed)?;
        let rejected = observed.metrics_rejected.load(Relaxed);
        out.counter("metrics_points_rejected", "Data points that the collector did not want", rejected)
    }

    fn proxy(&self, out: &mut Writer<'_, '_>) -> fmt::Result {
        let table = self.table.load();
        out.gauge("table_version", "Version of the table; counts up with each change", table.version as f64)?;
        if let Some(updated_at) = table.updated_at {
            let age = clock::now().since(updated_at).as_secs_f64();
            out.gauge("table_age_seconds", "Time since the controller last changed the table", age)?;
        }
        let status = self.status.borrow().clone();
        out.gauge(
            "controller_connected",
            "1 while the controller's stream is open",
            f64::from(u8::from(status.connected)),
        )?;
        out.gauge(
            "ready",
            "1 once it is configured, while one of its listeners is bound if it has any",
            f64::from(u8::from(status.ready)),
        )?;
        out.family("listener_up", "1 if the listener is bound", MetricType::Gauge, |out| {
            status.listeners.iter().try_for_each(|listener| {
                let labels = vec![("listener", listener.name.as_str())];
                out.labelled(&labels, |out| out.value(f64::from(u8::from(listener.bound.is_ok()))))
            })
        })?;
        let help = "When a listener's certificate, or one of its chain, runs out, since the Unix epoch";
        out.family("certificate_expiry_timestamp_seconds", help, MetricType::Gauge, |out| {
            let secured = table.listeners.iter().filter_map(|listener| Some((listener, listener.config.tls.as_ref()?)));
            secured
                .flat_map(|(listener, tls)| tls.expiries().iter().map(move |expiry| (listener, expiry)))
                .try_for_each(|(listener, (certificate, at))| {
                    let labels =
                        vec![("listener", listener.config.name.as_str()), ("certificate", certificate.as_str())];
                    out.labelled(&labels, |out| out.value(*at as f64))
                })
        })
    }
}

/// Rate, errors and durations by route and backend. Series without a request are left out.
fn per_route(out: &mut Writer<'_, '_>, table: &Table) -> fmt::Result {
    let sums: Vec<(&Series, Sums)> = table.routing.series().into_iter().map(|series| (series, series.sums())).collect();
    let used: Vec<_> = sums.iter().filter(|(_, sums)| sums.count() > 0).collect();
    let mut counters = |name, help, label, names: &[&str], values: &dyn Fn(&Sums) -> Vec<u64>| {
        out.family(name, help, MetricType::Counter, |out| {
            used.iter().try_for_each(|(series, sums)| {
                let counted = names.iter().zip(values(sums)).filter(|(_, count)| *count > 0);
                counted.map(|(name, count)| (*name, count)).try_for_each(|(value, count)| {
                    let labels = vec![("route", &*series.route), ("backend", &*series.backend), (label, value)];
                    out.labelled(&labels, |out| out.count(count))
                })
            })
        })
    };
    counters("route_requests", "Requests, by route, backend and class of status", "status", &red::CODES, &|sums| {
        sums.codes.to_vec()
    })?;
    let blames = Blame::ALL.map(Blame::as_str);
    counters("route_errors", "Requests that failed, by who is to blame", "blame", &blames, &|sums| {
        sums.errors.to_vec()
    })?;
    let help = "From the first byte of a request to the last of its answer";
    out.family("route_duration_seconds", help, MetricType::Histogram, |out| {
        used.iter().try_for_each(|(series, sums)| {
            let bounds = red::BOUNDS_S.into_iter().chain([f64::INFINITY]);
            let buckets: Vec<(f64, u64)> = bounds.zip(sums.buckets).collect();
            out.labelled(&vec![("route", &*series.route), ("backend", &*series.backend)], |out| {
                out.0.encode_histogram::<NoLabelSet>(sums.sum_s, sums.count(), &buckets, None)
            })
        })
    })
}

fn exchange(out: &mut Writer<'_, '_>, stats: &PeerStats) -> fmt::Result {
    out.counter("peer_datagrams_sent", "Datagrams sent to other proxies", stats.sent.get())?;
    out.counter("peer_datagrams_unsent", "Datagrams that the system would not send", stats.send_errors.get())?;
    out.counter("peer_datagrams_received", "Datagrams received, whatever became of them", stats.received.get())?;
    out.family("peer_datagrams_rejected", "Received datagrams that were dropped", MetricType::Counter, |out| {
        Rejected::ALL.iter().zip(&stats.rejected).try_for_each(|(reason, count)| {
            out.labelled(&vec![("reason", reason.to_string().as_str())], |out| out.count(count.get()))
        })
    })?;
    let (known, now) = (stats.peers.load(), clock::now());
    out.gauge("peers_expected", "Other proxies that are connected to the controller", f64::from(known.expected))?;
    out.gauge("peers", "Other proxies that exchange counts", known.peers.len() as f64)?;
    let fresh = known.peers.iter().filter(|peer| peer.heard_at.is_some_and(|at| now.since(at) < FRESH)).count();
    out.gauge("peers_fresh", "Those that were heard within 100 ms", fresh as f64)
}

fn per_backend(out: &mut Writer<'_, '_>, table: &Table, backends: &[&Backend]) -> fmt::Result {
    use std::sync::atomic::Ordering::Relaxed;
    let mut counters = |name, help, value: &dyn Fn(&Backend) -> u64| {
        out.family(name, help, MetricType::Counter, |out| {
            backends.iter().try_for_each(|backend| {
                out.labelled(&vec![("backend", backend.name())], |out| out.count(value(backend)))
            })
        })
    };
    counters("backend_shed", "Requests turned away by admission control", &|b| b.state().shed.load(Relaxed))?;
    counters("backend_unroutable", "Requests without an endpoint", &|b| b.state().unroutable.load(Relaxed))?;
    counters("backend_within_objective", "Answers within the objective, or good ones where there is none yet", &|b| {
        b.state().within_objective.load(Relaxed)
    })?;
    counters("backend_health_checks_passed", "Active health checks that went well", &|b| {
        b.state().checks_passed.load(Relaxed)
    })?;
    counters("backend_health_checks_failed", "Active health checks that did not", &|b| {
        b.state().checks_failed.load(Relaxed)
    })?;
    out.family("backend_probes", "Prequal's probes, by what became of them", MetricType::Counter, |out| {
        backends.iter().filter(|backend| backend.algorithm() == Algorithm::Prequal).try_for_each(|backend| {
            let state = backend.state();
            let results = [
                ("answered", &state.probes_answered),
                ("failed", &state.probes_failed),
                ("skipped", &state.probes_skipped),
            ];
            results.iter().try_for_each(|(result, count)| {
                let labels = vec![("backend", backend.name()), ("result", *result)];
                out.labelled(&labels, |out| out.count(count.load(Relaxed)))
            })
        })
    })?;
    let mut gauges = |name, help, value: &dyn Fn(&Backend) -> Option<f64>| {
        out.family(name, help, MetricType::Gauge, |out| {
            backends.iter().try_for_each(|backend| match value(backend) {
                Some(value) => out.labelled(&vec![("backend", backend.name())], |out| out.value(value)),
                None => Ok(()),
            })
        })
    };
    gauges("backend_in_flight", "Requests in flight", &|b| Some(f64::from(b.in_flight())))?;
    gauges("backend_concurrency_limit", "Admission control's limit", &|b| b.concurrency_limit().map(f64::from))?;
    gauges("backend_objective_seconds", "Latency objective in force", &|b| b.objective().map(|o| o.as_secs_f64()))?;
    gauges("backend_weights_trust", "How far the last weights are still trusted, 0 to 1", &|b| {
        Some(f64::from(b.trust()))
    })?;
    gauges("backend_tick", "Tick of the last weights", &|b| b.tick().map(|tick| tick as f64))?;
    out.family("backend_connections", "Open connections to endpoints", MetricType::Gauge, |out| {
        table.backends.iter().try_for_each(|entry| {
            let open = f64::from(entry.connections.open());
            out.labelled(&vec![("backend", entry.backend.name())], |out| out.value(open))
        })
    })?;
    out.family("backend_latency_seconds", "Latency of answers, as clients see it", MetricType::Histogram, |out| {
        backends.iter().try_for_each(|backend| {
            let sketch = backend.state().latency.delta(&mut Snapshot::default());
            out.labelled(&vec![("backend", backend.name())], |out| out.histogram(&sketch))
        })
    })
}

/// Classes are few, and which ones there are changes slowly: so are the names that Prometheus gets to see.
fn per_class(out: &mut Writer<'_, '_>, backends: &[&Backend]) -> fmt::Result {
    let mut gauges = |name, help, value: &dyn Fn(&Backend, &Costs, RequestClass) -> f64| {
        out.family(name, help, MetricType::Gauge, |out| {
            each_class(backends, |backend, costs, class, labels| {
                out.labelled(labels, |out| out.value(value(backend, costs, class)))
            })
        })
    };
    gauges("class_cost_seconds", "Cost of a request of the class where nothing is queued", &|_, costs, class| {
        f64::from(costs.cost_ms(class)) * 1e-3
    })?;
    gauges("class_request_share", "Share of the backend's requests, 0 to 1", &|_, costs, class| {
        f64::from(costs.share(class))
    })?;
    gauges("class_limit_share", "Share of the concurrency limit that the class may fill", &|backend, _, class| {
        f64::from(backend.limit_share(class))
    })?;
    gauges("class_in_flight", "Own requests of the class in flight", &|backend, _, class| {
        backend.endpoints().iter().map(|endpoint| f64::from(endpoint.load.in_flight_of(class))).sum()
    })?;
    out.family("class_shed", "Requests of the class turned away by admission control", MetricType::Counter, |out| {
        each_class(backends, |backend, _, class, labels| out.labelled(labels, |out| out.count(backend.shed_of(class))))
    })
}

fn each_class<'a>(
    backends: &[&'a Backend],
    mut each: impl FnMut(&'a Backend, &'a Costs, RequestClass, &Labels<'a>) -> fmt::Result,
) -> fmt::Result {
    for &backend in backends {
        let Some(costs) = backend.costs() else { continue };
        for class in (0..CLASSES_MAX).map(|number| RequestClass(number as u8)) {
            let name = match costs.key(class) {
                Some(_) => costs.name(class),
                None if class.0 == 0 => "others",
                None => continue,
            };
            each(backend, costs, class, &vec![("backend", backend.name()), ("class", name)])?;
        }
    }
    Ok(())
}

fn per_endpoint(out: &mut Writer<'_, '_>, backends: &[&Backend]) -> fmt::Result {
    let now = clock::now();
    out.family("endpoint_requests", "Completed requests, by outcome", MetricType::Counter, |out| {
        each_endpoint(backends, |_, endpoint, labels| {
            let counters = endpoint.load.counters();
            let outcomes = [
                ("success", counters.successes),
                ("error", counters.errors),
                ("failure", counters.failures),
                ("cancelled", counters.cancelled),
            ];
            outcomes.iter().try_for_each(|(outcome, count)| {
                let mut labels = labels.clone();
                labels.push(("outcome", outcome));
                out.labelled(&labels, |out| out.count(*count))
            })
        })
    })?;
    let mut gauges = |name, help, value: &dyn Fn(&Backend, usize) -> Option<f64>| {
        out.family(name, help, MetricType::Gauge, |out| {
            backends.iter().try_for_each(|backend| {
                (0..backend.endpoints().len()).try_for_each(|index| match value(backend, index) {
                    Some(value) => out.labelled(&labels(backend, index), |out| out.value(value)),
                    None => Ok(()),
                })
            })
        })
    };
    gauges("endpoint_in_flight", "Own requests in flight", &|b, i| Some(f64::from(b.endpoints()[i].load.in_flight())))?;
    gauges("endpoint_latency_average_seconds", "Fast latency average", &|b, i| {
        b.endpoints()[i].load.latency_ms(now).map(|ms| f64::from(ms) * 1e-3)
    })?;
    gauges("endpoint_error_average", "Soft error average, 0 to 1", &|b, i| {
        Some(f64::from(b.endpoints()[i].load.error(now)))
    })?;
    gauges("endpoint_ejected", "1 while outlier detection keeps it out", &|b, i| {
        Some(f64::from(u8::from(b.is_ejected(b.endpoints()[i].config.key))))
    })?;
    gauges("endpoint_failing_checks", "1 while active health checks keep it out", &|b, i| {
        Some(f64::from(u8::from(b.failing(b.endpoints()[i].config.key).is_some())))
    })?;
    out.family("endpoint_weight", "Weight in force, relative to the mean", MetricType::Gauge, |out| {
        backends.iter().try_for_each(|backend| {
            backend.effective_weights().iter().enumerate().try_for_each(|(index, weight)| match weight {
                Some(weight) => out.labelled(&labels(backend, index), |out| out.value(f64::from(*weight))),
                None => Ok(()),
            })
        })
    })
}

fn each_endpoint<'a>(
    backends: &[&'a Backend],
    mut each: impl FnMut(&'a Backend, &'a crate::backend::Endpoint, Labels<'a>) -> fmt::Result,
) -> fmt::Result {
    for &backend in backends {
        for (index, endpoint) in backend.endpoints().iter().enumerate() {
            each(backend, endpoint, labels(backend, index))?;
        }
    }
    Ok(())
}

fn labels(backend: &Backend, index: usize) -> Labels<'_> {
    vec![("backend", backend.name()), ("endpoint", &backend.endpoints()[index].config.name)]
}

/// Writes descriptors.
struct Writer<'a, 'b>(&'a mut DescriptorEncoder<'b>);

impl Writer<'_, '_> {
    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.family(name, help, MetricType::Counter, |out| out.count(value))
    }

    fn gauge(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        self.family(name, help, MetricType::Gauge, |out| out.value(value))
    }

    fn family(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        write: impl FnOnce(&mut Values<'_>) -> fmt::Result,
    ) -> fmt::Result {
        write(&mut Values(self.0.encode_descriptor(name, help, None, kind)?))
    }
}

/// Writes the values of one descriptor.
struct Values<'a>(MetricEncoder<'a>);

impl Values<'_> {
    fn labelled<S: EncodeLabelSet>(
        &mut self,
        labels: &S,
        write: impl FnOnce(&mut Values<'_>) -> fmt::Result,
    ) -> fmt::Result {
        write(&mut Values(self.0.encode_family(labels)?))
    }

    fn count(&mut self, value: u64) -> fmt::Result {
        self.0.encode_counter::<NoLabelSet, _, u64>(&value, None)
    }

    fn seconds(&mut self, seconds: f64) -> fmt::Result {
        self.0.encode_counter::<NoLabelSet, _, f64>(&seconds, None)
    }

    fn value(&mut self, value: f64) -> fmt::Result {
        self.0.encode_gauge(&value)
    }

    fn histogram(&mut self, sketch: &Sketch) -> fmt::Result {
        let total = sketch.count();
        let mut below = 0;
        let mut buckets: Vec<(f64, u64)> = Vec::with_capacity(BOUNDS_S.len() + 1);
        for bound in BOUNDS_S {
            let within =
                sketch.share_within(bound * 1e3).map_or(0, |share| (share * total as f64).round() as u64).max(below);
            buckets.push((bound, within - below));
            below = within;
        }
        buckets.push((f64::INFINITY, total - below));
        let sum_s = sketch.mean_ms().unwrap_or(0.0) * 1e-3 * total as f64;
        self.0.encode_histogram::<NoLabelSet>(sum_s, total, &buckets, None)
    }
}
