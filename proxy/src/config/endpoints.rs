//! The endpoints of a backend as they are pushed: all of them, or how they differ from those that are there. Of thousands of which a few change, the
//! others are neither sent nor read nor copied again: lists share them. Either way the result is the same list, which its fingerprint shows: what
//! comes out of changes is never another list than the controller's.

use std::{fmt, sync::Arc};

use super::{BackendConfig, Check, EndpointConfig, EndpointState, InvalidResource};
use crate::{api::v1, keys::IdSet};

/// A pushed backend.
#[derive(Debug, Clone)]
pub struct BackendUpdate {
    /// Without endpoints where there are changes.
    config: BackendConfig,
    changes: Option<Changes>,
}

/// From one list of endpoints to another.
#[derive(Debug, Clone)]
struct Changes {
    base: u64,
    version: u64,
    steps: Vec<Step>,
}

#[derive(Debug, Clone)]
struct Step {
    removed: Vec<u32>,
    set: Vec<(u32, Arc<EndpointConfig>)>,
}

impl TryFrom<v1::Backend> for BackendUpdate {
    type Error = InvalidResource;

    fn try_from(mut wire: v1::Backend) -> Result<Self, InvalidResource> {
        let Some(changes) = wire.changes.take() else {
            return Ok(Self { config: BackendConfig::try_from(wire)?, changes: None });
        };
        let check = Check::new("Backend", &wire.name);
        check.that(wire.endpoints.is_empty(), "changes", || "stand beside endpoints: one of them".to_owned())?;
        let steps = changes.steps.into_iter().enumerate();
        let steps = steps.map(|(index, step)| Step::check(step, index, &check)).collect::<Result<_, _>>()?;
        let changes = Changes { base: changes.base, version: wire.endpoints_version, steps };
        Ok(Self { config: BackendConfig::try_from(wire)?, changes: Some(changes) })
    }
}

impl BackendUpdate {
    /// Whose it is.
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// The backend with all of its endpoints, of which it has had those in `before`; `None`: there is none yet.
    ///
    /// # Errors
    /// It says how endpoints differ from a list that is not `before`, or does not come to the list that it should.
    pub fn resolve(self, before: Option<&BackendConfig>) -> Result<BackendConfig, InvalidResource> {
        let Self { config, changes } = self;
        let Some(changes) = changes else { return Ok(config) };
        let error = |field: &str, reason: String| InvalidResource {
            resource: format!("Backend {}", config.name),
            field: format!("changes.{field}"),
            reason,
        };
        let held = before.map_or(&[][..], |before| &before.endpoints[..]);
        let version = before.map(|before| version(&before.endpoints));
        if version != Some(changes.base) {
            let held = version.map_or_else(|| "none".to_owned(), |version| format!("{version:016x}"));
            let reason = format!("begin with {:016x}, and here is {held}: all endpoints must be sent", changes.base);
            return Err(error("base", reason));
        }
        let mut steps = changes.steps.into_iter().enumerate();
        let endpoints = steps.try_fold(held.to_vec(), |list, (index, step)| {
            step.apply(list).map_err(|(field, reason)| error(&format!("steps[{index}].{field}"), reason))
        })?;
        let reached = self::version(&endpoints);
        if reached != changes.version {
            let reason =
                format!("come to {reached:016x}, expected {:016x}: all endpoints must be sent", changes.version);
            return Err(error("steps", reason));
        }
        if let Some(index) = twice(&endpoints) {
            let key = endpoints[index].key;
            return Err(error("steps", format!("{key} stands there twice: keys must be distinct")));
        }
        Ok(BackendConfig { endpoints, ..config })
    }
}

impl Step {
    fn check(wire: v1::EndpointStep, index: usize, check: &Check) -> Result<Self, InvalidResource> {
        let field = |name: &str| format!("changes.steps[{index}].{name}");
        let ascending = |numbers: &[u32], name: &str| {
            let reason = || "must be in ascending order, each once".to_owned();
            check.that(numbers.is_sorted_by(|a, b| a < b), field(name), reason)
        };
        ascending(&wire.removed, "removed")?;
        ascending(&wire.positions, "positions")?;
        check.that(wire.positions.len() == wire.endpoints.len(), field("positions"), || {
            format!("are {} for {} endpoints", wire.positions.len(), wire.endpoints.len())
        })?;
        let endpoint = |(at, endpoint)| {
            EndpointConfig::check(endpoint, format_args!("{}[{at}]", field("endpoints")), check).map(Arc::new)
        };
        let endpoints: Vec<_> = wire.endpoints.into_iter().enumerate().map(endpoint).collect::<Result<_, _>>()?;
        Ok(Self { removed: wire.removed, set: wire.positions.into_iter().zip(endpoints).collect() })
    }

