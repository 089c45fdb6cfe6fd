//! Runs that a file keeps as they end: what took hours is not lost when the rest is stopped, and is not done again.
//!
//! One JSON document a line. The first says which build of Trimtab the runs are of, as another one may do otherwise; each of the others is one
//! run that went well. A line that was cut off is the last one, and is dropped.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions, TryLockError},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};

use super::{Cell, Grid};
use crate::simulator::Summary;

const SCHEMA: &str = "trimtab.dev/kept-runs/v1";

/// A file of runs, held by one process at a time.
#[derive(Debug)]
pub struct KeptRuns {
    path: PathBuf,
    /// By what was run, as a line says it.
    found: BTreeMap<String, Summary>,
    file: Mutex<Kept>,
}

#[derive(Debug)]
struct Kept {
    file: File,
    /// The first line that could not be written; none after it is tried.
    failed: Option<io::Error>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    schema: String,
    build: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    run: Task,
    summary: Summary,
}

/// All that the result of a run depends on, but for the build.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Task {
    family: String,
    proxies: usize,
    endpoints: usize,
    load: Option<f64>,
    seconds: Option<u64>,
    reports_in_flight: Option<bool>,
    slots_told: bool,
    seed: u64,
    policy: String,
}

impl Task {
    /// The run of a policy in a cell of a grid with a seed.
    pub fn new(grid: &Grid, cell: &Cell, seed: u64, policy: &str) -> Self {
        Self {
            family: cell.family.name().to_owned(),
            proxies: cell.proxies,
            endpoints: cell.endpoints,
            load: cell.load,
            seconds: grid.seconds,
            reports_in_flight: grid.reports_in_flight,
            slots_told: grid.slots_told,
            seed,
            policy: policy.to_owned(),
        }
    }

    fn key(&self) -> String {
        serde_json::to_string(self).expect("names and numbers are JSON")
    }
}

/// A file of runs that cannot be used, or could not be written.
#[derive(Debug, thiserror::Error)]
pub enum KeptError {
    /// It cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What is the matter.
        source: io::Error,
    },
    /// Another process holds it.
    #[error("{}: another trimtab is adding to it, expected a file of its own for each", .0.display())]
    InUse(PathBuf),
    /// It is something else.
    #[error("{}: its first line is not that of a file of kept runs, expected one or a file that is not there yet", .0.display())]
    Foreign(PathBuf),
    /// Another build wrote it.
    #[error("{}: its runs are of another build of trimtab, and this one's may differ: expected a file that is not there yet", .0.display())]
    OtherBuild(PathBuf),
    /// A line in the middle is not one of ours.
    #[error("{}: line {line} is not a run: {source}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Its number, from 1.
        line: usize,
        /// What is the matter.
        source: serde_json::Error,
    },
}

impl KeptRuns {
    /// Opens a file, or begins it. `build` tells builds of Trimtab apart.
    ///
    /// # Errors
    /// If it cannot be read or written, is in use, or holds anything but runs of this build. It is left as it was then.
    pub fn open(path: &Path, build: &str) -> Result<Self, KeptError> {
        let fault = |source| KeptError::Io { path: path.to_owned(), source };
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let mut file = options.map_err(fault)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(KeptError::InUse(path.to_owned())),
            Err(TryLockError::Error(source)) => return Err(fault(source)),
        }
        let header = Header { schema: SCHEMA.to_owned(), build: build.to_owned() };
        let mut first = serde_json::to_string(&header).expect("two texts are JSON");
        first.push('\n');

        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(fault)?;
        let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
        if whole == 0 {
            // Empty, or stopped within its first line.
            if !first.as_bytes().starts_with(&bytes) {
                return Err(KeptError::Foreign(path.to_owned()));
            }
            file.set_len(0).and_then(|()| file.rewind()).map_err(fault)?;
            file.write_all(first.as_bytes()).map_err(fault)?;
            let file = Mutex::new(Kept { file, failed: None });
            return Ok(Self { path: path.to_owned(), found: BTreeMap::new(), file });
        }

