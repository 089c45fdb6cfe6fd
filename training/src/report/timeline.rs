//! Latency over time within one run: what each 500 ms of arrivals got.

use hdrhistogram::Histogram;

use crate::{
    contest::Contest,
    scenario::{Scenario, ScenarioError},
    simulator::{
        Outcome, Router, Routing, Summary,
        endpoint::Endpoint,
        router::{Arrival, Departure},
        simulate,
        time::{MICROSECOND, MILLISECOND, SECOND},
    },
};

/// Length of a bin.
pub const BIN_NS: u64 = 500 * MILLISECOND;

/// Successful answers to the requests of one bin.
#[derive(Debug, Clone, PartialEq)]
pub struct Bin {
    /// Middle of the bin, in seconds since measuring began; negative during the warm-up.
    pub at_s: f64,
    /// Requests that arrived in it.
    pub arrived: u64,
    /// Median latency; `None` if none was answered.
    pub latency_ms_p50: Option<f64>,
    /// 99th percentile.
    pub latency_ms_p99: Option<f64>,
}

/// Runs a policy through a scenario and keeps latencies by the time of arrival, the last two seconds of the warm-up included.
///
/// # Errors
/// If the scenario does not hold.
pub fn record(policy: &dyn Contest, scenario: &Scenario) -> Result<(Summary, Vec<Bin>), ScenarioError> {
    let from_ns = scenario.measured_ns.start.saturating_sub(2 * SECOND);
    let count = (scenario.measured_ns.end - from_ns).div_ceil(BIN_NS) as usize;
    let mut recorder = Recorder {
        router: policy.router(scenario),
        from_ns,
        arrived_ns: Vec::new(),
        bins: (0..count).map(|_| (0, histogram())).collect(),
    };
    let summary = simulate(scenario, &mut recorder)?;
    let bins = recorder.bins.iter().enumerate().map(|(number, (arrived, latency_us))| {
        let quantile_ms = |q: f64| (!latency_us.is_empty()).then(|| latency_us.value_at_quantile(q) as f64 / 1_000.0);
        let middle_ns = from_ns as f64 + (number as f64 + 0.5) * BIN_NS as f64;
        Bin {
            at_s: (middle_ns - scenario.measured_ns.start as f64) / SECOND as f64,
            arrived: *arrived,
            latency_ms_p50: quantile_ms(0.5),
            latency_ms_p99: quantile_ms(0.99),
        }
    });
    Ok((summary, bins.collect()))
}

/// Microseconds to one hour; what takes longer counts as that.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 3_600 * SECOND / MICROSECOND, 2).expect("constant bounds are valid")
}

/// A router that notes what happens at another.
struct Recorder {
    router: Box<dyn Router>,
    from_ns: u64,
    /// When the request with this number arrived.
    arrived_ns: Vec<u64>,
    bins: Vec<(u64, Histogram<u64>)>,
}

impl Recorder {
    fn bin(&mut self, arrived_ns: u64) -> Option<&mut (u64, Histogram<u64>)> {
        self.bins.get_mut((arrived_ns.checked_sub(self.from_ns)? / BIN_NS) as usize)
    }
}

impl Router for Recorder {
    fn route(&mut self, arrival: &Arrival, endpoints: &[Endpoint]) -> Routing {
        let number = arrival.request as usize;
        if arrival.tried.is_none() {
            self.arrived_ns.resize(self.arrived_ns.len().max(number + 1), 0);
            self.arrived_ns[number] = arrival.now_ns;
            if let Some((arrived, _)) = self.bin(arrival.now_ns) {
                *arrived += 1;
            }
        }
        self.router.route(arrival, endpoints)
    }

    fn ended(&mut self, departure: &Departure) {
        let arrived_ns = self.arrived_ns[departure.request as usize];
        if departure.outcome == Outcome::Success
            && let Some((_, latency_us)) = self.bin(arrived_ns)
        {
            latency_us.saturating_record((departure.now_ns - arrived_ns) / MICROSECOND);
        }
        self.router.ended(departure);
    }

    fn readiness(&mut self, now_ns: u64, endpoint: u32, ready: bool) {
        self.router.readiness(now_ns, endpoint, ready);
    }

    fn control_at_ns(&self) -> u64 {
        self.router.control_at_ns()
    }

    fn control(&mut self, now_ns: u64, endpoints: &mut [Endpoint]) {
        self.router.control(now_ns, endpoints);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        contest,
        scenario::{Family, Setting},
    };

    #[test]
    fn recording_changes_nothing_and_every_measured_request_is_in_a_bin() {
        let policy = contest::by_name("c3-local").unwrap();
        let scenario = Family::Surge.scenario(&Setting { seconds: Some(4), ..Setting::new(1, 2, 4) });
        let (summary, bins) = record(&*policy, &scenario).unwrap();
        assert_eq!(summary, policy.run(&scenario).unwrap());
        assert_eq!(bins.len(), 12);
        assert_eq!(bins.iter().filter(|bin| bin.at_s > 0.0).map(|bin| bin.arrived).sum::<u64>(), summary.arrived);
        // The tails of half seconds lie around that of the whole run.
        let highest_ms = bins.iter().filter_map(|bin| bin.latency_ms_p99).fold(0.0, f64::max);
        assert!(highest_ms > 0.9 * summary.latency_ms_p99, "{highest_ms} ms, all {} ms", summary.latency_ms_p99);
    }
}
