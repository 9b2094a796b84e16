//! Names: looking up, making, removing, renaming.

use bytes::Bytes;
use nfs3_types::nfs3::{
    CREATE3resok, LINK3resok, LOOKUP3resok, MKDIR3resok, MKNOD3resok, REMOVE3resok, RENAME3resok,
    RMDIR3resok, SYMLINK3resok, createhow3, createverf3, devicedata3, mknoddata3, nfsstat3, sattr3,
};
use vfs::errno::Errno;
use vfs::file::{AttributeChanges, Attributes, Caller, Kind, OpenFlags, RenameMode, SetTime, Time};
use vfs::source::{NewNode, Source};
use vfs::vfs::{Looked, Removal, View};

use super::super::Server;
use super::super::convert::{self, is_nothing};
use super::super::handle::Handle;
use super::super::nodes::Held;
use super::super::permission::{CHANGE_NAMES, EXECUTE, User};
use super::super::status::{Outcome, Refused};
use super::Named;

/// The modes of what is made by a client that says none: the owner's alone.
const FILE_MODE: u16 = 0o600;
const DIRECTORY_MODE: u16 = 0o700;

impl<S: Source> Server<S> {
    pub(in super::super) async fn lookup(&self, user: &User, what: &Named) -> Outcome<LOOKUP3resok> {
        let directory = self.node(&what.directory).await?;
        self.check_directory(user, &directory, EXECUTE).await?;
        let held = match &what.name[..] {
            b"." => self.node(&what.directory).await?,
            b".." => self.parent_of(&directory)?,
            name => return self.lookup_name(&directory, name).await,
        };
        let attributes = self.attributes(&held).await?;
        Ok(LOOKUP3resok {
            object: self.handle(held.id),
            obj_attributes: self.some_attributes(held.id, &attributes),
            dir_attributes: self.attributes_at_hand(&directory),
        })
    }

    async fn lookup_name(&self, directory: &Held<S>, name: &[u8]) -> Outcome<LOOKUP3resok> {
        let Looked::Present(view) = self.vfs.lookup(directory.ino, name).await? else {
            return Err(Errno::ENOENT.into());
        };
        let held = self.hold(&view);
        self.remember(&view, directory.id, name);
        Ok(LOOKUP3resok {
            object: self.handle(held.id),
            obj_attributes: self.some_attributes(held.id, &view.attributes),
            dir_attributes: self.attributes_at_hand(directory),
        })
    }

    /// The directory `name` in `directory`.
    pub(in super::super) async fn step_down(
        &self,
        user: &User,
        directory: &Held<S>,
        name: &[u8],
    ) -> Outcome<Held<S>> {
        self.check_directory(user, directory, EXECUTE).await?;
        let Looked::Present(view) = self.vfs.lookup(directory.ino, name).await? else {
            return Err(Errno::ENOENT.into());
        };
        let held = self.hold(&view);
        if view.attributes.kind != Kind::Directory {
            return Err(Errno::ENOTDIR.into());
        }
        self.remember(&view, directory.id, name);
        Ok(held)
    }

    fn parent_of(&self, directory: &Held<S>) -> Outcome<Held<S>> {
        let parent = self.vfs.parent(directory.ino)?;
        let id = self.vfs.id(parent)?;
        self.known(id).ok_or(Refused(nfsstat3::NFS3ERR_STALE))
    }

    /// It must be a directory, and the user must have rights on it. Asks for its attributes only where rights count.
    async fn check_directory(
        &self,
        user: &User,
        directory: &Held<S>,
        rights: super::super::permission::Rights,
    ) -> Outcome<()> {
        let attributes = match self.served.permissions.are_checked_here() {
            true => Some(self.attributes(directory).await?),
            false => self.vfs.attributes_at_hand(directory.ino),
        };
        let Some(attributes) = attributes else { return Ok(()) };
        if attributes.kind != Kind::Directory {
            return Err(Errno::ENOTDIR.into());
        }
        self.served.permissions.check(user, rights, &attributes)
    }

    /// The directory in which the user makes a name.
    async fn to_make_in(&self, user: &User, at: &Named) -> Outcome<Held<S>> {
        if matches!(&at.name[..], b"." | b"..") {
            return Err(Errno::EEXIST.into());
        }
        let directory = self.node(&at.directory).await?;
        self.check_directory(user, &directory, CHANGE_NAMES).await?;
        Ok(directory)
    }

