//! What each system has a way of its own for: files without a name in memory, files that share their blocks, the number of an error.

#[cfg(target_os = "linux")]
mod here {
    use std::fs::File;
    use std::io;

    use rustix::fs::{MemfdFlags, memfd_create};
    use rustix::io::Errno;

    /// There is no such attribute.
    pub(crate) const NO_ATTRIBUTE: Errno = Errno::NODATA;

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

pub(crate) use here::{NO_ATTRIBUTE, file_in_memory, share_blocks};
