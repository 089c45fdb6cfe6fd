//! What kinds of requests cost, and where: pooled from what every proxy has seen of each class at each endpoint.
//!
//! The time that an unqueued request takes is taken for a product: cost of its class × slowness of the endpoint × what the class finds hard
//! there in particular. Logarithms of it are fitted to what was seen, weighted by how often, by alternating means (a two-way
//! analysis of variance); what is left is shrunk towards what is usual in the endpoint's group, where endpoints fall into [groups](groups), so
//! that a class that was seen three times at a pod does not steer anything yet.
//!
//! An endpoint's slowness is its nature: the median over [`Blocks`] of a few seconds, so that a spell of interference, a cold start or a gray
//! failure passes without being learned. Answers enter the cells of their classes with the spell taken out. How an endpoint is right now is
//! for the proxies' own latency averages to say. The same code runs in the controller and in the simulator.

mod blocks;
mod groups;

use std::collections::HashMap;

use blocks::Blocks;
use groups::Groups;

/// Answers are forgotten at this pace.
const MEMORY_S: f64 = 60.0;
/// A cell remembers at most so many answers a second of its memory's age: what was learned while costs were still unknown, and waits with them,
/// is soon outweighed.
const ANSWERS_PER_S: f64 = 12.0;
/// How long a block lasts: longer than most spells of a noisy neighbour, so that they do not fill one after the other.
const BLOCK_S: f64 = 3.0;
/// A factor of a class at an endpoint that rests on so many answers counts half (in logarithms).
const SHRINKAGE_ANSWERS: f64 = 12.0;
/// The same of the slowness of an endpoint as a whole, before there are blocks enough.
const SLOWNESS_SHRINKAGE_ANSWERS: f64 = 8.0;
/// The fit settles within so many rounds.
const ROUNDS: usize = 4;
/// Largest factor either way.
const FACTOR_MAX: f64 = 30.0;
/// Costs are at least this, in milliseconds.
const COST_MS_MIN: f64 = 1e-3;

/// Remembers what was seen. Columns are classes: 0 is all requests without a class of their own.
#[derive(Debug, Clone, Default)]
pub struct ClassMemory {
    keys: Vec<u64>,
    /// Since the classes were chosen.
    age_s: f64,
    /// Since blocks were closed last.
    block_s: f64,
    endpoints: HashMap<u64, Remembered>,
}

/// One endpoint; cells by class.
#[derive(Debug, Clone, Default)]
struct Remembered {
    /// Everything but the present block; spells are taken out.
    cells: Vec<Cell>,
    /// The present block, as it was.
    block: Vec<Cell>,
    blocks: Blocks,
}

/// One class at one endpoint.
#[derive(Debug, Clone, Copy, Default)]
struct Cell {
    /// Answers, older ones counting less.
    all: f64,
    /// Those of them that did not wait.
    answers: f64,
    /// Sum over the latter of the logarithm of the unqueued time, in milliseconds.
    log_sum: f64,
}

impl Cell {
    fn mean_log(&self) -> Option<f64> {
        (self.answers > 0.0).then(|| self.log_sum / self.answers)
    }

    fn add(&mut self, other: &Self) {
        self.all += other.all;
        self.answers += other.answers;
        self.log_sum += other.log_sum;
    }

    fn scale(&mut self, factor: f64) {
        self.answers *= factor;
        self.log_sum *= factor;
    }
}

impl Remembered {
    fn new(width: usize) -> Self {
        let cells = vec![Cell::default(); width];
        Self { block: cells.clone(), cells, blocks: Blocks::default() }
    }

    /// All cells, the present block included, as it was: what is in it of a spell is taken out when it closes.
    fn row(&self) -> Vec<Cell> {
        let mut row = self.cells.clone();
        row.iter_mut().zip(&self.block).for_each(|(cell, block)| cell.add(block));
        row
    }

    /// Answers of the present block, and by how much they were slower than those of their classes in the mean, in logarithms.
    fn block_slowness(&self, class_logs: &[f64]) -> (f64, f64) {
        let (sum, answers) = self.block.iter().zip(class_logs).fold((0.0, 0.0), |(sum, answers), (cell, class_log)| {
            (sum + cell.log_sum - cell.answers * class_log, answers + cell.answers)
        });
        (answers, if answers > 0.0 { sum / answers } else { 0.0 })
    }

