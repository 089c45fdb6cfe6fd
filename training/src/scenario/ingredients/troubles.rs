//! What happens to pods and load during a run, as events of the timeline.

use std::ops::Range;

use rand::{Rng, rngs::SmallRng, seq::SliceRandom};

use super::log_uniform;
use crate::{
    scenario::{Change, Event, Lie, Scenario},
    simulator::{
        endpoint::{EndpointSpec, Gray},
        time::{SECOND, millis, seconds},
    },
};

/// A pod with more of the capacity than this is not one that trouble is drawn for: a service that loses a third of itself at once
/// is overloaded, and then no routing helps.
const VICTIM_SHARE_MAX: f64 = 0.15;
/// Speed of a pod that has just started, as a share of its own.
const COLD: f64 = 0.25;

/// Spells in which a pod is slow.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spells {
    /// Share of the time.
    share: f64,
    /// Length of one, log-uniform.
    length_s: (f64, f64),
    /// How much slower; `None`: the pod stands still.
    slower: Option<(f64, f64)>,
}

/// Neighbours on the node: 3 to 5 times slower for 50 ms to 5 s, 15 % of the time.
pub const INTERFERENCE: Spells = Spells { share: 0.15, length_s: (0.05, 5.0), slower: Some((3.0, 5.0)) };
/// Garbage collection, throttling: nothing moves for 50 to 500 ms, 3 % of the time.
pub const PAUSES: Spells = Spells { share: 0.03, length_s: (0.05, 0.5), slower: None };

/// Up to `count` endpoints to whom something may happen, in random order, none with much of the capacity by itself and together
/// with at most `share_max` of it; at least one.
pub fn victims(scenario: &Scenario, count: usize, share_max: f64, rng: &mut SmallRng) -> Vec<u32> {
    let capacity = |endpoint: u32| scenario.endpoints[endpoint as usize].capacity();
    let whole: f64 = scenario.endpoints.iter().map(EndpointSpec::capacity).sum();
    let mut order: Vec<u32> = (0..scenario.endpoints.len() as u32).collect();
    order.shuffle(rng);
    let mut left = share_max;
    let mut chosen = Vec::new();
    for &endpoint in &order {
        let share = capacity(endpoint) / whole;
        if share <= VICTIM_SHARE_MAX && share <= left && chosen.len() < count {
            left -= share;
            chosen.push(endpoint);
        }
    }
    if chosen.is_empty() {
        chosen.extend(order.into_iter().min_by(|a, b| capacity(*a).total_cmp(&capacity(*b))));
    }
    chosen
}

/// Slow spells of a pod from the beginning to `end_ns`, with exponential gaps.
pub fn slow_spells(endpoint: u32, spells: Spells, end_ns: u64, rng: &mut SmallRng) -> Vec<Event> {
    let mut events = Vec::new();
    let mut now_s = 0.0;
    loop {
        let slow_s = log_uniform(rng, spells.length_s.0, spells.length_s.1);
        now_s += -rng.random::<f64>().max(1e-9).ln() * slow_s * (1.0 - spells.share) / spells.share;
        if seconds(now_s) >= end_ns {
            return events;
        }
        let factor = spells.slower.map_or(0.0, |(least, most)| 1.0 / rng.random_range(least..most));
        events.push(Event { at_ns: seconds(now_s), change: Change::Factor { endpoint, factor } });
        now_s += slow_s;
        events.push(Event { at_ns: seconds(now_s), change: Change::Factor { endpoint, factor: 1.0 } });
    }
}

/// One long spell of errors, mostly fast ones, or of slowness; with a third of them (always with slowness) the pod's metrics say
/// that all is well.
pub fn gray(endpoint: u32, window: &Range<u64>, rng: &mut SmallRng) -> (Vec<Event>, Option<Lie>) {
    let length_ns = (window.end - window.start) as f64;
    let from_ns = window.start + (length_ns * rng.random_range(0.05..0.35)) as u64;
    let to_ns = from_ns + (length_ns * rng.random_range(0.3..0.6)) as u64;
    let share = rng.random_range(0.3..1.0);
    let fast_ns = millis(rng.random_range(0.5..3.0));
    let slower = rng.random_range(3.0..5.0);
    let lies = rng.random_bool(1.0 / 3.0);
    let errors = |fast_ns| {
        (Change::Gray { endpoint, gray: Gray { share, fast_ns } }, Change::Gray { endpoint, gray: Gray::default() })
    };
    let (kind, lies) = match rng.random_range(0..5) {
        0..3 => (errors(Some(fast_ns)), lies),
        3 => (errors(None), lies),
        _ => {
            let sick = Change::Factor { endpoint, factor: 1.0 / slower };
            ((sick, Change::Factor { endpoint, factor: 1.0 }), true)
        }
    };
    let events = vec![Event { at_ns: from_ns, change: kind.0 }, Event { at_ns: to_ns, change: kind.1 }];
    (events, lies.then_some(Lie::Rosy))
}

