//! Whether anybody can write to a plain file without asking: who has it open to write, or mapped although it is open no more.
//!
//! The kernel counts them and says so in one way: it gives a lease to read a file to nobody as long as there are any. So a lease is taken
//! and given back at once. Who opens the file to write meanwhile waits that long, and the kernel signals that to this process.

use std::fs::File;
use std::os::fd::AsRawFd;

/// What the kernel signals with instead of SIGIO, which would end this process: it is ignored where nobody waits for it.
const HARMLESS: libc::c_int = libc::SIGURG;

/// `F_SETSIG` of Linux's <asm-generic/fcntl.h>, which `libc` leaves out.
const SET_SIGNAL: libc::c_int = 10;

/// Whether nobody can. Also where the file system below cannot tell: then it is `false`. The file is open to be read.
pub(super) fn nobody_writes(file: &File) -> bool {
    let is_taken = control(file, SET_SIGNAL, HARMLESS) && control(file, libc::F_SETLEASE, libc::F_RDLCK);
    // Also closing the file would give it back.
    is_taken && control(file, libc::F_SETLEASE, libc::F_UNLCK)
}

/// What `rustix` has no words for.
fn control(file: &File, command: libc::c_int, argument: libc::c_int) -> bool {
    // SAFETY: the descriptor is open as long as the file is borrowed, and these commands take a number.
    unsafe { libc::fcntl(file.as_raw_fd(), command, argument) == 0 }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;

    use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

    use super::*;

    #[test]
    fn who_writes_is_known_also_when_only_a_mapping_is_left() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("file");
        std::fs::write(&path, "content").unwrap();
        let file = File::open(&path).unwrap();
        assert!(nobody_writes(&file));
        assert!(nobody_writes(&file), "and it is given back");
        let other = File::open(&path).unwrap();
        assert!(nobody_writes(&file), "who reads does not count");
        drop(other);
        let writer = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        assert!(!nobody_writes(&file));
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: the kernel chooses the address, and nothing refers to the memory.
        let mapped = unsafe { mmap(std::ptr::null_mut(), 7, access, MapFlags::SHARED, &writer, 0) }.unwrap();
        drop(writer);
        assert!(!nobody_writes(&file), "it is mapped");
        // SAFETY: it is what was mapped, and nobody uses it.
        unsafe { munmap(mapped, 7) }.unwrap();
        assert!(nobody_writes(&file));
    }

    #[test]
    fn a_lease_that_somebody_waits_for_ends_nobody() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("file");
        std::fs::write(&path, "content").unwrap();
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..2_000 {
                        let opened = OpenOptions::new().write(true).open(&path);
                        drop(opened.unwrap());
                    }
                });
            }
            let file = File::open(&path).unwrap();
            for _ in 0..2_000 {
                let _either = nobody_writes(&file);
            }
        });
        assert!(nobody_writes(&File::open(&path).unwrap()));
    }
}
