//! Whether what was found out about a service explains requests that nothing was fitted to: fitted on one half of a recording, latencies of the other
//! are looked at in two ways. Routing does not enter here, and nor does the simulator.
//!
//! *Waits*: with the slots that were found, latencies are predicted better than without any. That needs requests that found no slot free. Where pods
//! are seldom full there are few; what matters there is that a pod may be given more requests than it has now. *Room*: requests that found more than half
//! of the slots taken, and one free, took no longer than those that found fewer, as they would with half as many slots. As the slots that are found are
//! never more than one request in a hundred saw in use at once, the truth is then between half of them and more.
//!
//! Where the incumbent knows slots of most endpoints already, because its controller learned them live or a refinement found them before, that is not
//! enough: the twin has the slots that were found now, and so whoever has others does worse in it, whoever is right. Then the new ones must make
//! latencies much clearer than the old ones do.

use serde::{Deserialize, Serialize};

use crate::{
    report::Interval,
    twin::{Fit, Trace, Twin, median, trace::Request},
};

/// Requests are correlated for seconds: means of this long are what the interval is over.
const BLOCK_MS: i64 = 10_000;
/// Requests of either kind that a block needs for the second look.
const EITHER_MIN: f64 = 10.0;
/// Requests that found no slot free, or more than half of them taken, below which slots are not known well enough to route by.
pub const TELLING_MIN: usize = 200;
/// With half as many slots the rise is 1, with as many as were found or more it is 0.
const RISE_MAX: f64 = 0.5;
/// Where the incumbent knows slots, latencies must deviate less than this times as much with the new ones. Fits take a few slots for a few more, by which
/// latencies that vary much come out a little clearer in what was held out, too: by 2 % where each of twenty pods served one request at a time, live learning
/// knew that, and half of them were taken to serve two.
pub const NEWS_MAX: f64 = 0.95;

/// By how much knowing the slots improves predictions of latency.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Foresight {
    /// Mean absolute deviation of the logarithms with the slots, over that without.
    pub ratio: f64,
    /// Upper end of its 95 % interval.
    pub high: f64,
    /// Requests that found no slot free, among those that were predicted.
    pub waited: usize,
    /// Requests that found more than half of the slots taken, and one free.
    pub crowded: usize,
    /// By how much longer those took than others, over what it would be with half as many slots; nothing where it could not be told.
    pub rise: Option<f64>,
    /// Upper end of its 95 % interval.
    pub rise_high: Option<f64>,
    /// Mean absolute deviation with the slots, over that with those that the incumbent knows, at the upper end of its 95 % interval; nothing where it knows
    /// those of few endpoints.
    pub over_known_high: Option<f64>,
}

/// What a block of requests says.
#[derive(Debug, Clone, Copy, Default)]
struct Block {
    count: f64,
    known: f64,
    unknown: f64,
    /// Requests that found more than half of the slots taken, and fewer; and how much longer than expected they took, in sum.
    crowded: (f64, f64),
    roomy: (f64, f64),
    /// How much longer the crowded would take with half of the slots.
    rise: f64,
}

impl Foresight {
    /// On a trace that `twin` was not made from; nothing without requests. `known`: the slots that the incumbent knows, by endpoint.
    pub fn of(twin: &Twin, held_out: &Trace, known: &[Option<f64>]) -> Option<Self> {
        let (mut logs, mut rises, mut waited, mut crowded) = (Vec::new(), Vec::new(), 0, 0);
        for requests in held_out.requests.chunk_by(|a, b| a.at_ms.div_euclid(BLOCK_MS) == b.at_ms.div_euclid(BLOCK_MS))
        {
            let mut block = Block::default();
            for request in requests.iter().filter(|request| request.good) {
                waited += usize::from(block.add(&twin.fit, request));
            }
            crowded += block.crowded.0 as usize;
            if block.count > 0.0 && block.unknown > 0.0 {
                logs.push((block.known.max(1e-9 * block.count) / block.unknown).ln());
            }
            rises.extend(block.rise());
        }
        let interval = Interval::of_logarithms(&logs)?;
        let rise = Interval::of(&rises);
        Some(Self {
            ratio: interval.mean,
            high: interval.bounds.map_or(f64::INFINITY, |bounds| bounds.1),
            waited,
            crowded,
            rise: rise.map(|rise| rise.mean),
            rise_high: rise.and_then(|rise| Some(rise.bounds?.1)),
            over_known_high: over_known(&twin.fit, held_out, known),
        })
    }

    /// Whether the slots make latencies much clearer than those that the incumbent knows, with 95 % confidence, if it knows any.
    pub fn is_news(&self) -> bool {
        self.over_known_high.is_none_or(|high| high < NEWS_MAX)
    }

    /// Whether the slots make latencies clearer, with 95 % confidence, and enough requests waited for one.
    pub fn explains_waits(&self) -> bool {
        self.high < 1.0 && self.waited >= TELLING_MIN
    }

    /// Whether there is room for more than half as many requests as the slots that were found, with 95 % confidence, and enough requests found that many.
    pub fn shows_room(&self) -> bool {
        self.rise_high.is_some_and(|high| high < RISE_MAX) && self.crowded >= TELLING_MIN
    }
}

