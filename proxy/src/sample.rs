//! Sampled requests on their way from the workers to the controller: a bounded queue that drops, and counts what it dropped.

use std::{
    cell::RefCell,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
};

use rand::{Rng, SeedableRng, rngs::SmallRng};
use tokio::sync::mpsc;

use crate::api::v1::RequestSample;

/// Samples that wait for the controller at most.
const QUEUE: usize = 8192;
/// So many requests a second are sampled at least, if there are as many: a quiet service tells as much as a busy one then, at no cost to speak of.
pub const PER_S_MIN: f64 = 100.0;
/// And so many at most: more tell next to nothing more, and each costs as much as the last.
pub const PER_S_MAX: f64 = 1000.0;

/// What workers and the sender of samples share.
#[derive(Debug, Default)]
pub struct Sampling {
    /// Share of requests to sample, an f32 in bits.
    rate: AtomicU32,
    dropped: AtomicU64,
}

impl Sampling {
    /// Samples this share of the requests from now on; 0 if it is no share.
    pub fn set_rate(&self, rate: f32) {
        let rate = if rate.is_finite() { rate.clamp(0.0, 1.0) } else { 0.0 };
        self.rate.store(rate.to_bits(), Relaxed);
    }

    /// Samples the share that is wished for of so many requests a second, within [`PER_S_MIN`] and [`PER_S_MAX`]; nothing where nothing is wished for.
    pub fn adapt(&self, wished: f32, requests_per_s: f64) {
        let share_of = |per_s: f64| (per_s / requests_per_s.max(per_s)) as f32;
        self.set_rate(if wished > 0.0 { wished.clamp(share_of(PER_S_MIN), share_of(PER_S_MAX)) } else { 0.0 });
    }

    /// Samples that were lost since the previous call.
    pub fn take_dropped(&self) -> u64 {
        self.dropped.swap(0, Relaxed)
    }
}

/// A worker's end.
#[derive(Debug)]
pub struct Sampler {
    sampling: Arc<Sampling>,
    queue: mpsc::Sender<RequestSample>,
    rng: RefCell<SmallRng>,
}

/// A queue for all workers.
pub fn queue() -> (mpsc::Sender<RequestSample>, mpsc::Receiver<RequestSample>) {
    mpsc::channel(QUEUE)
}

impl Sampler {
    /// For one worker.
    pub fn new(sampling: Arc<Sampling>, queue: mpsc::Sender<RequestSample>, seed: u64) -> Self {
        Self { sampling, queue, rng: RefCell::new(SmallRng::seed_from_u64(seed)) }
    }

    /// A request is over; `sample` describes it if it is sampled. Never waits.
    pub fn offer(&self, sample: impl FnOnce() -> RequestSample) {
        let rate = f32::from_bits(self.sampling.rate.load(Relaxed));
        if rate <= 0.0 || self.rng.borrow_mut().random::<f32>() >= rate {
            return;
        }
        if self.queue.try_send(sample()).is_err() {
            self.sampling.dropped.fetch_add(1, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_sampled_between_two_rates() {
        let share = |wished: f32, requests_per_s: f64| {
            let sampling = Sampling::default();
            sampling.adapt(wished, requests_per_s);
            f32::from_bits(sampling.rate.load(Relaxed))
        };
        assert_eq!(share(0.05, 10.0), 1.0);
        assert_eq!(share(0.05, 1000.0), 0.1);
        assert_eq!(share(0.05, 10_000.0), 0.05);
        assert_eq!(share(0.05, 100_000.0), 0.01);
        assert_eq!(share(1.0, 500.0), 1.0);
        assert_eq!((share(0.0, 10.0), share(0.0, 1e9)), (0.0, 0.0));
    }
}
