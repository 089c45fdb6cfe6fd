//! Configuration from the command line: `--listen`, `--to`, `--backends` and what goes with them, turned into the very objects that a
//! folder of YAML files would hold.

use std::{collections::BTreeSet, net::SocketAddr, path::PathBuf, sync::Arc};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    Provider, ProviderError, Snapshot,
    backends_file::{self, Line},
    flag_objects, poll,
    watched::{Reading, Settler, read},
};
use crate::{
    address::HostPort,
    duration::Duration,
    gateway::settings,
    policy::{AdaptiveMode, Algorithm, Metrics, Terms},
    problem::{ObjectId, Origin, Problem, Report},
};

/// What the flags say.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    /// Where to accept requests; at least one. Port 0: the system chooses.
    pub listen: Vec<SocketAddr>,
    /// Endpoints named one by one.
    pub to: Vec<HostPort>,
    /// A file with an endpoint a line, watched.
    pub backends: Option<PathBuf>,
    /// The algorithm.
    pub algorithm: Algorithm,
    /// The latency objective; `None`: derived.
    pub objective: Option<Duration>,
    /// How far the learned policy may act; `None`: the policy's default.
    pub mode: Option<AdaptiveMode>,
    /// How endpoints are scraped.
    pub metrics: Metrics,
    /// What the rule may take into account; `None`: everything.
    pub terms: Option<Terms>,
}

/// Which flag says what a field of the policy says.
const FLAGS: [(&str, &str); 6] = [
    ("spec.adaptive.metrics.path", "--metrics-path"),
    ("spec.adaptive.metrics.port", "--metrics-port"),
    ("spec.adaptive.metrics.interval", "--metrics-interval"),
    ("spec.adaptive.metrics.scheme", "--metrics-scheme"),
    ("spec.adaptive.objective.latency", "--slo"),
    ("spec.adaptive.mode", "--mode"),
];

/// Flags, and the backends file that is followed.
#[derive(Debug)]
pub struct FlagsProvider {
    flags: Flags,
    settler: Settler,
    good: Vec<Line>,
    problems: Vec<Problem>,
}

impl FlagsProvider {
    /// Provides what `flags` say.
    pub fn new(flags: Flags) -> Self {
        FlagsProvider { flags, settler: Settler::default(), good: Vec::new(), problems: Vec::new() }
    }

    /// Reads everything once.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub fn load(&mut self) -> Result<Snapshot, ProviderError> {
        let mut problems = check(&self.flags);
        if let Some(path) = self.flags.backends.clone() {
            let reading = read(&path);
            self.settler.accept(&reading);
            match self.read(reading) {
                Ok(lines) => self.good = lines,
                Err(faults) => problems.extend(faults),
            }
        }
        match problems.is_empty() {
            true => Ok(self.snapshot()),
            false => Err(ProviderError { problems }),
        }
    }

    /// Looks at the backends file once; a new snapshot if something has changed and settled.
    pub fn look(&mut self) -> Option<Snapshot> {
        let path = self.flags.backends.clone()?;
        let reading = read(&path);
        if !self.settler.settle(&reading) {
            return None;
        }
        match self.read(reading) {
            Ok(lines) => {
                self.good = lines;
                self.problems.clear();
            }
            Err(mut faults) => {
                faults.push(Problem::at(
                    Origin::file(&path.display().to_string()),
                    "does not hold: the last good list stays",
                ));
                self.problems = faults;
            }
        }
        Some(self.snapshot())
    }

    fn read(&self, reading: Reading) -> Result<Vec<Line>, Vec<Problem>> {
        let file = self.flags.backends.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
        match reading {
            Reading::Bytes(bytes) => backends_file::read(&bytes).map_err(|errors| {
                errors
                    .into_iter()
                    .map(|error| Problem::at(Origin { file: file.clone(), line: error.line }, error.message))
                    .collect()
            }),
            Reading::Gone => Err(vec![Problem::at(Origin::file(&file), "is not there")]),
            Reading::Unreadable(reason) => Err(vec![Problem::at(Origin::file(&file), reason)]),
        }
    }

    fn snapshot(&self) -> Snapshot {
        let named = self.flags.to.iter().map(|address| Line { address: address.clone(), zone: None });
        let mut seen = BTreeSet::new();
        let lines: Vec<Line> =
            named.chain(self.good.iter().cloned()).filter(|line| seen.insert(line.address.clone())).collect();
        Snapshot { objects: flag_objects::objects(&self.flags, &lines), problems: self.problems.clone() }
    }
}

/// What is wrong with the flags themselves.
fn check(flags: &Flags) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut fault = |flag: &str, message: String| {
        problems.push(Problem { origin: None, object: None, field: Some(flag.to_owned()), message });
    };
    if flags.listen.is_empty() {
        fault("--listen", "is missing, expected an address such as 127.0.0.1:8080".to_owned());
    }
    if flags.to.is_empty() && flags.backends.is_none() {
        fault("--to", "is missing, expected --to host:port or --backends FILE".to_owned());
    }
    let mut seen = BTreeSet::new();
    for address in flags.listen.iter().filter(|address| address.port() != 0) {
        if !seen.insert(address) {
            fault("--listen", format!("{address} is given twice"));
        }
    }
    let mut seen = BTreeSet::new();
    for address in &flags.to {
        if !seen.insert(address) {
            fault("--to", format!("{address} is given twice"));
        }
    }
    let mut report = Report::new(ObjectId::new("BackendTrafficPolicy", "", ""));
    settings::check(&flag_objects::policy(flags), &mut report);
    for (field, message) in report.into_invalid() {
        let flag = FLAGS.iter().find(|(known, _)| *known == field).map_or(field.as_str(), |(_, flag)| flag);
        fault(flag, message);
    }
    problems
}

impl Provider for FlagsProvider {
    async fn first(&mut self) -> Result<Snapshot, ProviderError> {
        let mut provider = std::mem::replace(self, FlagsProvider::new(Flags::default()));
        let (provider, loaded) = poll::blocking(move || {
            let loaded = provider.load();
            (provider, loaded)
        })
        .await
        .map_err(|problem| ProviderError { problems: vec![problem] })?;
        *self = provider;
        loaded
    }

    async fn watch(self, snapshots: watch::Sender<Arc<Snapshot>>, shutdown: CancellationToken) {
        if self.flags.backends.is_none() {
            // Nothing ever changes; the last snapshot stays until nobody needs it.
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = snapshots.closed() => {}
            }
            return;
        }
        poll::follow(self, FlagsProvider::look, snapshots, shutdown).await;
    }
}
