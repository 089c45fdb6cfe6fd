//! Who decides. Arms share the memory of a backend, as there is one world; what each has of its own is kept here while another decides.

use crate::guard::Watch;
use crate::memory::Memory;

/// Who decides during a tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Arm {
    /// What is in force.
    #[default]
    Incumbent,
    /// What is being tried.
    Candidate,
    /// The capacity prior.
    Fallback,
}

/// What each arm has of its own.
#[derive(Debug, Clone, Default)]
pub struct Arms {
    now: Arm,
    /// By arm: whose it is, and what the guard remembers of it.
    watches: [(String, Watch); 3],
    /// The memory as it was when a visit began.
    before: Option<Memory>,
}

impl Arms {
    /// Makes the memory that of `arm`, whose policy is `version`, for the coming tick.
    ///
    /// After a visit the last weights count as those from before it: what was in force a moment ago is restored at once, and not step by step.
    /// The way into a visit goes by the guard's steps.
    pub fn enter(&mut self, arm: Arm, version: &str, memory: &mut Memory) {
        let own = &self.watches[self.now as usize].0;
        if self.now == arm && own == version {
            return;
        }
        if self.now == arm {
            // Another version in the same place: nothing that was seen of the last one is about it.
            memory.watch = Watch::default();
            self.watches[arm as usize].0 = version.to_owned();
            return;
        }
        self.watches[self.now as usize].1 = memory.watch;
        let (whose, watch) = &mut self.watches[arm as usize];
        if whose != version {
            (*whose, *watch) = (version.to_owned(), Watch::default());
        }
        // What comes of the interval that just ended is another arm's.
        memory.watch = watch.resumed();
        if arm == Arm::Incumbent {
            if let Some(before) = self.before.take() {
                memory.restore_applied(&before);
            }
        } else if self.now == Arm::Incumbent {
            self.before = Some(memory.clone());
        }
        self.now = arm;
    }
}
