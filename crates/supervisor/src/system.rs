//! What each system has a way of its own for. The module of the system that this is compiled for stands for all of it: the rest of the
//! crate knows none.
//!
//! | is | Linux | macOS, FreeBSD |
//! |---|---|---|
//! | the end of a process | a pidfd | a kqueue with one filter, or a pipe without a writer for one that has ended already |
//! | a signal to it | through the pidfd | by its number, after a look whether it has ended |
//! | which process it is | `/proc`: start in ticks, random id of the boot | `libproc` or `sysctl`: start in microseconds, id of the boot |
//! | a process shown to another one | the pidfd | not at all: a kqueue cannot be sent |
//! | the end of one thread | a pidfd | not at all |
//! | messages with borders | `SOCK_SEQPACKET` | the same; on macOS messages of one length on a stream |

#[cfg(target_os = "freebsd")]
mod freebsd;
#[cfg(any(target_os = "freebsd", target_os = "macos"))]
mod kqueue;
#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "macos")]
mod macos;

use std::io;
use std::os::fd::RawFd;
use std::path::Path;

use rustix::process::Pid;

#[cfg(target_os = "freebsd")]
pub(crate) use freebsd::*;
#[cfg(any(target_os = "freebsd", target_os = "macos"))]
pub(crate) use kqueue::*;
#[cfg(target_os = "linux")]
pub(crate) use linux::*;
#[cfg(target_os = "macos")]
pub(crate) use macos::*;

/// The kernel's number of a process, which is not 0 and not negative.
pub(crate) fn raw_pid(pid: u32) -> io::Result<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH))
}

/// The id of a boot as it is written: hexadecimal, with hyphens.
#[cfg(any(target_os = "linux", target_os = "macos"))]
fn digits(text: &str) -> Option<u128> {
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    u128::from_str_radix(&digits, 16).ok()
}

/// Marks every descriptor from 3 on that is listed there as close-on-exec.
fn mark_each(directory: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let number: Option<RawFd> = entry?.file_name().to_str().and_then(|name| name.parse().ok());
        if let Some(number) = number.filter(|number| *number > 2) {
            // SAFETY: the call takes integers only. One that was closed since it was listed gives EBADF, which is as good.
            unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
        }
    }
    Ok(())
}
