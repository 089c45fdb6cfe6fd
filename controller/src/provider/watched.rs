//! Reading files that others write while we read: bounded, and not believed before they have settled. Polling content catches what
//! notifications miss: symlinks swapped two levels up (ConfigMap volumes), network file systems, files replaced by `mv`.

use std::{
    fs,
    io::{self, Read as _},
    path::Path,
    time::Duration,
};

use crate::gateway::fingerprint::Fnv1a;

/// Files are looked at this often.
pub const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// Larger files are refused.
pub const FILE_BYTES_MAX: u64 = 8 << 20;

/// What one look at a file gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reading {
    /// Its content.
    Bytes(Vec<u8>),
    /// It is not there.
    Gone,
    /// It is there, but cannot be read; why.
    Unreadable(String),
}

/// Reads a file (or what a symlink leads to) whole.
pub fn read(path: &Path) -> Reading {
    match read_bounded(path) {
        Ok(reading) => reading,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Reading::Gone,
        Err(error) => Reading::Unreadable(format!("cannot be read: {error}")),
    }
}

fn read_bounded(path: &Path) -> io::Result<Reading> {
    // Looked at before it is opened: opening a FIFO would wait for its writer.
    if !fs::metadata(path)?.is_file() {
        return Ok(Reading::Unreadable("is not a regular file".to_owned()));
    }
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Ok(Reading::Unreadable(format!("is too large, expected at most {} MiB", FILE_BYTES_MAX >> 20)));
    }
    Ok(Reading::Bytes(bytes))
}

impl Reading {
    fn fingerprint(&self) -> u64 {
        match self {
            Reading::Bytes(bytes) => Fnv1a::new().number(0).number(bytes.len() as u64).bytes(bytes).get(),
            Reading::Gone => Fnv1a::new().number(1).get(),
            Reading::Unreadable(reason) => Fnv1a::new().number(2).bytes(reason.as_bytes()).get(),
        }
    }

    /// How often the same must be read before it counts. A file that does not end in a line feed looks like one whose writer has
    /// not finished: it is given more time.
    fn settles_after(&self) -> u32 {
        match self {
            Reading::Bytes(bytes) if bytes.last() != Some(&b'\n') => 3,
            _ => 2,
        }
    }
}

/// Tells when what is read of one file is new and has settled.
#[derive(Debug, Clone, Default)]
pub struct Settler {
    accepted: Option<u64>,
    candidate: Option<(u64, u32)>,
}

impl Settler {
    /// Takes `reading` as it is, without waiting.
    pub fn accept(&mut self, reading: &Reading) {
        self.accepted = Some(reading.fingerprint());
        self.candidate = None;
    }

    /// Whether `reading` differs from the last one accepted and has been the same often enough; it is accepted then.
    pub fn settle(&mut self, reading: &Reading) -> bool {
        let fingerprint = reading.fingerprint();
        if self.accepted == Some(fingerprint) {
            self.candidate = None;
            return false;
        }
        let times = match self.candidate {
            Some((candidate, times)) if candidate == fingerprint => times + 1,
            _ => 1,
        };
        if times < reading.settles_after() {
            self.candidate = Some((fingerprint, times));
            return false;
        }
        self.accept(reading);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &str) -> Reading {
        Reading::Bytes(text.as_bytes().to_vec())
    }

    #[test]
    fn what_changes_with_every_look_is_not_believed() {
        let mut settler = Settler::default();
        settler.accept(&bytes("a\n"));
        let looks = [("b\n", false), ("bc\n", false), ("bcd\n", false), ("bcd\n", true), ("bcd\n", false)];
        for (text, expected) in looks {
            assert_eq!(settler.settle(&bytes(text)), expected, "{text}");
        }
    }

    #[test]
    fn what_comes_back_was_never_gone() {
        let mut settler = Settler::default();
        settler.accept(&bytes("a\n"));
        for (reading, expected) in
            [(Reading::Gone, false), (bytes("a\n"), false), (Reading::Gone, false), (Reading::Gone, true)]
        {
            assert_eq!(settler.settle(&reading), expected);
        }
    }

    #[test]
    fn a_file_without_a_final_line_feed_is_given_more_time() {
        let mut settler = Settler::default();
        for expected in [false, false, true] {
            assert_eq!(settler.settle(&bytes("a")), expected);
        }
    }

    #[test]
    fn what_is_no_file_or_too_large_is_unreadable() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read(folder.path()), Reading::Unreadable("is not a regular file".to_owned()));
        assert_eq!(read(&folder.path().join("none")), Reading::Gone);
        let large = folder.path().join("large");
        fs::File::create(&large).unwrap().set_len(FILE_BYTES_MAX + 1).unwrap();
        assert_eq!(read(&large), Reading::Unreadable("is too large, expected at most 8 MiB".to_owned()));
    }
}
