//! The story that both worlds live through: which pods there are, what happens to them when, and how much load there is.
//! It is plain data made from a seed and a length, so both worlds get the very same one.

use std::ops::Range;
use std::time::Duration;

use super::arrivals::RateProfile;
use super::faults::{ColdStart, Faults};
use super::pod::PodSpec;
use super::service_time::ServiceTime;

/// Everything that happens.
#[derive(Debug, Clone)]
pub struct Script {
    /// The pods at the start, by slot; a replaced pod's successor takes over its slot.
    pub pods: Vec<PodSpec>,
    /// What is shown, in order.
    pub chapters: Vec<Chapter>,
    /// What happens, by time.
    pub acts: Vec<Act>,
    /// The load.
    pub profile: RateProfile,
    /// Seed of arrivals and service times.
    pub seed: u64,
    /// An answer within it is good.
    pub objective: Duration,
    /// How long a client waits for an answer.
    pub patience: Duration,
}

/// One part of the story, scored by itself.
#[derive(Debug, Clone)]
pub struct Chapter {
    /// Short, for tables.
    pub name: &'static str,
    /// What happens in it, in a sentence.
    pub what: &'static str,
    /// Requests due within it count for it; times since the start of the load.
    pub window: Range<Duration>,
}

/// Something that happens at one moment.
#[derive(Debug, Clone)]
pub struct Act {
    /// Since the start of the load.
    pub at: Duration,
    /// What.
    pub event: Event,
}

/// Something that happens to some pods.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Something goes wrong (or right again, with the default) with the pods in these slots.
    Fault {
        /// Which pods.
        slots: Vec<usize>,
        /// What they are like from now on.
        faults: Faults,
        /// For people.
        says: &'static str,
    },
    /// The pods in these slots are replaced: new ones start cold, the backends file names them instead, the old ones are
    /// given time to finish what they have.
    Replace {
        /// Which pods.
        slots: Vec<usize>,
        /// How cold the new ones start.
        cold_start: ColdStart,
    },
}

/// Speeds by slot: three generations of machines.
const SPEEDS: [f64; 12] = [1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 2.0, 4.0, 4.0, 4.0, 4.0];

/// Service time at speed 1, milliseconds. At speed 4 it is 20 ms: long against a timer's millisecond.
const SERVICE_MS_MEAN: f64 = 80.0;

/// Load of the ordinary chapters as a share of all pods' capacity. Who gives every pod the same reaches the limit of the slowest
/// pods at 12/28 = 0.43: a little beyond that, round robin is in trouble with more than half of the fleet idle.
pub const LOAD: f64 = 0.45;

/// Load of the burst.
pub const LOAD_BURST: f64 = 1.2;

/// Load between chapters, where queues drain and nothing counts.
const LOAD_LULL: f64 = 0.15;

/// Shortest story in which each chapter still has some requests to show.
pub const LENGTH_MIN: Duration = Duration::from_secs(15);

impl Script {
    /// The story told in `length`, with all randomness from `seed`.
    pub fn new(seed: u64, length: Duration) -> Self {
        let pods: Vec<PodSpec> = SPEEDS.iter().enumerate().map(|(slot, speed)| pod(seed, slot, *speed, 0)).collect();
        let capacity_rps: f64 = pods.iter().map(PodSpec::capacity_rps).sum();
        let mut teller = Teller {
            unit: length.max(LENGTH_MIN) / 90,
            now: Duration::ZERO,
            capacity_rps,
            profile: RateProfile::default(),
            chapters: Vec::new(),
            acts: Vec::new(),
        };
        // Connections open, averages settle.
        teller.lull(5.0, LOAD);
        teller.chapter("heterogeneous", "pods of three speeds (1x, 2x, 4x) under steady load", LOAD, |_| {});
        teller.chapter(
            "noisy neighbour",
            "a neighbour takes most of the CPU of two pods, then of two others",
            LOAD,
            |act| {
                act.fault(0.1, &[8, 5], Faults::slow(4.0), "a noisy neighbour leaves a quarter of the speed");
                act.fault(0.5, &[8, 5], Faults::default(), "the neighbour is gone");
                act.fault(0.5, &[10, 6], Faults::slow(4.0), "a noisy neighbour leaves a quarter of the speed");
                act.fault(1.0, &[10, 6], Faults::default(), "the neighbour is gone");
            },
        );
        teller.chapter("gray failure", "one pod answers 500 at once, and so looks like the fastest", LOAD, |act| {
            act.fault(0.0, &[7], Faults::gray(1.0), "fails every request at once");
            act.fault(1.0, &[7], Faults::default(), "works again");
        });
        teller.chapter(
            "cold start",
            "pods are replaced, two by two; the new ones start six times slower",
            LOAD,
            |act| {
                for (at, slots) in [(0.05, [9, 3]), (0.3, [11, 4]), (0.55, [6, 0])] {
                    act.replace(at, &slots, ColdStart { factor: 6.0, ramp_s: 0.4 * act.length.as_secs_f64() });
                }
            },
        );
        teller.chapter("burst", "load rises to 120 % of what all pods together can do", LOAD_BURST, |_| {});
        Self {
            pods,
            chapters: teller.chapters,
            acts: teller.acts,
            profile: teller.profile,
            seed,
            objective: Duration::from_millis(400),
            patience: Duration::from_secs(5),
        }
    }

