//! What is known of one service that its pods do not tell themselves: facts that were worked out from its recordings and travel with the
//! policy that was refined for it.
//!
//! What a pod tells always comes first. Then come the facts, which are there from the first second and rest on more requests than a controller has
//! seen since it started; but templates change, and a fact does not notice. So once what was [learned live](crate::slots) is sure and contradicts the
//! facts of most endpoints, it counts in their place. Of most, and clearly: with right facts, live learning is surely off by a factor of two or more
//! at single pods in 9 of the 32 worlds that refinement is measured in, where requests wait in ways that it does not know.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::observation::{EndpointKey, EndpointObservation, Measured, Observation};

/// No endpoint is taken to serve more requests at once.
pub const SLOTS_MAX: f64 = 4096.0;
/// Endpoints that are remembered by name: as many as a large service has, so that the file stays small.
pub const ENDPOINTS_MAX: usize = 10_000;

/// What was learned is sure where the standard deviation of its logarithm is at most this: within a quarter.
const SURE: f64 = 0.25;
/// What is sure contradicts a fact that it is further from than this, as logarithms of one more than the slots, and than so many standard deviations:
/// 8 for 3, 16 for 7, 1 for 4.
const CONTRADICTS: f64 = 0.7;
const DEVIATIONS: f64 = 3.0;
/// Share of the endpoints that something sure must be known of before facts are given up.
const SURE_SHARE_MIN: f64 = 0.25;

/// Facts of one service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// The backend that they are about, `namespace/service:port`.
    pub backend: String,
    /// Requests that an endpoint serves at once.
    pub slots: Slots,
}

/// How many requests endpoints serve at once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slots {
    /// Of one that is not listed: pods that came since are of the same template.
    pub usual: f64,
    /// By key.
    pub endpoints: BTreeMap<u64, f64>,
}

/// A number of a service's facts that cannot be.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("service.{field} is {value}, it must be {allowed}")]
pub struct ServiceError {
    /// Which.
    pub field: String,
    /// What it is.
    pub value: f64,
    /// What would be right.
    pub allowed: &'static str,
}

impl Service {
    /// Whether every number can be.
    ///
    /// # Errors
    /// Names the first that cannot, and what would be right.
    pub fn check(&self) -> Result<(), ServiceError> {
        let slots = |field: String, value: f64| {
            if (1.0..=SLOTS_MAX).contains(&value) {
                Ok(())
            } else {
                Err(ServiceError { field, value, allowed: "from 1 to 4096" })
            }
        };
        slots("slots.usual".to_owned(), self.slots.usual)?;
        let count = self.slots.endpoints.len();
        if count > ENDPOINTS_MAX {
            let field = "slots.endpoints".to_owned();
            return Err(ServiceError { field, value: count as f64, allowed: "at most 10000 endpoints" });
        }
        self.slots.endpoints.iter().try_for_each(|(key, value)| slots(format!("slots.endpoints.{key}"), *value))
    }

    /// How many requests an endpoint of this backend serves at once; `None` for another backend's.
    pub fn slots(&self, backend: &str, key: EndpointKey) -> Option<f64> {
        (backend == self.backend).then(|| self.slots.endpoints.get(&key.0).copied().unwrap_or(self.slots.usual))
    }

    /// Whether what was learned of an endpoint is sure, and whether it then contradicts what is known here.
    fn contradicted(&self, backend: &str, endpoint: &EndpointObservation) -> Option<bool> {
        let learned = learned(endpoint)?;
        let deviation = endpoint.slots_deviation.filter(|deviation| (0.0..=SURE).contains(deviation))?;
        let fact = self.slots(backend, endpoint.key)?;
        Some((learned.ln_1p() - fact.ln_1p()).abs() > CONTRADICTS.max(DEVIATIONS * deviation))
    }
}

/// An observation with what its pods do not tell filled in.
#[derive(Debug, Clone, PartialEq)]
pub struct Completed<'a> {
    /// It.
    pub observation: Cow<'a, Observation>,
    /// Whether facts were not believed.
    pub stale: Option<Stale>,
}

/// Facts that what was learned live contradicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stale {
    /// Endpoints of which it is sure that they have other slots.
    pub contradicted: usize,
    /// Endpoints of which anything sure was learned.
    pub sure: usize,
}

/// Fills in what pods do not tell: from the facts of the policy that is in force, and from what was learned live, in the order that this module is
/// about.
pub fn complete<'a>(observation: &'a Observation, facts: Option<&Service>) -> Completed<'a> {
    let facts = facts.filter(|service| service.backend == observation.backend);
    let silent = |endpoint: &&EndpointObservation| endpoint.scraped.worker_limit.is_none();
    let known = |endpoint: &EndpointObservation| facts.is_some() || learned(endpoint).is_some();
    if !observation.endpoints.iter().filter(silent).any(known) {
        return Completed { observation: Cow::Borrowed(observation), stale: None };
    }
    let contradicted =
        |endpoint: &EndpointObservation| facts.and_then(|service| service.contradicted(&observation.backend, endpoint));
    let stale = stale(observation.endpoints.iter().filter(silent).map(contradicted));
    let mut completed = observation.clone();
    for endpoint in completed.endpoints.iter_mut().filter(|endpoint| endpoint.scraped.worker_limit.is_none()) {
        let fact = facts.and_then(|service| service.slots(&observation.backend, endpoint.key));
        let learned = learned(endpoint);
        let value = if stale.is_some() { learned.or(fact) } else { fact.or(learned) };
        endpoint.scraped.worker_limit = value.map(|value| Measured { value, age_s: 0.0 });
    }
    Completed { observation: Cow::Owned(completed), stale }
}

