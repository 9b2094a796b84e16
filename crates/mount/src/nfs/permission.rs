//! Who may do what. A FUSE kernel checks permissions before it asks; an NFS client's kernel asks the server.

use nfs3_types::nfs3::{
    ACCESS3_DELETE, ACCESS3_EXECUTE, ACCESS3_EXTEND, ACCESS3_LOOKUP, ACCESS3_MODIFY, ACCESS3_READ, nfsstat3,
};
use vfs::file::{AttributeChanges, Attributes, Kind, SetTime};

use super::status::{Outcome, Refused};

/// Who decides whether a user may do something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permissions {
    /// The machine: its agent acts as one unprivileged user, who cannot do more than he may.
    Machine,
    /// The mode bits, checked here against the caller: the agent could do anything.
    Modes,
}

/// A user who calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The user.
    pub uid: u32,
    /// The group that what is made belongs to.
    pub gid: u32,
    /// Groups that are believed, `gid` among them if it is.
    pub groups: Vec<u32>,
}

/// Bits of one class of a mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rights(u16);

/// Read.
pub const READ: Rights = Rights(4);
/// Write.
pub const WRITE: Rights = Rights(2);
/// Execute; search.
pub const EXECUTE: Rights = Rights(1);
/// What changing names in a directory takes.
pub const CHANGE_NAMES: Rights = Rights(2 | 1);

const ANY_EXECUTE: u16 = 0o111;
const STICKY: u16 = 0o1000;

impl User {
    fn is_root(&self) -> bool {
        self.uid == 0
    }

    fn owns(&self, file: &Attributes) -> bool {
        self.is_root() || self.uid == file.uid
    }

    /// Whether the mode bits give the user all of `rights`.
    pub fn has(&self, rights: Rights, on: &Attributes) -> bool {
        if self.is_root() {
            let executable = on.kind == Kind::Directory || on.mode & ANY_EXECUTE != 0;
            return rights.0 & EXECUTE.0 == 0 || executable;
        }
        let class = match () {
            () if self.uid == on.uid => on.mode >> 6,
            () if self.groups.contains(&on.gid) => on.mode >> 3,
            () => on.mode,
        };
        class & rights.0 == rights.0
    }

    /// What ACCESS answers of what it was asked.
    pub fn access(&self, asked: u32, to: &Attributes) -> u32 {
        let (modify, execute) = match to.kind {
            Kind::Directory => (ACCESS3_MODIFY | ACCESS3_EXTEND | ACCESS3_DELETE, ACCESS3_LOOKUP),
            _ => (ACCESS3_MODIFY | ACCESS3_EXTEND, ACCESS3_EXECUTE),
        };
        let granted = [(READ, ACCESS3_READ), (WRITE, modify), (EXECUTE, execute)];
        let granted =
            granted.iter().filter(|(rights, _)| self.has(*rights, to)).fold(0, |all, (_, bits)| all | bits);
        granted & asked
    }
}

impl Permissions {
    /// Whether the attributes of what is acted on are needed.
    pub fn are_checked_here(self) -> bool {
        self == Permissions::Modes
    }

    /// The user must have `rights`.
    pub fn check(self, user: &User, rights: Rights, on: &Attributes) -> Outcome<()> {
        allow(self == Permissions::Machine || user.has(rights, on), nfsstat3::NFS3ERR_ACCES)
    }

    /// The user must be able to read the content. There is no open to have asked before: the owner may, who could have
    /// opened the file before its mode changed, and whoever may execute it, for the pages are read through this.
    pub fn check_read(self, user: &User, file: &Attributes) -> Outcome<()> {
        let may = user.owns(file) || user.has(READ, file) || user.has(EXECUTE, file);
        allow(self == Permissions::Machine || may, nfsstat3::NFS3ERR_ACCES)
    }

    /// The user must be able to change the content; see [`Permissions::check_read`].
    pub fn check_write(self, user: &User, file: &Attributes) -> Outcome<()> {
        let may = user.owns(file) || user.has(WRITE, file);
        allow(self == Permissions::Machine || may, nfsstat3::NFS3ERR_ACCES)
    }

    /// The user must be able to take the name of `file`, where it is known, out of `directory`.
    pub fn check_remove(self, user: &User, directory: &Attributes, file: Option<&Attributes>) -> Outcome<()> {
        self.check(user, CHANGE_NAMES, directory)?;
        let sticky = directory.mode & STICKY != 0;
        let owns = user.owns(directory) || file.is_none_or(|file| user.owns(file));
        allow(self == Permissions::Machine || !sticky || owns, nfsstat3::NFS3ERR_PERM)
    }

