//! The twin itself: stretches of a recording as scenarios, and policies tried in them.

use trimtab_model::{
    Policy,
    checkpoint::{Checkpoint, CheckpointError, Manifest},
    service::{Service, Slots},
};

use super::{
    Fidelity, Fit, Trace,
    episodes::{Episodes, State},
    median,
};
use crate::{
    fleet::{BACKEND, Fleet, FleetOptions, Known},
    learn::LearnError,
    scenario::{Change, Event, Scenario, Telemetry},
    simulator::{
        endpoint::{Discipline, EndpointSpec, Gray},
        time::{MILLISECOND, SECOND, millis, seconds},
        work::{Class, Distribution},
    },
};

/// Seconds of a stretch before requests count: queues fill, the controller learns.
pub const WARM_UP_S: u64 = 20;
/// Stretches on which disciplines are compared, and how long each is.
const CALIBRATION_STRETCHES: usize = 6;
const CALIBRATION_S: u64 = 20;
/// By how much costs are scaled at most, step by step.
const COST_STEPS: [f64; 4] = [0.08, 0.04, 0.04, 0.02];
/// Deviations of the two disciplines that differ by this factor tell which it is; and what misfits must differ by where they do not.
const TELLING: f64 = 1.003;
const MISFIT_BETTER: f64 = 0.9;
/// Requests a slot that may wait at an endpoint. Not known: that of most servers is in the hundreds.
const ROOM_PER_SLOT: u32 = 1_000;
/// Rates are averaged over so many ticks, and count as moved when they are this many standard deviations from the mean.
const RATE_TICKS: usize = 4;
const RATE_SIGMAS: f64 = 2.5;
/// Samples of an endpoint from which on its own number of slots counts.
const SLOTS_SAMPLES: usize = 200;
/// Objective where none was recorded, as multiples of the mean time.
const OBJECTIVE_MEANS: f64 = 10.0;

/// A twin.
#[derive(Debug, Clone, PartialEq)]
pub struct Twin {
    /// What it was made from.
    pub trace: Trace,
    /// What the service is like.
    pub fit: Fit,
    /// What happened to it.
    pub episodes: Episodes,
    /// Whether its controller knows from the first second what classes cost at each endpoint. Recordings do not tell what theirs had learned, and that is not
    /// always the truth: what is never routed is never learned.
    pub experienced: bool,
}

impl Twin {
    /// The twin of a trace that was recorded under this policy. Latencies of requests that cost alike do not tell how they share an endpoint; where
    /// they do not, the discipline is taken that reproduces the recording better. Waits grow with the load as 1 ÷ (1 − load), so that a small error
    /// in what requests cost is a large one in latencies: last, all costs are scaled to what reproduces the recording best.
    ///
    /// # Errors
    /// If the checkpoint does not hold.
    pub fn calibrate(trace: &Trace, behaviour: &Checkpoint, seed: u64, jobs: usize) -> Result<Self, LearnError> {
        let misfit = |twin: &Self| {
            let stretches = twin.stretches(CALIBRATION_S);
            let step = stretches.len().div_ceil(CALIBRATION_STRETCHES).max(1);
            let some: Vec<_> = stretches.into_iter().step_by(step).collect();
            Ok::<_, LearnError>(Fidelity::of(twin, &some, behaviour, seed, jobs)?.misfit())
        };
        let [fcfs, sharing] =
            [Discipline::Fcfs, Discipline::ProcessorSharing].map(|discipline| Self::of(trace.clone(), discipline));
        let tell = sharing.fit.deviation / fcfs.fit.deviation.max(1e-9);
        let shares = if (1.0 / TELLING..=TELLING).contains(&tell) {
            misfit(&sharing)? < MISFIT_BETTER * misfit(&fcfs)?
        } else {
            tell < 1.0
        };
        let mut best = if shares { sharing } else { fcfs };
        let mut least = misfit(&best)?;
        let experienced = Self { experienced: true, ..best.clone() };
        let of_experienced = misfit(&experienced)?;
        if of_experienced < least {
            (best, least) = (experienced, of_experienced);
        }
        for step in COST_STEPS {
            for factor in [1.0 - step, 1.0 + step] {
                let scaled = best.with_costs(factor);
                let misfit = misfit(&scaled)?;
                if misfit < least {
                    (best, least) = (scaled, misfit);
                    break;
                }
            }
        }
        Ok(best)
    }

    /// The same with requests that cost so many times what they did.
    fn with_costs(&self, factor: f64) -> Self {
        let mut fit = self.fit.clone();
        fit.classes.iter_mut().for_each(|class| class.mean_ms *= factor);
        let episodes = Episodes::of(&self.trace, &fit);
        Self { trace: self.trace.clone(), fit, episodes, experienced: self.experienced }
    }

    /// The twin of a trace, if requests share endpoints like this.
    pub fn of(trace: Trace, discipline: Discipline) -> Self {
        let fit = Fit::of(&trace, discipline);
        let episodes = Episodes::of(&trace, &fit);
        Self { trace, fit, episodes, experienced: false }
    }

