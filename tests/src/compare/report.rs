//! What the comparison found: a table of figures and ratios for people, JSON for everything else.

use std::ops::Range;
use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use super::predict::{Prediction, RUNS, predict};
use super::rival::Rival;
use super::shape::{Plan, Shape};
use super::statistics::{Estimate, geometric_mean, median};
use super::trial::Trial;

/// All trials of one shape.
#[derive(Debug, Clone, Serialize)]
pub struct ShapeReport {
    /// The shape's name.
    pub shape: String,
    /// Proxies that shared the work.
    pub proxies: usize,
    /// What did not count, at the start of each trial.
    pub warm_up_s: f64,
    /// An answer within it is good.
    pub objective_ms: f64,
    /// What answers took outside of the pods, median over all trials: what the prediction was told of network and routers.
    pub outside_ms_p50: Option<f64>,
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
    /// As above, of p50.
    pub latency_p50_ratio: Option<Estimate>,
    /// Trimtab's goodput over this rival's, pair by pair: above 1, Trimtab answers more in time.
    pub goodput_ratio: Option<Estimate>,
    /// What the simulator says of it, where the shape exists there too.
    pub predicted: Option<Prediction>,
    /// Measured over predicted p99 ratio, minus 1.
    pub latency_p99_ratio_difference: Option<f64>,
    /// The same of p50.
    pub latency_p50_ratio_difference: Option<f64>,
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
    /// Whether all routers ran at the same time, rather than one after the other.
    pub at_once: bool,
    /// One a shape and number of proxies.
    pub shapes: Vec<ShapeReport>,
}

impl ShapeReport {
    /// Sums up `trials`, one list a rival, repetition by repetition, of a shape whose plans were like this one.
    ///
    /// # Errors
    /// If the shape cannot be simulated.
    pub fn new(shape: Shape, plan: &Plan, trials: &[(Rival, Vec<Trial>)], seed: u64) -> anyhow::Result<Self> {
        let ours = trials.iter().find(|(rival, _)| *rival == Rival::Trimtab).map(|(_, trials)| trials.as_slice());
        let all = trials.iter().flat_map(|(_, trials)| trials);
        let outside_ms_p50 = median(&all.filter_map(|trial| trial.outside_ms_p50).collect::<Vec<_>>());
        let mut rivals: Vec<RivalReport> =
            trials.iter().map(|(rival, trials)| RivalReport::new(*rival, trials, ours, seed)).collect();
        if let Some(twin) = &plan.twin {
            let names: Vec<Rival> = trials.iter().map(|(rival, _)| *rival).collect();
            let repetitions = trials.iter().map(|(_, trials)| trials.len()).max().unwrap_or(0);
            let outside = Duration::from_secs_f64(outside_ms_p50.unwrap_or(0.0) / 1000.0);
            let predictions = predict(twin, &names, outside, repetitions)?;
            rivals.iter_mut().zip(predictions).for_each(|(rival, prediction)| rival.compare_with(prediction));
        }
        let (warm_up_s, objective_ms) = (plan.warm_up.as_secs_f64(), plan.objective.as_secs_f64() * 1000.0);
        Ok(Self { shape: shape.name(), proxies: plan.proxies, warm_up_s, objective_ms, outside_ms_p50, rivals })
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
            latency_p50_ratio: ratio(|trial| trial.summary.latency_ms_p50),
            goodput_ratio: ratio(|trial| Some(trial.summary.goodput_rps)),
            predicted: None,
            latency_p99_ratio_difference: None,
            latency_p50_ratio_difference: None,
            trials: trials.to_vec(),
        }
    }

    fn compare_with(&mut self, prediction: Prediction) {
        let difference =
            |measured: Option<Estimate>, predicted: Option<Estimate>| Some(measured?.mean / predicted?.mean - 1.0);
        self.latency_p99_ratio_difference = difference(self.latency_p99_ratio, prediction.latency_p99_ratio);
        self.latency_p50_ratio_difference = difference(self.latency_p50_ratio, prediction.latency_p50_ratio);
        self.predicted = Some(prediction);
    }
}

