//! `trimtab train --from recordings URL`: reads what a controller recorded, refines the policy for one service, and hands what passes the gate to the
//! model store, from where a controller takes it live step by step.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use serde::Serialize;
use trimtab_controller::clock;
use trimtab_controller::models::store::{
    Append, MANIFEST, ModelStore, REPORT as REPORT_FILE, StoreError, VersionFiles,
};
use trimtab_controller::recording::reader::{self, Recordings};
use trimtab_model::checkpoint::{Checkpoint, SHIPPED};
use trimtab_model::rollout::{Event, Gate as GateSection, VersionManifest, What};
use trimtab_training::learn::state::write_whole;
use trimtab_training::refine::{Gate, Inventory, Job, Options, Refined, job::Stage, report};

use super::super::{Output, print, say};

/// Checkpoint of what was found by the search, kept so that a job that was killed need not search again.
const FOUND: &str = "found.safetensors";
/// The page.
const REPORT: &str = "report.html";
/// The summary.
const SUMMARY: &str = "summary.json";

/// What rarely needs another value.
#[derive(Debug, Args)]
#[command(next_help_heading = "From recordings")]
pub struct RefineArgs {
    /// Where the recordings are: a folder, or a URL such as s3://bucket/prefix
    #[arg(value_name = "URL")]
    pub url: Option<String>,
    /// Model store that a version which passes the gate is put into, as a candidate to be taken live; without it, --out alone
    #[arg(long, value_name = "URL")]
    pub models: Option<String>,
    /// Service to refine the policy for, as namespace/service:port [default: the one with most requests]
    #[arg(long, value_name = "NAME")]
    pub backend: Option<String>,
    /// Checkpoint that was in force when the recordings were made [default: the version that the recordings name, from the store, or the built-in one]
    #[arg(long, value_name = "FILE")]
    pub incumbent: Option<PathBuf>,
    /// Updates of the search for constants of the rule in the twin; 0 for none
    #[arg(long, value_name = "N", default_value_t = Options::default().generations)]
    pub search: u64,
    /// Measured seconds of each stretch that candidates are judged on, of the last 40 % of the recording; at least five stretches are needed, and 20 s
    /// before the first. Shorter ones need a shorter recording, and make the gate less sure
    #[arg(long, value_name = "S", default_value_t = Options::default().stretch_s, value_parser = clap::value_parser!(u64).range(5..=600))]
    pub stretch: u64,
    /// Policy that was made elsewhere, to be judged by the same gate; may be said several times. Each is called by its file's name
    #[arg(long, value_name = "FILE")]
    pub candidate: Vec<PathBuf>,
}

/// The last word of a job.
#[derive(Debug, Serialize)]
struct Summary<'a> {
    /// `promoted` or `incumbent stays`.
    outcome: &'static str,
    /// Name of the version, where there is one.
    version: Option<&'a str>,
    /// Why it is not taken live, where the model store's log speaks against it.
    not_proposed: Option<String>,
    backend: &'a str,
    recorded: &'a Inventory,
    files_read: usize,
    files_broken: usize,
    twin: trimtab_training::refine::trial::Checked,
    candidates: Vec<Outcome<'a>>,
    report: String,
}

#[derive(Debug, Serialize)]
struct Outcome<'a> {
    name: &'a str,
    what: &'a str,
    passed: bool,
    gate: &'a Gate,
    refusals: Vec<String>,
}

