//! ORCA load reports in response headers (`endpoint-load-metrics`), in the formats that Envoy reads: `TEXT key=value, …` and
//! `JSON {…}` (xds.data.orca.v3.OrcaLoadReport). The binary format is left out: who can encode it can send text.
//!
//! Only what the pick rule can use is taken; a header that does not parse is no report, never an error.

use std::time::Duration;

use http::{HeaderMap, HeaderName};

use crate::{head::text, load::OrcaLoad};

/// The header's name.
pub const HEADER: HeaderName = HeaderName::from_static("endpoint-load-metrics");
/// The binary variant's name; stripped, not read.
pub const HEADER_BIN: HeaderName = HeaderName::from_static("endpoint-load-metrics-bin");

/// Names under `named_metrics` that say how many requests the endpoint has inside, this one's answer included.
const IN_FLIGHT_NAMES: [&str; 3] = ["in_flight", "inflight", "requests_in_flight"];
/// The name of what a request takes, as the endpoint foretells to a probe (Prequal's latency estimate), in milliseconds.
const LATENCY_NAME: &str = "latency_ms";

/// Takes the report out of a response's headers: it is meant for us and not for the client. An endpoint counts the request that it is
/// answering, so one is taken off.
pub fn take(headers: &mut HeaderMap) -> Option<OrcaLoad> {
    headers.remove(HEADER_BIN);
    read(headers.remove(HEADER)?.as_bytes())
}

/// The report in the header's value.
pub fn read(value: &[u8]) -> Option<OrcaLoad> {
    Some(OrcaLoad { in_flight: parse(text(value)?)?.saturating_sub(1) })
}

/// What a probe is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ProbeReport {
    /// Requests inside the endpoint, the probe not counted.
    pub in_flight: Option<u32>,
    /// What a request takes that comes at so many.
    pub latency: Option<Duration>,
}

/// The same of a probe's answer, with what the endpoint foretells.
pub fn read_probe(value: &[u8]) -> ProbeReport {
    let Some(value) = text(value) else { return ProbeReport::default() };
    let latency_ms =
        named(value, |name, value| (name == LATENCY_NAME && (0.0..=3.6e6).contains(&value)).then_some(value));
    ProbeReport {
        in_flight: parse(value).map(|inside| inside.saturating_sub(1)),
        latency: latency_ms.map(|ms| Duration::from_secs_f64(ms * 1e-3)),
    }
}

/// The number of requests inside.
fn parse(value: &str) -> Option<u32> {
    named(value, count)
}

/// The first of the named metrics of which `take` makes something.
fn named<T>(value: &str, take: impl Fn(&str, f64) -> Option<T>) -> Option<T> {
    match value.split_once(' ')? {
        ("TEXT", pairs) => pairs.split(',').find_map(|pair| {
            let (name, value) = pair.split_once('=')?;
            take(name.trim().strip_prefix("named_metrics.")?, value.trim().parse().ok()?)
        }),
        ("JSON", json) => {
            let report: serde_json::Map<String, serde_json::Value> = serde_json::from_str(json).ok()?;
            // Proto3 JSON spells fields in camel case and accepts snake case.
            let named = report.get("named_metrics").or_else(|| report.get("namedMetrics"))?.as_object()?;
            named.iter().find_map(|(name, value)| take(name, value.as_f64()?))
        }
        _ => None,
    }
}

/// A count: whole, not negative, and not absurd.
fn count(name: &str, value: f64) -> Option<u32> {
    (IN_FLIGHT_NAMES.contains(&name) && (0.0..=1e9).contains(&value)).then_some(value.round() as u32)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[track_caller]
    fn check(header: &'static str, in_flight: Option<u32>) {
        let mut headers = HeaderMap::new();
        headers.insert(HEADER, HeaderValue::from_static(header));
        assert_eq!(take(&mut headers), in_flight.map(|in_flight| OrcaLoad { in_flight }), "{header}");
        assert!(headers.is_empty());
    }

    #[test]
    fn the_answered_request_is_not_counted() {
        check("TEXT cpu_utilization=0.5, named_metrics.in_flight=7,eps=1", Some(6));
        check("TEXT named_metrics.inflight=0", Some(0));
    }

    #[test]
    fn json_reports_are_read_in_either_spelling() {
        check(r#"JSON {"application_utilization":1.5,"named_metrics":{"in_flight":3,"other":1}}"#, Some(2));
        check(r#"JSON {"namedMetrics":{"requests_in_flight":3.0}}"#, Some(2));
    }

    #[test]
    fn a_probe_is_told_what_is_inside_and_what_requests_take() {
        let read = |value: &str| {
            let report = read_probe(value.as_bytes());
            (report.in_flight, report.latency)
        };
        let (five, half) = (Some(5), Some(Duration::from_micros(500)));
        assert_eq!(read("TEXT named_metrics.in_flight=6, named_metrics.latency_ms=0.5"), (five, half));
        assert_eq!(read(r#"JSON {"named_metrics":{"latency_ms":0.5}}"#), (None, half));
        assert_eq!(read("TEXT named_metrics.in_flight=6,named_metrics.latency_ms=-1"), (five, None));
        assert_eq!(read("BIN xyz"), (None, None));
    }

    #[test]
    fn nonsense_is_no_report() {
        for header in
            ["", "TEXT", "TEXT in_flight=1", "TEXT named_metrics.in_flight=-1", "TEXT named_metrics.in_flight=NaN"]
        {
            check(header, None);
        }
        for header in ["JSON {", "JSON []", r#"JSON {"named_metrics":[1]}"#, "BIN CgA=", "TEXT cpu_utilization=1"] {
            check(header, None);
        }
    }
}
