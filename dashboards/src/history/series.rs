//! The rows of one backend: a shared time axis, and one run of cells for every endpoint that was seen on it.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use trimtab_controller::view::{BackendView, EndpointView};

use super::spread::{self, Spread};
use super::{Answer, Choice, EndpointAnswer, WINDOW_MS};
use crate::guard::Episode;
use crate::number::Short;

/// Names of a row's totals, in their order in [`Totals`].
const TOTALS: [&str; 9] = [
    "rps",
    "goodput_rps",
    "shed_rps",
    "error_share",
    "latency_ms_p50",
    "latency_ms_p99",
    "objective_ms",
    "concurrency_limit",
    "in_flight",
];

/// Names of a cell's numbers, in their order in [`Cell`].
const FIELDS: [&str; 9] = [
    "weight_baseline",
    "weight_proposed",
    "weight_applied",
    "share",
    "rps",
    "in_flight",
    "latency_ms_p99",
    "error",
    "capacity_rps",
];

/// Indices into a [`Cell`] by which endpoints are ranked.
const RANKED_BY: [usize; 4] = [2, 7, 6, 5];

/// A number or nothing in four bytes: NaN is how a float already says "no number", and an `Option` would double the memory.
pub type Packed = f32;
type Totals = [Packed; TOTALS.len()];
type Cell = [Packed; FIELDS.len()];

/// What a row costs, in cells.
const ROW_CELLS: usize = size_of::<Row>().div_ceil(size_of::<Cell>());

/// What a series costs beside its cells (name, map entry, queue), in cells.
const SERIES_OVERHEAD_CELLS: usize = 5;

/// Runs of cells grow by this much, so that little is allocated and unused.
const GROWTH_CELLS: usize = 16;

/// The rows of one backend.
#[derive(Debug, Default)]
pub struct Rows {
    /// Number of the first row; rows are numbered from 0 and never renumbered but by `thin_out`.
    first: u64,
    rows: VecDeque<Row>,
    endpoints: HashMap<String, Series>,
    /// Sum of the costs of `endpoints` in cells.
    cells: usize,
}

/// What is kept of the whole backend at one tick.
#[derive(Debug, Clone, Copy)]
struct Row {
    at_ms: i64,
    totals: Totals,
    spread: Spread,
}

/// Consecutive cells of one endpoint, beginning at row `first`.
#[derive(Debug)]
struct Series {
    first: u64,
    cells: VecDeque<Cell>,
}

impl Rows {
    /// Number of rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Cells that are allocated, totals and overheads included.
    pub fn cells(&self) -> usize {
        self.cells + self.rows.capacity() * ROW_CELLS + SERIES_OVERHEAD_CELLS
    }

    /// Time of the last row.
    pub fn last_at_ms(&self) -> Option<i64> {
        self.rows.back().map(|row| row.at_ms)
    }

    /// Adds a row. Of endpoints with the same name only the first counts.
    pub fn push(&mut self, at_ms: i64, backend: &BackendView) {
        let number = self.first + self.rows.len() as u64;
        grow(&mut self.rows);
        self.rows.push_back(Row { at_ms, totals: totals(backend), spread: Spread::new(&backend.endpoints) });
        for endpoint in &backend.endpoints {
            let series = match self.endpoints.get_mut(&endpoint.name) {
                Some(series) => series,
                None => {
                    let series = Series { first: number, cells: VecDeque::new() };
                    self.endpoints.entry(endpoint.name.clone()).or_insert(series)
                }
            };
            series.extend_to(number);
            if series.end() == number {
                series.add(cell(endpoint));
            }
        }
        self.count_cells();
    }

    /// Drops the rows before `at_ms`.
    pub fn forget_before(&mut self, at_ms: i64) {
        let gone = self.rows.partition_point(|row| row.at_ms < at_ms);
        if gone == 0 {
            return;
        }
        self.rows.drain(..gone);
        self.first += gone as u64;
        let first = self.first;
        self.endpoints.retain(|_, series| {
            let gone = first.saturating_sub(series.first).min(series.cells.len() as u64);
            series.cells.drain(..gone as usize);
            series.first += gone;
            !series.cells.is_empty()
        });
        self.count_cells();
    }

    /// Drops the rows at `at_ms` and after it.
    pub fn forget_from(&mut self, at_ms: i64) {
        let kept = self.rows.partition_point(|row| row.at_ms < at_ms);
        self.rows.truncate(kept);
        let end = self.first + kept as u64;
        self.endpoints.retain(|_, series| {
            series.cells.truncate(end.saturating_sub(series.first) as usize);
            !series.cells.is_empty()
        });
        self.count_cells();
    }

    /// Drops every second row.
    pub fn thin_out(&mut self) {
        // Row 2k becomes row k, in the axis and in every series alike.
        let first = self.first;
        let rows = self.rows.iter().enumerate().filter(|(index, _)| (first + *index as u64).is_multiple_of(2));
        self.rows = rows.map(|(_, &row)| row).collect();
        self.first = first.div_ceil(2);
        self.endpoints.retain(|_, series| {
            let first = series.first;
            let cells = series.cells.iter().enumerate().filter(|(index, _)| (first + *index as u64).is_multiple_of(2));
            series.cells = cells.map(|(_, &cell)| cell).collect();
            series.cells.shrink_to_fit();
            series.first = first.div_ceil(2);
            !series.cells.is_empty()
        });
        self.count_cells();
    }