        let mut lines = bytes[..whole - 1].split(|&byte| byte == b'\n').enumerate();
        let told = lines.next().and_then(|(_, line)| serde_json::from_slice::<Header>(line).ok());
        match told {
            Some(told) if told == header => {}
            Some(told) if told.schema == SCHEMA => return Err(KeptError::OtherBuild(path.to_owned())),
            _ => return Err(KeptError::Foreign(path.to_owned())),
        }
        let found: Result<BTreeMap<String, Summary>, KeptError> = lines
            .map(|(number, line)| {
                let fault = |source| KeptError::Line { path: path.to_owned(), line: number + 1, source };
                let Line { run, summary } = serde_json::from_slice(line).map_err(fault)?;
                Ok((run.key(), summary))
            })
            .collect();
        let found = found?;
        let end = whole as u64;
        file.set_len(end).and_then(|()| file.seek(SeekFrom::Start(end))).map_err(fault)?;
        Ok(Self { path: path.to_owned(), found, file: Mutex::new(Kept { file, failed: None }) })
    }

    /// How many runs were there when it was opened.
    pub fn found(&self) -> usize {
        self.found.len()
    }

    /// What came of a run, if it was there when the file was opened, to the last bit.
    pub(super) fn get(&self, task: &Task) -> Option<&Summary> {
        self.found.get(&task.key())
    }

    /// Keeps a run. What cannot be written is told by [`Self::close`]: the grid goes on.
    pub(super) fn keep(&self, task: Task, summary: &Summary) {
        let line = Line { run: task, summary: summary.clone() };
        let mut text = serde_json::to_string(&line).expect("names and numbers are JSON");
        text.push('\n');
        let mut kept = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.failed.is_none() {
            kept.failed = kept.file.write_all(text.as_bytes()).err();
        }
    }

    /// All runs have ended.
    ///
    /// # Errors
    /// If one could not be kept.
    pub fn close(self) -> Result<(), KeptError> {
        let kept = self.file.into_inner().unwrap_or_else(PoisonError::into_inner);
        kept.failed.map_or(Ok(()), |source| Err(KeptError::Io { path: self.path, source }))
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, num::NonZeroUsize};

    use super::*;
    use crate::{
        contest,
        report::{Metric, Run},
        scenario::Family,
    };

    fn grid(seeds: std::ops::Range<u64>) -> Grid {
        let cells = Grid::product(&[Family::Homogeneous, Family::Gray], &[2], &[4], &[Some(0.5)]);
        Grid { cells, seeds, seconds: Some(1), reports_in_flight: None, slots_told: true }
    }

    fn run(kept: Option<&KeptRuns>, seeds: std::ops::Range<u64>) -> Vec<Run> {
        let policies = ["trimtab", "c3-local"].map(|name| contest::by_name(name).unwrap());
        grid(seeds).run(&policies, NonZeroUsize::new(2).unwrap(), kept, &|_| {})
    }

    #[test]
    fn a_grid_that_was_stopped_goes_on_where_it_was_and_tells_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("runs.jsonl");
        let kept = KeptRuns::open(&path, "a").unwrap();
        run(Some(&kept), 5..6);
        kept.close().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 1 + 4);

        // It was writing when it was stopped.
        let mut text = fs::read(&path).unwrap();
        text.extend_from_slice(b"{\"run\":{\"fam");
        fs::write(&path, text).unwrap();
        let kept = KeptRuns::open(&path, "a").unwrap();
        assert_eq!(kept.found(), 4);
        let (resumed, fresh) = (run(Some(&kept), 5..7), run(None, 5..7));
        kept.close().unwrap();
        assert_eq!(resumed.len(), fresh.len());
        for (resumed, fresh) in resumed.iter().zip(&fresh) {
            let (resumed, fresh) = (resumed.result.as_ref().unwrap(), fresh.result.as_ref().unwrap());
            assert_eq!(resumed.fingerprint, fresh.fingerprint);
            for metric in Metric::ALL {
                assert_eq!(metric.of(resumed).to_bits(), metric.of(fresh).to_bits(), "{metric:?}");
            }
        }
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 1 + 8, "each run once, and no half of one");
    }

    #[test]
    fn a_run_that_is_kept_is_not_run_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("runs.jsonl");
        let kept = KeptRuns::open(&path, "a").unwrap();
        run(Some(&kept), 5..6);
        kept.close().unwrap();
        // Only a run that is taken from the file can say so.
        let text = fs::read_to_string(&path).unwrap();
        let requests = run(None, 5..6)[0].result.as_ref().unwrap().arrived;
        fs::write(&path, text.replace(&format!("\"arrived\":{requests},"), "\"arrived\":1,")).unwrap();
        let kept = KeptRuns::open(&path, "a").unwrap();
        assert_eq!(run(Some(&kept), 5..6)[0].result.as_ref().unwrap().arrived, 1);
    }

    /// What opening a file with this text says; the file stays as it is.
    #[track_caller]
    fn refused(text: &str, expected: &str) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("runs.jsonl");
        fs::write(&path, text).unwrap();
        let problem = KeptRuns::open(&path, "a").unwrap_err().to_string();
        assert!(problem.contains("runs.jsonl") && problem.contains(expected), "{problem}");
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }

    #[test]
    fn a_file_that_is_something_else_is_left_alone() {
        let header = |build: &str| format!("{{\"schema\":\"{SCHEMA}\",\"build\":\"{build}\"}}\n");
        refused("notes of mine", "first line");
        refused("notes\nof mine\n", "first line");
        refused("{\"schema\":\"trimtab.dev/kept-runs/v2\",\"build\":\"a\"}\n", "first line");
        refused(&header("b"), "another build");
        refused(&(header("a") + "{}\n"), "line 2 is not a run: missing field");
        refused(&(header("a") + "\n{}\n"), "line 2 is not a run");
    }

    #[test]
    fn a_header_that_was_cut_off_is_begun_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("runs.jsonl");
        fs::write(&path, "{\"schema\":\"trim").unwrap();
        assert_eq!(KeptRuns::open(&path, "a").unwrap().found(), 0);
        assert_eq!(KeptRuns::open(&path, "a").unwrap().found(), 0);
    }

    #[test]
    fn two_do_not_add_to_one_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("runs.jsonl");
        let first = KeptRuns::open(&path, "a").unwrap();
        assert!(matches!(KeptRuns::open(&path, "a"), Err(KeptError::InUse(_))));
        drop(first);
        KeptRuns::open(&path, "a").unwrap();
    }

    #[test]
    fn a_disk_that_is_full_is_told_at_the_end_and_costs_no_run() {
        let kept = KeptRuns {
            path: "/dev/full".into(),
            found: BTreeMap::new(),
            file: Mutex::new(Kept { file: File::create("/dev/full").unwrap(), failed: None }),
        };
        assert!(run(Some(&kept), 5..6).iter().all(|run| run.result.is_ok()));
        assert!(kept.close().unwrap_err().to_string().starts_with("/dev/full: "));
    }
}
