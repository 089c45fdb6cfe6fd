//! One view, and the stream's events made from it: made once for all readers, and only when the first one asks.
//!
//! An `endpoints` event carries the names and whatever else seldom changes; a `tick` event carries columns of numbers in the
//! same order. At 5,000 endpoints a tick is then half a megabyte and not three.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, OnceLock};

use serde::Serialize;
use trimtab_controller::view::{
    BackendView, ClassView, EndpointState, EndpointView, Mode, ModelView, ProxyView, Reason, RecordingView,
    RuleParameters, View,
};

use crate::guard::{self, Action};
use crate::number::Short;
use crate::reasons;

/// Scrape errors that an event carries; a count of the rest would tell no more.
const SCRAPE_ERRORS_MAX: usize = 50;

/// The states in the order in which the `state` column numbers them.
const STATES: [EndpointState; 6] = [
    EndpointState::Active,
    EndpointState::SlowStart,
    EndpointState::PartlyEjected,
    EndpointState::Ejected,
    EndpointState::Draining,
    EndpointState::Unhealthy,
];

/// A view with its events.
#[derive(Debug)]
pub struct Frame {
    view: Arc<View>,
    /// One a backend, and a last one for "no such backend".
    events: Vec<Events>,
}

#[derive(Debug, Default)]
struct Events {
    roster: OnceLock<u64>,
    endpoints: OnceLock<Arc<str>>,
    tick: OnceLock<Arc<str>>,
}

impl Frame {
    /// A frame of `view`.
    pub fn new(view: Arc<View>) -> Self {
        let events = (0..=view.backends.len()).map(|_| Events::default()).collect();
        Self { view, events }
    }

    /// The view.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// The backend called `name`; the first one without a name.
    pub fn backend(&self, name: Option<&str>) -> Option<&BackendView> {
        self.view.backends.get(self.index(name))
    }

    /// Names the list of backends, and of endpoints of one of them: when it changes, so have they.
    pub fn roster(&self, name: Option<&str>) -> u64 {
        let index = self.index(name);
        *self.events[index].roster.get_or_init(|| {
            let mut hasher = DefaultHasher::new();
            self.view.backends.iter().for_each(|backend| backend.name.hash(&mut hasher));
            if let Some(backend) = self.view.backends.get(index) {
                backend.name.hash(&mut hasher);
                for endpoint in &backend.endpoints {
                    (&endpoint.name, &endpoint.address, &endpoint.key).hash(&mut hasher);
                }
            }
            hasher.finish()
        })
    }

    /// The `endpoints` event's data.
    pub fn endpoints_event(&self, name: Option<&str>) -> Result<Arc<str>, serde_json::Error> {
        let index = self.index(name);
        once(&self.events[index].endpoints, || {
            let backend = self.view.backends.get(index);
            let endpoints = backend.map_or(&[][..], |backend| &backend.endpoints);
            EndpointsEvent {
                roster: format!("{:016x}", self.roster(name)),
                backends: self.view.backends.iter().map(|backend| backend.name.as_str()).collect(),
                backend: backend.map(|backend| backend.name.as_str()),
                states: STATES,
                reasons: reasons::ALL,
                name: endpoints.iter().map(|endpoint| endpoint.name.as_str()).collect(),
                address: endpoints.iter().map(|endpoint| endpoint.address.as_str()).collect(),
            }
        })
    }

    /// The `tick` event's data.
    pub fn tick_event(&self, name: Option<&str>) -> Result<Arc<str>, serde_json::Error> {
        let index = self.index(name);
        once(&self.events[index].tick, || {
            let view = &self.view;
            TickEvent {
                roster: format!("{:016x}", self.roster(name)),
                at_ms: view.at_ms,
                version: &view.version,
                policy_version: &view.policy_version,
                tick_ms: Short(view.tick_ms),
                proxies: &view.proxies,
                problems: &view.problems,
                recording: view.recording.as_ref(),
                backend: view.backends.get(index).map(BackendEvent::new),
            }
        })
    }

    fn index(&self, name: Option<&str>) -> usize {
        let backends = &self.view.backends;
        match name {
            Some(name) => backends.iter().position(|backend| backend.name == name).unwrap_or(backends.len()),
            None => 0,
        }
    }
}

fn once<T: Serialize>(cell: &OnceLock<Arc<str>>, make: impl FnOnce() -> T) -> Result<Arc<str>, serde_json::Error> {
    if let Some(made) = cell.get() {
        return Ok(made.clone());
    }
    // Two readers may both come here and make the same text; that is cheaper than one waiting for the other.
    let made: Arc<str> = serde_json::to_string(&make())?.into();
    Ok(cell.get_or_init(|| made).clone())
}

#[derive(Serialize)]
struct EndpointsEvent<'a> {
    roster: String,
    backends: Vec<&'a str>,
    backend: Option<&'a str>,
    states: [EndpointState; STATES.len()],
    reasons: [Reason; reasons::ALL.len()],
    name: Vec<&'a str>,
    address: Vec<&'a str>,
}

#[derive(Serialize)]
struct TickEvent<'a> {
    roster: String,
    at_ms: i64,
    version: &'a str,
    policy_version: &'a str,
    tick_ms: Short,
    proxies: &'a [ProxyView],
    problems: &'a [String],
    recording: Option<&'a RecordingView>,
    backend: Option<BackendEvent<'a>>,
}

#[derive(Serialize)]
struct BackendEvent<'a> {
    name: &'a str,
    algorithm: &'a str,
    mode: Mode,
    tick: u64,
    objective_ms: Option<Short>,
    objective_derived: bool,
    rps: Short,
    goodput_rps: Short,
    shed_rps: Short,
    error_share: Short,
    latency_ms_p50: Option<Short>,
    latency_ms_p99: Option<Short>,
    concurrency_limit: Option<Short>,
    parameters: RuleParameters,
    model: &'a ModelView,
    guard: Vec<Action>,
    classes: &'a [ClassView],
    endpoints: Columns<'a>,
}

