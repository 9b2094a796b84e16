//! For whom a thread acts.
//!
//! File system ids, capabilities and the umask are the thread's own on Linux: the C library's process-wide wrappers are
//! not used. A thread acts for another user only inside [`Privilege::acting_for`], and is itself again afterwards.

use std::cell::Cell;

use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::thread::{CapabilitySet, CapabilitySets};
use wire::agent::file::Caller;

use crate::log::log;

/// What an agent needs to act for others. Root in a container has these, and not `CAP_DAC_READ_SEARCH`: for what is done here
/// `CAP_DAC_OVERRIDE` permits the same.
const NEEDED: CapabilitySet = CapabilitySet::SETUID
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::CHOWN)
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID);

/// What the kernel takes from a thread whose file system user id ceases to be root's, and gives back with it.
const OF_ROOT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::LINUX_IMMUTABLE)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::MAC_OVERRIDE);

/// What stays while acting for a user. The client's kernel has checked the user's permissions, with groups that are not
/// known here; what it cannot decide, who owns the new file and whether its set-group-id bit may stay, is decided here
/// as for the user.
const KEPT: CapabilitySet =
    CapabilitySet::DAC_OVERRIDE.union(CapabilitySet::DAC_READ_SEARCH).union(CapabilitySet::MKNOD);

thread_local! {
    /// This thread's umask, where it has one of its own.
    static UMASK: Cell<Option<u16>> = const { Cell::new(None) };
    /// Whether this thread has given up `CAP_FSETID`.
    static CLEARS_SET_ID: Cell<bool> = const { Cell::new(false) };
}

/// Gives the calling thread a umask of its own. To be called once by each thread that makes files, after the session has
/// read the umask of the process: where that is not permitted, as in most containers, no thread has one any more.
pub(crate) fn enter_thread() {
    // SAFETY: CLONE_FS gives the thread its own copy of the umask, the root and the current directory. No code of this
    // crate relies on threads sharing them.
    let own = unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::FS) }.is_ok();
    rustix::process::umask(Mode::empty());
    if own {
        UMASK.set(Some(0));
    }
}

/// The agent's privileges, taken once at the start.
#[derive(Clone, Copy)]
pub(crate) struct Privilege {
    sets: Option<CapabilitySets>,
}

impl Privilege {
    pub fn of_this_process() -> Privilege {
        let sets = rustix::thread::capabilities(None)
            .inspect_err(|errno| log(format_args!("taken for unprivileged: {errno}")))
            .ok();
        let sets =
            sets.filter(|sets| rustix::process::geteuid().is_root() && sets.effective.contains(NEEDED));
        Privilege { sets }
    }

    /// Whether files can be made for any user, and given to any.
    pub fn is_privileged(&self) -> bool {
        self.sets.is_some()
    }

    /// Runs `make` with the caller's file system ids, when that is permitted, and with its umask. `make` gets the
    /// permission bits to ask for. `has_default_acl` says whether the directory's own rules replace the umask; it is
    /// only asked where threads cannot have a umask each.
    pub fn acting_for<T>(
        &self,
        caller: &Caller,
        mode: u16,
        has_default_acl: impl FnOnce() -> bool,
        make: impl FnOnce(Mode) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let umask = caller.umask & 0o777;
        let mode = match UMASK.get() {
            Some(current) => {
                if current != umask {
                    rustix::process::umask(Mode::from_bits_truncate(u32::from(umask)));
                    UMASK.set(Some(umask));
                }
                mode
            }
            None if has_default_acl() => mode,
            None => mode & !umask,
        };
        let mode = Mode::from_bits_truncate(u32::from(mode & 0o7777));
        let Some(sets) = self.sets else {
            return make(mode);
        };
        self.clear_set_id(false)?;
        if (caller.uid, caller.gid) == (0, 0) {
            return make(mode);
        }
        let _acting = Acting::start(caller, sets)?;
        make(mode)
    }

    /// Says whether what this thread does next to files clears their set-id bits as for an unprivileged user.
    pub fn clear_set_id(&self, clear: bool) -> Result<(), Errno> {
        let Some(mut sets) = self.sets else {
            return Ok(());
        };
        if CLEARS_SET_ID.get() == clear {
            return Ok(());
        }
        sets.effective.set(CapabilitySet::FSETID, !clear);
        rustix::thread::set_capabilities(None, sets)?;
        CLEARS_SET_ID.set(clear);
        Ok(())
    }
}

/// While it lives, the thread has the caller's file system ids.
struct Acting {
    uid: u32,
    gid: u32,
}

impl Acting {
    fn start(caller: &Caller, mut sets: CapabilitySets) -> Result<Acting, Errno> {
        let acting = Acting { gid: set_fs_gid(caller.gid), uid: set_fs_uid(caller.uid) };
        // The calls report no failure: the next ones tell what came of them. An id that is none changes nothing.
        if (set_fs_uid(u32::MAX), set_fs_gid(u32::MAX)) != (caller.uid, caller.gid) {
            return Err(Errno::PERM);
        }
        if caller.uid != 0 {
            sets.effective = sets.effective.difference(OF_ROOT).union(KEPT.intersection(sets.permitted));
            rustix::thread::set_capabilities(None, sets)?;
        }
        Ok(acting)
    }
}

impl Drop for Acting {
    fn drop(&mut self) {
        // The kernel gives the capabilities back with root's id.
        set_fs_uid(self.uid);
        set_fs_gid(self.gid);
    }
}

fn set_fs_uid(uid: u32) -> u32 {
    // SAFETY: the call changes nothing but a number of the calling thread's credentials.
    unsafe { libc::setfsuid(uid) }.cast_unsigned()
}

fn set_fs_gid(gid: u32) -> u32 {
    // SAFETY: as above.
    unsafe { libc::setfsgid(gid) }.cast_unsigned()
}