    /// What a name is, held; `None` when there is nothing, or it cannot be said.
    async fn present(&self, directory: &Held<S>, name: &[u8]) -> Option<(Held<S>, Attributes)> {
        match self.vfs.lookup(directory.ino, name).await {
            Ok(Looked::Present(view)) => Some((self.hold(&view), view.attributes)),
            Ok(Looked::Absent(_)) | Err(_) => None,
        }
    }

    /// Keeps where what was made is, and sets those attributes that making it did not.
    async fn made(
        &self,
        directory: &Held<S>,
        name: &[u8],
        view: &View,
        wanted: AttributeChanges,
    ) -> Outcome<(Held<S>, Attributes)> {
        let held = self.hold(view);
        self.remember(view, directory.id, name);
        let is = &view.attributes;
        let wanted = AttributeChanges {
            uid: wanted.uid.filter(|uid| *uid != is.uid),
            gid: wanted.gid.filter(|gid| *gid != is.gid),
            mode: wanted.mode.filter(|mode| *mode != is.mode),
            size: wanted.size.filter(|size| *size != is.size),
            ..wanted
        };
        if is_nothing(&wanted) {
            return Ok((held, *is));
        }
        let attributes = self.vfs.set_attributes(held.ino.into(), wanted).await?;
        Ok((held, attributes))
    }

    pub(in super::super) async fn create(
        &self,
        user: &User,
        at: &Named,
        how: createhow3,
    ) -> Outcome<CREATE3resok> {
        let directory = self.node(&at.directory).await?;
        let (held, attributes) = match how {
            createhow3::UNCHECKED(wanted) => self.create_unchecked(user, &directory, at, &wanted).await?,
            createhow3::GUARDED(wanted) => {
                self.create_new(user, &directory, at, convert::changes(&wanted)).await?
            }
            createhow3::EXCLUSIVE(verifier) => self.create_exclusive(user, &directory, at, verifier).await?,
        };
        Ok(CREATE3resok {
            obj: self.some_handle(held.id),
            obj_attributes: self.some_attributes(held.id, &attributes),
            dir_wcc: self.after(&directory),
        })
    }

    /// The file that is there, cut if that is wanted, or a new one.
    async fn create_unchecked(
        &self,
        user: &User,
        directory: &Held<S>,
        at: &Named,
        wanted: &sattr3,
    ) -> Outcome<(Held<S>, Attributes)> {
        let wanted = convert::changes(wanted);
        self.check_directory(user, directory, EXECUTE).await?;
        let Some((held, attributes)) = self.present(directory, &at.name).await else {
            return match self.create_new(user, directory, at, wanted).await {
                // Made by somebody else since we looked.
                Err(Refused(nfsstat3::NFS3ERR_EXIST)) => self.open_present(user, directory, at, wanted).await,
                outcome => outcome,
            };
        };
        self.remember_held(&held, &attributes, directory, &at.name);
        self.cut(user, held, attributes, wanted).await
    }

    async fn open_present(
        &self,
        user: &User,
        directory: &Held<S>,
        at: &Named,
        wanted: AttributeChanges,
    ) -> Outcome<(Held<S>, Attributes)> {
        let present = self.present(directory, &at.name).await;
        let (held, attributes) = present.ok_or(Refused(nfsstat3::NFS3ERR_EXIST))?;
        self.remember_held(&held, &attributes, directory, &at.name);
        self.cut(user, held, attributes, wanted).await
    }

    /// Of the attributes wanted of a file that is there already, only the size counts.
    async fn cut(
        &self,
        user: &User,
        held: Held<S>,
        attributes: Attributes,
        wanted: AttributeChanges,
    ) -> Outcome<(Held<S>, Attributes)> {
        match attributes.kind {
            Kind::File => {}
            Kind::Directory => return Err(Refused(nfsstat3::NFS3ERR_ISDIR)),
            _ => return Err(Refused(nfsstat3::NFS3ERR_EXIST)),
        }
        let size = AttributeChanges { size: wanted.size, ..AttributeChanges::default() };
        let after = self.change_attributes(user, &held, size).await?;
        Ok((held, after.unwrap_or(attributes)))
    }

    async fn create_new(
        &self,
        user: &User,
        directory: &Held<S>,
        at: &Named,
        wanted: AttributeChanges,
    ) -> Outcome<(Held<S>, Attributes)> {
        if matches!(&at.name[..], b"." | b"..") {
            return Err(Errno::EEXIST.into());
        }
        self.check_directory(user, directory, CHANGE_NAMES).await?;
        let flags = OpenFlags { read: true, write: true, exclusive: true, ..OpenFlags::default() };
        let mode = wanted.mode.unwrap_or(FILE_MODE);
        let made = self.vfs.create(directory.ino, &at.name, mode, flags, caller(user)).await;
        let (view, opened) = made?;
        self.files.keep(view.ino, opened.handle).await;
        let (held, attributes) = self.made(directory, &at.name, &view, wanted).await?;
        self.pin_if_shut(&held, &attributes);
        Ok((held, attributes))
    }