    /// The same service at another time: fitted as this one is, with what happened in `trace`.
    #[must_use]
    pub fn at(&self, trace: Trace) -> Self {
        let episodes = Episodes::of(&trace, &self.fit);
        Self { trace, fit: self.fit.clone(), episodes, experienced: self.experienced }
    }

    /// What it tells of the service that the pods do not, for a policy: nothing where they tell it all, or where it is not known.
    pub fn service(&self) -> Option<Service> {
        let usual = f64::from(self.fit.usual_slots()?);
        let silent =
            self.trace.ticks.iter().any(|tick| tick.endpoints.iter().flatten().any(|s| s.slots_told.is_none()));
        let known = self.trace.keys.iter().zip(&self.fit.endpoints).filter(|(_, of)| of.samples >= SLOTS_SAMPLES);
        let endpoints = known.map(|(key, of)| (*key, f64::from(of.slots))).collect();
        silent.then(|| Service { backend: self.trace.backend.clone(), slots: Slots { usual, endpoints } })
    }

    /// A policy as it would run here: simulated endpoints have numbers for keys.
    ///
    /// # Errors
    /// If the checkpoint does not hold.
    pub fn policy(&self, checkpoint: &Checkpoint) -> Result<Policy, CheckpointError> {
        let Some(service) = &checkpoint.manifest().service else { return Policy::new(checkpoint) };
        let places = self.trace.keys.iter().zip(0u64..);
        let known = places.filter_map(|(key, place)| Some((place, *service.slots.endpoints.get(key)?)));
        let slots = Slots { usual: service.slots.usual, endpoints: known.collect() };
        let here = service.backend == self.trace.backend;
        let service = here.then(|| Service { backend: BACKEND.to_owned(), slots });
        let manifest = Manifest { service, ..checkpoint.manifest().clone() };
        Policy::new(&Checkpoint::new(manifest, checkpoint.tensors().clone())?)
    }

    /// Stretches of so many measured seconds, each after [`WARM_UP_S`], that follow each other through the recording.
    pub fn stretches(&self, measured_s: u64) -> Vec<std::ops::Range<usize>> {
        let interval_s = self.interval_s();
        let ticks = |seconds: u64| (seconds as f64 / interval_s).round() as usize;
        let (warm_up, measured) = (ticks(WARM_UP_S), ticks(measured_s).max(1));
        let mut stretches = Vec::new();
        for segment in &self.trace.segments {
            let mut from = segment.start;
            while from + warm_up + measured <= segment.end {
                stretches.push(from..from + warm_up + measured);
                from += measured;
            }
        }
        stretches
    }

    /// Usual time between two ticks, in seconds.
    pub fn interval_s(&self) -> f64 {
        let mut intervals: Vec<f64> =
            self.trace.ticks.iter().map(|tick| tick.interval_s).filter(|s| *s > 0.0).collect();
        median(&mut intervals).unwrap_or(0.5)
    }

    /// What the controller had learned of slots when these ticks began: one that runs a stretch again would need minutes to learn it anew, in which the
    /// policy would look worse than it is.
    pub fn learned(&self, stretch: &std::ops::Range<usize>) -> Vec<Option<Known>> {
        let Some(first) = self.trace.ticks.get(stretch.start) else { return Vec::new() };
        first.endpoints.iter().map(|seen| seen.and_then(|seen| seen.slots_learned)).collect()
    }

    /// The code that ships with a policy, as it runs through a stretch: its controller knows at first what the recorded one had learned.
    pub(crate) fn fleet(&self, stretch: &std::ops::Range<usize>, scenario: &Scenario, policy: Policy) -> Fleet {
        let fleet = Fleet::with_policy(scenario, &FleetOptions::TRIMTAB, policy).knowing(self.learned(stretch));
        if self.experienced { fleet.experienced() } else { fleet }
    }

    /// What happened in these ticks as a scenario, with other requests for each seed.
    pub fn scenario(&self, stretch: &std::ops::Range<usize>, seed: u64) -> Scenario {
        let interval_s = self.interval_s();
        let rates = &self.episodes.rate_rps[stretch.clone()];
        let rate_rps = (rates.iter().sum::<f64>() / rates.len().max(1) as f64).max(1e-3);
        let length_ns = seconds(interval_s * stretch.len() as f64);
        let mut timeline = load(rates, rate_rps, interval_s);
        timeline.extend(self.troubles(stretch, interval_s));
        timeline.sort_by_key(|event| event.at_ns);
        let (groups, affinity) = self.affinity();
        Scenario {
            name: format!("twin of {}", self.trace.backend),
            seed,
            shares: self.shares(),
            endpoints: self
                .fit
                .endpoints
                .iter()
                .map(|of| EndpointSpec {
                    discipline: self.fit.waiting.discipline,
                    slots: of.slots,
                    room: ROOM_PER_SLOT.saturating_mul(of.slots),
                    speed: 1.0 / of.slowness,
                })
                .collect(),
            groups,
            affinity,
            classes: self.classes(),
            rate_rps,
            timeline,
            measured_ns: (WARM_UP_S * SECOND).min(length_ns / 2)..length_ns,
            objective_ns: self.objective_ns(),
            one_way_ns: self.one_way_ns(),
            reports_in_flight: false,
            retries: 1,
            telemetry: self.telemetry(),
            lies: Vec::new(),
        }
    }

