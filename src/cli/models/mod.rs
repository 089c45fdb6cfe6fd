//! `trimtab models`: the versions of the policy in a store, and what happens to them. It writes into the same log as the controllers do, and
//! is told if somebody else came first.

mod show;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail, ensure};
use clap::{Args, Subcommand};
use trimtab_controller::clock;
use trimtab_controller::models::{Append, ModelStore, StoreError, VersionFiles};
use trimtab_model::checkpoint::Checkpoint;
use trimtab_model::rollout::{Choice, Event, VersionManifest, What, Why};

use super::{Output, print, say, say_error};

/// Exit code where the store refuses what does not fit what has happened.
const REFUSED: u8 = 3;

/// Arguments of `trimtab models`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  trimtab models --store models list
  trimtab models --store models promote run1/best.safetensors       puts the file in as a version, and has it tried
  trimtab models --store models promote 2026-11-03.2                has a version of the store tried
  trimtab models --store models rollback 2026-11-03.2 --note \"slow for tenant 7\"
  trimtab models --store s3://bucket/models pin fallback --backend default/web:80
  trimtab models --store models log --output json                   everything that happened, with its evidence

What is promoted is tried in stages (shadow, 5 %, 25 %, 50 % of the time) by every controller that runs with --models on
this store, confirmed when it is shown to be better, and rolled back by itself when it does harm: docs/models.md.

Exit codes: 0 done, 1 failed, 2 the command line makes no sense, 3 refused, as it does not fit what has happened
(another version is being tried, somebody else came first).")]
pub struct ModelsArgs {
    /// Where the versions are: a folder, or a URL such as s3://bucket/prefix
    #[arg(long, env = "TRIMTAB_MODELS", value_name = "URL", global = true)]
    store: Option<String>,
    /// How to print
    #[arg(long, default_value = "table", global = true)]
    output: Output,
    #[command(subcommand)]
    command: ModelsCommand,
}

#[derive(Debug, Subcommand)]
enum ModelsCommand {
    /// List the versions, and where each stands on each backend
    List,
    /// Show a version: where it comes from, how it fared, what happened to it
    Show {
        /// Which
        version: String,
    },
    /// Put two versions side by side
    Compare {
        /// One
        a: String,
        /// The other
        b: String,
    },
    /// Have a version tried: a version of the store, or a checkpoint's file, which is put into the store first
    Promote(PromoteArgs),
    /// Take a version out, whatever it is doing; it is not tried again until it is promoted again
    Rollback {
        /// Which
        version: String,
        #[command(flatten)]
        about: About,
    },
    /// Put a version, `builtin` or `fallback` in force, whatever rollouts say, until it is unpinned
    Pin {
        /// A version, `builtin` (the policy inside the binary) or `fallback` (the capacity prior)
        choice: String,
        #[command(flatten)]
        about: About,
    },
    /// Let rollouts decide again
    Unpin {
        #[command(flatten)]
        about: About,
    },
    /// Print the log: everything that happened, who did it, and the evidence
    Log {
        /// Only what concerns this backend
        #[arg(long, value_name = "NAME")]
        backend: Option<String>,
    },
}

#[derive(Debug, Args)]
struct PromoteArgs {
    /// A version, or a checkpoint's file
    #[arg(value_name = "VERSION|FILE")]
    what: String,
    /// Name of the version that a file becomes [default: what the checkpoint calls itself]
    #[arg(long = "as", value_name = "NAME")]
    name: Option<String>,
    /// Take the place of a version that is being tried
    #[arg(long)]
    replace: bool,
    /// Try it although the offline gate has refused it
    #[arg(long)]
    despite_gate: bool,
    #[command(flatten)]
    about: About,
}

/// What an event is about.
#[derive(Debug, Args)]
struct About {
    /// Only on this backend, as `namespace/service:port` [default: all]
    #[arg(long, value_name = "NAME", value_parser = backend_name)]
    backend: Option<String>,
    /// Why, for who reads the log
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
}

/// The name of a backend. One that is written otherwise would be in the log for good, and be no backend's.
fn backend_name(text: &str) -> Result<String, String> {
    // A policy of a route makes `namespace/service:port@namespace/route` of it.
    let service = text.split_once('@').map_or(text, |(service, _)| service);
    let parts = service.split_once('/').and_then(|(namespace, rest)| Some((namespace, rest.rsplit_once(':')?)));
    let is_one = |(namespace, (name, port)): (&str, (&str, &str))| {
        !namespace.is_empty() && !name.is_empty() && port.parse::<u16>().is_ok()
    };
    if parts.is_some_and(is_one) && !text.contains(char::is_whitespace) {
        Ok(text.to_owned())
    } else {
        Err("expected namespace/service:port, such as default/app:80 (`trimtab weights` names them)".to_owned())
    }
}

/// Runs one of them.
pub async fn run(args: ModelsArgs) -> anyhow::Result<ExitCode> {
    let url = args.store.context("--store (or TRIMTAB_MODELS): say where the versions are, such as a folder")?;
    // Opening makes the folder, and only what puts something there wants that.
    if !matches!(args.command, ModelsCommand::Promote(_)) && !url.contains("://") && !Path::new(&url).exists() {
        bail!("--store: there is no folder {url}");
    }
    let store = ModelStore::open(&url)?;
    let done = act(&store, args.command, args.output).await;
    match done {
        Err(error) if matches!(error.downcast_ref(), Some(StoreError::Conflict(_) | StoreError::Exists { .. })) => {
            say_error(&error);
            Ok(ExitCode::from(REFUSED))
        }
        done => done.map(|()| ExitCode::SUCCESS),
    }
}

