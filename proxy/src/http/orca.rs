//! ORCA load reports in response headers (`endpoint-load-metrics`), in the formats that Envoy reads: `TEXT key=value, …` and
//! `JSON {…}` (xds.data.orca.v3.OrcaLoadReport). The binary format is left out: who can encode it can send text.
//!
//! Only what the pick rule can use is taken; a header that does not parse is no report, never an error.

use http::{HeaderMap, HeaderName};

use crate::{head::text, load::OrcaLoad};

/// The header's name.
pub const HEADER: HeaderName = HeaderName::from_static("endpoint-load-metrics");
/// The binary variant's name; stripped, not read.
pub const HEADER_BIN: HeaderName = HeaderName::from_static("endpoint-load-metrics-bin");

/// Names under `named_metrics` that say how many requests the endpoint has inside, this one's answer included.
const IN_FLIGHT_NAMES: [&str; 3] = ["in_flight", "inflight", "requests_in_flight"];

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

/// The number of requests inside.
fn parse(value: &str) -> Option<u32> {
    match value.split_once(' ')? {
        ("TEXT", pairs) => pairs.split(',').find_map(|pair| {
            let (name, value) = pair.split_once('=')?;
            count(name.trim().strip_prefix("named_metrics.")?, value.trim().parse().ok()?)
        }),
        ("JSON", json) => {
            let report: serde_json::Map<String, serde_json::Value> = serde_json::from_str(json).ok()?;
            // Proto3 JSON spells fields in camel case and accepts snake case.
            let named = report.get("named_metrics").or_else(|| report.get("namedMetrics"))?.as_object()?;
            named.iter().find_map(|(name, value)| count(name, value.as_f64()?))
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