    /// A new file, or the one that the same call made before.
    async fn create_exclusive(
        &self,
        user: &User,
        directory: &Held<S>,
        at: &Named,
        verifier: createverf3,
    ) -> Outcome<(Held<S>, Attributes)> {
        let (accessed, modified) = times_of(verifier);
        let wanted = AttributeChanges {
            accessed: SetTime::To(accessed),
            modified: SetTime::To(modified),
            ..AttributeChanges::default()
        };
        let made = self.create_new(user, directory, at, wanted).await;
        if made.as_ref().err() != Some(&Refused(nfsstat3::NFS3ERR_EXIST)) {
            return made;
        }
        let present = self.present(directory, &at.name).await;
        let (held, attributes) = present.ok_or(Refused(nfsstat3::NFS3ERR_EXIST))?;
        let is_ours = attributes.kind == Kind::File
            && attributes.size == 0
            && attributes.accessed == accessed
            && attributes.modified == modified;
        if !is_ours {
            return Err(Refused(nfsstat3::NFS3ERR_EXIST));
        }
        self.remember_held(&held, &attributes, directory, &at.name);
        Ok((held, attributes))
    }

    pub(in super::super) async fn mkdir(
        &self,
        user: &User,
        at: &Named,
        wanted: &sattr3,
    ) -> Outcome<MKDIR3resok> {
        let directory = self.to_make_in(user, at).await?;
        let mut wanted = convert::changes(wanted);
        let mode = wanted.mode.take().unwrap_or(DIRECTORY_MODE);
        let view = self.vfs.make_directory(directory.ino, &at.name, mode, caller(user)).await?;
        let (held, attributes) = self.made(&directory, &at.name, &view, wanted).await?;
        Ok(MKDIR3resok {
            obj: self.some_handle(held.id),
            obj_attributes: self.some_attributes(held.id, &attributes),
            dir_wcc: self.after(&directory),
        })
    }

    pub(in super::super) async fn symlink(
        &self,
        user: &User,
        at: &Named,
        wanted: &sattr3,
        contents: Bytes,
    ) -> Outcome<SYMLINK3resok> {
        if contents.contains(&0) {
            return Err(Errno::EINVAL.into());
        }
        let directory = self.to_make_in(user, at).await?;
        // A symlink has no mode of its own.
        let wanted = AttributeChanges { mode: None, size: None, ..convert::changes(wanted) };
        let view = self.vfs.symlink(directory.ino, &at.name, contents, caller(user)).await?;
        let (held, attributes) = self.made(&directory, &at.name, &view, wanted).await?;
        Ok(SYMLINK3resok {
            obj: self.some_handle(held.id),
            obj_attributes: self.some_attributes(held.id, &attributes),
            dir_wcc: self.after(&directory),
        })
    }

    pub(in super::super) async fn mknod(
        &self,
        user: &User,
        at: &Named,
        what: &mknoddata3,
    ) -> Outcome<MKNOD3resok> {
        let of_device = |of: &devicedata3| (convert::changes(&of.dev_attributes), convert::device(&of.spec));
        let (kind, (wanted, device)) = match what {
            mknoddata3::NF3CHR(of) => (Kind::CharDevice, of_device(of)),
            mknoddata3::NF3BLK(of) => (Kind::BlockDevice, of_device(of)),
            mknoddata3::NF3SOCK(wanted) => (Kind::Socket, (convert::changes(wanted), 0)),
            mknoddata3::NF3FIFO(wanted) => (Kind::Fifo, (convert::changes(wanted), 0)),
            mknoddata3::default => return Err(Refused(nfsstat3::NFS3ERR_BADTYPE)),
        };
        let directory = self.to_make_in(user, at).await?;
        if matches!(kind, Kind::CharDevice | Kind::BlockDevice) {
            self.served.permissions.check_device(user)?;
        }
        let node = NewNode { kind, mode: wanted.mode.unwrap_or(FILE_MODE), device };
        let view = self.vfs.make_node(directory.ino, &at.name, node, caller(user)).await?;
        let wanted = AttributeChanges { size: None, ..wanted };
        let (held, attributes) = self.made(&directory, &at.name, &view, wanted).await?;
        Ok(MKNOD3resok {
            obj: self.some_handle(held.id),
            obj_attributes: self.some_attributes(held.id, &attributes),
            dir_wcc: self.after(&directory),
        })
    }

