//! What the comparison found: a table of figures and ratios for people, JSON for everything else.

use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use super::rival::Rival;
use super::shape::{OBJECTIVE, Shape};
use super::statistics::{Estimate, geometric_mean, median};
use super::trial::Trial;

/// All trials of one shape.
#[derive(Debug, Clone, Serialize)]
pub struct ShapeReport {
    /// The shape's name.
    pub shape: String,
    /// One a rival, in the order of the command line.
    pub rivals: Vec<RivalReport>,
}

/// All trials of one rival in one shape.
#[derive(Debug, Clone, Serialize)]
pub struct RivalReport {
    /// The rival's name.
    pub rival: String,
    /// Medians over the repetitions.
    pub latency_ms_p50: Option<f64>,
    /// As above.
    pub latency_ms_p99: Option<f64>,
    /// As above, 0..=1.
    pub error_share: Option<f64>,
    /// As above, 0..=1.
    pub goodput_share: Option<f64>,
    /// Trimtab's p99 over this rival's, pair by pair: below 1, Trimtab's tail is shorter.
    pub latency_p99_ratio: Option<Estimate>,
    /// Trimtab's goodput over this rival's, pair by pair: above 1, Trimtab answers more in time.
    pub goodput_ratio: Option<Estimate>,
    /// Each repetition by itself.
    pub trials: Vec<Trial>,
}

/// Everything.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Trimtab's version.
    pub version: &'static str,
    /// The command line that made it.
    pub command: String,
    /// Seed of the first repetition; the others count up.
    pub seed: u64,
    /// Repetitions.
    pub repetitions: usize,
    /// Length of each trial, without the warm-up.
    pub counted_s: f64,
    /// An answer within it is good.
    pub objective_ms: f64,
    /// One a shape.
    pub shapes: Vec<ShapeReport>,
}

impl ShapeReport {
    /// Sums up `trials`, one list a rival, repetition by repetition.
    pub fn new(shape: Shape, trials: &[(Rival, Vec<Trial>)], seed: u64) -> Self {
        let ours = trials.iter().find(|(rival, _)| *rival == Rival::Trimtab).map(|(_, trials)| trials.as_slice());
        let rivals = trials.iter().map(|(rival, trials)| RivalReport::new(*rival, trials, ours, seed)).collect();
        Self { shape: shape.name(), rivals }
    }
}

impl RivalReport {
    fn new(rival: Rival, trials: &[Trial], ours: Option<&[Trial]>, seed: u64) -> Self {
        let over = |value: fn(&Trial) -> Option<f64>| median(&trials.iter().filter_map(value).collect::<Vec<_>>());
        let ratio = |value: fn(&Trial) -> Option<f64>| {
            let pairs = ours.filter(|_| rival != Rival::Trimtab)?.iter().zip(trials);
            let ratios: Vec<f64> = pairs.filter_map(|(ours, theirs)| Some(value(ours)? / value(theirs)?)).collect();
            geometric_mean(&ratios, seed)
        };
        Self {
            rival: rival.name(),
            latency_ms_p50: over(|trial| trial.summary.latency_ms_p50),
            latency_ms_p99: over(|trial| trial.summary.latency_ms_p99),
            error_share: over(|trial| Some(trial.summary.error_share)),
            goodput_share: over(|trial| Some(trial.summary.goodput_share)),
            latency_p99_ratio: ratio(|trial| trial.summary.latency_ms_p99),
            goodput_ratio: ratio(|trial| Some(trial.summary.goodput_rps)),
            trials: trials.to_vec(),
        }
    }
}

impl Report {
    /// An empty report.
    pub fn new(seed: u64, repetitions: usize, counted: Duration) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION"),
            command: std::env::args().collect::<Vec<_>>().join(" "),
            seed,
            repetitions,
            counted_s: counted.as_secs_f64(),
            objective_ms: OBJECTIVE.as_secs_f64() * 1000.0,
            shapes: Vec::new(),
        }
    }

    /// The report for people.
    pub fn text(&self) -> String {
        let mut table = Table::new();
        table.load_style(presets::UTF8_HORIZONTAL_ONLY);
        table.set_header(["shape", "router", "p50 ms", "p99 ms", "errors", "in time", "p99 ratio", "goodput ratio"]);
        for shape in &self.shapes {
            let column =
                |cell: &dyn Fn(&RivalReport) -> String| shape.rivals.iter().map(cell).collect::<Vec<_>>().join("\n");
            table.add_row([
                shape.shape.clone(),
                column(&|rival| rival.rival.clone()),
                column(&|rival| number(rival.latency_ms_p50, 0)),
                column(&|rival| number(rival.latency_ms_p99, 0)),
                column(&|rival| number(rival.error_share.map(|share| share * 100.0), 2) + " %"),
                column(&|rival| number(rival.goodput_share.map(|share| share * 100.0), 1) + " %"),
                column(&|rival| estimate(rival.latency_p99_ratio)),
                column(&|rival| estimate(rival.goodput_ratio)),
            ]);
        }
        for (index, column) in table.column_iter_mut().enumerate() {
            column.set_padding((0, 1));
            if (2..6).contains(&index) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        let (repetitions, counted_s, objective_ms) = (self.repetitions, self.counted_s, self.objective_ms);
        format!(
            "{}
Ratios are Trimtab's over the rival's: geometric mean of {repetitions} paired repetitions of {counted_s:.0} s,
[95 % bootstrap interval]; the other figures are medians. Latency counts from the moment
a request was due. In time: within {objective_ms:.0} ms. Errors: 5xx, failures and time-outs.
",
            table.trim_fmt()
        )
    }
}

fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
}

fn estimate(estimate: Option<Estimate>) -> String {
    estimate.map_or_else(String::new, |Estimate { mean, low, high }| format!("{mean:.2} [{low:.2}, {high:.2}]"))
}
