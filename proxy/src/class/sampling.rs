//! Which requests are looked at to find out what kinds there are: all of them where there are few, and so many a second where there are
//! many, so that the cost of looking is bounded. Never waits: what does not fit the queue is lost.

use std::cell::RefCell;

use rand::{Rng, SeedableRng, rngs::SmallRng};
use tokio::sync::mpsc;

use crate::{config::ClassKey, time::Timestamp};

/// A worker looks at about so many requests a second.
const SAMPLES_PER_S: f32 = 200.0;
/// The share is settled anew after so many requests.
const WINDOW: u32 = 512;
/// Samples that wait for the finder at most, over all workers.
const QUEUE: usize = 4096;

/// A request on its way to the finder.
#[derive(Debug)]
pub struct ClassSample {
    /// Name of its backend.
    pub backend: String,
    /// What kind it is.
    pub kind: Kind,
    /// How long its answer took, at the endpoint.
    pub latency_ms: f32,
}

/// What kind a sampled request is.
#[derive(Debug)]
pub struct Kind {
    /// Its key.
    pub key: ClassKey,
    /// Its name.
    pub name: String,
    /// Requests that it stands for.
    pub weight: f32,
}

/// A queue for all workers.
pub fn queue() -> (mpsc::Sender<ClassSample>, mpsc::Receiver<ClassSample>) {
    mpsc::channel(QUEUE)
}

/// A worker's end.
#[derive(Debug)]
pub struct ClassSampler {
    queue: mpsc::Sender<ClassSample>,
    pace: RefCell<Pace>,
}

impl ClassSampler {
    /// For one worker.
    pub fn new(queue: mpsc::Sender<ClassSample>, seed: u64) -> Self {
        Self { queue, pace: RefCell::new(Pace::new(seed)) }
    }

    /// Whether to look at a request that comes now: if so, the number of requests that it stands for.
    #[inline]
    pub fn draw(&self, now: Timestamp) -> Option<f32> {
        self.pace.borrow_mut().draw(now)
    }

    /// A request that was drawn has been answered well.
    pub fn offer(&self, backend: &str, kind: Kind, latency_ms: f32) {
        // Lost samples only make the picture coarser.
        let _ = self.queue.try_send(ClassSample { backend: backend.to_owned(), kind, latency_ms });
    }
}

/// Draws at random with a share that follows the rate of requests.
#[derive(Debug)]
struct Pace {
    rng: SmallRng,
    share: f32,
    seen: u32,
    began: Option<Timestamp>,
}

impl Pace {
    fn new(seed: u64) -> Self {
        Self { rng: SmallRng::seed_from_u64(seed), share: 1.0, seen: 0, began: None }
    }

    #[inline]
    fn draw(&mut self, now: Timestamp) -> Option<f32> {
        let began = *self.began.get_or_insert(now);
        self.seen += 1;
        if self.seen >= WINDOW {
            let per_s = self.seen as f32 / now.since(began).as_secs_f32().max(1e-6);
            self.share = (SAMPLES_PER_S / per_s).min(1.0);
            (self.seen, self.began) = (0, Some(now));
        }
        (self.share >= 1.0 || self.rng.random::<f32>() < self.share).then(|| 1.0 / self.share)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Draws from so many requests a second for ten seconds: how many were drawn, and for how many they stand.
    fn run(per_s: u32) -> (usize, f32) {
        let mut pace = Pace::new(3);
        let at = |n: u32| Timestamp::from_millis(1_000) + Duration::from_secs_f64(f64::from(n) / f64::from(per_s));
        let drawn: Vec<f32> = (0..10 * per_s).filter_map(|n| pace.draw(at(n))).collect();
        (drawn.len(), drawn.iter().sum())
    }

    #[test]
    fn few_requests_are_all_looked_at_and_of_many_about_two_hundred_a_second() {
        assert_eq!(run(50), (500, 500.0));
        let (drawn, stand_for) = run(20_000);
        assert!((2_000..3_200).contains(&drawn), "{drawn}");
        assert!((stand_for / 200_000.0 - 1.0).abs() < 0.1, "{stand_for}");
    }

    #[test]
    fn a_full_queue_loses_samples_and_holds_nobody_up() {
        let (sender, mut receiver) = queue();
        let sampler = ClassSampler::new(sender, 1);
        for n in 0..2 * QUEUE as u64 {
            sampler.offer("b", Kind { key: ClassKey(n), name: String::new(), weight: 1.0 }, 1.0);
        }
        let mut kept = 0;
        while receiver.try_recv().is_ok() {
            kept += 1;
        }
        assert_eq!(kept, QUEUE);
    }
}
