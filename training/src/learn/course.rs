//! Which scenarios are learned from, generation by generation, and which are kept to choose by.
//!
//! Every training family is met equally often with 1, 4 and 16 proxies: cards of (family, proxies) are dealt from a deck that is
//! shuffled anew when it is used up. The rest of a lesson is drawn: the seed, the number of endpoints, and how well the
//! controller sees, because pods that are scraped every 5 s, or never, must not be unfamiliar to what is learned here.

use rand::{Rng, rngs::SmallRng, seq::SliceRandom};

use crate::{
    scenario::{
        Family, Scenario, Setting,
        seeds::{self, NotTrainable, assert_trainable},
    },
    simulator::{
        random::{Purpose, stream},
        time::{MICROSECOND, SECOND},
    },
};

/// Numbers of proxies.
pub const PROXIES: [usize; 3] = [1, 4, 16];
/// Numbers of endpoints that results are told for.
pub const ENDPOINTS: [usize; 2] = [8, 32];
/// Requests of a lesson: a 99th percentile of so many is known to about 3 %, and candidates are compared on the same ones.
const LESSON_REQUESTS: u32 = 30_000;
/// However many they are, troubles of some seconds must play out.
const LESSON_NS_MIN: u64 = 6 * SECOND;
/// Seeds of lessons are of their own stream of the course's randomness.
const DECKS: u64 = 1 << 32;

/// One scenario to learn from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Lesson {
    /// Its family.
    pub family: Family,
    /// Its setting.
    pub setting: Setting,
    /// How the world around it differs from the family's; nothing for the family's own.
    pub surroundings: Option<Surroundings>,
    /// Requests after which no more are measured; nothing: the setting's seconds hold.
    pub requests_max: Option<u32>,
}

/// How well the controller sees, and how far everything is apart.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Surroundings {
    scraped: bool,
    scrape_interval_ns: u64,
    one_way_ns: u64,
}

impl Lesson {
    /// The scenario.
    ///
    /// # Errors
    /// If nothing may be learned from it.
    pub fn scenario(&self) -> Result<Scenario, NotTrainable> {
        assert_trainable(self.family, self.setting.seed)?;
        let mut scenario = self.family.scenario(&self.setting);
        if let Some(surroundings) = self.surroundings {
            scenario.telemetry.scraped = surroundings.scraped;
            scenario.telemetry.scrape_interval_ns = surroundings.scrape_interval_ns;
            scenario.one_way_ns = surroundings.one_way_ns;
        }
        if let Some(requests) = self.requests_max {
            let measured_ns = scenario.measured_ns.end - scenario.measured_ns.start;
            let enough_ns = ((f64::from(requests) / scenario.rate_rps * SECOND as f64) as u64).max(LESSON_NS_MIN);
            scenario.measured_ns.end = scenario.measured_ns.start + enough_ns.min(measured_ns);
        }
        Ok(scenario)
    }
}

/// A course of lessons, all from one seed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Course {
    /// The seed.
    pub seed: u64,
    /// Measured seconds of each lesson; `None`: as the family says.
    pub seconds: Option<u64>,
}

impl Course {
    /// Validation lessons of one seed: every training family with 1, 4 and 16 proxies and 8 and 32 endpoints.
    pub const SEED_LESSONS: usize = Family::TRAINING.len() * PROXIES.len() * ENDPOINTS.len();

    /// The lessons of one generation.
    pub fn lessons(&self, generation: u64, count: usize) -> Vec<Lesson> {
        let mut rng = stream(self.seed, Purpose::Learning, generation);
        let first = generation * count as u64;
        (first..first + count as u64)
            .map(|number| {
                let (family, proxies) = self.card(number);
                self.lesson(family, proxies, endpoints(&mut rng), &mut rng)
            })
            .collect()
    }

    /// Lessons from which the distribution of the policy's input is measured: every card with small, usual and large
    /// numbers of endpoints in turn, so that none of them is a rare value. So many of them.
    pub fn survey(&self, count: usize) -> Vec<Lesson> {
        const SIZES: [usize; 8] = [8, 3, 32, 100, 8, 2, 32, 200];
        let mut rng = stream(self.seed, Purpose::Learning, DECKS - 1);
        let deck = deck();
        (0..count)
            .map(|number| {
                let (family, proxies) = deck[number % deck.len()];
                // One further in each round: each card meets each size.
                self.lesson(family, proxies, SIZES[(number + number / deck.len()) % SIZES.len()], &mut rng)
            })
            .collect()
    }

