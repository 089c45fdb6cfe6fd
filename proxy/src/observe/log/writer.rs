//! The thread that writes the access log.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    sync::{
        Arc,
        atomic::Ordering::Relaxed,
        mpsc::{Receiver, RecvTimeoutError, sync_channel},
    },
    thread,
    time::Duration,
};

use super::{
    super::{Observed, REST, record::Record},
    Destination, LogOptions, Logger, line,
};

/// Requests that wait for the writer at most: a second of them at a high rate, or some ten megabytes.
const QUEUE: usize = 16_384;
/// How often it is looked, without lines, whether the file is to be opened anew.
const LOOK: Duration = Duration::from_millis(250);
/// Lines are handed to the system in pieces of this size.
const PIECE: usize = 64 << 10;

/// The thread's own.
#[derive(Debug)]
pub struct Writer {
    records: Receiver<Arc<Record>>,
    options: LogOptions,
    output: Output,
    opened: u64,
    observed: Arc<Observed>,
    failing: bool,
}

#[derive(Debug)]
enum Output {
    Stdout,
    File(File),
}

impl Output {
    fn open(to: &Destination) -> io::Result<Self> {
        Ok(match to {
            Destination::Stdout => Self::Stdout,
            Destination::File(path) => Self::File(OpenOptions::new().create(true).append(true).open(path)?),
        })
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Stdout => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(bytes)?;
                stdout.flush()
            }
            Self::File(file) => file.write_all(bytes),
        }
    }
}

/// A writer, and what hands it records.
///
/// # Errors
/// If the file cannot be opened.
pub fn open(options: LogOptions, observed: Arc<Observed>) -> io::Result<(Logger, Writer)> {
    let output = Output::open(&options.to)?;
    let (queue, records) = sync_channel(QUEUE);
    let logger = Logger { queue, filter: options.filter, observed: observed.clone() };
    let opened = options.reopen.asked();
    Ok((logger, Writer { records, options, output, opened, observed, failing: false }))
}

impl Writer {
    /// Writes until nobody can hand anything over any more, and all of it is written.
    pub fn run(mut self) {
        let mut text = String::with_capacity(2 * PIECE);
        loop {
            let first = self.records.recv_timeout(LOOK);
            self.reopen();
            let mut next = match first {
                Ok(record) => Some(record),
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let mut lines = 0;
            while let Some(record) = next {
                line::write(&record, self.options.format, &mut text);
                lines += 1;
                if text.len() >= PIECE {
                    self.write(&mut text, &mut lines);
                }
                next = self.records.try_recv().ok();
            }
            self.write(&mut text, &mut lines);
            // A worker that finds this thread asleep has to wake it: it is better not to wait for each line.
            thread::sleep(REST);
        }
    }

    fn reopen(&mut self) {
        let asked = self.options.reopen.asked();
        if asked == self.opened {
            return;
        }
        self.opened = asked;
        match Output::open(&self.options.to) {
            Ok(output) => self.output = output,
            Err(error) => tracing::warn!(%error, "the access log cannot be opened anew, going on with the old file"),
        }
    }

    fn write(&mut self, text: &mut String, lines: &mut u64) {
        let (written, count) = (self.output.write(text.as_bytes()), std::mem::take(lines));
        text.clear();
        match written {
            Ok(()) => {
                self.observed.lines.fetch_add(count, Relaxed);
                self.failing = false;
            }
            Err(error) => {
                self.observed.lines_failed.fetch_add(count, Relaxed);
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::warn!(%error, "the access log cannot be written, lines are lost");
                }
            }
        }
    }
}
