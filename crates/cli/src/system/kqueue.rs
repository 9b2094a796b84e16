//! macOS and FreeBSD: credentials of a socket, kqueue.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::event::PollFlags;
use rustix::event::kqueue::{Event, EventFilter, EventFlags, ProcessEvents, VnodeEvents, kevent, kqueue};
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::process::Pid;

use super::{End, Peer};

/// Whether mounts go through FUSE, microVMs can run, and this computer is a machine itself.
pub const IS_LINUX: bool = false;

/// What is polled for to see whether the other side has gone: it is told without being asked for.
pub const GONE: PollFlags = PollFlags::HUP;

/// Who is at the other end of a socket.
pub fn peer(socket: impl AsFd) -> io::Result<Peer> {
    let (mut uid, mut gid) = (0, 0);
    // SAFETY: the kernel writes the two numbers.
    match unsafe { libc::getpeereid(socket.as_fd().as_raw_fd(), &mut uid, &mut gid) } {
        0 => Ok(Peer { uid, pid: pid_of(socket) }),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(target_os = "macos")]
fn pid_of(socket: impl AsFd) -> Option<Pid> {
    let mut pid: libc::pid_t = 0;
    let mut bytes = size_of::<libc::pid_t>() as libc::socklen_t;
    let socket = socket.as_fd().as_raw_fd();
    // SAFETY: the kernel writes at most as many bytes as the number has.
    let code = unsafe {
        libc::getsockopt(socket, libc::SOL_LOCAL, libc::LOCAL_PEERPID, (&raw mut pid).cast(), &mut bytes)
    };
    Pid::from_raw(pid).filter(|_| code == 0)
}

#[cfg(target_os = "freebsd")]
fn pid_of(socket: impl AsFd) -> Option<Pid> {
    let mut credentials = std::mem::MaybeUninit::<libc::xucred>::zeroed();
    let mut bytes = size_of::<libc::xucred>() as libc::socklen_t;
    let (socket, into) = (socket.as_fd().as_raw_fd(), credentials.as_mut_ptr().cast());
    // SAFETY: the kernel writes at most as many bytes as the object has.
    let code = unsafe { libc::getsockopt(socket, libc::SOL_LOCAL, libc::LOCAL_PEERCRED, into, &mut bytes) };
    // SAFETY: it was zeroed, and the kernel writes this field of the union since FreeBSD 13.
    let pid = unsafe { credentials.assume_init().cr_pid__c_anonymous_union.cr_pid };
    Pid::from_raw(pid).filter(|_| code == 0)
}

/// What becomes readable with the end of a process.
pub fn end_of(pid: Pid) -> io::Result<End> {
    let queue = new_queue()?;
    let filter = EventFilter::Proc { pid, flags: ProcessEvents::EXIT };
    let add = Event::new(filter, EventFlags::ADD, std::ptr::null_mut());
    let mut none: [Event; 0] = [];
    // SAFETY: the filter is of a process, not of a descriptor.
    match unsafe { kevent(&queue, &[add], &mut none[..], None) } {
        Ok(_) => Ok(queue),
        // It has ended already: a pipe that nobody writes to is readable.
        Err(Errno::SRCH) => Ok(std::io::pipe()?.0.into()),
        Err(errno) => Err(errno.into()),
    }
}

/// The bits of a mode.
pub fn bits(mode: Mode) -> u32 {
    u32::from(mode.bits())
}

fn new_queue() -> io::Result<OwnedFd> {
    let queue = kqueue()?;
    rustix::io::fcntl_setfd(&queue, rustix::io::FdFlags::CLOEXEC)?;
    Ok(queue)
}

/// Tells when a file grows, or when another one takes its place.
#[derive(Debug)]
pub struct Growth {
    /// Before what it watches, so that it is closed first.
    events: OwnedFd,
    _watched: [File; 2],
}

impl Growth {
    /// Of a file that is there.
    pub fn of(path: &Path) -> io::Result<Growth> {
        // The directory tells when the next file is there.
        let watched = [File::open(path)?, File::open(path.parent().unwrap_or(path))?];
        let events = new_queue()?;
        let of = |file: &File| {
            let flags = VnodeEvents::WRITE | VnodeEvents::EXTEND | VnodeEvents::DELETE | VnodeEvents::RENAME;
            let filter = EventFilter::Vnode { vnode: file.as_raw_fd(), flags };
            Event::new(filter, EventFlags::ADD | EventFlags::CLEAR, std::ptr::null_mut())
        };
        let mut none: [Event; 0] = [];
        // SAFETY: the files are closed after the queue.
        unsafe { kevent(&events, &watched.each_ref().map(of), &mut none[..], None) }?;
        Ok(Growth { events, _watched: watched })
    }

    /// Waits for it.
    pub fn wait(&self) -> io::Result<()> {
        let mut events = Vec::with_capacity(2);
        let room = rustix::buffer::spare_capacity(&mut events);
        // SAFETY: no descriptor is added.
        match unsafe { kevent(&self.events, &[], room, None) } {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}
