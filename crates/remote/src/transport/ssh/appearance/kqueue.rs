//! macOS and FreeBSD: a kqueue that watches the directory, which is written to when a name comes into it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::event::kqueue::{Event, EventFilter, EventFlags, VnodeEvents, kevent, kqueue};
use supervisor::descriptor::readable;
use tokio::io::unix::AsyncFd;

/// Tells when a file appears in a directory.
pub(crate) struct Appearance {
    /// Before what it watches, so that it is closed first.
    events: AsyncFd<OwnedFd>,
    _directory: File,
}

impl Appearance {
    pub(crate) fn watch(directory: &Path) -> io::Result<Appearance> {
        let directory = File::open(directory)?;
        let queue = kqueue()?;
        rustix::io::fcntl_setfd(&queue, rustix::io::FdFlags::CLOEXEC)?;
        let filter = EventFilter::Vnode { vnode: directory.as_raw_fd(), flags: VnodeEvents::WRITE };
        let add = Event::new(filter, EventFlags::ADD | EventFlags::CLEAR, std::ptr::null_mut());
        let mut none: [Event; 0] = [];
        // SAFETY: the directory is closed after the queue.
        unsafe { kevent(&queue, &[add], &mut none[..], None) }?;
        Ok(Appearance { events: readable(queue)?, _directory: directory })
    }

    /// Waits until there is a file at `path`, which is in the watched directory.
    pub(crate) async fn of(self, path: &Path) -> io::Result<()> {
        // What happened does not matter: the file is there now, or is not.
        while path.symlink_metadata().is_err() {
            let mut ready = self.events.readable().await?;
            ready.clear_ready();
            let mut events = Vec::with_capacity(1);
            let room = rustix::buffer::spare_capacity(&mut events);
            // SAFETY: no descriptor is added.
            unsafe { kevent(self.events.get_ref().as_fd(), &[], room, Some(Duration::ZERO)) }?;
        }
        Ok(())
    }
}
