//! macOS: `mount_nfs`, which any user may run for a directory that is his own, and which mounts are of macFUSE.

use std::io::{self, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::bsd::{Mounts, ask_for_root, value};
use super::{NoKernelMount, Served};
pub(super) use crate::fuse::mountpoint::is_ours as is_own_fuse;
use crate::nfs::Access;
use crate::nfs::limits::TRANSFER_BYTES_MAX;
use crate::nfs::mountpoint::{ATTRIBUTES_BELIEVED_S, MountError, RESEND_DS, SOURCE};

/// What mounts. It is part of the system.
const PROGRAM: &str = "/sbin/mount_nfs";

/// It asks a server of this computer a handful of questions.
const WAIT_MAX: Duration = Duration::from_secs(20);

/// What of its error output is kept; it prints a line.
const STDERR_BYTES_MAX: u64 = 4 << 10;

/// Whether there is what mounts.
pub(crate) fn kernel_can_mount() -> Result<(), NoKernelMount> {
    if Path::new(PROGRAM).is_file() { Ok(()) } else { Err(NoKernelMount::NoClient) }
}

/// Mounts what is served at `path`.
pub(crate) fn mount_nfs(path: &Path, served: Served<'_>) -> Result<(), MountError> {
    let mut command = Command::new(PROGRAM);
    command.arg("-o").arg(options(served)).arg(SOURCE).arg(path);
    let why = match run(&mut command) {
        Ok(None) => return Ok(()),
        Ok(Some(words)) => words,
        Err(error) => format!("could not run `{PROGRAM}`: {error}"),
    };
    Err(MountError::Command { path: path.to_path_buf(), why })
}

/// `locallocks`: locks are kept by the client, for there is no lock server. `noresvport`: nothing is gained by low ports. `hard`: a worker
/// that restarts is waited for; `intr`: whoever waits may be interrupted. Attributes are believed for a second, for the client is not
/// told of changes.
fn options(served: Served<'_>) -> String {
    let (port, size) = (served.port, TRANSFER_BYTES_MAX);
    let mut options = format!(
        "vers=3,tcp,port={port},mountport={port},rsize={size},wsize={size},locallocks,noresvport,hard,intr,\
         timeo={RESEND_DS},sec=sys,actimeo={ATTRIBUTES_BELIEVED_S},retrycnt=0,nosuid,nodev"
    );
    if served.access == Access::ReadOnly {
        options += ",ro";
    }
    options
}

/// Runs it to its end, or ends it. What it said, if it failed.
fn run(command: &mut Command) -> io::Result<Option<String>> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let said = listen(&mut child);
    if said.is_none() {
        child.kill()?;
    }
    let status = child.wait()?;
    Ok(match said {
        _ if status.success() => None,
        None => Some(format!("`{PROGRAM}` did not finish within {} s", WAIT_MAX.as_secs())),
        Some(said) if said.is_empty() => Some(format!("`{PROGRAM}` ended with {status}")),
        Some(said) => Some(said),
    })
}

/// Hears what it says until it has nothing more to say, which is its end; `None` if it takes too long.
fn listen(child: &mut Child) -> Option<String> {
    let until = Instant::now() + WAIT_MAX;
    let mut said = Vec::new();
    let mut stderr = child.stderr.take()?;
    loop {
        let left = Timespec::try_from(until.saturating_duration_since(Instant::now())).ok()?;
        match poll(&mut [PollFd::new(&stderr, PollFlags::IN)], Some(&left)) {
            Ok(0) => return None,
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(_) => break,
        }
        let mut piece = [0; 512];
        match stderr.read(&mut piece) {
            Ok(0) | Err(_) => break,
            Ok(length) => said.extend(&piece[..length]),
        }
        // More than that is not kept, and heard all the same.
        said.truncate(STDERR_BYTES_MAX as usize);
    }
    Some(String::from_utf8_lossy(&said).trim().replace(char::is_control, " "))
}

/// Puts a request to a mount that its server answers by itself. What FUSE's kernel believes of the root would be no answer.
pub(crate) fn put_request(path: &Path) -> Result<(), Errno> {
    let is_fuse = |mounts: Mounts| mounts.at(path).is_some_and(|at| is_own_fuse(&at.fs_type, &at.source));
    match Mounts::read().is_ok_and(is_fuse) {
        true => rustix::fs::lgetxattr(path, crate::probe::ATTRIBUTE, &mut [0; 1]).map(drop),
        false => ask_for_root(path),
    }
}

/// The id of the boot session: a text that ends with a NUL.
pub(crate) fn boot_id() -> Vec<u8> {
    value::<64>(c"kern.bootsessionuuid").unwrap_or_default()
}