    /// The rows that `choice` selects; `None` if it names an endpoint that has no row.
    pub fn answer(&self, backend: &str, choice: &Choice, guard: Vec<Episode>) -> Option<Answer> {
        let from = self.rows.partition_point(|row| row.at_ms <= choice.since_ms);
        let step = (self.rows.len() - from).div_ceil(choice.points.max(1)).max(1);
        // Counted from the newest row, which is always there.
        let mut chosen: Vec<usize> = (from..self.rows.len()).rev().step_by(step).collect();
        chosen.reverse();
        let names = match &choice.endpoint {
            Some(name) => vec![self.endpoints.get_key_value(name)?.0.as_str()],
            None => self.ranked(&chosen, choice.limit),
        };
        let endpoints = names.into_iter().map(|name| self.endpoint(name, &chosen)).collect();
        let at_ms: Vec<i64> = chosen.iter().map(|&index| self.rows[index].at_ms).collect();
        Some(Answer {
            backend: backend.to_owned(),
            window_ms: WINDOW_MS,
            spacing_ms: usual_distance(&at_ms),
            totals: by_name(&TOTALS, |field| {
                chosen.iter().map(|&index| number(self.rows[index].totals[field])).collect()
            }),
            spread: spread::by_field(chosen.iter().map(|&index| &self.rows[index].spread)),
            at_ms,
            endpoints_total: self.endpoints.len(),
            endpoints,
            guard,
        })
    }

    fn endpoint(&self, name: &str, chosen: &[usize]) -> EndpointAnswer {
        let series = &self.endpoints[name];
        let cells: Vec<Option<&Cell>> = chosen.iter().map(|&index| series.get(self.first + index as u64)).collect();
        let values =
            by_name(&FIELDS, |field| cells.iter().map(|cell| cell.and_then(|cell| number(cell[field]))).collect());
        EndpointAnswer { name: name.to_owned(), values }
    }

    /// The endpoints that matter most over the chosen rows: in turn the one with the greatest weight, the one that fails most,
    /// the slowest and the busiest, until there are `limit`.
    fn ranked(&self, chosen: &[usize], limit: usize) -> Vec<&str> {
        let mut orders: Vec<Vec<(f64, &str)>> =
            RANKED_BY.iter().map(|_| Vec::with_capacity(self.endpoints.len())).collect();
        for (name, series) in &self.endpoints {
            let sums = chosen.iter().filter_map(|&index| series.get(self.first + index as u64)).fold(
                [0.0; 4],
                |sums, cell| {
                    let mut sums: [f64; 4] = sums;
                    for (sum, field) in sums.iter_mut().zip(RANKED_BY) {
                        *sum += number(cell[field]).map_or(0.0, |Short(value)| value);
                    }
                    sums
                },
            );
            for (order, sum) in orders.iter_mut().zip(sums) {
                order.push((sum, name));
            }
        }
        for order in &mut orders {
            order.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(b.1)));
        }
        let mut names = Vec::new();
        let mut taken = HashSet::new();
        for place in 0..self.endpoints.len() {
            for (index, order) in orders.iter().enumerate() {
                let (sum, name) = order[place];
                // All have a weight; but nobody is among the worst who has no errors at all.
                if names.len() < limit && (index == 0 || sum > 0.0) && taken.insert(name) {
                    names.push(name);
                }
            }
            if names.len() >= limit {
                break;
            }
        }
        names
    }

    fn count_cells(&mut self) {
        let costs = self.endpoints.values().map(|series| series.cells.capacity() + SERIES_OVERHEAD_CELLS);
        self.cells = costs.sum();
    }
}

impl Series {
    /// Number of the row after the last cell.
    fn end(&self) -> u64 {
        self.first + self.cells.len() as u64
    }

    /// Fills up with empty cells to row `number`: the endpoint was away.
    fn extend_to(&mut self, number: u64) {
        while self.end() < number {
            self.add([Packed::NAN; FIELDS.len()]);
        }
    }

    fn add(&mut self, cell: Cell) {
        grow(&mut self.cells);
        self.cells.push_back(cell);
    }

    fn get(&self, number: u64) -> Option<&Cell> {
        self.cells.get(usize::try_from(number.checked_sub(self.first)?).ok()?)
    }
}

fn grow<T>(queue: &mut VecDeque<T>) {
    if queue.len() == queue.capacity() {
        queue.reserve_exact(GROWTH_CELLS);
    }
}

fn by_name<T>(names: &[&'static str], values: impl Fn(usize) -> T) -> BTreeMap<&'static str, T> {
    names.iter().enumerate().map(|(field, &name)| (name, values(field))).collect()
}

pub fn number(packed: Packed) -> Option<Short> {
    packed.is_finite().then(|| Short(f64::from(packed)))
}

fn optional(value: Option<f64>) -> Packed {
    value.map_or(Packed::NAN, |value| value as Packed)
}

fn totals(backend: &BackendView) -> Totals {
    [
        backend.rps as Packed,
        backend.goodput_rps as Packed,
        backend.shed_rps as Packed,
        backend.error_share as Packed,
        optional(backend.latency_ms_p50),
        optional(backend.latency_ms_p99),
        optional(backend.objective_ms),
        optional(backend.concurrency_limit),
        backend.endpoints.iter().map(|endpoint| endpoint.in_flight).sum::<f64>() as Packed,
    ]
}

fn cell(endpoint: &EndpointView) -> Cell {
    [
        endpoint.weight_baseline as Packed,
        endpoint.weight_proposed as Packed,
        endpoint.weight_applied as Packed,
        endpoint.share as Packed,
        endpoint.rps as Packed,
        endpoint.in_flight as Packed,
        optional(endpoint.latency_ms_p99),
        endpoint.error as Packed,
        optional(endpoint.capacity_rps),
    ]
}

/// The median distance between neighbours.
fn usual_distance(at_ms: &[i64]) -> Option<i64> {
    let mut distances: Vec<i64> = at_ms.windows(2).map(|pair| pair[1] - pair[0]).collect();
    distances.sort_unstable();
    distances.get(distances.len() / 2).copied()
}
