//! Load reports of one backend, collected from all proxies between two ticks and summed when the tick takes them.
//!
//! Proxies report at their own pace, so each one's counts cover a time of their own. Rates and in-flight means are formed per
//! proxy and then added; the summed counts are given the length of time that makes their rate the sum of the rates.

use std::collections::BTreeMap;
use std::sync::Arc;

use trimtab_model::observation::{EndpointKey, Reported};
use trimtab_proxy::api::v1;
use trimtab_proxy::sketch::Sketch;

use crate::clock::Now;
use crate::keys::KeyMap;

/// One report covers at most this much; what claims more is a broken clock.
const INTERVAL_MS_MAX: f32 = 3_600_000.0;

/// What proxies reported since the last tick. Latencies are merged as they come, where they are few and sparse.
#[derive(Debug, Default)]
pub struct Loads {
    proxies: BTreeMap<Arc<str>, ProxyLoads>,
    /// Of each endpoint over all proxies; emptied and kept from tick to tick.
    latencies: KeyMap<Sketch>,
}

#[derive(Debug)]
struct ProxyLoads {
    oldest: Now,
    covered_ms: f64,
    totals: Totals,
    endpoints: KeyMap<EndpointLoads>,
}

/// Counts of a backend as a whole, over all endpoints.
#[derive(Debug, Clone, Default)]
pub struct Totals {
    /// Requests answered 503 by admission control.
    pub shed: u64,
    /// Requests for which no endpoint was to be had.
    pub unroutable: u64,
    /// Answers within the objective.
    pub within_objective: u64,
    /// Admission control's limit; `None` where it is off.
    pub concurrency_limit: Option<f64>,
    /// Client-side latency.
    pub latency: Sketch,
}

#[derive(Debug, Default)]
struct EndpointLoads {
    in_flight_ms: f64,
    in_flight: u32,
    successes: u64,
    errors: u64,
    failures: u64,
    latency_ms_sum: f64,
    ejected: bool,
    /// Why its active health checks fail; empty: they do not.
    failing: String,
}

/// The sum over all proxies.
#[derive(Debug, Default)]
pub struct Summed {
    /// Proxies that reported.
    pub proxies: u32,
    /// The backend as a whole; counts cover `interval_s`.
    pub totals: Totals,
    /// The longest time that a proxy's counts cover; 0 where none reported.
    pub interval_s: f64,
    /// By endpoint.
    pub endpoints: KeyMap<EndpointSum>,
}

/// What all proxies saw of one endpoint.
#[derive(Debug, Default)]
pub struct EndpointSum {
    /// The numbers; `error` is left at 0, it is pooled elsewhere.
    pub reported: Reported,
    /// Proxies whose active health checks keep it out.
    pub failing_by: u32,
    /// Why, in the words of one of them.
    pub failing: Option<String>,
    answers_per_s: f64,
    latency_ms_sum: f64,
}

impl Loads {
    /// Takes in one proxy's report on this backend, as far as it is about endpoints that are `known`. Numbers that cannot be are taken
    /// as not said.
    pub fn add(
        &mut self,
        proxy: &Arc<str>,
        interval_ms: f32,
        load: &v1::BackendLoad,
        known: impl Fn(EndpointKey) -> bool,
        now: Now,
    ) {
        let interval_ms = f64::from(sane(interval_ms).min(INTERVAL_MS_MAX));
        if interval_ms <= 0.0 {
            return;
        }
        let loads = self.proxies.entry(proxy.clone()).or_insert_with(|| ProxyLoads {
            oldest: now,
            covered_ms: 0.0,
            totals: Totals::default(),
            endpoints: KeyMap::default(),
        });
        loads.covered_ms += interval_ms;
        let totals = &mut loads.totals;
        totals.shed = totals.shed.saturating_add(load.shed);
        totals.unroutable = totals.unroutable.saturating_add(load.unroutable);
        totals.within_objective = totals.within_objective.saturating_add(load.within_objective);
        totals.concurrency_limit = load.concurrency_limit.map(|limit| f64::from(sane(limit)));
        if let Some(latency) = &load.latency {
            merge(&mut totals.latency, latency);
        }
        for endpoint in load.endpoints.iter().filter(|endpoint| known(EndpointKey(endpoint.key))) {
            let key = EndpointKey(endpoint.key);
            let sum = loads.endpoints.entry(key).or_default();
            sum.in_flight_ms += f64::from(sane(endpoint.in_flight_mean)) * interval_ms;
            sum.in_flight = endpoint.in_flight;
            sum.successes = sum.successes.saturating_add(endpoint.successes);
            sum.errors = sum.errors.saturating_add(endpoint.errors);
            sum.failures = sum.failures.saturating_add(endpoint.failures);
            sum.latency_ms_sum += f64::from(sane(endpoint.latency_ms_sum));
            sum.ejected = endpoint.ejected;
            sum.failing.clone_from(&endpoint.failing_check);
            if let Some(latency) = &endpoint.latency {
                merge(self.latencies.entry(key).or_default(), latency);
            }
        }
    }

