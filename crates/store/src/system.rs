//! What each system has a way of its own for: files without a name in memory, files that share their blocks, the number of an error.

#[cfg(target_os = "linux")]
mod here {
    use std::fs::File;
    use std::io;
    use std::os::fd::{BorrowedFd, OwnedFd};

    use rustix::fs::{MemfdFlags, Mode, OFlags, ResolveFlags, memfd_create, openat2};
    use rustix::io::{Errno, retry_on_intr};

    /// There is no such attribute.
    pub(crate) const NO_ATTRIBUTE: Errno = Errno::NODATA;

    /// To look at a file, or at a symlink itself, without opening it.
    pub(crate) const TO_LOOK: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW);

    /// Opens what is below a directory, on its file system and without following symlinks: the last one only by `PATH` and `NOFOLLOW`.
    pub(crate) fn open_beneath(directory: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
        const HOW: ResolveFlags = ResolveFlags::BENEATH
            .union(ResolveFlags::NO_SYMLINKS)
            .union(ResolveFlags::NO_MAGICLINKS)
            .union(ResolveFlags::NO_XDEV);
        Ok(retry_on_intr(|| openat2(directory, path, flags | OFlags::CLOEXEC, Mode::empty(), HOW))?)
    }

    /// A file in memory, which ends when it is closed.
    pub(crate) fn file_in_memory() -> io::Result<File> {
        Ok(File::from(memfd_create("stead-blob", MemfdFlags::CLOEXEC)?))
    }

    /// Has a new file share all blocks of another one, where the file system can.
    pub(crate) fn share_blocks(to: &File, from: &File) -> bool {
        rustix::fs::ioctl_ficlone(to, from).is_ok()
    }
}

#[cfg(target_os = "freebsd")]
mod here {
    use std::fs::File;
    use std::io;

    use rustix::fs::{MemfdFlags, memfd_create};
    use rustix::io::Errno;

    /// There is no such attribute.
    pub(crate) const NO_ATTRIBUTE: Errno = Errno::NOATTR;

    /// A file in memory, which ends when it is closed.
    pub(crate) fn file_in_memory() -> io::Result<File> {
        Ok(File::from(memfd_create("stead-blob", MemfdFlags::CLOEXEC)?))
    }

    /// Nothing is shared before it is written.
    pub(crate) fn share_blocks(_to: &File, _from: &File) -> bool {
        false
    }
}

#[cfg(target_os = "macos")]
mod here {
    use std::fs::{File, OpenOptions};
    use std::io;
    use std::os::unix::fs::OpenOptionsExt;
    use std::sync::atomic::{AtomicU64, Ordering};

    use rustix::io::Errno;

    /// There is no such attribute.
    pub(crate) const NO_ATTRIBUTE: Errno = Errno::NOATTR;

    static COUNT: AtomicU64 = AtomicU64::new(0);

    /// A file of this user's directory for what is temporary, whose name is removed at once: memory of this system is not read as
    /// files are.
    pub(crate) fn file_in_memory() -> io::Result<File> {
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("stead-blob-{}-{count}", std::process::id()));
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
        std::fs::remove_file(&path)?;
        Ok(file)
    }

    /// A clone has to be made under a new name; an open file cannot become one.
    pub(crate) fn share_blocks(_to: &File, _from: &File) -> bool {
        false
    }
}

/// Other systems have no way to do that at once.
#[cfg(not(target_os = "linux"))]
mod beneath {
    use std::io;
    use std::os::fd::{BorrowedFd, OwnedFd};

    use rustix::fs::OFlags;

    pub(crate) const TO_LOOK: OFlags = OFlags::NOFOLLOW;

    pub(crate) fn open_beneath(
        _directory: BorrowedFd<'_>,
        _path: &[u8],
        _flags: OFlags,
    ) -> io::Result<OwnedFd> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

#[cfg(not(target_os = "linux"))]
pub(crate) use beneath::{TO_LOOK, open_beneath};
pub(crate) use here::{NO_ATTRIBUTE, file_in_memory, share_blocks};
#[cfg(target_os = "linux")]
pub(crate) use here::{TO_LOOK, open_beneath};
