//! What a proxy tells of requests by itself: the access log, and spans and metrics for OpenTelemetry collectors. All are off unless asked for.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use trimtab::up::{Collector, LogOptions, MetricsOptions, TraceOptions};
use trimtab_proxy::observe::log::{Destination, Filter, Format, Reopen};

use super::{signals::Hangup, source::duration};

/// As often as Prometheus scrapes by the defaults of most charts.
const METRICS_INTERVAL: Duration = Duration::from_secs(15);

/// Access log, traces and pushed metrics, in `up` and in `proxy`.
#[derive(Debug, Args)]
#[group(skip)]
pub struct ObserveArgs {
    /// Log requests to this file, or to standard output if it is `-`. A slow disk costs lines, never a request's time. The file is opened
    /// anew on SIGHUP
    #[arg(long, env = "TRIMTAB_ACCESS_LOG", value_name = "FILE|-", help_heading = "Access log")]
    access_log: Option<PathBuf>,
    /// How a line looks
    #[arg(long, value_name = "FORMAT", default_value = "text", requires = "access_log", help_heading = "Access log")]
    access_log_format: LineFormat,
    /// Log requests answered with this status or a higher one, or not at all
    #[arg(long, value_name = "STATUS", requires = "access_log", value_parser = clap::value_parser!(u16).range(100..=599), help_heading = "Access log")]
    access_log_status: Option<u16>,
    /// Log requests that took at least this long
    #[arg(long, value_name = "DURATION", requires = "access_log", value_parser = duration, help_heading = "Access log")]
    access_log_slower: Option<Duration>,
    /// Log this share of all requests, whatever became of them [default: 1, or 0 with one of the two above]
    #[arg(long, value_name = "0..1", requires = "access_log", value_parser = share, help_heading = "Access log")]
    access_log_share: Option<f64>,
    /// Send spans of requests to the OpenTelemetry collector at this URL, by OTLP over gRPC, and pass W3C trace context on
    #[arg(long, env = "TRIMTAB_TRACE_COLLECTOR", value_name = "URL", value_parser = collector, help_heading = "Traces")]
    trace_collector: Option<http::Uri>,
    /// Share of the requests without a trace that begin a sampled one; those with one are sampled if it says so
    #[arg(long, value_name = "0..1", default_value = "0.01", requires = "trace_collector", value_parser = share, help_heading = "Traces")]
    trace_share: f64,
    /// `service.name` of the spans, and of pushed metrics
    #[arg(long, env = "OTEL_SERVICE_NAME", value_name = "NAME", default_value = "trimtab", help_heading = "Traces")]
    trace_service: String,
    /// Send rates, errors and durations of routes to the OpenTelemetry collector at this URL, by OTLP over gRPC; `/metrics` has them in any case
    #[arg(long, env = "TRIMTAB_METRICS_COLLECTOR", value_name = "URL", value_parser = collector, help_heading = "Pushed metrics")]
    metrics_collector: Option<http::Uri>,
    /// How often they are sent [default: 15s]
    #[arg(long, value_name = "DURATION", requires = "metrics_collector", value_parser = duration, help_heading = "Pushed metrics")]
    metrics_collector_interval: Option<Duration>,
    /// Certificates of the authorities, in PEM, that collectors at `https://` must have theirs of [default: those that this machine trusts]
    #[arg(long, env = "TRIMTAB_COLLECTOR_CA", value_name = "FILE", help_heading = "Traces")]
    collector_ca: Option<PathBuf>,
}

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum LineFormat {
    /// name=value
    Text,
    /// A JSON object
    Json,
}

impl ObserveArgs {
    /// What is to be logged. If it goes to a file, SIGHUP is from now on a wish to open that anew.
    pub fn access_log(&self) -> anyhow::Result<Option<LogOptions>> {
        let Some(path) = &self.access_log else { return Ok(None) };
        let to = if self.logs_to_stdout() { Destination::Stdout } else { Destination::File(path.clone()) };
        let format = match self.access_log_format {
            LineFormat::Text => Format::Text,
            LineFormat::Json => Format::Json,
        };
        let picky = self.access_log_status.is_some() || self.access_log_slower.is_some();
        let share = self.access_log_share.unwrap_or(if picky { 0.0 } else { 1.0 });
        let filter = Filter { status_min: self.access_log_status, slower_than: self.access_log_slower, share };
        let reopen = Reopen::default();
        if to != Destination::Stdout {
            let reopen = reopen.clone();
            super::signals::on_hangup(move || reopen.ask())?;
        }
        Ok(Some(LogOptions { to, format, filter, reopen }))
    }

    /// What SIGHUP means.
    pub fn hangup(&self) -> Hangup {
        let to_file = self.access_log.is_some() && !self.logs_to_stdout();
        if to_file { Hangup::Reopens } else { Hangup::MeansNothing }
    }

    /// Whether standard output is the access log's, and nobody else's.
    pub fn logs_to_stdout(&self) -> bool {
        self.access_log.as_ref().is_some_and(|path| path.as_os_str() == "-")
    }

    /// Where spans go.
    pub fn trace(&self) -> anyhow::Result<Option<TraceOptions>> {
        let collector = self.collector(self.trace_collector.as_ref())?;
        Ok(collector.map(|collector| TraceOptions { collector, share: self.trace_share }))
    }

    /// Where metrics are sent.
    pub fn metrics(&self) -> anyhow::Result<Option<MetricsOptions>> {
        let collector = self.collector(self.metrics_collector.as_ref())?;
        let interval = self.metrics_collector_interval.unwrap_or(METRICS_INTERVAL);
        Ok(collector.map(|collector| MetricsOptions { collector, interval }))
    }

    fn collector(&self, uri: Option<&http::Uri>) -> anyhow::Result<Option<Collector>> {
        if self.collector_ca.is_some() && self.trace_collector.is_none() && self.metrics_collector.is_none() {
            anyhow::bail!("--collector-ca does nothing without --trace-collector or --metrics-collector");
        }
        let Some(uri) = uri.cloned() else { return Ok(None) };
        let secured = uri.scheme_str() == Some("https");
        let read = |path: &PathBuf| std::fs::read(path).with_context(|| format!("--collector-ca {}", path.display()));
        let authorities = self.collector_ca.as_ref().filter(|_| secured).map(read).transpose()?;
        Ok(Some(Collector { uri, authorities, service: self.trace_service.clone() }))
    }
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| format!("\"{text}\" is not a share from 0 to 1"))
}

fn collector(text: &str) -> Result<http::Uri, String> {
    let wanted = || format!("\"{text}\" is not a URL such as http://127.0.0.1:4317 or https://collector:4317");
    let uri: http::Uri = text.parse().map_err(|_| wanted())?;
    match (uri.scheme_str(), uri.authority()) {
        (Some("http" | "https"), Some(_)) => Ok(uri),
        _ => Err(wanted()),
    }
}
