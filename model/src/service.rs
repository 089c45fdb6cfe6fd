//! What is known of one service that its pods do not tell themselves: facts that were worked out from its recordings and travel with the
//! policy that was refined for it. What a pod tells always comes first.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::observation::{EndpointKey, Measured, Observation};

/// No endpoint is taken to serve more requests at once.
pub const SLOTS_MAX: f64 = 4096.0;
/// Endpoints that are remembered by name: as many as a large service has, so that the file stays small.
pub const ENDPOINTS_MAX: usize = 10_000;

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

    /// The observation with what pods do not tell filled in.
    pub fn complete<'a>(&self, observation: &'a Observation) -> Cow<'a, Observation> {
        let silent = |observation: &Observation| observation.endpoints.iter().any(|e| e.scraped.worker_limit.is_none());
        if observation.backend != self.backend || !silent(observation) {
            return Cow::Borrowed(observation);
        }
        let mut completed = observation.clone();
        for endpoint in &mut completed.endpoints {
            let known = self.slots(&observation.backend, endpoint.key).map(|value| Measured { value, age_s: 0.0 });
            endpoint.scraped.worker_limit = endpoint.scraped.worker_limit.or(known);
        }
        Cow::Owned(completed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
