//! Limits on a backend's requests that count: rates over time, and retries in flight. Atomics only, shared by all workers; what they count
//! outlives tables, and what is allowed comes with each call.

use std::{
    hash::{BuildHasher, Hash, Hasher, RandomState},
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use crate::{
    config::traffic::{RateLimit, RetryPolicy},
    head::RequestHead,
    time::{Timestamp, nanos},
};

/// What is counted apart (clients, values of headers, routes) is told apart by a hash, keyed at random, into so many buckets: memory is bounded
/// whatever clients send, and two that share a bucket share its limit.
const BUCKETS: usize = 1 << 14;
/// Of an IPv6 address this is the client: the rest it may choose by itself.
const IPV6_PREFIX: u32 = 64;
/// Rate limits of one backend that are counted apart; the rest share the last one's place.
const LIMITS: usize = 4;

/// What is counted for one backend.
#[derive(Debug, Default)]
pub struct Governor {
    totals: [Bucket; LIMITS],
    apart: [OnceLock<Apart>; LIMITS],
    retrying: Arc<AtomicU32>,
}

/// A token bucket as the time at which it will be full again (GCRA): one number, so that taking a token is one exchange.
#[derive(Debug, Default)]
struct Bucket(AtomicU64);

/// Buckets of one limit.
#[derive(Debug)]
struct Apart {
    hasher: RandomState,
    buckets: Box<[Bucket]>,
}

/// A retry in flight.
#[derive(Debug)]
pub struct Retrying(Arc<AtomicU32>);

impl Drop for Retrying {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Governor {
    /// Counts a request of `client`, to the rule called `route`, against all limits.
    ///
    /// # Errors
    /// How long to wait before the next one, if there were too many.
    pub fn take(
        &self,
        limits: &[RateLimit],
        (client, route, head): (IpAddr, &str, &impl RequestHead),
        now: Timestamp,
    ) -> Result<(), Duration> {
        for (index, limit) in limits.iter().enumerate() {
            let index = index.min(LIMITS - 1);
            let concerns = limit.headers.iter().all(|(name, wanted)| match (head.value(name), wanted) {
                (Some(value), Some(wanted)) => value == wanted.as_bytes(),
                (value, None) => value.is_some(),
                (None, Some(_)) => false,
            });
            if !concerns {
                continue;
            }
            if limit.per_client || limit.per_route || limit.headers.iter().any(|(_, value)| value.is_none()) {
                let apart = self.apart[index].get_or_init(|| Apart {
                    hasher: RandomState::new(),
                    buckets: std::iter::repeat_with(Bucket::default).take(BUCKETS).collect(),
                });
                apart.of(limit, (client, route, head)).take(limit, now)?;
            } else {
                self.totals[index].take(limit, now)?;
            }
        }
        Ok(())
    }

    /// Leave for one more retry, while `in_flight` requests are under way.
    pub fn retry(&self, policy: &RetryPolicy, in_flight: u32) -> Option<Retrying> {
        let before = self.retrying.fetch_add(1, Relaxed);
        let retrying = Retrying(self.retrying.clone());
        let share = u64::from(in_flight) * u64::from(policy.budget_percent) / 100;
        (u64::from(before) < share.max(u64::from(policy.budget_min))).then_some(retrying)
    }
}

impl Apart {
    fn of(&self, limit: &RateLimit, (client, route, head): (IpAddr, &str, &impl RequestHead)) -> &Bucket {
        let mut hash = self.hasher.build_hasher();
        if limit.per_client {
            match client.to_canonical() {
                IpAddr::V6(address) => {
                    Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << (128 - IPV6_PREFIX))).hash(&mut hash);
                }
                v4 => v4.hash(&mut hash),
            }
        }
        if limit.per_route {
            route.hash(&mut hash);
        }
        for (name, _) in limit.headers.iter().filter(|(_, value)| value.is_none()) {
            head.value(name).hash(&mut hash);
        }
        &self.buckets[hash.finish() as usize % BUCKETS]
    }
}

