//! What the live terminal shows at one moment, as plain text lines: a pure function of a snapshot of both worlds.

use std::time::Duration;

use comfy_table::{Attribute, Cell, CellAlignment, Color, Table, presets};
use trimtab_controller::view::EndpointState;

use super::score::Summary;

/// A snapshot of everything that is shown.
#[derive(Debug, Clone, Default)]
pub struct Frame {
    /// Time since the start of the load.
    pub elapsed: Duration,
    /// Length of the story.
    pub length: Duration,
    /// Number (from 1), name and description of the chapter; `None` between chapters.
    pub chapter: Option<(usize, &'static str, &'static str)>,
    /// How many chapters there are.
    pub chapters: usize,
    /// Trimtab's world, then the baseline's.
    pub worlds: Vec<WorldFrame>,
    /// One row a pod.
    pub pods: Vec<PodRow>,
    /// What Trimtab's guard does at present, newest tick.
    pub guard: Vec<String>,
    /// What happened to the pods, oldest first.
    pub happened: Vec<String>,
    /// Where to see more.
    pub dashboard: Option<String>,
}

/// One world in figures, over the last seconds.
#[derive(Debug, Clone)]
pub struct WorldFrame {
    /// Its algorithm.
    pub name: &'static str,
    /// How its load fared lately.
    pub recent: Summary,
    /// Requests that wait for an answer.
    pub in_flight: u64,
}

/// One pod in both worlds.
#[derive(Debug, Clone)]
pub struct PodRow {
    /// Its name.
    pub name: String,
    /// Its speed.
    pub speed: f64,
    /// What is wrong with it; empty where nothing is.
    pub trouble: String,
    /// In Trimtab's world, then in the baseline's; `None` where the controller does not know it yet.
    pub sides: Vec<Option<Side>>,
}

/// What one world makes of a pod.
#[derive(Debug, Clone)]
pub struct Side {
    /// Share of the requests, 0..=1.
    pub share: f64,
    /// Applied weight, 0..=1.
    pub weight: f64,
    /// 99th percentile of its latency.
    pub latency_ms_p99: Option<f64>,
    /// What the controller says of it.
    pub state: EndpointState,
}

/// Columns and rows that a frame needs.
pub const SIZE_MIN: (u16, u16) = (80, 24);

impl Frame {
    /// The lines for a terminal with this many rows; each is at most 80 columns wide.
    pub fn lines(&self, rows: u16, colour: bool) -> Vec<String> {
        let mut lines = vec![self.progress(), self.what()];
        lines.extend(self.world_lines(colour));
        lines.push(String::new());
        lines.extend(self.pod_lines(colour));
        let footer = match &self.dashboard {
            Some(url) => format!(" dashboard {url}   Ctrl-C stops and sums up"),
            None => " Ctrl-C stops and sums up".to_owned(),
        };
        let room = usize::from(rows).saturating_sub(lines.len() + 1);
        let guard_rows = if self.guard.is_empty() { 0 } else { (room / 2).max(1).min(self.guard.len()) };
        lines.extend(self.guard.iter().take(guard_rows).map(|action| clip(&format!(" guard: {action}"))));
        let happened_rows = room.saturating_sub(guard_rows).min(self.happened.len());
        let happened = self.happened.iter().skip(self.happened.len() - happened_rows);
        lines.extend(happened.map(|event| clip(&format!(" {event}"))));
        lines.truncate(usize::from(rows).saturating_sub(1));
        lines.push(clip(&footer));
        lines
    }

    fn progress(&self) -> String {
        const WIDTH: usize = 20;
        let done = self.elapsed.as_secs_f64() / self.length.as_secs_f64().max(1e-9);
        let filled = (done.clamp(0.0, 1.0) * WIDTH as f64).round() as usize;
        let bar = format!("{}{}", "█".repeat(filled), "░".repeat(WIDTH - filled));
        let title = match self.chapter {
            Some((number, name, _)) => format!("chapter {number} of {}: {name}", self.chapters),
            None => "between chapters".to_owned(),
        };
        let (elapsed_s, length_s) = (self.elapsed.as_secs_f64(), self.length.as_secs_f64());
        clip(&format!(" trimtab demo  {bar} {elapsed_s:>3.0} / {length_s:.0} s  {title}"))
    }

