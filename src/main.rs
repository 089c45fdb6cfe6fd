//! The `trimtab` binary: parse the command line, one match over the subcommands, exit with a code that means something.
//!
//! Exit codes: 0 done, 1 failed, 2 the command line makes no sense.

mod cli;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};
use mimalloc::MiMalloc;

/// A request allocates little but often, and glibc's thread cache holds seven pieces of a size: with more requests than that under way it takes the
/// slow way for nearly each of them.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    let matches = cli::Cli::command().get_matches();
    let cli = cli::Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    cli::logging::init(cli.log_filter(), cli.log_format);
    trimtab::open_files::raise_limit();
    match cli::run(cli.command, &matches) {
        Ok(code) => code,
        Err(error) => {
            cli::say_error(&error);
            ExitCode::FAILURE
        }
    }
}
