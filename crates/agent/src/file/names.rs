//! Names: looking up, making, removing, renaming.

use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use wire::agent::file::{Caller, FileReply, Kind, Place, RenameMode, Target};
use wire::agent::name::Name;

use crate::session::{Replied, Session, plain};
use crate::stat;

impl Session {
    pub(crate) fn lookup(&self, place: &Place, name: &Name) -> Replied {
        let directory = self.export()?.directory(place)?;
        let lease = self.leases.lease(place, &directory, &self.told);
        let _reading = self.told.reading(place.id, Some(name));
        let entry = match stat::entry_at(&directory, name.as_bytes()) {
            Ok(entry) => Some(entry),
            Err(Errno::NOENT) => None,
            Err(errno) => return Err(errno),
        };
        plain(FileReply::Looked { entry, lease: Some(lease) })
    }

    pub(crate) fn read_link(&self, place: &Place) -> Replied {
        let (file, kind) = self.export()?.find(place)?;
        if kind != Kind::Symlink {
            return Err(Errno::INVAL);
        }
        let target = rustix::fs::readlinkat(&file, c"", Vec::new())?;
        Ok((FileReply::Data, target.into_bytes()))
    }

    pub(crate) fn symlink(&self, place: &Place, name: &Name, caller: &Caller, target: &[u8]) -> Replied {
        self.make(place, name, caller, 0o777, |directory, _| {
            rustix::fs::symlinkat(target, directory, name.as_bytes())
        })
    }

    pub(crate) fn make_node(
        &self,
        place: &Place,
        name: &Name,
        kind: Kind,
        mode: u16,
        device: u64,
        caller: &Caller,
    ) -> Replied {
        let (file_type, device) = match kind {
            Kind::File => (FileType::RegularFile, 0),
            Kind::Fifo => (FileType::Fifo, 0),
            Kind::Socket => (FileType::Socket, 0),
            Kind::CharDevice => (FileType::CharacterDevice, device),
            Kind::BlockDevice => (FileType::BlockDevice, device),
            Kind::Directory | Kind::Symlink => return Err(Errno::INVAL),
        };
        self.make(place, name, caller, mode, |directory, mode| {
            rustix::fs::mknodat(directory, name.as_bytes(), file_type, mode, device)
        })
    }

    pub(crate) fn make_directory(&self, place: &Place, name: &Name, mode: u16, caller: &Caller) -> Replied {
        self.make(place, name, caller, mode, |directory, mode| {
            rustix::fs::mkdirat(directory, name.as_bytes(), mode)
        })
    }

    /// Makes a file that stays closed, and answers with what it is.
    fn make(
        &self,
        place: &Place,
        name: &Name,
        caller: &Caller,
        mode: u16,
        make: impl FnOnce(&OwnedFd, Mode) -> Result<(), Errno>,
    ) -> Replied {
        let directory = self.export_to_change()?.directory(place)?;
        let _changing = self.told.changing([place.id]);
        self.privilege.acting_for(
            caller,
            mode,
            || has_default_acl(&directory),
            |mode| make(&directory, mode),
        )?;
        let entry = stat::entry_at(&directory, name.as_bytes())?;
        self.told.name(place.id, name, Some(entry.id));
        plain(self.changed(entry))
    }

    pub(crate) fn remove(&self, place: &Place, name: &Name, is_directory: bool) -> Replied {
        let export = self.export_to_change()?;
        let directory = export.directory(place)?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&directory, name.as_bytes(), flags, Mode::empty())?;
        let (id, _) = stat::id_of(&file)?;
        let _changing = self.told.changing([place.id, id]);
        let flags = if is_directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        rustix::fs::unlinkat(&directory, name.as_bytes(), flags)?;
        if is_directory {
            export.forget(id);
        }
        let left = stat::entry_of_path(&file)?;
        let entry = (left.attributes.links > 0 && !is_directory || self.handles.holds(id)).then_some(left);
        let directory = stat::entry_of_path(&directory)?;
        self.told.name(place.id, name, None);
        self.told.file(&directory);
        if let Some(entry) = &entry {
            self.told.file(entry);
        }
        plain(FileReply::Removed { entry, directory: directory.attributes })
    }

    pub(crate) fn rename(
        &self,
        from: &Place,
        from_name: &Name,
        to: &Place,
        to_name: &Name,
        mode: RenameMode,
    ) -> Replied {
        let export = self.export_to_change()?;
        let (old, new) = (export.directory(from)?, export.directory(to)?);
        let _changing = self.told.changing([from.id, to.id]);
        let flags = match mode {
            RenameMode::Replace => RenameFlags::empty(),
            RenameMode::NoReplace => RenameFlags::NOREPLACE,
            RenameMode::Exchange => RenameFlags::EXCHANGE,
        };
        let (old_name, new_name) = (from_name.as_bytes(), to_name.as_bytes());
        if flags.is_empty() {
            rustix::fs::renameat(&old, old_name, &new, new_name)?;
        } else {
            let renamed = rustix::fs::renameat_with(&old, old_name, &new, new_name, flags);
            // A kernel without the call is to its user a file system that cannot do it.
            renamed.map_err(|errno| if errno == Errno::NOSYS { Errno::INVAL } else { errno })?;
        }
        // Both names may be one file's: then nothing was renamed. Else the old name is gone, unless it was exchanged.
        // The new one's file has a new change time, which the reply does not tell: its event does.
        if mode != RenameMode::Exchange && stat::entry_at(&old, old_name) == Err(Errno::NOENT) {
            self.told.name(from.id, from_name, None);
        }
        plain(FileReply::Done)
    }

    pub(crate) fn link(&self, target: &Target, place: &Place, name: &Name) -> Replied {
        let directory = self.export_to_change()?.directory(place)?;
        let found = self.find(target)?;
        let before = found.entry()?;
        let _changing = self.told.changing([place.id, before.id]);
        rustix::fs::linkat(CWD, found.proc_path(), &directory, name.as_bytes(), AtFlags::SYMLINK_FOLLOW)?;
        let entry = found.entry()?;
        self.told.name(place.id, name, Some(entry.id));
        plain(self.changed(entry))
    }
}

/// Whether new files in the directory get their permissions from an access control list.
pub(crate) fn has_default_acl(directory: &OwnedFd) -> bool {
    let name = c"system.posix_acl_default";
    rustix::fs::getxattr_query(stat::proc_path(directory), name).is_ok()
}
