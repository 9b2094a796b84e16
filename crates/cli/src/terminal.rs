//! The terminal that a command was started from.

pub mod escape;
pub mod replay;
pub mod screen;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};
use signal_hook::consts::SIGWINCH;
use wire::api::process::Size;

use screen::Screen;

/// The size of a terminal that does not say.
const SIZE_DEFAULT: Size = Size { rows: 24, columns: 80 };

/// A terminal that passes every key on as it is. Its settings come back when this is dropped, and so does what is to be
/// undone of what was printed.
pub struct RawTerminal {
    /// What a command has made of it.
    pub screen: Screen,
    tty: File,
    before: Termios,
    /// Becomes readable when the size changes.
    resized: UnixStream,
}

impl RawTerminal {
    /// The terminal that the standard input is; none when it is no terminal.
    pub fn of_input() -> io::Result<Option<RawTerminal>> {
        let stdin = io::stdin();
        if !isatty(&stdin) {
            return Ok(None);
        }
        let tty = File::from(stdin.as_fd().try_clone_to_owned()?);
        let (resized, write) = UnixStream::pair()?;
        resized.set_nonblocking(true)?;
        signal_hook::low_level::pipe::register(SIGWINCH, write)?;
        let before = tcgetattr(&tty)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&tty, OptionalActions::Drain, &raw)?;
        Ok(Some(RawTerminal { screen: Screen::default(), tty, before, resized }))
    }

    /// How large it is now. Changes up to here are forgotten.
    pub fn size(&self) -> Size {
        let mut seen = [0; 64];
        // It is empty, or holds a byte for each change; either way what is asked for next is newer.
        while io::Read::read(&mut &self.resized, &mut seen).is_ok_and(|count| count == seen.len()) {}
        size_of(&self.tty)
    }

    /// Becomes readable when the size changes.
    pub fn resized(&self) -> BorrowedFd<'_> {
        self.resized.as_fd()
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        let restoring = self.screen.restoring();
        if !restoring.is_empty() && isatty(rustix::stdio::stdout()) {
            // A terminal that is gone needs no settings.
            let _gone = rustix::io::write(rustix::stdio::stdout(), &restoring);
        }
        let _gone = tcsetattr(&self.tty, OptionalActions::Drain, &self.before);
    }
}

/// The size of the terminal that the standard input is, or what is usual.
pub fn size_of(tty: impl AsFd) -> Size {
    match tcgetwinsize(tty) {
        Ok(size) if size.ws_row > 0 && size.ws_col > 0 => Size { rows: size.ws_row, columns: size.ws_col },
        _ => SIZE_DEFAULT,
    }
}
