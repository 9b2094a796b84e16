//! Linux: inotify.

use std::io;
use std::path::Path;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;

/// Tells when a file appears in a directory.
pub(crate) struct Appearance {
    /// An inotify descriptor, which is read as a pipe is.
    events: Receiver,
}

impl Appearance {
    pub(crate) fn watch(directory: &Path) -> io::Result<Appearance> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        inotify::add_watch(&inotify, directory, WatchFlags::CREATE | WatchFlags::MOVED_TO)?;
        Ok(Appearance { events: Receiver::from_owned_fd_unchecked(inotify)? })
    }

    /// Waits until there is a file at `path`, which is in the watched directory.
    pub(crate) async fn of(mut self, path: &Path) -> io::Result<()> {
        // What happened does not matter: the file is there now, or is not.
        let mut events = [0; 4096];
        while path.symlink_metadata().is_err() {
            if self.events.read(&mut events).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }
}
