//! Linux: pidfds, `setpriv`, `FICLONE`.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Command;

use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::error::Result;
use crate::program::{End, need};

/// MicroVMs run here, as far as the system is concerned.
pub(crate) fn runs_vms() -> Result<()> {
    Ok(())
}

/// What becomes readable with the end of a process.
pub(crate) fn end_of(pid: Pid) -> rustix::io::Result<OwnedFd> {
    pidfd_open(pid, PidfdFlags::empty())
}

/// Runs a program that ends with the thread that has it run: the kernel sends it the signal then.
pub(crate) fn tied(program: &Path, end: End) -> Result<Command> {
    let signal = match end {
        End::Killed => "KILL",
        End::Told => "TERM",
    };
    // It becomes the program.
    let mut command = Command::new(need("setpriv", "util-linux")?);
    command.args(["--pdeathsig", signal, "--"]).arg(program);
    Ok(command)
}

/// Has a new file share all blocks of another one, where the file system can.
pub(crate) fn share_blocks(to: &File, from: &File) -> rustix::io::Result<()> {
    rustix::fs::ioctl_ficlone(to, from)
}
