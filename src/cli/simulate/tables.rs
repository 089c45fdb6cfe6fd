//! Results as tables for people.

use comfy_table::{CellAlignment, Table, presets};
use trimtab_training::contest::{self, Role};
use trimtab_training::report::{Baseline, Cell, Interval, Metric};
use trimtab_training::scenario::Family;

use super::{Report, has_overload};

/// Up to so many runs, each is listed with its fingerprint.
const RUNS_LISTED: usize = 12;
/// Policies beside each other; more go into another table.
const COLUMNS: usize = 8;
/// An interval with half a width beyond this share of the mean is told by its ends.
const WIDE: f64 = 0.2;
/// Shares that round to less in every column are left out.
const PERCENT_SHOWN: f64 = 0.005;

/// Families and policies, a line each.
pub fn list() -> Vec<String> {
    let mut lines = vec!["families (--family)".to_owned()];
    lines.extend(Family::ALL.map(|family| format!("  {:<19} {}", family.name(), family.describe())));
    let everyone = contest::all();
    for (role, title) in [
        (Role::Ours, "ours (--policy)"),
        (Role::Rival, "rivals (--policy)"),
        (Role::Bound, "omniscient bounds (--policy, --baseline)"),
        (Role::Clairvoyant, "bounds that know the size of every request in advance as well (--policy, --baseline)"),
        (Role::Ceiling, "more than a dispatcher can do (--policy)"),
    ] {
        let those: Vec<_> = everyone.iter().filter(|policy| policy.role() == role).collect();
        if !those.is_empty() {
            lines.push(String::new());
            lines.push(title.to_owned());
            lines.extend(those.iter().map(|policy| format!("  {:<31} {}", policy.name(), policy.describe())));
        }
    }
    lines
}

/// Everything that was measured.
pub fn all(report: &Report<'_>) -> Vec<String> {
    let mut lines = vec![format!("{}; {}", seeds(report), base(report))];
    for metric in Metric::ALL {
        for shown in report.shown.chunks(COLUMNS) {
            if let Some(table) = of_metric(report, shown, metric) {
                lines.extend([String::new(), title(report, metric), table]);
            }
        }
    }
    if let Some((&ours, others)) = report.shown.split_first() {
        for others in others.chunks(COLUMNS) {
            let (title, table) = paired(report, ours, others);
            lines.extend([String::new(), title, table]);
        }
    }
    let asked_for = report.results.runs.iter().filter(|run| report.shown.contains(&run.policy)).count();
    if report.args.runs || asked_for <= RUNS_LISTED {
        lines.extend([String::new(), "runs".to_owned(), runs(report)]);
    }
    lines
}

/// What the numbers are of.
pub fn seeds(report: &Report<'_>) -> String {
    let first = report.results.grid.seeds.start;
    let count = report.results.grid.seed_count();
    let intervals = if count > 1 { "with 95 % intervals" } else { "without intervals" };
    let plural = if count == 1 { "seed" } else { "seeds" };
    format!("{count} {plural} from {first} on, {intervals}")
}

/// What latencies are told as.
pub fn base(report: &Report<'_>) -> String {
    match report.results.baseline {
        Baseline::Absolute => "latencies in ms".to_owned(),
        Baseline::Policy(number) => format!("latencies as ratios to {}", report.policy(number).name()),
        Baseline::BestBound { clairvoyant: true } => {
            "latencies as ratios to the best omniscient bound of each run".to_owned()
        }
        Baseline::BestBound { clairvoyant: false } => {
            "latencies as ratios to the best omniscient bound of each run that does not know sizes in advance"
                .to_owned()
        }
    }
}

fn title(report: &Report<'_>, metric: Metric) -> String {
    match (metric.is_latency(), report.results.baseline) {
        (false, _) => format!("{}, %", metric.name()),
        (true, Baseline::Absolute) => format!("{}, ms", metric.name()),
        (true, Baseline::Policy(number)) => format!("{} / {}'s", metric.name(), report.policy(number).name()),
        (true, Baseline::BestBound { .. }) => format!("{} / bound's", metric.name()),
    }
}

/// A row for each cell and one for their mean; shares that are nothing everywhere have no row.
fn of_metric(report: &Report<'_>, shown: &[usize], metric: Metric) -> Option<String> {
    let results = report.results;
    let mut table = new_table(shown.iter().map(|policy| report.policy(*policy).name()));
    let mut rows = 0;
    for cell in &results.grid.cells {
        let values: Vec<_> = shown.iter().map(|policy| results.over(|other| other == cell, *policy, metric)).collect();
        let nothing = |value: &Option<Interval>| value.is_some_and(|value| value.mean.abs() < PERCENT_SHOWN);
        if matches!(metric, Metric::Errors | Metric::Shed) && values.iter().all(nothing) {
            continue;
        }
        rows += 1;
        table.add_row(names_of(cell).into_iter().chain(values.into_iter().map(|value| text(value, metric))));
    }
    if rows > 1 {
        let (name, wanted) = mean_of(&results.grid.cells, metric);
        let values = shown.iter().map(|policy| text(results.over(wanted, *policy, metric), metric));
        table.add_row([name.to_owned(), String::new(), String::new(), String::new()].into_iter().chain(values));
    }
    (rows > 0).then(|| table.trim_fmt())
}

