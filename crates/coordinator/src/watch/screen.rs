//! A terminal while a command shows a full screen: its own screen, without a cursor, and keys that are
//! read one by one. When [`Screen`] is dropped, the terminal is as it was.

use std::{
    io::{self, Write as _},
    time::Duration,
};

use console::{Style, Term};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    stdio,
    termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr},
};

/// Selects the second screen and hides the cursor; and back.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";

/// Erases the rest of a line; and the rest of the screen.
const ERASE_LINE: &str = "\x1b[K";
const ERASE_SCREEN: &str = "\x1b[J";

/// The size of a terminal that does not tell it.
const SIZE: (u16, u16) = (24, 80);

/// A line with one style.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) text: String,
    style: Style,
}

impl Line {
    pub(super) fn plain(text: impl Into<String>) -> Self {
        Self { text: text.into(), style: Style::new() }
    }

    pub(super) fn bold(text: impl Into<String>) -> Self {
        Self { text: text.into(), style: Style::new().bold() }
    }

    pub(super) fn dim(text: impl Into<String>) -> Self {
        Self { text: text.into(), style: Style::new().dim() }
    }

    pub(super) fn red(text: impl Into<String>) -> Self {
        Self { text: text.into(), style: Style::new().red() }
    }

    pub(super) fn yellow(text: impl Into<String>) -> Self {
        Self { text: text.into(), style: Style::new().yellow() }
    }

    /// The first `width` characters.
    pub(super) fn cut(self, width: usize) -> Self {
        Self { text: self.text.chars().take(width).collect(), ..self }
    }
}

/// A key that was pressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    /// q, Escape, Ctrl-C or Ctrl-D, or the end of the input.
    Quit,
    Other,
}

impl Key {
    fn of(bytes: &[u8]) -> Self {
        match bytes {
            // A longer sequence that begins with Escape is an arrow or another special key.
            [] | [b'q' | 0x03 | 0x04, ..] | [0x1b] => Self::Quit,
            _ => Self::Other,
        }
    }
}

/// The terminal.
#[derive(Debug)]
pub(super) struct Screen {
    terminal: Term,
    /// The settings to be restored.
    before: Termios,
}

impl Screen {
    pub(super) fn open() -> io::Result<Self> {
        let before = tcgetattr(stdio::stdin())?;
        let mut settings = before.clone();
        settings.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG);
        tcsetattr(stdio::stdin(), OptionalActions::Now, &settings)?;
        let mut screen = Self { terminal: Term::stdout(), before };
        screen.terminal.write_all(ENTER.as_bytes())?;
        Ok(screen)
    }

    /// Lines and columns.
    pub(super) fn size(&self) -> (usize, usize) {
        let (height, width) = self.terminal.size_checked().unwrap_or(SIZE);
        (height.into(), width.into())
    }

    /// Shows the first `height` lines in place of all that was shown before.
    pub(super) fn show(&mut self, lines: &[Line], height: usize) -> io::Result<()> {
        let lines = lines.iter().take(height);
        let lines = lines.map(|line| format!("{}{ERASE_LINE}", line.style.apply_to(&line.text)));
        let text = lines.collect::<Vec<_>>().join("\r\n");
        // One write, so that no half of a screen is seen.
        self.terminal.write_all(format!("\x1b[H{text}{ERASE_SCREEN}").as_bytes())?;
        self.terminal.flush()
    }

    /// The next key, or none within `timeout`.
    pub(super) fn key(&self, timeout: Duration) -> io::Result<Option<Key>> {
        let timeout = Timespec::try_from(timeout).map_err(io::Error::other)?;
        let input = stdio::stdin();
        match poll(&mut [PollFd::new(&input, PollFlags::IN)], Some(&timeout)) {
            // A signal ends the wait early, for instance when the size of the terminal changes.
            Ok(0) | Err(rustix::io::Errno::INTR) => return Ok(None),
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        let mut bytes = [0; 16];
        let count = rustix::io::read(input, &mut bytes)?;
        Ok(Some(Key::of(&bytes[..count])))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // There is nobody to tell if the terminal is gone.
        let _ = self.terminal.write_all(LEAVE.as_bytes());
        let _ = tcsetattr(stdio::stdin(), OptionalActions::Now, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_end_the_view_are_told_from_others() {
        for quit in [&b"q"[..], b"\x03", b"\x04", b"\x1b", b""] {
            assert_eq!(Key::of(quit), Key::Quit, "{quit:?}");
        }
        for other in [&b"\x1b[A"[..], b"x", b"\r"] {
            assert_eq!(Key::of(other), Key::Other, "{other:?}");
        }
    }
}