    /// The user must be able to make the changes.
    pub fn check_changes(self, user: &User, file: &Attributes, changes: &AttributeChanges) -> Outcome<()> {
        if self == Permissions::Machine || user.is_root() {
            return Ok(());
        }
        if changes.size.is_some() {
            self.check_write(user, file)?;
        }
        let touches = [changes.accessed, changes.modified];
        let sets_time = touches.iter().any(|time| matches!(time, SetTime::To(_)));
        let touches = touches.contains(&SetTime::Now);
        let gives_away = changes.uid.is_some_and(|uid| uid != file.uid);
        let foreign_group = changes.gid.is_some_and(|gid| gid != file.gid && !user.groups.contains(&gid));
        let owner_only =
            sets_time || changes.mode.is_some() || changes.gid.is_some_and(|gid| gid != file.gid);
        allow(!gives_away && !foreign_group && (!owner_only || user.owns(file)), nfsstat3::NFS3ERR_PERM)?;
        allow(!touches || user.owns(file) || user.has(WRITE, file), nfsstat3::NFS3ERR_ACCES)
    }

    /// The user must be able to make a device file.
    pub fn check_device(self, user: &User) -> Outcome<()> {
        allow(self == Permissions::Machine || user.is_root(), nfsstat3::NFS3ERR_PERM)
    }
}

fn allow(condition: bool, otherwise: nfsstat3) -> Outcome<()> {
    if condition { Ok(()) } else { Err(Refused(otherwise)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(kind: Kind, mode: u16, uid: u32, gid: u32) -> Attributes {
        Attributes { mode, uid, gid, ..Attributes::new(kind) }
    }

    fn user(uid: u32, groups: &[u32]) -> User {
        User { uid, gid: groups.first().copied().unwrap_or(uid), groups: groups.to_vec() }
    }

    #[test]
    fn the_first_class_that_fits_decides() {
        let secret = file(Kind::File, 0o047, 5, 6);
        assert!(!user(5, &[6]).has(READ, &secret), "the owner has no bit, whatever the group has");
        assert!(user(7, &[6]).has(READ, &secret));
        assert!(!user(7, &[6]).has(WRITE, &secret));
        assert!(user(7, &[8]).has(CHANGE_NAMES, &secret));
    }

    #[test]
    fn root_may_all_but_execute_what_nobody_may() {
        let plain = file(Kind::File, 0o600, 5, 5);
        assert!(user(0, &[]).has(WRITE, &plain));
        assert!(!user(0, &[]).has(EXECUTE, &plain));
        assert!(user(0, &[]).has(EXECUTE, &file(Kind::File, 0o601, 5, 5)));
        assert!(user(0, &[]).has(EXECUTE, &file(Kind::Directory, 0, 5, 5)));
    }

    #[test]
    fn a_sticky_directory_keeps_the_names_of_others() {
        let directory = file(Kind::Directory, 0o1777, 0, 0);
        let theirs = file(Kind::File, 0o666, 5, 5);
        let check = |uid| Permissions::Modes.check_remove(&user(uid, &[]), &directory, Some(&theirs)).is_ok();
        assert!(check(5));
        assert!(!check(6));
        assert!(check(0));
    }

    #[test]
    fn owners_change_modes_and_only_root_gives_away() {
        let theirs = file(Kind::File, 0o666, 5, 5);
        let check = |uid, groups: &[u32], changes| {
            Permissions::Modes.check_changes(&user(uid, groups), &theirs, &changes).is_ok()
        };
        let mode = AttributeChanges { mode: Some(0o600), ..AttributeChanges::default() };
        let owner = AttributeChanges { uid: Some(6), ..AttributeChanges::default() };
        let group = AttributeChanges { gid: Some(9), ..AttributeChanges::default() };
        let touch = AttributeChanges { modified: SetTime::Now, ..AttributeChanges::default() };
        assert!(check(5, &[], mode) && !check(6, &[], mode) && check(0, &[], mode));
        assert!(!check(5, &[], owner) && check(0, &[], owner));
        assert!(!check(5, &[], group) && check(5, &[9], group) && !check(6, &[9], group));
        assert!(check(6, &[], touch), "whoever may write may say that it is written now");
    }
}