/// Runs the job.
pub async fn run(args: &RefineArgs, out: &Path, seed: u64, jobs: usize, output: Output) -> anyhow::Result<()> {
    let Some(url) = &args.url else {
        bail!("--from recordings: say where they are, as in `trimtab train --from recordings ./recordings --out DIR`");
    };
    std::fs::create_dir_all(out).with_context(|| format!("--out {}", out.display()))?;
    let mut progress = Progress::new();
    let recordings =
        reader::read(url, |done, all| progress.say(&format!("reading recordings: {done} of {all} files"))).await?;
    progress.end();
    let inventory = Inventory::of(&recordings.ticks, &recordings.requests);
    if output == Output::Table {
        say(&described(url, &recordings, &inventory));
    }
    let inventory = chosen(args, url, inventory)?;
    let store = args.models.as_deref().map(ModelStore::open).transpose()?;
    let (incumbent, incumbent_is) = incumbent(args, store.as_ref(), &inventory).await?;
    let options = Options { seed, generations: args.search, stretch_s: args.stretch, ..Options::default() };
    let given = args.candidate.iter().map(|path| given(path)).collect::<anyhow::Result<Vec<_>>>()?;
    let fingerprint = fingerprint(&inventory, &incumbent, &options, &given)?;
    let found = out.join(format!("{fingerprint:08x}.{FOUND}"));
    let job = Job {
        ticks: &recordings.ticks,
        requests: &recordings.requests,
        inventory,
        incumbent: &incumbent,
        options,
        jobs,
        found: kept(&found),
        given,
    };
    let refined = job.run(|stage| match stage {
        Stage::Found(checkpoint) => {
            // Only time is lost if it cannot be kept.
            let _ = checkpoint.to_bytes().map(|bytes| write_whole(&found, &bytes));
        }
        stage => progress.say(&in_words(&stage)),
    })?;
    progress.end();

    let name = version_name(&refined, fingerprint);
    let how = how(args, url, seed);
    let heading = format!(
        "{} refined from {:.1} hours of recordings, against {incumbent_is}",
        refined.inventory.backend, refined.inventory.hours
    );
    let page = report::page(&refined, &heading, &how);
    let report = out.join(REPORT);
    write_whole(&report, page.as_bytes())?;
    if let Some(place) = refined.promoted {
        let checkpoint = &refined.judged[place].candidate.checkpoint;
        write_whole(&out.join(format!("{name}.safetensors")), &checkpoint.to_bytes()?)?;
    }
    let not_proposed = match (&store, refined.promoted) {
        (Some(store), Some(place)) => {
            let origin = Origin { how: &how, seed, parent: &incumbent_is };
            promote(store, &name, &refined, place, page, &origin).await?
        }
        _ => None,
    };
    let summary = Summary {
        outcome: if refined.promoted.is_some() { "promoted" } else { "incumbent stays" },
        version: refined.promoted.map(|_| name.as_str()),
        not_proposed,
        backend: &refined.inventory.backend,
        recorded: &refined.inventory,
        files_read: recordings.files,
        files_broken: recordings.broken.len(),
        twin: refined.checked,
        candidates: refined
            .judged
            .iter()
            .map(|judged| Outcome {
                name: &judged.candidate.name,
                what: &judged.candidate.what,
                passed: judged.gate.promotes(),
                gate: &judged.gate,
                refusals: judged.gate.refusals.iter().map(trimtab_training::refine::Refusal::in_words).collect(),
            })
            .collect(),
        report: report.display().to_string(),
    };
    write_whole(&out.join(SUMMARY), &serde_json::to_vec_pretty(&summary)?)?;
    match output {
        Output::Json => print(&[serde_json::to_string(&summary)?])?,
        Output::Table => print(&lines(&summary, args.models.as_deref()))?,
    }
    Ok(())
}

/// The command that makes this again, without what does not matter for it.
fn how(args: &RefineArgs, url: &str, seed: u64) -> String {
    let mut how = format!("trimtab train --from recordings {url} --seed {seed} --search {}", args.search);
    if args.stretch != Options::default().stretch_s {
        how.push_str(&format!(" --stretch {}", args.stretch));
    }
    args.candidate.iter().for_each(|path| how.push_str(&format!(" --candidate {}", path.display())));
    how
}

fn described(url: &str, recordings: &Recordings, inventory: &[Inventory]) -> Vec<String> {
    let mut lines = vec![format!(
        "{url}: {} files, {:.1} MB, {} ticks × endpoints, {} sampled requests",
        recordings.files,
        recordings.bytes as f64 / 1e6,
        recordings.ticks.len(),
        recordings.requests.len()
    )];
    lines.extend(recordings.broken.iter().map(|(path, why)| format!("  skipped {path}: {why}")));
    lines.extend(inventory.iter().map(|has| {
        format!(
            "  {}: {:.2} h, {} endpoints, {} requests ({} sampled), {} classes, exploration in {:.0} % of ticks, {} gaps",
            has.backend,
            has.hours,
            has.endpoints,
            has.answered,
            has.requests,
            has.classes,
            100.0 * has.exploration_share,
            has.gaps
        )
    }));
    lines
}

