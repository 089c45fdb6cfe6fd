//! Results as the tables of docs/simulation.md: the first policy against bounds and rivals, a row a cell, and what that comes to.

use trimtab_training::contest::Role;
use trimtab_training::report::{Baseline, Cell, Interval, Metric, Results};
use trimtab_training::scenario::Family;

use super::Report;

/// The bound that knows classes, costs, counts and speeds.
const EXPECTED_DELAY: &str = "shortest-expected-delay";

/// Everything that was measured.
pub fn all(report: &Report<'_>) -> Vec<String> {
    let tables = Tables::new(report);
    let (overload, others): (Vec<&Cell>, Vec<&Cell>) =
        report.results.grid.cells.iter().partition(|cell| cell.family.is_overload());
    let mut lines = vec![format!("p99 of {}; {}.", tables.name(tables.ours), super::tables::seeds(report))];
    if !others.is_empty() {
        lines.push(String::new());
        lines.extend(tables.cells(&others));
        lines.push(String::new());
        lines.extend(tables.means(&others));
    }
    if !overload.is_empty() {
        lines.push(String::new());
        lines.extend(tables.goodput(&overload));
    }
    lines
}

struct Tables<'a> {
    results: &'a Results<'a>,
    ours: usize,
    /// What p99 is told as a ratio to, and the name of that: bounds that ran.
    bounds: Vec<(&'static str, Baseline)>,
    rivals: Vec<usize>,
}

impl<'a> Tables<'a> {
    fn new(report: &Report<'a>) -> Self {
        let results = report.results;
        let roles: Vec<Role> = results.policies.iter().map(|policy| policy.role()).collect();
        let mut bounds = Vec::new();
        if roles.contains(&Role::Clairvoyant) {
            bounds.push(("best bound", Baseline::BestBound { clairvoyant: true }));
        }
        if roles.contains(&Role::Bound) {
            bounds.push(("best nonclairvoyant", Baseline::BestBound { clairvoyant: false }));
        }
        let named = results.policies.iter().position(|policy| policy.name() == EXPECTED_DELAY);
        bounds.extend(named.map(|number| ("expected delay", Baseline::Policy(number))));
        let rivals = report.shown.iter().copied().filter(|policy| roles[*policy] == Role::Rival).collect();
        Self { results, ours: report.shown.first().copied().unwrap_or_default(), bounds, rivals }
    }

    fn name(&self, policy: usize) -> &str {
        self.results.policies[policy].name()
    }

    /// Of p99 to a bound, over cells.
    fn to_bound(&self, wanted: impl Fn(&Cell) -> bool, baseline: Baseline) -> Option<Interval> {
        let Results { grid, policies, runs, .. } = *self.results;
        Results { grid, policies, baseline, runs }.over(wanted, self.ours, Metric::P99)
    }

    fn errors(&self, cell: &Cell, policy: usize) -> String {
        let share = self.results.over(|other| other == cell, policy, Metric::Errors);
        share.map_or_else(dash, |share| format!("{:.2}", share.mean))
    }

    fn cells(&self, cells: &[&Cell]) -> Vec<String> {
        let bounds = self.bounds.iter().map(|(name, _)| format!("p99 ÷ {name}"));
        let mut header: Vec<String> = [of_cells(cells)].into_iter().chain(bounds).collect();
        let rival = ["best rival", "p99 ÷ its", "p50 ÷ its", "mean ÷ its", "errors, its, %"];
        header.extend(rival.map(str::to_owned));
        let mut lines = heading(&header);
        for cell in cells {
            let only = |other: &Cell| other == *cell;
            let mut row = vec![name_of(cell, cells)];
            row.extend(self.bounds.iter().map(|(_, baseline)| with_interval(self.to_bound(only, *baseline))));
            if let Some(rival) = self.results.best_rival(cell) {
                let versus = |metric| self.results.versus(only, self.ours, rival, metric);
                row.extend([self.name(rival).to_owned(), with_interval(versus(Metric::P99))]);
                row.extend([mean(versus(Metric::P50)), mean(versus(Metric::Mean))]);
                row.push(format!("{}, {}", self.errors(cell, self.ours), self.errors(cell, rival)));
            } else {
                row.extend([dash(), dash(), dash(), dash(), self.errors(cell, self.ours)]);
            }
            lines.push(line(&row));
        }
        lines
    }

    /// Geometric means over families, for each size and load; for each number of proxies, too, where there are several.
    fn means(&self, cells: &[&Cell]) -> Vec<String> {
        let bounds = self.bounds.iter().map(|(name, _)| (*name).to_owned());
        let mut header = vec!["geometric means of p99 ÷".to_owned()];
        header.extend(bounds);
        header.push("best rival of the row".to_owned());
        header.extend(self.rivals.iter().map(|rival| self.name(*rival).to_owned()));
        let mut lines = heading(&header);
        let several = differ(cells, |cell| cell.proxies);
        for group in groups(cells, several) {
            let of = |cell: &Cell| group.holds(cell);
            let mut row = vec![group.name(cells)];
            row.extend(self.bounds.iter().map(|(_, baseline)| with_interval(self.to_bound(of, *baseline))));
            row.push(self.to_best_rivals(cells, &of));
            row.extend(self.rivals.iter().map(|rival| mean(self.results.versus(of, self.ours, *rival, Metric::P99))));
            lines.push(line(&row));
        }
        lines
    }

