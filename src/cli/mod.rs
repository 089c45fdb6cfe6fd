//! The command line. Each subcommand has its own file with its arguments and its `run`; this one lists them.

mod check;
mod completions;
mod controller;
mod crds;
pub mod logging;
mod models;
mod observe;
mod proxy;
mod signals;
mod simulate;
mod source;
mod train;
mod up;
mod weights;

use std::future::Future;
use std::io::Write;
use std::process::ExitCode;

use anyhow::Context;
use clap::parser::ValueSource;
use clap::{ArgMatches, Parser, Subcommand};

/// An adaptive router for unequal pods: live in-flight counts, capacity weights learned every half second, and a guard
/// that bounds whatever was learned.
#[derive(Debug, Parser)]
#[command(name = "trimtab", version, propagate_version = true, max_term_width = 110)]
#[command(
    after_help = "Start here:\n  trimtab demo                                             two worlds side by side, about 90 s
  trimtab up --to 127.0.0.1:9001 --to 127.0.0.1:9002       an adaptive reverse proxy on 127.0.0.1:8080
  trimtab weights --watch                                  what it is doing, and why"
)]
pub struct Cli {
    /// What to log, as `level` or `target=level,...` [default: warn,trimtab=info; warn for demo]
    #[arg(long, global = true, env = "TRIMTAB_LOG", value_name = "FILTER", value_parser = logging::filter)]
    log: Option<String>,
    /// How to log, on standard error
    #[arg(long, global = true, env = "TRIMTAB_LOG_FORMAT", default_value = "text")]
    pub log_format: logging::LogFormat,
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// What to log. The demo tells its own story; info events would only get between.
    pub fn log_filter(&self) -> &str {
        match (&self.log, &self.command) {
            (Some(filter), _) => filter,
            (None, Command::Demo(_)) => "warn",
            (None, _) => logging::DEFAULT_FILTER,
        }
    }
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run two identical worlds side by side, one routed by Trimtab and one by a baseline
    Demo(trimtab::demo::DemoArgs),
    /// Route to some servers: controller and proxy in one process
    Up(Box<up::UpArgs>),
    /// Run the controller: scrape, decide, push to proxies, record, show
    Controller(Box<controller::ControllerArgs>),
    /// Run a proxy that a controller configures
    Proxy(Box<proxy::ProxyArgs>),
    /// Print the live weights, and why they are what they are
    Weights(weights::WeightsArgs),
    /// Compare policies in the simulator: tables with intervals, plots, JSON
    Simulate(Box<simulate::SimulateArgs>),
    /// Make a policy: learn in simulation, keep the best on validation, resume after a kill
    Train(Box<train::TrainArgs>),
    /// List, compare, promote, roll back and pin versions of the policy
    Models(models::ModelsArgs),
    /// Check whether a cluster has what Trimtab needs, and what Trimtab makes of it
    Check(check::CheckArgs),
    /// Print the definitions of Trimtab's own kinds, for `kubectl apply`
    Crds(crds::CrdsArgs),
    /// Print a completion script for a shell
    Completions(completions::CompletionsArgs),
}

/// Runs one subcommand to its end. `matches` knows which arguments were given.
pub fn run(command: Command, matches: &ArgMatches) -> anyhow::Result<ExitCode> {
    match command {
        Command::Demo(args) => block_on(trimtab::demo::run(args)),
        Command::Up(args) => block_on(up::run(*args)),
        Command::Controller(args) => block_on(controller::run(*args)),
        Command::Proxy(args) => block_on(proxy::run(*args)),
        Command::Weights(args) => block_on(weights::run(args)),
        Command::Simulate(args) => simulate::run(*args),
        Command::Train(args) => {
            let given = |id: &str| {
                let matches = matches.subcommand_matches("train");
                matches.is_some_and(|matches| matches.value_source(id) == Some(ValueSource::CommandLine))
            };
            train::run(&args, &given)
        }
        Command::Models(args) => block_on(models::run(args)),
        Command::Check(args) => block_on(check::run(args)),
        Command::Crds(args) => crds::run(args),
        Command::Completions(args) => completions::run(args),
    }
}

fn block_on(command: impl Future<Output = anyhow::Result<ExitCode>>) -> anyhow::Result<ExitCode> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(command)
}

/// Prints an error and its causes, one a line.
pub fn say_error(error: &anyhow::Error) {
    let mut stderr = std::io::stderr().lock();
    let mut said = error.to_string();
    let _ = writeln!(stderr, "trimtab: {said}");
    for cause in error.chain().skip(1).map(ToString::to_string) {
        // Many an error tells its cause itself.
        if !said.contains(&cause) {
            let _ = writeln!(stderr, "  because: {cause}");
        }
        said = cause;
    }
}

/// Prints lines on standard output. Nobody listening any more is no reason to stop routing.
fn say(lines: &[String]) {
    say_on(std::io::stdout().lock(), lines);
}

/// What prints such lines: on standard error where standard output is an access log, which is for programs to read.
fn sayer(stdout_is_log: bool) -> fn(&[String]) {
    if stdout_is_log { |lines| say_on(std::io::stderr().lock(), lines) } else { say }
}

fn say_on(mut stream: impl Write, lines: &[String]) {
    for line in lines {
        let _ = writeln!(stream, "{line}");
    }
    let _ = stream.flush();
}

/// Prints what a command was asked for. A reader that has had enough is no error; a full disk is.
///
/// # Errors
/// Standard output cannot be written.
fn print(lines: &[String]) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    let written = lines.iter().try_for_each(|line| writeln!(stdout, "{line}")).and_then(|()| stdout.flush());
    match written {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(error).context("cannot write to standard output")
        }
        _ => Ok(()),
    }
}

/// Human or machine output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// For people
    Table,
    /// One JSON document
    Json,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::CommandFactory;

    use super::Cli;

    fn check(command: &clap::Command) {
        let mut seen = BTreeSet::new();
        for argument in command.get_arguments() {
            let names = argument.get_long().into_iter().chain(argument.get_visible_aliases().unwrap_or_default());
            let names = names.map(str::to_owned).chain(argument.get_short().map(|short| short.to_string()));
            for name in names {
                assert!(seen.insert(name.clone()), "{} has two flags of the name {name}", command.get_name());
            }
        }
        command.get_subcommands().for_each(check);
    }

    #[test]
    fn every_flag_has_a_name_of_its_own() {
        check(&Cli::command());
    }
}
