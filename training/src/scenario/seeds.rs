//! Which seeds are for what. Whatever is trained, tuned or selected is told on seeds that it has never seen, and on families
//! that it has never seen: [`Family::Mixed`], [`Family::Deploy`], and swarms with seeds from [`TESTING`].

use std::ops::Range;

use super::Family;

/// For training and tuning.
pub const TRAINING: Range<u64> = 0..1_000;
/// For choosing between what was trained or tuned.
pub const VALIDATION: Range<u64> = 1_000..10_000;
/// Worlds in which estimates from recordings are held against the truth (`--example estimators`); nothing is trained, tuned or told on them.
pub const ESTIMATES: Range<u64> = 20_000..30_000;
/// For services whose recordings are refined from, and in which estimates of policies are held against the truth: nothing else is trained,
/// tuned or told on them.
pub const WORLDS: Range<u64> = 100_000..200_000;
/// For telling results, and for nothing else.
pub const TESTING: Range<u64> = 1_000_000..u64::MAX;

/// Why nothing may be learned from a scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotTrainable {
    /// Its family is kept for tests.
    #[error("family {} is for testing only: nothing is trained, tuned or selected on it", .0.name())]
    Family(Family),
    /// Its seed is kept for tests.
    #[error("seed {0} is not for training (0 to 999) or validation (1000 to 9999)")]
    Seed(u64),
}

/// Whether one may learn from this family with this seed, be it by training, tuning or selecting. Every learner asks this
/// before it simulates anything.
///
/// # Errors
/// Says what is kept for tests: the family or the seed.
pub fn assert_trainable(family: Family, seed: u64) -> Result<(), NotTrainable> {
    match family {
        Family::Mixed | Family::Deploy => Err(NotTrainable::Family(family)),
        _ if TRAINING.contains(&seed) || VALIDATION.contains(&seed) => Ok(()),
        _ => Err(NotTrainable::Seed(seed)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_for_tests_is_refused_with_the_reason() {
        for family in Family::TRAINING {
            assert_eq!(assert_trainable(family, TRAINING.end - 1), Ok(()));
            assert_eq!(assert_trainable(family, VALIDATION.start), Ok(()));
            assert_eq!(assert_trainable(family, TESTING.start), Err(NotTrainable::Seed(TESTING.start)));
            assert!(ESTIMATES.step_by(997).all(|seed| assert_trainable(family, seed).is_err()));
            assert!(WORLDS.chain([WORLDS.end - 1]).step_by(997).all(|seed| assert_trainable(family, seed).is_err()));
        }
        assert_eq!(assert_trainable(Family::Mixed, 1), Err(NotTrainable::Family(Family::Mixed)));
        assert_eq!(assert_trainable(Family::Deploy, 1), Err(NotTrainable::Family(Family::Deploy)));
        assert_eq!(assert_trainable(Family::Swarm, 999), Ok(()));
        assert!(assert_trainable(Family::Swarm, 1_000_000).is_err());
    }
}
