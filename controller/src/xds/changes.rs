//! A backend on the wire: whole, or as changes of the endpoints that a proxy has. Of thousands of endpoints a few change several times a second;
//! what is sent then is what is different, to each proxy from the version that it has acknowledged. Pure.

use std::sync::{Arc, OnceLock};

use prost::Message;
use trimtab_proxy::api::{self, v1};

use crate::gateway::{BackendSpec, EndpointSpec};
use crate::keys::KeyMap;
use crate::session_keys::SessionKeys;

/// Up to so many endpoints are always sent as a whole: it costs no more, and depends on nothing.
const WHOLE_MAX: usize = 64;
/// So many steps back changes are kept; a proxy that is further behind is sent the whole.
const STEPS_MAX: usize = 32;
/// Among so many it is looked for where an endpoint stood before: as many may have left side by side.
const LEFT_MAX: usize = 16;
/// About what an endpoint takes on the wire.
const ENDPOINT_BYTES: usize = 80;

/// One version of a backend, and how it came from those before it.
#[derive(Debug)]
pub struct BackendBody {
    /// Everything but the endpoints.
    head: Vec<u8>,
    endpoints: Vec<Arc<EndpointSpec>>,
    /// Fingerprints of each of them.
    fingerprints: Vec<u64>,
    /// Fingerprint of `endpoints`.
    endpoints_version: u64,
    /// Encoded when the first proxy needs it: most need only the changes.
    whole: OnceLock<Vec<u8>>,
    /// The oldest first.
    steps: Vec<Arc<Step>>,
}

/// From one version to the next.
#[derive(Debug)]
struct Step {
    /// Version of the resource from which it leads.
    from: Arc<str>,
    /// Fingerprint of its endpoints.
    base: u64,
    changes: v1::EndpointStep,
}

impl Step {
    fn size(&self) -> usize {
        self.changes.removed.len() + self.changes.endpoints.len()
    }
}

impl BackendBody {
    /// Of this backend, whose clients' sessions are signed with `keys`, and which proxies have as `before`, of that version, if they have it.
    pub fn new(spec: &BackendSpec, keys: &SessionKeys, before: Option<(&Arc<str>, &Self)>) -> Self {
        let fingerprints = match before {
            Some((_, before)) => before.fingerprints_of(&spec.endpoints),
            None => spec.endpoints.iter().map(|endpoint| endpoint.fingerprint()).collect(),
        };
        let endpoints_version = api::endpoints_version(fingerprints.iter().copied());
        let mut resource = v1::Backend { endpoints_version, ..spec.resource.clone() };
        if let Some(session) = &mut resource.session {
            session.keys = keys.of(spec.name());
        }
        let head = resource.encode_to_vec();
        let steps = before.map_or_else(Vec::new, |(version, before)| before.steps_to(version, &spec.endpoints));
        Self { head, endpoints: spec.endpoints.clone(), fingerprints, endpoints_version, whole: OnceLock::new(), steps }
    }

    /// All that can be told apart about it.
    pub fn head(&self) -> &[u8] {
        &self.head
    }

    /// Encoded with all endpoints.
    pub fn whole(&self) -> &[u8] {
        self.whole.get_or_init(|| {
            let endpoints = self.endpoints.iter().map(|endpoint| endpoint.resource()).collect();
            self.with(&v1::Backend { endpoints, ..v1::Backend::default() })
        })
    }

    /// Encoded as what is different from a version; `None` where that is not known, or not less than the whole.
    pub fn since(&self, version: &str) -> Option<Vec<u8>> {
        let steps = self.steps_since(version)?;
        let base = steps.first()?.base;
        let steps = steps.iter().map(|step| step.changes.clone()).collect();
        Some(self.with(&v1::Backend { changes: Some(v1::EndpointChanges { base, steps }), ..v1::Backend::default() }))
    }

    /// About how many bytes go to a proxy that has a version, or none.
    pub fn size(&self, version: Option<&str>) -> usize {
        let steps = version.and_then(|version| self.steps_since(version));
        let endpoints = steps.map_or(self.endpoints.len(), |steps| steps.iter().map(|step| step.size()).sum());
        self.head.len() + endpoints * ENDPOINT_BYTES
    }

    fn steps_since(&self, version: &str) -> Option<&[Arc<Step>]> {
        Some(&self.steps[self.steps.iter().rposition(|step| *step.from == *version)?..])
    }

    /// Fields of a message may stand in any order, and in any number of pieces.
    fn with(&self, rest: &v1::Backend) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.head.len() + rest.encoded_len());
        bytes.extend_from_slice(&self.head);
        rest.encode_raw(&mut bytes);
        bytes
    }

    /// Fingerprints of `endpoints`, of which most are those that are here, in the same order.
    fn fingerprints_of(&self, endpoints: &[Arc<EndpointSpec>]) -> Vec<u64> {
        let mut next = 0;
        let fingerprint = |endpoint: &Arc<EndpointSpec>| {
            let near = self.endpoints.iter().enumerate().skip(next).take(LEFT_MAX);
            match near.into_iter().find(|(_, here)| Arc::ptr_eq(here, endpoint)) {
                Some((place, _)) => {
                    next = place + 1;
                    self.fingerprints[place]
                }
                None => endpoint.fingerprint(),
            }
        };
        endpoints.iter().map(fingerprint).collect()
    }

    /// The steps from older versions to `endpoints`, by way of this one.
    fn steps_to(&self, version: &Arc<str>, endpoints: &[Arc<EndpointSpec>]) -> Vec<Arc<Step>> {
        if endpoints.len() <= WHOLE_MAX {
            return Vec::new();
        }
        let changes = step(&self.endpoints, endpoints);
        let last = Step { from: version.clone(), base: self.endpoints_version, changes };
        let mut budget = endpoints.len() / 2;
        let worth_it = |step: &&Arc<Step>| {
            let rest = budget.checked_sub(step.size());
            budget = rest.unwrap_or(0);
            rest.is_some()
        };
        let last = Arc::new(last);
        let mut steps: Vec<Arc<Step>> = std::iter::once(&last)
            .chain(self.steps.iter().rev())
            .take(STEPS_MAX)
            .take_while(worth_it)
            .cloned()
            .collect();
        steps.reverse();
        steps
    }
}

/// What leads from one list to another. It is right for any two, and little where what stays keeps its order.
fn step(before: &[Arc<EndpointSpec>], after: &[Arc<EndpointSpec>]) -> v1::EndpointStep {
    let places: KeyMap<usize> = before.iter().enumerate().map(|(place, endpoint)| (endpoint.key, place)).collect();
    let same = |a: &Arc<EndpointSpec>, b: &Arc<EndpointSpec>| Arc::ptr_eq(a, b) || a.resource() == b.resource();
    let mut step = v1::EndpointStep::default();
    // Positions are below 2^32: a list of so many would not fit a message.
    let position = |position: usize| position as u32;
    let mut next = 0;
    for (at, endpoint) in after.iter().enumerate() {
        let place = places.get(&endpoint.key).copied().filter(|place| *place >= next);
        match place.filter(|place| same(&before[*place], endpoint)) {
            Some(place) => {
                step.removed.extend((next..place).map(position));
                next = place + 1;
            }
            None => {
                step.positions.push(position(at));
                step.endpoints.push(endpoint.resource());
            }
        }
    }
    step.removed.extend((next..before.len()).map(position));
    step
}

#[cfg(test)]
#[path = "changes_tests.rs"]
mod tests;
