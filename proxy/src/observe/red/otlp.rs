//! Rate, errors and durations of routes to an OpenTelemetry collector (OTLP): the same sums that a scrape of `/metrics` gets, sent every so
//! often by a task on the control thread. Counts are cumulative, so that a message that is lost costs nothing but detail.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use opentelemetry_proto::tonic::{
    collector::metrics::v1::{ExportMetricsServiceRequest, metrics_service_client::MetricsServiceClient},
    common::v1::KeyValue,
    metrics::v1::{
        AggregationTemporality, Histogram, HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics,
        Sum, metric::Data, number_data_point::Value,
    },
    resource::v1::Resource,
};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

use super::{
    super::{
        Blame, Observed,
        collector::{Collector, scope, text},
    },
    BOUNDS_S, CODES, Series, Sums,
};
use crate::{clock, table::Table};

/// Series in one message: well below the 4 MiB that gRPC servers take.
const BATCH: usize = 250;

/// Where metrics go, and how often.
#[derive(Debug, Clone)]
pub struct MetricsOptions {
    /// The collector.
    pub collector: Collector,
    /// From one message to the next.
    pub interval: Duration,
}

/// The exporter.
#[derive(Debug)]
pub struct Exporter {
    client: MetricsServiceClient<Channel>,
    resource: Resource,
    interval: Duration,
    table: Arc<ArcSwap<Table>>,
    observed: Arc<Observed>,
    began_ns: u64,
}

impl Exporter {
    /// Of the proxy with this id. Must be called within a runtime.
    pub fn new(
        options: &MetricsOptions,
        endpoint: &Endpoint,
        proxy_id: &str,
        table: Arc<ArcSwap<Table>>,
        observed: Arc<Observed>,
    ) -> Self {
        Self {
            client: MetricsServiceClient::new(endpoint.connect_lazy()),
            resource: options.collector.resource(proxy_id),
            interval: options.interval,
            table,
            observed,
            began_ns: clock::unix_ns(),
        }
    }

    /// Exports until `stop`, and then once more.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut failing = false;
        loop {
            let last = tokio::time::timeout(self.interval, stop.cancelled()).await.is_ok();
            match self.export().await {
                Ok(()) if std::mem::take(&mut failing) => tracing::info!("the collector of metrics takes them again"),
                Ok(()) => {}
                Err(error) => {
                    self.observed.metrics_failed.fetch_add(1, Relaxed);
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!(%error, "the collector of metrics takes none");
                    }
                }
            }
            if last {
                return;
            }
        }
    }

    async fn export(&mut self) -> Result<(), tonic::Status> {
        let table = self.table.load_full();
        let sums: Vec<(&Series, Sums)> =
            table.routing.series().into_iter().map(|series| (series, series.sums())).collect();
        let used: Vec<_> = sums.iter().filter(|(_, sums)| sums.count() > 0).collect();
        let times = Times { began_ns: self.began_ns, now_ns: clock::unix_ns() };
        for some in used.chunks(BATCH) {
            let scope_metrics =
                vec![ScopeMetrics { scope: Some(scope()), metrics: times.metrics(some), ..ScopeMetrics::default() }];
            let resource = Some(self.resource.clone());
            let resource_metrics = vec![ResourceMetrics { resource, scope_metrics, ..ResourceMetrics::default() }];
            let answer = self.client.export(ExportMetricsServiceRequest { resource_metrics }).await?.into_inner();
            let count = |counter: &AtomicU64, points: u64| counter.fetch_add(points, Relaxed);
            let rejected = answer.partial_success.map_or(0, |partial| partial.rejected_data_points.max(0) as u64);
            count(&self.observed.metrics_rejected, rejected);
        }
        self.observed.metrics.fetch_add(1, Relaxed);
        Ok(())
    }
}

/// What all data points of a message have in common.
struct Times {
    began_ns: u64,
    now_ns: u64,
}

impl Times {
    /// Named so that a collector that exports to Prometheus gives them the names that `/metrics` has.
    fn metrics(&self, series: &[&(&Series, Sums)]) -> Vec<Metric> {
        let blames = Blame::ALL.map(Blame::as_str);
        let duration = Metric {
            name: "trimtab.proxy.route.duration".to_owned(),
            description: "From the first byte of a request to the last of its answer".to_owned(),
            unit: "s".to_owned(),
            data: Some(Data::Histogram(Histogram {
                data_points: series.iter().map(|series| self.histogram(series)).collect(),
                aggregation_temporality: AggregationTemporality::Cumulative.into(),
            })),
            ..Metric::default()
        };
        vec![
            self.counter(("requests", "Requests, by class of status", "status"), &CODES, series, |sums| &sums.codes),
            self.counter(("errors", "Requests that failed, by who is to blame", "blame"), &blames, series, |sums| {
                &sums.errors
            }),
            duration,
        ]
    }

    fn counter<const N: usize>(
        &self,
        (name, description, label): (&str, &str, &str),
        values: &[&str; N],
        series: &[&(&Series, Sums)],
        counts: impl Fn(&Sums) -> &[u64; N],
    ) -> Metric {
        let points = |(series, sums): &(&Series, Sums)| {
            let counted = values.iter().zip(counts(sums)).filter(|(_, count)| **count > 0);
            let point = |(value, count): (&&str, &u64)| NumberDataPoint {
                attributes: names(series).into_iter().chain([text(label, value)]).collect(),
                start_time_unix_nano: self.began_ns,
                time_unix_nano: self.now_ns,
                value: Some(Value::AsInt(i64::try_from(*count).unwrap_or(i64::MAX))),
                ..NumberDataPoint::default()
            };
            counted.map(point).collect::<Vec<_>>()
        };
        Metric {
            name: format!("trimtab.proxy.route.{name}"),
            description: description.to_owned(),
            unit: "{request}".to_owned(),
            data: Some(Data::Sum(Sum {
                data_points: series.iter().flat_map(|series| points(series)).collect(),
                aggregation_temporality: AggregationTemporality::Cumulative.into(),
                is_monotonic: true,
            })),
            ..Metric::default()
        }
    }

    fn histogram(&self, (series, sums): &(&Series, Sums)) -> HistogramDataPoint {
        HistogramDataPoint {
            attributes: names(series),
            start_time_unix_nano: self.began_ns,
            time_unix_nano: self.now_ns,
            count: sums.count(),
            sum: Some(sums.sum_s),
            bucket_counts: sums.buckets.to_vec(),
            explicit_bounds: BOUNDS_S.to_vec(),
            ..HistogramDataPoint::default()
        }
    }
}

fn names(series: &Series) -> Vec<KeyValue> {
    vec![text("route", &series.route), text("backend", &series.backend)]
}