    /// Forgets endpoints that are gone.
    pub fn retain(&mut self, known: impl Fn(EndpointKey) -> bool) {
        self.latencies.retain(|key, _| known(*key));
        self.proxies.values_mut().for_each(|loads| loads.endpoints.retain(|key, _| known(*key)));
    }

    /// Sums up over `endpoints`, and starts anew. An endpoint of which a proxy says nothing in its report is idle there.
    pub fn take(&mut self, endpoints: impl ExactSizeIterator<Item = EndpointKey>, now: Now) -> Summed {
        let mut summed = Summed::default();
        summed.endpoints.reserve(endpoints.len());
        let mut oldest_s = 0.0_f32;
        for (_, loads) in std::mem::take(&mut self.proxies) {
            summed.proxies += 1;
            summed.interval_s = summed.interval_s.max(loads.covered_ms / 1000.0);
            let age_s = now.since_s(loads.oldest.instant) as f32;
            oldest_s = oldest_s.max(age_s);
            summed.totals.add(loads.totals);
            for (key, part) in loads.endpoints {
                summed.endpoints.entry(key).or_default().add(&part, loads.covered_ms, age_s);
            }
        }
        for (key, sum) in &mut summed.endpoints {
            let latency = self.latencies.get(key).filter(|latency| !latency.is_empty());
            sum.finish(latency);
        }
        self.latencies.values_mut().for_each(Sketch::clear);
        if summed.proxies > 0 {
            let idle = Reported { interval_s: summed.interval_s, age_s: oldest_s, ..Reported::default() };
            for key in endpoints {
                summed.endpoints.entry(key).or_insert_with(|| EndpointSum { reported: idle, ..EndpointSum::default() });
            }
        }
        summed
    }
}

impl Totals {
    fn add(&mut self, other: Totals) {
        self.shed = self.shed.saturating_add(other.shed);
        self.unroutable = self.unroutable.saturating_add(other.unroutable);
        self.within_objective = self.within_objective.saturating_add(other.within_objective);
        self.concurrency_limit = match (self.concurrency_limit, other.concurrency_limit) {
            (Some(a), Some(b)) => Some(a + b),
            (a, b) => a.or(b),
        };
        self.latency.merge(&other.latency);
    }
}

impl EndpointSum {
    fn add(&mut self, part: &EndpointLoads, covered_ms: f64, age_s: f32) {
        let reported = &mut self.reported;
        let answers = part.successes.saturating_add(part.errors).saturating_add(part.failures);
        self.answers_per_s += answers as f64 * 1000.0 / covered_ms;
        self.latency_ms_sum += part.latency_ms_sum;
        reported.interval_s = reported.interval_s.max(covered_ms / 1000.0);
        reported.age_s = reported.age_s.max(age_s);
        reported.successes = reported.successes.saturating_add(part.successes);
        reported.errors = reported.errors.saturating_add(part.errors);
        reported.failures = reported.failures.saturating_add(part.failures);
        reported.in_flight_mean += part.in_flight_ms / covered_ms;
        reported.in_flight = reported.in_flight.saturating_add(part.in_flight);
        reported.ejected_by += u32::from(part.ejected);
        if !part.failing.is_empty() {
            self.failing_by += 1;
            self.failing.get_or_insert_with(|| part.failing.clone());
        }
    }

