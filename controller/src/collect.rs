//! Everything known of one backend, put together into one `Observation`: configuration, load reports, pooled error averages, scrapes.
//! Pure: the same inputs give the same observation.

use std::time::{Duration, Instant};

use trimtab_model::observation::{EndpointKey, EndpointObservation, Measured, Observation, Scraped};
use trimtab_model::rollout::Interval;
use trimtab_model::slots::SlotMemory;

use crate::checks::Checks;
use crate::clock::Now;
use crate::errors::PooledErrors;
use crate::gateway::{BackendSpec, EndpointSpec};
use crate::loads::{EndpointSum, Summed};
use crate::scrape::{Numbers, Stamped};

/// What an observation is made of.
#[derive(Debug)]
pub struct Inputs<'a> {
    /// The configuration.
    pub spec: &'a BackendSpec,
    /// Number of the tick.
    pub tick: u64,
    /// The time.
    pub now: Now,
    /// Time since the previous observation.
    pub interval_s: f64,
    /// Proxies that reported lately.
    pub proxies: u32,
    /// The objective in use.
    pub objective_ms: Option<f64>,
    /// What the proxies reported since the previous observation.
    pub summed: &'a Summed,
    /// Pooled error averages.
    pub errors: &'a PooledErrors,
    /// Slots, as learned.
    pub slots: &'a SlotMemory,
    /// What active health checks say.
    pub checks: &'a Checks,
}

/// Puts the observation together. `numbers` gives what the endpoint's own metrics said last.
pub fn observe<'n>(inputs: &Inputs<'_>, numbers: impl Fn(EndpointKey) -> Option<&'n Numbers>) -> Observation {
    let &Inputs { spec, now, .. } = inputs;
    let stale_after = spec.guardrails.stale_after;
    let serves = |endpoint: &EndpointSpec| endpoint.ready && !endpoint.draining;
    let fails = |endpoint: &EndpointSpec| inputs.checks.failing(endpoint.key).is_some_and(|failing| failing.most);
    // If none is left, all that serve get requests.
    let heeded = spec.endpoints.iter().any(|endpoint| serves(endpoint) && !fails(endpoint));
    let endpoints = spec.endpoints.iter().map(|endpoint| {
        let since_ms = endpoint.ready_since_ms.max(inputs.checks.recovered_ms(endpoint.key));
        let reported = inputs.summed.endpoints.get(&endpoint.key).map(|sum| {
            let mut reported = sum.reported;
            reported.error = inputs.errors.of(endpoint.key, now.instant);
            reported
        });
        EndpointObservation {
            key: endpoint.key,
            ready: serves(endpoint) && !(heeded && fails(endpoint)),
            ready_age_s: since_ms.map(|since_ms| (now.at_ms.saturating_sub(since_ms)).max(0) as f64 / 1e3),
            restarts: endpoint.restarts,
            // Proxies do not tell their zone yet.
            zone_match: None,
            slots: inputs.slots.slots(endpoint.key.0),
            slots_deviation: inputs.slots.deviation(endpoint.key.0),
            reported,
            scraped: numbers(endpoint.key)
                .map(|numbers| scraped(numbers, now.instant, stale_after))
                .unwrap_or_default(),
        }
    });
    Observation {
        backend: spec.name().to_owned(),
        tick: inputs.tick,
        at_ms: now.at_ms,
        interval_s: inputs.interval_s,
        proxies: inputs.proxies.max(1),
        objective_ms: inputs.objective_ms,
        endpoints: endpoints.collect(),
    }
}