    pub(in super::super) async fn remove(&self, user: &User, object: &Named) -> Outcome<REMOVE3resok> {
        let directory = self.remove_name(user, object, Removal::Other).await?;
        Ok(REMOVE3resok { dir_wcc: self.after(&directory) })
    }

    pub(in super::super) async fn rmdir(&self, user: &User, object: &Named) -> Outcome<RMDIR3resok> {
        let directory = self.remove_name(user, object, Removal::Directory).await?;
        Ok(RMDIR3resok { dir_wcc: self.after(&directory) })
    }

    async fn remove_name(&self, user: &User, object: &Named, kind: Removal) -> Outcome<Held<S>> {
        let directory = self.node(&object.directory).await?;
        let gone = self.present(&directory, &object.name).await;
        if self.served.permissions.are_checked_here() {
            let attributes = self.attributes(&directory).await?;
            let file = gone.as_ref().map(|(_, attributes)| attributes);
            self.served.permissions.check_remove(user, &attributes, file)?;
        }
        self.vfs.remove(directory.ino, &object.name, kind).await?;
        if let Some((held, attributes)) = &gone {
            self.gone(held, attributes, &directory, &object.name);
        }
        Ok(directory)
    }

    /// Takes in that a file has lost a name.
    fn gone(&self, file: &Held<S>, before: &Attributes, directory: &Held<S>, name: &[u8]) {
        self.name_lost(file, directory.id, name);
        if before.links <= 1 {
            self.files.let_go(file.ino);
        }
    }

    pub(in super::super) async fn rename(
        &self,
        user: &User,
        from: &Named,
        to: &Named,
    ) -> Outcome<RENAME3resok> {
        let from_directory = self.node(&from.directory).await?;
        let to_directory = self.node(&to.directory).await?;
        let moved = self.present(&from_directory, &from.name).await;
        let replaced = self.present(&to_directory, &to.name).await;
        if self.served.permissions.are_checked_here() {
            let attributes = self.attributes(&from_directory).await?;
            let file = moved.as_ref().map(|(_, attributes)| attributes);
            self.served.permissions.check_remove(user, &attributes, file)?;
            let attributes = self.attributes(&to_directory).await?;
            match &replaced {
                Some((_, file)) => self.served.permissions.check_remove(user, &attributes, Some(file))?,
                None => self.served.permissions.check(user, CHANGE_NAMES, &attributes)?,
            }
        }
        let (old, new) = ((from_directory.ino, &from.name[..]), (to_directory.ino, &to.name[..]));
        self.vfs.rename(old, new, RenameMode::Replace).await?;
        if let (Some((moved, attributes)), replaced) = (&moved, &replaced) {
            // Two names of one file: rename does nothing.
            let replaced = replaced.as_ref().filter(|(replaced, _)| replaced.id != moved.id);
            if let Some((replaced, before)) = replaced {
                self.gone(replaced, before, &to_directory, &to.name);
            }
            self.remember_held(moved, attributes, &to_directory, &to.name);
        }
        Ok(RENAME3resok { fromdir_wcc: self.after(&from_directory), todir_wcc: self.after(&to_directory) })
    }

    pub(in super::super) async fn link(&self, user: &User, file: &Handle, at: &Named) -> Outcome<LINK3resok> {
        let node = self.node(file).await?;
        let directory = self.to_make_in(user, at).await?;
        let view = self.vfs.link(node.ino, directory.ino, &at.name).await?;
        let linked = self.hold(&view);
        self.remember(&view, directory.id, &at.name);
        Ok(LINK3resok {
            file_attributes: self.some_attributes(linked.id, &view.attributes),
            linkdir_wcc: self.after(&directory),
        })
    }

    fn remember_held(&self, file: &Held<S>, attributes: &Attributes, directory: &Held<S>, name: &[u8]) {
        self.remember_file(file.id, attributes.kind, directory.id, name);
    }
}

/// For whom something is made. Clients apply the umask themselves.
fn caller(user: &User) -> Caller {
    Caller { uid: user.uid, gid: user.gid, umask: 0 }
}

/// The times in which a verifier is kept. 31 bits of each half: file systems have trouble with more.
fn times_of(verifier: createverf3) -> (Time, Time) {
    let number = u64::from_be_bytes(verifier.0);
    let half =
        |number: u64| Time { seconds: i64::try_from(number & 0x7fff_ffff).unwrap_or(0), nanoseconds: 0 };
    (half(number >> 32), half(number))
}