    fn finish(&mut self, latency: Option<&Sketch>) {
        let reported = &mut self.reported;
        let answers = reported.successes.saturating_add(reported.errors).saturating_add(reported.failures);
        if self.answers_per_s > 0.0 {
            reported.interval_s = answers as f64 / self.answers_per_s;
        }
        // Failures have no latency; answers do.
        if let Some(latency) = latency {
            reported.latency_ms_mean = Some(self.latency_ms_sum / latency.count() as f64);
            if let Some([p10, p50, p99]) = latency.quantiles_ms([0.10, 0.50, 0.99]) {
                (reported.latency_ms_p10, reported.latency_ms_p50) = (Some(p10), Some(p50));
                reported.latency_ms_p99 = Some(p99);
            }
        }
    }
}

/// A sketch that does not hold adds nothing.
pub(crate) fn merge(into: &mut Sketch, wire: &v1::LatencySketch) {
    if let Err(error) = into.merge_wire(wire) {
        tracing::debug!(%error, "latency sketch left out");
    }
}

/// A number that counts something: 0 where it is negative or not finite.
fn sane(value: f32) -> f32 {
    if value.is_finite() { value.max(0.0) } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(successes: u64, in_flight_mean: f32) -> v1::BackendLoad {
        v1::BackendLoad {
            backend: "a/b:1".into(),
            endpoints: vec![v1::EndpointLoad { key: 7, successes, in_flight_mean, in_flight: 3, ..Default::default() }],
            ..Default::default()
        }
    }

    fn check(reports: &[(&str, f32, v1::BackendLoad)], rps: f64, in_flight_mean: f64) {
        let now = crate::clock::now();
        let mut loads = Loads::default();
        for (proxy, interval_ms, load) in reports {
            loads.add(&Arc::from(*proxy), *interval_ms, load, |key| key.0 == 7, now);
        }
        let reported = loads.take([].into_iter(), now).endpoints[&EndpointKey(7)].reported;
        let got = reported.successes as f64 / reported.interval_s;
        assert!((got - rps).abs() < 1e-6, "{got} requests per second, expected {rps}");
        assert!((reported.in_flight_mean - in_flight_mean).abs() < 1e-6, "{}", reported.in_flight_mean);
        assert!(loads.take([EndpointKey(7)].into_iter(), now).endpoints.is_empty(), "taken once");
    }

    #[test]
    fn an_endpoint_that_a_report_leaves_out_is_idle_and_not_unknown() {
        let now = crate::clock::now();
        let mut loads = Loads::default();
        loads.add(&"p".into(), 250.0, &load(10, 1.0), |_| true, now);
        let summed = loads.take([7, 8].map(EndpointKey).into_iter(), now);
        let reported = summed.endpoints[&EndpointKey(8)].reported;
        assert_eq!((reported.successes, reported.in_flight, reported.in_flight_mean), (0, 0, 0.0));
        assert_eq!((reported.interval_s, summed.endpoints[&EndpointKey(7)].reported.successes), (0.25, 10));
    }

    #[test]
    fn rates_add_over_proxies_even_where_they_cover_different_times() {
        check(&[("p", 250.0, load(10, 1.0)), ("q", 500.0, load(20, 2.0))], 80.0, 3.0);
    }

    #[test]
    fn reports_of_one_proxy_follow_each_other() {
        check(&[("p", 250.0, load(10, 1.0)), ("p", 750.0, load(10, 3.0))], 20.0, 2.5);
    }

    #[test]
    fn endpoints_that_are_not_known_leave_nothing_behind() {
        let now = crate::clock::now();
        let mut loads = Loads::default();
        loads.add(&"p".into(), 500.0, &load(10, 1.0), |_| false, now);
        let summed = loads.take([].into_iter(), now);
        assert_eq!((summed.proxies, summed.endpoints.len()), (1, 0));
    }

    #[test]
    fn impossible_numbers_are_taken_as_not_said() {
        check(
            &[("p", 500.0, load(10, f32::NAN)), ("q", f32::INFINITY, load(10, 1.0)), ("r", -1.0, load(9, 1.0))],
            20.0,
            0.0,
        );
    }
}
