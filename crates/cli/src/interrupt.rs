//! Interrupts as something to wait for.

use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::error::{Error, Result};

/// Becomes readable when somebody wants the command to end: by the keyboard, a signal or the end of the terminal. From
/// its creation on what is watched does not end the process by itself.
#[derive(Debug)]
pub struct Interrupt(UnixStream);

impl Interrupt {
    /// Begins to watch.
    pub fn watch() -> Result<Interrupt> {
        Interrupt::of(&[SIGINT, SIGTERM, SIGHUP])
    }

    /// Begins to watch for interrupts by the keyboard alone.
    pub fn watch_keyboard() -> Result<Interrupt> {
        Interrupt::of(&[SIGINT])
    }

    fn of(signals: &[i32]) -> Result<Interrupt> {
        let could_not = |error: std::io::Error| Error::io("could not watch for interrupts", &error);
        let (read, write) = UnixStream::pair().map_err(could_not)?;
        for signal in signals {
            let write = write.try_clone().map_err(could_not)?;
            signal_hook::low_level::pipe::register(*signal, write).map_err(could_not)?;
        }
        Ok(Interrupt(read))
    }

    /// Takes note of the interrupts so far: it is readable again after the next one.
    pub fn clear(&self) -> Result<()> {
        // More than anybody sends before it is looked at; the rest is another interrupt.
        let mut interrupts = [0; 64];
        let read = (&self.0).read(&mut interrupts);
        read.map(drop).map_err(|error| Error::io("could not watch for interrupts", &error))
    }
}

impl AsFd for Interrupt {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