    fn classes(&self) -> Vec<Class> {
        let class = |of: &super::fit::ClassFit| Class {
            share: of.share,
            mean_ns: (of.mean_ms * MILLISECOND as f64).max(1.0),
            distribution: Distribution::Recorded(of.quantiles),
        };
        // More than the simulator tells apart: the rarest are counted among the others.
        let mut classes: Vec<Class> = self.fit.classes.iter().map(class).collect();
        let spare: f64 = classes.drain(classes.len().min(Scenario::CLASSES_MAX)..).map(|class| class.share).sum();
        classes[0].share += spare;
        classes
    }

    fn one_way_ns(&self) -> u64 {
        millis(self.fit.network_ms / 2.0)
    }

    /// Every endpoint is a group of its own, where there are few enough.
    fn affinity(&self) -> (Vec<u8>, Vec<f64>) {
        let endpoints = self.trace.keys.len();
        let classes = self.fit.classes.len().min(Scenario::CLASSES_MAX);
        if endpoints > usize::from(u8::MAX) {
            return (Vec::new(), Vec::new());
        }
        ((0..endpoints as u8).collect(), self.fit.factors[..classes * endpoints].to_vec())
    }

    fn shares(&self) -> Vec<f64> {
        let mut proxies: Vec<f64> = self.trace.ticks.iter().map(|tick| f64::from(tick.proxies)).collect();
        let count = (median(&mut proxies).unwrap_or(1.0) as usize).max(1);
        let sampled = |number: usize| self.trace.proxies.get(number).copied().unwrap_or(0).max(1) as f64;
        let sum: f64 = (0..count).map(sampled).sum();
        (0..count).map(|number| sampled(number) / sum).collect()
    }

    fn objective_ns(&self) -> u64 {
        let mut objectives: Vec<f64> = self.trace.ticks.iter().filter_map(|tick| tick.objective_ms).collect();
        let mean_ms: f64 = self.fit.classes.iter().map(|class| class.share * class.mean_ms).sum();
        millis(median(&mut objectives).unwrap_or(OBJECTIVE_MEANS * mean_ms).max(1e-3))
    }

    fn telemetry(&self) -> Telemetry {
        let seen = || self.trace.ticks.iter().flat_map(|tick| tick.endpoints.iter().flatten());
        let all = seen().count();
        Telemetry {
            scraped: 2 * seen().filter(|seen| seen.scraped).count() > all,
            slots_told: 2 * seen().filter(|seen| seen.slots_told.is_some()).count() > all,
            ..Telemetry::default()
        }
    }

    /// What changed at endpoints, as events.
    fn troubles(&self, stretch: &std::ops::Range<usize>, interval_s: f64) -> Vec<Event> {
        let mut events = Vec::new();
        let mut before = vec![State::WELL; self.trace.keys.len()];
        for (step, states) in self.episodes.states[stretch.clone()].iter().enumerate() {
            // A tick tells of the interval that ended with it.
            let at_ns = seconds(interval_s * step as f64);
            for (endpoint, (now, before)) in (0u32..).zip(states.iter().zip(&mut before)) {
                let mut push = |change| events.push(Event { at_ns, change });
                if now.ready != before.ready {
                    push(Change::Ready { endpoint, ready: now.ready });
                }
                if now.up != before.up {
                    push(if now.up { Change::Start { endpoint } } else { Change::Crash { endpoint } });
                }
                if now.speed != before.speed {
                    push(Change::Factor { endpoint, factor: now.speed });
                }
                if now.error != before.error {
                    let fast_ns = self.episodes.fast_error_ms.map(millis);
                    push(Change::Gray { endpoint, gray: Gray { share: now.error, fast_ns } });
                }
                *before = *now;
            }
        }
        events
    }
}

/// How the rate moved, as far as chance does not explain it.
fn load(rates: &[f64], rate_rps: f64, interval_s: f64) -> Vec<Event> {
    let mut events = Vec::new();
    for (number, block) in rates.chunks(RATE_TICKS).enumerate() {
        let mean = block.iter().sum::<f64>() / block.len() as f64;
        let deviation = (rate_rps / (interval_s * block.len() as f64)).sqrt();
        let moved = (mean - rate_rps).abs() > RATE_SIGMAS * deviation && mean > 0.0;
        let factor = if moved { mean / rate_rps } else { 1.0 };
        let at_ns = seconds(interval_s * (number * RATE_TICKS) as f64);
        if number == 0
            || !matches!(events.last(), Some(Event { change: Change::Load { factor: last }, .. }) if *last == factor)
        {
            events.push(Event { at_ns, change: Change::Load { factor } });
        }
    }
    events
}
