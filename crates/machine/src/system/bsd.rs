//! What macOS and FreeBSD have in common: no microVMs, kqueue.

use std::fs::File;
use std::os::fd::OwnedFd;

use rustix::event::kqueue::{Event, EventFilter, EventFlags, ProcessEvents, kevent, kqueue};
use rustix::io::Errno;
use rustix::process::Pid;
use wire::api::ErrorKind;

use crate::error::{Error, Result};

/// None run here.
pub(crate) fn runs_vms() -> Result<()> {
    let message = format!("vms run on Linux computers, and this system is {}", std::env::consts::OS);
    Err(Error::new(ErrorKind::Refused, message))
}

/// What becomes readable with the end of a process.
pub(crate) fn end_of(pid: Pid) -> rustix::io::Result<OwnedFd> {
    let queue = kqueue()?;
    rustix::io::fcntl_setfd(&queue, rustix::io::FdFlags::CLOEXEC)?;
    let filter = EventFilter::Proc { pid, flags: ProcessEvents::EXIT };
    let add = Event::new(filter, EventFlags::ADD, std::ptr::null_mut());
    let mut none: [Event; 0] = [];
    // SAFETY: the filter is of a process, not of a descriptor.
    match unsafe { kevent(&queue, &[add], &mut none[..], None) } {
        Ok(_) => Ok(queue),
        // It has ended already: a pipe that nobody writes to is readable.
        Err(Errno::SRCH) => Ok(rustix::pipe::pipe()?.0),
        Err(errno) => Err(errno),
    }
}

/// Nothing is shared before it is written.
pub(crate) fn share_blocks(_to: &File, _from: &File) -> rustix::io::Result<()> {
    Err(Errno::OPNOTSUPP)
}
