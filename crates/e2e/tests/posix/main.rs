//! Small probes of what a local disk does, one behaviour each. Every probe runs on the local disk, on a mount of this
//! host and on a mount over SSH; what fails on the disk is not asked of a mount.

#![allow(clippy::unwrap_used, reason = "in a probe every unexpected error is a failure")]

mod attributes;
mod copies;
mod data;
mod directories;
mod errors;
mod holes;
mod links;
mod locks;
mod mapped;
mod names;
mod opens;
mod permissions;
mod renames;
mod unlinked;
mod views;
mod xattrs;

/// What the probes share: thin names over the calls.
mod call {
    pub use std::fs::{self, File, OpenOptions};
    pub use std::io::{Read, Seek, SeekFrom, Write};
    pub use std::os::fd::{AsRawFd, OwnedFd};
    pub use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
    pub use std::path::{Path, PathBuf};

    pub use e2e::{Place, assert_same_bytes, probes};
    pub use rustix::fs::{AtFlags, CWD, Mode, OFlags};
    pub use rustix::io::Errno;

    /// Opens with exactly these flags.
    pub fn open(path: &Path, flags: OFlags) -> rustix::io::Result<File> {
        rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::from_raw_mode(0o644)).map(File::from)
    }

    pub fn read_write(path: &Path) -> File {
        open(path, OFlags::RDWR | OFlags::CREATE).unwrap()
    }

    /// The errno of an operation that must fail.
    #[track_caller]
    pub fn errno<T: std::fmt::Debug>(result: std::io::Result<T>) -> Errno {
        Errno::from_io_error(&result.expect_err("must fail")).expect("an error of the system")
    }

    pub fn read(path: &Path) -> Vec<u8> {
        fs::read(path).unwrap()
    }

    pub fn mode(path: &Path) -> u32 {
        path.symlink_metadata().unwrap().mode() & 0o7777
    }

    pub fn inode(path: &Path) -> u64 {
        path.symlink_metadata().unwrap().ino()
    }

    pub fn size(path: &Path) -> u64 {
        path.symlink_metadata().unwrap().size()
    }

    pub fn exists(path: &Path) -> bool {
        path.symlink_metadata().is_ok()
    }

    /// The names in a directory, sorted.
    pub fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// Bytes in which every position can be told from its neighbours.
    pub fn pattern(count: usize) -> Vec<u8> {
        (0..count).map(|at| (at % 251) as u8).collect()
    }

    /// Runs `action` on a thread that has the rights of `uid` and `gid` and no others. Needs root.
    pub fn as_user<T: Send>(uid: u32, gid: u32, action: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                drop_rights(uid, gid);
                action()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    fn drop_rights(uid: u32, gid: u32) {
        // SAFETY: the raw calls, unlike libc's, change the credentials of this thread only, and it ends with them.
        let outcomes = unsafe {
            [
                libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<u32>()),
                libc::syscall(libc::SYS_setresgid, gid, gid, gid),
                libc::syscall(libc::SYS_setresuid, uid, uid, uid),
            ]
        };
        assert_eq!(outcomes, [0; 3], "giving up rights needs root");
    }
}