    /// When the last request is due.
    pub fn length(&self) -> Duration {
        self.profile.length()
    }

    /// The chapter at `now`, and its number from 0.
    pub fn chapter_at(&self, now: Duration) -> Option<(usize, &Chapter)> {
        self.chapters.iter().enumerate().find(|(_, chapter)| chapter.window.contains(&now))
    }

    /// The windows of the chapters, for the recorder.
    pub fn windows(&self) -> Vec<Range<Duration>> {
        self.chapters.iter().map(|chapter| chapter.window.clone()).collect()
    }
}

/// The specification of the `generation`-th pod in a slot.
pub fn pod(seed: u64, slot: usize, speed: f64, generation: u32) -> PodSpec {
    let name = if generation == 0 { format!("pod-{}", slot + 1) } else { format!("pod-{}.{generation}", slot + 1) };
    PodSpec {
        name,
        workers: 3,
        queue_limit: 64,
        service: ServiceTime::Exponential { ms_mean: SERVICE_MS_MEAN },
        speed,
        // Far apart for neighbouring slots and generations (Weyl sequence with the golden ratio).
        seed: seed.wrapping_add((slot as u64 + 1 + 100 * u64::from(generation)).wrapping_mul(0x9E37_79B9_7F4A_7C15)),
        ..PodSpec::default()
    }
}

/// Tells the story forward in time.
struct Teller {
    /// A ninetieth of the whole: one second of the story as it is usually told.
    unit: Duration,
    now: Duration,
    capacity_rps: f64,
    profile: RateProfile,
    chapters: Vec<Chapter>,
    acts: Vec<Act>,
}

impl Teller {
    fn lull(&mut self, units: f64, load: f64) {
        let length = self.unit.mul_f64(units);
        self.profile = std::mem::take(&mut self.profile).then(load * self.capacity_rps, length);
        self.now += length;
    }

    fn chapter(&mut self, name: &'static str, what: &'static str, load: f64, tell: impl FnOnce(&mut Acts<'_>)) {
        let length = self.unit.mul_f64(15.0);
        let window = self.now..self.now + length;
        tell(&mut Acts { acts: &mut self.acts, start: self.now, length });
        self.chapters.push(Chapter { name, what, window });
        self.lull(15.0, load);
        self.lull(2.0, LOAD_LULL);
    }
}

/// What happens within one chapter.
struct Acts<'a> {
    acts: &'a mut Vec<Act>,
    start: Duration,
    length: Duration,
}

impl Acts<'_> {
    /// `at` is a share of the chapter's length.
    fn fault(&mut self, at: f64, slots: &[usize], faults: Faults, says: &'static str) {
        self.push(at, Event::Fault { slots: slots.to_vec(), faults, says });
    }

    fn replace(&mut self, at: f64, slots: &[usize], cold_start: ColdStart) {
        self.push(at, Event::Replace { slots: slots.to_vec(), cold_start });
    }

    fn push(&mut self, at: f64, event: Event) {
        self.acts.push(Act { at: self.start + self.length.mul_f64(at), event });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script() -> Script {
        Script::new(1, Duration::from_secs(90))
    }

    #[test]
    fn the_story_takes_as_long_as_asked() {
        for length_s in [15, 45, 90, 300] {
            let length = Duration::from_secs(length_s);
            let told = Script::new(1, length).length();
            assert!(told.abs_diff(length) < Duration::from_millis(10), "{told:?} instead of {length:?}");
        }
    }

    #[test]
    fn things_happen_in_order_and_name_pods_that_exist() {
        let script = script();
        let times: Vec<_> = script.acts.iter().map(|act| act.at).collect();
        assert!(times.is_sorted(), "{times:?}");
        for act in &script.acts {
            let (Event::Fault { slots, .. } | Event::Replace { slots, .. }) = &act.event;
            assert!(slots.iter().all(|slot| *slot < script.pods.len()), "{act:?}");
        }
    }

    #[test]
    fn every_fault_is_mended_by_the_end_of_its_chapter() {
        let script = script();
        for chapter in &script.chapters {
            let mut faulty = vec![false; script.pods.len()];
            for act in script.acts.iter().filter(|act| act.at <= chapter.window.end) {
                if let Event::Fault { slots, faults, .. } = &act.event {
                    for slot in slots {
                        faulty[*slot] = *faults != Faults::default();
                    }
                }
            }
            assert!(!faulty.contains(&true), "after {:?}: {faulty:?}", chapter.name);
        }
    }

    #[test]
    fn pods_do_not_share_their_randomness() {
        let mut seeds: Vec<_> = (0..12).flat_map(|slot| [0, 1, 2].map(|nth| pod(1, slot, 1.0, nth).seed)).collect();
        seeds.sort_unstable();
        seeds.dedup();
        assert_eq!(seeds.len(), 36);
    }

    #[test]
    fn an_equal_share_is_a_little_too_much_for_the_slowest_pods_and_for_no_others() {
        let script = script();
        let capacities: Vec<f64> = script.pods.iter().map(PodSpec::capacity_rps).collect();
        let share_rps = LOAD * capacities.iter().sum::<f64>() / 12.0;
        let utilization = |slot: usize| share_rps / capacities[slot];
        assert!((1.0..1.1).contains(&utilization(0)), "slowest: {}", utilization(0));
        assert!(utilization(4) < 0.6, "next: {}", utilization(4));
    }
}