/// What the last row is the mean of: where load is more than can be served, who sheds answers other requests than who does not.
fn mean_of(cells: &[Cell], metric: Metric) -> (&'static str, fn(&Cell) -> bool) {
    if metric.is_latency() && has_overload(cells) && !cells.iter().all(|cell| cell.family.is_overload()) {
        ("ALL BUT OVERLOAD", |cell| !cell.family.is_overload())
    } else {
        ("ALL", |_| true)
    }
}

/// The first policy against each of the others, run by run; the last column names the best rival of each row.
fn paired(report: &Report<'_>, ours: usize, others: &[usize]) -> (String, String) {
    let results = report.results;
    let names = others.iter().map(|policy| report.policy(*policy).name());
    let mut table = new_table(names.chain(["best rival"]));
    let against = |wanted: &dyn Fn(&Cell) -> bool, theirs: usize, metric: Metric| {
        let value = results.versus(wanted, ours, theirs, metric);
        if metric.is_latency() { text(value, metric) } else { points(value) }
    };
    for cell in &results.grid.cells {
        let metric = if cell.family.is_overload() { Metric::Goodput } else { Metric::P99 };
        let only = |other: &Cell| other == cell;
        let mut row = names_of(cell).to_vec();
        row.extend(others.iter().map(|theirs| against(&only, *theirs, metric)));
        row.push(results.best_rival(cell).filter(|best| *best != ours).map_or_else(String::new, |best| {
            format!("{} {}", against(&only, best, metric), report.policy(best).name())
        }));
        table.add_row(row);
    }
    if results.grid.cells.len() > 1 {
        let (name, wanted) = mean_of(&results.grid.cells, Metric::P99);
        let mut row = vec![name.to_owned(), String::new(), String::new(), String::new()];
        row.extend(others.iter().map(|theirs| against(&wanted, *theirs, Metric::P99)));
        row.push(String::new());
        table.add_row(row);
    }
    let mut title = format!("p99 of {} / p99 of each other, on the same requests", report.policy(ours).name());
    if has_overload(&results.grid.cells) {
        title += " (with overload: goodput minus the other's, in points)";
    }
    (title, table.trim_fmt())
}

fn runs(report: &Report<'_>) -> String {
    let results = report.results;
    let mut table =
        new_table(["SEED", "POLICY", "REQUESTS", "P50 MS", "P99 MS", "ERRORS %", "FINGERPRINT"].into_iter());
    for run in results.runs.iter().filter(|run| report.shown.contains(&run.policy)) {
        let cell = &results.grid.cells[run.cell];
        let mut row = names_of(cell).to_vec();
        row.extend([run.seed.to_string(), report.policy(run.policy).name().to_owned()]);
        match &run.result {
            Ok(summary) => row.extend([
                summary.arrived.to_string(),
                format!("{:.2}", summary.latency_ms_p50),
                format!("{:.2}", summary.latency_ms_p99),
                format!("{:.2}", Metric::Errors.of(summary)),
                format!("{:016x}", summary.fingerprint),
            ]),
            Err(problem) => row.push(problem.clone()),
        }
        table.add_row(row);
    }
    table.trim_fmt()
}

fn new_table<'a>(columns: impl Iterator<Item = &'a str>) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["FAMILY", "P", "N", "LOAD"].into_iter().chain(columns));
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn names_of(cell: &Cell) -> [String; 4] {
    [
        cell.family.name().to_owned(),
        cell.proxies.to_string(),
        cell.endpoints.to_string(),
        cell.load.map_or_else(|| "drawn".to_owned(), |load| load.to_string()),
    ]
}

/// A value with half of its interval's width, or with the interval where that is wide; a dash where runs failed or answered nothing.
fn text(value: Option<Interval>, metric: Metric) -> String {
    let Some(value) = value else { return "–".to_owned() };
    let digits = match value.mean.abs() {
        _ if matches!(metric, Metric::Goodput | Metric::Shed) => 1,
        mean if mean >= 100.0 => 0,
        mean if mean >= 10.0 => 1,
        // Errors are told to a hundredth of a percent, ratios to a hundredth.
        _ => 2,
    };
    match (value.half_width(), value.bounds) {
        // Intervals of ratios are even in their logarithms: ± would mislead where they are wide.
        (Some(half), Some((low, high))) if metric.is_latency() && half > WIDE * value.mean => {
            format!("{:.digits$} ({low:.digits$}–{high:.digits$})", value.mean)
        }
        (Some(half), _) => format!("{:.digits$} ±{half:.digits$}", value.mean),
        (None, _) => format!("{:.digits$}", value.mean),
    }
}

fn points(value: Option<Interval>) -> String {
    let Some(value) = value else { return "–".to_owned() };
    match value.half_width() {
        Some(half) => format!("{:+.1} ±{half:.1}", value.mean),
        None => format!("{:+.1}", value.mean),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn narrow_intervals_are_told_by_half_their_width_and_wide_ones_by_their_ends() {
        let check =
            |mean, bounds, metric, expected| assert_eq!(text(Some(Interval { mean, bounds }), metric), expected);
        check(1.117, Some((1.08, 1.16)), Metric::P99, "1.12 ±0.04");
        check(1.0, Some((0.5, 2.0)), Metric::P99, "1.00 (0.50–2.00)");
        check(0.0123, Some((0.0, 0.0323)), Metric::Errors, "0.01 ±0.02");
        check(100.0, Some((100.0, 100.0)), Metric::Goodput, "100.0 ±0.0");
        check(62.5, None, Metric::P50, "62.5");
        assert_eq!(text(None, Metric::P99), "–");
    }
}
