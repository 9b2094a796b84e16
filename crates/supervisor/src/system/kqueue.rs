//! What macOS and FreeBSD have in common.
//!
//! A process is watched through a kqueue that has one filter. It is never read from, so it stays readable once the process has ended,
//! as a pidfd does; `poll` and the runtime wait for it as for any descriptor. No child inherits it, and it cannot be sent.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use rustix::event::kqueue::{Event, EventFilter, EventFlags, ProcessEvents, kevent, kqueue};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Signal, WaitId, WaitIdOptions, WaitIdStatus, kill_process, test_kill_process, waitid};
use tokio::io::unix::AsyncFd;

use super::raw_pid;

/// How often the status of a child is asked for whose end is known: the kernel tells of the end a moment before there is a status.
const STATUS_INTERVAL: Duration = Duration::from_millis(5);

/// Events that are taken at once from a kqueue that has one filter.
const EVENTS: usize = 4;

/// The file of the program that is running now. One that has been replaced by a newer one is that newer one.
pub(crate) fn own_program() -> PathBuf {
    // A program that nobody has is not started, and the error names it.
    std::env::current_exe().unwrap_or_else(|_| PathBuf::from("the file of this program"))
}

/// A descriptor that becomes readable when the process has ended.
pub(crate) fn watch(pid: u32) -> io::Result<OwnedFd> {
    let raw = raw_pid(pid)?;
    match queue_of(EventFilter::Proc { pid: raw, flags: ProcessEvents::EXIT }) {
        // A zombie has no filters on macOS, and its number is still its own.
        Err(error)
            if error.raw_os_error() == Some(libc::ESRCH)
                && test_kill_process(raw) != Err(Errno::SRCH)
                && super::has_ended(pid) =>
        {
            has_ended_already()
        }
        watched => watched,
    }
}

/// There is no telling threads apart: the end of the process.
pub(crate) fn watch_main_thread(pid: u32) -> io::Result<OwnedFd> {
    watch(pid)
}

/// The end of one thread cannot be waited for.
pub(crate) fn watch_this_thread() -> io::Result<Option<OwnedFd>> {
    Ok(None)
}

/// Signals the process that a descriptor of [`watch`] means. Whoever gets its number between the look and the signal would get it: the
/// kernel gives numbers out in turn, so that takes all of them to be used up in that moment.
pub(crate) fn signal(watched: BorrowedFd<'_>, pid: u32, signal: Signal) -> rustix::io::Result<()> {
    let now = Timespec::default();
    match poll(&mut [PollFd::new(&watched, PollFlags::IN)], Some(&now))? {
        0 => kill_process(raw_pid(pid).map_err(|_| Errno::SRCH)?, signal),
        _ => Err(Errno::SRCH),
    }
}

/// Waits for the end of a child, reaps it, and returns how it ended.
pub(crate) async fn reap(watched: &AsyncFd<OwnedFd>, pid: u32) -> io::Result<WaitIdStatus> {
    watched.readable().await?.retain_ready();
    loop {
        let id = WaitId::Pid(raw_pid(pid)?);
        if let Some(status) = waitid(id, WaitIdOptions::EXITED | WaitIdOptions::NOHANG)? {
            return Ok(status);
        }
        tokio::time::sleep(STATUS_INTERVAL).await;
    }
}

/// A child cannot be shown to another process.
pub(crate) fn show_child(_pid: u32) -> io::Result<OwnedFd> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "this system cannot show a process to another one"))
}

/// No process is shown.
pub(crate) fn signal_shown(_descriptor: BorrowedFd<'_>, _signal: Signal) -> rustix::io::Result<()> {
    Err(Errno::SRCH)
}

/// No process is shown.
pub(crate) fn shown(_descriptor: BorrowedFd<'_>) -> io::Result<Option<u32>> {
    Ok(None)
}

/// A descriptor that becomes readable when a child ends. A signal that nobody handles is counted all the same.
pub(crate) fn child_signals() -> io::Result<OwnedFd> {
    queue_of(EventFilter::Signal { signal: Signal::CHILD, times: 0 })
}

/// Takes all that is there from a descriptor of [`child_signals`]: it says only that there was something.
pub(crate) fn drain(descriptor: BorrowedFd<'_>) {
    let mut events = Vec::with_capacity(EVENTS);
    let room = rustix::buffer::spare_capacity(&mut events);
    // SAFETY: no descriptor is added. An error leaves it readable, and it is drained the next time.
    let _events = unsafe { kevent(descriptor, &[], room, Some(Duration::ZERO)) };
}

fn queue_of(filter: EventFilter) -> io::Result<OwnedFd> {
    let queue = kqueue()?;
    rustix::io::fcntl_setfd(&queue, rustix::io::FdFlags::CLOEXEC)?;
    let add = Event::new(filter, EventFlags::ADD, std::ptr::null_mut());
    let mut none: [Event; 0] = [];
    // SAFETY: the filters of this module are of processes and signals, not of descriptors.
    unsafe { kevent(&queue, &[add], &mut none[..], None) }?;
    Ok(queue)
}

/// What is readable from now on: a pipe that nobody writes to.
fn has_ended_already() -> io::Result<OwnedFd> {
    let (reader, _writer) = std::io::pipe()?;
    Ok(reader.into())
}