fn chosen(args: &RefineArgs, url: &str, inventory: Vec<Inventory>) -> anyhow::Result<Inventory> {
    let names = inventory.iter().map(|has| has.backend.clone()).collect::<Vec<_>>().join(", ");
    let wanted = |has: &Inventory| args.backend.as_ref().is_none_or(|name| *name == has.backend);
    match (inventory.into_iter().find(wanted), &args.backend) {
        (Some(has), _) => Ok(has),
        (None, Some(backend)) => bail!("--backend {backend}: the recordings in {url} are of {names}"),
        (None, None) => bail!("{url}: no file there could be read"),
    }
}

/// A policy that somebody names, and what it is called.
fn given(path: &Path) -> anyhow::Result<(String, Checkpoint)> {
    let checkpoint = checkpoint("--candidate", path)?;
    let name = path.file_stem().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned());
    Ok((name, checkpoint))
}

fn checkpoint(option: &str, path: &Path) -> anyhow::Result<Checkpoint> {
    let file = || format!("{option} {}", path.display());
    Checkpoint::from_bytes(&std::fs::read(path).with_context(file)?).with_context(file)
}

/// The policy that was in force, and what it is called.
async fn incumbent(
    args: &RefineArgs,
    store: Option<&ModelStore>,
    inventory: &Inventory,
) -> anyhow::Result<(Checkpoint, String)> {
    if let Some(path) = &args.incumbent {
        return Ok((checkpoint("--incumbent", path)?, path.display().to_string()));
    }
    let behaviour = inventory.behaviour().unwrap_or_default();
    let shipped = Checkpoint::from_bytes(SHIPPED)?;
    if behaviour == shipped.manifest().policy_version || behaviour == "prior" {
        return Ok((shipped, "the built-in policy".to_owned()));
    }
    let Some(store) = store else {
        bail!(
            "the recordings were made under policy {behaviour}: name its file by --incumbent, or its store by --models"
        );
    };
    let files = store.read(behaviour).await.with_context(|| format!("policy {behaviour}, which was in force"))?;
    Ok((Checkpoint::from_bytes(&files.policy)?, behaviour.to_owned()))
}

/// What a job depends on, in short: the same recordings, incumbent, options and given candidates are the same job.
fn fingerprint(
    inventory: &Inventory,
    incumbent: &Checkpoint,
    options: &Options,
    given: &[(String, Checkpoint)],
) -> anyhow::Result<u32> {
    let mut bytes = serde_json::to_vec(&(inventory, options))?;
    bytes.extend(incumbent.to_bytes()?);
    for (_, checkpoint) in given {
        bytes.extend(checkpoint.to_bytes()?);
    }
    Ok(crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &bytes) as u32)
}

fn kept(path: &Path) -> Option<Checkpoint> {
    Checkpoint::from_bytes(&std::fs::read(path).ok()?).ok()
}

/// Such as `web-80-1a2b3c4d`.
fn version_name(refined: &Refined, fingerprint: u32) -> String {
    let service = refined.inventory.backend.rsplit('/').next().unwrap_or_default();
    let plain = service.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' });
    format!("{}-{fingerprint:08x}", plain.collect::<String>().trim_matches('-'))
}

/// Where a version comes from.
struct Origin<'a> {
    how: &'a str,
    seed: u64,
    parent: &'a str,
}