    fn what(&self) -> String {
        clip(&match self.chapter {
            Some((_, _, what)) => format!(" {what}"),
            None => " queues drain, averages settle; nothing counts".to_owned(),
        })
    }

    fn world_lines(&self, colour: bool) -> Vec<String> {
        let mut table = table(colour);
        table.set_header(header(["last 5 s", "p50 ms", "p99 ms", "goodput/s", "in time", "errors", "in flight"]));
        for (index, world) in self.worlds.iter().enumerate() {
            let recent = &world.recent;
            let errors = Cell::new(percent(recent.error_share));
            table.add_row(vec![
                Cell::new(format!("{:<19}", world.name)).fg(if index == 0 { Color::Cyan } else { Color::Yellow }),
                Cell::new(ms(recent.latency_ms_p50)),
                Cell::new(ms(recent.latency_ms_p99)),
                Cell::new(format!("{:.0}", recent.goodput_rps)),
                Cell::new(percent(recent.goodput_share)),
                if recent.error_share > 0.005 { errors.fg(Color::Red) } else { errors },
                Cell::new(world.in_flight),
            ]);
        }
        align(&mut table, &[0]);
        table.lines().collect()
    }

    fn pod_lines(&self, colour: bool) -> Vec<String> {
        let mut table = table(colour);
        let name = |index: usize| self.worlds.get(index).map_or("", |world| world.name);
        let groups = format!("{:29}{:<33}{}", "", name(0), name(1));
        table.set_header(header(["pod", "speed", "trouble", "share", "weight", "p99 ms", "state", "share", "p99 ms"]));
        for pod in &self.pods {
            let mut row = vec![
                Cell::new(format!("{:<7}", pod.name)),
                Cell::new(format!("{}x", pod.speed)),
                Cell::new(format!("{:<9}", pod.trouble)).fg(Color::Red),
            ];
            match pod.sides.first().and_then(Option::as_ref) {
                Some(side) => {
                    let state = Cell::new(format!("{:<10}", state_name(side.state)));
                    row.extend([
                        Cell::new(percent(side.share)),
                        Cell::new(percent(side.weight)),
                        Cell::new(ms(side.latency_ms_p99)),
                        if side.state == EndpointState::Active { state } else { state.fg(Color::Magenta) },
                    ]);
                }
                None => row.extend(["-", "-", "-"].map(Cell::new).into_iter().chain([Cell::new(format!("{:10}", ""))])),
            }
            match pod.sides.get(1).and_then(Option::as_ref) {
                Some(side) => row.extend([Cell::new(percent(side.share)), Cell::new(ms(side.latency_ms_p99))]),
                None => row.extend(["-", "-"].map(Cell::new)),
            }
            table.add_row(row);
        }
        align(&mut table, &[0, 2, 6]);
        std::iter::once(clip(&groups)).chain(table.lines()).collect()
    }
}

fn table(colour: bool) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    if colour {
        table.enforce_styling()
    } else {
        table.force_no_tty()
    };
    table
}

fn header<const N: usize>(names: [&str; N]) -> Vec<Cell> {
    names.map(|name| Cell::new(name).add_attribute(Attribute::Dim)).to_vec()
}