impl Bucket {
    fn take(&self, limit: &RateLimit, now: Timestamp) -> Result<(), Duration> {
        // Kept at least 1 ns, so that no rate is without bounds.
        let step = (nanos(limit.per) / u64::from(limit.requests.get())).max(1);
        let room = step.saturating_mul(u64::from(limit.requests.get()));
        let mut full_at = self.0.load(Relaxed);
        loop {
            let next = full_at.max(now.0).saturating_add(step);
            if next.saturating_sub(now.0) > room {
                return Err(Duration::from_nanos(next - now.0 - room));
            }
            match self.0.compare_exchange_weak(full_at, next, Relaxed, Relaxed) {
                Ok(_) => return Ok(()),
                Err(other) => full_at = other,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    fn limit(requests: u32, per_client: bool) -> RateLimit {
        let requests = NonZeroU32::new(requests).unwrap();
        RateLimit { requests, per: Duration::from_secs(1), per_client, per_route: false, headers: Vec::new() }
    }

    fn head(headers: &[(&str, &str)]) -> http::request::Parts {
        let request =
            headers.iter().fold(http::Request::get("/"), |request, (name, value)| request.header(*name, *value));
        request.body(()).unwrap().into_parts().0
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn as_many_pass_as_the_rate_says_at_once_and_over_time() {
        let governor = Governor::default();
        let limits = [limit(10, false)];
        let passed = |from_ms: u64, to_ms: u64, step_ms: usize| {
            let times = (from_ms..to_ms).step_by(step_ms).map(Timestamp::from_millis);
            times.filter(|now| governor.take(&limits, (ip("192.0.2.1"), "", &head(&[])), *now).is_ok()).count()
        };
        let one = || governor.take(&limits, (ip("192.0.2.1"), "", &head(&[])), Timestamp::from_millis(5));
        assert_eq!((0..50).filter(|_| one().is_ok()).count(), 10);
        let wait = one().unwrap_err();
        assert_eq!(wait, Duration::from_millis(100));
        // A hundred a second are asked for.
        assert!((99..=101).contains(&passed(6, 10_006, 10)), "ten seconds");
        assert_eq!(passed(60_000, 60_001, 1), 1, "it fills up again");
    }

    #[test]
    fn clients_are_limited_by_themselves_and_ipv6_by_its_network() {
        let governor = Governor::default();
        let limits = [limit(2, true)];
        let take =
            |client: &str| governor.take(&limits, (ip(client), "", &head(&[])), Timestamp::from_millis(1)).is_ok();
        assert!(take("192.0.2.1") && take("192.0.2.1") && !take("192.0.2.1"));
        assert!(take("192.0.2.2"), "another client");
        assert!(!take("::ffff:192.0.2.1"), "the same client");
        assert!(take("2001:db8::1") && take("2001:db8::2") && !take("2001:db8::3"), "one network");
        assert!(take("2001:db8:0:1::1"));
    }

    #[test]
    fn values_of_a_header_and_routes_are_limited_by_themselves_if_the_limit_says_so() {
        let governor = Governor::default();
        let name = http::HeaderName::from_static("x-user");
        let by_user = RateLimit { headers: vec![(name.clone(), None)], ..limit(1, false) };
        let of_bob =
            RateLimit { headers: vec![(name, Some(http::HeaderValue::from_static("bob")))], ..limit(2, false) };
        let by_route = RateLimit { per_route: true, ..limit(3, false) };
        let take = |limit: &RateLimit, place: usize, route: &str, headers: &[(&str, &str)]| {
            let mut limits = vec![RateLimit { headers: of_bob.headers.clone(), ..limit_never() }; place];
            limits.push(limit.clone());
            governor.take(&limits, (ip("192.0.2.1"), route, &head(headers)), Timestamp::from_millis(1)).is_ok()
        };
        let user = |name| take(&by_user, 0, "a", &[("x-user", name)]);
        assert!(user("ann") && user("eve") && !user("ann"));
        assert!((0..9).all(|_| take(&by_user, 0, "a", &[])), "a request without the header is not meant");
        let bob = |name| take(&of_bob, 1, "a", &[("x-user", name)]);
        assert!(bob("bob") && bob("bob") && !bob("bob") && bob("ann"));
        let route = |route| take(&by_route, 2, route, &[]);
        assert!(route("a") && route("a") && route("a") && !route("a") && route("b"));
    }

    /// So many that it is never met.
    fn limit_never() -> RateLimit {
        limit(1_000_000, false)
    }

    #[test]
    fn retries_are_a_share_of_what_is_in_flight() {
        let governor = Governor::default();
        let policy = RetryPolicy::default();
        let few: Vec<_> = (0..10).map_while(|_| governor.retry(&policy, 4)).collect();
        assert_eq!(few.len(), 3, "some are always allowed");
        drop(few);
        let many: Vec<_> = (0..100).map_while(|_| governor.retry(&policy, 100)).collect();
        assert_eq!(many.len(), 20);
        assert!(governor.retry(&RetryPolicy { budget_percent: 0, budget_min: 0, ..policy }, 100).is_none());
    }
}
