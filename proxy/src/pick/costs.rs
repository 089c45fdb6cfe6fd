//! What requests of each class cost at each endpoint, laid out for picking, and what follows from it and from the counts in flight: how long
//! *this* request would wait and take at an endpoint.

use std::sync::Arc;

use crate::{
    config::{ClassKey, ClassTable},
    load::{CLASSES_MAX, RequestClass},
};

/// Costs are kept within this factor of the mean one, and factors of an endpoint within this of 1: keeps scores finite whatever is pushed.
const RATIO_MAX: f32 = 1e4;

/// Class costs of one backend. Immutable; shared by tables that agree on it.
#[derive(Debug, Clone, PartialEq)]
pub struct Costs {
    /// By class number; class 0 has no key.
    keys: [Option<ClassKey>; CLASSES_MAX],
    names: [Arc<str>; CLASSES_MAX],
    /// Cost of each class at the average endpoint over that of the mean request.
    relative: [f32; CLASSES_MAX],
    /// Share of the requests that each class is.
    share: [f32; CLASSES_MAX],
    /// Share of the concurrency limit that each class may fill at least.
    priority: [f32; CLASSES_MAX],
    /// Expected share of what is in flight somewhere that each class is.
    mix: [f32; CLASSES_MAX],
    /// Tells numberings apart.
    numbering: u64,
    /// Cost of the mean request at the average endpoint.
    mean_ms: f32,
    /// Endpoint-major: cost of a class at an endpoint over that of the mean request at the average one.
    at: Box<[[f32; CLASSES_MAX]]>,
    /// One an endpoint; 0: of none is it known.
    slots: Box<[f32]>,
}

impl Costs {
    /// From a table for so many endpoints.
    pub fn new(table: &ClassTable, endpoints: usize) -> Self {
        let listed_share: f32 = table.classes.iter().map(|class| class.share).sum();
        let other_share = (1.0 - listed_share).max(0.0);
        let weight = (listed_share + other_share).max(1e-6);
        let mean_ms = (table.classes.iter().map(|class| class.share * class.cost_ms).sum::<f32>()
            + other_share * table.other_cost_ms)
            / weight;
        let mut costs = Self {
            keys: [None; CLASSES_MAX],
            names: std::array::from_fn(|_| Arc::from("")),
            relative: [table.other_cost_ms / mean_ms; CLASSES_MAX],
            share: [0.0; CLASSES_MAX],
            priority: [0.0; CLASSES_MAX],
            mix: [0.0; CLASSES_MAX],
            numbering: numbering(table),
            mean_ms,
            at: Box::default(),
            slots: if table.slots.is_empty() {
                vec![0.0; endpoints].into()
            } else {
                filled(table.slots.iter().copied(), table.slots.len() / 2 + 1)
            },
        };
        costs.share[0] = other_share / weight;
        for class in &table.classes {
            let number = RequestClass(class.number).index();
            costs.keys[number] = Some(class.key);
            costs.names[number] = Arc::from(class.name.as_str());
            costs.relative[number] = (class.cost_ms / mean_ms).clamp(1.0 / RATIO_MAX, RATIO_MAX);
            costs.share[number] = class.share / weight;
            costs.priority[number] = class.priority;
        }
        // A request stays for its own time and for a wait that is much the same for all.
        let stay: [f32; CLASSES_MAX] = std::array::from_fn(|class| costs.share[class] * (1.0 + costs.relative[class]));
        let total = stay.iter().sum::<f32>().max(1e-6);
        costs.mix = stay.map(|stay| stay / total);
        let width = table.classes.len() + 1;
        costs.at = (0..endpoints)
            .map(|endpoint| {
                let mut row = costs.relative;
                if let Some(factors) = table.factors.get(endpoint * width..(endpoint + 1) * width) {
                    let mut apply = |number: usize, factor: f32| {
                        row[number] = (row[number] * factor).clamp(1.0 / RATIO_MAX, RATIO_MAX);
                    };
                    apply(0, factors[0]);
                    for (class, factor) in table.classes.iter().zip(&factors[1..]) {
                        apply(RequestClass(class.number).index(), *factor);
                    }
                }
                row
            })
            .collect();
        costs
    }

    /// The same for another list of endpoints: `origin` tells where each was before; those that are new are average ones of unknown slots.
    #[must_use]
    pub fn for_endpoints(&self, origin: impl Iterator<Item = Option<usize>> + Clone) -> Self {
        Self {
            at: origin.clone().map(|before| before.map_or(self.relative, |index| self.at[index])).collect(),
            slots: filled(origin.map(|before| before.map_or(0.0, |index| self.slots[index])), 1),
            ..self.clone()
        }
    }

    /// The class with this key; 0 if it has none of its own.
    #[inline]
    pub fn class_of(&self, key: ClassKey) -> RequestClass {
        let number = self.keys.iter().position(|other| *other == Some(key)).unwrap_or(0);
        RequestClass(number as u8)
    }

    /// Which class a number stands for.
    pub fn key(&self, class: RequestClass) -> Option<ClassKey> {
        self.keys[class.index()]
    }

