//! Counters into rates, histograms into means and percentiles: what happened between two scrapes. Pure.

use std::time::Instant;

use super::names::Role;
use super::text::{Durations, Readings};
use super::{Numbers, Stamped};

/// Two scrapes closer than this give no rate worth having.
const INTERVAL_S_MIN: f64 = 0.01;

/// The counters of one scrape, kept for the next.
#[derive(Debug, Clone, PartialEq)]
pub struct Counters {
    at: Instant,
    requests: Option<(f64, u16)>,
    cpu_s: Option<(f64, u16)>,
    durations: Option<Durations>,
}

/// The numbers of a scrape made `at`, and its counters. A counter that went backwards (the process restarted), or that comes from
/// another series than before, gives no rate this time.
pub fn rates(previous: Option<&Counters>, readings: Readings, at: Instant) -> (Numbers, Counters) {
    let stamp = |value: f64| Some(Stamped { value, at });
    let gauge = |role| readings.get(role).and_then(|(value, _)| stamp(value));
    let counters = Counters {
        at,
        // Histograms and summaries count requests too.
        requests: readings.get(Role::Requests).or_else(|| {
            readings.durations.as_ref().and_then(|durations| Some((durations.count?, u16::MAX - durations.rank)))
        }),
        cpu_s: readings.get(Role::CpuSeconds),
        durations: readings.durations.clone(),
    };
    let cpu_limit = readings.get(Role::CpuLimit).map(|(cores, _)| cores);
    let cpu_share = readings.get(Role::CpuShare).map(|(share, _)| share);
    let mut numbers = Numbers {
        in_flight: gauge(Role::InFlight),
        busy: gauge(Role::Busy),
        worker_limit: gauge(Role::WorkerLimit),
        cpu_cores: cpu_share.zip(cpu_limit).and_then(|(share, cores)| stamp(share * cores)),
        cpu_limit_cores: cpu_limit.and_then(stamp),
        memory_bytes: gauge(Role::Memory),
        memory_limit_bytes: gauge(Role::MemoryLimit),
        start_time_s: gauge(Role::StartTime),
        ..Numbers::default()
    };
    let Some(previous) = previous else {
        return (numbers, counters);
    };
    let interval_s = at.saturating_duration_since(previous.at).as_secs_f64();
    if interval_s < INTERVAL_S_MIN {
        return (numbers, counters);
    }
    let rate = |new: Option<(f64, u16)>, old: Option<(f64, u16)>| {
        let ((new, new_rank), (old, old_rank)) = (new?, old?);
        (new_rank == old_rank && new >= old).then(|| (new - old) / interval_s)
    };
    numbers.completed_rps = rate(counters.requests, previous.requests).and_then(stamp);
    numbers.cpu_cores = rate(counters.cpu_s, previous.cpu_s).and_then(stamp).or(numbers.cpu_cores);
    if let (Some(new), Some(old)) = (&counters.durations, &previous.durations) {
        numbers.latency_ms_mean = mean_ms(new, old).and_then(stamp);
        // A summary's own percentile covers more than the interval, but is all that it tells.
        numbers.latency_ms_p99 = quantile_ms(new, old, 0.99).or(new.p99).and_then(stamp);
    }
    (numbers, counters)
}

/// Mean of the durations between two scrapes; `None` without any, or after a restart.
fn mean_ms(new: &Durations, old: &Durations) -> Option<f64> {
    let count = new.count? - old.count?;
    let sum = new.sum? - old.sum?;
    (new.rank == old.rank && count > 0.0 && sum >= 0.0).then(|| sum / count)
}

