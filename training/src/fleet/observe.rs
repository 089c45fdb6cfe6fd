//! What reaches the controller of a simulated run: scraped metrics turned into rates, and load reports summed over proxies.

use trimtab_model::observation::{Measured, Reported, Scraped};
use trimtab_proxy::{api::v1, sketch::Sketch};

use crate::simulator::{
    endpoint::{Endpoint, Meter},
    time::{MILLISECOND, SECOND},
};

/// What one scrape reads.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    at_ns: u64,
    inside: u32,
    busy: u32,
    slots: u32,
    started_ns: u64,
    meter: Meter,
}

impl Sample {
    /// Reads the metrics of an endpoint; a dead one has none.
    pub fn read(now_ns: u64, endpoint: &mut Endpoint) -> Option<Self> {
        endpoint.is_up().then(|| Self {
            at_ns: now_ns,
            inside: endpoint.inside(),
            busy: endpoint.busy(),
            slots: endpoint.spec().slots,
            started_ns: endpoint.started_ns(),
            meter: endpoint.meter(now_ns),
        })
    }
}

/// The last two scrapes of an endpoint.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Scrapes {
    last: Option<Sample>,
    previous: Option<Sample>,
}

impl Scrapes {
    pub fn add(&mut self, sample: Sample) {
        self.previous = self.last.replace(sample);
    }

    /// As an observation at `now_ns` has it. A counter that went backwards (a restart) yields no rate.
    pub fn scraped(&self, now_ns: u64) -> Scraped {
        let Some(last) = self.last else { return Scraped::default() };
        let measured =
            |value: f64| Some(Measured { value, age_s: ((now_ns - last.at_ns) as f64 / SECOND as f64) as f32 });
        let rates = self
            .previous
            .filter(|previous| previous.started_ns == last.started_ns)
            .map(|previous| (previous, (last.at_ns - previous.at_ns) as f64 / SECOND as f64))
            .filter(|(_, elapsed_s)| *elapsed_s > 0.0);
        let completed = rates.map(|(previous, _)| (last.meter.completed - previous.meter.completed) as f64);
        Scraped {
            in_flight: measured(f64::from(last.inside)),
            busy: measured(f64::from(last.busy)),
            worker_limit: measured(f64::from(last.slots)),
            completed_rps: rates.zip(completed).and_then(|((_, elapsed_s), completed)| measured(completed / elapsed_s)),
            latency_ms_mean: rates.zip(completed).filter(|(_, completed)| *completed > 0.0).and_then(
                |((previous, _), completed)| {
                    let duration_ns = last.meter.duration_ns - previous.meter.duration_ns;
                    measured(duration_ns / completed / MILLISECOND as f64)
                },
            ),
            start_time_s: measured(last.started_ns as f64 / SECOND as f64),
            ..Scraped::default()
        }
    }
}

/// Load reports on one endpoint since the last tick, summed over proxies.
#[derive(Debug, Clone, Default)]
pub(super) struct Loads {
    reported: Reported,
    latency_ms_sum: f64,
    latency: Sketch,
    reports: u32,
}

impl Loads {
    /// Adds a proxy's report that covers `interval_s`.
    pub fn add(&mut self, interval_s: f64, load: &v1::EndpointLoad) {
        let reported = &mut self.reported;
        reported.interval_s = reported.interval_s.max(interval_s);
        reported.successes += load.successes;
        reported.errors += load.errors;
        reported.failures += load.failures;
        reported.in_flight_mean += f64::from(load.in_flight_mean);
        reported.in_flight += load.in_flight;
        reported.ejected_by += u32::from(load.ejected);
        self.latency_ms_sum += f64::from(load.latency_ms_sum);
        if let Some(latency) = &load.latency {
            // A proxy's own sketch always holds.
            let _ = self.latency.merge_wire(latency);
        }
        self.reports += 1;
    }

    /// What was reported, with the pooled error average; `None` if no proxy reported. Starts anew.
    pub fn take(&mut self, error: f64) -> Option<Reported> {
        let loads = std::mem::take(self);
        (loads.reports > 0).then(|| Reported {
            latency_ms_mean: (loads.reported.successes > 0)
                .then(|| loads.latency_ms_sum / loads.reported.successes as f64),
            latency_ms_p10: loads.latency.quantile_ms(0.1),
            latency_ms_p50: loads.latency.quantile_ms(0.5),
            latency_ms_p99: loads.latency.quantile_ms(0.99),
            error,
            ..loads.reported
        })
    }
}