/// What came of the interval, for who is compared by it.
pub fn outcome(summed: &Summed, interval_s: f64, objective_ms: Option<f64>) -> Interval {
    let totals = &summed.totals;
    let mut outcome = Interval {
        seconds: interval_s,
        shed: (totals.shed + totals.unroutable) as f64,
        within_objective: objective_ms.map(|_| totals.within_objective as f64),
        ..Interval::default()
    };
    for EndpointSum { reported, .. } in summed.endpoints.values() {
        let failed = reported.errors.saturating_add(reported.failures);
        outcome.answers += reported.successes.saturating_add(failed) as f64;
        outcome.failed += failed as f64;
        outcome.in_flight += reported.in_flight_mean;
    }
    if let Some([p50, p99]) = totals.latency.quantiles_ms([0.5, outcome.tail_quantile()]) {
        (outcome.latency_ms_p50, outcome.latency_ms_p99) = (Some(p50), Some(p99));
    }
    outcome
}

/// Gives every number its age; one that is older than allowed is left out.
fn scraped(numbers: &Numbers, now: Instant, stale_after: Option<Duration>) -> Scraped {
    let aged = |stamped: Option<Stamped>| -> Option<Measured> {
        let stamped = stamped?;
        let age = now.saturating_duration_since(stamped.at);
        let fresh = stale_after.is_none_or(|limit| age <= limit);
        fresh.then_some(Measured { value: stamped.value, age_s: age.as_secs_f32() })
    };
    Scraped {
        in_flight: aged(numbers.in_flight),
        busy: aged(numbers.busy),
        worker_limit: aged(numbers.worker_limit),
        completed_rps: aged(numbers.completed_rps),
        latency_ms_mean: aged(numbers.latency_ms_mean),
        latency_ms_p99: aged(numbers.latency_ms_p99),
        cpu_cores: aged(numbers.cpu_cores),
        cpu_limit_cores: aged(numbers.cpu_limit_cores),
        memory_bytes: aged(numbers.memory_bytes),
        memory_limit_bytes: aged(numbers.memory_limit_bytes),
        start_time_s: aged(numbers.start_time_s),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::fixtures;
    use trimtab_model::observation::Reported;

    #[test]
    fn every_number_carries_its_age_and_stale_ones_are_left_out() {
        let now = crate::clock::now().plus(Duration::from_secs(60));
        let mut spec = fixtures::backend("a/b:1", 2);
        spec.guardrails.stale_after = Some(Duration::from_secs(5));
        Arc::make_mut(&mut spec.endpoints[0]).ready_since_ms = Some(now.at_ms - 3_000);
        Arc::make_mut(&mut spec.endpoints[1]).draining = true;
        let stamped = |value, ago_s| Some(Stamped { value, at: now.instant - Duration::from_secs(ago_s) });
        let numbers = Numbers { in_flight: stamped(3.0, 1), busy: stamped(2.0, 9), ..Default::default() };
        let mut errors = PooledErrors::default();
        errors.add(spec.endpoints[0].key, 1, 1, now.instant);
        let mut summed = Summed::default();
        let sum = summed.endpoints.entry(spec.endpoints[0].key).or_default();
        sum.reported = Reported { successes: 7, ..Default::default() };

        let inputs = Inputs {
            spec: &spec,
            tick: 9,
            now,
            interval_s: 0.5,
            proxies: 0,
            objective_ms: None,
            summed: &summed,
            errors: &errors,
            slots: &SlotMemory::default(),
            checks: &Checks::default(),
        };
        let first = spec.endpoints[0].key;
        let observation = observe(&inputs, |key| (key == first).then_some(&numbers));
        assert_eq!(observation.proxies, 1);
        let [first, second] = &observation.endpoints[..] else { panic!("two endpoints") };
        assert_eq!(first.scraped.in_flight, Some(Measured { value: 3.0, age_s: 1.0 }));
        assert_eq!(first.scraped.busy, None);
        assert_eq!(first.ready_age_s, Some(3.0));
        assert_eq!(first.reported.unwrap().successes, 7);
        assert!((first.reported.unwrap().error - 0.05).abs() < 1e-9);
        assert!(!second.ready);
        assert_eq!((second.reported, second.scraped), (None, Scraped::default()));
    }
}
