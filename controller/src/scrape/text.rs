//! Finds the series of interest in a body of Prometheus text as it streams in. Nothing is kept but the unfinished line: a body of a
//! million series costs time, bounded by the caller and by [`LINES_MAX`], and no memory.
//!
//! A quick look at the bytes of a line (up to the end of the name) decides whether it is of interest; most are not. The label set is
//! cut out here, because `prometheus-parse` ends it at the first `}` even within quotes, and templated paths (`uri="/users/{id}"`)
//! are the rule in Spring; the rest of the line is parsed by that crate.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use memchr::{memchr, memchr2, memchr3};
use prometheus_parse::LineInfo;
use thiserror::Error;

use super::names::{Lexicon, Meaning, Part, ROLES, Role};

/// A longer line is not one of metrics.
const LINE_BYTES_MAX: usize = 64 << 10;
/// More lines than any pod should have; scraping them twice a second would cost it and us too much.
pub const LINES_MAX: usize = 100_000;
/// Series of interest in one body; a label per user id is a mistake of its own.
const SERIES_MAX: usize = 10_000;
/// Buckets of one histogram.
const BUCKETS_MAX: usize = 256;
/// A memory limit beyond this says that there is none.
const NO_LIMIT: f64 = (1u64 << 60) as f64;

/// Why a body is no use as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TextError {
    /// A line without an end.
    #[error("line {0} is longer than 64 KiB: is it Prometheus text?")]
    LongLine(usize),
    /// Too many lines.
    #[error("more than {LINES_MAX} lines")]
    Lines,
    /// Too many series under the names of interest.
    #[error("more than {SERIES_MAX} series under the names that are looked for: \"{0}\" has too many label sets")]
    Series(String),
    /// No line is a sample.
    #[error("no metrics in it: is it Prometheus text?")]
    NotMetrics,
    /// None of the names is known.
    #[error(
        "{0} series, but none under a name that is looked for (see docs/metrics.md, or set spec.adaptive.metrics.names)"
    )]
    NothingKnown(usize),
}

/// What a body said, before rates are made of it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Readings {
    roles: [Option<Plain>; ROLES],
    /// Of the duration.
    pub durations: Option<Durations>,
    /// The first series of interest that could not be used, and why.
    pub ignored: Option<String>,
    /// Number of samples of any name.
    pub samples: usize,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Plain {
    rank: u16,
    sum: f64,
}

/// A histogram or summary, cumulative since the start of the process.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Durations {
    /// Which candidate it is.
    pub rank: u16,
    /// Upper bound in milliseconds (infinite for the last) and the count at or below it, sorted by bound.
    pub buckets: Vec<(f64, f64)>,
    /// Milliseconds.
    pub sum: Option<f64>,
    /// Requests.
    pub count: Option<f64>,
    /// A summary's own 99th percentile, milliseconds; the largest over label sets.
    pub p99: Option<f64>,
}

impl Readings {
    /// The number of a role, and the rank of the candidate that gave it.
    pub fn get(&self, role: Role) -> Option<(f64, u16)> {
        self.roles[role as usize].map(|plain| (plain.sum, plain.rank))
    }

    fn is_empty(&self) -> bool {
        self.roles.iter().all(Option::is_none) && self.durations.is_none()
    }
}

/// Reads one body.
#[derive(Debug)]
pub struct Reader<'a> {
    lexicon: &'a Lexicon,
    readings: Readings,
    unfinished: Vec<u8>,
    lines: usize,
    seen: HashSet<u64>,
    canonical: String,
}

impl<'a> Reader<'a> {
    /// A reader that looks for these names.
    pub fn new(lexicon: &'a Lexicon) -> Self {
        Self {
            lexicon,
            readings: Readings::default(),
            unfinished: Vec::new(),
            lines: 0,
            seen: HashSet::new(),
            canonical: String::new(),
        }
    }