/// Quantile of the durations between two scrapes, interpolated within its bucket as Prometheus' `histogram_quantile` does: one in the
/// last, unbounded bucket is the highest finite bound.
fn quantile_ms(new: &Durations, old: &Durations, q: f64) -> Option<f64> {
    let same_bounds = new.buckets.len() == old.buckets.len()
        && new.buckets.iter().zip(&old.buckets).all(|((new, _), (old, _))| new == old);
    if new.rank != old.rank || !same_bounds {
        return None;
    }
    let deltas: Vec<(f64, f64)> =
        new.buckets.iter().zip(&old.buckets).map(|((bound, new), (_, old))| (*bound, new - old)).collect();
    let &(_, total) = deltas.last()?;
    // Cumulative counts neither fall over time (a restart) nor from bucket to bucket (a broken histogram).
    let broken = deltas.iter().any(|(_, delta)| *delta < 0.0) || deltas.is_sorted_by(|a, b| a.1 <= b.1).eq(&false);
    if broken || total <= 0.0 {
        return None;
    }
    let rank = q * total;
    let (mut lower, mut below) = (0.0, 0.0);
    for (bound, upto) in deltas {
        if upto >= rank {
            if bound.is_infinite() {
                return (lower > 0.0).then_some(lower);
            }
            let within = if upto > below { (rank - below) / (upto - below) } else { 1.0 };
            return Some(lower + (bound - lower) * within);
        }
        (lower, below) = (bound, upto);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::MetricNames;
    use crate::scrape::{Lexicon, Reader};
    use std::time::Duration;

    /// The numbers after scraping these bodies half a second apart.
    fn scrape(bodies: &[&str]) -> Numbers {
        let lexicon = Lexicon::new(&MetricNames::default());
        let start = crate::clock::now().instant;
        let (mut previous, mut numbers) = (None, Numbers::default());
        for (index, body) in bodies.iter().enumerate() {
            let mut reader = Reader::new(&lexicon);
            reader.push(body.as_bytes()).unwrap();
            let at = start + Duration::from_millis(500) * index as u32;
            let (new, counters) = rates(previous.as_ref(), reader.finish().unwrap(), at);
            (previous, numbers) = (Some(counters), new);
        }
        numbers
    }

    fn value(stamped: Option<Stamped>) -> Option<f64> {
        stamped.map(|stamped| stamped.value)
    }

    fn histogram(counts: [u64; 3], sum_s: f64) -> String {
        let [a, b, c] = counts;
        format!(
            "http_request_duration_seconds_bucket{{le=\"0.1\"}} {a}\nhttp_request_duration_seconds_bucket{{le=\"1\"}} {b}\n\
             http_request_duration_seconds_bucket{{le=\"+Inf\"}} {c}\nhttp_request_duration_seconds_sum {sum_s}\n\
             http_request_duration_seconds_count {c}\n"
        )
    }

    #[test]
    fn counters_become_rates_and_histograms_means_and_percentiles() {
        let numbers = scrape(&[&histogram([10, 10, 10], 1.0), &histogram([60, 110, 110], 31.0)]);
        assert_eq!(value(numbers.completed_rps), Some(200.0));
        assert_eq!(value(numbers.latency_ms_mean), Some(300.0));
        // 99 of 100: the 49th of the 50 between 100 and 1000 ms.
        assert_eq!(value(numbers.latency_ms_p99), Some(100.0 + 900.0 * 0.98));
    }

    #[test]
    fn a_restart_gives_no_rate_for_one_scrape() {
        let bodies = [
            "http_requests_total 100\nprocess_cpu_seconds_total 5\n",
            "http_requests_total 3\nprocess_cpu_seconds_total 1\n",
        ];
        assert_eq!(scrape(&bodies).completed_rps, None);
        assert_eq!(scrape(&bodies).cpu_cores, None);
        let again = [bodies[0], bodies[1], "http_requests_total 13\nprocess_cpu_seconds_total 1.25\n"];
        assert_eq!(value(scrape(&again).completed_rps), Some(20.0));
        assert_eq!(value(scrape(&again).cpu_cores), Some(0.5));
        let histograms = [&*histogram([50, 60, 70], 9.0), &*histogram([1, 1, 1], 0.1)];
        assert_eq!(scrape(&histograms).latency_ms_p99, None);
        assert_eq!(scrape(&histograms).latency_ms_mean, None);
    }

    #[test]
    fn no_requests_between_two_scrapes_give_a_rate_of_zero_and_no_latency() {
        let body = histogram([50, 60, 70], 9.0);
        let numbers = scrape(&[&body, &body]);
        assert_eq!(value(numbers.completed_rps), Some(0.0));
        assert_eq!((numbers.latency_ms_mean, numbers.latency_ms_p99), (None, None));
    }

    #[test]
    fn another_series_for_the_same_meaning_is_not_subtracted() {
        assert_eq!(scrape(&["requests_total 5\n", "http_requests_total 500\n"]).completed_rps, None);
    }

    #[test]
    fn the_jvm_tells_cpu_as_a_share_of_its_cores() {
        let numbers = scrape(&["process_cpu_usage 0.25\nsystem_cpu_count 8.0\n"]);
        assert_eq!((value(numbers.cpu_cores), value(numbers.cpu_limit_cores)), (Some(2.0), Some(8.0)));
    }

    #[test]
    fn a_percentile_beyond_the_last_bound_is_that_bound() {
        let numbers = scrape(&[&histogram([0, 0, 0], 0.0), &histogram([0, 0, 100], 500.0)]);
        assert_eq!(value(numbers.latency_ms_p99), Some(1000.0));
    }
}
