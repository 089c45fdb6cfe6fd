//! Soft error averages of one backend's endpoints, pooled over all proxies: what one proxy learns the hard way, the others know
//! within 100 ms. DESIGN.md gives the figures: gain 0.05 an answer, fading over 2 s.

use std::time::Instant;

use trimtab_model::observation::EndpointKey;

use crate::keys::KeyMap;

/// How much one answer moves the average.
const GAIN: f64 = 0.05;
/// Time constant of the fading, in seconds: after this long without answers an average is down to 37 %.
const FADE_S: f64 = 2.0;
/// A move below this is not worth a push: with the error exponent 12 it changes a score by less than 4 %.
const NOTICEABLE: f64 = 0.003;
/// Below this an average is zero.
const NOTHING: f64 = 0.001;
/// Answers in one report that are believed; beyond, the average has long arrived at the report's share of failures.
const ANSWERS_MAX: u32 = 10_000;

#[derive(Debug, Clone, Copy)]
struct Average {
    value: f64,
    at: Instant,
}

impl Average {
    fn faded(&self, now: Instant) -> f64 {
        let age_s = now.saturating_duration_since(self.at).as_secs_f64();
        let value = self.value * (-age_s / FADE_S).exp();
        if value < NOTHING { 0.0 } else { value }
    }
}

/// Averages by endpoint, and what proxies were last told.
#[derive(Debug, Default)]
pub struct PooledErrors {
    averages: KeyMap<Average>,
    pushed: KeyMap<f64>,
}

impl PooledErrors {
    /// Takes in one proxy's outcomes: `answers` requests of which `failures` failed, in unknown order, taken as evenly spread.
    pub fn add(&mut self, key: EndpointKey, answers: u32, failures: u32, now: Instant) {
        let answers = answers.min(ANSWERS_MAX);
        if answers == 0 {
            return;
        }
        let share = (f64::from(failures) / f64::from(answers)).min(1.0);
        let kept = (1.0 - GAIN).powf(f64::from(answers));
        let average = self.averages.entry(key).or_insert(Average { value: 0.0, at: now });
        let value = average.faded(now) * kept + share * (1.0 - kept);
        *average = Average { value, at: now };
    }

    /// The average of one endpoint now, 0..=1.
    pub fn of(&self, key: EndpointKey, now: Instant) -> f64 {
        self.averages.get(&key).map_or(0.0, |average| average.faded(now))
    }

    /// Whether any average is still fading, or proxies still hold one that has faded.
    pub fn active(&self) -> bool {
        !self.averages.is_empty() || self.pushed.values().any(|&pushed| pushed != 0.0)
    }

    /// The table for endpoints in this order, if it differs noticeably from what was last pushed.
    pub fn table(&mut self, order: impl Iterator<Item = EndpointKey> + Clone, now: Instant) -> Option<Vec<f32>> {
        self.averages.retain(|_, average| average.faded(now) > 0.0);
        let moved = order.clone().any(|key| {
            let (new, old) = (self.of(key, now), self.pushed.get(&key).copied().unwrap_or(0.0));
            (new - old).abs() >= NOTICEABLE || (new == 0.0 && old != 0.0)
        });
        moved.then(|| self.push(order, now))
    }

    /// The table for endpoints in this order, changed or not: for a new order of endpoints. `None` where all are zero.
    pub fn whole_table(&mut self, order: impl Iterator<Item = EndpointKey>, now: Instant) -> Option<Vec<f32>> {
        let table = self.push(order, now);
        table.iter().any(|&error| error != 0.0).then_some(table)
    }

    fn push(&mut self, order: impl Iterator<Item = EndpointKey>, now: Instant) -> Vec<f32> {
        let values: Vec<(EndpointKey, f64)> = order.map(|key| (key, self.of(key, now))).collect();
        self.pushed = values.iter().copied().filter(|&(_, value)| value != 0.0).collect();
        values.into_iter().map(|(_, value)| value as f32).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const A: EndpointKey = EndpointKey(1);
    const B: EndpointKey = EndpointKey(2);

    fn start() -> Instant {
        crate::clock::now().instant
    }

    #[test]
    fn a_batch_moves_the_average_as_its_answers_one_by_one_would() {
        let now = start();
        let (mut batch, mut single) = (PooledErrors::default(), PooledErrors::default());
        batch.add(A, 40, 40, now);
        for _ in 0..40 {
            single.add(A, 1, 1, now);
        }
        assert!((batch.of(A, now) - single.of(A, now)).abs() < 1e-9);
        assert!((batch.of(A, now) - (1.0 - 0.95_f64.powi(40))).abs() < 1e-9);
    }

    #[test]
    fn it_fades_over_two_seconds_and_ends_at_zero() {
        let now = start();
        let mut errors = PooledErrors::default();
        errors.add(A, 1000, 1000, now);
        let later = errors.of(A, now + Duration::from_secs(2));
        assert!((later - (-1.0_f64).exp()).abs() < 0.01, "{later}");
        assert_eq!(errors.of(A, now + Duration::from_secs(60)), 0.0);
    }

    #[test]
    fn a_table_is_made_only_when_something_moved_and_a_last_time_for_zero() {
        let now = start();
        let mut errors = PooledErrors::default();
        assert_eq!(errors.table([A, B].into_iter(), now), None);
        errors.add(B, 10, 10, now);
        let table = errors.table([A, B].into_iter(), now).unwrap();
        assert_eq!(table[0], 0.0);
        assert!(table[1] > 0.3);
        assert_eq!(errors.table([A, B].into_iter(), now), None);
        let faded = now + Duration::from_secs(60);
        assert!(errors.active());
        assert_eq!(errors.table([A, B].into_iter(), faded), Some(vec![0.0, 0.0]));
        assert_eq!(errors.table([A, B].into_iter(), faded), None);
        assert!(!errors.active());
    }

    #[test]
    fn nonsense_counts_stay_within_bounds() {
        let now = start();
        let mut errors = PooledErrors::default();
        errors.add(A, 0, 5, now);
        assert_eq!(errors.of(A, now), 0.0);
        errors.add(A, 1, u32::MAX, now);
        errors.add(A, u32::MAX, u32::MAX, now);
        assert!(errors.of(A, now) <= 1.0);
    }
}