    /// The list after the step.
    fn apply(self, list: Vec<Arc<EndpointConfig>>) -> Result<Vec<Arc<EndpointConfig>>, (&'static str, String)> {
        let len = list.len();
        let mut next = Vec::with_capacity(len + self.set.len());
        let mut removed = self.removed.into_iter().peekable();
        let mut set = self.set.into_iter().peekable();
        let mut put = |next: &mut Vec<Arc<EndpointConfig>>| {
            while let Some((_, endpoint)) = set.next_if(|(position, _)| *position as usize == next.len()) {
                next.push(endpoint);
            }
        };
        for (index, endpoint) in list.into_iter().enumerate() {
            if removed.next_if(|removed| *removed as usize == index).is_some() {
                continue;
            }
            put(&mut next);
            next.push(endpoint);
        }
        put(&mut next);
        let out_of = |position: u32, len: usize| format!("{position} is not a position in a list of {len}");
        match (removed.next(), set.next()) {
            (Some(position), _) => Err(("removed", out_of(position, len))),
            (_, Some((position, _))) => Err(("positions", out_of(position, next.len()))),
            (None, None) => Ok(next),
        }
    }
}

/// The position of an endpoint whose key another one before it has.
pub(super) fn twice(endpoints: &[Arc<EndpointConfig>]) -> Option<usize> {
    let mut keys = IdSet::with_capacity_and_hasher(endpoints.len(), Default::default());
    endpoints.iter().position(|endpoint| !keys.insert(endpoint.key.0))
}

/// Fingerprint of a list of endpoints.
fn version(endpoints: &[Arc<EndpointConfig>]) -> u64 {
    list_version(endpoints.iter().map(|endpoint| {
        let ready = endpoint.state == EndpointState::Ready;
        fingerprint(endpoint.key.0, (&endpoint.host, endpoint.port.get()), &endpoint.name, &endpoint.zone, ready)
    }))
}

/// Fingerprint of a list of endpoints with these [`fingerprint`]s; never 0.
pub(crate) fn list_version(fingerprints: impl Iterator<Item = u64>) -> u64 {
    let mut hash = Mix::default();
    fingerprints.for_each(|fingerprint| hash.number(fingerprint));
    hash.0.max(1)
}

/// Fingerprint of all that is said of an endpoint.
pub(crate) fn fingerprint(key: u64, address: (&str, u16), name: &str, zone: &str, ready: bool) -> u64 {
    let mut hash = Mix::default();
    hash.number(key);
    hash.number(u64::from(address.1) << 1 | u64::from(ready));
    [address.0, name, zone].into_iter().for_each(|text| hash.text(text));
    hash.0
}

/// A hash of words: all endpoints are gone through with each change, at some ten nanoseconds each. Both sides of a connection compute it, and nothing
/// is lost where they do not agree: all endpoints are sent.
struct Mix(u64);

impl Default for Mix {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Mix {
    fn number(&mut self, word: u64) {
        let product = u128::from(self.0 ^ word) * 0x9E37_79B9_7F4A_7C15;
        self.0 = ((product >> 64) as u64 ^ product as u64).wrapping_add(0xbf58_476d_1ce4_e5b9);
    }

    fn text(&mut self, text: &str) {
        self.number(text.len() as u64);
        let (words, rest) = text.as_bytes().as_chunks::<8>();
        words.iter().for_each(|word| self.number(u64::from_le_bytes(*word)));
        if !rest.is_empty() {
            let mut word = [0; 8];
            word[..rest.len()].copy_from_slice(rest);
            self.number(u64::from_le_bytes(word));
        }
    }
}

impl fmt::Debug for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

#[cfg(test)]
#[path = "endpoints_tests.rs"]
mod tests;
