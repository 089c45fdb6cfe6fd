//! Every combination of family, proxies, endpoints, load, seed and policy, run on several threads. A run depends on nothing but
//! its own combination, so the results are the same however many threads there are.

use std::{
    fmt,
    num::NonZeroUsize,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use super::kept::{KeptRuns, Task};
use crate::{
    contest::Contest,
    scenario::{Family, Scenario, Setting},
    simulator::{Summary, time::SECOND},
};

/// One row of the tables: everything about a scenario but its seed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cell {
    /// Its family.
    pub family: Family,
    /// Proxies.
    pub proxies: usize,
    /// Endpoints.
    pub endpoints: usize,
    /// Load; `None`: the family draws it from the seed.
    pub load: Option<f64>,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} P{} N{}", self.family.name(), self.proxies, self.endpoints)?;
        self.load.map_or(Ok(()), |load| write!(f, " load {load}"))
    }
}

/// What is to be run.
#[derive(Debug, Clone, PartialEq)]
pub struct Grid {
    /// Rows.
    pub cells: Vec<Cell>,
    /// Each row is run with these.
    pub seeds: Range<u64>,
    /// Measured seconds; `None`: as the family says.
    pub seconds: Option<u64>,
    /// Whether endpoints report what is in flight; `None`: as the family says.
    pub reports_in_flight: Option<bool>,
    /// Whether their metrics tell how many requests they serve at once.
    pub slots_told: bool,
}

/// One run.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// Number of its cell in the grid.
    pub cell: usize,
    /// Its seed.
    pub seed: u64,
    /// Number of its policy.
    pub policy: usize,
    /// What came of it, or what went wrong.
    pub result: Result<Summary, String>,
}

/// How far a grid is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Progress {
    /// Runs that have ended.
    pub runs_done: usize,
    /// Runs in all.
    pub runs: usize,
    /// Simulated requests of the runs that have ended, about.
    pub requests_done: f64,
    /// Simulated requests of all runs, about.
    pub requests: f64,
}

impl Grid {
    /// Every combination, families outermost.
    pub fn product(families: &[Family], proxies: &[usize], endpoints: &[usize], loads: &[Option<f64>]) -> Vec<Cell> {
        let mut cells = Vec::new();
        for &family in families {
            for &proxies in proxies {
                for &endpoints in endpoints {
                    cells.extend(loads.iter().map(|&load| Cell { family, proxies, endpoints, load }));
                }
            }
        }
        cells
    }

    /// The scenario of a cell with a seed.
    pub fn scenario(&self, cell: &Cell, seed: u64) -> Scenario {
        cell.family.scenario(&Setting {
            load: cell.load,
            seconds: self.seconds,
            reports_in_flight: self.reports_in_flight,
            slots_told: self.slots_told,
            ..Setting::new(seed, cell.proxies, cell.endpoints)
        })
    }

    /// Runs every policy through every cell with every seed on `jobs` threads: by cell, then seed, then policy. `tell` hears of
    /// the progress after every run, from any of the threads. A run that fails or panics is told as failed; the others go on. What `kept` holds
    /// is taken from it, and what goes well is added.
    pub fn run(
        &self,
        policies: &[Box<dyn Contest>],
        jobs: NonZeroUsize,
        kept: Option<&KeptRuns>,
        tell: &(dyn Fn(&Progress) + Sync),
    ) -> Vec<Run> {
        let mut tasks = Vec::new();
        for (number, cell) in self.cells.iter().enumerate() {
            for seed in self.seeds.clone() {
                let requests = expected_requests(&self.scenario(cell, seed));
                tasks.extend((0..policies.len()).map(|policy| (number, seed, policy, requests)));
            }
        }
        let all = tasks.iter().map(|task| task.3).sum();
        let progress = Mutex::new(Progress { runs_done: 0, runs: tasks.len(), requests_done: 0.0, requests: all });
        let next = AtomicUsize::new(0);
        let done: Mutex<Vec<(usize, Run)>> = Mutex::new(Vec::with_capacity(tasks.len()));
        let work = || {
            while let Some(&(cell, seed, policy, requests)) = tasks.get(next.fetch_add(1, Ordering::Relaxed)) {
                let result = self.run_or_recall(&*policies[policy], &self.cells[cell], seed, kept);
                let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
                let place = (cell * self.seed_count() + (seed - self.seeds.start) as usize) * policies.len() + policy;
                done.push((place, Run { cell, seed, policy, result }));
                drop(done);
                let mut progress = progress.lock().unwrap_or_else(PoisonError::into_inner);
                progress.runs_done += 1;
                progress.requests_done += requests;
                tell(&progress);
            }
        };
        thread::scope(|scope| {
            for _ in 1..jobs.get().min(tasks.len().max(1)) {
                scope.spawn(work);
            }
            work();
        });
        let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
        done.sort_by_key(|(place, _)| *place);
        done.into_iter().map(|(_, run)| run).collect()
    }

