//! `trimtab crds`: the definitions of Trimtab's own kinds, for `kubectl apply`.

use std::process::ExitCode;

use anyhow::{Context, anyhow};
use clap::{Args, ValueEnum};

/// Arguments of `trimtab crds`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  trimtab crds | kubectl apply --server-side -f -")]
pub struct CrdsArgs {
    /// How to print them
    #[arg(long, value_name = "FORMAT", default_value = "yaml")]
    output: Format,
}

/// How definitions are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// One YAML document each
    Yaml,
    /// One JSON document: a List
    Json,
}

/// Prints them.
pub fn run(args: CrdsArgs) -> anyhow::Result<ExitCode> {
    let text = match args.output {
        Format::Yaml => {
            trimtab_controller::crds::yaml().map_err(|error| anyhow!(error)).context("not writable as YAML")?
        }
        Format::Json => {
            let items = trimtab_controller::crds::all()?;
            serde_json::to_string_pretty(&serde_json::json!({ "apiVersion": "v1", "kind": "List", "items": items }))?
        }
    };
    super::print(&[text.trim_end().to_owned()])?;
    Ok(ExitCode::SUCCESS)
}