    /// Takes in the next piece of the body.
    ///
    /// # Errors
    /// The body is too long, or has a line that is.
    pub fn push(&mut self, mut piece: &[u8]) -> Result<(), TextError> {
        while let Some(end) = memchr(b'\n', piece) {
            let (line, rest) = piece.split_at(end);
            piece = &rest[1..];
            if self.unfinished.is_empty() {
                self.line(line)?;
            } else {
                let mut whole = std::mem::take(&mut self.unfinished);
                whole.extend_from_slice(line);
                self.line(&whole)?;
                whole.clear();
                self.unfinished = whole;
            }
        }
        if self.unfinished.len() + piece.len() > LINE_BYTES_MAX {
            return Err(TextError::LongLine(self.lines + 1));
        }
        self.unfinished.extend_from_slice(piece);
        Ok(())
    }

    /// The end of the body. A last line without its line feed may have been cut off in the middle of a number, and does not count.
    ///
    /// # Errors
    /// There were no metrics in it, or none that are known.
    pub fn finish(mut self) -> Result<Readings, TextError> {
        if !self.unfinished.is_empty() {
            let line = std::mem::take(&mut self.unfinished);
            let name = line.split(|byte| b"{ \t".contains(byte)).next().unwrap_or(&line);
            if !self.lexicon.meanings(name).is_empty() {
                self.ignore(name, "the text ends within the line");
            }
        }
        if let Some(durations) = &mut self.readings.durations {
            durations.buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        }
        match self.readings.samples {
            0 => Err(TextError::NotMetrics),
            samples if self.readings.is_empty() && self.readings.ignored.is_none() => {
                Err(TextError::NothingKnown(samples))
            }
            _ => Ok(self.readings),
        }
    }

    fn line(&mut self, line: &[u8]) -> Result<(), TextError> {
        self.lines += 1;
        if self.lines > LINES_MAX {
            return Err(TextError::Lines);
        }
        if line.len() > LINE_BYTES_MAX {
            return Err(TextError::LongLine(self.lines));
        }
        match line.first() {
            Some(first) if first.is_ascii_alphabetic() || matches!(first, b'_' | b':') => {}
            _ => return Ok(()),
        }
        let Some(name_end) = memchr3(b'{', b' ', b'\t', line) else {
            return Ok(());
        };
        self.readings.samples += 1;
        let (name, rest) = line.split_at(name_end);
        let lexicon = self.lexicon;
        let meanings = lexicon.meanings(name);
        if !meanings.is_empty() {
            self.sample(name, rest, meanings)?;
        }
        Ok(())
    }

    fn sample(&mut self, name: &[u8], rest: &[u8], meanings: &[Meaning]) -> Result<(), TextError> {
        let (Ok(name), Ok(rest)) = (std::str::from_utf8(name), std::str::from_utf8(rest)) else {
            self.ignore(name, "it is not UTF-8");
            return Ok(());
        };
        let Some((labels, rest)) = split_labels(rest) else {
            self.ignore(name.as_bytes(), "its labels do not end");
            return Ok(());
        };
        if self.seen.len() >= SERIES_MAX {
            return Err(TextError::Series(name.to_owned()));
        }
        let mut hasher = DefaultHasher::new();
        (name, labels).hash(&mut hasher);
        if !self.seen.insert(hasher.finish()) {
            self.ignore(name.as_bytes(), "the same series stands there twice, the first counts");
            return Ok(());
        }
        let Some(value) = self.value(name, rest) else {
            self.ignore(name.as_bytes(), "its value is not a number");
            return Ok(());
        };
        let all = |test: fn(&Meaning) -> bool| meanings.iter().all(test);
        if !value.is_finite() {
            // A summary without answers has NaN quantiles: usual, and no news.
            if !all(|meaning| meaning.role == Role::Duration && meaning.part == Part::Value) {
                self.ignore(name.as_bytes(), "its value is not finite");
            }
        } else if value < 0.0 {
            // Java says -1 for "no limit".
            if !all(|meaning| meaning.role == Role::MemoryLimit) {
                self.ignore(name.as_bytes(), "its value is negative");
            }
        } else {
            meanings.iter().for_each(|meaning| self.take_in(name, labels, meaning, value));
        }
        Ok(())
    }

