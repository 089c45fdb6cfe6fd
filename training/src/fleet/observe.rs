//! What reaches the controller of a simulated run: scraped metrics turned into rates, and load reports summed over proxies.

use trimtab_model::observation::{Measured, Reported, Scraped};
use trimtab_proxy::{api::v1, sketch::Sketch};

use crate::{
    scenario::Lie,
    simulator::{
        endpoint::Endpoint,
        time::{MILLISECOND, SECOND},
    },
};

/// What one scrape reads; numbers are as the pod tells them, right or not.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    at_ns: u64,
    /// When the pod last renewed its numbers; it tells nobody.
    renewed_ns: u64,
    inside: f64,
    busy: f64,
    slots: f64,
    started_ns: u64,
    completed: f64,
    duration_ns: f64,
    cpu_ns: f64,
}

impl Sample {
    /// Reads the metrics of an endpoint; a dead one has none.
    fn read(now_ns: u64, endpoint: &mut Endpoint) -> Option<Self> {
        let meter = endpoint.meter(now_ns);
        endpoint.is_up().then(|| Self {
            at_ns: now_ns,
            renewed_ns: now_ns,
            inside: f64::from(endpoint.inside()),
            busy: f64::from(endpoint.busy()),
            slots: f64::from(endpoint.spec().slots),
            started_ns: endpoint.started_ns(),
            completed: meter.completed as f64,
            duration_ns: meter.duration_ns,
            cpu_ns: meter.cpu_ns,
        })
    }

    /// The same as this pod tells it. `before` is what it told last.
    fn told(self, lie: Lie, factor: f64, before: Option<&Self>) -> Self {
        match lie {
            Lie::None => self,
            Lie::StolenTime => Self { busy: self.busy * factor.min(1.0), ..self },
            Lie::Stale { every_ns } => match before {
                Some(before) if self.at_ns < before.renewed_ns + every_ns => Self { at_ns: self.at_ns, ..*before },
                _ => self,
            },
            // Three slots in ten busy, 10 ms a request.
            Lie::Rosy => {
                let busy = (0.3 * self.slots).max(1.0);
                let duration_ns = self.completed * 10.0 * MILLISECOND as f64;
                let cpu_ns = busy * (self.at_ns - self.started_ns) as f64;
                Self { inside: busy, busy, duration_ns, cpu_ns, ..self }
            }
            Lie::Nonsense => {
                let nonsense = [f64::NAN, -1.0, f64::INFINITY, 1e18, 0.0][(self.at_ns / MILLISECOND % 5) as usize];
                Self {
                    inside: nonsense,
                    busy: nonsense,
                    completed: nonsense,
                    duration_ns: -nonsense,
                    cpu_ns: nonsense,
                    ..self
                }
            }
        }
    }
}

/// The last two scrapes of an endpoint.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Scrapes {
    last: Option<Sample>,
    previous: Option<Sample>,
}

impl Scrapes {
    /// What a scrape of this endpoint, whose metrics lie like this, reads now.
    pub fn read(&self, now_ns: u64, endpoint: &mut Endpoint, lie: Lie) -> Option<Sample> {
        Some(Sample::read(now_ns, endpoint)?.told(lie, endpoint.factor(), self.last.as_ref()))
    }

    /// A scrape has arrived. Answers may overtake each other; the older one is of no use then.
    pub fn add(&mut self, sample: Sample) {
        if self.last.is_none_or(|last| last.at_ns < sample.at_ns) {
            self.previous = self.last.replace(sample);
        }
    }

    /// As an observation at `now_ns` has it. A counter that went backwards (a restart) yields no rate.
    pub fn scraped(&self, now_ns: u64) -> Scraped {
        let Some(last) = self.last else { return Scraped::default() };
        let measured =
            |value: f64| Some(Measured { value, age_s: ((now_ns - last.at_ns) as f64 / SECOND as f64) as f32 });
        // The previous scrape, the time since, and what was completed in it.
        let rates = self
            .previous
            .filter(|previous| previous.started_ns == last.started_ns)
            .map(|previous| (previous, (last.at_ns - previous.at_ns) as f64 / SECOND as f64))
            .filter(|(_, elapsed_s)| *elapsed_s > 0.0);
        let completed = rates.map(|(previous, _)| last.completed - previous.completed).filter(|count| *count >= 0.0);
        Scraped {
            in_flight: measured(last.inside),
            busy: measured(last.busy),
            worker_limit: measured(last.slots),
            completed_rps: rates.zip(completed).and_then(|((_, elapsed_s), completed)| measured(completed / elapsed_s)),
            latency_ms_mean: rates.zip(completed).filter(|(_, completed)| *completed > 0.0).and_then(
                |((previous, _), completed)| {
                    let duration_ns = last.duration_ns - previous.duration_ns;
                    measured(duration_ns / completed / MILLISECOND as f64)
                },
            ),
            cpu_cores: rates
                .map(|(previous, elapsed_s)| (last.cpu_ns - previous.cpu_ns) / SECOND as f64 / elapsed_s)
                .filter(|cores| *cores >= 0.0)
                .and_then(measured),
            cpu_limit_cores: measured(last.slots),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulator::endpoint::{Discipline, EndpointSpec};

    /// A pod with four slots, all busy, whose speed is a quarter of its own; scraped at 1 s and at 2 s.
    fn check(lie: Lie, expected: [Option<f64>; 3]) {
        let spec = EndpointSpec { discipline: Discipline::Fcfs, slots: 4, room: 9, speed: 1.0 };
        let mut pod = Endpoint::new(spec);
        pod.set_factor(0, 0.25);
        let mut scrapes = Scrapes::default();
        for second in 1..=2 {
            for request in 0..2 {
                pod.offer((second - 1) * SECOND, request, 9e9);
            }
            let sample = scrapes.read(second * SECOND, &mut pod, lie).unwrap();
            scrapes.add(sample);
            pod.answered(40 * MILLISECOND);
        }
        let scraped = scrapes.scraped(2 * SECOND);
        let numbers = [scraped.busy, scraped.cpu_cores, scraped.completed_rps];
        assert_eq!(numbers.map(|number| number.map(|measured| measured.value)), expected, "{lie:?}");
    }

    #[test]
    fn each_lie_is_told_as_it_says() {
        check(Lie::None, [Some(4.0), Some(1.0), Some(1.0)]);
        check(Lie::StolenTime, [Some(1.0), Some(1.0), Some(1.0)]);
        check(Lie::Stale { every_ns: 5 * SECOND }, [Some(2.0), Some(0.0), Some(0.0)]);
        check(Lie::Rosy, [Some(1.2), Some(1.2), Some(1.0)]);
    }
}