/// Numbers of all endpoints, in the order of the `endpoints` event; a column in which nobody has a number is `null`.
#[derive(Serialize)]
struct Columns<'a> {
    state: Vec<u8>,
    weight_baseline: Vec<Short>,
    weight_proposed: Vec<Short>,
    weight_applied: Vec<Short>,
    share: Vec<Short>,
    rps: Vec<Short>,
    in_flight: Vec<Short>,
    latency_ms_p50: Option<Vec<Option<Short>>>,
    latency_ms_p99: Option<Vec<Option<Short>>>,
    error: Vec<Short>,
    ejected_by: Vec<u32>,
    capacity_rps: Option<Vec<Option<Short>>>,
    slots: Option<Vec<Option<Short>>>,
    /// Positions of those whose slots were learned, as their pods do not tell them.
    slots_learned: Vec<usize>,
    scrape_age_s: Option<Vec<Option<Short>>>,
    /// Bit masks: bit n is the n-th of the `endpoints` event's reasons.
    reasons: Vec<u16>,
    /// Index and text, for those that cannot be scraped.
    scrape_errors: Vec<(usize, &'a str)>,
}

impl<'a> BackendEvent<'a> {
    fn new(backend: &'a BackendView) -> Self {
        Self {
            name: &backend.name,
            algorithm: &backend.algorithm,
            mode: backend.mode,
            tick: backend.tick,
            objective_ms: backend.objective_ms.map(Short),
            objective_derived: backend.objective_derived,
            rps: Short(backend.rps),
            goodput_rps: Short(backend.goodput_rps),
            shed_rps: Short(backend.shed_rps),
            error_share: Short(backend.error_share),
            latency_ms_p50: backend.latency_ms_p50.map(Short),
            latency_ms_p99: backend.latency_ms_p99.map(Short),
            concurrency_limit: backend.concurrency_limit.map(Short),
            parameters: backend.parameters,
            model: &backend.model,
            guard: guard::fold(&backend.guard),
            classes: &backend.classes,
            endpoints: Columns::new(backend),
        }
    }
}

impl<'a> Columns<'a> {
    fn new(backend: &'a BackendView) -> Self {
        let endpoints = &backend.endpoints;
        let column =
            |value: fn(&EndpointView) -> f64| endpoints.iter().map(|endpoint| Short(value(endpoint))).collect();
        let optional = |value: fn(&EndpointView) -> Option<f64>| {
            let known = endpoints.iter().any(|endpoint| value(endpoint).is_some());
            known.then(|| endpoints.iter().map(|endpoint| value(endpoint).map(Short)).collect())
        };
        let errors = endpoints.iter().enumerate().filter_map(|(index, e)| Some((index, e.scrape_error.as_deref()?)));
        Self {
            state: endpoints.iter().map(|endpoint| state_index(endpoint.state)).collect(),
            weight_baseline: column(|endpoint| endpoint.weight_baseline),
            weight_proposed: column(|endpoint| endpoint.weight_proposed),
            weight_applied: column(|endpoint| endpoint.weight_applied),
            share: column(|endpoint| endpoint.share),
            rps: column(|endpoint| endpoint.rps),
            in_flight: column(|endpoint| endpoint.in_flight),
            latency_ms_p50: optional(|endpoint| endpoint.latency_ms_p50),
            latency_ms_p99: optional(|endpoint| endpoint.latency_ms_p99),
            error: column(|endpoint| endpoint.error),
            ejected_by: endpoints.iter().map(|endpoint| endpoint.ejected_by).collect(),
            capacity_rps: optional(|endpoint| endpoint.capacity_rps),
            slots: optional(|endpoint| endpoint.slots),
            slots_learned: (0..endpoints.len()).filter(|&index| endpoints[index].slots_learned).collect(),
            scrape_age_s: optional(|endpoint| endpoint.scrape_age_s),
            reasons: masks(backend),
            scrape_errors: errors.take(SCRAPE_ERRORS_MAX).collect(),
        }
    }
}

fn state_index(state: EndpointState) -> u8 {
    match state {
        EndpointState::Active => 0,
        EndpointState::SlowStart => 1,
        EndpointState::PartlyEjected => 2,
        EndpointState::Ejected => 3,
        EndpointState::Draining => 4,
        EndpointState::Unhealthy => 5,
    }
}

/// The reasons that hold for each endpoint; those that hold for all are not repeated.
fn masks(backend: &BackendView) -> Vec<u16> {
    let mut by_name = std::collections::HashMap::<&str, u16>::new();
    for action in &backend.guard {
        if let Some(endpoint) = &action.endpoint {
            *by_name.entry(endpoint).or_default() |= reasons::bit(action.reason);
        }
    }
    backend.endpoints.iter().map(|endpoint| by_name.get(endpoint.name.as_str()).copied().unwrap_or(0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_numbered_in_the_order_of_their_list() {
        for (index, state) in STATES.into_iter().enumerate() {
            assert_eq!(usize::from(state_index(state)), index, "{state:?}");
        }
    }

    #[test]
    fn a_view_without_backends_still_makes_events() {
        let frame = Frame::new(Arc::new(View::default()));
        let tick: serde_json::Value = serde_json::from_str(&frame.tick_event(None).unwrap()).unwrap();
        assert!(tick["backend"].is_null());
        assert_eq!(tick["at_ms"], 0);
        assert_eq!(frame.roster(None), frame.roster(Some("default/web:80")));
        assert!(frame.endpoints_event(Some("x")).unwrap().contains("\"backends\":[]"));
    }
}
