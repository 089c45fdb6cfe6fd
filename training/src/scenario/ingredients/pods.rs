//! Pods, equal or not, and the proxies before them.

use rand::{Rng, rngs::SmallRng};
use rand_distr::{Distribution, StandardNormal};

use crate::simulator::endpoint::{Discipline, EndpointSpec};

/// Requests that may be inside a pod, for each of its slots.
const ROOM_PER_SLOT: u32 = 128;
/// Services of more pods than this are made of smaller ones.
const MANY: usize = 64;
const SLOTS_MAX_OF_MANY: u32 = 4;

/// What the pods of a service are like.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pods {
    /// How requests share a pod.
    pub discipline: Discipline,
    /// Least and most slots of a pod.
    pub slots: (u32, u32),
    /// Whether each has slots and a speed (1, 2 or 4) of its own.
    pub unequal: bool,
}

impl Pods {
    /// Draws so many.
    pub fn draw(&self, count: usize, rng: &mut SmallRng) -> Vec<EndpointSpec> {
        let (least, most) = self.slots;
        let most = if count > MANY { most.min(SLOTS_MAX_OF_MANY).max(least) } else { most };
        let common = rng.random_range(least..=most);
        (0..count)
            .map(|_| {
                let slots = if self.unequal { rng.random_range(least..=most) } else { common };
                let speed = if self.unequal { [1.0, 2.0, 4.0][rng.random_range(0..3)] } else { 1.0 };
                EndpointSpec { discipline: self.discipline, slots, room: ROOM_PER_SLOT * slots, speed }
            })
            .collect()
    }
}

/// Each proxy's share of the requests: equal, or log-normal with σ = 0.7 (the largest of four has about 45 %).
pub fn shares(proxies: usize, unequal: bool, rng: &mut SmallRng) -> Vec<f64> {
    let sizes: Vec<f64> = (0..proxies)
        .map(|_| {
            let normal: f64 = StandardNormal.sample(rng);
            if unequal { (0.7 * normal).exp() } else { 1.0 }
        })
        .collect();
    let sum: f64 = sizes.iter().sum();
    sizes.into_iter().map(|size| size / sum).collect()
}
