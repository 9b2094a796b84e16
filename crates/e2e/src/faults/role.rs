//! The processes that may die, by what they are to a mount.

use std::fmt;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::field::Field;
use crate::leftovers::{command_lines, has_ended, is_process_of};
use crate::program::is_readable_within;

/// A process that may die.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Serves the mount.
    Worker,
    /// Holds what the kernel knows the mount by.
    Keeper,
    Daemon,
    /// The far side's session of this mount.
    Agent,
    /// The login that is shared.
    Master,
}

impl Role {
    pub fn name(self) -> &'static str {
        match self {
            Role::Worker => "worker",
            Role::Keeper => "keeper",
            Role::Daemon => "daemon",
            Role::Agent => "agent",
            Role::Master => "master",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A process that was found in a role. It is that process and no later one of the same number.
#[derive(Debug)]
pub struct Holder {
    pub pid: i32,
    process: OwnedFd,
}

impl Holder {
    fn of(pid: i32) -> Option<Holder> {
        let process = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
        Some(Holder { pid, process })
    }

    /// Sends it a signal. One that has gone is no error.
    pub fn signal(&self, signal: Signal) {
        let _gone = pidfd_send_signal(&self.process, signal);
    }

    /// Whether its main thread ends within `deadline`; from then on it answers nothing. Its pidfd would tell of the end
    /// of its last thread, and one that waits in the kernel for its successor's answer ends late.
    pub fn ends_within(&self, deadline: Duration) -> bool {
        let end = Instant::now() + deadline;
        loop {
            if is_readable_within(&self.process, LOOK_MAX) || has_ended(self.pid) {
                return true;
            }
            if Instant::now() >= end {
                return false;
            }
        }
    }
}

/// Between two looks at a process that may be dead but for one thread.
const LOOK_MAX: Duration = Duration::from_micros(500);

/// The processes that are `role` to the mount of `field` now.
pub fn holders(field: &Field, role: Role) -> Vec<Holder> {
    let found = command_lines().into_iter().filter(|(_, arguments)| is_role(field, role, arguments));
    // A pid that was used again between the two looks has other arguments.
    let still = |pid: i32| command_lines_of(pid).is_some_and(|arguments| is_role(field, role, &arguments));
    let marker = match role {
        // Whoever has the tree open serves this mount; other agents are the daemon's, or wait at a stream's end.
        Role::Agent => &field.far,
        _ => field.stead().home(),
    };
    found
        .filter(|(pid, _)| is_process_of(*pid, marker))
        .filter_map(|(pid, _)| Holder::of(pid))
        .filter(|holder| still(holder.pid))
        .collect()
}

fn command_lines_of(pid: i32) -> Option<Vec<Vec<u8>>> {
    let text = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let words = text.strip_suffix(b"\0").unwrap_or(&text).split(|byte| *byte == 0);
    Some(words.map(<[u8]>::to_vec).collect())
}

fn is_role(field: &Field, role: Role, arguments: &[Vec<u8>]) -> bool {
    let word = |at: usize| arguments.get(at).map_or(&b""[..], Vec::as_slice);
    let is_program = |name: &[u8]| word(0).rsplit(|byte| *byte == b'/').next() == Some(name);
    let is_of_mount = || arguments.iter().any(|argument| belongs(argument, &field.state_dir()));
    match role {
        Role::Worker => word(1) == b"worker" && is_of_mount(),
        Role::Keeper => word(1) == b"keeper" && is_of_mount(),
        Role::Daemon => word(1) == b"daemon" && word(2) == b"run",
        Role::Agent => is_program(b"stead-agent") || word(1) == b"agent",
        Role::Master => is_program(b"ssh") && arguments.iter().any(|argument| argument == b"-M"),
    }
}

fn belongs(argument: &[u8], directory: &Path) -> bool {
    argument == directory.as_os_str().as_encoded_bytes()
}
