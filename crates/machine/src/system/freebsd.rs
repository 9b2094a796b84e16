//! FreeBSD: a signal at the end of the parent.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use crate::error::Result;
use crate::program::End;

/// Runs a program that ends with its parent: the kernel sends it the signal then.
pub(crate) fn tied(program: &Path, end: End) -> Result<Command> {
    let signal = match end {
        End::Killed => libc::SIGKILL,
        End::Told => libc::SIGTERM,
    };
    let mut command = Command::new(program);
    let tie = move || {
        let mut signal: libc::c_int = signal;
        // SAFETY: the kernel reads one number, which lives through the call.
        let code =
            unsafe { libc::procctl(libc::P_PID, 0, libc::PROC_PDEATHSIG_CTL, (&raw mut signal).cast()) };
        if code == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
    };
    // SAFETY: between fork and exec it makes one system call, and allocates nothing.
    unsafe { command.pre_exec(tie) };
    Ok(command)
}
