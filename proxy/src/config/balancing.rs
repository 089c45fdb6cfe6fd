//! What algorithms can be told beside their name.

use std::{num::NonZeroU32, time::Duration};

use http::uri::PathAndQuery;

use super::{Check, InvalidResource, millis};
use crate::{api::v1, pick::probes::Knobs};

/// Settings of the algorithms that have some.
#[derive(Debug, Clone, PartialEq)]
pub struct Balancing {
    /// Sliding-window round robin: how long requests count. Default 1 s.
    pub window: Duration,
    /// Decaying weights: what a new endpoint's weight is multiplied with at first. Default 0.1.
    pub start: f64,
    /// Decaying weights: after this long half of the difference is left. Default 10 s.
    pub half_life: Duration,
    /// Locality: an endpoint elsewhere is taken for so many times as loaded. Default 2.
    pub spillover: f64,
    /// Prequal: endpoints with more in flight than this quantile of all are hot. Default 0.84.
    pub hot_quantile: f64,
    /// Prequal: probes a request. With 0 none are sent. Default 3.
    pub probes: f64,
    /// Prequal: what probes ask for. Default `/healthz`.
    pub probe_path: PathAndQuery,
    /// This proxy's zone; empty where it is not known. The proxy's own to say.
    pub zone: String,
}

impl Default for Balancing {
    fn default() -> Self {
        Self {
            window: Duration::from_secs(1),
            start: 0.1,
            half_life: Duration::from_secs(10),
            spillover: 2.0,
            // 2^−0.25, the baseline of the paper.
            hot_quantile: Knobs::DEFAULT.quantile,
            probes: Knobs::DEFAULT.probes,
            probe_path: PathAndQuery::from_static("/healthz"),
            zone: String::new(),
        }
    }
}

/// Beyond this many probes a request endpoints do little else.
const PROBES_MAX: f32 = 16.0;

impl Balancing {
    /// Prequal's knobs; `None`: no probes are sent.
    pub fn probes(&self) -> Option<Knobs> {
        let probes = self.probes;
        (probes > 0.0).then_some(Knobs { quantile: self.hot_quantile, probes, ..Knobs::DEFAULT })
    }

    pub(super) fn check(wire: &v1::Balancing, check: &Check) -> Result<Self, InvalidResource> {
        let default = Self::default();
        let range = |value: Option<f32>, name: &str, low: f32, high: f32, default: f64| {
            let Some(value) = value else { return Ok(default) };
            let inside = (low..=high).contains(&value);
            check.that(inside, format_args!("balancing.{name}"), || format!("{value} is not within {low}..={high}"))?;
            Ok(f64::from(value))
        };
        let length = |value: Option<u32>, name: &str, default: Duration| {
            let Some(value) = value else { return Ok(default) };
            let value = NonZeroU32::new(value).filter(|value| value.get() <= 3_600_000);
            let error = || check.error(format_args!("balancing.{name}"), "must be 1 ms to 1 h".to_owned());
            value.map(millis).ok_or_else(error)
        };
        Ok(Self {
            window: length(wire.window_ms, "window_ms", default.window)?,
            start: range(wire.start, "start", 0.01, 10.0, default.start)?,
            half_life: length(wire.half_life_ms, "half_life_ms", default.half_life)?,
            spillover: range(wire.spillover, "spillover", 1.0, 100.0, default.spillover)?,
            hot_quantile: range(wire.hot_quantile, "hot_quantile", 0.0, 1.0, default.hot_quantile)?,
            probes: range(wire.probes, "probes", 0.0, PROBES_MAX, default.probes)?,
            probe_path: match &wire.probe_path {
                None => default.probe_path,
                Some(path) => path.parse().ok().filter(|_| path.starts_with('/')).ok_or_else(|| {
                    check.error("balancing.probe_path", format!("{path:?} is not a path such as /healthz"))
                })?,
            },
            zone: default.zone,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_has_its_default_and_what_makes_no_sense_is_named() {
        let check = |wire: v1::Balancing| Balancing::check(&wire, &Check::new("Backend", "b"));
        assert_eq!(check(v1::Balancing::default()), Ok(Balancing::default()));
        let error = |wire: v1::Balancing| check(wire).unwrap_err().to_string();
        let said = error(v1::Balancing { start: Some(0.0), ..Default::default() });
        assert_eq!(said, "Backend b: balancing.start: 0 is not within 0.01..=10");
        let said = error(v1::Balancing { window_ms: Some(0), ..Default::default() });
        assert_eq!(said, "Backend b: balancing.window_ms: must be 1 ms to 1 h");
        assert!(error(v1::Balancing { spillover: Some(f32::NAN), ..Default::default() }).contains("spillover"));
        let said = error(v1::Balancing { probes: Some(17.0), ..Default::default() });
        assert_eq!(said, "Backend b: balancing.probes: 17 is not within 0..=16");
        let said = error(v1::Balancing { probe_path: Some("healthz".into()), ..Default::default() });
        assert_eq!(said, "Backend b: balancing.probe_path: \"healthz\" is not a path such as /healthz");
        let none = check(v1::Balancing { probes: Some(0.0), ..Default::default() }).unwrap();
        assert_eq!((none.probes(), Balancing::default().probes()), (None, Some(Knobs::DEFAULT)));
        assert!(error(v1::Balancing { hot_quantile: Some(1.5), ..Default::default() }).contains("hot_quantile"));
    }
}
