//! The last ten minutes of every backend and endpoint, in bounded memory.
//!
//! One row is kept at most every [`SPACING_MS_MIN`], so at the usual tick of 500 ms every tick is a row. With many endpoints
//! rows are kept further apart, so that ten minutes of everything fit into [`CELLS_MAX`] cells of 36 bytes (36 MB): every tick up
//! to about 700 endpoints, every 3.5 s with 5,000. The bound holds whatever comes (fast ticks, endpoints that come and
//! go): where it would be passed, every second row of the largest backend is dropped.

mod series;
mod spread;

use std::collections::BTreeMap;

use serde::Serialize;
use trimtab_controller::view::View;

use crate::guard::{Episode, Log};
use crate::number::Short;
use series::Rows;

/// How long a row is kept.
pub const WINDOW_MS: i64 = 600_000;

/// The most cells (one endpoint at one row) that are kept, all backends together.
pub const CELLS_MAX: usize = 1_000_000;

/// Rows are never closer than this.
const SPACING_MS_MIN: i64 = 400;

/// Share of [`CELLS_MAX`] that rows are spaced to fill; the rest is for endpoints that come and go.
const FILL: f64 = 0.85;

/// The history of all backends.
#[derive(Debug, Default)]
pub struct History {
    backends: BTreeMap<String, Backend>,
}

#[derive(Debug, Default)]
struct Backend {
    rows: Rows,
    guard: Log,
    tick: Option<u64>,
}

/// What a query may choose.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    /// Only rows after this time, milliseconds since the Unix epoch.
    pub since_ms: i64,
    /// Only this endpoint.
    pub endpoint: Option<String>,
    /// The most endpoints.
    pub limit: usize,
    /// The most rows: if there are more, some are left out evenly.
    pub points: usize,
}

/// The answer to a query: one array a quantity, one entry a row.
#[derive(Debug, Serialize)]
pub struct Answer {
    /// The backend.
    pub backend: String,
    /// How long rows are kept.
    pub window_ms: i64,
    /// Usual distance between the rows in this answer.
    pub spacing_ms: Option<i64>,
    /// When the rows were made, milliseconds since the Unix epoch.
    pub at_ms: Vec<i64>,
    /// The backend's own numbers, by the names of `BackendView`, and `in_flight` summed over its endpoints.
    pub totals: BTreeMap<&'static str, Vec<Option<Short>>>,
    /// Where the endpoints lie, all of them together, by the names of `EndpointView`.
    pub spread: BTreeMap<&'static str, SpreadAnswer>,
    /// Endpoints that have any of these rows, those left out included.
    pub endpoints_total: usize,
    /// The chosen endpoints, those that matter most first.
    pub endpoints: Vec<EndpointAnswer>,
    /// What the guard did, oldest first.
    pub guard: Vec<Episode>,
}

/// One endpoint's part of an [`Answer`].
#[derive(Debug, Serialize)]
pub struct EndpointAnswer {
    /// Its name.
    pub name: String,
    /// Its numbers, by the names of `EndpointView`; `null` where it had none or was not there.
    #[serde(flatten)]
    pub values: BTreeMap<&'static str, Vec<Option<Short>>>,
}

/// Nine of ten endpoints lie between `low` and `high`.
#[derive(Debug, Default, Serialize)]
pub struct SpreadAnswer {
    /// 5th percentile over the endpoints.
    pub low: Vec<Option<Short>>,
    /// Median over the endpoints.
    pub middle: Vec<Option<Short>>,
    /// 95th percentile over the endpoints.
    pub high: Vec<Option<Short>>,
}

impl History {
    /// Takes up a view. A view that was published again without a new tick adds nothing; one that is older than the last
    /// row (the clock was set back) replaces what came after it.
    pub fn push(&mut self, view: &View) {
        let series: usize = view.backends.iter().map(|backend| backend.endpoints.len() + 1).sum();
        let spacing_ms = spacing_ms(series);
        for seen in &view.backends {
            let kept = self.backends.entry(seen.name.clone()).or_default();
            if kept.tick.replace(seen.tick) == Some(seen.tick) {
                continue;
            }
            if kept.rows.last_at_ms().is_some_and(|last| last >= view.at_ms) {
                kept.rows.forget_from(view.at_ms);
                kept.guard.forget_from(view.at_ms);
            }
            kept.guard.push(view.at_ms, &seen.guard);
            if kept.rows.last_at_ms().is_none_or(|last| view.at_ms - last >= spacing_ms) {
                kept.rows.push(view.at_ms, seen);
            }
        }
        self.forget_before(view.at_ms - WINDOW_MS);
        self.keep_within_bounds();
    }

    /// Whether there is anything of `backend`.
    pub fn knows(&self, backend: &str) -> bool {
        self.backends.contains_key(backend)
    }

    /// The rows of `backend` that `choice` selects; `None` if backend or endpoint is not known.
    pub fn answer(&self, backend: &str, choice: &Choice) -> Option<Answer> {
        let kept = self.backends.get(backend)?;
        kept.rows.answer(backend, choice, kept.guard.since(choice.since_ms))
    }

    /// Cells that are allocated now.
    fn cells(&self) -> usize {
        self.backends.values().map(|backend| backend.rows.cells()).sum()
    }

    fn forget_before(&mut self, at_ms: i64) {
        for backend in self.backends.values_mut() {
            backend.rows.forget_before(at_ms);
            backend.guard.forget_before(at_ms);
        }
        self.backends.retain(|_, backend| !backend.rows.is_empty());
    }

    fn keep_within_bounds(&mut self) {
        while self.cells() > CELLS_MAX {
            let largest = self.backends.values_mut().filter(|backend| backend.rows.len() > 1);
            let Some(largest) = largest.max_by_key(|backend| backend.rows.cells()) else { return };
            largest.rows.thin_out();
        }
    }
}

/// Distance between rows at which ten minutes of `series` endpoints and backends fill the bound.
fn spacing_ms(series: usize) -> i64 {
    let needed = series as f64 * WINDOW_MS as f64 / (CELLS_MAX as f64 * FILL);
    (needed.ceil() as i64).max(SPACING_MS_MIN)
}

#[cfg(test)]
mod tests;
