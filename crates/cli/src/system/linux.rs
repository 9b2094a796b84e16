//! Linux: credentials of a socket, pidfds, inotify.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::event::PollFlags;
use rustix::fs::{Mode, inotify};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::{End, Peer};

/// Whether mounts go through FUSE, microVMs can run, and this computer is a machine itself.
pub const IS_LINUX: bool = true;

/// What is polled for to see whether the other side has gone.
pub const GONE: PollFlags = PollFlags::RDHUP;

/// Who is at the other end of a socket.
pub fn peer(socket: impl AsFd) -> io::Result<Peer> {
    let credentials = rustix::net::sockopt::socket_peercred(socket)?;
    Ok(Peer { uid: credentials.uid.as_raw(), pid: Some(credentials.pid) })
}

/// What becomes readable with the end of a process.
pub fn end_of(pid: Pid) -> io::Result<End> {
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

/// The bits of a mode.
pub fn bits(mode: Mode) -> u32 {
    mode.bits()
}

/// Tells when a file grows, or when another one takes its place.
#[derive(Debug)]
pub struct Growth {
    events: OwnedFd,
}

impl Growth {
    /// Of a file that is there.
    pub fn of(path: &Path) -> io::Result<Growth> {
        let events = inotify::init(inotify::CreateFlags::CLOEXEC)?;
        inotify::add_watch(&events, path, inotify::WatchFlags::MODIFY)?;
        // The directory tells when the next file is there.
        let dir = path.parent().unwrap_or(path);
        inotify::add_watch(&events, dir, inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO)?;
        Ok(Growth { events })
    }

    /// Waits for it.
    pub fn wait(&self) -> io::Result<()> {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(&self.events, &mut buffer);
        match events.next() {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}
