//! How the story ended: per chapter the figures of both worlds and their ratios, as a table or as JSON.

use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use super::frame::{ms, percent};
use super::score::{Score, Summary};
use super::script::{LOAD, LOAD_BURST, Script};
use super::world::World;

/// Everything that the demo found out.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Trimtab's version.
    pub version: &'static str,
    /// Seed of arrivals and service times.
    pub seed: u64,
    /// The baseline's name.
    pub baseline: &'static str,
    /// Length of the story.
    pub duration_s: f64,
    /// False where the demo was stopped before the end.
    pub complete: bool,
    /// An answer within it is good.
    pub objective_ms: f64,
    /// Pods in each world.
    pub pods: usize,
    /// What all pods of a world can do at the most.
    pub capacity_rps: f64,
    /// The most that a request was sent late because this machine was busy; part of every latency.
    pub send_lag_ms_max: f64,
    /// One a chapter.
    pub chapters: Vec<ChapterReport>,
    /// All chapters together.
    pub whole: ChapterReport,
}

/// One chapter in both worlds.
#[derive(Debug, Clone, Serialize)]
pub struct ChapterReport {
    /// Its name.
    pub name: String,
    /// What happened.
    pub what: String,
    /// How Trimtab fared.
    pub trimtab: Summary,
    /// How the baseline fared.
    pub baseline: Summary,
    /// One against the other.
    pub ratio: Ratio,
}

/// Trimtab against the baseline; `None` where there is nothing to divide by.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Ratio {
    /// The baseline's p99 over Trimtab's: how many times lower Trimtab's is.
    pub latency_p99_lower: Option<f64>,
    /// Trimtab's goodput over the baseline's.
    pub goodput_higher: Option<f64>,
}

impl Report {
    /// What both worlds have scored until `elapsed`.
    pub fn new(script: &Script, worlds: &[World; 2], elapsed: Duration) -> Self {
        let [ours, baseline] = worlds;
        let (our_scores, baseline_scores) = (ours.recorder.scores(), baseline.recorder.scores());
        let mut whole = (Score::default(), Score::default(), Duration::ZERO);
        let mut chapters = Vec::new();
        for ((chapter, a), b) in script.chapters.iter().zip(&our_scores).zip(&baseline_scores) {
            let span = chapter.window.end.min(elapsed).saturating_sub(chapter.window.start);
            if span.is_zero() {
                continue;
            }
            chapters.push(ChapterReport::new(chapter.name, chapter.what, a, b, span));
            whole.0.add(a);
            whole.1.add(b);
            whole.2 += span;
        }
        let send_lag_ms_max = ours.recorder.lag_ms(1.0).max(baseline.recorder.lag_ms(1.0));
        Self {
            version: env!("CARGO_PKG_VERSION"),
            seed: script.seed,
            baseline: baseline.name,
            duration_s: (script.length().as_secs_f64() * 1000.0).round() / 1000.0,
            complete: elapsed >= script.length(),
            objective_ms: script.objective.as_secs_f64() * 1000.0,
            pods: script.pods.len(),
            capacity_rps: script.pods.iter().map(super::pod::PodSpec::capacity_rps).sum(),
            send_lag_ms_max,
            chapters,
            whole: ChapterReport::new("all chapters", "the whole story", &whole.0, &whole.1, whole.2),
        }
    }

    /// The report for people.
    pub fn text(&self) -> String {
        let mut table = Table::new();
        table.load_style(presets::UTF8_HORIZONTAL_ONLY);
        table.set_header(["chapter", "routed by", "p50 ms", "p99 ms", "good/s", "in time", "errors", "ratio"]);
        for chapter in self.chapters.iter().chain([&self.whole]) {
            let ratio = &chapter.ratio;
            let p99 = ratio.latency_p99_lower.map_or(String::new(), |ratio| format!("÷ {ratio:.1}"));
            let goodput = ratio.goodput_higher.map_or(String::new(), |ratio| format!("× {ratio:.2}"));
            let rows = [figures("trimtab", &chapter.trimtab), figures(self.baseline, &chapter.baseline)];
            let [ours, baseline] = rows;
            let pairs = ours.into_iter().zip(baseline).map(|(ours, baseline)| format!("{ours}\n{baseline}"));
            table.add_row([chapter.name.clone()].into_iter().chain(pairs).chain([format!("{p99}\n{goodput}")]));
        }
        for (index, column) in table.column_iter_mut().enumerate() {
            column.set_padding((0, 1));
            if (2..7).contains(&index) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        let complete = if self.complete { "" } else { "; stopped before its end" };
        format!(
            "{}
Two worlds of {} pods that can do {:.0} requests/s, the same events and the same load
(Poisson, open loop, {:.0} % of that, {:.0} % in the burst, seed {}){complete}.
Ratio: by how much Trimtab's p99 is lower (÷) and its goodput higher (×).
Latency counts from the moment a request was due (the latest was sent {:.0} ms late).
In time, good: answered within {:.0} ms. Errors: 5xx (shed ones too), failures, time-outs.
",
            table.trim_fmt(),
            self.pods,
            self.capacity_rps,
            LOAD * 100.0,
            LOAD_BURST * 100.0,
            self.seed,
            self.send_lag_ms_max,
            self.objective_ms,
        )
    }
}

impl ChapterReport {
    fn new(name: &str, what: &str, ours: &Score, baseline: &Score, span: Duration) -> Self {
        let (trimtab, baseline) = (ours.summary(span), baseline.summary(span));
        let over = |a: f64, b: f64| (b > 0.0).then(|| a / b);
        let latency_p99_lower =
            trimtab.latency_ms_p99.zip(baseline.latency_ms_p99).and_then(|(ours, theirs)| over(theirs, ours));
        let ratio = Ratio { latency_p99_lower, goodput_higher: over(trimtab.goodput_rps, baseline.goodput_rps) };
        Self { name: name.to_owned(), what: what.to_owned(), trimtab, baseline, ratio }
    }
}

/// The cells that both worlds have.
fn figures(name: &str, summary: &Summary) -> [String; 6] {
    [
        name.to_owned(),
        ms(summary.latency_ms_p50),
        ms(summary.latency_ms_p99),
        format!("{:.0}", summary.goodput_rps),
        percent(summary.goodput_share),
        percent(summary.error_share),
    ]
}
