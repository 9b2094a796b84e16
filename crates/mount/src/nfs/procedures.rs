//! The procedures of NFS. Each gives what goes behind `NFS3_OK`, or why not.

mod content;
mod names;

use bytes::Bytes;
use nfs3_types::nfs3::{
    ACCESS3resok, FSF3_CANSETTIME, FSF3_HOMOGENEOUS, FSF3_LINK, FSF3_SYMLINK, FSINFO3resok, FSSTAT3resok,
    GETATTR3resok, Nfs3Option, PATHCONF3resok, SETATTR3resok, nfsstat3, nfstime3, sattr3, sattrguard3,
};
use vfs::file::{AttributeChanges, Attributes, Kind, NAME_BYTES_MAX};
use vfs::source::Source;
use vfs::vfs::AttributeTarget;

use super::Server;
use super::convert::{self, is_nothing};
use super::handle::Handle;
use super::limits::TRANSFER_BYTES_MAX;
use super::nodes::Held;
use super::open_files::For;
use super::permission::User;
use super::status::{Outcome, Refused};
use super::xdr::{Arguments, Garbage};

/// The largest file: what the machine's calls can address.
const FILE_BYTES_MAX: u64 = i64::MAX as u64;

/// What a client should ask of a listing at once.
const LISTING_BYTES_PREFERRED: u32 = 64 << 10;

/// Links to one file that PATHCONF promises. The machine decides; this is ext4's.
const LINKS_MAX: u32 = 65_000;

/// A name in a directory, as a client sent it.
#[derive(Clone, Debug)]
pub struct Named {
    /// The directory.
    pub directory: Handle,
    /// The name. No longer than a call; `vfs` checks it.
    pub name: Bytes,
}

impl Named {
    /// Reads it.
    pub fn read(arguments: &mut Arguments) -> Result<Named, Garbage> {
        Ok(Named { directory: Handle::read(arguments)?, name: arguments.opaque(usize::MAX)? })
    }
}

impl<S: Source> Server<S> {
    pub(super) async fn getattr(&self, object: &Handle) -> Outcome<GETATTR3resok> {
        let node = self.node(object).await?;
        let attributes = self.attributes(&node).await?;
        Ok(GETATTR3resok { obj_attributes: self.file_system.attributes(node.id, &attributes) })
    }

    pub(super) async fn setattr(
        &self,
        user: &User,
        object: &Handle,
        changes: &sattr3,
        guard: &sattrguard3,
    ) -> Outcome<SETATTR3resok> {
        let node = self.node(object).await?;
        if let Nfs3Option::Some(guard) = guard {
            let changed = convert::time(self.attributes(&node).await?.changed);
            if changed != *guard {
                return Err(Refused(nfsstat3::NFS3ERR_NOT_SYNC));
            }
        }
        self.change_attributes(user, &node, convert::changes(changes)).await?;
        Ok(SETATTR3resok { obj_wcc: self.after(&node) })
    }

    /// Checks and makes the changes. Through a handle that is open for writing if there is one: a file that was made
    /// read-only can still be cut by who has it open.
    async fn change_attributes(
        &self,
        user: &User,
        node: &Held<S>,
        mut changes: AttributeChanges,
    ) -> Outcome<Option<Attributes>> {
        if is_nothing(&changes) {
            return Ok(None);
        }
        let before = self.attributes(node).await?;
        self.served.permissions.check_changes(user, &before, &changes)?;
        if changes.size.is_some() && before.kind != Kind::File {
            let is_directory = before.kind == Kind::Directory;
            let status = if is_directory { nfsstat3::NFS3ERR_ISDIR } else { nfsstat3::NFS3ERR_INVAL };
            return Err(Refused(status));
        }
        changes.clear_set_id =
            user.uid != 0 && (changes.size.is_some() || changes.uid.is_some() || changes.gid.is_some());
        let open = if changes.size.is_some() { self.files.open(node.ino, For::Writing) } else { None };
        let handle = open.as_ref().map(|open| open.handle());
        let target = AttributeTarget { ino: node.ino, handle };
        let after = self.vfs.set_attributes(target, changes).await?;
        self.pin_if_shut(node, &after);
        Ok(Some(after))
    }

    /// A file whose owner has no right to open it again is kept open for longer: a program that made it so while
    /// writing goes on.
    fn pin_if_shut(&self, node: &Held<S>, attributes: &Attributes) {
        const OWNER_READ_WRITE: u16 = 0o600;
        if attributes.mode & OWNER_READ_WRITE != OWNER_READ_WRITE {
            self.files.pin(node.ino);
        }
    }

    pub(super) async fn access(&self, user: &User, object: &Handle, asked: u32) -> Outcome<ACCESS3resok> {
        let node = self.node(object).await?;
        let attributes = self.attributes(&node).await?;
        let access = user.access(asked, &attributes);
        Ok(ACCESS3resok { obj_attributes: self.some_attributes(node.id, &attributes), access })
    }

    pub(super) async fn fsstat(&self, root: &Handle) -> Outcome<FSSTAT3resok> {
        let node = self.node(root).await?;
        let space = self.vfs.space(node.ino).await?;
        let bytes = |blocks: u64| blocks.saturating_mul(u64::from(space.block_size));
        Ok(FSSTAT3resok {
            obj_attributes: self.attributes_at_hand(&node),
            tbytes: bytes(space.blocks),
            fbytes: bytes(space.blocks_free),
            abytes: bytes(space.blocks_available),
            tfiles: space.files,
            ffiles: space.files_free,
            afiles: space.files_free,
            invarsec: 0,
        })
    }

    pub(super) async fn fsinfo(&self, root: &Handle) -> Outcome<FSINFO3resok> {
        let node = self.node(root).await?;
        let attributes = self.attributes(&node).await?;
        const BLOCK_BYTES: u32 = 4096;
        Ok(FSINFO3resok {
            obj_attributes: self.some_attributes(node.id, &attributes),
            rtmax: TRANSFER_BYTES_MAX,
            rtpref: TRANSFER_BYTES_MAX,
            rtmult: BLOCK_BYTES,
            wtmax: TRANSFER_BYTES_MAX,
            wtpref: TRANSFER_BYTES_MAX,
            wtmult: BLOCK_BYTES,
            dtpref: LISTING_BYTES_PREFERRED,
            maxfilesize: FILE_BYTES_MAX,
            time_delta: nfstime3 { seconds: 0, nseconds: 1 },
            properties: FSF3_LINK | FSF3_SYMLINK | FSF3_HOMOGENEOUS | FSF3_CANSETTIME,
        })
    }

    pub(super) async fn pathconf(&self, object: &Handle) -> Outcome<PATHCONF3resok> {
        let node = self.node(object).await?;
        Ok(PATHCONF3resok {
            obj_attributes: self.attributes_at_hand(&node),
            linkmax: LINKS_MAX,
            name_max: NAME_BYTES_MAX as u32,
            no_trunc: true,
            chown_restricted: true,
            case_insensitive: false,
            case_preserving: true,
        })
    }
}