/// Restarts in place, one after the other and evenly over the window: a crash (noticed late) or a drain (announced), then a cold
/// start.
pub fn restarts(victims: &[u32], window: &Range<u64>, rng: &mut SmallRng) -> Vec<Event> {
    let length_ns = (window.end - window.start) as f64;
    let mut events = Vec::new();
    for (step, &endpoint) in victims.iter().enumerate() {
        let place = (step as f64 + rng.random::<f64>()) / victims.len() as f64;
        // The last ones must still be seen to come back.
        let at_ns = window.start + (length_ns * (0.03 + 0.7 * place)) as u64;
        let announced = rng.random_bool(0.5);
        let gone_ns = if announced { at_ns + 3 * SECOND } else { at_ns };
        let noticed_ns = if announced { at_ns } else { at_ns + seconds(rng.random_range(0.5..2.0)) };
        let start_ns = gone_ns.max(noticed_ns) + seconds(rng.random_range(1.0..3.0));
        events.push(Event { at_ns: gone_ns, change: Change::Crash { endpoint } });
        events.push(Event { at_ns: noticed_ns, change: Change::Ready { endpoint, ready: false } });
        events.extend(cold_start(endpoint, start_ns, rng));
    }
    events
}

/// Load that rises to all that the pods can serve for 1 to 2 s in every 5 s, with slopes of 0.75 s. `load` is where it comes from.
pub fn surges(load: f64, window: &Range<u64>, rng: &mut SmallRng) -> Vec<Event> {
    const PERIOD_S: f64 = 5.0;
    const SLOPE_S: f64 = 0.75;
    const STEPS: u32 = 5;
    let length_s = (window.end - window.start) as f64 / SECOND as f64;
    let count = (length_s / PERIOD_S).floor().max(1.0) as u32;
    let peak = (1.0 / load).max(1.0);
    let mut events = Vec::new();
    for surge in 0..count {
        let from_s = PERIOD_S * f64::from(surge) + rng.random_range(0.0..1.0);
        let hold_s = rng.random_range(1.0..2.0);
        let mut load_at = |at_s: f64, height: f64| {
            let factor = 1.0 + (peak - 1.0) * height;
            events.push(Event { at_ns: window.start + seconds(at_s), change: Change::Load { factor } });
        };
        for step in 1..=STEPS {
            let height = f64::from(step) / f64::from(STEPS);
            load_at(from_s + SLOPE_S * height, height);
        }
        for step in 1..=STEPS {
            let height = f64::from(step) / f64::from(STEPS);
            load_at(from_s + SLOPE_S + hold_s + SLOPE_S * height, 1.0 - height);
        }
    }
    events
}

/// A rolling restart: in four batches, new pods (endpoints of their own, added to the scenario) start cold, and when they are ready
/// the old ones drain and end. The new ones are like the old ones.
pub fn deploy(scenario: &mut Scenario, rng: &mut SmallRng) -> Vec<Event> {
    const BATCHES: usize = 4;
    let window = scenario.measured_ns.clone();
    let length_s = (window.end - window.start) as f64 / SECOND as f64;
    let old = scenario.endpoints.len();
    scenario.endpoints.extend_from_within(..);
    scenario.groups.extend_from_within(..);
    scenario.lies.extend_from_within(..);
    let mut order: Vec<u32> = (0..old as u32).collect();
    order.shuffle(rng);
    let mut events = Vec::new();
    for (step, &before) in order.iter().enumerate() {
        let after = before + old as u32;
        events.push(Event { at_ns: 0, change: Change::Crash { endpoint: after } });
        events.push(Event { at_ns: 0, change: Change::Ready { endpoint: after, ready: false } });
        let batch = step * BATCHES / old;
        // The last batch ends with a fifth of the window left.
        let at_s = length_s * (0.05 + 0.75 * batch as f64 / BATCHES as f64) + rng.random_range(0.0..0.5);
        let start_ns = window.start + seconds(at_s);
        events.extend(cold_start(after, start_ns, rng));
        let drain_ns = start_ns + seconds(rng.random_range(0.3..1.0));
        events.push(Event { at_ns: drain_ns, change: Change::Ready { endpoint: before, ready: false } });
        events.push(Event { at_ns: drain_ns + 3 * SECOND, change: Change::Crash { endpoint: before } });
    }
    events
}

