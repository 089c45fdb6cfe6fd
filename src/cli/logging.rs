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

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Checks a filter. A word alone that is no level would be taken for a target, and all others would be silent.
///
/// # Errors
/// What is wrong, and what would be right.
pub fn filter(text: &str) -> Result<String, String> {
    let is_level = |word: &str| {
        LEVELS.iter().any(|level| level.eq_ignore_ascii_case(word)) || matches!(word, "0" | "1" | "2" | "3" | "4" | "5")
    };
    for directive in text.split(',').map(str::trim).filter(|directive| !directive.is_empty()) {
        let level = directive.rsplit_once('=').map_or(directive, |(_, level)| level);
        if !is_level(level) {
            return Err(format!("\"{level}\" is not a level, expected one of {}, or target=level", LEVELS.join(", ")));
        }
    }
    EnvFilter::try_new(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

/// Installs the global subscriber.
pub fn init(filter: &str, format: LogFormat) {
    // It has been checked.
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new(DEFAULT_FILTER));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(|| Lossy(io::stderr()));
    match format {
        LogFormat::Text => builder.with_ansi(io::stderr().is_terminal()).with_target(false).init(),
        LogFormat::Json => builder.json().init(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_with_a_level_that_is_none_is_refused() {
        for right in ["warn", "WARN", "warn,trimtab=info", "off", "trimtab_proxy[span{a=1}]=debug", "3", ""] {
            assert_eq!(filter(right).as_deref(), Ok(right));
        }
        for wrong in ["wran", "garbage!!", "foo=bar", "warn,trimtab", "warn,trimtab="] {
            let error = filter(wrong).unwrap_err();
            assert!(error.contains("is not a level, expected one of off, error"), "{error}");
        }
    }
}
