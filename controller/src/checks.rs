//! What the proxies' active health checks say of the endpoints of one backend. An endpoint that fails at most of the proxies is not ready, and one
//! that is well again comes back as a new one does.

use trimtab_model::observation::EndpointKey;

use crate::keys::KeyMap;
use crate::loads::Summed;

/// What is known of the checks.
#[derive(Debug, Default)]
pub struct Checks {
    failing: KeyMap<Failing>,
    /// When those that failed were well again, milliseconds since the Unix epoch.
    recovered_ms: KeyMap<i64>,
}

/// An endpoint whose checks fail at some proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failing {
    /// At how many.
    pub by: u32,
    /// Whether those are most of them.
    pub most: bool,
    /// Why, in the words of one of them.
    pub reason: String,
}

impl Checks {
    /// Takes in what was reported since the last time. Endpoints of which nothing was reported stay as they are.
    pub fn add(&mut self, summed: &Summed, now_ms: i64) {
        for (key, sum) in &summed.endpoints {
            let most = sum.failing_by * 2 > summed.proxies;
            let before = match &sum.failing {
                Some(reason) => self.failing.insert(*key, Failing { by: sum.failing_by, most, reason: reason.clone() }),
                None => self.failing.remove(key),
            };
            if !most && before.is_some_and(|before| before.most) {
                self.recovered_ms.insert(*key, now_ms);
            }
        }
    }

    /// Forgets endpoints that are gone.
    pub fn retain(&mut self, known: impl Fn(EndpointKey) -> bool) {
        self.failing.retain(|key, _| known(*key));
        self.recovered_ms.retain(|key, _| known(*key));
    }

    /// Why an endpoint fails, if it does at any proxy.
    pub fn failing(&self, key: EndpointKey) -> Option<&Failing> {
        self.failing.get(&key)
    }

    /// When an endpoint that failed was well again.
    pub fn recovered_ms(&self, key: EndpointKey) -> Option<i64> {
        self.recovered_ms.get(&key).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: EndpointKey = EndpointKey(7);

    fn report(checks: &mut Checks, proxies: u32, failing_by: u32, now_ms: i64) -> Option<Failing> {
        let mut summed = Summed { proxies, ..Summed::default() };
        let sum = summed.endpoints.entry(KEY).or_default();
        (sum.failing_by, sum.failing) = (failing_by, (failing_by > 0).then(|| "answered 503".to_owned()));
        checks.add(&summed, now_ms);
        checks.failing(KEY).cloned()
    }

    #[test]
    fn an_endpoint_that_failed_at_most_proxies_comes_back_as_a_new_one() {
        let mut checks = Checks::default();
        assert!(!report(&mut checks, 3, 1, 1).unwrap().most);
        assert_eq!(report(&mut checks, 3, 0, 2), None);
        assert_eq!(checks.recovered_ms(KEY), None, "most had it all the time");
        assert_eq!(report(&mut checks, 3, 2, 3), Some(Failing { by: 2, most: true, reason: "answered 503".into() }));
        checks.add(&Summed::default(), 4);
        assert!(checks.failing(KEY).is_some(), "silence says nothing");
        assert!(report(&mut checks, 3, 1, 5).is_some());
        assert_eq!(checks.recovered_ms(KEY), Some(5));
        checks.retain(|_| false);
        assert_eq!((checks.failing(KEY), checks.recovered_ms(KEY)), (None, None));
    }
}