/// A service grows by half in two batches: new pods, like some of the old ones, start cold, and load follows when most of them are warm.
pub fn scale_out(scenario: &mut Scenario, rng: &mut SmallRng) -> Vec<Event> {
    const BATCHES: usize = 2;
    /// From the start of a batch until load has followed.
    const FOLLOWS_S: f64 = 3.0;
    let window = scenario.measured_ns.clone();
    let length_s = (window.end - window.start) as f64 / SECOND as f64;
    let old = scenario.endpoints.len();
    let mut models: Vec<usize> = (0..old).collect();
    models.shuffle(rng);
    models.truncate(old.div_ceil(2));
    let mut events = Vec::new();
    // Capacity when everybody is warm, from so many seconds into the window on.
    let mut steps = vec![(f64::NEG_INFINITY, scenario.endpoints.iter().map(EndpointSpec::capacity).sum::<f64>())];
    for (step, &model) in models.iter().enumerate() {
        let endpoint = scenario.endpoints.len() as u32;
        scenario.endpoints.push(scenario.endpoints[model]);
        if let Some(&group) = scenario.groups.get(model) {
            scenario.groups.push(group);
        }
        if let Some(&lie) = scenario.lies.get(model) {
            scenario.lies.push(lie);
        }
        events.push(Event { at_ns: 0, change: Change::Crash { endpoint } });
        events.push(Event { at_ns: 0, change: Change::Ready { endpoint, ready: false } });
        let batch = step * BATCHES / models.len();
        let batch_s = length_s * (0.1 + 0.45 * batch as f64 / (BATCHES - 1) as f64);
        events.extend(cold_start(endpoint, window.start + seconds(batch_s + rng.random_range(0.0..0.5)), rng));
        let capacity = scenario.endpoints[endpoint as usize].capacity();
        match steps.last_mut() {
            Some((at_s, whole)) if *at_s == batch_s + FOLLOWS_S => *whole += capacity,
            last => {
                let whole = last.map_or(0.0, |(_, whole)| *whole);
                steps.push((batch_s + FOLLOWS_S, whole + capacity));
            }
        }
    }
    let mut grown = scenario.clone();
    events.sort_by_key(|event| event.at_ns);
    grown.timeline.clone_from(&events);
    let mean = grown.availability() * grown.endpoints.iter().map(EndpointSpec::capacity).sum::<f64>();
    events.extend(steps.into_iter().map(|(at_s, whole)| {
        let at_ns = if at_s.is_finite() { window.start + seconds(at_s) } else { 0 };
        Event { at_ns, change: Change::Load { factor: whole / mean } }
    }));
    events
}

/// A process starts, is ready 100 ms later, and needs 2 to 6 s to reach its speed.
fn cold_start(endpoint: u32, start_ns: u64, rng: &mut SmallRng) -> Vec<Event> {
    const STEPS: u32 = 8;
    let warm_s = rng.random_range(2.0..6.0);
    let mut events = vec![
        Event { at_ns: start_ns, change: Change::Start { endpoint } },
        Event { at_ns: start_ns + SECOND / 10, change: Change::Ready { endpoint, ready: true } },
    ];
    for step in 0..=STEPS {
        let warmth = f64::from(step) / f64::from(STEPS);
        let change = Change::Factor { endpoint, factor: COLD + (1.0 - COLD) * warmth };
        events.push(Event { at_ns: start_ns + seconds(warm_s * warmth), change });
    }
    events
}
