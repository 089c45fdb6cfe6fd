//! `trimtab completions SHELL`.

use std::process::ExitCode;

use clap::{Args, CommandFactory};

/// Arguments of `trimtab completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// Which shell
    shell: clap_complete::Shell,
}

/// Prints the script.
pub fn run(args: CompletionsArgs) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut super::Cli::command(), "trimtab", &mut script);
    super::print(&[String::from_utf8_lossy(&script).trim_end().to_owned()])?;
    Ok(ExitCode::SUCCESS)
}
