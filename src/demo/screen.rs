//! The live terminal: an alternate screen that is redrawn in place, and that gives the terminal back however the demo ends.

use std::io::{self, IsTerminal, Stdout, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use crossterm::cursor::{Hide, MoveTo, Show};
use crossterm::style::Print;
use crossterm::terminal::{
    BeginSynchronizedUpdate, Clear, ClearType, DisableLineWrap, EnableLineWrap, EndSynchronizedUpdate,
    EnterAlternateScreen, LeaveAlternateScreen, size,
};
use crossterm::{execute, queue};

use super::frame::{Frame, SIZE_MIN};

/// The terminal, taken over until this is dropped.
#[derive(Debug)]
pub struct Screen {
    out: Stdout,
    colour: bool,
}

/// Whether the terminal is taken over at present: a panic must give it back before it says anything.
static TAKEN: AtomicBool = AtomicBool::new(false);

impl Screen {
    /// Whether standard output is a terminal that can be drawn on.
    pub fn fits() -> bool {
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        io::stdout().is_terminal() && !dumb && size().is_ok_and(|(columns, _)| columns >= SIZE_MIN.0)
    }

    /// Takes the terminal over.
    ///
    /// # Errors
    /// If it cannot be written to.
    pub fn take() -> io::Result<Self> {
        let said = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            give_back();
            said(panic);
        }));
        // NO_COLOR counts when it is there and not empty (no-color.org).
        let colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let mut screen = Self { out: io::stdout(), colour };
        TAKEN.store(true, Ordering::SeqCst);
        execute!(screen.out, EnterAlternateScreen, Hide, DisableLineWrap, Clear(ClearType::All))?;
        Ok(screen)
    }

    /// Draws a frame over the last one.
    ///
    /// # Errors
    /// If the terminal cannot be written to.
    pub fn draw(&mut self, frame: &Frame) -> io::Result<()> {
        let (_, rows) = size().unwrap_or(SIZE_MIN);
        // One write a frame, shown at once where the terminal understands synchronized updates: no flicker.
        queue!(self.out, BeginSynchronizedUpdate, MoveTo(0, 0))?;
        let lines = frame.lines(rows, self.colour);
        for (row, line) in lines.iter().enumerate() {
            let row = u16::try_from(row).unwrap_or(u16::MAX);
            queue!(self.out, MoveTo(0, row), Print(line), Clear(ClearType::UntilNewLine))?;
        }
        queue!(self.out, Clear(ClearType::FromCursorDown), EndSynchronizedUpdate)?;
        self.out.flush()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

/// Gives the terminal back, once.
fn give_back() {
    if TAKEN.swap(false, Ordering::SeqCst) {
        // Nothing can be done, and nobody told, if the terminal is gone.
        let _ = execute!(io::stdout(), EnableLineWrap, Show, LeaveAlternateScreen);
    }
}
