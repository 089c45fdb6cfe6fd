//! Limits on a backend's requests that count: rates over time, and retries in flight. Atomics only, shared by all workers; what they count
//! outlives tables, and what is allowed comes with each call.

use std::{
    hash::{BuildHasher, RandomState},
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use crate::{
    config::traffic::{RateLimit, RetryPolicy},
    time::{Timestamp, nanos},
};

/// Clients are told apart by a hash into so many buckets: memory is bounded whatever clients do, and two clients that share a bucket share its
/// limit.
const CLIENTS: usize = 1 << 14;
/// Of an IPv6 address this is the client: the rest it may choose by itself.
const IPV6_PREFIX: u32 = 64;
/// Rate limits of one backend that are counted apart; the rest share the last one's place.
const LIMITS: usize = 4;

/// What is counted for one backend.
#[derive(Debug, Default)]
pub struct Governor {
    totals: [Bucket; LIMITS],
    clients: [OnceLock<Clients>; LIMITS],
    retrying: Arc<AtomicU32>,
}

/// A token bucket as the time at which it will be full again (GCRA): one number, so that taking a token is one exchange.
#[derive(Debug, Default)]
struct Bucket(AtomicU64);

#[derive(Debug)]
struct Clients {
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
    /// Counts a request of `client` against all limits.
    ///
    /// # Errors
    /// How long to wait before the next one, if there were too many.
    pub fn take(&self, limits: &[RateLimit], client: IpAddr, now: Timestamp) -> Result<(), Duration> {
        for (index, limit) in limits.iter().enumerate() {
            let index = index.min(LIMITS - 1);
            if limit.per_client {
                let clients = self.clients[index].get_or_init(|| Clients {
                    hasher: RandomState::new(),
                    buckets: std::iter::repeat_with(Bucket::default).take(CLIENTS).collect(),
                });
                clients.of(client).take(limit, now)?;
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

impl Clients {
    fn of(&self, client: IpAddr) -> &Bucket {
        let client = match client.to_canonical() {
            IpAddr::V6(address) => {
                IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << (128 - IPV6_PREFIX))))
            }
            v4 => v4,
        };
        &self.buckets[self.hasher.hash_one(client) as usize % CLIENTS]
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
        RateLimit { requests: NonZeroU32::new(requests).unwrap(), per: Duration::from_secs(1), per_client }
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
            times.filter(|now| governor.take(&limits, ip("192.0.2.1"), *now).is_ok()).count()
        };
        let at_once = (0..50).filter(|_| governor.take(&limits, ip("192.0.2.1"), Timestamp::from_millis(5)).is_ok());
        assert_eq!(at_once.count(), 10);
        let wait = governor.take(&limits, ip("192.0.2.1"), Timestamp::from_millis(5)).unwrap_err();
        assert_eq!(wait, Duration::from_millis(100));
        // A hundred a second are asked for.
        assert!((99..=101).contains(&passed(6, 10_006, 10)), "ten seconds");
        assert_eq!(passed(60_000, 60_001, 1), 1, "it fills up again");
    }

    #[test]
    fn clients_are_limited_by_themselves_and_ipv6_by_its_network() {
        let governor = Governor::default();
        let limits = [limit(2, true)];
        let take = |client: &str| governor.take(&limits, ip(client), Timestamp::from_millis(1)).is_ok();
        assert!(take("192.0.2.1") && take("192.0.2.1") && !take("192.0.2.1"));
        assert!(take("192.0.2.2"), "another client");
        assert!(!take("::ffff:192.0.2.1"), "the same client");
        assert!(take("2001:db8::1") && take("2001:db8::2") && !take("2001:db8::3"), "one network");
        assert!(take("2001:db8:0:1::1"));
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