    /// The present block is over, if it has answers enough: it tells of the endpoint's nature, and its answers tell of classes as they would have without its spell.
    fn close_block(&mut self, class_logs: &[f64], keep_max: f64) {
        let (answers, slowness) = self.block_slowness(class_logs);
        let before = self.blocks.nature();
        if !self.blocks.push(answers, slowness) {
            return;
        }
        let nature = self.blocks.nature();
        let spell = nature.map_or(0.0, |nature| slowness - nature);
        // What was remembered was remembered as of the nature that was thought then: it moves along, or classes would be taken for cheaper.
        let moved = nature.zip(before).map_or(0.0, |(nature, before)| nature - before);
        for (cell, block) in self.cells.iter_mut().zip(&mut self.block) {
            let block = std::mem::take(block);
            cell.log_sum += cell.answers * moved;
            cell.add(&Cell { log_sum: block.log_sum - block.answers * spell, ..block });
            cell.scale((keep_max / cell.answers.max(1e-9)).min(1.0));
        }
    }
}

/// What classes cost.
#[derive(Debug, Clone, PartialEq)]
pub struct ClassCosts {
    /// Of an unqueued request at the average endpoint, in milliseconds: class 0, then the classes in their order. `None`: never seen.
    pub cost_ms: Vec<Option<f64>>,
    /// Share of the requests, 0..=1, in the same order.
    pub share: Vec<f64>,
    /// Cost of a class at an endpoint relative to the average one; endpoint-major, in the same order.
    pub factors: Vec<f64>,
}

/// Costs, to be looked up by endpoint and class.
#[derive(Debug, Clone, PartialEq)]
pub struct CostIndex {
    costs: ClassCosts,
    endpoints: HashMap<u64, usize>,
    classes: Vec<u64>,
    /// By endpoint.
    mean_ms: Vec<f64>,
}

impl CostIndex {
    /// Of costs that `memory` told of these endpoints.
    pub fn new(memory: &ClassMemory, costs: ClassCosts, endpoints: &[u64]) -> Self {
        let width = costs.share.len();
        let mean_ms = costs.factors.chunks(width).map(|factors| {
            let work = factors.iter().zip(&costs.cost_ms).zip(&costs.share);
            work.map(|((factor, cost_ms), share)| factor * cost_ms.unwrap_or(0.0) * share).sum()
        });
        Self {
            mean_ms: mean_ms.collect(),
            endpoints: endpoints.iter().copied().zip(0..).collect(),
            classes: memory.keys.clone(),
            costs,
        }
    }

    /// What a request of a class costs at an endpoint, and what the mean one does; `None` where it is not known.
    pub fn at(&self, endpoint: u64, class: u64) -> Option<Cost> {
        let index = *self.endpoints.get(&endpoint)?;
        let column = self.classes.iter().position(|key| *key == class).map_or(0, |position| position + 1);
        let factor = self.costs.factors.get(index * self.costs.share.len() + column)?;
        Some(Cost { class_ms: self.costs.cost_ms[column]? * factor, mean_ms: self.mean_ms[index] })
    }
}

/// What a request costs at one endpoint, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cost {
    /// One of its class.
    pub class_ms: f64,
    /// The mean one.
    pub mean_ms: f64,
}

/// What a proxy saw of one class at one endpoint in a while.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Seen {
    /// Answers.
    pub answers: u32,
    /// Those that had to expect little wait.
    pub unqueued: u32,
    /// Geometric mean latency of the latter, in milliseconds.
    pub cost_ms: f32,
}

impl ClassMemory {
    /// Tells requests of these classes apart from now on; what is known of those that stay is kept.
    pub fn choose(&mut self, keys: &[u64]) {
        if self.keys == keys {
            return;
        }
        let column = |key: &u64| self.keys.iter().position(|other| other == key).map(|position| position + 1);
        let origin: Vec<Option<usize>> = std::iter::once(Some(0)).chain(keys.iter().map(column)).collect();
        let moved = |cells: &[Cell]| -> Vec<Cell> {
            origin.iter().map(|origin| origin.map_or_else(Cell::default, |index| cells[index])).collect()
        };
        for endpoint in self.endpoints.values_mut() {
            endpoint.cells = moved(&endpoint.cells);
            endpoint.block = moved(&endpoint.block);
        }
        self.keys = keys.to_vec();
        self.age_s = 0.0;
    }

