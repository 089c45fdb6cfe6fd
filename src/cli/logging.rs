//! Log lines on standard error: text for people, JSON for machines.

use std::io::{self, IsTerminal, Write};

use tracing_subscriber::EnvFilter;

/// What is logged unless something else is asked for.
pub const DEFAULT_FILTER: &str = "warn,trimtab=info";

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// One line of text an event
    Text,
    /// One JSON object an event
    Json,
}

/// Standard error, as far as somebody reads it: a line that cannot be written is lost, and nothing else happens. (What `tracing_subscriber` would do
/// is to write that down, to standard error, and to panic where that fails.)
struct Lossy(io::Stderr);

impl Write for Lossy {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(self.0.write(bytes).unwrap_or(bytes.len()))
    }

    fn flush(&mut self) -> io::Result<()> {
        let _ = self.0.flush();
        Ok(())
    }
}

/// Installs the global subscriber. A filter that does not parse is answered by a warning and the default.
pub fn init(filter: &str, format: LogFormat) {
    let (env_filter, problem) = match EnvFilter::try_new(filter) {
        Ok(parsed) => (parsed, None),
        Err(error) => (EnvFilter::new(DEFAULT_FILTER), Some(error)),
    };
    let builder = tracing_subscriber::fmt().with_env_filter(env_filter).with_writer(|| Lossy(io::stderr()));
    match format {
        LogFormat::Text => builder.with_ansi(io::stderr().is_terminal()).with_target(false).init(),
        LogFormat::Json => builder.json().init(),
    }
    if let Some(error) = problem {
        tracing::warn!(%error, filter, "--log does not parse, using the default");
    }
}