/// Slots that were learned, where that is a number of slots.
fn learned(endpoint: &EndpointObservation) -> Option<f64> {
    endpoint.slots.filter(|slots| *slots >= 1.0)
}

/// Sums up whether facts were contradicted, endpoint by endpoint; `None`: nothing sure is known of it.
fn stale(contradicted: impl Iterator<Item = Option<bool>>) -> Option<Stale> {
    let (mut endpoints, mut sure, mut against) = (0_usize, 0, 0);
    for contradicted in contradicted {
        endpoints += 1;
        sure += usize::from(contradicted.is_some());
        against += usize::from(contradicted == Some(true));
    }
    let most = 2 * against > sure && sure as f64 >= SURE_SHARE_MIN * endpoints as f64;
    most.then_some(Stale { contradicted: against, sure })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observation::Scraped;

    fn service() -> Service {
        let slots = Slots { usual: 4.0, endpoints: BTreeMap::from([(7, 2.0)]) };
        Service { backend: "shop/web:80".to_owned(), slots }
    }

    #[test]
    fn those_that_are_not_listed_are_as_usual_and_other_backends_are_not_known() {
        let service = service();
        assert_eq!(service.slots("shop/web:80", EndpointKey(7)), Some(2.0));
        assert_eq!(service.slots("shop/web:80", EndpointKey(8)), Some(4.0));
        assert_eq!(service.slots("shop/cart:80", EndpointKey(7)), None);
    }

    /// Four pods that tell nothing, of which so much was learned.
    fn observation(learned: [Option<(f64, f64)>; 4]) -> Observation {
        let endpoint = |(key, learned): (u64, Option<(f64, f64)>)| EndpointObservation {
            key: EndpointKey(key),
            ready: true,
            ready_age_s: None,
            restarts: None,
            zone_match: None,
            slots: learned.map(|(slots, _)| slots),
            slots_deviation: learned.map(|(_, deviation)| deviation),
            reported: None,
            scraped: Scraped::default(),
        };
        Observation {
            backend: "shop/web:80".to_owned(),
            tick: 1,
            at_ms: 0,
            interval_s: 0.5,
            proxies: 1,
            objective_ms: None,
            endpoints: (7..).zip(learned).map(endpoint).collect(),
        }
    }

    /// What is believed of the four, by facts that say 2 of the first and 4 of the others.
    fn believed(learned: [Option<(f64, f64)>; 4], expected: [f64; 4], stale: bool) {
        let observation = observation(learned);
        let completed = complete(&observation, Some(&service()));
        let slots: Vec<f64> =
            completed.observation.endpoints.iter().filter_map(|e| Some(e.scraped.worker_limit?.value)).collect();
        assert_eq!(slots, expected, "{learned:?}");
        assert_eq!(completed.stale.is_some(), stale, "{learned:?}");
    }

    #[test]
    fn facts_stand_until_something_sure_contradicts_them() {
        believed([None; 4], [2.0, 4.0, 4.0, 4.0], false);
        // Not sure; sure, and near enough.
        believed([Some((16.0, 0.4)); 4], [2.0, 4.0, 4.0, 4.0], false);
        believed([Some((3.0, 0.1)), Some((5.0, 0.1)), Some((3.0, 0.1)), None], [2.0, 4.0, 4.0, 4.0], false);
        // One pod may be mistaken.
        let one = Some((16.0, 0.1));
        believed([one, Some((4.0, 0.1)), Some((4.0, 0.1)), None], [2.0, 4.0, 4.0, 4.0], false);
        // Most that are sure: the template has changed.
        believed([one, one, Some((4.0, 0.1)), Some((9.0, 0.4))], [16.0, 16.0, 4.0, 9.0], true);
        // What nothing was learned of keeps its fact all the same, rather than nothing.
        believed([one, one, one, None], [16.0, 16.0, 16.0, 4.0], true);
        believed([Some((f64::NAN, 0.1)), Some((0.0, 0.1)), Some((16.0, f64::NAN)), None], [2.0, 4.0, 4.0, 4.0], false);
    }

    #[test]
    fn what_pods_tell_comes_before_all_else_and_other_services_facts_do_not_count() {
        let mut observation = observation([Some((16.0, 0.1)); 4]);
        observation.endpoints[0].scraped.worker_limit = Some(Measured { value: 3.0, age_s: 0.1 });
        let slots = |facts: Option<&Service>| -> Vec<f64> {
            let completed = complete(&observation, facts).observation;
            completed.endpoints.iter().filter_map(|e| Some(e.scraped.worker_limit?.value)).collect()
        };
        assert_eq!(slots(Some(&service())), [3.0, 16.0, 16.0, 16.0]);
        let elsewhere = Service { backend: "shop/cart:80".to_owned(), ..service() };
        assert_eq!(slots(Some(&elsewhere)), [3.0, 16.0, 16.0, 16.0]);
        assert_eq!(slots(None), [3.0, 16.0, 16.0, 16.0]);
    }

    #[test]
    fn numbers_that_cannot_be_are_named() {
        let check = |change: fn(&mut Service), expected: &str| {
            let mut service = service();
            change(&mut service);
            assert_eq!(service.check().unwrap_err().to_string(), expected);
        };
        assert_eq!(service().check(), Ok(()));
        check(|service| service.slots.usual = 0.0, "service.slots.usual is 0, it must be from 1 to 4096");
        check(
            |service| *service.slots.endpoints.entry(7).or_default() = f64::NAN,
            "service.slots.endpoints.7 is NaN, it must be from 1 to 4096",
        );
    }
}