    /// Its classes.
    pub fn keys(&self) -> &[u64] {
        &self.keys
    }

    /// A proxy had so many answers of a class from an endpoint. A class that is not told apart counts as class 0; numbers that cannot be are
    /// ignored.
    pub fn add(&mut self, endpoint: u64, class: u64, seen: Seen) {
        let cost_ms = f64::from(seen.cost_ms);
        let column = self.keys.iter().position(|key| *key == class).map_or(0, |position| position + 1);
        let (width, answers_max) = (self.keys.len() + 1, self.answers_max());
        let cell = &mut self.endpoints.entry(endpoint).or_insert_with(|| Remembered::new(width)).block[column];
        cell.all += f64::from(seen.answers);
        if seen.unqueued > 0 && cost_ms.is_finite() && cost_ms > 0.0 {
            cell.answers += f64::from(seen.unqueued);
            cell.log_sum += f64::from(seen.unqueued) * cost_ms.max(COST_MS_MIN).ln();
            cell.scale((answers_max / cell.answers).min(1.0));
        }
    }

    /// Time passes, and only these endpoints are left.
    pub fn pass(&mut self, seconds: f64, endpoints: &[u64]) {
        if self.endpoints.len() > endpoints.len() {
            let left: std::collections::HashSet<u64> = endpoints.iter().copied().collect();
            self.endpoints.retain(|key, _| left.contains(key));
        }
        let seconds = seconds.max(0.0);
        self.age_s += seconds;
        self.block_s += seconds;
        let keep = (-seconds / MEMORY_S).exp();
        for cell in
            self.endpoints.values_mut().flat_map(|endpoint| endpoint.cells.iter_mut().chain(&mut endpoint.block))
        {
            cell.all *= keep;
            cell.scale(keep);
        }
        if self.block_s >= BLOCK_S {
            self.block_s = 0.0;
            let keys: Vec<u64> = self.endpoints.keys().copied().collect();
            let fit = self.fit(&keys);
            let keep_max = self.answers_max();
            self.endpoints.values_mut().for_each(|endpoint| endpoint.close_block(&fit.class, keep_max));
        }
    }

    /// What follows for these endpoints; `None` while nothing was seen.
    pub fn costs(&self, endpoints: &[u64]) -> Option<ClassCosts> {
        let width = self.keys.len() + 1;
        let fit = self.fit(endpoints).centred();
        let total: f64 = fit.all.iter().sum();
        if total <= 0.0 {
            return None;
        }
        let answers: Vec<f64> = fit.rows.iter().flatten().map(|cell| cell.answers).collect();
        let rest = |(place, cell): (usize, &Cell)| {
            let (index, column) = (place / width, place % width);
            cell.mean_log().map_or(0.0, |log| log - fit.class[column] - fit.slowness[index])
        };
        let rests: Vec<f64> = fit.rows.iter().flatten().enumerate().map(rest).collect();
        let groups = Groups::find(&answers, &rests, width);
        let factor = |place: usize| {
            let (index, column) = (place / width, place % width);
            let usual = groups.usual(index, column);
            let own =
                (answers[place] * rests[place] + SHRINKAGE_ANSWERS * usual) / (answers[place] + SHRINKAGE_ANSWERS);
            (fit.slowness[index] + own).exp().clamp(1.0 / FACTOR_MAX, FACTOR_MAX)
        };
        let cost_ms = |(log_ms, answers): (&f64, &f64)| (*answers > 0.0).then(|| log_ms.exp().max(COST_MS_MIN));
        Some(ClassCosts {
            cost_ms: fit.class.iter().zip(&fit.answers).map(cost_ms).collect(),
            share: fit.all.iter().map(|all| all / total).collect(),
            factors: (0..rests.len()).map(factor).collect(),
        })
    }