async fn act(store: &ModelStore, command: ModelsCommand, output: Output) -> anyhow::Result<()> {
    match command {
        ModelsCommand::List => {
            let (versions, log) = (store.versions().await?, store.events().await?);
            print(&show::list(&versions, &log, output)?)?;
        }
        ModelsCommand::Show { version } => {
            let (manifest, log) = (manifest(store, &version).await?, store.events().await?);
            print(&show::one(&manifest, &log, output)?)?;
        }
        ModelsCommand::Compare { a, b } => {
            let (a, b, log) = (manifest(store, &a).await?, manifest(store, &b).await?, store.events().await?);
            print(&show::compare(&a, &b, &log, output)?)?;
        }
        ModelsCommand::Log { backend } => print(&show::log(&store.events().await?, backend.as_deref(), output)?)?,
        ModelsCommand::Promote(args) => promote(store, args, output).await?,
        ModelsCommand::Rollback { version, about } => {
            let log = store.events().await?;
            if !log.events().any(|event| event.what.version() == Some(&version)) {
                manifest(store, &version).await?;
            }
            let detail = about.note.clone().unwrap_or_else(|| "a person said so".to_owned());
            append(store, What::RolledBack { version, why: Why::ByHand, detail }, &about, false, output).await?;
        }
        ModelsCommand::Pin { choice, about } => {
            let to = Choice::from(choice);
            if let Some(version) = to.version() {
                // What cannot be used is not pinned.
                known(store, version).await?;
                store.policy(version).await?;
            }
            append(store, What::Pinned { to }, &about, false, output).await?;
        }
        ModelsCommand::Unpin { about } => {
            let log = store.events().await?;
            let backends: Vec<&str> = match about.backend.as_deref() {
                Some(backend) => vec![backend],
                // What is about all backends is about those that nobody has named yet, too.
                None => log.events().filter_map(|event| event.backend.as_deref()).chain([""]).collect(),
            };
            let any = backends.iter().any(|backend| log.state_of(backend).pinned.is_some());
            ensure!(any, "nothing is pinned{}", about.backend.map_or_else(String::new, |name| format!(" on {name}")));
            append(store, What::Unpinned, &about, false, output).await?;
        }
    }
    Ok(())
}

async fn promote(store: &ModelStore, args: PromoteArgs, output: Output) -> anyhow::Result<()> {
    let version = match std::fs::metadata(&args.what) {
        Ok(metadata) if metadata.is_file() => put(store, Path::new(&args.what), args.name).await?,
        _ => {
            ensure!(args.name.is_none(), "--as: {} is no file, and a version of the store keeps its name", args.what);
            args.what
        }
    };
    let manifest = manifest(store, &version).await?;
    let refused = manifest.gate.as_ref().is_some_and(|gate| !gate.passed);
    ensure!(
        !refused || args.despite_gate,
        "{version}: the offline gate refused it (`trimtab models show {version}` tells why); --despite-gate tries it all the same"
    );
    store.policy(&version).await?;
    append(store, What::Proposed { version }, &args.about, args.replace, output).await
}

/// Puts a checkpoint's file into the store; the version's name.
async fn put(store: &ModelStore, file: &Path, name: Option<String>) -> anyhow::Result<String> {
    let named = || file.display().to_string();
    let policy = std::fs::read(file).with_context(named)?;
    let checkpoint = Checkpoint::from_bytes(&policy).with_context(named)?;
    let version = name.unwrap_or_else(|| checkpoint.manifest().policy_version.clone());
    let file = std::fs::canonicalize(file).unwrap_or_else(|_| PathBuf::from(file));
    let by = format!("trimtab models promote {}", file.display());
    let mut manifest = VersionManifest::new(&version, clock::now().at_ms, &by);
    manifest.more.insert("checkpoint_created_by".to_owned(), checkpoint.manifest().created_by.clone().into());
    // The same file again is the version that is there, whoever made it.
    let there = store.read(&version).await.ok();
    if there.is_none_or(|there| there.policy != policy) {
        store.put_version(&version, VersionFiles { policy, manifest, report: None }).await?;
    }
    Ok(version)
}

async fn append(store: &ModelStore, what: What, about: &About, replace: bool, output: Output) -> anyhow::Result<()> {
    let evidence = about.note.as_ref().map_or(serde_json::Value::Null, |note| serde_json::json!({ "note": note }));
    let event = Event::new(clock::now().at_ms, format!("cli {}", user()), about.backend.as_deref(), what);
    let event = event.resting_on(evidence);
    let number = store.append(&event, Append { by_hand: true, replace }).await?;
    say(&show::appended(number, &event, output)?);
    Ok(())
}

/// What a version says of itself; where there is no such version, the error names those that there are.
async fn manifest(store: &ModelStore, version: &str) -> anyhow::Result<VersionManifest> {
    known(store, version).await?;
    Ok(store.manifest(version).await?)
}

async fn known(store: &ModelStore, version: &str) -> anyhow::Result<()> {
    let versions: Vec<String> = store.versions().await?.into_iter().map(|stored| stored.version).collect();
    let there = if versions.is_empty() { "none yet".to_owned() } else { versions.join(", ") };
    ensure!(
        versions.iter().any(|known| known == version),
        "{version} is neither a file nor a version of {}; there is {there}",
        store.url()
    );
    Ok(())
}

fn user() -> String {
    ["USER", "LOGNAME"].into_iter().find_map(|name| std::env::var(name).ok()).unwrap_or_else(|| "unknown".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_is_named_as_the_log_names_it() {
        for good in ["default/app:80", "a/b:1@a/route"] {
            assert_eq!(backend_name(good).as_deref(), Ok(good));
        }
        for wrong in ["default/app", "nope", "default/app:80 ", "/app:80", "default/:80", "default/app:http"] {
            assert!(backend_name(wrong).unwrap_err().contains("default/app:80"), "{wrong}");
        }
    }
}
