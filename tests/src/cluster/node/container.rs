//! The life of a container: its process is started, probed, started again with back-off when it ends, and ended with grace.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::IpAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::probe::Checks;
use super::status::{Ended, Report, State};

/// The wait before the second restart; it doubles. kubelet's are 10 s and 5 min, which no test has.
const BACK_OFF: Duration = Duration::from_secs(1);
const BACK_OFF_MAX: Duration = Duration::from_secs(10);

/// What runs in the namespaces of a container before its program does.
const SCRIPT: &str = include_str!("container.sh");

/// All that is needed to run a container.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The network namespace.
    pub namespace: String,
    /// An empty folder, for its root.
    pub root: PathBuf,
    /// Whether its root is read-only.
    pub read_only: bool,
    /// User and group, `UID:GID`.
    pub user: String,
    /// What it sees besides: source, target, and whether it may write there.
    pub mounts: Vec<(PathBuf, String, bool)>,
    /// Its environment.
    pub environment: BTreeMap<String, String>,
    /// Its command line.
    pub command: Vec<String>,
    /// Where its output goes.
    pub log: PathBuf,
    /// Where its probes ask.
    pub address: IpAddr,
    /// Its probes.
    pub probes: Probes,
    /// What is waited for before SIGTERM (`lifecycle.preStop.sleep`).
    pub pre_stop: Duration,
    /// When it is started again.
    pub restart: Restart,
}

/// The probes of a container, those that it has.
#[derive(Debug, Clone, Default)]
pub struct Probes {
    /// Until it succeeds the others wait.
    pub startup: Option<Checks>,
    /// Whether requests may be sent there.
    pub readiness: Option<Checks>,
    /// Whether it has to be started again.
    pub liveness: Option<Checks>,
}

/// When a container is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    /// Whenever it ends.
    Always,
    /// When it ends with another code than 0.
    OnFailure,
    /// Never.
    Never,
}

impl Restart {
    fn after(self, code: i32) -> bool {
        self == Self::Always || (self == Self::OnFailure && code != 0)
    }
}

/// Runs a container until it has ended for good. `stop` carries the grace period once the pod has to end.
pub async fn run(plan: &Plan, report: &watch::Sender<Report>, mut stop: watch::Receiver<Option<Duration>>) {
    let mut back_off = Duration::ZERO;
    loop {
        let (started, clock) = (Timestamp::now(), Instant::now());
        let ended = match spawn(plan) {
            Ok(child) => {
                report.send_modify(|report| {
                    report.state = State::Running { since: started };
                    report.started = plan.probes.startup.is_none();
                    report.ready = report.started && plan.probes.readiness.is_none();
                });
                let status = watch_over(child, plan, report, &mut stop).await;
                Ended { code: code(status), started, finished: Timestamp::now() }
            }
            Err(_) => Ended { code: 128, started, finished: Timestamp::now() },
        };
        let stopping = stop.borrow().is_some();
        if stopping || !plan.restart.after(ended.code) {
            report.send_modify(|report| {
                (report.state, report.ready, report.started) = (State::Terminated(ended), false, false);
            });
            return;
        }
        // A process that has run for a while has earned a quick restart.
        if clock.elapsed() > BACK_OFF_MAX * 2 {
            back_off = Duration::ZERO;
        }
        report.send_modify(|report| {
            let message = format!("back-off {back_off:?} restarting failed container");
            report.state = State::Waiting { reason: "CrashLoopBackOff".to_owned(), message };
            (report.ready, report.started) = (false, false);
            report.last = Some(ended);
        });
        tokio::select! {
            () = tokio::time::sleep(back_off) => {}
            () = has_to_end(&mut stop) => {
                report.send_modify(|report| report.state = State::Terminated(ended));
                return;
            }
        }
        back_off = (back_off * 2).clamp(BACK_OFF, BACK_OFF_MAX);
        report.send_modify(|report| report.restarts += 1);
    }
}

/// Until the process ends, by itself, because its liveness probe fails or because the pod has to end.
async fn watch_over(
    mut child: Child,
    plan: &Plan,
    report: &watch::Sender<Report>,
    stop: &mut watch::Receiver<Option<Duration>>,
) -> Option<ExitStatus> {
    let ill = CancellationToken::new();
    // Readiness is asked for until the very end: a pod that is asked to end still serves.
    let probes = probe(plan, report, &ill);
    let process = async {
        tokio::select! {
            status = child.wait() => return status.ok(),
            () = ill.cancelled() => {}
            () = has_to_end(stop) => tokio::time::sleep(plan.pre_stop).await,
        }
        let grace = stop.borrow().unwrap_or(Duration::from_secs(30)).saturating_sub(plan.pre_stop);
        if let Some(id) = child.id() {
            // It may end at this moment.
            let _ = Command::new("kill").args(["-TERM", &id.to_string()]).status().await;
        }
        tokio::select! {
            status = child.wait() => status.ok(),
            () = tokio::time::sleep(grace) => {
                let _ = child.start_kill();
                child.wait().await.ok()
            }
        }
    };
    tokio::select! {
        status = process => status,
        () = probes => None,
    }
}

/// Returns once the pod has to end.
async fn has_to_end(stop: &mut watch::Receiver<Option<Duration>>) {
    // The sender lives as long as the pod.
    let _ = stop.wait_for(Option::is_some).await;
}

/// Probes the container, without end.
async fn probe(plan: &Plan, report: &watch::Sender<Report>, ill: &CancellationToken) {
    let Probes { startup, readiness, liveness } = &plan.probes;
    if let Some(checks) = startup {
        let started = CancellationToken::new();
        let asking = checks.run(plan.address, true, |well| if well { started.cancel() } else { ill.cancel() });
        tokio::select! {
            () = asking => {}
            () = started.cancelled() => {}
        }
        report.send_modify(|report| (report.started, report.ready) = (true, readiness.is_none()));
    }
    let asking_readiness = async {
        if let Some(checks) = readiness {
            checks.run(plan.address, true, |well| report.send_modify(|report| report.ready = well)).await;
        }
    };
    let asking_liveness = async {
        if let Some(checks) = liveness {
            checks
                .run(plan.address, false, |well| {
                    if !well {
                        ill.cancel();
                    }
                })
                .await;
        }
    };
    tokio::join!(asking_readiness, asking_liveness, std::future::pending::<()>());
}

fn spawn(plan: &Plan) -> std::io::Result<Child> {
    let log = File::options().create(true).append(true).open(&plan.log)?;
    let mut command = Command::new("ip");
    command.args(["netns", "exec", &plan.namespace, "bash", "-c", SCRIPT, "container"]);
    command.arg(&plan.root).arg(if plan.read_only { "ro" } else { "rw" }).arg(&plan.user);
    for (source, target, writable) in &plan.mounts {
        command.arg(if *writable { "rw" } else { "ro" }).arg(source).arg(target);
    }
    command.arg("--").args(&plan.command);
    command.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    command.envs(&plan.environment);
    command.stdin(std::process::Stdio::null()).stdout(log.try_clone()?).stderr(log).kill_on_drop(true).spawn()
}

fn code(status: Option<ExitStatus>) -> i32 {
    let code = status.and_then(|status| status.code().or_else(|| status.signal().map(|signal| 128 + signal)));
    code.unwrap_or(137)
}
