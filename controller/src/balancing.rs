//! `spec.loadBalancer.parameters`: what algorithms can be told beside their name.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use trimtab_proxy::api::v1;

use crate::{duration::Duration, policy::Algorithm, problem::Report};

/// Settings of the algorithm, each of one of them: the definition has no defaults for them, or the API server would fill in those of the others.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Parameters {
    /// SlidingWindowRoundRobin: how long requests count, up to 1h. Default: 1s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<Duration>,
    /// DecayingWeights: the weight of an endpoint that comes to others begins at this percentage of its own. Default: 10.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub start_percent: Option<u32>,
    /// DecayingWeights: after this long, up to 1h, half of the difference is left. Default: 10s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub half_life: Option<Duration>,
    /// Locality: requests leave the proxy's zone where it is loaded by more than this percentage of another one's load. Default: 200.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 100, max = 10000))]
    pub spillover_percent: Option<u32>,
    /// Prequal: endpoints with more in flight than this percentile of all are hot. Default: 84.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub hot_percentile: Option<u32>,
    /// Prequal: probes that are sent to endpoints for each request, 0 to 16; 0: none, what answers tell is all. Default: 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 16))]
    pub probes_per_request: Option<f64>,
    /// Prequal: the path that probes ask for. Default: /healthz.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe_path: Option<String>,
}

/// Longest time that makes sense here.
const LONGEST_MS: u32 = 3_600_000;
/// Beyond this many probes a request endpoints do little else.
const PROBES_MAX: f64 = 16.0;

impl Parameters {
    /// Checks what the schema alone does not, or does not where no API server has checked it.
    pub(crate) fn check(&self, algorithm: Algorithm, report: &mut Report) {
        let field = |name: &str| format!("spec.loadBalancer.parameters.{name}");
        let of = [
            ("window", self.window.is_some(), Algorithm::SlidingWindowRoundRobin),
            ("startPercent", self.start_percent.is_some(), Algorithm::DecayingWeights),
            ("halfLife", self.half_life.is_some(), Algorithm::DecayingWeights),
            ("spilloverPercent", self.spillover_percent.is_some(), Algorithm::Locality),
            ("hotPercentile", self.hot_percentile.is_some(), Algorithm::Prequal),
            ("probesPerRequest", self.probes_per_request.is_some(), Algorithm::Prequal),
            ("probePath", self.probe_path.is_some(), Algorithm::Prequal),
        ];
        for (name, _, whose) in of.iter().filter(|(_, set, whose)| *set && *whose != algorithm) {
            report.invalid(field(name), format!("means something to {whose:?} alone, expected it with that type"));
        }
        for (name, time) in [("window", self.window), ("halfLife", self.half_life)] {
            if time.is_some_and(|time| !(1..=LONGEST_MS).contains(&time.as_millis_u32())) {
                report.invalid(field(name), "is out of range, expected 1ms to 1h");
            }
        }
        if let Some(probes) = self.probes_per_request.filter(|probes| !(0.0..=PROBES_MAX).contains(probes)) {
            report.invalid(field("probesPerRequest"), format!("{probes} is out of range, expected 0 to {PROBES_MAX}"));
        }
        if let Some(path) = &self.probe_path
            && (!path.starts_with('/') || path.parse::<http::uri::PathAndQuery>().is_err())
        {
            let path = path.escape_default();
            report.invalid(field("probePath"), format!("\"{path}\" is not a path, expected one such as /healthz"));
        }
        let percents = [
            ("startPercent", self.start_percent, 1, 1_000),
            ("spilloverPercent", self.spillover_percent, 100, 10_000),
            ("hotPercentile", self.hot_percentile, 0, 100),
        ];
        for (name, value, low, high) in percents {
            if let Some(value) = value.filter(|value| !(low..=high).contains(value)) {
                report.invalid(field(name), format!("{value} is out of range, expected {low} to {high}"));
            }
        }
    }

    /// As the data plane says it.
    pub(crate) fn data_plane(&self) -> v1::Balancing {
        let share = |percent: Option<u32>| percent.map(|percent| percent as f32 / 100.0);
        v1::Balancing {
            window_ms: self.window.map(Duration::as_millis_u32),
            start: share(self.start_percent),
            half_life_ms: self.half_life.map(Duration::as_millis_u32),
            spillover: share(self.spillover_percent),
            hot_quantile: share(self.hot_percentile),
            probes: self.probes_per_request.map(|probes| probes as f32),
            probe_path: self.probe_path.clone(),
        }
    }
}
