//! Whether a recording agrees with itself. The same requests are told three times, by parties that do not ask each other: proxies count and time what
//! they send, and what they have in flight; and they hand in samples of single requests. A recording in which these contradict each other was changed, or
//! something that it was made with is broken; either way nothing can be concluded from it, however good it looks.

use std::collections::BTreeMap;

use trimtab_model::recording::{RequestRow, TickRow};

/// Sampled requests, and answers, of an endpoint from which on its means are compared.
const SAMPLES_MIN: f64 = 200.0;
const ANSWERS_MIN: f64 = 1_000.0;
/// The factor by which means may differ, and how many standard errors they must differ by.
const FACTOR: f64 = 1.4;
const ERRORS: f64 = 5.0;
/// The same of requests in flight, which count what failed, too: of endpoints that answer nearly all well.
const IN_FLIGHT_FACTOR: f64 = 1.6;
const FAILED_MAX: f64 = 0.02;
/// A proxy that is short of a core is late to read answers; what it is late by does not count in latencies, and the request is in flight all the same.
const LATE_MS: f64 = 3.0;

/// What is told of one endpoint.
#[derive(Debug, Default)]
struct Told {
    name: String,
    answers: f64,
    failed: f64,
    /// Of the answers, in milliseconds.
    latency_sum: f64,
    /// Request-milliseconds.
    in_flight_sum: f64,
    samples: f64,
    sampled_sum: f64,
    sampled_squares: f64,
}

/// What contradicts itself in the recording of a backend, in words.
pub fn contradiction(backend: &str, ticks: &[TickRow], requests: &[RequestRow]) -> Option<String> {
    let mut endpoints: BTreeMap<u64, Told> = BTreeMap::new();
    let sane = |x: f64| x.is_finite() && x >= 0.0;
    for row in ticks.iter().filter(|row| row.backend == backend) {
        let told = endpoints.entry(row.endpoint).or_default();
        told.name.clone_from(&row.endpoint_name);
        let count = |count: Option<u64>| count.unwrap_or(0) as f64;
        told.failed += count(row.reported_errors) + count(row.reported_failures);
        if let (Some(mean), Some(in_flight), Some(seconds)) =
            (row.reported_latency_ms_mean, row.reported_in_flight_mean, row.reported_interval_s)
            && sane(mean)
            && sane(in_flight)
            && sane(seconds)
        {
            told.answers += count(row.reported_successes);
            told.latency_sum += count(row.reported_successes) * mean;
            told.in_flight_sum += 1e3 * seconds * in_flight;
        }
    }
    let good = |row: &&RequestRow| {
        row.backend == backend
            && row.attempts == 1
            && row.status.is_some_and(|status| status < 500)
            && sane(row.latency_ms)
    };
    for row in requests.iter().filter(good) {
        if let Some(told) = endpoints.get_mut(&row.endpoint) {
            told.samples += 1.0;
            told.sampled_sum += row.latency_ms;
            told.sampled_squares += row.latency_ms * row.latency_ms;
        }
    }
    endpoints.values().find_map(Told::contradiction)
}

impl Told {
    fn contradiction(&self) -> Option<String> {
        if self.answers < ANSWERS_MIN || self.latency_sum <= 0.0 {
            return None;
        }
        let (name, told_ms) = (&self.name, self.latency_sum / self.answers);
        let apart = |a: f64, b: f64, factor: f64| a > factor * b || b > factor * a;
        if self.samples >= SAMPLES_MIN {
            let sampled_ms = self.sampled_sum / self.samples;
            let variance = (self.sampled_squares / self.samples - sampled_ms * sampled_ms).max(0.0);
            let error = (variance / self.samples).sqrt();
            if apart(sampled_ms, told_ms, FACTOR) && (sampled_ms - told_ms).abs() > ERRORS * error {
                return Some(format!(
                    "the recording contradicts itself: at {name} sampled requests took {sampled_ms:.1} ms on average, and all that its proxies counted {told_ms:.1} ms"
                ));
            }
        }
        // Little's law: what is inside at a time is what comes in a second, times the seconds that it stays.
        let inside_ms = self.in_flight_sum / self.answers;
        let well = self.failed <= FAILED_MAX * self.answers;
        let on_time_ms = if inside_ms > told_ms { told_ms.max(inside_ms - LATE_MS) } else { inside_ms };
        (well && apart(on_time_ms, told_ms, IN_FLIGHT_FACTOR)).then(|| {
            format!(
                "the recording contradicts itself: answers of {name} took {told_ms:.1} ms on average, but as many were in flight there as if they took {inside_ms:.1} ms"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        fleet::{Fleet, FleetOptions, Recording},
        scenario::{rotating_slow_pods, unequal_pods, world},
        simulator::simulate,
    };

    const BACKEND: &str = "simulation/backend:80";

    fn recording(scenario: &crate::scenario::Scenario) -> Recording {
        let mut fleet = Fleet::new(scenario, &FleetOptions::TRIMTAB).recording(0.2);
        simulate(scenario, &mut fleet).unwrap();
        fleet.into_recording()
    }

    #[test]
    fn recordings_as_they_are_made_agree_with_themselves() {
        let scenarios = [unequal_pods(1, 1, 0.8), rotating_slow_pods(2, 3, 0.75), world(6, 60), world(26, 60)];
        for scenario in scenarios {
            let Recording { ticks, requests } = recording(&scenario);
            assert_eq!(contradiction(BACKEND, &ticks, &requests), None, "{}", scenario.name);
        }
    }

    #[test]
    fn latencies_that_were_changed_in_one_place_only_are_noticed() {
        let whole = recording(&unequal_pods(1, 1, 0.8));
        // 21 ms: half of it is more than a proxy's own lateness explains.
        const FORGED: u64 = 1;
        let noticed = |recording: &Recording, expected: &str| {
            let why = contradiction(BACKEND, &recording.ticks, &recording.requests).expect(expected);
            assert!(why.contains(expected), "{why}");
        };
        let mut samples = whole.clone();
        samples.requests.iter_mut().filter(|row| row.endpoint == FORGED).for_each(|row| row.latency_ms *= 0.5);
        noticed(&samples, "sampled requests took");
        // In samples and means, but not in what was in flight.
        let mut both = samples;
        for row in both.ticks.iter_mut().filter(|row| row.endpoint == FORGED) {
            row.reported_latency_ms_mean = row.reported_latency_ms_mean.map(|ms| 0.5 * ms);
        }
        noticed(&both, "in flight there");
    }
}
