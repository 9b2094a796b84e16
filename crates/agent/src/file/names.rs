//! Names: looking up, making, removing, renaming.

use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use wire::agent::file::{Caller, Entry, FileId, FileReply, Kind, LastLink, Place, RenameMode, Target};
use wire::agent::name::Name;

use crate::export::Why;
use crate::file::Making;
use crate::session::{Asked, Replied, Session, plain};
use crate::stat;

impl Session {
    pub(crate) fn locate(&self, path: &[u8], last: LastLink) -> Replied {
        let (path, entry) = self.export()?.locate(path, &self.options.home, last)?;
        plain(FileReply::Located { path, entry })
    }

    pub(crate) fn lookup(&self, place: &Place, name: &Name) -> Replied {
        let directory = self.export()?.directory(place)?;
        let lease = self.leases.lease(place, &directory, &self.told);
        let _reading = self.told.reading(place.id, Some(name));
        let looked = match self.export()?.is_contested(&place.path, name) {
            true => self.look_and_keep(&directory, name),
            false => stat::entry_at(&directory, name.as_bytes()),
        };
        let entry = match looked {
            Ok(entry) => Some(entry),
            Err(Errno::NOENT) => None,
            Err(errno) => return Err(errno),
        };
        plain(FileReply::Looked { entry, lease: Some(lease) })
    }

    /// Looks at a name that others keep replacing, and keeps what is there, so that it can be opened even if it is replaced
    /// again meanwhile.
    fn look_and_keep(&self, directory: &OwnedFd, name: &Name) -> Result<Entry, Errno> {
        let file = open_path(directory, name)?;
        let entry = stat::entry_of_path(&file)?;
        if entry.attributes.kind == Kind::File {
            self.export()?.keep(entry.id, file, Why::LookedUp(1));
        }
        Ok(entry)
    }

    pub(crate) fn read_link(&self, place: &Place) -> Replied {
        let (file, kind) = self.export()?.find(place)?;
        if kind != Kind::Symlink {
            return Err(Errno::INVAL);
        }
        let target = rustix::fs::readlinkat(&file, c"", Vec::new())?;
        Ok((FileReply::Data, target.into_bytes()))
    }

    pub(crate) fn symlink(
        &self,
        asked: &Asked<'_>,
        place: &Place,
        name: &Name,
        caller: &Caller,
        target: &[u8],
    ) -> Replied {
        self.make(asked, place, name, caller, 0o777, |directory, _| {
            rustix::fs::symlinkat(target, directory, name.as_bytes())
        })
    }

    pub(crate) fn make_node(
        &self,
        asked: &Asked<'_>,
        place: &Place,
        name: &Name,
        making: Making,
        kind: Kind,
        device: u64,
    ) -> Replied {
        let (file_type, device) = match kind {
            Kind::File => (FileType::RegularFile, 0),
            Kind::Fifo => (FileType::Fifo, 0),
            Kind::Socket => (FileType::Socket, 0),
            Kind::CharDevice => (FileType::CharacterDevice, device),
            Kind::BlockDevice => (FileType::BlockDevice, device),
            Kind::Directory | Kind::Symlink => return Err(Errno::INVAL),
        };
        self.make(asked, place, name, &making.caller, making.mode, |directory, mode| {
            rustix::fs::mknodat(directory, name.as_bytes(), file_type, mode, device)
        })
    }

    pub(crate) fn make_directory(
        &self,
        asked: &Asked<'_>,
        place: &Place,
        name: &Name,
        mode: u16,
        caller: &Caller,
    ) -> Replied {
        self.make(asked, place, name, caller, mode, |directory, mode| {
            rustix::fs::mkdirat(directory, name.as_bytes(), mode)
        })
    }

    /// Makes a file that stays closed, and answers with what it is.
    fn make(
        &self,
        asked: &Asked<'_>,
        place: &Place,
        name: &Name,
        caller: &Caller,
        mode: u16,
        make: impl FnOnce(&OwnedFd, Mode) -> Result<(), Errno>,
    ) -> Replied {
        let directory = self.export_to_change()?.directory(place)?;
        asked.hold(self.told.changing(&[(place.id, name)], &[]));
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

    pub(crate) fn remove(
        &self,
        asked: &Asked<'_>,
        place: &Place,
        name: &Name,
        is_directory: bool,
    ) -> Replied {
        let export = self.export_to_change()?;
        let directory = export.directory(place)?;
        let file = open_path(&directory, name)?;
        let (id, _) = stat::id_of(&file)?;
        asked.hold(self.told.changing(&[(place.id, name)], &[id]));
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
        asked: &Asked<'_>,
        from: &Place,
        from_name: &Name,
        to: &Place,
        to_name: &Name,
        mode: RenameMode,
    ) -> Replied {
        let export = self.export_to_change()?;
        let (old, new) = (export.directory(from)?, export.directory(to)?);
        asked.hold(self.told.changing(&[(from.id, from_name), (to.id, to_name)], &[]));
        let flags = match mode {
            RenameMode::Replace => RenameFlags::empty(),
            RenameMode::NoReplace => RenameFlags::NOREPLACE,
            RenameMode::Exchange => RenameFlags::EXCHANGE,
        };
        let (old_name, new_name) = (from_name.as_bytes(), to_name.as_bytes());
        if flags.is_empty() {
            let replaced = open_regular(&new, to_name);
            rustix::fs::renameat(&old, old_name, &new, new_name)?;
            if let Some((id, file)) = replaced {
                export.keep(id, file, Why::Replaced);
            }
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
        let (from, to) = (stat::entry_of_path(&old)?, stat::entry_of_path(&new)?);
        self.told.file(&from);
        self.told.file(&to);
        plain(FileReply::Renamed { from: from.attributes, to: to.attributes })
    }

    pub(crate) fn link(&self, asked: &Asked<'_>, target: &Target, place: &Place, name: &Name) -> Replied {
        let directory = self.export_to_change()?.directory(place)?;
        let found = self.find(target)?;
        let before = found.entry()?;
        asked.hold(self.told.changing(&[(place.id, name)], &[before.id]));
        rustix::fs::linkat(CWD, found.proc_path(), &directory, name.as_bytes(), AtFlags::SYMLINK_FOLLOW)?;
        let entry = found.entry()?;
        self.told.name(place.id, name, Some(entry.id));
        plain(self.changed(entry))
    }
}

/// An `O_PATH` descriptor of whatever has the name.
fn open_path(directory: &OwnedFd, name: &Name) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(directory, name.as_bytes(), flags, Mode::empty())
}

/// The regular file that has the name, if one has.
pub(crate) fn open_regular(directory: &OwnedFd, name: &Name) -> Option<(FileId, OwnedFd)> {
    let file = open_path(directory, name).ok()?;
    let (id, kind) = stat::id_of(&file).ok()?;
    (kind == Kind::File).then_some((id, file))
}

/// Whether new files in the directory get their permissions from an access control list.
pub(crate) fn has_default_acl(directory: &OwnedFd) -> bool {
    let name = c"system.posix_acl_default";
    rustix::fs::getxattr_query(stat::proc_path(directory), name).is_ok()
}