/// Puts the version into the store and proposes it. Says why it is not proposed where the store's log speaks against it: it is being tried, or was, or
/// another one is.
async fn promote(
    store: &ModelStore,
    name: &str,
    refined: &Refined,
    place: usize,
    page: String,
    origin: &Origin<'_>,
) -> anyhow::Result<Option<String>> {
    let Origin { how, seed, parent } = *origin;
    let judged = &refined.judged[place];
    let at_ms = clock::now().at_ms;
    let evidence = serde_json::to_value(&judged.gate)?;
    let more = [("evidence".to_owned(), evidence.clone())].into_iter().collect();
    let manifest = VersionManifest {
        parent: Some(parent.to_owned()),
        gate: Some(GateSection { passed: true, more }),
        data: serde_json::to_value(&refined.inventory)?,
        seeds: serde_json::json!({ "seed": seed }),
        scores: serde_json::to_value(&judged.gate.votes)?,
        ..VersionManifest::new(name, at_ms, how)
    };
    let files =
        VersionFiles { policy: judged.candidate.checkpoint.to_bytes()?, manifest, report: Some(page.into_bytes()) };
    match store.put_version(name, files).await {
        // The same job made it before, and its report or manifest says when: versions do not change.
        Ok(()) | Err(StoreError::Exists { file: MANIFEST | REPORT_FILE, .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let proposed = What::Proposed { version: name.to_owned() };
    let event = Event::new(at_ms, "trainer", Some(&refined.inventory.backend), proposed).resting_on(evidence);
    match store.append(&event, Append::default()).await {
        Ok(_) => Ok(None),
        Err(StoreError::Conflict(conflict)) => Ok(Some(conflict.to_string())),
        Err(error) => Err(error.into()),
    }
}

fn in_words(stage: &Stage) -> String {
    match stage {
        Stage::Calibrating => "calibrating the twin".to_owned(),
        Stage::Searching(done, all) => format!("seeking constants in the twin: {done} of {all} updates"),
        Stage::Found(_) => "found".to_owned(),
        Stage::Learning => "learning from recorded transitions".to_owned(),
        Stage::NotLearned(why) => format!("nothing is learned from recorded transitions: {why}"),
        Stage::Judging(done, all) => format!("judging candidates: {done} of {all}"),
    }
}

fn lines(summary: &Summary<'_>, models: Option<&str>) -> Vec<String> {
    let twin = summary.twin;
    let found = match (twin.p50, twin.p99) {
        (Some(p50), Some(p99)) => format!("is at {p50:.2} of the recorded p50 and {p99:.2} of the p99"),
        _ => "cannot be compared with what was recorded".to_owned(),
    };
    let mut lines = vec![format!(
        "the twin {found} in {} held-out stretches{}",
        twin.stretches,
        twin.objection().map_or(String::new(), |why| format!("; it does not vote: {why}"))
    )];
    for candidate in &summary.candidates {
        lines.push(format!("candidate {}: it {}", candidate.name, candidate.what));
        for vote in &candidate.gate.votes {
            if let Some(difference) = vote.difference {
                lines.push(format!(
                    "  {:18} {difference:+.4} [{:+.4}, {:+.4}]",
                    vote.measure.name(),
                    vote.low,
                    vote.high
                ));
            }
        }
        lines.extend(candidate.refusals.iter().map(|refusal| format!("  refused: {refusal}")));
    }
    lines.push(match (summary.version, models) {
        (Some(version), Some(models)) if summary.not_proposed.is_some() => format!(
            "{version} passed the gate and is in {models}, but is not proposed: {}",
            summary.not_proposed.as_deref().unwrap_or_default()
        ),
        (Some(version), Some(models)) => {
            format!("{version} passed the gate and is in {models}: a controller with --models takes it live")
        }
        (Some(version), None) => {
            format!("{version} passed the gate; `trimtab models --store URL promote` puts it into a store")
        }
        (None, _) => "the incumbent stays".to_owned(),
    });
    lines.push(format!("why: {}", summary.report));
    lines
}

/// A line on standard error: rewritten on a terminal, said when it changes elsewhere.
struct Progress {
    rewrites: bool,
    last: String,
}

impl Progress {
    fn new() -> Self {
        Self { rewrites: std::io::stderr().is_terminal(), last: String::new() }
    }

    fn say(&mut self, line: &str) {
        if self.last == line {
            return;
        }
        line.clone_into(&mut self.last);
        let mut stderr = std::io::stderr().lock();
        // Nobody watching is no reason to stop.
        let _ = if self.rewrites { write!(stderr, "\r\x1b[K{line}") } else { writeln!(stderr, "{line}") };
    }

    fn end(&mut self) {
        if self.rewrites && !self.last.is_empty() {
            let _ = writeln!(std::io::stderr().lock());
        }
        self.last.clear();
    }
}