    /// Classes and endpoints taken apart.
    fn fit(&self, endpoints: &[u64]) -> Fit {
        let width = self.keys.len() + 1;
        let known: Vec<Option<&Remembered>> = endpoints.iter().map(|key| self.endpoints.get(key)).collect();
        let rows: Vec<Vec<Cell>> =
            known.iter().map(|known| known.map_or_else(|| vec![Cell::default(); width], Remembered::row)).collect();
        let sum = |of: fn(&Cell) -> f64| -> Vec<f64> {
            (0..width).map(|column| rows.iter().map(|row| of(&row[column])).sum()).collect()
        };
        let (answers, all) = (sum(|cell| cell.answers), sum(|cell| cell.all));
        let nature = |known: &Option<&Remembered>| known.and_then(|known| known.blocks.nature());
        let natures: Vec<Option<f64>> = known.iter().map(nature).collect();
        let mut class = vec![0.0; width];
        let mut slowness: Vec<f64> = natures.iter().map(|nature| nature.unwrap_or(0.0)).collect();
        for _ in 0..ROUNDS {
            let mut sums = vec![0.0; width];
            for (row, slow) in rows.iter().zip(&slowness) {
                row.iter().zip(&mut sums).for_each(|(cell, sum)| *sum += cell.log_sum - cell.answers * slow);
            }
            for ((class, sum), answers) in class.iter_mut().zip(&sums).zip(&answers) {
                *class = if *answers > 0.0 { sum / answers } else { 0.0 };
            }
            for ((row, slow), nature) in rows.iter().zip(&mut slowness).zip(&natures) {
                let (mut sum, mut count) = (0.0, SLOWNESS_SHRINKAGE_ANSWERS);
                for (cell, class) in row.iter().zip(&class) {
                    sum += cell.log_sum - cell.answers * class;
                    count += cell.answers;
                }
                *slow = nature.unwrap_or(sum / count);
            }
        }
        Fit { rows, answers, all, class, slowness }
    }

    /// Answers that a cell remembers at most.
    fn answers_max(&self) -> f64 {
        ANSWERS_PER_S * self.age_s.clamp(2.0, MEMORY_S)
    }
}

impl Fit {
    /// The same with endpoints that are average in the mean: a class costs what it does at the average endpoint. Without that nothing would keep
    /// classes from growing cheaper as endpoints grow slower.
    fn centred(mut self) -> Self {
        let mean = self.slowness.iter().sum::<f64>() / self.slowness.len().max(1) as f64;
        self.slowness.iter_mut().for_each(|slow| *slow -= mean);
        self.class.iter_mut().for_each(|class| *class += mean);
        self
    }
}

/// What was seen, taken apart.
struct Fit {
    /// By endpoint and class.
    rows: Vec<Vec<Cell>>,
    /// By class, of all endpoints: answers that did not wait, and all.
    answers: Vec<f64>,
    all: Vec<f64>,
    /// Logarithm of the cost in milliseconds, by class.
    class: Vec<f64>,
    /// Logarithm of the slowness, by endpoint.
    slowness: Vec<f64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(answers: u32, cost_ms: f32) -> Seen {
        Seen { answers, unqueued: answers, cost_ms }
    }

    /// 200 answers of each class at each endpoint; costs as a product with one exception.
    fn memory(exception: f64) -> ClassMemory {
        let mut memory = ClassMemory::default();
        memory.choose(&[10, 20]);
        // Old enough to remember all of it.
        memory.pass(60.0, &[]);
        for (endpoint, slow) in [(1, 0.5), (2, 1.0), (3, 2.0)] {
            for (class, cost) in [(10, 5.0), (20, 500.0)] {
                let odd = if (endpoint, class) == (2, 20) { exception } else { 1.0 };
                memory.add(endpoint, class, seen(200, (cost * slow * odd) as f32));
            }
        }
        memory
    }

    #[test]
    fn a_product_is_taken_apart_into_its_factors() {
        let costs = memory(1.0).costs(&[1, 2, 3]).unwrap();
        assert_eq!(costs.cost_ms[0], None, "nothing was seen of other classes");
        assert!((costs.cost_ms[1].unwrap() / 5.0 - 1.0).abs() < 0.05, "{costs:?}");
        assert!((costs.cost_ms[2].unwrap() / 500.0 - 1.0).abs() < 0.05, "{costs:?}");
        for (row, slow) in costs.factors.chunks(3).zip([0.5, 1.0, 2.0]) {
            assert!(row.iter().all(|factor| (factor / slow - 1.0).abs() < 0.05), "{row:?} for {slow}");
        }
        assert_eq!(costs.share, [0.0, 0.5, 0.5]);
    }