    fn run_or_recall(
        &self,
        policy: &dyn Contest,
        cell: &Cell,
        seed: u64,
        kept: Option<&KeptRuns>,
    ) -> Result<Summary, String> {
        let Some(kept) = kept else {
            return run(policy, &self.scenario(cell, seed));
        };
        let task = Task::new(self, cell, seed, policy.name());
        if let Some(summary) = kept.get(&task) {
            return Ok(summary.clone());
        }
        let summary = run(policy, &self.scenario(cell, seed))?;
        kept.keep(task, &summary);
        Ok(summary)
    }

    /// How many seeds there are.
    pub fn seed_count(&self) -> usize {
        (self.seeds.end - self.seeds.start) as usize
    }
}

/// What a run costs, about: requests until the end of the measured window.
fn expected_requests(scenario: &Scenario) -> f64 {
    scenario.rate_rps * scenario.measured_ns.end as f64 / SECOND as f64
}

fn run(policy: &dyn Contest, scenario: &Scenario) -> Result<Summary, String> {
    // A panic in one of thousands of runs must name that run, not end the others.
    match catch_unwind(AssertUnwindSafe(|| policy.run(scenario))) {
        Ok(Ok(summary)) => Ok(summary),
        Ok(Err(error)) => Err(error.to_string()),
        Err(panic) => {
            let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
            let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
            Err(format!("panicked: {}", text.unwrap_or_else(|| "without a message".into())))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        bounds::Blind,
        contest,
        simulator::{Router, Routing, endpoint::Endpoint, router},
    };

    fn grid() -> Grid {
        let cells = Grid::product(&[Family::Homogeneous, Family::Churn], &[1, 3], &[4], &[Some(0.5)]);
        Grid { cells, seeds: 5..8, seconds: Some(1), reports_in_flight: None, slots_told: true }
    }

    #[test]
    fn results_are_in_order_and_the_same_on_one_thread_and_on_three() {
        let policies = ["trimtab", "c3-local"].map(|name| contest::by_name(name).unwrap());
        let on = |jobs| grid().run(&policies, NonZeroUsize::new(jobs).unwrap(), None, &|_| {});
        let runs = on(1);
        assert_eq!(runs, on(3));
        let order: Vec<(usize, u64, usize)> = runs.iter().map(|run| (run.cell, run.seed, run.policy)).collect();
        assert!(order.is_sorted() && order.len() == 24);
    }

    /// Panics at the first request of some runs.
    struct Faulty;

    struct Bomb(Blind, bool);

    impl Contest for Faulty {
        fn name(&self) -> &str {
            "faulty"
        }

        fn describe(&self) -> &str {
            "panics where the seed is 6"
        }

        fn router(&self, scenario: &Scenario) -> Box<dyn Router> {
            Box::new(Bomb(Blind::new(1), scenario.seed == 6))
        }
    }

    impl Router for Bomb {
        fn route(&mut self, arrival: &router::Arrival, endpoints: &[Endpoint]) -> Routing {
            assert!(!self.1, "seed 6");
            self.0.route(arrival, endpoints)
        }

        fn ended(&mut self, _departure: &router::Departure) {}
    }

    #[test]
    fn a_run_that_panics_is_told_as_failed_and_the_others_go_on() {
        let told = AtomicUsize::new(0);
        let policies: [Box<dyn Contest>; 1] = [Box::new(Faulty)];
        let runs = grid()
            .run(&policies, NonZeroUsize::MIN, None, &|progress| told.store(progress.runs_done, Ordering::Relaxed));
        for run in &runs {
            match &run.result {
                Ok(_) => assert_ne!(run.seed, 6),
                Err(problem) => assert!(run.seed == 6 && problem.contains("seed 6"), "{problem}"),
            }
        }
        assert_eq!(told.into_inner(), runs.len());
    }
}
