//! What kinds of requests cost, and where: pooled from what every proxy has seen of each class at each endpoint.
//!
//! The time that an unqueued request takes is taken for a product: cost of its class × slowness of the endpoint × what the class finds hard
//! there in particular. The logarithms of the first two are fitted to what was seen, weighted by how often, by alternating means (a two-way
//! analysis of variance); what is left is shrunk towards nothing where it rests on few answers, so that a class that was seen
//! three times at a pod does not steer anything yet: towards what is usual in the endpoint's group, where endpoints fall into [groups](groups). The same code runs in the controller and in the simulator.

mod groups;

use std::collections::HashMap;

use groups::Groups;

/// Answers are forgotten at this pace.
const MEMORY_S: f64 = 60.0;
/// A cell remembers at most so many answers a second of its memory's age: what was learned while costs were still unknown, and waits with them,
/// is soon outweighed. A long spell of interference still passes in part for the endpoint's nature (docs/simulation.md, "Where it loses").
const ANSWERS_PER_S: f64 = 12.0;
/// A factor of a class at an endpoint that rests on so many answers counts half (in logarithms).
const SHRINKAGE_ANSWERS: f64 = 12.0;
/// The same of the slowness of an endpoint as a whole.
const SLOWNESS_SHRINKAGE_ANSWERS: f64 = 4.0;
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
    endpoints: HashMap<u64, Vec<Cell>>,
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
}

fn weights<'a>(row: &'a Option<&Vec<Cell>>, width: usize) -> impl Iterator<Item = f64> + 'a {
    (0..width).map(move |column| row.map_or(0.0, |row| row[column].answers))
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
        for cells in self.endpoints.values_mut() {
            *cells = origin.iter().map(|origin| origin.map_or_else(Cell::default, |index| cells[index])).collect();
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
        let width = self.keys.len() + 1;
        let cell = &mut self.endpoints.entry(endpoint).or_insert_with(|| vec![Cell::default(); width])[column];
        cell.all += f64::from(seen.answers);
        if seen.unqueued > 0 && cost_ms.is_finite() && cost_ms > 0.0 {
            cell.answers += f64::from(seen.unqueued);
            cell.log_sum += f64::from(seen.unqueued) * cost_ms.max(COST_MS_MIN).ln();
            let keep = (ANSWERS_PER_S * self.age_s.clamp(2.0, MEMORY_S) / cell.answers).min(1.0);
            cell.answers *= keep;
            cell.log_sum *= keep;
        }
    }

    /// Time passes, and only these endpoints are left.
    pub fn pass(&mut self, seconds: f64, endpoints: &[u64]) {
        if self.endpoints.len() > endpoints.len() {
            let left: std::collections::HashSet<u64> = endpoints.iter().copied().collect();
            self.endpoints.retain(|key, _| left.contains(key));
        }
        self.age_s += seconds.max(0.0);
        let keep = (-seconds.max(0.0) / MEMORY_S).exp();
        for cell in self.endpoints.values_mut().flatten() {
            cell.all *= keep;
            cell.answers *= keep;
            cell.log_sum *= keep;
        }
    }

    /// What follows for these endpoints; `None` while nothing was seen.
    pub fn costs(&self, endpoints: &[u64]) -> Option<ClassCosts> {
        let width = self.keys.len() + 1;
        let rows: Vec<Option<&Vec<Cell>>> = endpoints.iter().map(|key| self.endpoints.get(key)).collect();
        let mut answers = vec![0.0; width];
        let mut all = vec![0.0; width];
        for row in rows.iter().flatten() {
            row.iter().zip(&mut answers).for_each(|(cell, sum)| *sum += cell.answers);
            row.iter().zip(&mut all).for_each(|(cell, sum)| *sum += cell.all);
        }
        let total: f64 = all.iter().sum();
        if total <= 0.0 {
            return None;
        }
        let mut class = vec![0.0; width];
        let mut slowness = vec![0.0; endpoints.len()];
        for _ in 0..ROUNDS {
            let mut sums = vec![0.0; width];
            for (row, slow) in rows.iter().zip(&slowness) {
                for (cell, sum) in row.iter().flat_map(|row| row.iter()).zip(&mut sums) {
                    *sum += cell.log_sum - cell.answers * slow;
                }
            }
            for ((class, sum), answers) in class.iter_mut().zip(&sums).zip(&answers) {
                *class = if *answers > 0.0 { sum / answers } else { 0.0 };
            }
            for (row, slow) in rows.iter().zip(&mut slowness) {
                let (mut sum, mut count) = (0.0, SLOWNESS_SHRINKAGE_ANSWERS);
                for (cell, class) in row.iter().flat_map(|row| row.iter()).zip(&class) {
                    sum += cell.log_sum - cell.answers * class;
                    count += cell.answers;
                }
                *slow = sum / count;
            }
        }
        let cells: Vec<f64> = rows.iter().flat_map(|row| weights(row, width)).collect();
        let rests: Vec<f64> = rows
            .iter()
            .zip(&slowness)
            .flat_map(|(row, slow)| {
                let cell = move |column: usize| row.map_or_else(Cell::default, |row| row[column]);
                let class = &class;
                (0..width).map(move |column| cell(column).mean_log().map_or(0.0, |log| log - class[column] - slow))
            })
            .collect();
        let groups = Groups::find(&cells, &rests, width);
        let mut factors = Vec::with_capacity(width * endpoints.len());
        for (index, slow) in slowness.iter().enumerate() {
            for column in 0..width {
                let place = index * width + column;
                let usual = groups.usual(index, column);
                let own =
                    (cells[place] * rests[place] + SHRINKAGE_ANSWERS * usual) / (cells[place] + SHRINKAGE_ANSWERS);
                factors.push((slow + own).exp().clamp(1.0 / FACTOR_MAX, FACTOR_MAX));
            }
        }
        Some(ClassCosts {
            cost_ms: class
                .iter()
                .zip(&answers)
                .map(|(log_ms, answers)| (*answers > 0.0).then(|| log_ms.exp().max(COST_MS_MIN)))
                .collect(),
            share: all.iter().map(|all| all / total).collect(),
            factors,
        })
    }
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
    fn few_answers_move_little_and_nonsense_nothing() {
        let mut memory = memory(1.0);
        memory.add(4, 10, seen(1, 5_000.0));
        memory.add(4, 10, seen(5, f32::NAN));
        memory.add(4, 10, seen(5, -1.0));
        let costs = memory.costs(&[1, 2, 3, 4]).unwrap();
        assert!(costs.factors[3 * 3 + 1] < 12.0, "{costs:?}");
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