/// Numbers to the right, the named columns to the left.
fn align(table: &mut Table, left: &[usize]) {
    for (index, column) in table.column_iter_mut().enumerate() {
        if !left.contains(&index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

fn clip(line: &str) -> String {
    line.chars().take(usize::from(SIZE_MIN.0)).collect()
}

/// Milliseconds for people.
pub fn ms(value: Option<f64>) -> String {
    match value {
        Some(ms) if ms < 10.0 => format!("{ms:.1}"),
        Some(ms) => format!("{ms:.0}"),
        None => "-".to_owned(),
    }
}

/// A share for people.
pub fn percent(share: f64) -> String {
    let percent = share * 100.0;
    if percent > 0.0 && percent < 9.95 { format!("{percent:.1} %") } else { format!("{percent:.0} %") }
}

const fn state_name(state: EndpointState) -> &'static str {
    match state {
        EndpointState::Active => "",
        EndpointState::SlowStart => "slow start",
        EndpointState::PartlyEjected => "ejected",
        EndpointState::Ejected => "ejected",
        EndpointState::Unhealthy => "unhealthy",
        EndpointState::Draining => "draining",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame() -> Frame {
        let recent = Summary {
            requests: 12_345,
            latency_ms_p50: Some(1234.5),
            latency_ms_p99: Some(12_345.6),
            goodput_rps: 1234.5,
            goodput_share: 1.0,
            error_share: 0.1234,
            shed_share: 0.1,
        };
        let side = Side { share: 0.123, weight: 1.0, latency_ms_p99: Some(12_345.0), state: EndpointState::SlowStart };
        Frame {
            elapsed: Duration::from_secs(42),
            length: Duration::from_secs(90),
            chapter: Some((2, "noisy neighbour", "a neighbour takes most of the CPU of two pods, then of two others")),
            chapters: 5,
            worlds: ["trimtab", "weighted-round-robin"]
                .map(|name| WorldFrame { name, recent, in_flight: 1234 })
                .to_vec(),
            pods: (1..=12)
                .map(|n| PodRow {
                    name: format!("pod-{n}.1"),
                    speed: 4.0,
                    trouble: "cold ×6.0".to_owned(),
                    sides: vec![Some(side.clone()), (n != 3).then(|| side.clone())],
                })
                .collect(),
            guard: vec!["slow start of 127.0.0.1:40001: wanted 0.12, allowed 0.03".repeat(3); 9],
            happened: (0..9).map(|n| format!("{n} s  pod-1, pod-2: {}", "something ".repeat(9))).collect(),
            dashboard: Some("http://127.0.0.1:9900/".to_owned()),
        }
    }

    #[track_caller]
    fn check_fits(frame: &Frame, rows: u16) {
        let lines = frame.lines(rows, false);
        let text = lines.join("\n");
        assert!(lines.len() <= usize::from(rows), "{} lines in {rows} rows\n{text}", lines.len());
        for line in &lines {
            let columns = line.chars().count();
            assert!(columns <= usize::from(SIZE_MIN.0), "{columns} columns: {line:?}\n{text}");
        }
        assert!(lines.last().unwrap().contains("Ctrl-C"), "{text}");
    }

    #[test]
    fn a_full_frame_fits_a_classic_terminal_and_others() {
        for rows in [1, 5, 24, 25, 40, 200] {
            check_fits(&frame(), rows);
        }
        check_fits(&Frame::default(), 24);
    }

    #[test]
    fn a_classic_terminal_shows_every_pod_and_the_guard() {
        let text = frame().lines(SIZE_MIN.1, false).join("\n");
        assert!(text.contains("pod-12.1") && text.contains("guard: slow start"), "{text}");
    }

    #[test]
    fn a_larger_terminal_tells_more_of_what_happened() {
        let told = |rows| frame().lines(rows, false).iter().filter(|line| line.contains("something")).count();
        assert!(told(40) > told(24), "{} and {}", told(40), told(24));
    }

    #[test]
    fn colour_is_left_out_where_it_is_not_wanted() {
        assert!(!frame().lines(24, false).concat().contains('\u{1b}'));
        assert!(frame().lines(24, true).concat().contains('\u{1b}'));
    }

    #[test]
    fn shares_and_times_read_well() {
        assert_eq!([0.0, 0.0012, 0.083, 0.5, 1.0].map(percent), ["0 %", "0.1 %", "8.3 %", "50 %", "100 %"]);
        assert_eq!([Some(1.25), Some(99.6), None].map(ms), ["1.2", "100", "-"]);
    }
}