    /// The value that follows the labels.
    fn value(&mut self, name: &str, rest: &str) -> Option<f64> {
        self.canonical.clear();
        // The crate knows no colons in names.
        self.canonical.extend(name.chars().map(|c| if c == ':' { '_' } else { c }));
        if !rest.starts_with([' ', '\t']) {
            self.canonical.push(' ');
        }
        self.canonical.push_str(rest);
        match LineInfo::parse(&self.canonical) {
            LineInfo::Sample { value, .. } => value.parse().ok(),
            _ => None,
        }
    }

    fn take_in(&mut self, name: &str, labels: &str, meaning: &Meaning, value: f64) {
        match meaning.role {
            Role::Duration => self.duration(name, labels, meaning, value),
            Role::MemoryLimit if value >= NO_LIMIT => {}
            role => {
                let plain = &mut self.readings.roles[role as usize];
                let value = value * meaning.scale;
                match plain {
                    Some(plain) if plain.rank == meaning.rank => plain.sum += value,
                    Some(plain) if plain.rank < meaning.rank => {}
                    _ => *plain = Some(Plain { rank: meaning.rank, sum: value }),
                }
            }
        }
    }

    fn duration(&mut self, name: &str, labels: &str, meaning: &Meaning, value: f64) {
        let fresh = || Durations { rank: meaning.rank, ..Default::default() };
        let durations = self.readings.durations.get_or_insert_with(fresh);
        if durations.rank < meaning.rank {
            return;
        }
        if durations.rank > meaning.rank {
            *durations = fresh();
        }
        match meaning.part {
            Part::Sum => *durations.sum.get_or_insert(0.0) += value * meaning.scale,
            Part::Count => *durations.count.get_or_insert(0.0) += value,
            Part::Value => {
                if label(labels, "quantile").and_then(|q| q.parse::<f64>().ok()) == Some(0.99) {
                    let p99 = durations.p99.get_or_insert(0.0);
                    *p99 = p99.max(value * meaning.scale);
                }
            }
            Part::Bucket => {
                let bound = label(labels, "le").and_then(|le| le.parse::<f64>().ok()).filter(|bound| !bound.is_nan());
                let Some(bound) = bound.map(|bound| bound * meaning.scale) else {
                    self.ignore(name.as_bytes(), "a bucket without a bound (le)");
                    return;
                };
                let known = durations.buckets.iter().position(|(known, _)| *known == bound);
                match known {
                    Some(at) => durations.buckets[at].1 += value,
                    None if durations.buckets.len() < BUCKETS_MAX => durations.buckets.push((bound, value)),
                    None => self.ignore(name.as_bytes(), "more than 256 buckets"),
                }
            }
        }
    }

    fn ignore(&mut self, name: &[u8], why: &str) {
        self.readings.ignored.get_or_insert_with(|| {
            let name: String = String::from_utf8_lossy(name).chars().take(100).collect();
            format!("{name}: {why}")
        });
    }
}

/// Splits what follows a name into the inside of the braces and the rest; `None` if the braces do not end.
fn split_labels(text: &str) -> Option<(&str, &str)> {
    // Blanks may stand between name and braces.
    let Some(inside) = text.trim_start_matches([' ', '\t']).strip_prefix('{') else {
        return Some(("", text));
    };
    let bytes = inside.as_bytes();
    let mut at = 0;
    loop {
        at += memchr2(b'"', b'}', &bytes[at..])?;
        if bytes[at] == b'}' {
            return Some((&inside[..at], &inside[at + 1..]));
        }
        at = quoted_end(bytes, at + 1)?;
    }
}

/// The position after the closing quote of a string whose inside begins at `at`.
fn quoted_end(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        at += memchr2(b'"', b'\\', bytes.get(at..)?)?;
        if bytes[at] == b'"' {
            return Some(at + 1);
        }
        at += 2;
    }
}

/// The value of a label, as it stands between the quotes.
fn label<'t>(labels: &'t str, wanted: &str) -> Option<&'t str> {
    let mut rest = labels;
    loop {
        let (name, after) = rest.split_once('=')?;
        let after = after.trim_start().strip_prefix('"')?;
        let end = quoted_end(after.as_bytes(), 0)?;
        if name.trim_matches([' ', ',', '\t']) == wanted {
            return Some(&after[..end - 1]);
        }
        rest = &after[end..];
    }
}

#[cfg(test)]
#[path = "text_tests.rs"]
mod tests;
