//! What goes wrong.

use std::fmt;
use std::time::Duration;

use rustix::process::Signal;

use super::dice::Dice;
use super::field::Field;
use super::role::Role;
use crate::Kind;
use crate::wait::{holds_within, pause};

/// The shortest outage: what TCP mends by itself before anybody notices.
const OUTAGE_MIN: Duration = Duration::from_millis(100);

/// A stopped process is let go on after this long at most, which is before a probe finds it.
const STOPPED_MAX: Duration = Duration::from_millis(1500);

/// A frame's head and some payload: a cut after up to so many bytes falls into the middle of some frame.
const BYTES_BEFORE_CUT_MAX: u64 = 64 << 10;

/// A line on which nothing is sent is cut after this long all the same.
const QUIET_MAX: Duration = Duration::from_secs(2);

/// Sorts of faults, as they are named on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sort {
    Kill(Role),
    Stop(Role),
    /// The worker crashes: SIGABRT, as after a panic that cannot be unwound, or by the allocator.
    Abort,
    /// `stead daemon restart`.
    Restart,
    /// The server and all its connections.
    Sshd,
    /// Bytes stop, and nobody is told.
    Stall,
    /// Connections end.
    Cut,
    /// Connections end in the middle of a frame.
    CutInFrame,
}

/// All sorts, with their names. Those for a mount of this host come first.
pub const SORTS: &[(&str, Sort)] = &[
    ("worker", Sort::Kill(Role::Worker)),
    ("worker-stop", Sort::Stop(Role::Worker)),
    ("worker-abort", Sort::Abort),
    ("keeper", Sort::Kill(Role::Keeper)),
    ("keeper-stop", Sort::Stop(Role::Keeper)),
    ("daemon", Sort::Kill(Role::Daemon)),
    ("daemon-stop", Sort::Stop(Role::Daemon)),
    ("daemon-restart", Sort::Restart),
    ("agent", Sort::Kill(Role::Agent)),
    ("agent-stop", Sort::Stop(Role::Agent)),
    ("master", Sort::Kill(Role::Master)),
    ("master-stop", Sort::Stop(Role::Master)),
    ("sshd", Sort::Sshd),
    ("stall", Sort::Stall),
    ("cut", Sort::Cut),
    ("cut-in-frame", Sort::CutInFrame),
];

impl Sort {
    pub fn named(name: &str) -> Option<Sort> {
        SORTS.iter().find(|(known, _)| *known == name).map(|(_, sort)| *sort)
    }

    /// Those that can happen to a mount of this kind.
    pub fn all_for(kind: Kind) -> Vec<Sort> {
        let sorts = SORTS.iter().map(|(_, sort)| *sort);
        sorts.filter(|sort| sort.is_for(kind)).collect()
    }

    /// Whether this kind of mount has what is struck.
    pub fn is_for(self, kind: Kind) -> bool {
        match kind {
            Kind::Ssh => true,
            Kind::Thread => {
                !self.needs_line() && !matches!(self, Sort::Kill(Role::Agent) | Sort::Stop(Role::Agent))
            }
            Kind::Disk | Kind::Host | Kind::Docker => !self.needs_line(),
        }
    }

    pub fn needs_line(self) -> bool {
        match self {
            Sort::Kill(role) | Sort::Stop(role) => role == Role::Master,
            Sort::Abort | Sort::Restart => false,
            Sort::Sshd | Sort::Stall | Sort::Cut | Sort::CutInFrame => true,
        }
    }

    /// One fault of this sort, no longer than `outage_max`.
    pub fn roll(self, dice: &mut Dice, outage_max: Duration) -> Fault {
        let longest = if matches!(self, Sort::Stop(_)) { STOPPED_MAX.min(outage_max) } else { outage_max };
        let lasts = dice.between(OUTAGE_MIN.min(longest), longest);
        let bytes = dice.below(BYTES_BEFORE_CUT_MAX);
        Fault { sort: self, lasts, bytes: usize::try_from(bytes).unwrap_or(0) }
    }
}

impl fmt::Display for Sort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(SORTS.iter().find(|(_, sort)| sort == self).map_or("?", |(name, _)| name))
    }
}

/// One fault.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    pub sort: Sort,
    /// How long it lasts, of those that last.
    pub lasts: Duration,
    /// After how many bytes it comes, of those that wait for some.
    pub bytes: usize,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.sort {
            Sort::Kill(_) | Sort::Abort | Sort::Restart => write!(f, "{}", self.sort),
            Sort::CutInFrame => write!(f, "{} after {} bytes for {:?}", self.sort, self.bytes, self.lasts),
            _ => write!(f, "{} for {:?}", self.sort, self.lasts),
        }
    }
}

impl Fault {
    /// How long the mount is without its machine, or without who serves it.
    pub fn outage(&self) -> Duration {
        match self.sort {
            Sort::Kill(_) | Sort::Abort | Sort::Restart => Duration::ZERO,
            Sort::Stop(_) | Sort::Sshd | Sort::Stall | Sort::Cut | Sort::CutInFrame => self.lasts,
        }
    }

    /// Carries it out, and mends what does not mend by itself: what was stopped or cut, a server, a daemon (which the
    /// next command would start).
    #[track_caller]
    pub fn strike(&self, field: &mut Field) {
        match self.sort {
            Sort::Kill(Role::Daemon) => {
                field.kill(Role::Daemon);
                field.stead().ok(&["status"]);
            }
            Sort::Kill(role) => drop(field.kill(role)),
            Sort::Abort => drop(field.end(Role::Worker, Signal::ABORT)),
            Sort::Stop(role) => {
                let holder = field.holder(role);
                holder.signal(Signal::STOP);
                pause(self.lasts);
                holder.signal(Signal::CONT);
            }
            Sort::Restart => drop(field.stead().ok(&["daemon", "restart"])),
            Sort::Sshd => {
                field.server().kill_server();
                pause(self.lasts);
                field.server().revive();
            }
            Sort::Stall => {
                field.proxy().stall();
                pause(self.lasts);
                field.proxy().mend();
            }
            Sort::Cut => {
                field.proxy().cut();
                pause(self.lasts);
                field.proxy().mend();
            }
            Sort::CutInFrame => {
                field.proxy().cut_after(self.bytes);
                let was_cut = holds_within(QUIET_MAX, || field.proxy().is_cut());
                if !was_cut {
                    field.proxy().cut();
                }
                pause(self.lasts);
                field.proxy().mend();
            }
        }
    }
}