    /// Its name, for people.
    pub fn name(&self, class: RequestClass) -> &str {
        &self.names[class.index()]
    }

    /// The same in two proxies if their numbers of classes stand for the same classes.
    pub fn numbering(&self) -> u64 {
        self.numbering
    }

    /// Its cost at the average endpoint, in milliseconds.
    pub fn cost_ms(&self, class: RequestClass) -> f32 {
        self.relative[class.index()] * self.mean_ms
    }

    /// Cost of the mean request at the average endpoint, in milliseconds.
    pub fn mean_ms(&self) -> f32 {
        self.mean_ms
    }

    /// Its share of the requests, 0..=1.
    pub fn share(&self, class: RequestClass) -> f32 {
        self.share[class.index()]
    }

    /// Share of the concurrency limit that the class may fill whatever it costs, 0..=1.
    pub fn priority(&self, class: RequestClass) -> f32 {
        self.priority[class.index()]
    }

    /// Cost of a request of this class at an endpoint over that of the mean request at the average endpoint.
    #[inline]
    pub fn at(&self, endpoint: usize, class: RequestClass) -> f32 {
        self.at[endpoint][class.index()]
    }

    /// Cost of a request of this class at the average endpoint over that of the mean request.
    #[inline]
    pub(crate) fn relative(&self, class: RequestClass) -> f32 {
        self.relative[class.index()]
    }

    /// Requests that an endpoint serves at once; 0: unknown.
    #[inline]
    pub fn slots(&self, endpoint: usize) -> f32 {
        self.slots[endpoint]
    }

    /// Expected share of each class in what is in flight somewhere.
    #[inline]
    pub(crate) fn mix(&self) -> &[f32; CLASSES_MAX] {
        &self.mix
    }

    /// Costs of all classes at an endpoint.
    #[inline]
    pub(crate) fn row(&self, endpoint: usize) -> &[f32; CLASSES_MAX] {
        &self.at[endpoint]
    }
}

/// Requests in flight at an endpoint: how many of which cost, classes that have none left out.
#[derive(Debug, Default)]
pub struct Queue {
    counts: [f32; CLASSES_MAX],
    costs: [f32; CLASSES_MAX],
    len: usize,
    total: f32,
    work: f32,
}

impl Queue {
    /// So many more that cost so much each. At most once a class.
    #[inline]
    pub fn add(&mut self, count: f32, cost: f32) {
        if count > 0.0 && self.len < CLASSES_MAX {
            self.counts[self.len] = count;
            self.costs[self.len] = cost;
            self.len += 1;
            self.total += count;
            self.work += count * cost;
        }
    }

    #[inline]
    fn entries(&self) -> impl Iterator<Item = (f32, f32)> {
        self.counts[..self.len].iter().copied().zip(self.costs[..self.len].iter().copied())
    }

    /// What all of them cost together.
    #[inline]
    pub fn work(&self) -> f32 {
        self.work
    }

    /// How long a request waits for one of `slots` where they are served first come, first served: the `y` that solves
    /// `Σ count · min(cost, y) = slots · y`; 0 while a slot is free. A heavy request ahead delays as long as the others take to pass by it, not
    /// as long as it takes itself.
    #[inline]
    pub fn wait(&self, slots: f32) -> f32 {
        if self.total < slots {
            return 0.0;
        }
        // The left side less the right one is concave in y and 0 at 0, so Newton's method from the right of its other root comes down to it
        // in at most one step a class. With all requests counted whole y = work / slots, which is to the right.
        let mut y = self.work / slots;
        for _ in 0..self.len {
            let (mut whole, mut longer) = (0.0, 0.0);
            for (count, cost) in self.entries() {
                if cost <= y { whole += count * cost } else { longer += count }
            }
            let next = whole / (slots - longer);
            if longer == 0.0 || longer >= slots || next >= y {
                break;
            }
            y = next;
        }
        y
    }
}

/// An endpoint that has not told is taken for the median of those that have: pods of a service are mostly alike. Where fewer than `enough` have,
/// nothing is taken for known: the parameters that the controller sends go with that (it asks for more than half, as here).
fn filled(slots: impl Iterator<Item = f32>, enough: usize) -> Box<[f32]> {
    let mut slots: Box<[f32]> = slots.collect();
    let mut known: Vec<f32> = slots.iter().copied().filter(|slots| *slots > 0.0).collect();
    known.sort_unstable_by(f32::total_cmp);
    if known.len() < enough {
        slots.fill(0.0);
    } else if let Some(median) = known.get(known.len() / 2) {
        slots.iter_mut().filter(|slots| **slots <= 0.0).for_each(|slots| *slots = *median);
    }
    slots
}