/// See [`Foresight::over_known_high`]. What an endpoint's latencies are off by as a whole is left out: its slowness was fitted together with its slots, and
/// would be another with others.
fn over_known(fit: &Fit, held_out: &Trace, known: &[Option<f64>]) -> Option<f64> {
    if 2 * known.iter().flatten().count() <= known.len() {
        return None;
    }
    let slots_known = |request: &Request| known.get(request.endpoint).copied().flatten();
    let residuals: Vec<(&Request, [f64; 2])> = held_out
        .requests
        .iter()
        .filter(|request| request.good)
        .filter_map(|request| Some((request, [fit.residual(request), fit.residual_of(request, slots_known(request)?)])))
        .collect();
    let centre = |which: usize, endpoint: usize| {
        let of_it = residuals.iter().filter(|(request, _)| request.endpoint == endpoint);
        median(&mut of_it.map(|(_, residuals)| residuals[which]).collect::<Vec<_>>()).unwrap_or_default()
    };
    let centres: Vec<[f64; 2]> = (0..known.len()).map(|endpoint| [centre(0, endpoint), centre(1, endpoint)]).collect();
    let block = |request: &Request| request.at_ms.div_euclid(BLOCK_MS);
    let logs: Vec<f64> = residuals
        .chunk_by(|(a, _), (b, _)| block(a) == block(b))
        .filter_map(|residuals| {
            let deviation = |which: usize| {
                let off = |(request, residuals): &(&Request, [f64; 2])| {
                    (residuals[which] - centres[request.endpoint][which]).abs()
                };
                residuals.iter().map(off).sum::<f64>()
            };
            let (new, old) = (deviation(0), deviation(1));
            (new > 0.0 && old > 0.0).then(|| (new / old).ln())
        })
        .collect();
    // Too few to tell are no news.
    Some(Interval::of_logarithms(&logs)?.bounds.map_or(f64::INFINITY, |bounds| bounds.1))
}

impl Block {
    /// Takes in a request; whether it found no slot free.
    fn add(&mut self, fit: &Fit, request: &Request) -> bool {
        let slots = f64::from(fit.endpoints[request.endpoint].slots);
        let inside = request.in_flight + 1.0;
        let free = fit.residual(&Request { in_flight: 0.0, ..*request });
        self.count += 1.0;
        self.known += fit.residual(request).abs();
        self.unknown += free.abs();
        if inside <= slots {
            let crowd = if 2.0 * inside > slots { &mut self.crowded } else { &mut self.roomy };
            *crowd = (crowd.0 + 1.0, crowd.1 + free);
            if 2.0 * inside > slots {
                self.rise += free - fit.residual_of(request, (0.5 * slots).max(1.0));
            }
        }
        inside > slots
    }

    fn rise(&self) -> Option<f64> {
        let ((crowded, longer), (roomy, usual)) = (self.crowded, self.roomy);
        let predicted = self.rise / crowded.max(1.0);
        (crowded >= EITHER_MIN && roomy >= EITHER_MIN && predicted > 0.0)
            .then(|| (longer / crowded - usual / roomy) / predicted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        fleet::{Fleet, FleetOptions},
        scenario::{Scenario, roomy_pods, unequal_pods},
        simulator::{endpoint::Discipline, simulate},
    };

    /// Fitted on the first half of a recording, and the other half.
    fn twin(mut scenario: Scenario) -> (Twin, Trace) {
        scenario.telemetry.slots_told = false;
        let scenario = scenario.lasting(240);
        let mut fleet = Fleet::new(&scenario, &FleetOptions::TRIMTAB).recording(0.2);
        simulate(&scenario, &mut fleet).unwrap();
        let recording = fleet.into_recording();
        let trace = Trace::of("simulation/backend:80", &recording.ticks, &recording.requests).unwrap();
        let half = trace.ticks.len() / 2;
        (Twin::of(trace.part(0..half), Discipline::Fcfs), trace.part(half..trace.ticks.len()))
    }

    #[test]
    fn pods_that_are_never_full_show_room() {
        let (twin, later) = twin(roomy_pods(1, 1, 0.25));
        let found = Foresight::of(&twin, &later, &[]).unwrap();
        assert!(found.shows_room() && !found.explains_waits(), "{found:?}");
    }

    #[test]
    fn pods_that_are_often_full_explain_waits_and_show_no_room_for_twice_as_many() {
        let scenario = unequal_pods(5, 1, 0.8);
        let (mut twin, later) = twin(scenario.clone());
        let found = Foresight::of(&twin, &later, &[]).unwrap();
        assert!(found.explains_waits(), "{found:?}");
        let own: Vec<_> = twin.fit.endpoints.iter().map(|fit| Some(f64::from(fit.slots))).collect();
        let same = Foresight::of(&twin, &later, &own).unwrap();
        assert!(same.explains_waits() && !same.is_news(), "{same:?}");
        // Slots that are far off are told from them, though it is no news where so few wait.
        let wrong: Vec<_> = own.iter().map(|slots| slots.map(|slots| 4.0 * slots)).collect();
        let better = Foresight::of(&twin, &later, &wrong).unwrap().over_known_high.unwrap();
        assert!(better < 0.9995 && !same.over_known_high.is_some_and(|high| high < 0.9999), "{better}, {same:?}");
        let few: Vec<_> = wrong.iter().enumerate().map(|(nth, slots)| slots.filter(|_| nth == 0)).collect();
        assert_eq!(Foresight::of(&twin, &later, &few).unwrap().over_known_high, None);
        for (fit, pod) in twin.fit.endpoints.iter_mut().zip(&scenario.endpoints) {
            fit.slots = 2 * pod.slots;
        }
        let doubled = Foresight::of(&twin, &later, &[]).unwrap();
        assert!(doubled.crowded >= TELLING_MIN && !doubled.shows_room(), "{doubled:?}");
    }
}