    /// The geometric mean over cells, each against its own best rival.
    fn to_best_rivals(&self, cells: &[&Cell], wanted: &dyn Fn(&Cell) -> bool) -> String {
        let logarithms: Option<Vec<f64>> = cells
            .iter()
            .filter(|cell| wanted(cell))
            .map(|cell| {
                let rival = self.results.best_rival(cell)?;
                let ratio = self.results.versus(|other| other == *cell, self.ours, rival, Metric::P99)?;
                Some(ratio.mean.ln())
            })
            .collect();
        let mean = |all: Vec<f64>| format!("{:.2}", (all.iter().sum::<f64>() / all.len() as f64).exp());
        logarithms.filter(|all| !all.is_empty()).map_or_else(dash, mean)
    }

    fn goodput(&self, cells: &[&Cell]) -> Vec<String> {
        let mut lines = heading(&[of_cells(cells), "goodput, %".to_owned(), "best rival".to_owned(), "its".to_owned()]);
        for cell in cells {
            let share = |policy| {
                let share = self.results.over(|other| other == *cell, policy, Metric::Goodput);
                share.map_or_else(dash, |share| format!("{:.1}", share.mean))
            };
            let rival = self.results.best_rival(cell);
            let (name, its) =
                rival.map_or_else(|| (dash(), dash()), |rival| (self.name(rival).to_owned(), share(rival)));
            lines.push(line(&[name_of(cell, cells), share(self.ours), name, its]));
        }
        lines
    }
}

/// Cells whose mean is told.
struct Group {
    testing: bool,
    endpoints: usize,
    load: Option<f64>,
    /// `None`: all of them.
    proxies: Option<usize>,
}

impl Group {
    fn holds(&self, cell: &Cell) -> bool {
        is_testing(cell) == self.testing
            && (cell.endpoints, cell.load) == (self.endpoints, self.load)
            && !cell.family.is_overload()
            && self.proxies.is_none_or(|proxies| proxies == cell.proxies)
    }

    fn name(&self, cells: &[&Cell]) -> String {
        let mut name = if self.testing { "testing families" } else { "training families" }.to_owned();
        if let Some(proxies) = self.proxies {
            name += &format!(", {proxies}");
        }
        name + &setting(self.endpoints, self.load, cells)
    }
}

fn groups(cells: &[&Cell], several: bool) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for cell in cells {
        for proxies in [None, Some(cell.proxies)].into_iter().filter(|proxies| several || proxies.is_none()) {
            let group = Group { testing: is_testing(cell), endpoints: cell.endpoints, load: cell.load, proxies };
            if !groups.iter().any(|known| known.holds(cell) && known.proxies == proxies) {
                groups.push(group);
            }
        }
    }
    groups.sort_by_key(|group| (group.proxies.is_some(), group.endpoints, group.testing, group.proxies));
    groups
}

fn is_testing(cell: &Cell) -> bool {
    Family::TESTING.contains(&cell.family)
}

fn differ<T: PartialEq>(cells: &[&Cell], of: impl Fn(&Cell) -> T) -> bool {
    cells.windows(2).any(|pair| of(pair[0]) != of(pair[1]))
}

/// What names of cells say.
fn of_cells(cells: &[&Cell]) -> String {
    let mut name = "family, proxies".to_owned();
    if differ(cells, |cell| cell.endpoints) {
        name += ", endpoints";
    }
    if differ(cells, |cell| cell.load) {
        name += ", load";
    }
    name
}

fn name_of(cell: &Cell, cells: &[&Cell]) -> String {
    format!("{}, {}{}", cell.family.name(), cell.proxies, setting(cell.endpoints, cell.load, cells))
}

/// Number of endpoints and load, where they differ.
fn setting(endpoints: usize, load: Option<f64>, cells: &[&Cell]) -> String {
    let mut text = String::new();
    if differ(cells, |cell| cell.endpoints) {
        text += &format!(", {endpoints}");
    }
    if differ(cells, |cell| cell.load) {
        text += &format!(", {}", load.map_or_else(|| "drawn".to_owned(), |load| load.to_string()));
    }
    text
}

fn heading(names: &[String]) -> Vec<String> {
    vec![line(names), format!("|{}", "---|".repeat(names.len()))]
}

fn line(cells: &[String]) -> String {
    format!("| {} |", cells.join(" | "))
}

fn with_interval(value: Option<Interval>) -> String {
    match value {
        Some(Interval { mean, bounds: Some((low, high)) }) => format!("{mean:.2} [{low:.2}, {high:.2}]"),
        value => mean(value),
    }
}

fn mean(value: Option<Interval>) -> String {
    value.map_or_else(dash, |value| format!("{:.2}", value.mean))
}

/// Where runs failed, answered nothing, or there is nobody to compare with.
fn dash() -> String {
    "–".to_owned()
}
