//! How far a simulation is, on standard error: one line that is written again on a terminal, now and then a line elsewhere.

use std::io::{IsTerminal, Write};
use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use trimtab_training::report::Progress;

use super::arguments::ProgressWhen;

/// Between two updates on a terminal, and between two lines elsewhere.
const ON_TERMINAL: Duration = Duration::from_millis(200);
const ELSEWHERE: Duration = Duration::from_secs(10);
const BAR: usize = 30;

/// Shows progress, if it is wanted.
pub struct Meter {
    shown: bool,
    terminal: bool,
    jobs: NonZeroUsize,
    started: Instant,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    told: Option<Instant>,
    last: Option<Progress>,
}

impl Meter {
    /// A line of its own, if progress is shown.
    pub fn note(&self, text: &str) {
        if self.shown {
            let _ = writeln!(std::io::stderr(), "{text}");
        }
    }

    /// Begins to count time.
    pub fn start(when: ProgressWhen, jobs: NonZeroUsize) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let shown = match when {
            ProgressWhen::Auto => terminal,
            ProgressWhen::Always => true,
            ProgressWhen::Never => false,
        };
        Self { shown, terminal, jobs, started: now(), state: Mutex::default() }
    }

    /// A run has ended.
    pub fn tell(&self, progress: &Progress) {
        if !self.shown {
            return;
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.last = Some(*progress);
        let now = now();
        let pause = if self.terminal { ON_TERMINAL } else { ELSEWHERE };
        if state.told.is_none_or(|told| now - told >= pause) {
            state.told = Some(now);
            let line = line(progress, now - self.started);
            self.write(&if self.terminal { format!("\r\x1b[K{line}") } else { format!("{line}\n") });
        }
    }

    /// All runs have ended: says what they took.
    pub fn end(&self) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Progress { runs, requests, .. }) = state.last.filter(|_| self.shown) {
            let elapsed_s = (now() - self.started).as_secs_f64();
            let clear = if self.terminal { "\r\x1b[K" } else { "" };
            self.write(&format!(
                "{clear}{runs} runs, {} million requests in {}, {:.2} million a second on {} threads\n",
                (requests / 1e6).round(),
                duration(elapsed_s),
                requests / 1e6 / elapsed_s.max(1e-3),
                self.jobs
            ));
        }
    }

    fn write(&self, text: &str) {
        // Nobody listening is no reason to stop.
        let _ = std::io::stderr().lock().write_all(text.as_bytes());
    }
}

#[expect(clippy::disallowed_methods, reason = "how long people wait is told by a real clock")]
fn now() -> Instant {
    Instant::now()
}

fn line(progress: &Progress, elapsed: Duration) -> String {
    let Progress { runs_done, runs, requests_done, requests } = *progress;
    let share = if requests > 0.0 { (requests_done / requests).clamp(0.0, 1.0) } else { 1.0 };
    let full = (share * BAR as f64).round() as usize;
    let left_s = elapsed.as_secs_f64() * (1.0 - share) / share.max(1e-6);
    format!(
        "[{}{}] {runs_done}/{runs} runs  {:.0} %  {} left",
        "=".repeat(full),
        " ".repeat(BAR - full),
        100.0 * share,
        duration(left_s)
    )
}

fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 10.0 => format!("{s:.1} s"),
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7_200.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3_600.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_that_is_left_is_judged_by_requests_not_by_runs() {
        let progress = Progress { runs_done: 1, runs: 4, requests_done: 50.0, requests: 100.0 };
        let text = line(&progress, Duration::from_secs(60));
        assert!(text.contains("1/4 runs") && text.contains("50 %") && text.ends_with("60 s left"), "{text}");
    }
}