impl Report {
    /// An empty report.
    pub fn new(seed: u64, repetitions: usize, counted: Duration, at_once: bool) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION"),
            command: std::env::args().collect::<Vec<_>>().join(" "),
            seed,
            repetitions,
            counted_s: counted.as_secs_f64(),
            at_once,
            shapes: Vec::new(),
        }
    }

    /// The report for people.
    pub fn text(&self) -> String {
        let header = ["shape", "router", "p50 ms", "p99 ms", "errors", "in time", "p99 ratio", "goodput ratio"];
        let measured = table(&self.shapes, &header, 2..6, &|rival| {
            [
                number(rival.latency_ms_p50, 0),
                number(rival.latency_ms_p99, 0),
                number(rival.error_share.map(|share| share * 100.0), 2) + " %",
                number(rival.goodput_share.map(|share| share * 100.0), 1) + " %",
                estimate(rival.latency_p99_ratio),
                estimate(rival.goodput_ratio),
            ]
        });
        let (repetitions, counted_s) = (self.repetitions, self.counted_s);
        let turns = if self.at_once { "all routers at the same time" } else { "routers take turns" };
        let mut text = format!(
            "{measured}
Ratios are Trimtab's over the rival's: geometric mean of {repetitions} paired repetitions of {counted_s:.0} s, {turns},
[95 % bootstrap interval]; the other figures are medians. Latency counts from the moment
a request was due. Errors: 5xx, failures and time-outs.
"
        );
        for shape in &self.shapes {
            let ShapeReport { warm_up_s, objective_ms, .. } = shape;
            let name = shape.title(", ");
            text += &format!("{name}: after {warm_up_s:.0} s of warm-up; in time: within {objective_ms:.0} ms.\n");
        }
        let twins: Vec<&ShapeReport> =
            self.shapes.iter().filter(|shape| shape.rivals.iter().any(|rival| rival.predicted.is_some())).collect();
        match (self.repetitions, twins.is_empty()) {
            (_, true) => text,
            (0, false) => self.comparison(&twins),
            (_, false) => text + &self.comparison(&twins),
        }
    }

    /// Measured and predicted ratios side by side.
    fn comparison(&self, shapes: &[&ShapeReport]) -> String {
        let header = ["shape", "router", "p99 ratio", "simulated", "off by", "p50 ratio", "simulated", "off by"];
        let table = table(shapes.iter().copied(), &header, 4..5, &|rival| {
            let simulated =
                |ratio: fn(&Prediction) -> Option<Estimate>| estimate(rival.predicted.as_ref().and_then(ratio));
            [
                estimate(rival.latency_p99_ratio),
                simulated(|prediction| prediction.latency_p99_ratio),
                percent(rival.latency_p99_ratio_difference),
                estimate(rival.latency_p50_ratio),
                simulated(|prediction| prediction.latency_p50_ratio),
                percent(rival.latency_p50_ratio_difference),
            ]
        });
        let outside: Vec<String> = shapes.iter().map(|shape| number(shape.outside_ms_p50, 1)).collect();
        let (repetitions, outside) = (self.repetitions.max(1), outside.join(", "));
        format!(
            "
{table}
Simulated: the mean of {RUNS} runs of the same pods, requests and load, [where the mean of {repetitions} of them lies with 95 % confidence].
Network and routers are in it as the median time that measured answers spent outside of pods ({outside} ms).
"
        )
    }
}

impl ShapeReport {
    fn title(&self, separator: &str) -> String {
        match self.proxies {
            1 => self.shape.clone(),
            proxies => format!("{}{separator}{proxies} proxies", self.shape),
        }
    }
}

/// A row a shape; in it, a line a rival with what `cells` says of it. Columns in `right` are figures.
fn table<'a, const N: usize>(
    shapes: impl IntoIterator<Item = &'a ShapeReport>,
    header: &[&str],
    right: Range<usize>,
    cells: &dyn Fn(&RivalReport) -> [String; N],
) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(header.iter().copied());
    for shape in shapes {
        let lines: Vec<[String; N]> = shape.rivals.iter().map(cells).collect();
        let names: Vec<&str> = shape.rivals.iter().map(|rival| rival.rival.as_str()).collect();
        let column = |number: usize| lines.iter().map(|line| line[number].as_str()).collect::<Vec<_>>().join("\n");
        table.add_row([shape.title("\n"), names.join("\n")].into_iter().chain((0..N).map(column)));
    }
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 1));
        if right.contains(&index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt()
}

fn percent(share: Option<f64>) -> String {
    share.map_or_else(String::new, |share| format!("{:+.0} %", share * 100.0))
}

fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
}

fn estimate(estimate: Option<Estimate>) -> String {
    estimate.map_or_else(String::new, |Estimate { mean, low, high }| format!("{mean:.2} [{low:.2}, {high:.2}]"))
}