/// FNV-1a over numbers and keys in the order of the numbers.
fn numbering(table: &ClassTable) -> u64 {
    let mut pairs: Vec<(u8, ClassKey)> = table.classes.iter().map(|class| (class.number, class.key)).collect();
    pairs.sort_unstable();
    let bytes = pairs.iter().flat_map(|(number, key)| std::iter::once(*number).chain(key.0.to_le_bytes()));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn queue(requests: &[(f32, f32)]) -> Queue {
        let mut queue = Queue::default();
        requests.iter().for_each(|(count, cost)| queue.add(*count, *cost));
        queue
    }

    /// The largest y with Σ count · min(cost, y) ≥ slots · y, by bisection.
    fn slow_wait(requests: &[(f32, f32)], slots: f32) -> f64 {
        let surplus = |y: f64| {
            let served: f64 = requests.iter().map(|(n, cost)| f64::from(*n) * f64::from(*cost).min(y)).sum();
            served - f64::from(slots) * y
        };
        if requests.iter().map(|(count, _)| count).sum::<f32>() < slots {
            return 0.0;
        }
        let (mut low, mut high) = (0.0, 1e9);
        for _ in 0..200 {
            let middle = (low + high) / 2.0;
            if surplus(middle) >= 0.0 { low = middle } else { high = middle }
        }
        low
    }

    #[test]
    fn a_free_slot_means_no_wait_and_a_heavy_request_is_passed_by() {
        assert_eq!(queue(&[]).wait(1.0), 0.0);
        assert_eq!(queue(&[(1.0, 100.0)]).wait(2.0), 0.0);
        assert_eq!(queue(&[(3.0, 10.0)]).wait(1.0), 30.0);
        // One slot is held by the heavy one; six light ones pass through the other.
        assert_eq!(queue(&[(1.0, 1000.0), (6.0, 2.0)]).wait(2.0), 12.0);
    }

    fn table(classes: &[(u8, f32, f32)]) -> ClassTable {
        ClassTable {
            backend: "b".into(),
            generation: 1,
            classes: classes
                .iter()
                .map(|&(number, cost_ms, share)| crate::config::ClassCost {
                    key: ClassKey(u64::from(number) * 100),
                    number,
                    name: format!("class {number}"),
                    cost_ms,
                    share,
                    priority: if number == 9 { 1.0 } else { 0.0 },
                })
                .collect(),
            other_cost_ms: 10.0,
            factors: Vec::new(),
            slots: Vec::new(),
        }
    }

    #[test]
    fn costs_are_told_in_units_of_the_mean_request_and_factors_go_with_their_class() {
        let mut table = table(&[(3, 1.0, 0.5), (1, 19.0, 0.5)]);
        table.factors = vec![1.0, 1.0, 1.0, 1.0, 2.0, 0.5];
        table.slots = vec![4.0, 4.0];
        let costs = Costs::new(&table, 2);
        assert_eq!(costs.class_of(ClassKey(300)), RequestClass(3));
        assert_eq!(costs.class_of(ClassKey(7)), RequestClass(0));
        assert_eq!((costs.at(0, RequestClass(3)), costs.at(1, RequestClass(3))), (0.1, 0.2));
        assert_eq!((costs.at(0, RequestClass(1)), costs.at(1, RequestClass(1))), (1.9, 0.95));
        assert_eq!((costs.cost_ms(RequestClass(1)), costs.slots(0), costs.slots(1)), (19.0, 4.0, 4.0));
        let moved = costs.for_endpoints([None, Some(0), Some(1)].into_iter());
        assert_eq!(
            (moved.slots(0), Costs::new(&ClassTable { slots: vec![0.0; 2], ..table.clone() }, 2).slots(1)),
            (4.0, 0.0)
        );
        let half = ClassTable { slots: vec![4.0, 0.0], ..table.clone() };
        let most = ClassTable { slots: vec![4.0, 4.0, 0.0], factors: Vec::new(), ..table };
        assert_eq!((Costs::new(&half, 2).slots(0), Costs::new(&most, 3).slots(2)), (0.0, 4.0));
        assert_eq!((moved.at(0, RequestClass(1)), moved.at(2, RequestClass(1))), (1.9, 0.95));
    }

    #[test]
    fn two_tables_number_alike_if_numbers_stand_for_the_same_classes() {
        let numbering = |classes: &[(u8, f32, f32)]| Costs::new(&table(classes), 1).numbering();
        assert_eq!(numbering(&[(1, 1.0, 0.5), (2, 2.0, 0.5)]), numbering(&[(2, 7.0, 0.1), (1, 3.0, 0.2)]));
        assert_ne!(numbering(&[(1, 1.0, 0.5), (2, 2.0, 0.5)]), numbering(&[(1, 1.0, 0.5), (3, 2.0, 0.5)]));
    }

    proptest! {
        #[test]
        fn the_wait_is_that_of_its_equation(
            requests in prop::collection::vec((0.1f32..30.0, 0.01f32..100.0), 1..CLASSES_MAX),
            slots in 1u32..20,
        ) {
            let slow = slow_wait(&requests, slots as f32);
            let fast = f64::from(queue(&requests).wait(slots as f32));
            prop_assert!((fast - slow).abs() <= 2e-3 * slow.max(1e-3), "{fast} for {slow}");
        }
    }
}
