//! The real `trimtab` binary as a child process: started with arguments, watched through what it prints, stopped when dropped.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// How long a process may take to print what a test waits for. Generous: machines are shared, and a failure is reported by what
/// is missing, not by this.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running `trimtab`.
pub struct Process {
    child: Child,
    printed: Arc<(Mutex<Printed>, Condvar)>,
}

#[derive(Default)]
struct Printed {
    lines: Vec<String>,
    open: usize,
}

/// What a process said and how it ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit status.
    pub status: ExitStatus,
    /// All lines of standard output and standard error, as they came.
    pub text: String,
}

impl Process {
    /// Starts `trimtab ARGS`, with a state folder of its own.
    pub fn start<S: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = S>) -> Process {
        let mut command = Command::new(crate::tools::own_binary("trimtab").expect("trimtab is built"));
        command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.env("NO_COLOR", "1").env_remove("TRIMTAB_LOG").env_remove("TRIMTAB_RECORDINGS");
        let mut child = command.spawn().expect("trimtab starts");
        let printed = Arc::new((Mutex::new(Printed { lines: Vec::new(), open: 2 }), Condvar::new()));
        follow(child.stdout.take().expect("piped"), Arc::clone(&printed));
        follow(child.stderr.take().expect("piped"), Arc::clone(&printed));
        Process { child, printed }
    }

    /// Process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for a line that contains `text` and returns it.
    ///
    /// # Panics
    /// If the process ends or time runs out before.
    pub fn wait_for(&self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        let (printed, changed) = &*self.printed;
        let mut printed = printed.lock().expect("not poisoned");
        loop {
            if let Some(line) = printed.lines.iter().find(|line| line.contains(text)) {
                return line.clone();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(printed.open > 0 && !left.is_zero(), "no line with {text:?} in:\n{}", printed.lines.join("\n"));
            printed = changed.wait_timeout(printed, left).expect("not poisoned").0;
        }
    }

    /// The address in the line `LABEL http://ADDRESS`.
    pub fn address(&self, label: &str) -> SocketAddr {
        let line = self.wait_for(label);
        let address = line.split("http://").nth(1).unwrap_or_else(|| panic!("no URL in {line:?}"));
        let end = address.find(|c: char| !(c.is_ascii_digit() || ".:[]abcdef".contains(c))).unwrap_or(address.len());
        address[..end].parse().unwrap_or_else(|error| panic!("{line:?}: {error}"))
    }

    /// Sends a signal by name, e.g. `TERM`.
    pub fn signal(&self, name: &str) {
        let status =
            Command::new("kill").args([format!("-{name}"), self.id().to_string()]).status().expect("kill runs");
        assert!(status.success(), "kill -{name} {}", self.id());
    }

    /// Everything that it printed so far.
    pub fn text(&self) -> String {
        self.printed.0.lock().expect("not poisoned").lines.join("\n")
    }

    /// Waits for the end.
    ///
    /// # Panics
    /// If it does not end in time.
    pub fn end(mut self) -> Ended {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                break status;
            }
            assert!(Instant::now() < deadline, "trimtab did not end; it printed:\n{}", self.text());
            std::thread::sleep(Duration::from_millis(20));
        };
        let (printed, changed) = &*self.printed;
        let mut printed = printed.lock().expect("not poisoned");
        while printed.open > 0 {
            printed = changed.wait_timeout(printed, PATIENCE).expect("not poisoned").0;
        }
        Ended { status, text: printed.lines.join("\n") }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn follow(stream: impl std::io::Read + Send + 'static, printed: Arc<(Mutex<Printed>, Condvar)>) {
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines() {
            let Ok(line) = line else { break };
            printed.0.lock().expect("not poisoned").lines.push(line);
            printed.1.notify_all();
        }
        printed.0.lock().expect("not poisoned").open -= 1;
        printed.1.notify_all();
    });
}
