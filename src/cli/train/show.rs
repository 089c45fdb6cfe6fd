//! How training shows itself: a line that is rewritten on a terminal, a line a generation elsewhere, a summary at the end, and
//! the tables of an evaluation.

use std::io::{IsTerminal, Write};
use std::path::Path;

use serde::Serialize;
use trimtab_training::learn::evaluate::{Cell, Column, Estimate};
use trimtab_training::learn::trainer::{Row, Trainer};

const BAR_CELLS: usize = 20;

/// What is said on standard error while training goes on.
#[derive(Debug)]
pub struct Progress {
    rewrites: bool,
    validation: Option<f64>,
}

impl Progress {
    /// Rewrites its line where standard error is a terminal.
    pub fn new() -> Self {
        Self { rewrites: std::io::stderr().is_terminal(), validation: None }
    }

    /// Something slow begins.
    pub fn note(&mut self, what: &str) {
        self.line(&format!("{what} …"), false);
    }

    /// What there is to beat.
    pub fn rivals(&mut self, rivals: &[(String, f64)]) {
        let costs: Vec<String> = rivals.iter().map(|(name, cost)| format!("{name} {cost:.3}")).collect();
        self.line(&format!("validation costs to beat: {}", costs.join(", ")), true);
    }

    /// A generation has ended.
    pub fn generation(&mut self, trainer: &Trainer, row: &Row, elapsed_s: f64, budget_s: f64, per_generation_s: f64) {
        self.validation = row.validation.or(self.validation);
        let (share, left_s) = match trainer.options().generations {
            _ if trainer.is_done() => (1.0, 0.0),
            Some(all) => {
                (row.generation as f64 / all as f64, all.saturating_sub(row.generation) as f64 * per_generation_s)
            }
            None => (elapsed_s / budget_s, budget_s - elapsed_s),
        };
        let filled = ((share.clamp(0.0, 1.0) * BAR_CELLS as f64).round() as usize).min(BAR_CELLS);
        let bar = format!("{}{}", "█".repeat(filled), "░".repeat(BAR_CELLS - filled));
        let against = trainer.rivals().iter().map(|(name, cost)| {
            let difference =
                self.validation.map_or("–".to_owned(), |validation| format!("{:+.3}", validation - cost));
            format!("{name} {difference}")
        });
        let against: Vec<String> = against.collect();
        let text = format!(
            "{bar} generation {} ({})  lessons {:+.3} to prior  validation {}: to {}  ETA {}",
            row.generation,
            row.kind,
            row.candidates - row.prior,
            self.validation.map_or("–".to_owned(), |cost| format!("{cost:.3}")),
            against.join(", "),
            minutes(left_s),
        );
        self.line(&text, row.validation.is_some());
    }

    /// Nothing more will be said.
    pub fn end(&mut self) {
        if self.rewrites {
            self.write("\r\x1b[2K");
        }
    }

    /// A line; on a terminal, one that does not `stay` is overwritten by the next.
    fn line(&mut self, text: &str, stay: bool) {
        match (self.rewrites, stay) {
            (true, true) => self.write(&format!("\r\x1b[2K{text}\n")),
            (true, false) => self.write(&format!("\r\x1b[2K{text}")),
            (false, _) => self.write(&format!("{text}\n")),
        }
    }

    fn write(&self, text: &str) {
        let mut stderr = std::io::stderr().lock();
        let _ = stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush());
    }
}

fn minutes(seconds: f64) -> String {
    let minutes = (seconds.max(0.0) / 60.0).ceil() as u64;
    if minutes >= 60 { format!("{} h {:02} min", minutes / 60, minutes % 60) } else { format!("{minutes} min") }
}

/// The result of a training.
#[derive(Debug, Serialize)]
pub struct Summary {
    seed: u64,
    generations: u64,
    elapsed_s: f64,
    /// Kind of the best policy, or `prior`.
    winner: &'static str,
    /// Mean costs on the validation scenarios.
    validation_costs: Vec<Cost>,
}