    /// What policies are chosen by, as the families are: [`SEED_LESSONS`](Self::SEED_LESSONS) for each seed from number
    /// `first` on (of those for validation), so many of them.
    pub fn validation(&self, first: u64, count: usize) -> Vec<Lesson> {
        let seeds = (seeds::VALIDATION.start + first..seeds::VALIDATION.end).take(count.div_ceil(Self::SEED_LESSONS));
        let mut lessons = Vec::new();
        for seed in seeds {
            for (family, proxies) in deck() {
                for endpoints in ENDPOINTS {
                    let setting = Setting { seconds: self.seconds, ..Setting::new(seed, proxies, endpoints) };
                    lessons.push(Lesson { family, setting, surroundings: None, requests_max: None });
                }
            }
        }
        lessons.truncate(count);
        lessons
    }

    /// The card with this number in the endless row of shuffled decks.
    fn card(&self, number: u64) -> (Family, usize) {
        let mut deck = deck();
        let cards = deck.len() as u64;
        deck.shuffle(&mut stream(self.seed, Purpose::Learning, DECKS + number / cards));
        deck[(number % cards) as usize]
    }

    fn lesson(&self, family: Family, proxies: usize, endpoints: usize, rng: &mut SmallRng) -> Lesson {
        let seed = rng.random_range(seeds::TRAINING);
        let setting = Setting { seconds: self.seconds, ..Setting::new(seed, proxies, endpoints) };
        // Half of all lessons are as their family is.
        let varied = rng.random_bool(0.5);
        let drawn = Surroundings {
            scraped: rng.random_bool(0.6),
            scrape_interval_ns: (log_uniform(rng, 0.5, 5.0) * SECOND as f64) as u64,
            one_way_ns: (log_uniform(rng, 50.0, 1_000.0) * MICROSECOND as f64) as u64,
        };
        Lesson { family, setting, surroundings: varied.then_some(drawn), requests_max: Some(LESSON_REQUESTS) }
    }
}

/// All (family, proxies).
fn deck() -> Vec<(Family, usize)> {
    Family::TRAINING.into_iter().flat_map(|family| PROXIES.map(|proxies| (family, proxies))).collect()
}

/// Mostly few, as they cost least; often what results are told for; sometimes many.
fn endpoints(rng: &mut SmallRng) -> usize {
    match rng.random_range(0..100) {
        0..50 => ENDPOINTS[0],
        50..70 => ENDPOINTS[1],
        70..98 => log_uniform(rng, 2.0, 64.0) as usize,
        _ => 200,
    }
}

fn log_uniform(rng: &mut SmallRng, from: f64, to: f64) -> f64 {
    rng.random_range(from.ln()..to.ln()).exp()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const COURSE: Course = Course { seed: 3, seconds: Some(1) };

    #[test]
    fn every_family_is_met_equally_often_with_each_number_of_proxies() {
        let mut met: BTreeMap<(Family, usize), usize> = BTreeMap::new();
        for lesson in (0..42).flat_map(|generation| COURSE.lessons(generation, 10)) {
            *met.entry((lesson.family, lesson.setting.proxies)).or_default() += 1;
        }
        assert_eq!(met.len(), 42);
        assert!(met.values().all(|times| *times == 10), "{met:?}");
    }

    #[test]
    fn all_lessons_may_be_learned_from_and_none_is_of_another_generation() {
        let lessons = [
            COURSE.lessons(0, 42),
            COURSE.lessons(1, 42),
            COURSE.survey(42),
            COURSE.validation(0, Course::SEED_LESSONS),
        ]
        .concat();
        assert!(lessons.iter().all(|lesson| lesson.scenario().is_ok_and(|scenario| scenario.check().is_ok())));
        assert_eq!(COURSE.lessons(7, 12), COURSE.lessons(7, 12));
        assert_ne!(COURSE.lessons(7, 12), COURSE.lessons(8, 12));
        assert_ne!(COURSE.lessons(7, 12), Course { seed: 4, ..COURSE }.lessons(7, 12));
    }

    #[test]
    fn what_is_validated_on_is_never_trained_on() {
        let validation = COURSE.validation(0, 2 * Course::SEED_LESSONS);
        assert_eq!(validation.len(), 2 * Course::SEED_LESSONS);
        assert!(validation.iter().all(|lesson| seeds::VALIDATION.contains(&lesson.setting.seed)));
        let trained = (0..50).flat_map(|generation| COURSE.lessons(generation, 12));
        assert!(trained.into_iter().all(|lesson| seeds::TRAINING.contains(&lesson.setting.seed)));
    }
}