    #[test]
    fn a_class_that_one_endpoint_finds_hard_is_seen_there() {
        let costs = memory(3.0).costs(&[1, 2, 3]).unwrap();
        let relative = |endpoint: usize| costs.factors[3 * endpoint + 2] / costs.factors[3 * endpoint + 1];
        assert!(relative(1) / relative(0) > 2.5, "{costs:?}");
        assert!((relative(2) / relative(0) - 1.0).abs() < 0.1, "{costs:?}");
    }

    #[test]
    fn a_spell_of_interference_changes_neither_the_endpoint_nor_its_classes() {
        let mut memory = ClassMemory::default();
        memory.choose(&[10, 20]);
        let mut costs = Vec::new();
        for block in 0..20 {
            for endpoint in 1..=3 {
                // The second endpoint is twice as slow by nature, and four times more for 12 of 60 s.
                let spell = if endpoint == 2 && (8..12).contains(&block) { 4.0 } else { 1.0 };
                let slow = if endpoint == 2 { 2.0 } else { 1.0 };
                memory.add(endpoint, 10, seen(30, 5.0 * slow * spell));
                memory.add(endpoint, 20, seen(20, 50.0 * slow * spell));
            }
            memory.pass(3.0, &[1, 2, 3]);
            costs.push(memory.costs(&[1, 2, 3]).unwrap());
        }
        for costs in &costs[8..] {
            let relative = costs.factors[3 + 1] / costs.factors[1];
            assert!((relative / 2.0 - 1.0).abs() < 0.1, "{costs:?}");
            assert!((costs.cost_ms[2].unwrap() / costs.cost_ms[1].unwrap() / 10.0 - 1.0).abs() < 0.05, "{costs:?}");
        }
    }

    #[test]
    fn a_change_that_stays_is_learned_by_whom_it_happened_to_and_costs_stay_what_they_are() {
        // Either one of three pods, or all of them, take three times as long from some time on.
        for slowed in [1, 3] {
            let mut memory = ClassMemory::default();
            memory.choose(&[10]);
            for block in 0..120 {
                for endpoint in 1..=3 {
                    let slow = if block >= 20 && endpoint <= slowed { 3.0 } else { 1.0 };
                    memory.add(endpoint, 10, seen(60, 10.0 * slow));
                }
                memory.pass(3.0, &[1, 2, 3]);
            }
            let costs = memory.costs(&[1, 2, 3]).unwrap();
            for (endpoint, row) in costs.factors.chunks(2).enumerate() {
                let (told, true_ms) =
                    (costs.cost_ms[1].unwrap() * row[1], if endpoint < slowed as usize { 30.0 } else { 10.0 });
                assert!((told / true_ms - 1.0).abs() < 0.1, "{slowed} slowed: {told} ms, not {true_ms}: {costs:?}");
            }
        }
    }

    #[test]
    fn few_answers_move_little_and_nonsense_nothing() {
        let mut memory = memory(1.0);
        memory.add(4, 10, seen(1, 5_000.0));
        memory.add(4, 10, seen(5, f32::NAN));
        memory.add(4, 10, seen(5, -1.0));
        let costs = memory.costs(&[1, 2, 3, 4]).unwrap();
        assert!(costs.factors[3 * 3 + 1] < 8.0, "{costs:?}");
        assert_eq!(ClassMemory::default().costs(&[1]), None);
    }

    #[test]
    fn what_left_is_forgotten_and_a_class_that_stays_is_kept() {
        let mut memory = memory(1.0);
        memory.choose(&[20, 30]);
        let costs = memory.costs(&[1, 2, 3]).unwrap();
        assert!((costs.cost_ms[1].unwrap() / 500.0 - 1.0).abs() < 0.05);
        assert_eq!(costs.cost_ms[2], None);
        memory.pass(1.0, &[2]);
        assert_eq!(memory.endpoints.len(), 1);
    }
}