#[derive(Debug, Serialize)]
struct Cost {
    policy: String,
    cost: f64,
    /// Generations that were trained until it was found; absent for who is not trained.
    #[serde(skip_serializing_if = "Option::is_none")]
    generations: Option<u64>,
}

impl Summary {
    /// Of a training that took so long.
    pub fn new(trainer: &Trainer, elapsed_s: f64) -> Self {
        let rivals =
            trainer.rivals().iter().map(|(name, cost)| Cost { policy: name.clone(), cost: *cost, generations: None });
        let bests = trainer.bests().iter().map(|best| Cost {
            policy: best.kind.name().to_owned(),
            cost: best.cost,
            generations: Some(best.generations),
        });
        Self {
            seed: trainer.options().seed,
            generations: trainer.history().last().map_or(0, |row| row.generation),
            elapsed_s,
            winner: trainer.best().map_or("prior", |best| best.kind.name()),
            validation_costs: rivals.chain(bests).collect(),
        }
    }

    /// For people.
    pub fn lines(&self, out: &Path) -> Vec<String> {
        let mut lines = vec![format!("{} generations in {}", self.generations, minutes(self.elapsed_s))];
        for Cost { policy, cost, generations } in &self.validation_costs {
            let after = generations.map_or(String::new(), |generations| format!("  after {generations} generations"));
            lines.push(format!("  {policy:<14} validation cost {cost:.4}{after}"));
        }
        lines.push(format!("best: {}, in {}", self.winner, out.join("best.safetensors").display()));
        lines
    }
}

/// The tables of an evaluation, as Markdown.
pub fn tables(columns: &[Column]) -> Vec<String> {
    let mut lines = Vec::new();
    let interval = |estimate: &Estimate| match (estimate.low, estimate.high) {
        (Some(low), Some(high)) => format!("{:.3} [{low:.3}, {high:.3}]", estimate.value),
        _ => format!("{:.3}", estimate.value),
    };
    let signed = |estimate: &Estimate| match (estimate.low, estimate.high) {
        (Some(low), Some(high)) => format!("{:+.3} [{low:+.3}, {high:+.3}]", estimate.value),
        _ => format!("{:+.3}", estimate.value),
    };
    let mut table = |title: &str, of: &dyn Fn(&Cell) -> String| {
        let names: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
        lines.push(format!("| {title} | {} |", names.join(" | ")));
        lines.push(format!("|---|{}", "---|".repeat(names.len())));
        let rows = columns.first().map_or(0, |column| column.families.len());
        let row = |name: &str, cells: Vec<String>| format!("| {name} | {} |", cells.join(" | "));
        for index in 0..rows {
            let cells = columns.iter().map(|column| of(&column.families[index])).collect();
            lines.push(row(&columns[0].families[index].family, cells));
        }
        lines.push(row("**all but overload**", columns.iter().map(|column| of(&column.below_capacity)).collect()));
        lines.push(row("**all**", columns.iter().map(|column| of(&column.all)).collect()));
        lines.push(String::new());
    };
    table("p99 ÷ bound's [95 %]", &|cell| interval(&cell.p99_ratio));
    table("p99 ÷ prior's, paired", &|cell| interval(&cell.p99_to_prior));
    table("p50 ÷ bound's", &|cell| interval(&cell.p50_ratio));
    table("cost", &|cell| interval(&cell.cost));
    table("cost less prior's, paired", &|cell| signed(&cell.cost_to_prior));
    table("errors, %", &|cell| format!("{:.3}", 100.0 * cell.errors));
    table("goodput, %", &|cell| format!("{:.2}", 100.0 * cell.goodput));
    for column in columns {
        lines.push(format!(
            "{}: put aside as unfamiliar at {:.2} % of the ticks ({:.2} % in the worst family)",
            column.name,
            100.0 * column.unfamiliar_ticks,
            100.0 * column.unfamiliar_ticks_max
        ));
    }
    lines
}
